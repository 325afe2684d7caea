//! A node whose disk is nearly full: writes are refused with an explicit error, and all else goes on.
//!
//! The driver watches the free space and says [`Input::Space`](super::Input::Space); a reserve is left for what goes on: flushes,
//! compactions, and the records below. Until there is space again this node
//!
//! - coordinates no put where another replica can, and refuses the rest before anything is written;
//! - refuses what peers want to have stored here, so that a put goes on to the next fallback at once, and hints, transfers and
//!   handbacks stay where they are and are tried again;
//! - takes nothing from anti-entropy and read repair, but still gives.
//!
//! It goes on reading, answering gets, delivering hints and removing them, dropping copies, leasing dots and adopting rings: what
//! frees space, and what is small and bounded. A put that is under way when the disk fills is finished; its coordinator has made
//! its dot and must not forget it.

use crate::node::Node;
use crate::request::Failure;
use crate::storage::Storage;

impl<S: Storage> Node<S> {
    pub(super) fn on_space(&mut self, writable: bool) {
        self.writable = writable;
    }

    /// Why a put cannot be coordinated here, if it cannot.
    pub(super) fn enough_space(&mut self) -> Result<(), Failure> {
        if self.takes_writes() {
            return Ok(());
        }
        Err(Failure::NotServing("the disk of this node is nearly full and it takes no writes until there is space".into()))
    }

    /// Whether something may be stored here; counts what may not.
    pub(super) fn takes_writes(&mut self) -> bool {
        self.counters.writes_refused_space += u64::from(!self.writable);
        self.writable
    }
}
