//! Storage that fails: strace makes one system call after the other return an error, in runs of explain and of prune.
//!
//! Whatever fails, no file that a disk or an instance needs is removable or removed, the run ends by itself and says
//! what failed, what it reports is what it did, and the next prune, undisturbed, ends where one whole run would have.
//! The count is printed: `cargo test faults -- --nocapture`.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use crate::common::hostile::{by_two, header_naming, sane};
use crate::common::prune::{
    Running, chown_all, finish, names, plain_file, prune_command, strace_log, under_strace,
};
use crate::common::{DAY, HOST, Run, Snapshot, World, list, overlay};
use assert_cmd::cargo::cargo_bin;
use nix::libc;
use serde_json::{Value, json};

/// An errno and how messages tell it.
const ERRORS: [(&str, i32); 6] = [
    ("EIO", libc::EIO),
    ("EACCES", libc::EACCES),
    ("ENOSPC", libc::ENOSPC),
    ("ENOLCK", libc::ENOLCK),
    ("ESTALE", libc::ESTALE),
    ("EINTR", libc::EINTR),
];

/// The calls of explain, and the errors that storage gives for them.
const READING: [(&str, &[&str]); 6] = [
    ("openat", &["EIO", "EACCES", "ESTALE", "EINTR"]),
    ("statx", &["EIO", "EACCES", "ESTALE"]),
    ("newfstatat,fstat", &["EIO", "ESTALE"]),
    ("pread64,read", &["EIO", "ESTALE", "EINTR"]),
    ("getdents64", &["EIO", "ESTALE", "EACCES"]),
    ("statfs,fstatfs,fcntl,lseek", &["EIO", "ESTALE"]),
];

/// The calls of prune, which reads like explain, before it removes and while it does.
const CHANGING: [(&str, &[&str]); 10] = [
    ("openat", &["EIO", "ENOSPC", "EINTR"]),
    ("statx", &["ESTALE"]),
    ("newfstatat,fstat", &["EACCES"]),
    ("pread64,read,getdents64", &["EIO"]),
    ("fcntl", &["EACCES", "ENOLCK", "EINTR"]),
    ("flock", &["EIO", "ENOLCK", "EINTR"]),
    ("unlinkat", &["EIO", "EACCES", "ESTALE"]),
    ("linkat,mkdirat,renameat,renameat2", &["EIO", "EACCES", "ENOSPC", "ESTALE"]),
    ("fchown,fchownat", &["EIO", "EACCES", "ENOSPC"]),
    ("utimensat", &["EIO", "EACCES", "ENOSPC", "ESTALE"]),
];

/// A tree, and a copy of it to begin with each time.
struct Storage {
    world: World,
    pristine: PathBuf,
    /// What a disk or an instance needs.
    needed: Vec<String>,
    /// What a whole run removes.
    unused: Vec<String>,
    /// Everything that is there, or will be made by a known name.
    paths: Vec<PathBuf>,
}

impl Storage {
    fn new() -> Self {
        let world = World::new();
        let used = world.original("image-used", 2 * DAY);
        let copy = world.resized("image-used", 1 << 30, 2 * DAY);
        let [chained, snapped] = ["chained", "snapped"].map(|image| world.original(image, 2 * DAY));
        let unused = world.original("unused", 2 * DAY);
        let info = format!("{unused}.info");
        for name in [info.as_str(), "swap_512", "swap_64"] {
            plain_file(&world, name, 2 * DAY);
        }
        world.instance_disk("instance-00000001", &copy);
        let link = world.outside().join("elsewhere/link");
        overlay(&link, world.base(&chained));
        overlay(&world.path("instance-00000002/disk"), &link);
        world.instance_disk("snapshots/one", &snapped);
        // A raw disk whose guest has written a header that nobody understands.
        fs_err::create_dir(world.path("instance-00000003")).unwrap();
        fs_err::write(world.path("instance-00000003/disk"), header_naming([0; 8])).unwrap();
        let info_of_disks = json!({ "/x/instance-00000003/disk": "raw" }).to_string();
        fs_err::write(world.path("instance-00000003/disk.info"), info_of_disks).unwrap();
        world.inventory(&json!([
            {"name": "instance-00000001", "host": HOST, "image_ref": "image-used", "swap_mb": 64},
            {"name": "instance-00000003", "host": HOST},
        ]));
        // prune makes it.
        fs_err::remove_dir(world.path("locks")).unwrap();
        // nova runs as another user than prune.
        if nix::unistd::geteuid().is_root() {
            chown_all(&world.instances_path(), 12345);
        }
        let pristine = world.outside().join("pristine");
        copy_all(&world.instances_path(), &pristine);
        let mut paths: Vec<PathBuf> = Snapshot::of(&world.instances_path()).0.into_keys().collect();
        paths.extend([world.instances_path(), link, world.path("locks")]);
        paths.extend(["imagecache-prune.lock".into()].map(|name: PathBuf| world.path("locks").join(name)));
        paths.extend([&unused, "swap_512"].map(|name| crate::common::prune::lock_file(&world, name)));
        Self {
            needed: vec![used, copy, chained, snapped, "swap_64".into()],
            unused: vec![unused, info, "swap_512".into()],
            world,
            pristine,
            paths,
        }
    }

    fn restore(&self) {
        fs_err::remove_dir_all(self.world.instances_path()).unwrap();
        copy_all(&self.pristine, &self.world.instances_path());
    }

    fn explain(&self) -> Command {
        let mut command = Command::new(cargo_bin!("nova-imagecache"));
        command.env_clear().args(["explain", "-f", "json", "--host", HOST, "-p"]);
        command.arg(self.world.instances_path());
        command.arg("--inventory").arg(self.world.outside().join("inventory.json"));
        command
    }

    /// Runs a command with the nth call of each thread on the tree failing; `None` where there is no nth.
    fn fail(&self, command: &Command, calls: &str, errno: &str, nth: usize) -> Option<(Run, String)> {
        let mut args: Vec<String> = vec!["-f".into()];
        // The loader of programs makes these, too. What prune has made under another name is known by none of ours.
        if ["openat", "newfstatat", "pread64"].iter().any(|call| calls.starts_with(call)) {
            args.extend(self.paths.iter().flat_map(|path| ["-P".into(), path.display().to_string()]));
        }
        // Not every kernel has each of them.
        let calls: Vec<String> = calls.split(',').map(|call| format!("?{call}")).collect();
        let calls = calls.join(",");
        args.extend([format!("--trace={calls}"), format!("--inject={calls}:error={errno}:when={nth}")]);
        let run = sane(finish(&mut under_strace(&self.world, &args, command)));
        let log = fs_err::read_to_string(strace_log(&self.world)).unwrap();
        let injected: Vec<&str> = log.lines().filter(|line| line.contains("(INJECTED)")).collect();
        (!injected.is_empty()).then(|| (run, injected.join("\n")))
    }

    /// Everything that is there but inodes, times of what is in use, of directories and of locks.
    fn state(&self) -> Snapshot {
        let mut snapshot = Snapshot::of(&self.world.instances_path());
        for (path, entry) in &mut snapshot.0 {
            entry.inode = 0;
            if entry.mode & libc::S_IFMT == libc::S_IFDIR {
                // That of the locks is one of them.
                entry.links = 0;
                entry.mtime = (0, 0);
            }
            if path.starts_with(self.world.path("locks"))
                || self.needed.iter().any(|name| *path == self.world.base(name))
            {
                entry.mtime = (0, 0);
            }
        }
        snapshot
    }
}

fn copy_all(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

/// Whether a run says that this failed.
fn tells(run: &Run, errno: &str) -> bool {
    let (_, number) = ERRORS.iter().find(|(name, _)| *name == errno).unwrap();
    let words = [format!("(os error {number})"), format!("{errno}: ")];
    words.iter().any(|word| run.stdout.contains(word) || run.stderr.contains(word))
}

/// What matters of a run.
fn brief(run: &Run) -> String {
    let json: Value = serde_json::from_str(&run.stdout).unwrap_or_default();
    let files: Vec<String> = json["files"]
        .as_array()
        .into_iter()
        .flatten()
        .map(|it| format!("{} {} {} {}", it["name"], it["verdict"], it["outcome"], it["error"]))
        .collect();
    format!(
        "exit {} {}\nunreadable {:#}\nwarnings {:#}\n{}",
        run.code,
        run.stderr,
        json["unreadable"],
        json["warnings"],
        files.join("\n")
    )
}

/// A report without what is another one in each run.
fn timeless(run: &Run) -> Value {
    let mut json = run.json();
    for file in json["files"].as_array_mut().unwrap() {
        file["age_seconds"] = Value::Null;
        for reason in file["reasons"].as_array_mut().unwrap() {
            reason["text"] = Value::Null;
        }
    }
    json
}

/// Walks through all calls with all errors, on two trees at a time; prints what was injected.
fn inject(
    what: &str,
    kinds: &[(&str, &[&str])],
    check: impl Fn(&Storage, &str, &str, usize) -> Option<i32> + Sync,
) {
    let pairs: Vec<(&str, &str)> =
        kinds.iter().flat_map(|(calls, errors)| errors.iter().map(|errno| (*calls, *errno))).collect();
    let halves: Vec<Vec<(&str, &str)>> =
        (0..2).map(|half| pairs.iter().skip(half).step_by(2).copied().collect()).collect();
    let counts = by_two(&halves, |_, pairs| {
        let storage = Storage::new();
        let mut counts: BTreeMap<String, BTreeMap<i32, usize>> = BTreeMap::new();
        for (calls, errno) in pairs {
            for nth in 1.. {
                let Some(code) = check(&storage, calls, errno, nth) else { break };
                *counts.entry(format!("{calls} {errno}")).or_default().entry(code).or_default() += 1;
            }
        }
        counts
    });
    let counts: BTreeMap<_, _> = counts.into_iter().flatten().collect();
    let by_code = counts.values().flatten().fold(BTreeMap::new(), |mut sum, (code, count)| {
        *sum.entry(code).or_insert(0) += count;
        sum
    });
    println!(
        "{} faults in {what}; by exit code: {by_code:?}; each: {counts:?}",
        by_code.values().sum::<usize>()
    );
    // What belongs to whoever runs this is not given away.
    let is_made = |calls: &str| !calls.starts_with("fchown") || nix::unistd::geteuid().is_root();
    let never: Vec<_> = pairs
        .iter()
        .filter(|(calls, errno)| is_made(calls) && !counts.contains_key(&format!("{calls} {errno}")))
        .collect();
    assert!(never.is_empty(), "never called, or strace does not inject: {never:?}");
}

#[test]
fn a_call_of_explain_that_fails_is_told_and_makes_nothing_removable_that_depended_on_it() {
    let whole = {
        let storage = Storage::new();
        let run = finish(&mut storage.explain()).exits(0);
        assert_eq!(run.with_verdict("removable").len(), storage.unused.len(), "{run:#?}");
        run.with_verdict("removable").len()
    };
    inject("explain", &READING, |storage, calls, errno, nth| {
        let baseline = finish(&mut storage.explain()).exits(0);
        let before = storage.world.snapshot();
        let (run, injected) = storage.fail(&storage.explain(), calls, errno, nth)?;
        let what = format!("{errno} {nth}: {injected}\n{}", brief(&run));
        let log = strace_log(&storage.world);
        let mut after = storage.world.snapshot();
        after.0.insert(log.clone(), before.0.get(&log).cloned().unwrap_or_else(|| after.0[&log].clone()));
        let mut before = before;
        before.0.insert(log.clone(), after.0[&log].clone());
        before.0.get_mut(storage.world.outside()).unwrap().mtime = (0, 0);
        after.0.get_mut(storage.world.outside()).unwrap().mtime = (0, 0);
        before.assert_same(&after);
        match run.code {
            2 => {
                assert!(run.stdout.is_empty() && run.stderr.lines().count() == 1, "{what}");
                assert!(tells(&run, errno), "{what}");
            }
            1 => {
                assert_eq!(
                    (run.with_verdict("removable").len(), run.json()["complete"].as_bool()),
                    (0, Some(false)),
                    "{what}"
                );
                assert!(
                    run.stderr.contains("evidence is incomplete")
                        && (tells(&run, errno) || injected.contains("disk.info")),
                    "{what}"
                );
                assert!(!list(&run.json()["unreadable"]).is_empty(), "{what}");
            }
            _ => {
                // A file of the cache that cannot be examined is of no kind, and none of our business.
                for name in &storage.needed {
                    assert!(matches!(run.verdict(name).as_str(), "in_use" | "ignored"), "{what}");
                }
                assert!(run.with_verdict("removable").len() <= whole, "{what}");
                // Without a consequence, or told.
                assert!(timeless(&run) == timeless(&baseline) || tells(&run, errno), "{what}");
            }
        }
        Some(run.code)
    });
}

#[test]
fn a_call_of_prune_that_fails_is_told_loses_nothing_and_the_next_run_makes_it_good() {
    let whole = {
        let storage = Storage::new();
        let run = finish(&mut prune_command(&storage.world, [""; 0])).exits(0);
        assert_eq!(
            crate::common::prune::with_outcome(&run, "removed"),
            storage.unused.iter().cloned().collect()
        );
        names(&storage.world.path("locks"))
    };
    inject("prune", &CHANGING, |storage, calls, errno, nth| {
        storage.restore();
        let before = storage.state();
        let (run, injected) = storage.fail(&prune_command(&storage.world, [""; 0]), calls, errno, nth)?;
        let what = format!("{errno} {nth}: {injected}\n{}", brief(&run));
        let after = storage.state();
        for (path, entry) in &before.0 {
            if *path == storage.world.path("locks") || after.0.get(path) == Some(entry) {
                continue;
            }
            let name = storage.unused.iter().find(|name| *path == storage.world.base(name));
            assert!(name.is_some() && run.code != 2, "{} was changed: {what}", path.display());
        }
        if run.code == 2 {
            assert!(run.stdout.is_empty() && tells(&run, errno), "{what}");
        } else {
            for name in &storage.unused {
                let is_gone = !storage.world.base(name).exists();
                assert_eq!(run.outcome(name) == "removed", is_gone, "{name}: {what}");
            }
            let is_whole = storage.unused.iter().all(|name| run.outcome(name) == "removed");
            assert!(run.code == 1 || is_whole || tells(&run, errno), "{what}");
            let touched = run.json()["summary"]["touched"].as_u64().unwrap();
            assert!(touched == storage.needed.len() as u64 || tells(&run, errno), "{what}");
            assert!(run.code == 0 || tells(&run, errno) || injected.contains("disk.info"), "{what}");
        }
        // The next run.
        let next = finish(&mut prune_command(&storage.world, [""; 0]));
        assert_eq!(next.code, 0, "after {what}: {}", brief(&next));
        for name in &storage.unused {
            assert!(!storage.world.base(name).exists(), "after {what}: {}", brief(&next));
        }
        for name in &storage.needed {
            assert!(storage.world.base(name).exists(), "after {what}: {}", brief(&next));
        }
        assert_eq!(names(&storage.world.path("locks")), whole, "after {what}: {}", brief(&next));
        Some(run.code)
    });
}

#[test]
fn a_report_that_cannot_be_written_is_an_error_and_the_removals_are_those_of_the_dry_run() {
    for format in ["table", "json"] {
        let storage = Storage::new();
        let dry = finish(&mut prune_command(&storage.world, ["--dry-run"])).exits(0);
        let mut command = prune_command(&storage.world, ["-f", format]);
        // clap takes an option once.
        let args: Vec<_> = command.get_args().map(ToOwned::to_owned).collect();
        let at = args.iter().position(|it| it == "-f").unwrap();
        let mut once = Command::new(command.get_program());
        once.env_clear().args(&args[..at]).args(&args[at + 2..]);
        command = once;
        let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0;
        let output = command.stdout(full).stderr(Stdio::piped()).output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{format}: {stderr}");
        assert!(stderr.contains("No space left on device") && !stderr.contains("panicked"), "{stderr}");
        for name in &storage.unused {
            assert_eq!(dry.outcome(name), "would_remove");
            assert!(!storage.world.base(name).exists(), "{format}: {name}");
        }
        for name in &storage.needed {
            assert!(storage.world.base(name).exists(), "{format}: {name}");
        }
    }
}

#[test]
fn a_pipe_that_is_closed_ends_the_report_of_a_prune_and_not_the_prune() {
    let storage = Storage::new();
    // More than a pipe holds, after the files that go.
    for index in 0..3000 {
        fs_err::write(storage.world.base(format!("other-{index}")), "").unwrap();
    }
    let mut command = prune_command(&storage.world, [""; 0]);
    let mut child = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    let mut line = String::new();
    BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
    let output = child.wait_with_output().unwrap();
    assert_eq!((output.status.code(), String::from_utf8(output.stderr).unwrap().as_str()), (Some(0), ""));
    for name in &storage.unused {
        assert!(!storage.world.base(name).exists(), "{name}");
    }
}

#[test]
fn messages_that_nobody_can_read_stop_nothing() {
    // stderr is full, too: a cron job on a full disk.
    let storage = Storage::new();
    fs_err::write(storage.world.path("instance-00000003/disk.info"), "").unwrap();
    let full = || fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0;
    for command in [&mut storage.explain(), &mut prune_command(&storage.world, [""; 0])] {
        let status = command.stdout(full()).stderr(full()).status().unwrap();
        assert_eq!(status.code(), Some(1), "{command:?}");
    }
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    let status = command.args(["scan", "-p", "/nowhere"]).stdout(full()).stderr(full()).status().unwrap();
    assert_eq!(status.code(), Some(2));
    drop(Running::start(&mut storage.explain()));
}
