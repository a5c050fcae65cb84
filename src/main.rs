//! The program: parse, dispatch, print one error chain, map it to an exit code.

use std::io::{ErrorKind, Write as _};
use std::process::ExitCode;

use nova_imagecache::cli::Cli;
use nova_imagecache::exit::{Exit, Failure};
use nova_imagecache::{commands, report, signals};

fn main() -> ExitCode {
    signals::ignore_file_size_limit();
    let mut cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(answer) => return answered(&answer),
    };
    cli.fill_in(|name| std::env::var_os(name));
    let exit = commands::run(&cli).unwrap_or_else(|error| {
        report::print_message(&format!("{error:#}"));
        error.downcast_ref::<Failure>().map_or(Exit::Usage, |it| it.exit)
    });
    ExitCode::from(exit as u8)
}

/// Prints help, the version, or what is wrong with the command line.
fn answered(answer: &clap::Error) -> ExitCode {
    let is_help = !answer.use_stderr();
    ExitCode::from(match answer.print().and_then(|()| std::io::stdout().flush()) {
        Err(error) if is_help && error.kind() != ErrorKind::BrokenPipe => {
            report::print_message(&format!("cannot write the output: {error}"));
            Exit::Incomplete
        }
        _ if is_help => Exit::Done,
        _ => Exit::Usage,
    } as u8)
}
