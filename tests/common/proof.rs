//! What the proofs by system call share: a small tree that is copied for each run, what must hold of it, and samples.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::LazyLock;
use std::time::SystemTime;

use assert_cmd::cargo::cargo_bin;
use nix::libc;
use serde_json::{Value, json};

use crate::common::prune::{chown_all, lock_file, names, plain_file};
use crate::common::steps::Ended;
use crate::common::{DAY, Entry, HOST, Run, Snapshot, World, list, overlay, text};

pub const SET_ASIDE: &str = ".nova-imagecache.set-aside-while-looking-again.";

/// The instances path belongs to this user where the tests run as root.
const NOVA: u32 = 12345;

/// A tree below the limits from which on the program starts threads (8 items in a directory), with files that are needed
/// by an inventory, by a listed disk and by an unlisted one, and with removable files of three kinds.
pub struct Scene {
    pub world: World,
    pristine: PathBuf,
    /// The tree as it is at the beginning of each run.
    pub before: Snapshot,
    /// Files of the cache that an instance, a disk or the inventory needs.
    pub needed: BTreeSet<String>,
    /// All others.
    pub removable: BTreeSet<String>,
    /// One of these, an original.
    pub target: String,
    /// Files that a prune before this one had set aside when it was killed.
    aside: BTreeSet<String>,
}

/// Directories of instances. The last one is in no inventory.
pub const INSTANCES: [&str; 3] =
    ["instance-00000001", "6c1ff3f3-6a3c-4a40-a5a6-0b3d1a1e4f51", "f0e1d2c3-0000-4000-8000-000000000003"];

/// The image whose original is the target.
pub const OLD_IMAGE: &str = "image-old";

impl Scene {
    pub fn new() -> Self {
        Self::owned_by(NOVA)
    }

    /// Where the tests run as root and what they run makes files as root.
    pub fn owned_by_root() -> Self {
        Self::owned_by(0)
    }

    fn owned_by(owner: u32) -> Self {
        let world = World::new();
        let [used, old] = ["image-used", OLD_IMAGE].map(nova_imagecache::cache_name::cache_file_name);
        let [b, c] = ["b", "c"].map(|digit| digit.repeat(40));
        let copy = format!("{used}_1073741824");
        let needed = BTreeSet::from([used.clone(), copy.clone(), c.clone()]);
        let removable = BTreeSet::from([
            old.clone(),
            format!("{old}.info"),
            format!("{b}_1073741824"),
            "swap_16".to_owned(),
        ]);
        for name in needed.iter().chain(&removable) {
            plain_file(&world, name, 2 * DAY);
        }
        world.instance_disk(INSTANCES[0], &used);
        overlay(&world.path(INSTANCES[1]).join("disk"), format!("../_base/{copy}"));
        world.instance_disk(INSTANCES[2], &c);
        for directory in INSTANCES {
            // Quiet for long, as nearly all are.
            make_old(&world.path(directory).join("disk"));
            make_old(&world.path(directory));
        }
        world.inventory(&json!([
            {"name": INSTANCES[0], "host": HOST, "image_ref": "image-used"},
            {"uuid": INSTANCES[1], "host": HOST, "image_ref": "image-used"},
        ]));
        fs_err::write(lock_file(&world, &old), "").unwrap();
        if nix::unistd::geteuid().is_root() {
            chown_all(&world.instances_path(), owner);
        }
        let pristine = world.outside().join("pristine");
        copy_tree(&world.instances_path(), &pristine);
        let before = state(&world, &needed);
        Self { world, pristine, before, needed, removable, target: old, aside: BTreeSet::new() }
    }

    /// The same where a prune was killed and had set aside the target and a file that a disk needs by now.
    pub fn after_a_kill(self) -> Self {
        let needed = self.needed.last().unwrap().clone();
        Self { aside: [self.target.clone(), needed].into(), ..self }
    }

    /// Puts the tree back as it was.
    pub fn restore(&self) {
        fs_err::remove_dir_all(self.world.instances_path()).unwrap();
        copy_tree(&self.pristine, &self.world.instances_path());
        for name in &self.aside {
            fs_err::rename(self.world.base(name), self.aside(name)).unwrap();
        }
    }

    /// The path of a file when it is set aside.
    fn aside(&self, name: &str) -> PathBuf {
        self.world.base(format!("{SET_ASIDE}{name}"))
    }

    /// What can be compared from run to run.
    pub fn state(&self) -> Snapshot {
        state(&self.world, &self.needed)
    }

    pub fn explain(&self) -> Command {
        self.command("explain", [""; 0])
    }

    /// A real prune. It does not wait for what an operation began, for operations are whole here.
    pub fn prune(&self) -> Command {
        self.prune_with([""; 0])
    }

    pub fn prune_with<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = self.command("prune", args);
        command.args(["--settle", "0s"]);
        command
    }

    fn command<A: AsRef<OsStr>>(&self, subcommand: &str, args: impl IntoIterator<Item = A>) -> Command {
        let mut command = Command::new(cargo_bin!("nova-imagecache"));
        command.env_clear().current_dir(self.world.outside());
        command.args([subcommand, "-f", "json", "--host", HOST, "--inventory", "inventory.json", "-p"]);
        command.arg(self.world.instances_path()).args(args);
        command
    }

    /// One more prune that nobody disturbs, after which nothing is left over.
    pub fn pruned_again(&self) -> Run {
        let run = Run::from(self.prune().output().unwrap());
        assert_eq!(run.code, 0, "the prune after it: {run:#?}");
        self.has_no_leftovers();
        run
    }

    #[track_caller]
    fn has_no_leftovers(&self) {
        let is_leftover = |name: &String| name.starts_with('.');
        for directory in ["", "_base", "locks"] {
            let left: Vec<_> = names(&self.world.path(directory)).into_iter().filter(is_leftover).collect();
            assert!(left.is_empty(), "left over in <instances path>/{directory}: {left:?}");
        }
        let is_lock = |name: &String| name.starts_with("nova-") || name == "imagecache-prune.lock";
        assert!(
            names(&self.world.path("locks")).iter().all(is_lock),
            "{:?}",
            names(&self.world.path("locks"))
        );
    }

    /// Checks what a prune said against what is there: what is gone was reported as removed, and nothing else was; all
    /// other files are there under their own names, or set aside where that is said or the program was killed.
    ///
    /// `others` removed these files, or made them.
    pub fn report_is_true(&self, ended: &Ended, others: &BTreeSet<String>) {
        assert!(!ended.stderr.contains("panicked"), "{ended:?}");
        let is_killed = ended.signal.is_some();
        assert!(is_killed || matches!(ended.code, Some(0..=3)), "{ended:?}");
        let json: Option<Value> = serde_json::from_str(&ended.stdout).ok();
        assert!(json.is_some() || ended.code != Some(0), "no report: {ended:?}");
        let there = names(&self.world.path("_base"));
        let mut gone = BTreeSet::new();
        for name in self.needed.union(&self.removable).filter(|name| !there.contains(*name)) {
            if !there.contains(&format!("{SET_ASIDE}{name}")) {
                gone.insert(name.clone());
                continue;
            }
            let said = [&ended.stdout, &ended.stderr].iter().any(|it| it.contains(SET_ASIDE));
            // What stays aside because the program was stopped before it came to that is no news.
            let is_old = self.aside.contains(name) && ended.code == Some(2);
            assert!(is_killed || said || is_old, "{name} is set aside and nothing is said of it: {ended:?}");
            let content = fs_err::read(self.aside(name)).unwrap();
            let is_other = others.contains(name) || content == self.before.0[&self.world.base(name)].content;
            assert!(is_other, "{name} is set aside with other content: {ended:?}");
        }
        if is_killed && json.is_none() {
            return;
        }
        let files = json.as_ref().map_or(&[][..], |it| list(&it["files"]));
        let removed: BTreeSet<String> =
            files.iter().filter(|it| it["outcome"] == "removed").map(|it| text(&it["name"])).collect();
        let differing: Vec<_> =
            removed.symmetric_difference(&gone).filter(|it| !others.contains(*it)).collect();
        assert!(differing.is_empty(), "gone: {gone:?}, reported: {removed:?}: {ended:?}");
    }

    /// Checks that all files but the removable ones and those named are as they were.
    pub fn nothing_needed_has_changed(&self, but: &[PathBuf]) {
        let after = self.state();
        for (path, entry) in &self.before.0 {
            let name = path.file_name().unwrap().to_string_lossy();
            let is_removable = path.starts_with(self.world.path("_base")) && self.removable.contains(&*name);
            if is_removable || but.iter().any(|it| path.starts_with(it)) {
                continue;
            }
            // It may be where it was at the beginning.
            let aside = self.aside.contains(&*name).then(|| self.aside(&name));
            let path = aside.filter(|it| !path.exists() && it.exists()).unwrap_or_else(|| path.clone());
            assert!(
                after.0.get(&path).map(|it| without_mtime(it, entry)) == Some(entry.clone()),
                "{} has changed or gone",
                path.display()
            );
        }
    }
}

/// What is compared of a file that has another name: its mtime is left out where it is of the other.
fn without_mtime(entry: &Entry, like: &Entry) -> Entry {
    let mtime = if like.mtime == (0, 0) { like.mtime } else { entry.mtime };
    Entry { mtime, ..entry.clone() }
}

/// Everything below the instances path but inodes, lock files, and mtimes of directories and of these files.
fn state(world: &World, in_use: &BTreeSet<String>) -> Snapshot {
    let mut snapshot = Snapshot::of(&world.instances_path());
    let locks = world.path("locks");
    snapshot.0.retain(|path, _| path.parent() != Some(&locks));
    for (path, entry) in &mut snapshot.0 {
        entry.inode = 0;
        let is_directory = entry.mode & libc::S_IFMT == libc::S_IFDIR;
        if is_directory || in_use.iter().any(|name| *path == world.base(name)) {
            entry.mtime = (0, 0);
        }
        if is_directory {
            entry.links = 0;
        }
    }
    snapshot
}

fn make_old(path: &Path) {
    crate::common::set_mtime(path, SystemTime::now() - 2 * DAY);
}

/// Copies directories and regular files with modes, owners and mtimes.
fn copy_tree(from: &Path, to: &Path) {
    use std::os::unix::fs::MetadataExt as _;
    let metadata = fs_err::symlink_metadata(from).unwrap();
    if metadata.is_dir() {
        fs_err::create_dir(to).unwrap();
        fs_err::set_permissions(to, metadata.permissions()).unwrap();
        for entry in fs_err::read_dir(from).unwrap() {
            let entry = entry.unwrap();
            copy_tree(&entry.path(), &to.join(entry.file_name()));
        }
    } else {
        fs_err::copy(from, to).unwrap();
    }
    std::os::unix::fs::chown(to, Some(metadata.uid()), Some(metadata.gid())).unwrap();
    crate::common::set_mtime(to, metadata.modified().unwrap());
}

/// The absolute path of the backing file that a qcow2 header names, if any. For the disks of these tests only.
pub fn backing_file(disk: &Path) -> Option<PathBuf> {
    let content = fs_err::read(disk).unwrap();
    if !content.starts_with(b"QFI\xfb") {
        return None;
    }
    let offset = usize::try_from(u64::from_be_bytes(content[8..16].try_into().unwrap())).unwrap();
    let length = usize::try_from(u32::from_be_bytes(content[16..20].try_into().unwrap())).unwrap();
    let name = std::str::from_utf8(&content[offset..offset + length]).unwrap();
    (offset > 0).then(|| disk.parent().unwrap().join(name))
}

/// The disks below the instances path whose backing file is not there, and that file.
pub fn broken_disks(world: &World) -> BTreeMap<PathBuf, PathBuf> {
    let directories = names(&world.instances_path()).into_iter().map(|name| world.path(name));
    let files =
        directories.filter(|it| it.is_dir() && *it != world.path("_base") && *it != world.path("locks"));
    let disks =
        files.flat_map(|directory| names(&directory).into_iter().map(move |name| directory.join(name)));
    let backed = disks.filter_map(|disk| Some((disk.clone(), backing_file(&disk)?)));
    backed.filter(|(_, backing)| !backing.exists()).collect()
}

/// Whether all of a proof is to be run: `NOVA_IMAGECACHE_FULL=1`.
pub fn is_full() -> bool {
    std::env::var_os("NOVA_IMAGECACHE_FULL").is_some_and(|it| it == "1")
}

/// Where the samples begin: `NOVA_IMAGECACHE_SEED`, or another one each time.
pub fn seed() -> usize {
    static SEED: LazyLock<usize> = LazyLock::new(|| match std::env::var("NOVA_IMAGECACHE_SEED") {
        Ok(seed) => seed.parse().expect("NOVA_IMAGECACHE_SEED is a number"),
        Err(_) => {
            let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
            usize::try_from(now.as_secs() % 100_000).unwrap()
        }
    });
    *SEED
}

/// So many of them at equal distances, beginning anywhere; all of them in a full run.
pub fn sample<T>(all: Vec<T>, wanted: usize) -> Vec<T> {
    if is_full() { all } else { thinned(all, wanted) }
}

/// So many of them at equal distances.
pub fn thinned<T>(all: Vec<T>, wanted: usize) -> Vec<T> {
    let stride = all.len().div_ceil(wanted).max(1);
    all.into_iter().skip(seed() % stride).step_by(stride).collect()
}

/// `all of 12`, or `5 of 12 (NOVA_IMAGECACHE_SEED=7)`.
pub fn share(done: usize, all: usize) -> String {
    if done == all {
        format!("all of {all}")
    } else {
        format!("{done} of {all} (NOVA_IMAGECACHE_SEED={})", seed())
    }
}

/// Runs a check and says in its failure which one it was.
pub fn checked<T>(what: &str, check: impl FnOnce() -> T) -> Result<T, String> {
    let check = std::panic::AssertUnwindSafe(check);
    std::panic::catch_unwind(check).map_err(|panic| {
        let text = panic.downcast_ref::<String>().cloned();
        let text = text.or_else(|| panic.downcast_ref::<&str>().map(|it| (*it).to_owned()));
        format!("{what}: {}", text.unwrap_or_default())
    })
}

/// Fails with the number of failures and the first of them.
#[track_caller]
pub fn none_failed(failures: &[String]) {
    let first: Vec<&String> = failures.iter().take(3).collect();
    assert!(failures.is_empty(), "{} failed, the first of them: {first:#?}", failures.len());
}
