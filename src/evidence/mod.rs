//! Plain facts about an instances path: what is in the cache, which disks there are, and which files they name.
//!
//! "Could not be read" is a fact like the others. [`gather`] collects them and is, with [`SecondLook`], the
//! only reader of instance and cache directories; what the facts mean is for [`crate::verdict`] to say.

mod disk;
mod gather;
mod second_look;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

pub use disk::is_never_a_disk;
pub use gather::{Progress, gather, parse_compute_nodes, read_cache};
pub use second_look::SecondLook;

use crate::cache_name::{CacheName, Kind};
use crate::time::Timestamp;

/// Where nova keeps things: the configuration that the evidence depends on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Layout {
    /// nova's `instances_path`, absolute.
    pub instances_path: PathBuf,
    /// nova's `[image_cache] subdirectory_name`: the cache directory's name under it.
    pub subdirectory_name: OsString,
}

impl Layout {
    /// The cache directory.
    pub fn cache_dir(&self) -> PathBuf {
        self.instances_path.join(&self.subdirectory_name)
    }

    /// The directory of nova's lock files.
    pub fn locks_dir(&self) -> PathBuf {
        self.instances_path.join("locks")
    }

    /// nova's lock file for a cache file.
    pub fn nova_lock(&self, cache_file: &OsStr) -> PathBuf {
        let mut name = OsString::from("nova-");
        name.push(cache_file);
        self.locks_dir().join(name)
    }
}

/// Everything that is known of an instances path.
#[derive(Clone, Debug)]
pub struct Evidence {
    /// Where it was gathered.
    pub layout: Layout,
    /// The cache; `None` where there is no cache directory.
    pub cache: Option<Cache>,
    /// Every directory that was read, by its path below the instances path: `<name>`, `snapshots/<name>`, and the
    /// instances path itself as the empty path. A map of `OsString`, for the order of `Path` costs ten times as much.
    pub directories: BTreeMap<OsString, Directory>,
    /// Files that disks name, or that domains have as disks, and that lie in none of the directories.
    pub links: BTreeMap<PathBuf, Disk>,
    /// Disks of domains, wherever they lie; each is also in `links`.
    pub domain_disks: Vec<PathBuf>,
    /// The hosts that share this storage, from `compute_nodes`; an error where it cannot be read.
    pub compute_nodes: Result<BTreeSet<String>, String>,
    /// Whether the cache directory is on a network filesystem other than that of the instances path, so that hosts
    /// that `compute_nodes` does not name may use it.
    pub cache_is_shared_apart: bool,
    /// Why the directories could not be read to an end, if they could not.
    pub restless: Option<String>,
    /// How often the instances path was listed until nothing changed any more.
    pub rounds: usize,
}

/// The cache directory.
#[derive(Clone, Debug)]
pub struct Cache {
    /// Which directory this is.
    pub identity: Identity,
    /// All that is in it, by name.
    pub files: BTreeMap<OsString, CacheFile>,
}

/// Device and inode: what makes a file the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Identity {
    /// The device that it is on.
    pub dev: u64,
    /// Its inode there.
    pub ino: u64,
}

impl From<&Metadata> for Identity {
    fn from(metadata: &Metadata) -> Self {
        Self { dev: metadata.dev(), ino: metadata.ino() }
    }
}

/// What a `stat` call says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    /// Which file it is.
    pub identity: Identity,
    /// Its length in bytes.
    pub size_bytes: u64,
    /// What it takes on the disk, in bytes: `st_blocks` × 512, as nova counts.
    pub disk_bytes: u64,
    /// When it was last written, or seen in use.
    pub mtime: Timestamp,
}

impl Stat {
    /// Whether this is the same file, unchanged. What it takes on the disk does not matter: filesystems give blocks
    /// late and take them back.
    pub fn is_unchanged(self, later: Self) -> bool {
        (self.identity, self.size_bytes, self.mtime) == (later.identity, later.size_bytes, later.mtime)
    }
}

impl From<&Metadata> for Stat {
    fn from(metadata: &Metadata) -> Self {
        Self {
            identity: metadata.into(),
            size_bytes: metadata.len(),
            disk_bytes: metadata.blocks().saturating_mul(512),
            mtime: Timestamp::from_unix(metadata.mtime(), metadata.mtime_nsec()),
        }
    }
}

/// An entry of the cache directory.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CacheFile {
    /// Where it is.
    pub path: PathBuf,
    /// Its own `stat`, or that of the regular file that it is a link to; an error where there is none.
    pub stat: Result<Stat, String>,
    /// Whether it is a regular file, or a link to one.
    pub is_file: bool,
    /// The files that its header names.
    pub references: Vec<PathBuf>,
    /// Why there may be more of them.
    pub problem: Option<String>,
}

impl CacheFile {
    /// What the file is, given its name.
    pub fn kind(&self, name: &OsStr) -> Kind {
        if self.is_file { CacheName::parse(name).kind() } else { Kind::Other }
    }
}

/// A directory of disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Whether its entry is a symbolic link.
    pub is_link: bool,
    /// Whether this is the cache directory under another name; then nothing else is said of it.
    pub is_cache: bool,
    /// The regular files in it that may be disks, sorted by path.
    pub disks: Vec<Disk>,
    /// Why it could not be listed.
    pub problem: Option<String>,
    /// The directories in it, where they matter.
    subdirectories: Vec<Subdirectory>,
    /// What it looked like just before it was listed.
    stamp: Option<Stamp>,
}

impl Directory {
    /// The disk of that path.
    fn disk(&self, path: &Path) -> Option<&Disk> {
        let index = self.disks.binary_search_by(|it| it.path.as_os_str().cmp(path.as_os_str())).ok()?;
        self.disks.get(index)
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
struct Subdirectory {
    name: OsString,
    is_link: bool,
}

/// What changes with the entries of a directory.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Stamp {
    identity: Identity,
    mtime: Timestamp,
    /// Whether the directory had last changed well before it was listed. A change that came after the listing but
    /// within the same tick of the filesystem's clock leaves the mtime as it was.
    settled: bool,
}

/// A file that may name others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disk {
    /// Where it is.
    pub path: PathBuf,
    /// The files that its header names, as paths; what counts is mostly their base name.
    pub references: Vec<PathBuf>,
    /// Why it may name files that are not known.
    pub problem: Option<Problem>,
}

/// Why a disk tells less than it should.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// For people.
    pub text: String,
    /// Whether the file is simply not there.
    pub is_missing: bool,
}

/// What `Path::file_name` gives, in a fifth of the time where the path ends in a plain name.
pub fn base_name(path: &Path) -> Option<&OsStr> {
    let bytes = path.as_os_str().as_bytes();
    let start = bytes.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
    match &bytes[start..] {
        b"" | b"." | b".." => path.file_name(),
        name => Some(OsStr::from_bytes(name)),
    }
}

impl Evidence {
    /// The base name of the first component of a directory's path: the name that an instance may have.
    pub fn top_name(directory: &OsStr) -> &OsStr {
        Path::new(directory).iter().next().unwrap_or_default()
    }

    /// A cache file by its name.
    pub fn cache_file(&self, name: &OsStr) -> Option<&CacheFile> {
        self.cache.as_ref().and_then(|cache| cache.files.get(name))
    }

    /// Whether a file lies in a directory of the cache directory's name.
    pub fn is_named_as_cache(&self, file: &Path) -> bool {
        file.parent().and_then(Path::file_name) == Some(&self.layout.subdirectory_name)
    }

    /// Whether a file elsewhere that a disk stands on, and that cannot be read, hides no name of a cache file.
    pub fn hides_nothing(&self, link: &Disk) -> bool {
        // One of a cache directory that has moved: its base name is what counts.
        self.is_named_as_cache(&link.path)
            // A broken instance of this host: there is nothing that could be read.
            || link.problem.as_ref().is_none_or(|it| it.is_missing)
                && self.below_instances_path(&link.path).is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_base_name_is_what_path_says_it_is() {
        for path in
            ["", "/", "a", "/a", "/a/b", "/a/b/", "/a/.", "/a/..", "a//", ".", "..", "/a/.b", "/a/b//."]
        {
            assert_eq!(base_name(Path::new(path)), Path::new(path).file_name(), "{path}");
        }
    }
}
