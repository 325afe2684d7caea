//! Servers that a client must not wait for for ever: each is a real socket on loopback, and goes when it is dropped.

use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use dynamo_core::id::ClusterId;
use dynamo_core::request::Failure;
use dynamo_proto::kv::{CLUSTER_METADATA, status};
use dynamo_proto::v1;
use dynamo_proto::v1::kv_server::{Kv, KvServer};
use tokio::net::{TcpListener, TcpStream};
use tokio::runtime::{Builder, Runtime};
use tokio::sync::{Notify, watch};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::metadata::MetadataMap;
use tonic::{Request, Response, Status, Streaming};

/// What it does with who comes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Manner {
    /// Accepts connections and says nothing at all.
    Mute,
    /// Accepts connections and closes them.
    Closing,
    /// Tells its topology, takes every request and answers none.
    Deaf,
    /// Tells its topology, takes every request and closes the connection that it came on.
    HangingUp,
    /// As [`Manner::HangingUp`], and from then on nobody listens at its address.
    Leaving,
    /// Has [`CHOOSY_VALUE`] under every key. Refuses a put of the key `refused` as one that makes no sense, and answers no write of the key
    /// `unanswered`; any other it answers.
    Choosy,
    /// Tells its topology until the first request for an object comes, and nothing from then on.
    StandingStill,
    /// Tells its topology and opens streams, of which it reads nothing.
    NotReading,
    /// Says of every request that it does not serve.
    NotServing,
    /// Says to its first put what nobody can use, and to each later one that too few replicas took it. Finds nothing.
    Muddled,
    /// Answers.
    Well,
}

/// What [`Manner::Choosy`] has, and the context that it gives.
pub const CHOOSY_VALUE: &[u8] = b"milk";
const CHOOSY_CONTEXT: &[u8] = &[1, 2, 3];

/// One of them, running.
pub struct Server {
    /// host:port.
    pub address: String,
    service: Service,
    runtime: Option<Runtime>,
}

impl Server {
    /// On a runtime of its own: what the client under test does holds it up in nothing.
    pub fn start(manner: Manner) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let service = Service {
            manner,
            taken: Arc::default(),
            put_ids: Arc::default(),
            asked: Arc::default(),
            hang_up: Arc::default(),
            topology: Arc::default(),
        };
        let served = service.clone();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            match manner {
                Manner::Mute => keep(listener).await,
                Manner::Closing => close(listener).await,
                Manner::Deaf
                | Manner::Choosy
                | Manner::StandingStill
                | Manner::NotReading
                | Manner::NotServing
                | Manner::Muddled
                | Manner::Well => serve(listener, served).await,
                Manner::HangingUp => relay_until_asked(listener, served).await,
                Manner::Leaving => {
                    let hang_up = Arc::clone(&served.hang_up);
                    tokio::select! {
                        () = hang_up.notified() => {}
                        () = relay_until_asked(listener, served) => {}
                    }
                }
            }
        });
        Self { address, service, runtime: Some(runtime) }
    }

    /// What it tells of the cluster from now on.
    pub fn tells(&self, topology: v1::TopologyResponse) {
        *self.service.topology.lock().unwrap() = topology;
    }

    /// Requests for objects that reached it.
    pub fn taken(&self) -> usize {
        self.service.taken.load(Ordering::SeqCst)
    }

    /// The request ids of the puts that reached it on streams.
    pub fn put_ids(&self) -> Vec<Bytes> {
        self.service.put_ids.lock().unwrap().clone()
    }

    /// Returns when it was asked for its topology, or for what it refused, so often again.
    pub async fn asked_again(&self, times: usize) {
        let mut asked = self.service.asked.subscribe();
        let enough = *asked.borrow() + times;
        asked.wait_for(|asked| *asked >= enough).await.unwrap();
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // A runtime may not be waited for inside of another.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn keep(listener: TcpListener) {
    let mut kept = Vec::new();
    while let Ok((stream, _)) = listener.accept().await {
        kept.push(stream);
    }
}

async fn close(listener: TcpListener) {
    while let Ok((stream, _)) = listener.accept().await {
        drop(stream);
    }
}

async fn serve(listener: TcpListener, service: Service) {
    let served = tonic::transport::Server::builder().add_service(KvServer::new(service));
    served.serve_with_incoming(TcpListenerStream::new(listener)).await.unwrap();
}

/// The service behind a relay, which drops its connections when a request has arrived.
async fn relay_until_asked(listener: TcpListener, service: Service) {
    let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = behind.local_addr().unwrap();
    let hang_up = Arc::clone(&service.hang_up);
    tokio::spawn(serve(behind, service));
    while let Ok((stream, _)) = listener.accept().await {
        tokio::spawn(relay(stream, address, Arc::clone(&hang_up)));
    }
}

/// Leads each connection to the next of some servers, and all further ones to the last.
pub struct Balancer {
    /// host:port.
    pub address: String,
    runtime: Option<Runtime>,
}

impl Balancer {
    pub fn before(servers: &[&Server]) -> Self {
        let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap().to_string();
        let servers: Vec<SocketAddr> = servers.iter().map(|server| server.address.parse().unwrap()).collect();
        runtime.spawn(async move {
            let listener = TcpListener::from_std(listener).unwrap();
            let mut next = servers.iter().chain(std::iter::repeat(servers.last().unwrap()));
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(relay(stream, *next.next().unwrap(), Arc::default()));
            }
        });
        Self { address, runtime: Some(runtime) }
    }
}

impl Drop for Balancer {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn relay(mut stream: TcpStream, to: SocketAddr, hang_up: Arc<Notify>) {
    let mut behind = TcpStream::connect(to).await.unwrap();
    tokio::select! {
        _ = tokio::io::copy_bidirectional(&mut stream, &mut behind) => {}
        () = hang_up.notified() => {}
    }
}

#[derive(Clone)]
struct Service {
    manner: Manner,
    taken: Arc<AtomicUsize>,
    put_ids: Arc<Mutex<Vec<Bytes>>>,
    asked: Arc<watch::Sender<usize>>,
    hang_up: Arc<Notify>,
    topology: Arc<Mutex<v1::TopologyResponse>>,
}

fn not_serving() -> v1::Failure {
    Failure::NotServing("it is not its day".to_owned()).into()
}

impl Service {
    /// Refuses what is for another cluster than it tells of. It tells everyone, as nodes of earlier versions do.
    fn check(&self, metadata: &MetadataMap) -> Result<(), Status> {
        let own = ClusterId::from_slice(&self.topology.lock().unwrap().cluster);
        let named = metadata.get(CLUSTER_METADATA).map(|named| ClusterId::parse(named.to_str().unwrap()).unwrap());
        if named.is_some_and(|named| own.is_some_and(|own| own != named)) {
            self.asked.send_modify(|asked| *asked += 1);
            return Err(Status::failed_precondition("this node is of another cluster"));
        }
        Ok(())
    }

    /// What it says to a single call, if anything.
    async fn take<T>(&self, answer: T) -> Result<Response<T>, Status> {
        self.taken.fetch_add(1, Ordering::SeqCst);
        self.hang_up.notify_waiters();
        match self.manner {
            Manner::Well => Ok(Response::new(answer)),
            Manner::NotServing => Err(status(not_serving())),
            _ => std::future::pending().await,
        }
    }

    fn epoch(&self) -> u64 {
        self.topology.lock().unwrap().epoch
    }

    fn found_nothing(&self) -> v1::GetResponse {
        let evidence = v1::Evidence { epoch: self.epoch(), ..Default::default() };
        v1::GetResponse { evidence: Some(evidence), ..Default::default() }
    }

    /// What a choosy one says to a request, if anything.
    fn choose(&self, request: Option<v1::session_request::Request>) -> Option<v1::session_response::Response> {
        use v1::session_request::Request;
        use v1::session_response::Response;
        let (key, answer) = match request? {
            Request::Get(_) => {
                let sibling = v1::Sibling { value: CHOOSY_VALUE.into(), written_ms: 1 };
                let found = v1::GetResponse { siblings: vec![sibling], context: CHOOSY_CONTEXT.into(), ..self.found_nothing() };
                return Some(Response::Get(found));
            }
            Request::Put(put) if put.key == "refused" => {
                return Some(Response::Failure(Failure::Invalid("it does not like the key".to_owned()).into()));
            }
            Request::Put(put) => (put.key, Response::Put(self.written())),
            Request::Delete(delete) => (delete.key, Response::Put(self.written())),
        };
        (key != "unanswered").then_some(answer)
    }

    /// What a muddled one says to the newest put.
    fn muddle(&self) -> v1::session_response::Response {
        use v1::session_response::Response;
        match self.put_ids.lock().unwrap().len() {
            // It does not say what the answer rests on.
            1 => Response::Put(v1::PutResponse::default()),
            _ => Response::Failure(Failure::Unavailable { acknowledged: 1, required: 2 }.into()),
        }
    }

    fn written(&self) -> v1::PutResponse {
        let evidence = v1::Evidence { epoch: self.epoch(), ..Default::default() };
        v1::PutResponse { evidence: Some(evidence), ..Default::default() }
    }

    /// What it says to a frame of requests, if anything.
    fn hear(&self, requests: Vec<v1::SessionRequest>) -> Option<Result<v1::SessionResponses, Status>> {
        self.taken.fetch_add(requests.len(), Ordering::SeqCst);
        let id_of = |request: &v1::SessionRequest| match &request.request {
            Some(v1::session_request::Request::Put(put)) => Some(put.request_id.clone()),
            _ => None,
        };
        self.put_ids.lock().unwrap().extend(requests.iter().filter_map(id_of));
        if !requests.is_empty() {
            self.hang_up.notify_waiters();
        }
        let response = |request| match (self.manner, request) {
            (Manner::Choosy, request) => self.choose(request),
            (Manner::NotServing, _) => Some(v1::session_response::Response::Failure(not_serving())),
            (Manner::Muddled, Some(v1::session_request::Request::Put(_))) => Some(self.muddle()),
            (_, Some(v1::session_request::Request::Get(_))) => Some(v1::session_response::Response::Get(self.found_nothing())),
            _ => Some(v1::session_response::Response::Put(self.written())),
        };
        let answer = |v1::SessionRequest { id, request }| Some(v1::SessionResponse { id, response: Some(response(request)?) });
        let responses = || requests.into_iter().filter_map(answer).collect();
        let answers = matches!(self.manner, Manner::Well | Manner::NotServing | Manner::Choosy | Manner::Muddled);
        answers.then(|| Ok(v1::SessionResponses { responses: responses(), epoch: self.epoch() }))
    }
}

#[tonic::async_trait]
impl Kv for Service {
    type SessionStream = Pin<Box<dyn Stream<Item = Result<v1::SessionResponses, Status>> + Send>>;

    async fn get(&self, call: Request<v1::GetRequest>) -> Result<Response<v1::GetResponse>, Status> {
        self.check(call.metadata())?;
        self.take(self.found_nothing()).await
    }

    async fn put(&self, call: Request<v1::PutRequest>) -> Result<Response<v1::PutResponse>, Status> {
        self.check(call.metadata())?;
        self.take(self.written()).await
    }

    async fn delete(&self, call: Request<v1::DeleteRequest>) -> Result<Response<v1::PutResponse>, Status> {
        self.check(call.metadata())?;
        self.take(self.written()).await
    }

    async fn session(&self, incoming: Request<Streaming<v1::SessionRequests>>) -> Result<Response<Self::SessionStream>, Status> {
        self.check(incoming.metadata())?;
        let service = self.clone();
        let incoming = incoming.into_inner();
        if self.manner == Manner::NotReading {
            let unread = tokio_stream::once(incoming).then(|_unread| std::future::pending());
            return Ok(Response::new(Box::pin(unread)));
        }
        let heard = incoming.filter_map(move |message| service.hear(message.ok()?.requests));
        Ok(Response::new(Box::pin(heard)))
    }

    async fn topology(&self, _: Request<v1::TopologyRequest>) -> Result<Response<v1::TopologyResponse>, Status> {
        self.asked.send_modify(|asked| *asked += 1);
        if self.manner == Manner::StandingStill && self.taken.load(Ordering::SeqCst) > 0 {
            std::future::pending::<()>().await;
        }
        Ok(Response::new(self.topology.lock().unwrap().clone()))
    }
}
