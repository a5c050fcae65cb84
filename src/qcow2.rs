//! The header of a disk image: bytes in, the files that it names or an error out.
//!
//! Written after QEMU's docs/interop/qcow2.rst and the checks of `qcow2_do_open` in block/qcow2.c. The reader is at
//! most as tolerant as QEMU: an image that QEMU opens has the same backing file here, or its header is an error, which
//! means that nothing is removed. It never looks beyond the first cluster, so it does not matter what the L1 table,
//! the refcounts or the snapshots are.

use std::fmt;

/// How much of a file to read at first, in bytes; nearly every header ends within it.
pub const FIRST_READ: usize = 4096;

/// The most that [`read`] ever asks for: the header is in the first cluster, and no cluster is larger.
pub const MOST: usize = 1 << 21;

/// The longest backing file name that QEMU reads, in bytes.
const LONGEST_NAME: usize = 1023;

const MAGIC: &[u8] = b"QFI\xfb";
const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Dirty, corrupt, external data file, compression type, extended L2 entries.
const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;
const EXTENSION_END: u32 = 0;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// What a qcow2 header names. The names are bytes as they stand, not yet understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// The backing file.
    pub backing_file: Option<Vec<u8>>,
    /// The external data file, which holds the guest's data itself.
    pub data_file: Option<Vec<u8>>,
}

/// What the first bytes of a file are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Image {
    /// A qcow2 image, version 2 or 3.
    Qcow2(Header),
    /// Something that has no backing file: a raw disk, a kernel, an ISO image.
    NoBacking,
    /// More must be read to tell: the first so many bytes of the file, more than were given and at most [`MOST`].
    NeedsMore(usize),
}

/// Why the backing file cannot be determined.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// A format other than qcow2 whose images can have a parent.
    Format(&'static str),
    /// A qcow2 version that is not known.
    Version(u32),
    /// The file ends within its header.
    Truncated,
    /// The number of bits of a cluster is not one that QEMU takes.
    ClusterBits(u32),
    /// The header says of itself that it is shorter than version 3 allows, or longer than a cluster.
    HeaderLength(u32),
    /// Feature bits that change how the image is to be read.
    IncompatibleFeatures(u64),
    /// The name lies within the header or beyond the first cluster, is too long, or holds a zero byte.
    BackingName,
    /// A header extension runs into what comes after it.
    Extension,
    /// The name of the external data file holds a zero byte.
    DataFileName,
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Format(format) => write!(f, "{format} image: its backing file cannot be determined"),
            Self::Version(version) => write!(f, "qcow2 header: unknown version {version}"),
            Self::Truncated => f.write_str("qcow2 header: truncated"),
            Self::ClusterBits(bits) => write!(f, "qcow2 header: invalid cluster size 2^{bits}"),
            Self::HeaderLength(length) => write!(f, "qcow2 header: invalid header length {length}"),
            Self::IncompatibleFeatures(bits) => {
                write!(f, "qcow2 header: unknown incompatible features {bits:#x}")
            }
            Self::BackingName => f.write_str("qcow2 header: invalid backing file name"),
            Self::Extension => f.write_str("qcow2 header: invalid length of an extension"),
            Self::DataFileName => f.write_str("qcow2 header: invalid data file name"),
        }
    }
}

/// Reads a header from `head`, the first bytes of a file that is `file_size` bytes long.
///
/// `head` must hold the whole file or at least [`FIRST_READ`] bytes.
///
/// # Errors
/// Where the file is an image that may have a backing file which cannot be determined.
pub fn read(head: &[u8], file_size: u64) -> Result<Image, Error> {
    if !head.starts_with(MAGIC) {
        return other_format_with_parents(head).map_or(Ok(Image::NoBacking), |it| Err(Error::Format(it)));
    }
    let version = be32(head, 4)?;
    if version == 1 {
        return Err(Error::Format("qcow version 1"));
    }
    if !(2..=3).contains(&version) {
        return Err(Error::Version(version));
    }
    let backing_offset = be64(head, 8)?;
    let backing_size = be32(head, 16)?;
    let cluster_bits = be32(head, 20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(Error::ClusterBits(cluster_bits));
    }
    let cluster_size = 1_usize << cluster_bits;
    let (incompatible, header_length) =
        if version == 2 { (0, 72) } else { (be64(head, 72)?, be32(head, 100)?) };
    if incompatible & !INCOMPATIBLE_KNOWN != 0 {
        return Err(Error::IncompatibleFeatures(incompatible & !INCOMPATIBLE_KNOWN));
    }
    let header_length = match usize::try_from(header_length) {
        Ok(length) if length <= cluster_size && (version == 2 || length >= 104) => length,
        _ => return Err(Error::HeaderLength(header_length)),
    };
    if file_size < header_length as u64 {
        return Err(Error::Truncated);
    }

    let mut header = Header::default();
    // Where the extensions must end: at the backing file name, or with the first cluster.
    let mut extensions_end = cluster_size;
    if backing_offset != 0 {
        let offset = usize::try_from(backing_offset).map_err(|_| Error::BackingName)?;
        let size = usize::try_from(backing_size).map_err(|_| Error::BackingName)?;
        if offset < header_length || offset > cluster_size || size > LONGEST_NAME.min(cluster_size - offset) {
            return Err(Error::BackingName);
        }
        extensions_end = offset;
        if size > 0 {
            let name = match bytes(head, file_size, offset, size)? {
                Ok(name) => name,
                Err(needs_more) => return Ok(needs_more),
            };
            // QEMU would stop at the zero; a name that holds one was not written by QEMU.
            if name.contains(&0) {
                return Err(Error::BackingName);
            }
            header.backing_file = Some(name.to_vec());
        }
    } else if backing_size != 0 {
        return Err(Error::BackingName);
    }
    if incompatible & INCOMPATIBLE_DATA_FILE != 0 {
        match data_file(head, file_size, header_length, extensions_end)? {
            Ok(name) => header.data_file = name,
            Err(needs_more) => return Ok(needs_more),
        }
    }
    Ok(Image::Qcow2(header))
}

/// Walks the header extensions to the name of the external data file.
fn data_file(
    head: &[u8],
    file_size: u64,
    start: usize,
    end: usize,
) -> Result<Result<Option<Vec<u8>>, Image>, Error> {
    let mut offset = start;
    while offset < end {
        let (kind, length) = match bytes(head, file_size, offset, 8)? {
            Ok(extension) => (be32(extension, 0)?, be32(extension, 4)?),
            Err(needs_more) => return Ok(Err(needs_more)),
        };
        if kind == EXTENSION_END {
            break;
        }
        offset += 8;
        let length = usize::try_from(length).map_err(|_| Error::Extension)?;
        if offset > end || length > end - offset {
            return Err(Error::Extension);
        }
        if kind == EXTENSION_DATA_FILE {
            return match bytes(head, file_size, offset, length)? {
                // As for the backing file's name.
                Ok(name) if name.contains(&0) => Err(Error::DataFileName),
                Ok(name) => Ok(Ok(Some(name.to_vec()))),
                Err(needs_more) => Ok(Err(needs_more)),
            };
        }
        offset += length.next_multiple_of(8);
    }
    Ok(Ok(None))
}

/// `size` bytes at `offset`; the inner error asks for more of the file.
fn bytes(head: &[u8], file_size: u64, offset: usize, size: usize) -> Result<Result<&[u8], Image>, Error> {
    let end = offset + size;
    match head.get(offset..end) {
        Some(bytes) => Ok(Ok(bytes)),
        None if end as u64 > file_size || end > MOST => Err(Error::Truncated),
        None => {
            // Twice as much each time: a header may have extensions of no length, which end eight bytes apart.
            let twice = (2 * head.len()).min(MOST).min(usize::try_from(file_size).unwrap_or(MOST));
            Ok(Err(Image::NeedsMore(end.max(twice))))
        }
    }
}

/// Formats of QEMU, other than qcow2 from version 2 on, whose images can name a parent.
fn other_format_with_parents(head: &[u8]) -> Option<&'static str> {
    if head.starts_with(b"QED\0") {
        Some("QED")
    } else if head.starts_with(b"vhdxfile") {
        Some("VHDX")
    } else if head.starts_with(b"KDMV") || head.starts_with(b"COWD") || is_vmdk_descriptor(head) {
        Some("VMDK")
    } else {
        None
    }
}

/// QEMU's `vmdk_probe` of a text: comments and empty lines, then a `version=` line.
fn is_vmdk_descriptor(head: &[u8]) -> bool {
    let mut line = head;
    loop {
        let is_comment = line.starts_with(b"#");
        let end = line.iter().position(|byte| match is_comment {
            true => *byte == b'\n',
            false => !matches!(byte, b' ' | b'\r'),
        });
        match end {
            Some(at) if line[at] == b'\n' => line = &line[at + 1..],
            // Most files are told by their first byte, so the end of its line is not looked for.
            Some(_) => return line.starts_with(b"version="),
            None => return false,
        }
    }
}

fn be32(bytes: &[u8], offset: usize) -> Result<u32, Error> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk()).ok_or(Error::Truncated)?;
    Ok(u32::from_be_bytes(*field))
}

fn be64(bytes: &[u8], offset: usize) -> Result<u64, Error> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk()).ok_or(Error::Truncated)?;
    Ok(u64::from_be_bytes(*field))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A version 3 header with 64 KiB clusters, its name right behind it.
    fn v3(name: &[u8]) -> Vec<u8> {
        let mut head = Vec::new();
        head.extend(MAGIC);
        head.extend(3_u32.to_be_bytes());
        head.extend(if name.is_empty() { 0_u64 } else { 112 }.to_be_bytes());
        head.extend((name.len() as u32).to_be_bytes());
        head.extend(16_u32.to_be_bytes());
        head.resize(100, 0);
        head.extend(104_u32.to_be_bytes());
        head.resize(112, 0);
        head.extend(name);
        head.resize(FIRST_READ, 0);
        head
    }

    fn with(mut head: Vec<u8>, offset: usize, bytes: &[u8]) -> Vec<u8> {
        head[offset..offset + bytes.len()].copy_from_slice(bytes);
        head
    }

    fn named(name: &[u8]) -> Result<Image, Error> {
        Ok(Image::Qcow2(Header { backing_file: Some(name.to_vec()), data_file: None }))
    }

    #[test]
    fn what_a_header_names_or_why_it_cannot_be_told() {
        let plain = v3(b"/b/base");
        let set = |offset, bytes: &[u8]| with(plain.clone(), offset, bytes);
        let u32 = |offset, number: u32| set(offset, &number.to_be_bytes());
        let u64 = |offset, number: u64| set(offset, &number.to_be_bytes());
        let in_header = with(set(8, &[0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0, 4]), 96, b"base");
        let no_name = || Ok(Image::Qcow2(Header::default()));
        let vmdk = b"# Disk DescriptorFile\n\r\nversion=1\n";
        for (what, head, expected) in [
            ("an empty file", vec![], Ok(Image::NoBacking)),
            ("a raw disk", vec![0; FIRST_READ], Ok(Image::NoBacking)),
            ("three bytes of the magic", MAGIC[..3].to_vec(), Ok(Image::NoBacking)),
            ("the magic alone", MAGIC.to_vec(), Err(Error::Truncated)),
            ("half a header", plain[..60].to_vec(), Err(Error::Truncated)),
            ("a name", plain.clone(), named(b"/b/base")),
            ("no name", v3(b""), no_name()),
            ("a file that ends within the name", plain[..115].to_vec(), Err(Error::Truncated)),
            ("version 1", u32(4, 1), Err(Error::Format("qcow version 1"))),
            ("version 4", u32(4, 4), Err(Error::Version(4))),
            ("version 2", u32(4, 2), named(b"/b/base")),
            ("clusters of 256 bytes", u32(20, 8), Err(Error::ClusterBits(8))),
            ("clusters of 4 MiB", u32(20, 22), Err(Error::ClusterBits(22))),
            ("an unknown feature", u64(72, 1 << 5 | 1), Err(Error::IncompatibleFeatures(1 << 5))),
            ("all known features", u64(72, 0b1_1011), named(b"/b/base")),
            ("a short header", u32(100, 103), Err(Error::HeaderLength(103))),
            ("a header longer than a cluster", u32(100, 65_537), Err(Error::HeaderLength(65_537))),
            ("a name in the header", u64(8, 96), Err(Error::BackingName)),
            ("a name in the header without a zero", in_header, Err(Error::BackingName)),
            ("a name to the end of the file", plain[..119].to_vec(), named(b"/b/base")),
            ("a name beyond the cluster", u64(8, 65_530), Err(Error::BackingName)),
            ("a name at the end of all", u64(8, u64::MAX), Err(Error::BackingName)),
            ("a name of 1024 bytes", u32(16, 1024), Err(Error::BackingName)),
            ("a name with a zero", set(114, &[0]), Err(Error::BackingName)),
            ("a size without a place", u64(8, 0), Err(Error::BackingName)),
            ("a place without a size", u32(16, 0), no_name()),
            ("QED", b"QED\0....".to_vec(), Err(Error::Format("QED"))),
            ("VMDK", b"KDMV....".to_vec(), Err(Error::Format("VMDK"))),
            ("VMDK of ESX", b"COWD....".to_vec(), Err(Error::Format("VMDK"))),
            ("VMDK as text", vmdk.to_vec(), Err(Error::Format("VMDK"))),
            ("other text", b"# a note\nconversion=1\n".to_vec(), Ok(Image::NoBacking)),
            ("VHDX", b"vhdxfile".to_vec(), Err(Error::Format("VHDX"))),
        ] {
            let size = head.len() as u64;
            assert_eq!(read(&head, size), expected, "{what}");
        }
    }

    #[test]
    fn a_name_far_into_the_first_cluster_is_asked_for() {
        let head = with(v3(b"x"), 8, &60_000_u64.to_be_bytes());
        assert_eq!(read(&head, 1 << 20), Ok(Image::NeedsMore(60_001)));
        assert_eq!(read(&head, 60_001), Ok(Image::NeedsMore(60_001)));
        for too_short in [50_000, 60_000] {
            assert_eq!(read(&head, too_short), Err(Error::Truncated));
        }
        let mut whole = head;
        whole.resize(60_001, b'y');
        assert_eq!(read(&whole, 1 << 20), named(b"y"));
    }

    #[test]
    fn the_external_data_file_is_found_among_the_extensions() {
        let mut extensions = Vec::new();
        for (kind, content) in [(0xe279_2aca_u32, b"raw".as_slice()), (EXTENSION_DATA_FILE, b"disk.raw")] {
            extensions.extend(kind.to_be_bytes());
            extensions.extend((content.len() as u32).to_be_bytes());
            extensions.extend(content);
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        let head = with(v3(b""), 104, &extensions);
        let without_the_feature = read(&head, FIRST_READ as u64);
        assert_eq!(without_the_feature, Ok(Image::Qcow2(Header::default())));
        let head = with(head, 72, &INCOMPATIBLE_DATA_FILE.to_be_bytes());
        let expected = Header { backing_file: None, data_file: Some(b"disk.raw".to_vec()) };
        assert_eq!(read(&head, FIRST_READ as u64), Ok(Image::Qcow2(expected)));
        // QEMU stops at the zero and opens the file of the shorter name.
        let too_long = with(head.clone(), 124, &9_u32.to_be_bytes());
        assert_eq!(read(&too_long, FIRST_READ as u64), Err(Error::DataFileName));
        let overrun = with(head, 108, &70_000_u32.to_be_bytes());
        assert_eq!(read(&overrun, FIRST_READ as u64), Err(Error::Extension));
    }
}
