//! What names lead to: those that disks, cache files and domains give, and the chains behind them.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use nix::fcntl::AT_FDCWD;

use super::open::{cause, has_vanished, open_examined};
use super::parallel::Workers;
use super::{Disk, Evidence, Target, disk};
use crate::backing_name;

/// How long a chain of files is followed.
const LONGEST_CHAIN: usize = 64;

/// How many names are looked at in a step, at least. A chain is a line, so that there are never more than at the first
/// step; only paths that name themselves in several ways become more and more.
const NAMES_A_STEP: usize = 256;

/// Follows every name that the disks and these domains' disks give: each name is looked at once.
pub fn follow(
    evidence: &Evidence,
    domain_disks: &[PathBuf],
    workers: &Workers<'_>,
) -> BTreeMap<PathBuf, Target> {
    let disks = evidence.directories.values().flat_map(|it| &it.disks);
    // A raw disk has no backing file. What its header seems to name is the guest's, who must not lead us about the host.
    let of_disks = disks.filter(|it| !it.is_raw).flat_map(|it| &it.references);
    let of_cache = evidence.cache_files().flat_map(|(_, it)| &it.references);
    let mut names: BTreeSet<&Path> = BTreeSet::new();
    let mut previous = None;
    for name in of_disks.chain(of_cache).chain(domain_disks) {
        // Neighbours often stand on the same file.
        if previous != Some(name) {
            previous = Some(name);
            if evidence.plain_cache_file(name).is_none() {
                names.insert(name);
            }
        }
    }
    let mut frontier: Vec<PathBuf> = names.into_iter().map(Path::to_owned).collect();
    let most = NAMES_A_STEP.max(2 * frontier.len());
    let mut targets: BTreeMap<PathBuf, Target> = BTreeMap::new();
    for depth in 1.. {
        if frontier.is_empty() {
            break;
        }
        let problem = if depth > LONGEST_CHAIN {
            Some(format!("a chain of more than {LONGEST_CHAIN} backing files leads here"))
        } else if frontier.len() > most {
            Some(format!("a chain that branches into {} files leads here", frontier.len()))
        } else {
            None
        };
        let found: Vec<Target> = match problem {
            Some(problem) => frontier
                .iter()
                .map(|path| Target::Disk(disk::unread(path.clone(), problem.clone())))
                .collect(),
            None => workers.map(&frontier, |path| look(evidence, path)),
        };
        let next: BTreeSet<PathBuf> = found
            .iter()
            .filter(|it| !is_raw(it))
            .flat_map(Target::references)
            .filter(|it| evidence.plain_cache_file(it).is_none())
            .cloned()
            .collect();
        targets.extend(frontier.into_iter().zip(found));
        frontier = next.into_iter().filter(|it| !targets.contains_key(it)).collect();
    }
    targets
}

fn is_raw(target: &Target) -> bool {
    matches!(target, Target::Disk(Disk { is_raw: true, .. }))
}

fn look(evidence: &Evidence, path: &Path) -> Target {
    match open_examined(AT_FDCWD, path.as_os_str()) {
        Ok(Some(opened)) => {
            let mut disk = disk::read(path.to_owned(), &opened);
            // Without this the names of a circle of disks, `../b/disk` and `../a/disk`, would grow with each step.
            for reference in &mut disk.references {
                if let Some(below) = evidence.below_instances_path(reference) {
                    *reference = evidence.layout.instances_path.join(below);
                }
            }
            if (disk.problem.is_some() || !disk.references.is_empty())
                && let Some(directory) = path.parent()
                && let Ok(directory) = fs_err::File::open(directory)
            {
                use std::os::fd::AsFd as _;
                disk.is_raw = disk::is_raw_by_disk_info(directory.file().as_fd(), path);
            }
            Target::Disk(disk)
        }
        Ok(None) => Target::NotADisk,
        Err(error) if has_vanished(&error) => {
            let link = fs_err::read_link(path).ok();
            Target::Missing {
                link: link.map(|it| backing_name::resolve(path.parent().unwrap_or(Path::new("/")), &it)),
            }
        }
        Err(error) => Target::Disk(disk::unread(path.to_owned(), cause(&error))),
    }
}
