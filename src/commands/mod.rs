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
        Command::Fname(it) => fname::run(&cli.global, &it.args),
        Command::Scan(it) => scan::run(&cli.global, &it.args),
        Command::Explain(it) => explain::run(&cli.global, &it.args),
        Command::Prune(it) => prune::run(&cli.global, &it.args),
    }
}
