//! What a client tells of a node that takes a request and never answers it, or hangs up: in time, and no more than it knows.
#![allow(clippy::unwrap_used)]

mod server;

use std::time::Duration;

use bytes::Bytes;
use dynamo_client::{Client, ClientConfig, DeleteOptions, GetOptions, Mode, PutOptions, RequestError};
use dynamo_core::name::Name;
use server::{Manner, Server};

/// Of one request. The client's own default is longer than any test may take: what ends a request is this.
const DEADLINE: Option<Duration> = Some(Duration::from_millis(400));
/// A client that waits for an answer that never comes would wait longer.
const HANGS: Duration = Duration::from_secs(60);

fn config(server: &Server, mode: Mode) -> ClientConfig {
    let endpoints = vec![server.address.clone()];
    ClientConfig { mode, request_timeout: Duration::from_secs(3600), ..ClientConfig::new(endpoints) }
}

async fn in_time<T>(what: impl Future<Output = T>) -> T {
    tokio::time::timeout(HANGS, what).await.expect("the client hangs")
}

/// The kinds of error of a get, a put without an id, a put with one, and a delete with one.
async fn kinds(client: &Client) -> [&'static str; 4] {
    let name = Name::new("b", "k");
    let get = GetOptions { timeout: DEADLINE, ..GetOptions::default() };
    let plain = PutOptions { timeout: DEADLINE, ..PutOptions::default() };
    let named = plain.clone().retried();
    let delete = DeleteOptions { timeout: DEADLINE, ..DeleteOptions::default() }.retried();
    let mut kinds = [in_time(client.get(&name, &get)).await.unwrap_err().kind(), "", "", ""];
    for (kind, options) in kinds[1..3].iter_mut().zip([plain, named]) {
        *kind = in_time(client.put(&name, "v", &options)).await.unwrap_err().kind();
    }
    kinds[3] = in_time(client.delete(&name, Bytes::from_static(b"context"), &delete)).await.unwrap_err().kind();
    kinds
}

#[tokio::test]
async fn a_write_that_was_taken_and_never_answered_is_of_unknown_outcome_and_a_get_has_none() {
    for manner in [Manner::Deaf, Manner::HangingUp] {
        for mode in [Mode::Stream, Mode::Unary] {
            let server = Server::start(manner);
            let client = in_time(Client::connect(config(&server, mode))).await.unwrap();
            assert_eq!(kinds(&client).await, ["no_answer", "lost", "lost", "lost"], "{manner:?} {mode:?}");
            assert!(server.taken() >= 4, "{manner:?} {mode:?}: {} requests arrived", server.taken());
        }
    }
}

#[tokio::test]
async fn a_node_that_says_nothing_to_a_connection_is_no_node_and_nothing_is_sent_to_it() {
    for manner in [Manner::Mute, Manner::Closing] {
        for mode in [Mode::Stream, Mode::Unary] {
            let server = Server::start(manner);
            let config = ClientConfig { request_timeout: Duration::from_millis(400), ..config(&server, mode) };
            let error = in_time(Client::connect(config)).await.unwrap_err();
            assert!(matches!(error, RequestError::Unreachable(_)), "{manner:?} {mode:?}: {error:?}");
        }
    }
}
