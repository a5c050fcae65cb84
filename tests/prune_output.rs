//! A report or a message that cannot be written stops no prune. What a call does that fails otherwise is in
//! `proof_faults.rs`.

use std::process::Command;

use assert_cmd::cargo::cargo_bin;

use crate::common::prune::{
    InUse, finish, plain_file, prune_command, traced_calls, under_strace, wait_until, with_outcome,
};
use crate::common::{DAY, HOST, NO_ARGS};

fn full() -> std::fs::File {
    fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_and_the_removals_are_those_of_the_dry_run() {
    // stderr is full, too: a cron job on a full disk.
    for is_stderr_full in [false, true] {
        let (it, _) = InUse::with_three();
        let mut prune = prune_command(&it.world, ["-v"]);
        if is_stderr_full {
            prune.stderr(full());
        }
        let output = prune.stdout(full()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{stderr}");
        assert_eq!(stderr.contains("No space left on device"), !is_stderr_full, "{stderr}");
        assert!(!stderr.contains("panicked"), "{stderr}");
        it.has(NO_ARGS);
    }
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    let status = command.args(["scan", "-p", "/nowhere"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
}

/// Of more files than a pipe holds the report of.
fn of_a_long_report() -> InUse {
    let it = InUse::new();
    for n in 0..200 {
        plain_file(&it.world, &format!("{n:040x}"), 2 * DAY);
    }
    it
}

#[test]
fn a_reader_that_has_gone_away_stops_the_output_but_not_the_removal() {
    let it = of_a_long_report();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    let output = prune_command(&it.world, NO_ARGS).stdout(writer).output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    it.has(NO_ARGS);
}

#[test]
fn of_the_files_that_stay_those_are_told_that_were_asked_for() {
    let (it, files) = InUse::with_three();
    let inventory = it.world.outside().join("inventory.json").display().to_string();
    let args = ["-n", "--host", HOST, "--inventory", &inventory, &it.used, &files[0]];
    let table = it.world.run("prune", args).exits(0).stdout;
    let row = |name: &str| {
        table.lines().find(|line| line.contains(name)).map(|line| line.split(' ').next().unwrap())
    };
    assert_eq!(
        [&it.used, &files[0], &files[1]].map(|it| row(it)),
        [Some("kept"), Some("would_remove"), None],
        "{table}"
    );
    assert!(table.contains("in_use: image-used is the image of instance instance-00000001"), "{table}");
}

/// Whoever waits for stderr to be read must not keep files aside.
#[test]
fn nothing_is_printed_while_files_are_aside() {
    let (it, files) = InUse::with_three();
    let command = prune_command(&it.world, ["-v"]);
    let run = finish(&mut under_strace(&it.world, ["--trace=renameat2,unlinkat,write"], &command)).exits(0);
    assert_eq!(with_outcome(&run, "removed"), files.into());
    let calls = traced_calls(&it.world);
    let at = |call| calls.iter().position(|it| it == call).unwrap();
    let (first, last) = (at("renameat2"), calls.iter().rposition(|it| it == "unlinkat").unwrap());
    assert!(at("write") < first && !calls[first..last].iter().any(|it| it == "write"), "{calls:?}");
}

/// As a pager that somebody has left open.
#[test]
fn a_report_that_nobody_reads_keeps_no_other_prune_from_running() {
    let it = of_a_long_report();
    let (reader, writer) = std::io::pipe().unwrap();
    let mut command = prune_command(&it.world, NO_ARGS);
    let mut first = command.stdout(writer).spawn().unwrap();
    wait_until("the first prune removes all", || it.world.cache_names().len() == 1);
    wait_until("another prune runs", || it.world.prune(NO_ARGS).code == 0);
    assert_eq!(first.try_wait().unwrap(), None, "the report was read, or is too short");
    drop((reader, command));
    assert_eq!(first.wait().unwrap().code(), Some(0));
}
