//! What sources say of instances: the types that all parsers share.

use std::borrow::Cow;
use std::path::PathBuf;

use serde::Deserialize;

use super::page::Page;

/// One instance as one source describes it; serde reads the tool's own form of it. What the source does not say, or
/// says with an empty text or a zero, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Row {
    pub uuid: Option<Box<str>>,
    /// nova's own name, `instance-0000000a`; not the display name.
    pub name: Option<Box<str>>,
    pub host: Option<Box<str>>,
    /// The image it was started from; none where it boots from a volume.
    pub image_ref: Option<Box<str>>,
    #[serde(skip)]
    pub image_name: Option<Box<str>>,
    pub kernel_id: Option<Box<str>>,
    pub ramdisk_id: Option<Box<str>>,
    pub vm_state: Option<Box<str>>,
    pub task_state: Option<Box<str>>,
    /// The flavor's swap in MiB.
    pub swap_mb: Option<u64>,
    /// The flavor's ephemeral disk in GiB.
    pub ephemeral_gb: Option<u64>,
    #[serde(skip)]
    pub lacks: Lacks,
    #[serde(skip)]
    pub is_from_libvirt: bool,
}

impl Row {
    /// Sources write "none" as an empty text, Python's `None`, SQL's `NULL`, a dash or a zero too, and may write a uuid
    /// in capitals.
    pub(super) fn normalized(mut self) -> Self {
        let Self {
            uuid, name, host, image_ref, image_name, kernel_id, ramdisk_id, vm_state, task_state, ..
        } = &mut self;
        for text in [uuid, name, host, image_ref, image_name, kernel_id, ramdisk_id, vm_state, task_state] {
            *text = text.take().filter(|it| !is_none(it)).map(trimmed);
        }
        for size in [&mut self.swap_mb, &mut self.ephemeral_gb] {
            size.take_if(|it| *it == 0);
        }
        if let Some(uuid) = &mut self.uuid {
            uuid.make_ascii_lowercase();
        }
        self
    }
}

/// Whether a text stands for no value.
pub(super) fn is_none(text: &str) -> bool {
    let text = text.trim();
    ["", "-", "None", "null", "N/A"].iter().any(|it| text.eq_ignore_ascii_case(it))
}

fn trimmed(text: Box<str>) -> Box<str> {
    if text.trim().len() == text.len() { text } else { text.trim().into() }
}

/// Which facts the source of a row does not tell, which is other than telling that there is none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lacks {
    pub image: bool,
    /// The kernel or the ramdisk image.
    pub kernel: bool,
    pub swap: bool,
    pub ephemeral: bool,
}

/// One instance as all sources together describe it. Where they contradict each other every value stands, so that both
/// uses keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance {
    /// One for each source, never empty.
    pub rows: Vec<Row>,
}

impl Instance {
    /// How to name it to people and programs: its uuid, or its name where no source knows a uuid.
    pub fn id(&self) -> &str {
        self.directory_names().next().unwrap_or_default()
    }

    /// Every different value that its rows give for a fact.
    pub fn values<'a, T: PartialEq>(&'a self, of: impl Fn(&'a Row) -> Option<T>) -> impl Iterator<Item = T> {
        (0..self.rows.len()).filter_map(move |index| {
            let value = of(&self.rows[index])?;
            let is_known = self.rows[..index].iter().any(|it| of(it).as_ref() == Some(&value));
            (!is_known).then_some(value)
        })
    }

    pub fn hosts(&self) -> impl Iterator<Item = &str> {
        self.values(|row| row.host.as_deref())
    }

    pub fn vm_states(&self) -> impl Iterator<Item = &str> {
        self.values(|row| row.vm_state.as_deref())
    }

    /// The names that its directory under the instances path may have.
    pub fn directory_names(&self) -> impl Iterator<Item = &str> {
        self.values(|row| row.uuid.as_deref()).chain(self.values(|row| row.name.as_deref()))
    }
}

/// A file or block device that a `<disk>` of a domain names, wherever it is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct DomainDisk {
    pub path: PathBuf,
    /// Its `<disk>` has a `<serial>`, which nova gives to volumes alone.
    pub is_volume: bool,
    /// The domain does not give it a format that has a header.
    pub may_be_raw: bool,
    /// The domain's uuid, or its name.
    pub domain: Box<str>,
}

/// What one source gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    pub rows: Vec<Row>,
    pub domain_disks: Vec<DomainDisk>,
    /// Why this is not the whole inventory.
    pub incomplete: Vec<String>,
    /// It is the status of a running domain, as in /run/libvirt/qemu.
    pub is_running_domain: bool,
    /// It has as many rows as older clients list at most.
    pub is_at_client_limit: bool,
    /// Where the source is a page of the API's.
    pub page: Option<Page>,
}

impl Source {
    /// Adds a server of the API's. Of one in a cell that is down little is known; even that it has no image may be a
    /// guess.
    pub(super) fn push_server(&mut self, server: Row, status: Option<&str>) {
        let server = server.normalized();
        if status == Some("UNKNOWN") && server.image_ref.is_none() {
            let id = server.uuid.as_deref().unwrap_or_default();
            self.incomplete
                .push(format!("the cell of {id} did not answer (status UNKNOWN, no image): try again later"));
        }
        self.rows.push(server);
    }

    /// Whether this is a list that leaves out the images of all servers.
    pub(super) fn lacks_images(&self) -> bool {
        self.incomplete.is_empty() && !self.rows.is_empty() && self.rows.iter().all(|row| row.lacks.image)
    }
}

/// A name or an image's id as its source writes it, and in lower case where that differs. nova hashes ids as they stand,
/// and a source may not have nova's spelling.
pub fn spellings(text: &str) -> impl Iterator<Item = Cow<'_, str>> {
    let lower = text.bytes().any(|it| it.is_ascii_uppercase()).then(|| text.to_ascii_lowercase().into());
    std::iter::once(Cow::from(text)).chain(lower)
}
