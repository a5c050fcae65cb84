//! What cannot be removed, and what has changed between verdict and unlink: named with its cause, the others go.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::SystemTime;

use crate::common::prune::{
    InUse, chown_all, error, finish, hold_lock, inject, is_locked, lock_file, names, plain_file,
    prune_command, under_strace, wait_until, with_outcome,
};
use crate::common::{DAY, Run, Snapshot, mtime, overlay, set_mtime, tool};
use nix::sys::stat::Mode;
use serde_json::json;

const NO_ARGS: [&str; 0] = [];

/// Three files to remove; what is done is done to the one in the middle, so that there is one before and one after.
fn three_files(it: &InUse) -> [String; 3] {
    let names = ["0", "1", "2"].map(|digit| digit.repeat(40));
    names.iter().for_each(|name| drop(plain_file(&it.world, name, 2 * DAY)));
    names
}

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
fn a_file_whose_unlink_is_refused_is_named_with_the_cause_and_the_others_go() {
    for (nth, file) in [(1, 0), (2, 1), (3, 2)] {
        let it = InUse::new();
        let files = three_files(&it);
        let before = Snapshot::of(&it.world.base(&files[file]));
        let action = format!("unlinkat:error=EPERM:when={nth}");
        let cache_dir = it.world.path("_base");
        let command = prune_command(&it.world, NO_ARGS);
        let run = finish(&mut under_strace(&it.world, inject(&action, &cache_dir), &command));
        only_this_stays(&it, &run, &files[file], "failed", "Operation not permitted");
        assert!(error(&run, &files[file]).contains("Failed to remove "), "{run:#?}");
        before.assert_same(&Snapshot::of(&it.world.base(&files[file])));
    }
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

/// Where the filesystem has such a flag and we may set it; else the refusal is strace's.
#[test]
fn an_immutable_file_stays_and_the_others_go() {
    struct Immutable(PathBuf);
    impl Drop for Immutable {
        fn drop(&mut self) {
            chattr("-i", &self.0);
        }
    }
    fn chattr(flag: &str, path: &Path) -> bool {
        Command::new(tool("chattr", "e2fsprogs")).arg(flag).arg(path).output().unwrap().status.success()
    }
    let it = InUse::new();
    let files = three_files(&it);
    let path = it.world.base(&files[1]);
    let run = if chattr("+i", &path) {
        let _immutable = Immutable(path);
        it.world.prune(NO_ARGS)
    } else {
        let cache_dir = it.world.path("_base");
        let action = inject("unlinkat:error=EPERM:when=2", &cache_dir);
        finish(&mut under_strace(&it.world, action, &prune_command(&it.world, NO_ARGS)))
    };
    only_this_stays(&it, &run, &files[1], "failed", "Operation not permitted");
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
    plain_file(&it.world, &files[0], 2 * DAY);
    plain_file(&it.world, &files[2], 2 * DAY);
    fs_err::write(lock_file(&it.world, &files[1]), "").unwrap();
    let lock = lock_file(&it.world, &files[1]);
    let command = prune_command(&it.world, NO_ARGS);
    let run = finish(&mut under_strace(&it.world, inject("fcntl:error=ENOLCK", &lock), &command));
    only_this_stays(&it, &run, &files[1], "failed", "No locks available");
}

#[test]
fn a_file_of_which_the_filesystem_cannot_say_whether_it_is_open_fails_and_the_others_go() {
    for (errno, words) in [("ENOLCK", "No locks available"), ("EINVAL", "Invalid argument")] {
        let it = InUse::new();
        let files = three_files(&it);
        let path = it.world.base(&files[1]);
        let action = format!("fcntl:error={errno}");
        let command = prune_command(&it.world, NO_ARGS);
        let run = finish(&mut under_strace(&it.world, inject(&action, &path), &command));
        only_this_stays(&it, &run, &files[1], "failed", words);
    }
}

/// Whoever can write to `locks` must not be able to lead root to another file.
#[test]
fn a_lock_file_that_is_a_link_leads_nowhere() {
    let it = InUse::new();
    let files = three_files(&it);
    let victim = it.world.file("victim", "precious");
    std::os::unix::fs::symlink(&victim, lock_file(&it.world, &files[0])).unwrap();
    let absent = it.world.outside().join("absent");
    std::os::unix::fs::symlink(&absent, lock_file(&it.world, &files[1])).unwrap();
    let before = Snapshot::of(&victim);
    let run = it.world.prune(NO_ARGS).exits(1);
    assert_eq!(run.outcome(&files[0]), "failed");
    assert_eq!(run.outcome(&files[1]), "failed");
    assert_eq!(run.outcome(&files[2]), "removed");
    before.assert_same(&Snapshot::of(&victim));
    assert!(!absent.exists());
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

/// Only after a removal may a lock file go: nova may have it open already and be about to lock it.
#[test]
fn the_lock_file_of_a_file_that_cannot_be_removed_stays_run_after_run() {
    let it = InUse::new();
    let name = "1".repeat(40);
    plain_file(&it.world, &name, 2 * DAY);
    let lock = lock_file(&it.world, &name);
    fs_err::write(&lock, "").unwrap();
    let inode = fs_err::metadata(&lock).unwrap().ino();
    let cache_dir = it.world.path("_base");
    for _ in 0..3 {
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

// What changes between verdict and unlink

/// Lets prune judge while the lock of a file is held here, does something, and lets go of the lock.
#[track_caller]
fn meanwhile(it: &InUse, name: &str, args: &[&str], act: impl FnOnce()) -> Run {
    let lock = hold_lock(&it.world, name);
    let prune = it.judged_by(["--lock-wait", "20s"].iter().chain(args));
    act();
    drop(lock);
    prune.finish()
}

/// The directory of an instance that is known, whose disk names the used image.
const KNOWN: &str = "instance-00000001";

#[test]
fn a_file_that_has_changed_since_the_verdict_stays_and_the_others_go() {
    type Act = fn(&Path);
    let acts: [(&str, Act); 8] = [
        ("another of the same size and mtime", |path| {
            let (content, time) = (fs_err::read(path).unwrap(), mtime(path));
            let other = path.with_extension("new");
            fs_err::write(&other, content).unwrap();
            set_mtime(&other, time);
            fs_err::rename(other, path).unwrap();
        }),
        ("longer, with the same mtime", |path| {
            let time = mtime(path);
            let file = fs_err::OpenOptions::new().append(true).open(path).unwrap();
            file.set_len(1 << 20).unwrap();
            set_mtime(path, time);
        }),
        ("touched, as nova does", |path| set_mtime(path, SystemTime::now())),
        ("touched back by a nanosecond", |path| {
            set_mtime(path, mtime(path) - std::time::Duration::from_nanos(1))
        }),
        ("an older one", |path| set_mtime(path, mtime(path) - DAY)),
        ("a FIFO", |path| {
            fs_err::remove_file(path).unwrap();
            nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
        }),
        ("a directory", |path| {
            fs_err::remove_file(path).unwrap();
            fs_err::create_dir(path).unwrap();
        }),
        ("a link to another", |path| {
            let other = path.with_file_name(format!("kept-{}", path.file_name().unwrap().display()));
            fs_err::rename(path, path.with_file_name("moved")).unwrap();
            fs_err::write(&other, "other").unwrap();
            std::os::unix::fs::symlink(&other, path).unwrap();
        }),
    ];
    for (what, act) in acts {
        let it = InUse::new();
        let files = three_files(&it);
        let path = it.world.base(&files[1]);
        let mut after = None;
        let run = meanwhile(&it, &files[1], &[], || {
            act(&path);
            after = Some(fs_err::symlink_metadata(&path).unwrap().ino());
        });
        assert_eq!(run.code, 1, "{what}: {run:#?}");
        assert_eq!(run.outcome(&files[1]), "changed", "{what}");
        let error = error(&run, &files[1]);
        assert!(error.contains(&path.display().to_string()), "{what}: {error}");
        assert_eq!(fs_err::symlink_metadata(&path).ok().map(|it| it.ino()), after, "{what}");
        for other in [&files[0], &files[2]] {
            assert_eq!(run.outcome(other), "removed", "{what}");
            assert!(!it.world.base(other).exists(), "{what}");
        }
    }
}

/// nova sets the mtime of a file that it is about to use. Here it does so when everything has been looked at again:
/// prune is held up where it marks nova's lock file to go with its file.
#[test]
fn a_file_that_nova_touches_at_the_last_moment_stays_with_its_lock_file() {
    let it = InUse::new();
    let name = "1".repeat(40);
    let path = plain_file(&it.world, &name, 2 * DAY);
    let lock = lock_file(&it.world, &name);
    fs_err::write(&lock, "").unwrap();
    let lock_inode = fs_err::metadata(&lock).unwrap().ino();
    let hold_up = inject("utimensat:delay_enter=1500000", &lock);
    let prune = it.judged(&mut under_strace(&it.world, hold_up, &prune_command(&it.world, NO_ARGS)));
    wait_until("prune holds the lock", || is_locked(&lock));
    std::thread::sleep(std::time::Duration::from_millis(500));
    set_mtime(&path, SystemTime::now());
    let run = prune.finish().exits(1);
    assert_eq!(run.outcome(&name), "changed");
    assert!(path.exists());
    for _ in 0..2 {
        assert_eq!(fs_err::metadata(&lock).map(|it| it.ino()).ok(), Some(lock_inode));
        assert_eq!(it.world.prune(NO_ARGS).exits(0).verdict(&name), "too_young");
    }
}

/// As after a filesystem was mounted over it: what was judged goes, and nothing of what is there now.
#[test]
fn nothing_goes_from_a_directory_that_took_the_place_of_the_cache() {
    let it = InUse::new();
    let files = three_files(&it);
    let (cache, moved) = (it.world.path("_base"), it.world.path("_base_moved"));
    let run = meanwhile(&it, &files[1], &[], || {
        fs_err::rename(&cache, &moved).unwrap();
        fs_err::create_dir(&cache).unwrap();
        for name in &files {
            let time = mtime(&fs_err::read_dir(&moved).unwrap().next().unwrap().unwrap().path());
            fs_err::write(it.world.base(name), "another").unwrap();
            set_mtime(&it.world.base(name), time - DAY);
        }
    });
    assert!(run.code <= 1, "{run:#?}");
    assert_eq!(names(&cache), files.into());
}

/// Blocks are given late by some filesystems, and taken back: the file is the same.
#[test]
fn a_file_that_only_takes_more_room_on_the_disk_is_still_the_one_that_was_judged() {
    let it = InUse::new();
    let name = "1".repeat(40);
    let path = plain_file(&it.world, &name, 2 * DAY);
    let run = meanwhile(&it, &name, &[], || {
        let time = mtime(&path);
        let blocks = fs_err::metadata(&path).unwrap().blocks();
        let fallocate = Command::new(tool("fallocate", "util-linux"))
            .args(["--keep-size", "--length", "1MiB"])
            .arg(&path)
            .status();
        assert!(fallocate.unwrap().success());
        set_mtime(&path, time);
        assert!(fs_err::metadata(&path).unwrap().blocks() > blocks);
    });
    assert_eq!(run.exits(0).outcome(&name), "removed");
}

#[test]
fn a_file_that_nova_removed_first_is_no_failure_of_ours() {
    let it = InUse::new();
    let files = three_files(&it);
    let run = meanwhile(&it, &files[1], &[], || fs_err::remove_file(it.world.base(&files[1])).unwrap());
    let outcome = run.outcome(&files[1]);
    assert!(["removed", "changed"].contains(&outcome.as_str()), "{run:#?}");
    assert_eq!(run.code, i32::from(outcome == "changed"), "{run:#?}");
    assert_eq!(run.outcome(&files[0]), "removed");
    assert_eq!(run.outcome(&files[2]), "removed");
}

#[test]
fn a_file_that_a_disk_has_come_to_name_stays_and_the_others_go() {
    type Act = fn(&InUse, &Path);
    let acts: [(&str, &str, Act); 11] = [
        ("in a new directory", "2b9e/disk", |it, base| overlay(&it.world.path("2b9e/disk"), base)),
        ("in a known directory", "disk.eph0", |it, base| {
            overlay(&it.world.path(KNOWN).join("disk.eph0"), base);
        }),
        ("instead of the known disk", KNOWN, |it, base| {
            let new = it.world.path(KNOWN).join("disk.new");
            overlay(&new, base);
            fs_err::rename(new, it.world.path(KNOWN).join("disk")).unwrap();
        }),
        ("directly in the instances path", "loose", |it, base| overlay(&it.world.path("loose"), base)),
        ("in a new snapshot", "snapshots/tmp1/x", |it, base| {
            overlay(&it.world.path("snapshots/tmp1/x"), base)
        }),
        ("in a directory that was moved here, its mtime as old as it was", "moved-here", |it, base| {
            let outside = it.world.outside().join("moved-here");
            overlay(&outside.join("disk"), base);
            set_mtime(&outside, SystemTime::now() - DAY);
            fs_err::rename(&outside, it.world.path("moved-here")).unwrap();
        }),
        ("in a directory that took the place and mtime of another", KNOWN, |it, base| {
            let (known, outside) = (it.world.path(KNOWN), it.world.outside().join("other"));
            overlay(&outside.join("disk"), base);
            set_mtime(&outside, mtime(&known));
            fs_err::rename(&known, it.world.outside().join("was-known")).unwrap();
            fs_err::rename(&outside, &known).unwrap();
        }),
        ("in a directory that is a link", "linked", |it, base| {
            let outside = it.world.outside().join("linked");
            overlay(&outside.join("disk"), base);
            std::os::unix::fs::symlink(&outside, it.world.path("linked")).unwrap();
        }),
        ("by a chain through a file elsewhere", "link.qcow2", |it, base| {
            let link = it.world.outside().join("link.qcow2");
            overlay(&link, base);
            overlay(&it.world.path("3c8f/disk"), link);
        }),
        ("in a disk that cannot be understood", "4d7a/disk", |it, _| {
            fs_err::create_dir(it.world.path("4d7a")).unwrap();
            fs_err::write(it.world.path("4d7a/disk"), b"QFI\xfb\x00\x00\x00\x03 broken off").unwrap();
        }),
        ("in a directory that cannot be followed", "5e6b", |it, _| {
            std::os::unix::fs::symlink(it.world.outside().join("absent"), it.world.path("5e6b")).unwrap();
        }),
    ];
    for (what, path, act) in acts {
        let it = InUse::new();
        // Only the one that waits is looked at after the act, and what is unknown keeps everything.
        let name = "f".repeat(40);
        let other = plain_file(&it.world, &"0".repeat(40), 2 * DAY);
        let base = plain_file(&it.world, &name, 2 * DAY);
        let before = Snapshot::of(&base);
        let run = meanwhile(&it, &name, &[], || {
            // Before it is gone the act would keep it, too.
            wait_until("the other file is gone", || !other.exists());
            act(&it, &base);
        });
        assert_eq!(run.code, 1, "{what}: {run:#?}");
        let outcome = run.outcome(&name);
        assert_eq!(outcome, "changed", "{what}: {run:#?}");
        let error = error(&run, &name);
        assert!(error.contains(path), "{what}: {error}");
        assert!(error.contains(&base.display().to_string()), "{what}: {error}");
        before.assert_same(&Snapshot::of(&base));
        assert!(!other.exists(), "{what}");
    }
}

#[test]
fn with_ignore_unlisted_a_directory_that_is_renamed_to_a_listed_one_keeps_its_files() {
    let it = InUse::new();
    let name = "1".repeat(40);
    let base = plain_file(&it.world, &name, 2 * DAY);
    let uuid = "1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5";
    overlay(&it.world.path("not-listed/disk"), &base);
    it.world.inventory(&json!([
        {"name": KNOWN, "host": crate::common::HOST, "image_ref": "image-used"},
        {"uuid": uuid, "host": crate::common::HOST},
    ]));
    let run = meanwhile(&it, &name, &["--ignore-unlisted"], || {
        fs_err::rename(it.world.path("not-listed"), it.world.path(uuid)).unwrap();
    });
    assert_eq!(run.exits(1).outcome(&name), "changed");
    assert!(base.exists());
}

#[test]
fn what_changes_elsewhere_keeps_nothing() {
    type Act = fn(&InUse);
    let acts: [(&str, Act); 4] = [
        ("a rename for a resize", |it| {
            fs_err::rename(it.world.path(KNOWN), it.world.path(format!("{KNOWN}_resize"))).unwrap();
        }),
        ("a new instance of another image", |it| {
            overlay(&it.world.path("2b9e/disk"), it.world.base(&it.used));
        }),
        ("an instance that goes", |it| fs_err::remove_dir_all(it.world.path(KNOWN)).unwrap()),
        ("a console log", |it| fs_err::write(it.world.path(KNOWN).join("console.log"), "x").unwrap()),
    ];
    for (what, act) in acts {
        let it = InUse::new();
        let name = "1".repeat(40);
        let base = plain_file(&it.world, &name, 2 * DAY);
        let run = meanwhile(&it, &name, &[], || act(&it)).exits(0);
        assert_eq!(run.outcome(&name), "removed", "{what}: {run:#?}");
        assert!(!base.exists(), "{what}");
    }
}
