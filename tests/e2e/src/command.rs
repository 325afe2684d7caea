//! A program run to its end within a deadline, with its output; and polling, the only way of waiting here.
//!
//! A command that ends late is killed and is a failure that says so: no step of the scenario can hang.

use std::io::{Read, Write};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::{self, JoinHandle};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, bail};

/// How often a condition is looked at. Short against every deadline, long against the cost of one `kubectl get`.
const POLL_INTERVAL: Duration = Duration::from_millis(250);

/// What a program that ended said.
pub struct Output {
    /// How it ended.
    pub status: ExitStatus,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
}

impl Output {
    /// Both streams, for messages.
    pub fn text(&self) -> String {
        format!("{}{}", self.stdout, self.stderr).trim().to_owned()
    }
}

/// Runs `argv` until it ends, `stdin` given to it. An exit code other than 0 is in the answer, not an error.
pub fn run(argv: &[String], stdin: &str, limit: Duration) -> Result<Output> {
    let mut child = spawn(argv, Stdio::piped(), Stdio::piped())?;
    let stdout = drain(child.stdout.take());
    let stderr = drain(child.stderr.take());
    if let Some(mut pipe) = child.stdin.take() {
        // A program that does not read its input closes the pipe; its exit code tells more than our error would.
        let _ = pipe.write_all(stdin.as_bytes());
    }
    let status = await_exit(&mut child, limit).with_context(|| argv.join(" "))?;
    let text = |reader: JoinHandle<String>| reader.join().map_err(|_| anyhow!("reading the output of {}", argv.join(" ")));
    Ok(Output { status, stdout: text(stdout)?, stderr: text(stderr)? })
}

/// Like [`run`], and an exit code other than 0 is an error that carries what the program said. Gives its standard output.
pub fn run_ok(argv: &[String], stdin: &str, limit: Duration) -> Result<String> {
    let output = run(argv, stdin, limit)?;
    if !output.status.success() {
        bail!("{} ({}):\n{}", argv.join(" "), output.status, output.text());
    }
    Ok(output.stdout)
}

/// Starts `argv` and leaves it running.
pub fn spawn(argv: &[String], stdout: Stdio, stderr: Stdio) -> Result<Child> {
    let (program, arguments) = argv.split_first().context("an empty command")?;
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
    command.spawn().with_context(|| format!("starting {program}"))
}

/// Waits for `child` to end; kills it when `limit` has passed.
pub fn await_exit(child: &mut Child, limit: Duration) -> Result<ExitStatus> {
    let deadline = Instant::now() + limit;
    loop {
        if let Some(status) = child.try_wait()? {
            return Ok(status);
        }
        if Instant::now() >= deadline {
            child.kill()?;
            child.wait()?;
            bail!("had not ended after {} s and was killed", limit.as_secs());
        }
        thread::sleep(Duration::from_millis(10));
    }
}

/// Polls `look` until it has an answer. `look` says what is still missing; that is the error when `limit` has passed.
pub fn until<T>(what: &str, limit: Duration, mut look: impl FnMut() -> Result<Result<T, String>>) -> Result<T> {
    let deadline = Instant::now() + limit;
    loop {
        match look()? {
            Ok(answer) => return Ok(answer),
            Err(missing) if Instant::now() >= deadline => {
                bail!("waited {} s for {what}; at the end: {missing}", limit.as_secs());
            }
            Err(_) => thread::sleep(POLL_INTERVAL),
        }
    }
}

fn drain(pipe: Option<impl Read + Send + 'static>) -> JoinHandle<String> {
    thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            // What was read before an error is still worth showing.
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn argv(words: &[&str]) -> Vec<String> {
        words.iter().map(|&word| word.to_owned()).collect()
    }

    #[test]
    fn a_failing_program_is_an_error_that_shows_what_it_said() {
        let error = run_ok(&argv(&["sh", "-c", "echo why >&2; exit 3"]), "", Duration::from_secs(10)).unwrap_err();
        assert!(error.to_string().contains("exit status: 3"), "{error}");
        assert!(error.to_string().contains("why"), "{error}");
    }

    #[test]
    fn a_program_gets_its_input_and_gives_its_output() {
        assert_eq!(run_ok(&argv(&["cat"]), "hello", Duration::from_secs(10)).unwrap(), "hello");
    }

    #[test]
    fn a_program_that_hangs_is_killed_at_its_deadline() {
        let error = run(&argv(&["sleep", "60"]), "", Duration::from_millis(20)).map(|_| ()).unwrap_err();
        assert!(format!("{error:#}").contains("was killed"), "{error:#}");
    }

    #[test]
    fn a_condition_that_never_holds_ends_with_what_was_missing() {
        let error = until::<()>("rain", Duration::ZERO, || Ok(Err("a cloud".to_owned()))).unwrap_err();
        assert_eq!(error.to_string(), "waited 0 s for rain; at the end: a cloud");
    }
}
