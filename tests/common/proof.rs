//! What the proofs by system call share: a small tree that is copied for each run, what must hold of it, and samples.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::process::Command;

use nova_imagecache::cache_name::{SET_ASIDE, cache_file_name};
use serde_json::{Value, json};

use crate::common::prune::{
    aside, chown_all, copy_tree, finish, is_full, lock_file, names, nova_user, plain_file, prune_command,
    untouched,
};
use crate::common::steps::Ended;
use crate::common::{DAY, Entry, HOST, Run, Snapshot, World, list, overlay, set_age, text};

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
        Self::owned_by(nova_user())
    }

    /// With another owner where the tests run as root.
    pub fn owned_by(owner: u32) -> Self {
        let world = World::new();
        let [used, old] = ["image-used", OLD_IMAGE].map(cache_file_name);
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
            set_age(&world.path(directory).join("disk"), 2 * DAY);
            set_age(&world.path(directory), 2 * DAY);
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
        let before = Snapshot(BTreeMap::new());
        let scene = Self { world, pristine, before, needed, removable, target: old, aside: BTreeSet::new() };
        Self { before: scene.state(), ..scene }
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
            fs_err::rename(self.world.base(name), aside(&self.world, name)).unwrap();
        }
    }

    /// What can be compared from run to run, each of which has its own copy of the tree.
    pub fn state(&self) -> Snapshot {
        let in_use: Vec<&String> = self.needed.iter().collect();
        let mut snapshot = untouched(&self.world, &in_use);
        snapshot.0.values_mut().for_each(|it| it.inode = 0);
        snapshot
    }

    /// A real prune. It does not wait for what an operation began, for operations are whole here.
    pub fn prune(&self, args: &[&str]) -> Command {
        prune_command(&self.world, ["--settle", "0s"].iter().chain(args))
    }

    /// One more prune that nobody disturbs, after which nothing is left over.
    #[track_caller]
    pub fn pruned_again(&self) -> Run {
        let run = finish(&mut self.prune(&[]));
        assert_eq!(run.code, 0, "the prune after it: {run:#?}");
        for directory in ["", "_base"] {
            let names = names(&self.world.path(directory));
            assert!(!names.iter().any(|it| it.starts_with('.')), "left over: {names:?}");
        }
        let locks = names(&self.world.path("locks"));
        let is_lock = |name: &String| name.starts_with("nova-") || name == "imagecache-prune.lock";
        assert!(locks.iter().all(is_lock), "left over: {locks:?}");
        run
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
            let content = fs_err::read(aside(&self.world, name)).unwrap();
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
            // It may be where it was at the beginning, with its mtime.
            let aside = self.aside.contains(&*name).then(|| aside(&self.world, &name));
            let found = after.0.get(path).or_else(|| after.0.get(&aside?)).cloned();
            let found =
                found.map(|it| if entry.mtime == (0, 0) { Entry { mtime: (0, 0), ..it } } else { it });
            assert!(found.as_ref() == Some(entry), "{} has changed or gone", path.display());
        }
    }
}

/// Where the samples begin: `NOVA_IMAGECACHE_SEED`, or another one each time.
pub fn seed() -> usize {
    let wanted = std::env::var("NOVA_IMAGECACHE_SEED").ok();
    wanted.map_or(std::process::id() as usize, |it| it.parse().expect("NOVA_IMAGECACHE_SEED is a number"))
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

/// Runs a check. If it fails, says which one it was and why.
pub fn checked(what: &str, check: impl FnOnce()) -> Option<String> {
    let panic = std::panic::catch_unwind(std::panic::AssertUnwindSafe(check)).err()?;
    let text = panic.downcast_ref::<String>().map(String::as_str);
    let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or_default();
    Some(format!("{what}: {text}"))
}

/// Fails with the number of failures and the first of them.
#[track_caller]
pub fn none_failed(failures: &[String]) {
    let first: Vec<&String> = failures.iter().take(3).collect();
    assert!(failures.is_empty(), "{} failed, the first of them: {first:#?}", failures.len());
}
