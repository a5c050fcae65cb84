//! The instances that may need cache files, from every source that an operator has.
//!
//! [`read`] reads the sources, [`Texts::parse`] has each parsed into [`Row`]s and puts together what they say of the
//! same instance. The two are apart so that the sources are read before any disk: an instance that is made in between
//! is then seen by its disk.

mod form;
pub(crate) mod json;
mod libvirt;
mod own;
pub(crate) mod page;
mod row;
mod server_list;
mod servers_detail;

use std::collections::{HashMap, HashSet};
use std::io::ErrorKind;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use nix::fcntl::OFlag;

pub use form::parse;
pub use libvirt::parse as parse_domain;
pub use page::Page;
pub use row::{DomainDisk, Instance, Lacks, Row, Source};

use crate::input::{name, read_file, read_list};
use crate::listing;
use crate::warning::{Lacking, Warning};

/// All sources together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Inventory {
    /// As the command line names them.
    pub sources: Vec<String>,
    /// Each once, in an order that does not depend on that of the sources.
    pub instances: Vec<Instance>,
    /// Sorted by path, each once.
    pub domain_disks: Vec<DomainDisk>,
    /// Why this is not the whole inventory.
    pub incomplete: Vec<String>,
    pub warnings: Vec<Warning>,
}

impl Inventory {
    /// Puts the sources together, each with its name. What two say of one instance is found by its uuid, in any case,
    /// or by its name where one of them knows no uuid.
    pub fn merge(named_sources: Vec<(String, Source)>) -> Self {
        let mut inventory = Self::default();
        let mut rows = Vec::new();
        let pages = named_sources.iter().map(|(name, source)| (&**name, source.page.as_ref()));
        inventory
            .incomplete
            .extend(page::unfinished(pages).iter().map(|(name, why)| format!("{name}: {why}")));
        for (name, source) in named_sources {
            rows.extend(source.rows);
            inventory.domain_disks.extend(source.domain_disks);
            inventory.incomplete.extend(source.incomplete.into_iter().map(|why| format!("{name}: {why}")));
            if source.is_at_client_limit {
                inventory.warnings.push(Warning::ListOf1000 { source: name.clone() });
            }
            inventory.sources.push(name);
        }
        inventory.instances = join(rows);
        // The first of one path stays: the one that is no volume.
        inventory.domain_disks.sort_unstable();
        inventory.domain_disks.dedup_by(|later, first| later.path == first.path);
        inventory.warnings.extend(lacking(&inventory.instances));
        inventory
    }
}

/// Joins the rows of one instance.
fn join(mut rows: Vec<Row>) -> Vec<Instance> {
    // By uuid, then by name; rows without a uuid come first. Two sources may say the very same.
    rows.sort_unstable();
    rows.dedup();
    let with_uuid = rows.split_off(rows.partition_point(|row| row.uuid.is_none()));
    let mut instances = group(with_uuid, |row| &row.uuid);
    let mut by_name: HashMap<Box<str>, usize> = HashMap::new();
    for (index, instance) in instances.iter().enumerate().filter(|_| !rows.is_empty()) {
        for name in instance.texts(|row| &row.name) {
            by_name.entry(name.into()).or_insert(index);
        }
    }
    for instance in group(rows, |row| &row.name) {
        match by_name.get(instance.id()) {
            Some(index) => instances[*index].rows.extend(instance.rows),
            None => instances.push(instance),
        }
    }
    instances
}

/// Makes one instance of neighbours that agree.
fn group(rows: Vec<Row>, by: impl Fn(&Row) -> &Option<Box<str>>) -> Vec<Instance> {
    let mut instances: Vec<Instance> = Vec::new();
    for row in rows {
        match instances.last_mut() {
            Some(last) if by(&last.rows[0]) == by(&row) => last.rows.push(row),
            _ => instances.push(Instance { rows: vec![row] }),
        }
    }
    instances
}

/// A note for each kind of cache file that is judged by disks alone, since no source tells what an instance uses.
fn lacking(instances: &[Instance]) -> Vec<Warning> {
    let note = |is_lacking: fn(&Lacks) -> bool, warning: fn(Lacking) -> Warning| {
        let mut without = instances.iter().filter(|it| it.lacks(is_lacking));
        let first = without.next()?.id().to_owned();
        Some(warning(Lacking { first, more: without.count() }))
    };
    let notes = [
        note(|lacks| lacks.image, Warning::LacksImage),
        note(|lacks| lacks.kernel, Warning::LacksKernel),
        note(|lacks| lacks.swap, Warning::LacksSwap),
        note(|lacks| lacks.ephemeral, Warning::LacksEphemeral),
    ];
    notes.into_iter().flatten().collect()
}

/// The most that a domain's XML may have, in bytes. libvirt's own files have some ten thousand; parsed, they take up to
/// twenty times their size.
const MOST_OF_DOMAIN: u64 = 1 << 20;

/// A file and its bytes.
type Text = (PathBuf, Vec<u8>);

/// The bytes of all sources.
#[derive(Debug)]
pub struct Texts {
    inventory: Vec<Text>,
    /// By what `--libvirt` names: a file, or a folder of any number of them.
    libvirt: Vec<(PathBuf, Vec<Text>)>,
}

/// Reads the files that `--inventory` names (`-` is standard input), and the domain XML, a file or a folder each, that
/// `--libvirt` names.
///
/// # Errors
/// Where one cannot be read.
pub fn read(files: &[PathBuf], libvirt: &[PathBuf]) -> Result<Texts> {
    let list = |file: &PathBuf| Ok((file.clone(), read_list("--inventory", file)?));
    let domains = |path: &PathBuf| {
        let files = read_domains(path).with_context(|| format!("--libvirt {}", path.display()))?;
        Ok((path.clone(), files))
    };
    Ok(Texts {
        inventory: files.iter().map(list).collect::<Result<_>>()?,
        libvirt: libvirt.iter().map(domains).collect::<Result<_>>()?,
    })
}

impl Texts {
    /// Parses and merges the sources; the instances of libvirt's domains are on `host`.
    ///
    /// # Errors
    /// Where one is no inventory: the error names the option, the file, the row and the field, and says what to do.
    pub fn parse(self, host: &str) -> Result<Inventory> {
        let mut sources = Vec::new();
        let mut warnings = Vec::new();
        for (file, text) in self.inventory {
            let name = name(&file);
            let source = parse(&text).with_context(|| format!("--inventory {name}"))?;
            sources.push((name, source));
        }
        for (path, files) in self.libvirt {
            let mut all: Option<Source> = None;
            for (file, text) in files {
                let source =
                    parse_domain(&text, host).with_context(|| format!("--libvirt {}", file.display()))?;
                if let Some(source) = source {
                    let all = all.get_or_insert_default();
                    all.rows.extend(source.rows);
                    all.domain_disks.extend(source.domain_disks);
                } else if file == path {
                    bail!("--libvirt {}: is no domain XML: name what virsh dumpxml prints", path.display());
                }
            }
            if all.is_none() {
                warnings.push(Warning::NoDomains { path: path.display().to_string() });
            }
            sources.push((path.display().to_string(), all.unwrap_or_default()));
        }
        let mut inventory = Inventory::merge(sources);
        inventory.warnings.append(&mut warnings);
        Ok(inventory)
    }
}

/// Reads a domain XML file, or those of a folder: the `*.xml` directly in it and in its `autostart`, whose links lead to
/// the same files. What else is in a folder does not matter: libvirt keeps its networks there too.
fn read_domains(path: &Path) -> Result<Vec<Text>> {
    let metadata = fs_err::metadata(path).map_err(|error| {
        let error = anyhow::Error::from(error);
        anyhow!("{error:#}: name a domain XML file or a folder of them, such as /etc/libvirt/qemu")
    })?;
    if !metadata.is_dir() {
        return Ok(vec![(path.into(), read_file(fs_err::File::open(path)?, MOST_OF_DOMAIN)?)]);
    }
    let mut names = Vec::new();
    for folder in [path.to_owned(), path.join("autostart")] {
        if folder.is_dir() {
            let listed = listing::names(&folder).with_context(|| folder.display().to_string())?;
            names.extend(listed.into_iter().map(|name| folder.join(name)));
        }
    }
    names.retain(|it| it.extension().is_some_and(|extension| extension == "xml"));
    names.sort_unstable();
    let mut seen = HashSet::new();
    let mut files = Vec::new();
    for file in names {
        let metadata = match fs_err::metadata(&file) {
            // The domain was undefined since the folder was listed, or its autostart link was left behind.
            Err(error) if error.kind() == ErrorKind::NotFound => continue,
            metadata => metadata?,
        };
        // A FIFO or a device is no domain, and opening one may wait forever, even if it takes the place of a file.
        if metadata.is_file() && seen.insert((metadata.dev(), metadata.ino())) {
            let mut options = fs_err::OpenOptions::new();
            let opened = options.read(true).custom_flags(OFlag::O_NONBLOCK.bits()).open(&file)?;
            let text = read_file(opened, MOST_OF_DOMAIN).with_context(|| file.display().to_string())?;
            files.push((file, text));
        }
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(uuid: Option<&str>, name: Option<&str>, image: Option<&str>) -> Row {
        let text = |text: Option<&str>| text.map(Into::into);
        Row { uuid: text(uuid), name: text(name), image_ref: text(image), ..Row::default() }.normalized()
    }

    fn source(rows: &[Row]) -> (String, Source) {
        ("list".into(), Source { rows: rows.to_vec(), ..Source::default() })
    }

    #[test]
    fn what_two_sources_say_of_one_instance_is_merged_in_any_order_and_contradictions_stand() {
        let sources = [
            source(&[row(None, Some("instance-1"), Some("c")), row(None, Some("other"), None)]),
            source(&[row(Some("u"), None, Some("a")), row(Some("t"), None, None)]),
            source(&[row(Some("U"), Some("instance-1"), Some("b"))]),
        ];
        for order in [[0, 1, 2], [2, 1, 0], [1, 0, 2]] {
            let merged = Inventory::merge(order.map(|index| sources[index].clone()).to_vec());
            let ids: Vec<_> = merged.instances.iter().map(Instance::id).collect();
            assert_eq!(ids, ["t", "u", "other"]);
            let instance = &merged.instances[1];
            assert_eq!(instance.image_refs().collect::<Vec<_>>(), ["a", "b", "c"]);
            assert_eq!(instance.directory_names().collect::<Vec<_>>(), ["u", "instance-1"]);
        }
    }

    #[test]
    fn instances_of_one_name_and_two_uuids_are_two() {
        let rows = [
            row(Some("u"), Some("instance-1"), None),
            row(Some("v"), Some("instance-1"), None),
            row(None, Some("instance-1"), Some("i")),
        ];
        let merged = Inventory::merge(vec![source(&rows)]);
        let images: Vec<_> = merged.instances.iter().map(|it| it.image_refs().count()).collect();
        assert_eq!(images, [1, 0]);
    }

    #[test]
    fn a_next_page_that_is_not_given_makes_the_inventory_incomplete() {
        let page = |id: &str, next| {
            let source = Source { page: Some(Page::new(next, vec![id.into()])), ..Source::default() };
            (id.to_owned(), source)
        };
        let first = page("a", Some("?marker=a"));
        let own = source(&[row(Some("b"), None, None)]);
        let expected = ["a: has a next page, after a, that was not given: give all pages"];
        assert_eq!(Inventory::merge(vec![first.clone(), own]).incomplete, expected);
        assert_eq!(Inventory::merge(vec![first, page("b", None)]).incomplete, [""; 0]);
    }

    #[test]
    fn what_one_source_lacks_comes_from_another_and_what_all_lack_is_noted() {
        let lacks = Lacks { image: false, kernel: true, swap: true, ephemeral: true };
        let listed = |id: &str| Row { lacks, ..row(Some(id), None, Some("i")) };
        let warnings = |sources| Inventory::merge(sources).warnings;
        let lacking = |more| Lacking { first: "u".into(), more };
        let (kernel, swap) = (Warning::LacksKernel, Warning::LacksSwap);
        assert_eq!(
            warnings(vec![source(&[listed("v"), listed("u")])]),
            [kernel(lacking(1)), swap(lacking(1)), Warning::LacksEphemeral(lacking(1))]
        );
        let flavor = Row { lacks: Lacks { kernel: true, ..Lacks::default() }, ..row(Some("u"), None, None) };
        assert_eq!(warnings(vec![source(&[listed("u")]), source(&[flavor])]), [kernel(lacking(0))]);
        let own = row(Some("u"), None, None);
        assert_eq!(warnings(vec![source(&[listed("u")]), source(&[own])]), []);
    }

    #[test]
    fn a_list_of_1000_is_warned_of_by_name() {
        let listed = Source { is_at_client_limit: true, ..Source::default() };
        let expected = [Warning::ListOf1000 { source: "l".into() }];
        assert_eq!(Inventory::merge(vec![("l".into(), listed)]).warnings, expected);
    }

    #[test]
    fn a_disk_of_two_domains_is_one_and_a_volume_only_where_both_say_so() {
        let disk = |path: &str, is_volume, domain: &str| DomainDisk {
            path: path.into(),
            is_volume,
            domain: domain.into(),
        };
        let domain_disks =
            vec![disk("/b", true, "u"), disk("/a", true, "u"), disk("/a", false, "v"), disk("/b", true, "t")];
        let merged = Inventory::merge(vec![("l".into(), Source { domain_disks, ..Source::default() })]);
        assert_eq!(merged.domain_disks, [disk("/a", false, "v"), disk("/b", true, "t")]);
    }

    const DOMAIN: &str = r#"<domain><name>n</name><uuid>u</uuid><metadata>
        <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
        <nova:root type="image" uuid="i"/><nova:flavor><nova:swap>0</nova:swap><nova:ephemeral>0</nova:ephemeral>
        </nova:flavor></nova:instance></metadata>
        <devices><disk><source file="/i/u/disk"/></disk></devices></domain>"#;

    fn load(libvirt: &[PathBuf]) -> Result<Inventory> {
        read(&[], libvirt)?.parse("h")
    }

    #[test]
    fn a_folder_of_domains_is_read_once_and_nothing_else_in_it() {
        let folder = tempfile::tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["autostart", "networks", "folder.xml", "empty"] {
            fs_err::create_dir(path(name)).unwrap();
        }
        fs_err::write(path("n.xml"), DOMAIN).unwrap();
        fs_err::write(path("notes.txt"), "no XML").unwrap();
        fs_err::write(path("networks/default.xml"), "no XML").unwrap();
        fs_err::write(path("network.xml"), "<network/>").unwrap();
        fs_err::os::unix::fs::symlink(path("n.xml"), path("autostart/n.xml")).unwrap();
        fs_err::os::unix::fs::symlink(path("gone.xml"), path("autostart/gone.xml")).unwrap();
        nix::unistd::mkfifo(&path("fifo.xml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let inventory = load(&[folder.path().into(), path("n.xml")]).unwrap();
        assert_eq!(inventory.instances.len(), 1);
        assert_eq!(inventory.domain_disks.len(), 1);
        assert_eq!(inventory.warnings, []);
        assert_eq!(inventory.instances[0].hosts().collect::<Vec<_>>(), ["h"]);
        let empty = path("empty").display().to_string();
        assert_eq!(load(&[path("empty")]).unwrap().warnings, [Warning::NoDomains { path: empty }]);
    }

    #[test]
    fn errors_name_the_option_and_the_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("n.xml");
        let error = |result: Result<Inventory>| format!("{:#}", result.unwrap_err());
        for (text, expected) in [
            ("<network/>".to_owned(), "n.xml: is no domain XML: name what virsh dumpxml prints"),
            ("<domain>".to_owned(), "n.xml: is not valid XML"),
            (format!("{DOMAIN}{}", " ".repeat(1 << 20)), "n.xml: is larger than 1048576 bytes"),
        ] {
            fs_err::write(&path, text).unwrap();
            let error = error(load(std::slice::from_ref(&path)));
            assert!(error.starts_with("--libvirt /") && error.contains(expected), "{error}");
        }
        let error_of_folder = error(load(&[folder.path().into()]));
        assert!(error_of_folder.contains("n.xml: is larger than"), "{error_of_folder}");
        let absent = folder.path().join("absent");
        assert!(error(load(std::slice::from_ref(&absent))).contains("--libvirt"));
        assert!(format!("{:#}", read(&[absent], &[]).unwrap_err()).contains("--inventory"));
        let inventory = read(std::slice::from_ref(&path), &[]).and_then(|texts| texts.parse("h"));
        assert!(error(inventory).contains("n.xml: is XML: give domain XML to --libvirt"));
    }
}
