//! Prune is killed at every system call in turn. After each kill no file in use differs but in its mtime, nova can
//! open every lock file, and a second run ends with exactly the state that one whole run gives.

use std::collections::BTreeMap;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use crate::common::prune::{
    Running, chown_all, finish, owner, plain_file, prune_command, strace_log, under_strace,
};
use crate::common::{DAY, HOST, HOUR, Snapshot, World, set_age};
use nix::libc;
use serde_json::json;

/// The calls by which prune changes what is on the disk, but for openat, and that only its main thread makes.
const CHANGING: [&str; 11] = [
    "mkdirat",
    "renameat",
    "renameat2",
    "fchown",
    "fchownat",
    "fchmod",
    "linkat",
    "unlinkat",
    "utimensat",
    "ftruncate",
    "flock",
];

/// Of the other calls, which leave nothing else behind than the changing one before them, one in so many is killed at,
/// in each of the three trees another one.
const STRIDE: usize = 9;

/// A tree, a copy of it to begin with each time, and what a whole run makes of it.
struct Killed {
    world: World,
    pristine: PathBuf,
    /// Names of files in use.
    in_use: Vec<String>,
    /// Names of files that a whole run removes.
    removable: Vec<String>,
    /// Whom the instances path belongs to.
    nova: u32,
    whole: Snapshot,
    kills: BTreeMap<String, usize>,
}

impl Killed {
    /// `nova_locks`: the cache files whose lock nova has had; `None` where it has had none and there is no directory
    /// of locks.
    fn new(nova_locks: Option<&[&str]>) -> Self {
        let world = World::new();
        let used = world.original("image-used", 2 * DAY);
        let [kept, unused] = [1 << 30, 2_u64 << 30].map(|bytes| world.resized("image-used", bytes, 2 * DAY));
        world.instance_disk("instance-00000001", &kept);
        world.inventory(&json!([{
            "name": "instance-00000001", "host": HOST, "image_ref": "image-used", "swap_mb": 64,
        }]));
        let [a, b, c, young] = ["a", "b", "c", "d"].map(|digit| digit.repeat(40));
        let removable: Vec<String> = [
            &unused,
            &a,
            &format!("{a}.info"),
            &format!("{a}_1073741824"),
            &format!("{a}_1073741824.info"),
            &format!("{a}_sm"),
            &format!("{b}_1073741824"),
            &format!("{c}.part"),
            &format!("{c}.info"),
            "swap_512",
            "swap_1024",
            "ephemeral_20_abcdefg",
        ]
        .map(str::to_owned)
        .into();
        removable.iter().for_each(|name| drop(plain_file(&world, name, 2 * DAY)));
        // A sidecar has the minimum age of its file, and alone another.
        for name in [&unused, &removable[3], &removable[4]] {
            set_age(&world.base(name), 3 * HOUR);
        }
        for name in ["swap_64", &young, &format!("{young}.info"), "README"] {
            plain_file(&world, name, DAY / 2);
        }
        fs_err::remove_dir(world.path("locks")).unwrap();
        if let Some(names) = nova_locks {
            fs_err::create_dir(world.path("locks")).unwrap();
            let all = removable.iter().chain([&used]);
            for name in all.filter(|name| names.iter().any(|end| name.ends_with(end))) {
                fs_err::write(crate::common::prune::lock_file(&world, name), "").unwrap();
            }
        }
        let is_root = nix::unistd::geteuid().is_root();
        let nova = if is_root { 12345 } else { nix::unistd::geteuid().as_raw() };
        if is_root {
            chown_all(&world.instances_path(), nova);
        }
        let pristine = world.outside().join("pristine");
        copy(&world.instances_path(), &pristine);
        let run = finish(&mut prune_command(&world, ["--partials"])).exits(0);
        assert_eq!(crate::common::prune::with_outcome(&run, "removed"), removable.iter().cloned().collect());
        let in_use = vec![used, kept, "swap_64".to_owned()];
        let mut killed = Self {
            world,
            pristine,
            in_use,
            removable,
            nova,
            whole: Snapshot(BTreeMap::new()),
            kills: BTreeMap::new(),
        };
        killed.whole = killed.state();
        killed
    }

    fn restore(&self) {
        fs_err::remove_dir_all(self.world.instances_path()).unwrap();
        copy(&self.pristine, &self.world.instances_path());
    }

    /// Everything below the instances path but inodes, the mtimes of files in use, of directories and of lock files.
    fn state(&self) -> Snapshot {
        let mut snapshot = Snapshot::of(&self.world.instances_path());
        for (path, entry) in &mut snapshot.0 {
            entry.inode = 0;
            if entry.mode & libc::S_IFMT == libc::S_IFDIR
                || path.starts_with(self.world.path("locks"))
                || self.in_use.iter().any(|name| *path == self.world.base(name))
            {
                entry.mtime = (0, 0);
            }
        }
        snapshot
    }

    /// Runs prune until strace kills it; says whether it came to that.
    fn kill(&mut self, filter: &[String], syscall: &str, nth: usize) -> bool {
        let action = &format!("{syscall}:signal=KILL:when={nth}");
        self.restore();
        let before = Snapshot::of(&self.world.instances_path());
        // Not with --seccomp-bpf, which is faster but loses the signal.
        let args = filter.iter().cloned().chain([format!("--inject={action}")]);
        let command = prune_command(&self.world, ["--partials"]);
        let status = Running::start(&mut under_strace(&self.world, args, &command)).end();
        if status.code() == Some(0) {
            return false;
        }
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{action}: {status:?}");
        *self.kills.entry(syscall.to_owned()).or_default() += 1;

        let after = Snapshot::of(&self.world.instances_path());
        self.nothing_is_worse(&before, &after, action);
        let run = finish(&mut prune_command(&self.world, ["--partials"]));
        assert_eq!(run.code, 0, "after a kill at {action}: {run:#?}");
        let state = self.state();
        if state != self.whole {
            println!(
                "after a kill at {action}: {}",
                fs_err::read_to_string(strace_log(&self.world)).unwrap()
            );
            self.whole.assert_same(&state);
        }
        true
    }

    /// What a kill may leave: fewer of the removable files, newer mtimes of those in use, and locks.
    fn nothing_is_worse(&self, before: &Snapshot, after: &Snapshot, action: &str) {
        let locks = self.world.path("locks");
        let name_of = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        for (path, entry) in before.0.iter().filter(|(path, _)| path.parent() != Some(&locks)) {
            let name = name_of(path);
            let is_removable =
                path.parent() == Some(&self.world.path("_base")) && self.removable.contains(&name);
            let mut later = match after.0.get(path) {
                Some(later) => later.clone(),
                None if is_removable => continue,
                None => panic!("{action}: {} has gone", path.display()),
            };
            if entry.mode & libc::S_IFMT == libc::S_IFDIR {
                later.links = entry.links;
                later.mtime = entry.mtime;
            }
            if self.in_use.contains(&name) {
                assert!(later.mtime >= entry.mtime, "{action}: {}", path.display());
                later.mtime = entry.mtime;
            }
            if is_removable && name.ends_with(".info") {
                // It is made old before its file goes.
                assert!(later.mtime <= entry.mtime, "{action}: {}", path.display());
                later.mtime = entry.mtime;
            }
            assert_eq!(*entry, later, "{action}: {}", path.display());
        }
        // A temporary name is nobody's business but prune's.
        let is_temporary = |path: &Path| name_of(path).starts_with(".imagecache-prune.");
        for path in after.0.keys().filter(|path| !before.0.contains_key(*path)) {
            let is_expected =
                path.starts_with(&locks) || is_temporary(path) && path.parent() == locks.parent();
            assert!(is_expected, "{action}: {} is new", path.display());
        }
        for path in after.0.keys().filter(|path| path.starts_with(&locks) && !is_temporary(path)) {
            assert_eq!(owner(path), self.nova, "{action}: {} is not nova's", path.display());
        }
    }

    fn number_of_kills(&self) -> usize {
        self.kills.values().sum()
    }

    fn kill_everywhere(mut self, offset: usize) {
        let start = Instant::now();
        self.restore();
        let command = prune_command(&self.world, ["--partials"]);
        let run = finish(&mut under_strace(&self.world, [""; 0], &command)).exits(0);
        assert_eq!(run.stderr, "");
        self.whole.assert_same(&self.state());
        let log = fs_err::read_to_string(strace_log(&self.world)).unwrap();
        let is_call = |line: &&str| line.starts_with(|first: char| first.is_ascii_lowercase());
        let calls: Vec<&str> = log.lines().filter(is_call).collect();
        let first = calls.iter().position(|line| line.contains("_base\"")).unwrap();

        let mut made: BTreeMap<&str, usize> = BTreeMap::new();
        let mut others = Vec::new();
        for (index, call) in calls.iter().enumerate() {
            let name = call.split_once('(').unwrap().0;
            let nth = made.entry(name).or_default();
            *nth += 1;
            if index >= first && !CHANGING.contains(&name) {
                others.push((name, *nth));
            }
        }
        for syscall in CHANGING {
            let made = made.get(syscall).copied().unwrap_or_default();
            for nth in 1..=made {
                let is_killed = self.kill(&[format!("--trace={syscall}")], syscall, nth);
                assert!(is_killed, "{syscall} was called {made} times, and the next time only {nth} times");
            }
        }
        let changing = self.number_of_kills();
        // Files are made by openat, which other threads use as well, but not on this directory.
        let locks = self.world.path("locks").display().to_string();
        let in_locks = ["-P".to_owned(), locks, "--trace=openat".to_owned()];
        for nth in 1.. {
            if !self.kill(&in_locks, "openat", nth) {
                break;
            }
        }
        let opening = self.number_of_kills() - changing;
        // What all threads do they share differently each time, so not every one of these calls is made again.
        for (syscall, nth) in others.iter().skip(offset).step_by(STRIDE) {
            self.kill(&[format!("--trace={syscall}")], syscall, *nth);
        }
        let all = self.number_of_kills();
        println!(
            "{all} kills in {:.1?}: at every one of {changing} calls that change something and of {opening} that open a \
             lock file, and at {} of the {} others; by call: {:?}",
            start.elapsed(),
            all - changing - opening,
            others.len(),
            self.kills
        );
        assert!(changing >= self.removable.len(), "strace did not kill");
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_kill_at_any_call_where_nova_never_locked_anything_is_made_good_by_the_next_run() {
    Killed::new(None).kill_everywhere(0);
}

#[test]
fn a_kill_at_any_call_where_nova_locked_some_files_is_made_good_by_the_next_run() {
    let of_some = ["a", "a_1073741824", "swap_512", "2147483648"];
    Killed::new(Some(&of_some)).kill_everywhere(1);
}

#[test]
fn a_kill_at_any_call_where_nova_locked_every_file_is_made_good_by_the_next_run() {
    Killed::new(Some(&[""])).kill_everywhere(2);
}
