//! The program: parse, dispatch, print one error chain, map it to an exit code.

use std::process::ExitCode;

use clap::Parser as _;
use nova_imagecache::cli::Cli;
use nova_imagecache::exit::{Exit, Failure};
use nova_imagecache::{commands, report};

fn main() -> ExitCode {
    let mut cli = Cli::parse();
    cli.fill_in(|name| std::env::var_os(name));
    let exit = commands::run(&cli).unwrap_or_else(|error| {
        report::print_message(&format!("{error:#}"));
        error.downcast_ref::<Failure>().map_or(Exit::Usage, |it| it.exit)
    });
    ExitCode::from(exit as u8)
}
