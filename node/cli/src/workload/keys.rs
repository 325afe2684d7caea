//! The keys of one run, and values that name the writes that made them.

use dynamo_core::name::Name;

use super::checker::WriteId;

/// The keys of one run in one bucket.
pub struct Keys {
    bucket: String,
    run: String,
}

impl Keys {
    /// `run` sets its keys and values apart from those of others.
    pub fn new(bucket: impl Into<String>, run: impl Into<String>) -> Self {
        Self { bucket: bucket.into(), run: run.into() }
    }

    /// What sets this run apart.
    pub fn run(&self) -> &str {
        &self.run
    }

    /// The object behind one key.
    pub fn name(&self, key: usize) -> Name {
        Name::new(self.bucket.clone(), format!("{}/key-{key}", self.run))
    }

    /// What the write `id` stores.
    pub fn value(&self, id: WriteId) -> String {
        format!("{}:{id}", self.run)
    }

    /// The write that stored a value, if it is one of this run.
    pub fn id_of(&self, value: &[u8]) -> Option<WriteId> {
        let text = std::str::from_utf8(value).ok()?;
        text.strip_prefix(self.run.as_str())?.strip_prefix(':')?.parse().ok()
    }
}
