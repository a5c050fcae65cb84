//! One file: is it a disk, and which files does its header name?

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use super::open::{Opened, cause, read_small};
use super::{Disk, base_name};
use crate::{backing_name, qcow2};

/// How much of a `disk.info` is read, in bytes. nova writes a line for each disk of an instance.
const LARGEST_DISK_INFO: u64 = 1 << 16;

/// Files of instance directories that nova never gives to an instance as a disk.
pub fn is_never_a_disk(name: &OsStr) -> bool {
    name == "disk.info" || name == "libvirt.xml" || name.as_bytes().starts_with(b"console.log")
}

/// The files that a header names, and why there may be more.
pub type References = (Vec<PathBuf>, Option<String>);

/// A disk that was opened.
pub fn read(path: PathBuf, opened: &Opened) -> Disk {
    let (references, problem) =
        read_references(opened, &path).unwrap_or_else(|error| (Vec::new(), Some(cause(&error))));
    Disk {
        path,
        identity: Some(opened.stat.identity),
        disk_bytes: opened.stat.disk_bytes,
        references,
        problem,
        is_raw: false,
    }
}

/// A disk that could not be opened.
pub fn unread(path: PathBuf, problem: String) -> Disk {
    Disk {
        path,
        identity: None,
        disk_bytes: 0,
        references: Vec::new(),
        problem: Some(problem),
        is_raw: false,
    }
}

/// What the header of the file at `path` names.
pub fn read_references(opened: &Opened, path: &Path) -> io::Result<References> {
    let (mut first, mut more);
    first = [0; qcow2::FIRST_READ];
    let mut head = &mut first[..];
    let header = loop {
        let length = fill(opened, head)?;
        // A file that has shrunk is as long as what could be read of it.
        let size =
            if length < head.len() { length as u64 } else { opened.stat.size_bytes.max(length as u64) };
        match qcow2::read(&head[..length], size) {
            Ok(header) => break header,
            Err(qcow2::Error::NeedsMore(wanted)) => {
                more = vec![0; wanted];
                head = &mut more;
            }
            Err(qcow2::Error::Unknown(why)) => return Ok((Vec::new(), Some(why))),
        }
    };
    let mut references: Vec<PathBuf> = Vec::new();
    let mut problem = None;
    for name in [header.backing_file, header.data_file].into_iter().flatten() {
        let meaning = backing_name::parse(&name);
        let mut files: Vec<_> =
            meaning.files.into_iter().map(|file| backing_name::resolve(path, file)).collect();
        if references.is_empty() {
            references = files;
        } else {
            references.append(&mut files);
        }
        if let Some(why) = meaning.problem {
            problem = Some(format!("backing file name {:?}: {why}", String::from_utf8_lossy(&name)));
        }
    }
    Ok((references, problem))
}

/// Reads as much as there is, from the start of the file.
fn fill(opened: &Opened, buffer: &mut [u8]) -> io::Result<usize> {
    let mut filled = 0;
    while filled < buffer.len() {
        match opened.file.read_at(&mut buffer[filled..], filled as u64) {
            Ok(0) => break,
            Ok(read) => filled += read,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
    Ok(filled)
}

/// Whether the `disk.info` in a directory, which nova writes, says that a disk is raw.
///
/// It maps paths to formats; the paths may be those of another host or of before a rename, so only base names count.
pub fn is_raw_by_disk_info(directory: BorrowedFd<'_>, disk: &Path) -> bool {
    // One that cannot be read says nothing.
    let text = read_small(directory, OsStr::new("disk.info"), LARGEST_DISK_INFO).ok().flatten();
    let formats =
        text.and_then(|it| serde_json::from_slice::<serde_json::Map<String, serde_json::Value>>(&it).ok());
    let mut formats = formats
        .iter()
        .flatten()
        .filter(|(path, _)| base_name(Path::new(path)) == base_name(disk))
        .map(|(_, format)| format == "raw")
        .peekable();
    formats.peek().is_some() && formats.all(|is_raw| is_raw)
}
