//! Who waits for an answer: unary calls and sessions, under one kind of handle.
//!
//! A client that went away is not noticed here; its answer is dropped when it comes, and it always comes, since every request
//! has a deadline in core. So the table cannot leak.

use std::collections::HashMap;

use dynamo_core::request::{ClientHandle, Outcome};
use dynamo_proto::v1;
use tokio::sync::{mpsc, oneshot};

/// Requests that may wait at this node, over all connections.
pub const CLIENTS_MAX: usize = 16_384;
/// Requests that may be in flight on one session; the node reads no more of it until some are answered.
pub const SESSION_REQUESTS_MAX: usize = 4_096;

/// Takes a session's answers. Its length is bounded by [`SESSION_REQUESTS_MAX`], which the session's reader enforces.
pub type SessionSender = mpsc::UnboundedSender<v1::SessionResponse>;

/// Where an answer goes.
pub enum Reply {
    /// To a unary call.
    Once(oneshot::Sender<Outcome>),
    /// To a session, under the client's number.
    Session {
        /// The client's number.
        id: u64,
        /// The session.
        session: SessionSender,
    },
}

impl Reply {
    /// Answers. A client that is gone misses it.
    pub fn send(self, outcome: Outcome) {
        match self {
            Self::Once(reply) => drop(reply.send(outcome)),
            Self::Session { id, session } => drop(session.send(v1::SessionResponse { id, response: Some(outcome.into()) })),
        }
    }
}

/// The table.
#[derive(Default)]
pub struct Clients {
    waiting: HashMap<u64, Reply>,
    next: u64,
}

impl Clients {
    /// A handle for one more; gives the reply back when the table is full.
    pub fn admit(&mut self, reply: Reply) -> Result<ClientHandle, Reply> {
        if self.waiting.len() >= CLIENTS_MAX {
            return Err(reply);
        }
        self.next += 1;
        self.waiting.insert(self.next, reply);
        Ok(ClientHandle(self.next))
    }

    /// Answers and forgets.
    pub fn respond(&mut self, client: ClientHandle, outcome: Outcome) {
        if let Some(reply) = self.waiting.remove(&client.0) {
            reply.send(outcome);
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.waiting.len()
    }

    /// Nobody waits.
    pub fn is_empty(&self) -> bool {
        self.waiting.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_core::request::Failure;

    #[test]
    fn a_client_that_went_away_leaves_nothing_behind() {
        let mut clients = Clients::default();
        let (reply, outcome) = oneshot::channel();
        let client = clients.admit(Reply::Once(reply)).ok().unwrap();
        drop(outcome);
        clients.respond(client, Err(Failure::NoRing));
        assert!(clients.is_empty());
        clients.respond(client, Err(Failure::NoRing));
    }

    #[test]
    fn the_table_is_bounded() {
        let mut clients = Clients::default();
        let (session, _answers) = mpsc::unbounded_channel();
        for id in 0..CLIENTS_MAX as u64 {
            assert!(clients.admit(Reply::Session { id, session: session.clone() }).is_ok());
        }
        assert!(clients.admit(Reply::Session { id: 0, session }).is_err());
    }
}
