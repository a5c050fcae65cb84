//! What to do about an error of the system, for the end of a message.

use std::io;
use std::path::Path;

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

/// `cannot list the cache directory PATH: Permission denied: run this as root …`.
pub fn cannot(what: &str, path: &Path, error: impl Into<io::Error>) -> anyhow::Error {
    let error = error.into();
    anyhow::anyhow!("cannot {what} {}: {}: {}", path.display(), cause(&error), advice(&error))
}

/// Why the instances path cannot be looked at.
pub fn instances_path_error(path: &Path, error: &io::Error) -> anyhow::Error {
    let path = path.display();
    match error.kind() {
        io::ErrorKind::NotFound => anyhow::anyhow!(
            "instances path {path}: not found: check that its filesystem is mounted, or name the right directory with \
             --instances-path"
        ),
        _ => anyhow::anyhow!("instances path {path}: {}: {}", cause(error), advice(error)),
    }
}

/// An error without the path that fs-err puts before it: the reports have a field for that.
pub fn cause(error: &io::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    source.to_string()
}
