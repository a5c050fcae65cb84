//! The line of progress: only on a terminal, only where somebody waits, never in the data.

use std::path::PathBuf;
use std::process::{Command, Output};

use crate::common::{DAY, World};

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

/// Runs a command, with `on_terminal` on a terminal of its own for stderr, which `script` makes.
fn run(world: &World, milliseconds: u32, on_terminal: bool, command: &str) -> Output {
    let program = PathBuf::from(env!("CARGO_BIN_EXE_nova-imagecache"));
    let output = world.outside().join("stdout");
    let slow = match milliseconds {
        0 => String::new(),
        _ => {
            let library = crate::common::slow::library(world.outside());
            format!("LD_PRELOAD={} SLOW_MS={milliseconds}", library.display())
        }
    };
    let line = format!(
        "{slow} {} {command} -p {} > {}",
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
    let shown = text(&run(&world, 150, true, "explain"));
    assert!(shown.contains("nova-imagecache: reading directories and disks: 2"), "{shown}");
    // It is cleared at the end, and the table is as it would have been.
    let table = fs_err::read_to_string(world.outside().join("stdout")).unwrap();
    assert!(table.contains("in_use") && !table.contains("reading directories"), "{table}");
}

#[test]
fn a_prune_that_waits_says_so() {
    let world = world();
    world.original("unused", 2 * DAY);
    let shown = text(&run(&world, 0, true, "prune --disks-only --settle 1.5s"));
    assert!(shown.contains("nova-imagecache: files are set aside, waiting"), "{shown}");
    assert_eq!(world.cache_names().len(), 1);
}

#[test]
fn there_is_no_progress_in_a_pipe_nor_with_quiet_nor_where_nobody_waits() {
    let world = world();
    for (milliseconds, on_terminal, command) in
        [(150, false, "explain"), (150, true, "explain --quiet"), (0, true, "explain")]
    {
        let shown = text(&run(&world, milliseconds, on_terminal, command));
        assert!(!shown.contains("reading directories"), "{milliseconds} {on_terminal} {command}: {shown}");
    }
}
