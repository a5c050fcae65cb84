//! `prune`: remove what is unused and old enough, or show what that would be.

use std::collections::BTreeMap;

use anyhow::{Result, bail};

use crate::cli::{Global, Prune};
use crate::evidence::{self, Progress};
use crate::exit::Exit;
use crate::guard::{self, Asked};
use crate::removal::{Done, Outcome};
use crate::report::{self, PassReport, Pruned, json, table};
use crate::settings;
use crate::time::Timestamp;
use crate::verdict::{self, Verdict};

/// Runs `prune`.
///
/// # Errors
/// Bad input or a refusal: then nothing was changed.
pub fn run(global: &Global, args: &Prune) -> Result<Exit> {
    let asked = Asked {
        dry_run: args.dry_run,
        disks_only: args.disks_only,
        allow_empty: args.allow_empty,
        ignore_unlisted: args.judging.ignore_unlisted,
        has_inventory: !args.judging.inventory.is_empty(),
        has_libvirt: !args.judging.libvirt.is_empty(),
    };
    guard::check_usage(asked)?;
    let layout = settings::layout(global)?;
    let policy = settings::policy(&args.judging)?;
    let inventory = settings::inventory(&args.judging)?;
    let inventory = inventory.as_ref();
    let now = Timestamp::now();
    let domain_disks = inventory.map_or(&[][..], |it| &it.disks);
    let evidence = evidence::gather(&layout, domain_disks, &Progress::default())?;
    super::tell(&evidence, global.verbose);
    let judgement =
        verdict::judge(&evidence, inventory, &policy, args.as_of.map_or(now, |it| it.resolve(now)));
    guard::check_evidence(asked, &evidence, inventory, &policy, &judgement)?;
    let warnings = guard::warnings(asked, &evidence, inventory, &policy, &judgement);
    if !args.dry_run {
        bail!("removal is not built yet: add --dry-run");
    }
    let done: BTreeMap<_, _> = judgement
        .files
        .iter()
        .map(|file| {
            let removable = file.verdict == Verdict::Removable;
            (file.name, Done::plain(if removable { Outcome::WouldRemove } else { Outcome::Kept }))
        })
        .collect();
    let report = PassReport {
        command: "prune",
        layout: &layout,
        host: &policy.host,
        inventory,
        judgement: &judgement,
        files: judgement.files.iter().collect(),
        missing: judgement.missing.iter().collect(),
        pruned: Some(Pruned { dry_run: args.dry_run, done: &done, touched: 0 }),
        warnings: &warnings,
        in_full: false,
    };
    report::print_warnings(&warnings, global.quiet);
    report::print(
        global.format,
        |output| table::pass(output, &report, table::terminal_width()),
        |output| json::pass(output, &report),
    )?;
    Ok(if judgement.complete { Exit::Done } else { Exit::Partly })
}
