//! What can be asked of the program. Each command's own arguments lie beside its code.

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::time::Duration;

use clap::builder::RangedU64ValueParser;
use clap::parser::ValueSource;
use clap::{Args, CommandFactory, FromArgMatches, Parser, Subcommand};
use dynamo_core::request::QuorumWish;

use crate::output::Format;
use crate::stop::EXIT_CODES;
use crate::{bench, import, local, object, ring, verify, workload};

/// The command-line client of DynamoKV.
#[derive(Parser, Debug)]
#[command(name = "dynamoctl", version, about, after_help = EXIT_CODES, disable_help_subcommand = true)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    /// How results are printed.
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub output: Format,
    #[command(subcommand)]
    pub command: Command,
}

/// The name of the file under which kubectl takes the program for its own: `kubectl dynamo` runs it.
const PLUGIN: &str = "kubectl-dynamo";

/// An environment variable that is empty counts as one that is not set. An empty value on the command line is refused.
fn without_empty_variables(command: clap::Command) -> clap::Command {
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let without = |argument: clap::Arg| match argument.get_env().is_some_and(is_empty) {
        true => argument.env(None::<&'static str>),
        false => argument,
    };
    command.mut_args(without).mut_subcommands(without_empty_variables)
}

impl Arguments {
    /// What was asked, in the words of a command line; help and errors call the program as it was called.
    pub fn parsed(words: Vec<OsString>) -> Result<Self, clap::Error> {
        let mut command = without_empty_variables(Self::command());
        if words.first().and_then(|program| Path::new(program).file_stem()).is_some_and(|program| program == PLUGIN) {
            command = command.bin_name("kubectl dynamo");
        }
        let matches = command.try_get_matches_from_mut(words)?;
        let mut arguments = Self::from_arg_matches(&matches).map_err(|error| error.format(&mut command))?;
        if matches.value_source("endpoints") == Some(ValueSource::EnvVariable) {
            arguments.connection.unset_if_empty();
        }
        Ok(arguments)
    }
}

/// How the cluster is reached.
#[derive(Args, Debug, Clone)]
pub struct Connection {
    /// Client addresses of some nodes, host:port, separated by commas. Default: the cluster of `local up`, else 127.0.0.1:7400.
    #[arg(short, long = "endpoint", global = true, env = "DYNAMO_ENDPOINT", value_delimiter = ',', value_name = "HOST:PORT")]
    pub endpoints: Vec<String>,
    /// Send everything to the endpoints and nothing straight to replicas (for example through a forwarded port).
    #[arg(long, global = true)]
    pub through_endpoint: bool,
    /// Deadline of each request, in milliseconds. A node waits for twelve times its `request_timeout_ms` at most (60000 by default), whatever
    /// is given here.
    #[arg(long, global = true, default_value_t = 5000, value_name = "MS")]
    #[arg(value_parser = clap::value_parser!(u64).range(1..=3_600_000))]
    pub timeout_ms: u64,
}

impl Connection {
    /// A variable that names nothing, as `,`, counts as none.
    fn unset_if_empty(&mut self) {
        if self.endpoints.iter().all(String::is_empty) {
            self.endpoints.clear();
        }
    }

    /// Deadline of each request.
    pub fn timeout(&self) -> Duration {
        Duration::from_millis(self.timeout_ms)
    }
}

/// The longest time that is waited for: a year. Any clock reaches its end.
const SECONDS_MAX: u64 = 31_536_000;

/// Whole seconds, for any option that takes a time.
pub fn seconds() -> RangedU64ValueParser<u64> {
    clap::value_parser!(u64).range(..=SECONDS_MAX)
}

/// How many replicas are asked.
#[derive(Args, Debug, Clone, Default)]
pub struct Asked {
    /// Replicas that are asked, of the N that the bucket has; the others get a write when replicas are compared.
    #[arg(long)]
    pub n: Option<u8>,
}

/// How many replicas must answer; what is not given is the bucket's setting, then the cluster's.
#[derive(Args, Debug, Clone, Default)]
pub struct ReadQuorum {
    /// Replicas that must answer.
    #[arg(long)]
    pub r: Option<u8>,
    /// Home replicas that must answer.
    #[arg(long)]
    pub pr: Option<u8>,
}

/// How many replicas must acknowledge; what is not given is the bucket's setting, then the cluster's.
#[derive(Args, Debug, Clone, Default)]
pub struct WriteQuorum {
    /// Replicas that must acknowledge.
    #[arg(long)]
    pub w: Option<u8>,
    /// Acknowledgements that must be on stable storage, whoever gives them.
    #[arg(long)]
    pub dw: Option<u8>,
    /// Home replicas that must acknowledge.
    #[arg(long)]
    pub pw: Option<u8>,
}

impl From<&ReadQuorum> for QuorumWish {
    fn from(quorum: &ReadQuorum) -> Self {
        QuorumWish { r: quorum.r, pr: quorum.pr, ..QuorumWish::default() }
    }
}

impl From<&WriteQuorum> for QuorumWish {
    fn from(quorum: &WriteQuorum) -> Self {
        QuorumWish { w: quorum.w, dw: quorum.dw, pw: quorum.pw, ..QuorumWish::default() }
    }
}

#[derive(Subcommand, Debug)]
pub enum Command {
    /// Read a key: its value, or all of them if writes were concurrent, and the context that covers them.
    Get(object::Get),
    /// Write a key.
    Put(object::Put),
    /// Delete a key.
    Delete(object::Delete),
    /// Write every record of a file.
    Import(import::Import),
    /// Read every record of a file back, and compare.
    Verify(verify::Verify),
    /// Show the cluster's health: who answers, hints, transfers. Informational: exits 0 if any node answers, even when degraded. For scripts
    /// use `healthy` in `-o json`, or `ring verify`.
    Status,
    /// Show, check or make the ring.
    Ring(ring::RingCommand),
    /// Run a cluster of processes on this machine.
    Local(local::Local),
    /// Measure a cluster with one of the YCSB workloads.
    Bench(Box<bench::Bench>),
    /// Write, remember what was acknowledged, and prove at the end that nothing of it was lost.
    Workload(workload::Workload),
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_arguments_are_consistent() {
        Arguments::command().debug_assert();
    }

    #[test]
    fn the_help_says_what_each_exit_code_means() {
        let help = Arguments::command().render_long_help().to_string();
        for told in [EXIT_CODES, "3  a write may or may not have happened", "a document without siblings"] {
            assert!(help.contains(told), "{help}");
        }
    }

    /// The examples at the end of the help of `command` and of its own commands.
    fn examples(command: &clap::Command) -> Vec<String> {
        let told = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        let own = told.lines().filter_map(|line| line.strip_prefix("  dynamoctl ")).map(str::to_owned);
        own.chain(command.get_subcommands().flat_map(examples)).collect()
    }

    #[test]
    fn the_examples_in_the_help_can_be_given() {
        let examples = examples(&Arguments::command());
        assert!(examples.len() > 10, "{examples:?}");
        for example in examples {
            let words = example.split_whitespace().take_while(|word| !["#", ">"].contains(word));
            let parsed = Arguments::try_parse_from(std::iter::once("dynamoctl").chain(words));
            assert!(parsed.is_ok(), "{example}: {parsed:?}");
        }
    }

    #[test]
    fn the_help_speaks_of_what_the_command_takes() {
        let help = |path: &[&str]| {
            let mut command = Arguments::command();
            command.build();
            let found = path.iter().try_fold(&mut command, |command, name| command.find_subcommand_mut(name));
            found.unwrap().render_long_help().to_string()
        };
        for command in [["bench", "load"], ["bench", "scale"], ["bench", "compare"]] {
            assert!(!help(&command).contains("--rate"), "{command:?}");
        }
        assert!(help(&["bench", "run"]).contains("--rate"));
        for command in ["pause", "abort"] {
            assert!(!help(&["ring", command]).contains("`ring resume` goes on"), "{command}");
        }
        assert!(help(&["get"]).contains("twelve times its `request_timeout_ms`"));
    }

    #[test]
    fn a_time_that_no_clock_reaches_is_refused() {
        let commands = [
            "import file --give-up-after",
            "ring verify --wait",
            "ring commit --add all --wait",
            "ring resume --wait",
            "ring init --expect-nodes 3 --wait",
            "ring remove --lost abababab-abab-abab-abab-abababababab --wait",
            "workload --seconds",
            "workload --seconds 1 --settle",
            "bench --seconds",
            "bench --warm-up",
            "bench scale --warm-up",
            "bench compare --warm-up",
            "get k --timeout-ms",
        ];
        for command in commands {
            let parsed = |value: &str| {
                let words = std::iter::once("dynamoctl").chain(command.split(' ')).chain([value]);
                Arguments::try_parse_from(words).map(drop).map_err(|error| error.exit_code())
            };
            assert_eq!((parsed("1"), parsed("18446744073709551615")), (Ok(()), Err(2)), "{command}");
        }
    }

    #[test]
    fn numbers_of_nothing_and_without_end_are_refused() {
        let cases = [
            "bench --rate 0",
            "bench --rate NaN",
            "bench --rate 1e300",
            "bench --rate 1e-300",
            "bench --records 0",
            "bench --clients 0",
            "bench --timeline=0",
            "bench --seconds 0",
            "get k --timeout-ms 0",
            "import file --concurrency 0",
            "workload --seconds 1 --clients 0",
            "workload --seconds 1 --keys 0",
        ];
        for case in cases {
            let words = std::iter::once("dynamoctl").chain(case.split(' '));
            let parsed = Arguments::try_parse_from(words).map(drop).map_err(|error| error.exit_code());
            assert_eq!(parsed, Err(2), "{case}");
        }
    }

    #[test]
    fn kubectl_runs_it_as_a_command_of_its_own() {
        let usage = |program: &str, words: &[&str]| {
            let words = [&[program], words].concat().into_iter().map(OsString::from).collect();
            Arguments::parsed(words).map(drop).unwrap_err().to_string()
        };
        for (program, called) in [("/usr/local/bin/kubectl-dynamo", "kubectl dynamo"), ("/usr/local/bin/dynamoctl", "dynamoctl")]
        {
            for (words, expected) in [(&["get", "--help"], " get [OPTIONS] <KEY>"), (&["ring", "plane"], " ring [OPTIONS]")] {
                let told = usage(program, words);
                assert!(told.contains(&format!("Usage: {called}{expected}")), "{told}");
            }
        }
        let words = ["kubectl-dynamo", "status"].map(OsString::from).to_vec();
        assert!(matches!(Arguments::parsed(words).unwrap().command, Command::Status));
    }

    #[test]
    fn what_makes_no_sense_is_refused() {
        let cases: [&[&str]; 6] = [
            &["delete", "k", "--context", "x", "--current"],
            &["delete", "k", "--current", "--request-id", "abababab-abab-abab-abab-abababababab"],
            &["get", "k", "--timeout-ms", "0"],
            &["bench", "--workload", "z"],
            &["workload"],
            &["put", "k"],
        ];
        for arguments in cases {
            let parsed = Arguments::try_parse_from([&["dynamoctl"], arguments].concat());
            assert_eq!(parsed.map(|_| ()).map_err(|error| error.exit_code()), Err(2), "{arguments:?}");
        }
    }
}
