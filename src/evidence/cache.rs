//! The cache directory and the headers of its files.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::Path;

use anyhow::{Context as _, Result, bail};
use nix::dir::Type;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, OFlag, open};
use nix::sys::stat::{Mode, fstatat};

use super::open::{cause, has_vanished, is_open_in_qemu, open_examined, open_regular, retried};
use super::parallel::Workers;
use super::{Cache, CacheFile, Identity, Stat, disk, walk};
use crate::cache_name::set_aside_name;
use crate::errors::{advice, instances_path_error};
use crate::layout::Layout;
use crate::listing::each_entry;

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
    check_instances_path(&layout.instances_path)?;
    let cache_dir = layout.cache_dir();
    let cannot_list = |error: &io::Error| {
        format!(
            "cannot list the cache directory {}: {}: {}",
            cache_dir.display(),
            cause(error),
            advice(error)
        )
    };
    let opened = match retried(|| open(&cache_dir, walk::DIRECTORY, Mode::empty())) {
        Ok(opened) => File::from(opened),
        Err(Errno::ENOENT) if fs_err::symlink_metadata(&cache_dir).is_err() => return Ok(None),
        Err(Errno::ENOTDIR) => bail!(
            "cache directory {}: not a directory: name another with --subdirectory-name",
            cache_dir.display()
        ),
        Err(errno) => bail!(cannot_list(&errno.into())),
    };
    let identity = Identity::from(&opened.metadata()?);
    let mut names = Vec::new();
    each_entry(opened.as_fd(), |name, _, _| names.push(name.to_owned()))
        .map_err(|error| anyhow::Error::msg(cannot_list(&error)))?;
    let at = opened.as_fd();
    let read = workers.map(&names, |name| read_entry(at, &cache_dir, name));
    let mut files: BTreeMap<OsString, CacheFile> =
        names.into_iter().zip(read).filter_map(|(name, file)| Some((name, file?))).collect();
    for name in set_aside {
        if !files.contains_key(name)
            && let Some(mut file) = files.remove(&set_aside_name(name))
        {
            file.path = cache_dir.join(name);
            files.insert(name.clone(), file);
        }
    }
    Ok(Some(Cache { identity, files }))
}

fn check_instances_path(path: &Path) -> Result<()> {
    let metadata = fs_err::metadata(path).map_err(|error| instances_path_error(path, &error))?;
    if !metadata.is_dir() {
        bail!("instances path {}: not a directory: name another with --instances-path", path.display());
    }
    open(path, OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC, Mode::empty())
        .map_err(io::Error::from)
        .map_err(|error| anyhow::anyhow!("{}: {}", cause(&error), advice(&error)))
        .with_context(|| format!("cannot list the instances path {}", path.display()))?;
    Ok(())
}

/// An entry of the cache directory; `None` where it has gone.
fn read_entry(at: BorrowedFd<'_>, cache_dir: &Path, name: &OsStr) -> Option<CacheFile> {
    let mut file = CacheFile {
        path: cache_dir.join(name),
        stat: Err(String::new()),
        link: None,
        is_file: false,
        is_open_in_qemu: false,
        references: Vec::new(),
        problem: None,
    };
    let own = match fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
        Ok(stat) => stat,
        Err(Errno::ENOENT) => return None,
        Err(errno) => {
            file.stat = Err(cause(&errno.into()));
            file.problem = file.stat.clone().err();
            return Some(file);
        }
    };
    let own_type = walk::type_of(&own);
    let mut leads_to = own_type;
    file.stat = Ok(Stat::from(&own));
    let opened = match own_type {
        Type::File => open_regular(at, name),
        Type::Symlink => {
            file.link = Some(Stat::from(&own));
            if let Ok(target) = fstatat(at, name, AtFlags::empty()) {
                file.stat = Ok(Stat::from(&target));
                leads_to = walk::type_of(&target);
            }
            open_examined(at, name)
        }
        Type::BlockDevice => open_examined(at, name),
        _ => return Some(file),
    };
    match opened {
        Ok(Some(opened)) => {
            // A block device is no cache file, but it may stand in a chain.
            file.is_file = opened.is_regular;
            file.stat = Ok(opened.stat);
            // A filesystem without such locks proves nothing.
            file.is_open_in_qemu = is_open_in_qemu(&opened.file).unwrap_or(false);
            match disk::read_references(&opened, &file.path) {
                Ok((references, problem)) => (file.references, file.problem) = (references, problem),
                Err(error) => file.problem = Some(cause(&error)),
            }
        }
        Ok(None) => {}
        Err(error) if has_vanished(&error) && own_type == Type::File => return None,
        Err(error) => {
            file.is_file = leads_to == Type::File;
            file.problem = Some(cause(&error));
        }
    }
    Some(file)
}
