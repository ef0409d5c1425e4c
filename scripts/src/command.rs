//! Child processes whose failure is told in one line.

use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, bail};

/// Runs a command to its end and returns its standard output; an error carries the last lines of its standard error.
pub fn output(command: &mut Command) -> Result<Vec<u8>> {
    let name = command.get_program().to_string_lossy().into_owned();
    let output = command
        .stdin(Stdio::null())
        .output()
        .with_context(|| format!("{name} cannot be started"))?;
    if !output.status.success() {
        let text = String::from_utf8_lossy(&output.stderr);
        let mut last: Vec<_> = text
            .lines()
            .map(str::trim)
            .filter(|line| !line.is_empty())
            .rev()
            .take(3)
            .collect();
        last.reverse();
        bail!("{name} failed ({}): {}", output.status, last.join("; "));
    }
    Ok(output.stdout)
}

/// Runs a command that shows its own output.
pub fn shown(command: &mut Command) -> Result<()> {
    let name = command.get_program().to_string_lossy().into_owned();
    let status = command
        .status()
        .with_context(|| format!("{name} cannot be started"))?;
    if !status.success() {
        bail!("{name} failed ({status})");
    }
    Ok(())
}

/// Says whether a program of this name is on the PATH.
pub fn exists(name: &str) -> bool {
    find(name).is_some()
}

/// Returns the place of a program on the PATH.
pub fn find(name: &str) -> Option<std::path::PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path)
        .map(|directory| directory.join(name))
        .find(|candidate| candidate.is_file())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failure_carries_status_and_message() {
        let error = output(Command::new("sh").args(["-c", "echo no such thing >&2; exit 3"]))
            .expect_err("fails");
        let text = format!("{error:#}");
        assert!(
            text.contains("no such thing") && text.contains('3'),
            "{text}"
        );
    }

    #[test]
    fn absent_program_is_named() {
        let error = output(&mut Command::new("nidus-no-such-program")).expect_err("fails");
        assert!(format!("{error:#}").contains("nidus-no-such-program cannot be started"));
        assert!(!exists("nidus-no-such-program"));
        assert!(exists("sh"));
    }
}
