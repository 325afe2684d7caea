//! `get`, `put`, `delete`: one object, its siblings and its context.

use std::io::Read;

use bytes::Bytes;
use clap::Args;
use clap::builder::NonEmptyStringValueParser;
use dynamo_client::{Client, DeleteOptions, GetOptions, GetResult, Mode, PutOptions, PutResult, RequestError, fresh_request_id};
use dynamo_core::config::VALUE_BYTES_MAX;
use dynamo_core::id::RequestKey;
use dynamo_core::name::Name;
use dynamo_core::request::{Evidence, Failure, QuorumWish};
use serde_json::{Value, json};

use crate::arguments::{Asked, Connection, ReadQuorum, WriteQuorum};
use crate::connection;
use crate::output::{Format, date, decode_context, encode_context, grouped, print, readable, show, value_fields};
use crate::stop::Stop;

/// Which object.
#[derive(Args, Debug, Clone)]
pub struct Which {
    /// The key.
    pub key: String,
    /// The bucket that it is in.
    #[arg(short, long, default_value = "default", value_parser = NonEmptyStringValueParser::new())]
    pub bucket: String,
}

impl Which {
    fn name(&self) -> Name {
        Name::new(self.bucket.clone(), self.key.clone())
    }
}

const EXAMPLES_OF_GET: &str = "\
Examples:
  dynamoctl get alice --bucket carts
  dynamoctl get alice --bucket carts --raw > cart   # the value alone, if there is one
  dynamoctl get alice --bucket carts --pr 2         # of home replicas, and not of stand-ins that may know less
  dynamoctl get alice --bucket carts -o json        # with the context, for programs";

const EXAMPLES_OF_PUT: &str = "\
Examples:
  dynamoctl put alice milk --bucket carts
  dynamoctl put alice milk,tea --bucket carts --context CONTEXT   # in place of what the get with that context showed
  dynamoctl put alice @cart.json --bucket carts                   # a file's bytes; - for those of the standard input
  dynamoctl put alice milk --bucket carts --create-only           # refused where a value is known";

/// Arguments of `get`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES_OF_GET)]
pub struct Get {
    #[command(flatten)]
    which: Which,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    quorum: ReadQuorum,
    /// Print the value's bytes and nothing else, also no JSON; fails if there is more than one.
    #[arg(long)]
    raw: bool,
}

/// Arguments of `put`.
#[derive(Args, Debug)]
#[command(after_help = EXAMPLES_OF_PUT)]
pub struct Put {
    #[command(flatten)]
    which: Which,
    /// The value; `@FILE` takes a file's bytes, `-` the standard input's. A value that begins with `@` or is `-` comes from there:
    /// `printf %s @alice | dynamoctl put KEY -`.
    #[arg(allow_hyphen_values = true)]
    value: String,
    /// The context that `get` showed: the put replaces what that get returned. Without it, other versions stay as siblings.
    #[arg(short, long)]
    context: Option<String>,
    /// Only if the node that takes it knows no value: two at once may both succeed, and are siblings.
    #[arg(long, conflicts_with = "context")]
    create_only: bool,
    /// Names this write: repeated with the same UUID, it is the same write. A new one is made if none is given.
    #[arg(long, value_name = "UUID", value_parser = parse_request_id)]
    request_id: Option<RequestKey>,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    quorum: WriteQuorum,
}

/// Arguments of `delete`.
#[derive(Args, Debug)]
pub struct Delete {
    #[command(flatten)]
    which: Which,
    /// The context that `get` showed: what that get returned is deleted, which may be nothing. Where the last writer wins, none is needed.
    #[arg(short, long)]
    context: Option<String>,
    /// Delete whatever a get returns now.
    #[arg(long, conflicts_with = "context")]
    current: bool,
    /// Names this delete: repeated with the same UUID, it is the same one. A new one is made if none is given.
    #[arg(long, value_name = "UUID", value_parser = parse_request_id, conflicts_with = "current")]
    request_id: Option<RequestKey>,
    #[command(flatten)]
    asked: Asked,
    #[command(flatten)]
    quorum: WriteQuorum,
}

/// Reads one key. A key that does not exist is exit code 1.
pub async fn get(connection: &Connection, format: Format, arguments: Get) -> Result<(), Stop> {
    if arguments.raw && format == Format::Json {
        return Err(Stop::Usage("--raw prints the value's bytes and -o json a document: leave one of them out".to_owned()));
    }
    let client = connection::client(connection, Mode::Stream).await?;
    let options =
        GetOptions { quorum: QuorumWish { n: arguments.asked.n, ..QuorumWish::from(&arguments.quorum) }, timeout: None };
    let name = arguments.which.name();
    let found = client.get(&name, &options).await?;
    let missing = || Stop::Failed(format!("{}: {}", title(&name), absence(&found.evidence)));
    if arguments.raw {
        return match found.siblings.as_slice() {
            [] => Err(missing()),
            [only] => print(&only.value),
            more => Err(Stop::Failed(format!("{}: has {} concurrent values; get it without --raw", title(&name), more.len()))),
        };
    }
    if format == Format::Json || !found.siblings.is_empty() {
        show(format, || described(&name, &found), &document(&name, &found))?;
    }
    if found.siblings.is_empty() { Err(missing()) } else { Ok(()) }
}

/// Writes one key.
pub async fn put(connection: &Connection, format: Format, arguments: Put) -> Result<(), Stop> {
    let value = read_value(&arguments.value)?;
    let context = arguments.context.as_deref().map(decode_context).transpose()?.unwrap_or_default();
    let quorum = QuorumWish { n: arguments.asked.n, ..QuorumWish::from(&arguments.quorum) };
    let request_id = arguments.request_id.unwrap_or_else(fresh_request_id);
    let create_only = arguments.create_only;
    let options = PutOptions { quorum, context: context.into(), create_only, request_id: Some(request_id), timeout: None };
    let client = connection::client(connection, Mode::Stream).await?;
    let name = arguments.which.name();
    let bytes = value.len() as u64;
    let same = format!("with --request-id {request_id}");
    let written = client.put(&name, value, &options).await.map_err(|error| repeatable(error, &same))?;
    show_written(format, &format!("{}: {} bytes written", title(&name), grouped(bytes)), &written)
}

/// Deletes one key. Whether that takes a context is the bucket's rule, which the node knows.
pub async fn delete(connection: &Connection, format: Format, arguments: Delete) -> Result<(), Stop> {
    let name = arguments.which.name();
    let context = arguments.context.as_deref().map(decode_context).transpose()?;
    let client = connection::client(connection, Mode::Stream).await?;
    let context = match context {
        Some(context) => context.into(),
        None if arguments.current => current_context(&client, &name).await?,
        None => Bytes::new(),
    };
    let request_id = arguments.request_id.unwrap_or_else(fresh_request_id);
    let options = DeleteOptions {
        quorum: QuorumWish { n: arguments.asked.n, ..QuorumWish::from(&arguments.quorum) },
        request_id: Some(request_id),
        timeout: None,
    };
    // What --current read is what the same delete has to be of, and not what a get returns by then.
    let without = if arguments.current { "without --current, and " } else { "" };
    let same = match context.is_empty() {
        true => format!("{without}with --request-id {request_id}"),
        false => format!("{without}with --context {} --request-id {request_id}", encode_context(&context)),
    };
    let written = client.delete(&name, context, &options).await.map_err(|error| match &error {
        RequestError::Failed(Failure::Invalid(reason)) if reason.starts_with("context is missing") => {
            Stop::Usage(format!("{reason}; give it with --context, or say --current to delete whatever a get returns now"))
        }
        _ => repeatable(error, &same),
    })?;
    let what = match written.evidence.nodes.is_empty() {
        true => format!("{}: there is nothing to delete, the get that showed this context found none", title(&name)),
        false => format!("{}: deleted", title(&name)),
    };
    show_written(format, &what, &written)
}

fn parse_request_id(text: &str) -> Result<RequestKey, String> {
    RequestKey::parse(text).ok_or_else(|| "is no UUID; give 32 hexadecimal digits, with or without hyphens".to_owned())
}

/// A write of unknown outcome can be sent again, by who knows its request id.
fn repeatable(error: RequestError, same: &str) -> Stop {
    match error.is_unknown() {
        true => Stop::UnknownOutcome(format!("{error}\nthe same command {same} is the same write, however often it is sent")),
        false => error.into(),
    }
}

async fn current_context(client: &Client, name: &Name) -> Result<Bytes, Stop> {
    let found = client.get(name, &GetOptions::default()).await?;
    if found.siblings.is_empty() {
        return Err(Stop::Failed(format!("{}: {}", title(name), absence(&found.evidence))));
    }
    Ok(found.context)
}

fn read_value(argument: &str) -> Result<Vec<u8>, Stop> {
    let limit = VALUE_BYTES_MAX as u64 + 1;
    let mut value = Vec::new();
    let read = match (argument, argument.strip_prefix('@')) {
        ("-", _) => std::io::stdin().take(limit).read_to_end(&mut value),
        (_, Some(path)) => std::fs::File::open(path).and_then(|file| file.take(limit).read_to_end(&mut value)),
        (text, None) => return Ok(text.as_bytes().to_vec()),
    };
    let advice = "to store a value that begins with @, give it on the standard input (`put KEY -`)";
    read.map_err(|error| Stop::Usage(format!("value {argument}: {error}; {advice}")))?;
    if value.len() > VALUE_BYTES_MAX {
        return Err(Stop::Usage(format!("value {argument}: is larger than {} bytes", grouped(VALUE_BYTES_MAX as u64))));
    }
    Ok(value)
}

fn title(name: &Name) -> String {
    format!("{}/{}", readable(&name.bucket), readable(&name.key))
}

fn described(name: &Name, found: &GetResult) -> String {
    let count = found.siblings.len();
    let mut text = match count {
        1 => format!("{}: one value\n", title(name)),
        _ => format!("{}: {count} concurrent values; merge them and put the result with this context\n", title(name)),
    };
    text.push_str(&format!("context: {}\n{}\n", encode_context(&found.context), basis(&found.evidence)));
    for (index, sibling) in found.siblings.iter().enumerate() {
        let number = if count == 1 { String::new() } else { format!("{} of {count}, ", index + 1) };
        let length = grouped(sibling.value.len() as u64);
        text.push_str(&format!("\n--- {number}{length} bytes, written {}\n", date(sibling.written_ms)));
        text.push_str(readable(&sibling.value).trim_end_matches('\n'));
        text.push('\n');
    }
    text
}

fn document(name: &Name, found: &GetResult) -> Value {
    let sibling = |sibling: &dynamo_client::Sibling| {
        let mut fields = value_fields(&sibling.value);
        fields["written_ms"] = sibling.written_ms.into();
        fields
    };
    json!({
        "bucket": String::from_utf8_lossy(&name.bucket),
        "key": String::from_utf8_lossy(&name.key),
        "siblings": found.siblings.iter().map(sibling).collect::<Vec<_>>(),
        "context": encode_context(&found.context),
        "evidence": evidence(&found.evidence),
    })
}

fn show_written(format: Format, what: &str, written: &PutResult) -> Result<(), Stop> {
    let context = encode_context(&written.context);
    let text = || match written.evidence.nodes.is_empty() {
        true => what.to_owned(),
        false => format!("{what}\ncontext: {}\n{}", context_of_write(&context), basis(&written.evidence)),
    };
    show(format, text, &json!({ "context": context, "evidence": evidence(&written.evidence) }))
}

/// A write that met a version which its writer had not read has no context that covers both.
fn context_of_write(context: &str) -> &str {
    if context.is_empty() { "none, get the key before you replace it" } else { context }
}

fn evidence(evidence: &Evidence) -> Value {
    json!({
        "epoch": evidence.epoch.0,
        "nodes": evidence.nodes.iter().map(ToString::to_string).collect::<Vec<_>>(),
        "durable": evidence.durable,
        "hinted": evidence.hinted,
    })
}

/// What it means that no value was found. Who stands in for a replica does not know what that one has.
pub fn absence(evidence: &Evidence) -> String {
    let (answered, hinted) = (evidence.nodes.len(), evidence.hinted as usize);
    if hinted == 0 {
        return "does not exist".to_owned();
    }
    let homes = if hinted < answered { answered } else { 1 };
    format!(
        "was not found, but {hinted} of the {answered} nodes that answered stand in for replicas that cannot be reached: it may exist; \
         get it with --pr {homes}, which only home replicas can answer"
    )
}

/// What an answer rests on, in one line.
fn basis(evidence: &Evidence) -> String {
    let nodes: Vec<String> = evidence.nodes.iter().map(|node| node.to_string()[..8].to_owned()).collect();
    let mut text = format!("answered by {} at epoch {}", nodes.join(", "), evidence.epoch);
    if evidence.durable > 0 {
        text.push_str(&format!(", on stable storage of {}", evidence.durable));
    }
    if evidence.hinted > 0 {
        text.push_str(&format!(", {} of them standing in for a replica that cannot be reached", evidence.hinted));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;
    use dynamo_client::Sibling;
    use dynamo_core::id::{Epoch, NodeId};

    fn found(values: &[&'static str]) -> GetResult {
        let sibling = |value: &&'static str| Sibling { value: Bytes::from_static(value.as_bytes()), written_ms: 0 };
        let nodes = vec![NodeId([0xa1; 16]), NodeId([0xb2; 16])];
        GetResult {
            siblings: values.iter().map(sibling).collect(),
            context: Bytes::from_static(&[1, 2, 3]),
            evidence: Evidence { epoch: Epoch(3), nodes, durable: 0, hinted: 1 },
        }
    }

    #[test]
    fn siblings_are_shown_with_the_context_that_covers_them() {
        insta::assert_snapshot!(described(&Name::new("carts", "alice"), &found(&["milk\n", "bread"])), @r"
        carts/alice: 2 concurrent values; merge them and put the result with this context
        context: AQID
        answered by a1a1a1a1, b2b2b2b2 at epoch 3, 1 of them standing in for a replica that cannot be reached

        --- 1 of 2, 5 bytes, written 1970-01-01T00:00:00.000Z
        milk

        --- 2 of 2, 5 bytes, written 1970-01-01T00:00:00.000Z
        bread
        ");
        let json = document(&Name::new("carts", "alice"), &found(&["milk"]));
        assert_eq!((&json["siblings"][0]["value"], &json["context"]), (&json!("milk"), &json!("AQID")));
        let control = document(&Name::new("b\u{1b}", "a\nb\u{1b}"), &found(&["milk"]));
        assert_eq!((&control["bucket"], &control["key"]), (&json!("b\u{1b}"), &json!("a\nb\u{1b}")), "what was given");
    }

    #[test]
    fn what_stand_ins_do_not_have_may_exist() {
        let absence = |hinted| absence(&Evidence { hinted, ..found(&[]).evidence });
        assert_eq!(absence(0), "does not exist");
        for (hinted, way) in [(1, "--pr 2"), (2, "--pr 1")] {
            let told = absence(hinted);
            assert!(told.contains("it may exist") && told.contains(way) && !told.contains("does not exist"), "{told}");
        }
    }

    #[test]
    fn a_write_without_a_context_says_what_to_do_before_the_next() {
        assert_eq!(context_of_write(""), "none, get the key before you replace it");
        assert_eq!(context_of_write("AQID"), "AQID");
    }

    #[test]
    fn a_value_comes_from_the_argument_or_from_a_file() {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), b"from a file").unwrap();
        assert_eq!(read_value("as it is").unwrap(), b"as it is");
        assert_eq!(read_value(&format!("@{}", file.path().display())).unwrap(), b"from a file");
        assert!(read_value("@/does/not/exist").unwrap_err().to_string().contains("/does/not/exist"));
    }

    #[test]
    fn a_request_id_is_a_uuid_and_is_told_when_the_outcome_is_unknown() {
        let id = RequestKey([0xab; 16]);
        assert_eq!(parse_request_id(&id.to_string()), Ok(id));
        assert!(parse_request_id("once").unwrap_err().contains("32 hexadecimal digits"));
        let lost = repeatable(RequestError::Lost("cut".to_owned()), &format!("with --request-id {id}"));
        assert!(
            lost.to_string()
                .ends_with("with --request-id abababab-abab-abab-abab-abababababab is the same write, however often it is sent")
        );
        let unreachable = repeatable(RequestError::Unreachable("nobody".to_owned()), "with --request-id x");
        assert!(!unreachable.to_string().contains("--request-id"), "nothing was written");
    }
}
