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
const LONGEST_NAME: u64 = 1023;

const MAGIC: &[u8] = b"QFI\xfb";

/// How images of other formats begin that can name a parent.
const OTHERS_WITH_PARENTS: [(&[u8], &str); 4] =
    [(b"QED\0", "QED"), (b"vhdxfile", "VHDX"), (b"KDMV", "VMDK"), (b"COWD", "VMDK")];

const INCOMPATIBLE_DATA_FILE: u64 = 1 << 2;
/// Dirty, corrupt, external data file, compression type, extended L2 entries.
const INCOMPATIBLE_KNOWN: u64 = 0b1_1111;
const EXTENSION_END: u32 = 0;
const EXTENSION_BACKING_FORMAT: u32 = 0xe279_2aca;
const EXTENSION_DATA_FILE: u32 = 0x4441_5441;

/// Formats whose images begin with a header that can name a parent.
const FORMATS_WITH_PARENTS: &str = "cow qcow qcow2 qed vhdx vmdk";

/// What a header names; nothing in a raw disk, a kernel or an ISO image. The names are bytes as they stand, not yet
/// understood.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Header {
    /// Whether there is one.
    pub is_there: bool,
    pub backing_file: Option<Vec<u8>>,
    /// The format that it tells of the backing file.
    pub backing_format: Option<Vec<u8>>,
    /// The external data file, which holds the guest's data itself.
    pub data_file: Option<Vec<u8>>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Error {
    /// The first so many bytes of the file are needed: more than were given, and at most [`MOST`].
    NeedsMore(usize),
    /// Why the backing file of what may have one cannot be determined.
    Unknown(String),
}

fn invalid(what: impl fmt::Display) -> Error {
    Error::Unknown(format!("qcow2 header: {what}"))
}

fn truncated() -> Error {
    invalid("truncated")
}

fn bad_name() -> Error {
    invalid("invalid backing file name")
}

/// An image of a format that can have a parent, which is not read here.
fn other_format(format: &str) -> Error {
    Error::Unknown(format!("{format} image: its backing file cannot be determined"))
}

/// Reads a header from `head`, the first bytes of a file that is `file_size` bytes long: the whole file or at least
/// [`FIRST_READ`] bytes.
pub fn read(head: &[u8], file_size: u64) -> Result<Header, Error> {
    if !head.starts_with(MAGIC) {
        let magic = OTHERS_WITH_PARENTS.iter().find(|(magic, _)| head.starts_with(magic));
        return match magic {
            Some((_, format)) => Err(other_format(format)),
            None if is_vmdk_descriptor(head) => Err(other_format("VMDK")),
            None => Ok(Header::default()),
        };
    }
    let version = be32(head, 4)?;
    match version {
        1 => return Err(other_format("qcow version 1")),
        2 | 3 => {}
        _ => return Err(invalid(format_args!("unknown version {version}"))),
    }
    let backing_offset = be64(head, 8)?;
    let backing_size = u64::from(be32(head, 16)?);
    let cluster_bits = be32(head, 20)?;
    if !(9..=21).contains(&cluster_bits) {
        return Err(invalid(format_args!("invalid cluster size 2^{cluster_bits}")));
    }
    let cluster_size = 1_u64 << cluster_bits;
    let (incompatible, header_length, shortest) = match version {
        2 => (0, 72, 72),
        _ => (be64(head, 72)?, u64::from(be32(head, 100)?), 104),
    };
    let unknown = incompatible & !INCOMPATIBLE_KNOWN;
    if unknown != 0 {
        return Err(invalid(format_args!("unknown incompatible features {unknown:#x}")));
    }
    if !(shortest..=cluster_size).contains(&header_length) {
        return Err(invalid(format_args!("invalid header length {header_length}")));
    }
    if file_size < header_length {
        return Err(truncated());
    }

    let is_name_in_place = (header_length..=cluster_size).contains(&backing_offset)
        && backing_size <= LONGEST_NAME.min(cluster_size - backing_offset);
    if !is_name_in_place && (backing_offset, backing_size) != (0, 0) {
        return Err(bad_name());
    }
    let mut header = Header { is_there: true, ..Header::default() };
    if backing_size > 0 {
        let name = bytes(head, file_size, backing_offset, backing_size)?;
        // QEMU would stop at the zero; a name that holds one was not written by QEMU.
        if name.contains(&0) {
            return Err(bad_name());
        }
        header.backing_file = Some(name.to_vec());
    }
    let has_data_file = incompatible & INCOMPATIBLE_DATA_FILE != 0;
    if backing_size == 0 && !has_data_file {
        return Ok(header);
    }
    // The extensions end at the backing file name, or with the first cluster.
    let end = if backing_offset == 0 { cluster_size } else { backing_offset };
    let extensions = extensions(head, file_size, header_length, end)?;
    header.backing_format = extensions.backing_format.map(<[u8]>::to_vec);
    if has_data_file {
        header.data_file = match extensions.data_files[..] {
            // As for the backing file's name.
            [name] if !name.contains(&0) => Some(name.to_vec()),
            [_] => return Err(invalid("invalid data file name")),
            [] => return Err(invalid("no name of its data file")),
            _ => return Err(invalid("several names of its data file")),
        };
    }
    Ok(header)
}

/// Whether an image of a format that somebody tells begins with a header, which has the names of its parents.
pub fn has_header(format: impl AsRef<[u8]>) -> bool {
    FORMATS_WITH_PARENTS.split(' ').any(|it| it.as_bytes() == format.as_ref())
}

/// The header extensions that tell of other files.
#[derive(Default)]
struct Extensions<'a> {
    backing_format: Option<&'a [u8]>,
    data_files: Vec<&'a [u8]>,
}

fn extensions(head: &[u8], file_size: u64, start: u64, end: u64) -> Result<Extensions<'_>, Error> {
    let mut extensions = Extensions::default();
    let mut offset = start;
    while offset < end {
        let extension = bytes(head, file_size, offset, 8)?;
        let (kind, length) = (be32(extension, 0)?, u64::from(be32(extension, 4)?));
        if kind == EXTENSION_END {
            break;
        }
        offset += 8;
        if offset + length > end {
            return Err(invalid("invalid length of an extension"));
        }
        match kind {
            EXTENSION_BACKING_FORMAT => {
                extensions.backing_format = Some(bytes(head, file_size, offset, length)?);
            }
            EXTENSION_DATA_FILE => extensions.data_files.push(bytes(head, file_size, offset, length)?),
            _ => {}
        }
        offset += length.next_multiple_of(8);
    }
    Ok(extensions)
}

/// `size` bytes at `offset`, both within a cluster.
fn bytes(head: &[u8], file_size: u64, offset: u64, size: u64) -> Result<&[u8], Error> {
    let end = offset + size;
    if let Some(bytes) = head.get(offset as usize..end as usize) {
        return Ok(bytes);
    }
    if end > file_size || end > MOST as u64 {
        return Err(truncated());
    }
    // Twice as much each time: a header may have extensions of no length, which end eight bytes apart.
    let twice = (2 * head.len() as u64).min(MOST as u64).min(file_size);
    Err(Error::NeedsMore(end.max(twice) as usize))
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
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk()).ok_or_else(truncated)?;
    Ok(u32::from_be_bytes(*field))
}

fn be64(bytes: &[u8], offset: usize) -> Result<u64, Error> {
    let field = bytes.get(offset..).and_then(|rest| rest.first_chunk()).ok_or_else(truncated)?;
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

    fn nameless() -> Result<Header, Error> {
        Ok(Header { is_there: true, ..Header::default() })
    }

    fn named(name: &[u8]) -> Result<Header, Error> {
        Ok(Header { is_there: true, backing_file: Some(name.to_vec()), ..Header::default() })
    }

    #[test]
    fn what_a_header_names_or_why_it_cannot_be_told() {
        let plain = v3(b"/b/base");
        let set = |offset, bytes: &[u8]| with(plain.clone(), offset, bytes);
        let u32 = |offset, number: u32| set(offset, &number.to_be_bytes());
        let u64 = |offset, number: u64| set(offset, &number.to_be_bytes());
        let in_header = with(set(8, &[0, 0, 0, 0, 0, 0, 0, 96, 0, 0, 0, 4]), 96, b"base");
        let vmdk = b"# Disk DescriptorFile\n\r\nversion=1\n";
        for (what, head, expected) in [
            ("an empty file", vec![], Ok(Header::default())),
            ("a raw disk", vec![0; FIRST_READ], Ok(Header::default())),
            ("three bytes of the magic", MAGIC[..3].to_vec(), Ok(Header::default())),
            ("the magic alone", MAGIC.to_vec(), Err(truncated())),
            ("half a header", plain[..60].to_vec(), Err(truncated())),
            ("a name", plain.clone(), named(b"/b/base")),
            ("no name", v3(b""), nameless()),
            ("a file that ends within the name", plain[..115].to_vec(), Err(truncated())),
            ("version 1", u32(4, 1), Err(other_format("qcow version 1"))),
            ("version 4", u32(4, 4), Err(invalid("unknown version 4"))),
            ("version 2", u32(4, 2), named(b"/b/base")),
            ("clusters of 256 bytes", u32(20, 8), Err(invalid("invalid cluster size 2^8"))),
            ("clusters of 4 MiB", u32(20, 22), Err(invalid("invalid cluster size 2^22"))),
            ("an unknown feature", u64(72, 1 << 5 | 1), Err(invalid("unknown incompatible features 0x20"))),
            ("all known features", u64(72, 0b1_1011), named(b"/b/base")),
            ("a data file without a name", u64(72, 0b100), Err(invalid("no name of its data file"))),
            ("a short header", u32(100, 103), Err(invalid("invalid header length 103"))),
            ("a header longer than a cluster", u32(100, 65_537), Err(invalid("invalid header length 65537"))),
            ("a name in the header", u64(8, 96), Err(bad_name())),
            ("a name in the header without a zero", in_header, Err(bad_name())),
            ("a name to the end of the file", plain[..119].to_vec(), named(b"/b/base")),
            ("a name beyond the cluster", u64(8, 65_530), Err(bad_name())),
            ("a name at the end of all", u64(8, u64::MAX), Err(bad_name())),
            ("a name of 1024 bytes", u32(16, 1024), Err(bad_name())),
            ("a name with a zero", set(114, &[0]), Err(bad_name())),
            ("a size without a place", u64(8, 0), Err(bad_name())),
            ("a place without a size", u32(16, 0), nameless()),
            ("QED", b"QED\0....".to_vec(), Err(other_format("QED"))),
            ("VMDK", b"KDMV....".to_vec(), Err(other_format("VMDK"))),
            ("VMDK of ESX", b"COWD....".to_vec(), Err(other_format("VMDK"))),
            ("VMDK as text", vmdk.to_vec(), Err(other_format("VMDK"))),
            ("other text", b"# a note\nconversion=1\n".to_vec(), Ok(Header::default())),
            ("VHDX", b"vhdxfile".to_vec(), Err(other_format("VHDX"))),
        ] {
            let size = head.len() as u64;
            assert_eq!(read(&head, size), expected, "{what}");
        }
    }

    #[test]
    fn a_name_far_into_the_first_cluster_is_asked_for() {
        let head = with(v3(b"x"), 8, &60_000_u64.to_be_bytes());
        assert_eq!(read(&head, 1 << 20), Err(Error::NeedsMore(60_001)));
        assert_eq!(read(&head, 60_001), Err(Error::NeedsMore(60_001)));
        for too_short in [50_000, 60_000] {
            assert_eq!(read(&head, too_short), Err(truncated()));
        }
        let mut whole = head;
        whole.resize(60_001, b'y');
        assert_eq!(read(&whole, 1 << 20), named(b"y"));
    }

    /// A header whose extensions are these, and no name.
    fn with_extensions(features: u64, given: &[(u32, &[u8])]) -> Vec<u8> {
        let mut extensions = Vec::new();
        for (kind, content) in given {
            extensions.extend(kind.to_be_bytes());
            extensions.extend((content.len() as u32).to_be_bytes());
            extensions.extend(*content);
            extensions.resize(extensions.len().next_multiple_of(8), 0);
        }
        with(with(v3(b""), 104, &extensions), 72, &features.to_be_bytes())
    }

    #[test]
    fn the_external_data_file_is_found_among_the_extensions() {
        let read = |head: &[u8]| read(head, FIRST_READ as u64);
        let given = [(EXTENSION_BACKING_FORMAT, b"raw".as_slice()), (EXTENSION_DATA_FILE, b"disk.raw")];
        assert_eq!(read(&with_extensions(0, &given)), nameless());
        let head = with_extensions(INCOMPATIBLE_DATA_FILE, &given);
        let [backing_format, data_file] = given.map(|(_, content)| Some(content.to_vec()));
        let expected = Header { is_there: true, backing_file: None, backing_format, data_file };
        assert_eq!(read(&head), Ok(expected));
        // QEMU takes the last.
        let twice = with_extensions(INCOMPATIBLE_DATA_FILE, &[given, given].concat());
        assert_eq!(read(&twice), Err(invalid("several names of its data file")));
        // QEMU stops at the zero and opens the file of the shorter name.
        let too_long = with(head.clone(), 124, &9_u32.to_be_bytes());
        assert_eq!(read(&too_long), Err(invalid("invalid data file name")));
        let overrun = with(head, 108, &70_000_u32.to_be_bytes());
        assert_eq!(read(&overrun), Err(invalid("invalid length of an extension")));
    }

    #[test]
    fn the_format_of_the_backing_file_is_told_by_an_extension() {
        let head = with_extensions(0, &[(EXTENSION_BACKING_FORMAT, b"vmdk")]);
        let head = with(with(head, 8, &512_u64.to_be_bytes()), 16, &1_u32.to_be_bytes());
        let expected = Header { backing_format: Some(b"vmdk".to_vec()), ..named(b"x").unwrap() };
        assert_eq!(read(&with(head, 512, b"x"), FIRST_READ as u64), Ok(expected));
        assert!(has_header("qcow2") && has_header("vmdk") && !has_header("raw") && !has_header(""));
    }
}
