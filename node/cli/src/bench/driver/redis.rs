//! Redis, by its protocol (RESP 2): SET and GET, one in flight on a connection.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use futures::FutureExt;
use futures::future::BoxFuture;
use serde_json::{Value, json};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::timeout;

use super::pool::Pool;
use super::{Base, Causality, Driver, Durability, Found, OperationError};

/// The longest answer that is read: the greatest value of the benchmark, and room for its frame.
const REPLY_BYTES_MAX: usize = 2 << 20;

/// One server.
pub struct Redis {
    pool: Pool<Connection>,
    timeout: Duration,
    durability: Durability,
}

struct Connection {
    stream: TcpStream,
    buffer: BytesMut,
}

/// What a server answers.
#[derive(Debug, PartialEq, Eq)]
enum Answer {
    Simple(String),
    Error(String),
    Bulk(Option<Bytes>),
    Array(Vec<Answer>),
}

impl Redis {
    /// The server at `address`, host:port. Asks it how it persists.
    pub async fn connect(address: &str, timeout: Duration) -> Result<Self, OperationError> {
        let mut redis = Self { pool: Pool::new(&[address.to_owned()]), timeout, durability: Durability::Unknown };
        let setting = async |name: &str| match redis.call(&[b"CONFIG", b"GET", name.as_bytes()]).await? {
            Answer::Array(pair) => match pair.into_iter().nth(1) {
                Some(Answer::Bulk(Some(value))) => Ok(String::from_utf8_lossy(&value).into_owned()),
                _ => Ok(String::new()),
            },
            other => Err(OperationError::lasting("protocol", format!("redis at {address}: CONFIG GET: {other:?}"))),
        };
        let (appends, syncs) = (setting("appendonly").await?, setting("appendfsync").await?);
        redis.durability = durability_of(&appends, &syncs);
        Ok(redis)
    }

    async fn call(&self, words: &[&[u8]]) -> Result<Answer, OperationError> {
        let (slot, idle) = self.pool.take();
        let address = self.pool.address(slot);
        let called = async {
            let mut connection = match idle {
                Some(connection) => connection,
                None => Connection::open(address).await?,
            };
            let answer = connection.call(words).await?;
            Ok::<_, std::io::Error>((connection, answer))
        };
        match timeout(self.timeout, called).await {
            Err(_) => Err(OperationError::new("timeout", format!("redis at {address}: no answer within {:?}", self.timeout))),
            Ok(Err(error)) => Err(OperationError::new("unreachable", format!("redis at {address}: {error}"))),
            Ok(Ok((connection, answer))) => {
                self.pool.give_back(slot, connection);
                match answer {
                    Answer::Error(text) => Err(OperationError::lasting("refused", format!("redis at {address}: {text}"))),
                    answer => Ok(answer),
                }
            }
        }
    }
}

/// What a server's settings say of fsync.
fn durability_of(appendonly: &str, appendfsync: &str) -> Durability {
    match (appendonly, appendfsync) {
        ("yes", "always") => Durability::Fsync,
        ("", _) | (_, "") => Durability::Unknown,
        _ => Durability::None,
    }
}

impl Connection {
    async fn open(address: &str) -> std::io::Result<Self> {
        let stream = TcpStream::connect(address).await?;
        stream.set_nodelay(true)?;
        Ok(Self { stream, buffer: BytesMut::with_capacity(4096) })
    }

    async fn call(&mut self, words: &[&[u8]]) -> std::io::Result<Answer> {
        self.stream.write_all(&command(words)).await?;
        loop {
            let mut rest = &self.buffer[..];
            match read(&mut rest) {
                Ok(answer) => {
                    let used = self.buffer.len() - rest.len();
                    drop(self.buffer.split_to(used));
                    return Ok(answer);
                }
                Err(Unreadable::Incomplete) if self.buffer.len() < REPLY_BYTES_MAX => {}
                Err(_) => return Err(std::io::Error::other("it answers what no Redis answers")),
            }
            if self.stream.read_buf(&mut self.buffer).await? == 0 {
                return Err(std::io::ErrorKind::UnexpectedEof.into());
            }
        }
    }
}

/// A command as an array of strings.
fn command(words: &[&[u8]]) -> Vec<u8> {
    let mut bytes = format!("*{}\r\n", words.len()).into_bytes();
    for word in words {
        bytes.extend_from_slice(format!("${}\r\n", word.len()).as_bytes());
        bytes.extend_from_slice(word);
        bytes.extend_from_slice(b"\r\n");
    }
    bytes
}

#[derive(Debug, PartialEq, Eq)]
enum Unreadable {
    /// More has to come.
    Incomplete,
    /// It is not the protocol.
    Wrong,
}

fn read_line<'a>(rest: &mut &'a [u8]) -> Result<&'a str, Unreadable> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n").ok_or(Unreadable::Incomplete)?;
    let (line, after) = (&rest[..end], &rest[end + 2..]);
    *rest = after;
    std::str::from_utf8(line).map_err(|_| Unreadable::Wrong)
}

fn read(rest: &mut &[u8]) -> Result<Answer, Unreadable> {
    let line = read_line(rest)?;
    let (kind, text) = line.split_at_checked(1).ok_or(Unreadable::Wrong)?;
    let length = || text.parse::<i64>().map_err(|_| Unreadable::Wrong);
    match kind {
        "+" | ":" => Ok(Answer::Simple(text.to_owned())),
        "-" => Ok(Answer::Error(text.to_owned())),
        "$" => {
            let Ok(length) = usize::try_from(length()?) else { return Ok(Answer::Bulk(None)) };
            if length > REPLY_BYTES_MAX {
                return Err(Unreadable::Wrong);
            }
            let value = rest.get(..length + 2).ok_or(Unreadable::Incomplete)?;
            let value = value.strip_suffix(b"\r\n").ok_or(Unreadable::Wrong)?;
            *rest = &rest[length + 2..];
            Ok(Answer::Bulk(Some(Bytes::copy_from_slice(value))))
        }
        // Only CONFIG answers so, with names and values: no array within an array.
        "*" => (0..length()?.clamp(0, 1024))
            .map(|_| if rest.starts_with(b"*") { Err(Unreadable::Wrong) } else { read(rest) })
            .collect::<Result<_, _>>()
            .map(Answer::Array),
        _ => Err(Unreadable::Wrong),
    }
}

impl Driver for Redis {
    fn get<'a>(&'a self, key: &'a str) -> BoxFuture<'a, Result<Found, OperationError>> {
        async move {
            match self.call(&[b"GET", key.as_bytes()]).await? {
                Answer::Bulk(value) => Ok(Found { values: usize::from(value.is_some()), token: Bytes::new() }),
                other => Err(OperationError::new("protocol", format!("redis: GET was answered by {other:?}"))),
            }
        }
        .boxed()
    }

    fn put<'a>(&'a self, key: &'a str, value: Bytes, _: Base) -> BoxFuture<'a, Result<Bytes, OperationError>> {
        async move {
            match self.call(&[b"SET", key.as_bytes(), &value]).await? {
                Answer::Simple(ok) if ok == "OK" => Ok(Bytes::new()),
                other => Err(OperationError::new("protocol", format!("redis: SET was answered by {other:?}"))),
            }
        }
        .boxed()
    }

    fn causality(&self) -> Causality {
        Causality::None
    }

    fn durability(&self) -> Durability {
        self.durability
    }

    fn configuration(&self) -> Value {
        json!({ "endpoints": self.pool.addresses(), "replicas": 1 })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use tokio::net::TcpListener;

    #[test]
    fn commands_and_answers_are_those_of_the_protocol() {
        assert_eq!(command(&[b"SET", b"k", b"v1"]), b"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$2\r\nv1\r\n");
        let cases: [(&[u8], Result<Answer, Unreadable>); 9] = [
            (b"+OK\r\n", Ok(Answer::Simple("OK".to_owned()))),
            (b"-ERR no\r\n", Ok(Answer::Error("ERR no".to_owned()))),
            (b"$-1\r\n", Ok(Answer::Bulk(None))),
            (b"$4\r\na\r\nb\r\n", Ok(Answer::Bulk(Some("a\r\nb".into())))),
            (b"*1\r\n$1\r\nx\r\n", Ok(Answer::Array(vec![Answer::Bulk(Some("x".into()))]))),
            (b"$4\r\na\r", Err(Unreadable::Incomplete)),
            (b"$1\r\nabc", Err(Unreadable::Wrong)),
            (b"*1\r\n*1\r\n$1\r\nx\r\n", Err(Unreadable::Wrong)),
            (b"HTTP/1.1 400\r\n", Err(Unreadable::Wrong)),
        ];
        for (bytes, expected) in cases {
            assert_eq!(read(&mut &bytes[..]), expected, "{}", bytes.escape_ascii());
        }
    }

    #[test]
    fn a_server_says_by_its_settings_whether_it_syncs() {
        assert_eq!(durability_of("yes", "always"), Durability::Fsync);
        assert_eq!(durability_of("yes", "everysec"), Durability::None);
        assert_eq!(durability_of("no", "always"), Durability::None);
        assert_eq!(durability_of("", ""), Durability::Unknown);
    }

    #[tokio::test]
    async fn a_server_that_hangs_or_talks_nonsense_is_named_and_said_so() {
        let hangs = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = hangs.local_addr().unwrap().to_string();
        let error = Redis::connect(&address, Duration::from_millis(50)).await.map(|_| ()).unwrap_err();
        assert_eq!((error.kind, error.text), ("timeout", format!("redis at {address}: no answer within 50ms")));
        let babbles = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = babbles.local_addr().unwrap().to_string();
        let answering = async {
            let (mut stream, _) = babbles.accept().await.unwrap();
            stream.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap();
            stream
        };
        let (_stream, connected) = tokio::join!(answering, Redis::connect(&address, Duration::from_secs(5)));
        let error = connected.map(|_| ()).unwrap_err();
        assert!(error.text.contains("no Redis answers"), "{error}");
    }
}
