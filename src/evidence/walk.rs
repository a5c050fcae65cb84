//! All directories of disks, read until two listings of the instances path agree.
//!
//! nova renames `<uuid>` to `<uuid>_resize` and back at any time, and a listing that is under way during a rename may show
//! neither name. So the instances path is listed before and after the directories are read. Where the two differ, in names
//! or inodes, or where something that was listed has vanished when it is opened, what is new is read again. Two listings
//! can miss the same directory, where it is renamed during each: so they are also made again where the times of the
//! instances path have changed meanwhile. Filesystems keep these in ticks, some of a whole second, and a change shows in
//! the next tick at the latest: so the last listing starts a tick after the times were taken.

use std::collections::{BTreeMap, HashMap};
use std::ffi::{OsStr, OsString};
use std::io::{self, ErrorKind};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Result;
use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, SFlag, fstat, fstatat};

use super::open::{cause, has_vanished, open_examined, open_regular, retried};
use super::parallel::Workers;
use super::{Directory, Disk, Identity, disk};
use crate::errors::advice;
use crate::filesystem::is_network;
use crate::layout::{LOCKS, Layout};
use crate::time::Timestamp;

/// How directories are opened.
pub const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// How often the directories are read before the evidence counts as incomplete.
const MOST_ROUNDS: usize = 32;

/// How often a tick of a filesystem's clock is waited for before the evidence counts as incomplete.
const MOST_WAITS: usize = 8;

/// The ticks of the times that filesystems keep: those of the kernel, and a whole second on small ext3 inodes and by SFTP.
const TICK: Duration = Duration::from_millis(10);
const WHOLE_SECOND: Duration = Duration::from_secs(1);

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

impl Entry {
    fn key(&self) -> (&OsStr, u64) {
        (&self.below, self.ino)
    }
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
        let mut known: HashMap<Entry, Read> = HashMap::new();
        let mut times = Times::of(root.as_fd());
        let mut waits = 0;
        let mut listing = self.list(root.as_fd()).map_err(cannot_list)?;
        for rounds in 1..=MOST_ROUNDS {
            known.retain(|entry, _| {
                listing
                    .binary_search_by(|it| it.key().cmp(&entry.key()))
                    .is_ok_and(|at| listing[at] == *entry)
            });
            let new: Vec<&Entry> = listing.iter().filter(|it| !known.contains_key(it)).collect();
            let read = self.workers.map(&new, |entry| self.read(root.as_fd(), entry));
            let mut has_vanished = false;
            for (entry, read) in new.into_iter().zip(read) {
                match read {
                    Read::Vanished => has_vanished = true,
                    read => drop(known.insert(entry.clone(), read)),
                }
            }
            if !has_vanished && Times::of(root.as_fd()).are(&times) {
                let pause = times.until_they_tick(path);
                waits += usize::from(!pause.is_zero());
                if waits > MOST_WAITS {
                    return Ok(self.never_settled(known, rounds));
                }
                std::thread::sleep(pause);
            }
            let before_later = Times::of(root.as_fd());
            let later = self.list(root.as_fd()).map_err(cannot_list)?;
            if !has_vanished && later == listing && Times::of(root.as_fd()).are(&times) {
                return Ok(Walk { directories: self.directories(known), never_settled: None, rounds });
            }
            (listing, times) = (later, before_later);
        }
        Ok(self.never_settled(known, MOST_ROUNDS))
    }

    fn never_settled(&self, known: HashMap<Entry, Read>, rounds: usize) -> Walk {
        let never_settled = format!("directories kept changing while they were read {rounds} times");
        Walk { directories: self.directories(known), never_settled: Some(never_settled), rounds }
    }

    /// Everything in the instances path and in `snapshots`, sorted.
    fn list(&self, root: BorrowedFd<'_>) -> io::Result<Vec<Entry>> {
        let mut entries = Vec::new();
        let is_apart = |name: &OsStr| name == self.layout.subdirectory_name || name == LOCKS;
        each_entry(root, OsStr::new("."), |name, ino, listed| {
            // A directory may have any name.
            let may_be_directory = matches!(listed, Type::Directory | Type::Symlink);
            if !is_apart(name) && (may_be_directory || !disk::is_never_a_disk(name)) {
                entries.push(Entry { below: name.to_owned(), ino, listed });
            }
        })?;
        if entries.iter().any(|it| it.below == SNAPSHOTS) {
            let snapshots = each_entry(root, OsStr::new(SNAPSHOTS), |name, ino, listed| {
                if matches!(listed, Type::Directory | Type::Symlink) {
                    entries.push(Entry { below: Path::new(SNAPSHOTS).join(name).into(), ino, listed });
                }
            });
            // That it cannot be listed is found when it is read itself.
            snapshots.ok();
        }
        entries.sort_unstable_by(|a, b| a.key().cmp(&b.key()));
        Ok(entries)
    }

    fn read(&self, root: BorrowedFd<'_>, entry: &Entry) -> Read {
        let path = self.layout.instances_path.join(&entry.below);
        match entry.listed {
            Type::Directory => self.read_directory(root, entry, false),
            Type::Symlink => match fstatat(root, entry.below.as_os_str(), AtFlags::empty()) {
                Ok(target) if type_of(&target) == Type::Directory => self.read_directory(root, entry, true),
                Ok(_) => read_disk(root, &entry.below, entry.listed, &path, &self.cache_dir),
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
            listed => read_disk(root, &entry.below, listed, &path, &self.cache_dir),
        }
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
        let path = self.layout.instances_path.join(&entry.below);
        let mut listing = Dir::from_fd(opened)?;
        let mut names = Vec::new();
        for item in listing.iter() {
            let item = item?;
            let name = OsStr::from_bytes(item.file_name().to_bytes());
            if name != "."
                && name != ".."
                && !disk::is_never_a_disk(name)
                && item.file_type() != Some(Type::Directory)
            {
                names.push((name.to_owned(), item.file_type()));
            }
        }
        for (name, listed) in names {
            let Some(listed) = listed.or_else(|| type_at(listing.as_fd(), &name)) else { return Ok(false) };
            match read_disk(listing.as_fd(), &name, listed, &path.join(&name), &self.cache_dir) {
                Read::Disk(disk) => directory.disks.push(disk),
                Read::Vanished => return Ok(false),
                Read::Directory(_) | Read::NotADisk => {}
            }
        }
        Ok(true)
    }

    fn directories(&self, known: HashMap<Entry, Read>) -> BTreeMap<OsString, Directory> {
        let mut root = Directory::default();
        let mut directories = BTreeMap::new();
        for (entry, read) in known {
            match read {
                Read::Disk(disk) => root.disks.push(disk),
                Read::Directory(directory) => drop(directories.insert(entry.below, directory)),
                Read::Vanished | Read::NotADisk => {}
            }
        }
        directories.insert(OsString::new(), root);
        directories
    }
}

/// Reads what may be a disk: a regular file, a block device, or a link to one.
fn read_disk(at: BorrowedFd<'_>, name: &OsStr, listed: Type, path: &Path, cache_dir: &Path) -> Read {
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
        Ok(Some(opened)) => disk::read(path.to_owned(), &opened),
        Ok(None) => return Read::NotADisk,
        Err(error) if has_vanished(&error) => match type_at(at, name) {
            // A link that leads nowhere is there all the same.
            Some(Type::Symlink) => disk::unread(path.to_owned(), dangling(&error)),
            _ => return Read::Vanished,
        },
        Err(error) => disk::unread(path.to_owned(), cause(&error)),
    };
    if disk.problem.is_some() || disk.references.iter().any(|it| it.parent() != Some(cache_dir)) {
        disk.is_raw = disk::is_raw_by_disk_info(at, path);
    }
    Read::Disk(disk)
}

/// When an entry of a directory was last made, removed or renamed, and when that was asked.
struct Times {
    of: Option<[(i64, i64); 2]>,
    asked: Instant,
}

impl Times {
    fn of(directory: BorrowedFd<'_>) -> Self {
        let stat = fstat(directory).ok();
        let of = stat.map(|it| [(it.st_mtime, it.st_mtime_nsec), (it.st_ctime, it.st_ctime_nsec)]);
        Self { of, asked: Instant::now() }
    }

    fn are(&self, others: &Self) -> bool {
        self.of == others.of
    }

    /// How long to wait until every later change shows in other times than these. Nothing where they are old by the
    /// clock that made them, which on a network filesystem is not ours.
    fn until_they_tick(&self, path: &Path) -> Duration {
        let Some(of) = self.of else { return Duration::ZERO };
        let tick = if of.iter().all(|(_, nanoseconds)| *nanoseconds == 0) { WHOLE_SECOND } else { TICK };
        let is_old = |(seconds, nanoseconds): &(i64, i64)| {
            Timestamp::from_unix(*seconds, *nanoseconds).plus(2 * tick) < Timestamp::now()
        };
        if of.iter().all(is_old) && !is_network(path) {
            return Duration::ZERO;
        }
        tick.saturating_sub(self.asked.elapsed())
    }
}

/// Calls `with` for each entry of a directory but `.` and `..`.
fn each_entry(at: BorrowedFd<'_>, name: &OsStr, mut with: impl FnMut(&OsStr, u64, Type)) -> io::Result<()> {
    let opened = retried(|| openat(at, name, DIRECTORY, Mode::empty()))?;
    let mut listing = Dir::from_fd(opened)?;
    let mut untyped = Vec::new();
    for entry in listing.iter() {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        match entry.file_type() {
            _ if name == "." || name == ".." => {}
            Some(listed) => with(name, entry.ino(), listed),
            None => untyped.push((name.to_owned(), entry.ino())),
        }
    }
    for (name, ino) in untyped {
        // One that has gone shows in the next listing.
        if let Some(listed) = type_at(listing.as_fd(), &name) {
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
