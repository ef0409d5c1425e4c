//! The command `pnor-image`: builds, shows, checks and changes images of the flash.
//!
//! Verbs and options are in `pnor_image::tool::command`. Exit status: 0 all is well, 1 the image is not (or the two
//! differ), 2 the command could not be carried out.

use std::process::ExitCode;

use clap::Parser;
use pnor_image::tool::command::{EXAMPLES, Verb, work};

#[derive(Parser)]
#[command(name = "pnor-image", version, about = "Images of the flash of OpenPOWER machines (PNOR)", after_help = EXAMPLES)]
struct Arguments {
    #[command(subcommand)]
    verb: Verb,
}

fn main() -> ExitCode {
    match work(Arguments::parse().verb) {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            eprintln!("pnor-image: {error:#}");
            ExitCode::from(2)
        }
    }
}
