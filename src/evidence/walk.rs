//! All directories of disks, read until two listings of the instances path agree.
//!
//! nova renames `<uuid>` to `<uuid>_resize` and back at any time. So the instances path is listed before and after the
//! directories are read, each time by one system call, which no rename can divide. Where the two listings differ, in names
//! or inodes, or where something that was listed has vanished when it is opened, what is new is read again. Nothing here
//! depends on the mtime of a directory or on a clock.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use anyhow::Result;
use nix::dir::Type;
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::open::{cause, has_vanished, open_examined, open_regular, retried};
use super::parallel::Workers;
use super::{Directory, Disk, Identity, disk, split};
use crate::errors::advice;
use crate::layout::{LOCKS, Layout};
use crate::listing::{each_entry, each_entry_at_once};
use crate::time::Timestamp;

/// How directories are opened.
pub const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// How often the directories are read before the evidence counts as incomplete.
const MOST_ROUNDS: usize = 32;

/// The one directory whose directories are read, too (nova's `snapshots_directory`).
const SNAPSHOTS: &str = "snapshots";

pub struct Walk {
    pub directories: BTreeMap<OsString, Directory>,
    pub never_settled: Option<String>,
    pub rounds: usize,
}

/// An entry of the instances path or of `snapshots`, by its path below the instances path.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
struct Entry {
    below: OsString,
    ino: u64,
    listed: Type,
}

/// What was read of an entry.
enum Read {
    /// It is gone or has become something else, or something in it has.
    Vanished,
    Directory(Directory),
    Disk(Disk),
    NotADisk,
}

pub struct Walker<'a> {
    pub layout: &'a Layout,
    pub cache_dir: PathBuf,
    /// The cache directory, which is read apart.
    pub cache: Option<Identity>,
    pub workers: &'a Workers<'a>,
}

impl Walker<'_> {
    pub fn walk(&self) -> Result<Walk> {
        let path = &self.layout.instances_path;
        let cannot_list = |error: io::Error| {
            anyhow::anyhow!(
                "cannot list the instances path {}: {}: {}",
                path.display(),
                cause(&error),
                advice(&error)
            )
        };
        let root = retried(|| open(path, DIRECTORY, Mode::empty())).map_err(|it| cannot_list(it.into()))?;
        // What was read in earlier rounds.
        let mut known: HashMap<Entry, Read> = HashMap::new();
        let mut rounds = 0;
        let mut listing = self.list(root.as_fd()).map_err(cannot_list)?;
        loop {
            rounds += 1;
            let mut read: Vec<Option<Read>> = listing.iter().map(|it| known.remove(it)).collect();
            let new: Vec<usize> = (0..listing.len()).filter(|index| read[*index].is_none()).collect();
            let read_now = self.workers.map(&new, |index| self.read(root.as_fd(), &listing[*index]));
            let has_vanished = read_now.iter().any(|it| matches!(it, Read::Vanished));
            for (index, now) in new.into_iter().zip(read_now) {
                read[index] = Some(now);
            }
            let later = self.list(root.as_fd()).map_err(cannot_list)?;
            let has_settled = !has_vanished && later == listing;
            let read = listing.into_iter().zip(read.into_iter().flatten());
            if has_settled || rounds == MOST_ROUNDS {
                let never_settled = (!has_settled)
                    .then(|| format!("directories kept changing while they were read {MOST_ROUNDS} times"));
                return Ok(Walk { directories: directories(read), never_settled, rounds });
            }
            known = read.filter(|(_, read)| !matches!(read, Read::Vanished)).collect();
            listing = later;
        }
    }

    /// Everything in the instances path and in `snapshots`, sorted.
    fn list(&self, root: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let is_apart = |name: &OsStr| name == self.layout.subdirectory_name || name == LOCKS;
        each_typed_entry(root, OsStr::new("."), |name, ino, listed| {
            // A directory may have any name.
            let may_be_directory = matches!(listed, Type::Directory | Type::Symlink);
            if !is_apart(name) && (may_be_directory || !disk::is_never_a_disk(name)) {
                entries.push(Entry { below: name.to_owned(), ino, listed });
            }
        })?;
        if entries.iter().any(|it| it.below == SNAPSHOTS) {
            let snapshots = each_typed_entry(root, OsStr::new(SNAPSHOTS), |name, ino, listed| {
                if matches!(listed, Type::Directory | Type::Symlink) {
                    entries.push(Entry { below: Path::new(SNAPSHOTS).join(name).into(), ino, listed });
                }
            });
            // That it cannot be listed is found when it is read itself.
            snapshots.ok();
        }
        entries.sort_unstable_by(|a, b| (&a.below, a.ino).cmp(&(&b.below, b.ino)));
        // A listing may show a file twice that was renamed during it.
        entries.dedup();
        Ok(entries)
    }

    fn read(&self, root: BorrowedFd<'_>, entry: &Entry) -> Read {
        let disk =
            || read_disk(root, &entry.below, entry.listed, self.path(&entry.below, None), &self.cache_dir);
        match entry.listed {
            Type::Directory => self.read_directory(root, entry, false),
            Type::Symlink => match fstatat(root, entry.below.as_os_str(), AtFlags::empty()) {
                Ok(target) if type_of(&target) == Type::Directory => self.read_directory(root, entry, true),
                Ok(_) => disk(),
                // Among directories a link that leads nowhere is a directory that cannot be read.
                Err(errno) => match fstatat(root, entry.below.as_os_str(), AtFlags::AT_SYMLINK_NOFOLLOW) {
                    Ok(_) => Read::Directory(Directory {
                        is_link: true,
                        problem: Some(dangling(&errno.into())),
                        ..Directory::default()
                    }),
                    Err(_) => Read::Vanished,
                },
            },
            _ => disk(),
        }
    }

    /// The path of an entry, or of a file in it.
    fn path(&self, below: &OsStr, name: Option<&OsStr>) -> PathBuf {
        let root = &self.layout.instances_path;
        // At once as long as it gets.
        let mut path =
            PathBuf::with_capacity(root.as_os_str().len() + below.len() + name.map_or(0, OsStr::len) + 2);
        path.extend([root.as_os_str(), below]);
        path.extend(name);
        path
    }

    fn read_directory(&self, root: BorrowedFd<'_>, entry: &Entry, is_link: bool) -> Read {
        let mut directory = Directory { is_link, ..Directory::default() };
        match self.list_disks(root, entry, &mut directory) {
            Ok(true) => {}
            Ok(false) => return Read::Vanished,
            Err(error) if has_vanished(&error) || error.kind() == ErrorKind::NotADirectory => {
                return Read::Vanished;
            }
            Err(error) => directory.problem = Some(cause(&error)),
        }
        directory.disks.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        Read::Directory(directory)
    }

    /// Lists a directory and reads the disks in it; `false` where one has vanished.
    fn list_disks(&self, root: BorrowedFd<'_>, entry: &Entry, directory: &mut Directory) -> io::Result<bool> {
        let no_follow = if directory.is_link { OFlag::empty() } else { OFlag::O_NOFOLLOW };
        let opened = retried(|| openat(root, entry.below.as_os_str(), DIRECTORY | no_follow, Mode::empty()))?;
        let stat = fstat(&opened)?;
        directory.mtime = Some(Timestamp::from_unix(stat.st_mtime, stat.st_mtime_nsec));
        if self.cache == Some(Identity::from(&stat)) {
            directory.is_cache = true;
            return Ok(true);
        }
        let at = opened.as_fd();
        let mut names = Vec::new();
        each_entry(at, |name, _, listed| {
            if !disk::is_never_a_disk(name) && listed != Some(Type::Directory) {
                names.push((name.to_owned(), listed));
            }
        })?;
        directory.disks.reserve_exact(names.len());
        for (name, listed) in names {
            let Some(listed) = listed.or_else(|| type_at(at, &name)) else { return Ok(false) };
            let path = self.path(&entry.below, Some(&name));
            match read_disk(at, &name, listed, path, &self.cache_dir) {
                Read::Disk(disk) => directory.disks.push(disk),
                Read::Vanished => return Ok(false),
                Read::Directory(_) | Read::NotADisk => {}
            }
        }
        Ok(true)
    }
}

/// What was read, by name, and the disks that lie directly in the instances path.
fn directories(read: impl Iterator<Item = (Entry, Read)>) -> BTreeMap<OsString, Directory> {
    let mut root = Directory::default();
    let mut directories = vec![];
    for (entry, read) in read {
        match read {
            Read::Disk(disk) => root.disks.push(disk),
            Read::Directory(directory) => directories.push((entry.below, directory)),
            Read::Vanished | Read::NotADisk => {}
        }
    }
    directories.push((OsString::new(), root));
    directories.into_iter().collect()
}

/// Reads what may be a disk: a regular file, a block device, or a link to one.
fn read_disk(at: BorrowedFd<'_>, name: &OsStr, listed: Type, path: PathBuf, cache_dir: &Path) -> Read {
    let opened = match listed {
        Type::File => match open_regular(at, name) {
            // It was a regular file when it was listed.
            Ok(None) => return Read::Vanished,
            opened => opened,
        },
        Type::BlockDevice | Type::Symlink => open_examined(at, name),
        _ => return Read::NotADisk,
    };
    let mut disk = match opened {
        Ok(Some(opened)) => disk::read(path, &opened),
        Ok(None) => return Read::NotADisk,
        Err(error) if has_vanished(&error) => match type_at(at, name) {
            // A link that leads nowhere is there all the same.
            Some(Type::Symlink) => disk::unread(path, dangling(&error)),
            _ => return Read::Vanished,
        },
        Err(error) => disk::unread(path, cause(&error)),
    };
    // By their text, for paths compare slowly; a name that is of the cache all the same costs no more than a look.
    let cache_dir = cache_dir.as_os_str().as_bytes();
    let is_elsewhere = |it: &PathBuf| split(it).is_none_or(|(directory, _)| directory != cache_dir);
    if disk.problem.is_some() || disk.references.iter().any(is_elsewhere) {
        disk.is_raw = disk::is_raw_by_disk_info(at, &disk.path);
    }
    Read::Disk(disk)
}

/// Calls `with` for each entry of a directory that has a type.
fn each_typed_entry(
    at: BorrowedFd<'_>,
    name: &OsStr,
    mut with: impl FnMut(&OsStr, u64, Type),
) -> io::Result<()> {
    let opened = retried(|| openat(at, name, DIRECTORY, Mode::empty()))?;
    let mut untyped = Vec::new();
    each_entry_at_once(opened.as_fd(), |name, ino, listed| match listed {
        Some(listed) => with(name, ino, listed),
        None => untyped.push((name.to_owned(), ino)),
    })?;
    for (name, ino) in untyped {
        // One that has gone shows in the next listing.
        if let Some(listed) = type_at(opened.as_fd(), &name) {
            with(&name, ino, listed);
        }
    }
    Ok(())
}

fn type_at(at: BorrowedFd<'_>, name: &OsStr) -> Option<Type> {
    fstatat(at, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok().map(|it| type_of(&it))
}

/// What an entry is, as listings say it.
pub fn type_of(stat: &FileStat) -> Type {
    match SFlag::from_bits_truncate(stat.st_mode & SFlag::S_IFMT.bits()) {
        SFlag::S_IFLNK => Type::Symlink,
        SFlag::S_IFDIR => Type::Directory,
        SFlag::S_IFREG => Type::File,
        SFlag::S_IFBLK => Type::BlockDevice,
        SFlag::S_IFCHR => Type::CharacterDevice,
        SFlag::S_IFIFO => Type::Fifo,
        _ => Type::Socket,
    }
}

fn dangling(error: &io::Error) -> String {
    format!("a link that cannot be followed: {}", cause(error))
}
