//! `dynamoctl` before a node that takes requests and never answers, or hangs up: an exit code and a sentence, and no waiting.
#![allow(clippy::unwrap_used)]

#[path = "../../client/tests/silent/server.rs"]
#[allow(dead_code, reason = "the client's tests use more of it")]
mod server;

use std::process::Command;

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
