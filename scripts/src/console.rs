//! A conversation on a pseudo-terminal: what a person would type, and what has to come back.
//!
//! `script` (in every Debian) makes the terminal and gives it to the command as its controlling one, so that a
//! Ctrl-C which does not reach the guest would end the command itself.

use std::io::{Read as _, Write as _};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::milestone::Watch;
use crate::runner::LINGER;

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

/// What came of a conversation.
#[derive(Debug)]
pub struct Talk {
    /// All that was shown.
    pub shown: String,
    /// None if every step was made and the command ended well.
    pub problem: Option<String>,
    /// Whether it was the time that was missing.
    pub timed_out: bool,
}

/// What has been shown so far, and what is forbidden in it.
struct Screen {
    shown: String,
    /// How much of it has been held against the patterns: whole lines.
    looked_at: usize,
    watch: Watch,
}

impl Screen {
    fn show(&mut self, bytes: &[u8]) {
        self.shown.push_str(&String::from_utf8_lossy(bytes));
        while let Some((line, _)) = self
            .shown
            .get(self.looked_at..)
            .and_then(|rest| rest.split_once('\n'))
        {
            let length = line.len() + 1;
            self.watch.line(Duration::ZERO, line);
            self.looked_at += length;
        }
    }

    /// The line after the last end of a line counts too.
    fn end(&mut self) {
        let rest = self.shown.get(self.looked_at..).unwrap_or_default();
        self.watch.line(Duration::ZERO, rest);
        self.looked_at = self.shown.len();
    }

    fn talk(mut self, problem: Option<String>, timed_out: bool) -> Talk {
        self.end();
        let forbidden = self.watch.forbidden_line();
        let forbidden = forbidden.map(|line| format!("forbidden line: {}", line.trim_end()));
        Talk {
            timed_out: timed_out && forbidden.is_none(),
            problem: forbidden.or(problem),
            shown: self.shown,
        }
    }
}

/// Runs a shell command on a terminal, goes through the steps, and waits for its end. No line may have one of the forbidden
/// patterns, but what a step waits for.
///
/// # Errors
/// The terminal cannot be had or used.
pub fn converse(
    command: &str,
    steps: &[Step],
    forbidden: Vec<String>,
    limit: Duration,
) -> Result<Talk> {
    let mut deadline = Instant::now() + limit;
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
    // A crash that was asked for says what no other console may.
    let asked_for: Vec<&str> = steps
        .iter()
        .map(|step| step.expect)
        .filter(|text| forbidden.iter().any(|pattern| text.contains(pattern)))
        .collect();
    let watch = Watch::new(vec![], forbidden.clone()).quoting(&asked_for);
    let mut screen = Screen {
        shown: String::new(),
        looked_at: 0,
        watch,
    };
    let mut next = |screen: &mut Screen| -> Result<(), RecvTimeoutError> {
        let bytes = receiver.recv_timeout(deadline.saturating_duration_since(Instant::now()))?;
        let was_clean = screen.watch.forbidden_line().is_none();
        screen.show(&bytes);
        if was_clean && screen.watch.forbidden_line().is_some() {
            deadline = deadline.min(Instant::now() + LINGER);
        }
        Ok(())
    };
    let mut read = 0;
    for step in steps {
        let end = loop {
            let rest = screen.shown.get(read..).unwrap_or_default();
            if let Some(at) = rest.find(step.expect) {
                break read + at + step.expect.len();
            }
            match next(&mut screen) {
                Ok(()) => {}
                Err(RecvTimeoutError::Timeout) => {
                    let problem = format!("time was up before '{}'", step.expect);
                    return Ok(screen.talk(Some(problem), true));
                }
                Err(RecvTimeoutError::Disconnected) => {
                    let problem = format!("the end came before '{}'", step.expect);
                    return Ok(screen.talk(Some(problem), false));
                }
            }
        };
        read = end;
        input.write_all(step.send.as_bytes())?;
        input.flush()?;
    }
    loop {
        match next(&mut screen) {
            Ok(()) => {}
            Err(RecvTimeoutError::Timeout) => {
                return Ok(screen.talk(Some("time was up before the end".to_owned()), true));
            }
            Err(RecvTimeoutError::Disconnected) => break,
        }
    }
    drop(input);
    let status = running.0.wait()?;
    let problem = (!status.success()).then(|| format!("ended with {status}"));
    Ok(screen.talk(problem, false))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Nothing here waits so long, however busy the machine.
    const LIMIT: Duration = Duration::from_secs(300);

    fn step(expect: &'static str, send: &'static str) -> Step {
        Step { expect, send }
    }

    fn problem(command: &str, steps: &[Step]) -> Option<String> {
        let forbidden = vec!["BUG:".to_owned(), "panic".to_owned()];
        let talk = converse(command, steps, forbidden, LIMIT).expect("a terminal");
        assert!(!talk.timed_out, "{}", talk.shown);
        talk.problem
    }

    #[test]
    fn what_is_typed_arrives_and_the_status_is_returned() {
        let steps = [step("name?", "nidus\n"), step("hello nidus", "")];
        let talk = "echo 'name?'; read -r name; echo \"hello $name\"";
        assert_eq!(problem(talk, &steps), None);
        assert!(problem("exit 3", &[]).is_some());
        let early = problem("echo only", &[step("more", "")]);
        assert_eq!(early.as_deref(), Some("the end came before 'more'"));
    }

    #[test]
    fn control_c_is_a_signal_unless_the_command_takes_the_terminal_over() {
        // A shell may lose a Ctrl-C that comes while it starts a command: `cat` is known to run when it has answered.
        let steps = [step("ready\r\n", "on\n"), step("on\r\non\r\n", "\u{3}")];
        assert!(problem("echo ready; exec cat", &steps).is_some());
        let ready = step("ready", "\u{3}");
        let raw = "stty raw -echo; echo ready; echo got $(dd bs=1 count=1 2>/dev/null | od -An -b)";
        assert_eq!(problem(raw, &[ready, step("got 003", "")]), None);
    }

    #[test]
    fn a_forbidden_line_fails_unless_a_step_waits_for_it() {
        let bug = "echo one; echo kernel BUG: at two; echo three";
        let steps = [step("one", ""), step("three", "")];
        let found = problem(bug, &steps);
        assert_eq!(found.as_deref(), Some("forbidden line: kernel BUG: at two"));
        let last = problem("printf 'one panic'", &[]);
        assert_eq!(last.as_deref(), Some("forbidden line: one panic"));
        let crash = "echo a panic as wanted; echo end of a panic as wanted";
        assert_eq!(problem(crash, &[step("panic as wanted", "")]), None);
        let other = "echo a panic as wanted; echo another panic";
        let found = problem(other, &[step("panic as wanted", "")]);
        assert_eq!(found.as_deref(), Some("forbidden line: another panic"));
    }

    #[test]
    fn a_command_that_hangs_after_a_forbidden_line_is_not_a_matter_of_time() {
        let hang = "echo a BUG: here; exec sleep 1000";
        let found = problem(hang, &[step("never", "")]);
        assert_eq!(found.as_deref(), Some("forbidden line: a BUG: here"));
    }
}
