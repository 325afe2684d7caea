//! A number that is told beside the protocol's counters: whoever counts it says what it means, and whether it only grows.

/// What the driver, the links or the engine tell of themselves, beside the protocol's counters.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Figure {
    /// Its name, without the prefix.
    pub name: &'static str,
    /// What it says.
    pub help: &'static str,
    /// It is a counter.
    pub grows: bool,
    /// What it is now.
    pub value: u64,
}

impl Figure {
    /// A counter: from one start to the next it only grows.
    pub fn growing(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, grows: true, value }
    }

    /// A gauge.
    pub fn varying(name: &'static str, help: &'static str, value: u64) -> Self {
        Self { name, help, grows: false, value }
    }
}
