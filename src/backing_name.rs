//! A backing file name as QEMU reads it: which local files does it mean?
//!
//! The rules are those of `bdrv_parse_filename`, `path_has_protocol` and `parse_json_filename` in QEMU's block.c.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::qcow2;

/// Protocols, and `json:` drivers, whose images are no files of this machine.
const NOT_FILES: &str = "ftp ftps gluster gluster+rdma gluster+tcp gluster+unix http https iscsi iser nbd nbd+tcp \
                         nbd+unix nfs null-aio null-co nvme nvme-io_uring rbd sheepdog sheepdog+tcp sheepdog+unix ssh \
                         tftp vxhs virtio-blk-vhost-vdpa virtio-blk-vhost-user";

/// Protocols, and `json:` drivers, that name a path.
const PATHS: &str = "file host_device host_cdrom";

/// `json:` drivers that read a format of their own, from another one, which the options name.
const FORMATS: &str = "bochs cloop dmg luks parallels qcow qcow2 qed vdi vhdx vmdk";

/// Those that show what another one has.
const NOT_FORMATS: &str = "blkdebug blklogwrites blkreplay blkverify compress copy-before-write copy-on-read \
                           preallocate quorum raw snapshot-access throttle";

/// How deep `json:` names may stand in each other.
const DEEPEST: usize = 8;

/// What a name means.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Meaning {
    /// Local files, as written: absolute, or relative to the directory of the file that names them.
    pub files: Vec<PathBuf>,
    /// Those of them that are told to have a header.
    pub with_header: Vec<PathBuf>,
    /// Why there may be local files that are not among them.
    pub problem: Option<String>,
}

/// Reads a name. The format is the one that is told beside it, if any.
pub fn parse(name: &[u8], format: Option<&[u8]>) -> Meaning {
    // Nearly every name means one file, and a list that grows begins with room for four.
    let mut meaning = Meaning { files: Vec::with_capacity(1), ..Meaning::default() };
    meaning.add_name(name, 0, format.map(String::from_utf8_lossy).as_deref());
    meaning
}

/// Reads the name of an external data file.
pub fn parse_data_file(name: &[u8]) -> Meaning {
    let mut meaning = parse(name, Some(b"raw"));
    meaning.check_is_absolute();
    meaning
}

/// The path of a file that `image` names, without `.` and double slashes.
///
/// `..` is left to the kernel, for the directory before it may be a link.
pub fn resolve(image: &Path, file: PathBuf) -> PathBuf {
    let path = match file.is_relative().then(|| image.parent()).flatten() {
        Some(directory) => directory.join(file),
        None => file,
    };
    // Nearly every name is as it should be, and that is told faster than a path is put together again.
    let text = path.as_os_str().as_bytes();
    let is_plain = !text.ends_with(b"/") && !text.windows(2).any(|it| matches!(it, b"//" | b"/."));
    if is_plain { path } else { path.components().collect() }
}

impl Meaning {
    fn add_name(&mut self, name: &[u8], depth: usize, format: Option<&str>) {
        if let Some(json) = name.strip_prefix(b"json:") {
            return self.add_json(json, depth, format);
        }
        match protocol(name) {
            None => self.add_file(name, format),
            Some((protocol, rest)) if is_one_of(protocol, PATHS) => {
                self.add_file(rest, format);
                self.check_is_absolute();
            }
            Some((protocol, _)) if is_one_of(protocol, NOT_FILES) => {}
            Some((protocol, _)) => {
                self.unknown(format!("unknown protocol {:?}", String::from_utf8_lossy(protocol)));
            }
        }
    }

    fn add_file(&mut self, path: &[u8], format: Option<&str>) {
        let path = Path::new(OsStr::from_bytes(path));
        if path.file_name().is_none() {
            return self.unknown("no file name".into());
        }
        self.files.push(path.to_owned());
        if format.is_some_and(qcow2::has_header) {
            self.with_header.push(path.to_owned());
        }
    }

    fn add_json(&mut self, json: &[u8], depth: usize, format: Option<&str>) {
        let known = self.files.len();
        match serde_json::from_slice(json) {
            // QEMU also takes single quotes, which no JSON reader does: then the name counts as unknown.
            Err(error) => self.unknown(error.to_string()),
            Ok(Value::Object(_)) if depth == DEEPEST => self.unknown("nested too deeply".into()),
            Ok(Value::Object(mut options)) => {
                // The format that is told beside the name counts before the one that it tells itself; a protocol has the
                // image in it.
                let is_protocol = |it: &str| is_one_of(it, PATHS) || is_one_of(it, NOT_FILES);
                let protocol = options.get("driver").and_then(Value::as_str).is_some_and(is_protocol);
                let is_content = depth > 0 || protocol;
                if let Some(format) = format.filter(|_| !is_content) {
                    options.insert("driver".into(), format.into());
                }
                let remote = self.add_node(&options, depth, format.filter(|_| is_content));
                self.check_is_absolute();
                if !remote && self.files.len() == known && self.problem.is_none() {
                    self.unknown("no file name".into());
                }
            }
            Ok(_) => self.unknown("not a JSON object".into()),
        }
    }

    /// Adds what a node names, whose content is an image of `format`; says whether a driver that stands on no file is
    /// among its drivers.
    fn add_node(&mut self, options: &Map<String, Value>, depth: usize, format: Option<&str>) -> bool {
        let Some(options) = &nested(options) else {
            self.unknown("an option is given twice".into());
            return false;
        };
        let driver = options.get("driver").and_then(Value::as_str);
        // What QEMU is not told it probes.
        let reads = driver.or(options.contains_key("file").then_some("a format that is probed"));
        let reads = reads.filter(|it| !is_one_of(it, NOT_FORMATS));
        if format.is_some() && reads.is_some_and(|it| is_one_of(it, FORMATS)) {
            self.unknown("an image within an image".into());
        }
        // What shows another's content has the image in it; other nodes, as the backing file, begin a new one.
        let shows = driver.is_some_and(|it| is_one_of(it, NOT_FORMATS));
        let mut remote = false;
        for (key, value) in options {
            let below = if key == "file" { reads.or(format) } else { format.filter(|_| shows) };
            match (key.as_str(), value) {
                ("driver", Value::String(driver)) if is_one_of(driver, NOT_FILES) => remote = true,
                ("driver", Value::String(driver))
                    if is_one_of(driver, PATHS)
                        || is_one_of(driver, FORMATS)
                        || is_one_of(driver, NOT_FORMATS) => {}
                ("driver", Value::String(driver)) => self.unknown(format!("unknown driver {driver:?}")),
                ("offset", Value::Number(_) | Value::String(_))
                    if value != "0" && value.as_u64() != Some(0) =>
                {
                    self.unknown("an image that does not begin where its file does".into());
                }
                // The latter two are those of blkdebug and blkverify.
                ("filename" | "x-image" | "x-raw", Value::String(file)) => {
                    if driver.is_some_and(|it| is_one_of(it, PATHS)) {
                        // A driver that is given takes the path as it stands, colons included.
                        self.add_file(file.as_bytes(), format);
                    } else {
                        self.add_name(file.as_bytes(), depth + 1, format);
                    }
                }
                ("file" | "backing" | "data-file", Value::String(node)) if !node.is_empty() => {
                    self.unknown(reference_to(node));
                }
                (_, Value::Object(node)) => remote |= self.add_node(node, depth, below),
                (_, Value::Array(items)) => {
                    for item in items {
                        match item {
                            Value::Object(node) => remote |= self.add_node(node, depth, below),
                            Value::Array(_) => self.unknown("a list within a list".into()),
                            Value::String(node) => self.unknown(reference_to(node)),
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        remote
    }

    /// QEMU looks beside the image for a plain backing file name alone, and for any other where it was started. That is
    /// not known, so the name is taken both ways: by base name and beside the image, and as a problem.
    fn check_is_absolute(&mut self) {
        if self.files.iter().any(|it| it.is_relative()) {
            self.unknown("relative to QEMU's working directory".into());
        }
    }

    fn unknown(&mut self, why: String) {
        self.problem.get_or_insert(why);
    }
}

/// Flat options (`"file.filename": …`) as nested ones (`"file": {"filename": …}`), by one step. `None` where one is given
/// twice.
fn nested(options: &Map<String, Value>) -> Option<Map<String, Value>> {
    let mut nested = Map::new();
    for (key, value) in options {
        let (node, rest) =
            key.split_once('.').map_or((key.as_str(), None), |(node, rest)| (node, Some(rest)));
        let given = match (rest, value) {
            (Some(rest), _) => Map::from_iter([(rest.to_owned(), value.clone())]),
            (None, Value::Object(given)) => given.clone(),
            (None, _) => {
                if nested.insert(node.to_owned(), value.clone()).is_some() {
                    return None;
                }
                continue;
            }
        };
        let known = nested.entry(node).or_insert_with(|| Map::new().into()).as_object_mut()?;
        for (option, value) in given {
            if known.insert(option, value).is_some() {
                return None;
            }
        }
    }
    Some(nested)
}

fn reference_to(node: &str) -> String {
    format!("a reference to node {node:?}, which only QEMU can resolve")
}

/// Splits a name that begins with a protocol, as QEMU's `path_has_protocol` tells it.
fn protocol(name: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = name.iter().position(|byte| matches!(byte, b':' | b'/'))?;
    (name[end] == b':').then(|| (&name[..end], &name[end + 1..]))
}

fn is_one_of(word: impl AsRef<[u8]>, words: &str) -> bool {
    words.split(' ').any(|it| it.as_bytes() == word.as_ref())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_means_the_files_that_qemu_would_open() {
        for (name, files) in [
            ("/b/base", vec!["/b/base"]),
            ("../_base/x", vec!["../_base/x"]),
            ("file:/b/base", vec!["/b/base"]),
            (
                r#"json:{"driver":"blkverify","x-raw":"/b/base","x-image":"file:/b/x"}"#,
                vec!["/b/base", "/b/x"],
            ),
            (r#"json:{"driver":"raw","file.driver":"blkdebug","file.x-image":"/b/x"}"#, vec!["/b/x"]),
            ("file:///b/base", vec!["///b/base"]),
            ("./a:b", vec!["./a:b"]),
            ("host_device:/dev/sda", vec!["/dev/sda"]),
            (r#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/b/base"}}"#, vec!["/b/base"]),
            (r#"json:{"driver":"qcow2","file.driver":"file","file.filename":"/b/a:b"}"#, vec!["/b/a:b"]),
            (r#"json:{"file.filename":"file:/x"}"#, vec!["/x"]),
            (
                r#"json:{"file":{"filename":"/a"},"backing":{"driver":"raw","file":{"filename":"/b"}}}"#,
                vec!["/a", "/b"],
            ),
            (
                r#"json:{"children":[{"file":{"filename":"/a"}},{"file":{"filename":"/b"}}]}"#,
                vec!["/a", "/b"],
            ),
            (r#"json:{"file":{"filename":"json:{\"driver\":\"file\",\"filename\":\"/x\"}"}}"#, vec!["/x"]),
            ("nbd://desk/export", vec![]),
            ("rbd:pool/image", vec![]),
            (r#"json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i"}}"#, vec![]),
            (r#"json:{"file":{"driver":"nbd","server":{"type":"unix","path":"/s"}},"backing":null}"#, vec![]),
        ] {
            let files: Vec<_> = files.into_iter().map(PathBuf::from).collect();
            let meaning = parse(name.as_bytes(), None);
            assert_eq!((meaning.files, meaning.problem), (files, None), "{name}");
        }
    }

    /// So it is in QEMU 10.0, by strace of qemu-img in two working directories.
    #[test]
    fn a_relative_name_that_qemu_opens_in_its_working_directory_is_kept_and_a_problem() {
        let is_problem = |meaning: Meaning| {
            assert_eq!(meaning.files, [Path::new("x")]);
            assert_eq!(meaning.problem.as_deref(), Some("relative to QEMU's working directory"));
        };
        for name in [
            "file:x",
            "host_device:x",
            r#"json:{"driver":"raw","file":{"driver":"file","filename":"x"}}"#,
            r#"json:{"driver":"raw","file.filename":"x"}"#,
            r#"json:{"file":{"filename":"file:x"}}"#,
        ] {
            is_problem(parse(name.as_bytes(), None));
        }
        is_problem(parse_data_file(b"x"));
        assert_eq!(parse_data_file(b"/x").problem, None);
        assert_eq!(parse(b"x", None).problem, None);
    }

    #[test]
    fn a_name_that_is_not_understood_is_a_problem() {
        for name in [
            "",
            "..",
            "file:",
            "fat:/somewhere",
            "a:b",
            "json:",
            "json:[]",
            "json:{}",
            "json:{'driver':'file','filename':'/b'}",
            r#"json:{"driver":"qcow2"}"#,
            r#"json:{"driver":"qcow2","file":"node0"}"#,
            r#"json:{"driver":"qcow2","file":{"filename":"/b"},"backing":"node0"}"#,
            r#"json:{"driver":"surprise","file":{"filename":"/b"}}"#,
            r#"json:{"driver":"quorum","children":[{"file":{"filename":"/b"}},"node0"]}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"raw","offset":512,"file":{"filename":"/b"}}}"#,
            r#"json:{"driver":"raw","offset":"512","file":{"filename":"/b"}}"#,
            r#"json:{"driver":"qcow2","file":{"driver":"luks","file":{"filename":"/b"}}}"#,
            r#"json:{"driver":"qcow2","file.driver":"qcow2","file.file.filename":"/b"}"#,
        ] {
            assert!(parse(name.as_bytes(), None).problem.is_some(), "{name}");
        }
        let nested = (0..20).fold("x".to_owned(), |inner, _| {
            format!("json:{}", serde_json::json!({"file": {"filename": inner}}))
        });
        assert!(parse(nested.as_bytes(), None).problem.is_some());
    }

    #[test]
    fn a_file_has_a_header_if_the_format_of_its_image_has_one() {
        for (format, name, expected) in [
            (Some("qcow2"), "/b", &["/b"][..]),
            (Some("qcow2"), "file:/b", &["/b"]),
            (Some("raw"), "/b", &[]),
            (None, "/b", &[]),
            (Some("qcow2"), r#"json:{"driver":"file","filename":"/b"}"#, &["/b"]),
            (Some("raw"), r#"json:{"driver":"nbd","host":"h"}"#, &[]),
            (Some("qcow2"), r#"json:{"driver":"rbd","pool":"p","image":"i"}"#, &[]),
            (None, r#"json:{"driver":"qcow2","offset":0,"file":{"filename":"/b"}}"#, &["/b"]),
            (None, r#"json:{"driver":"luks","file":{"filename":"/b"}}"#, &[]),
            (
                None,
                r#"json:{"driver":"throttle","file":{"driver":"vmdk","file":{"filename":"/b"}}}"#,
                &["/b"],
            ),
            (Some("qcow2"), r#"json:{"driver":"raw","file":{"filename":"/b"}}"#, &["/b"]),
            (Some("raw"), r#"json:{"driver":"qcow2","file":{"filename":"/b"}}"#, &[]),
            (
                None,
                r#"json:{"backing":{"driver":"raw","file.filename":"/a"},"driver":"qcow2","file":{"filename":"/b"}}"#,
                &["/b"],
            ),
            (
                None,
                r#"json:{"driver":"qcow2","file.filename":"/a","backing":{"driver":"qcow2","file.filename":"/b"}}"#,
                &["/a", "/b"],
            ),
            (
                None,
                r#"json:{"driver":"quorum","children":[{"driver":"qcow2","file":{"filename":"/a"}},
                {"driver":"qcow2","file":{"filename":"/b"}}]}"#,
                &["/a", "/b"],
            ),
        ] {
            let meaning = parse(name.as_bytes(), format.map(str::as_bytes));
            let expected: Vec<PathBuf> = expected.iter().map(PathBuf::from).collect();
            assert_eq!((meaning.with_header, meaning.problem), (expected, None), "{format:?} {name}");
        }
    }

    /// The header of the inner one is in the content of the outer one.
    #[test]
    fn an_image_within_an_image_is_a_problem() {
        for (format, name) in [
            (Some("qcow2"), r#"{"file":{"driver":"qcow2","file":{"filename":"/b"}}}"#),
            (Some("qcow2"), r#"{"driver":"raw","file":{"driver":"qcow2","file":{"filename":"/b"}}}"#),
            (None, r#"{"file":{"driver":"qcow2","file":{"filename":"/b"}}}"#),
            (
                None,
                r#"{"driver":"qcow2","file":{"driver":"throttle","file":{"driver":"luks","file.filename":"/b"}}}"#,
            ),
            (
                None,
                r#"{"driver":"qcow2","file":{"filename":"json:{\"driver\":\"qcow2\",\"file.filename\":\"/b\"}"}}"#,
            ),
        ] {
            let meaning = parse(format!("json:{name}").as_bytes(), format.map(str::as_bytes));
            assert_eq!(meaning.problem.as_deref(), Some("an image within an image"), "{format:?} {name}");
        }
    }

    #[test]
    fn names_that_are_not_utf8_keep_their_bytes() {
        assert_eq!(parse(b"/b/\xff", None).files, [Path::new(OsStr::from_bytes(b"/b/\xff"))]);
    }

    #[test]
    fn relative_names_start_at_the_directory_of_the_file_that_names_them() {
        for (name, expected) in [("/a//./b", "/a/b"), ("../_base/x", "/i/u/../_base/x"), ("./x", "/i/u/x")] {
            assert_eq!(resolve(Path::new("/i/u/disk"), name.into()), Path::new(expected));
        }
    }
}
