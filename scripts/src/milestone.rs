//! What a console has to show, in which order, and what it must never show.
//!
//! The surprise: a milestone is only counted after all of the steps before it, so lines in the wrong order read as a
//! milestone that is missing. Milestones of the same step come in any order.

use std::time::Duration;

/// A line that has to come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Milestone {
    /// What it is called in the table.
    pub name: String,
    /// The text that the line contains.
    pub pattern: String,
    /// Its place in the order.
    pub step: usize,
}

/// Makes a list in which every milestone is a step of its own.
pub fn in_order(list: &[(&str, &str)]) -> Vec<Milestone> {
    let make = |(step, (name, pattern)): (usize, &(&str, &str))| Milestone {
        name: (*name).to_owned(),
        pattern: (*pattern).to_owned(),
        step,
    };
    list.iter().enumerate().map(make).collect()
}

/// Reads patterns, one on a line; empty lines and those that begin with `#` are left out.
pub fn patterns(text: &str) -> Vec<String> {
    text.lines()
        .map(str::trim_end)
        .filter(|line| !line.is_empty() && !line.starts_with('#'))
        .map(str::to_owned)
        .collect()
}

/// When a milestone was reached, and by which line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reached {
    /// Since the start of the machine.
    pub at: Duration,
    /// The line.
    pub line: String,
}

/// How a machine ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum End {
    /// By itself, with this status of QEMU.
    Exited(i32),
    /// By a signal that we did not send.
    Signalled,
    /// By us, some time after a forbidden line.
    Stopped,
    /// By us, when the time was up.
    TimedOut,
}

/// The judgement over a boot.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Every milestone was reached and the machine ended by itself.
    Passed,
    /// The reason for failing.
    Failed(String),
    /// The time was up before this was reached; the only outcome that is worth another try.
    TimedOut(String),
}

/// Milestones and forbidden patterns held against the lines of one console.
#[derive(Clone, Debug)]
pub struct Watch {
    milestones: Vec<(Milestone, Option<Reached>)>,
    forbidden: Vec<String>,
    quotes: Vec<(String, Option<String>)>,
    hit: Option<String>,
    enough: bool,
}

impl Watch {
    /// Starts with nothing reached.
    pub fn new(milestones: Vec<Milestone>, forbidden: Vec<String>) -> Self {
        Self {
            milestones: milestones
                .into_iter()
                .map(|milestone| (milestone, None))
                .collect(),
            forbidden,
            quotes: Vec::new(),
            hit: None,
            enough: false,
        }
    }

    /// The last milestone ends the boot: the machine need not go off.
    pub fn until_the_last(self) -> Self {
        Self {
            enough: true,
            ..self
        }
    }

    /// Whether nothing more is to be seen.
    pub fn is_over(&self) -> bool {
        self.enough && self.step().is_none()
    }

    /// Adds messages that this boot has to show, at any time. A forbidden pattern in a line with one of them is no fault.
    pub fn quoting(self, quotes: &[&str]) -> Self {
        Self {
            quotes: quotes
                .iter()
                .map(|quote| ((*quote).to_owned(), None))
                .collect(),
            ..self
        }
    }

    /// Takes a line, and returns the names of the milestones that it reached.
    pub fn line(&mut self, at: Duration, line: &str) -> Vec<String> {
        let mut quoted = false;
        for (quote, first) in &mut self.quotes {
            if line.contains(quote.as_str()) {
                quoted = true;
                first.get_or_insert_with(|| line.trim_end().to_owned());
            }
        }
        if self.hit.is_none()
            && !quoted
            && self
                .forbidden
                .iter()
                .any(|pattern| contains_word(line, pattern))
        {
            self.hit = Some(line.to_owned());
        }
        let mut names = Vec::new();
        // One line may reach several steps, so the current step is looked up anew for each milestone.
        for index in 0..self.milestones.len() {
            let step = self.step();
            if let Some((milestone, reached)) = self.milestones.get_mut(index)
                && reached.is_none()
                && Some(milestone.step) == step
                && line.contains(&milestone.pattern)
            {
                *reached = Some(Reached {
                    at,
                    line: line.to_owned(),
                });
                names.push(milestone.name.clone());
            }
        }
        names
    }

    /// Returns the milestones, and what reached them.
    pub fn milestones(&self) -> &[(Milestone, Option<Reached>)] {
        &self.milestones
    }

    /// Returns the first line with each of the messages that had to come.
    pub fn quoted(&self) -> impl Iterator<Item = &str> {
        self.quotes.iter().filter_map(|(_, line)| line.as_deref())
    }

    /// Returns the first line with a forbidden pattern.
    pub fn forbidden_line(&self) -> Option<&str> {
        self.hit.as_deref()
    }

    /// Judges the boot after its end.
    pub fn verdict(&self, end: End) -> Verdict {
        let missing = self
            .milestones
            .iter()
            .find(|(_, reached)| reached.is_none());
        let missing = missing.map(|(milestone, _)| {
            format!("{} (a line with '{}')", milestone.name, milestone.pattern)
        });
        // A quote has no place in the order, so it is looked for only when all else is there.
        let missing = missing.or_else(|| {
            let (quote, _) = self.quotes.iter().find(|(_, line)| line.is_none())?;
            Some(format!("a line with '{quote}'"))
        });
        match (&self.hit, end, missing) {
            (Some(line), _, _) => Verdict::Failed(format!("forbidden line: {line}")),
            (None, End::Exited(0), None) => Verdict::Passed,
            (None, End::Exited(0), Some(missing)) => {
                Verdict::Failed(format!("the machine went off before: {missing}"))
            }
            (None, End::Exited(status), _) => {
                Verdict::Failed(format!("QEMU ended with status {status}"))
            }
            (None, End::Signalled | End::Stopped, _) => {
                Verdict::Failed("QEMU was killed".to_owned())
            }
            (None, End::TimedOut, Some(missing)) => {
                Verdict::TimedOut(format!("time was up before: {missing}"))
            }
            (None, End::TimedOut, None) => {
                Verdict::TimedOut("time was up before the machine went off".to_owned())
            }
        }
    }

    /// The lowest step with a milestone that is not reached.
    fn step(&self) -> Option<usize> {
        self.milestones
            .iter()
            .filter(|(_, reached)| reached.is_none())
            .map(|(milestone, _)| milestone.step)
            .min()
    }
}

/// Looks for a pattern that does not begin in the middle of a word: `BUG:` is not in `DEBUG:`.
fn contains_word(line: &str, pattern: &str) -> bool {
    line.match_indices(pattern).any(|(position, _)| {
        !line[..position].ends_with(|before: char| before.is_ascii_alphanumeric())
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch() -> Watch {
        let mut list = in_order(&[("firmware", "start"), ("first", "up 1"), ("off", "bye")]);
        list.push(Milestone {
            name: "second".to_owned(),
            pattern: "up 2".to_owned(),
            step: 1,
        });
        Watch::new(list, patterns("# a comment\n\nBUG:\npanicked\n"))
    }

    fn feed(watch: &mut Watch, lines: &[&str]) {
        for (second, line) in (0..).zip(lines) {
            watch.line(Duration::from_secs(second), line);
        }
    }

    #[test]
    fn the_last_milestone_ends_a_boot_that_asks_for_it() {
        let (mut long, mut short) = (watch(), watch().until_the_last());
        let all = ["start", "up 2", "up 1", "bye"];
        feed(&mut short, &all[..3]);
        assert!(!short.is_over());
        feed(&mut short, &all[3..]);
        feed(&mut long, &all);
        assert!(short.is_over() && !long.is_over());
    }

    #[test]
    fn ordered_milestones_pass_and_a_step_is_reached_in_any_order() {
        let mut watch = watch();
        feed(&mut watch, &["start", "up 2", "noise", "up 1", "bye"]);
        assert_eq!(watch.verdict(End::Exited(0)), Verdict::Passed);
        let times: Vec<_> = watch
            .milestones()
            .iter()
            .filter_map(|(_, reached)| reached.as_ref())
            .collect();
        assert_eq!(
            times
                .iter()
                .map(|reached| reached.at.as_secs())
                .collect::<Vec<_>>(),
            [0, 3, 4, 1]
        );
    }

    #[test]
    fn a_quote_has_to_come_and_excuses_its_own_line_only() {
        let all = ["start", "up 1", "x BUG: known\r", "up 2", "bye"];
        let mut good = watch().quoting(&["BUG: known"]);
        feed(&mut good, &all);
        assert_eq!(good.verdict(End::Exited(0)), Verdict::Passed);
        assert_eq!(good.quoted().collect::<Vec<_>>(), ["x BUG: known"]);

        let mut other = watch().quoting(&["BUG: known"]);
        feed(&mut other, &all);
        feed(&mut other, &["BUG: another"]);
        assert_eq!(other.forbidden_line(), Some("BUG: another"));

        let mut absent = watch().quoting(&["refused"]);
        feed(&mut absent, &["start", "up 1", "up 2", "bye"]);
        let verdict = absent.verdict(End::Exited(0));
        assert!(matches!(verdict, Verdict::Failed(why) if why.contains("'refused'")));
    }

    #[test]
    fn a_milestone_before_its_turn_does_not_count() {
        let mut watch = watch();
        feed(&mut watch, &["up 1", "start", "up 2", "bye"]);
        let Verdict::Failed(reason) = watch.verdict(End::Exited(0)) else {
            panic!("must fail")
        };
        assert!(reason.contains("first (a line with 'up 1')"), "{reason}");
    }

    #[test]
    fn one_line_can_reach_several_steps() {
        let mut watch = Watch::new(in_order(&[("a", "x"), ("b", "y")]), vec![]);
        assert_eq!(watch.line(Duration::ZERO, "xy"), ["a", "b"]);
    }

    #[test]
    fn a_forbidden_line_fails_whatever_else_happened() {
        let mut watch = watch();
        feed(
            &mut watch,
            &["start", "up 1", "up 2", "kernel BUG: at x", "bye"],
        );
        assert_eq!(watch.forbidden_line(), Some("kernel BUG: at x"));
        for end in [End::Exited(0), End::Stopped, End::TimedOut] {
            assert!(
                matches!(watch.verdict(end), Verdict::Failed(reason) if reason.contains("kernel BUG: at x"))
            );
        }
        let mut innocent = Watch::new(vec![], patterns("BUG:"));
        innocent.line(Duration::ZERO, "DEBUG: fine");
        assert_eq!(innocent.forbidden_line(), None);
    }

    #[test]
    fn only_a_time_out_is_worth_another_try() {
        let mut watch = watch();
        assert!(matches!(watch.verdict(End::TimedOut), Verdict::TimedOut(_)));
        assert!(matches!(watch.verdict(End::Exited(1)), Verdict::Failed(_)));
        assert!(matches!(watch.verdict(End::Signalled), Verdict::Failed(_)));
        feed(&mut watch, &["start", "up 1", "up 2", "bye"]);
        assert!(matches!(watch.verdict(End::TimedOut), Verdict::TimedOut(_)));
        assert!(matches!(watch.verdict(End::Exited(1)), Verdict::Failed(_)));
    }
}
