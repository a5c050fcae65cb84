//! `prune`: remove what is unused and old enough, or show what that would be.

use anyhow::Result;

use crate::cli::{Global, Prune};
use crate::evidence::{self, Evidence, Layout};
use crate::exit::Exit;
use crate::guard::{self, Asked};
use crate::inventory::Inventory;
use crate::lock::Locks;
use crate::plan::Plan;
use crate::progress;
use crate::removal::{self, Outcomes, Removal};
use crate::report::{self, PassReport, Pruned, json, table};
use crate::settings;
use crate::time::Timestamp;
use crate::verdict::{self, Judgement, Policy};
use crate::warning::Warning;

/// Runs `prune`.
///
/// # Errors
/// Bad input or a refusal, [`crate::exit::AlreadyRunning`]: then nothing was changed.
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
    let conf = settings::nova_conf(global)?;
    let layout = settings::layout(global, &conf)?;
    let policy = settings::policy(&args.judging, &conf)?;
    let inventory = settings::inventory(&args.judging, &policy.host)?;
    let command = Command {
        global,
        args,
        asked,
        policy,
        note: settings::note(&conf),
        inventory,
        plan: args.plan.as_deref().map(|file| Plan::load(file, &layout)).transpose()?,
        layout,
    };
    // Dry or not is decided here, once.
    if args.dry_run { command.show() } else { command.remove() }
}

struct Command<'a> {
    global: &'a Global,
    args: &'a Prune,
    asked: Asked,
    layout: Layout,
    policy: Policy,
    note: Option<Warning>,
    inventory: Option<Inventory>,
    plan: Option<Plan>,
}

impl Command<'_> {
    fn show(&self) -> Result<Exit> {
        let evidence = super::kept_until_exit(self.gather()?);
        let judgement = self.judge(&evidence)?;
        let intents = removal::intents(&judgement, self.plan.as_ref());
        self.report(&evidence, &judgement, &intents, 0, Vec::new())
    }

    fn remove(&self) -> Result<Exit> {
        if let Some(locks) = Locks::open(&self.layout)?
            && locks.has_run_lock()
        {
            return self.remove_exclusively(&locks);
        }
        // The first prune of this path. A refusal leaves nothing behind, so the guards come before the lock is made;
        // what is done goes by evidence gathered under it.
        let evidence = self.gather()?;
        let judgement = self.judge(&evidence)?;
        if evidence.cache.is_none() {
            let intents = removal::intents(&judgement, self.plan.as_ref());
            return self.report(&evidence, &judgement, &intents, 0, Vec::new());
        }
        // Not both in memory at once.
        drop(judgement);
        drop(evidence);
        self.remove_exclusively(&Locks::open_or_make(&self.layout)?)
    }

    fn remove_exclusively(&self, locks: &Locks) -> Result<Exit> {
        locks.exclusively(&self.layout, || {
            let evidence = self.gather()?;
            let judgement = self.judge(&evidence)?;
            let mut outcomes = removal::intents(&judgement, self.plan.as_ref());
            let mut warnings = Vec::new();
            let mut touched = 0;
            if evidence.cache.is_some() {
                if let Err(error) = locks.sweep(&self.layout) {
                    let text = format!("cannot remove what an earlier run left behind: {error}");
                    warnings.push(Warning::new("sweep_failed", text));
                }
                let mut removal = Removal::open(&evidence, locks, self.args.lock_wait)?;
                let failures;
                (touched, failures) = removal.touch(&judgement);
                if let [first, rest @ ..] = &failures[..] {
                    let more =
                        if rest.is_empty() { String::new() } else { format!(" (and {} more)", rest.len()) };
                    warnings.push(Warning::new("touch_failed", format!("{first}{more}")));
                }
                outcomes = removal.remove(&judgement, outcomes);
                warnings.extend(removal.spare.into_iter().map(|text| Warning::new("lock_file_left", text)));
            }
            self.report(&evidence, &judgement, &outcomes, touched, warnings)
        })
    }

    fn gather(&self) -> Result<Evidence> {
        let domain_disks = self.inventory.as_ref().map_or(&[][..], |it| &it.disks);
        let evidence = progress::shown(self.global.quiet, |progress| {
            evidence::gather(&self.layout, domain_disks, progress)
        })?;
        super::tell(&evidence, self.global.verbose);
        Ok(evidence)
    }

    fn judge<'e>(&'e self, evidence: &'e Evidence) -> Result<Judgement<'e>> {
        let now = Timestamp::now();
        let as_of = self.args.as_of.map_or(now, |it| it.resolve(now));
        let judgement = verdict::judge(evidence, self.inventory.as_ref(), &self.policy, as_of);
        guard::check_evidence(self.asked, evidence, self.inventory.as_ref(), &self.policy, &judgement)?;
        Ok(judgement)
    }

    fn report(
        &self,
        evidence: &Evidence,
        judgement: &Judgement<'_>,
        outcomes: &Outcomes<'_>,
        touched: usize,
        more_warnings: Vec<Warning>,
    ) -> Result<Exit> {
        let mut warnings =
            guard::warnings(self.asked, evidence, self.inventory.as_ref(), &self.policy, judgement);
        warnings.extend(self.note.clone());
        warnings.extend(more_warnings);
        let report = PassReport {
            command: "prune",
            layout: &self.layout,
            host: &self.policy.host,
            inventory: self.inventory.as_ref(),
            judgement,
            files: judgement.files.iter().collect(),
            missing: judgement.missing.iter().collect(),
            pruned: Some(Pruned { dry_run: self.args.dry_run, done: outcomes, touched }),
            warnings: &warnings,
            in_full: false,
        };
        report::print_warnings(&warnings, self.global.quiet);
        // Whoever sends the report to a file, or throws it away, is to learn of these all the same.
        outcomes.values().filter_map(|it| it.error.as_deref()).for_each(report::print_message);
        report::print(
            self.global.format,
            |output| table::pass(output, &report, table::terminal_width()),
            |output| json::pass(output, &report),
        )?;
        let is_whole = judgement.complete && !outcomes.values().any(|it| it.outcome.is_partial());
        Ok(if is_whole { Exit::Done } else { Exit::Partly })
    }
}
