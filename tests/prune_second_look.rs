//! What happens between the first look and the unlink, and keeps the file: while prune waits for locks, and while files
//! are set aside.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, SystemTime};

use crate::common::prune::{
    InUse, Running, aside, finish, hold_lock, keeping_mtime, lock_file, names, plain_file, prune_command,
    traced_calls, under_strace, wait_until, with_outcome,
};
use crate::common::{
    DAY, HOST, NO_ARGS, Run, Snapshot, domain, file_disk, mtime, overlay, qemu_img, set_mtime, tool,
};
use nix::sys::signal::Signal;
use nix::sys::stat::Mode;
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

/// The directory of an instance that is known, whose disk names the used image.
const KNOWN: &str = "instance-00000001";

// The file itself

type Act = fn(&Path);

const CHANGES: [(&str, Act); 6] = [
    ("another of the same size and mtime", |path| {
        keeping_mtime(path, || {
            fs_err::rename(path, path.with_extension("old")).unwrap();
            fs_err::copy(path.with_extension("old"), path).unwrap();
            fs_err::remove_file(path.with_extension("old")).unwrap();
        });
    }),
    ("longer, with the same mtime", |path| {
        keeping_mtime(path, || {
            fs_err::OpenOptions::new().append(true).open(path).unwrap().set_len(1 << 20).unwrap();
        });
    }),
    ("touched, as nova does", |path| set_mtime(path, SystemTime::now())),
    ("touched back by a nanosecond", |path| set_mtime(path, mtime(path) - Duration::from_nanos(1))),
    ("a FIFO", |path| {
        fs_err::remove_file(path).unwrap();
        nix::unistd::mkfifo(path, Mode::S_IRWXU).unwrap();
    }),
    ("a link to another", |path| {
        let other = path.with_file_name("other");
        fs_err::rename(path, &other).unwrap();
        symlink(&other, path).unwrap();
    }),
];

/// Checks that a changed file is there by its name, and that the others went.
#[track_caller]
fn only_this_is_kept(it: &InUse, run: Run, name: &str, inode: u64, what: &str) {
    assert_eq!(run.code, 0, "{what}: {run:#?}");
    run.told(name, "changed", &[&it.world.base(name).display().to_string()]);
    assert_eq!(fs_err::symlink_metadata(it.world.base(name)).ok().map(|it| it.ino()), Some(inode), "{what}");
    assert_eq!(with_outcome(&run, "removed").len(), 2, "{what}: {run:#?}");
    assert!(!aside(&it.world, name).exists(), "{what}");
}

#[test]
fn a_file_that_changes_before_or_after_it_is_set_aside_stays_and_the_others_go() {
    for (what, act) in CHANGES {
        for before in [true, false] {
            let (it, files) = InUse::with_three();
            let path = if before { it.world.base(&files[1]) } else { aside(&it.world, &files[1]) };
            let changed =
                || fs_err::symlink_metadata(&path).map(|it| (it.ino(), it.ctime(), it.ctime_nsec()));
            let mut then = (0, 0, 0);
            let act = || {
                act(&path);
                then = changed().unwrap();
            };
            let run =
                if before { it.while_locked(&files[1], act) } else { it.while_aside(&files[2], &[], act) };
            only_this_is_kept(&it, run, &files[1], then.0, what);
            // A rename would show in its ctime.
            assert!(!before || changed().unwrap() == then, "{what}: it was set aside");
        }
    }
}

/// strace holds prune up when it has compared the file and asked for QEMU's locks.
#[test]
fn a_file_that_changes_while_everything_is_read_again_stays() {
    let (it, files) = InUse::with_three();
    let path = aside(&it.world, &files[1]);
    let prune =
        Running::start(&mut it.injected("fcntl:delay_exit=1500000:when=1", &path, &["--settle", "0"]));
    wait_until("prune sets the file aside", || path.exists());
    std::thread::sleep(Duration::from_millis(700));
    // Older, so that only the comparison shows it.
    set_mtime(&path, mtime(&path) - Duration::from_nanos(1));
    let inode = fs_err::metadata(&path).unwrap().ino();
    only_this_is_kept(&it, prune.finish(), &files[1], inode, "touched");
}

/// nova's precaching fetches without its lock.
#[test]
fn a_new_file_of_the_name_stays_and_the_old_one_is_dropped_unless_a_process_has_it_open() {
    for is_open in [false, true] {
        let (it, files) = InUse::with_three();
        let mut inode = 0;
        let mut process = None;
        let run = it.while_aside(&files[2], &[], || {
            // As old as can be: its age must not matter.
            let new = plain_file(&it.world, &files[1], 40 * DAY);
            inode = fs_err::metadata(new).unwrap().ino();
            process = is_open.then(|| Running::sleep_with(&aside(&it.world, &files[1])));
        });
        run.told(&files[1], "changed", if is_open { &["(sleep)"] } else { &[] });
        assert_eq!(run.warnings().contains(&"set_aside_left".to_owned()), is_open, "{run:#?}");
        assert_eq!(fs_err::metadata(it.world.base(&files[1])).unwrap().ino(), inode);
        assert_eq!(aside(&it.world, &files[1]).exists(), is_open);
        assert_eq!(with_outcome(&run, "removed").len(), 2, "{run:#?}");
        // The next one: first while the file is open.
        if is_open {
            let run = it.world.prune(NO_ARGS).exits(0);
            assert!(run.stderr.contains("stays set aside") && run.stderr.contains("(sleep)"), "{run:#?}");
            assert!(run.warnings().contains(&"set_aside_left".to_owned()));
            run.told(&files[1], "changed", &["still set aside"]);
        }
        drop(process);
        it.goes(&files[1]);
        it.has(NO_ARGS);
    }
}

#[test]
fn a_file_that_somebody_removed_first_is_no_failure_of_ours() {
    for before in [true, false] {
        let (it, files) = InUse::with_three();
        let run = if before {
            it.while_locked(&files[1], || fs_err::remove_file(it.world.base(&files[1])).unwrap())
        } else {
            it.while_aside(&files[2], &[], || fs_err::remove_file(aside(&it.world, &files[1])).unwrap())
        };
        run.exits(0).told(&files[1], "changed", &[]);
        it.has(NO_ARGS);
    }
}

/// Blocks are given late by some filesystems, and taken back: the file is the same.
#[test]
fn a_file_that_only_takes_more_room_on_the_disk_is_still_the_one_that_was_judged() {
    let (it, files) = InUse::with_three();
    let path = aside(&it.world, &files[1]);
    let run = it.while_aside(&files[2], &[], || {
        let blocks = fs_err::metadata(&path).unwrap().blocks();
        let mut fallocate = Command::new(tool("fallocate", "util-linux"));
        fallocate.args(["--keep-size", "--length", "1MiB"]).arg(&path);
        keeping_mtime(&path, || assert!(fallocate.status().unwrap().success()));
        assert!(fs_err::metadata(&path).unwrap().blocks() > blocks);
    });
    assert_eq!(with_outcome(&run.exits(0), "removed"), files.into());
}

/// Puts another directory, with three files of the same names, in the place of the cache.
fn replace_cache(it: &InUse) {
    fs_err::rename(it.world.path("_base"), it.world.outside().join("moved")).unwrap();
    fs_err::create_dir(it.world.path("_base")).unwrap();
    it.three_files();
}

/// Checks that all files are there, those of the directory that was replaced too.
#[track_caller]
fn nothing_is_lost(it: &InUse, files: [String; 3]) {
    assert_eq!(names(&it.world.path("_base")), files.clone().into());
    assert_eq!(
        names(&it.world.outside().join("moved")),
        files.into_iter().chain([it.used.clone()]).collect()
    );
}

/// As after a filesystem was mounted over it: what is there now is not touched, and what was set aside is put back.
#[test]
fn nothing_goes_from_a_directory_that_took_the_place_of_the_cache() {
    let (it, files) = InUse::with_three();
    let run = it.while_aside(&files[2], &[], || replace_cache(&it));
    assert!(with_outcome(&run, "removed").is_empty(), "{run:#?}");
    nothing_is_lost(&it, files);
}

/// What is read is then not what was opened to remove from.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_cache_directory_that_is_replaced_before_it_is_read_loses_nothing() {
    use crate::common::steps::{Action, Place, Watch, run};
    let (it, files) = InUse::with_three();
    fs_err::write(it.world.path("locks/imagecache-prune.lock"), "").unwrap();
    // To remove from it, to look for what was left set aside, and to read it.
    let at = Place { name: "openat", nth: 2, in_proc: false };
    let watch = Watch::acting(at, Action::stop(|| replace_cache(&it))).of_all_below(&it.world.path("_base"));
    let ended = run(&prune_command(&it.world, NO_ARGS), watch);
    assert_eq!(ended.code, Some(2), "{ended:?}");
    assert!(ended.stderr.contains("replaced while it was read"), "{ended:?}");
    nothing_is_lost(&it, files);
}

// What names the file

#[test]
fn a_file_that_a_disk_has_come_to_name_stays_and_the_others_go() {
    type Act = fn(&InUse, &Path);
    // What changes, what the report says of it, how many files stay, and what does it.
    let acts: [(&str, &str, usize, Act); 11] = [
        ("a new directory", "2b9e/disk", 1, |it, base| overlay(&it.world.path("2b9e/disk"), base)),
        ("a known directory", "disk.eph0", 1, |it, base| {
            overlay(&it.world.path(KNOWN).join("disk.eph0"), base);
        }),
        // No directory changes, and no mtime of one.
        ("a disk is rebased in place", KNOWN, 1, |it, base| {
            let args = ["rebase", "-u", "-f", "qcow2", "-F", "raw", "-b"].map(AsRef::as_ref);
            qemu_img(args.into_iter().chain([base, &it.world.path(KNOWN).join("disk")]));
        }),
        ("the instances path itself", "loose", 1, |it, base| overlay(&it.world.path("loose"), base)),
        ("a new snapshot", "snapshots/x/y", 1, |it, base| overlay(&it.world.path("snapshots/x/y"), base)),
        ("a directory that took the place and mtime of another", KNOWN, 1, |it, base| {
            let (known, outside) = (it.world.path(KNOWN), it.world.outside().join("other"));
            overlay(&outside.join("disk"), base);
            set_mtime(&outside, mtime(&known));
            fs_err::rename(&known, it.world.outside().join("was-known")).unwrap();
            fs_err::rename(&outside, &known).unwrap();
        }),
        ("a chain through a file elsewhere", "3c8f/disk", 1, |it, base| {
            let link = it.world.outside().join("link.qcow2");
            overlay(&link, base);
            overlay(&it.world.path("3c8f/disk"), link);
        }),
        // It leads nowhere, so that everything is put back.
        ("a link in the cache", "leads nowhere", 3, |it, _| {
            overlay(&it.world.path("3c8f/disk"), it.world.base("e".repeat(40)));
        }),
        ("a rename for a resize", "", 0, |it, _| {
            fs_err::rename(it.world.path(KNOWN), it.world.path(format!("{KNOWN}_resize"))).unwrap();
        }),
        ("another image", "", 0, |it, _| overlay(&it.world.path("2b9e/disk"), it.world.base(&it.used))),
        ("an instance that goes", "", 0, |it, _| fs_err::remove_dir_all(it.world.path("2b9f")).unwrap()),
    ];
    for (what, word, stay, act) in acts {
        let (it, files) = InUse::with_three();
        // Not asked for, so it stays.
        symlink(it.world.base(&files[1]), it.world.base("e".repeat(40))).unwrap();
        overlay(&it.world.path("2b9f/disk"), it.world.base(&it.used));
        let base = it.world.base(&files[1]);
        let inode = fs_err::metadata(&base).unwrap().ino();
        let args = files.each_ref().map(String::as_str);
        let run = it.while_aside(&files[2], &args, || act(&it, &base)).exits(0);
        assert_eq!(with_outcome(&run, "changed").len(), stay, "{what}: {run:#?}");
        assert_eq!(with_outcome(&run, "removed").len(), 3 - stay, "{what}: {run:#?}");
        if stay > 0 {
            run.told(&files[1], "changed", &[word, &base.display().to_string()]);
            assert_eq!(fs_err::metadata(&base).unwrap().ino(), inode, "{what}");
        }
    }
}

#[test]
fn with_ignore_unlisted_a_directory_that_is_renamed_to_a_listed_one_keeps_its_files() {
    let (it, files) = InUse::with_three();
    let uuid = "1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5";
    // By relative names, which are followed, and lead nowhere while the file is set aside: that must not matter.
    for (directory, name) in [("not-listed", &files[1]), ("stays-unlisted", &files[0])] {
        overlay(&it.world.path(directory).join("disk"), Path::new("../_base").join(name));
    }
    it.world.inventory(&json!([
        {"name": KNOWN, "host": HOST, "image_ref": "image-used"},
        {"uuid": uuid, "host": HOST},
    ]));
    let run = it.while_aside(&files[2], &["--ignore-unlisted"], || {
        fs_err::rename(it.world.path("not-listed"), it.world.path(uuid)).unwrap();
    });
    run.told(&files[1], "changed", &[]);
    assert_eq!(with_outcome(&run.exits(0), "removed").len(), 2);
}

/// Its disk lies where only libvirt shows it.
#[test]
fn a_file_that_the_disk_of_a_new_domain_names_stays_and_the_others_go() {
    let (it, files) = InUse::with_three();
    let (folder, disk) = (it.world.outside().join("qemu"), it.world.outside().join("elsewhere/disk"));
    fs_err::create_dir(&folder).unwrap();
    fs_err::write(folder.join("first.xml"), domain("u", "", "")).unwrap();
    let run = it.while_aside(&files[2], &["--libvirt", folder.to_str().unwrap()], || {
        fs_err::rename(aside(&it.world, &files[1]), it.world.base(&files[1])).unwrap();
        overlay(&disk, it.world.base(&files[1]));
        fs_err::rename(it.world.base(&files[1]), aside(&it.world, &files[1])).unwrap();
        fs_err::write(folder.join("second.xml"), domain("v", "", &file_disk(&disk))).unwrap();
    });
    it.only_this_stays(&run.exits(0), &files[1], "changed", "backing file of disk");
}

#[test]
fn where_the_domains_cannot_be_read_again_everything_is_put_back() {
    let (it, files) = InUse::with_three();
    let folder = it.world.outside().join("qemu");
    fs_err::create_dir(&folder).unwrap();
    fs_err::write(folder.join("first.xml"), domain("u", "", "")).unwrap();
    let vanish = || fs_err::rename(&folder, it.world.outside().join("gone")).unwrap();
    let run = it.while_aside(&files[2], &["--libvirt", folder.to_str().unwrap()], vanish).exits(1);
    run.told(&files[1], "changed", &["the evidence is incomplete", "--libvirt", "qemu"]);
    it.has(files);
}

#[test]
fn where_the_evidence_becomes_incomplete_everything_is_put_back_and_the_prune_ends() {
    type Act = fn(&InUse);
    let acts: [(&str, &str, Act); 4] = [
        ("a disk that cannot be understood", "4d7a/disk", |it| {
            fs_err::create_dir(it.world.path("4d7a")).unwrap();
            fs_err::write(it.world.path("4d7a/disk"), b"QFI\xfb\x00\x00\x00\x03 broken off").unwrap();
        }),
        ("a directory that cannot be followed", "5e6b", |it| {
            symlink(it.world.outside().join("absent"), it.world.path("5e6b")).unwrap();
        }),
        ("the cache has gone", "vanished", |it| {
            fs_err::rename(it.world.path("_base"), it.world.outside().join("moved")).unwrap();
            fs_err::write(it.world.path("_base"), "").unwrap();
        }),
        // As where a filesystem is not mounted any more.
        ("not one instance has a directory", "refused", |it| {
            fs_err::remove_dir_all(it.world.path(KNOWN)).unwrap();
        }),
    ];
    for (what, word, act) in acts {
        let (it, files) = InUse::with_three();
        let before = Snapshot::of(&it.world.base(&files[1]));
        let run = it.while_aside(&files[2], &["--until-free", "100%"], || act(&it)).exits(1);
        assert_eq!(with_outcome(&run, "changed"), files.clone().into(), "{what}: {run:#?}");
        assert_eq!(run.json()["complete"], false, "{what}");
        assert_eq!(run.with_verdict("unknown"), files, "{what}: {run:#?}");
        assert_eq!(run.json()["unreadable"][0]["blocks"], true, "{what}");
        if word != "vanished" {
            run.told(&files[1], "changed", &[word]);
            before.assert_same(&Snapshot::of(&it.world.base(&files[1])));
        } else {
            fs_err::remove_file(it.world.path("_base")).unwrap();
            assert!(files.iter().all(|it_| it.world.outside().join("moved").join(it_).exists()), "{run:#?}");
        }
        assert!(run.warnings().contains(&"evidence_incomplete".to_owned()), "{what}: {run:#?}");
    }
}

/// A link goes in a batch of its own, before the files.
#[test]
fn what_comes_after_a_batch_that_met_incomplete_evidence_is_not_begun() {
    let (it, files) = InUse::with_three();
    let link = "3".repeat(40);
    let target = it.world.outside().join("target");
    fs_err::rename(plain_file(&it.world, "target", 2 * DAY), &target).unwrap();
    symlink(&target, it.world.base(&link)).unwrap();
    let dangling = it.world.path("5e6b");
    let run = it.while_aside(&link, &[], || symlink("/nowhere", &dangling).unwrap()).exits(1);
    run.told(&link, "changed", &["5e6b"]);
    assert_eq!(with_outcome(&run, "not_reached"), files.into(), "{run:#?}");
}

#[test]
fn where_a_name_in_use_leads_nowhere_any_more_everything_is_put_back() {
    let (it, files) = InUse::with_three();
    // What is missing in the instances path hides nothing, but it may have been moved on the way.
    let between = it.world.path("between");
    overlay(&between, it.world.base(&it.used));
    overlay(&it.world.path("2b9e/disk"), &between);
    let run = it.while_aside(&files[2], &[], || fs_err::remove_file(&between).unwrap()).exits(0);
    assert_eq!(with_outcome(&run, "changed"), files.clone().into(), "{run:#?}");
    run.told(&files[0], "changed", &["between is in use, and it leads nowhere any more"]);
    it.has(files);
}

// Links, and what follows a file

#[test]
fn a_link_in_the_cache_and_its_target_go_in_one_run_or_stay_together() {
    for is_named in [false, true] {
        let it = InUse::new();
        let all = ["0", "1", "2", "3"].map(|digit| digit.repeat(40));
        let [target, link, to_link, _] = &all;
        plain_file(&it.world, target, 2 * DAY);
        symlink(it.world.base(target), it.world.base(link)).unwrap();
        symlink(link, it.world.base(to_link)).unwrap();
        symlink(it.world.base(to_link), it.world.base(&all[3])).unwrap();
        assert_eq!(with_outcome(&it.world.dry_run(NO_ARGS), "would_remove"), all.clone().into());
        let run = it.while_aside(&all[3], &[], || {
            if is_named {
                overlay(&it.world.path("2b9e/disk"), it.world.base(&all[3]));
            }
        });
        let expected = if is_named { "changed" } else { "removed" };
        assert_eq!(with_outcome(&run.exits(0), expected), all.into());
    }
}

#[test]
fn an_info_file_follows_its_file_in_every_outcome() {
    let outcomes = ["removed", "changed", "open", "locked", "failed", "not_reached"];
    for outcome in outcomes {
        let it = InUse::new();
        let name = "1".repeat(40);
        let info = format!("{name}.info");
        let path = plain_file(&it.world, &name, 2 * DAY);
        plain_file(&it.world, &info, 2 * DAY);
        let _lock = (outcome == "locked").then(|| hold_lock(&it.world, &name));
        let _open = (outcome == "open").then(|| fs_err::File::open(&path).unwrap());
        if outcome == "failed" {
            fs_err::create_dir(lock_file(&it.world, &name)).unwrap();
        }
        let run = if matches!(outcome, "locked" | "failed") {
            it.world.prune(["--lock-wait", "0"])
        } else {
            let stopped = it.aside(&info, NO_ARGS);
            match outcome {
                "changed" => overlay(&it.world.path("2b9e/disk"), &path),
                "not_reached" => stopped.signal(Signal::SIGTERM),
                _ => {}
            }
            stopped.finish()
        };
        let files = [name, info];
        assert_eq!(with_outcome(&run, outcome), files.clone().into(), "{run:#?}");
        it.has(files.into_iter().filter(|_| outcome != "removed"));
    }
}

#[test]
fn the_info_file_of_a_link_goes_with_it_whatever_its_own_age() {
    let it = InUse::new();
    let name = cache_file_name("image-a");
    let target = it.world.outside().join("target");
    fs_err::rename(plain_file(&it.world, "target", 2 * DAY), &target).unwrap();
    symlink(&target, it.world.base(&name)).unwrap();
    let files = BTreeSet::from([name.clone(), format!("{name}.info")]);
    plain_file(&it.world, &format!("{name}.info"), DAY / 2);
    assert_eq!(with_outcome(&it.world.dry_run(NO_ARGS), "would_remove"), files);
    assert_eq!(with_outcome(&it.world.prune(NO_ARGS), "removed"), files);
}

#[test]
fn an_info_file_that_is_a_link_stays_with_its_file() {
    let (it, files) = InUse::with_three();
    let info = format!("{}.info", files[1]);
    let target = it.world.outside().join("info");
    fs_err::rename(plain_file(&it.world, "info", 2 * DAY), &target).unwrap();
    symlink(&target, it.world.base(&info)).unwrap();
    let _open = fs_err::File::open(it.world.base(&files[1])).unwrap();
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(with_outcome(&run, "open"), [files[1].clone(), info].into(), "{run:#?}");
}

/// Files and their `.info` files fall into different batches, and each keeps with its own.
#[test]
fn a_low_limit_of_open_files_makes_several_batches() {
    const FILES: usize = 201;
    let it = InUse::new();
    for n in 0..FILES {
        plain_file(&it.world, &format!("{n:040x}"), 2 * DAY);
        plain_file(&it.world, &format!("{n:040x}.info"), 2 * DAY);
    }
    let open: Vec<String> = (0..FILES).step_by(5).map(|n| format!("{n:040x}")).collect();
    let _open: Vec<_> = open.iter().map(|it_| fs_err::File::open(it.world.base(it_)).unwrap()).collect();
    let command = prune_command(&it.world, ["--settle", "0"]);
    let mut limited = Command::new(tool("prlimit", "util-linux"));
    limited.arg("--nofile=299").arg(command.get_program()).args(command.get_args());
    let run = finish(&mut under_strace(&it.world, ["--trace=renameat2,unlinkat"], &limited)).exits(0);
    let calls = traced_calls(&it.world);
    let batches = calls.windows(2).filter(|it| **it == ["renameat2", "unlinkat"]).count();
    println!("{} files in {batches} batches", 2 * FILES);
    assert!(batches > 15, "{calls:?}");
    let infos = open.iter().map(|it| format!("{it}.info"));
    assert_eq!(with_outcome(&run, "open"), open.iter().cloned().chain(infos).collect());
    assert_eq!(with_outcome(&run, "removed").len(), 2 * (FILES - open.len()));
    wait_until("nothing is left set aside", || names(&it.world.path("_base")).len() == 2 * open.len() + 1);
}
