//! What disks name: by base name, as nova matches, and by device and inode, as QEMU would find the file.

use std::collections::{HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use super::users::{Place, Users};
use super::{Code, Policy, Reason, Unreadable, several};
use crate::evidence::{Disk, Evidence, Identity, base_name};
use crate::inventory::{DomainDisk, Inventory};

const REPAIR: &str = "repair it, or remove it and its directory if nobody needs them, or, if it is a raw disk, list \
                      it as raw in the disk.info beside it";
const READABLE: &str = "run this as root, or mount or repair the filesystem that it is on or leads to";
const CORRECT: &str = "repair it, or correct the disk.info or the domain";
const MOUNT: &str = "mount or repair the filesystem that it is on";
const UNDEFINE: &str = "mount the filesystem that it is on, or undefine the domain, or leave its XML out";
const LATER: &str = "run this again when fewer instances are being moved";

/// Who names a file.
#[derive(Default)]
pub struct Named<'a> {
    disks: Vec<&'a Path>,
    unlisted_disks: Vec<&'a Path>,
    /// Indices of the counted instances in whose directories those disks lie.
    instances: Vec<usize>,
    /// Whether it was named as a file of this cache directory, or of one of that name that cannot be read.
    pub is_of_cache: bool,
}

pub struct Names<'a> {
    evidence: &'a Evidence,
    pub by_name: HashMap<&'a OsStr, Named<'a>>,
    /// The files of the cache: the names that each has there, and who leads to it.
    pub by_identity: HashMap<Identity, (Vec<&'a OsStr>, Named<'a>)>,
    /// Everything that could not be read, sorted.
    pub unreadable: Vec<Unreadable>,
}

/// A disk that names files, and whose it is.
#[derive(Clone, Copy)]
struct By<'a, 'b> {
    disk: &'a Path,
    is_unlisted: bool,
    owners: &'b [usize],
    /// Whether what cannot be read on the way makes the evidence incomplete.
    blocks: bool,
}

impl<'a> Names<'a> {
    pub fn find(
        evidence: &'a Evidence,
        inventory: Option<&'a Inventory>,
        users: &Users<'a>,
        policy: &Policy,
    ) -> Self {
        let (by_name, by_identity) = (HashMap::new(), HashMap::new());
        let mut names = Self { evidence, by_name, by_identity, unreadable: Vec::new() };
        for (name, file) in evidence.cache_files() {
            if let Some(stat) = file.stat {
                names.by_identity.entry(stat.identity).or_default().0.push(name);
            }
        }
        names.of_directories(users, policy);
        for disk in inventory.iter().flat_map(|it| &it.domain_disks) {
            names.of_domain(disk);
        }
        for (_, file) in evidence.cache_files() {
            // nova refuses images with a backing file, so whatever is wrong with one cannot hide a disk. What it names is
            // kept; and behind one that a disk tells to be no raw image, whose content is a guest's, all must be read.
            let blocks = file.is_told_image;
            names.follow(&file.references, By { disk: &file.path, is_unlisted: false, owners: &[], blocks });
            let is_link = file.link.is_some();
            let advice = if is_link { READABLE } else { REPAIR };
            names.note(&file.path, file.problem.as_deref(), blocks && is_link, advice);
        }
        if !evidence.has_settled {
            let error = format!("directories kept changing while they were read {} times", evidence.rounds);
            names.note(&evidence.layout.instances_path, Some(&error), true, LATER);
        }
        // As texts, as a program would sort them: paths compare part by part, and give "a/x" before "a-1/x".
        names.unreadable.sort_by(|a, b| {
            (a.path.as_os_str(), &a.error, !a.blocks).cmp(&(b.path.as_os_str(), &b.error, !b.blocks))
        });
        // Of all the disks that name a missing file one is enough.
        names.unreadable.dedup_by(|later, first| {
            later.path == first.path
                && (later.error == first.error || later.advice == MOUNT && first.advice == MOUNT)
        });
        names
    }

    fn of_directories(&mut self, users: &Users<'a>, policy: &Policy) {
        for Place { path, directory, owners, is_unlisted } in users.places() {
            let counts = !(is_unlisted && policy.ignore_unlisted);
            // mkfs makes it, only root can read it, and nova never looks into it.
            if base_name(Path::new(path)) != Some(OsStr::new("lost+found")) && directory.problem.is_some() {
                let path = self.evidence.layout.instances_path.join(path);
                self.note(&path, directory.problem.as_deref(), counts, READABLE);
            }
            for disk in &directory.disks {
                self.note(&disk.path, disk.problem.as_deref(), counts && !disk.is_raw, advice(disk));
                if counts {
                    self.of_disk(disk, By { disk: &disk.path, is_unlisted, owners, blocks: true });
                }
            }
        }
    }

    fn of_domain(&mut self, DomainDisk { path, is_volume, may_be_raw, domain }: &'a DomainDisk) {
        let by = By { disk: path, is_unlisted: false, owners: &[], blocks: true };
        // It may be a cache file itself.
        self.name(path, by);
        let evidence = self.evidence;
        let Some(disk) = evidence.references.get(path) else { return };
        let is_raw = disk.is_raw && *may_be_raw;
        self.note(path, disk.problem.as_deref(), !is_volume && !is_raw, UNDEFINE);
        if disk.is_missing {
            let error = format!("domain {domain} has it as a disk, and it does not exist");
            let blocks = !is_volume && !is_known_to_be_gone(self.evidence, path);
            self.note(path, Some(&error), blocks, UNDEFINE);
        }
        // What is wrong with a file of this cache is noted with the cache.
        let is_of_cache = disk.identity.is_some_and(|it| self.by_identity.contains_key(&it));
        let has_lost_header = !disk.has_header && !disk.is_missing && disk.problem.is_none() && !is_of_cache;
        if has_lost_header && !may_be_raw {
            let error = "has no header, and is of a format that has one by its domain";
            self.note(path, Some(error), !is_volume, CORRECT);
        }
        self.of_disk(disk, by);
        if disk.is_raw && !may_be_raw {
            // QEMU goes by the domain. What was not read, since disk.info calls the disk raw, may stand on the cache.
            let is_known = |it: &PathBuf| {
                evidence.references.contains_key(it) || evidence.plain_cache_file(it).is_some()
            };
            let is_unread = !disk.references.iter().all(is_known);
            let error = "raw by the disk.info beside it, and of another format by its domain";
            self.note(path, is_unread.then_some(error), !is_volume, CORRECT);
            self.follow(&disk.references, by);
        }
    }

    fn of_disk(&mut self, disk: &'a Disk, by: By<'a, '_>) {
        self.name_identity(disk.identity, by);
        if disk.is_raw {
            // What it seems to name is kept, but not followed: its content is the guest's.
            disk.references.iter().for_each(|it| self.name(it, by));
        } else {
            self.follow(&disk.references, by);
        }
    }

    /// Names these files, and those that stand behind them.
    fn follow(&mut self, references: &'a [PathBuf], by: By<'a, '_>) {
        let mut seen: HashSet<&Path> = HashSet::new();
        let mut next = Vec::new();
        let mut step = Some((references, by.disk));
        while let Some((references, named_in)) = step {
            for reference in references {
                self.name(reference, by);
                if !std::ptr::eq(named_in, by.disk) {
                    self.name(reference, By { disk: named_in, ..by });
                }
                if let Some(disk) = self.evidence.references.get(reference)
                    && seen.insert(reference)
                {
                    self.name_identity(disk.identity, by);
                    if by.blocks {
                        self.check_backing_file(reference, disk, by.disk);
                    }
                    if !disk.is_raw {
                        next.push((&disk.references[..], reference.as_path()));
                    }
                }
            }
            step = next.pop();
        }
    }

    fn name(&mut self, reference: &'a Path, by: By<'a, '_>) {
        let Some(base_name) = base_name(reference) else { return };
        let named = self.by_name.entry(base_name).or_default();
        // Asked until it is so, for a file may be named by every disk.
        named.is_of_cache = named.is_of_cache
            || is_named_as_cache(self.evidence, reference)
                && self.evidence.references.get(reference).is_none_or(|it| it.identity.is_none());
        named.add(by);
    }

    fn name_identity(&mut self, identity: Option<Identity>, by: By<'a, '_>) {
        if let Some((_, named)) = identity.and_then(|it| self.by_identity.get_mut(&it)) {
            named.add(by);
        }
    }

    /// Notes a file that a disk stands on and that cannot be read, unless that cannot hide the name of a cache file.
    fn check_backing_file(&mut self, path: &Path, disk: &Disk, named_in: &Path) {
        // In a cache directory that has moved, and not to be opened: its base name is what counts. What is wrong with a
        // file of this cache is noted with the cache.
        let is_of_this_cache = |it| self.by_identity.contains_key(&it);
        if is_named_as_cache(self.evidence, path) && disk.identity.is_none_or(is_of_this_cache) {
            return;
        }
        if !disk.is_raw {
            self.note(path, disk.problem.as_deref(), true, advice(disk));
        }
        if disk.is_missing {
            // In the instances path nothing hides behind it, and that instance is broken; but a directory without any
            // file may be one where nothing is mounted.
            let below = self.evidence.below_instances_path(path);
            let directory =
                below.as_ref().and_then(|it| self.evidence.directories.get(it.parent()?.as_os_str()));
            let blocks = below.is_none() || directory.is_some_and(|it| it.is_empty);
            let error = format!("backing file of disk {}, and it does not exist", named_in.display());
            self.note(path, Some(&error), blocks, MOUNT);
        }
    }

    fn note(&mut self, path: &Path, error: Option<&str>, blocks: bool, advice: &'static str) {
        self.unreadable.extend(error.map(|error| Unreadable {
            path: path.to_owned(),
            error: error.to_owned(),
            blocks,
            advice,
        }));
    }
}

impl<'a> Named<'a> {
    fn add(&mut self, by: By<'a, '_>) {
        self.instances.extend(by.owners);
        let disks = if by.is_unlisted { &mut self.unlisted_disks } else { &mut self.disks };
        if !disks.last().is_some_and(|it| std::ptr::eq(*it, by.disk)) {
            disks.push(by.disk);
        }
    }

    /// That disks name it.
    pub fn reasons(&self, users: &Users<'a>) -> impl Iterator<Item = Reason<'a>> {
        let instances = users.ids(&self.instances);
        let listed = named_by(Code::BackingFile, self.disks.clone(), instances);
        let unlisted = named_by(Code::BackingFileUnlisted, self.unlisted_disks.clone(), Vec::new());
        listed.into_iter().chain(unlisted)
    }

    /// That disks lead to it by another name, but for those that `by_name` has; `None` where none does.
    pub fn same_file(&self, users: &Users<'a>, by_name: Option<&Self>) -> Option<Reason<'a>> {
        let mut disks = [&self.disks[..], &self.unlisted_disks].concat();
        if disks.is_empty() {
            return None;
        }
        let known = by_name.into_iter().flat_map(|it| it.disks.iter().chain(&it.unlisted_disks));
        let known_disks: HashSet<&OsStr> = known.map(|it| it.as_os_str()).collect();
        disks.retain(|it| !known_disks.contains(it.as_os_str()));
        let known_instances = by_name.map_or(&[][..], |it| &it.instances);
        let instances: Vec<usize> =
            self.instances.iter().filter(|it| !known_instances.contains(it)).copied().collect();
        named_by(Code::SameFile, disks, users.ids(&instances))
    }
}

fn named_by<'a>(code: Code, mut disks: Vec<&'a Path>, instances: Vec<&'a str>) -> Option<Reason<'a>> {
    // Directories are read in their order.
    if !disks.is_sorted_by(|a, b| a.as_os_str() < b.as_os_str()) {
        disks.sort_unstable_by(|a, b| a.as_os_str().cmp(b.as_os_str()));
        disks.dedup_by_key(|it| it.as_os_str());
    }
    let by = several("disk", &disks.iter().map(|it| it.display()).collect::<Vec<_>>());
    let text = match (code, disks.len()) {
        (_, 0) => return None,
        (Code::SameFile, _) => format!("used under another name by {by}"),
        (Code::BackingFile, _) => format!("backing file of {by}"),
        (_, 1) => format!("backing file of {by}, in a directory of no instance in the inventory"),
        _ => format!("backing file of {by}, in directories of no instance in the inventory"),
    };
    Some(Reason { instances, disks, ..Reason::new(code, text) })
}

const fn advice(disk: &Disk) -> &'static str {
    if disk.identity.is_some() { REPAIR } else { READABLE }
}

/// Whether a file lies in a directory of the cache directory's name.
fn is_named_as_cache(evidence: &Evidence, file: &Path) -> bool {
    file.parent().and_then(Path::file_name) == Some(&evidence.layout.subdirectory_name)
}

/// Whether a missing disk of a domain hides nothing: its directory was listed, so that it was deleted there; or nova has
/// renamed the directory for a resize, and the disk was read there.
fn is_known_to_be_gone(evidence: &Evidence, path: &Path) -> bool {
    let Some(below) = evidence.below_instances_path(path) else { return false };
    let Some((parent, name)) = below.parent().zip(below.file_name()) else { return false };
    if parent.as_os_str() == evidence.layout.subdirectory_name {
        return evidence.cache.is_some();
    }
    let listed = |directory: &OsStr| evidence.directories.get(directory).filter(|it| it.problem.is_none());
    let mut resized = OsString::from(parent);
    resized.push("_resize");
    listed(parent.as_os_str()).is_some()
        || listed(&resized).is_some_and(|it| it.disks.iter().any(|disk| base_name(&disk.path) == Some(name)))
}
