//! A conversation on a pseudo-terminal: what a person would type, and what has to come back.
//!
//! `script` (in every Debian) makes the terminal and gives it to the command as its controlling one, so that a
//! Ctrl-C which does not reach the guest would end the command itself.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

/// One step: wait for this text, then type that.
#[derive(Clone, Copy, Debug)]
pub struct Step {
    /// What has to appear, after what the step before waited for.
    pub expect: &'static str,
    /// What is typed then.
    pub send: &'static str,
}

/// Ends the process when it goes out of sight.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Runs a shell command on a terminal, goes through the steps, and waits for its end. Returns all that was shown.
pub fn converse(command: &str, steps: &[Step], limit: Duration) -> Result<String> {
    let deadline = Instant::now() + limit;
    let mut running = Running(
        Command::new("script")
            .args(["--quiet", "--return", "--command", command, "/dev/null"])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .context("script(1) cannot be started: install bsdutils")?,
    );
    let mut input = running.0.stdin.take().context("no input")?;
    let mut output = running.0.stdout.take().context("no output")?;
    let (sender, receiver) = mpsc::channel();
    thread::spawn(move || {
        let mut buffer = [0; 4096];
        while let Ok(length @ 1..) = output.read(&mut buffer) {
            let _ = sender.send(buffer.get(..length).unwrap_or_default().to_vec());
        }
    });
    let mut shown = String::new();
    let mut read = 0;
    for step in steps {
        while !shown
            .get(read..)
            .is_some_and(|rest| rest.contains(step.expect))
        {
            match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
                Ok(bytes) => shown.push_str(&String::from_utf8_lossy(&bytes)),
                Err(RecvTimeoutError::Timeout) => {
                    bail!("time was up before '{}':\n{shown}", step.expect)
                }
                Err(RecvTimeoutError::Disconnected) => {
                    bail!("the end came before '{}':\n{shown}", step.expect)
                }
            }
        }
        let rest = shown.get(read..).unwrap_or_default();
        read += rest.find(step.expect).unwrap_or(0) + step.expect.len();
        input.write_all(step.send.as_bytes())?;
        input.flush()?;
    }
    loop {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(bytes) => shown.push_str(&String::from_utf8_lossy(&bytes)),
            Err(RecvTimeoutError::Timeout) => bail!("time was up before the end:\n{shown}"),
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(input);
    let status = running.0.wait()?;
    if !status.success() {
        bail!("ended with {status}:\n{shown}");
    }
    Ok(shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIMIT: Duration = Duration::from_secs(20);

    #[test]
    fn what_is_typed_arrives_and_the_status_is_returned() {
        let steps = [
            Step {
                expect: "name?",
                send: "nidus\n",
            },
            Step {
                expect: "hello nidus",
                send: "",
            },
        ];
        converse(
            "echo 'name?'; read -r name; echo \"hello $name\"",
            &steps,
            LIMIT,
        )
        .expect("talks");
        assert!(converse("exit 3", &[], LIMIT).is_err());
    }

    #[test]
    fn control_c_is_a_signal_unless_the_command_takes_the_terminal_over() {
        let steps = [Step {
            expect: "ready",
            send: "\u{3}",
        }];
        assert!(converse("echo ready; sleep 60; echo slept", &steps, LIMIT).is_err());
        let steps = [
            Step {
                expect: "ready",
                send: "\u{3}",
            },
            Step {
                expect: "got 003",
                send: "",
            },
        ];
        let raw = "stty raw -echo; echo ready; echo got $(dd bs=1 count=1 2>/dev/null | od -An -b)";
        converse(raw, &steps, LIMIT).expect("a byte like any other");
    }
}
