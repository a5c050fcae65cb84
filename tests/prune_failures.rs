//! What cannot be removed is named with its cause, and the others go.

use std::os::unix::fs::MetadataExt as _;
use std::process::Command;

use crate::common::prune::{
    InUse, Running, aside, finish, inject, lock_file, names, plain_file, prune_command, under_strace,
    wait_until, with_outcome,
};
#[cfg(target_arch = "x86_64")]
use crate::common::steps::{self, Action, Watch};
use crate::common::{DAY, NO_ARGS, Run, Snapshot, overlay};

#[test]
fn a_file_whose_rename_or_unlink_is_refused_is_named_with_the_cause_and_the_others_go() {
    for (action, words) in [
        ("unlinkat:error=EPERM:when=2", "Operation not permitted"),
        ("unlinkat:error=EROFS:when=2", "mounted read-only: mount it for writing"),
        ("renameat2:error=EROFS:when=2", "mounted read-only: mount it for writing"),
        ("renameat2:error=ENOSPC:when=2", "the filesystem is full: free a little space by hand"),
        ("renameat2:error=EDQUOT:when=2", "the filesystem is full: free a little space by hand"),
    ] {
        let (it, files) = InUse::with_three();
        let before = Snapshot::of(&it.world.base(&files[1]));
        let run = finish(&mut it.injected(action, &it.world.path("_base"), &[])).exits(1);
        it.only_this_stays(&run, &files[1], "failed", words);
        run.told(&files[1], "failed", &["Failed to remove "]);
        assert_eq!(
            run.stdout.contains("check who owns the directory"),
            words == "Operation not permitted",
            "{run:#?}"
        );
        before.assert_same(&Snapshot::of(&it.world.base(&files[1])));
    }
}

/// The filesystem cannot rename without replacing: prune looks before it renames. What has the name when a file is to be
/// put back is another file, or the same one by a hard link.
#[test]
fn without_rename_noreplace_files_are_set_aside_all_the_same_and_nothing_is_replaced() {
    for (errno, is_link) in [("EINVAL", false), ("EINVAL", true), ("ENOSYS", false), ("EOPNOTSUPP", false)] {
        let (it, files) = InUse::with_three();
        let base = it.world.base(&files[1]);
        let disk = it.world.outside().join("disk");
        overlay(&disk, &base);
        let action = format!("renameat2:error={errno}");
        let mut prune = it.injected(&action, &it.world.path("_base"), &["--settle", "700ms"]);
        let prune = Running::start(&mut prune);
        wait_until("prune sets the files aside", || aside(&it.world, &files[2]).exists());
        if is_link {
            fs_err::hard_link(aside(&it.world, &files[1]), &base).unwrap();
        } else {
            fs_err::rename(plain_file(&it.world, "new", 3 * DAY), &base).unwrap();
        }
        let inode = fs_err::metadata(&base).unwrap().ino();
        // What makes prune put the file back.
        fs_err::rename(&disk, it.world.path("instance-00000001/disk.new")).unwrap();
        it.only_this_stays(&prune.finish().exits(0), &files[1], "changed", "made again meanwhile");
        assert_eq!(fs_err::metadata(&base).unwrap().ino(), inode);
    }
}

/// What cannot be put back stays set aside, and the report says so.
#[test]
fn a_file_that_cannot_be_put_back_is_a_failure_and_the_next_prune_puts_it_back() {
    let (it, files) = InUse::with_three();
    let open = fs_err::File::open(it.world.base(&files[1])).unwrap();
    // After three renames aside.
    let run = finish(&mut it.injected("renameat2:error=EIO:when=4", &it.world.path("_base"), &[])).exits(1);
    run.told(&files[1], "failed", &["stays set aside", "run prune again"]);
    let explained = it.world.explain(NO_ARGS).exits(0);
    assert!(explained.warnings().contains(&"set_aside_found".to_owned()), "{explained:#?}");
    drop(open);
    it.goes(&files[1]);
}

#[test]
fn a_failure_is_reported_in_tables_too() {
    let (it, files) = InUse::with_three();
    let prune = prune_command(&it.world, NO_ARGS);
    let mut table = Command::new(prune.get_program());
    table.args(prune.get_args().map(|arg| if arg == "json" { "table".as_ref() } else { arg }));
    let action = inject("unlinkat:error=EPERM:when=2", &it.world.path("_base"));
    let run = finish(&mut under_strace(&it.world, action, &table)).exits(1);
    let said = format!("{}{}", run.stdout, run.stderr).split_whitespace().collect::<Vec<_>>().join(" ");
    for words in ["Failed to remove", "Operation not permitted", &files[1]] {
        assert!(said.contains(words), "{run:#?}");
    }
}

#[test]
fn a_file_whose_lock_cannot_be_taken_fails_and_the_others_go() {
    let (it, files) = InUse::with_three();
    let lock = lock_file(&it.world, &files[1]);
    fs_err::create_dir(&lock).unwrap();
    it.only_this_stays(&it.world.prune(NO_ARGS).exits(1), &files[1], "failed", "lock");

    fs_err::remove_dir(&lock).unwrap();
    it.three_files();
    nix::unistd::mkfifo(&lock, nix::sys::stat::Mode::S_IRWXU).unwrap();
    it.only_this_stays(&it.world.prune(NO_ARGS).exits(1), &files[1], "failed", "not a regular file");

    fs_err::remove_file(&lock).unwrap();
    it.three_files();
    fs_err::write(&lock, "").unwrap();
    let run = finish(&mut it.injected("fcntl:error=ENOLCK", &lock, &[])).exits(1);
    it.only_this_stays(&run, &files[1], "failed", "gives no locks: check its lock service");

    // The run's own lock: that is no other prune.
    let run = it.world.path("locks/imagecache-prune.lock");
    finish(&mut it.injected("flock:error=ENOLCK", &run, &[])).refused(&["cannot lock", "gives no locks"]);
}

#[test]
fn a_file_of_which_the_filesystem_cannot_say_whether_it_is_open_fails_and_the_others_go() {
    for (errno, words) in [("ENOLCK", "No locks available"), ("EINVAL", "Invalid argument")] {
        let (it, files) = InUse::with_three();
        let action = format!("fcntl:error={errno}");
        let run = finish(&mut it.injected(&action, &aside(&it.world, &files[1]), &[])).exits(1);
        it.only_this_stays(&run, &files[1], "failed", words);
    }
}

/// A prune of three files, and what happens at its first call of that name on the one in the middle, which is aside then.
#[cfg(target_arch = "x86_64")]
fn acted_on(it: &InUse, files: &[String; 3], call: &str, action: Action<'_>) -> Run {
    // The first prune of a path makes other calls.
    it.world.prune(NO_ARGS).exits(0);
    it.three_files();
    let calls = steps::run(&prune_command(&it.world, NO_ARGS), Watch::recording()).calls;
    let aside = aside(&it.world, &files[1]).display().to_string();
    let at = calls.iter().find(|it| it.name() == call && it.on == aside).unwrap();
    it.three_files();
    let ended = steps::run(&prune_command(&it.world, NO_ARGS), Watch::acting(at.place, action));
    assert!(ended.reached.is_some(), "{ended:?}");
    Run { code: ended.code.unwrap(), stdout: ended.stdout, stderr: ended.stderr }
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_file_that_cannot_be_opened_while_it_is_aside_fails_and_the_others_go() {
    let (it, files) = InUse::with_three();
    let run = acted_on(&it, &files, "openat", Action::Fail(nix::errno::Errno::EIO)).exits(1);
    it.only_this_stays(&run, &files[1], "failed", "Input/output error");
}

/// As NFS does where the answer to the first request is lost.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_file_that_is_gone_when_its_removal_fails_is_removed() {
    let (it, files) = InUse::with_three();
    let act = || fs_err::remove_file(aside(&it.world, &files[1])).unwrap();
    let run = acted_on(&it, &files, "unlinkat", Action::stop(act)).exits(0);
    assert_eq!(with_outcome(&run, "removed"), files.into());
}

/// The same, and nova's precaching has fetched the image again by then.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_file_that_is_gone_and_made_again_when_its_removal_fails_is_removed() {
    let (it, files) = InUse::with_three();
    let act = || {
        fs_err::remove_file(aside(&it.world, &files[1])).unwrap();
        plain_file(&it.world, &files[1], DAY / 2);
    };
    let run = acted_on(&it, &files, "unlinkat", Action::stop(act)).exits(0);
    assert_eq!(with_outcome(&run, "removed"), files.clone().into());
    it.has([&files[1]]);
}

/// Somebody has put it back by hand.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_file_that_has_its_name_again_when_its_removal_fails_is_not_removed() {
    let (it, files) = InUse::with_three();
    let act = || fs_err::rename(aside(&it.world, &files[1]), it.world.base(&files[1])).unwrap();
    let run = acted_on(&it, &files, "unlinkat", Action::stop(act)).exits(0);
    it.only_this_stays(&run, &files[1], "changed", "given its name back");
}

/// Without `RENAME_NOREPLACE`, right after the rename: the old file is aside then.
#[test]
fn a_new_file_of_the_name_does_not_hide_that_the_old_one_was_set_aside() {
    let (it, files) = InUse::with_three();
    let inject = ["renameat2:error=EINVAL", "renameat:delay_exit=700000:when=2"];
    let inject = ["--trace=renameat2,renameat".to_owned()]
        .into_iter()
        .chain(inject.map(|it| format!("--inject={it}")));
    let prune = prune_command(&it.world, NO_ARGS);
    let running = Running::start(&mut under_strace(&it.world, inject, &prune));
    wait_until("prune sets the file aside", || aside(&it.world, &files[1]).exists());
    let new = plain_file(&it.world, &files[1], DAY / 2);
    let inode = fs_err::metadata(&new).unwrap().ino();
    it.only_this_stays(&running.finish().exits(0), &files[1], "changed", "made again meanwhile");
    assert_eq!(fs_err::metadata(&new).unwrap().ino(), inode);
}

#[test]
fn an_info_file_that_cannot_be_removed_fails_though_its_file_went() {
    let it = InUse::new();
    let name = "1".repeat(40);
    let info = format!("{name}.info");
    plain_file(&it.world, &name, 2 * DAY);
    plain_file(&it.world, &info, 2 * DAY);
    let run = finish(&mut it.injected("unlinkat:error=EACCES:when=2", &it.world.path("_base"), &[])).exits(1);
    run.told(&name, "removed", &[]);
    run.told(&info, "failed", &["Permission denied"]);
    it.goes(&info);
}

#[test]
fn a_file_in_use_that_cannot_be_touched_is_a_warning() {
    let (it, files) = InUse::with_three();
    let used = it.world.base(&it.used);
    let run = finish(&mut it.injected("utimensat:error=EPERM", &used, &[])).exits(0);
    assert_eq!(with_outcome(&run, "removed"), files.into());
    for words in [used.display().to_string().as_str(), ": Operation not permitted (os", "check who owns it"] {
        assert!(run.stderr.contains(words), "{run:#?}");
    }
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
    let inode = || fs_err::metadata(&lock).map(|it| it.ino()).ok();
    let before = inode();
    for _ in 0..2 {
        let run = finish(&mut it.injected("unlinkat:error=EPERM", &it.world.path("_base"), &[])).exits(1);
        run.told(&name, "failed", &[]);
        assert_eq!(inode(), before, "nova's lock file is another");
    }
    it.goes(&name);
    assert!(!names(&it.world.path("locks")).contains(&format!("nova-{name}")));
}
