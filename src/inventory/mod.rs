//! The instances that may need cache files, from every source that an operator has.
//!
//! Each source has a parser of its own, text in and [`Row`]s out; [`load`] does the reading and
//! [`Inventory::merge`] puts together what the sources say of the same instance.

mod own;

use std::collections::HashMap;
use std::io::Read as _;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::warning::Warning;

/// One instance as one source describes it. What the source does not say, or says with an empty text, is `None`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Row {
    /// The instance's uuid.
    pub uuid: Option<Box<str>>,
    /// nova's `instance_name_template` name, `instance-0000000a`; not the display name.
    pub name: Option<Box<str>>,
    /// The compute host it is on.
    pub host: Option<Box<str>>,
    /// The image it was started from; none where it boots from a volume.
    pub image_ref: Option<Box<str>>,
    /// The kernel image.
    pub kernel_id: Option<Box<str>>,
    /// The ramdisk image.
    pub ramdisk_id: Option<Box<str>>,
    /// nova's `vm_state`.
    pub vm_state: Option<Box<str>>,
    /// nova's `task_state`.
    pub task_state: Option<Box<str>>,
    /// The flavor's swap in MiB.
    pub swap_mb: Option<u64>,
    /// The flavor's ephemeral disk in GiB.
    pub ephemeral_gb: Option<u64>,
}

/// One instance as all sources together describe it: the rows that are about it, never none.
///
/// Where sources contradict each other every value stands, so that both uses keep their files.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Instance(Vec<Row>);

impl Instance {
    /// An instance that one source describes.
    pub fn new(row: Row) -> Self {
        Self(vec![row])
    }

    /// How to name it to people and programs: its uuid, or its name where no source knows a uuid.
    pub fn id(&self) -> &str {
        self.texts(|row| &row.uuid).chain(self.texts(|row| &row.name)).next().unwrap_or_default()
    }

    /// Every different value that its rows give for a field.
    pub fn texts<'a>(
        &'a self,
        field: impl Fn(&'a Row) -> &'a Option<Box<str>> + 'a,
    ) -> impl Iterator<Item = &'a str> + 'a {
        distinct(self.0.iter().filter_map(move |row| field(row).as_deref()))
    }

    /// Every different size that its rows give, zero left out.
    pub fn sizes<'a>(
        &'a self,
        field: impl Fn(&'a Row) -> Option<u64> + 'a,
    ) -> impl Iterator<Item = u64> + 'a {
        distinct(self.0.iter().filter_map(field).filter(|size| *size > 0))
    }

    /// The names that its directory under the instances path may have: name and uuid.
    pub fn directory_names(&self) -> impl Iterator<Item = &str> {
        self.texts(|row| &row.uuid).chain(self.texts(|row| &row.name))
    }
}

fn distinct<T: PartialEq + Copy>(values: impl Iterator<Item = T>) -> impl Iterator<Item = T> {
    let mut seen: Vec<T> = Vec::new();
    values.filter(move |value| {
        let new = !seen.contains(value);
        if new {
            seen.push(*value);
        }
        new
    })
}

/// What one source gave.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Source {
    /// The instances in it.
    pub rows: Vec<Row>,
    /// Disks that domain XML names, wherever they lie.
    pub disks: Vec<PathBuf>,
    /// Why this is not the whole inventory, one sentence each.
    pub incomplete: Vec<String>,
    /// What else the operator should know of it.
    pub warnings: Vec<Warning>,
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
    /// Adds a source. The rows of one instance are found by their uuid; a row without one joins by its name.
    pub fn merge(named_sources: Vec<(String, Source)>) -> Self {
        let mut inventory = Self::default();
        let mut by_uuid: HashMap<String, usize> = HashMap::new();
        let mut by_name: HashMap<Box<str>, usize> = HashMap::new();
        let mut nameless = Vec::new();
        for (name, source) in named_sources {
            inventory.sources.push(name);
            inventory.disks.extend(source.disks);
            inventory.incomplete.extend(source.incomplete);
            inventory.warnings.extend(source.warnings);
            for row in source.rows {
                let Some(uuid) = row.uuid.as_deref().map(str::to_ascii_lowercase) else {
                    nameless.push(row);
                    continue;
                };
                let index = *by_uuid.entry(uuid).or_insert(inventory.instances.len());
                if let Some(name) = &row.name {
                    by_name.entry(name.clone()).or_insert(index);
                }
                inventory.add(index, row);
            }
        }
        // After the others, so that the order of the sources does not matter.
        for row in nameless {
            let name = row.name.clone().unwrap_or_default();
            let index = *by_name.entry(name).or_insert(inventory.instances.len());
            inventory.add(index, row);
        }
        inventory
    }

    fn add(&mut self, index: usize, row: Row) {
        match self.instances.get_mut(index) {
            Some(instance) => instance.0.push(row),
            None => self.instances.push(Instance::new(row)),
        }
    }
}

/// Reads and merges the files that `--inventory` names; `-` is standard input.
///
/// # Errors
/// Where one cannot be read or is no inventory: the error names the file, the row and the field.
pub fn load(files: &[PathBuf]) -> Result<Inventory> {
    if files.iter().filter(|file| is_stdin(file)).count() > 1 {
        bail!("--inventory - was given twice: standard input can be read only once");
    }
    let mut sources = Vec::new();
    for file in files {
        let name = if is_stdin(file) { "standard input".into() } else { file.display().to_string() };
        let text = read(file)?;
        let source = own::parse(&text).with_context(|| name.clone())?;
        sources.push((name, source));
    }
    Ok(Inventory::merge(sources))
}

fn is_stdin(file: &Path) -> bool {
    file.as_os_str() == "-"
}

fn read(file: &Path) -> Result<Vec<u8>> {
    if !is_stdin(file) {
        return Ok(fs_err::read(file)?);
    }
    let mut text = Vec::new();
    std::io::stdin().lock().read_to_end(&mut text).context("cannot read standard input")?;
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
        ("list".into(), Source { rows: rows.to_vec(), ..Source::default() })
    }

    #[test]
    fn an_instance_that_two_sources_contradict_has_both_images() {
        let merged = Inventory::merge(vec![
            source(&[row(None, Some("instance-1"), Some("c"))]),
            source(&[row(Some("u"), None, Some("a"))]),
            source(&[row(Some("U"), Some("instance-1"), Some("b"))]),
        ]);
        assert_eq!(merged.instances.len(), 1);
        let images: Vec<_> = merged.instances[0].texts(|row| &row.image_ref).collect();
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
}
