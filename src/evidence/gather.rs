//! Gathers all evidence, in the order that matters.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use nix::fcntl::AT_FDCWD;
use rustix::fs::{CWD, StatxFlags, statx};

use super::open::read_small;
use super::parallel::Workers;
use super::walk::Walker;
use super::{Evidence, name_in_cache, read_cache, references};
use crate::filesystem::is_network;
use crate::layout::{COMPUTE_NODES, Layout};
use crate::progress::Phase;

/// How much of `compute_nodes` is read, in bytes.
const LARGEST_COMPUTE_NODES: u64 = 1 << 24;

/// Gathers everything. Cache files that this run has set aside are found under their own names. `domain_disks` is asked
/// for only after the disks were read, so that an inventory can be parsed meanwhile.
///
/// # Errors
/// Where the instances path or the cache directory cannot be listed, and those of `domain_disks`. What lies in them and
/// cannot be read is no error but evidence.
pub fn gather(
    layout: &Layout,
    set_aside: &BTreeSet<OsString>,
    workers: &Workers<'_>,
    domain_disks: impl FnOnce() -> Result<Vec<PathBuf>>,
) -> Result<Evidence> {
    // The cache first: a file that a new instance begins to use while we read was then seen before its disk.
    workers.progress.enter(Phase::Cache);
    let cache = read_cache(layout, set_aside, workers)?;
    workers.progress.enter(Phase::Disks);
    let walk = Walker { layout, cache: cache.as_ref().map(|it| it.identity), workers }.walk()?;
    let mut evidence = Evidence {
        layout: layout.clone(),
        instances: walk.instances,
        cache_is_shared_apart: cache.is_some() && is_shared_apart(layout),
        cache,
        directories: walk.directories,
        references: BTreeMap::new(),
        compute_nodes: read_compute_nodes(&layout.instances_path.join(COMPUTE_NODES)),
        has_settled: walk.has_settled,
        rounds: walk.rounds,
    };
    let domain_disks = domain_disks()?;
    workers.progress.enter(Phase::BackingFiles);
    let (references, told) = references::follow(&evidence, &domain_disks, workers);
    evidence.references = references;
    for name in told.iter().filter_map(|it| name_in_cache(layout, it)) {
        if let Some(file) = evidence.cache.as_mut().and_then(|it| it.files.get_mut(name)) {
            file.is_told_image = true;
        }
    }
    Ok(evidence)
}

/// The hosts that share this storage (nova's nova/virt/storage_users.py writes them).
fn read_compute_nodes(path: &Path) -> Result<BTreeSet<String>, String> {
    read_small(AT_FDCWD, path.as_os_str(), LARGEST_COMPUTE_NODES)
        .map_err(Into::into)
        .and_then(|text| parse_compute_nodes(&text.context("not a file that nova could have written")?))
        .map_err(|error| format!("{}: {error:#}", path.display()))
}

/// The host names in a `compute_nodes` file.
///
/// # Errors
/// Where the text is no JSON object.
pub fn parse_compute_nodes(text: &[u8]) -> Result<BTreeSet<String>> {
    let nodes: BTreeMap<String, serde::de::IgnoredAny> =
        serde_json::from_slice(text).context("not a JSON object of host names")?;
    Ok(nodes.into_keys().collect())
}

/// Whether the cache directory is on a network filesystem other than that of the instances path.
fn is_shared_apart(layout: &Layout) -> bool {
    let (cache_dir, instances_path) = (layout.cache_dir(), &layout.instances_path);
    if !is_network(&cache_dir) {
        return false;
    }
    // Two directories of one server may be mounted as one filesystem, and a link may lead to what all hosts share.
    let mount = |path: &Path| statx(CWD, path, rustix::fs::AtFlags::empty(), StatxFlags::MNT_ID).ok();
    let mount = |path: &Path| mount(path).map(|it| (it.stx_dev_major, it.stx_dev_minor, it.stx_mnt_id));
    let real = |path: &Path| fs_err::canonicalize(path).ok();
    let is_below = real(&cache_dir).is_some_and(|it| it.parent() == real(instances_path).as_deref());
    !is_below || mount(&cache_dir) != mount(instances_path)
}
