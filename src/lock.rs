//! nova's locks on cache files, and the lock that lets one prune at a time work on a path.
//!
//! nova-compute fetches an image, and makes a resized copy of it, while it holds `<instances_path>/locks/nova-<file
//! name>`; its own image cache manager removes a file under the same lock. oslo.concurrency takes it with
//! `fcntl.lockf`, a POSIX record lock. flock(2), and so fd-lock, is granted beside that. A record lock of ours would do,
//! but a process loses it when it closes *any* descriptor of the file. So this is an open-file-description lock
//! (`F_OFD_SETLK`): the same conflicts, but it belongs to the descriptor.
//!
//! nova unlinks lock files without holding them. A lock on a file without a name excludes nobody who comes later: so a lock
//! counts only while its descriptor is what the path names, the directory of locks included ([`HeldLock::is_current`]).
//!
//! Two prunes on two hosts: flock(2) on NFS is a record lock on the server since Linux 2.6.12. Where a filesystem keeps it
//! to one host, nova's locks on the files remain: whoever comes second finds the file gone.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::OwnedFd;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use anyhow::{Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, FcntlArg, OFlag, fcntl, openat};
use nix::sys::stat::{Mode, fstat, fstatat, mkdirat, umask};
use nix::unistd::{UnlinkatFlags, unlinkat};
use rustix::fs::FileType;

use crate::cache_name::{CacheName, Kind};
use crate::errors::cannot;
use crate::evidence::{Identity, retried, whole_file};
use crate::exit::{Exit, Failure};
use crate::layout::{LOCKS, Layout, nova_lock_name};
use crate::listing::DIRECTORY;
use crate::owner::Owner;
use crate::processes;

/// The run's lock, under nova's directory of locks.
const RUN_LOCK: &str = "imagecache-prune.lock";

/// How long to wait between two attempts to get a lock.
const PAUSE: Duration = Duration::from_millis(10);

/// nova's directory of lock files. Everything in it is opened and made as its owner.
#[derive(Debug)]
pub struct Locks {
    directory: OwnedFd,
    identity: Identity,
    /// Of the files that are made in it.
    mode: Mode,
    /// Where it must still be found.
    instances: OwnedFd,
    path: PathBuf,
    owner: Owner,
}

/// One of nova's locks, held until it is dropped.
#[derive(Debug)]
pub struct HeldLock {
    _file: File,
    identity: Identity,
    name: OsString,
}

/// Why a lock could not be had.
#[derive(Clone, Debug)]
pub enum NotHeld {
    /// Somebody else has it: in words.
    Busy(String),
    Failed(String),
}

/// The locks of a batch by the name of the cache file.
pub type Batch = BTreeMap<OsString, Result<HeldLock, NotHeld>>;

/// Whether a prune of this path has come as far as its lock before.
pub fn has_run_lock(layout: &Layout) -> bool {
    fs_err::symlink_metadata(layout.locks_dir().join(RUN_LOCK)).is_ok()
}

impl Locks {
    /// Opens the directory of locks of an instances path that is open, or makes it.
    pub fn open(layout: &Layout, instances: &OwnedFd, owner: Owner) -> Result<Self> {
        let path = layout.locks_dir();
        let _as_owner = owner.assume()?;
        // Whom a directory lets in by its group must be able to use what is made in it, whatever this process's umask.
        umask(Mode::S_IWOTH);
        let mode_in = |directory: &OwnedFd, mode| -> Result<Mode> {
            Ok(Mode::from_bits_truncate(mode | fstat(directory)?.st_mode & Mode::S_IWGRP.bits()))
        };
        match mkdirat(instances, LOCKS, mode_in(instances, 0o755)?) {
            Ok(()) | Err(Errno::EEXIST) => {}
            Err(errno) => return Err(cannot("make", &path, errno)),
        }
        let directory = openat(instances, LOCKS, DIRECTORY, Mode::empty())
            .map_err(|errno| cannot("open", &path, errno))?;
        let identity = Identity::from(&fstat(&directory)?);
        let mode = mode_in(&directory, 0o644)?;
        Ok(Self { directory, identity, mode, instances: instances.try_clone()?, path, owner })
    }

    /// Does the work of a prune while no other prune of this path runs.
    ///
    /// # Errors
    /// Where another prune is running; where the lock cannot be taken; and those of the work.
    pub fn exclusively<T>(&self, layout: &Layout, work: impl FnOnce() -> Result<T>) -> Result<T> {
        let cannot_lock = |error: io::Error| cannot("lock", &self.path.join(RUN_LOCK), error);
        loop {
            let (file, identity) =
                self.open_file(OsStr::new(RUN_LOCK), OFlag::O_CREAT).map_err(cannot_lock)?;
            let mut lock = fd_lock::RwLock::new(file);
            let _guard = match lock.try_write() {
                Ok(guard) => guard,
                Err(error) if error.kind() == ErrorKind::WouldBlock => {
                    let path = layout.instances_path.display();
                    let message = format!(
                        "another prune of {path} is running: wait for it to end, then run this again"
                    );
                    return Err(Failure { exit: Exit::AlreadyRunning, message }.into());
                }
                Err(error) => return Err(cannot_lock(error)),
            };
            if !self.is_in_place() {
                bail!("{}: replaced while it was locked: run this again", self.path.display());
            }
            // Somebody may have removed it meanwhile.
            if self.names(OsStr::new(RUN_LOCK), identity).map_err(cannot_lock)? {
                return work();
            }
        }
    }

    /// Takes nova's locks of these cache files, all until one deadline, and none after `is_over`.
    pub fn acquire(
        &self,
        cache_files: &BTreeSet<OsString>,
        wait: Duration,
        is_over: impl Fn() -> bool,
    ) -> Batch {
        // None where that is out of a clock's range: then it waits until it has them.
        let deadline = Instant::now().checked_add(wait);
        let mut batch = Batch::new();
        let mut left: Vec<&OsString> = cache_files.iter().collect();
        loop {
            left.retain(|cache_file| match self.try_lock(cache_file) {
                Ok(Some(held)) => {
                    batch.insert((*cache_file).clone(), Ok(held));
                    false
                }
                Ok(None) => true,
                Err(error) => {
                    let why = cannot("lock", &self.path.join(nova_lock_name(cache_file)), error);
                    batch.insert((*cache_file).clone(), Err(NotHeld::Failed(why.to_string())));
                    false
                }
            });
            let is_late = deadline.is_some_and(|it| Instant::now() >= it);
            if left.is_empty() || is_late || is_over() {
                break;
            }
            std::thread::sleep(
                deadline.map_or(PAUSE, |it| PAUSE.min(it.saturating_duration_since(Instant::now()))),
            );
        }
        for cache_file in left {
            batch.insert(cache_file.clone(), Err(NotHeld::Busy(self.holder(cache_file))));
        }
        batch
    }

    /// Takes nova's lock of a cache file if it is free.
    fn try_lock(&self, cache_file: &OsStr) -> io::Result<Option<HeldLock>> {
        let name = nova_lock_name(cache_file);
        loop {
            let (file, identity) = self.open_file(&name, OFlag::O_CREAT)?;
            match fcntl(&file, FcntlArg::F_OFD_SETLK(&whole_file())) {
                // A lock file that has lost its name excludes nobody. The deadline ends this, whoever replaces it how often.
                Ok(_) if !self.names(&name, identity)? => return Ok(None),
                Ok(_) => return Ok(Some(HeldLock { _file: file, identity, name })),
                Err(Errno::EAGAIN | Errno::EACCES) => return Ok(None),
                Err(Errno::EINTR) => {}
                Err(errno) => return Err(errno.into()),
            }
        }
    }

    /// Who holds the lock of a cache file, in words.
    fn holder(&self, cache_file: &OsStr) -> String {
        let mut lock = whole_file();
        let path = self.path.join(nova_lock_name(cache_file));
        let asked = self
            .open_file(&nova_lock_name(cache_file), OFlag::empty())
            .map(|(file, _)| fcntl(&file, FcntlArg::F_OFD_GETLK(&mut lock)));
        let who = match asked {
            // Locks of open file descriptions, and those of other hosts, have no process.
            Ok(Ok(_)) if lock.l_pid > 0 => processes::describe(lock.l_pid),
            _ => "another process".into(),
        };
        format!("{who} holds nova's lock {}", path.display())
    }

    /// Removes these held lock files, of cache files that are gone, but for those that another process has open: if one were
    /// unlinked while a nova polls for it, two novas could fetch one image at once. What stays is harmless.
    pub fn remove_spare<'l>(
        &self,
        held: impl IntoIterator<Item = (&'l OsStr, &'l HeldLock)>,
        is_absent: impl Fn(&OsStr) -> bool,
    ) {
        let held: Vec<_> = held.into_iter().collect();
        let files = held.iter().map(|(_, lock)| (lock.identity, lock.name.clone())).collect();
        let Ok(users) = processes::users_of(&files) else { return };
        let Ok(_as_owner) = self.owner.assume() else { return };
        for (cache_file, lock) in held {
            if !users.contains_key(&lock.identity) && lock.is_current(self) && is_absent(cache_file) {
                unlinkat(&self.directory, lock.name.as_os_str(), UnlinkatFlags::NoRemoveDir).ok();
            }
        }
    }

    /// Opens a file here for append, as nova does, never through a link.
    fn open_file(&self, name: &OsStr, create: OFlag) -> io::Result<(File, Identity)> {
        let flags =
            OFlag::O_RDWR | OFlag::O_APPEND | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW | OFlag::O_NONBLOCK;
        let _as_owner = self.owner.assume().map_err(io::Error::other)?;
        let opened = loop {
            match openat(&self.directory, name, flags | create, self.mode) {
                Err(Errno::EINTR) => {}
                opened => break File::from(opened?),
            }
        };
        let stat = fstat(&opened)?;
        if FileType::from_raw_mode(stat.st_mode) != FileType::RegularFile {
            return Err(io::Error::other("not a regular file"));
        }
        Ok((opened, Identity::from(&stat)))
    }

    /// Whether this is still the directory in which nova takes its locks. It may be a link.
    fn is_in_place(&self) -> bool {
        let Ok(_as_owner) = self.owner.assume() else { return false };
        let found = retried(|| fstatat(&self.instances, LOCKS, AtFlags::empty()));
        found.is_ok_and(|it| Identity::from(&it) == self.identity)
    }

    /// Whether a name here still stands for this file.
    fn names(&self, name: &OsStr, file: Identity) -> io::Result<bool> {
        match fstatat(&self.directory, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Identity::from(&stat) == file),
            Err(Errno::ENOENT) => Ok(false),
            Err(errno) => Err(errno.into()),
        }
    }
}

impl HeldLock {
    /// Whether its file is still what the path names. If not, it excludes nobody.
    pub fn is_current(&self, locks: &Locks) -> bool {
        locks.is_in_place() && locks.names(&self.name, self.identity).unwrap_or(false)
    }
}

/// The cache files whose locks a file needs: for a copy its original's, too, under which nova makes it
/// (`fetch_func_sync` of nova/virt/libvirt/imagebackend.py locks the base file's name); for an `.info` file or a broken
/// download those of its file.
pub fn locks_of(name: &OsStr) -> Vec<&OsStr> {
    let own = match CacheName::parse(name) {
        CacheName { kind: Kind::Info | Kind::Partial, of, .. } => OsStr::new(of),
        _ => name,
    };
    match CacheName::parse(own) {
        CacheName { kind: Kind::Resized | Kind::Small, fingerprint: Some(fingerprint), .. } => {
            vec![OsStr::new(fingerprint), own]
        }
        _ => vec![own],
    }
}
