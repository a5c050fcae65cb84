//! Plain facts about an instances path: what is in the cache, which disks there are, and which files they name.
//!
//! "Could not be read" is a fact like the others. What the facts mean is for [`crate::verdict`] to say.

mod cache;
mod disk;
mod gather;
mod open;
mod parallel;
mod references;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};

use nix::sys::stat::FileStat;

pub use cache::{open_instances_path, read_cache};
pub use gather::{gather, parse_compute_nodes};
pub use open::{Opened, is_open_in_qemu, open_examined, open_regular, retried, type_of, whole_file};
pub use parallel::Workers;

use crate::cache_name::{CacheName, Kind};
use crate::layout::Layout;
use crate::time::Timestamp;

/// Everything that is known of an instances path.
#[derive(Debug)]
pub struct Evidence {
    pub layout: Layout,
    /// The instances path that was read.
    pub instances: Identity,
    /// `None` where there is no cache directory.
    pub cache: Option<Cache>,
    /// Every directory that was read, by its path below the instances path: `<name>`, `snapshots/<name>`, and the
    /// instances path itself as the empty path. A map of `OsString`, for the order of `Path` costs ten times as much.
    pub directories: BTreeMap<OsString, Directory>,
    /// What each name leads to that a disk, a cache file or a domain names, but for plain names of files that the cache
    /// has.
    pub references: BTreeMap<PathBuf, Disk>,
    /// The hosts that share this storage, from `compute_nodes`; an error where it cannot be read.
    pub compute_nodes: Result<BTreeSet<String>, String>,
    /// Whether the cache directory is on a network filesystem other than that of the instances path, so that hosts
    /// that `compute_nodes` does not name may use it.
    pub cache_is_shared_apart: bool,
    /// Whether two listings agreed in the end.
    pub has_settled: bool,
    /// How often the directories were read until two listings agreed.
    pub rounds: usize,
}

#[derive(Debug)]
pub struct Cache {
    pub identity: Identity,
    pub files: BTreeMap<OsString, CacheFile>,
}

/// Device and inode: what makes a file the same file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    pub dev: u64,
    pub ino: u64,
}

impl From<&FileStat> for Identity {
    fn from(stat: &FileStat) -> Self {
        Self { dev: stat.st_dev, ino: stat.st_ino }
    }
}

/// What a `stat` call says of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stat {
    pub identity: Identity,
    pub size_bytes: u64,
    /// `st_blocks` × 512, as nova counts.
    pub disk_bytes: u64,
    pub mtime: Timestamp,
    /// How many names it has.
    pub links: u64,
}

impl Stat {
    /// Whether this is the same file, unchanged. What it takes on the disk does not matter: filesystems give blocks
    /// late and take them back.
    pub fn is_unchanged(&self, later: &Self) -> bool {
        (self.identity, self.size_bytes, self.mtime) == (later.identity, later.size_bytes, later.mtime)
    }
}

impl From<&FileStat> for Stat {
    fn from(stat: &FileStat) -> Self {
        Self {
            identity: stat.into(),
            size_bytes: stat.st_size.try_into().unwrap_or(0),
            disk_bytes: u64::try_from(stat.st_blocks).unwrap_or(0).saturating_mul(512),
            mtime: Timestamp::from_unix(stat.st_mtime, stat.st_mtime_nsec),
            // Its type differs between platforms.
            #[allow(clippy::unnecessary_cast)]
            links: stat.st_nlink as u64,
        }
    }
}

/// An entry of the cache directory.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct CacheFile {
    pub path: PathBuf,
    /// Its `stat`, or that of what it is a link to; `None` where it cannot be examined.
    pub stat: Option<Stat>,
    /// The link's own `stat`, where it is one.
    pub link: Option<Stat>,
    /// Whether it is a regular file, or a link to one.
    pub is_file: bool,
    pub is_open_in_qemu: bool,
    pub references: Vec<PathBuf>,
    /// Those of its references that it tells to have a header.
    pub with_header: Vec<PathBuf>,
    /// Whether a disk tells that it has a header. Otherwise it may be a raw image, whose content is a guest's.
    pub is_told_image: bool,
    /// Why it cannot be examined, or why there may be more references.
    pub problem: Option<String>,
}

impl CacheFile {
    pub fn kind(&self, name: &OsStr) -> Kind {
        if self.is_file { CacheName::parse(name).kind } else { Kind::Other }
    }

    pub fn disk_bytes(&self) -> u64 {
        self.stat.map_or(0, |it| it.disk_bytes)
    }

    /// What its removal frees: nothing where it is a link, or where the file has other names.
    pub fn frees_bytes(&self) -> u64 {
        self.stat.filter(|it| self.link.is_none() && it.links <= 1).map_or(0, |it| it.disk_bytes)
    }
}

/// A directory of disks.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Directory {
    /// Whether its entry is a symbolic link.
    pub is_link: bool,
    /// Whether this is the cache directory under another name; then nothing else is said of it.
    pub is_cache: bool,
    /// `None` where it could not be opened.
    pub mtime: Option<Timestamp>,
    /// Whether nothing at all lies in it.
    pub is_empty: bool,
    /// What may be a disk, sorted by path.
    pub disks: Vec<Disk>,
    /// Why it could not be listed.
    pub problem: Option<String>,
}

/// A file that may name others, or what a name leads to in its place.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Disk {
    pub path: PathBuf,
    /// `None` where it could not be opened: it is missing, it has a problem, or it is a character device, FIFO or socket.
    pub identity: Option<Identity>,
    pub disk_bytes: u64,
    /// The files that its header names, as paths; of a link that leads nowhere, where it points. Symbolic links in them
    /// are not resolved.
    pub references: Vec<PathBuf>,
    /// Why it may name files that are not known.
    pub problem: Option<String>,
    /// Whether it begins with the header of an image that can name others.
    pub has_header: bool,
    /// Whether it has none, and something tells that it had: then that is its problem.
    pub has_lost_header: bool,
    /// Those of its references that it tells to have one.
    pub with_header: Vec<PathBuf>,
    /// Whether the `disk.info` beside it calls it raw, and what names it tells nothing else; asked only where that
    /// matters.
    pub is_raw: bool,
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

/// The name of the cache file that a path plainly names: the text is that of the cache directory and a name in it.
fn name_in_cache<'a>(layout: &Layout, path: &'a Path) -> Option<&'a OsStr> {
    let below = path.as_os_str().as_bytes().strip_prefix(layout.instances_path.as_os_str().as_bytes())?;
    let in_cache = below.strip_prefix(b"/")?.strip_prefix(layout.subdirectory_name.as_bytes())?;
    base_name(path).filter(|name| in_cache.strip_prefix(b"/") == Some(name.as_bytes()))
}

impl Evidence {
    /// The first component of a directory's path: the name that an instance may have.
    pub fn top_name(directory: &OsStr) -> &OsStr {
        let bytes = directory.as_bytes();
        OsStr::from_bytes(&bytes[..bytes.iter().position(|byte| *byte == b'/').unwrap_or(bytes.len())])
    }

    pub fn cache_file(&self, name: &OsStr) -> Option<&CacheFile> {
        self.cache.as_ref().and_then(|cache| cache.files.get(name))
    }

    pub fn cache_files(&self) -> impl Iterator<Item = (&OsString, &CacheFile)> {
        self.cache.iter().flat_map(|it| &it.files)
    }

    /// The cache file that a path plainly names.
    pub fn plain_cache_file(&self, path: &Path) -> Option<&CacheFile> {
        self.cache_file(name_in_cache(&self.layout, path)?)
    }

    /// The part of a path below the instances path, where the text alone shows it: not where it leads through a link, or
    /// through a directory in a directory, which nobody has listed. `..` is undone only behind what is known to be no link.
    pub fn below_instances_path(&self, path: &Path) -> Option<PathBuf> {
        let mut below = PathBuf::new();
        for component in path.strip_prefix(&self.layout.instances_path).ok()?.components() {
            let through = self.directories.get(below.as_os_str());
            let is_unlisted = through.is_none() && below.components().nth(1).is_some();
            match component {
                _ if is_unlisted || through.is_some_and(|it| it.is_link) => return None,
                Component::Normal(name) => below.push(name),
                Component::ParentDir if through.is_some() && below.pop() => {}
                _ => return None,
            }
        }
        Some(below)
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
