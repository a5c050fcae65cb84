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

use nix::unistd::Pid;

use crate::common::proof::{INSTANCES, Scene, checked, none_failed, sample, share, thinned};
use crate::common::prune::{Running, broken_disks, finish, is_locked, lock_file, with_outcome};
use crate::common::steps::{Action, Call, Ended, Place, Watch, attached, run};
use crate::common::{overlay, tool};

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

/// What somebody else does, as a whole, while a prune stands at a system call. To add one: an entry in a list such as
/// [`operations`].
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

    pub fn changing(mut self, path: PathBuf) -> Self {
        self.changes.push(path);
        self
    }

    pub fn locking(mut self, file: &str) -> Self {
        self.locks.insert(file.to_owned());
        self
    }

    pub fn making(mut self, file: &str) -> Self {
        self.makes.insert(file.to_owned());
        self
    }

    pub fn after(self, prepare: fn(&Scene)) -> Self {
        Self { prepare, ..self }
    }

    /// Makes the tree that it finds.
    fn begin(&self, scene: &Scene) {
        scene.restore();
        (self.prepare)(scene);
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
    fn add(&mut self, did: Option<&Did>, has_waited: bool) {
        self.waited += usize::from(has_waited);
        match did {
            None => self.unreached += 1,
            Some(Did::Refused) => self.refused += 1,
            Some(_) => self.done += 1,
        }
    }

    fn print(&self, name: &str, share: &str, start: Instant) {
        println!(
            "one switch, {name}: {share}: done {}, refused {}, waited for the other {}, not reached {}; {} failed; {:.1?}",
            self.done,
            self.refused,
            self.waited,
            self.unreached,
            self.failures.len(),
            start.elapsed()
        );
    }
}

/// Checks what holds after a prune and somebody's operation, and after one more prune.
fn check(scene: &Scene, ended: &Ended, did: Option<Did>, operation: &Operation<'_>) {
    let target = scene.world.base(&scene.target);
    let broken = || broken_disks(&scene.world.instances_path(), Path::exists);
    assert_eq!(broken(), [].into(), "disks without their backing files: {ended:?}");
    if let Some(Did::Needs | Did::Holds(_)) = did {
        assert!(target.exists(), "the file that is needed now has gone: {ended:?}");
    }
    assert!(ended.signal.is_none(), "{ended:?}");
    let mut others = operation.makes.clone();
    if let Some(Did::Removed(removed) | Did::MayHaveRemoved(removed)) = &did {
        others.extend(removed.iter().cloned());
    }
    if let Some(Did::Removed(removed)) = &did {
        assert!(removed.iter().all(|name| !scene.world.base(name).exists()), "{removed:?}: {ended:?}");
    }
    scene.nothing_needed_has_changed(&operation.changes);
    scene.report_is_true(ended, &others);
    let is_needed_for_good = matches!(did, Some(Did::Needs));
    drop(did);
    scene.pruned_again();
    assert_eq!(broken(), [].into(), "after the next prune");
    assert!(!is_needed_for_good || target.exists(), "gone with the next prune");
}

/// Stops a prune at each of its calls in the operation's range, and there the operation runs.
pub fn at_every_call(scene: &Scene, operation: &Operation<'_>, wanted: usize) -> Vec<String> {
    let start = Instant::now();
    operation.begin(scene);
    let recorded = run(&scene.prune(&[]), Watch::recording());
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    let all = calls_in(operation.range, &recorded, scene);
    let number = all.len();
    let points = sample(all, wanted);
    let share = share(points.len(), number);
    let mut count = Count::default();
    for place in points {
        operation.begin(scene);
        let did = Mutex::new(None);
        let act = || *did.lock().unwrap() = Some((operation.run)(scene));
        let waits = || {
            let is_held = |name: &String| is_locked(&lock_file(&scene.world, name));
            if operation.locks.iter().any(is_held) { WAITING } else { WHOLE }
        };
        let action = Action::Stop(Box::new(act), Box::new(waits));
        let ended = run(&scene.prune(&[]), Watch::acting(place, action));
        let did = did.into_inner().unwrap();
        count.add(did.as_ref(), ended.waited);
        // Other processes came and went, so that this run made fewer calls on /proc: no operation ran.
        let Some(call) = &ended.reached else { continue };
        let what = format!("{} at {call}", operation.name);
        count.failures.extend(checked(&what, || check(scene, &ended, did, operation)));
    }
    count.print(operation.name, &format!("{share} calls of prune"), start);
    count.failures
}

/// Stops nova at each of its calls on the instances path, those of its threads and of the programs that it runs too, while
/// it does the operation, and there a whole prune runs.
pub fn prune_at_every_call(
    scene: &Scene,
    operation: &Operation<'_>,
    nova: Pid,
    wanted: usize,
) -> Vec<String> {
    let start = Instant::now();
    let instances_path = scene.world.instances_path();
    let watched = |watch: Watch<'_>| {
        operation.begin(scene);
        let mut did = Did::Refused;
        let watch = watch.of_all_below(&instances_path);
        let ended = attached(nova, watch, || did = (operation.run)(scene));
        (ended.calls, did)
    };
    let (calls, did) = watched(Watch::recording());
    assert!(!matches!(did, Did::Refused), "{} is refused", operation.name);
    let number = calls.len();
    let points = sample(calls, wanted);
    let share = share(points.len(), number);
    let mut count = Count::default();
    for call in points {
        let pruned = Mutex::new(None);
        let prune = || {
            // nova may hold the lock, and stands.
            let ended = run(&scene.prune(&["--lock-wait", "0s"]), Watch::recording());
            *pruned.lock().unwrap() = Some(ended);
        };
        let (_, did) = watched(Watch::acting(call.place, Action::stop(prune)));
        let pruned = pruned.into_inner().unwrap();
        count.add(pruned.as_ref().map(|_| &did), false);
        let Some(ended) = pruned else { continue };
        let what = format!("prune at {call} of {}", operation.name);
        count.failures.extend(checked(&what, || check(scene, &ended, Some(did), operation)));
    }
    count.print(&format!("a prune while {}", operation.name), &format!("{share} of its calls"), start);
    count.failures
}

pub fn needs(is_done: bool) -> Did {
    if is_done { Did::Needs } else { Did::Refused }
}

/// Runs qemu-img on the target and a disk. It may find that the target is not there.
fn qemu_img(scene: &Scene, options: &str, disk: &Path) -> Did {
    let mut command = Command::new(tool("qemu-img", "qemu-utils"));
    command.args(options.split(' ')).args([&*scene.world.base(&scene.target), disk]);
    needs(command.output().unwrap().status.success())
}

const CREATE: &str = "create -q -f qcow2 -F raw -b";

/// A QEMU opens a disk on the target and keeps it open.
fn open_in_qemu(scene: &Scene, disk: &Path) -> Did {
    let target = scene.world.base(&scene.target);
    let qemu = Running::qemu_nbd(&scene.world, &["--format=qcow2"], disk, &target);
    qemu.map_or(Did::Refused, |it| Did::Holds(Box::new(it)))
}

fn second_prune(scene: &Scene) -> Did {
    let run = finish(&mut scene.prune(&["--lock-wait", "0s"]));
    if run.code == 3 { Did::Refused } else { Did::Removed(with_outcome(&run, "removed")) }
}

pub fn resized(scene: &Scene) -> (PathBuf, PathBuf) {
    let directory = scene.world.path(INSTANCES[2]);
    let resized = directory.with_file_name(format!("{}_resize", INSTANCES[2]));
    (directory, resized)
}

/// What real nova does not do, or not in this way. In INSTANCES[2], which is in no inventory, is the one disk that keeps a
/// file.
fn operations(scene: &Scene) -> Vec<Operation<'_>> {
    use Range::{FromLocking, FromReading};
    let disk = scene.world.path(INSTANCES[1]).join("disk");
    let elsewhere = scene.world.outside().join("elsewhere/disk");
    overlay(&elsewhere, scene.world.base(&scene.target));
    let (directory, directory_resized) = resized(scene);
    vec![
        Operation::new("a QEMU opens a disk that lies elsewhere", FromLocking, move |scene| {
            open_in_qemu(scene, &elsewhere)
        }),
        Operation::new("a disk is made in a new directory", FromLocking, |scene| {
            let directory = scene.world.path("0d1e2f30-0000-4000-8000-000000000004");
            fs_err::create_dir(&directory).unwrap();
            let did = qemu_img(scene, CREATE, &directory.join("disk"));
            if let Did::Refused = did {
                fs_err::remove_dir_all(&directory).unwrap();
            }
            did
        }),
        Operation::new("a disk is made in an old directory", FromLocking, |scene| {
            qemu_img(scene, CREATE, &scene.world.path(INSTANCES[1]).join("disk.new"))
        }),
        Operation::new("a disk's backing name is changed", FromLocking, |scene| {
            // With -u qemu-img does not look whether the file is there.
            if !scene.world.base(&scene.target).exists() {
                return Did::Refused;
            }
            qemu_img(scene, "rebase -u -f qcow2 -F raw -b", &scene.world.path(INSTANCES[1]).join("disk"))
        })
        .changing(disk),
        Operation::new("a directory gets the name of a resize", FromReading, |scene| {
            let (directory, resized) = resized(scene);
            fs_err::rename(directory, resized).unwrap();
            Did::Done
        })
        .changing(directory),
        Operation::new("a directory gets its name back", FromReading, |scene| {
            let (directory, resized) = resized(scene);
            fs_err::rename(resized, directory).unwrap();
            Did::Done
        })
        .after(|scene| {
            let (directory, resized) = resized(scene);
            fs_err::rename(directory, resized).unwrap();
        })
        .changing(directory_resized),
        Operation::new("a directory is renamed and renamed back", FromReading, |scene| {
            let (directory, resized) = resized(scene);
            fs_err::rename(&directory, &resized).unwrap();
            fs_err::rename(resized, directory).unwrap();
            Did::Done
        }),
        Operation::new("a second prune", FromReading, second_prune),
        Operation::new("a second prune that the first does not exclude", FromReading, |scene| {
            fs_err::remove_file(scene.world.path("locks").join("imagecache-prune.lock")).ok();
            second_prune(scene)
        }),
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
