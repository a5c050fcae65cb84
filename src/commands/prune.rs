//! `prune`: remove what is unused and old enough, or show what that would be.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::ffi::{OsStr, OsString};
use std::path::Path;

use anyhow::{Context as _, Result, bail};

use super::pass::{Found, Pass};
use crate::cli::{Global, Prune};
use crate::evidence::{Evidence, Identity, open_instances_path};
use crate::exit::Exit;
use crate::filesystem::{Space, is_shared, locks_not_shared};
use crate::goal::{Goal, next_for, spare_others};
use crate::guard::{self, Asked};
use crate::inventory::Inventory;
use crate::lock::{Locks, has_run_lock};
use crate::outcome::{Done, Outcome, Outcomes, intents};
use crate::owner::Owner;
use crate::plan::Plan;
use crate::removal::{Removal, SecondLook, open_cache_dir};
use crate::report::{self, Pruned};
use crate::signals::Signals;
use crate::verdict::{Code, Judged, Unreadable, Verdict};
use crate::warning::Warning;

pub fn run(global: &Global, args: &Prune) -> Result<Exit> {
    let asked = Asked {
        dry_run: args.dry_run,
        disks_only: args.disks_only,
        allow_empty: args.allow_empty,
        ..Asked::default()
    };
    if args.as_of.is_some() && !args.dry_run {
        bail!("--as-of is only for a dry run: a real prune judges by the present time: add --dry-run");
    }
    let pass = Pass::prepare(global, &args.judging, args.as_of, asked)?;
    let plan = args.plan.as_deref().map(|file| Plan::load(file, &pass.layout)).transpose()?;
    let command = Command { args, pass, plan };
    // Dry or not is decided here, once.
    if args.dry_run { command.show() } else { command.remove() }
}

type Decided<'e> = (Found<'e>, Outcomes<'e>, Option<(u64, Space)>);

struct Command<'a> {
    args: &'a Prune,
    pass: Pass<'a>,
    plan: Option<Plan>,
}

impl Command<'_> {
    fn show(&self) -> Result<Exit> {
        let evidence = self.pass.shown(|| self.pass.gather())?;
        let mut found = self.judge(&evidence)?;
        found.warnings.extend(guard::set_aside_found(evidence.cache.as_ref()));
        let mut outcomes = self.intents(&mut found)?;
        let mut goal = None;
        if let Some((wanted_bytes, space)) = self.wanted()?.filter(|_| evidence.cache.is_some()) {
            let available_before_bytes = space.available_bytes;
            let chosen =
                next_for(&found.judgement, &outcomes, wanted_bytes.saturating_sub(available_before_bytes));
            let freed: u64 =
                chosen.iter().filter_map(|it| found.judgement.file(it)).map(|it| it.file.frees_bytes()).sum();
            spare_others(&mut outcomes, &chosen.into_iter().collect());
            goal = Some(Goal {
                wanted_bytes,
                available_before_bytes,
                available_after_bytes: available_before_bytes + freed,
            });
        }
        self.report(found, Pruned { outcomes, goal, ..Pruned::default() })
    }

    fn remove(&self) -> Result<Exit> {
        let signals = &Signals::register()?;
        let layout = &self.pass.layout;
        let instances = open_instances_path(&layout.instances_path)?;
        let Some(cache_dir) = open_cache_dir(layout, &instances)? else { return self.report_no_cache() };
        let owner = Owner::of(layout, &instances, &cache_dir)?;
        if !has_run_lock(layout) {
            // The first prune of this path. A refusal leaves nothing behind, so they come before the lock is made.
            let evidence = self.pass.shown(|| self.pass.gather())?;
            // What a killed prune left is put back before the guards.
            if guard::set_aside_found(evidence.cache.as_ref()).is_none() {
                self.intents(&mut self.judge(&evidence)?)?;
                self.wanted()?;
            }
        }
        let locks = &Locks::open(layout, &instances, owner)?;
        let removal = Removal {
            layout,
            instances,
            cache_dir,
            locks,
            cache_is_shared: is_shared(&layout.cache_dir()),
            locks_are_shared: is_shared(&layout.locks_dir()),
            owner,
            lock_wait: self.args.lock_wait,
            settle: self.args.settle,
            signals,
            progress: &self.pass.progress,
        };
        let gathered = OnceCell::new();
        let (found, work) = locks.exclusively(layout, || {
            let leftovers = removal.put_back_leftovers()?;
            // An error prints no report.
            let print = |_: &_| report::print_warnings(&leftovers, self.pass.global);
            let evidence = self.pass.shown(|| self.pass.gather()).inspect_err(print)?;
            let evidence = gathered.get_or_init(|| evidence);
            let (mut found, outcomes, wanted) = self.decide(&removal, evidence).inspect_err(print)?;
            found.warnings.extend(leftovers);
            found.warnings.extend(locks_not_shared(&layout.instances_path));
            let mut work = Pruned { outcomes, ..Pruned::default() };
            self.work(&removal, &mut found, &mut work, wanted);
            if let Some(signal) = signals.received() {
                found.warnings.push(Warning::Interrupted { signal });
                work.is_interrupted = true;
            }
            Ok((found, work))
        })?;
        // Whoever reads the report, as a pager does, must not keep the next run from its lock.
        self.report(found, work)
    }

    /// What is to be removed, and how many bytes are to be free.
    fn decide<'e>(&'e self, removal: &Removal<'_>, evidence: &'e Evidence) -> Result<Decided<'e>> {
        let mut found = self.judge(evidence)?;
        removal.check_same(evidence)?;
        let outcomes = self.intents(&mut found)?;
        Ok((found, outcomes, self.wanted_of(removal.space().ok())?))
    }

    fn report_no_cache(&self) -> Result<Exit> {
        let evidence = self.pass.shown(|| self.pass.gather())?;
        let mut found = self.judge(&evidence)?;
        if evidence.cache.is_some() {
            bail!("{} was made just now: run this again", self.pass.layout.cache_dir().display());
        }
        let outcomes = self.intents(&mut found)?;
        self.report(found, Pruned { outcomes, ..Pruned::default() })
    }

    /// Touches what is in use and removes what is to be removed.
    fn work<'e>(
        &self,
        removal: &Removal<'_>,
        found: &mut Found<'e>,
        work: &mut Pruned<'e>,
        wanted: Option<(u64, Space)>,
    ) {
        let touched = removal.touch(&found.judgement);
        work.touched = touched.0;
        found.warnings.extend(touched.1);
        loop {
            let names = match wanted {
                None => work.left().collect(),
                Some((wanted_bytes, _)) => {
                    // What cannot be asked now removes nothing more.
                    let available = removal.space().map_or(u64::MAX, |it| it.available_bytes);
                    next_for(&found.judgement, &work.outcomes, wanted_bytes.saturating_sub(available))
                }
            };
            let batch: Vec<&Judged<'e>> = names.iter().filter_map(|it| found.judgement.file(it)).collect();
            if batch.is_empty() {
                break;
            }
            let mut incomplete = Vec::new();
            let look_again = |set_aside: &_| self.look_again(removal, found, set_aside, &mut incomplete);
            let before = wanted.and_then(|_| removal.space().ok());
            self.pass.shown(|| removal.remove(&batch, look_again, &mut work.outcomes));
            if let (Some((wanted_bytes, _)), Some(before)) = (wanted, before) {
                let is_gone = |it: &&&Judged<'e>| {
                    work.outcomes.get(it.name).is_some_and(|it| it.outcome == Outcome::Removed)
                };
                let freed: u64 = batch.iter().filter(is_gone).map(|it| it.file.frees_bytes()).sum();
                if freed > 0 {
                    removal.wait_until_free(wanted_bytes.min(before.available_bytes.saturating_add(freed)));
                }
            }
            if !incomplete.is_empty() {
                found.warnings.extend(guard::evidence_incomplete(&incomplete));
                let is_left =
                    |name: &OsStr| work.outcomes.get(name).is_none_or(|it| it.outcome != Outcome::Removed);
                found.judgement.becomes_incomplete(incomplete, is_left);
                break;
            }
        }
        found.warnings.extend(removal.stays_aside(&work.outcomes));
        for done in work.outcomes.values_mut().filter(|it| it.outcome == Outcome::WouldRemove) {
            *done = match removal.interrupted() {
                Some(interrupted) => interrupted,
                None if !found.judgement.is_complete() => {
                    Done::because(Outcome::NotReached, "the evidence became incomplete before")
                }
                None => Done::plain(Outcome::Spared),
            };
        }
        work.goal = wanted.map(|(wanted_bytes, before)| Goal {
            wanted_bytes,
            available_before_bytes: before.available_bytes,
            available_after_bytes: removal.space().unwrap_or(before).available_bytes,
        });
    }

    /// Gathers and judges everything again, and says what of the files set aside is not removable any more.
    fn look_again(
        &self,
        removal: &Removal<'_>,
        first: &Found<'_>,
        set_aside: &BTreeSet<OsString>,
        incomplete: &mut Vec<Unreadable>,
    ) -> SecondLook {
        let mut all_stay = |unreadable: Vec<Unreadable>| {
            let why = guard::evidence_incomplete(&unreadable).map(|it| it.to_string());
            *incomplete = unreadable;
            SecondLook::Incomplete(why.unwrap_or_default())
        };
        let failed = |path: &Path, error: anyhow::Error| {
            let path = path.to_owned();
            vec![Unreadable { path, error: format!("{error:#}"), blocks: true, advice: "run this again" }]
        };
        let instances_path = &self.pass.layout.instances_path;
        let libvirt = self.args.judging.libvirt.first().unwrap_or(instances_path);
        let inventory = match self.pass.inventory_again() {
            Ok(inventory) => inventory,
            Err(error) => return all_stay(failed(libvirt, error)),
        };
        let evidence = match self.pass.gather_again(set_aside, inventory.as_deref()) {
            Ok(evidence) => evidence,
            Err(error) => return all_stay(failed(instances_path, error)),
        };
        let is_same = removal.check_same(&evidence);
        let found = match is_same.and_then(|()| self.judge_by(&evidence, inventory.as_deref())) {
            Ok(found) => found,
            Err(error) => return all_stay(failed(instances_path, error)),
        };
        if !found.judgement.is_complete() {
            return all_stay(found.judgement.blocking().cloned().collect());
        }
        if let Some(name) = leads_nowhere(first, &found) {
            let why = format!("{} is in use, and it leads nowhere any more", name.display());
            return SecondLook::AllStay(why);
        }
        let identity = |it: &Judged<'_>| it.file.link.or(it.file.stat).map(|it| it.identity);
        let mut kept = BTreeMap::new();
        for name in set_aside {
            let why = match found.judgement.file(name) {
                None => "it has vanished".into(),
                Some(judged) if identity(judged) != first.judgement.file(name).and_then(identity) => {
                    "a new file has its name".into()
                }
                Some(judged) if judged.verdict == Verdict::Removable => continue,
                Some(judged) => {
                    let reasons: Vec<&str> = judged.reasons.iter().map(|it| &*it.text).collect();
                    format!("it is {} now: {}", judged.verdict.as_str(), reasons.join("; "))
                }
            };
            kept.insert(name.clone(), why);
        }
        SecondLook::Complete(kept)
    }

    fn judge<'e>(&'e self, evidence: &'e Evidence) -> Result<Found<'e>> {
        self.judge_by(evidence, self.pass.inventory())
    }

    fn judge_by<'e>(&'e self, evidence: &'e Evidence, inventory: Option<&'e Inventory>) -> Result<Found<'e>> {
        let found = self.pass.judge(evidence, inventory)?;
        self.pass.check(&found)?;
        Ok(found)
    }

    fn intents<'e>(&self, found: &mut Found<'e>) -> Result<Outcomes<'e>> {
        self.pass.select(&self.args.subjects, found)?;
        if let Some(plan) = &self.plan {
            found.warnings.extend(plan.differs_from(&self.pass.policy, found.as_of));
            found.warnings.extend(plan.gone(&found.judgement));
        }
        Ok(intents(&found.judgement, self.plan.as_ref(), found.asked.as_ref()))
    }

    /// How many bytes are to be free, and what is free now.
    fn wanted(&self) -> Result<Option<(u64, Space)>> {
        self.wanted_of(self.pass.space())
    }

    fn wanted_of(&self, space: Option<Space>) -> Result<Option<(u64, Space)>> {
        let Some(until_free) = self.args.until_free else { return Ok(None) };
        let space = space.with_context(|| {
            format!(
                "cannot ask how much is free in {}: leave out --until-free",
                self.pass.layout.cache_dir().display()
            )
        })?;
        Ok(Some((until_free.wanted_bytes(space), space)))
    }

    fn report(&self, mut found: Found<'_>, mut work: Pruned<'_>) -> Result<Exit> {
        if let Some(goal) = &work.goal
            && goal.short_bytes() > 0
        {
            found.warnings.push(Warning::GoalMissed { short_bytes: goal.short_bytes() });
        }
        // Whoever sends the report to a file, or throws it away, is to learn of these all the same.
        let failed = work.outcomes.values().filter(|it| it.outcome == Outcome::Failed);
        failed.filter_map(|it| it.error.as_deref()).for_each(report::print_message);
        work.dry_run = self.args.dry_run;
        self.pass.report(&found, Some(&work))
    }
}

/// A name in use that leads nowhere now, and led somewhere in the first look.
fn leads_nowhere<'e>(first: &Found<'e>, again: &Found<'e>) -> Option<&'e Path> {
    // What was removable then was in use by no name. A name that led to it is one of a disk that does not count.
    let removable: HashSet<Identity> = first
        .judgement
        .files
        .iter()
        .filter(|it| it.verdict == Verdict::Removable)
        .filter_map(|it| Some(it.file.stat?.identity))
        .collect();
    let led_to = |name: &Path| match first.evidence.references.get(name) {
        Some(disk) => disk.identity,
        None => first.evidence.plain_cache_file(name)?.stat.map(|it| it.identity),
    };
    let missing = again.evidence.references.iter().filter(|(_, it)| it.is_missing);
    let mut names = missing.map(|(name, _)| name.as_path());
    if let Some(name) = names.find(|it| led_to(it).is_some_and(|it| !removable.contains(&it))) {
        return Some(name);
    }
    // A link in the cache to a file that is set aside: whoever uses the link since then uses the file.
    let links = first.judgement.files.iter().filter(|it| it.file.link.is_some() && it.file.is_file);
    links.filter_map(|it| again.judgement.file(it.name)).find_map(|it| {
        let is_in_use = it.reasons.iter().any(|reason| reason.code != Code::NotACacheFile);
        (!it.file.is_file && is_in_use).then_some(it.file.path.as_path())
    })
}
