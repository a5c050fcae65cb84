//! What a directory holds.

use std::ffi::OsStr;
use std::io;
use std::mem::MaybeUninit;
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;

use nix::dir::Type;
use rustix::fs::{FileType, RawDir};

/// How much of a listing is read at once, in bytes.
const BUFFER: usize = 1 << 15;

/// Calls `with` for each entry of an open directory but `.` and `..`, with its inode and its type, where the filesystem
/// tells types.
///
/// Not by the C library, which examines every directory once more and allocates for it.
pub fn each_entry(
    directory: BorrowedFd<'_>,
    mut with: impl FnMut(&OsStr, u64, Option<Type>),
) -> io::Result<()> {
    let mut buffer = [MaybeUninit::uninit(); BUFFER];
    let mut listing = RawDir::new(directory, &mut buffer);
    while let Some(entry) = listing.next() {
        let entry = match entry {
            Err(rustix::io::Errno::INTR) => continue,
            entry => entry?,
        };
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            with(name, entry.ino(), type_of(entry.file_type()));
        }
    }
    Ok(())
}

fn type_of(listed: FileType) -> Option<Type> {
    Some(match listed {
        FileType::RegularFile => Type::File,
        FileType::Directory => Type::Directory,
        FileType::Symlink => Type::Symlink,
        FileType::BlockDevice => Type::BlockDevice,
        FileType::CharacterDevice => Type::CharacterDevice,
        FileType::Fifo => Type::Fifo,
        FileType::Socket => Type::Socket,
        FileType::Unknown => return None,
    })
}
