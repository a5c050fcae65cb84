//! What to do about an error of the system, for the end of a message.

use std::io;

use nix::libc;

pub fn advice(error: &io::Error) -> &'static str {
    let errno = error.raw_os_error().or_else(|| {
        let source = std::error::Error::source(error)?;
        source.downcast_ref::<io::Error>()?.raw_os_error()
    });
    match errno {
        Some(libc::EACCES | libc::EPERM) => {
            "run this as root or as nova's user, and check who owns the directory"
        }
        Some(libc::EROFS) => "the filesystem is mounted read-only: mount it for writing",
        Some(libc::ENOSPC | libc::EDQUOT) => "the filesystem is full: free a little space by hand first",
        Some(libc::EMFILE | libc::ENFILE) => "raise the limit of open files (ulimit -n)",
        Some(libc::ENOLCK) => "the filesystem gives no locks: check its lock service",
        Some(libc::ENOENT) => "check the path",
        _ => "check the filesystem, then run this again",
    }
}
