//! The three locks of a prune, why each is of its kind, and the races that they close.
//!
//! # nova's lock on a file
//!
//! nova-compute fetches an image, and makes a resized copy of it, while it holds `<instances_path>/locks/nova-<file
//! name>`; its own image cache manager removes a file under the same lock. oslo.concurrency takes it with
//! `fcntl.lockf`, a POSIX record lock. Nothing but a record lock excludes that: flock(2), and so fd-lock and
//! `File::try_lock`, is granted beside it. A plain record lock of ours would do, but the process loses it when it
//! closes *any* descriptor of that file. So this is an open-file-description lock (`F_OFD_SETLK`): the same conflicts,
//! but it belongs to the descriptor. See [`Locks::acquire`].
//!
//! # QEMU's locks on an image
//!
//! A running QEMU holds byte-range locks on every image of a chain that it has open (QEMU's block/file-posix.c,
//! `RAW_PERM_LOCK_BASE`), of a raw backing file on byte 100 alone. `F_OFD_GETLK` that asks for a write lock on the whole
//! file shows them without taking anything. No lock proves nothing: QEMU can be told to leave them out. See
//! [`is_open_in_qemu`].
//!
//! # The run's lock
//!
//! One prune at a time works on a path. Only prunes need to know of each other here, so this is flock(2), through
//! fd-lock, on a file that stays: `locks/imagecache-prune.lock`. See [`Locks::exclusively`].
//!
//! # The races
//!
//! *nova fetches the same image.* It does so under the file's lock. Either it is first: then we wait for `--lock-wait`
//! and leave the file, or get the lock afterwards and find a file with another inode or mtime than was judged. Or we
//! are first: then nova waits, finds no file when it gets the lock, and fetches it. A resized copy is made under the
//! lock of the *original* (`fetch_func_sync` of nova/virt/libvirt/imagebackend.py locks the base file's name), so for a
//! resized or small copy we hold both, the original's first. No order of ours can deadlock with nova, which never
//! waits for one of these locks while it holds another, and we never wait for ever.
//!
//! *nova starts an instance on the file between verdict and unlink.* Under the file's lock we list the instances path
//! again and read every directory that is new or has changed ([`SecondLook`](crate::evidence::SecondLook)): an overlay
//! that names the file keeps it. An overlay that is not there yet announces itself: `Qcow2.create_image` of nova's
//! imagebackend.py looks whether the base file exists, sets its mtime, and then makes the overlay under the file's lock,
//! which we hold. So the last thing before the unlink is to compare the mtime with the one that was judged. What
//! remains is a nova that looked before our unlink and sets the mtime after our comparison, a few microseconds: its next
//! step finds no base file, and the start of that instance fails and is scheduled again. Nothing that an instance
//! has written is ever at stake, for then the overlay is there.
//!
//! *A lock file is unlinked under us.* nova unlinks lock files without holding them
//! (`lockutils.remove_external_lock_file`). A lock on a file that has no name excludes nobody who comes later: once we
//! have a lock we compare our descriptor with what the path names, and start again where they differ. Between two
//! comparisons only another prune, which the run's lock excludes, or nova's own cache manager could unlink it, and the
//! latter does so after it removed the cache file, which we then find gone.
//!
//! *We unlink a lock file under nova.* Only after the cache file is gone, and while we hold the lock. A nova that has
//! opened the file but waits for the lock gets a lock without a name, and one that comes later another: both may fetch
//! the image at once. That is so with nova's own removal, too, which is why it is not done for a file that stays.
//!
//! *Two prunes on two hosts.* flock(2) on NFS is a record lock on the server since Linux 2.6.12, so they exclude each
//! other as on one host. On a filesystem that keeps flock(2) to itself, and in the moment before the file of the run's
//! lock exists, the locks on the files remain: whoever comes second finds the file gone and leaves it at
//! that.
//!
//! *A kill at any point.* The kernel drops all three locks. What prune makes under `locks` is made under a temporary
//! name, given to the owner of the instances path, and only then linked into place, so no lock file that nova could not
//! open is ever seen. A lock file that prune made has an mtime of its own ([`MADE_BY_PRUNE`]), and so has one of nova's
//! that prune is about to remove ([`GOES_WITH_ITS_FILE`]): the next run finds them by that and removes them, the latter
//! only if the cache file has gone, along with temporary files. No mark is data: on a full disk an inode can still be
//! touched. A cache file that is gone while its `.info` is there leaves an `.info` file alone, which is judged as such;
//! it was made old before, so that it need not wait for another minimum age.

use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result};
use nix::dir::Dir;
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, open, openat, renameat};
use nix::libc;
use nix::sys::stat::{Mode, SFlag, fstat, fstatat, futimens, mkdirat};
use nix::sys::time::TimeSpec;
use nix::unistd::{Gid, Uid, UnlinkatFlags, fchown, fchownat, linkat, unlinkat};

use crate::cache_name::{CacheName, Kind};
use crate::evidence::{Identity, Layout};
use crate::exit::AlreadyRunning;

/// The run's lock, under nova's directory of locks.
const RUN_LOCK: &str = "imagecache-prune.lock";

/// What every temporary name begins with.
const TEMPORARY: &str = ".imagecache-prune.";

/// The mtime, in seconds since 1970, of a lock file that prune made: 2001-09-09T01:46:40Z, long before nova made any.
/// Opening for append and locking, which is all that nova does to it, leave it as it is.
const MADE_BY_PRUNE: libc::time_t = 1_000_000_000;

/// Likewise of a lock file of nova's that is to go with its cache file.
const GOES_WITH_ITS_FILE: libc::time_t = 1_000_000_001;

/// How long to wait between two attempts to get a lock.
const PAUSE: Duration = Duration::from_millis(10);

/// nova's directory of lock files.
#[derive(Debug)]
pub struct Locks {
    directory: OwnedFd,
    path: PathBuf,
    /// Whom everything made here belongs to: the owner of the instances path, as whom nova runs.
    owner: (Uid, Gid),
}

/// One of nova's locks, held until it is dropped.
#[derive(Debug)]
pub struct HeldLock {
    file: File,
    name: OsString,
    /// Whether no nova made it.
    is_ours: bool,
}

impl Locks {
    /// Opens the directory of locks; `None` where there is none.
    ///
    /// # Errors
    /// Where it is there and cannot be opened.
    pub fn open(layout: &Layout) -> Result<Option<Self>> {
        let path = layout.locks_dir();
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let directory = match open(&path, flags, Mode::empty()) {
            Ok(directory) => directory,
            Err(Errno::ENOENT) => return Ok(None),
            Err(errno) => {
                return Err(errno).with_context(|| {
                    format!("cannot open {}: run this as root or as nova's user", path.display())
                });
            }
        };
        let instances = fs_err::metadata(&layout.instances_path)?;
        let owner = (Uid::from_raw(instances.uid()), Gid::from_raw(instances.gid()));
        Ok(Some(Self { directory, path, owner }))
    }

    /// Opens the directory of locks with the file of the run's lock in it; makes what is not there.
    ///
    /// # Errors
    /// Where they can be neither opened nor made.
    pub fn open_or_make(layout: &Layout) -> Result<Self> {
        loop {
            if let Some(locks) = Self::open(layout)? {
                // While it is empty another prune may put its own in its place, see `make_directory`.
                match locks.open_file(OsStr::new(RUN_LOCK), false) {
                    Err(error) if error.kind() == ErrorKind::NotFound && locks.is_replaced() => continue,
                    result => result.with_context(|| locks.cannot_lock())?,
                };
                return Ok(locks);
            }
            make_directory(layout).with_context(|| {
                format!("cannot make {}: run this as root or as nova's user", layout.locks_dir().display())
            })?;
        }
    }

    /// Whether the directory that is open is that of no name any more.
    fn is_replaced(&self) -> bool {
        fstat(&self.directory).is_ok_and(|stat| stat.st_nlink == 0)
    }

    fn cannot_lock(&self) -> String {
        let path = self.path.join(RUN_LOCK);
        format!("cannot lock {}: run this as root or as the owner of the instances path", path.display())
    }

    /// Whether the file of the run's lock is there.
    pub fn has_run_lock(&self) -> bool {
        fstatat(&self.directory, RUN_LOCK, AtFlags::AT_SYMLINK_NOFOLLOW).is_ok()
    }

    /// Does the work of a prune while no other prune of this path runs.
    ///
    /// # Errors
    /// [`AlreadyRunning`]; where the lock cannot be taken; and those of the work.
    pub fn exclusively<T>(&self, layout: &Layout, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let cannot_lock = || self.cannot_lock();
        loop {
            let (file, _) = self.open_file(OsStr::new(RUN_LOCK), false).with_context(cannot_lock)?;
            let mut lock = fd_lock::RwLock::new(file);
            let guard = match lock.try_write() {
                Ok(guard) => guard,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    return Err(AlreadyRunning(layout.instances_path.display().to_string()).into());
                }
                Err(error) => return Err(error).with_context(cannot_lock),
            };
            if self.names(OsStr::new(RUN_LOCK), &guard).with_context(cannot_lock)? {
                return work();
            }
        }
    }

    /// Takes nova's lock on a cache file, waiting until `deadline`, or for ever; `None` where somebody else still has it then.
    ///
    /// # Errors
    /// Where the lock file can be neither opened nor made, or the filesystem has no such locks.
    pub fn acquire(&self, cache_file: &OsStr, deadline: Option<Instant>) -> io::Result<Option<HeldLock>> {
        let mut name = OsString::from("nova-");
        name.push(cache_file);
        self.acquire_named(name, deadline)
    }

    fn acquire_named(&self, name: OsString, deadline: Option<Instant>) -> io::Result<Option<HeldLock>> {
        loop {
            let (file, is_ours) = self.open_file(&name, true)?;
            let is_locked = match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file(libc::F_WRLCK))) {
                Ok(_) => true,
                Err(Errno::EAGAIN | Errno::EACCES) => false,
                Err(errno) => return Err(errno.into()),
            };
            // A lock file that has lost its name excludes nobody.
            if is_locked && self.names(&name, &file)? {
                return Ok(Some(HeldLock { file, name, is_ours }));
            }
            if !is_locked {
                let left = deadline.map_or(PAUSE, |it| it.saturating_duration_since(Instant::now()));
                if left.is_zero() {
                    return Ok(None);
                }
                std::thread::sleep(PAUSE.min(left));
            }
        }
    }

    /// Marks a lock file that is to be removed when its cache file is, so that the next run removes it after a kill.
    pub fn mark_for_removal(&self, lock: &HeldLock) {
        if !lock.is_ours {
            // Without the mark a kill leaves a spare lock file, no more.
            let _ignored = mark(&lock.file, GOES_WITH_ITS_FILE);
        }
    }

    /// Removes a lock file that is held. A kill before that, and even a failure, leave a spare file, no more.
    ///
    /// # Errors
    /// Where it cannot be removed.
    pub fn remove(&self, lock: &HeldLock) -> io::Result<()> {
        Ok(unlinkat(&self.directory, lock.name.as_os_str(), UnlinkatFlags::NoRemoveDir)?)
    }

    /// Removes what a prune that was killed has left here and in the instances path. The run's lock must be held.
    ///
    /// # Errors
    /// Where the directories cannot be listed. What cannot be removed stays.
    pub fn sweep(&self, layout: &Layout) -> io::Result<()> {
        for name in list(open(&self.path, directory_flags(), Mode::empty())?)? {
            if name.as_bytes().starts_with(TEMPORARY.as_bytes()) {
                let _gone_or_stays = unlinkat(&self.directory, name.as_os_str(), UnlinkatFlags::NoRemoveDir);
            } else if let Some(cache_file) = self.cache_file_of_left_over(&name)
                && let Ok(Some(lock)) = self.acquire_named(name.clone(), Some(Instant::now()))
                && (lock.is_ours || !is_there(&layout.cache_dir().join(cache_file)))
            {
                let _gone_or_stays = self.remove(&lock);
            }
        }
        let instances = open(&layout.instances_path, directory_flags(), Mode::empty())?;
        for name in list(instances.try_clone()?)? {
            if name.as_bytes().starts_with(TEMPORARY.as_bytes()) {
                let _gone_or_stays = unlinkat(&instances, name.as_os_str(), UnlinkatFlags::RemoveDir);
            }
        }
        Ok(())
    }

    /// The name of the cache file that this is a lock file of, where it bears a mark.
    fn cache_file_of_left_over<'a>(&self, name: &'a OsStr) -> Option<&'a OsStr> {
        let cache_file = OsStr::from_bytes(name.as_bytes().strip_prefix(b"nova-")?);
        let stat = fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok()?;
        let is_marked =
            is_regular(stat.st_mode) && [MADE_BY_PRUNE, GOES_WITH_ITS_FILE].contains(&stat.st_mtime);
        (is_marked && CacheName::parse(cache_file).kind() != Kind::Other).then_some(cache_file)
    }

    /// Opens a file here for append, as nova does, or makes it; says whether it bears the mark of one that prune made.
    fn open_file(&self, name: &OsStr, marked: bool) -> io::Result<(File, bool)> {
        // Never through a link: the directory belongs to another user than root.
        let flags =
            OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        loop {
            match openat(&self.directory, name, flags, Mode::empty()) {
                Ok(file) => {
                    let file = File::from(file);
                    let metadata = file.metadata()?;
                    if !metadata.is_file() {
                        return Err(io::Error::other("not a regular file"));
                    }
                    return Ok((file, metadata.mtime() == MADE_BY_PRUNE));
                }
                Err(Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
            let temporary = temporary_name();
            let flags = OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_CREAT | OFlag::O_EXCL;
            let mode = Mode::S_IRUSR | Mode::S_IWUSR | Mode::S_IRGRP | Mode::S_IROTH;
            let file = File::from(openat(&self.directory, temporary.as_str(), flags, mode)?);
            let linked = self
                .give_to_owner(&file)
                .and_then(|()| if marked { mark(&file, MADE_BY_PRUNE) } else { Ok(()) })
                .and_then(|()| {
                    linkat(&self.directory, temporary.as_str(), &self.directory, name, AtFlags::empty())
                });
            let unlinked = unlinkat(&self.directory, temporary.as_str(), UnlinkatFlags::NoRemoveDir);
            match linked {
                Ok(()) => match unlinked {
                    Ok(()) | Err(Errno::ENOENT) => return Ok((file, marked)),
                    Err(errno) => return Err(errno.into()),
                },
                // Somebody else was first, or another prune took our temporary file for one that was left behind.
                Err(Errno::EEXIST | Errno::ENOENT) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    fn give_to_owner(&self, file: &File) -> nix::Result<()> {
        let metadata =
            file.metadata().map_err(|error| Errno::from_raw(error.raw_os_error().unwrap_or(libc::EIO)))?;
        if (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid())) == self.owner {
            return Ok(());
        }
        fchown(file, Some(self.owner.0), Some(self.owner.1))
    }

    /// Whether a name here still stands for the file that is open.
    fn names(&self, name: &OsStr, file: &File) -> io::Result<bool> {
        let named = match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Identity { dev: stat.st_dev, ino: stat.st_ino },
            Err(Errno::ENOENT) => return Ok(false),
            Err(errno) => return Err(errno.into()),
        };
        Ok(named == Identity::from(&file.metadata()?))
    }
}

impl HeldLock {
    /// Whether the lock file may go with any removal: no nova made it.
    pub const fn is_ours(&self) -> bool {
        self.is_ours
    }
}

/// Whether a QEMU has an image open: whether anybody holds a lock on a byte of it. It can prove use, never the lack
/// of it.
///
/// # Errors
/// Where the filesystem cannot answer.
pub fn is_open_in_qemu(image: impl AsFd) -> io::Result<bool> {
    // Asking for a read lock would show nothing: QEMU's locks are shared ones.
    let mut lock = whole_file(libc::F_WRLCK);
    fcntl(image, FcntlArg::F_OFD_GETLK(&mut lock))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

fn whole_file(kind: libc::c_int) -> libc::flock {
    libc::flock {
        l_type: kind as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        // Must be 0 for open-file-description locks.
        l_pid: 0,
    }
}

fn mark(file: &File, mtime: libc::time_t) -> nix::Result<()> {
    futimens(file, &TimeSpec::new(0, libc::UTIME_OMIT), &TimeSpec::new(mtime, 0))
}

/// Makes `locks` under a temporary name, gives it to the owner of the instances path and moves it into place.
fn make_directory(layout: &Layout) -> Result<()> {
    let metadata = fs_err::metadata(&layout.instances_path)?;
    let instances = open(&layout.instances_path, directory_flags(), Mode::empty())?;
    let temporary = temporary_name();
    mkdirat(
        &instances,
        temporary.as_str(),
        Mode::S_IRWXU | Mode::S_IRGRP | Mode::S_IXGRP | Mode::S_IROTH | Mode::S_IXOTH,
    )?;
    let (uid, gid) = (Uid::from_raw(metadata.uid()), Gid::from_raw(metadata.gid()));
    let made = fstatat(&instances, temporary.as_str(), AtFlags::AT_SYMLINK_NOFOLLOW).and_then(|stat| {
        if (stat.st_uid, stat.st_gid) == (uid.as_raw(), gid.as_raw()) {
            return Ok(());
        }
        fchownat(&instances, temporary.as_str(), Some(uid), Some(gid), AtFlags::AT_SYMLINK_NOFOLLOW)
    });
    // Over an empty directory that nova has just made this is as good as none; one with files in it stays.
    let moved = made.and_then(|()| renameat(&instances, temporary.as_str(), &instances, "locks"));
    if moved.is_err() {
        let _gone_or_stays = unlinkat(&instances, temporary.as_str(), UnlinkatFlags::RemoveDir);
    }
    match moved {
        // ENOENT: another prune took it for one that was left behind.
        Ok(()) | Err(Errno::EEXIST | Errno::ENOTEMPTY | Errno::ENOENT) => Ok(()),
        Err(errno) => Err(errno.into()),
    }
}

const fn directory_flags() -> OFlag {
    OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC)
}

/// The names in a directory.
fn list(directory: OwnedFd) -> io::Result<Vec<OsString>> {
    let mut names = Vec::new();
    for entry in Dir::from_fd(directory)?.iter() {
        names.push(OsStr::from_bytes(entry?.file_name().to_bytes()).to_owned());
    }
    Ok(names)
}

/// A name that no other process has: on shared storage it may be one of another machine.
fn temporary_name() -> String {
    let mut random = [0; 8];
    // Where there is no such device the name is less random; O_EXCL still tells.
    let _filled = fs_err::File::open("/dev/urandom").and_then(|mut it| it.read_exact(&mut random));
    format!("{TEMPORARY}{}.{:016x}", std::process::id(), u64::from_ne_bytes(random))
}

/// Whether a path names anything, or might.
fn is_there(path: &Path) -> bool {
    !fs_err::symlink_metadata(path).is_err_and(|error| error.kind() == ErrorKind::NotFound)
}

const fn is_regular(mode: libc::mode_t) -> bool {
    mode & SFlag::S_IFMT.bits() == SFlag::S_IFREG.bits()
}
