//! Gathers all evidence, in the order that matters.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::os::fd::AsFd as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use nix::fcntl::open;
use nix::sys::stat::Mode;

use super::open::read_small;
use super::parallel::Workers;
use super::walk::{DIRECTORY, Walker};
use super::{Evidence, read_cache, references};
use crate::filesystem::is_network;
use crate::layout::Layout;
use crate::progress::{Phase, Progress};

/// How much of `compute_nodes` is read, in bytes.
const LARGEST_COMPUTE_NODES: u64 = 1 << 24;

/// How many calls are under way at once on a local filesystem, and on a network filesystem.
const CALLS_IN_FLIGHT: (usize, usize) = (16, 64);

/// How to gather.
pub struct Gathering<'a> {
    pub layout: &'a Layout,
    /// Names of cache files that this run has set aside: they are found under their own names.
    pub set_aside: &'a BTreeSet<OsString>,
    pub progress: &'a Progress,
}

impl Gathering<'_> {
    pub fn workers(&self) -> Workers<'_> {
        let (local, network) = CALLS_IN_FLIGHT;
        let most = if is_network(&self.layout.instances_path) { network } else { local };
        Workers { most, progress: self.progress }
    }

    /// Gathers everything. `domain_disks` is asked for only after the disks were read, so that an inventory can be
    /// parsed meanwhile.
    ///
    /// # Errors
    /// Where the instances path or the cache directory cannot be listed, and those of `domain_disks`. What lies in them
    /// and cannot be read is no error but evidence.
    pub fn gather(&self, domain_disks: impl FnOnce() -> Result<Vec<PathBuf>>) -> Result<Evidence> {
        let layout = self.layout;
        let workers = self.workers();
        // The cache first: a file that a new instance begins to use while we read was then seen before its disk.
        self.progress.enter(Phase::Cache);
        let cache = read_cache(layout, self.set_aside, &workers)?;
        self.progress.enter(Phase::Disks);
        let cache_dir = layout.cache_dir();
        let identity = cache.as_ref().map(|it| it.identity);
        let walk = Walker { layout, cache_dir, cache: identity, workers: &workers }.walk()?;
        let mut evidence = Evidence {
            layout: layout.clone(),
            cache_is_shared_apart: cache.is_some() && is_shared_apart(layout),
            cache,
            directories: walk.directories,
            references: BTreeMap::new(),
            compute_nodes: read_compute_nodes(&layout.instances_path),
            never_settled: walk.never_settled,
            rounds: walk.rounds,
        };
        let domain_disks = domain_disks()?;
        self.progress.enter(Phase::BackingFiles);
        evidence.references = references::follow(&evidence, &domain_disks, &workers);
        Ok(evidence)
    }
}

/// The hosts that share this storage (nova's nova/virt/storage_users.py writes them).
fn read_compute_nodes(instances_path: &Path) -> Result<BTreeSet<String>, String> {
    let path = instances_path.join("compute_nodes");
    let read = || -> Result<BTreeSet<String>> {
        let directory = File::from(open(instances_path, DIRECTORY, Mode::empty())?);
        match read_small(directory.as_fd(), OsStr::new("compute_nodes"), LARGEST_COMPUTE_NODES)? {
            Some(text) => parse_compute_nodes(&text),
            None => bail!("not a file that nova could have written"),
        }
    };
    read().with_context(|| path.display().to_string()).map_err(|error| format!("{error:#}"))
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
    let device = |path: &Path| fs_err::metadata(path).map(|it| it.dev()).ok();
    let cache_dir = layout.cache_dir();
    device(&cache_dir) != device(&layout.instances_path) && is_network(&cache_dir)
}
