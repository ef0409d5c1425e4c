//! The verb `bench`: what Nidus costs and what a user would take instead costs, side by side.
//!
//! Figures are instructions, or seconds of a clock on which an instruction is a nanosecond and idle time is skipped, so
//! that the same run gives the same figures; only rows that begin with `wall` are times of this host. Peers come from
//! Debian: skiboot as QEMU brings it, and Linux with KVM as the hypervisor under an L1 (nested API version 1).
//!
//! The surprise: a boot that waits costs nothing here, only what is executed counts.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use clap::Args;

use crate::image::{self, Image};
use crate::setup;
use crate::tools::{Tools, target};

mod boots;
mod calls;
mod compare;
mod figure;
mod flash;
mod opal;

use self::figure::Figure;

/// The options of `scripts/bench`.
#[derive(Args, Debug)]
pub struct Options {
    /// Only the figures whose names begin with one of these
    names: Vec<String>,
    /// A file for the figures as JSON, besides target/bench/figures.json
    #[arg(long)]
    json: Option<PathBuf>,
    /// The JSON of an earlier run: which figures moved by a per cent or more
    #[arg(long)]
    compare: Option<PathBuf>,
}

/// Figures that are measured together, so that one of them costs as much as all.
struct Source {
    /// What their names begin with.
    rows: &'static [&'static str],
    measure: fn(&Tools, &Image) -> Result<Vec<Figure>>,
}

const SOURCES: [Source; 7] = [
    Source {
        rows: boots::BARE_ROWS,
        measure: boots::bare,
    },
    Source {
        rows: opal::ROWS,
        measure: opal::measure,
    },
    Source {
        rows: flash::ROWS,
        measure: flash::measure,
    },
    Source {
        rows: calls::ROWS,
        measure: calls::measure,
    },
    Source {
        rows: boots::NESTED_ROWS,
        measure: boots::nested,
    },
    Source {
        rows: boots::WALL_ROWS,
        measure: boots::wall,
    },
    Source {
        rows: boots::EMULATOR_ROWS,
        measure: boots::emulator,
    },
];

/// The figures of OPAL calls as a test: all rows, and those that are above what was set out for them.
pub fn opal_figures(tools: &Tools, image: &Image) -> Result<(Vec<String>, Vec<String>)> {
    let figures = opal::measure(tools, image)?;
    let missed = figures.iter().filter(|figure| figure.misses());
    Ok((
        figures.iter().map(Figure::row).collect(),
        missed.map(Figure::row).collect(),
    ))
}

/// Measures and prints the table.
pub fn run(tools: &Tools, options: &Options) -> Result<bool> {
    setup::run(tools)?;
    let image = image::firmware()?;
    let chosen = |name: &str| {
        let names = &options.names;
        names.is_empty() || names.iter().any(|start| name.starts_with(start.as_str()))
    };
    // A name that is longer than the row it stands in chooses that row's source.
    let touches = |row: &&str| {
        let names = &options.names;
        chosen(row) || names.iter().any(|name| name.starts_with(*row))
    };
    println!("{}", figure::head());
    let mut figures = Vec::new();
    let mut complete = true;
    for source in SOURCES
        .iter()
        .filter(|source| source.rows.iter().any(&touches))
    {
        // What fails takes nothing along of what was measured.
        let measured = (source.measure)(tools, &image).unwrap_or_else(|error| {
            println!("{} ...: {error:#}", source.rows.join(", "));
            complete = false;
            Vec::new()
        });
        for figure in measured {
            if chosen(&figure.name) {
                println!("{}", figure.row());
                figures.push(figure);
            }
        }
    }
    if figures.is_empty() && complete {
        bail!("no figure has such a name");
    }
    let directory = target().join("bench");
    std::fs::create_dir_all(&directory)?;
    let json = figure::json(&figures);
    image::replace(&directory.join("figures.json"), json.as_bytes())?;
    image::replace(
        &directory.join("figures.md"),
        figure::markdown(&figures).as_bytes(),
    )?;
    image::replace(
        &directory.join("figures.svg"),
        figure::svg(&figures).as_bytes(),
    )?;
    if let Some(file) = &options.json {
        image::replace(file, json.as_bytes())?;
    }
    let missed = figures.iter().filter(|figure| figure.misses()).count();
    if missed > 0 {
        println!(
            "{missed} of {} figures are above what was set out for them (!)",
            figures.len()
        );
    }
    println!("also in {}", directory.display());
    if let Some(file) = &options.compare {
        let old = std::fs::read_to_string(file)
            .with_context(|| format!("{} cannot be read", file.display()))?;
        println!("{}", compare::report(&old, &json));
    }
    Ok(complete)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_source_has_rows_and_no_row_has_two_sources() {
        let rows: Vec<_> = SOURCES.iter().flat_map(|source| source.rows).collect();
        for row in &rows {
            let same = rows.iter().filter(|other| other.starts_with(**row)).count();
            assert_eq!(same, 1, "{row}");
        }
    }
}
