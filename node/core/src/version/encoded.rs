//! An object's canonical bytes, kept beside it while they are known.
//!
//! A replica stores the bytes that it was sent, and a coordinator makes them once for its own copy and for all peers. There is
//! one encoding of each object and the decoder accepts no other, so bytes that were read are the bytes that would be made.

use std::fmt;
use std::sync::OnceLock;

use bytes::Bytes;

/// Bytes, or nothing yet. Two objects are equal or not whatever is known of their bytes.
#[derive(Default)]
pub(super) struct Encoded(OnceLock<Bytes>);

/// Contents are copied to be changed, and these are not the bytes of what comes of it.
impl Clone for Encoded {
    fn clone(&self) -> Self {
        Self::default()
    }
}

impl Encoded {
    /// The object was read from these.
    pub(super) fn known(bytes: Bytes) -> Self {
        Self(OnceLock::from(bytes))
    }

    /// The object has changed.
    pub(super) fn forget(&mut self) {
        self.0.take();
    }

    pub(super) fn get_or_make(&self, make: impl FnOnce() -> Bytes) -> Bytes {
        self.0.get_or_init(make).clone()
    }

    /// How many they are, if they are known.
    pub(super) fn len(&self) -> Option<usize> {
        self.0.get().map(Bytes::len)
    }
}

impl PartialEq for Encoded {
    fn eq(&self, _: &Self) -> bool {
        true
    }
}

impl Eq for Encoded {}

impl fmt::Debug for Encoded {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?} bytes", self.len())
    }
}
