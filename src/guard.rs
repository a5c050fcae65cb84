//! What stands before a prune: when it refuses, and what an operator must be warned of. Pure, like the verdicts.

use anyhow::{Result, bail};

use crate::evidence::Evidence;
use crate::inventory::Inventory;
use crate::verdict::{Judgement, Policy};
use crate::warning::Warning;

/// What of the command line the guards depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Nothing is to be changed.
    pub dry_run: bool,
    /// Go by the disks alone.
    pub disks_only: bool,
    /// Go on although nothing counts.
    pub allow_empty: bool,
    /// Leave out disks in directories of no instance.
    pub ignore_unlisted: bool,
    /// An `--inventory` is among the sources.
    pub has_inventory: bool,
    /// A `--libvirt` is among the sources.
    pub has_libvirt: bool,
}

/// Refuses what the command line alone shows to be wrong.
///
/// # Errors
/// The refusal, with what to do.
pub fn check_usage(asked: Asked) -> Result<()> {
    let has_source = asked.has_inventory || asked.has_libvirt;
    if asked.disks_only && has_source {
        bail!("--disks-only goes by the disks alone: leave out --inventory and --libvirt, or --disks-only");
    }
    if asked.ignore_unlisted && !has_source {
        bail!("--ignore-unlisted needs an inventory to tell which directories are listed: add --inventory");
    }
    if !asked.dry_run && !has_source && !asked.disks_only {
        bail!(
            "refused: no inventory: add --inventory or --libvirt, or --disks-only to go by the disks alone"
        );
    }
    Ok(())
}

/// Refuses what the evidence shows to be a mistake.
///
/// # Errors
/// The refusal, with what to do.
pub fn check_evidence(
    asked: Asked,
    evidence: &Evidence,
    inventory: Option<&Inventory>,
    policy: &Policy,
    judgement: &Judgement<'_>,
) -> Result<()> {
    let path = evidence.layout.instances_path.display();
    if !asked.allow_empty {
        if inventory.is_some() && judgement.counted == 0 && judgement.directories_with_disks > 0 {
            bail!(
                "refused: no instance of the inventory counts for {path}, where {} directories hold disks: check \
                 --host ({}) and the inventory, or add --allow-empty",
                judgement.directories_with_disks,
                policy.host
            );
        }
        if asked.disks_only && judgement.directories_with_disks == 0 {
            bail!(
                "refused: no instance directory of {path} holds a disk: check that its filesystem is mounted, or add \
                 --allow-empty"
            );
        }
    }
    if asked.dry_run {
        return Ok(());
    }
    if let Some(why) = inventory.and_then(|it| it.incomplete.first()) {
        bail!("refused: the inventory is incomplete: {why}");
    }
    if inventory.is_some_and(|it| names_hosts(it) && !is_in_inventory(it, &policy.host))
        && evidence
            .compute_nodes
            .as_ref()
            .is_ok_and(|nodes| !nodes.is_empty() && !nodes.contains(&policy.host))
    {
        bail!(
            "refused: host {} is neither in {path}/compute_nodes nor in the inventory: give --host the name that nova \
             uses",
            policy.host
        );
    }
    if asked.has_libvirt && !asked.has_inventory && asked.ignore_unlisted {
        let others = evidence.compute_nodes.iter().flatten().filter(|node| **node != policy.host);
        if let Some(other) = others.min() {
            bail!(
                "refused: host {other} shares {path}, and --libvirt knows nothing of its instances: add --inventory, or \
                 leave out --ignore-unlisted"
            );
        }
    }
    if evidence.cache_is_shared_apart && !asked.has_inventory {
        bail!(
            "refused: {} is on a network filesystem other than that of {path}, so other hosts may use it: add \
             --inventory with the instances of all of them",
            evidence.layout.cache_dir().display()
        );
    }
    Ok(())
}

/// What the operator should know before trusting the verdicts.
pub fn warnings(
    asked: Asked,
    evidence: &Evidence,
    inventory: Option<&Inventory>,
    policy: &Policy,
    judgement: &Judgement<'_>,
) -> Vec<Warning> {
    let mut warnings = Vec::new();
    let mut warn = |code, text: String| warnings.push(Warning::new(code, text));
    let path = evidence.layout.instances_path.display();
    match inventory {
        None if asked.disks_only => {}
        None => warn(
            "no_inventory",
            "no inventory: judged by the disks alone; add --inventory or --libvirt".into(),
        ),
        Some(inventory) => {
            inventory.warnings.iter().for_each(|it| warn(it.code, it.text.clone()));
            for why in &inventory.incomplete {
                warn(
                    "inventory_incomplete",
                    format!("the inventory is incomplete, so nothing is removable: {why}"),
                );
            }
            if let Err(why) = &evidence.compute_nodes {
                warn(
                    "no_compute_nodes",
                    format!(
                        "cannot tell which hosts share {path}, so instances count whatever their host: {why}"
                    ),
                );
            }
            let nodes = evidence.compute_nodes.as_ref().ok().filter(|nodes| !nodes.is_empty());
            if (names_hosts(inventory) || nodes.is_some())
                && !is_in_inventory(inventory, &policy.host)
                && !nodes.is_some_and(|nodes| nodes.contains(&policy.host))
            {
                warn(
                    "host_unknown",
                    format!(
                        "host {} is neither in {path}/compute_nodes nor in the inventory: is --host the name that nova \
                         uses, short or full?",
                        policy.host
                    ),
                );
            }
            if judgement.counted == 0 && judgement.directories_with_disks > 0 {
                warn("nothing_counted", format!("no instance of the inventory counts for {path}"));
            }
        }
    }
    if evidence.cache.is_none() {
        let text = format!("no cache directory {}: nothing to do", evidence.layout.cache_dir().display());
        warn("no_cache_directory", text);
    }
    if !judgement.complete {
        let blocking: Vec<_> = judgement.unreadable.iter().filter(|it| it.blocks).collect();
        let text = match &blocking[..] {
            [] => "the evidence is incomplete: nothing is removable".into(),
            [first, rest @ ..] => format!(
                "the evidence is incomplete, so nothing is removable: {}: {}{}",
                first.path.display(),
                first.error,
                if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) }
            ),
        };
        warn("evidence_incomplete", text);
    }
    warnings
}

fn names_hosts(inventory: &Inventory) -> bool {
    inventory.instances.iter().any(|it| it.texts(|row| &row.host).next().is_some())
}

fn is_in_inventory(inventory: &Inventory, host: &str) -> bool {
    inventory.instances.iter().any(|it| it.texts(|row| &row.host).any(|it| it == host))
}
