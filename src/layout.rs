//! Where nova keeps things.

use std::ffi::{OsStr, OsString};
use std::path::PathBuf;

/// nova's directory of lock files, under the instances path.
pub const LOCKS: &str = "locks";

/// nova's file of the hosts that share this storage.
pub const COMPUTE_NODES: &str = "compute_nodes";

/// The paths that nova.conf decides.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// nova's `instances_path`, absolute.
    pub instances_path: PathBuf,
    /// nova's `[image_cache] subdirectory_name`: a plain name.
    pub subdirectory_name: OsString,
}

impl Layout {
    pub fn cache_dir(&self) -> PathBuf {
        self.instances_path.join(&self.subdirectory_name)
    }

    pub fn locks_dir(&self) -> PathBuf {
        self.instances_path.join(LOCKS)
    }
}

/// The name of nova's lock file for a cache file.
pub fn nova_lock_name(cache_file: &OsStr) -> OsString {
    let mut name = OsString::from("nova-");
    name.push(cache_file);
    name
}
