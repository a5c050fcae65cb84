//! One file: is it a disk, and which files does its header name?

use std::borrow::Cow;
use std::cell::OnceCell;
use std::ffi::OsStr;
use std::io::{self, ErrorKind};
use std::os::fd::BorrowedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

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
    let data_file = header.data_file.map(|it| (backing_name::parse_data_file(&it), it));
    let format = header.backing_format.as_deref();
    let backing_file = header.backing_file.map(|it| (backing_name::parse(&it, format), it));
    for (meaning, name) in [data_file, backing_file].into_iter().flatten() {
        // A header rarely gives two names, so the list of the first is kept as it is.
        let mut files: Vec<PathBuf> =
            meaning.files.into_iter().map(|file| backing_name::resolve(&disk.path, file)).collect();
        files.append(&mut disk.references);
        disk.references = files;
        let with_header = meaning.with_header.into_iter().map(|it| backing_name::resolve(&disk.path, it));
        disk.with_header.extend(with_header);
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
            return Err(
                "a block device without content, as where its volume is not attached: attach it".into()
            );
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

/// What the `disk.info` of a directory, which nova writes, tells of the disks in it.
///
/// It maps paths to formats; the paths may be those of another host or of before a rename, so only base names count. One
/// that cannot be read, or that gives several formats, says nothing.
pub struct DiskInfo<'a> {
    at: BorrowedFd<'a>,
    path: Cow<'a, OsStr>,
    formats: OnceCell<Map<String, Value>>,
}

impl<'a> DiskInfo<'a> {
    pub fn new(at: BorrowedFd<'a>, path: impl Into<Cow<'a, OsStr>>) -> Self {
        Self { at, path: path.into(), formats: OnceCell::new() }
    }

    fn read(&self) -> Option<Map<String, Value>> {
        let text = read_small(self.at, &self.path, LARGEST_DISK_INFO).ok()??;
        serde_json::from_slice(&text).ok()
    }

    fn format_of(&self, disk: &Path) -> Option<&str> {
        let formats = self.formats.get_or_init(|| self.read().unwrap_or_default()).iter();
        let mut formats = formats.filter(|(path, _)| base_name(Path::new(path)) == base_name(disk));
        let (_, first) = formats.next()?;
        first.as_str().filter(|_| formats.all(|(_, it)| it == first))
    }
}

/// How often a disk that has no header yet is read, and how long apart.
const READS: usize = 5;
const BETWEEN_READS: Duration = Duration::from_millis(50);

/// Reads a disk until it has the header that something tells it to have: nova writes `disk.info` before `qemu-img` makes
/// the disk, which is empty for a moment.
pub fn with_patience<T>(mut read: impl FnMut() -> T, has_lost_header: impl Fn(&T) -> bool) -> T {
    for _ in 1..READS {
        let disk = read();
        if !has_lost_header(&disk) {
            return disk;
        }
        std::thread::sleep(BETWEEN_READS);
    }
    read()
}

impl Disk {
    /// Heeds the format that the `disk.info` beside it gives.
    pub fn heed(&mut self, disk_info: &DiskInfo<'_>) {
        let format = disk_info.format_of(&self.path);
        self.is_raw = format == Some("raw");
        if format.is_some_and(qcow2::has_header) {
            self.must_have_header("the disk.info beside it");
        }
    }

    /// What begins with no header names nothing; but what is told to have one has lost it, and with it the names.
    pub fn must_have_header(&mut self, by: &str) {
        if !self.has_header && self.problem.is_none() {
            self.has_lost_header = true;
            self.problem = Some(format!("has no header, and is of a format that has one by {by}"));
        }
    }
}
