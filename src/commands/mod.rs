//! One file a subcommand: gather, judge, render; no policy.

mod explain;
mod fname;
mod prune;
mod scan;

use std::mem::ManuallyDrop;

use anyhow::Result;

use crate::cli::{Cli, Command};
use crate::evidence::Evidence;
use crate::exit::Exit;
use crate::report;

/// Runs what the command line asks for.
///
/// # Errors
/// Bad input, a refusal, [`crate::exit::AlreadyRunning`] or [`crate::exit::OutputFailed`].
pub fn run(cli: &Cli) -> Result<Exit> {
    match &cli.command {
        Command::Fname(args) => fname::run(&cli.global, args),
        Command::Scan => scan::run(&cli.global),
        Command::Explain(args) => explain::run(&cli.global, args),
        Command::Prune(args) => prune::run(&cli.global, args),
    }
}

/// Leaves it to the end of the process to free evidence that is needed till then: to free its hundreds of thousands of
/// small pieces one by one takes a twentieth of a pass.
fn kept_until_exit(evidence: Evidence) -> ManuallyDrop<Evidence> {
    ManuallyDrop::new(evidence)
}

/// Says how the evidence was gathered, where that is wanted.
fn tell(evidence: &Evidence, verbose: bool) {
    if verbose {
        let disks: usize = evidence.directories.values().map(|it| it.disks.len()).sum();
        report::print_message(&format!(
            "read {} cache files, {} directories with {disks} disks, and {} files elsewhere; listed the \
             instances path {} times",
            evidence.cache.as_ref().map_or(0, |it| it.files.len()),
            evidence.directories.len(),
            evidence.links.len(),
            evidence.rounds
        ));
    }
}
