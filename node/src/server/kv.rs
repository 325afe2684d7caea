//! The client service (paper 4.1): unary calls, and sessions.

use std::sync::Arc;

use dynamo_core::id::ClusterId;
use dynamo_core::request::{Failure, Outcome, Request};
use dynamo_proto::kv::{CLUSTER_METADATA, get_response, put_response, status};
use dynamo_proto::v1;
use dynamo_proto::v1::kv_server::Kv;
use tokio::sync::{oneshot, watch};
use tonic::{Response, Status, Streaming};

use super::session::{self, Answers};
use super::{answer, stopping, topology_response};
use crate::budget::Charge;
use crate::connections::Unread;
use crate::driver::{Event, Inbox, Question, Reply, Shared};
use crate::refusals::repeated;

/// Hands clients' requests to the loop.
#[derive(Clone)]
pub struct KvService {
    cluster: ClusterId,
    inbox: Inbox,
    shared: Shared,
    stopping: watch::Receiver<bool>,
}

impl KvService {
    /// A service of a node of `cluster` that asks the loop behind `inbox`.
    pub fn new(cluster: ClusterId, inbox: Inbox, shared: Shared, stopping: watch::Receiver<bool>) -> Self {
        Self { cluster, inbox, shared, stopping }
    }

    /// Refuses a call that names another cluster, before its message is read. By the bare code clients tell that it was not heard: a failure
    /// in its details would be one of the cluster that they mean.
    pub fn for_own_cluster(&self) -> impl FnMut(tonic::Request<()>) -> Result<tonic::Request<()>, Status> + Clone + use<> {
        let own: Arc<str> = self.cluster.to_string().into();
        move |call| match call.metadata().get(CLUSTER_METADATA) {
            Some(named) if !named.as_bytes().eq_ignore_ascii_case(own.as_bytes()) => {
                let named = repeated(named.as_bytes());
                let reason = format!("the call is for cluster {named}, this node is of {own}; nothing was read or written");
                Err(Status::failed_precondition(reason))
            }
            _ => Ok(call),
        }
    }

    /// What became of a request, with what it holds.
    async fn run<R>(&self, wire: R) -> Result<(Outcome, Charge), Status>
    where
        R: prost::Message + TryInto<Request, Error = Failure>,
    {
        let bytes = wire.encoded_len();
        let request = wire.try_into().map_err(|failure| status(failure.into()))?;
        let (reply, outcome) = oneshot::channel();
        let reply = Reply::Once { reply, answers: Arc::clone(&self.shared.budgets.answers) };
        let event = Event::Request { request, reply };
        self.inbox.send(event, bytes).await.map_err(stopping)?;
        // The loop ended with the request in its hands: nobody knows what became of it.
        let lost = || status(Failure::Unknown { acknowledged: 0, required: 0 }.into());
        outcome.await.map_err(|_| lost())
    }
}

#[tonic::async_trait]
impl Kv for KvService {
    async fn get(&self, request: tonic::Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        // Dropped at the end, when the answer's bytes are about to be counted instead.
        let (outcome, _charge) = self.run(request.into_inner()).await?;
        get_response(outcome).map(Response::new)
    }

    async fn put(&self, request: tonic::Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let (outcome, _) = self.run(request.into_inner()).await?;
        put_response(outcome).map(Response::new)
    }

    async fn delete(&self, request: tonic::Request<v1::DeleteRequest>) -> Result<Response<v1::PutResponse>, Status> {
        let (outcome, _) = self.run(request.into_inner()).await?;
        put_response(outcome).map(Response::new)
    }

    type SessionStream = Answers;

    async fn session(
        &self,
        request: tonic::Request<Streaming<v1::SessionRequests>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let unread = request.extensions().get::<Arc<Unread>>().cloned();
        let answers = session::start(request.into_inner(), self.inbox.clone(), self.shared.clone(), self.stopping.clone());
        if let Some(unread) = unread {
            unread.watch(answers.watched());
        }
        Ok(Response::new(answers))
    }

    async fn topology(&self, request: tonic::Request<v1::TopologyRequest>) -> Result<Response<v1::TopologyResponse>, Status> {
        let topology = self.inbox.ask(Question::Topology).await.map_err(stopping)?;
        let known_epoch = request.into_inner().known_epoch;
        answer(&self.shared.budgets.answers, topology_response(self.cluster, topology, known_epoch))
    }
}
