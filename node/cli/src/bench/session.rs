//! One system with its records: loaded once, measured as often as is wanted.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use clap::{Args, ValueEnum};
use dynamo_core::config::VALUE_BYTES_MAX;
use dynamo_core::random::Random;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::driver::{Base, Causality, OperationError};
use super::inserts::Inserts;
use super::system::Target;
use crate::output::grouped;
use crate::progress::Progress;
use crate::stop::Stop;

/// Random bytes of which every value is a piece.
const POOL_BYTES: usize = 8 << 20;
/// Attempts at one record of the load phase.
const LOAD_ATTEMPTS_MAX: u32 = 5;

/// What is loaded where nothing else is asked for.
pub const RECORDS_DEFAULT: u64 = 100_000;
pub const VALUE_BYTES_DEFAULT: u64 = 1024;

/// What there is to be read and replaced, and how.
#[derive(Args, Debug, Clone)]
pub struct Data {
    #[command(flatten)]
    pub loaded: Records,
    /// What updates carry, where a system can be told.
    #[arg(long, value_enum, default_value_t = Updates::Context)]
    pub updates: Updates,
}

/// What is loaded first.
#[derive(Args, Debug, Clone)]
pub struct Records {
    /// Records to load.
    #[arg(long, default_value_t = RECORDS_DEFAULT, value_name = "NUMBER")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=10_000_000))]
    pub records: u64,
    /// Bytes of a value.
    #[arg(long, default_value_t = VALUE_BYTES_DEFAULT, value_name = "BYTES")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=VALUE_BYTES_MAX as u64))]
    pub value_bytes: u64,
    /// Clients, each with one request in flight.
    #[arg(long, default_value_t = 64, value_name = "NUMBER", value_parser = clap::value_parser!(u16).range(1..=4096))]
    pub clients: u16,
}

/// What updates carry.
#[derive(Clone, Copy, PartialEq, Eq, Debug, ValueEnum)]
pub enum Updates {
    /// The context that was last seen of the record.
    Context,
    /// Nothing: each update leaves a sibling.
    Blind,
}

impl Data {
    /// For the record.
    pub fn document(&self) -> Value {
        json!({
            "records": self.loaded.records,
            "value_bytes": self.loaded.value_bytes,
            "clients": self.loaded.clients,
            "updates": format!("{:?}", self.updates).to_lowercase(),
        })
    }
}

/// What is done with every record before a run.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Visit {
    Load,
    Read,
}

/// What all clients share.
pub struct Session {
    /// What is measured.
    pub target: Target,
    /// The records.
    pub data: Data,
    /// Sets these keys apart from those of others.
    pub keys: String,
    /// Sets the records that are added apart from those of another run with the same keys: an insert must not meet one.
    run: String,
    pool: Bytes,
    /// The token last seen of each record; one for each record that there is.
    tokens: Mutex<Vec<Bytes>>,
    inserts: Mutex<Inserts>,
}

impl Session {
    /// Nothing is loaded yet.
    pub fn new(target: Target, data: Data, keys: String, source: &mut Random) -> Self {
        let pool: Vec<u8> = (0..POOL_BYTES / 8).flat_map(|_| source.next_u64().to_le_bytes()).collect();
        let tokens = Mutex::new(vec![Bytes::new(); data.loaded.records as usize]);
        let inserts = Mutex::new(Inserts::new(data.loaded.records));
        let run = Self::fresh_keys(source);
        Self { target, data, keys, run, pool: pool.into(), tokens, inserts }
    }

    /// Keys of a run of its own.
    pub fn fresh_keys(source: &mut Random) -> String {
        format!("{:08x}", source.next_u64() as u32)
    }

    /// A record's key.
    pub fn key(&self, record: u64) -> String {
        match record < self.data.loaded.records {
            true => format!("{}/user{record:010}", self.keys),
            false => format!("{}/user{record:010}-{}", self.keys, self.run),
        }
    }

    /// Random bytes that no compression makes smaller.
    pub fn value(&self, source: &mut Random) -> Bytes {
        let bytes = self.data.loaded.value_bytes as usize;
        let start = source.below(self.pool.len() - bytes + 1);
        self.pool.slice(start..start + bytes)
    }

    fn tokens(&self) -> MutexGuard<'_, Vec<Bytes>> {
        self.tokens.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The records that clients add.
    pub fn inserts(&self) -> MutexGuard<'_, Inserts> {
        self.inserts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What an update of the record carries, as an application would that knows what it last saw.
    pub fn base(&self, record: u64) -> Base {
        match (self.data.updates, self.target.driver.causality()) {
            (Updates::Blind, _) | (_, Causality::None) => Base::Nothing,
            (Updates::Context, Causality::FromGets) => Base::ReadFirst,
            (Updates::Context, Causality::FromPuts) => match &self.tokens()[record as usize] {
                token if token.is_empty() => Base::ReadFirst,
                token => Base::Token(token.clone()),
            },
        }
    }

    /// The token of a get. One that is not there has none.
    pub fn seen(&self, record: u64, token: Bytes) {
        if !token.is_empty() {
            self.replaced(record, token);
        }
    }

    /// The token of a put. One that met a version that nobody here has seen has none to give: the next update reads first, as an
    /// application must, or siblings would gather.
    pub fn replaced(&self, record: u64, token: Bytes) {
        let mut tokens = self.tokens();
        if tokens.len() <= record as usize {
            tokens.resize(record as usize + 1, Bytes::new());
        }
        if self.target.driver.causality() == Causality::FromPuts {
            tokens[record as usize] = token;
        }
    }

    /// Every record once, from as many tasks as there are clients.
    pub async fn load(self: &Arc<Self>, source: &mut Random) -> Result<Duration, Stop> {
        self.each_record(Visit::Load, source).await
    }

    /// Reads records that an earlier `load` wrote, for their tokens. An error if one is missing.
    pub async fn learn(self: &Arc<Self>, source: &mut Random) -> Result<Duration, Stop> {
        self.each_record(Visit::Read, source).await
    }

    async fn each_record(self: &Arc<Self>, visit: Visit, source: &mut Random) -> Result<Duration, Stop> {
        let started = Instant::now();
        let what = if visit == Visit::Load { "load" } else { "read" };
        let (records, clients) = (self.data.loaded.records, u64::from(self.data.loaded.clients));
        let mut progress = Progress::new(what, Some(records));
        let (told, mut done) = tokio::sync::mpsc::channel(1024);
        let mut tasks = JoinSet::new();
        for first in 0..clients {
            let (session, told, mut source) = (Arc::clone(self), told.clone(), Random::new(source.next_u64()));
            tasks.spawn(async move {
                for record in (first..records).step_by(clients as usize) {
                    match visit {
                        Visit::Load => session.load_one(record, &mut source).await?,
                        Visit::Read => session.read_one(record).await?,
                    }
                    // The receiver outlives the tasks.
                    let _ = told.send(()).await;
                }
                Ok::<(), OperationError>(())
            });
        }
        drop(told);
        let mut count = 0;
        while done.recv().await.is_some() {
            count += 1;
            progress.at(count, || format!("{}/s", grouped((count as f64 / started.elapsed().as_secs_f64()) as u64)));
        }
        let failed = |error: &dyn std::fmt::Display| Stop::Failed(format!("{what} {}: {error}", self.target.system.name()));
        while let Some(ended) = tasks.join_next().await {
            ended.map_err(|error| failed(&error))?.map_err(|error| failed(&error))?;
        }
        progress.end();
        Ok(started.elapsed())
    }

    async fn read_one(&self, record: u64) -> Result<(), OperationError> {
        let key = self.key(record);
        let found = self.target.driver.get(&key).await?;
        if found.values == 0 {
            let text = format!("{key}: there is no such record; `bench load` it with the same --keys and --records");
            return Err(OperationError::lasting("absent", text));
        }
        self.seen(record, found.token);
        Ok(())
    }

    async fn load_one(&self, record: u64, source: &mut Random) -> Result<(), OperationError> {
        let mut attempt = 1;
        loop {
            match self.target.driver.put(&self.key(record), self.value(source), Base::Nothing).await {
                Ok(token) => {
                    self.replaced(record, token);
                    return Ok(());
                }
                Err(error) if attempt == LOAD_ATTEMPTS_MAX || error.final_ => return Err(error),
                // Even if the outcome is unknown: at worst the record starts with a sibling.
                Err(_) => tokio::time::sleep(Duration::from_millis(50 << attempt)).await,
            }
            attempt += 1;
        }
    }
}
