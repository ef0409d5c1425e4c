//! The result of a boot, for people and for programs.

use std::fmt::Write as _;

use crate::milestone::Verdict;
use crate::runner::Report;

/// Returns the table of milestones and times, and the verdict.
pub fn text(report: &Report) -> String {
    let mut out = String::new();
    let width = report
        .watch
        .milestones()
        .iter()
        .map(|(milestone, _)| milestone.name.len())
        .max()
        .unwrap_or(0)
        .max(12);
    for (milestone, reached) in report.watch.milestones() {
        let _ = match reached {
            Some(reached) => {
                writeln!(
                    out,
                    "{:width$} {:8.1} s  {}",
                    milestone.name,
                    reached.at.as_secs_f64(),
                    shortened(&reached.line)
                )
            }
            None => writeln!(out, "{:width$}        -    not reached", milestone.name),
        };
    }
    let _ = writeln!(
        out,
        "{:width$} {:8.1} s  {}",
        "end",
        report.elapsed.as_secs_f64(),
        verdict(report)
    );
    out
}

/// The part of a line that fits beside the other columns.
fn shortened(line: &str) -> String {
    const MOST: usize = 100;
    let line = line.trim();
    if line.chars().count() <= MOST {
        return line.to_owned();
    }
    line.chars().take(MOST - 3).chain("...".chars()).collect()
}

fn verdict(report: &Report) -> String {
    match &report.verdict {
        Verdict::Passed => "the machine is off, all milestones were reached".to_owned(),
        Verdict::Failed(reason) | Verdict::TimedOut(reason) => format!("FAILED: {reason}"),
    }
}

/// Returns the same as JSON.
pub fn json(name: &str, report: &Report) -> String {
    let milestones = report
        .watch
        .milestones()
        .iter()
        .map(|(milestone, reached)| {
            let (seconds, line) =
                reached
                    .as_ref()
                    .map_or(("null".to_owned(), "null".to_owned()), |reached| {
                        (
                            format!("{:.3}", reached.at.as_secs_f64()),
                            string(&reached.line),
                        )
                    });
            format!(
                "    {{\"name\": {}, \"seconds\": {seconds}, \"line\": {line}}}",
                string(&milestone.name)
            )
        });
    let failure = match &report.verdict {
        Verdict::Passed => "null".to_owned(),
        Verdict::Failed(reason) | Verdict::TimedOut(reason) => string(reason),
    };
    format!(
        "{{\n  \"run\": {},\n  \"passed\": {},\n  \"failure\": {failure},\n  \"seconds\": {:.3},\n  \"milestones\": [\n{}\n  ]\n}}\n",
        string(name),
        report.verdict == Verdict::Passed,
        report.elapsed.as_secs_f64(),
        milestones.collect::<Vec<_>>().join(",\n"),
    )
}

/// A JSON string.
pub fn string(text: &str) -> String {
    let mut out = String::from('"');
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c < ' ' => {
                let _ = write!(out, "\\u{:04x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}

#[cfg(test)]
mod tests {
    use std::path::PathBuf;
    use std::time::Duration;

    use super::*;
    use crate::milestone::{End, Watch, in_order};

    fn report() -> Report {
        let mut watch = Watch::new(in_order(&[("up", "up"), ("off", "bye")]), vec![]);
        watch.line(Duration::from_millis(1500), "it is \"up\"");
        Report {
            verdict: watch.verdict(End::Exited(0)),
            watch,
            end: End::Exited(0),
            elapsed: Duration::from_secs(2),
            lines: vec![],
            log: PathBuf::new(),
        }
    }

    #[test]
    fn table_names_what_was_and_what_was_not_reached() {
        let text = text(&report());
        assert!(
            text.contains("up                1.5 s  it is \"up\""),
            "{text}"
        );
        assert!(
            text.contains("off                 -    not reached"),
            "{text}"
        );
        assert!(
            text.contains("FAILED: the machine went off before: off"),
            "{text}"
        );
    }

    #[test]
    fn long_lines_are_shortened_by_characters() {
        assert_eq!(shortened(" short "), "short");
        let long = shortened(&"\u{e4}".repeat(200));
        assert_eq!(long.chars().count(), 100);
        assert!(long.ends_with("..."));
    }

    #[test]
    fn json_is_escaped_and_says_null_for_what_is_missing() {
        let text = json("nested", &report());
        assert!(
            text.contains(r#"{"name": "up", "seconds": 1.500, "line": "it is \"up\""}"#),
            "{text}"
        );
        assert!(
            text.contains(r#"{"name": "off", "seconds": null, "line": null}"#),
            "{text}"
        );
        assert!(text.contains("\"passed\": false"));
        assert_eq!(string("a\tb\\"), "\"a\\u0009b\\\\\"");
    }
}
