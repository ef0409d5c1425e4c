//! The developer's tool: one verb per file in `scripts/`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use scripts::tools::Tools;
use scripts::{bench, check, image, run, setup, test};

#[derive(Parser)]
#[command(name = "nidus", about = "Set up, run, test, build and check Nidus")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Obtain what is missing: the source of core, QEMU, payloads
    Setup,
    /// Build target/nidus.lid and target/nidus.elf
    Image,
    /// Boot Linux on the firmware, up to a guest of a guest
    Run(Box<run::Options>),
    /// Figures under a clock of one nanosecond per instruction
    Bench(bench::Options),
    /// Format, lints and guards
    Check,
    /// Test on this machine and in QEMU
    Test(test::Options),
}

fn main() -> ExitCode {
    // The shell files go to the repository for cargo's sake; file names are meant from where the person stands.
    if let Some(place) = std::env::var_os("NIDUS_CWD") {
        let _ = std::env::set_current_dir(place);
    }
    match work(Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}

/// Does what the verb says; false stands for work that was done and found something wrong.
fn work(verb: Verb) -> Result<bool> {
    let tools = Tools::open()?;
    match verb {
        Verb::Setup => setup::run(&tools).map(|()| true),
        Verb::Image => {
            setup::run(&tools)?;
            let image = image::firmware()?;
            let size = image.lid.metadata()?.len();
            println!(
                "{}: {size} bytes; symbols in {}",
                image.lid.display(),
                image.elf.display()
            );
            Ok(true)
        }
        Verb::Run(options) => run::run(&tools, *options),
        Verb::Bench(options) => bench::run(&tools, &options),
        Verb::Check => check::run(&tools),
        Verb::Test(options) => test::run(&tools, &options),
    }
}
