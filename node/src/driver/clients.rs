//! Who waits for an answer: unary calls and sessions, under one kind of handle.
//!
//! A client that went away is not noticed here; its answer is dropped when it comes, and it always comes, since every request
//! has a deadline in core. So the table cannot leak.

use std::collections::HashMap;
use std::sync::Arc;

use dynamo_core::request::{ClientHandle, Failure, Operation, Outcome, Request, Success};
use dynamo_proto::v1;
use tokio::sync::oneshot;

use super::window::SessionSender;
use crate::budget::{Budget, Charge, Full};

/// Requests that may wait at this node, over all connections.
pub const CLIENTS_MAX: usize = 16_384;
/// Bytes of the values and contexts that those requests may hold.
const CLIENT_BYTES_MAX: usize = 256 << 20;

/// Where an answer goes.
pub enum Reply {
    /// To a unary call, with what it holds charged to the answers that clients have not read.
    Once {
        /// The call.
        reply: oneshot::Sender<(Outcome, Charge)>,
        /// Where it is charged.
        answers: Arc<Budget>,
    },
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
            Self::Once { reply, answers } => {
                let mut charge = Charge::new(&answers);
                let bytes = if let Ok(Success::Got { object, .. }) = &outcome { object.encoded_len() } else { 0 };
                let overloaded = |full: Full| Failure::Overloaded(full.to_string());
                let outcome = charge.set(bytes).map_err(overloaded).and(outcome);
                drop(reply.send((outcome, charge)));
            }
            Self::Session { id, session } => session.send(v1::SessionResponse { id, response: Some(outcome.into()) }),
        }
    }
}

/// The table.
#[derive(Default)]
pub struct Clients {
    waiting: HashMap<u64, (Reply, usize)>,
    bytes: usize,
    next: u64,
}

impl Clients {
    /// A handle for one more; gives the reply back when the table is at a bound, and says at which.
    pub fn admit(&mut self, reply: Reply, request: &Request) -> Result<ClientHandle, (Reply, String)> {
        let bytes = match &request.operation {
            Operation::Put { data, context, .. } => data.len() + context.len(),
            Operation::Delete { context } => context.len(),
            Operation::Get => 0,
        };
        if self.waiting.len() >= CLIENTS_MAX {
            return Err((reply, format!("{CLIENTS_MAX} requests are in flight at this node")));
        }
        if self.bytes + bytes > CLIENT_BYTES_MAX {
            return Err((reply, format!("{CLIENT_BYTES_MAX} bytes of values and contexts are in flight at this node")));
        }
        self.next += 1;
        self.bytes += bytes;
        self.waiting.insert(self.next, (reply, bytes));
        Ok(ClientHandle(self.next))
    }

    /// Answers and forgets.
    pub fn respond(&mut self, client: ClientHandle, outcome: Outcome) {
        if let Some((reply, bytes)) = self.waiting.remove(&client.0) {
            self.bytes -= bytes;
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
    use dynamo_core::name::Name;
    use dynamo_core::request::{Evidence, QuorumWish};
    use dynamo_core::version::Object;

    fn put(bytes: usize) -> Request {
        let operation = Operation::Put { data: vec![0; bytes].into(), context: Default::default(), create_only: false };
        Request { name: Name::new("b", "k"), operation, request_key: None, quorum: QuorumWish::default(), timeout_ms: 0 }
    }

    fn reply() -> Reply {
        Reply::Once { reply: oneshot::channel().0, answers: Budget::new("answers", 0) }
    }

    #[test]
    fn a_client_that_went_away_leaves_nothing_behind() {
        let mut clients = Clients::default();
        let client = clients.admit(reply(), &put(9)).ok().unwrap();
        clients.respond(client, Err(Failure::NoRing));
        assert!(clients.is_empty());
        assert_eq!(clients.bytes, 0);
        clients.respond(client, Err(Failure::NoRing));
    }

    #[test]
    fn what_a_get_found_is_charged_before_anybody_takes_it_and_beyond_the_budget_it_is_refused() {
        let answers = Budget::new("answers", 1);
        let evidence = || Evidence { epoch: Default::default(), nodes: Vec::new(), durable: 0, hinted: 0 };
        let answered = |outcome| {
            let (reply, mut answer) = oneshot::channel();
            Reply::Once { reply, answers: Arc::clone(&answers) }.send(outcome);
            answer.try_recv().unwrap()
        };
        let found = || Success::Got { object: Object::default(), context: Default::default(), evidence: evidence() };
        let (first, charge) = answered(Ok(found()));
        assert!(first.is_ok() && answers.held() == Object::default().encoded_len() && answers.held() > 0);
        assert!(matches!(answered(Ok(found())).0, Err(Failure::Overloaded(text)) if text.starts_with("answers hold ")));
        // What was written was written, and is said.
        assert!(answered(Ok(Success::Written { context: Default::default(), evidence: evidence() })).0.is_ok());
        drop(charge);
        assert_eq!(answers.held(), 0);
    }

    #[test]
    fn the_table_is_bounded_by_requests_and_by_bytes() {
        let mut clients = Clients::default();
        for _ in 0..CLIENTS_MAX {
            assert!(clients.admit(reply(), &put(0)).is_ok());
        }
        assert!(clients.admit(reply(), &put(0)).err().unwrap().1.contains("16384 requests"));
        let mut clients = Clients::default();
        let client = clients.admit(reply(), &put(CLIENT_BYTES_MAX)).ok().unwrap();
        assert!(clients.admit(reply(), &put(1)).err().unwrap().1.contains("bytes of values"));
        let delete = Request { operation: Operation::Delete { context: "seen".into() }, ..put(0) };
        assert!(clients.admit(reply(), &delete).is_err());
        clients.respond(client, Err(Failure::NoRing));
        assert!(clients.admit(reply(), &put(1)).is_ok());
    }
}
