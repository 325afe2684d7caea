//! Garage, by its K2V API: an item a key, HTTP/1.1, every request signed, one in flight on a connection.
//!
//! K2V keeps concurrent values, as DynamoKV does, and a write supersedes what its causality token covers. Only a read gives a token:
//! an update is a read and a write, and a write without a token adds a sibling. The body's hash is signed, as Garage's own client
//! does.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::Bytes;
use futures::FutureExt;
use futures::future::BoxFuture;
use http_body_util::{BodyExt, Full};
use hyper::client::conn::http1::SendRequest;
use hyper::{Method, Request, StatusCode};
use hyper_util::rt::TokioIo;
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::pool::Pool;
use super::sigv4::{Signed, Signer, sha256_hex};
use super::{Base, Causality, Driver, Durability, Found, OperationError};
use crate::output::date;

/// The header that carries what a read has seen.
const TOKEN: &str = "x-garage-causality-token";
/// An item has a partition key and a sort key; this is every item's sort key.
const SORT_KEY: &str = "v";
/// Of an error's text, this much is shown.
const ERROR_CHARACTERS_MAX: usize = 300;

/// A cluster and a bucket.
pub struct Garage {
    pool: Pool<SendRequest<Full<Bytes>>>,
    bucket: String,
    signer: Signer,
    timeout: Duration,
    durability: Durability,
}

/// Where it is, and whose keys sign.
#[derive(Clone, Debug)]
pub struct Access {
    /// host:port of the K2V API of some nodes.
    pub endpoints: Vec<String>,
    /// The bucket, which must exist.
    pub bucket: String,
    /// As Garage is configured (`s3_region`).
    pub region: String,
    /// Of a key that may write to the bucket.
    pub access_key: String,
    /// Of the same key.
    pub secret_key: String,
}

struct Answer {
    status: StatusCode,
    token: Option<Bytes>,
    is_list: bool,
    body: Bytes,
}

impl Garage {
    /// Connections are opened when they are needed.
    pub fn new(access: Access, timeout: Duration, durability: Durability) -> Self {
        let Access { endpoints, bucket, region, access_key, secret_key } = access;
        let signer = Signer::new(access_key, secret_key, region, "k2v");
        Self { pool: Pool::new(&endpoints), bucket, signer, timeout, durability }
    }

    async fn call(&self, method: Method, key: &str, body: Bytes, token: Option<&Bytes>) -> Result<Answer, OperationError> {
        let (slot, idle) = self.pool.take();
        let address = self.pool.address(slot);
        let request = self
            .request(method, key, body, token, address)
            .map_err(|error| OperationError::lasting("invalid", format!("garage at {address}: {error}")))?;
        match timeout(self.timeout, exchange(idle, address, request)).await {
            Err(_) => Err(OperationError::new("timeout", format!("garage at {address}: no answer within {:?}", self.timeout))),
            Ok(Err(error)) => Err(OperationError::new("unreachable", format!("garage at {address}: {error}"))),
            Ok(Ok((connection, answer))) => {
                self.pool.give_back(slot, connection);
                if answer.status.is_success() || answer.status == StatusCode::NOT_FOUND && !mentions_bucket(&answer.body) {
                    return Ok(answer);
                }
                let text: String = String::from_utf8_lossy(&answer.body).chars().take(ERROR_CHARACTERS_MAX).collect();
                let text = format!("garage at {address}: {}: {text}", answer.status);
                let lasting = answer.status.is_client_error();
                Err(if lasting { OperationError::lasting("refused", text) } else { OperationError::new("failed", text) })
            }
        }
    }

    fn request(
        &self,
        method: Method,
        key: &str,
        body: Bytes,
        token: Option<&Bytes>,
        host: &str,
    ) -> Result<Request<Full<Bytes>>, hyper::http::Error> {
        // In the path a slash would need escaping, and the signature a second one.
        let (path, query) = (format!("/{}/{}", self.bucket, key.replace('/', "-")), format!("sort_key={SORT_KEY}"));
        let (time, hash) = (now(), sha256_hex(&body));
        let headers = [("host", host), ("x-amz-content-sha256", &hash), ("x-amz-date", &time)];
        let signed = Signed { method: method.as_str(), path: &path, query: &query, headers: &headers, payload_sha256: &hash };
        let authorization = self.signer.authorization(&signed, &time);
        let mut request = Request::builder()
            .method(method)
            .uri(format!("{path}?{query}"))
            .header("authorization", authorization)
            // One value comes as it is, several as a list.
            .header("accept", "application/octet-stream, application/json");
        for (name, value) in headers {
            request = request.header(name, value);
        }
        if let Some(token) = token {
            request = request.header(TOKEN, &token[..]);
        }
        request.body(Full::new(body))
    }

    async fn read(&self, key: &str) -> Result<Found, OperationError> {
        let answer = self.call(Method::GET, key, Bytes::new(), None).await?;
        let values = match answer.status {
            StatusCode::NOT_FOUND | StatusCode::NO_CONTENT => 0,
            _ if answer.is_list => count_values(&answer.body)?,
            _ => 1,
        };
        Ok(Found { values, token: answer.token.unwrap_or_default() })
    }
}

/// Sends a request on the connection, or on a new one.
async fn exchange(
    idle: Option<SendRequest<Full<Bytes>>>,
    address: &str,
    request: Request<Full<Bytes>>,
) -> Result<(SendRequest<Full<Bytes>>, Answer), Box<dyn std::error::Error + Send + Sync>> {
    let mut connection = match idle.filter(|connection| !connection.is_closed()) {
        Some(connection) => connection,
        None => connect(address).await?,
    };
    connection.ready().await?;
    let response = connection.send_request(request).await?;
    let header = |name: &str| response.headers().get(name).map(|value| Bytes::copy_from_slice(value.as_bytes()));
    let (status, token) = (response.status(), header(TOKEN));
    let is_list = header("content-type").is_some_and(|kind| kind.starts_with(b"application/json"));
    let body = response.into_body().collect().await?.to_bytes();
    Ok((connection, Answer { status, token, is_list, body }))
}

async fn connect(address: &str) -> Result<SendRequest<Full<Bytes>>, Box<dyn std::error::Error + Send + Sync>> {
    let stream = TcpStream::connect(address).await?;
    stream.set_nodelay(true)?;
    let (connection, driving) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await?;
    // It ends with the connection; what goes wrong is told to whoever sends on it.
    tokio::spawn(driving);
    Ok(connection)
}

/// A bucket that is not there is another matter than an item that is not.
fn mentions_bucket(body: &[u8]) -> bool {
    String::from_utf8_lossy(body).to_lowercase().contains("bucket")
}

/// Values of an item with several: a list in which a deletion is null.
fn count_values(body: &[u8]) -> Result<usize, OperationError> {
    let list: Vec<Value> = serde_json::from_slice(body)
        .map_err(|error| OperationError::new("protocol", format!("garage: an item is no list of values: {error}")))?;
    Ok(list.iter().filter(|value| !value.is_null()).count())
}

/// The present as 20150830T123600Z.
fn now() -> String {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let text = date(u64::try_from(since.as_millis()).unwrap_or_default());
    let seconds = text.split('.').next().unwrap_or_default();
    format!("{}Z", seconds.replace(['-', ':'], ""))
}

impl Driver for Garage {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Found, OperationError>> {
        self.read(key).boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, base: Base) -> BoxFuture<'a, Result<Bytes, OperationError>> {
        async move {
            let token = match base {
                Base::Nothing => None,
                Base::Token(token) => Some(token),
                Base::ReadFirst => Some(self.read(key).await?.token),
            };
            let token = token.filter(|token| !token.is_empty());
            let answer = self.call(Method::PUT, key, value, token.as_ref()).await?;
            if answer.status == StatusCode::NOT_FOUND {
                return Err(OperationError::lasting("refused", "garage: the K2V API is not there (404)"));
            }
            Ok(Bytes::new())
        }
        .boxed()
    }

    fn causality(&self) -> Causality {
        Causality::FromGets
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn configuration(&self) -> Value {
        json!({ "endpoints": self.pool.addresses(), "bucket": self.bucket, "api": "k2v" })
    }
}

/// What a configuration file of Garage says of fsync: items are metadata. The default is none.
pub fn durability_of(configuration: &str) -> Durability {
    let setting = configuration.lines().filter_map(|line| line.split('#').next()?.split_once('='));
    let says = setting.filter(|(name, _)| name.trim() == "metadata_fsync").map(|(_, value)| value.trim() == "true").next_back();
    if says.unwrap_or(false) { Durability::Fsync } else { Durability::None }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    fn garage(address: &str) -> Garage {
        let access = Access {
            endpoints: vec![address.to_owned()],
            bucket: "bench".to_owned(),
            region: "garage".to_owned(),
            access_key: "GK0123".to_owned(),
            secret_key: "secret".to_owned(),
        };
        Garage::new(access, Duration::from_secs(5), Durability::None)
    }

    /// Answers one request after the other, and gives back what was asked.
    async fn serve(listener: TcpListener, answers: &[&str]) -> Vec<String> {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut asked = Vec::new();
        for answer in answers {
            let mut request = Vec::new();
            let mut buffer = [0; 4096];
            while !is_whole(&request) {
                let read = stream.read(&mut buffer).await.unwrap();
                assert!(read > 0, "{}", String::from_utf8_lossy(&request));
                request.extend_from_slice(&buffer[..read]);
            }
            asked.push(String::from_utf8_lossy(&request).into_owned());
            stream.write_all(answer.as_bytes()).await.unwrap();
        }
        asked
    }

    fn is_whole(request: &[u8]) -> bool {
        let text = String::from_utf8_lossy(request);
        let Some((head, body)) = text.split_once("\r\n\r\n") else { return false };
        let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
        body.len() >= length.map_or(0, |length| length.parse().unwrap())
    }

    #[tokio::test]
    async fn an_update_is_a_signed_read_and_a_write_with_the_token_that_it_gave() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let garage = garage(&listener.local_addr().unwrap().to_string());
        let read = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\nx-garage-causality-token: abc\r\ncontent-length: 17\r\n\r\n[\"YQ==\",\"Yg==\"]  ";
        let written = "HTTP/1.1 204 No Content\r\n\r\n";
        let answers = [read, read, written];
        let asking = async {
            let found = garage.get("run/user1").await.unwrap();
            assert_eq!(found, Found { values: 2, token: "abc".into() });
            garage.put("run/user1", "value".into(), Base::ReadFirst).await.unwrap();
        };
        let (asked, ()) = tokio::join!(serve(listener, &answers), asking);
        assert!(asked[0].starts_with("GET /bench/run-user1?sort_key=v HTTP/1.1\r\n"), "{}", asked[0]);
        assert!(asked[2].starts_with("PUT /bench/run-user1?sort_key=v HTTP/1.1\r\n") && asked[2].ends_with("\r\n\r\nvalue"));
        assert!(asked[2].contains("\r\nx-garage-causality-token: abc\r\n") && !asked[1].contains("causality"));
        for request in asked {
            let signed = "SignedHeaders=host;x-amz-content-sha256;x-amz-date, Signature=";
            assert!(request.contains("Credential=GK0123/") && request.contains(signed), "{request}");
        }
    }

    #[tokio::test]
    async fn a_refusal_tells_what_garage_said_and_an_absent_item_is_none() {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let garage = garage(&listener.local_addr().unwrap().to_string());
        let absent = "HTTP/1.1 404 Not Found\r\ncontent-length: 11\r\n\r\nNo such key";
        let refused = "HTTP/1.1 403 Forbidden\r\ncontent-length: 17\r\n\r\nInvalid signature";
        let answers = [absent, refused];
        let asking = async {
            assert_eq!(garage.get("k").await.unwrap().values, 0);
            let error = garage.put("k", "v".into(), Base::Nothing).await.unwrap_err();
            assert!(error.final_ && error.text.ends_with("403 Forbidden: Invalid signature"), "{error}");
        };
        tokio::join!(serve(listener, &answers), asking);
    }

    #[test]
    fn a_configuration_says_whether_items_are_synced() {
        assert_eq!(durability_of("metadata_dir = \"/a\"\nmetadata_fsync = true # slow\n"), Durability::Fsync);
        assert_eq!(durability_of("metadata_fsync=false"), Durability::None);
        assert_eq!(durability_of("# metadata_fsync = true"), Durability::None);
    }

    #[test]
    fn the_present_has_the_form_that_is_signed() {
        let now = now();
        assert_eq!((now.len(), &now[8..9], &now[15..]), (16, "T", "Z"), "{now}");
    }
}
