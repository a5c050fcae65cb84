//! What cannot be removed is named with its cause, and the others go.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::process::Command;

use crate::common::prune::{
    InUse, Running, aside, chown_all, error, finish, inject, lock_file, names, plain_file, prune_command,
    three_files, under_strace, wait_until, with_outcome,
};
use crate::common::{DAY, Run, Snapshot};

const NO_ARGS: [&str; 0] = [];

/// Checks that one file could not be removed, that the report says why, and that the others went.
#[track_caller]
fn only_this_stays(it: &InUse, run: &Run, name: &str, outcome: &str, cause: &str) {
    assert_eq!(run.code, 1, "{run:#?}");
    assert_eq!(run.outcome(name), outcome, "{run:#?}");
    let error = error(run, name);
    assert!(error.contains(&it.world.base(name).display().to_string()), "{error}");
    assert!(error.contains(cause), "{error}");
    assert_eq!(with_outcome(run, "removed").len(), 2, "{run:#?}");
    assert_eq!(names(&it.world.path("_base")), [it.used.clone(), name.to_owned()].into());
}

// What cannot be removed

#[test]
fn a_file_whose_rename_or_unlink_is_refused_is_named_with_the_cause_and_the_others_go() {
    for (action, words) in [
        ("unlinkat:error=EPERM:when=2", "Operation not permitted"),
        ("unlinkat:error=EROFS:when=2", "mounted read-only: mount it for writing"),
        ("renameat2:error=EROFS:when=2", "mounted read-only: mount it for writing"),
        ("renameat2:error=ENOSPC:when=2", "the filesystem is full: free a little space by hand"),
        ("renameat2:error=EDQUOT:when=2", "the filesystem is full: free a little space by hand"),
    ] {
        let it = InUse::new();
        let files = three_files(&it);
        let before = Snapshot::of(&it.world.base(&files[1]));
        let cache_dir = it.world.path("_base");
        let command = prune_command(&it.world, NO_ARGS);
        let run = finish(&mut under_strace(&it.world, inject(action, &cache_dir), &command));
        only_this_stays(&it, &run, &files[1], "failed", words);
        let error = error(&run, &files[1]);
        assert!(error.contains("Failed to remove "), "{error}");
        assert_eq!(error.contains("as root"), words == "Operation not permitted", "{error}");
        before.assert_same(&Snapshot::of(&it.world.base(&files[1])));
    }
}

/// The filesystem cannot rename without replacing: prune looks before it renames.
#[test]
fn without_rename_noreplace_files_are_set_aside_all_the_same_and_nothing_is_replaced() {
    for errno in ["EINVAL", "ENOSYS", "EOPNOTSUPP"] {
        let it = InUse::new();
        let files = three_files(&it);
        let new = plain_file(&it.world, "new", 3 * DAY);
        let inode = fs_err::metadata(&new).unwrap().ino();
        let action = format!("renameat2:error={errno}");
        let cache_dir = it.world.path("_base");
        let args = ["--settle", "700ms"];
        let command = prune_command(&it.world, args);
        let prune = Running::start(&mut under_strace(&it.world, inject(&action, &cache_dir), &command));
        wait_until("prune sets the files aside", || aside(&it.world, &files[2]).exists());
        fs_err::rename(&new, it.world.base(&files[1])).unwrap();
        let run = prune.finish().exits(0);
        assert_eq!(run.outcome(&files[1]), "changed", "{run:#?}");
        assert_eq!(fs_err::metadata(it.world.base(&files[1])).unwrap().ino(), inode);
        assert_eq!(names(&it.world.path("_base")), [it.used.clone(), files[1].clone()].into());
    }
}

/// What cannot be put back stays set aside, and the report says so.
#[test]
fn a_file_that_cannot_be_put_back_is_a_failure_and_the_next_prune_puts_it_back() {
    let it = InUse::new();
    let files = three_files(&it);
    let cache_dir = it.world.path("_base");
    let open = fs_err::File::open(it.world.base(&files[1])).unwrap();
    // After three renames aside.
    let action = inject("renameat2:error=EIO:when=4", &cache_dir);
    let run = finish(&mut under_strace(&it.world, action, &prune_command(&it.world, NO_ARGS))).exits(1);
    assert_eq!(run.outcome(&files[1]), "failed");
    let error = error(&run, &files[1]);
    assert!(error.contains("stays set aside") && error.contains("run prune again"), "{error}");
    let explained = it.world.explain(NO_ARGS).exits(0);
    assert!(explained.warnings().contains(&"set_aside_found".to_owned()), "{explained:#?}");
    drop(open);
    assert_eq!(it.world.prune(NO_ARGS).exits(0).outcome(&files[1]), "removed");
}

#[test]
fn a_failure_is_reported_in_tables_too() {
    let it = InUse::new();
    let files = three_files(&it);
    let cache_dir = it.world.path("_base");
    let action = inject("unlinkat:error=EPERM:when=2", &cache_dir);
    let mut table = prune_command(&it.world, NO_ARGS);
    let args: Vec<_> =
        table.get_args().map(|arg| if arg == "json" { "table".into() } else { arg.to_owned() }).collect();
    table = Command::new(table.get_program());
    table.args(args);
    let run = finish(&mut under_strace(&it.world, action, &table)).exits(1);
    let said = format!("{}{}", run.stdout, run.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["Failed to remove", "Operation not permitted"] {
        assert!(said.contains(words), "{run:#?}");
    }
    assert!(run.stdout.contains(&files[1]) || run.stderr.contains(&files[1]), "{run:#?}");
}

#[test]
fn without_write_permission_on_the_cache_directory_every_file_fails_and_stays() {
    let it = InUse::new();
    let files = three_files(&it);
    if nix::unistd::geteuid().is_root() {
        // The cache stays root's.
        chown_all(&it.world.path("locks"), 65534);
        std::os::unix::fs::chown(it.world.instances_path(), Some(65534), Some(65534)).unwrap();
    }
    let read_only = |mode| {
        fs_err::set_permissions(it.world.path("_base"), PermissionsExt::from_mode(mode)).unwrap();
    };
    read_only(0o555);
    let before = Snapshot::of(&it.world.path("_base"));
    let mut command = it.world.as_nobody();
    command.args(["prune", "-f", "json", "--host", crate::common::HOST, "-p"]).arg(it.world.instances_path());
    let run = Run::of(command.arg("--inventory").arg(it.world.outside().join("inventory.json"))).exits(1);
    if nix::unistd::geteuid().is_root() {
        before.assert_same(&Snapshot::of(&it.world.path("_base")));
        assert!(run.warnings().contains(&"touch_failed".to_owned()), "{run:#?}");
    }
    read_only(0o755);
    for name in files {
        assert_eq!(run.outcome(&name), "failed");
        let error = error(&run, &name);
        for words in ["Failed to remove", "Permission denied", &it.world.base(&name).display().to_string()] {
            assert!(error.contains(words), "{error}");
        }
    }
}

#[test]
fn without_write_permission_on_the_locks_nothing_is_done() {
    let it = InUse::new();
    three_files(&it);
    fs_err::set_permissions(it.world.path("locks"), PermissionsExt::from_mode(0o555)).unwrap();
    fs_err::set_permissions(it.world.path("_base"), PermissionsExt::from_mode(0o777)).unwrap();
    let before = Snapshot::of(&it.world.instances_path());
    let mut command = it.world.as_nobody();
    command.args(["prune", "-f", "json", "--host", crate::common::HOST, "-p"]).arg(it.world.instances_path());
    let run = Run::of(command.arg("--inventory").arg(it.world.outside().join("inventory.json")));
    run.refused(&["Permission denied", "imagecache-prune.lock"]);
    before.assert_same(&Snapshot::of(&it.world.instances_path()));
}

#[test]
fn a_file_whose_lock_cannot_be_taken_fails_and_the_others_go() {
    let it = InUse::new();
    let files = three_files(&it);
    fs_err::create_dir(lock_file(&it.world, &files[1])).unwrap();
    let run = it.world.prune(NO_ARGS);
    only_this_stays(&it, &run, &files[1], "failed", "lock");

    fs_err::remove_dir(lock_file(&it.world, &files[1])).unwrap();
    three_files(&it);
    nix::unistd::mkfifo(&lock_file(&it.world, &files[1]), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = it.world.prune(NO_ARGS);
    only_this_stays(&it, &run, &files[1], "failed", "not a regular file");

    fs_err::remove_file(lock_file(&it.world, &files[1])).unwrap();
    three_files(&it);
    fs_err::write(lock_file(&it.world, &files[1]), "").unwrap();
    let lock = lock_file(&it.world, &files[1]);
    let command = prune_command(&it.world, NO_ARGS);
    let run = finish(&mut under_strace(&it.world, inject("fcntl:error=ENOLCK", &lock), &command));
    only_this_stays(&it, &run, &files[1], "failed", "gives no locks: check its lock service");
}

#[test]
fn a_file_of_which_the_filesystem_cannot_say_whether_it_is_open_fails_and_the_others_go() {
    for (errno, words) in [("ENOLCK", "No locks available"), ("EINVAL", "Invalid argument")] {
        let it = InUse::new();
        let files = three_files(&it);
        let path = aside(&it.world, &files[1]);
        let action = format!("fcntl:error={errno}");
        let command = prune_command(&it.world, NO_ARGS);
        let run = finish(&mut under_strace(&it.world, inject(&action, &path), &command));
        only_this_stays(&it, &run, &files[1], "failed", words);
    }
}

#[test]
fn an_info_file_that_cannot_be_removed_fails_though_its_file_went() {
    let it = InUse::new();
    let name = "1".repeat(40);
    let info = format!("{name}.info");
    plain_file(&it.world, &name, 2 * DAY);
    plain_file(&it.world, &info, 2 * DAY);
    let cache_dir = it.world.path("_base");
    let action = inject("unlinkat:error=EACCES:when=2", &cache_dir);
    let run = finish(&mut under_strace(&it.world, action, &prune_command(&it.world, NO_ARGS))).exits(1);
    assert_eq!(run.outcome(&name), "removed");
    assert_eq!(run.outcome(&info), "failed");
    assert!(error(&run, &info).contains("Permission denied"), "{run:#?}");
    assert_eq!(it.world.prune(NO_ARGS).exits(0).outcome(&info), "removed");
}

#[test]
fn a_file_in_use_that_cannot_be_touched_is_a_warning() {
    let it = InUse::new();
    let files = three_files(&it);
    let used = it.world.base(&it.used);
    let action = inject("utimensat:error=EPERM", &used);
    let run = finish(&mut under_strace(&it.world, action, &prune_command(&it.world, NO_ARGS))).exits(0);
    assert_eq!(with_outcome(&run, "removed"), files.into());
    assert!(run.stderr.contains(&used.display().to_string()), "{run:#?}");
    assert!(run.stderr.contains("Operation not permitted"), "{run:#?}");
    assert_eq!(run.json()["summary"]["touched"], 0);
}

/// Only after a removal may a lock file go.
#[test]
fn the_lock_file_of_a_file_that_cannot_be_removed_stays_run_after_run() {
    let it = InUse::new();
    let name = "1".repeat(40);
    plain_file(&it.world, &name, 2 * DAY);
    let lock = lock_file(&it.world, &name);
    fs_err::write(&lock, "").unwrap();
    let inode = fs_err::metadata(&lock).unwrap().ino();
    let cache_dir = it.world.path("_base");
    for _ in 0..2 {
        let action = inject("unlinkat:error=EPERM", &cache_dir);
        let run = finish(&mut under_strace(&it.world, action, &prune_command(&it.world, NO_ARGS))).exits(1);
        assert_eq!(run.outcome(&name), "failed");
        assert_eq!(
            fs_err::metadata(&lock).map(|it| it.ino()).ok(),
            Some(inode),
            "nova's lock file is another"
        );
    }
    it.world.prune(NO_ARGS).exits(0);
    assert!(!lock.exists());
}
