//! The program: parse, dispatch, print one error chain, map it to an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use nova_imagecache::cli::Cli;
use nova_imagecache::commands;
use nova_imagecache::exit::{AlreadyRunning, Exit, OutputFailed};

fn main() -> ExitCode {
    let cli = Cli::parse();
    let exit = commands::run(&cli).unwrap_or_else(|error| {
        anstream::eprintln!("nova-imagecache: {}", nova_imagecache::report::one_line(&format!("{error:#}")));
        if error.is::<AlreadyRunning>() {
            Exit::AlreadyRunning
        } else if error.is::<OutputFailed>() {
            Exit::Partly
        } else {
            Exit::Usage
        }
    });
    exit.into()
}
