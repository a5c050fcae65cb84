//! What a directory holds. Not by the standard library, which panics where a directory cannot be closed.

use std::ffi::{OsStr, OsString};
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use rustix::fs::{FileType, RawDir};

/// The memory of a listing of one instance's directory, in bytes.
const SMALL: usize = 1 << 15;

/// That of the instances path: more than 100,000 names. What no name is written to is never touched.
const LARGE: usize = 1 << 23;

/// How directories are opened.
pub const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// Calls `with` for each entry of an open directory but `.` and `..`, with its inode and its type, which some filesystems
/// do not tell.
///
/// By getdents itself: opendir(3) would stat each directory and allocate a buffer for it.
pub fn each_entry(directory: BorrowedFd<'_>, with: impl FnMut(&OsStr, u64, FileType)) -> io::Result<()> {
    read(directory, &mut [MaybeUninit::uninit(); SMALL], with)
}

/// The names in a directory.
pub fn names(directory: &Path) -> io::Result<Vec<OsString>> {
    let opened = open(directory, DIRECTORY, Mode::empty())?;
    let mut names = Vec::new();
    each_entry(opened.as_fd(), |name, _, _| names.push(name.to_owned()))?;
    Ok(names)
}

/// As [`each_entry`], of a directory in which entries are renamed meanwhile: read by one system call.
///
/// On a local filesystem the kernel holds the directory's lock during the call, so that no rename can come in between: a
/// directory that is renamed all the time is there under one of its names. The C library reads 32 KiB a call.
pub fn each_entry_at_once(
    directory: BorrowedFd<'_>,
    with: impl FnMut(&OsStr, u64, FileType),
) -> io::Result<()> {
    let mut buffer = Vec::new();
    buffer.try_reserve_exact(LARGE).map_err(io::Error::other)?;
    read(directory, buffer.spare_capacity_mut(), with)
}

fn read(
    directory: BorrowedFd<'_>,
    buffer: &mut [MaybeUninit<u8>],
    mut with: impl FnMut(&OsStr, u64, FileType),
) -> io::Result<()> {
    let mut listing = RawDir::new(directory, buffer);
    while let Some(entry) = listing.next() {
        let entry = match entry {
            Err(rustix::io::Errno::INTR) => continue,
            entry => entry?,
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            with(name, entry.ino(), entry.file_type());
        }
    }
    Ok(())
}
