//! What has come since the evidence was gathered: asked again for each file, under its lock, just before it goes.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::path::{Path, PathBuf};

use anyhow::{Result, bail};

use super::gather::{Progress, Walker, elsewhere, follow_links};
use super::{Directory, Disk, Evidence};

/// Evidence and all that has come to it since.
///
/// It only ever adds: a disk that was seen once keeps what it names for the rest of the run, whatever directory it is
/// in. Whether that directory is listed does not matter either: an instance that is being started now is in no
/// inventory.
#[derive(Debug)]
pub struct SecondLook<'a> {
    evidence: &'a Evidence,
    /// Directories that are new, or have changed, since the evidence was gathered.
    newer: BTreeMap<OsString, Directory>,
    /// Files that disks name which the evidence does not have, and one of those disks.
    named: BTreeMap<OsString, PathBuf>,
    /// Something new that could not be read, so that it may name anything.
    doubt: Option<String>,
}

impl<'a> SecondLook<'a> {
    /// Nothing has come yet.
    pub const fn new(evidence: &'a Evidence) -> Self {
        Self { evidence, newer: BTreeMap::new(), named: BTreeMap::new(), doubt: None }
    }

    /// Lists the instances path again and reads every directory that is new or has changed; then says what has come
    /// to keep a file of that name, if anything has.
    ///
    /// # Errors
    /// Where the instances path cannot be listed, or does not come to rest.
    pub fn keeps(&mut self, name: &OsStr) -> Result<Option<String>> {
        self.look()?;
        if let Some(disk) = self.named.get(name) {
            return Ok(Some(format!("{} has come to name it", disk.display())));
        }
        Ok(self.doubt.clone())
    }

    fn look(&mut self) -> Result<()> {
        let progress = Progress::default();
        let walker = Walker {
            layout: &self.evidence.layout,
            cache: self.evidence.cache.as_ref().map(|it| it.identity),
            progress: &progress,
        };
        let walk = walker.walk(|path| self.known(path))?;
        if let Some(why) = walk.restless {
            bail!("{}: {why}", self.evidence.layout.instances_path.display());
        }
        let mut news: Vec<Disk> = Vec::new();
        let mut doubts: Vec<String> = Vec::new();
        for (path, directory) in walk.read {
            let known = self.known(&path);
            if let Some(problem) = &directory.problem
                && known.is_none_or(|it| it.problem.is_none())
            {
                let full_path = self.evidence.layout.instances_path.join(&path);
                let text = format!("{} cannot be read: {problem}", full_path.display());
                doubts.push(text);
            }
            // A directory changes for many reasons; what was in it already is judged.
            let is_new = |disk: &&Disk| known.is_none_or(|it| it.disk(&disk.path) != Some(disk));
            news.extend(directory.disks.iter().filter(is_new).cloned());
            self.newer.insert(path, directory);
        }
        let is_covered = |path: &Path| self.evidence.is_covered(path);
        let links = follow_links(elsewhere(&news, is_covered), is_covered, &progress);
        for disk in news.iter().chain(links.values()) {
            if let Some(problem) = &disk.problem
                && !(links.contains_key(&disk.path) && self.evidence.hides_nothing(disk))
            {
                doubts.push(format!("{} cannot be read: {}", disk.path.display(), problem.text));
            }
            for base_name in disk.references.iter().filter_map(|it| it.file_name()) {
                self.named.entry(base_name.to_owned()).or_insert_with(|| disk.path.clone());
            }
        }
        self.doubt = self.doubt.take().or_else(|| doubts.into_iter().next());
        Ok(())
    }

    fn known(&self, path: &OsStr) -> Option<&Directory> {
        self.newer.get(path).or_else(|| self.evidence.directories.get(path))
    }
}
