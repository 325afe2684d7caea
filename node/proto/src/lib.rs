//! The wire: generated gRPC code, and conversions to and from the types of `dynamo-core`.
//!
//! Wire, disk and core types are three different things. They meet here only: outward with `From`, inward with `TryFrom`, which
//! validates once, so that nothing behind this border checks again. No bytes from outside make anything here panic.

use bytes::Bytes;
use dynamo_core::name::Name;
use thiserror::Error;

pub mod admin;
pub mod codec;
mod elements;
pub mod kv;
pub mod peer;

/// Generated from `proto/dynamo/v1/*.proto`.
pub mod v1 {
    #![allow(missing_docs, clippy::all)]
    tonic::include_proto!("dynamo.v1");
}

/// The compiled .proto files, for gRPC server reflection.
pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/dynamo.v1.descriptors.bin"));

/// Bytes of the longest message between nodes, and of the longest answer to a client: a hundred siblings of the greatest value, with
/// room to spare. Who sends and who takes have to agree.
pub const MESSAGE_BYTES_MAX: usize = 128 << 20;

/// Why a message from a peer, or an answer from a node, means nothing.
#[derive(Clone, PartialEq, Eq, Debug, Error)]
#[error("{field}: {reason}")]
pub struct WireError {
    /// The field, in the .proto file's name.
    pub field: &'static str,
    /// What is wrong with it.
    pub reason: String,
}

impl WireError {
    /// `field` is wrong because of `reason`.
    pub fn new(field: &'static str, reason: impl ToString) -> Self {
        Self { field, reason: reason.to_string() }
    }
}

/// The sixteen bytes of an identity.
fn id(bytes: &[u8], field: &'static str) -> Result<[u8; 16], WireError> {
    bytes.try_into().map_err(|_| WireError::new(field, format!("{} bytes, an identity has 16", bytes.len())))
}

/// A name in memory of its own: the fields of a frame share the frame's buffer, and names are kept long after it is handled.
fn name(bucket: &[u8], key: &[u8]) -> Name {
    let mut both = Bytes::from([bucket, key].concat());
    let key = both.split_off(bucket.len());
    Name::new(both, key)
}

#[cfg(test)]
mod tests {
    use prost::Message;
    use prost_types::FileDescriptorSet;

    use super::FILE_DESCRIPTOR_SET;

    /// Without it, who generates code for Go has to give the package of each file on the command line.
    #[test]
    fn every_proto_file_names_the_same_go_package() {
        let files = FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap().file;
        let own: Vec<_> = files.iter().filter(|file| file.package() == "dynamo.v1").collect();
        assert_eq!(own.len(), 3);
        for file in own {
            let options = file.options.clone().unwrap_or_default();
            assert_eq!(options.go_package(), "dynamokv.io/dynamo/v1;dynamov1", "{}", file.name());
        }
    }
}
