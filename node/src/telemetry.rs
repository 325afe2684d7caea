//! Log lines, on standard error: for people or for machines.

use std::io::IsTerminal as _;

use tracing_subscriber::EnvFilter;
use tracing_subscriber::filter::LevelFilter;

use crate::config::{LogFormat, ValidConfig};

/// Starts to log as configured. `RUST_LOG` refines it for a hunt. Only the first call in a process has an effect.
pub fn start(config: &ValidConfig) {
    let filter = EnvFilter::builder().with_default_directive(LevelFilter::from_level(config.log_level).into()).from_env_lossy();
    let colours = std::io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr).with_ansi(colours);
    let _ = match config.log_format {
        LogFormat::Text => lines.try_init(),
        LogFormat::Json => lines.json().flatten_event(true).try_init(),
    };
}
