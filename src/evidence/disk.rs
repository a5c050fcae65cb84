//! One file: is it a disk, and which files does its header name?

use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use super::open::{Opened, cause, read_small};
use super::{Disk, base_name};
use crate::{backing_name, qcow2};

/// How much of a `disk.info` is read, in bytes. nova writes a line for each disk of an instance.
const LARGEST_DISK_INFO: u64 = 1 << 16;

/// nova's file of the formats of an instance's disks.
pub const DISK_INFO: &str = "disk.info";

/// Files of instance directories that nova never gives to an instance as a disk.
pub fn is_never_a_disk(name: &OsStr) -> bool {
    name == DISK_INFO || name == "libvirt.xml" || name.as_bytes().starts_with(b"console.log")
}

/// A disk that was opened.
pub fn read(path: PathBuf, opened: &Opened) -> Disk {
    let (references, problem) = read_references(opened, &path);
    let (identity, disk_bytes) = (Some(opened.stat.identity), opened.stat.disk_bytes);
    Disk { path, identity, disk_bytes, references, problem, ..Disk::default() }
}

/// A disk that could not be opened.
pub fn unread(path: PathBuf, problem: String) -> Disk {
    Disk { path, problem: Some(problem), ..Disk::default() }
}

/// The files that the header of the file at `path` names, and why there may be more.
pub fn read_references(opened: &Opened, path: &Path) -> (Vec<PathBuf>, Option<String>) {
    let header = match read_header(opened) {
        Ok(header) => header,
        Err(problem) => return (Vec::new(), Some(problem)),
    };
    let (mut references, mut problem) = (Vec::new(), None);
    let data_file = header.data_file.map(|it| (backing_name::parse_data_file(&it), it));
    let backing_file = header.backing_file.map(|it| (backing_name::parse(&it), it));
    for (meaning, name) in [data_file, backing_file].into_iter().flatten() {
        // A header rarely gives two names, so the list of the first is kept as it is.
        let mut files: Vec<PathBuf> =
            meaning.files.into_iter().map(|file| backing_name::resolve(path, file)).collect();
        files.append(&mut references);
        references = files;
        let why = |why| format!("backing file name {:?}: {why}", String::from_utf8_lossy(&name));
        problem = problem.or(meaning.problem.map(why));
    }
    (references, problem)
}

fn read_header(opened: &Opened) -> Result<qcow2::Header, String> {
    let (mut first, mut more);
    first = [0; qcow2::FIRST_READ];
    let mut head = &mut first[..];
    loop {
        let length = fill(opened, head).map_err(|error| cause(&error))?;
        // A file that has shrunk is as long as what could be read of it.
        let size =
            if length < head.len() { length as u64 } else { opened.stat.size_bytes.max(length as u64) };
        match qcow2::read(&head[..length], size) {
            Ok(header) => return Ok(header),
            Err(qcow2::Error::NeedsMore(wanted)) => {
                more = vec![0; wanted];
                head = &mut more;
            }
            Err(qcow2::Error::Unknown(why)) => return Err(why),
        }
    }
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

/// Whether a `disk.info`, which nova writes, says that a disk beside it is raw.
///
/// It maps paths to formats; the paths may be those of another host or of before a rename, so only base names count. One
/// that cannot be read says nothing.
pub fn is_raw_by_disk_info(at: BorrowedFd<'_>, disk_info: &OsStr, disk: &Path) -> bool {
    let Ok(Some(text)) = read_small(at, disk_info, LARGEST_DISK_INFO) else { return false };
    let Ok(formats) = serde_json::from_slice::<Map<String, Value>>(&text) else { return false };
    let mut formats =
        formats.iter().filter(|(path, _)| base_name(Path::new(path)) == base_name(disk)).peekable();
    formats.peek().is_some() && formats.all(|(_, format)| format == "raw")
}
