//! What holds for every parser, whatever its input: the properties that `tests/parsers.rs` tries in the ordinary run and
//! the fuzz targets in `tests/fuzz` for as long as one lets them.
//!
//! Each panics where its property is broken.

#![allow(clippy::unwrap_used, clippy::panic, reason = "clippy knows only #[test] functions")]

use std::path::Path;

use nova_imagecache::evidence::parse_compute_nodes;
use nova_imagecache::inventory::{self, Inventory, Source};
use nova_imagecache::layout::Layout;
use nova_imagecache::plan::Plan;
use nova_imagecache::{backing_name, images, nova_conf, qcow2};

/// A parser: its name, and its property.
pub type Parser = (&'static str, fn(&[u8]));

/// Every parser; the names are those of the fuzz targets and of the folders of their corpora.
pub const PARSERS: [Parser; 8] = [
    ("qcow2_header", qcow2_header),
    ("backing_name", name_of_a_backing_file),
    ("inventory", json_inventory),
    ("domain_xml", domain_xml),
    ("images", image_list),
    ("nova_conf", config),
    ("compute_nodes", compute_nodes),
    ("plan", plan),
];

/// No error is longer, in bytes: some cite what they found.
const LONGEST_ERROR: usize = 4096;

/// A header asks for more only where there is more, comes to an end, does not depend on how much was read at first, and
/// names what stands in it.
pub fn qcow2_header(file: &[u8]) {
    let size = file.len() as u64;
    let mut length = file.len().min(qcow2::FIRST_READ);
    let stepwise = loop {
        match qcow2::read(&file[..length], size) {
            Err(qcow2::Error::NeedsMore(more)) => {
                assert!(more > length && more <= file.len() && more <= qcow2::MOST, "{length} {more}");
                length = more;
            }
            read => break read,
        }
    };
    assert_eq!(stepwise, qcow2::read(file, size));
    match stepwise {
        Ok(header) => {
            for name in [header.backing_file, header.data_file].into_iter().flatten() {
                assert!(!name.contains(&0));
                assert!(name.is_empty() || file.windows(name.len()).any(|it| it == name));
                name_of_a_backing_file(&name);
            }
        }
        Err(qcow2::Error::Unknown(why)) => assert!(why.len() <= LONGEST_ERROR),
        Err(qcow2::Error::NeedsMore(_)) => unreachable!(),
    }
    // A file that ends earlier than the header says, and one that is larger than what was read.
    let _cut = qcow2::read(file, size / 2);
    let _larger = qcow2::read(file, u64::MAX);
}

/// A name means files, or remote ones, or is a problem; what is no protocol stands for itself.
pub fn name_of_a_backing_file(name: &[u8]) {
    use std::os::unix::ffi::OsStrExt as _;

    let meaning = backing_name::parse(name, None);
    assert!(meaning.files.len() <= name.len());
    for file in &meaning.files {
        assert!(file.file_name().is_some(), "{file:?}");
        let path = backing_name::resolve(Path::new("/i/u/disk"), file.clone());
        assert!(path.is_absolute() && path.file_name() == file.file_name(), "{path:?}");
        assert_eq!(backing_name::resolve(Path::new("/elsewhere/disk"), path.clone()), path);
    }
    let first = name.iter().find(|byte| matches!(byte, b':' | b'/'));
    let path = Path::new(std::ffi::OsStr::from_bytes(name));
    if first != Some(&b':') && path.file_name().is_some() {
        assert_eq!(meaning, backing_name::Meaning { files: vec![path.to_owned()], ..Default::default() });
    }
}

/// An inventory has instances that can be named, each once.
pub fn json_inventory(text: &[u8]) {
    match inventory::parse(text) {
        Ok(source) => instances_are_merged(&source),
        Err(error) => short(&error),
    }
}

/// A list of images has no more of them than its text has room for, each with an id.
pub fn image_list(text: &[u8]) {
    match images::parse(text) {
        Ok(list) => {
            assert!(list.images.len() <= text.len() && list.images.iter().all(|it| !it.id.is_empty()))
        }
        Err(error) => short(&error),
    }
}

/// A domain has disks that can be named; document types are refused.
pub fn domain_xml(text: &[u8]) {
    match inventory::parse_domain(text, "host") {
        Ok(Some(source)) => {
            assert!(source.domain_disks.iter().all(|it| !it.path.as_os_str().is_empty()));
            assert!(source.rows.iter().all(|row| row.is_from_libvirt));
            instances_are_merged(&source);
        }
        Ok(None) => {}
        Err(error) => short(&error),
    }
}

fn instances_are_merged(source: &Source) {
    let named = |name: &str| (name.to_owned(), source.clone());
    let (once, twice) = (Inventory::merge(vec![named("a")]), Inventory::merge(vec![named("a"), named("b")]));
    assert_eq!((&once.instances, &once.domain_disks), (&twice.instances, &twice.domain_disks));
    assert!(
        once.instances
            .iter()
            .all(|it| !it.id().is_empty() && it.directory_names().all(|name| !name.is_empty()))
    );
}

/// A nova.conf of one file says the same as of two that are the same.
pub fn config(text: &[u8]) {
    let Ok(text) = str::from_utf8(text) else { return };
    let file = |name: &str| (name.to_owned(), text.to_owned());
    match nova_conf::parse(&[file("a")], &[], "machine") {
        Ok(once) => {
            let twice = nova_conf::parse(&[file("a"), file("b")], &[], "machine").unwrap();
            assert_eq!(format!("{once:?}"), format!("{twice:?}"));
        }
        Err(error) => short(&error),
    }
}

/// A `compute_nodes` has no more hosts than its text has room for.
pub fn compute_nodes(text: &[u8]) {
    match parse_compute_nodes(text) {
        Ok(hosts) => assert!(hosts.len() <= text.len()),
        Err(error) => short(&error),
    }
}

/// A plan of another path is refused; one of this path, or its refusal, is found whatever is in it.
pub fn plan(text: &[u8]) {
    let layout = |path: &str| Layout { instances_path: path.into(), subdirectory_name: "_base".into() };
    let here = Plan::parse(text, &layout("/i"));
    let there = Plan::parse(text, &layout("/j"));
    assert!(here.is_err() || there.is_err());
    [here, there].into_iter().filter_map(Result::err).for_each(|error| short(&error));
}

fn short(error: &anyhow::Error) {
    let text = format!("{error:#}");
    assert!(text.len() <= LONGEST_ERROR, "{} bytes: {text}", text.len());
}
