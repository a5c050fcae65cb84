//! What disks name: by base name, as nova matches, and by device and inode, as QEMU would find the file.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

use super::users::{Role, Users};
use super::{Policy, Unreadable};
use crate::evidence::{Disk, Evidence, Identity, Target, base_name};
use crate::inventory::{DomainDisk, Inventory};

const REPAIR: &str = "repair it, or remove it and its directory if nobody needs the instance, or, if it is a raw disk, list \
                      it as raw in the disk.info beside it";
const READABLE: &str = "run this as root, or mount or repair the filesystem that it is on or leads to";
const MOUNT: &str = "mount or repair the filesystem that it is on";
const UNDEFINE: &str = "mount the filesystem that it is on, or undefine the domain, or leave its XML out";

/// Who names a file.
#[derive(Default)]
pub struct Named<'a> {
    pub disks: Vec<&'a Path>,
    pub unlisted_disks: Vec<&'a Path>,
    /// Indices of the counted instances in whose directories those disks lie.
    pub instances: BTreeSet<usize>,
    /// Whether it was named as a file of this cache directory, or of one of that name that cannot be read.
    pub is_of_cache: bool,
}

impl Named<'_> {
    pub fn is_empty(&self) -> bool {
        self.disks.is_empty() && self.unlisted_disks.is_empty()
    }
}

pub struct Names<'a> {
    pub by_name: HashMap<&'a OsStr, Named<'a>>,
    /// Of cache files only.
    pub by_identity: HashMap<Identity, Named<'a>>,
    /// The names that the cache has for each of its files.
    pub cache_names: HashMap<Identity, Vec<&'a OsStr>>,
    unreadable: Vec<Unreadable>,
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
        let mut names = Self {
            by_name: HashMap::new(),
            by_identity: HashMap::new(),
            cache_names: HashMap::new(),
            unreadable: Vec::new(),
        };
        for (name, file) in evidence.cache_files() {
            if let Ok(stat) = &file.stat {
                names.cache_names.entry(stat.identity).or_default().push(name);
            }
        }
        names.of_directories(evidence, users, policy);
        for disk in inventory.iter().flat_map(|it| &it.domain_disks) {
            names.of_domain(evidence, disk);
        }
        for (_, file) in evidence.cache_files() {
            // nova refuses images with a backing file, so one that has it is reported, and what it names is kept; but
            // whatever is wrong with it cannot hide a disk.
            let by = By { disk: &file.path, is_unlisted: false, owners: &[], blocks: false };
            names.follow(evidence, &file.references, by);
        }
        names
    }

    /// Everything that could not be read, sorted.
    pub fn unreadable(&self, evidence: &Evidence) -> Vec<Unreadable> {
        let mut unreadable = self.unreadable.clone();
        if let Some(why) = &evidence.never_settled {
            unreadable.push(Unreadable {
                path: evidence.layout.instances_path.clone(),
                error: why.clone(),
                blocks: true,
                advice: "run this again when fewer instances are being moved",
            });
        }
        for (_, file) in evidence.cache_files() {
            if let Some(problem) = &file.problem {
                unreadable.push(Unreadable {
                    path: file.path.clone(),
                    error: problem.clone(),
                    blocks: false,
                    advice: REPAIR,
                });
            }
        }
        // As texts, as a program would sort them: paths compare part by part, and give "a/x" before "a-1/x".
        unreadable.sort_by(|a, b| {
            (a.path.as_os_str(), &a.error, !a.blocks).cmp(&(b.path.as_os_str(), &b.error, !b.blocks))
        });
        unreadable.dedup_by(|later, first| (&later.path, &later.error) == (&first.path, &first.error));
        unreadable
    }

    fn of_directories(&mut self, evidence: &'a Evidence, users: &Users<'a>, policy: &Policy) {
        for (path, directory) in &evidence.directories {
            let role = users.role(path);
            let is_left_out = role == Role::Unlisted && policy.ignore_unlisted;
            if let Some(problem) = &directory.problem
                // mkfs makes it, only root can read it, and nova never looks into it.
                && path != "lost+found"
            {
                let full_path = evidence.layout.instances_path.join(path);
                self.note(&full_path, problem, !is_left_out, READABLE);
            }
            let owners = users.owners(path);
            for disk in &directory.disks {
                if let Some(problem) = &disk.problem {
                    let advice = if disk.identity.is_some() { REPAIR } else { READABLE };
                    self.note(&disk.path, problem, !is_left_out && !disk.is_raw, advice);
                }
                if !is_left_out {
                    let by =
                        By { disk: &disk.path, is_unlisted: role == Role::Unlisted, owners, blocks: true };
                    self.name_identity(disk.identity, by);
                    self.of_disk(evidence, disk, by);
                }
            }
        }
    }

    fn of_disk(&mut self, evidence: &'a Evidence, disk: &'a Disk, by: By<'a, '_>) {
        if disk.is_raw {
            // What it seems to name is kept, but not followed: its content is the guest's.
            disk.references.iter().for_each(|it| self.name(evidence, it, by));
        } else {
            self.follow(evidence, &disk.references, by);
        }
    }

    fn of_domain(&mut self, evidence: &'a Evidence, domain_disk: &'a DomainDisk) {
        let DomainDisk { path, is_volume, domain } = domain_disk;
        let by = By { disk: path, is_unlisted: false, owners: &[], blocks: true };
        // It may be a cache file itself.
        self.name(evidence, path, by);
        match evidence.references.get(path) {
            Some(Target::Disk(disk)) => {
                if let Some(problem) = &disk.problem {
                    self.note(path, problem, !is_volume && !disk.is_raw, UNDEFINE);
                }
                self.name_identity(disk.identity, by);
                self.of_disk(evidence, disk, by);
            }
            Some(target @ Target::Missing { .. }) => {
                let error = format!("domain {domain} has it as a disk, and it does not exist");
                self.note(path, &error, !is_volume && !is_known_to_be_gone(evidence, path), UNDEFINE);
                self.follow(evidence, target.references(), by);
            }
            Some(Target::NotADisk) | None => {}
        }
    }

    /// Names these files, and those that stand behind them.
    fn follow(&mut self, evidence: &'a Evidence, references: &'a [std::path::PathBuf], by: By<'a, '_>) {
        let mut seen: HashSet<&Path> = HashSet::new();
        let mut next = vec![(references, by.disk)];
        while let Some((references, named_in)) = next.pop() {
            for reference in references {
                self.name(evidence, reference, by);
                if named_in != by.disk {
                    self.name(evidence, reference, By { disk: named_in, ..by });
                }
                if let Some(target) = evidence.references.get(reference)
                    && seen.insert(reference)
                {
                    self.name_identity(target.identity(), by);
                    if by.blocks {
                        self.check_target(evidence, reference, target);
                    }
                    let is_raw = matches!(target, Target::Disk(Disk { is_raw: true, .. }));
                    if !is_raw {
                        next.push((target.references(), reference));
                    }
                }
            }
        }
    }

    fn name(&mut self, evidence: &'a Evidence, reference: &'a Path, by: By<'a, '_>) {
        let Some(base_name) = base_name(reference) else { return };
        let named = self.by_name.entry(base_name).or_default();
        // Asked until it is so, for a file may be named by every disk.
        named.is_of_cache = named.is_of_cache
            || is_named_as_cache(evidence, reference)
                && !matches!(
                    evidence.references.get(reference),
                    Some(Target::Disk(Disk { problem: None, .. }))
                );
        add(named, by);
    }

    fn name_identity(&mut self, identity: Option<Identity>, by: By<'a, '_>) {
        if let Some(identity) = identity
            && self.cache_names.contains_key(&identity)
        {
            add(self.by_identity.entry(identity).or_default(), by);
        }
    }

    /// Notes a file that a disk stands on and that cannot be read, unless that cannot hide the name of a cache file.
    fn check_target(&mut self, evidence: &Evidence, path: &Path, target: &Target) {
        // In a cache directory that has moved: its base name is what counts.
        if is_named_as_cache(evidence, path) {
            return;
        }
        match target {
            Target::Disk(Disk { problem: Some(problem), is_raw: false, .. }) => {
                self.note(path, problem, true, REPAIR);
            }
            // In the instances path nothing hides behind it: that instance is broken.
            Target::Missing { .. } if evidence.below_instances_path(path).is_none() => {
                self.note(path, "a disk has it as its backing file, and it does not exist", true, MOUNT);
            }
            _ => {}
        }
    }

    fn note(&mut self, path: &Path, error: &str, blocks: bool, advice: &'static str) {
        self.unreadable.push(Unreadable { path: path.to_owned(), error: error.to_owned(), blocks, advice });
    }
}

fn add<'a>(named: &mut Named<'a>, by: By<'a, '_>) {
    named.instances.extend(by.owners);
    let disks = if by.is_unlisted { &mut named.unlisted_disks } else { &mut named.disks };
    if disks.last() != Some(&by.disk) {
        disks.push(by.disk);
    }
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
    let listed = |directory: &OsStr| evidence.directories.get(directory).filter(|it| it.problem.is_none());
    if parent.as_os_str() == evidence.layout.subdirectory_name {
        return evidence.cache.is_some();
    }
    let mut resized = OsString::from(parent);
    resized.push("_resize");
    listed(parent.as_os_str()).is_some()
        || listed(&resized).is_some_and(|it| it.disks.iter().any(|disk| base_name(&disk.path) == Some(name)))
}
