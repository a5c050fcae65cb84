//! The line of progress: only on a terminal, only where somebody waits, never in the data.

use std::process::Command;

use crate::common::host::Host;
use crate::common::{World, tool};

/// What a command says, with `on_terminal` on a terminal of its own for stderr, which `script` makes.
fn said(world: &World, milliseconds: u32, on_terminal: bool, command: &str) -> String {
    let slow = match milliseconds {
        0 => String::new(),
        _ => {
            let library = crate::common::slow::library(world.outside());
            format!("LD_PRELOAD={} SLOW_MS={milliseconds}", library.display())
        }
    };
    let program = env!("CARGO_BIN_EXE_nova-imagecache");
    let line = format!("{slow} {program} {command} -p instances > stdout");
    let mut command = Command::new(if on_terminal { tool("script", "bsdutils") } else { tool("sh", "dash") });
    let (options, file) = if on_terminal { (["-q", "-e"], "/dev/null") } else { (["-e", "-u"], "sh") };
    command.args(options).args(["-c", &line, file]).current_dir(world.outside()).env_clear();
    command.env("PATH", std::env::var_os("PATH").unwrap_or_default()).env("TERM", "xterm");
    let output = command.output().unwrap();
    assert!(output.status.success(), "{output:?}");
    String::from_utf8_lossy(&[output.stdout, output.stderr].concat()).into_owned()
}

#[test]
fn a_pass_that_takes_a_while_says_on_a_terminal_how_far_it_is() {
    let world = Host::new().world;
    let shown = said(&world, 150, true, "explain");
    assert!(shown.contains("nova-imagecache: reading directories and disks: 2"), "{shown}");
    // It is cleared at the end, and the table is as it would have been.
    let table = fs_err::read_to_string(world.outside().join("stdout")).unwrap();
    assert!(table.contains("in_use") && !table.contains("reading directories"), "{table}");
}

#[test]
fn a_prune_that_waits_says_so() {
    let world = Host::new().world;
    let shown = said(&world, 0, true, "prune --disks-only --settle 1.5s");
    assert!(shown.contains("nova-imagecache: files are set aside, waiting"), "{shown}");
    assert_eq!(world.cache_names().len(), 13);
}

#[test]
fn there_is_no_progress_in_a_pipe_nor_with_quiet_nor_where_nobody_waits() {
    let world = Host::new().world;
    for (milliseconds, on_terminal, command) in
        [(150, false, "explain"), (150, true, "explain --quiet"), (0, true, "explain")]
    {
        let shown = said(&world, milliseconds, on_terminal, command);
        assert!(!shown.contains("reading directories"), "{milliseconds} {on_terminal} {command}: {shown}");
    }
}

/// In the background of a terminal that stops whoever writes to it there.
#[test]
fn the_line_of_progress_does_not_stop_a_prune() {
    let world = Host::new().world;
    let program = env!("CARGO_BIN_EXE_nova-imagecache");
    let prune = format!("{program} prune --disks-only --settle 1.5s -p instances > stdout");
    let line = format!("stty tostop; set -m; {prune} & wait");
    let mut command = Command::new(tool("timeout", "coreutils"));
    command.args(["30", "script", "-q", "-e", "-c", &line, "/dev/null"]).current_dir(world.outside());
    command.env("SHELL", tool("bash", "bash"));
    let output = command.output().unwrap();
    let shown = String::from_utf8_lossy(&output.stdout);
    assert!(output.status.success() && shown.contains("files are set aside, waiting"), "{output:?}");
    assert_eq!(world.cache_names().len(), 13);
}
