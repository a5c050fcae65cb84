//! A report or a message that cannot be written stops no prune. What a call does that fails otherwise is in
//! `proof_faults.rs`.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;

use crate::common::prune::{InUse, names, plain_file, prune_command, three_files};
use crate::common::{DAY, HOST};

const NO_ARGS: [&str; 0] = [];

fn full() -> std::fs::File {
    fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0
}

/// Checks that only what is in use is left.
#[track_caller]
fn all_are_gone(it: &InUse) {
    assert_eq!(names(&it.world.path("_base")), [it.used.clone()].into());
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_and_the_removals_are_those_of_the_dry_run() {
    for format in ["table", "json"] {
        let it = InUse::new();
        three_files(&it);
        let mut command = Command::new(cargo_bin!("nova-imagecache"));
        command
            .env_clear()
            .args(["prune", "-f", format, "--host", HOST, "-p"])
            .arg(it.world.instances_path());
        command.arg("--inventory").arg(it.world.outside().join("inventory.json"));
        let output = command.stdout(full()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{format}: {stderr}");
        assert!(stderr.contains("No space left on device") && !stderr.contains("panicked"), "{stderr}");
        all_are_gone(&it);
    }
}

#[test]
fn a_reader_that_has_gone_away_stops_the_output_but_not_the_removal() {
    let it = InUse::new();
    // More than a pipe holds.
    for n in 0..200 {
        plain_file(&it.world, &format!("{n:040x}"), 2 * DAY);
    }
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = prune_command(&it.world, NO_ARGS).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    all_are_gone(&it);
}

/// stderr is full, too: a cron job on a full disk.
#[test]
fn messages_that_nobody_can_read_stop_nothing() {
    let it = InUse::new();
    three_files(&it);
    let status = prune_command(&it.world, ["-v"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(1));
    all_are_gone(&it);
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    let status = command.args(["scan", "-p", "/nowhere"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}
