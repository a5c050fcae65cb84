//! nova's own code beside prunes at default ages, on one host or on two that share an instances path (`two_hosts.rs`).
//! Every base file is two days old when a round begins: no age keeps a file, the disks alone do.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant, SystemTime};

use nova_imagecache::cache_name::{SET_ASIDE, cache_file_name};

use crate::common::hostile::Numbers;
use crate::common::nova::{Nova, set_mtime, upload};
use crate::common::prune::{
    InUse, broken_disks, finish, is_full, names, other_instances, prune_command, with_outcome,
};
use crate::common::{DAY, Run, World, list, text, tool};

/// Novas, each with one operation a round.
const NOVAS: usize = 5;

const OPERATIONS: [&str; 8] = ["start", "fetch", "rebase", "resize", "revert", "delete", "swap", "precache"];

/// The second host, and what is served to both: the truth.
struct Other {
    pid: String,
    served: PathBuf,
}

/// One host with prunes and novas, or two that share their instances path, the novas on the second one.
pub struct Hosts {
    it: InUse,
    other: Option<Other>,
}

impl Hosts {
    /// On one host, where other instances give nova the time to do something while prune reads.
    fn one() -> Self {
        let it = InUse::new();
        other_instances(&it.world);
        Self { it, other: None }
    }

    pub fn two() -> Self {
        let variable =
            |name| std::env::var(name).unwrap_or_else(|_| panic!("no {name}: run tests/filesystems sshfs"));
        let served = variable("NOVA_IMAGECACHE_SERVED").into();
        let other = Some(Other { pid: variable("NOVA_IMAGECACHE_OTHER_HOST"), served });
        Self { it: InUse::new(), other }
    }

    /// How long a mount may stay behind what the other host has done.
    fn caches(&self) -> Duration {
        Duration::from_millis(if self.other.is_some() { 1600 } else { 0 })
    }

    /// A program where the novas run.
    fn on_other(&self, program: &OsStr) -> Command {
        let Some(other) = &self.other else { return Command::new(program) };
        let mut command = Command::new(tool("nsenter", "util-linux"));
        command.arg(format!("--mount=/proc/{}/ns/mnt", other.pid)).arg("--").arg(program);
        command
    }

    fn prune(&self, is_on_other: bool) -> Command {
        // Longer than the mounts stay behind.
        let settle = ["--settle", "2s"].into_iter().filter(|_| self.other.is_some());
        let command = prune_command(&self.it.world, ["-q"].into_iter().chain(settle));
        if !is_on_other {
            return command;
        }
        let mut other = self.on_other(command.get_program());
        other.env_clear().args(command.get_args());
        other
    }

    /// Where what both see under this path really is.
    fn truth(&self, path: &Path) -> PathBuf {
        let below = || path.strip_prefix(std::env::temp_dir()).unwrap();
        self.other.as_ref().map_or_else(|| path.to_owned(), |it| it.served.join(below()))
    }

    /// Each file in the cache directory, by its inode and when that was made, for numbers of inodes are used again; ext3
    /// does not tell.
    fn files(&self) -> BTreeMap<String, (u64, Option<SystemTime>)> {
        let cache_dir = self.truth(&self.it.world.path("_base"));
        let made = |name: &String| {
            let metadata = fs_err::symlink_metadata(cache_dir.join(name)).unwrap();
            (metadata.ino(), metadata.created().ok())
        };
        names(&cache_dir).into_iter().map(|name| (name.clone(), made(&name))).collect()
    }

    /// Makes all base files two days old.
    fn all_is_old(&self) {
        let cache_dir = self.truth(&self.it.world.path("_base"));
        names(&cache_dir).iter().for_each(|name| set_mtime(&cache_dir.join(name), 2 * DAY));
    }
}

/// One nova and what it does in a round.
struct Actor {
    nova: Nova,
    operation: &'static str,
    order: String,
}

impl Actor {
    fn new(hosts: &Hosts) -> Self {
        let nova = Nova::start_by(&hosts.it.world, |python| hosts.on_other(python));
        Self { nova, operation: "", order: String::new() }
    }

    /// Makes what the operation of this round needs.
    fn prepare(&mut self, world: &World, number: usize, round: usize) {
        self.operation = OPERATIONS[(number + round) % OPERATIONS.len()];
        let uuid = format!("{number:08x}-0000-4000-8000-{round:012x}");
        let [snapshot, image] = ["snapshot", "image"].map(|it| format!("{it}-{number}-{round}"));
        [&snapshot, &image].iter().for_each(|image| upload(world, image));
        let base = world.base(cache_file_name(&image));
        let start = format!("start {uuid} {snapshot}");
        let precache = format!("precache {image}");
        let (before, order) = match self.operation {
            "start" => (vec![format!("precache {snapshot}")], start),
            "fetch" => (vec![], start),
            "rebase" => (vec![start, precache], format!("rebase {uuid} {}", base.display())),
            "revert" => (vec![start, format!("resize {uuid}")], format!("revert {uuid}")),
            "swap" => (vec![], format!("swap {uuid} {}", 1 + number + round * NOVAS)),
            "precache" => (vec![precache.clone()], precache),
            of_instance => (vec![start], format!("{of_instance} {uuid}")),
        };
        self.order = order;
        // A mount of this host may not have seen yet what was uploaded, nor what a prune took.
        before
            .iter()
            .for_each(|order| self.nova.does(order).unwrap_or_else(|error| panic!("{order}: {error}")));
    }
}

/// What a prune said of the files that it did not keep, and on stderr.
fn said(run: &Run) -> String {
    let json = run.json();
    let files = list(&json["files"]).iter().filter(|it| it["outcome"] != "kept");
    let lines = files.map(|it| format!("{} {} {}\n", it["name"], it["outcome"], it["error"]));
    format!("exit {}\n{}{}", run.code, lines.collect::<String>(), run.stderr)
}

/// Checks what prunes said of a round against what is there, before and after it. nova removes no base file, but makes one
/// anew where it finds none.
fn report_is_true<T: PartialEq>(
    before: &BTreeMap<String, T>,
    after: &BTreeMap<String, T>,
    runs: &[Run],
) -> Result<(), String> {
    let removed: BTreeSet<_> = runs.iter().flat_map(|run| with_outcome(run, "removed")).collect();
    for (name, made) in before.iter().filter(|(name, _)| !name.starts_with(SET_ASIDE)) {
        let is_aside = after.contains_key(&format!("{SET_ASIDE}{name}"));
        match after.get(name) {
            None if !is_aside && !removed.contains(name) => {
                return Err(format!("{name} is gone, and not as removed"));
            }
            Some(later) if later == made && removed.contains(name) => {
                return Err(format!("{name} is reported as removed, and there"));
            }
            _ => {}
        }
    }
    Ok(())
}

/// What happened in all rounds.
#[derive(Debug, Default)]
struct Seen {
    /// Prunes by exit code, and their files by outcome.
    outcomes: BTreeMap<String, usize>,
    /// Of each kind of operation: how many there were, in a prune, and failed.
    operations: BTreeMap<&'static str, [usize; 3]>,
}

impl Seen {
    /// Does the novas' operations, each after its delay, while prunes run. Returns what the prunes said.
    fn round(
        &mut self,
        hosts: &Hosts,
        prunes: &[bool],
        actors: &mut [Actor],
        delays: &[Duration],
    ) -> Vec<Run> {
        let (acted, pruned) = std::thread::scope(|scope| {
            let pruning = prunes.iter().map(|is_on_other| {
                let mut prune = hosts.prune(*is_on_other);
                scope.spawn(move || (finish(&mut prune), Instant::now()))
            });
            let pruning: Vec<_> = pruning.collect();
            let acting = actors.iter_mut().zip(delays).map(|(actor, delay)| {
                scope.spawn(move || {
                    std::thread::sleep(*delay);
                    (actor.operation, Instant::now(), actor.nova.does(&actor.order))
                })
            });
            let acting: Vec<_> = acting.collect();
            let acted: Vec<_> = acting.into_iter().map(|it| it.join().unwrap()).collect();
            (acted, pruning.into_iter().map(|it| it.join().unwrap()).collect::<Vec<_>>())
        });
        for (operation, began, result) in acted {
            let is_in_a_prune = pruned.iter().any(|(_, end)| began < *end);
            let counts = [true, is_in_a_prune, result.is_err()].map(usize::from);
            let sums = self.operations.entry(operation).or_default();
            sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            if let Err(error) = result {
                println!("{operation} failed: {error}");
            }
        }
        for (run, _) in &pruned {
            assert!(run.code <= 1, "{run:#?}");
            *self.outcomes.entry(format!("exit {}", run.code)).or_default() += 1;
            for file in list(&run.json()["files"]) {
                *self.outcomes.entry(text(&file["outcome"])).or_default() += 1;
            }
        }
        pruned.into_iter().map(|(run, _)| run).collect()
    }
}

/// Prunes on the first host, or on both as this says, while novas work.
pub fn share(hosts: &Hosts, rounds: usize, prunes: &[bool]) {
    let world = &hosts.it.world;
    let instances = hosts.truth(&world.instances_path());
    let mut actors: Vec<_> = (0..NOVAS).map(|_| Actor::new(hosts)).collect();
    let mut numbers = Numbers(1);
    let mut seen = Seen::default();
    let start = Instant::now();
    for round in 0..rounds {
        actors.iter_mut().enumerate().for_each(|(number, actor)| actor.prepare(world, number, round));
        hosts.all_is_old();
        if round % 2 == 1 {
            // In every second round this host has seen all that the other has done.
            std::thread::sleep(hosts.caches());
        }
        // Most of them early, while prune judges and sets aside.
        let longest = if hosts.other.is_some() { 3000 } else { 300 };
        let delays = [(); NOVAS].map(|()| numbers.below(longest) * numbers.below(1000) / 1000);
        let delays = delays.map(|it| Duration::from_millis(it as u64));
        let before = hosts.files();
        let runs = seen.round(hosts, prunes, &mut actors, &delays);
        let after = hosts.files();
        let aside = after.keys().filter(|it| it.starts_with(SET_ASIDE)).count();
        *seen.outcomes.entry("set aside after a round".to_owned()).or_default() += aside;
        let said = || runs.iter().map(said).collect::<String>();
        let lost = broken_disks(&instances, |base| hosts.truth(base).exists());
        assert!(lost.is_empty(), "round {round}: disks whose base file is gone: {lost:#?}\n{}", said());
        report_is_true(&before, &after, &runs)
            .unwrap_or_else(|error| panic!("round {round}: {error}\n{}", said()));
    }
    println!("{rounds} rounds in {:.0?}, prunes and their files: {:?}", start.elapsed(), seen.outcomes);
    println!("operations of nova, in a prune, failed: {:?}", seen.operations);
    drop(actors);
    // Nothing but what is in use is left over, in the end.
    for name in names(&instances) {
        if name.as_bytes().get(8) == Some(&b'-') && name != "instance-00000001" {
            fs_err::remove_dir_all(instances.join(name)).unwrap();
        }
    }
    hosts.all_is_old();
    std::thread::sleep(hosts.caches());
    for is_on_other in prunes {
        finish(&mut hosts.prune(*is_on_other)).exits(0);
        std::thread::sleep(hosts.caches());
    }
    assert!(hosts.files().keys().eq([&hosts.it.used]));
    let in_a_prune: usize = seen.operations.values().map(|it| it[1]).sum();
    assert!(seen.outcomes["removed"] > 0 && in_a_prune > rounds, "too little happened");
}

#[test]
fn no_disk_of_real_nova_loses_its_base_file_to_a_prune() {
    share(&Hosts::one(), if is_full() { 60 } else { 8 }, &[false]);
}
