//! One file a subcommand; what `explain` and `prune` share is in [`pass`].

mod explain;
mod fname;
mod pass;
mod prune;
mod scan;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::exit::Exit;

/// Runs what the command line asks for.
///
/// # Errors
/// Bad input, a refusal, or a [`crate::exit::Failure`].
pub fn run(cli: &Cli) -> Result<Exit> {
    match &cli.command {
        Command::Fname(args) => fname::run(&cli.global, args),
        Command::Scan(args) => scan::run(&cli.global, args),
        Command::Explain(args) => explain::run(&cli.global, args),
        Command::Prune(args) => prune::run(&cli.global, args),
    }
}
