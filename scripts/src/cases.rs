//! The output of a test payload: lines `case NAME ok` (or `ok: ANSWER`), `case NAME FAILED: ...`, `case NAME skipped: ...`, and at the
//! end `cases: N passed, M failed`.
//!
//! The surprise: a payload that stops half-way has no failed case, so the count at the end has to be there, and has
//! to agree with the lines.

/// What a payload reported.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Cases {
    /// Cases that passed.
    pub passed: usize,
    /// The lines of those that did not.
    pub failed: Vec<String>,
    /// The lines of those that could not be tried.
    pub skipped: Vec<String>,
    /// Passed and failed cases as the payload counted them.
    pub summary: Option<(usize, usize)>,
}

impl Cases {
    /// Reads the lines of a console.
    pub fn read<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> Self {
        let mut cases = Self::default();
        for line in lines {
            cases.line(line.as_ref().trim());
        }
        cases
    }

    fn line(&mut self, line: &str) {
        if let Some(counts) = line.strip_prefix("cases: ") {
            self.summary = parse_summary(counts).or(self.summary);
        }
        let Some(case) = line.strip_prefix("case ") else {
            return;
        };
        let (name, result) = case.split_once(' ').unwrap_or((case, ""));
        if result == "ok" || result.starts_with("ok: ") {
            self.passed += 1;
        } else if result.starts_with("skipped") {
            self.skipped.push(format!("{name} {result}"));
        } else {
            self.failed.push(format!("{name} {result}"));
        }
    }

    /// Says what is wrong, if anything is.
    pub fn problem(&self) -> Option<String> {
        match (self.summary, self.failed.as_slice()) {
            (_, [first, rest @ ..]) => Some(format!("{first} (and {} more)", rest.len())),
            (None, []) => Some(format!("no count at the end, after {} cases", self.passed)),
            (Some((0, _)), []) => Some("no case".to_owned()),
            (Some((_, failed @ 1..)), []) => Some(format!("{failed} failures without a line")),
            (Some((passed, _)), []) if passed != self.passed => Some(format!(
                "{} lines of passed cases, but the payload counted {passed}",
                self.passed
            )),
            (Some(_), []) => None,
        }
    }
}

/// Parses `N passed, M failed`.
fn parse_summary(text: &str) -> Option<(usize, usize)> {
    let (passed, failed) = text.split_once(" passed, ")?;
    Some((
        passed.trim().parse().ok()?,
        failed.strip_suffix(" failed")?.trim().parse().ok()?,
    ))
}

/// Adds up the `test result: ok. N passed; M failed; ...` lines of `cargo test`.
pub fn host_tests<S: AsRef<str>>(lines: impl IntoIterator<Item = S>) -> (usize, usize) {
    let mut sum = (0, 0);
    for line in lines {
        let line = line.as_ref();
        if line.starts_with("test result:") {
            sum.0 += number_before(line, " passed");
            sum.1 += number_before(line, " failed");
        }
    }
    sum
}

fn number_before(line: &str, word: &str) -> usize {
    line.split_once(word)
        .and_then(|(before, _)| before.rsplit(' ').next())
        .and_then(|digits| digits.parse().ok())
        .unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn good_output_has_no_problem() {
        let cases = Cases::read([
            "boot",
            "case a/b ok",
            "case c skipped: hardware",
            " case d ok: -1 (OPAL_PARAMETER)\r",
            "cases: 1 skipped",
            "cases: 2 passed, 0 failed",
            "off",
        ]);
        assert_eq!(
            (cases.passed, cases.skipped.len(), cases.problem()),
            (2, 1, None)
        );
    }

    #[test]
    fn a_failed_case_is_named() {
        let cases = Cases::read([
            "case a ok",
            "case b FAILED: got 1, want 2",
            "cases: 1 passed, 1 failed",
        ]);
        assert_eq!(
            cases.problem().as_deref(),
            Some("b FAILED: got 1, want 2 (and 0 more)")
        );
    }

    #[test]
    fn output_that_stops_or_does_not_add_up_is_a_problem() {
        for lines in [
            &["case a ok"][..],
            &["cases: 0 passed, 0 failed"],
            &["case a ok", "cases: 2 passed, 0 failed"],
            &["case a ok", "cases: 1 passed, 1 failed"],
            &["case a", "cases: 0 passed, 0 failed"],
            &[],
        ] {
            assert!(
                Cases::read(lines.iter().copied()).problem().is_some(),
                "{lines:?}"
            );
        }
    }

    #[test]
    fn host_results_add_up() {
        let lines = [
            "running 2 tests",
            "test result: ok. 2 passed; 0 failed; 0 ignored; 0 measured",
            "test result: FAILED. 12 passed; 3 failed; 1 ignored; 0 measured",
        ];
        assert_eq!(host_tests(lines), (14, 3));
    }
}
