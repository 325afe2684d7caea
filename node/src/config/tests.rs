//! What is accepted, and what is refused with which words.

use std::time::Duration;

use super::*;

const LEAST: &str = "cluster_id: 6f9619ff-8b86-d011-b42d-00c04fc964ff
data_dir: /var/lib/dynamokv
advertise: {host: 10.0.0.3}
";

fn load(yaml: &str) -> Result<ValidConfig, ConfigError> {
    validate(&parse(yaml, "node.yaml")?)
}

#[test]
fn the_least_configuration_has_the_documented_defaults() {
    let config = load(LEAST).unwrap();
    assert_eq!(config.zone, "default");
    assert_eq!(config.listen.client.to_string(), "0.0.0.0:7400");
    assert_eq!(config.listen.peer.to_string(), "0.0.0.0:7401");
    assert_eq!(config.listen.http.to_string(), "0.0.0.0:7402");
    assert_eq!(config.protocol.quorum, QuorumDefaults { r: 2, w: 2, dw: None, pr: 0, pw: 0 });
    assert_eq!(config.protocol.request_timeout, Duration::from_secs(5));
    assert_eq!(config.protocol.hint_after, Duration::from_millis(500));
    assert_eq!(config.protocol.hint_bytes_max, 1 << 30);
    assert_eq!(config.protocol.background_p99_max, Duration::from_millis(50));
    assert_eq!(config.protocol.background_bytes_per_second_min, 1 << 20);
    assert_eq!(config.protocol.background_bytes_per_second_max, 64 << 20);
    assert_eq!(config.protocol.tree_checkpoint_interval, Duration::from_secs(60));
    assert_eq!(config.protocol.reap_interval, Duration::from_secs(60));
    assert_eq!(config.protocol.clock_skew_ms_max, 500);
    assert_eq!(config.disk_reserve_bytes, None);
    assert_eq!(config.log_format, LogFormat::Text);
    assert!(config.seeds.is_empty());
}

#[test]
fn everything_that_can_be_set_is_taken_from_the_file() {
    let yaml = format!(
        "{LEAST}zone: zone-a
listen: {{client: 127.0.0.1:1, peer: 127.0.0.1:2, http: '[::1]:3'}}
seeds: ['10.0.0.1:7401', 'node-0.peers:7401']
quorum: {{r: 1, w: 3, dw: 2, pr: 1, pw: 2}}
buckets: {{sessions: {{r: 3, w: 1, reconciliation: last-writer-wins}}, carts: {{dw: 0, reconciliation: siblings}}}}
request_timeout_ms: 1000
hint_after_ms: 100
hint_bytes_max: 5
background: {{p99_ms_max: 20, bytes_per_second_min: 65536, bytes_per_second_max: 65537}}
tree_checkpoint_interval_ms: 1000
reap_interval_ms: 2000
clock_skew_ms_max: 50
disk_reserve_bytes: 6
storage: {{block_cache_bytes: 1048576, write_buffer_bytes: 1048577}}
log: {{level: debug, format: json}}
"
    );
    let config = load(&yaml).unwrap();
    assert_eq!(config.zone, "zone-a");
    assert_eq!(config.listen.http.to_string(), "[::1]:3");
    assert_eq!(config.seeds.len(), 2);
    assert_eq!(config.protocol.quorum, QuorumDefaults { r: 1, w: 3, dw: Some(2), pr: 1, pw: 2 });
    // A bucket inherits what it does not set, as far as it fits.
    let sessions = config.protocol.quorum_of(&"sessions".into());
    assert_eq!(sessions, QuorumDefaults { r: 3, w: 1, dw: Some(1), pr: 1, pw: 1 });
    assert_eq!(config.protocol.quorum_of(&"carts".into()).dw, Some(0));
    assert!(config.protocol.last_writer_wins(&"sessions".into()));
    assert!(!config.protocol.last_writer_wins(&"carts".into()) && !config.protocol.last_writer_wins(&"others".into()));
    assert_eq!(config.protocol.clock_skew_ms_max, 50);
    assert_eq!(config.protocol.hint_bytes_max, 5);
    assert_eq!(config.protocol.background_p99_max, Duration::from_millis(20));
    assert_eq!(config.protocol.background_bytes_per_second_min, 65_536);
    assert_eq!(config.protocol.background_bytes_per_second_max, 65_537);
    assert_eq!(config.protocol.tree_checkpoint_interval, Duration::from_secs(1));
    assert_eq!(config.protocol.reap_interval, Duration::from_secs(2));
    assert_eq!(config.disk_reserve_bytes, Some(6));
    assert_eq!(config.storage, StorageSettings { block_cache_bytes: 1 << 20, write_buffer_bytes: (1 << 20) + 1 });
    assert_eq!((config.log_level, config.log_format), (tracing::Level::DEBUG, LogFormat::Json));
}

#[test]
fn a_wrong_value_is_refused_with_its_field_and_the_fix() {
    let with = |line: &str| format!("{LEAST}{line}\n");
    let cases = [
        ("data_dir: /x".into(), "cluster_id: absent; set the UUID"),
        ("cluster_id: abc\ndata_dir: /x".into(), "cluster_id: \"abc\" is not a UUID; write it like"),
        ("cluster_id: 6f9619ff-8b86-d011-b42d-00c04fc964ff\nadvertise: {host: h}".into(), "data_dir: absent; set"),
        (
            "cluster_id: 6f9619ff-8b86-d011-b42d-00c04fc964ff\ndata_dir: /x".into(),
            "advertise.host: absent, and others cannot dial one host at 0.0.0.0:7401 and 0.0.0.0:7400; set",
        ),
        (with("listen: {peer: 'localhost:1'}"), "listen.peer: \"localhost:1\" is not IP:PORT; write it like"),
        (with("zone: ''"), "zone: 0 bytes; give 1 to 63"),
        (with("seeds: ['10.0.0.1']"), "seeds: \"10.0.0.1\" is not HOST:PORT; write it like"),
        (with("seeds: ['10.0.0.1:0']"), "seeds: \"10.0.0.1:0\" is not HOST:PORT"),
        (with("seeds: ['10.0.0.1 :7401']"), "seeds: \"10.0.0.1 :7401\" is not HOST:PORT"),
        (with("seeds: ['http://node-0:7401']"), "seeds: \"http://node-0:7401\" is not HOST:PORT"),
        (with("seeds: ['::1:7401']"), "seeds: \"::1:7401\" is not HOST:PORT"),
        (with("quorum: {r: 0}"), "quorum.r: 0; at least one"),
        (with("quorum: {w: 255}"), "quorum.w: 255; no ring has so many replicas, give at most its N"),
        (with("buckets: {carts: {r: 33}}"), "buckets.carts.r: 33; no ring has so many replicas"),
        (with("quorum: {w: 2, dw: 3}"), "quorum.dw: 3 is above w, which is 2"),
        (with("quorum: {r: 1, pr: 2}"), "quorum.pr: 2 is above r, which is 1"),
        (with("buckets: {carts: {w: 0}}"), "buckets.carts.w: 0; at least one"),
        (with("clock_skew_ms_max: 0"), "clock_skew_ms_max: 0; no two clocks agree to the millisecond, give at least 1"),
        (with("request_timeout_ms: 0"), "request_timeout_ms: 0; give 1 to"),
        (with("hint_after_ms: 5000"), "hint_after_ms: 5000; give at least 1 and less than request_timeout_ms"),
        (with("background: {p99_ms_max: 0}"), "background.p99_ms_max: 0; give at least 1"),
        (with("background: {bytes_per_second_min: 1}"), "background.bytes_per_second_min: 1; give at least 65536"),
        (
            with("background: {bytes_per_second_max: 70000}"),
            "background.bytes_per_second_max: 70000 is below background.bytes_per_second_min, which is 1048576; raise",
        ),
        (
            with("background: {bytes_per_second_max: 1125899906842625}"),
            "background.bytes_per_second_max: 1125899906842625; give at most 1125899906842624",
        ),
        (with("disk_reserve_bytes: 1125899906842625"), "disk_reserve_bytes: 1125899906842625; give at most 1125899906842624"),
        (with("tree_checkpoint_interval_ms: 1"), "tree_checkpoint_interval_ms: 1; give at least 1000"),
        (with("reap_interval_ms: 1"), "reap_interval_ms: 1; give at least 1000, or 0 to keep all tombstones"),
        (with("storage: {write_buffer_bytes: 1}"), "storage.write_buffer_bytes: 1; give 1048576 to 4294967296"),
        (with("storage: {write_buffer_bytes: 5000000000}"), "storage.write_buffer_bytes: 5000000000; give"),
        (with("storage: {block_cache_bytes: 0}"), "storage.block_cache_bytes: 0; give 1048576 to"),
        (with("storage: {block_cache_bytes: 18446744073709551615}"), "storage.block_cache_bytes: 18446744073709551615; give"),
        (with("log: {level: loud}"), "log.level: \"loud\"; give one of error,"),
        (with("log: {format: xml}"), "log.format: \"xml\"; give text or json"),
    ];
    for (yaml, expected) in cases {
        let error = load(&yaml).unwrap_err().to_string();
        assert!(error.starts_with(expected), "{error} is not {expected}");
    }
}

#[test]
fn a_node_on_loopback_alone_advertises_the_address_it_listens_on() {
    let without = LEAST.replace("advertise: {host: 10.0.0.3}\n", "");
    for host in ["127.0.0.1", "127.0.0.2", "[::1]"] {
        let config = load(&format!("{without}listen: {{client: '{host}:1', peer: '{host}:2'}}\n")).unwrap();
        assert_eq!(config.advertise_host, host.trim_matches(['[', ']']));
    }
    let error = load(&format!("{without}listen: {{client: '127.0.0.1:1', peer: '127.0.0.2:2'}}\n")).unwrap_err().to_string();
    assert!(
        error.starts_with("advertise.host: absent, and others cannot dial one host at 127.0.0.2:2 and 127.0.0.1:1"),
        "{error}"
    );
}

#[test]
fn what_is_advertised_is_a_host_without_a_scheme_or_a_port() {
    let long = "a".repeat(254);
    let with = |host: &str| load(&LEAST.replace("10.0.0.3", &format!("'{host}'")));
    for host in ["node-0.peers.default.svc.cluster.local", "node_0.", "10.0.0.3", "::1", "[2001:db8::1]"] {
        assert_eq!(with(host).unwrap().advertise_host, host);
    }
    for host in ["", "a b", "http://a", "a:7401", "10.0.0.3:7401", "[::1]:7401", "[a]", "a/b", "a..b", ".", &long] {
        let error = with(host).unwrap_err().to_string();
        assert!(
            error.starts_with(&format!("advertise.host: {host:?} is not a host name or an IP address; leave out")),
            "{error}"
        );
    }
}

#[test]
fn every_address_is_nobodys_host() {
    for host in ["0.0.0.0", "::", "[::]"] {
        let error = load(&LEAST.replace("10.0.0.3", &format!("'{host}'"))).unwrap_err().to_string();
        assert!(error.starts_with(&format!("advertise.host: {host} stands for every address")), "{error}");
    }
}

#[test]
fn a_bucket_that_is_there_twice_is_refused_by_name() {
    let error =
        load(&format!("{LEAST}buckets:\n  carts: {{w: 1}}\n  others: {{}}\n  carts: {{w: 3}}\n")).unwrap_err().to_string();
    assert!(error.contains("node.yaml: buckets") && error.contains("\"carts\" is there twice"), "{error}");
    assert!(load(&format!("{LEAST}buckets:\n")).unwrap().protocol.buckets.is_empty());
}

/// The paths of all scalars and lists that a file may have, as its refusals tell them.
fn keys(path: &[&str]) -> Vec<String> {
    let at = |keys: &[&str], value: &str| keys.iter().rev().fold(value.to_string(), |value, key| format!("{{{key}: {value}}}"));
    let error = parse(&at(path, "{nothing: 0}"), "node.yaml").map(drop).map_err(|error| error.to_string());
    let Some((_, known)) = error.as_ref().err().and_then(|error| error.split_once("unknown field `nothing`, expected ")) else {
        return vec![path.join(".")];
    };
    let known = known.split('`').skip(1).step_by(2);
    known.flat_map(|key| keys(&[path, &[key]].concat())).collect()
}

#[test]
fn each_key_of_the_file_has_a_flag_and_a_variable_which_set_it() {
    use clap::{CommandFactory, Parser};
    let mut keys = keys(&[]);
    assert!(keys.contains(&"background.bytes_per_second_max".to_string()) && keys.len() > 20, "{keys:?}");
    keys.retain(|key| key != "buckets");
    let command = Flags::command();
    let arguments: Vec<_> = command.get_arguments().filter(|argument| argument.get_long() != Some("config")).collect();
    let mut flags: Vec<String> = arguments.iter().filter_map(|argument| Some(format!("--{}", argument.get_long()?))).collect();
    let mut expected: Vec<String> = keys.iter().map(|key| format!("--{}", key.replace(['.', '_'], "-"))).collect();
    flags.sort();
    expected.sort();
    assert_eq!(flags, expected);
    for argument in arguments {
        let flag = argument.get_long().unwrap();
        let variable = argument.get_env().unwrap().to_str().unwrap();
        assert_eq!(variable, format!("DYNAMO_{}", flag.replace('-', "_").to_uppercase()));
        let mut settings = Settings::default();
        Flags::try_parse_from(["dynamo-node", &format!("--{flag}"), "77"]).unwrap().apply(&mut settings);
        let set = format!("{settings:?}");
        assert_eq!(set.matches("77").count(), 1, "{flag}: {set}");
    }
}

#[test]
fn a_node_that_is_dialled_by_ipv6_listens_on_every_address_of_both_kinds() {
    let cases = [
        ("10.0.0.3", "0.0.0.0:7400"),
        ("node-0.peers", "0.0.0.0:7400"),
        ("'fd00::3'", "[::]:7400"),
        ("'[fd00::3]'", "[::]:7400"),
    ];
    for (host, client) in cases {
        let config = load(&LEAST.replace("10.0.0.3", host)).unwrap();
        assert_eq!(config.listen.client.to_string(), client, "{host}");
    }
    let chosen = load(&format!("{}listen: {{client: '10.0.0.3:1'}}\n", LEAST.replace("10.0.0.3", "'fd00::3'"))).unwrap();
    assert_eq!(chosen.listen.client.to_string(), "10.0.0.3:1", "one address is no wish for all");
    assert_eq!(chosen.listen.http.to_string(), "[::]:7402");
}

#[test]
fn no_interval_of_reaping_keeps_all_tombstones() {
    assert!(load(&format!("{LEAST}reap_interval_ms: 0\n")).unwrap().protocol.reap_interval.is_zero());
}

#[test]
fn an_unknown_key_is_refused_by_name() {
    let cases = [("colour: red", "colour"), ("buckets: {carts: {rw: 1}}", "rw"), ("listen: {admin: x}", "admin")];
    for (line, key) in cases {
        let error = load(&format!("{LEAST}{line}\n")).unwrap_err().to_string();
        assert!(error.contains("node.yaml") && error.contains(&format!("unknown field `{key}`")), "{error}");
    }
    let error = load(&format!("{LEAST}buckets: {{carts: {{reconciliation: newest}}}}\n")).unwrap_err().to_string();
    for part in ["buckets.carts.reconciliation", "`newest`", "`siblings`", "`last-writer-wins`"] {
        assert!(error.contains(part), "{error}");
    }
    let error = load(&format!("{LEAST}quorum: {{r: 300}}\n")).unwrap_err().to_string();
    assert!(error.contains("quorum.r") && error.contains("300"), "{error}");
}

#[test]
fn what_stands_in_a_wrong_file_is_not_told() {
    let cases = [
        ("hunter2\n", "invalid type: string, expected the settings of a node by name at line 1 column 1"),
        (
            "hunter2, expected `hunter2`\nhunter2 \"hunter2\"\n",
            "invalid type: string, expected the settings of a node by name at line 1",
        ),
        ("- hunter2\n", "invalid type: sequence, expected the settings of a node by name at line 1 column 1"),
        ("20010911\n", "invalid type: integer, expected the settings of a node by name at line 1 column 1"),
        ("password/hunter2: x\n", "unknown field, expected one of `cluster_id`, "),
        ("log: 'the password is hunter2'\n", "log: invalid type: string, expected struct LogSettings at line 1 column 6"),
        ("zone: z\n  hunter2: x\n", "mapping values are not allowed in this context at line 2 column 10"),
        ("quorum: {r: hunter2 hunter2}\n", "quorum.r: invalid type: string, expected u8 at line 1 column 13"),
    ];
    for (yaml, expected) in cases {
        let error = load(yaml).unwrap_err().to_string();
        assert!(error.starts_with(&format!("config: node.yaml: {expected}")), "{error} is not {expected}");
        assert!(!error.contains("hunter2") && !error.contains("20010911"), "{error}");
    }
}

#[test]
fn a_flag_wins_over_the_file() {
    let mut settings = parse(&format!("{LEAST}zone: from-file\nseeds: ['a:1']\n"), "node.yaml").unwrap();
    let flags = Flags {
        zone: Some("from-flag".into()),
        seeds: Some(vec!["b:2".into(), String::new()]),
        quorum_w: Some(3),
        ..Flags::default()
    };
    flags.apply(&mut settings);
    let config = validate(&settings).unwrap();
    assert_eq!((config.zone.as_str(), config.seeds, config.protocol.quorum.w), ("from-flag", vec!["b:2".to_string()], 3));
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let flags = Flags { config: Some("/nowhere/node.yaml".into()), ..Flags::default() };
    let error = ValidConfig::load(flags).unwrap_err().to_string();
    assert!(error.starts_with("config: /nowhere/node.yaml: "), "{error}");
}

#[test]
fn a_spoilt_file_is_refused_or_valid_and_nothing_panics() {
    use dynamo_fuzz::{Expect, Fuzz, unsealed};
    let more = "buckets: {sessions: {r: 3, w: 1, reconciliation: last-writer-wins}}\nrequest_timeout_ms: 1000\nhint_after_ms: 100
background: {p99_ms_max: 20, bytes_per_second_min: 65536}\nreap_interval_ms: 2000\nseeds: ['10.0.0.1:7401']\n";
    Fuzz {
        name: "node.yaml",
        corpus: vec![LEAST.into(), format!("{LEAST}{more}").into()],
        seal: &unsealed,
        expect: Expect::Canonical,
        decode: &|bytes| load(std::str::from_utf8(bytes).ok()?).ok().map(|_| bytes.to_vec()),
    }
    .run();
}
