//! Which files should be in the cache and are not.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};

use super::named::Names;
use super::users::{Counted, Users};
use super::{Code, Missing, Reason, size_use};
use crate::cache_name::{CacheName, Kind, is_size, set_aside_name};
use crate::evidence::{Evidence, base_name};
use crate::inventory::Row;

pub fn missing<'a>(evidence: &'a Evidence, users: &Users<'a>, names: &Names<'a>) -> Vec<Missing<'a>> {
    // One that cannot be examined is there, too, and one that is set aside only has to be put back.
    let is_there = |name: &OsStr| {
        [name, &set_aside_name(name)]
            .iter()
            .filter_map(|it| evidence.cache_file(it))
            .any(|it| it.is_file || it.stat.is_err())
    };
    let mut missing: BTreeMap<OsString, Vec<Reason<'a>>> = BTreeMap::new();
    for (fingerprint, image) in &users.images {
        if is_there(OsStr::new(fingerprint)) {
            continue;
        }
        for (code, using) in &image.by_code {
            let local: Vec<usize> = using
                .iter()
                .copied()
                .filter(|it| {
                    users.counted[*it].is_local && would_be_fetched(&users.counted[*it], *code, image.id)
                })
                .collect();
            if !local.is_empty() {
                let reason = users.image_use(*code, image.id, &local);
                missing.entry(fingerprint.into()).or_default().push(reason);
            }
        }
    }
    for (name, named) in names.by_name.iter().filter(|(name, it)| it.is_of_cache && !is_there(name)) {
        missing.entry((*name).into()).or_default().extend(named.reasons(users));
    }
    missing_sizes(evidence, users, &mut missing);
    missing.into_iter().map(|(name, reasons)| Missing { name, reasons }).collect()
}

/// Whether nova would fetch an image for an instance. libvirt's XML alone is not enough where a disk of the instance
/// names a cache file: for one booted from a snapshot newer nova writes the snapshot's own base there.
fn would_be_fetched(counted: &Counted<'_>, code: Code, image: &str) -> bool {
    let names_it = |row: &&Row| match code {
        Code::KernelInUse => row.kernel_id.as_deref() == Some(image),
        Code::RamdiskInUse => row.ramdisk_id.as_deref() == Some(image),
        _ => row.image_ref.as_deref() == Some(image),
    };
    let mut rows = counted.instance.rows.iter().filter(names_it);
    let mut references = counted
        .directories
        .iter()
        .flat_map(|it| &it.disks)
        .flat_map(|it| &it.references)
        .filter_map(|it| base_name(it));
    rows.any(|row| !row.is_from_libvirt)
        || !references.any(|name| !matches!(CacheName::parse(name).kind(), Kind::Other | Kind::SetAside))
}

fn missing_sizes<'a>(
    evidence: &'a Evidence,
    users: &Users<'a>,
    missing: &mut BTreeMap<OsString, Vec<Reason<'a>>>,
) {
    let names: Vec<CacheName<'_>> = evidence
        .cache_files()
        .filter(|(_, it)| it.is_file)
        .map(|(name, _)| match CacheName::parse(name) {
            CacheName::SetAside { of } => CacheName::parse(OsStr::new(of)),
            name => name,
        })
        .collect();
    let mut swap: BTreeMap<u64, Vec<&'a str>> = BTreeMap::new();
    let mut ephemeral: BTreeMap<u64, Vec<&'a str>> = BTreeMap::new();
    for it in users.counted.iter().filter(|it| it.is_local) {
        it.instance.swap_mb().for_each(|size| swap.entry(size).or_default().push(it.id));
        it.instance.ephemeral_gb().for_each(|size| ephemeral.entry(size).or_default().push(it.id));
    }
    let mut add = |name: String, code, size: u64, mut users: Vec<&'a str>| {
        users.sort_unstable();
        missing.entry(name.into()).or_default().extend(size_use(code, &size.to_string(), users));
    };
    for (size, users) in swap {
        if !names.iter().any(|it| matches!(it, CacheName::Swap { mebibytes } if is_size(mebibytes, size))) {
            add(format!("swap_{size}"), Code::SwapInUse, size, users);
        }
    }
    for (size, users) in ephemeral {
        if !names
            .iter()
            .any(|it| matches!(it, CacheName::Ephemeral { gibibytes } if is_size(gibibytes, size)))
        {
            add(format!("ephemeral_{size}_*"), Code::EphemeralInUse, size, users);
        }
    }
}
