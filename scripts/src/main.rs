//! The developer's tool: one verb per file in `scripts/`.

use std::process::ExitCode;

use anyhow::Result;
use clap::{Parser, Subcommand};
use scripts::tools::Tools;
use scripts::{bench, check, image, pnor, run, setup, test};

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
    /// Build target/nidus.lid, target/nidus.elf, and target/nidus.pnor for the flash
    Image(pnor::Options),
    /// Build, show, check and change images of the flash
    #[command(after_help = pnor_image::tool::command::EXAMPLES)]
    PnorImage {
        #[command(subcommand)]
        verb: pnor_image::tool::command::Verb,
    },
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
    let verb = Arguments::parse().verb;
    // Its exit status is that of the command `pnor-image`: 2 when it could not be carried out.
    let failure = match verb {
        Verb::PnorImage { .. } => ExitCode::from(2),
        _ => ExitCode::FAILURE,
    };
    match work(verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("{error:#}");
            failure
        }
    }
}

/// Does what the verb says; false stands for work that was done and found something wrong.
fn work(verb: Verb) -> Result<bool> {
    let tools = Tools::open()?;
    match verb {
        Verb::PnorImage { verb } => pnor_image::tool::command::work(verb),
        Verb::Setup => setup::run(&tools).map(|()| true),
        Verb::Image(options) => {
            setup::run(&tools)?;
            let image = image::firmware()?;
            let size = image.lid.metadata()?.len();
            println!(
                "{}: {size} bytes; symbols in {}",
                image.lid.display(),
                image.elf.display()
            );
            let (place, holds) = pnor::make(&image, &options)?;
            println!("{}: {holds}", place.display());
            Ok(true)
        }
        Verb::Run(options) => run::run(&tools, *options),
        Verb::Bench(options) => bench::run(&tools, &options),
        Verb::Check => check::run(&tools),
        Verb::Test(options) => test::run(&tools, &options),
    }
}
