//! All directories of disks, read until two listings of the instances path agree.
//!
//! nova renames `<uuid>` to `<uuid>_resize` and back at any time. So the instances path is listed before and after the
//! directories are read, each time by one system call, which no rename can divide. Where the two listings differ, in names
//! or inodes, or where something that was listed has vanished when it is opened, what is new is read again. Nothing here
//! depends on the mtime of a directory or on a clock.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::fcntl::{AtFlags, OFlag, openat};
use nix::sys::stat::{Mode, fstat, fstatat};
use rustix::fs::FileType;

use super::cache::open_instances_path;
use super::disk::{self, DISK_INFO, DiskInfo};
use super::open::{cause, has_vanished, open_listed, retried, type_of};
use super::parallel::Workers;
use super::{Directory, Disk, Identity, name_in_cache};
use crate::errors::cannot;
use crate::layout::{COMPUTE_NODES, LOCKS, Layout};
use crate::listing::{DIRECTORY, each_entry, each_entry_at_once};
use crate::time::Timestamp;

/// How often the directories are read before the evidence counts as incomplete.
const MOST_ROUNDS: usize = 32;

/// The one directory whose directories are read, too (nova's `snapshots_directory`).
const SNAPSHOTS: &str = "snapshots";

pub struct Walk {
    /// The instances path that was read.
    pub instances: Identity,
    pub directories: BTreeMap<OsString, Directory>,
    pub has_settled: bool,
    pub rounds: usize,
}

/// An entry of the instances path or of `snapshots`, by its path below the instances path.
#[derive(Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Entry {
    below: OsString,
    ino: u64,
    /// What it was listed as, as in `st_mode`.
    mode: u32,
}

impl Entry {
    const fn listed(&self) -> FileType {
        FileType::from_raw_mode(self.mode)
    }

    const fn may_be_directory(&self) -> bool {
        matches!(self.listed(), FileType::Directory | FileType::Symlink)
    }
}

/// What was read of an entry.
enum Read {
    Directory(Directory),
    /// `None` where it is not a disk.
    File(Option<Disk>),
}

pub struct Walker<'a> {
    pub layout: &'a Layout,
    /// The cache directory, which is read apart.
    pub cache: Option<Identity>,
    pub workers: &'a Workers<'a>,
}

impl Walker<'_> {
    pub fn walk(&self) -> Result<Walk> {
        let path = &self.layout.instances_path;
        let root = open_instances_path(path)?;
        let instances = Identity::from(&fstat(&root)?);
        let root = root.as_fd();
        let list = || self.list(root).map_err(|error| cannot("list the instances path", path, error));
        // An error where an entry, or something in it, is gone or has become something else.
        let mut read: BTreeMap<Entry, io::Result<Read>> = BTreeMap::new();
        let (mut listing, _) = list()?;
        let mut rounds = 0;
        loop {
            rounds += 1;
            listing.retain(|it| !read.contains_key(it));
            let read_now = self.workers.map(&listing, |it| self.read(root, it));
            let has_vanished = read_now.iter().any(Result::is_err);
            read.append(&mut listing.into_iter().zip(read_now).collect());
            let (listed, snapshots_problem) = list()?;
            listing = listed;
            let has_settled = !has_vanished && listing.iter().eq(read.keys());
            if has_settled || rounds == MOST_ROUNDS {
                let mut directories = directories(read);
                if let Some(snapshots) = directories.get_mut(OsStr::new(SNAPSHOTS)) {
                    snapshots.problem = snapshots.problem.take().or(snapshots_problem);
                }
                return Ok(Walk { instances, directories, has_settled, rounds });
            }
            read.retain(|entry, it| it.is_ok() && listing.binary_search(entry).is_ok());
        }
    }

    /// Everything in the instances path and in `snapshots`, sorted, and why what is in the latter is not known.
    fn list(&self, root: BorrowedFd<'_>) -> io::Result<(Vec<Entry>, Option<String>)> {
        let mut entries = entries(root, OsStr::new("."))?;
        let is_apart = |name: &OsStr| name == self.layout.subdirectory_name || name == LOCKS;
        let is_never_a_disk = |name: &OsStr| name == COMPUTE_NODES || disk::is_never_a_disk(name);
        // A directory may have any name.
        entries.retain(|it| !is_apart(&it.below) && (it.may_be_directory() || !is_never_a_disk(&it.below)));
        let mut problem = None;
        if entries.iter().any(|it| it.below == SNAPSHOTS) {
            match self::entries(root, OsStr::new(SNAPSHOTS)) {
                Ok(snapshots) => {
                    let in_snapshots =
                        |it: Entry| Entry { below: Path::new(SNAPSHOTS).join(it.below).into(), ..it };
                    entries.extend(snapshots.into_iter().filter(Entry::may_be_directory).map(in_snapshots));
                }
                // It was removed: one more round settles it.
                Err(error) if has_vanished(&error) => entries.retain(|it| it.below != SNAPSHOTS),
                Err(error) => problem = Some(cause(&error)),
            }
        }
        entries.sort_unstable();
        // A listing may show a file twice that was renamed during it.
        entries.dedup();
        Ok((entries, problem))
    }

    fn read(&self, root: BorrowedFd<'_>, entry: &Entry) -> io::Result<Read> {
        let name = entry.below.as_os_str();
        let listed = entry.listed();
        let is_link = listed == FileType::Symlink;
        let leads_to = if is_link { type_at(root, name, AtFlags::empty()) } else { Ok(listed) };
        match leads_to {
            Ok(FileType::Directory) => self.read_directory(root, name, is_link).map(Read::Directory),
            Ok(_) => {
                let disk_info = &DiskInfo::new(root, OsStr::new(DISK_INFO));
                self.read_disk((root, OsStr::new("")), name, listed, disk_info).map(Read::File)
            }
            Err(error) => {
                // Among directories a link that leads nowhere is a directory that cannot be read.
                type_at(root, name, AtFlags::AT_SYMLINK_NOFOLLOW)?;
                let problem = Some(dangling(&error));
                Ok(Read::Directory(Directory { is_link, problem, ..Directory::default() }))
            }
        }
    }

    fn read_directory(&self, root: BorrowedFd<'_>, below: &OsStr, is_link: bool) -> io::Result<Directory> {
        let mut directory = Directory { is_link, ..Directory::default() };
        if let Err(error) = self.read_disks(root, below, &mut directory) {
            if has_vanished(&error) || error.kind() == ErrorKind::NotADirectory {
                return Err(error);
            }
            directory.problem = Some(cause(&error));
        }
        directory.disks.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        Ok(directory)
    }

    /// Lists a directory and reads the disks in it; an error where it cannot be listed, or where one has vanished.
    fn read_disks(&self, root: BorrowedFd<'_>, below: &OsStr, directory: &mut Directory) -> io::Result<()> {
        let no_follow = if directory.is_link { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let opened = retried(|| openat(root, below, DIRECTORY | no_follow, Mode::empty()))?;
        let stat = fstat(&opened)?;
        directory.mtime = Some(Timestamp::from_unix(stat.st_mtime, stat.st_mtime_nsec));
        directory.is_cache = self.cache == Some(Identity::from(&stat));
        if directory.is_cache {
            return Ok(());
        }
        let mut names = Vec::new();
        directory.is_empty = true;
        each_entry(opened.as_fd(), |name, _, listed| {
            directory.is_empty = false;
            if !disk::is_never_a_disk(name) && listed != FileType::Directory {
                names.push((name.to_owned(), listed));
            }
        })?;
        directory.disks.reserve_exact(names.len());
        let disk_info = &DiskInfo::new(opened.as_fd(), OsStr::new(DISK_INFO));
        for (name, listed) in names {
            let listed = known_type(opened.as_fd(), &name, listed)?;
            directory.disks.extend(self.read_disk((opened.as_fd(), below), &name, listed, disk_info)?);
        }
        Ok(())
    }

    /// Reads what may be a disk: a regular file, a block device, or a link to one. An error where it has vanished.
    fn read_disk(
        &self,
        place: (BorrowedFd<'_>, &OsStr),
        name: &OsStr,
        listed: FileType,
        disk_info: &DiskInfo<'_>,
    ) -> io::Result<Option<Disk>> {
        let has_lost_header =
            |it: &io::Result<Option<Disk>>| matches!(it, Ok(Some(disk)) if disk.has_lost_header);
        disk::with_patience(|| self.read_disk_once(place, name, listed, disk_info), has_lost_header)
    }

    fn read_disk_once(
        &self,
        (at, below): (BorrowedFd<'_>, &OsStr),
        name: &OsStr,
        listed: FileType,
        disk_info: &DiskInfo<'_>,
    ) -> io::Result<Option<Disk>> {
        let root = self.layout.instances_path.as_os_str();
        // At once as long as it gets.
        let mut path = PathBuf::with_capacity(root.len() + below.len() + name.len() + 2);
        path.extend([root, below, name]);
        let mut disk = match open_listed(at, name, listed) {
            Ok(Some(opened)) => disk::read(path, &opened),
            // It was a regular file when it was listed.
            Ok(None) if listed == FileType::RegularFile => return Err(ErrorKind::NotFound.into()),
            Ok(None) => return Ok(None),
            Err(error) if has_vanished(&error) => match type_at(at, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
                // A link that leads nowhere is there all the same.
                Ok(FileType::Symlink) => disk::unread(path, dangling(&error)),
                _ => return Err(error),
            },
            Err(error) => disk::unread(path, cause(&error)),
        };
        // Most disks have a header and stand on the cache: then it does not matter what else tells their format.
        let stands_on_cache =
            || disk.has_header && disk.references.iter().all(|it| name_in_cache(self.layout, it).is_some());
        if disk.problem.is_some() || !stands_on_cache() {
            disk.heed(disk_info);
        }
        Ok(Some(disk))
    }
}

/// What was read, by name, and the disks that lie directly in the instances path.
fn directories(read: BTreeMap<Entry, io::Result<Read>>) -> BTreeMap<OsString, Directory> {
    let mut root = Directory::default();
    let mut directories = vec![];
    for (entry, read) in read {
        match read {
            Ok(Read::Directory(directory)) => directories.push((entry.below, directory)),
            Ok(Read::File(disk)) => root.disks.extend(disk),
            Err(_) => {}
        }
    }
    directories.push((OsString::new(), root));
    directories.into_iter().collect()
}

/// Everything in a directory that has a type.
fn entries(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Vec<Entry>> {
    let opened = retried(|| openat(at, name, DIRECTORY, Mode::empty()))?;
    let mut entries = Vec::new();
    each_entry_at_once(opened.as_fd(), |name, ino, listed| {
        entries.push(Entry { below: name.to_owned(), ino, mode: listed.as_raw_mode() });
    })?;
    // One that has gone shows in the next listing; what cannot be examined may be a directory.
    entries.retain_mut(|it| match known_type(opened.as_fd(), &it.below, it.listed()) {
        Err(error) if has_vanished(&error) => false,
        listed => {
            it.mode = listed.unwrap_or(FileType::Directory).as_raw_mode();
            true
        }
    });
    Ok(entries)
}

/// The type of an entry where the listing does not tell it.
fn known_type(at: BorrowedFd<'_>, name: &OsStr, listed: FileType) -> io::Result<FileType> {
    match listed {
        FileType::Unknown => type_at(at, name, AtFlags::AT_SYMLINK_NOFOLLOW),
        _ => Ok(listed),
    }
}

fn type_at(at: BorrowedFd<'_>, name: &OsStr, flags: AtFlags) -> io::Result<FileType> {
    Ok(type_of(&fstatat(at, name, flags)?))
}

fn dangling(error: &io::Error) -> String {
    format!("a link that cannot be followed: {}", cause(error))
}
