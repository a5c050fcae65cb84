//! The line of progress: only on a terminal, only where somebody waits, never in the data.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::common::World;

/// Some two seconds of work: 40 directories and their disks, 150 ms for each call, 16 at once.
fn world() -> World {
    let world = World::new();
    let base = world.original("image", crate::common::HOUR);
    let disk = world.instance_disk("instance-0", &base);
    for number in 1..40 {
        let directory = world.path(format!("instance-{number}"));
        fs_err::create_dir(&directory).unwrap();
        fs_err::copy(&disk, directory.join("disk")).unwrap();
    }
    world
}

/// Runs `explain` with stderr, and with `on_terminal` a terminal of its own for it, which `script` makes.
fn explain(world: &World, milliseconds: u32, on_terminal: bool, more: &str) -> Output {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_nova-imagecache"));
    let output = world.outside().join("stdout");
    let line = format!(
        "LD_PRELOAD={} SLOW_MS={milliseconds} {} explain -p {} {more} > {}",
        crate::common::slow::library(world.outside()).display(),
        program.display(),
        world.instances_path().display(),
        output.display()
    );
    let mut command = if on_terminal {
        let mut command = Command::new("script");
        command.args(["-q", "-e", "-c", &line, "/dev/null"]);
        command
    } else {
        let mut command = Command::new("sh");
        command.args(["-c", &line]);
        command
    };
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
    let run = command.output().expect("cannot run script or sh: install bsdutils");
    assert!(run.status.success(), "{run:?}");
    run
}

fn text(output: &Output) -> String {
    String::from_utf8_lossy(&[&output.stdout[..], &output.stderr[..]].concat()).into_owned()
}

#[test]
fn a_pass_that_takes_a_while_says_on_a_terminal_how_far_it_is() {
    let world = world();
    let shown = text(&explain(&world, 150, true, ""));
    assert!(shown.contains("reading directories and disks, "), "{shown}");
    // It is cleared at the end, and the table is as it would have been.
    let table = fs_err::read_to_string(world.outside().join("stdout")).unwrap();
    assert!(table.contains("in_use") && !table.contains("reading directories"), "{table}");
}

#[test]
fn there_is_no_progress_in_a_pipe_nor_with_quiet_nor_where_nobody_waits() {
    let world = world();
    for (milliseconds, on_terminal, more) in [(150, false, ""), (150, true, "--quiet"), (0, true, "")] {
        let shown = text(&explain(&world, milliseconds, on_terminal, more));
        assert!(!shown.contains("reading directories"), "{milliseconds} {on_terminal} {more}: {shown}");
    }
}
