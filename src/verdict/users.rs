//! Who uses what: the instances that count for this cache, their directories and their images.

use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap, HashSet};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;

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
    /// Every directory, by its path.
    pub places: Vec<Place<'a>>,
    places_by_path: HashMap<&'a OsStr, usize>,
    /// Used images by the fingerprint of their id.
    pub images: BTreeMap<String, ImageUse<'a>>,
}

/// A directory and whose it is.
pub struct Place<'a> {
    /// Below the instances path.
    pub path: &'a OsStr,
    pub directory: &'a Directory,
    pub role: Role,
    /// The instances that have it by its own name, as indices into `counted`.
    owners: Vec<usize>,
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
    fn short(name: &str) -> &str {
        match name.split_once('.') {
            Some((short, _)) if name.parse::<IpAddr>().is_err() => short,
            _ => name,
        }
    }
    a.eq_ignore_ascii_case(b) || short(a).eq_ignore_ascii_case(short(b))
}

impl<'a> Place<'a> {
    fn new(path: &'a OsStr, directory: &'a Directory) -> Self {
        Self { path, directory, role: Role::Neither, owners: Vec::new() }
    }
}

impl<'a> Users<'a> {
    pub fn count(evidence: &'a Evidence, inventory: Option<&'a Inventory>, policy: &Policy) -> Self {
        let mut users = Self {
            subdirectory_name: &evidence.layout.subdirectory_name,
            has_inventory: inventory.is_some(),
            counted: Vec::new(),
            places: evidence.directories.iter().map(|(path, it)| Place::new(path, it)).collect(),
            places_by_path: evidence.directories.keys().zip(0..).map(|(path, at)| (&**path, at)).collect(),
            images: BTreeMap::new(),
        };
        let resized = evidence.directories.keys().filter_map(|it| it.as_bytes().strip_suffix(RESIZED));
        let resized: HashSet<&[u8]> = resized.collect();
        let instances = || inventory.iter().flat_map(|it| &it.instances);
        let any_names_a_host = instances().any(|it| it.hosts().next().is_some());
        for instance in instances() {
            let index = users.counted.len();
            let mut directories = Vec::new();
            each_listed_name(instance, &resized, |name| {
                if let Some(at) = users.places_by_path.get(name)
                    && let place = &mut users.places[*at]
                    && place.owners.last() != Some(&index)
                {
                    place.owners.push(index);
                    directories.push(place.directory);
                }
            });
            let is_here = instance.hosts().any(|it| is_same_host(it, &policy.host));
            if !directories.is_empty() || counts_without_directory(instance, is_here, evidence) {
                users.counted.push(Counted {
                    instance,
                    id: instance.id(),
                    is_local: is_here || instance.hosts().next().is_none(),
                    is_expected: (is_here || !any_names_a_host) && has_settled_here(instance),
                    directories,
                });
            }
        }
        for at in 0..users.places.len() {
            users.places[at].role = users.role(&users.places[at]);
        }
        users.find_images();
        users
    }

    fn find_images(&mut self) {
        let mut images: HashMap<&'a str, ImageUse<'a>> = HashMap::new();
        for (index, Counted { instance, .. }) in self.counted.iter().enumerate() {
            let image_refs = instance.image_refs().map(|id| (Code::ImageInUse, id));
            let kernels = instance.kernel_ids().map(|id| (Code::KernelInUse, id));
            let ramdisks = instance.ramdisk_ids().map(|id| (Code::RamdiskInUse, id));
            for (code, id) in image_refs.chain(kernels).chain(ramdisks) {
                let image = images.entry(id).or_insert_with(|| ImageUse { id, ..ImageUse::default() });
                image.by_code.entry(code).or_default().push(index);
            }
        }
        self.images = images.into_iter().map(|(id, image)| (cache_file_name(id), image)).collect();
    }

    fn role(&self, place: &Place<'a>) -> Role {
        let top = Evidence::top_name(place.path);
        let is_cache = top.as_encoded_bytes().starts_with(self.subdirectory_name.as_encoded_bytes());
        if is_cache || top.is_empty() || top == "lost+found" {
            Role::Neither
        } else if !self.has_inventory || !self.owners(place).is_empty() {
            Role::Listed
        } else {
            Role::Unlisted
        }
    }

    /// The instances that own a directory, or the one that it is in.
    pub fn owners<'b>(&'b self, place: &'b Place<'a>) -> &'b [usize] {
        let top = Evidence::top_name(place.path);
        if top.len() == place.path.len() {
            return &place.owners;
        }
        self.places_by_path.get(top).map_or(&[], |at| &self.places[*at].owners)
    }

    /// The instances that must have a directory here.
    pub fn expected(&self) -> impl Iterator<Item = &Counted<'a>> {
        self.counted.iter().filter(|it| it.is_expected)
    }

    pub fn directories_with_disks(&self) -> usize {
        let has_disk = |it: &&Place<'_>| {
            !it.directory.disks.is_empty()
                && it.role != Role::Neither
                && it.path != "snapshots"
                && !it.path.as_bytes().contains(&b'/')
        };
        self.places.iter().filter(has_disk).count()
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

/// What nova adds to the name of a directory during a resize.
const RESIZED: &[u8] = b"_resize";

/// The names that directories of an instance have: its uuid and its name, and these and `_resize`, whatever its state,
/// for not every source tells states (nova's `get_instance_path` and `_resize` in nova/virt/libvirt/driver.py). Those
/// with `_resize` only where there is such a directory.
fn each_listed_name(instance: &Instance, resized: &HashSet<&[u8]>, mut with: impl FnMut(&OsStr)) {
    let mut of = |name: &str| {
        with(OsStr::new(name));
        if resized.contains(name.as_bytes()) {
            with(OsStr::from_bytes(&[name.as_bytes(), RESIZED].concat()));
        }
    };
    for name in instance.directory_names() {
        of(name);
        if name.bytes().any(|byte| byte.is_ascii_uppercase()) {
            of(&name.to_ascii_lowercase());
        }
    }
}
