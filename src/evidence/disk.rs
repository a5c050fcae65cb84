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

/// A file that was opened, and what its header names.
pub fn read(path: PathBuf, opened: &Opened) -> Disk {
    let (identity, disk_bytes) = (Some(opened.stat.identity), opened.stat.disk_bytes);
    let mut disk = Disk { path, identity, disk_bytes, ..Disk::default() };
    let header = match read_header(opened) {
        Ok(header) => header,
        Err(problem) => return Disk { problem: Some(problem), ..disk },
    };
    disk.has_header = header.is_there;
    disk.tells_of_header = header.backing_format.is_some_and(qcow2::has_header);
    let data_file = header.data_file.map(|it| (backing_name::parse_data_file(&it), it));
    let backing_file = header.backing_file.map(|it| (backing_name::parse(&it), it));
    for (meaning, name) in [data_file, backing_file].into_iter().flatten() {
        // A header rarely gives two names, so the list of the first is kept as it is.
        let mut files: Vec<PathBuf> =
            meaning.files.into_iter().map(|file| backing_name::resolve(&disk.path, file)).collect();
        files.append(&mut disk.references);
        disk.references = files;
        disk.tells_of_header |= meaning.format.is_some_and(qcow2::has_header);
        let why = |why| format!("backing file name {:?}: {why}", String::from_utf8_lossy(&name));
        disk.problem = disk.problem.or(meaning.problem.map(why));
    }
    disk
}

/// A disk that could not be opened.
pub fn unread(path: PathBuf, problem: String) -> Disk {
    Disk { path, problem: Some(problem), ..Disk::default() }
}

fn read_header(opened: &Opened) -> Result<qcow2::Header, String> {
    let (mut first, mut more);
    first = [0; qcow2::FIRST_READ];
    let mut head = &mut first[..];
    loop {
        let length = fill(opened, head).map_err(|error| cause(&error))?;
        if length == 0 && !opened.is_regular {
            return Err("a block device without content: what it stands for is not attached".into());
        }
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

impl Disk {
    /// Heeds the format that the `disk.info` beside it gives.
    pub fn heed_disk_info(&mut self, at: BorrowedFd<'_>, disk_info: &OsStr) {
        let format = format_by_disk_info(at, disk_info, &self.path);
        self.is_raw = format.as_deref() == Some("raw");
        if format.is_some_and(qcow2::has_header) {
            self.must_have_header("the disk.info beside it");
        }
    }

    /// What begins with no header names nothing; but what is told to have one has lost it, and with it the names.
    pub fn must_have_header(&mut self, by: &str) {
        if !self.has_header {
            self.problem
                .get_or_insert_with(|| format!("has no header, and is of a format that has one by {by}"));
        }
    }
}

/// The format that a `disk.info`, which nova writes, gives for a disk beside it.
///
/// It maps paths to formats; the paths may be those of another host or of before a rename, so only base names count. One
/// that cannot be read, or that gives several, says nothing.
fn format_by_disk_info(at: BorrowedFd<'_>, disk_info: &OsStr, disk: &Path) -> Option<String> {
    let text = read_small(at, disk_info, LARGEST_DISK_INFO).ok()??;
    let formats: Map<String, Value> = serde_json::from_slice(&text).ok()?;
    let mut formats = formats
        .into_iter()
        .filter(|(path, _)| base_name(Path::new(path)) == base_name(disk))
        .map(|(_, format)| format);
    let first = formats.next()?;
    formats.all(|it| it == first).then(|| first.as_str().map(str::to_owned))?
}
