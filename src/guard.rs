//! What stands before a prune: when it refuses, and what an operator must be warned of. Pure, like the verdicts.

use std::time::Duration;

use anyhow::{Result, bail};

use crate::cache_name::Kind;
use crate::evidence::{Cache, Evidence};
use crate::inventory::Inventory;
use crate::verdict::{Code, Judgement, Missing, Policy, Unreadable, is_same_host};
use crate::warning::Warning;

/// What of the command line the guards depend on.
#[derive(Clone, Copy, Debug, Default)]
pub struct Asked {
    /// Nothing is to be changed.
    pub dry_run: bool,
    pub disks_only: bool,
    pub allow_empty: bool,
    pub ignore_unlisted: bool,
    pub has_inventory: bool,
    pub has_libvirt: bool,
}

/// Everything that the guards look at.
#[derive(Clone, Copy)]
pub struct Case<'a> {
    pub asked: Asked,
    pub evidence: &'a Evidence,
    pub inventory: Option<&'a Inventory>,
    pub policy: &'a Policy,
    pub judgement: &'a Judgement<'a>,
}

/// nova may need that long between choosing a base file and using it.
const SHORT_AGE: Duration = Duration::from_secs(600);

/// Refuses what the command line alone shows to be wrong.
pub fn check_usage(asked: Asked) -> Result<()> {
    let has_source = asked.has_inventory || asked.has_libvirt;
    if asked.disks_only && has_source {
        bail!("--disks-only uses no list of instances: leave out --inventory and --libvirt, or --disks-only");
    }
    if asked.ignore_unlisted && !has_source {
        bail!("--ignore-unlisted needs a list of instances: add --inventory, or leave it out");
    }
    Ok(())
}

impl Case<'_> {
    /// Refuses what the evidence shows to be a mistake.
    pub fn check(&self) -> Result<()> {
        let Self { asked, evidence, judgement, policy, .. } = self;
        let (path, host) = (self.path(), &policy.host);
        if !asked.dry_run && self.inventory.is_none() && !asked.disks_only {
            bail!(
                "refused: no list of instances was given: add --libvirt or --inventory, or --disks-only to judge by the \
                 disks alone"
            );
        }
        // Without a cache directory nothing can be removed.
        if evidence.cache.is_none() {
            return Ok(());
        }
        // An unmounted filesystem looks like these three.
        let with_disks = judgement.directories_with_disks;
        if !asked.allow_empty && asked.disks_only && with_disks == 0 {
            bail!(
                "refused: no instance directory in {path} holds a disk: check that its filesystem is mounted; with \
                 images_type rbd or lvm this is always so: use --libvirt or --inventory in place of --disks-only; or add \
                 --allow-empty"
            );
        }
        // One that counts for another reason does not show that this list is of this host.
        let is_foreign = judgement.counted == 0 || asked.ignore_unlisted && judgement.counted_here == 0;
        if !asked.allow_empty && self.inventory.is_some() && is_foreign && with_disks > 0 {
            bail!(
                "refused: instance directories in {path} hold disks ({with_disks} do), and no instance in the inventory has \
                 a directory there: check --host ({host}) and the inventory, or add --allow-empty"
            );
        }
        if !asked.allow_empty
            && let [first, ..] = judgement.absent[..]
            && judgement.absent.len() == judgement.expected
        {
            bail!(
                "refused: not one of {} instances on host {host} has a directory in {path} (the first is {first}): check \
                 that all filesystems are mounted, or add --allow-empty",
                judgement.expected
            );
        }
        if asked.dry_run {
            return Ok(());
        }
        if let Some(why) = self.inventory.and_then(|it| it.incomplete.first()) {
            bail!(
                "refused: the inventory is incomplete: {why}: export it again, with all cells up and all pages"
            );
        }
        if !asked.allow_empty && !asked.disks_only && self.host_is_unknown() {
            bail!(
                "refused: host {host} is neither in {path}/compute_nodes nor in the inventory: set --host to the name \
                 that nova uses for this host, or add --allow-empty"
            );
        }
        if let Some(other) = self.unseen_host() {
            bail!(
                "refused: host {other} shares {path}, and --libvirt shows none of its instances: add --inventory, or \
                 leave out --ignore-unlisted"
            );
        }
        if self.shows_running_domains_only() && with_disks > judgement.listed_with_disks {
            bail!(
                "refused: --libvirt shows running domains only, and --ignore-unlisted disregards the disks of those that \
                 are shut off: name /etc/libvirt/qemu, or add --inventory, or leave out --ignore-unlisted"
            );
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

    /// Whether shut-off domains are left out, as /run/libvirt/qemu leaves them out.
    fn shows_running_domains_only(&self) -> bool {
        let Asked { has_inventory, ignore_unlisted, .. } = self.asked;
        !has_inventory && ignore_unlisted && self.inventory.is_some_and(|it| it.has_running_domains_only)
    }

    /// Another host whose instances would be left out, for the domains of this one are all that is known.
    fn unseen_host(&self) -> Option<&String> {
        let Asked { has_libvirt, has_inventory, ignore_unlisted, .. } = self.asked;
        if !has_libvirt || has_inventory || !ignore_unlisted {
            return None;
        }
        // nova writes one name for each host, so that of two at least one is another's, even if they begin alike.
        let nodes = self.evidence.compute_nodes.as_ref().ok()?;
        let host = &self.policy.host;
        let is_ours =
            |node: &str| node.eq_ignore_ascii_case(host) || nodes.len() == 1 && is_same_host(node, host);
        nodes.iter().filter(|it| !is_ours(it)).min_by_key(|it| (is_same_host(it, host), *it))
    }

    /// What the operator should know before trusting the verdicts.
    pub fn warnings(&self) -> Vec<Warning> {
        let Self { asked, evidence, judgement, policy, .. } = self;
        let (host, instances_path) = (policy.host.clone(), self.path());
        let mut warnings = Vec::new();
        if self.inventory.is_none() && !asked.disks_only {
            warnings.push(Warning::NoInventory);
        }
        if let Some(inventory) = self.inventory {
            warnings.extend(inventory.warnings.iter().cloned());
            warnings.extend(
                inventory.incomplete.iter().map(|why| Warning::InventoryIncomplete { why: why.clone() }),
            );
            if let Err(why) = &evidence.compute_nodes {
                let instances_path = instances_path.clone();
                warnings.push(Warning::NoComputeNodes { instances_path, why: why.clone() });
            }
            if self.host_is_unknown() {
                warnings.push(Warning::HostUnknown { host, instances_path: instances_path.clone() });
            }
            if judgement.counted == 0 && judgement.directories_with_disks > 0 {
                warnings.push(Warning::NothingCounted { instances_path: instances_path.clone() });
            }
            if !judgement.absent.is_empty() {
                let instances = judgement.absent.iter().map(ToString::to_string).collect();
                warnings.push(Warning::DirectoriesAbsent { instances, instances_path });
            }
        }
        let ages = [
            ("--original-min-age", policy.original_minimum_age),
            ("--resized-min-age", policy.resized_minimum_age),
        ];
        let short = ages.into_iter().filter(|(_, age)| *age < SHORT_AGE);
        warnings.extend(short.map(|(option, age)| Warning::ShortMinimumAge { option, age }));
        if evidence.cache.is_none() {
            let cache_dir = evidence.layout.cache_dir().display().to_string();
            warnings.push(Warning::NoCacheDirectory { cache_dir });
        }
        warnings.extend(evidence_incomplete(&judgement.unreadable));
        let is_by_disk = |code| matches!(code, Code::BackingFile | Code::BackingFileUnlisted);
        for Missing { name, reasons } in &judgement.missing {
            if let Some(reason) = reasons.iter().find(|it| is_by_disk(it.code)) {
                let file = name.display().to_string();
                warnings.push(Warning::InstanceBroken { file, why: reason.text.clone() });
            }
        }
        warnings
    }

    /// The rows of libvirt's domains do not tell: they are on the host of the command line, whatever it is.
    fn host_is_unknown(&self) -> bool {
        let rows = self.inventory.iter().flat_map(|it| &it.instances).flat_map(|it| &it.rows);
        let in_inventory = rows.filter(|it| !it.is_from_libvirt).filter_map(|it| it.host.as_deref());
        let nodes = self.evidence.compute_nodes.iter().flatten().map(String::as_str);
        let mut hosts = in_inventory.chain(nodes).peekable();
        hosts.peek().is_some() && !hosts.any(|it| is_same_host(it, &self.policy.host))
    }

    fn path(&self) -> String {
        self.evidence.layout.instances_path.display().to_string()
    }
}

/// Tells of what a killed prune left.
pub fn set_aside_found(cache: Option<&Cache>) -> Option<Warning> {
    let files = || cache.into_iter().flat_map(|it| &it.files);
    let mut aside = files().filter(|(name, file)| file.kind(name) == Kind::SetAside);
    let (_, first) = aside.next()?;
    Some(Warning::SetAsideFound { count: 1 + aside.count(), first: first.path.display().to_string() })
}

/// Names the first thing that makes the evidence incomplete, and what to do about it.
pub fn evidence_incomplete(unreadable: &[Unreadable]) -> Option<Warning> {
    let mut blocking = unreadable.iter().filter(|it| it.blocks);
    let first = blocking.next()?;
    Some(Warning::EvidenceIncomplete {
        path: first.path.display().to_string(),
        error: first.error.clone(),
        advice: first.advice,
        more: blocking.count(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Row;
    use crate::verdict::tests::{A, NOW, add, aside, broken, disk, evidence, inventory, judge, policy, row};

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
            (nothing, false),
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
        let case = Case {
            asked,
            evidence: &evidence,
            inventory: inventory.as_ref(),
            policy: &policy(),
            judgement: &judgement,
        };
        case.check().err().map(|error| error.to_string())
    }

    #[test]
    fn evidence_that_looks_like_a_mistake_is_refused() {
        type Change = fn(&mut Evidence);
        let unknown_host: Change = |it| it.compute_nodes = Ok(["there".to_owned()].into());
        let no_directories: Change = |it| it.directories.clear();
        let alike: Change = |it| it.compute_nodes = Ok(["here.a".to_owned(), "here.b".to_owned()].into());
        let longer: Change = |it| it.compute_nodes = Ok(["here".to_owned(), "here.b".to_owned()].into());
        let full_name: Change = |it| it.compute_nodes = Ok(["here.a".to_owned()].into());
        let shared_apart: Change = |it| it.cache_is_shared_apart = true;
        let as_it_is: Change = |_| {};
        let no_cache: Change = |it| it.cache = None;
        let [here, there, anywhere] = ["here", "there", ""].map(|it| [row("u", it, "a")]);
        let elsewhere = [row("v", "elsewhere", "a")];
        let [absent, volume] = ["a", ""].map(|image| [row("v", "here", image)]);
        let both = Asked { has_inventory: true, ..LIBVIRT };
        let hostless = [row("v", "", "a")];
        let domain = [Row { is_from_libvirt: true, ..here[0].clone() }];
        let listed_too = [domain[0].clone(), row("v", "there", "a")];
        let no_nodes: Change = |it| it.compute_nodes = Err("why".into());
        let building = Row { task_state: Some("spawning".into()), ..absent[0].clone() };
        let [building, one_of_two] = [building, absent[0].clone()].map(|it| [here[0].clone(), it]);
        let nobody: [Row; 0] = [];
        let without_disk: Change = |it| {
            it.directories.clear();
            add(it, "v", Vec::new());
            add(it, "v_del", vec![disk("/i/v_del/disk", &[])]);
        };
        let hostless_and_here = [row("v", "", ""), row("w", "here", "")];
        let nothing = Asked { has_inventory: false, ..REAL };
        let allow = |asked| Asked { allow_empty: true, ..asked };
        let ignoring = |asked| Asked { ignore_unlisted: true, ..asked };
        let (none_counts, host_unknown) = ("no instance in the inventory", "host here is neither");
        // "" where it is not refused.
        let cases: [(&str, Asked, &[Row], Change, &str); 43] = [
            ("an instance here", REAL, &here, as_it_is, ""),
            ("no instance here", REAL, &elsewhere, as_it_is, none_counts),
            ("no instance here, dry", dry(REAL), &elsewhere, as_it_is, none_counts),
            ("no instance here, allowed", allow(REAL), &elsewhere, as_it_is, ""),
            ("no directory of theirs", REAL, &hostless_and_here, as_it_is, ""),
            ("no directory of theirs, ignoring", ignoring(REAL), &hostless_and_here, as_it_is, none_counts),
            ("a directory of theirs, ignoring", ignoring(REAL), &hostless_and_here, without_disk, ""),
            ("no directory, ignoring, allowed", allow(ignoring(REAL)), &hostless_and_here, as_it_is, ""),
            ("no disk, ignoring", ignoring(REAL), &hostless_and_here, no_directories, ""),
            ("no instance and no disk", REAL, &nobody, no_directories, ""),
            ("no inventory", nothing, &nobody, as_it_is, "no list of instances"),
            ("no inventory, dry", dry(nothing), &nobody, as_it_is, ""),
            ("disks alone", DISKS_ONLY, &nobody, as_it_is, ""),
            ("disks alone, and none", DISKS_ONLY, &nobody, no_directories, "is mounted"),
            ("disks alone, and none, dry", dry(DISKS_ONLY), &nobody, no_directories, "is mounted"),
            ("disks alone, and none, allowed", allow(DISKS_ONLY), &nobody, no_directories, ""),
            ("host unknown", REAL, &there, unknown_host, host_unknown),
            ("host unknown, dry", dry(REAL), &there, unknown_host, ""),
            ("host unknown, only compute_nodes names hosts", REAL, &anywhere, unknown_host, host_unknown),
            ("host unknown, allowed", allow(REAL), &there, unknown_host, ""),
            ("host unknown, disks alone", DISKS_ONLY, &nobody, unknown_host, ""),
            ("host unknown, domains alone", LIBVIRT, &domain, unknown_host, host_unknown),
            ("host known, domains alone", LIBVIRT, &domain, as_it_is, ""),
            ("nothing names a host but the command line", LIBVIRT, &domain, no_nodes, ""),
            ("host unknown, domains beside an inventory", both, &listed_too, no_nodes, host_unknown),
            ("no directory of the only instance", REAL, &absent, as_it_is, "not one of 1"),
            ("no directory of the only instance, dry", dry(REAL), &absent, as_it_is, "not one of 1"),
            ("no directory, allowed", allow(REAL), &absent, as_it_is, ""),
            ("no directory, and no host named", REAL, &hostless, as_it_is, "not one of 1"),
            ("no directory, but being built", REAL, &building, as_it_is, ""),
            ("no directory of one of two", REAL, &one_of_two, as_it_is, ""),
            ("no directory, but on a volume", REAL, &volume, as_it_is, ""),
            ("nothing here, no cache", REAL, &absent, no_cache, ""),
            ("beside another host, ignoring", ignoring(LIBVIRT), &here, as_it_is, "host there shares"),
            ("beside a host of a like name, ignoring", ignoring(LIBVIRT), &here, alike, "host here.a shares"),
            (
                "beside a host of a longer name, ignoring",
                ignoring(LIBVIRT),
                &here,
                longer,
                "host here.b shares",
            ),
            ("domains of the only host, ignoring", ignoring(LIBVIRT), &here, full_name, ""),
            ("domains beside another host", LIBVIRT, &here, as_it_is, ""),
            ("inventory beside another host, ignoring", ignoring(REAL), &here, as_it_is, ""),
            ("both beside another host, ignoring", ignoring(both), &here, as_it_is, ""),
            ("domains, cache shared apart", LIBVIRT, &here, shared_apart, "network filesystem"),
            ("disks alone, cache shared apart", DISKS_ONLY, &nobody, shared_apart, "network filesystem"),
            ("inventory, cache shared apart", REAL, &here, shared_apart, ""),
        ];
        for (what, asked, rows, change, expected) in cases {
            let refusal = refusal(asked, rows, change).unwrap_or_default();
            assert!(refusal.contains(expected), "{what}: {refusal}");
            assert_eq!(refusal.is_empty(), expected.is_empty(), "{what}: {refusal}");
        }
    }

    #[test]
    fn running_domains_alone_are_refused_where_the_disks_of_others_would_be_disregarded() {
        let domains = |has_running_domains_only| Inventory {
            has_running_domains_only,
            ..inventory(&[Row { is_from_libvirt: true, ..row("u", "here", "a") }])
        };
        let ignoring = Asked { ignore_unlisted: true, ..LIBVIRT };
        let with_both = Asked { has_inventory: true, ..ignoring };
        for (asked, running_only, directories, is_refused) in [
            (ignoring, true, &["u", "v"][..], true),
            (ignoring, true, &["u"], false),
            (ignoring, false, &["u", "v"], false),
            (LIBVIRT, true, &["u", "v"], false),
            (with_both, true, &["u", "v"], false),
            (dry(ignoring), true, &["u", "v"], false),
        ] {
            let mut evidence = evidence(&[]);
            evidence.compute_nodes = Ok(["here".to_owned()].into());
            for directory in directories {
                add(&mut evidence, directory, vec![disk(&format!("/i/{directory}/disk"), &[])]);
            }
            let inventory = &domains(running_only);
            let judgement = &judge(&evidence, Some(inventory), &policy(), NOW);
            let (evidence, inventory, policy) = (&evidence, Some(inventory), &policy());
            let refusal = Case { asked, evidence, inventory, policy, judgement }.check();
            let says = refusal.is_err_and(|it| it.to_string().contains("running domains only"));
            assert_eq!(says, is_refused, "{asked:?} {running_only} {directories:?}");
        }
    }

    #[test]
    fn an_inventory_that_says_it_is_incomplete_stops_a_real_prune_only() {
        let incomplete =
            Inventory { incomplete: vec!["a cell is down".into()], ..inventory(&[row("u", "here", "a")]) };
        let mut evidence = evidence(&[]);
        add(&mut evidence, "u", vec![]);
        let judgement = judge(&evidence, Some(&incomplete), &policy(), NOW);
        let (inventory, policy, evidence, judgement) = (Some(&incomplete), &policy(), &evidence, &judgement);
        let check = |asked| Case { asked, evidence, inventory, policy, judgement }.check();
        assert!(check(REAL).unwrap_err().to_string().contains("a cell is down"));
        assert!(check(dry(REAL)).is_ok());
    }

    #[test]
    fn the_operator_is_warned_of_what_is_odd() {
        type Change = fn(&mut Evidence, &mut Policy);
        let as_it_is: Change = |_, _| {};
        let on = |host: &str| [row("u", host, "a")];
        let elsewhere = [row("v", "elsewhere", "a")];
        type Odd<'a> = (&'a str, Option<&'a [Row]>, Change, &'a [&'a str]);
        let cases: [Odd<'_>; 12] = [
            ("a host by its full name", Some(&on("here.example")), as_it_is, &[]),
            ("this host's full name", Some(&on("here")), |_, it| it.host = "HERE.example".into(), &[]),
            (
                "a host that nothing names",
                Some(&on("here")),
                |_, it| it.host = "nowhere".into(),
                &["host nowhere is neither in /i/compute_nodes"],
            ),
            ("no list", None, |_, it| it.host = "nowhere".into(), &["no list of instances"]),
            ("nobody counts", Some(&elsewhere), as_it_is, &["no instance in the inventory uses /i, but"]),
            ("nobody counts, and no disk", Some(&elsewhere), |it, _| it.directories.clear(), &[]),
            (
                "two directories absent",
                Some(&[row("v", "here", "a"), row("w", "here", "a")]),
                as_it_is,
                &["2 instances should have a directory in /i and have none"],
            ),
            (
                "no compute_nodes",
                Some(&on("here")),
                |it, _| it.compute_nodes = Err("why".into()),
                &["share /i"],
            ),
            (
                "short minimum ages",
                Some(&on("here")),
                |_, it| {
                    it.original_minimum_age = Duration::from_secs(599);
                    it.resized_minimum_age = Duration::from_secs(600);
                },
                &["is 9m 59s (--original-min-age"],
            ),
            ("no cache", Some(&on("here")), |it, _| it.cache = None, &["no cache directory /i/_base"]),
            (
                "two disks that cannot be read",
                Some(&on("here")),
                |it, _| add(it, "v", vec![broken("/i/v/disk"), broken("/i/v/disk.swap")]),
                &["/i/v/disk: broken: repair it"],
            ),
            (
                "a broken disk",
                Some(&on("here")),
                |it, _| add(it, "v", vec![disk("/i/v/disk", &["/i/_base/gone"])]),
                &["gone does not exist, and it is the backing file of disk /i/v/disk"],
            ),
        ];
        for (what, rows, change, expected) in cases {
            let (mut evidence, mut policy) = (evidence(&[(A, 0)]), policy());
            add(&mut evidence, "u", vec![disk("/i/u/disk", &[])]);
            change(&mut evidence, &mut policy);
            let inventory = rows.map(inventory);
            let inventory = inventory.as_ref();
            let judgement = &judge(&evidence, inventory, &policy, NOW);
            let case = Case { asked: REAL, evidence: &evidence, inventory, policy: &policy, judgement };
            let warnings: Vec<String> = case.warnings().iter().map(ToString::to_string).collect();
            assert_eq!(warnings.len(), expected.len(), "{what}: {warnings:?}");
            for (warning, expected) in warnings.iter().zip(expected) {
                assert!(warning.contains(expected), "{what}: {warning}");
            }
            let more = warnings.iter().any(|it| it.ends_with("(explain lists 1 more)"));
            assert_eq!(more, what == "two disks that cannot be read", "{what}: {warnings:?}");
        }
    }

    #[test]
    fn files_that_are_set_aside_are_counted() {
        let found = |names: &[&str]| {
            let files: Vec<(&str, i64)> = names.iter().map(|it| (*it, 0)).collect();
            set_aside_found(evidence(&files).cache.as_ref()).map(|it| it.to_string())
        };
        let [a, swap] = [A, "swap_1"].map(aside);
        assert_eq!(found(&[A]), None);
        assert!(found(&[&a]).unwrap().contains("has set 1 file aside"));
        assert!(found(&[A, &a, &swap]).unwrap().contains("has set 2 files aside"));
    }
}
