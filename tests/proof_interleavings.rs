//! Every interleaving with one switch: a real prune stands at one of its system calls, there one whole operation of
//! somebody else runs, and prune goes on. And the reverse: somebody else stands at a call, and a whole prune runs there.
//! After each: no disk without its backing file, the report is true, and the next prune leaves nothing over.
//!
//! All of them: `NOVA_IMAGECACHE_FULL=1 cargo test proof_interleavings -- --nocapture`. Otherwise a sample.

use std::any::Any;
use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::time::{Duration, Instant};

use crate::common::proof::{INSTANCES, Scene, broken_disks, checked, none_failed, sample, share, thinned};
use crate::common::prune::{
    Running, hold_lock, hold_lock_waiting, is_locked, lock_file, wait_until, with_outcome,
};
use crate::common::steps::{Action, Call, Ended, Place, Watch, run};
use crate::common::{Run, overlay, tool};

/// Of the calls on the `/proc` of other processes, whose number is that of the machine's processes, so many.
const PROC_CALLS: usize = 20;

/// Longer than any operation takes that waits for nobody.
const WHOLE: Duration = Duration::from_secs(30);

/// How long an operation may wait for a lock of prune's before prune goes on.
const WAITING: Duration = Duration::from_millis(100);

/// In which part of a prune an operation can matter.
#[derive(Clone, Copy)]
pub enum Range {
    /// From the first look at the instances path on.
    FromReading,
    /// From the first lock on: it concerns only a file that has been judged removable.
    FromLocking,
}

/// What an operation came to.
pub enum Did {
    /// It found what it needed, and now the target must stay.
    Needs,
    /// The same, until this is dropped.
    Holds(Box<dyn Any + Send>),
    /// It was done; nothing new is needed.
    Done,
    /// It removed these files of the cache.
    Removed(BTreeSet<String>),
    /// Either it or prune removed these while it ran.
    MayHaveRemoved(BTreeSet<String>),
    /// It could not be done, with no harm.
    Refused,
}

/// What somebody else does, as a whole, while a prune stands at a system call.
///
/// To add one: an entry in a list such as [`operations`]. A real nova goes in by `run`, which sends the order and reads
/// the answer: `ok` is [`Did::Needs`], `failed …` is [`Did::Refused`].
pub struct Operation<'a> {
    pub name: &'static str,
    pub range: Range,
    /// Changes the fresh tree before prune starts.
    pub prepare: fn(&Scene),
    pub run: Box<dyn Fn(&Scene) -> Did + Sync + 'a>,
    /// The cache files whose locks it takes. Where prune holds one, prune goes on while the operation waits for it.
    pub locks: BTreeSet<String>,
    /// What lies below these paths it may change or remove.
    pub changes: Vec<PathBuf>,
    /// Files of the cache that it may make anew or replace.
    pub makes: BTreeSet<String>,
}

impl<'a> Operation<'a> {
    pub fn new(name: &'static str, range: Range, run: impl Fn(&Scene) -> Did + Sync + 'a) -> Self {
        Self {
            name,
            range,
            prepare: |_| (),
            run: Box::new(run),
            locks: BTreeSet::new(),
            changes: Vec::new(),
            makes: BTreeSet::new(),
        }
    }

    pub fn changing(self, path: PathBuf) -> Self {
        Self { changes: [self.changes, vec![path]].concat(), ..self }
    }
}

/// Which calls of a recorded prune lie in a range.
fn calls_in(range: Range, recorded: &Ended, scene: &Scene) -> Vec<Place> {
    let is_first = |call: &Call| match range {
        Range::FromReading => Path::new(&call.on).starts_with(scene.world.instances_path()),
        Range::FromLocking => call.is_ofd_lock(),
    };
    let calls = &recorded.calls;
    let first = calls.iter().position(is_first).expect("prune looks and locks");
    let last = calls.iter().rposition(Call::is_removal_or_rename).expect("prune removes");
    let (own, proc): (Vec<_>, Vec<_>) =
        calls[first..=last].iter().map(|it| it.place).partition(|it| !it.in_proc);
    own.into_iter().chain(thinned(proc, PROC_CALLS)).collect()
}

/// Counts of one operation at all its points.
#[derive(Default)]
struct Count {
    done: usize,
    refused: usize,
    waited: usize,
    unreached: usize,
    failures: Vec<String>,
}

impl Count {
    fn add(&mut self, did: Option<&Did>, ended: &Ended) {
        self.waited += usize::from(ended.waited);
        match did {
            None => self.unreached += 1,
            Some(Did::Refused) => self.refused += 1,
            Some(_) => self.done += 1,
        }
    }
}

/// Checks what holds after a prune and somebody's operation, and after one more prune.
fn check(scene: &Scene, ended: &Ended, did: Option<Did>, changes: &[PathBuf], makes: &BTreeSet<String>) {
    let target = scene.world.base(&scene.target);
    assert_eq!(broken_disks(&scene.world), [].into(), "disks without their backing files: {ended:?}");
    if let Some(Did::Needs | Did::Holds(_)) = did {
        assert!(target.exists(), "the file that is needed now has gone: {ended:?}");
    }
    assert!(ended.signal.is_none(), "{ended:?}");
    let mut others = makes.clone();
    if let Some(Did::Removed(removed)) = &did {
        assert!(removed.iter().all(|name| !scene.world.base(name).exists()), "{removed:?}: {ended:?}");
        others.extend(removed.iter().cloned());
    }
    if let Some(Did::MayHaveRemoved(removed)) = &did {
        others.extend(removed.iter().cloned());
    }
    scene.nothing_needed_has_changed(changes);
    scene.report_is_true(ended, &others);
    let is_needed_for_good = matches!(did, Some(Did::Needs));
    drop(did);
    scene.pruned_again();
    assert_eq!(broken_disks(&scene.world), [].into(), "after the next prune");
    assert!(!is_needed_for_good || target.exists(), "gone with the next prune");
}

/// Stops a prune at each of its calls in the operation's range, and there the operation runs.
pub fn at_every_call(scene: &Scene, operation: &Operation<'_>, wanted: usize) -> Vec<String> {
    let start = Instant::now();
    scene.restore();
    (operation.prepare)(scene);
    let recorded = run(&scene.prune(), Watch::recording());
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    let all = calls_in(operation.range, &recorded, scene);
    let number = all.len();
    let points = sample(all, wanted);
    let share = share(points.len(), number);
    let mut count = Count::default();
    for place in points {
        scene.restore();
        (operation.prepare)(scene);
        let did = Mutex::new(None);
        let act = || *did.lock().unwrap() = Some((operation.run)(scene));
        let waits = || {
            let is_held = |name: &String| is_locked(&lock_file(&scene.world, name));
            if operation.locks.iter().any(is_held) { WAITING } else { WHOLE }
        };
        let action = Action::Stop(Box::new(act), Box::new(waits));
        let ended = run(&scene.prune(), Watch::acting(place, action));
        let did = did.into_inner().unwrap();
        count.add(did.as_ref(), &ended);
        // Other processes came and went, so that this run made fewer calls on /proc: no operation ran.
        if ended.reached.is_none() {
            continue;
        }
        let what = format!(
            "{} at {}",
            operation.name,
            ended.reached.as_ref().map_or("no call".into(), Call::to_string)
        );
        let checked = checked(&what, || check(scene, &ended, did, &operation.changes, &operation.makes));
        count.failures.extend(checked.err());
    }
    print_count(operation.name, "calls of prune", &share, &count, start);
    count.failures
}

fn print_count(name: &str, of: &str, share: &str, count: &Count, start: Instant) {
    println!(
        "one switch, {name}: {share} {of}: done {}, refused {}, waited for the other {}, not reached {}; {} failed; {:.1?}",
        count.done,
        count.refused,
        count.waited,
        count.unreached,
        count.failures.len(),
        start.elapsed()
    );
}

/// Stops another program at each of its calls on the instances path, those of its threads and children too, and there a
/// whole prune runs. The program needs the target if it ends with exit code 0.
pub fn prune_at_every_call(
    scene: &Scene,
    name: &str,
    changes: &[PathBuf],
    makes: &BTreeSet<String>,
    wanted: usize,
    run_watched: impl Fn(Watch<'_>) -> Ended,
) -> Vec<String> {
    let start = Instant::now();
    let instances_path = scene.world.instances_path();
    let watched = |watch: Watch<'_>| {
        scene.restore();
        run_watched(watch.of_all_below(&instances_path))
    };
    let recorded = watched(Watch::recording());
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    let number = recorded.calls.len();
    let points = sample(recorded.calls, wanted);
    let share = share(points.len(), number);
    let mut count = Count::default();
    for call in points {
        let pruned = Mutex::new(None);
        let prune = || {
            // The other one may hold the lock, and stands.
            let ended = run(&scene.prune_with(["--lock-wait", "0s"]), Watch::nothing());
            *pruned.lock().unwrap() = Some(ended);
        };
        let ended = watched(Watch::acting(call.place, Action::stop(prune)));
        let did = if ended.code == Some(0) { Did::Needs } else { Did::Refused };
        let Some(pruned) = pruned.into_inner().unwrap() else {
            count.unreached += 1;
            continue;
        };
        count.add(Some(&did), &pruned);
        let what = format!("prune at {call} of {name}, which printed {:?}", ended.stderr);
        let checked = checked(&what, || check(scene, &pruned, Some(did), changes, makes));
        count.failures.extend(checked.err());
    }
    print_count(&format!("a prune while {name}"), "of its calls", &share, &count, start);
    count.failures
}

/// Runs qemu-img. It may find that the backing file is not there.
fn qemu_img(args: &[&Path]) -> Did {
    let output = Command::new(tool("qemu-img", "qemu-utils")).args(args).output().unwrap();
    if output.status.success() { Did::Needs } else { Did::Refused }
}

fn create_args<'a>(base: &'a Path, disk: &'a Path) -> [&'a Path; 9] {
    let [create, quiet, format, qcow2, backing_format, raw, backing] =
        ["create", "-q", "-f", "qcow2", "-F", "raw", "-b"].map(Path::new);
    [create, quiet, format, qcow2, backing_format, raw, backing, base, disk]
}

fn rebase_args<'a>(base: &'a Path, disk: &'a Path) -> [&'a Path; 8] {
    let [rebase, format, qcow2, backing_format, raw, backing] =
        ["rebase", "-f", "qcow2", "-F", "raw", "-b"].map(Path::new);
    [rebase, format, qcow2, backing_format, raw, backing, base, disk]
}

/// Starts an instance's disk in a directory of its own, as nova does; the directory goes where that fails.
fn create_in(scene: &Scene, directory: &str) -> Did {
    let directory = scene.world.path(directory);
    fs_err::create_dir(&directory).unwrap();
    let did = qemu_img(&create_args(&scene.world.base(&scene.target), &directory.join("disk")));
    if let Did::Refused = did {
        fs_err::remove_dir_all(&directory).unwrap();
    }
    did
}

/// A disk on the target that lies where no prune looks.
fn make_disk_elsewhere(scene: &Scene) -> PathBuf {
    let disk = scene.world.outside().join("elsewhere/disk");
    overlay(&disk, scene.world.base(&scene.target));
    disk
}

/// A QEMU opens a disk on the target and keeps it open.
fn open_in_qemu(scene: &Scene, disk: &Path) -> Did {
    let socket = scene.world.outside().join("nbd.sock");
    fs_err::remove_file(&socket).ok();
    let mut command = Command::new(tool("qemu-nbd", "qemu-utils"));
    command.args(["--format=qcow2", "--persistent", "--socket"]).arg(&socket).arg(disk);
    let mut running = Running::start(&mut command);
    wait_until("qemu-nbd opens the chain or ends", || {
        !running.is_running() || socket.exists() && is_locked(&scene.world.base(&scene.target))
    });
    if running.is_running() { Did::Holds(Box::new(running)) } else { Did::Refused }
}

fn second_prune(scene: &Scene) -> Did {
    let run = Run::from(scene.prune_with(["--lock-wait", "0s"]).output().unwrap());
    if run.code == 3 { Did::Refused } else { Did::Removed(with_outcome(&run, "removed")) }
}

pub fn resized(scene: &Scene) -> (PathBuf, PathBuf) {
    let directory = scene.world.path(INSTANCES[2]);
    let resized = directory.with_file_name(format!("{}_resize", INSTANCES[2]));
    (directory, resized)
}

/// The operations that need nothing but QEMU's tools. In INSTANCES[2], which is in no inventory, is the one disk that
/// keeps a file.
fn operations(scene: &Scene) -> Vec<Operation<'_>> {
    use Range::{FromLocking, FromReading};
    let disk = scene.world.path(INSTANCES[1]).join("disk");
    let elsewhere = make_disk_elsewhere(scene);
    let (directory, directory_resized) = resized(scene);
    let kept = crate::common::proof::backing_file(&directory.join("disk")).unwrap();
    vec![
        Operation::new("a QEMU opens a disk that lies elsewhere", FromLocking, move |scene| {
            open_in_qemu(scene, &elsewhere)
        }),
        Operation {
            locks: [scene.target.clone()].into(),
            ..Operation::new("a disk is made under nova's lock", FromLocking, |scene| {
                let _lock = hold_lock_waiting(&scene.world, &scene.target);
                create_in(scene, "0d1e2f30-0000-4000-8000-000000000004")
            })
        },
        Operation::new("a disk is made in a new directory", FromLocking, |scene| {
            create_in(scene, "0d1e2f30-0000-4000-8000-000000000004")
        }),
        Operation::new("a disk is made in an old directory", FromLocking, |scene| {
            qemu_img(&create_args(
                &scene.world.base(&scene.target),
                &scene.world.path(INSTANCES[1]).join("disk.new"),
            ))
        }),
        Operation::new("a disk is rebased", FromLocking, |scene| {
            qemu_img(&rebase_args(
                &scene.world.base(&scene.target),
                &scene.world.path(INSTANCES[1]).join("disk"),
            ))
        })
        .changing(disk.clone()),
        Operation::new("a disk's backing name is changed", FromLocking, |scene| {
            // With -u qemu-img does not look whether the file is there.
            if !scene.world.base(&scene.target).exists() {
                return Did::Refused;
            }
            let base = scene.world.base(&scene.target);
            let disk = scene.world.path(INSTANCES[1]).join("disk");
            let args = rebase_args(&base, &disk);
            qemu_img(&[&args[..1], &[Path::new("-u")], &args[1..]].concat())
        })
        .changing(disk),
        Operation::new("a directory gets the name of a resize", FromReading, |scene| {
            let (directory, resized) = resized(scene);
            fs_err::rename(directory, resized).unwrap();
            Did::Done
        })
        .changing(directory.clone()),
        Operation {
            prepare: |scene| {
                let (directory, resized) = resized(scene);
                fs_err::rename(directory, resized).unwrap();
            },
            ..Operation::new("a directory gets its name back", FromReading, |scene| {
                let (directory, resized) = resized(scene);
                fs_err::rename(resized, directory).unwrap();
                Did::Done
            })
        }
        .changing(directory_resized),
        Operation::new("a directory is renamed and renamed back", FromReading, |scene| {
            let (directory, resized) = resized(scene);
            fs_err::rename(&directory, &resized).unwrap();
            fs_err::rename(resized, directory).unwrap();
            Did::Done
        }),
        Operation::new("an instance is deleted", FromReading, |scene| {
            fs_err::remove_dir_all(resized(scene).0).unwrap();
            Did::Done
        })
        .changing(directory)
        .changing(kept),
        Operation::new("a second prune", FromReading, second_prune),
        Operation::new("a second prune that the first does not exclude", FromReading, |scene| {
            fs_err::remove_file(scene.world.path("locks").join("imagecache-prune.lock")).ok();
            second_prune(scene)
        }),
        Operation {
            makes: [scene.target.clone()].into(),
            ..Operation::new("the file is fetched again without a lock", FromLocking, |scene| {
                let part = scene.world.base(format!("{}.part", scene.target));
                fs_err::write(&part, "fetched again").unwrap();
                fs_err::rename(part, scene.world.base(&scene.target)).unwrap();
                Did::Needs
            })
        },
    ]
}

fn at_every_call_of_a_prune(scene: &Scene, wanted: usize) {
    let operations = operations(scene);
    let failures: Vec<_> = operations.iter().flat_map(|it| at_every_call(scene, it, wanted)).collect();
    none_failed(&failures);
}

#[test]
fn no_whole_operation_at_any_system_call_of_a_prune_loses_a_backing_file() {
    at_every_call_of_a_prune(&Scene::new(), 8);
}

#[test]
fn no_whole_operation_at_any_system_call_of_a_prune_after_a_kill_loses_a_backing_file() {
    at_every_call_of_a_prune(&Scene::new().after_a_kill(), 4);
}

#[test]
fn no_whole_prune_at_any_system_call_of_qemu_img_loses_a_backing_file() {
    let scene = Scene::new();
    let base = scene.world.base(&scene.target);
    let disk = scene.world.path(INSTANCES[1]).join("disk");
    let new = scene.world.path(INSTANCES[1]).join("disk.new");
    let qemu_img = |args: &[&Path]| {
        let mut command = Command::new(tool("qemu-img", "qemu-utils"));
        command.args(args);
        command
    };
    let rebase = qemu_img(&rebase_args(&base, &disk));
    let changes = std::slice::from_ref(&disk);
    let mut failures = prune_at_every_call(&scene, "a disk is rebased", changes, &[].into(), 12, |watch| {
        run(&rebase, watch)
    });
    // nova holds the lock of the file while it makes a disk: qemu-img closes the backing file before it writes its name.
    let create = qemu_img(&create_args(&base, &new));
    let name = "a disk is made under nova's lock";
    failures.extend(prune_at_every_call(&scene, name, &[], &[].into(), 12, |watch| {
        let _lock = hold_lock(&scene.world, &scene.target);
        run(&create, watch)
    }));
    none_failed(&failures);
}
