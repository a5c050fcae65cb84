//! How files that others may have put there are opened: nothing here blocks, and no device but a block device is ever
//! opened, for to open some devices is to act. One that opens and closes a watchdog resets the machine.

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind, Read as _, Seek as _, SeekFrom};
use std::os::fd::{AsFd, AsRawFd as _, BorrowedFd};

use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl, openat};
use nix::libc;
use nix::sys::stat::{FileStat, Mode, fstat};
use rustix::fs::FileType;

use super::Stat;
pub use crate::errors::cause;
use crate::filesystem::is_of_kernel;

const READ: OFlag = OFlag::O_RDONLY.union(OFlag::O_NONBLOCK).union(OFlag::O_NOCTTY).union(OFlag::O_CLOEXEC);

/// A regular file or a block device, open for reading.
pub struct Opened {
    pub file: File,
    pub stat: Stat,
    pub is_regular: bool,
}

impl Opened {
    fn new(file: File) -> io::Result<Option<Self>> {
        let stat = fstat(&file)?;
        let mut opened = Self { file, stat: Stat::from(&stat), is_regular: true };
        match type_of(&stat) {
            FileType::RegularFile => {}
            FileType::BlockDevice => {
                opened.is_regular = false;
                opened.stat.size_bytes = opened.file.seek(SeekFrom::End(0))?;
            }
            _ => return Ok(None),
        }
        Ok(Some(opened))
    }
}

pub const fn type_of(stat: &FileStat) -> FileType {
    FileType::from_raw_mode(stat.st_mode)
}

/// Opens what was listed as this. `None` where it is neither a regular file nor a block device, nor a link to one, or
/// where it was listed as a regular file and is none any more.
pub fn open_listed(at: BorrowedFd<'_>, name: &OsStr, listed: FileType) -> io::Result<Option<Opened>> {
    match listed {
        FileType::RegularFile => open_regular(at, name),
        FileType::BlockDevice | FileType::Symlink => open_examined(at, name),
        _ => Ok(None),
    }
}

/// Opens what was listed as a regular file, without following a link. `None` where it is none any more.
pub fn open_regular(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Opened>> {
    match retried(|| openat(at, name, READ | OFlag::O_NOFOLLOW, Mode::empty())) {
        Ok(file) => Ok(Opened::new(file.into())?.filter(|it| it.is_regular)),
        // A link, a socket or a device without a driver has taken its place.
        Err(Errno::ELOOP | Errno::ENXIO | Errno::ENODEV) => Ok(None),
        Err(errno) => Err(errno.into()),
    }
}

/// Opens whatever a name leads to, links followed, if it is a regular file or a block device: it is examined first,
/// through a descriptor that opens nothing, and then opened through that, so that it cannot change in between.
///
/// # Errors
/// Those of the system, and where it is a file of the kernel's own.
pub fn open_examined(at: BorrowedFd<'_>, name: &OsStr) -> io::Result<Option<Opened>> {
    let examined = retried(|| openat(at, name, OFlag::O_PATH | OFlag::O_CLOEXEC, Mode::empty()))?;
    if !matches!(type_of(&fstat(&examined)?), FileType::RegularFile | FileType::BlockDevice) {
        return Ok(None);
    }
    if is_of_kernel(&examined)? {
        return Err(io::Error::other("a file of the kernel's own (/proc, /sys), which is not opened"));
    }
    let through = format!("/proc/self/fd/{}", examined.as_raw_fd());
    Opened::new(retried(|| nix::fcntl::open(through.as_str(), READ, Mode::empty()))?.into())
}

/// Reads a small regular file, links followed. `None` where it is no regular file, or larger than `most` bytes.
pub fn read_small(at: BorrowedFd<'_>, name: &OsStr, most: u64) -> io::Result<Option<Vec<u8>>> {
    let Some(opened) = open_examined(at, name)?.filter(|it| it.is_regular) else { return Ok(None) };
    let mut text = Vec::new();
    opened.file.take(most + 1).read_to_end(&mut text)?;
    Ok((text.len() as u64 <= most).then_some(text))
}

/// Whether a QEMU has an image open: whether anybody holds a lock on a byte of it. It proves use, never the lack of it.
///
/// # Errors
/// Where the filesystem cannot answer.
pub fn is_open_in_qemu(image: impl AsFd) -> io::Result<bool> {
    let mut lock = whole_file();
    retried(|| fcntl(&image, FcntlArg::F_OFD_GETLK(&mut lock)))?;
    Ok(lock.l_type != libc::F_UNLCK as libc::c_short)
}

/// A write lock on all of a file. To ask for a read lock would show nothing: QEMU's locks are shared ones.
pub fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK as libc::c_short,
        l_whence: libc::SEEK_SET as libc::c_short,
        l_start: 0,
        l_len: 0,
        // Must be 0 for open-file-description locks.
        l_pid: 0,
    }
}

/// Whether a file that was listed is not there any more. On NFS another host may have removed it after it was opened.
pub fn has_vanished(error: &io::Error) -> bool {
    error.kind() == ErrorKind::NotFound || error.raw_os_error() == Some(libc::ESTALE)
}

pub fn retried<T>(mut call: impl FnMut() -> nix::Result<T>) -> nix::Result<T> {
    loop {
        match call() {
            Err(Errno::EINTR) => {}
            result => return result,
        }
    }
}
