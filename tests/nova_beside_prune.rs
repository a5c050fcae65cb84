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

use crate::common::nova::{Nova, Order, upload};
use crate::common::prune::{
    InUse, Running, error, finish, names, prune_command, strace_log, wait_until, with_outcome,
};
use crate::common::{DAY, MINUTE, World, overlay, plain_qcow2, tool};

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
        for directory in names(&world.instances_path()) {
            // The others are not nova's to touch here.
            let Some(uuid) = directory.get(..36) else { continue };
            for name in ["disk", "disk.swap"] {
                let Some(base) = backing_file(&world.path(&directory).join(name)) else { continue };
                if !base.exists() {
                    self.lost.lock().unwrap().insert(Path::new(uuid).join(name), base);
                }
            }
        }
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
        let mut figures = BTreeMap::<_, [usize; 3]>::new();
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
fn set_mtime(path: &Path, age: Duration) {
    let time =
        TimeSpec::from_duration((SystemTime::now() - age).duration_since(SystemTime::UNIX_EPOCH).unwrap());
    utimensat(AT_FDCWD, path, &time, &time, UtimensatFlags::FollowSymlink).ok();
}

/// The backing file that the header of a disk names, here always by an absolute path.
fn backing_file(disk: &Path) -> Option<PathBuf> {
    let header = fs_err::read(disk).ok()?;
    let offset = u64::from_be_bytes(header.get(8..16)?.try_into().unwrap()) as usize;
    let length = u32::from_be_bytes(header.get(16..20)?.try_into().unwrap()) as usize;
    Some(PathBuf::from(std::str::from_utf8(header.get(offset..offset + length)?).unwrap()))
        .filter(|path| path.is_absolute())
}

#[test]
fn no_disk_of_real_nova_loses_its_base_file_to_a_prune() {
    let is_full = std::env::var_os("NOVA_IMAGECACHE_FULL").is_some();
    let (how_long, at_least) =
        if is_full { (Duration::from_secs(120), 200) } else { (Duration::from_secs(12), 20) };
    let it = InUse::new();
    let world = &it.world;
    let disk = fs_err::read(world.path("instance-00000001/disk")).unwrap();
    for number in 0..OTHERS {
        let directory = world.path(format!("other-{number}"));
        fs_err::create_dir(&directory).unwrap();
        fs_err::write(directory.join("disk"), &disk).unwrap();
    }
    let seen = Seen::default();
    let mut removed = 0;
    std::thread::scope(|scope| {
        let novas: Vec<_> = (0..NOVAS)
            .map(|number| {
                scope.spawn({
                    let seen = &seen;
                    move || seen.goes_on(world, number)
                })
            })
            .collect();
        let start = Instant::now();
        for round in 0_u64.. {
            if start.elapsed() > how_long || novas.iter().any(|it| it.is_finished()) {
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

/// QEMU opens a file and locks it a little later. Between the two nothing but `/proc` shows that it uses the file.
#[test]
fn a_base_that_qemu_img_has_open_but_not_locked_yet_is_kept_and_the_process_is_named() {
    let it = InUse::new();
    let base = cache_file_name("image-a");
    plain_qcow2(&it.world.base(&base));
    set_mtime(&it.world.base(&base), 2 * DAY);
    let disk = it.world.path("1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5/disk");
    overlay(&disk, it.world.base(&it.used));
    let path = it.world.base(&base);
    let mut command = Command::new(tool("strace", "strace"));
    command.args(["-f", "-qq", "-o"]).arg(strace_log(&it.world)).arg("-P").arg(&path);
    command.args(["--trace=fcntl", "--inject=fcntl:delay_enter=3000000:when=1"]);
    command.args(["qemu-img", "rebase", "-f", "qcow2", "-F", "qcow2", "-b"]).arg(&path).arg(&disk);
    let rebase = Running::start(&mut command);
    let mut pid = String::new();
    wait_until("qemu-img opens the base file", || {
        pid = who_has_open(&path).into_iter().next().unwrap_or_default();
        !pid.is_empty()
    });
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
