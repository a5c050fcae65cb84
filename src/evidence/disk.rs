//! One file: is it a disk, and which files does its header name?

use std::ffi::OsStr;
use std::fs::File;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use nix::fcntl::{AT_FDCWD, OFlag, openat};
use nix::libc;
use nix::sys::stat::Mode;

use super::{Disk, Problem};
use crate::{backing_name, qcow2};

/// How much of a `disk.info` is read, in bytes. nova writes a line for each disk of an instance.
const LARGEST_DISK_INFO: u64 = 1 << 16;

/// What became of reading a file.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum DiskRead {
    /// A regular file.
    Disk(Disk),
    /// A directory, device, FIFO or socket.
    NotADisk,
    /// It is not there.
    Missing,
}

/// Files of instance directories that nova never gives to an instance as a disk.
pub fn is_never_a_disk(name: &OsStr) -> bool {
    name == "disk.info" || name == "libvirt.xml" || name.as_bytes().starts_with(b"console.log")
}

/// Reads the header of a file, following links. Never blocks on what is not a regular file.
pub(super) fn read(path: PathBuf) -> DiskRead {
    let read = read_references(&path);
    disk_read(path, read)
}

/// The same of a file in a directory that is open already, which spares the kernel the walk there.
pub(super) fn read_in(at: BorrowedFd<'_>, directory: &Path, name: &OsStr) -> DiskRead {
    let read = references_at(at, name, directory);
    disk_read(directory.join(name), read)
}

fn disk_read(path: PathBuf, read: io::Result<Option<References>>) -> DiskRead {
    match read {
        Ok(Some((references, problem))) => DiskRead::Disk(disk(path, references, problem)),
        Ok(None) => DiskRead::NotADisk,
        Err(error) if error.kind() == ErrorKind::NotFound => DiskRead::Missing,
        Err(error) => DiskRead::Disk(disk(path, Vec::new(), Some(reason(&error)))),
    }
}

/// Reads the header of a file that a header names: what is no regular file is not even opened, for to open some devices
/// is to act. One that opens and closes a watchdog resets the machine.
pub(super) fn read_named(path: PathBuf) -> DiskRead {
    match fs_err::metadata(&path) {
        Ok(metadata) if metadata.is_file() => read(path),
        Ok(_) => DiskRead::NotADisk,
        Err(error) if error.kind() == ErrorKind::NotFound => DiskRead::Missing,
        Err(error) => DiskRead::Disk(disk(path, Vec::new(), Some(reason(&error)))),
    }
}

/// A link in the place of a disk that cannot be followed.
pub(super) fn dangling(path: PathBuf, error: &io::Error) -> Disk {
    disk(path, Vec::new(), Some(format!("a link that cannot be followed: {}", reason(error))))
}

/// A file that a disk names and that is not there.
pub(super) fn missing(path: PathBuf) -> Disk {
    let text = reason(&io::Error::from_raw_os_error(libc::ENOENT));
    Disk { path, references: Vec::new(), problem: Some(Problem { text, is_missing: true }) }
}

fn disk(path: PathBuf, references: Vec<PathBuf>, problem: Option<String>) -> Disk {
    // A raw disk has no backing file, and what is in it is the guest's, who must not be able to stop the host's
    // clean-up. Where its header names something that is kept all the same.
    let problem = problem.and_then(|text| match is_raw_by_disk_info(&path) {
        Ok(true) => None,
        Ok(false) => Some(text),
        // Where both fail alike, once is enough.
        Err(error) if reason(&error) == text => Some(text),
        Err(error) => Some(format!("{text}, and its disk.info cannot be read: {}", reason(&error))),
    });
    Disk { path, references, problem: problem.map(|text| Problem { text, is_missing: false }) }
}

/// An error without the path that fs-err puts before it: the reports have a field for that.
pub(super) fn reason(error: &io::Error) -> String {
    let mut source: &dyn std::error::Error = error;
    while let Some(deeper) = source.source() {
        source = deeper;
    }
    source.to_string()
}

/// The files that a header names, and why there may be more.
type References = (Vec<PathBuf>, Option<String>);

/// What the header of a regular file names; `None` where it is no regular file.
pub(super) fn read_references(path: &Path) -> io::Result<Option<References>> {
    references_at(AT_FDCWD, path.as_os_str(), path.parent().unwrap_or(Path::new("/")))
}

/// The same of a file that is `name` to `at`, in a directory of that path.
fn references_at(at: BorrowedFd<'_>, name: &OsStr, directory: &Path) -> io::Result<Option<References>> {
    // Not blocking, in case that it has become a FIFO since it was listed.
    let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
    let file = File::from(openat(at, name, flags, Mode::empty())?);
    let metadata = file.metadata()?;
    if !metadata.is_file() {
        return Ok(None);
    }
    let mut head = vec![0; qcow2::FIRST_READ];
    let mut wanted = head.len();
    let header = loop {
        head.resize(wanted, 0);
        let length = fill(&file, &mut head)?;
        let ended = length < wanted;
        head.truncate(length);
        // A file that shrank since is as long as what could be read of it.
        let size = if ended { length as u64 } else { metadata.len().max(length as u64) };
        match qcow2::read(&head, size) {
            Ok(qcow2::Image::NoBacking) => return Ok(Some((Vec::new(), None))),
            Ok(qcow2::Image::Qcow2(header)) => break header,
            Ok(qcow2::Image::NeedsMore(more)) => wanted = more,
            Err(error) => return Ok(Some((Vec::new(), Some(error.to_string())))),
        }
    };
    let mut references = Vec::new();
    let mut problem = None;
    for name in [header.backing_file, header.data_file].into_iter().flatten() {
        let meaning = backing_name::parse(&name);
        references.extend(meaning.files.iter().map(|file| backing_name::resolve(directory, file)));
        if let Some(why) = meaning.problem {
            problem = Some(format!("names {:?}: {why}", String::from_utf8_lossy(&name)));
        }
    }
    Ok(Some((references, problem)))
}

/// Reads as much as there is, from the start of the file.
fn fill(file: &File, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether the `disk.info` beside a file, which nova writes, says that it is raw.
///
/// It maps paths to formats; the paths may be those of another host or of before a rename, so only base names count.
///
/// # Errors
/// Where there is one and it cannot be read.
pub(super) fn is_raw_by_disk_info(disk: &Path) -> io::Result<bool> {
    let info = disk.with_file_name("disk.info");
    let metadata = match fs_err::metadata(&info) {
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(false),
        metadata => metadata?,
    };
    if !metadata.is_file() || metadata.len() > LARGEST_DISK_INFO {
        return Ok(false);
    }
    let text = fs_err::read(&info)?;
    let Ok(formats) = serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&text) else {
        return Ok(false);
    };
    let mut formats = formats
        .iter()
        .filter(|(path, _)| Path::new(path).file_name() == disk.file_name())
        .map(|(_, format)| format == "raw")
        .peekable();
    Ok(formats.peek().is_some() && formats.all(|is_raw| is_raw))
}
