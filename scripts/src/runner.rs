//! Starts a machine, watches its console and ends it when it does not end by itself.

use std::fs::File;
use std::io::{BufWriter, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};

use crate::machine::{Console, Machine};
use crate::milestone::{End, Verdict, Watch};
use crate::tools::target;

/// A forbidden line is often the first of several; they are let into the log before the machine is stopped.
pub(crate) const LINGER: Duration = Duration::from_secs(5);

/// One boot and how it is judged.
#[derive(Debug)]
pub struct Boot<'a> {
    /// Names the log file.
    pub name: &'a str,
    /// What is started.
    pub machine: &'a Machine,
    /// What its console must and must not show.
    pub watch: Watch,
    /// Time limit.
    pub limit: Duration,
    /// Whether lines are shown while they come.
    pub echo: bool,
    /// What a line has to contain for something to be typed on the console, and what that is; once.
    pub typing: Option<(&'a str, &'a str)>,
}

/// What came of a boot.
#[derive(Debug)]
pub struct Report {
    /// The judgement.
    pub verdict: Verdict,
    /// The milestones and when they were reached.
    pub watch: Watch,
    /// How it ended.
    pub end: End,
    /// From start to end.
    pub elapsed: Duration,
    /// All lines of the console.
    pub lines: Vec<String>,
    /// Where the console was written to.
    pub log: PathBuf,
}

/// Ends the process when it goes out of sight.
pub(crate) struct Running(pub(crate) Child);

impl Drop for Running {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Boots a machine and waits for its end.
pub fn run(qemu: &Path, boot: Boot<'_>) -> Result<Report> {
    let Boot {
        name,
        machine,
        mut watch,
        limit,
        echo,
        typing,
    } = boot;
    let log = target().join("logs").join(format!("{name}.log"));
    std::fs::create_dir_all(target().join("logs"))?;
    let mut file = BufWriter::new(File::create(&log)?);
    let arguments = machine.arguments(Console::Captured);
    writeln!(file, "# {} {}", qemu.display(), quoted(&arguments))?;

    let start = Instant::now();
    let mut running = Running(
        Command::new(qemu)
            .args(&arguments)
            .stdin(if typing.is_some() {
                Stdio::piped()
            } else {
                Stdio::null()
            })
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .with_context(|| format!("{} cannot be started", qemu.display()))?,
    );
    // Kept open: the end of the input would end nothing, but is not what a console does.
    let mut keyboard = running.0.stdin.take().zip(typing);
    let (sender, receiver) = mpsc::channel();
    if let Some(output) = running.0.stdout.take() {
        let sender = sender.clone();
        thread::spawn(move || send_lines(output, &sender));
    }
    if let Some(output) = running.0.stderr.take() {
        thread::spawn(move || send_lines(output, &sender));
    }

    let mut lines = Vec::new();
    let mut deadline = start + limit;
    let mut end = None;
    while end.is_none() {
        match receiver.recv_timeout(deadline.saturating_duration_since(Instant::now())) {
            Ok(line) => {
                let at = start.elapsed();
                writeln!(file, "[{:8.3}] {line}", at.as_secs_f64())?;
                let was_clean = watch.forbidden_line().is_none();
                let names = watch.line(at, &line);
                if echo {
                    println!("{line}");
                    for name in names {
                        println!("--> {name} after {:.1} s", at.as_secs_f64());
                    }
                }
                if was_clean && watch.forbidden_line().is_some() {
                    deadline = deadline.min(Instant::now() + LINGER);
                }
                if let Some((console, (cue, text))) = &mut keyboard
                    && line.contains(*cue)
                {
                    console.write_all(text.as_bytes())?;
                    console.flush()?;
                    *cue = "\n";
                }
                lines.push(line);
                if watch.is_over() {
                    end = Some(End::Exited(0));
                }
            }
            Err(RecvTimeoutError::Timeout) if watch.forbidden_line().is_some() => {
                end = Some(End::Stopped);
            }
            Err(RecvTimeoutError::Timeout) => end = Some(End::TimedOut),
            // Both streams are closed, so QEMU is about to be gone.
            Err(RecvTimeoutError::Disconnected) => end = Some(ended(running.0.wait()?)),
        }
    }
    drop(running);
    let end = end.unwrap_or(End::Signalled);
    let elapsed = start.elapsed();
    let verdict = watch.verdict(end);
    writeln!(
        file,
        "# {:.3} s, {end:?}, {verdict:?}",
        elapsed.as_secs_f64()
    )?;
    file.flush()?;
    Ok(Report {
        verdict,
        watch,
        end,
        elapsed,
        lines,
        log,
    })
}

fn ended(status: ExitStatus) -> End {
    status.code().map_or(End::Signalled, End::Exited)
}

/// Sends each line without its end; consoles of partitions end lines with carriage return and line feed.
pub(crate) fn send_lines(mut output: impl std::io::Read, sender: &mpsc::Sender<String>) {
    let mut pending = Vec::new();
    let mut buffer = [0; 4096];
    loop {
        let length = match output.read(&mut buffer) {
            Ok(0) | Err(_) => break,
            Ok(length) => length,
        };
        for &byte in buffer.get(..length).unwrap_or_default() {
            match byte {
                b'\n' => {
                    let _ = sender.send(String::from_utf8_lossy(&pending).into_owned());
                    pending.clear();
                }
                b'\r' => {}
                _ => pending.push(byte),
            }
        }
    }
    if !pending.is_empty() {
        let _ = sender.send(String::from_utf8_lossy(&pending).into_owned());
    }
}

/// Writes arguments so that they can be pasted into a shell.
pub fn quoted(arguments: &[String]) -> String {
    let plain = |word: &String| {
        let safe = |c: char| c.is_ascii_alphanumeric() || "-_=,./:+".contains(c);
        if !word.is_empty() && word.chars().all(safe) {
            word.clone()
        } else {
            format!("'{}'", word.replace('\'', "'\\''"))
        }
    };
    arguments.iter().map(plain).collect::<Vec<_>>().join(" ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::milestone::in_order;

    /// Far longer than a fork takes until it has closed what is not its own.
    const BUSY: Duration = Duration::from_secs(60);

    /// Runs a shell script in the place of QEMU.
    fn boot(name: &str, script: &str, limit_ms: u64) -> Report {
        use std::os::unix::fs::PermissionsExt;
        let directory = format!("nidus-runner-{}-{name}", std::process::id());
        let directory = std::env::temp_dir().join(directory);
        std::fs::create_dir_all(&directory).expect("made");
        let program = directory.join(name);
        std::fs::write(&program, format!("#!/bin/sh\n{script}\n")).expect("written");
        std::fs::set_permissions(&program, PermissionsExt::from_mode(0o755)).expect("set");
        let watch = Watch::new(
            in_order(&[("one", "first"), ("two", "second")]),
            vec!["panicked".to_owned()],
        );
        let limit = Duration::from_millis(limit_ms);
        let machine = Machine::new("none");
        let name = format!("unit-{name}");
        let start = Instant::now();
        loop {
            let boot = Boot {
                name: &name,
                machine: &machine,
                watch: watch.clone(),
                limit,
                echo: false,
                typing: None,
            };
            match run(&program, boot) {
                Ok(report) => {
                    std::fs::remove_dir_all(&directory).expect("removed");
                    return report;
                }
                // Another test that forks at the same time holds the script open for writing for a moment.
                Err(error) if is_busy(&error) && start.elapsed() < BUSY => {
                    thread::sleep(Duration::from_millis(10));
                }
                Err(error) => panic!("{error:#}"),
            }
        }
    }

    fn is_busy(error: &anyhow::Error) -> bool {
        let kind = error
            .downcast_ref::<std::io::Error>()
            .map(std::io::Error::kind);
        kind == Some(std::io::ErrorKind::ExecutableFileBusy)
    }

    #[test]
    fn lines_are_seen_without_their_ends_and_the_last_one_without_any() {
        let report = boot("good", "printf 'first\\r\\n'; printf second", 300_000);
        assert_eq!(report.verdict, Verdict::Passed);
        assert_eq!(report.lines, ["first", "second"]);
        assert!(
            std::fs::read_to_string(report.log)
                .expect("log")
                .contains("] first\n")
        );
    }

    #[test]
    fn a_machine_that_hangs_is_ended() {
        let report = boot("hang", "echo first; exec sleep 1000", 300);
        assert!(matches!(report.verdict, Verdict::TimedOut(_)));
        assert!(report.elapsed < Duration::from_secs(900), "not by itself");
    }

    #[test]
    fn messages_and_status_of_qemu_are_reported() {
        let report = boot(
            "bad",
            "echo first; echo no such machine >&2; exit 1",
            300_000,
        );
        assert_eq!(report.end, End::Exited(1));
        assert!(report.lines.iter().any(|line| line == "no such machine"));
    }

    #[test]
    fn arguments_are_quoted_where_needed() {
        let words = [
            "-m".to_owned(),
            "a b".to_owned(),
            String::new(),
            "it's".to_owned(),
        ];
        assert_eq!(quoted(&words), "-m 'a b' '' 'it'\\''s'");
    }
}
