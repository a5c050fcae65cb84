//! nova's own code beside prunes at default ages. Every base file here is two days old whenever nova turns to it, and in
//! the directories of the disks nothing was renamed or made for a minute: no age keeps a file, the disks alone do.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Mutex;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant, SystemTime};

use nix::fcntl::AT_FDCWD;
use nix::sys::stat::{UtimensatFlags, utimensat};
use nix::sys::time::TimeSpec;
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

use crate::common::nova::{Nova, Order, upload};
use crate::common::prune::{
    InUse, Running, error, finish, names, prune_command, strace_log, wait_until, with_outcome,
};
use crate::common::{DAY, MINUTE, World, list, overlay, text, tool};

const NOVAS: usize = 2;
const SLOTS: usize = 6;

/// Other instances on the host: reading their disks takes the time in which nova can do something.
const OTHERS: usize = 1500;

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
        self.lost.lock().unwrap().extend(lost_disks(world));
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

/// Sets how long ago a file or directory was changed, where it is there, without opening it: prune would take that
/// for use.
pub fn set_mtime(path: &Path, age: Duration) {
    let time =
        TimeSpec::from_duration((SystemTime::now() - age).duration_since(SystemTime::UNIX_EPOCH).unwrap());
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::FollowSymlink).ok();
}

/// The backing file that the header of a disk names, here always by an absolute path.
pub fn backing_file(disk: &Path) -> Option<PathBuf> {
    let header = fs_err::read(disk).ok()?;
    let offset = u64::from_be_bytes(header.get(8..16)?.try_into().unwrap()) as usize;
    let length = u32::from_be_bytes(header.get(16..20)?.try_into().unwrap()) as usize;
    Some(PathBuf::from(std::str::from_utf8(header.get(offset..offset + length)?).unwrap()))
        .filter(|path| path.is_absolute())
}

/// The disks of instances named by a UUID whose base file is not there, and that base file.
fn lost_disks(world: &World) -> BTreeMap<PathBuf, PathBuf> {
    let mut lost = BTreeMap::new();
    for directory in names(&world.instances_path()) {
        // The same disk may be found under several names of its directory.
        let Some(uuid) = directory.get(..36) else { continue };
        for name in ["disk", "disk.swap"] {
            let Some(base) = backing_file(&world.path(&directory).join(name)) else { continue };
            if !base.exists() {
                lost.insert(Path::new(uuid).join(name), base);
            }
        }
    }
    lost
}

/// Whether tests run in their long form.
fn is_full() -> bool {
    std::env::var_os("NOVA_IMAGECACHE_FULL").is_some()
}

#[test]
fn no_disk_of_real_nova_loses_its_base_file_to_a_prune() {
    let (how_long, at_least) =
        if is_full() { (Duration::from_secs(120), 200) } else { (Duration::from_secs(10), 20) };
    let it = InUse::new();
    let world = &it.world;
    let disk = fs_err::read(world.path("instance-00000001/disk")).unwrap();
    for number in 0..OTHERS {
        let directory = world.path(format!("other-{number}"));
        fs_err::create_dir(&directory).unwrap();
        fs_err::write(directory.join("disk"), &disk).unwrap();
    }
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

/// One operation of nova on old base files, in a world that goes on to the next.
struct Scene {
    it: InUse,
    nova: Nova,
    number: u64,
    uuid: String,
    snapshot: String,
    image: String,
}

const SCENES: [&str; 12] = [
    "start on an old base",
    "start with a fetch",
    "start on an old base whose image is gone",
    "rebase",
    "resize",
    "revert",
    "delete",
    "swap",
    "swap on an old file",
    "precache",
    "precache of an old base",
    "pass",
];

impl Scene {
    fn new() -> Self {
        let it = InUse::new();
        let nova = Nova::start(&it.world);
        Self { it, nova, number: 0, uuid: String::new(), snapshot: String::new(), image: String::new() }
    }

    /// Does an operation with this called at each of its steps, and says whether it succeeded.
    fn plays(&mut self, scene: &str, at: impl FnMut(&World, usize)) -> bool {
        self.number += 1;
        let Self { it, nova, number, .. } = self;
        let mib = *number;
        self.uuid = format!("00000000-0000-4000-8000-{number:012x}");
        self.snapshot = format!("snapshot-{number}");
        self.image = format!("image-{number}");
        let [uuid, other] = [&*self.uuid, "00000000-0000-4000-8000-ffffffffffff"];
        let [snapshot, image] = [&*self.snapshot, &*self.image];
        let base = it.world.base(cache_file_name(image));
        let instances = json!([
            {"uuid": "instance-00000001", "image_ref": "image-used"},
            {"uuid": uuid, "image_ref": snapshot, "swap_mb": mib},
        ]);
        [snapshot, image].iter().for_each(|image| upload(&it.world, image));
        let (before, order): (&[Order<'_>], _) = match scene {
            "start with a fetch" => (&[], Order::Start(uuid, snapshot)),
            "start on an old base" => (&[Order::Precache(snapshot)], Order::Start(uuid, snapshot)),
            "start on an old base whose image is gone" => {
                (&[Order::Precache(snapshot)], Order::StartNoFetch(uuid, snapshot))
            }
            "rebase" => (&[Order::Start(uuid, snapshot), Order::Precache(image)], Order::Rebase(uuid, &base)),
            "resize" => (&[Order::Start(uuid, snapshot)], Order::Resize(uuid)),
            "revert" => (&[Order::Start(uuid, snapshot), Order::Resize(uuid)], Order::Revert(uuid)),
            "delete" => (&[Order::Start(uuid, snapshot)], Order::Delete(uuid)),
            "swap" => (&[], Order::Swap(uuid, mib)),
            "swap on an old file" => {
                (&[Order::Swap(other, mib), Order::Delete(other)], Order::Swap(uuid, mib))
            }
            "precache" => (&[], Order::Precache(image)),
            "precache of an old base" => (&[Order::Precache(image)], Order::Precache(image)),
            "pass" => (
                &[Order::Start(uuid, snapshot), Order::Swap(uuid, mib), Order::Precache(image)],
                Order::Pass(&instances),
            ),
            _ => panic!("no scene {scene}"),
        };
        before.iter().for_each(|order| nova.must(*order));
        all_is_old(&it.world);
        let (mut at, mut step) = (at, 0);
        let result = nova.steps(order, |_| {
            at(&it.world, step);
            step += 1;
        });
        result.is_ok()
    }

    /// Ends the instance, and checks that the next prune leaves nothing.
    fn clears(&mut self) {
        // Nothing is there to delete where it failed to start, or is deleted.
        for _ in 0..2 {
            self.nova.does(Order::Delete(&self.uuid)).ok();
            fs_err::remove_dir_all(self.it.world.path(format!("{}_resize", self.uuid))).ok();
        }
        all_is_old(&self.it.world);
        self.it.world.prune(["-q", "--partials"]).exits(0);
        assert_eq!(names(&self.it.world.path("_base")), BTreeSet::from([self.it.used.clone()]));
    }
}

/// Makes all base files two days old, and all directories a minute.
fn all_is_old(world: &World) {
    names(&world.path("_base")).iter().for_each(|name| set_mtime(&world.base(name), 2 * DAY));
    names(&world.instances_path()).iter().for_each(|name| set_mtime(&world.path(name), MINUTE));
    set_mtime(&world.instances_path(), MINUTE);
}

#[test]
fn a_whole_prune_at_any_step_of_real_nova_takes_no_disk_its_base_file() {
    let (stride, seed) = if is_full() { (1, 0) } else { (16, std::process::id() as usize % 16) };
    let mut scene = Scene::new();
    let mut figures = BTreeMap::new();
    let mut outcomes = BTreeMap::<String, usize>::new();
    let mut point = 0;
    for name in SCENES {
        let (mut steps, mut done, mut failed) = (0, 0, 0);
        assert!(scene.plays(name, |_, _| steps += 1), "{name} fails without a prune");
        scene.clears();
        for wanted in 0..steps {
            point += 1;
            if point % stride != seed {
                continue;
            }
            let succeeded = scene.plays(name, |world, step| {
                if step == wanted {
                    // nova may hold the lock, and waits for us here.
                    let run = world.prune(["-q", "--lock-wait", "0"]);
                    assert!(run.code <= 1, "{run:#?}");
                    for file in list(&run.json()["files"]) {
                        *outcomes.entry(text(&file["outcome"])).or_default() += 1;
                    }
                }
            });
            let lost = lost_disks(&scene.it.world);
            assert!(lost.is_empty(), "{name}, prune at step {wanted}: lost {lost:#?}");
            scene.clears();
            done += 1;
            failed += usize::from(!succeeded);
        }
        figures.insert(name, [steps, done, failed]);
    }
    println!("every {stride}. point from {seed}; steps, with a prune, failed operations: {figures:?}");
    println!("outcomes: {outcomes:?}");
}

/// QEMU opens a file and locks it a little later. Between the two nothing but `/proc` shows that it uses the file.
#[test]
fn a_base_that_qemu_img_has_open_but_not_locked_yet_is_kept_and_the_process_is_named() {
    let it = InUse::new();
    let base = it.world.original("image-a", 2 * DAY);
    let disk = it.world.path("1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5/disk");
    overlay(&disk, it.world.base(&it.used));
    let path = it.world.base(&base);
    let mut command = Command::new(tool("strace", "strace"));
    command.args(["-f", "-qq", "-o"]).arg(strace_log(&it.world)).arg("-P").arg(&path);
    command.args(["--trace=fcntl", "--inject=fcntl:delay_enter=3000000:when=1"]);
    command.args(["qemu-img", "rebase", "-f", "qcow2", "-F", "raw", "-b"]).arg(&path).arg(&disk);
    let rebase = Running::start(&mut command);
    let mut pid = String::new();
    wait_until("qemu-img opens the base file", || {
        pid = who_has_open(&path).into_iter().next().unwrap_or_default();
        !pid.is_empty()
    });
    // It opens the file twice, and the first time for a moment.
    std::thread::sleep(Duration::from_millis(200));
    let start = Instant::now();
    let run = it.world.prune([""; 0]).exits(0);
    println!("prune took {:?}", start.elapsed());
    assert!(rebase.finish().code == 0, "the rebase failed");
    assert!(path.exists(), "the base file is gone");
    assert_eq!(backing_file(&disk).as_deref(), Some(path.as_path()));
    assert_eq!(run.outcome(&base), "open");
    for word in ["qemu-img", &pid] {
        assert!(error(&run, &base).contains(word), "no {word} in {:?}", error(&run, &base));
    }
}

/// The processes that have a file open.
fn who_has_open(path: &Path) -> BTreeSet<String> {
    let processes =
        names(Path::new("/proc")).into_iter().filter(|name| name.bytes().all(|it| it.is_ascii_digit()));
    processes
        .filter(|pid| {
            let descriptors = fs_err::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
            descriptors.into_iter().any(|it| fs_err::read_link(it.path()).is_ok_and(|target| target == path))
        })
        .collect()
}
