//! The instances that may need cache files, from every source that an operator has.
//!
//! Each source has a parser of its own, text in and [`Row`]s out; [`load`] does the reading and
//! [`Inventory::merge`] puts together what the sources say of the same instance.

mod instance;
mod json;
mod libvirt;
mod own;
mod server_list;
mod servers_detail;

use std::collections::{HashMap, HashSet};
use std::io::Read;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use nix::fcntl::OFlag;

pub use instance::{Instance, Lacks, Row, Text};
pub use json::parse;
pub use libvirt::parse as parse_domain;

use crate::warning::Warning;

/// What one source gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The instances in it, in the order of its rows.
    pub instances: Vec<Instance>,
    /// Disks that domain XML names, wherever they lie.
    pub disks: Vec<PathBuf>,
    /// Why this is not the whole inventory, one sentence each.
    pub incomplete: Vec<String>,
    /// What else the operator should know of it.
    pub warnings: Vec<Warning>,
    /// Whether more follows, where the source is a page of the API's.
    pub page: Option<Page>,
}

/// What a page of `GET /servers/detail` says of the next one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Page {
    /// That there is none.
    Last,
    /// That it begins after this server; `None` where that is not this page's last one, so that the file does not
    /// hold a page as the API gave it.
    ContinuesAfter(Option<Box<str>>),
}

/// All sources together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// The sources as the command line names them.
    pub sources: Vec<String>,
    /// The instances, each once.
    pub instances: Vec<Instance>,
    /// Disks that domain XML names, wherever they lie.
    pub disks: Vec<PathBuf>,
    /// Why this is not the whole inventory, one sentence each.
    pub incomplete: Vec<String>,
    /// What else the operator should know of it.
    pub warnings: Vec<Warning>,
}

impl Inventory {
    /// Puts the sources together. What two say of one instance is found by its uuid, or by its name where one of them
    /// knows no uuid.
    pub fn merge(named_sources: Vec<(String, Source)>) -> Self {
        let mut inventory = Self { incomplete: unfinished_listings(&named_sources), ..Self::default() };
        for (name, mut source) in named_sources {
            inventory.disks.extend(source.disks);
            inventory.incomplete.extend(source.incomplete.into_iter().map(|why| format!("{name}: {why}")));
            inventory.warnings.extend(
                source.warnings.into_iter().map(|it| Warning::new(it.code, format!("{name}: {}", it.text))),
            );
            inventory.sources.push(name);
            inventory.instances.append(&mut source.instances);
        }
        inventory.join();
        inventory.disks.sort_unstable();
        inventory.disks.dedup();
        inventory.warnings.extend(lacking(&inventory.instances));
        inventory
    }

    /// Joins instances that are the same. Sorting takes less memory than a map of all uuids, and gives an order that
    /// does not depend on that of the sources.
    fn join(&mut self) {
        let mut nameless: Vec<_> =
            self.instances.extract_if(.., |it| it.first_text(Text::Uuid).is_none()).collect();
        join_sorted_by(&mut self.instances, Text::Uuid, |byte| byte.to_ascii_lowercase());
        join_sorted_by(&mut nameless, Text::Name, |byte| byte);
        if nameless.is_empty() {
            return;
        }
        let mut by_name = HashMap::new();
        for (index, instance) in self.instances.iter().enumerate() {
            for name in instance.texts(Text::Name) {
                by_name.entry(name).or_insert(index);
            }
        }
        let places: Vec<_> = nameless.iter().map(|it| by_name.get(it.id()).copied()).collect();
        for (instance, place) in nameless.into_iter().zip(places) {
            match place.and_then(|index| self.instances.get_mut(index)) {
                Some(same) => same.absorb(instance),
                None => self.instances.push(instance),
            }
        }
    }
}

/// Sorts by that text and joins those whose texts are equal after `fold`.
fn join_sorted_by(instances: &mut Vec<Instance>, by: Text, fold: fn(u8) -> u8) {
    let compare = |a: &Instance, b: &Instance| {
        let (a, b) = (a.first_text(by).unwrap_or_default(), b.first_text(by).unwrap_or_default());
        a.bytes().map(fold).cmp(b.bytes().map(fold))
    };
    instances.sort_by(compare);
    instances.dedup_by(|later, earlier| {
        let same = compare(later, earlier).is_eq();
        if same {
            earlier.absorb(later.clone());
        }
        same
    });
}

/// The pages of the API's that say that another follows, where none of those given can be the last of that listing.
///
/// A page does not say after which server it begins, so that no one can tell from the files whether all pages between
/// the first and the last are there; a page that ends the listing and does not hold the server after which it is to
/// begin is taken for the rest.
fn unfinished_listings(named_sources: &[(String, Source)]) -> Vec<String> {
    let holds = |source: &Source, id: &str| source.instances.iter().any(|it| it.id() == id);
    let mut unfinished = Vec::new();
    for (name, source) in named_sources {
        let Some(Page::ContinuesAfter(marker)) = &source.page else { continue };
        let Some(marker) = marker else {
            unfinished.push(format!("{name}: has a next page that does not begin after its last server"));
            continue;
        };
        if !named_sources.iter().any(|(_, it)| it.page == Some(Page::Last) && !holds(it, marker)) {
            unfinished.push(format!("{name}: has a next page (after {marker}), and the rest is not given"));
        }
    }
    unfinished
}

/// One warning for each kind of cache file that is judged by disks alone, since no source tells what an instance uses.
fn lacking(instances: &[Instance]) -> Vec<Warning> {
    type IsLacking = fn(&Lacks) -> bool;
    let kinds: [(&'static str, IsLacking, &str, &str); 4] = [
        ("lacks_image", |lacks| lacks.image, "the image", "original and resized files"),
        (
            "lacks_kernel",
            |lacks| lacks.kernel,
            "kernel_id and ramdisk_id",
            "the files of kernel and ramdisk images",
        ),
        ("lacks_swap", |lacks| lacks.swap, "the flavor's swap", "swap files"),
        ("lacks_ephemeral", |lacks| lacks.ephemeral, "the flavor's ephemeral disk", "ephemeral files"),
    ];
    let mut warnings = Vec::new();
    for (code, is_lacking, field, files) in kinds {
        let mut without = instances.iter().filter(|it| it.lacks(is_lacking));
        if let Some(first) = without.next() {
            let text = match without.count() {
                0 => format!(
                    "no source tells {field} of {}: {files} are judged by disks alone there",
                    first.id()
                ),
                more => format!(
                    "no source tells {field} of {} and {more} more: {files} are judged by disks alone there",
                    first.id()
                ),
            };
            warnings.push(Warning::new(code, text));
        }
    }
    warnings
}

/// Reads and merges the files that `--inventory` names (`-` is standard input) and the domain XML, a file or a
/// folder each, that `--libvirt` names, whose instances are on `host`.
///
/// # Errors
/// Where one cannot be read or is no inventory: the error names the file, the row and the field.
pub fn load(files: &[PathBuf], libvirt_paths: &[PathBuf], host: &str) -> Result<Inventory> {
    if files.iter().filter(|file| is_stdin(file)).count() > 1 {
        bail!("--inventory - was given twice: standard input can be read only once");
    }
    let mut sources = Vec::new();
    for file in files {
        let name = if is_stdin(file) { "standard input".into() } else { file.display().to_string() };
        let source = open(file).and_then(json::parse).with_context(|| name.clone())?;
        sources.push((name, source));
    }
    for path in libvirt_paths {
        sources.push((path.display().to_string(), load_domains(path, host)?));
    }
    Ok(Inventory::merge(sources))
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn open(file: &Path) -> Result<Box<dyn Read>> {
    if is_stdin(file) {
        return Ok(Box::new(std::io::stdin().lock()));
    }
    let opened = fs_err::File::open(file);
    Ok(Box::new(opened.context("cannot be opened: name a file that this user may read")?))
}

/// The longest domain XML read, in bytes. libvirt's own files have some ten thousand; parsed, they take up to twenty
/// times their size.
const LONGEST_DOMAIN: usize = 1 << 20;

/// Reads a domain XML file, or those of a folder: the `*.xml` directly in it and in its `autostart`, whose links lead to
/// the same files.
///
/// Whatever else lies in a folder is not of interest: libvirt keeps its networks there too.
fn load_domains(path: &Path, host: &str) -> Result<Source> {
    let mut source = Source::default();
    if !fs_err::metadata(path)?.is_dir() {
        let text = read_domain(path)?;
        libvirt::parse(&text, host, &mut source)
            .and_then(|is_domain| {
                if is_domain { Ok(()) } else { bail!("is no domain XML: name what virsh dumpxml prints") }
            })
            .with_context(|| path.display().to_string())?;
        return Ok(source);
    }
    let mut files = xml_files(path)?;
    let autostart = path.join("autostart");
    if autostart.is_dir() {
        files.extend(xml_files(&autostart)?);
    }
    let mut seen = HashSet::new();
    for file in files {
        // A FIFO or a device is no domain, and opening one may wait for ever.
        let metadata = fs_err::metadata(&file)?;
        if metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())) {
            let text = read_domain(&file)?;
            libvirt::parse(&text, host, &mut source).with_context(|| file.display().to_string())?;
        }
    }
    Ok(source)
}

fn xml_files(folder: &Path) -> Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs_err::read_dir(folder)? {
        let path = entry?.path();
        if path.extension().is_some_and(|it| it == "xml") {
            files.push(path);
        }
    }
    files.sort_unstable();
    Ok(files)
}

fn read_domain(file: &Path) -> Result<Vec<u8>> {
    // Not to wait at a FIFO that has taken the file's place since it was looked at.
    let opened = fs_err::OpenOptions::new().read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(file)?;
    let mut text = Vec::new();
    opened.take(LONGEST_DOMAIN as u64 + 1).read_to_end(&mut text)?;
    if text.len() > LONGEST_DOMAIN {
        bail!("{}: is larger than {LONGEST_DOMAIN} bytes, which no domain XML is", file.display());
    }
    Ok(text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(uuid: Option<&str>, name: Option<&str>, image: Option<&str>) -> Row {
        Row {
            uuid: uuid.map(Into::into),
            name: name.map(Into::into),
            image_ref: image.map(Into::into),
            ..Row::default()
        }
    }

    fn source(rows: &[Row]) -> (String, Source) {
        ("list".into(), Source { instances: rows.iter().map(Instance::new).collect(), ..Source::default() })
    }

    #[test]
    fn an_instance_that_two_sources_contradict_has_both_images() {
        let merged = Inventory::merge(vec![
            source(&[row(None, Some("instance-1"), Some("c"))]),
            source(&[row(Some("u"), None, Some("a"))]),
            source(&[row(Some("U"), Some("instance-1"), Some("b"))]),
        ]);
        assert_eq!(merged.instances.len(), 1);
        let images: Vec<_> = merged.instances[0].texts(Text::ImageRef).collect();
        assert_eq!(images, ["a", "b", "c"]);
        assert_eq!(merged.instances[0].id(), "u");
    }

    #[test]
    fn instances_of_one_name_and_two_uuids_are_two() {
        let merged = Inventory::merge(vec![source(&[
            row(Some("u"), Some("instance-1"), None),
            row(Some("v"), Some("instance-1"), None),
        ])]);
        assert_eq!(merged.instances.len(), 2);
    }

    fn page(name: &str, ids: &[&str], page: Page) -> (String, Source) {
        let instances = ids.iter().map(|id| Instance::new(&row(Some(id), None, None))).collect();
        (name.into(), Source { instances, page: Some(page), ..Source::default() })
    }

    #[test]
    fn a_page_with_a_next_link_needs_the_rest_of_its_listing() {
        let after = |id: &str| Page::ContinuesAfter(Some(id.into()));
        let first = || page("first", &["a", "b"], after("b"));
        let second = || page("second", &["c", "d"], after("d"));
        let last = || page("last", &["e"], Page::Last);
        let empty = || page("empty", &[], Page::Last);
        let own = || source(&[row(Some("e"), None, None)]);
        for (pages, unfinished) in [
            (vec![last()], vec![]),
            (vec![first()], vec!["first"]),
            (vec![first(), first()], vec!["first", "first"]),
            (vec![first(), own()], vec!["first"]),
            (vec![first(), second()], vec!["first", "second"]),
            (vec![first(), second(), last()], vec![]),
            (vec![last(), second(), first()], vec![]),
            (vec![first(), empty()], vec![]),
            (vec![first(), page("same", &["a", "b"], Page::Last)], vec!["first"]),
            (vec![page("joined", &["a", "b"], Page::ContinuesAfter(None)), last()], vec!["joined"]),
        ] {
            let incomplete = Inventory::merge(pages).incomplete;
            let named: Vec<_> = incomplete.iter().filter_map(|it| it.split(':').next()).collect();
            assert_eq!(named, unfinished);
        }
    }

    #[test]
    fn what_one_source_lacks_comes_from_another_and_what_all_lack_is_warned_of() {
        let lacks = Lacks { image: false, kernel: true, swap: true, ephemeral: true };
        let listed = |id: &str| Row { lacks, ..row(Some(id), None, Some("i")) };
        let codes = |sources| -> Vec<&'static str> {
            Inventory::merge(sources).warnings.into_iter().map(|it| it.code).collect()
        };
        assert_eq!(codes(vec![source(&[listed("u")])]), ["lacks_kernel", "lacks_swap", "lacks_ephemeral"]);
        let flavor = Row { lacks: Lacks { kernel: true, ..Lacks::default() }, ..row(Some("u"), None, None) };
        assert_eq!(codes(vec![source(&[listed("u")]), source(&[flavor])]), ["lacks_kernel"]);
        let own = row(Some("u"), None, None);
        assert_eq!(codes(vec![source(&[listed("u")]), source(&[own])]), [""; 0]);
    }

    const DOMAIN: &str = r#"<domain><name>n</name><uuid>u</uuid><metadata>
        <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
        <nova:root type="image" uuid="i"/><nova:flavor><nova:swap>0</nova:swap><nova:ephemeral>0</nova:ephemeral>
        </nova:flavor></nova:instance></metadata>
        <devices><disk><source file="/i/u/disk"/></disk></devices></domain>"#;

    #[test]
    fn a_folder_of_domains_is_read_once_and_nothing_else_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["autostart", "networks", "folder.xml"] {
            fs_err::create_dir(path(name)).unwrap();
        }
        fs_err::write(path("n.xml"), DOMAIN).unwrap();
        fs_err::write(path("notes.txt"), "no XML").unwrap();
        fs_err::write(path("networks/default.xml"), "no XML").unwrap();
        fs_err::write(path("network.xml"), "<network/>").unwrap();
        fs_err::os::unix::fs::symlink(path("n.xml"), path("autostart/n.xml")).unwrap();
        nix::unistd::mkfifo(&path("fifo.xml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let inventory = load(&[], &[folder.path().into(), path("n.xml")], "h").unwrap();
        assert_eq!(inventory.instances.len(), 1);
        assert_eq!(inventory.disks, [PathBuf::from("/i/u/disk")]);
        assert_eq!(inventory.warnings, []);
        assert_eq!(inventory.instances[0].texts(Text::Host).collect::<Vec<_>>(), ["h"]);
    }

    #[test]
    fn a_file_that_is_named_must_be_a_domain_and_none_may_be_broken() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.xml");
        for (text, expected) in [
            ("<network/>".to_owned(), "n.xml: is no domain XML"),
            ("<domain>".to_owned(), "n.xml: "),
            (format!("{DOMAIN}{}", " ".repeat(LONGEST_DOMAIN)), "n.xml: is larger than 1048576 bytes"),
        ] {
            fs_err::write(&path, text).unwrap();
            let error = format!("{:#}", load(&[], std::slice::from_ref(&path), "h").unwrap_err());
            assert!(error.contains(expected), "{error}");
        }
        assert!(load(&[], &[folder.path().into()], "h").is_err());
        assert!(load(&[], &[folder.path().join("absent")], "h").is_err());
    }
}
