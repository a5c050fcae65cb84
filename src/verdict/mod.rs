//! The judgement: evidence, inventory, policy and a time in; a verdict with its reasons for every file out.
//!
//! Pure: no filesystem, clock or environment. The rules are those of nova's `ImageCacheManager`
//! (nova/virt/libvirt/imagecache.py), changed wherever nova's have cost people data; nova-imagecache(8) has the list.

mod missing;
mod named;
mod users;

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::cache_name::{CacheName, Kind};
use crate::evidence::{CacheFile, Disk, Evidence, Identity, base_name};
use crate::inventory::Inventory;
use crate::selection::Selection;
use crate::time::{ForPeople, Timestamp};
use crate::warning::{count, shown};
use crate::words::words;
use named::Names;
pub use users::is_same_host;
use users::{ImageUse, Place, Users, shared_size};

/// What the operator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The name of this host, as nova knows it.
    pub host: String,
    /// nova's `remove_unused_original_minimum_age_seconds`.
    pub original_minimum_age: Duration,
    /// nova's `remove_unused_resized_minimum_age_seconds`.
    pub resized_minimum_age: Duration,
    pub ignore_unlisted: bool,
    pub partials: bool,
}

words! {
    /// What is to become of a file.
    pub enum Verdict {
        InUse = "in_use",
        /// Unused, but for less than its minimum age.
        TooYoung = "too_young",
        Removable = "removable",
        /// Unused as far as is known, but the evidence is incomplete.
        Unknown = "unknown",
        /// Never touched.
        Ignored = "ignored",
    }
}

words! {
    /// What kind of reason, in the order in which a file has them.
    pub enum Code {
        ImageInUse = "image_in_use",
        KernelInUse = "kernel_in_use",
        RamdiskInUse = "ramdisk_in_use",
        BackingFile = "backing_file",
        BackingFileUnlisted = "backing_file_unlisted",
        SameFile = "same_file",
        OpenInQemu = "open_in_qemu",
        KeptOnRequest = "kept_on_request",
        ResizedCopyKept = "resized_copy_kept",
        SwapInUse = "swap_in_use",
        EphemeralInUse = "ephemeral_in_use",
        Sidecar = "sidecar",
        Unused = "unused",
        NotACacheFile = "not_a_cache_file",
        Partial = "partial",
        SetAside = "set_aside",
    }
}

/// One reason for a verdict, with all that it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    pub code: Code,
    pub text: String,
    /// Ids of images.
    pub images: Vec<&'a str>,
    /// Uuids, or names where no uuid is known.
    pub instances: Vec<&'a str>,
    pub disks: Vec<&'a Path>,
}

/// A file of the cache directory and what was judged of it.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    pub name: &'a OsStr,
    pub file: &'a CacheFile,
    pub kind: Kind,
    pub age: Option<Duration>,
    /// `None` for what is never touched.
    pub minimum_age: Option<Duration>,
    pub verdict: Verdict,
    /// At least one.
    pub reasons: Vec<Reason<'a>>,
}

/// A file that should be in the cache and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing<'a> {
    /// `ephemeral_<GiB>_*` where the hash cannot be known.
    pub name: OsString,
    pub reasons: Vec<Reason<'a>>,
}

/// A file or directory that could not be read or understood.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unreadable {
    pub path: PathBuf,
    pub error: String,
    /// Whether it may name files that nothing else names, so that nothing is removable.
    pub blocks: bool,
    /// What the operator can do about it.
    pub advice: &'static str,
}

/// A directory of no counted instance.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct UnlistedDirectory<'a> {
    pub name: &'a OsStr,
    /// What the disks in it take.
    pub disk_bytes: u64,
    pub mtime: Option<Timestamp>,
    /// The cache files that its disks keep.
    pub keeps: BTreeSet<&'a OsStr>,
}

/// Everything that was judged.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// Every entry of the cache directory, by name.
    pub files: Vec<Judged<'a>>,
    /// By name.
    pub missing: Vec<Missing<'a>>,
    /// By name.
    pub unlisted_directories: Vec<UnlistedDirectory<'a>>,
    /// By path.
    pub unreadable: Vec<Unreadable>,
    pub inventory_is_incomplete: bool,
    /// How many instances count for this cache, and how many of these have a directory here.
    pub counted: usize,
    pub counted_here: usize,
    /// How many instance directories hold a disk, and how many of these are of an instance that counts.
    pub directories_with_disks: usize,
    pub listed_with_disks: usize,
    /// Instances that must have a directory here: how many, and which have none.
    pub expected: usize,
    pub absent: Vec<&'a str>,
}

impl<'a> Judgement<'a> {
    /// If not, nothing is removable.
    pub fn is_complete(&self) -> bool {
        !self.inventory_is_incomplete && self.blocking().next().is_none()
    }

    /// What makes the evidence incomplete.
    pub fn blocking(&self) -> impl Iterator<Item = &Unreadable> {
        self.unreadable.iter().filter(|it| it.blocks)
    }

    /// Adds what a later reading could not read or understand: nothing is removable any more of what `is_left`.
    pub fn becomes_incomplete(&mut self, unreadable: Vec<Unreadable>, is_left: impl Fn(&OsStr) -> bool) {
        self.unreadable.extend(unreadable);
        self.unreadable.sort_unstable_by(|a, b| a.path.cmp(&b.path));
        for judged in self.files.iter_mut().filter(|it| it.verdict == Verdict::Removable && is_left(it.name))
        {
            judged.verdict = Verdict::Unknown;
            let text = "unused, and kept because the evidence became incomplete";
            judged.reasons = vec![Reason::new(Code::Unused, text)];
        }
    }

    pub fn file(&self, name: &OsStr) -> Option<&Judged<'a>> {
        self.files.binary_search_by(|it| it.name.cmp(name)).ok().map(|index| &self.files[index])
    }
}

/// Judges every file. `keep` names what the operator wants to stay.
pub fn judge<'a>(
    evidence: &'a Evidence,
    inventory: Option<&'a Inventory>,
    (policy, keep): (&Policy, &Selection),
    now: Timestamp,
) -> Judgement<'a> {
    let users = Users::count(evidence, inventory, policy);
    let names = Names::find(evidence, inventory, &users, policy);
    let (directories_with_disks, listed_with_disks) = users.directories_with_disks();
    let absent = users.expected().filter(|it| it.directories.is_empty()).map(|it| it.id);
    let mut judgement = Judgement {
        files: Vec::new(),
        missing: missing::missing(evidence, &users, &names),
        unlisted_directories: Vec::new(),
        inventory_is_incomplete: inventory.is_some_and(|it| !it.incomplete.is_empty()),
        counted: users.counted.len(),
        counted_here: users.counted.iter().filter(|it| !it.directories.is_empty()).count(),
        directories_with_disks,
        listed_with_disks,
        expected: users.expected().count(),
        absent: absent.collect(),
        unreadable: names.unreadable.clone(),
    };
    judgement.absent.sort_unstable();
    let is_complete = judgement.is_complete();
    let judge = Judge { evidence, policy, keep, now, is_complete, users: &users, names: &names };
    judgement.files = judge.files();
    judgement.unlisted_directories = unlisted_directories(evidence, &users, &judgement.files);
    judgement
}

struct Judge<'a, 'b> {
    evidence: &'a Evidence,
    policy: &'b Policy,
    keep: &'b Selection,
    now: Timestamp,
    is_complete: bool,
    users: &'b Users<'a>,
    names: &'b Names<'a>,
}

impl<'a> Judge<'a, '_> {
    fn files(&self) -> Vec<Judged<'a>> {
        let mut files: Vec<Judged<'a>> =
            self.evidence.cache_files().map(|(name, file)| self.in_use_so_far(name, file)).collect();
        // What is in use by one name is in use by all. The reason gives the first of these names.
        let in_use = files.iter().rev().filter(|it| !it.reasons.is_empty());
        let in_use: HashMap<Identity, &'a OsStr> =
            in_use.filter_map(|it| Some((it.file.stat?.identity, it.name))).collect();
        for judged in &mut files {
            if judged.reasons.is_empty()
                && let Some(other) = judged.file.stat.and_then(|it| in_use.get(&it.identity))
            {
                let text = format!("the same file as {}, which is in use", other.display());
                judged.reasons.push(Reason::new(Code::SameFile, text));
            }
            let (verdict, reasons) = self.decide(judged);
            judged.verdict = verdict;
            judged.reasons.extend(reasons);
        }
        self.judge_sidecars(&mut files);
        files
    }

    fn in_use_so_far(&self, name: &'a OsStr, file: &'a CacheFile) -> Judged<'a> {
        let kind = file.kind(name);
        let minimum_age = match kind {
            Kind::Partial if !self.policy.partials => None,
            Kind::Original | Kind::Swap | Kind::Ephemeral | Kind::Info | Kind::Partial => {
                Some(self.policy.original_minimum_age)
            }
            Kind::Resized | Kind::Small => Some(self.policy.resized_minimum_age),
            Kind::SetAside | Kind::Other => None,
        };
        let age = file.stat.map(|stat| stat.mtime.age_at(self.now));
        let reasons = self.needs(name, file);
        Judged { name, file, kind, age, minimum_age, verdict: Verdict::InUse, reasons }
    }

    /// The verdict on a file that has all reasons to be in use, and the reasons for any other verdict.
    fn decide(&self, judged: &Judged<'a>) -> (Verdict, Vec<Reason<'a>>) {
        let interrupted = "an interrupted download or conversion";
        let ignored = match judged.kind {
            Kind::Other => Some(Reason::new(Code::NotACacheFile, not_a_cache_file(judged.file))),
            Kind::SetAside => Some(Reason::new(
                Code::SetAside,
                "set aside by a prune that was killed or is still running: if none is running, run prune again to put it back",
            )),
            Kind::Partial if !self.policy.partials => {
                Some(Reason::new(Code::Partial, format!("{interrupted}: add --partials to judge it")))
            }
            _ => None,
        };
        if let Some(ignored) = ignored {
            return (Verdict::Ignored, vec![ignored]);
        }
        if !judged.reasons.is_empty() {
            return (Verdict::InUse, Vec::new());
        }
        let age = judged.age.unwrap_or_default();
        let minimum_age = judged.minimum_age.unwrap_or(Duration::MAX);
        let (verdict, so) = if age < minimum_age {
            let wait = ForPeople(minimum_age - age);
            (Verdict::TooYoung, format!("can be removed in {wait} if it stays unused"))
        } else if !self.is_complete {
            (Verdict::Unknown, "kept because the evidence is incomplete".into())
        } else {
            (Verdict::Removable, "can be removed".into())
        };
        let text = format!("unused for {} (minimum {}): {so}", ForPeople(age), ForPeople(minimum_age));
        let mut reasons = vec![Reason::new(Code::Unused, text)];
        if judged.kind == Kind::Partial {
            reasons.push(Reason::new(Code::Partial, interrupted));
        }
        (verdict, reasons)
    }

    /// An `.info` file has the verdict of its file, where that is there.
    fn judge_sidecars(&self, files: &mut [Judged<'a>]) {
        for index in 0..files.len() {
            let CacheName { kind: Kind::Info, of, .. } = CacheName::parse(files[index].name) else {
                continue;
            };
            let Ok(owner) = files.binary_search_by(|it| it.name.cmp(OsStr::new(of))) else { continue };
            let Judged { file, verdict, minimum_age, .. } = files[owner];
            let info = &mut files[index];
            if info.kind == Kind::Info && info.verdict != Verdict::InUse && file.is_file {
                let text = format!("belongs to {of}, which is {}", verdict.as_str());
                let reasons = vec![Reason::new(Code::Sidecar, text)];
                *info = Judged { verdict, minimum_age, reasons, ..*info };
            }
        }
    }

    /// Everything that needs a file, in the order of the codes.
    fn needs(&self, name: &'a OsStr, file: &'a CacheFile) -> Vec<Reason<'a>> {
        let kind = file.kind(name);
        let cache_name = CacheName::parse(name);
        let image = cache_name.fingerprint.and_then(|it| self.users.images.get(it));
        let mut reasons = Vec::new();
        if matches!(kind, Kind::Original | Kind::Small)
            && let Some(image) = image
        {
            let uses = image.users.iter().enumerate();
            reasons.extend(uses.filter_map(|(which, users)| self.users.image_use(image.id, which, users)));
        }
        let by_name = self.names.by_name.get(name);
        reasons.extend(by_name.into_iter().flat_map(|it| it.reasons(self.users)));
        if let Some((_, named)) = file.stat.and_then(|it| self.names.by_identity.get(&it.identity)) {
            reasons.extend(named.same_file(self.users, by_name));
        }
        if file.is_open_in_qemu && !matches!(kind, Kind::Other | Kind::SetAside) {
            reasons.push(Reason::new(Code::OpenInQemu, "a running QEMU has it open"));
        }
        if self.keep.contains(name) {
            reasons.push(Reason::new(Code::KeptOnRequest, "kept on request (--keep)"));
        }
        if kind == Kind::Resized
            && let Some(image) = image
            && !self.disks_show_copies(image, cache_name.fingerprint)
        {
            reasons.push(self.resized_copy_kept(image));
        }
        if matches!(kind, Kind::Swap | Kind::Ephemeral)
            && let Some(size) = shared_size(cache_name)
            && let Some(users) = self.users.sizes.get(&size)
        {
            reasons.extend(self.users.size_use(size, users));
        }
        reasons
    }

    fn resized_copy_kept(&self, image: &ImageUse<'a>) -> Reason<'a> {
        let instances = self.users.ids(image.users.iter().flatten());
        let text = format!(
            "image {} is used by {}, and their disks do not show which resized copies are needed",
            image.id,
            several("instance", &instances)
        );
        Reason { images: vec![image.id], instances, ..Reason::new(Code::ResizedCopyKept, text) }
    }

    /// Whether every instance that was started from an image has a `disk` that could be read, and one of these is
    /// backed by a resized copy: then a copy that no disk names is unused (rule 5 of the evidence). Where other hosts use
    /// the cache from instances paths of their own, an instance may have another disk there: during a resize it has.
    fn disks_show_copies(&self, image: &ImageUse<'a>, fingerprint: Option<&str>) -> bool {
        *image.disks_show_copies.get_or_init(|| {
            if self.evidence.cache_is_shared_apart {
                return false;
            }
            let is_copy = |name: &OsStr| {
                let name = CacheName::parse(name);
                name.kind == Kind::Resized && name.fingerprint == fingerprint
            };
            let [started_from_it, ..] = &image.users;
            let mut any_backed_by_copy = false;
            for index in started_from_it {
                let disks = self.users.counted[*index].directories.iter().flat_map(|it| &it.disks);
                let is_shown =
                    |it: &&Disk| it.problem.is_none() && base_name(&it.path) == Some(OsStr::new("disk"));
                let mut disks = disks.filter(is_shown).peekable();
                if disks.peek().is_none() {
                    return false;
                }
                any_backed_by_copy = any_backed_by_copy || disks.any(|it| self.names_of(it).any(is_copy));
            }
            any_backed_by_copy
        })
    }

    /// The base names of what a disk stands on directly, and the names that the cache has for the same files.
    fn names_of(&self, disk: &'a Disk) -> impl Iterator<Item = &'a OsStr> {
        disk.references.iter().flat_map(|reference| {
            let identity = self.evidence.references.get(reference).and_then(|it| it.identity);
            let in_cache = identity.and_then(|it| self.names.by_identity.get(&it));
            base_name(reference).into_iter().chain(in_cache.into_iter().flat_map(|(names, _)| names).copied())
        })
    }
}

impl Reason<'_> {
    fn new(code: Code, text: impl Into<String>) -> Self {
        Self { code, text: text.into(), images: Vec::new(), instances: Vec::new(), disks: Vec::new() }
    }
}

fn not_a_cache_file(file: &CacheFile) -> String {
    match &file.problem {
        Some(error) if file.stat.is_none() => format!("cannot be examined: {error}: never touched"),
        Some(problem) if file.link.is_some() && !file.is_file => {
            format!("a link that cannot be followed ({problem}): never touched")
        }
        _ if !file.is_file => "a directory or special file: never touched".into(),
        _ => "not a cache file: never touched".into(),
    }
}

fn unlisted_directories<'a>(
    evidence: &'a Evidence,
    users: &Users<'a>,
    files: &[Judged<'a>],
) -> Vec<UnlistedDirectory<'a>> {
    let mut keeps: BTreeMap<&OsStr, BTreeSet<&OsStr>> = BTreeMap::new();
    for Judged { name, reasons, .. } in files {
        let reasons =
            reasons.iter().filter(|it| matches!(it.code, Code::BackingFileUnlisted | Code::SameFile));
        let root = &evidence.layout.instances_path;
        for below in reasons.flat_map(|it| &it.disks).filter_map(|it| it.strip_prefix(root).ok()) {
            keeps.entry(Evidence::top_name(below.as_os_str())).or_default().insert(name);
        }
    }
    let mut unlisted: BTreeMap<&OsStr, UnlistedDirectory<'a>> = BTreeMap::new();
    let places = users.places().filter(|it| it.is_unlisted && !it.directory.is_cache);
    for Place { path, directory, .. } in places {
        let name = Evidence::top_name(path);
        let entry = unlisted.entry(name).or_insert_with(|| UnlistedDirectory {
            name,
            disk_bytes: 0,
            mtime: directory.mtime,
            keeps: keeps.remove(name).unwrap_or_default(),
        });
        entry.disk_bytes += directory.disks.iter().map(|it| it.disk_bytes).sum::<u64>();
    }
    unlisted.into_values().collect()
}

/// `instance a`, `3 instances: a, b, c`, `9 instances: a, b, c and 6 more`.
fn several(what: &str, items: &[impl std::fmt::Display]) -> String {
    match items {
        [item] => format!("{what} {item}"),
        _ => format!("{}: {}", count(items.len(), what), shown(items)),
    }
}

#[cfg(test)]
pub(crate) mod tests;
