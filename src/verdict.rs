//! The judgement: evidence, inventory, policy and a time in; a verdict with its reasons for every file out.
//!
//! Pure: no filesystem, clock or environment. The rules are those of nova's `ImageCacheManager`
//! (nova/virt/libvirt/imagecache.py), changed wherever nova's have cost people data; nova-imagecache(8) has the list.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde::Serialize;

use crate::cache_name::{CacheName, Kind, cache_file_name, is_size};
use crate::evidence::{self, CacheFile, Directory, Disk, Evidence};
use crate::inventory::{Instance, Inventory, Text};
use crate::time::{ForPeople, Timestamp};

/// What the operator decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Policy {
    /// The name of this host, as nova knows it.
    pub host: String,
    /// How old an unused file must be that was fetched or made once for all (nova's
    /// `remove_unused_original_minimum_age_seconds`).
    pub original_minimum_age: Duration,
    /// How old an unused copy of an image must be (nova's `remove_unused_resized_minimum_age_seconds`).
    pub resized_minimum_age: Duration,
    /// Leave out disks in directories of no instance, as nova does.
    pub ignore_unlisted: bool,
    /// Judge broken downloads too.
    pub partials: bool,
}

/// What is to become of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Verdict {
    /// Something needs it.
    InUse,
    /// Nothing needs it, but something may just have.
    TooYoung,
    /// Nothing needs it and nothing has for its minimum age.
    Removable,
    /// Nothing is known to need it, but not everything is known.
    Unknown,
    /// None of our business.
    Ignored,
}

impl Verdict {
    /// Every verdict, in the order of reports.
    pub const ALL: [Self; 5] = [Self::InUse, Self::TooYoung, Self::Removable, Self::Unknown, Self::Ignored];

    /// The word for it in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::InUse => "in_use",
            Self::TooYoung => "too_young",
            Self::Removable => "removable",
            Self::Unknown => "unknown",
            Self::Ignored => "ignored",
        }
    }
}

/// What kind of reason.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Code {
    /// An instance was started from the image.
    ImageInUse,
    /// An instance has the image as its kernel.
    KernelInUse,
    /// An instance has the image as its ramdisk.
    RamdiskInUse,
    /// A disk names the file.
    BackingFile,
    /// A disk in a directory of no instance names the file.
    BackingFileUnlisted,
    /// The image is used, and it cannot be told which of its copies are.
    ResizedCopyKept,
    /// An instance has that much swap.
    SwapInUse,
    /// An instance has an ephemeral disk of that size.
    EphemeralInUse,
    /// It goes with the file that it belongs to.
    Sidecar,
    /// Nothing needs it.
    Unused,
    /// It is no file of nova's cache.
    NotACacheFile,
    /// A download or conversion that broke off.
    Partial,
}

/// One reason for a verdict, with all that it rests on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reason<'a> {
    /// What kind of reason it is.
    pub code: Code,
    /// A sentence for people.
    pub text: String,
    /// Ids of the images that it is about.
    pub images: Vec<&'a str>,
    /// The instances that it is about: uuids, or names where no uuid is known.
    pub instances: Vec<&'a str>,
    /// The disks that it is about.
    pub disks: Vec<&'a Path>,
}

/// A file of the cache directory and what was judged of it.
#[derive(Clone, Debug)]
pub struct Judged<'a> {
    /// Its name.
    pub name: &'a OsStr,
    /// What is known of it.
    pub file: &'a CacheFile,
    /// What its name says that it is.
    pub kind: Kind,
    /// How long ago it was last written, or seen in use.
    pub age: Option<Duration>,
    /// How old it must be to be removed; none for what is never touched.
    pub minimum_age: Option<Duration>,
    /// What is to become of it.
    pub verdict: Verdict,
    /// Why, at least one.
    pub reasons: Vec<Reason<'a>>,
}

/// A file that should be in the cache and is not.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Missing<'a> {
    /// Its name; `ephemeral_<GiB>_*` where the hash cannot be known.
    pub name: OsString,
    /// Who needs it.
    pub reasons: Vec<Reason<'a>>,
}

/// A file or directory that could not be read or understood.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Unreadable {
    /// Where it is.
    pub path: PathBuf,
    /// What went wrong.
    pub error: String,
    /// Whether it may name files that nothing else does, so that nothing is removable.
    pub blocks: bool,
}

/// Everything that was judged.
#[derive(Clone, Debug)]
pub struct Judgement<'a> {
    /// Every entry of the cache directory, by name.
    pub files: Vec<Judged<'a>>,
    /// What is not there, by name.
    pub missing: Vec<Missing<'a>>,
    /// Directories of no counted instance, by name.
    pub unlisted_directories: Vec<&'a OsStr>,
    /// What could not be read, by path.
    pub unreadable: Vec<Unreadable>,
    /// Whether the evidence is whole. If not, nothing is removable.
    pub complete: bool,
    /// How many instances count for this cache.
    pub counted: usize,
    /// How many instance directories hold a disk.
    pub directories_with_disks: usize,
}

impl<'a> Judgement<'a> {
    /// A file by its name.
    pub fn file(&self, name: &OsStr) -> Option<&Judged<'a>> {
        self.files.binary_search_by(|it| it.name.cmp(name)).ok().map(|index| &self.files[index])
    }
}

/// Judges every file.
pub fn judge<'a>(
    evidence: &'a Evidence,
    inventory: Option<&'a Inventory>,
    policy: &Policy,
    now: Timestamp,
) -> Judgement<'a> {
    let instances = Instances::count(evidence, inventory, policy);
    let roles: Vec<Role> = evidence.directories.keys().map(|path| instances.role(path)).collect();
    let disks = Disks::sort(evidence, &instances, &roles, policy);
    let mut unreadable = disks.unreadable;
    let complete = disks.complete
        && evidence.restless.is_none()
        && inventory.is_none_or(|inventory| inventory.incomplete.is_empty());
    if let Some(why) = &evidence.restless {
        unreadable.push(Unreadable {
            path: evidence.layout.instances_path.clone(),
            error: why.clone(),
            blocks: true,
        });
    }
    for file in evidence.cache.iter().flat_map(|it| it.files.values()) {
        if let Some(problem) = &file.problem {
            unreadable.push(Unreadable { path: file.path.clone(), error: problem.clone(), blocks: false });
        }
    }
    // As texts, as a program would sort them: paths compare part by part, and give "a/x" before "a-1/x".
    unreadable.sort_by(|a, b| (a.path.as_os_str(), &a.error).cmp(&(b.path.as_os_str(), &b.error)));
    unreadable.dedup();

    let judge = Judge { evidence, policy, now, complete, instances: &instances, named: &disks.named };
    Judgement {
        files: evidence
            .cache
            .iter()
            .flat_map(|cache| &cache.files)
            .map(|(name, file)| judge.file(name, file))
            .collect(),
        missing: judge.missing(),
        unlisted_directories: evidence
            .directories
            .iter()
            .zip(&roles)
            .filter(|((path, directory), role)| {
                is_one_name(path) && !directory.is_cache && **role == Role::Unlisted
            })
            .map(|((path, _), _)| path.as_os_str())
            .collect(),
        unreadable,
        complete,
        counted: instances.counted.len(),
        directories_with_disks: evidence
            .directories
            .iter()
            .zip(&roles)
            .filter(|((path, directory), role)| {
                is_one_name(path)
                    && !directory.disks.is_empty()
                    && **role != Role::Neither
                    && *path != "snapshots"
                    && *path != "lost+found"
            })
            .count(),
    }
}

/// Whether a path is a single name: that of a directory directly in the instances path.
fn is_one_name(path: &OsStr) -> bool {
    !path.is_empty() && !path.as_encoded_bytes().contains(&b'/')
}

/// Whose a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Role {
    /// That of a counted instance.
    Listed,
    /// Of none: orphaned, evacuated, soft-deleted.
    Unlisted,
    /// Not an instance's at all: the instances path itself, another host's cache.
    Neither,
}

/// The counted instances, and who uses what.
struct Instances<'a> {
    subdirectory_name: &'a OsStr,
    counted: Vec<Counted<'a>>,
    /// Directories by name and the instances that own them, as indices into `counted`.
    owners: HashMap<&'a OsStr, Vec<usize>>,
    /// Used images by the fingerprint of their id.
    images: BTreeMap<String, ImageUse<'a>>,
}

struct Counted<'a> {
    instance: &'a Instance,
    id: &'a str,
    /// On this host, or on none: its files would be fetched or made again here.
    is_local: bool,
    directories: Vec<&'a Directory>,
}

#[derive(Default)]
struct ImageUse<'a> {
    id: &'a str,
    /// Indices into the counted instances, for each way to use an image.
    by_code: BTreeMap<Code, Vec<usize>>,
    /// See [`Judge::tells_which_copies_are_used`]: asked for each copy, and there may be many.
    tells_which_copies_are_used: OnceCell<bool>,
}

impl<'a> Instances<'a> {
    fn count(evidence: &'a Evidence, inventory: Option<&'a Inventory>, policy: &Policy) -> Self {
        let mut counted = Vec::new();
        let mut owners: HashMap<&OsStr, Vec<usize>> = HashMap::new();
        for instance in inventory.iter().flat_map(|it| &it.instances) {
            // An inventory may have a million names of which a few are directories here.
            let directories: Vec<(&OsString, &Directory)> = listed_names(instance)
                .iter()
                .filter_map(|name| evidence.directories.get_key_value(OsStr::new(&**name)))
                .collect();
            let hosts: Vec<&str> = instance.texts(Text::Host).collect();
            let is_counted = !directories.is_empty()
                || if hosts.is_empty() {
                    let mut states = instance.texts(Text::VmState).peekable();
                    states.peek().is_none()
                        || !states.all(|state| matches!(state, "shelved_offloaded" | "error"))
                } else {
                    evidence.cache_is_shared_apart
                        || hosts.contains(&policy.host.as_str())
                        || evidence
                            .compute_nodes
                            .as_ref()
                            .map_or(true, |nodes| hosts.iter().any(|host| nodes.contains(*host)))
                };
            if is_counted {
                for (name, _) in &directories {
                    owners.entry(name).or_default().push(counted.len());
                }
                let directories = directories.into_iter().map(|(_, directory)| directory).collect();
                let is_local = hosts.is_empty() || hosts.contains(&policy.host.as_str());
                counted.push(Counted { instance, id: instance.id(), is_local, directories });
            }
        }
        let mut images: BTreeMap<String, ImageUse<'a>> = BTreeMap::new();
        // An image id is hashed once, not once for each instance.
        let mut fingerprints: HashMap<&str, String> = HashMap::new();
        for (index, Counted { instance, .. }) in counted.iter().enumerate() {
            let image_refs = instance.texts(Text::ImageRef).map(|id| (Code::ImageInUse, id));
            let kernels = instance.texts(Text::KernelId).map(|id| (Code::KernelInUse, id));
            let ramdisks = instance.texts(Text::RamdiskId).map(|id| (Code::RamdiskInUse, id));
            for (code, id) in image_refs.chain(kernels).chain(ramdisks) {
                let fingerprint = fingerprints.entry(id).or_insert_with(|| cache_file_name(id));
                let image = match images.get_mut(fingerprint) {
                    Some(image) => image,
                    None => images.entry(fingerprint.clone()).or_default(),
                };
                image.id = id;
                image.by_code.entry(code).or_default().push(index);
            }
        }
        Self { subdirectory_name: &evidence.layout.subdirectory_name, counted, owners, images }
    }

    fn role(&self, directory: &OsStr) -> Role {
        let top = Evidence::top_name(directory);
        if top.as_encoded_bytes().starts_with(self.subdirectory_name.as_encoded_bytes()) || top.is_empty() {
            Role::Neither
        } else if self.owners.contains_key(top) {
            Role::Listed
        } else {
            Role::Unlisted
        }
    }

    fn ids(&self, indices: impl IntoIterator<Item = usize>) -> Vec<&'a str> {
        let mut ids: Vec<&str> = indices.into_iter().map(|index| self.counted[index].id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    fn ids_where(&self, test: impl Fn(&Counted<'a>) -> bool) -> Vec<&'a str> {
        self.ids((0..self.counted.len()).filter(|index| test(&self.counted[*index])))
    }
}

/// The names that directories of an instance have: its uuid and its name, and these and `_resize` while nova may have
/// renamed them (nova's `get_instance_path` and `_resize` in nova/virt/libvirt/driver.py).
fn listed_names(instance: &Instance) -> Vec<Cow<'_, str>> {
    let resizing = ["resize_prep", "resize_migrating", "resize_migrated", "resize_finish"];
    let is_resizing = instance.texts(Text::TaskState).any(|state| resizing.contains(&state))
        || instance.texts(Text::VmState).any(|state| state == "resized");
    let mut names = Vec::new();
    for name in instance.directory_names() {
        let lower = name.bytes().any(|it| it.is_ascii_uppercase()).then(|| name.to_ascii_lowercase());
        for name in [Some(Cow::from(name)), lower.map(Cow::from)].into_iter().flatten() {
            if is_resizing {
                names.push(format!("{name}_resize").into());
            }
            names.push(name);
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}

/// What the disks say.
struct Disks<'a> {
    /// The files that are named, by base name.
    named: HashMap<&'a OsStr, Named<'a>>,
    unreadable: Vec<Unreadable>,
    complete: bool,
}

/// Who names a file.
#[derive(Default)]
struct Named<'a> {
    disks: Vec<&'a Path>,
    unlisted_disks: Vec<&'a Path>,
    /// Indices of the counted instances in whose directories those disks lie.
    instances: BTreeSet<usize>,
    /// Whether it was named as a file of this cache directory, or of one of that name that cannot be read.
    is_of_cache: bool,
}

impl<'a> Disks<'a> {
    /// Follows every disk to the files that it stands on.
    fn sort(evidence: &'a Evidence, instances: &Instances<'a>, roles: &[Role], policy: &Policy) -> Self {
        let mut disks = Self { named: HashMap::new(), unreadable: Vec::new(), complete: true };
        for ((path, directory), &role) in evidence.directories.iter().zip(roles) {
            let left_out = role == Role::Unlisted && policy.ignore_unlisted;
            let full_path = || evidence.layout.instances_path.join(path);
            if let Some(problem) = &directory.problem
                // mkfs makes it, only root can read it, and nova never looks into it.
                && path != "lost+found"
            {
                disks.note(full_path(), problem, !left_out);
            }
            for disk in &directory.disks {
                if let Some(problem) = &disk.problem {
                    disks.note(disk.path.clone(), &problem.text, !left_out);
                }
                if !left_out {
                    let owners = instances.owners.get(Evidence::top_name(path)).map_or(&[][..], |it| it);
                    disks.follow(evidence, disk, role == Role::Unlisted, owners, true);
                }
            }
        }
        for path in &evidence.domain_disks {
            if let Some(disk) = evidence.links.get(path) {
                // A cache file that an instance has as its very disk.
                disks.name(evidence, path, path, false, &[]);
                disks.check_link(evidence, disk);
                disks.follow(evidence, disk, false, &[], true);
            }
        }
        for file in evidence.cache.iter().flat_map(|it| it.files.values()) {
            // nova refuses images with a backing file, so one that has it is reported, and what it names is kept; but
            // whatever is wrong with it cannot hide a disk.
            for reference in &file.references {
                disks.name(evidence, reference, &file.path, false, &[]);
                if let Some(link) = evidence.links.get(reference) {
                    disks.follow(evidence, link, false, &[], false);
                }
            }
        }
        disks
    }

    /// Names what a disk names, and what the files outside the cache that it stands on name.
    fn follow(
        &mut self,
        evidence: &'a Evidence,
        disk: &'a Disk,
        is_unlisted: bool,
        owners: &[usize],
        counts: bool,
    ) {
        let mut seen: HashSet<&Path> = HashSet::new();
        let mut next = vec![disk];
        while let Some(current) = next.pop() {
            for reference in &current.references {
                self.name(evidence, reference, &current.path, is_unlisted, owners);
                if !std::ptr::eq(current, disk) {
                    self.name(evidence, reference, &disk.path, is_unlisted, owners);
                }
                if let Some(link) = evidence.links.get(reference)
                    && seen.insert(reference)
                {
                    if counts {
                        self.check_link(evidence, link);
                    }
                    next.push(link);
                }
            }
        }
    }

    fn name(
        &mut self,
        evidence: &'a Evidence,
        reference: &'a Path,
        by: &'a Path,
        is_unlisted: bool,
        owners: &[usize],
    ) {
        let Some(base_name) = evidence::base_name(reference) else { return };
        let named = self.named.entry(base_name).or_default();
        // Asked until it is so, for a file may be named by every disk.
        named.is_of_cache = named.is_of_cache
            || evidence.is_named_as_cache(reference)
                && evidence.links.get(reference).is_none_or(|link| link.problem.is_some());
        named.instances.extend(owners);
        let disks = if is_unlisted { &mut named.unlisted_disks } else { &mut named.disks };
        if disks.last() != Some(&by) {
            disks.push(by);
        }
    }

    /// Notes a file that a disk stands on and that cannot be read, unless that cannot hide anything.
    fn check_link(&mut self, evidence: &Evidence, link: &Disk) {
        let Some(problem) = &link.problem else { return };
        if !evidence.hides_nothing(link) {
            self.note(link.path.clone(), &problem.text, true);
        }
    }

    fn note(&mut self, path: PathBuf, error: &str, blocks: bool) {
        self.unreadable.push(Unreadable { path, error: error.to_owned(), blocks });
        self.complete &= !blocks;
    }
}

struct Judge<'a, 'b> {
    evidence: &'a Evidence,
    policy: &'b Policy,
    now: Timestamp,
    complete: bool,
    instances: &'b Instances<'a>,
    named: &'b HashMap<&'a OsStr, Named<'a>>,
}

impl<'a> Judge<'a, '_> {
    fn file(&self, name: &'a OsStr, file: &'a CacheFile) -> Judged<'a> {
        let kind = file.kind(name);
        let age = file.stat.as_ref().ok().map(|stat| stat.mtime.age_at(self.now));
        let mut judged = Judged {
            name,
            file,
            kind,
            age,
            minimum_age: self.minimum_age(kind),
            verdict: Verdict::InUse,
            reasons: self.needs(name, kind),
        };
        let what_it_is = match kind {
            Kind::Other => Some((Code::NotACacheFile, not_a_cache_file(file))),
            Kind::Partial if self.policy.partials => None,
            Kind::Partial => {
                let text = "a download or conversion that broke off: judged only with --partials";
                Some((Code::Partial, text.into()))
            }
            _ => None,
        };
        if let Some((code, text)) = what_it_is {
            judged.reasons.push(Reason::plain(code, text));
            judged.verdict = Verdict::Ignored;
            return judged;
        }
        if !judged.reasons.is_empty() {
            return judged;
        }
        if let CacheName::Info { of } = CacheName::parse(name)
            && let Some((of, file)) =
                self.evidence.cache.as_ref().and_then(|cache| cache.files.get_key_value(OsStr::new(of)))
            && file.is_file
        {
            let owner = self.file(of, file);
            judged.verdict = owner.verdict;
            judged.minimum_age = owner.minimum_age;
            let text = format!("goes with {}, which is {}", of.to_string_lossy(), owner.verdict.as_str());
            judged.reasons.push(Reason::plain(Code::Sidecar, text));
            return judged;
        }
        let (age, minimum_age) = (age.unwrap_or_default(), judged.minimum_age.unwrap_or(Duration::MAX));
        let (verdict, what_it_waits_for) = if age < minimum_age {
            let wait = ForPeople(minimum_age - age);
            (Verdict::TooYoung, format!("removable in {wait} if it stays unused"))
        } else if !self.complete {
            (Verdict::Unknown, "kept because the evidence is incomplete".into())
        } else {
            (Verdict::Removable, "may go".into())
        };
        judged.verdict = verdict;
        let text = format!(
            "no instance, disk or image needs it; {} old, minimum age {}: {what_it_waits_for}",
            ForPeople(age),
            ForPeople(minimum_age)
        );
        judged.reasons.push(Reason::plain(Code::Unused, text));
        if kind == Kind::Partial {
            judged
                .reasons
                .push(Reason::plain(Code::Partial, "a download or conversion that broke off".into()));
        }
        judged
    }

    fn minimum_age(&self, kind: Kind) -> Option<Duration> {
        match kind {
            Kind::Original | Kind::Swap | Kind::Ephemeral | Kind::Info | Kind::Partial => {
                Some(self.policy.original_minimum_age)
            }
            Kind::Resized | Kind::Small => Some(self.policy.resized_minimum_age),
            Kind::Other => None,
        }
    }

    /// Everything that needs a file, in the order of the codes.
    fn needs(&self, name: &'a OsStr, kind: Kind) -> Vec<Reason<'a>> {
        let mut reasons = Vec::new();
        let cache_name = CacheName::parse(name);
        if matches!(kind, Kind::Original | Kind::Small)
            && let Some(image) = cache_name.fingerprint().and_then(|it| self.instances.images.get(it))
        {
            for (code, users) in &image.by_code {
                reasons.push(self.image_use(*code, image.id, users));
            }
        }
        if let Some(named) = self.named.get(name) {
            reasons.extend(self.backing(named));
        }
        if kind == Kind::Resized
            && let Some(image) = cache_name.fingerprint().and_then(|it| self.instances.images.get(it))
            && !image
                .tells_which_copies_are_used
                .get_or_init(|| self.tells_which_copies_are_used(image, cache_name.fingerprint()))
        {
            let instances = self.instances.ids(image.by_code.values().flatten().copied());
            let text = format!(
                "image {} is used by {}, and their disks do not tell which copies of it are",
                image.id,
                several("instance", &instances)
            );
            reasons.push(Reason {
                code: Code::ResizedCopyKept,
                text,
                images: vec![image.id],
                instances,
                disks: Vec::new(),
            });
        }
        match cache_name {
            CacheName::Swap { mebibytes } if kind == Kind::Swap => {
                let users =
                    self.instances.ids_where(|it| it.instance.swap_mb().any(|size| is_size(mebibytes, size)));
                reasons.extend(size_use(Code::SwapInUse, "swap", mebibytes, "MiB", users));
            }
            CacheName::Ephemeral { gibibytes } if kind == Kind::Ephemeral => {
                let users = self
                    .instances
                    .ids_where(|it| it.instance.ephemeral_gb().any(|size| is_size(gibibytes, size)));
                reasons.extend(size_use(Code::EphemeralInUse, "an ephemeral disk", gibibytes, "GiB", users));
            }
            _ => {}
        }
        reasons
    }

    fn image_use(&self, code: Code, image: &'a str, users: &[usize]) -> Reason<'a> {
        let instances = self.instances.ids(users.iter().copied());
        let what = match code {
            Code::KernelInUse => "the kernel",
            Code::RamdiskInUse => "the ramdisk",
            _ => "the image",
        };
        let text = format!("{image} is {what} of {}", several("instance", &instances));
        Reason { code, text, images: vec![image], instances, disks: Vec::new() }
    }

    fn backing(&self, named: &Named<'a>) -> impl Iterator<Item = Reason<'a>> {
        let listed =
            (Code::BackingFile, &named.disks, "", self.instances.ids(named.instances.iter().copied()));
        let where_ = if self.instances.counted.is_empty() { "" } else { " in directories of no instance" };
        let unlisted = (Code::BackingFileUnlisted, &named.unlisted_disks, where_, Vec::new());
        [listed, unlisted].into_iter().filter(|(_, disks, ..)| !disks.is_empty()).map(
            |(code, disks, where_, instances)| {
                let mut disks = disks.clone();
                disks.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
                disks.dedup();
                let shown: Vec<_> = disks.iter().map(|it| it.display()).collect();
                let text = format!("backing file of {}{where_}", several("disk", &shown));
                Reason { code, text, images: Vec::new(), instances, disks }
            },
        )
    }

    /// Whether every instance that was started from an image has a disk that could be read, and one of these is
    /// backed by a resized copy: then a copy that no disk names is unused (rule 5 of the evidence).
    fn tells_which_copies_are_used(&self, image: &ImageUse<'a>, fingerprint: Option<&str>) -> bool {
        let mut any_backed_by_copy = false;
        for index in image.by_code.get(&Code::ImageInUse).into_iter().flatten() {
            let mut has_disk = false;
            for disk in self.instances.counted[*index].directories.iter().flat_map(|it| &it.disks) {
                if disk.path.file_name() == Some(OsStr::new("disk")) && disk.problem.is_none() {
                    has_disk = true;
                    any_backed_by_copy |=
                        disk.references.iter().filter_map(|it| it.file_name()).any(|name| {
                            let name = CacheName::parse(name);
                            name.kind() == Kind::Resized && name.fingerprint() == fingerprint
                        });
                }
            }
            if !has_disk {
                return false;
            }
        }
        any_backed_by_copy
    }

    fn missing(&self) -> Vec<Missing<'a>> {
        // One that cannot be examined is there, too.
        let is_there =
            |name: &OsStr| self.evidence.cache_file(name).is_some_and(|it| it.is_file || it.stat.is_err());
        let mut missing: BTreeMap<OsString, Vec<Reason<'a>>> = BTreeMap::new();
        for (fingerprint, image) in &self.instances.images {
            if is_there(OsStr::new(fingerprint)) {
                continue;
            }
            for (code, users) in &image.by_code {
                let local: Vec<usize> =
                    users.iter().copied().filter(|it| self.instances.counted[*it].is_local).collect();
                if !local.is_empty() {
                    let reason = self.image_use(*code, image.id, &local);
                    missing.entry(fingerprint.into()).or_default().push(reason);
                }
            }
        }
        for (name, named) in self.named.iter().filter(|(name, named)| named.is_of_cache && !is_there(name)) {
            missing.entry((*name).into()).or_default().extend(self.backing(named));
        }
        self.missing_sizes(&mut missing);
        missing.into_iter().map(|(name, reasons)| Missing { name, reasons }).collect()
    }

    fn missing_sizes(&self, missing: &mut BTreeMap<OsString, Vec<Reason<'a>>>) {
        let names = || {
            self.evidence
                .cache
                .iter()
                .flat_map(|it| &it.files)
                .filter(|(_, it)| it.is_file)
                .map(|(name, _)| CacheName::parse(name))
        };
        let mut swap: BTreeMap<u64, Vec<&'a str>> = BTreeMap::new();
        let mut ephemeral: BTreeMap<u64, Vec<&'a str>> = BTreeMap::new();
        for it in self.instances.counted.iter().filter(|it| it.is_local) {
            for size in it.instance.swap_mb() {
                swap.entry(size).or_default().push(it.id);
            }
            for size in it.instance.ephemeral_gb() {
                ephemeral.entry(size).or_default().push(it.id);
            }
        }
        for (size, mut users) in swap {
            if !names().any(|it| matches!(it, CacheName::Swap { mebibytes } if is_size(mebibytes, size))) {
                users.sort_unstable();
                let reason = size_use(Code::SwapInUse, "swap", &size.to_string(), "MiB", users);
                missing.entry(format!("swap_{size}").into()).or_default().extend(reason);
            }
        }
        for (size, mut users) in ephemeral {
            if !names().any(|it| matches!(it, CacheName::Ephemeral { gibibytes } if is_size(gibibytes, size)))
            {
                users.sort_unstable();
                let reason =
                    size_use(Code::EphemeralInUse, "an ephemeral disk", &size.to_string(), "GiB", users);
                missing.entry(format!("ephemeral_{size}_*").into()).or_default().extend(reason);
            }
        }
    }
}

impl Reason<'_> {
    fn plain(code: Code, text: String) -> Self {
        Self { code, text, images: Vec::new(), instances: Vec::new(), disks: Vec::new() }
    }
}

fn size_use<'a>(
    code: Code,
    what: &str,
    size: &str,
    unit: &str,
    instances: Vec<&'a str>,
) -> Option<Reason<'a>> {
    (!instances.is_empty()).then(|| {
        let text = format!("{what} of {size} {unit} for {}", several("instance", &instances));
        Reason { code, text, images: Vec::new(), instances, disks: Vec::new() }
    })
}

fn not_a_cache_file(file: &CacheFile) -> String {
    match &file.stat {
        Err(error) => format!("cannot be examined: {error}"),
        Ok(_) if !file.is_file => "a directory, special file or broken link: never touched".into(),
        Ok(_) => "not a name that nova gives to files of its cache: never touched".into(),
    }
}

/// `instance a`, `3 instances: a, b, c`, `9 instances: a, b, c and 6 more`.
fn several(what: &str, items: &[impl fmt::Display]) -> String {
    const SHOWN: usize = 3;
    if let [item] = items {
        return format!("{what} {item}");
    }
    let shown: Vec<String> = items.iter().take(SHOWN).map(ToString::to_string).collect();
    let mut text = format!("{} {what}s: {}", items.len(), shown.join(", "));
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

#[cfg(test)]
pub(crate) mod tests;
