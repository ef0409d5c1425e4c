//! The bare kernel of the tests (`tests/payload/opal`) on our firmware and on skiboot: which answers differ.
//!
//! The surprise: a difference is not a failure, but one that nobody has listed with a reason is, and so is a listed
//! one that is gone.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};

use crate::image::Image;
use crate::machine::Machine;
use crate::payload::{self, Outcome, Payload};
use crate::tools::{Tools, repository};

/// The list of known differences.
const LIST: &str = "tests/payload/opal/differences.txt";

/// What came of a comparison.
#[derive(Debug)]
pub struct Comparison {
    /// Cases that both firmwares answered.
    pub compared: usize,
    /// What is wrong.
    pub problems: Vec<String>,
    /// How long it took.
    pub elapsed: Duration,
    /// Where to look.
    pub log: PathBuf,
}

/// Runs the program on both firmwares and compares the answers.
pub fn compare(tools: &Tools, image: &Image) -> Result<Comparison> {
    const NAME: &str = "opal-skiboot";
    let ours = run(tools, image, &payload::opal(NAME, "powernv10"), false)?;
    let peer = run(tools, image, &payload::opal(NAME, "powernv10"), true)?;
    let path = repository().join(LIST);
    let list = std::fs::read_to_string(&path)
        .with_context(|| format!("{} cannot be read", path.display()))?;
    let (ours_said, peer_said) = (Answers::read(&ours.lines), Answers::read(&peer.lines));
    let mut problems = judge(&ours_said, &peer_said, &list);
    for (firmware, outcome) in [("Nidus", &ours), ("skiboot", &peer)] {
        if outcome.cases.summary.is_none() {
            problems.push(format!(
                "on {firmware} there is no count at the end: it did not get through"
            ));
        }
    }
    Ok(Comparison {
        compared: peer_said.given.len(),
        problems,
        elapsed: ours.elapsed + peer.elapsed,
        log: peer.log,
    })
}

/// Boots the program on one of the firmwares.
pub fn run(tools: &Tools, image: &Image, payload: &Payload, on_skiboot: bool) -> Result<Outcome> {
    let machine = payload::machine(image, payload)?;
    let machine = Machine {
        bios: machine.bios.filter(|_| !on_skiboot),
        ..machine
    };
    let firmware = if on_skiboot { "skiboot" } else { "nidus" };
    payload::run(tools, &format!("{}-on-{firmware}", payload.name), &machine)
}

/// What a run of the program said.
#[derive(Debug, Default, PartialEq, Eq)]
struct Answers {
    /// Answers by name of the case.
    given: BTreeMap<String, String>,
    /// Cases that were left out; `GROUP/*` are all that were not tried there.
    skipped: Vec<String>,
}

/// Whether a name is meant by a pattern, which may have one `*`.
fn matches(pattern: &str, name: &str) -> bool {
    match pattern.split_once('*') {
        None => pattern == name,
        Some((start, end)) => {
            name.len() >= start.len() + end.len() && name.starts_with(start) && name.ends_with(end)
        }
    }
}

impl Answers {
    fn read(lines: &[String]) -> Self {
        let mut answers = Self::default();
        for line in lines {
            let case = line.trim().strip_prefix("case ");
            let Some((name, result)) = case.and_then(|case| case.split_once(' ')) else {
                continue;
            };
            let failed = || result.strip_prefix("FAILED: got ")?.split_once(", want ");
            if let Some(answer) = result.strip_prefix("ok: ").or_else(|| Some(failed()?.0)) {
                answers.given.insert(name.to_owned(), answer.to_owned());
            } else {
                answers.skipped.push(name.to_owned());
            }
        }
        answers
    }
}

/// One line of the list: `NAME: OURS | PEER`, where NAME may have one `*`.
#[derive(Debug, PartialEq, Eq)]
struct Known<'a> {
    name: &'a str,
    ours: &'a str,
    peer: &'a str,
    has_reason: bool,
}

impl<'a> Known<'a> {
    fn parse(line: &'a str, has_reason: bool) -> Option<Self> {
        let (name, answers) = line.split_once(": ")?;
        let (ours, peer) = answers.split_once(" | ")?;
        Some(Self {
            name,
            ours,
            peer,
            has_reason,
        })
    }

    fn is(&self, name: &str, ours: &str, peer: &str) -> bool {
        matches(self.name, name) && self.ours == ours && self.peer == peer
    }
}

/// Compares what both said with the list.
fn judge(ours: &Answers, peer: &Answers, list: &str) -> Vec<String> {
    let mut problems = Vec::new();
    let mut known = Vec::new();
    let mut has_reason = false;
    for line in list.lines() {
        if line.is_empty() {
            has_reason = false;
        } else if line.starts_with('#') {
            has_reason = true;
        } else if let Some(difference) = Known::parse(line, has_reason) {
            if !difference.has_reason {
                problems.push(format!("{LIST}: no reason is given for {line}"));
            }
            known.push((difference, 0));
        } else {
            problems.push(format!("{LIST}: not NAME: NIDUS | SKIBOOT: {line}"));
        }
    }
    // Only our own calls are to be covered.
    let is_compared = |name: &&String| !name.starts_with("coverage/");
    let names = ours.given.keys().chain(peer.given.keys());
    let names: std::collections::BTreeSet<_> = names.filter(is_compared).collect();
    for name in names {
        let (Some(a), Some(b)) = (ours.given.get(name), peer.given.get(name)) else {
            let mut skipped = ours.skipped.iter().chain(&peer.skipped);
            if !skipped.any(|pattern| matches(pattern, name)) {
                problems.push(format!("{name}: only one of the firmwares came so far"));
            }
            continue;
        };
        if a == b {
            continue;
        }
        let found = known.iter_mut().find(|(line, _)| line.is(name, a, b));
        match found {
            Some((_, count)) => *count += 1,
            None => problems.push(format!("not in {LIST}: {name}: {a} | {b}")),
        }
    }
    for (line, _) in known.iter().filter(|(_, count)| *count == 0) {
        let Known {
            name, ours, peer, ..
        } = line;
        problems.push(format!("in {LIST}, but gone: {name}: {ours} | {peer}"));
    }
    problems
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(lines: &[&str]) -> Answers {
        Answers::read(
            &lines
                .iter()
                .map(|line| (*line).to_owned())
                .collect::<Vec<_>>(),
        )
    }

    const LISTED: &str = "# They differ.\na/one: 1 | 2\na/p-*: -7 (OPAL_UNSUPPORTED) | -1\n";

    #[test]
    fn answers_are_read_from_all_kinds_of_lines() {
        let answers = said(&[
            "case a ok: -1 (OPAL_PARAMETER)",
            "case b FAILED: got 0x5, want 0x1 or 0x2",
            "case c skipped: it stops",
            "[ 0.1] something else",
        ]);
        assert_eq!(answers.given["a"], "-1 (OPAL_PARAMETER)");
        assert_eq!(answers.given["b"], "0x5");
        assert_eq!(answers.skipped, ["c"]);
    }

    #[test]
    fn listed_differences_are_fine() {
        let ours = said(&[
            "case a/one ok: 1",
            "case a/p-x ok: -7 (OPAL_UNSUPPORTED)",
            "case a/same ok: 0",
            "case a/left-out ok: 0",
            "case coverage/x ok: true",
        ]);
        let peer = said(&[
            "case a/one FAILED: got 2, want 1",
            "case a/p-x FAILED: got -1, want -7 (OPAL_UNSUPPORTED)",
            "case a/same ok: 0",
            "case a/left-out skipped: it stops",
        ]);
        assert_eq!(judge(&ours, &peer, LISTED), Vec::<String>::new());
    }

    #[test]
    fn new_differences_and_those_that_are_gone_are_problems() {
        let ours = said(&["case a/one ok: 1", "case a/p-x ok: 0", "case b ok: 1"]);
        let peer = said(&["case a/one ok: 1", "case a/p-x ok: 0", "case b ok: 2"]);
        let problems = judge(&ours, &peer, LISTED);
        assert_eq!(problems.len(), 3, "{problems:?}");
        assert!(problems[0].contains("b: 1 | 2") && problems[1].contains("gone: a/one"));
        // Not reached on one side.
        assert_eq!(judge(&ours, &said(&[]), "").len(), 3);
        assert_eq!(judge(&said(&[]), &said(&[]), "a: 1 | 2\nnonsense").len(), 3);
    }
}
