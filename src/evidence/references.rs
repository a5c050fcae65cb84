//! What names lead to: those that disks, cache files and domains give, and the chains behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;

use super::disk::{self, DISK_INFO, DiskInfo};
use super::open::{cause, has_vanished, open_examined};
use super::parallel::Workers;
use super::{Disk, Evidence};
use crate::backing_name;

/// How long a chain of files is followed.
const LONGEST_CHAIN: usize = 64;

/// How many names are looked at in a step, at least. A chain is a line, so that there are never more than at the first
/// step; only paths that name themselves in several ways become more and more.
const NAMES_A_STEP: usize = 256;

/// Follows every name that the disks and these domains' disks give: each name is looked at once. Gives also the names of
/// which something tells that they have a header.
pub fn follow(
    evidence: &Evidence,
    domain_disks: &[PathBuf],
    workers: &Workers<'_>,
) -> (BTreeMap<PathBuf, Disk>, BTreeSet<PathBuf>) {
    let is_followed = |it: &&PathBuf| evidence.plain_cache_file(it).is_none();
    let of_disks = named_by(evidence.directories.values().flat_map(|it| &it.disks));
    let of_cache = evidence.cache_files().flat_map(|(_, it)| &it.references);
    let names = of_disks.chain(of_cache).chain(domain_disks).filter(is_followed);
    let mut frontier: Vec<PathBuf> = names.collect::<BTreeSet<_>>().into_iter().cloned().collect();
    let mut told = BTreeSet::new();
    tell(evidence, evidence.directories.values().flat_map(|it| &it.disks), &mut told);
    let most = NAMES_A_STEP.max(2 * frontier.len());
    let mut known: BTreeMap<PathBuf, Disk> = BTreeMap::new();
    for depth in 1.. {
        let problem = if frontier.is_empty() {
            break;
        } else if depth > LONGEST_CHAIN {
            Some(format!("a chain of more than {LONGEST_CHAIN} backing files leads here"))
        } else if frontier.len() > most {
            Some(format!("a chain that branches into {} files leads here", frontier.len()))
        } else {
            None
        };
        let found = workers.map(&frontier, |path| match &problem {
            Some(problem) => disk::unread(path.clone(), problem.clone()),
            None => look(evidence, path, told.contains(path)),
        });
        let mut next: BTreeSet<PathBuf> = named_by(&found).filter(is_followed).cloned().collect();
        let told_now = tell(evidence, &found, &mut told);
        known.extend(frontier.into_iter().zip(found));
        next.retain(|it| !known.contains_key(it));
        // Looked at once more where that was not known.
        next.extend(told_now.into_iter().filter(|it| is_followed(&it)));
        frontier = next.into_iter().collect();
    }
    (known, told)
}

/// A raw disk has no backing file. What its header seems to name is the guest's, who must not lead us about the host.
fn named_by<'a>(disks: impl IntoIterator<Item = &'a Disk>) -> impl Iterator<Item = &'a PathBuf> {
    disks.into_iter().filter(|it| !it.is_raw).flat_map(|it| &it.references)
}

/// Adds what disks tell to have a header, and what the files of the cache tell that are told so; gives what is new.
fn tell<'a>(
    evidence: &'a Evidence,
    disks: impl IntoIterator<Item = &'a Disk>,
    told: &mut BTreeSet<PathBuf>,
) -> Vec<PathBuf> {
    let disks = disks.into_iter().filter(|it| !it.is_raw);
    let mut next: Vec<&PathBuf> = disks.flat_map(|it| &it.with_header).collect();
    let mut new = Vec::new();
    while let Some(name) = next.pop() {
        if told.contains(name) {
            continue;
        }
        told.insert(name.clone());
        new.push(name.clone());
        next.extend(evidence.plain_cache_file(name).into_iter().flat_map(|it| &it.with_header));
    }
    new
}

fn look(evidence: &Evidence, path: &Path, must_have_header: bool) -> Disk {
    disk::with_patience(|| look_once(evidence, path, must_have_header), |it| it.has_lost_header)
}

fn look_once(evidence: &Evidence, path: &Path, must_have_header: bool) -> Disk {
    let mut disk = Disk { path: path.to_owned(), ..Disk::default() };
    // Only a domain's: opened from here it would be another file.
    if path.is_relative() {
        return disk::unread(disk.path, "not an absolute path: only libvirt knows where it is".into());
    }
    match open_examined(AT_FDCWD, path.as_os_str()) {
        Ok(Some(opened)) => {
            disk = disk::read(disk.path, &opened);
            // Without this the names of a circle of disks, `../b/disk` and `../a/disk`, would grow with each step.
            for reference in disk.references.iter_mut().chain(&mut disk.with_header) {
                if let Some(below) = evidence.below_instances_path(reference) {
                    *reference = evidence.layout.instances_path.join(below);
                }
            }
            let disk_info = path.with_file_name(DISK_INFO);
            if disk.problem.is_some() || !disk.has_header || !disk.references.is_empty() {
                disk.heed(&DiskInfo::new(AT_FDCWD, disk_info.into_os_string()));
            }
        }
        Ok(None) if path.is_dir() => disk.problem = Some("a directory, and no file".into()),
        Ok(None) => {}
        Err(error) if has_vanished(&error) => {
            disk.is_missing = true;
            disk.references.extend(fs_err::read_link(path).ok().map(|it| backing_name::resolve(path, it)));
        }
        Err(error) => disk.problem = Some(cause(&error)),
    }
    if must_have_header && !disk.is_missing {
        // QEMU goes by what names it.
        disk.is_raw = false;
        disk.must_have_header("the header that names it (qemu-img rebase -u -F raw corrects that)");
    }
    disk
}
