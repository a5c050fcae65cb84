//! Which files should be in the cache and are not.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};

use super::named::Names;
use super::users::{Counted, IMAGE_USES, Users, shared_size};
use super::{Code, Missing, Reason};
use crate::cache_name::{CacheName, Kind, cache_file_name, set_aside_name};
use crate::evidence::{Evidence, base_name};
use crate::inventory::spellings;

pub fn missing<'a>(evidence: &'a Evidence, users: &Users<'a>, names: &Names<'a>) -> Vec<Missing<'a>> {
    // One that cannot be examined is there, too, and one that is set aside only has to be put back.
    let has = |name: &OsStr| evidence.cache_file(name).is_some_and(|it| it.is_file || it.stat.is_none());
    let is_missing = |name: &OsStr| !has(name) && !has(&set_aside_name(name));
    let images = users.images.iter().filter(|(name, image)| {
        // Under the name of the id as it is told, unless another spelling's file is there.
        let mut names = spellings(image.id).map(|id| cache_file_name(&id));
        is_missing(OsStr::new(name))
            && names.next().as_ref() == Some(name)
            && names.all(|it| is_missing(OsStr::new(&it)))
    });
    let images = images.flat_map(|(name, image)| {
        (0..IMAGE_USES.len()).filter_map(move |which| {
            let local = users.local(&image.users[which], |it| would_be_fetched(it, which, image.id));
            Some((OsString::from(name), users.image_use(image.id, which, &local)?))
        })
    });
    let named = names.by_name.iter().filter(|(name, it)| it.is_of_cache && is_missing(name));
    let named = named.flat_map(|(name, it)| it.reasons(users).map(move |it| (OsString::from(name), it)));
    let there: BTreeSet<(Code, u64)> =
        evidence.cache_files().filter(|(_, it)| it.is_file).filter_map(|(name, _)| size_of(name)).collect();
    let sizes = users.sizes.iter().filter(|(size, _)| !there.contains(size));
    let sizes = sizes.filter_map(|(size, using)| {
        let name = match size {
            (Code::SwapInUse, size) => format!("swap_{size}"),
            (_, size) => format!("ephemeral_{size}_*"),
        };
        Some((name.into(), users.size_use(*size, &users.local(using, |_| true))?))
    });
    let mut missing: BTreeMap<OsString, Vec<Reason<'a>>> = BTreeMap::new();
    for (name, reason) in images.chain(named).chain(sizes) {
        missing.entry(name).or_default().push(reason);
    }
    missing.into_iter().map(|(name, reasons)| Missing { name, reasons }).collect()
}

fn size_of(name: &OsStr) -> Option<(Code, u64)> {
    match CacheName::parse(name) {
        CacheName { kind: Kind::SetAside, of, .. } => shared_size(CacheName::parse(OsStr::new(of))),
        name => shared_size(name),
    }
}

/// Whether nova would fetch an image for an instance. libvirt's XML alone is not enough where a disk of the instance
/// names a cache file: for one booted from a snapshot newer nova writes the snapshot's own base there.
fn would_be_fetched(counted: &Counted<'_>, which: usize, image: &str) -> bool {
    let (_, field, _) = IMAGE_USES[which];
    let mut rows = counted.instance.rows.iter().filter(|row| field(row).as_deref() == Some(image));
    let disks = counted.directories.iter().flat_map(|it| &it.disks);
    let mut names = disks.flat_map(|it| &it.references).filter_map(|it| base_name(it));
    rows.any(|row| !row.is_from_libvirt)
        || !names.any(|name| !matches!(CacheName::parse(name).kind, Kind::Other | Kind::SetAside))
}
