//! As whom root changes things in directories that belong to nova.
//!
//! Whoever may write to a directory can put a link where root expects a file. So everything under `locks`, and every
//! change in the cache directory, is made with the filesystem user and group of the owner of the instances path: what is
//! made belongs to nova, and a link cannot make root change what nova may not change. Nothing is ever chowned.

use std::ffi::OsStr;
use std::os::fd::OwnedFd;

use anyhow::{Result, bail};
use nix::fcntl::AtFlags;
use nix::sys::stat::{fstat, fstatat};
use nix::unistd::{Gid, Uid, geteuid, setfsgid, setfsuid, setgroups};

use crate::layout::{LOCKS, Layout};

/// The user and group to act as, where this process is root and they are not.
#[derive(Clone, Copy, Debug)]
pub struct Owner(Option<(Uid, Gid)>);

impl Owner {
    /// The owner of the instances path; where that is root, of `locks`, else of the cache directory. Of what is open,
    /// and not of what its path leads to by then.
    ///
    /// From here on this process has no supplementary groups of root's either.
    pub fn of(layout: &Layout, instances: &OwnedFd, cache_dir: &OwnedFd) -> Result<Self> {
        if !geteuid().is_root() {
            return Ok(Self(None));
        }
        // Of a link itself too, for what it leads to may belong to anybody.
        let entry = |name: &OsStr| fstatat(instances, name, AtFlags::AT_SYMLINK_NOFOLLOW).ok();
        let stats = [
            Some(fstat(instances)?),
            entry(OsStr::new(LOCKS)),
            entry(&layout.subdirectory_name),
            Some(fstat(cache_dir)?),
        ];
        // Where root owns all of them, nova writes there by their group.
        let stats = || stats.iter().flatten();
        let owner = stats().find(|it| it.st_uid != 0).or_else(|| stats().find(|it| it.st_gid != 0));
        let owner = owner.map(|it| (Uid::from_raw(it.st_uid), Gid::from_raw(it.st_gid)));
        if let Some((uid, gid)) = owner
            && let Err(errno) = setgroups(&[gid])
        {
            // Root's own directories need no other user, and their group is a matter of convenience.
            if uid.is_root() {
                return Ok(Self(None));
            }
            bail!("cannot drop the groups of root: {errno}: run this with CAP_SETGID, or as nova's user");
        }
        Ok(Self(owner))
    }

    /// Acts as the owner in this thread until the guard is dropped.
    pub fn assume(self) -> Result<AsOwner> {
        let Some((uid, gid)) = self.0 else { return Ok(AsOwner { before: None }) };
        let gid_before = setfsgid(gid);
        let guard = AsOwner { before: Some((setfsuid(uid), gid_before)) };
        // These calls report no errors; they return what was in force before.
        if setfsgid(gid) != gid || setfsuid(uid) != uid {
            bail!(
                "cannot act as user {uid}, who owns the instances path: run this with CAP_SETUID and CAP_SETGID, or as \
                 that user"
            );
        }
        Ok(guard)
    }
}

/// This thread acts as the owner.
#[must_use]
pub struct AsOwner {
    before: Option<(Uid, Gid)>,
}

impl Drop for AsOwner {
    fn drop(&mut self) {
        if let Some((uid, gid)) = self.before {
            setfsuid(uid);
            setfsgid(gid);
        }
    }
}
