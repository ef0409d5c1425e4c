//! A machine that is watched through QEMU's monitor, and the tree that its firmware hands to a kernel.
//!
//! The kernel is one instruction, a branch to itself, so whatever firmware starts it needs no help to hand the tree over,
//! and the registers and the memory are as it left them. The surprise: there is no program of ours in this at all.

use std::fs::{self, File};
use std::io::{Read as _, Write as _};
use std::path::Path;
use std::process::{Child, ChildStdin, Command, Stdio};
use std::sync::mpsc::{self, Receiver};
use std::thread;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};

use crate::machine::{Clock, Console, Machine};
use crate::tools::target;

/// Where QEMU loads a kernel, and where firmware enters one that is no ELF file.
const KERNEL: u64 = 0x2000_0000;
/// `b .`, big-endian, as every firmware enters a kernel. Twice, since nothing of four bytes is worth loading.
const SPIN: [u8; 8] = [0x48, 0, 0, 0, 0x48, 0, 0, 0];
/// More than a tree has.
const LARGEST: usize = 0x10_0000;
/// Generous: skiboot with many threads takes seconds, on a machine that others use more.
const LIMIT: Duration = Duration::from_secs(180);
const PROMPT: &str = "\n(qemu) ";

struct Monitor {
    child: Child,
    input: ChildStdin,
    output: Receiver<Vec<u8>>,
    deadline: Instant,
}

impl Drop for Monitor {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

impl Monitor {
    fn start(qemu: &Path, machine: &Machine, log: &Path) -> Result<Self> {
        let mut child = Command::new(qemu)
            .args(machine.arguments(Console::Monitored))
            .args(["-serial", &format!("file:{}", log.display())])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(File::create(log.with_extension("stderr"))?)
            .spawn()
            .with_context(|| format!("{} cannot be started", qemu.display()))?;
        let input = child.stdin.take().context("a pipe to the monitor")?;
        let mut pipe = child.stdout.take().context("a pipe from the monitor")?;
        let (sender, output) = mpsc::channel();
        thread::spawn(move || {
            let mut buffer = [0; 4096];
            while let Ok(length @ 1..) = pipe.read(&mut buffer) {
                let part = buffer.get(..length).unwrap_or_default().to_vec();
                if sender.send(part).is_err() {
                    break;
                }
            }
        });
        Ok(Self {
            child,
            input,
            output,
            deadline: Instant::now() + LIMIT,
        })
    }

    /// What the monitor says until it waits for the next command.
    fn answer(&self) -> Result<String> {
        let mut text = Vec::new();
        while !text.ends_with(PROMPT.as_bytes()) {
            let left = self.deadline.saturating_duration_since(Instant::now());
            let part = self.output.recv_timeout(left);
            text.extend(part.context("QEMU's monitor does not answer")?);
        }
        Ok(String::from_utf8_lossy(&text).into_owned())
    }

    fn command(&mut self, line: &str) -> Result<String> {
        writeln!(self.input, "{line}")?;
        self.answer()
    }
}

/// Starts a machine with the kernel that does nothing, and returns the flattened tree that the kernel was given. Files and
/// logs have this name.
pub(super) fn tree_of(qemu: &Path, machine: &Machine, name: &str) -> Result<Vec<u8>> {
    let place = target().join("trees");
    let logs = target().join("logs");
    fs::create_dir_all(&place)?;
    fs::create_dir_all(&logs)?;
    let kernel = place.join("spin");
    crate::image::replace(&kernel, &SPIN)?;
    let machine = Machine {
        kernel: Some(kernel),
        clock: Clock::Instructions,
        ..machine.clone()
    };
    let log = logs.join(format!("{name}.log"));
    let mut monitor = Monitor::start(qemu, &machine, &log)?;
    monitor.answer()?;
    let address = loop {
        if let Some(address) = argument(&monitor.command("info registers -a")?) {
            break address;
        }
        if Instant::now() > monitor.deadline {
            bail!("no kernel was started; log: {}", log.display());
        }
        thread::sleep(Duration::from_millis(20));
    };
    let file = place.join(format!("{name}.dtb"));
    let _ = fs::remove_file(&file);
    monitor.command("stop")?;
    // The name is quoted, else its slashes divide the length.
    monitor.command(&format!(
        "pmemsave {address:#x} {LARGEST:#x} \"{}\"",
        file.display()
    ))?;
    let mut blob = fs::read(&file).with_context(|| format!("no tree at {address:#x}"))?;
    let size = blob.get(4..8).and_then(|bytes| bytes.try_into().ok());
    blob.truncate(size.map_or(0, u32::from_be_bytes) as usize);
    fs::write(&file, &blob)?;
    Ok(blob)
}

/// The first argument (r3) of the kernel, if one of the threads executes it.
fn argument(registers: &str) -> Option<u64> {
    let at_kernel = format!("NIP {KERNEL:016x} ");
    let (_, thread) = registers.split_once(&at_kernel)?;
    let (_, row) = thread.split_once("GPR00 ")?;
    u64::from_str_radix(row.split_whitespace().nth(3)?, 16).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_argument_is_that_of_the_thread_in_the_kernel() {
        let thread = |nip: u64, r3: u64| {
            format!(
                "\r\nCPU#0\r\nNIP {nip:016x}   LR 0\r\nGPR00 {:016x} {:016x} {:016x} {r3:016x}\r\nGPR04 {:016x}\r\n",
                1, 2, 3, 5
            )
        };
        let firmware = thread(0x3000_0000, 7);
        assert_eq!(argument(&firmware), None);
        let both = firmware + &thread(KERNEL, 0x3062_0000);
        assert_eq!(argument(&both), Some(0x3062_0000));
    }
}
