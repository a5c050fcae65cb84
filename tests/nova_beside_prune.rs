//! nova's own code beside prunes at default ages. Every base file here is two days old whenever nova turns to it, and in
//! the directories of the disks nothing was renamed or made for a minute: no age keeps a file, the disks alone do.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use nova_imagecache::cache_name::cache_file_name;

use crate::common::nova::{Nova, Order, set_mtime, upload};
use crate::common::prune::{
    InUse, broken_disks, finish, is_full, other_instances, prune_command, wait_until, with_outcome,
};
use crate::common::{DAY, MINUTE, World};

const NOVAS: usize = 2;
const SLOTS: usize = 6;

/// What happened.
#[derive(Debug, Default)]
struct Seen {
    /// Operations: what, from when to when, and whether nova said that it failed.
    operations: Mutex<Vec<(&'static str, Instant, Instant, bool)>>,
    prunes: Mutex<Vec<(Instant, Instant)>>,
    /// How often all disks have been looked at, which happens after each prune.
    looks: AtomicUsize,
    /// Disks whose base file is gone, and that base file.
    lost: Mutex<BTreeMap<PathBuf, PathBuf>>,
    end: AtomicBool,
}

impl Seen {
    /// Does an operation. Says whether it succeeded.
    fn does(&self, nova: &mut Nova, name: &'static str, order: Order<'_>) -> bool {
        let start = Instant::now();
        let failed = nova.does(order).is_err();
        self.operations.lock().unwrap().push((name, start, Instant::now(), failed));
        !failed
    }

    fn prunes(&self, world: &World) -> usize {
        let start = Instant::now();
        let run = finish(&mut prune_command(world, ["-q"]));
        self.prunes.lock().unwrap().push((start, Instant::now()));
        assert!(run.code <= 1, "{run:#?}");
        with_outcome(&run, "removed").len()
    }

    /// Looks for disks whose base file is gone.
    fn looks_at_disks(&self, world: &World) {
        self.lost.lock().unwrap().extend(broken_disks(&world.instances_path(), Path::exists));
        self.looks.fetch_add(1, SeqCst);
    }

    /// One nova's operations, until the end. It goes from one of its slots to the next, each with images of its own; the
    /// instance in it stays until its disks have been looked at.
    fn goes_on(&self, world: &World, number: usize) {
        let mut nova = Nova::start(world);
        let mut looks = [0; SLOTS];
        for round in 0.. {
            let slot = round % SLOTS;
            wait_until("a prune ends", || self.looks.load(SeqCst) >= looks[slot] || self.end.load(SeqCst));
            if self.end.load(SeqCst) {
                return;
            }
            let [snapshot, image] = ["snapshot", "image"].map(|it| format!("{it}-{number}-{slot}"));
            let mib = 64 + (number * SLOTS + slot) as u64;
            let bases = [cache_file_name(&snapshot), cache_file_name(&image), format!("swap_{mib}")];
            let bases = bases.map(|name| world.base(name));
            let uuid = |round: usize| format!("{number:08x}-0000-4000-8000-{round:012x}");
            if round < SLOTS {
                upload(world, &snapshot);
                upload(world, &image);
            } else {
                bases.iter().for_each(|base| set_mtime(base, 2 * DAY));
                self.does(&mut nova, "delete", Order::Delete(&uuid(round - SLOTS)));
            }
            // An unshelve: a start on the snapshot, then a rebase onto the original image.
            let uuid = &uuid(round);
            if self.does(&mut nova, "start", Order::Start(uuid, &snapshot)) {
                self.does(&mut nova, "precache", Order::Precache(&image));
                bases.iter().for_each(|base| set_mtime(base, 2 * DAY));
                set_mtime(&world.path(uuid), MINUTE);
                set_mtime(&world.instances_path(), MINUTE);
                // So that prune meets it in ever other states.
                std::thread::sleep(Duration::from_millis(round as u64 * 37 % 60));
                self.does(&mut nova, "rebase", Order::Rebase(uuid, &bases[1]));
                // It takes longer than all others together.
                if round % 3 == 0 {
                    self.does(&mut nova, "swap", Order::Swap(uuid, mib));
                }
                self.does(&mut nova, "resize", Order::Resize(uuid));
                std::thread::sleep(Duration::from_millis(round as u64 * 11 % 30));
                self.does(&mut nova, "revert", Order::Revert(uuid));
            }
            // The look that is under way may have missed something, and so the one after it counts.
            looks[slot] = self.looks.load(SeqCst) + 2;
        }
    }

    /// Of each kind of operation: how many there were, in a prune, and failed.
    fn figures(&self) -> BTreeMap<&'static str, [usize; 3]> {
        let prunes = self.prunes.lock().unwrap();
        let mut figures = BTreeMap::from([("all", [0; 3])]);
        for (name, start, end, failed) in self.operations.lock().unwrap().iter() {
            let in_a_prune = prunes.iter().any(|(from, to)| start < to && from < end);
            let counts = [1, usize::from(in_a_prune), usize::from(*failed)];
            for name in [name, "all"] {
                let sums = figures.entry(name).or_default();
                sums.iter_mut().zip(counts).for_each(|(sum, count)| *sum += count);
            }
        }
        figures
    }
}

#[test]
fn no_disk_of_real_nova_loses_its_base_file_to_a_prune() {
    let (how_long, at_least) =
        if is_full() { (Duration::from_secs(120), 200) } else { (Duration::from_secs(10), 20) };
    let it = InUse::new();
    let world = &it.world;
    other_instances(world);
    let seen = &Seen::default();
    let mut removed = 0;
    std::thread::scope(|scope| {
        let novas: Vec<_> =
            (0..NOVAS).map(|number| scope.spawn(move || seen.goes_on(world, number))).collect();
        let start = Instant::now();
        let enough = || start.elapsed() > how_long && seen.figures()["all"][1] >= at_least;
        for round in 0_u64.. {
            // A slow machine gets more time.
            if enough() || start.elapsed() > 5 * how_long || novas.iter().any(|it| it.is_finished()) {
                break;
            }
            std::thread::sleep(Duration::from_millis(round * 53 % 150));
            removed += seen.prunes(world);
            seen.looks_at_disks(world);
        }
        seen.end.store(true, SeqCst);
    });
    seen.looks_at_disks(world);
    let figures = seen.figures();
    let prunes = seen.prunes.lock().unwrap();
    let lost = seen.lost.lock().unwrap();
    let took = prunes.iter().map(|(from, to)| *to - *from).sum::<Duration>() / prunes.len() as u32;
    println!("{} prunes of {took:.0?} removed {removed} files; {} disks lost", prunes.len(), lost.len());
    println!("operations, in a prune, failed: {figures:?}");
    assert!(lost.is_empty(), "disks whose base file is gone: {lost:#?}");
    let [_, in_a_prune, _] = figures["all"];
    assert!(in_a_prune >= at_least && removed > 0, "too little happened");
}
