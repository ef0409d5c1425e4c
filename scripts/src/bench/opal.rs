//! What the bare kernel of the tests measures on our firmware and on skiboot: the time to it, and its calls.
//!
//! The surprising fact: skiboot writes a line to its log in OPAL_TEST, so that the empty call is its dearest one.
//! OPAL_CHECK_TOKEN is the comparison that says something, and there skiboot is ahead: it keeps no trace of calls.

use anyhow::{Context as _, Result, bail};

use super::boots::stamp;
use super::calls::each;
use super::figure::Figure;
use crate::image::Image;
use crate::machine::Clock;
use crate::opal;
use crate::payload;
use crate::tools::Tools;

/// Names of all figures here.
pub(super) const ROWS: &[&str] = &["opal"];

/// Calls: the figure, the line of the program, and what the ratio to skiboot shall be at most.
/// The cost is that of so many.
const CALLS: [(&str, &str, f64, Option<f64>); 4] = [
    ("opal call, OPAL_TEST", "opal-test", 1.0, Some(1.0)),
    ("opal call, OPAL_CHECK_TOKEN", "opal-check-token", 1.0, None),
    ("opal call, OPAL_POLL_EVENTS", "opal-poll-events", 1.0, None),
    ("opal console, a byte of a line", "opal-console", 64.0, None),
];
/// Of skiboot's time from reset to the kernel.
const A_FIFTH: f64 = 0.2;

/// Runs the program on both firmwares and machines.
pub(super) fn measure(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let mut figures = Vec::new();
    for (machine, name) in [
        ("powernv10", "bench-opal-powernv10"),
        ("powernv11", "bench-opal-powernv11"),
    ] {
        let payload = payload::opal_group(name, machine, "group=bench", Clock::Instructions);
        let lines = |on_skiboot| -> Result<Vec<String>> {
            let outcome = opal::run(tools, image, &payload, on_skiboot)?;
            match &outcome.problem {
                Some(problem) => bail!("{name}: {problem}; log: {}", outcome.log.display()),
                None => Ok(outcome.lines),
            }
        };
        let (ours, peer) = (lines(false)?, lines(true)?);
        figures.push(
            Figure::new(
                format!("opal, reset to kernel, {machine}"),
                "s",
                kernel_start(&ours)?,
            )
            .beside("skiboot", kernel_start(&peer)?)
            .at_most(A_FIFTH),
        );
        if machine == "powernv10" {
            for (name, line, number, at_most) in CALLS {
                let figure = Figure::new(name, "instructions", cost(&ours, line)? / number)
                    .beside("skiboot", cost(&peer, line)? / number);
                figures.push(match at_most {
                    Some(at_most) => figure.at_most(at_most),
                    None => figure,
                });
            }
        }
    }
    Ok(figures)
}

/// The time base in the line that announces the kernel.
fn kernel_start(lines: &[String]) -> Result<f64> {
    let line = lines
        .iter()
        .find(|line| line.contains("INIT: Starting kernel at 0x"));
    line.and_then(|line| stamp(line))
        .context("no time in the line of the kernel start")
}

/// Instructions from before the call to after it, without the round of the program's loop.
fn cost(lines: &[String], name: &str) -> Result<f64> {
    let each = |name: &str| {
        each(lines, name).with_context(|| format!("the program has no line for {name}"))
    };
    Ok(each(name)? - each("nothing")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_become_figures() {
        let lines = [
            "[    0.005865 0000 boot] INIT: Starting kernel at 0x20010000",
            "bench nothing ticks=1024 count=1000",
            "bench opal-test ticks=52224 count=1000",
        ]
        .map(str::to_owned);
        assert!((kernel_start(&lines).expect("there") - 0.005_865).abs() < 1e-9);
        assert!((cost(&lines, "opal-test").expect("there") - 100.0).abs() < 1e-9);
        assert!(kernel_start(&lines[1..]).is_err());
        assert!(cost(&lines, "absent").is_err());
    }
}
