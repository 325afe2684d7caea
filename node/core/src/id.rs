//! Who: nodes, clusters, incarnations, epochs (paper 4.2, 4.4, 4.8). Newtypes, so that no two can be confused.
//!
//! A node is a UUID in its data directory, never an address, an ordinal or a pod name: addresses change hands, and a volume
//! may come back under another name.

use std::fmt;

/// Declares a 128-bit identity that is shown and parsed as a UUID.
macro_rules! uuid_like {
    ($(#[$doc:meta])* $name:ident) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $name(pub [u8; 16]);

        impl $name {
            /// The identity in bytes received from outside, or `None` if they are not 16.
            pub fn from_slice(bytes: &[u8]) -> Option<Self> {
                bytes.try_into().ok().map(Self)
            }

            /// Parses the form with or without hyphens.
            pub fn parse(text: &str) -> Option<Self> {
                let digits: Vec<u8> = text.bytes().filter(|byte| *byte != b'-').collect();
                if digits.len() != 32 || !digits.iter().all(u8::is_ascii_hexdigit) {
                    return None;
                }
                let mut id = [0; 16];
                for (byte, pair) in id.iter_mut().zip(digits.chunks(2)) {
                    *byte = u8::from_str_radix(std::str::from_utf8(pair).ok()?, 16).ok()?;
                }
                Some(Self(id))
            }
        }

        impl fmt::Display for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                for (index, byte) in self.0.iter().enumerate() {
                    if matches!(index, 4 | 6 | 8 | 10) {
                        f.write_str("-")?;
                    }
                    write!(f, "{byte:02x}")?;
                }
                Ok(())
            }
        }

        impl fmt::Debug for $name {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{}({:02x}{:02x})", stringify!($name), self.0[0], self.0[1])
            }
        }
    };
}

uuid_like! {
    /// A storage node, for as long as its data directory lives.
    NodeId
}
uuid_like! {
    /// A cluster. It is in every handshake between nodes.
    ClusterId
}

uuid_like! {
    /// A client's name for one write, however often it sends it: the request id of the API. (A [`RequestId`] is a node's.)
    RequestKey
}

/// One unbroken tenure of a node's copy of a partition; random, new whenever the copy was created, dropped, restored or may
/// have lost something. A dot's counter is only ever compared within one incarnation.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct Incarnation(pub u64);

/// The number of a ring in the chain of rings. Only grows.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub struct Epoch(pub u64);

impl Epoch {
    /// The epoch that may follow this one.
    pub fn next(self) -> Self {
        Self(self.0 + 1)
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// One of the ring's Q equal ranges: the leading bits of a position; from Q on, those of other layers
/// ([`crate::ring::bucket_replication`]).
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct PartitionId(pub u32);

impl fmt::Display for PartitionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.0)
    }
}

/// A coordinator's number for a request that it has in flight with its peers.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct RequestId(pub u64);

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_identity_reads_back_from_what_it_prints() {
        let id = NodeId([0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 255]);
        assert_eq!(id.to_string(), "00010203-0405-0607-0809-0a0b0c0d0eff");
        assert_eq!(NodeId::parse(&id.to_string()), Some(id));
        for bad in ["", "0001", "zz010203-0405-0607-0809-0a0b0c0d0eff", "00010203-0405-0607-0809-0a0b0c0d0eff00"] {
            assert_eq!(NodeId::parse(bad), None, "{bad}");
        }
    }
}
