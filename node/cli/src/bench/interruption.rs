//! Ctrl-C, or the wish of whoever started the program, while something is not as it was found: that comes first.

use tokio::signal::unix::{SignalKind, signal};

use crate::stop::Stop;

/// Until the program is asked to end. From then on it does not end by itself when it is asked.
pub async fn interruption() -> Stop {
    let failed = |error: std::io::Error| Stop::Failed(format!("signals: {error}"));
    let (mut interrupt, mut terminate) = match (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) {
        (Ok(interrupt), Ok(terminate)) => (interrupt, terminate),
        (Err(error), _) | (_, Err(error)) => return failed(error),
    };
    tokio::select! {
        _ = interrupt.recv() => {}
        _ = terminate.recv() => {}
    }
    Stop::Failed("interrupted".to_owned())
}
