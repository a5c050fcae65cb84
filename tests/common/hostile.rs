//! What the tests of hostile disks and broken storage share: runs that must end, and headers no qemu-img would write.

use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use crate::common::{DAY, Run, World, list, text};

/// No run may take longer, whatever it reads.
pub const LIMIT: Duration = Duration::from_secs(120);

/// An instance with a disk on `a`, and `b`, which nothing needs: what a trap is laid beside.
pub struct Bait {
    pub world: World,
    pub used: String,
    pub unused: String,
}

impl Bait {
    pub fn new() -> Self {
        let world = World::new();
        let used = world.original("a", 90 * DAY);
        let unused = world.original("b", 90 * DAY);
        world.instance_disk("instance-00000001", &used);
        Self { world, used, unused }
    }

    /// A path below the instances path.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.world.path(below)
    }

    /// `explain -f json` by the disks alone, with more arguments.
    #[track_caller]
    pub fn explain(&self, args: &[&str]) -> Run {
        limited(&self.world, "explain", &[&["-f", "json"], args].concat())
    }

    /// `prune --disks-only -f json`, with more arguments.
    #[track_caller]
    pub fn prune(&self, args: &[&str]) -> Run {
        limited(&self.world, "prune", &[&["-f", "json", "--disks-only"], args].concat())
    }

    /// Checks that the evidence is whole and a prune removes what nothing needs; returns what it said.
    #[track_caller]
    pub fn goes(&self, what: &str) -> Run {
        let run = self.explain(&[]);
        assert_eq!((run.code, run.verdict(&self.unused).as_str()), (0, "removable"), "{what}: {run:#?}");
        assert_eq!(run.verdict(&self.used), "in_use", "{what}: {run:#?}");
        let run = self.prune(&[]);
        assert_eq!((run.code, run.outcome(&self.unused).as_str()), (0, "removed"), "{what}: {run:#?}");
        assert!(self.world.base(&self.used).exists() && !self.world.base(&self.unused).exists(), "{what}");
        run
    }

    /// Checks that the evidence is incomplete because of a path, and a prune removes nothing; returns why.
    #[track_caller]
    pub fn stays(&self, what: &str, path: &Path) -> String {
        let run = self.explain(&[]);
        assert_eq!((run.code, run.verdict(&self.unused).as_str()), (1, "unknown"), "{what}: {run:#?}");
        assert_eq!(run.json()["complete"], false, "{what}: {run:#?}");
        let path = path.to_string_lossy();
        let json = run.json();
        let found = list(&json["unreadable"]).iter().find(|it| it["path"] == *path);
        let error = text(&found.unwrap_or_else(|| panic!("{what}: {path} is not named: {run:#?}"))["error"]);
        assert!(run.stderr.contains("evidence is incomplete"), "{what}: {run:#?}");
        let run = self.prune(&[]);
        assert_eq!((run.code, run.outcome(&self.unused).as_str()), (1, "kept"), "{what}: {run:#?}");
        assert!(self.world.base(&self.unused).exists(), "{what}");
        error
    }
}

/// A run that must end by itself, with an exit code of the contract and without a panic.
#[track_caller]
pub fn limited<A: AsRef<OsStr>>(world: &World, subcommand: &str, args: &[A]) -> Run {
    let mut command = world.command();
    command.timeout(LIMIT).arg(subcommand).arg("-p").arg(world.instances_path()).args(args);
    sane(Run::of(&mut command))
}

/// Checks what holds for every run.
#[track_caller]
pub fn sane(run: Run) -> Run {
    assert!((0..=3).contains(&run.code) && !run.stderr.contains("panicked"), "{run:#?}");
    run
}

/// Does something again and again, with the number of the step, while `check` runs.
pub fn meanwhile(change: impl Fn(u64) + Sync, check: impl FnOnce()) {
    meanwhile_each(1, |_, step| change(step), check);
}

/// The same by so many threads, each with its number.
pub fn meanwhile_each(threads: usize, change: impl Fn(usize, u64) + Sync, check: impl FnOnce()) {
    struct Stop<'a>(&'a AtomicBool);

    impl Drop for Stop<'_> {
        fn drop(&mut self) {
            self.0.store(true, Ordering::Relaxed);
        }
    }

    let (stop, change) = (&AtomicBool::new(false), &change);
    std::thread::scope(|scope| {
        for thread in 0..threads {
            let steps = (0..).take_while(|_| !stop.load(Ordering::Relaxed));
            scope.spawn(move || steps.for_each(|step| change(thread, step)));
        }
        // Also where the check panics.
        let _stop = Stop(stop);
        check();
    });
}

/// Applies `work` to all items, two at a time: one with an even number and one with an odd one.
pub fn by_two<T: Sync, R: Send>(items: &[T], work: impl Fn(usize, &T) -> R + Sync) -> Vec<R> {
    let half = |parity| -> Vec<(usize, R)> {
        (parity..items.len()).step_by(2).map(|index| (index, work(index, &items[index]))).collect()
    };
    let mut results = std::thread::scope(|scope| {
        let odd = scope.spawn(|| half(1));
        let mut results = half(0);
        results.extend(odd.join().unwrap());
        results
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}

/// A version 3 qcow2 header with 64 KiB clusters that names a backing file, and nothing else of an image.
pub fn header_naming(name: impl AsRef<[u8]>) -> Vec<u8> {
    let name = name.as_ref();
    let mut head = Vec::new();
    head.extend(b"QFI\xfb");
    head.extend(3_u32.to_be_bytes());
    head.extend(if name.is_empty() { 0_u64 } else { 112 }.to_be_bytes());
    head.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    head.extend(16_u32.to_be_bytes());
    head.resize(100, 0);
    head.extend(104_u32.to_be_bytes());
    head.resize(112, 0);
    head.extend(name);
    head.resize(4096, 0);
    head
}

/// Numbers that are the same in every run: SplitMix64.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
