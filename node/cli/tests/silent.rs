//! `dynamoctl` before a node that takes requests and never answers, or hangs up: an exit code and a sentence, and no waiting.
#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/silent/server.rs"]
#[allow(dead_code, reason = "the client's tests use more of it")]
mod server;

use std::process::Command;

use dynamo_core::id::{ClusterId, NodeId};
use dynamo_core::rebalance::first_ring;
use dynamo_core::ring::Member;
use dynamo_proto::v1;
use serde_json::{Value, json};
use server::{Manner, Server};

/// What it ends with, and what it says; it has half a second for each request.
fn dynamoctl(server: &Server, arguments: &[&str]) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
    command.args(arguments).args(["--endpoint", &server.address, "--timeout-ms", "500"]);
    let output = command.output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

const GET: &[&str] = &["get", "k"];
const PUT: &[&str] = &["put", "k", "v"];
const DELETE: &[&str] = &["delete", "k", "--context", "AQID"];

#[test]
fn a_write_that_was_taken_and_not_answered_ends_with_3_and_the_way_to_send_it_again() {
    for manner in [Manner::Deaf, Manner::HangingUp] {
        let server = Server::start(manner);
        for (arguments, again) in [(PUT, "the same command with --request-id "), (DELETE, "with --context AQID --request-id ")] {
            let (code, said) = dynamoctl(&server, arguments);
            assert_eq!(code, Some(3), "{manner:?} {arguments:?}: {said}");
            assert!(said.starts_with("dynamoctl: outcome unknown, read before you retry"), "{manner:?} {arguments:?}: {said}");
            assert!(said.contains(again), "{manner:?} {arguments:?}: {said}");
        }
        let (code, said) = dynamoctl(&server, GET);
        assert_eq!((code, said.starts_with("dynamoctl: no answer: ")), (Some(1), true), "{manner:?}: {said}");
        assert!(server.taken() >= 3, "{manner:?}");
    }
}

#[test]
fn the_way_to_send_a_delete_of_what_is_current_again_is_a_command_that_can_be_given() {
    let server = Server::start(Manner::Choosy);
    let (code, said) = dynamoctl(&server, &["delete", "unanswered", "--current"]);
    let advised =
        said.split_once("the same command without --current, and with ").unwrap().1.split_once(" is the same write").unwrap().0;
    assert_eq!((code, advised.starts_with("--context AQID --request-id ")), (Some(3), true), "{said}");
    let words: Vec<&str> = ["delete", "unanswered"].into_iter().chain(advised.split(' ')).collect();
    let (code, said) = dynamoctl(&server, &words);
    assert_eq!((code, said.contains(&format!("the same command with {advised} "))), (Some(3), true), "{said}");
}

/// What an import of such keys comes to.
fn import(server: &Server, keys: &[&str], arguments: &[&str]) -> (Option<i32>, Value, String) {
    let file = tempfile::NamedTempFile::new().unwrap();
    let records: String = keys.iter().map(|key| format!("{{\"key\": \"{key}\", \"value\": \"v\"}}\n")).collect();
    std::fs::write(file.path(), records).unwrap();
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
    command.arg("import").arg(file.path()).args(arguments);
    let output = command.args(["-o", "json", "--endpoint", &server.address, "--timeout-ms", "500"]).output().unwrap();
    let document = serde_json::from_slice(&output.stdout).unwrap_or_default();
    (output.status.code(), document, String::from_utf8(output.stderr).unwrap())
}

#[test]
fn an_import_that_gave_up_a_record_which_may_be_written_ends_with_3_whatever_its_last_attempt_came_to() {
    for manner in [Manner::Leaving, Manner::Deaf] {
        let (code, document, said) = import(&Server::start(manner), &["k"], &["--give-up-after", "1"]);
        assert_eq!(code, Some(3), "{manner:?}: {said}");
        assert!(said.starts_with("dynamoctl: k: outcome unknown, read before you retry: "), "{manner:?}: {said}");
        assert_eq!((document["records"].as_u64(), document["unknown"].as_u64()), (Some(0), Some(1)), "{manner:?}: {document}");
    }
}

/// So a coordinator that wrote its own copy and went away leaves no sibling of what another one wrote.
#[test]
fn an_import_sends_what_was_not_answered_again_as_the_same_write() {
    let server = Server::start(Manner::Deaf);
    import(&server, &["k"], &["--give-up-after", "1"]);
    let ids = server.put_ids();
    assert!(ids.len() >= 2 && ids.iter().all(|id| id.len() == 16 && *id == ids[0]), "{ids:?}");
}

#[test]
fn what_an_import_has_under_way_ends_before_it_does_and_is_counted() {
    let server = Server::start(Manner::Choosy);
    let counts = |document: &Value| ["created", "failed", "unknown", "left"].map(|count| document[count].as_u64());
    let (code, document, said) = import(&server, &["refused", "a", "unanswered", "b"], &[]);
    assert_eq!((code, counts(&document)), (Some(3), [2, 1, 1, 0].map(Some)), "{document} {said}");
    assert!(said.starts_with("dynamoctl: unanswered: outcome unknown"), "{said}");
    let (code, document, said) = import(&server, &["a", "refused", "b", "c"], &["--concurrency", "1"]);
    assert_eq!((code, counts(&document)), (Some(2), [1, 1, 0, 2].map(Some)), "{document} {said}");
    assert!(said.starts_with("dynamoctl: refused: "), "{said}");
}

#[test]
fn an_exit_code_is_what_it_is_though_nothing_can_be_said() {
    let server = Server::start(Manner::Deaf);
    for (arguments, expected) in [(PUT, 3), (GET, 1), (&["get", "k", "--context", "x"][..], 2)] {
        let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut dynamoctl = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
        dynamoctl.args(arguments).args(["--endpoint", &server.address, "--timeout-ms", "500"]).stderr(full);
        assert_eq!(dynamoctl.status().unwrap().code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn an_exit_code_is_what_it_is_though_nobody_reads_what_is_printed() {
    let server = Server::start(Manner::Well);
    let place = tempfile::tempdir().unwrap();
    let file = place.path().join("records");
    std::fs::write(&file, "{\"key\": \"k\", \"value\": \"v\"}\n").unwrap();
    let file = file.to_str().unwrap();
    // Neither is there: a document says so, and then the exit code.
    for (arguments, expected) in [(&["get", "k", "-o", "json"][..], 1), (&["verify", file], 1), (PUT, 0)] {
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        let mut dynamoctl = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
        dynamoctl.args(arguments).args(["--endpoint", &server.address, "--timeout-ms", "500"]).stdout(writer);
        assert_eq!(dynamoctl.status().unwrap().code(), Some(expected), "{arguments:?}");
    }
}

#[test]
fn where_nobody_answers_at_all_nothing_was_sent_and_every_command_says_so_with_1() {
    for manner in [Manner::Mute, Manner::Closing] {
        let server = Server::start(manner);
        for (arguments, expected) in [
            (GET, "no node could be reached, the request was not sent"),
            (PUT, "no node could be reached, the request was not sent"),
            (DELETE, "no node could be reached, the request was not sent"),
            (&["ring", "show"], "no node answers"),
        ] {
            let (code, said) = dynamoctl(&server, arguments);
            assert_eq!(code, Some(1), "{manner:?} {arguments:?}: {said}");
            assert!(said.contains(expected) && said.contains(&server.address), "{manner:?} {arguments:?}: {said}");
        }
    }
}

#[test]
fn where_the_members_addresses_lead_nowhere_the_way_out_is_told_whatever_comes_of_the_command() {
    let (server, mute) = (Server::start(Manner::Well), [1, 2, 3, 4].map(|id| (id, Server::start(Manner::Mute))));
    let member = |(id, mute): &(u8, Server)| v1::MemberAddress {
        node: vec![*id; 16].into(),
        client_address: mute.address.clone(),
        suspected: false,
    };
    server.tells(v1::TopologyResponse { members: mute.iter().map(member).collect(), ..Default::default() });
    for (arguments, expected) in [(PUT, 0), (GET, 1)] {
        let (code, said) = dynamoctl(&server, arguments);
        let told = said.contains("--through-endpoint") && said.contains(&mute[0].1.address);
        assert_eq!((code, told), (Some(expected), true), "{arguments:?}: {said}");
        let (code, said) = dynamoctl(&server, &[arguments, &["--through-endpoint"]].concat());
        assert_eq!((code, said.contains("--through-endpoint")), (Some(expected), false), "{arguments:?}: {said}");
    }
}

#[test]
fn what_is_asked_of_a_node_about_itself_has_the_deadline_that_was_given() {
    let server = Server::start(Manner::Mute);
    for arguments in [&["status"][..], &["ring", "show"], &["ring", "verify"]] {
        let (code, said) = dynamoctl(&server, arguments);
        assert_eq!((code, said.contains("within 500 ms")), (Some(1), true), "{arguments:?}: {said}");
    }
}

#[test]
fn a_command_that_makes_no_sense_ends_with_2_whoever_it_asks() {
    let cases: [(&[&str], &str); 7] = [
        (&["get", "k", "--raw", "-o", "json", "-e", "127.0.0.1:1"], "--raw prints the value's bytes and -o json a document"),
        (&["get", "k", "-e", "localhost"], "give host:port"),
        (&["status", "-e", "localhost"], "give host:port"),
        (&["get", "k", "-e", "http://127.0.0.1:7400"], "leave out http://"),
        (&["status", "-e", "http://127.0.0.1:7400"], "leave out http://"),
        (&["put", "k", "v", "--context", "", "-e", "127.0.0.1:1"], "get the key first"),
        (&["put", "k", "v", "-b", "", "-e", "127.0.0.1:1"], "a value is required for '--bucket"),
    ];
    for (arguments, expected) in cases {
        let output = Command::new(env!("CARGO_BIN_EXE_dynamoctl")).args(arguments).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.contains(expected)), (Some(2), true), "{arguments:?}: {said}");
    }
}

/// A node's port for its peers speaks gRPC, and knows no client.
#[test]
fn a_port_that_is_not_for_clients_is_told_from_one_that_is() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let listener = runtime.block_on(tokio::net::TcpListener::bind("127.0.0.1:0")).unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let nothing = tonic::transport::Server::builder().add_routes(tonic::service::Routes::default());
    runtime.spawn(nothing.serve_with_incoming(tokio_stream::wrappers::TcpListenerStream::new(listener)));
    for command in [&["get", "k"][..], &["status"]] {
        let output = Command::new(env!("CARGO_BIN_EXE_dynamoctl")).args(command).args(["-e", &address]).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{command:?}: {said}");
        assert!(said.contains("Unimplemented") && said.contains("client port") && said.contains("7400"), "{command:?}: {said}");
    }
}

#[test]
fn a_local_cluster_whose_file_is_damaged_is_not_taken_for_none_and_an_empty_variable_is_none() {
    let place = tempfile::tempdir().unwrap();
    std::fs::write(place.path().join("cluster.json"), "{").unwrap();
    for command in [&["put", "k", "v"][..], &["status"], &["ring", "show"]] {
        let mut dynamoctl = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
        let output = dynamoctl.args(command).env("DYNAMO_ENDPOINT", "").env("DYNAMO_LOCAL_DIR", place.path()).output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        assert_eq!((output.status.code(), said.contains("cluster.json: is damaged")), (Some(1), true), "{command:?}: {said}");
    }
    // Without a name it is the default one, and not what lies in the current folder.
    let state = tempfile::tempdir().unwrap();
    let default = state.path().canonicalize().unwrap().join("dynamokv/local");
    std::fs::create_dir_all(&default).unwrap();
    std::fs::write(default.join("cluster.json"), "{").unwrap();
    let expected = format!("{}: is damaged", default.join("cluster.json").display());
    let empty = ["DYNAMO_ENDPOINT", "DYNAMO_LOCAL_DIR", "DYNAMO_NODE_BINARY"].map(|name| (name, ""));
    for command in [&["put", "k", "v"][..], &["status"], &["local", "status"], &["local", "start", "0"]] {
        let mut dynamoctl = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
        dynamoctl.args(command).envs(empty).env("XDG_STATE_HOME", state.path().canonicalize().unwrap()).current_dir(place.path());
        let output = dynamoctl.output().unwrap();
        let said = String::from_utf8(output.stderr).unwrap();
        // Whether there is a program beside this one that a node could be started with is not said here.
        let has_no_program = command.ends_with(&["start", "0"]) && said.contains("/dynamo-node: is not there");
        assert!(has_no_program || (output.status.code() == Some(1) && said.contains(&expected)), "{command:?}: {said}");
    }
    let output = Command::new(env!("CARGO_BIN_EXE_dynamoctl")).args(["local", "status", "--dir", ""]).output().unwrap();
    assert_eq!(output.status.code(), Some(2), "what is given is not left out");
}

/// One that answers, and is every member of the cluster `id`.
fn server_of(id: ClusterId) -> Server {
    let server = Server::start(Manner::Well);
    let ids = [1, 2, 3].map(|id| NodeId([id; 16]));
    let members = ids.map(|id| (id, Member { zone: "z".to_owned(), weight: 1 })).into();
    let addresses =
        ids.map(|id| v1::MemberAddress { node: id.0.to_vec().into(), client_address: server.address.clone(), suspected: false });
    let ring = first_ring(id, 1, 3, &members).unwrap();
    let cluster = id.0.to_vec().into();
    server.tells(v1::TopologyResponse { ring: ring.encode(), epoch: 1, members: addresses.into(), cluster });
    server
}

/// What a bench of one record comes to, beside the cluster of `local up` in `folder`.
fn bench(server: &Server, folder: &tempfile::TempDir, words: &[&str], node_binary: &str) -> (Option<i32>, String) {
    let mut command = Command::new(env!("CARGO_BIN_EXE_dynamoctl"));
    command.arg("bench").args(words).args(["--records", "1", "--clients", "1", "--seconds", "1", "--warm-up", "0"]);
    command.args(["--endpoint", &server.address, "--timeout-ms", "500"]).env("DYNAMO_LOCAL_DIR", folder.path());
    let output = command.env("DYNAMO_NODE_BINARY", node_binary).output().unwrap();
    (output.status.code(), String::from_utf8(output.stderr).unwrap())
}

/// A local cluster of one node of the cluster `id`, whose process is this one, and was started with `program`.
fn local_cluster(id: ClusterId, program: Option<&str>) -> tempfile::TempDir {
    let place = tempfile::tempdir().unwrap();
    let stat = std::fs::read_to_string("/proc/self/stat").unwrap();
    let start_ticks: u64 = stat.rsplit_once(')').unwrap().1.split_whitespace().nth(19).unwrap().parse().unwrap();
    let process = json!({ "pid": std::process::id(), "start_ticks": start_ticks });
    let any = "127.0.0.1:0";
    let node = json!({ "name": "node-0", "zone": "z", "client": any, "peer": any, "http": any, "process": process });
    let mut cluster = json!({ "cluster_id": id.to_string(), "partitions": 2, "replication": 1, "nodes": [node] });
    if let Some(program) = program {
        cluster["program"] = json!(program);
    }
    std::fs::write(place.path().join("cluster.json"), cluster.to_string()).unwrap();
    place
}

/// What is killed, scaled or accounted for would be one cluster, and what is asked another.
#[test]
fn a_bench_that_is_about_the_local_cluster_asks_no_other_one() {
    let (own, other) = (ClusterId([7; 16]), ClusterId([8; 16]));
    let server = server_of(own);
    let bench = |words: &[&str], cluster| bench(&server, &local_cluster(cluster, None), words, "/bin/true");
    for (words, option) in [
        (&["--local", "--keys", "x"][..], "--local"),
        (&["--away", "0", "--keys", "x"], "--away"),
        (&["scale", "--nodes", "2"], "bench scale"),
    ] {
        let (code, said) = bench(words, other);
        let told = said.contains(&format!("{option}: is about the cluster of `local up`")) && said.contains(&own.to_string());
        assert_eq!((code, told), (Some(2), true), "{words:?}: {said}");
    }
    // Of its own it wants what was not loaded.
    for words in [&["--local", "--keys", "x"][..], &["--away", "0", "--keys", "x"]] {
        let (code, said) = bench(words, own);
        assert_eq!((code, said.contains("there is no such record")), (Some(1), true), "{words:?}: {said}");
    }
}

/// A node that was taken away could not come back, and what was loaded and measured before would be for nothing.
#[test]
fn a_bench_that_starts_nodes_looks_for_their_program_before_it_does_anything() {
    let own = ClusterId([7; 16]);
    let server = server_of(own);
    for (started, named, expected) in [
        (Some("/gone/dynamo-node"), "", "/gone/dynamo-node: the nodes were started with it, and it is not there any more"),
        (None, "/gone/named", "/gone/named: is not there"),
        (Some("/bin/true"), "/gone/named", "/gone/named: is not there"),
    ] {
        for words in [&["--away", "0"][..], &["scale", "--nodes", "2"]] {
            let (code, said) = bench(&server, &local_cluster(own, started), words, named);
            assert_eq!((code, said.contains(expected), server.taken()), (Some(2), true, 0), "{words:?}: {said}");
        }
    }
    // A node that is only paused needs none. What is wanted was not loaded.
    let paused = ["--away", "0", "--away-by", "pause", "--keys", "x"];
    let (code, said) = bench(&server, &local_cluster(own, Some("/gone/dynamo-node")), &paused, "");
    assert_eq!((code, said.contains("there is no such record")), (Some(1), true), "{said}");
}

#[test]
fn the_help_of_a_comparison_says_that_it_prints_json_lines() {
    let output = Command::new(env!("CARGO_BIN_EXE_dynamoctl")).args(["bench", "compare", "--help"]).output().unwrap();
    assert!(String::from_utf8(output.stdout).unwrap().contains("`-o json` prints JSON lines"));
}
