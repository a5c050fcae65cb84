//! What stands before a prune: when it refuses, and what an operator must be warned of. Pure, like the verdicts.

use anyhow::{Result, bail};

use crate::evidence::Evidence;
use crate::inventory::{Inventory, Text};
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
        bail!("refused: the inventory is incomplete: {why}: take it anew, with all cells up and all pages");
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
    inventory.instances.iter().any(|it| it.texts(Text::Host).next().is_some())
}

fn is_in_inventory(inventory: &Inventory, host: &str) -> bool {
    inventory.instances.iter().any(|it| it.texts(Text::Host).any(|it| it == host))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Row;
    use crate::verdict::judge;
    use crate::verdict::tests::{A, NOW, add, disk, evidence, inventory, policy, row};

    const REAL: Asked = Asked {
        dry_run: false,
        disks_only: false,
        allow_empty: false,
        ignore_unlisted: false,
        has_inventory: true,
        has_libvirt: false,
    };
    const DISKS_ONLY: Asked = Asked { disks_only: true, has_inventory: false, ..REAL };
    const LIBVIRT: Asked = Asked { has_inventory: false, has_libvirt: true, ..REAL };

    fn dry(asked: Asked) -> Asked {
        Asked { dry_run: true, ..asked }
    }

    #[test]
    fn a_command_line_that_cannot_be_meant_is_refused() {
        let nothing = Asked { has_inventory: false, ..REAL };
        for (asked, refused) in [
            (REAL, false),
            (LIBVIRT, false),
            (DISKS_ONLY, false),
            (nothing, true),
            (dry(nothing), false),
            (Asked { has_inventory: true, ..DISKS_ONLY }, true),
            (dry(Asked { has_libvirt: true, ..DISKS_ONLY }), true),
            (Asked { ignore_unlisted: true, ..REAL }, false),
            (Asked { ignore_unlisted: true, ..DISKS_ONLY }, true),
            (dry(Asked { ignore_unlisted: true, ..nothing }), true),
        ] {
            assert_eq!(check_usage(asked).is_err(), refused, "{asked:?}");
        }
    }

    /// What a guard says of a tree with one directory of a disk, changed by `change`.
    fn refusal(asked: Asked, rows: &[Row], change: impl FnOnce(&mut Evidence)) -> Option<String> {
        let mut evidence = evidence(&[(A, 0)]);
        add(&mut evidence, "u", vec![disk("/i/u/disk", &[])]);
        change(&mut evidence);
        let inventory = (asked.has_inventory || asked.has_libvirt).then(|| inventory(rows));
        let judgement = judge(&evidence, inventory.as_ref(), &policy(), NOW);
        check_evidence(asked, &evidence, inventory.as_ref(), &policy(), &judgement)
            .err()
            .map(|error| error.to_string())
    }

    #[test]
    fn evidence_that_looks_like_a_mistake_is_refused() {
        let here = row("u", "here", "a");
        let elsewhere = row("v", "elsewhere", "a");
        let unknown_host: fn(&mut Evidence) = |it| it.compute_nodes = Ok(["there".to_owned()].into());
        let no_directories: fn(&mut Evidence) = |it| it.directories.clear();
        let shared_apart: fn(&mut Evidence) = |it| it.cache_is_shared_apart = true;
        let as_it_is: fn(&mut Evidence) = |_| {};
        let allow = |asked| Asked { allow_empty: true, ..asked };
        let ignoring = |asked| Asked { ignore_unlisted: true, ..asked };
        for (what, asked, rows, change, expected) in [
            ("an instance here", REAL, vec![here.clone()], as_it_is, None),
            (
                "no instance here",
                REAL,
                vec![elsewhere.clone()],
                as_it_is,
                Some("no instance of the inventory"),
            ),
            (
                "no instance here, dry",
                dry(REAL),
                vec![elsewhere.clone()],
                as_it_is,
                Some("no instance of the inventory"),
            ),
            ("no instance here, allowed", allow(REAL), vec![here.clone()], as_it_is, None),
            ("no instance and no disk", REAL, vec![], no_directories, None),
            ("disks alone", DISKS_ONLY, vec![], as_it_is, None),
            ("disks alone, and none", DISKS_ONLY, vec![], no_directories, Some("is mounted")),
            ("disks alone, and none, dry", dry(DISKS_ONLY), vec![], no_directories, Some("is mounted")),
            ("disks alone, and none, allowed", allow(DISKS_ONLY), vec![], no_directories, None),
            ("host unknown", REAL, vec![row("u", "there", "a")], unknown_host, Some("host here is neither")),
            ("host unknown, dry", dry(REAL), vec![row("u", "there", "a")], unknown_host, None),
            ("host unknown, no hosts named", REAL, vec![row("u", "", "a")], unknown_host, None),
            (
                "domains beside another host, ignoring",
                ignoring(LIBVIRT),
                vec![here.clone()],
                as_it_is,
                Some("host there shares"),
            ),
            ("domains beside another host", LIBVIRT, vec![here.clone()], as_it_is, None),
            ("inventory beside another host, ignoring", ignoring(REAL), vec![here.clone()], as_it_is, None),
            (
                "domains, cache shared apart",
                LIBVIRT,
                vec![here.clone()],
                shared_apart,
                Some("network filesystem"),
            ),
            ("disks alone, cache shared apart", DISKS_ONLY, vec![], shared_apart, Some("network filesystem")),
            ("inventory, cache shared apart", REAL, vec![here], shared_apart, None),
        ] {
            let refusal = refusal(asked, &rows, change);
            match expected {
                None => assert_eq!(refusal, None, "{what}"),
                Some(expected) => {
                    assert!(refusal.as_ref().is_some_and(|it| it.contains(expected)), "{what}: {refusal:?}")
                }
            }
        }
    }

    #[test]
    fn an_inventory_that_says_it_is_incomplete_stops_a_real_prune_only() {
        let incomplete =
            Inventory { incomplete: vec!["a cell is down".into()], ..inventory(&[row("u", "here", "a")]) };
        let evidence = evidence(&[]);
        let judgement = judge(&evidence, Some(&incomplete), &policy(), NOW);
        let check = |asked| check_evidence(asked, &evidence, Some(&incomplete), &policy(), &judgement);
        assert!(check(REAL).unwrap_err().to_string().contains("a cell is down"));
        assert!(check(dry(REAL)).is_ok());
    }

    #[test]
    fn a_host_that_nothing_names_is_warned_of() {
        let evidence = evidence(&[]);
        let codes = |host: &str, inventory: Option<&Inventory>| -> Vec<&str> {
            let policy = Policy { host: host.into(), ..policy() };
            let judgement = judge(&evidence, inventory, &policy, NOW);
            warnings(REAL, &evidence, inventory, &policy, &judgement).iter().map(|it| it.code).collect()
        };
        let inventory = inventory(&[row("u", "here.example", "a")]);
        assert_eq!(codes("here", Some(&inventory)), Vec::<&str>::new());
        assert_eq!(codes("here.example", Some(&inventory)), Vec::<&str>::new());
        assert_eq!(codes("HERE", Some(&inventory)), ["host_unknown"]);
        assert_eq!(codes("HERE", None), ["no_inventory"]);
    }
}
