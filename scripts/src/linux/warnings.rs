//! What a kernel logs at level warning and above on Nidus, held against the same boot on skiboot.
//!
//! The surprise: an exception that no line needs any more is a failure too, so that the list cannot outlive its reasons.

use std::collections::BTreeSet;

/// Lines that may come on Nidus only: `TEXT | REASON`.
const EXCEPTIONS: &str = include_str!("../../../tests/linux/opal-dmesg-exceptions.txt");

/// Warnings that a timer came a second late or more: another program had the processor of the machine below.
const LATE: &[&str] = &["sched: DL replenish lagged too much"];

/// Compares the warnings on two consoles.
pub(super) fn compare(nidus: &[String], skiboot: &[String]) -> Result<(), String> {
    judge(nidus, skiboot, &exceptions(EXCEPTIONS)?)
}

/// Returns the texts of a list of exceptions; each has to have a reason.
fn exceptions(text: &str) -> Result<Vec<&str>, String> {
    text.lines()
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(|line| match line.split_once(" | ") {
            Some((text, reason)) if !reason.trim().is_empty() => Ok(text.trim()),
            _ => Err(format!("an exception without a reason: {line}")),
        })
        .collect()
}

fn judge(nidus: &[String], skiboot: &[String], exceptions: &[&str]) -> Result<(), String> {
    let reference = warnings(skiboot).map_err(|problem| format!("skiboot: {problem}"))?;
    let ours = warnings(nidus)?;
    let more: BTreeSet<&str> = ours.difference(&reference).copied().collect();
    if let Some(line) = more.iter().find(|line| !exceptions.contains(line)) {
        return Err(format!("not with skiboot: {line}"));
    }
    match exceptions.iter().find(|line| !more.contains(*line)) {
        Some(line) => Err(format!("an exception that is not needed: {line}")),
        None => Ok(()),
    }
}

/// Returns the different warnings on a console, which has to have as many as its last line says.
fn warnings(lines: &[String]) -> Result<BTreeSet<&str>, String> {
    let after = |mark: &str| -> Vec<&str> {
        lines
            .iter()
            .filter_map(|line| line.split_once(mark))
            .map(|(_, rest)| rest.trim_end())
            .collect()
    };
    let found = after("NIDUS-L1-WARNING ");
    let count = after("NIDUS-L1-WARNINGS count=");
    if count == [found.len().to_string()] {
        let is_late = |text: &&str| LATE.iter().any(|late| text.contains(late));
        Ok(found.into_iter().filter(|text| !is_late(text)).collect())
    } else {
        Err(format!(
            "{} warnings on the console, counted {count:?}",
            found.len()
        ))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn console(warnings: &[&str]) -> Vec<String> {
        let mut lines: Vec<String> = warnings
            .iter()
            .map(|text| format!("NIDUS-L1-WARNING {text}\r"))
            .collect();
        lines.push(format!("NIDUS-L1-WARNINGS count={}", warnings.len()));
        lines
    }

    #[test]
    fn only_what_skiboot_does_not_show_and_the_list_does_not_have_is_a_problem() {
        let skiboot = console(&["both", "theirs"]);
        assert_eq!(judge(&console(&["both"]), &skiboot, &[]), Ok(()));
        let ours = console(&["both", "ours"]);
        assert_eq!(judge(&ours, &skiboot, &["ours"]), Ok(()));
        assert!(judge(&ours, &skiboot, &[]).is_err());
        assert!(judge(&console(&["both"]), &skiboot, &["ours"]).is_err());
    }

    #[test]
    fn what_a_busy_machine_provokes_is_no_warning() {
        let ours = console(&["sched: DL replenish lagged too much", "both"]);
        assert_eq!(judge(&ours, &console(&["both"]), &[]), Ok(()));
    }

    #[test]
    fn a_console_without_the_count_or_with_another_is_a_problem() {
        let good = console(&["a"]);
        assert!(judge(&good[..1], &good, &[]).is_err());
        assert!(judge(&good, &good[1..], &[]).is_err());
    }

    #[test]
    fn an_exception_has_a_reason() {
        assert_eq!(exceptions("# x\n\na b | why\n"), Ok(vec!["a b"]));
        assert!(exceptions("a b").is_err() && exceptions("a b | ").is_err());
        assert!(exceptions(EXCEPTIONS).is_ok());
    }
}
