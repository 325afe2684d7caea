//! One node, as this client reaches it: an address, a connection that is made when it is needed, and what experience says.
//!
//! All who want a connection wait for one attempt to make it, which is nobody's own: who gives up ends only his waiting, and if it
//! fails, all hear of it together and go elsewhere. A node that failed is avoided until it has answered again; whether it does is
//! found out by a question of the client's own ([`Link::probe`]), less often each time, so that no request pays for it. It is still
//! tried when nobody else is left. The connection on which it failed is left: through a load balancer the next may lead to a node
//! that is well.
//!
//! That one caller has little time says nothing of the node to the others. It is asked, and avoided only if it does not answer that.
//!
//! Addresses change hands. Every call names the client's cluster, so that a node of another refuses it ([`ForCluster`]), and the
//! word of such a node counts as none. A connection from before the client knew its cluster is made anew.

use std::sync::atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use dynamo_core::id::{ClusterId, Epoch, NodeId};
use dynamo_proto::v1::kv_client::KvClient;
use dynamo_proto::v1::session_request::Request;
use dynamo_proto::v1::session_response::Response;
use dynamo_proto::{MESSAGE_BYTES_MAX, kv, v1};
use tokio::sync::watch;
use tokio::task::AbortHandle;
use tokio::time::{timeout, timeout_at};
use tonic::metadata::AsciiMetadataValue;
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Status};

use crate::admin;
use crate::client::{Mode, TIMEOUT_MAX};
use crate::session::{OutOfTime, Reply, Session};
use crate::silence::{OnSilence, SILENCE_MAX, Vigil};
use crate::topology::EpochWatch;

/// Between a node's first failure and the first question whether it is back; doubled with each further one.
const PROBE_FIRST: Duration = Duration::from_millis(250);
/// Doublings: at most 8 s.
const PROBE_DOUBLINGS_MAX: u32 = 5;

/// Between two connections that are left because what is behind them does not serve.
const LEAVE_INTERVAL: Duration = Duration::from_millis(200);

/// A node's address and the connection to it.
#[derive(Debug)]
pub(crate) struct Link {
    pub(crate) address: String,
    /// Who has that address, of a member.
    node: Option<NodeId>,
    endpoint: Endpoint,
    mode: Mode,
    connect_timeout: Duration,
    epochs: Arc<EpochWatch>,
    /// That an answer of this node carried, if newer than the client's own.
    newest_epoch: AtomicU64,
    connection: Mutex<Option<Connecting>>,
    origin: Instant,
    probe_at_ms: AtomicU64,
    failures: AtomicU32,
    /// Somebody's own time was too short for it, and it has said nothing since.
    doubted: AtomicBool,
    /// There was a connection to it at some time.
    reached: AtomicBool,
    /// It was waited for in vain at some time.
    missed: AtomicBool,
    leave_due_ms: AtomicU64,
}

/// A node's service.
pub(crate) type Stub = KvClient<InterceptedService<Channel, ForCluster>>;

/// Names a cluster in the metadata of each call.
#[derive(Clone, Debug)]
pub(crate) struct ForCluster(Option<AsciiMetadataValue>);

impl ForCluster {
    /// Without a cluster it names none, and a node of any takes the call.
    fn new(cluster: Option<ClusterId>) -> Result<Self, String> {
        let named = cluster.map(|cluster| AsciiMetadataValue::try_from(cluster.to_string()));
        named.transpose().map(Self).map_err(|error| error.to_string())
    }
}

impl Interceptor for ForCluster {
    fn call(&mut self, mut call: tonic::Request<()>) -> Result<tonic::Request<()>, Status> {
        if let Some(cluster) = &self.0 {
            call.metadata_mut().insert(kv::CLUSTER_METADATA, cluster.clone());
        }
        Ok(call)
    }
}

/// How requests go over a connection.
#[derive(Debug)]
enum Way {
    Stream(Session),
    Unary(Box<Vigil>),
}

#[derive(Debug)]
struct Connection {
    stub: Stub,
    /// What its calls name.
    cluster: Option<ClusterId>,
    way: Way,
    broken: AtomicBool,
}

impl Connection {
    fn is_closed(&self) -> bool {
        let ended = match &self.way {
            Way::Stream(session) => session.is_closed(),
            Way::Unary(_) => false,
        };
        ended || self.broken.load(Ordering::Relaxed)
    }

    fn is_silent(&self) -> bool {
        match &self.way {
            Way::Stream(session) => session.is_silent(),
            Way::Unary(vigil) => vigil.is_silent(),
        }
    }
}

/// A connection, or why there is none.
type Outcome = Result<Arc<Connection>, String>;

/// An attempt to connect: under way, or what came of it.
#[derive(Debug)]
struct Connecting {
    outcome: watch::Receiver<Option<Outcome>>,
    task: AbortHandle,
}

impl Connecting {
    fn begin(attempt: impl Future<Output = Outcome> + Send + 'static) -> Self {
        let (tell, outcome) = watch::channel(None);
        let task = tokio::spawn(async move { drop(tell.send(Some(attempt.await))) }).abort_handle();
        Self { outcome, task }
    }

    /// It is under way, or its connection can be used for `cluster`.
    fn serves(&self, cluster: Option<ClusterId>) -> bool {
        match &*self.outcome.borrow() {
            Some(Ok(connection)) => !connection.is_closed() && connection.cluster == cluster,
            Some(Err(_)) => false,
            None => !self.task.is_finished(),
        }
    }

    /// It made this connection.
    fn made(&self, connection: &Arc<Connection>) -> bool {
        self.outcome.borrow().as_ref().is_some_and(|outcome| outcome.as_ref().is_ok_and(|made| Arc::ptr_eq(made, connection)))
    }
}

impl Drop for Connecting {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Link {
    /// A link to host:port; nothing is connected yet.
    pub(crate) fn new(address: &str, mode: Mode, connect_timeout: Duration, epochs: Arc<EpochWatch>) -> Result<Self, String> {
        Ok(Self {
            address: address.to_owned(),
            node: None,
            endpoint: admin::endpoint(address, connect_timeout)
                .map_err(|reason| format!("address {address:?}: {reason}; give host:port"))?,
            mode,
            connect_timeout,
            epochs,
            newest_epoch: AtomicU64::new(0),
            connection: Mutex::default(),
            origin: Instant::now(),
            probe_at_ms: AtomicU64::new(0),
            failures: AtomicU32::new(0),
            doubted: AtomicBool::new(false),
            reached: AtomicBool::new(false),
            missed: AtomicBool::new(false),
            leave_due_ms: AtomicU64::new(0),
        })
    }

    /// The same, to this member.
    pub(crate) fn to(self, node: NodeId) -> Self {
        Self { node: Some(node), ..self }
    }

    /// The member that has the address, as far as is known. An endpoint's may be a load balancer's.
    pub(crate) fn node(&self) -> Option<NodeId> {
        self.node
    }

    /// It failed and has not answered since: others should be asked first.
    pub(crate) fn is_avoided(&self) -> bool {
        self.failures.load(Ordering::Relaxed) > 0
    }

    /// There was a connection to it at some time.
    pub(crate) fn was_reached(&self) -> bool {
        self.reached.load(Ordering::Relaxed)
    }

    /// It was waited for in vain at some time.
    pub(crate) fn was_missed(&self) -> bool {
        self.missed.load(Ordering::Relaxed)
    }

    /// An answer of it was given under this epoch.
    pub(crate) fn heard_of(&self, epoch: Epoch) {
        if epoch > self.epochs.held() {
            self.newest_epoch.fetch_max(epoch.0, Ordering::Relaxed);
            self.epochs.heard_of(epoch);
        }
    }

    /// It has a newer ring than the client.
    pub(crate) fn is_ahead(&self) -> bool {
        Epoch(self.newest_epoch.load(Ordering::Relaxed)) > self.epochs.held()
    }

    /// It is time to ask whether it is there, or back.
    pub(crate) fn is_to_be_probed(&self) -> bool {
        self.is_to_be_probed_at(self.origin.elapsed())
    }

    fn is_to_be_probed_at(&self, elapsed: Duration) -> bool {
        if self.is_avoided() {
            self.probe_at_ms.load(Ordering::Relaxed) <= elapsed.as_millis() as u64
        } else {
            self.doubted.load(Ordering::Relaxed)
        }
    }

    /// Asks whether the node answers. A question that the node has to take from the same queue as requests.
    pub(crate) async fn probe(&self, known_epoch: u64) {
        self.doubted.store(false, Ordering::Relaxed);
        // What came of it is noted there.
        let _ = self.topology(known_epoch, self.connect_timeout.max(SILENCE_MAX)).await;
    }

    /// The node did not answer, or not in time.
    pub(crate) fn failed(&self) {
        self.failed_at(self.origin.elapsed());
    }

    /// Of many that fail before the next question, all are one: each would put it off further.
    fn failed_at(&self, elapsed: Duration) {
        self.missed.store(true, Ordering::Relaxed);
        if self.is_avoided() && !self.is_to_be_probed_at(elapsed) {
            return;
        }
        let doublings = self.failures.fetch_add(1, Ordering::Relaxed).min(PROBE_DOUBLINGS_MAX);
        let at = elapsed + PROBE_FIRST * (1 << doublings);
        self.probe_at_ms.store(at.as_millis() as u64, Ordering::Relaxed);
    }

    /// As [`Link::failed`], and the connection is left to those who wait on it. On one that was left before, it is old news.
    fn failed_on(&self, connection: &Arc<Connection>) {
        if self.current().take_if(|connecting| connecting.made(connection)).is_some() {
            self.failed();
        }
    }

    /// A caller that had so much time heard nothing. What any node may take says nothing of this one.
    fn fell_short(&self, patience: Duration, connection: Option<&Arc<Connection>>) {
        self.missed.store(true, Ordering::Relaxed);
        match connection {
            _ if patience < SILENCE_MAX => self.doubted.store(true, Ordering::Relaxed),
            Some(connection) => self.failed_on(connection),
            None => self.failed(),
        }
    }

    /// The next request connects anew, and through a load balancer perhaps to another node; those who wait go on waiting. However many
    /// ask for it, the connection is left once in [`LEAVE_INTERVAL`].
    pub(crate) fn leave(&self) {
        self.leave_at(self.origin.elapsed());
    }

    fn leave_at(&self, elapsed: Duration) -> bool {
        let (now, due) = (elapsed.as_millis() as u64, self.leave_due_ms.load(Ordering::Relaxed));
        let next = now + LEAVE_INTERVAL.as_millis() as u64;
        let first = now >= due && self.leave_due_ms.compare_exchange(due, next, Ordering::Relaxed, Ordering::Relaxed).is_ok();
        let connected = |connecting: &mut Connecting| matches!(&*connecting.outcome.borrow(), Some(Ok(_)));
        first && self.current().take_if(connected).is_some()
    }

    /// The node answered.
    fn worked(&self) {
        if self.failures.load(Ordering::Relaxed) > 0 {
            self.failures.store(0, Ordering::Relaxed);
        }
        if self.doubted.load(Ordering::Relaxed) {
            self.doubted.store(false, Ordering::Relaxed);
        }
    }

    /// Sends `request` and tells what became of it, in `patience` at most.
    pub(crate) async fn call(&self, request: Request, on_silence: OnSilence, patience: Duration) -> Reply {
        let deadline = tokio::time::Instant::now() + patience;
        let named = |reason: String| format!("{}: {reason}", self.address);
        let connection = match timeout_at(deadline, self.connected()).await {
            Ok(Ok(connection)) => connection,
            Ok(Err(reason)) => {
                self.failed();
                return Reply::NotSent(named(reason));
            }
            Err(_) => {
                self.fell_short(patience, None);
                return Reply::NotSent(named(format!("cannot connect within {} ms", in_ms(patience))));
            }
        };
        let reply = match &connection.way {
            // What waits for its answers there cannot leave. Nobody joins them who can go elsewhere.
            _ if on_silence != OnSilence::Wait && connection.is_silent() => {
                Ok(Reply::NotSent("nothing was heard of the node lately".to_owned()))
            }
            Way::Stream(session) => session.call(request, on_silence, deadline).await,
            Way::Unary(vigil) => {
                // Apart from the others': it is ten times as large, and applications have many requests under way.
                let call = Box::pin(vigil.over(call_unary(&connection, request), on_silence));
                timeout_at(deadline, call).await.map_err(|_| OutOfTime { sent: true })
            }
        };
        match reply {
            Ok(Reply::Answer(response)) => {
                self.worked();
                epoch_of(&response).into_iter().for_each(|epoch| self.heard_of(epoch));
                Reply::Answer(response)
            }
            Ok(Reply::NotSent(reason)) => {
                self.failed_on(&connection);
                Reply::NotSent(named(reason))
            }
            Ok(Reply::Lost(reason)) => {
                self.failed_on(&connection);
                Reply::Lost(named(reason))
            }
            Err(OutOfTime { sent }) => {
                self.fell_short(patience, Some(&connection));
                match sent {
                    true => Reply::Lost(named(format!("no answer within {} ms", in_ms(patience)))),
                    false => Reply::NotSent(named(format!("it takes no more requests, for {} ms", in_ms(patience)))),
                }
            }
        }
    }

    /// The ring and the members' addresses, as the node knows them. A node that does not tell them in `limit` has failed.
    pub(crate) async fn topology(&self, known_epoch: u64, limit: Duration) -> Result<v1::TopologyResponse, String> {
        let deadline = tokio::time::Instant::now() + limit.min(TIMEOUT_MAX);
        let out_of_time = |connection| {
            self.fell_short(limit, connection);
            "no answer in time".to_owned()
        };
        let connected = timeout_at(deadline, self.connected()).await.map_err(|_| out_of_time(None))?;
        let connection = connected.inspect_err(|_| self.failed())?;
        let asked = topology(connection.stub.clone(), Epoch(known_epoch), &self.epochs);
        let answer = timeout_at(deadline, asked).await.map_err(|_| out_of_time(Some(&connection)))?;
        answer.inspect(|_| self.worked()).inspect_err(|_| self.failed_on(&connection))
    }

    fn current(&self) -> MutexGuard<'_, Option<Connecting>> {
        self.connection.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The connection, made now if there is none.
    async fn connected(&self) -> Outcome {
        let mut outcome = {
            let cluster = self.epochs.cluster();
            let mut current = self.current();
            current.take_if(|connecting| !connecting.serves(cluster));
            let connecting = current.get_or_insert_with(|| Connecting::begin(self.connect()));
            if let Some(Ok(connection)) = &*connecting.outcome.borrow() {
                return Ok(Arc::clone(connection));
            }
            connecting.outcome.clone()
        };
        let outcome = outcome.wait_for(Option::is_some).await;
        let outcome = outcome.ok().and_then(|outcome| outcome.clone()).unwrap_or_else(|| Err("the client was closed".to_owned()));
        outcome.inspect(|_| self.reached.store(true, Ordering::Relaxed))
    }

    /// One attempt.
    fn connect(&self) -> impl Future<Output = Outcome> + Send + use<> {
        let (endpoint, mode, epochs, limit) = (self.endpoint.clone(), self.mode, Arc::clone(&self.epochs), self.connect_timeout);
        async move {
            let timed_out = |_| format!("cannot connect within {} ms", limit.as_millis());
            timeout(limit, open(endpoint, mode, epochs)).await.map_err(timed_out).flatten().map(Arc::new)
        }
    }
}

async fn open(endpoint: Endpoint, mode: Mode, epochs: Arc<EpochWatch>) -> Result<Connection, String> {
    let began = Instant::now();
    let channel = endpoint.connect().await.map_err(|error| admin::innermost(&error))?;
    let cluster = epochs.cluster();
    let stub = KvClient::with_interceptor(channel, ForCluster::new(cluster)?).max_decoding_message_size(MESSAGE_BYTES_MAX);
    let way = match mode {
        Mode::Unary => Way::Unary(Box::new(Vigil::new(stub.clone(), began.elapsed(), epochs))),
        Mode::Stream => {
            let opened = Session::open(stub.clone(), epochs).await;
            let refused =
                |status: tonic::Status| format!("the stream was refused ({:?}): {}", status.code(), admin::words(&status));
            Way::Stream(opened.map_err(refused)?)
        }
    };
    Ok(Connection { stub, cluster, way, broken: AtomicBool::new(false) })
}

/// The ring and the members' addresses, as the node behind `stub` knows them. One of an earlier version does not tell its cluster.
pub(crate) async fn topology(stub: Stub, known: Epoch, epochs: &EpochWatch) -> Result<v1::TopologyResponse, String> {
    let mut stub = stub.max_decoding_message_size(admin::ADMIN_ANSWER_BYTES_MAX);
    let answer = stub.topology(v1::TopologyRequest { known_epoch: known.0 }).await;
    let answer = answer.map_err(|status| format!("{:?}: {}", status.code(), admin::words(&status)))?.into_inner();
    if !answer.cluster.is_empty() {
        epochs.check_cluster(ClusterId::from_slice(&answer.cluster).ok_or("cluster: is not 16 bytes")?)?;
    }
    Ok(answer)
}

/// Under which an answer was given. A failure does not tell.
fn epoch_of(response: &Response) -> Option<Epoch> {
    let evidence = match response {
        Response::Get(found) => &found.evidence,
        Response::Put(written) => &written.evidence,
        Response::Failure(_) => return None,
    };
    evidence.as_ref().map(|evidence| Epoch(evidence.epoch))
}

/// In milliseconds, rounded up: no time is none.
fn in_ms(time: Duration) -> u128 {
    time.as_micros().div_ceil(1000)
}

/// One call for one request. If the call itself breaks, the channel is not used again: it would reconnect on its own, and a
/// request that failed on a channel in that state may or may not have been sent.
async fn call_unary(connection: &Connection, request: Request) -> Reply {
    let mut stub = connection.stub.clone();
    let answer = match request {
        Request::Get(get) => stub.get(get).await.map(|answer| Response::Get(answer.into_inner())),
        Request::Put(put) => stub.put(put).await.map(|answer| Response::Put(answer.into_inner())),
        Request::Delete(delete) => stub.delete(delete).await.map(|answer| Response::Put(answer.into_inner())),
    };
    match answer {
        Ok(response) => Reply::Answer(response),
        Err(status) => match kv::failure(&status) {
            Some(failure) => Reply::Answer(Response::Failure(failure.into())),
            None => {
                connection.broken.store(true, Ordering::Relaxed);
                let reason = format!("{:?}: {}", status.code(), admin::words(&status));
                // Of what answers a call only a node of another cluster says this, and it did not read the request.
                if status.code() == Code::FailedPrecondition { Reply::NotSent(reason) } else { Reply::Lost(reason) }
            }
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn many_requests_that_fail_together_put_the_question_whether_it_is_back_off_once() {
        let link = Link::new("node:1", Mode::Stream, Duration::from_secs(1), Arc::default()).unwrap();
        let asked = |at| link.is_to_be_probed_at(at);
        for _ in 0..20 {
            link.failed_at(Duration::ZERO);
        }
        assert!(!asked(PROBE_FIRST / 2) && asked(PROBE_FIRST));
        // The answer to the question: it is not.
        link.failed_at(PROBE_FIRST);
        assert!(!asked(PROBE_FIRST * 2) && asked(PROBE_FIRST * 3));
    }

    #[tokio::test]
    async fn however_many_find_that_a_node_does_not_serve_its_connection_is_left_once_in_an_interval() {
        let link = Link::new("node:1", Mode::Stream, Duration::from_secs(1), Arc::default()).unwrap();
        let connects = async || {
            let channel = link.endpoint.connect_lazy();
            let stub = KvClient::with_interceptor(channel, ForCluster(None));
            let way = Way::Unary(Box::new(Vigil::new(stub.clone(), Duration::ZERO, Arc::default())));
            let connection = Connection { stub, cluster: None, way, broken: AtomicBool::new(false) };
            *link.current() = Some(Connecting::begin(async { Ok(Arc::new(connection)) }));
            link.connected().await.unwrap()
        };
        let (first, half) = (connects().await, LEAVE_INTERVAL / 2);
        assert!(link.leave_at(half) && !link.leave_at(half), "there is none any more");
        let second = connects().await;
        assert!(!link.leave_at(LEAVE_INTERVAL), "that was just made");
        link.failed_on(&first);
        assert!(!link.is_avoided(), "it was left before");
        assert!(link.leave_at(half + LEAVE_INTERVAL));
        link.failed_on(&second);
        let third = connects().await;
        assert!(!link.is_avoided(), "it was left as well");
        link.failed_on(&third);
        assert!(link.is_avoided() && link.current().is_none());
    }

    #[tokio::test]
    async fn a_caller_that_gives_up_ends_no_attempt_and_the_next_begins_none() {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let link = Link::new(&address, Mode::Stream, Duration::from_secs(3600), Arc::default()).unwrap();
        let patience = Duration::from_millis(50);
        let gives_up = async || {
            let reply = link.call(Request::Get(v1::GetRequest::default()), OnSilence::Wait, patience).await;
            assert!(matches!(reply, Reply::NotSent(reason) if reason.contains("cannot connect within 50 ms")));
        };
        // It connects, and hears nothing.
        let (accepted, ()) = tokio::join!(listener.accept(), gives_up());
        let _accepted = accepted.unwrap();
        tokio::select! {
            _ = listener.accept() => panic!("it connects once more"),
            () = gives_up() => {}
        }
        assert!(link.is_to_be_probed() && !link.is_avoided(), "others have more time");
        link.worked();
        assert!(!link.is_to_be_probed());
        link.fell_short(SILENCE_MAX, None);
        assert!(link.is_avoided());
    }

    #[test]
    fn a_part_of_a_millisecond_is_not_told_as_none() {
        let told = [0, 1, 499, 1000, 1001].map(|micros| in_ms(Duration::from_micros(micros)));
        assert_eq!(told, [0, 1, 1, 1, 2]);
    }
}
