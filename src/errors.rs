//! What to do about an error of the system, for the end of a message.

use std::io;
use std::path::Path;

use nix::libc;

pub fn advice(error: &io::Error) -> &'static str {
    advice_for(error, nix::unistd::geteuid().is_root())
}

fn advice_for(error: &io::Error, is_root: bool) -> &'static str {
    let errno = error.raw_os_error().or_else(|| {
        let source = std::error::Error::source(error)?;
        source.downcast_ref::<io::Error>()?.raw_os_error()
    });
    match errno {
        // A prune by root acts as the owner of the instances path, who may not change a directory of root's.
        Some(libc::EACCES | libc::EPERM) if is_root => {
            "check who owns the directory, that it and the file are not immutable (lsattr), and how it is mounted"
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn root_is_not_told_to_be_root() {
        for errno in [libc::EACCES, libc::EPERM] {
            let error = io::Error::from_raw_os_error(errno);
            for (is_root, expected) in [(false, "run this as root"), (true, "not immutable (lsattr)")] {
                let advice = advice_for(&error, is_root);
                assert!(advice.contains(expected) && advice.contains("root") != is_root, "{advice}");
            }
        }
    }
}
