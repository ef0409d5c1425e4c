//! What reading a kernel from the flash costs our firmware and skiboot.
//!
//! The surprising fact: skiboot does not hash what it reads unless secure mode is on; we always do, which is the most of it.

use anyhow::{Context as _, Result};

use super::boots::stamp;
use super::figure::Figure;
use crate::flash_boot;
use crate::forms;
use crate::image::Image;
use crate::machine::{Clock, Machine};
use crate::payload;
use crate::tools::Tools;

/// Names of all figures here.
pub(super) const ROWS: &[&str] = &["flash"];

/// Boots the same kernel from the flash and as a file, on both firmwares: what the flash adds is the cost of reading it.
pub(super) fn measure(tools: &Tools, image: &Image) -> Result<Vec<Figure>> {
    let machine = Machine {
        memory: "2G".to_owned(),
        clock: Clock::Instructions,
        ..Machine::new("powernv10")
    };
    let machines = flash_boot::large(&machine, &forms::power_off())?;
    let cost = |firmware: &str| -> Result<f64> {
        let mut starts = [0.0; 2];
        for ((machine, start), how) in machines.iter().zip(&mut starts).zip(["flash", "file"]) {
            let machine = Machine {
                bios: (firmware == "nidus").then(|| image.lid.clone()),
                ..machine.clone()
            };
            let outcome = payload::run(tools, &format!("bench-{how}-on-{firmware}"), &machine)?;
            let line = (outcome.lines.iter()).find(|line| line.contains("INIT: Starting kernel"));
            *start = line
                .and_then(|line| stamp(line))
                .with_context(|| format!("no kernel start; log: {}", outcome.log.display()))?;
        }
        Ok(starts[0] - starts[1])
    };
    Ok(vec![
        Figure::new("flash, reading a kernel of 32 MiB", "s", cost("nidus")?)
            .beside("skiboot", cost("skiboot")?)
            .at_most(1.0),
    ])
}
