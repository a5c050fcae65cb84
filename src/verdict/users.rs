//! Who uses what: the instances that count for this cache, their directories, and the files that they share.

use std::borrow::Cow;
use std::cell::OnceCell;
use std::collections::{BTreeMap, HashMap};
use std::ffi::OsStr;
use std::net::IpAddr;
use std::os::unix::ffi::OsStrExt as _;

use super::{Code, Policy, Reason, several};
use crate::cache_name::{CacheName, Kind, cache_file_name};
use crate::evidence::{Directory, Evidence};
use crate::inventory::{Instance, Inventory, Row, spellings};

pub struct Users<'a> {
    evidence: &'a Evidence,
    has_inventory: bool,
    pub counted: Vec<Counted<'a>>,
    /// The instances that have each directory, as indices into `counted`.
    owners: Vec<Vec<usize>>,
    /// Used images by the fingerprint of their id, in every spelling.
    pub images: BTreeMap<String, ImageUse<'a>>,
    /// The instances that have swap or an ephemeral disk of a size, as indices into `counted`.
    pub sizes: BTreeMap<(Code, u64), Vec<usize>>,
}

/// A directory and whose it is.
pub struct Place<'a, 'b> {
    /// Below the instances path.
    pub path: &'a OsStr,
    pub directory: &'a Directory,
    /// The instances that have it, as indices into `counted`.
    pub owners: &'b [usize],
    /// Of no counted instance: orphaned, evacuated, soft-deleted. None is, without an inventory.
    pub is_unlisted: bool,
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

type ImageField = fn(&Row) -> &Option<Box<str>>;

/// How an instance uses an image: the code, the field that has the image's id, and in words.
pub const IMAGE_USES: [(Code, ImageField, &str); 3] = [
    (Code::ImageInUse, |row| &row.image_ref, "the image"),
    (Code::KernelInUse, |row| &row.kernel_id, "the kernel"),
    (Code::RamdiskInUse, |row| &row.ramdisk_id, "the ramdisk"),
];

#[derive(Default)]
pub struct ImageUse<'a> {
    /// As a source spells it.
    pub id: &'a str,
    /// Indices into the counted instances, for each of `IMAGE_USES`.
    pub users: [Vec<usize>; IMAGE_USES.len()],
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

impl<'a> Users<'a> {
    pub fn count(evidence: &'a Evidence, inventory: Option<&'a Inventory>, policy: &Policy) -> Self {
        let by_name =
            || evidence.directories.iter().zip(0..).map(|((name, it), at)| (name.as_bytes(), (it, at)));
        let resized = by_name().filter_map(|(name, it)| Some((name.strip_suffix(RESIZED)?, it)));
        let by_name: [HashMap<&[u8], (&Directory, usize)>; 2] = [by_name().collect(), resized.collect()];
        let mut owners = vec![Vec::new(); evidence.directories.len()];
        let instances = || inventory.iter().flat_map(|it| &it.instances);
        let any_names_a_host = instances().any(|it| it.hosts().next().is_some());
        let mut counted: Vec<Counted<'a>> = Vec::new();
        for instance in instances() {
            let index = counted.len();
            let mut directories = Vec::new();
            for name in instance.directory_names().flat_map(spellings) {
                for (directory, at) in by_name.iter().filter_map(|it| it.get(name.as_bytes())) {
                    if owners[*at].last() != Some(&index) {
                        owners[*at].push(index);
                        directories.push(*directory);
                    }
                }
            }
            let is_here = instance.hosts().any(|it| is_same_host(it, &policy.host));
            if !directories.is_empty() || counts_without_directory(instance, is_here, evidence) {
                counted.push(Counted {
                    instance,
                    id: instance.id(),
                    is_local: is_here || instance.hosts().next().is_none(),
                    is_expected: (is_here || !any_names_a_host) && has_settled_here(instance),
                    directories,
                });
            }
        }
        let (images, sizes) = (images(&counted), sizes(&counted));
        Self { evidence, has_inventory: inventory.is_some(), counted, owners, images, sizes }
    }

    /// Every directory by its path, and whose it is.
    pub fn places(&self) -> impl Iterator<Item = Place<'a, '_>> {
        self.evidence.directories.iter().zip(&self.owners).map(|((path, directory), owners)| Place {
            path,
            directory,
            owners,
            is_unlisted: self.has_inventory && owners.is_empty() && self.may_be_instances(path),
        })
    }

    /// Not the instances path itself, nor another host's cache.
    fn may_be_instances(&self, path: &OsStr) -> bool {
        let top = Evidence::top_name(path);
        let cache = self.evidence.layout.subdirectory_name.as_bytes();
        !top.is_empty() && top != "lost+found" && !top.as_bytes().starts_with(cache)
    }

    /// The instances that must have a directory here.
    pub fn expected(&self) -> impl Iterator<Item = &Counted<'a>> {
        self.counted.iter().filter(|it| it.is_expected)
    }

    /// How many instance directories hold a disk, and how many of these are of a counted instance.
    pub fn directories_with_disks(&self) -> (usize, usize) {
        let is_instances = |path: &OsStr| {
            self.may_be_instances(path) && path != "snapshots" && !path.as_bytes().contains(&b'/')
        };
        let (mut with_disks, mut listed) = (0, 0);
        for place in self.places().filter(|it| !it.directory.disks.is_empty() && is_instances(it.path)) {
            with_disks += 1;
            listed += usize::from(!place.owners.is_empty());
        }
        (with_disks, listed)
    }

    /// The ids of instances, sorted.
    pub fn ids<'b>(&self, indices: impl IntoIterator<Item = &'b usize>) -> Vec<&'a str> {
        let mut ids: Vec<&str> = indices.into_iter().map(|index| self.counted[*index].id).collect();
        // As a rule they are in order, and each comparison fetches two of them from memory.
        if !ids.is_sorted_by(|a, b| a < b) {
            ids.sort_unstable();
            ids.dedup();
        }
        ids
    }

    pub fn local(&self, indices: &[usize], is_meant: impl Fn(&Counted<'a>) -> bool) -> Vec<usize> {
        let is_meant = |it: &&usize| self.counted[**it].is_local && is_meant(&self.counted[**it]);
        indices.iter().filter(is_meant).copied().collect()
    }

    /// That these use an image in one of the `IMAGE_USES`; `None` where there are none.
    pub fn image_use(&self, image: &'a str, which: usize, users: &[usize]) -> Option<Reason<'a>> {
        let (code, _, what) = IMAGE_USES[which];
        let instances = Some(self.ids(users)).filter(|it| !it.is_empty())?;
        let text = format!("{image} is {what} of {}", several("instance", &instances));
        Some(Reason { images: vec![image], instances, ..Reason::new(code, text) })
    }

    /// That these use swap or an ephemeral disk of a size; `None` where there are none.
    pub fn size_use(&self, (code, size): (Code, u64), users: &[usize]) -> Option<Reason<'a>> {
        let instances = Some(self.ids(users)).filter(|it| !it.is_empty())?;
        let what = match code {
            Code::SwapInUse => format!("swap of {size} MiB"),
            _ => format!("an ephemeral disk of {size} GiB"),
        };
        let text = format!("{what} for {}", several("instance", &instances));
        Some(Reason { instances, ..Reason::new(code, text) })
    }
}

fn images<'a>(counted: &[Counted<'a>]) -> BTreeMap<String, ImageUse<'a>> {
    let mut as_told: BTreeMap<&'a str, [Vec<usize>; IMAGE_USES.len()]> = BTreeMap::new();
    for (index, Counted { instance, .. }) in counted.iter().enumerate() {
        for (which, (_, field, _)) in IMAGE_USES.into_iter().enumerate() {
            for id in instance.values(|row| field(row).as_deref()) {
                as_told.entry(id).or_default()[which].push(index);
            }
        }
    }
    let mut images: HashMap<Cow<'a, str>, ImageUse<'a>> = HashMap::new();
    for (id, users) in as_told {
        for spelling in spellings(id) {
            let is_as_told = spelling == id;
            let image = images.entry(spelling).or_insert_with(|| ImageUse { id, ..ImageUse::default() });
            if is_as_told {
                image.id = id;
            }
            image.users.iter_mut().zip(&users).for_each(|(all, these)| all.extend(these));
        }
    }
    images.into_iter().map(|(id, image)| (cache_file_name(&id), image)).collect()
}

fn sizes(counted: &[Counted<'_>]) -> BTreeMap<(Code, u64), Vec<usize>> {
    let mut sizes: BTreeMap<(Code, u64), Vec<usize>> = BTreeMap::new();
    for (index, Counted { instance, .. }) in counted.iter().enumerate() {
        let swap = instance.values(|row| row.swap_mb).map(|size| (Code::SwapInUse, size));
        let ephemeral = instance.values(|row| row.ephemeral_gb).map(|size| (Code::EphemeralInUse, size));
        swap.chain(ephemeral).for_each(|size| sizes.entry(size).or_default().push(index));
    }
    sizes
}

/// The size of a swap or ephemeral file, and the code for its use.
pub fn shared_size(name: CacheName<'_>) -> Option<(Code, u64)> {
    let code = match name.kind {
        Kind::Swap => Code::SwapInUse,
        Kind::Ephemeral => Code::EphemeralInUse,
        _ => return None,
    };
    // No flavor has a size that is too large for a number.
    Some((code, name.size.parse().ok()?))
}

/// Rule 1 of the evidence, but for the instance's directory.
fn counts_without_directory(instance: &Instance, is_here: bool, evidence: &Evidence) -> bool {
    // Another cell may have an instance of that name, whose host is not this one's.
    let is_name_alone = |row: &Row| row.uuid.is_none() && row.host.is_none();
    let may_have_files = |row: &Row| !row.vm_state.as_deref().is_some_and(has_no_files);
    if instance.rows.iter().any(|it| is_name_alone(it) && may_have_files(it)) {
        return true;
    }
    if instance.hosts().next().is_none() {
        return instance.vm_states().next().is_none() || !instance.vm_states().all(has_no_files);
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
    instance.values(|row| row.image_ref.as_deref()).next().is_some()
        && instance.values(|row| row.task_state.as_deref()).next().is_none()
        && !instance.vm_states().any(has_no_files)
}

fn has_no_files(vm_state: &str) -> bool {
    matches!(vm_state, "shelved_offloaded" | "error")
}

/// What nova adds to the name of a directory during a resize (nova's `get_instance_path` and `_resize` in
/// nova/virt/libvirt/driver.py). Looked for whatever the instance's state, for not every source tells states.
const RESIZED: &[u8] = b"_resize";
