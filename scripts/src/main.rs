//! The developer's tool: one verb per file in `scripts/`.

use std::process::ExitCode;

use clap::{Parser, Subcommand};
use scripts::setup;
use scripts::tools::Tools;

#[derive(Parser)]
#[command(name = "nidus", about = "Set up, run, test, build and check Nidus")]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand)]
enum Verb {
    /// Obtain what is missing: the source of core, QEMU, payloads.
    Setup,
}

fn main() -> ExitCode {
    // The shell files go to the repository for cargo's sake; file names are meant from where the person stands.
    if let Some(place) = std::env::var_os("NIDUS_CWD") {
        let _ = std::env::set_current_dir(place);
    }
    let result = Tools::open().and_then(|tools| match Arguments::parse().verb {
        Verb::Setup => setup::run(&tools),
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error:#}");
            ExitCode::FAILURE
        }
    }
}
