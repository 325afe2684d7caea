//! What a message between nodes costs on their stream, both ends: a replica's write of 1 KiB.

use std::hint::black_box;

use bytes::Bytes;
use dynamo_core::id::{Epoch, Incarnation, NodeId, RequestId};
use dynamo_core::message::Message;
use dynamo_core::name::Name;
use dynamo_core::version::{Actor, Dot, Object, Value};
use dynamo_proto::v1;
use dynamo_proto::v1::peer_client::PeerClient;
use dynamo_proto::v1::peer_server::{Peer, PeerServer};
use prost::Message as _;
use tokio::net::TcpListener;
use tokio::runtime::Runtime;
use tokio::sync::mpsc;
use tokio_stream::wrappers::{ReceiverStream, TcpListenerStream};
use tonic::transport::Server;
use tonic::{Request, Response, Status, Streaming};

use crate::VALUE_BYTES;
use crate::harness::{Canary, Harness};

/// Messages in a frame: what gathers at 64 clients is between three and four.
const FRAME: u64 = 4;
/// Frames under way.
const UNDER_WAY: usize = 16;
const STREAM: Canary = Canary {
    name: "message of 1 KiB on a stream, both ends",
    budget: "coordinator to peers: 1700 ns a message of 1 KiB, both ends, two for a put",
    budget_ns: Some(1700),
};
const CODEC: Canary = Canary {
    name: "message of 1 KiB to bytes and back",
    budget: "coordinator to peers: a part of the 1700 ns a message",
    budget_ns: None,
};

fn message(number: u64) -> Message {
    let actor = Actor { node: NodeId([1; 16]), incarnation: Incarnation(1) };
    let value = Value { data: Some(Bytes::from(vec![7; VALUE_BYTES])), written_ms: 1_795_524_299_042 };
    let mut object = Object::default();
    object.update(&object.context(), Dot { actor, counter: 1 + number }, value);
    Message::Replicate {
        request: RequestId(number),
        epoch: Epoch(1),
        name: Name::new("bench", "0123abcd/user0000000001"),
        object,
        hint_for: None,
        synced: true,
    }
}

fn frame(messages: u64) -> v1::PeerFrame {
    v1::PeerFrame { hello: None, messages: (0..messages).map(|number| message(number).into()).collect() }
}

/// Reads frames to the end, as a node does, and says how many messages it understood.
async fn receive(mut frames: Streaming<v1::PeerFrame>) -> u64 {
    let mut understood = 0;
    while let Ok(Some(frame)) = frames.message().await {
        for wire in frame.messages {
            understood += u64::from(black_box(Message::try_from(wire)).is_ok());
        }
    }
    understood
}

/// The other end: tells how many messages came on each stream.
struct Sink(mpsc::Sender<u64>);

#[tonic::async_trait]
impl Peer for Sink {
    type LinkStream = ReceiverStream<Result<v1::PeerFrame, Status>>;

    async fn link(&self, request: Request<Streaming<v1::PeerFrame>>) -> Result<Response<Self::LinkStream>, Status> {
        let (answers, stream) = mpsc::channel(1);
        let told = self.0.clone();
        tokio::spawn(async move {
            let understood = receive(request.into_inner()).await;
            // Who counts waits for it.
            let _ = told.send(understood).await;
            drop(answers);
        });
        Ok(Response::new(ReceiverStream::new(stream)))
    }
}

/// Measures over loopback, both ends on one thread, as a node's runtime is.
pub fn measure(harness: &mut Harness) {
    harness.measure(&CODEC, |count| {
        for number in 0..count {
            let wire = v1::PeerMessage::from(message(number)).encode_to_vec();
            let read = v1::PeerMessage::decode(Bytes::from(wire)).map(Message::try_from);
            assert!(matches!(black_box(read), Ok(Ok(_))));
        }
    });
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
    let (told, mut counts) = mpsc::channel(1);
    let address = serve(&runtime, told);
    let mut client = runtime.block_on(PeerClient::connect(address)).expect("the server listens");
    harness.measure(&STREAM, |count| {
        let understood = runtime.block_on(async {
            let (frames, stream) = mpsc::channel(UNDER_WAY);
            let answered = client.link(ReceiverStream::new(stream)).await.expect("the server answers");
            for _ in 0..count / FRAME {
                frames.send(frame(FRAME)).await.expect("the stream is open");
            }
            drop(frames);
            let understood = counts.recv().await;
            drop(answered);
            understood
        });
        assert_eq!(understood, Some(count / FRAME * FRAME));
    });
}

/// Starts the other end on a free port, and says where.
fn serve(runtime: &Runtime, told: mpsc::Sender<u64>) -> String {
    let listener = runtime.block_on(TcpListener::bind("127.0.0.1:0")).expect("a free port");
    let address = format!("http://{}", listener.local_addr().expect("a bound port"));
    let server = Server::builder().add_service(PeerServer::new(Sink(told)));
    runtime.spawn(server.serve_with_incoming(TcpListenerStream::new(listener)));
    address
}
