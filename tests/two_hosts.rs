//! Two hosts that share an instances path as badly as can be: by two sshfs mounts, each with its own cache of names and
//! attributes, no locks between them, and no `RENAME_NOREPLACE`. `tests/filesystems sshfs` mounts them and runs this: the
//! second one at the same path, in a mount namespace of its own.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nova_imagecache::cache_name::{SET_ASIDE, cache_file_name};

use crate::common::hostile::Numbers;
use crate::common::nova::{Nova, Order, set_mtime, upload};
use crate::common::prune::{InUse, Running, broken_disks, is_full, names, prune_command, with_outcome};
use crate::common::{DAY, Run, World, list, tool};

/// How long a prune waits between setting aside and looking again, and what its mounts stay behind at most.
const SETTLE: &str = "2s";
const CACHES: Duration = Duration::from_millis(1600);

/// Novas on the other host, each with one operation a round.
const NOVAS: usize = 6;

const OPERATIONS: [&str; 7] = ["start", "fetch", "rebase", "resize", "revert", "delete", "swap"];

type Made = (u64, SystemTime);

/// The two hosts and what they share.
struct Hosts {
    it: InUse,
    /// What is served to both: the truth.
    served: PathBuf,
    other: String,
}

impl Hosts {
    fn new() -> Self {
        let variable =
            |name| std::env::var(name).unwrap_or_else(|_| panic!("no {name}: run tests/filesystems sshfs"));
        let (served, other) = (variable("NOVA_IMAGECACHE_SERVED"), variable("NOVA_IMAGECACHE_OTHER_HOST"));
        Self { it: InUse::new(), served: served.into(), other }
    }

    /// A program on the other host.
    fn on_other(&self, program: &OsStr) -> Command {
        let mut command = Command::new(tool("nsenter", "util-linux"));
        command.arg(format!("--mount=/proc/{}/ns/mnt", self.other)).arg("--").arg(program);
        command
    }

    fn prune(&self, is_other: bool) -> Command {
        let command = prune_command(&self.it.world, ["-q", "--settle", SETTLE]);
        if !is_other {
            return command;
        }
        let mut other = self.on_other(command.get_program());
        other.env_clear().args(command.get_args());
        other
    }

    /// Where what both see under this path really is.
    fn truth(&self, path: &Path) -> PathBuf {
        self.served.join(path.strip_prefix(std::env::temp_dir()).unwrap())
    }

    fn cache_dir(&self) -> PathBuf {
        self.truth(&self.it.world.path("_base"))
    }

    /// Each file in the cache directory, by its inode and when that was made: numbers of inodes are used again.
    fn files(&self) -> BTreeMap<String, Made> {
        let made = |name: &String| {
            let metadata = fs_err::symlink_metadata(self.cache_dir().join(name)).unwrap();
            (metadata.ino(), metadata.created().unwrap())
        };
        names(&self.cache_dir()).into_iter().map(|name| (name.clone(), made(&name))).collect()
    }

    /// Makes all base files two days old.
    fn all_is_old(&self) {
        names(&self.cache_dir()).iter().for_each(|name| set_mtime(&self.cache_dir().join(name), 2 * DAY));
    }
}

/// One nova and the instance that it has in a round.
struct Actor {
    nova: Nova,
    operation: &'static str,
    uuid: String,
    snapshot: String,
    base: PathBuf,
    mib: u64,
}

impl Actor {
    fn new(hosts: &Hosts) -> Self {
        let nova = Nova::start_by(&hosts.it.world, |python| hosts.on_other(python));
        let (uuid, snapshot) = (String::new(), String::new());
        Self { nova, operation: "", uuid, snapshot, base: PathBuf::new(), mib: 0 }
    }

    /// Makes what the operation of this round needs.
    fn prepare(&mut self, world: &World, number: usize, round: usize) {
        self.operation = OPERATIONS[(number + round) % OPERATIONS.len()];
        self.uuid = format!("{number:08x}-0000-4000-8000-{round:012x}");
        self.snapshot = format!("snapshot-{number}-{round}");
        self.mib = (1 + number + round * NOVAS) as u64;
        let image = format!("image-{number}-{round}");
        self.base = world.base(cache_file_name(&image));
        [&self.snapshot, &image].iter().for_each(|image| upload(world, image));
        let start = Order::Start(&self.uuid, &self.snapshot);
        let orders: &[Order<'_>] = match self.operation {
            "start" => &[Order::Precache(&self.snapshot)],
            "rebase" => &[start, Order::Precache(&image)],
            "resize" | "delete" => &[start],
            "revert" => &[start, Order::Resize(&self.uuid)],
            _ => &[],
        };
        // A mount of this host may not have seen yet what was uploaded, nor what a prune took.
        orders.iter().for_each(|order| self.nova.must(*order));
    }

    fn act(&mut self) -> Result<(), String> {
        let Self { nova, uuid, .. } = self;
        nova.does(match self.operation {
            "start" | "fetch" => Order::Start(uuid, &self.snapshot),
            "rebase" => Order::Rebase(uuid, &self.base),
            "resize" => Order::Resize(uuid),
            "revert" => Order::Revert(uuid),
            "delete" => Order::Delete(uuid),
            _ => Order::Swap(uuid, self.mib),
        })
    }
}

/// What a prune said of the files that it did not keep, and on stderr.
fn said(run: &Run) -> String {
    let json = run.json();
    let files = list(&json["files"]).iter().filter(|it| it["outcome"] != "kept");
    let lines = files.map(|it| format!("{} {} {}", it["name"], it["outcome"], it["error"]));
    [format!("exit {}", run.code)]
        .into_iter()
        .chain(lines)
        .chain([run.stderr.clone()])
        .collect::<Vec<_>>()
        .join("\n")
}

/// Checks what prunes said of a round against what is there, before and after it: names and inodes. nova removes no base
/// file, but makes one anew where it finds none.
fn report_is_true(
    before: &BTreeMap<String, Made>,
    after: &BTreeMap<String, Made>,
    runs: &[Run],
) -> Result<(), String> {
    let removed: BTreeSet<_> = runs.iter().flat_map(|run| with_outcome(run, "removed")).collect();
    for (name, inode) in before.iter().filter(|(name, _)| !name.starts_with(SET_ASIDE)) {
        let is_aside = after.contains_key(&format!("{SET_ASIDE}{name}"));
        match after.get(name) {
            None if !is_aside && !removed.contains(name) => {
                return Err(format!("{name} is gone, and not as removed"));
            }
            Some(later) if later == inode && removed.contains(name) => {
                return Err(format!("{name} is reported as removed, and there"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// Prunes on one host or on both while novas work on the other.
fn share(rounds: usize, prunes: &[bool]) {
    let hosts = &Hosts::new();
    let world = &hosts.it.world;
    let mut actors: Vec<_> = (0..NOVAS).map(|_| Actor::new(hosts)).collect();
    let mut numbers = Numbers(1);
    let mut operations = BTreeMap::<_, [usize; 2]>::new();
    let mut outcomes = BTreeMap::<_, usize>::new();
    let start = Instant::now();
    for round in 0..rounds {
        actors.iter_mut().enumerate().for_each(|(number, actor)| actor.prepare(world, number, round));
        hosts.all_is_old();
        if round % 2 == 1 {
            // In every second round this host has seen all that the other has done.
            std::thread::sleep(CACHES);
        }
        let before = hosts.files();
        let running: Vec<_> = prunes.iter().map(|other| Running::start(&mut hosts.prune(*other))).collect();
        // Most of them early, while prune judges and sets aside.
        let mut delay = || Duration::from_millis((numbers.below(3000) * numbers.below(1000) / 1000) as u64);
        let delays: Vec<_> = actors.iter().map(|_| delay()).collect();
        std::thread::scope(|scope| {
            let acting = actors.iter_mut().zip(delays).map(|(actor, delay)| {
                scope.spawn(move || {
                    std::thread::sleep(delay);
                    (actor.operation, actor.act())
                })
            });
            for thread in acting.collect::<Vec<_>>() {
                let (operation, result) = thread.join().unwrap();
                let counts = operations.entry(operation).or_default();
                counts[0] += 1;
                counts[1] += usize::from(result.is_err());
                if let Err(error) = result {
                    println!("round {round}: {operation} failed: {error}");
                }
            }
        });
        let runs: Vec<_> = running.into_iter().map(Running::finish).collect();
        let aside = names(&hosts.cache_dir()).iter().filter(|it| it.starts_with(SET_ASIDE)).count();
        *outcomes.entry("set aside after a round").or_default() += aside;
        for run in &runs {
            assert!(run.code <= 1, "{run:#?}");
            for outcome in ["removed", "kept", "changed", "open", "locked", "failed", "not_reached"] {
                *outcomes.entry(outcome).or_default() += with_outcome(run, outcome).len();
            }
            *outcomes.entry(if run.code == 0 { "exit 0" } else { "exit 1" }).or_default() += 1;
        }
        let said = runs.iter().map(said).collect::<Vec<_>>().join("\n");
        let instances = hosts.truth(&world.instances_path());
        let lost = broken_disks(&instances, |base| hosts.truth(base).exists());
        assert!(lost.is_empty(), "round {round}: disks whose base file is gone: {lost:#?}\n{said}");
        report_is_true(&before, &hosts.files(), &runs)
            .unwrap_or_else(|error| panic!("round {round}: {error}\n{said}"));
    }
    println!("{rounds} rounds in {:.0?}, prunes and their files: {outcomes:?}", start.elapsed());
    println!("operations of nova, failed: {operations:?}");
    drop(actors);
    // Nothing but what is in use is left over, in the end.
    let instances = hosts.truth(&world.instances_path());
    for name in names(&instances) {
        if name.as_bytes().get(8) == Some(&b'-') && name != "instance-00000001" {
            fs_err::remove_dir_all(instances.join(name)).unwrap();
        }
    }
    hosts.all_is_old();
    std::thread::sleep(CACHES);
    for is_other in prunes {
        let run = Running::start(&mut hosts.prune(*is_other)).finish();
        assert_eq!(run.code, 0, "{run:#?}");
        std::thread::sleep(CACHES);
    }
    assert_eq!(names(&hosts.cache_dir()), BTreeSet::from([hosts.it.used.clone()]));
    assert!(outcomes["removed"] > 0, "too little happened");
}

fn rounds() -> usize {
    if is_full() { 40 } else { 8 }
}

#[test]
#[ignore = "two mounts are needed: tests/filesystems sshfs"]
fn no_disk_of_a_nova_on_another_host_loses_its_base_file() {
    share(rounds(), &[false]);
}

#[test]
#[ignore = "two mounts are needed: tests/filesystems sshfs"]
fn no_disk_loses_its_base_file_to_two_prunes_one_on_each_host() {
    share(rounds(), &[false, true]);
}
