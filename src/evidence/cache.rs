//! The cache directory and the headers of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::path::Path;

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, open};
use nix::sys::stat::{Mode, fstat, fstatat};
use rustix::fs::FileType;

use super::open::{cause, has_vanished, is_open_in_qemu, open_listed, retried, type_of};
use super::parallel::Workers;
use super::{Cache, CacheFile, Identity, Stat, disk};
use crate::cache_name::set_aside_name;
use crate::errors::{cannot, instances_path_error};
use crate::layout::Layout;
use crate::listing::{DIRECTORY, each_entry};

/// Reads the cache directory; `None` where there is none.
///
/// Files that this run has set aside are given their own names, if nothing else has them by now.
///
/// # Errors
/// Where the instances path is not there, or the cache directory is there but cannot be listed.
pub fn read_cache(
    layout: &Layout,
    set_aside: &BTreeSet<OsString>,
    workers: &Workers<'_>,
) -> Result<Option<Cache>> {
    open_instances_path(&layout.instances_path)?;
    let path = layout.cache_dir();
    let opened = match retried(|| open(&path, DIRECTORY, Mode::empty())) {
        Ok(opened) => opened,
        Err(Errno::ENOENT) if fs_err::symlink_metadata(&path).is_err() => return Ok(None),
        Err(Errno::ENOTDIR) => bail!(
            "cache directory {}: not a directory: name another with --subdirectory-name",
            path.display()
        ),
        Err(errno) => return Err(cannot("list the cache directory", &path, errno)),
    };
    let identity = Identity::from(&fstat(&opened)?);
    let at = opened.as_fd();
    let mut names = Vec::new();
    each_entry(at, |name, _, _| names.push(name.to_owned()))
        .map_err(|error| cannot("list the cache directory", &path, error))?;
    let read = workers.map(&names, |name| read_entry(at, &path, name));
    let mut files: BTreeMap<OsString, CacheFile> =
        names.into_iter().zip(read).filter_map(|(name, file)| Some((name, file?))).collect();
    for name in set_aside {
        if !files.contains_key(name)
            && let Some(file) = files.remove(&set_aside_name(name))
        {
            files.insert(name.clone(), CacheFile { path: path.join(name), ..file });
        }
    }
    Ok(Some(Cache { identity, files }))
}

pub fn open_instances_path(path: &Path) -> Result<OwnedFd> {
    let metadata = fs_err::metadata(path).map_err(|error| instances_path_error(path, &error))?;
    if !metadata.is_dir() {
        bail!("instances path {}: not a directory: name another with --instances-path", path.display());
    }
    retried(|| open(path, DIRECTORY, Mode::empty()))
        .map_err(|errno| cannot("list the instances path", path, errno))
}

/// An entry of the cache directory; `None` where it has gone.
fn read_entry(at: BorrowedFd<'_>, cache_dir: &Path, name: &OsStr) -> Option<CacheFile> {
    let mut file = CacheFile { path: cache_dir.join(name), ..CacheFile::default() };
    let own = match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(own) => own,
        Err(Errno::ENOENT) => return None,
        Err(errno) => {
            file.problem = Some(cause(&errno.into()));
            return Some(file);
        }
    };
    let mut leads_to = own;
    if type_of(&own) == FileType::Symlink {
        file.link = Some(Stat::from(&own));
        leads_to = fstatat(at, name, AtFlags::empty()).unwrap_or(own);
    }
    file.stat = Some(Stat::from(&leads_to));
    match open_listed(at, name, type_of(&own)) {
        Ok(Some(opened)) => {
            // A block device is no cache file, but it may stand in a chain.
            file.is_file = opened.is_regular;
            file.stat = Some(opened.stat);
            // A filesystem without such locks proves nothing.
            file.is_open_in_qemu = is_open_in_qemu(&opened.file).unwrap_or(false);
            let disk = disk::read(std::mem::take(&mut file.path), &opened);
            (file.path, file.references, file.problem) = (disk.path, disk.references, disk.problem);
            file.with_header = disk.with_header;
        }
        Ok(None) => {}
        Err(error) if has_vanished(&error) && file.link.is_none() => return None,
        Err(error) => {
            file.is_file = type_of(&leads_to) == FileType::RegularFile;
            file.problem = Some(cause(&error));
        }
    }
    Some(file)
}
