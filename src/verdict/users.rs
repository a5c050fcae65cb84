//! Who uses what: the instances that count for this cache, their directories and their images.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::net::IpAddr;

use super::{Code, Policy, Reason, several};
use crate::cache_name::cache_file_name;
use crate::evidence::{Directory, Evidence};
use crate::inventory::{Instance, Inventory};

/// Whose a directory is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// That of a counted instance; of anybody, where there is no inventory.
    Listed,
    /// Of none: orphaned, evacuated, soft-deleted.
    Unlisted,
    /// Not an instance's at all: the instances path itself, another host's cache.
    Neither,
}

pub struct Users<'a> {
    subdirectory_name: &'a OsStr,
    has_inventory: bool,
    pub counted: Vec<Counted<'a>>,
    /// Directories by name and the instances that own them, as indices into `counted`.
    owners: HashMap<&'a OsStr, Vec<usize>>,
    /// Used images by the fingerprint of their id.
    pub images: BTreeMap<String, ImageUse<'a>>,
}

pub struct Counted<'a> {
    pub instance: &'a Instance,
    pub id: &'a str,
    /// On this host, or on none: its files would be fetched or made again here.
    pub is_local: bool,
    /// It must have a directory here.
    is_expected: bool,
    pub directories: Vec<&'a Directory>,
}

#[derive(Default)]
pub struct ImageUse<'a> {
    pub id: &'a str,
    /// Indices into the counted instances, for each way to use an image.
    pub by_code: BTreeMap<Code, Vec<usize>>,
    /// See `Judge::disks_show_copies`: asked for each copy, and there may be many.
    pub disks_show_copies: OnceCell<bool>,
}

/// Whether two host names are the same: clients from 2023 on print the hypervisor's full name where nova has the short
/// one. Addresses have no short names.
pub fn is_same_host(a: &str, b: &str) -> bool {
    let short = |name: &str| match name.parse::<IpAddr>() {
        Ok(_) => name.to_ascii_lowercase(),
        Err(_) => name.split('.').next().unwrap_or_default().to_ascii_lowercase(),
    };
    short(a) == short(b)
}

impl<'a> Users<'a> {
    pub fn count(evidence: &'a Evidence, inventory: Option<&'a Inventory>, policy: &Policy) -> Self {
        let mut users = Self {
            subdirectory_name: &evidence.layout.subdirectory_name,
            has_inventory: inventory.is_some(),
            counted: Vec::new(),
            owners: HashMap::new(),
            images: BTreeMap::new(),
        };
        let instances = || inventory.iter().flat_map(|it| &it.instances);
        let any_names_a_host = instances().any(|it| it.hosts().next().is_some());
        for instance in instances() {
            let (names, directories): (Vec<_>, Vec<_>) = listed_names(instance)
                .iter()
                .filter_map(|name| evidence.directories.get_key_value(OsStr::new(name)))
                .unzip();
            let is_here = instance.hosts().any(|it| is_same_host(it, &policy.host));
            if !directories.is_empty() || counts_without_directory(instance, is_here, evidence) {
                for name in names {
                    users.owners.entry(name).or_default().push(users.counted.len());
                }
                users.counted.push(Counted {
                    instance,
                    id: instance.id(),
                    is_local: is_here || instance.hosts().next().is_none(),
                    is_expected: (is_here || !any_names_a_host) && has_settled_here(instance),
                    directories,
                });
            }
        }
        users.find_images();
        users
    }

    fn find_images(&mut self) {
        // An image id is hashed once, not once for each instance.
        let mut fingerprints: HashMap<&str, String> = HashMap::new();
        for (index, Counted { instance, .. }) in self.counted.iter().enumerate() {
            let image_refs = instance.image_refs().map(|id| (Code::ImageInUse, id));
            let kernels = instance.kernel_ids().map(|id| (Code::KernelInUse, id));
            let ramdisks = instance.ramdisk_ids().map(|id| (Code::RamdiskInUse, id));
            for (code, id) in image_refs.chain(kernels).chain(ramdisks) {
                let fingerprint = fingerprints.entry(id).or_insert_with(|| cache_file_name(id));
                if !self.images.contains_key(fingerprint) {
                    self.images.insert(fingerprint.clone(), ImageUse { id, ..ImageUse::default() });
                }
                if let Some(image) = self.images.get_mut(fingerprint) {
                    image.by_code.entry(code).or_default().push(index);
                }
            }
        }
    }

    /// Whose a directory is, by its path below the instances path.
    pub fn role(&self, directory: &OsStr) -> Role {
        let top = Evidence::top_name(directory);
        let is_cache = top.as_encoded_bytes().starts_with(self.subdirectory_name.as_encoded_bytes());
        if is_cache || top.is_empty() || top == "lost+found" {
            Role::Neither
        } else if !self.has_inventory || self.owners.contains_key(top) {
            Role::Listed
        } else {
            Role::Unlisted
        }
    }

    /// The instances that own a directory.
    pub fn owners(&self, directory: &OsStr) -> &[usize] {
        self.owners.get(Evidence::top_name(directory)).map_or(&[], |it| it)
    }

    /// The instances that must have a directory here.
    pub fn expected(&self) -> impl Iterator<Item = &Counted<'a>> {
        self.counted.iter().filter(|it| it.is_expected)
    }

    pub fn directories_with_disks(&self, evidence: &Evidence) -> usize {
        let is_one_name = |path: &OsStr| !path.as_encoded_bytes().contains(&b'/');
        evidence
            .directories
            .iter()
            .filter(|(path, directory)| {
                is_one_name(path)
                    && *path != "snapshots"
                    && !directory.disks.is_empty()
                    && self.role(path) != Role::Neither
            })
            .count()
    }

    /// The ids of instances, sorted.
    pub fn ids(&self, indices: impl IntoIterator<Item = usize>) -> Vec<&'a str> {
        let mut ids: Vec<&str> = indices.into_iter().map(|index| self.counted[index].id).collect();
        ids.sort_unstable();
        ids.dedup();
        ids
    }

    pub fn ids_where(&self, test: impl Fn(&Counted<'a>) -> bool) -> Vec<&'a str> {
        self.ids((0..self.counted.len()).filter(|index| test(&self.counted[*index])))
    }

    pub fn image_use(&self, code: Code, image: &'a str, users: &[usize]) -> Reason<'a> {
        let instances = self.ids(users.iter().copied());
        let what = match code {
            Code::KernelInUse => "the kernel",
            Code::RamdiskInUse => "the ramdisk",
            _ => "the image",
        };
        let text = format!("{image} is {what} of {}", several("instance", &instances));
        Reason { code, text, images: vec![image], instances, disks: Vec::new() }
    }
}

/// Rule 1 of the evidence, but for the instance's directory.
fn counts_without_directory(instance: &Instance, is_here: bool, evidence: &Evidence) -> bool {
    if instance.hosts().next().is_none() {
        let mut states = instance.vm_states().peekable();
        return states.peek().is_none()
            || !states.all(|state| matches!(state, "shelved_offloaded" | "error"));
    }
    is_here
        || evidence.cache_is_shared_apart
        || evidence.compute_nodes.as_ref().map_or(true, |nodes| {
            instance.hosts().any(|host| nodes.iter().any(|node| is_same_host(host, node)))
        })
}

/// Whether an instance of this host has a directory by all that its source tells: it was started from an image, and
/// nothing is being done with it.
fn has_settled_here(instance: &Instance) -> bool {
    instance.image_refs().next().is_some()
        && instance.task_states().next().is_none()
        && !instance.vm_states().any(|state| matches!(state, "shelved_offloaded" | "error"))
}

/// The names that directories of an instance have: its uuid and its name, and these and `_resize`, whatever its state,
/// for not every source tells states (nova's `get_instance_path` and `_resize` in nova/virt/libvirt/driver.py).
fn listed_names(instance: &Instance) -> Vec<String> {
    let mut names = Vec::new();
    for name in instance.directory_names() {
        for name in [name.to_owned(), name.to_ascii_lowercase()] {
            names.push(format!("{name}_resize"));
            names.push(name);
        }
    }
    names.sort_unstable();
    names.dedup();
    names
}
