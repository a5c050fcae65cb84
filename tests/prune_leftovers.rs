//! What a killed prune had set aside is put back by the next one, before anything else; and signals that end a prune in
//! order, so that nothing is left.

use std::fs::Permissions;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;
use std::time::Instant;

use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nova_imagecache::cache_name::SET_ASIDE;
use serde_json::json;

use crate::common::prune::{
    InUse, Running, aside, chown_all, finish, hold_lock, lock_file, nova_user, plain_file, prune_command,
    wait_until, with_outcome,
};
use crate::common::{DAY, NO_ARGS, Run, list, tool};

/// Three files that a killed prune left set aside.
fn left() -> (InUse, [String; 3]) {
    let (it, files) = InUse::with_three();
    drop(it.aside(&files[2], NO_ARGS));
    it.has(files.each_ref().map(|name| format!("{SET_ASIDE}{name}")));
    (it, files)
}

#[test]
fn what_a_killed_prune_left_is_told_and_the_next_one_puts_it_back_and_finishes() {
    let (it, files) = left();
    for run in [it.world.scan(), it.world.explain(NO_ARGS), it.world.dry_run(NO_ARGS)] {
        let run = run.exits(0);
        assert!(run.warnings().contains(&"set_aside_found".to_owned()), "{run:#?}");
        assert!(
            run.stderr.contains("has set 3 files aside (") && run.stderr.contains("run prune again"),
            "{run:#?}"
        );
        let aside = aside(&it.world, &files[0]).file_name().unwrap().to_str().unwrap().to_owned();
        assert_eq!(run.file(&aside)["kind"], "set_aside");
    }
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!((with_outcome(&run, "removed"), run.stderr.as_str()), (files.into(), ""));
    it.has(NO_ARGS);
}

#[test]
fn what_a_killed_prune_left_is_found_by_its_own_name() {
    let (it, files) = left();
    let path = it.world.base(&files[1]).display().to_string();
    for word in [&files[1], &files[1][..8], &path] {
        let aside = format!("{SET_ASIDE}{}", files[1]);
        let explain = it.world.explain([word]).exits(0);
        assert_eq!((list(&explain.json()["files"]).len(), explain.verdict(&aside).as_str()), (1, "ignored"));
        let dry = it.world.dry_run([word]).exits(0);
        assert_eq!(dry.outcome(&aside), "kept");
        for run in [explain, dry] {
            assert_eq!(run.warnings(), ["set_aside_found"], "{word}: {run:#?}");
        }
    }
}

/// Whatever the guards say then, and whatever has become of the lock files.
#[test]
fn a_prune_that_is_refused_puts_it_back_all_the_same() {
    for with_locks in [true, false] {
        let (it, files) = left();
        let inode = fs_err::metadata(aside(&it.world, &files[1])).unwrap().ino();
        if !with_locks {
            fs_err::remove_dir_all(it.world.path("locks")).unwrap();
        }
        it.world.inventory(&json!([]));
        it.world.prune(NO_ARGS).refused(&["no instance in the inventory has"]);
        it.has(files.clone());
        assert_eq!(fs_err::metadata(it.world.base(&files[1])).unwrap().ino(), inode);
    }
}

#[test]
fn it_is_put_back_under_novas_lock_and_what_is_in_use_again_stays() {
    let (it, files) = left();
    let lock = hold_lock(&it.world, &files[1]);
    it.world.instance_disk("2b9e", &files[0]);
    let start = Instant::now();
    let run = it.world.prune(["--lock-wait", "300ms"]).exits(0);
    assert!(start.elapsed().as_millis() >= 300);
    assert_eq!((run.verdict(&files[0]).as_str(), run.outcome(&files[2]).as_str()), ("in_use", "removed"));
    assert!(run.warnings().contains(&"set_aside_left".to_owned()), "{run:#?}");
    for words in [
        "stays set aside",
        "another process holds nova's lock",
        &aside(&it.world, &files[1]).display().to_string(),
    ] {
        assert!(run.stderr.contains(words), "{run:#?}");
    }
    assert!(aside(&it.world, &files[1]).exists());
    drop(lock);
    it.goes(&files[1]);
}

/// What it does with one that somebody has open is told in `prune_second_look`.
#[test]
fn where_a_new_file_has_the_name_what_was_aside_is_dropped() {
    let (it, files) = left();
    let inode = fs_err::metadata(plain_file(&it.world, &files[1], DAY / 2)).unwrap().ino();
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(
        (run.verdict(&files[1]), run.warnings()),
        ("too_young".into(), vec!["set_aside_dropped".into()])
    );
    it.has([&files[1]]);
    assert_eq!(fs_err::metadata(it.world.base(&files[1])).unwrap().ino(), inode);
}

/// Only a file can take its place.
#[test]
fn where_something_else_has_the_name_what_was_aside_stays() {
    let acts: [fn(&Path); 3] = [
        |path| fs_err::create_dir(path).unwrap(),
        |path| symlink("/nowhere", path).unwrap(),
        |path| nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap(),
    ];
    for act in acts {
        let (it, files) = left();
        act(&it.world.base(&files[1]));
        let run = it.world.prune(NO_ARGS).exits(0);
        assert!(run.stderr.contains("or a special file has its name now: move that away"), "{run:#?}");
        assert!(aside(&it.world, &files[1]).exists());

        let (it, files) = InUse::with_three();
        let run = it.while_aside(&files[2], &[], || act(&it.world.base(&files[1]))).exits(1);
        run.told(&files[1], "failed", &["stays set aside", "has its name now", "move that away"]);
        assert!(aside(&it.world, &files[1]).exists());
    }
}

#[test]
fn a_directory_or_a_fifo_of_such_a_name_is_not_touched() {
    let it = InUse::new();
    let names = ["0", "1"].map(|digit| format!("{SET_ASIDE}{}", digit.repeat(40)));
    fs_err::create_dir(it.world.base(&names[0])).unwrap();
    nix::unistd::mkfifo(&it.world.base(&names[1]), Mode::S_IRWXU).unwrap();
    let run = it.world.prune(NO_ARGS).exits(0);
    assert!(names.iter().all(|name| run.file(name)["kind"] == "other"), "{run:#?}");
    it.has(names);
}

/// Whatever ends the run then: there is no report.
#[test]
fn what_was_dropped_is_told_where_the_run_ends_with_an_error() {
    for args in [["no-such-file"].as_slice(), &["--keep", "abc", "no-such-file"]] {
        let (it, files) = left();
        plain_file(&it.world, &files[1], DAY / 2);
        let run = it.world.prune(args).exits(2);
        assert!(
            run.stderr.contains("for a new file has its name") && run.stderr.contains(&files[1]),
            "{run:#?}"
        );
    }
    let (it, files) = left();
    plain_file(&it.world, &files[1], DAY / 2);
    let inventory = it.world.file("bad.json", "[{\"uuid\": 3}]");
    let run = it.world.prune(["--inventory".as_ref(), inventory.as_os_str()]).exits(2);
    assert!(run.stderr.contains("row 1") && run.stderr.contains(&files[1]), "{run:#?}");
}

#[test]
fn all_are_put_back_however_few_files_may_be_open() {
    const FILES: usize = 100;
    let it = InUse::new();
    let names: Vec<String> = (0..FILES).map(|n| format!("{n:040x}")).collect();
    for name in &names {
        plain_file(&it.world, &format!("{SET_ASIDE}{name}"), DAY / 2);
    }
    let command = prune_command(&it.world, NO_ARGS);
    let mut limited = Command::new(tool("prlimit", "util-linux"));
    limited.arg("--nofile=40:299").arg(command.get_program()).args(command.get_args());
    let run = finish(&mut limited).exits(0);
    assert_eq!(run.stderr, "");
    it.has(names);
}

/// As nova: whether the name is taken by a file cannot be seen, for what is there is another user's.
#[test]
fn what_cannot_be_put_back_is_warned_of_and_replaces_nothing() {
    let without_noreplace =
        ["strace", "-qq", "-o", "/dev/null", "--trace=renameat2", "--inject=renameat2:error=EINVAL"];
    for wrapper in [&[][..], &without_noreplace] {
        let (it, files) = left();
        chown_all(it.world.outside(), nova_user());
        let new = plain_file(&it.world, &files[1], DAY);
        fs_err::set_permissions(&new, Permissions::from_mode(0o600)).unwrap();
        let inode = fs_err::metadata(&new).unwrap().ino();
        let mut command = it.world.as_user(nova_user(), wrapper);
        let prune = prune_command(&it.world, ["--settle", "0"]);
        let run = Run::of(command.args(prune.get_args()));
        assert!(run.warnings().contains(&"set_aside_left".to_owned()), "{run:#?}");
        assert!(run.stderr.contains("Permission denied") && aside(&it.world, &files[1]).exists(), "{run:#?}");
        assert_eq!(fs_err::metadata(&new).unwrap().ino(), inode);
    }
}

/// At each call on the file or its name, a prune on another host sets the new file aside, for no lock excludes it.
#[cfg(target_arch = "x86_64")]
#[test]
fn what_was_aside_is_not_dropped_for_a_file_that_another_prune_sets_aside() {
    use crate::common::steps::{Action, Call, Watch, run};

    let scene = || {
        let (it, files) = left();
        plain_file(&it.world, &files[1], DAY / 2);
        (it, files[1].clone())
    };
    let calls = {
        let (it, _) = scene();
        run(&prune_command(&it.world, NO_ARGS), Watch::recording()).calls
    };
    let mut acted = 0;
    let is_on_it = |it: &&Call| it.on.contains(&"1".repeat(40));
    // Up to the last look before it is dropped: after that only a lock could help.
    let drop = calls.iter().position(|it| is_on_it(&it) && it.name() == "unlinkat").unwrap();
    let last = calls[..drop].iter().rposition(|it| is_on_it(&it) && it.name() == "openat").unwrap();
    for call in calls[..=last].iter().filter(is_on_it) {
        let (it, name) = scene();
        let (new, aside) = (it.world.base(&name), aside(&it.world, &name));
        let act = || fs_err::rename(&new, &aside).unwrap();
        let ended = run(&prune_command(&it.world, NO_ARGS), Watch::acting(call.place, Action::stop(act)));
        acted += usize::from(ended.reached.is_some());
        assert!(new.exists() && !aside.exists(), "{ended:?}");
    }
    assert!(acted > 5, "{acted} calls");
}

/// Right before this one would, for no lock excludes it.
#[cfg(target_arch = "x86_64")]
#[test]
fn what_a_prune_on_another_host_puts_back_first_is_nothing_to_warn_of() {
    use crate::common::steps::{Action, Watch, run};

    let calls = run(&prune_command(&left().0.world, NO_ARGS), Watch::recording()).calls;
    let first = calls.iter().find(|it| it.name().starts_with("renameat")).unwrap();
    let (it, files) = left();
    let act = || fs_err::rename(aside(&it.world, &files[0]), it.world.base(&files[0])).unwrap();
    let ended = run(&prune_command(&it.world, NO_ARGS), Watch::acting(first.place, Action::stop(act)));
    assert!(ended.reached.is_some_and(|call| call.on.contains(&files[0])), "{:?}", ended.stderr);
    assert_eq!((ended.code, ended.stderr.as_str()), (Some(0), ""));
    it.has(NO_ARGS);
}

// Signals

/// A prune of two files, the second in a later batch, in its wait. What runs the tests may have some signals ignored, as a
/// shell has for what it puts into the background.
fn waiting(with: &str) -> (InUse, Running, [String; 3]) {
    let (it, files) = InUse::with_three();
    let prune = prune_command(&it.world, ["-v"]);
    // Two descriptors a file, and the spare ones.
    let limit = format!("ulimit -n 259; exec {with} \"$0\" \"$@\"");
    let mut command = Command::new("sh");
    command.args(["-c", &limit]).arg(prune.get_program()).args(prune.get_args());
    let stopped = it.stopped(&mut command, &files[0]);
    (it, stopped, files)
}

const HEARD: &str = "env --default-signal=INT,TERM,HUP";

#[test]
fn a_signal_puts_back_what_is_set_aside_and_prints_the_report() {
    for signal in [Signal::SIGTERM, Signal::SIGINT, Signal::SIGHUP] {
        let (it, stopped, files) = waiting(HEARD);
        let inode = fs_err::metadata(aside(&it.world, &files[0])).unwrap().ino();
        stopped.signal(signal);
        let start = Instant::now();
        let run = stopped.finish().exits(1);
        println!("{signal}: ended after {:?}", start.elapsed());
        assert_eq!(with_outcome(&run, "not_reached"), files.clone().into(), "{run:#?}");
        assert!(run.warnings().contains(&"interrupted".to_owned()));
        assert!(run.stderr.contains(&format!("interrupted by {signal}")), "{run:#?}");
        run.told(&files[0], "not_reached", &[signal.as_str()]);
        assert_eq!(fs_err::metadata(it.world.base(&files[0])).unwrap().ino(), inode);
        it.has(files.clone());
        // The second batch is not begun.
        assert!(!lock_file(&it.world, &files[2]).exists());
        assert_eq!(with_outcome(&it.world.prune(NO_ARGS).exits(0), "removed"), files.into());
    }
}

#[test]
fn a_signal_ends_the_wait_for_locks() {
    let (it, files) = InUse::with_three();
    let _lock = hold_lock(&it.world, &files[1]);
    let prune = it.judged_by(["--lock-wait", "60s"]);
    wait_until("prune waits", || lock_file(&it.world, &files[2]).exists());
    prune.signal(Signal::SIGTERM);
    let run = prune.finish().exits(1);
    assert_eq!(with_outcome(&run, "not_reached"), files.into(), "{run:#?}");
}

#[test]
fn a_second_signal_ends_it_at_once_and_the_next_prune_puts_back() {
    let (it, stopped, files) = waiting(HEARD);
    // Both are pending when it goes on; whichever comes first, the other ends it.
    stopped.signal(Signal::SIGTERM);
    stopped.signal(Signal::SIGINT);
    let signal = stopped.end().status.signal();
    assert!([Some(2), Some(15)].contains(&signal), "{signal:?}");
    assert!(aside(&it.world, &files[0]).exists());
    assert_eq!(with_outcome(&it.world.prune(NO_ARGS).exits(0), "removed"), files.into());
}

#[test]
fn under_nohup_a_hangup_is_ignored() {
    let (_it, stopped, files) = waiting("nohup");
    stopped.signal(Signal::SIGHUP);
    assert_eq!(with_outcome(&stopped.finish().exits(0), "removed"), files.into());
}
