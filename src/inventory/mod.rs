//! The instances that may need cache files, from every source that an operator has.
//!
//! [`read`] reads the sources, [`Texts::parse`] has each parsed into [`Row`]s and puts together what they say of the
//! same instance. The two are apart so that the sources are read before any disk: an instance that is made in between
//! is then seen by its disk.

pub(crate) mod json;
mod libvirt;
mod own;
pub(crate) mod page;
mod row;
mod server_list;
mod servers_detail;

use std::collections::HashMap;
use std::io::{self, ErrorKind, Read as _, Seek as _};
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, anyhow, bail};
use fs_err::os::unix::fs::OpenOptionsExt as _;
use nix::fcntl::OFlag;

pub use libvirt::parse as parse_domain;
pub use page::Page;
pub use row::{DomainDisk, Instance, Lacks, Row, Source, spellings};

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
    /// It has libvirt's domains, and all of them are running ones.
    pub has_running_domains_only: bool,
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
        inventory.sort_domain_disks();
        inventory.warnings.extend(lacking(&inventory.instances));
        inventory
    }

    /// The same with these domains too, which were read later: nothing that stood is taken away.
    pub fn with_domains(&self, domains: Self) -> Self {
        let mut both = self.clone();
        let all = both.instances.into_iter().chain(domains.instances);
        both.instances = join(all.flat_map(|it| it.rows).collect());
        both.domain_disks.extend(domains.domain_disks);
        both.sort_domain_disks();
        both
    }

    /// The first of one path stays: the one that is no volume.
    fn sort_domain_disks(&mut self) {
        self.domain_disks.sort_unstable();
        self.domain_disks.dedup_by(|later, first| later.path == first.path);
    }
}

/// Joins the rows of one instance.
fn join(mut rows: Vec<Row>) -> Vec<Instance> {
    // By uuid, then by name; rows without a uuid come first. Two sources may say the very same.
    rows.sort_unstable();
    rows.dedup();
    // Copied, their texts lie in this order in memory, and all that follows reads them in this order.
    let mut rows = rows.clone();
    let with_uuid = rows.split_off(rows.partition_point(|row| row.uuid.is_none()));
    let has_names_alone = !rows.is_empty();
    let mut instances: Vec<Instance> = Vec::new();
    let mut by_name: HashMap<Box<str>, usize> = HashMap::new();
    for row in with_uuid.into_iter().chain(rows) {
        let new = instances.len();
        let index = match &row.uuid {
            Some(_) if instances.last().is_some_and(|it| it.rows[0].uuid == row.uuid) => new - 1,
            Some(_) => new,
            None => row.name.as_ref().and_then(|name| by_name.get(name)).copied().unwrap_or(new),
        };
        if has_names_alone && let Some(name) = &row.name {
            by_name.entry(name.clone()).or_insert(index);
        }
        match instances.get_mut(index) {
            Some(known) => known.rows.push(row),
            None => instances.push(Instance { rows: vec![row] }),
        }
    }
    instances
}

/// A note for each kind of cache file that is judged by disks alone, since no source tells what an instance uses.
fn lacking(instances: &[Instance]) -> Vec<Warning> {
    type Note = (fn(&Lacks) -> bool, fn(Lacking) -> Warning);
    let notes: [Note; 4] = [
        (|it| it.image, Warning::LacksImage),
        (|it| it.kernel, Warning::LacksKernel),
        (|it| it.swap, Warning::LacksSwap),
        (|it| it.ephemeral, Warning::LacksEphemeral),
    ];
    let mut warnings = Vec::new();
    for (is_lacking, warning) in notes {
        let mut without = instances.iter().filter(|it| it.rows.iter().all(|row| is_lacking(&row.lacks)));
        if let Some(first) = without.next() {
            warnings.push(warning(Lacking { first: first.id().to_owned(), more: without.count() }));
        }
    }
    warnings
}

/// The most that a domain's XML may have, in bytes. libvirt's own files have some ten thousand; parsed, they take up to
/// twenty times their size.
const MOST_OF_DOMAIN: u64 = 1 << 20;

/// The most blanks before it that text under another name than `*.xml` may have, to be taken for XML.
const MOST_BLANKS: u64 = 512;

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
        let (mut has_domains, mut all_run) = (false, true);
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
                    (has_domains, all_run) = (true, all_run && source.is_running_domain);
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
        inventory.has_running_domains_only = has_domains && all_run;
        inventory.warnings.append(&mut warnings);
        Ok(inventory)
    }
}

/// Reads a JSON inventory of any form, recognised by how it begins.
///
/// An object is an answer of the API. A list is the client's where the first key of its first row begins with a
/// capital (`ID`, `Name`, `Image ID`: `-c` changes their order), else the tool's own.
///
/// # Errors
/// Where the text is none of them: the error names the row and the field, or says what to use instead.
pub fn parse(text: &[u8]) -> Result<Source> {
    let text = json::check(text, "servers")?;
    let mut tokens = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    match [tokens.next(), tokens.next(), tokens.next(), tokens.next()] {
        [Some(b'{'), ..] => servers_detail::parse(text),
        [Some(b'['), Some(b'{'), Some(b'"'), Some(b'A'..=b'Z')] => server_list::parse(text),
        _ => own::parse(text),
    }
}

/// Reads a domain XML file, or those of a folder: the `*.xml` directly in it and in its `autostart`, whose links lead to
/// the same files, and what begins as XML under a name without `.xml`. What else is in a folder does not matter: libvirt
/// keeps its networks there too.
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
    // A backup, or what libvirt is just writing: the domain itself has a file of its own, or is gone.
    let is_named_so = |it: &Path| it.extension().is_some_and(|it| it == "xml");
    let has_it_in_its_name =
        |it: &Path| it.file_name().is_some_and(|name| name.to_string_lossy().contains(".xml"));
    names.retain(|it| is_named_so(it) || !has_it_in_its_name(it));
    names.sort_unstable();
    let mut files = Vec::new();
    for file in names {
        // The domain was undefined since the folder was listed, or its autostart link was left behind. Another link leads
        // to a domain that cannot be read; libvirt passes over names that begin with a dot.
        let is_hidden = || file.file_name().is_some_and(|it| it.as_encoded_bytes().starts_with(b"."));
        let is_lost = || {
            file.parent() == Some(path)
                && is_named_so(&file)
                && !is_hidden()
                && file.symlink_metadata().is_ok()
        };
        let is_file = match fs_err::metadata(&file) {
            Err(error) if error.kind() == ErrorKind::NotFound && is_lost() => bail!(
                "{}: a link to nothing: mount what it leads to, or remove it if the domain is gone",
                file.display()
            ),
            Err(error) if error.kind() == ErrorKind::NotFound => false,
            metadata => metadata?.is_file(),
        };
        // A FIFO or a device is no domain, and opening one may wait forever, even if it takes the place of a file.
        if !is_file {
            continue;
        }
        let flags = OFlag::O_NONBLOCK.bits();
        let mut opened = fs_err::OpenOptions::new().read(true).custom_flags(flags).open(&file)?;
        if is_named_so(&file) || begins_as_xml(&mut opened)? {
            let text = read_file(opened, MOST_OF_DOMAIN).with_context(|| file.display().to_string())?;
            files.push((file, text));
        }
    }
    Ok(files)
}

fn begins_as_xml(file: &mut fs_err::File) -> io::Result<bool> {
    let mut start = Vec::new();
    file.take(MOST_BLANKS).read_to_end(&mut start)?;
    file.rewind()?;
    // Whoever parses it refuses what is in UTF-16.
    let is_utf_16 = matches!(start[..], [0xff, 0xfe, b'<', 0, ..] | [0xfe, 0xff, 0, b'<', ..]);
    let text = start.strip_prefix(json::BOM).unwrap_or(&start);
    Ok(is_utf_16 || text.trim_ascii_start().starts_with(b"<"))
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
            assert_eq!(instance.values(|row| row.image_ref.as_deref()).collect::<Vec<_>>(), ["a", "b", "c"]);
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
        let images: Vec<_> =
            merged.instances.iter().map(|it| it.values(|row| row.image_ref.as_deref()).count()).collect();
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
            may_be_raw: false,
            domain: domain.into(),
        };
        let domain_disks =
            vec![disk("/b", true, "u"), disk("/a", true, "u"), disk("/a", false, "v"), disk("/b", true, "t")];
        let merged = Inventory::merge(vec![("l".into(), Source { domain_disks, ..Source::default() })]);
        assert_eq!(merged.domain_disks, [disk("/a", false, "v"), disk("/b", true, "t")]);
        let [raw, other] = [("u", true), ("v", false)]
            .map(|(domain, may_be_raw)| DomainDisk { may_be_raw, ..disk("/a", false, domain) });
        let domain_disks = vec![raw, other.clone()];
        let merged = Inventory::merge(vec![("l".into(), Source { domain_disks, ..Source::default() })]);
        assert_eq!(merged.domain_disks, [other]);
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
        // The name of the folder itself does not matter.
        let folder = tempfile::Builder::new().suffix(".xml.d").tempdir().unwrap();
        let path = |name: &str| folder.path().join(name);
        for name in ["autostart", "networks", "folder.xml", "empty"] {
            fs_err::create_dir(path(name)).unwrap();
        }
        fs_err::write(path("n.xml"), DOMAIN).unwrap();
        fs_err::write(path("notes.txt"), "no XML").unwrap();
        fs_err::write(path("broken.xml.new"), "<domain>").unwrap();
        fs_err::write(path("large.xml~"), format!("{DOMAIN}{}", " ".repeat(1 << 20))).unwrap();
        let backup = DOMAIN.replace(">u<", ">v<").replace("/i/u/disk", "/i/v/disk");
        fs_err::write(path("n.xml.bak"), DOMAIN.replace(">u<", ">w<")).unwrap();
        fs_err::write(path("dumped"), format!("\n{backup}")).unwrap();
        fs_err::write(path("networks/default.xml"), "no XML").unwrap();
        fs_err::write(path("network.xml"), "<network/>").unwrap();
        fs_err::os::unix::fs::symlink(path("n.xml"), path("autostart/n.xml")).unwrap();
        fs_err::os::unix::fs::symlink(path("gone.xml"), path("autostart/gone.xml")).unwrap();
        nix::unistd::mkfifo(&path("fifo.xml"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        fs_err::write(path("dumped.by.powershell"), format!("\u{feff}{}", DOMAIN.replace(">u<", ">x<")))
            .unwrap();
        let inventory = load(&[folder.path().into(), path("n.xml")]).unwrap();
        let ids: Vec<_> = inventory.instances.iter().map(Instance::id).collect();
        assert_eq!(ids, ["u", "v", "x"]);
        fs_err::remove_file(path("dumped.by.powershell")).unwrap();
        assert_eq!(inventory.domain_disks.len(), 2);
        assert_eq!(inventory.warnings, []);
        assert_eq!(inventory.instances[0].hosts().collect::<Vec<_>>(), ["h"]);
        fs_err::write(path("dumped"), &backup[..backup.len() / 2]).unwrap();
        let error = format!("{:#}", load(&[folder.path().into()]).unwrap_err());
        assert!(error.contains("dumped: is not valid XML"), "{error}");
        let utf_16: Vec<u8> = format!("\u{feff}{backup}").encode_utf16().flat_map(u16::to_le_bytes).collect();
        fs_err::write(path("dumped"), utf_16).unwrap();
        let error = format!("{:#}", load(&[folder.path().into()]).unwrap_err());
        assert!(error.contains("dumped: is UTF-16"), "{error}");
        fs_err::remove_file(path("dumped")).unwrap();
        // The domain that it leads to may be there.
        fs_err::os::unix::fs::symlink("../not-mounted/v.xml", path("v.xml")).unwrap();
        let error = format!("{:#}", load(&[folder.path().into()]).unwrap_err());
        assert!(error.contains("v.xml: a link to nothing"), "{error}");
        fs_err::remove_file(path("v.xml")).unwrap();
        // As editors make them.
        fs_err::os::unix::fs::symlink("user@host.1", path(".#n.xml")).unwrap();
        fs_err::os::unix::fs::symlink("nowhere", path("README")).unwrap();
        assert_eq!(load(&[folder.path().into()]).unwrap().instances.len(), 1);
        let empty = path("empty").display().to_string();
        assert_eq!(load(&[path("empty")]).unwrap().warnings, [Warning::NoDomains { path: empty }]);
    }

    #[test]
    fn domains_that_all_come_from_their_status_are_the_running_ones_only() {
        let folder = tempfile::tempdir().unwrap();
        let [running, defined] = ["run", "etc"].map(|it| folder.path().join(it));
        for folder in [&running, &defined] {
            fs_err::create_dir(folder).unwrap();
        }
        fs_err::write(running.join("n.xml"), format!("<domstatus>{DOMAIN}</domstatus>")).unwrap();
        fs_err::write(defined.join("n.xml"), DOMAIN).unwrap();
        for (sources, expected) in [
            (vec![running.clone()], true),
            (vec![defined.clone()], false),
            (vec![running, defined], false),
            (Vec::new(), false),
        ] {
            assert_eq!(load(&sources).unwrap().has_running_domains_only, expected, "{sources:?}");
        }
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

    #[test]
    fn the_form_is_recognised_by_how_the_text_begins() {
        let blank = " \n".repeat(10_000);
        for (text, kernel_is_lacking) in [
            ("[{\"uuid\": \"a\"}]".to_owned(), false),
            ("\u{feff}\n [ { \"host\": null, \"name\": \"a\" } ]".to_owned(), false),
            (format!("[{blank}{{\"Image ID\": \"b\", \"ID\": \"a\"}}]"), true),
            ("  {\"servers\": [{\"id\": \"a\", \"image\": \"\"}]}".to_owned(), true),
        ] {
            let rows = parse(text.as_bytes()).unwrap().rows;
            assert_eq!((rows.len(), rows[0].lacks.kernel), (1, kernel_is_lacking), "{text}");
        }
    }

    #[test]
    fn what_is_no_inventory_is_an_error_that_says_what_to_do() {
        let utf16: Vec<u8> = "[]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let bomb = "[".repeat(1_000_000);
        let bomb_in_row = format!("[{{\"uuid\": {bomb}");
        let bomb_in_image = format!("{{\"servers\": [{{\"id\": \"a\", \"image\": {{\"id\": {bomb}");
        let bomb_of_objects = "{\"servers\":".repeat(100_000);
        let long = format!("[{{\"uuid\": \"a\", \"swap_mb\": \"{}\"}}]", "x".repeat(1_000_000));
        let long_key = format!("[{{\"uuid\": \"a\", \"{}\": 1}}]", "ä".repeat(1_000_000));
        let cases: [(&[u8], &str); 22] = [
            (b"", "is empty: create it again"),
            (b"\xef\xbb\xbf \n", "is empty"),
            (b"<domain/>", "is XML: give domain XML to --libvirt"),
            (b"+----+------+\n| ID | Name |", "is a table, not JSON: list the servers with -f json"),
            (b"\"ID\",\"Name\"\n\"a\",\"b\"", "is CSV, not JSON: list the servers with -f json"),
            (b"ID,Name\na,b", "is CSV"),
            (b"a active", "is plain text, not JSON"),
            (&utf16, "is UTF-16: convert it"),
            (b"\xff\xfe[\0", "is UTF-16"),
            (b"[{\"uuid\": \"a", "the file is truncated: create it again"),
            (b"{\"servers\": [{\"id\": \"a\"", "the file is truncated"),
            (b"[{\"ID\": \"a\"", "the file is truncated"),
            (b"[{\"uuid\": \"\xff\"}]", "invalid unicode"),
            (b"[{\"uuid\": \"a\"},]", "this is not valid JSON: create it again"),
            (b"{\"servers\": []}\n{\"servers\": []}", "put each list in a file of its own"),
            (b"{\"images\": []}", "is a list of images: give it to --images"),
            (bomb.as_bytes(), "invalid type: sequence"),
            (bomb_in_row.as_bytes(), "row 1: \"uuid\": invalid type: sequence"),
            (bomb_in_image.as_bytes(), "recursion limit exceeded"),
            (bomb_of_objects.as_bytes(), "\"servers\": invalid type: map, expected a sequence"),
            (long.as_bytes(), "row 1: \"swap_mb\": invalid type: string"),
            (long_key.as_bytes(), "unknown field"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(error.len() < 2000 && !error.contains('\n'), "{} bytes", error.len());
        }
    }

    #[test]
    fn nesting_in_fields_that_are_not_needed_is_read() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let text = format!("{{\"servers\": [{{\"id\": \"a\", \"image\": \"\", \"addresses\": {deep}}}]}}");
        assert_eq!(parse(text.as_bytes()).unwrap().rows.len(), 1);
    }
}
