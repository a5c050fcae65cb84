//! What `explain` and `prune` do the same way: settings, gather, judge, report.

use std::borrow::Cow;
use std::collections::BTreeSet;
use std::ffi::{OsStr, OsString};
use std::mem::ManuallyDrop;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, OnceLock};
use std::thread;

use anyhow::Result;

use crate::catalog::Catalog;
use crate::cli::{Global, Judging};
use crate::evidence::{Evidence, Workers, gather};
use crate::exit::Exit;
use crate::filesystem::Space;
use crate::guard::{self, Asked, Case};
use crate::images::{self, Images};
use crate::input;
use crate::inventory::{self, Inventory, Texts};
use crate::layout::Layout;
use crate::progress::Progress;
use crate::report::{self, Entry, Pruned, Report};
use crate::selection::{Known, Selection};
use crate::settings;
use crate::time::{AsOf, Timestamp};
use crate::verdict::{self, Judgement, Policy};
use crate::warning::Warning;

/// A run of `explain` or `prune`.
pub struct Pass<'a> {
    pub global: &'a Global,
    judging: &'a Judging,
    as_of: Option<AsOf>,
    pub asked: Asked,
    pub layout: Layout,
    pub policy: Policy,
    images: Option<Images>,
    /// Read but not parsed.
    texts: Mutex<Option<Texts>>,
    /// Not dropped, for the reason that the evidence is not.
    inventory: OnceLock<ManuallyDrop<Inventory>>,
    has_source: bool,
    pub progress: Progress,
    warnings: Vec<Warning>,
}

/// What a pass found, with what `--keep` and the operands mean.
pub struct Found<'e> {
    pub evidence: &'e Evidence,
    inventory: Option<&'e Inventory>,
    pub judgement: Judgement<'e>,
    pub catalog: Catalog<'e>,
    pub warnings: Vec<Warning>,
    /// What the operands mean; `None` where there is none.
    pub asked: Option<Selection>,
    /// `--as-of`.
    pub as_of: Option<Timestamp>,
}

impl<'a> Pass<'a> {
    /// Reads all input but the instances path.
    pub fn prepare(
        global: &'a Global,
        judging: &'a Judging,
        as_of: Option<AsOf>,
        asked: Asked,
    ) -> Result<Self> {
        let has_inventory = !judging.inventory.is_empty();
        let has_libvirt = !judging.libvirt.is_empty();
        let asked = Asked { has_inventory, has_libvirt, ignore_unlisted: judging.ignore_unlisted, ..asked };
        guard::check_usage(asked)?;
        input::check_stdin(&judging.inventory, &judging.listing.images)?;
        if global.verbose && !global.environment.is_empty() {
            report::print_message(&format!("from the environment: {}", global.environment.join(", ")));
        }
        let conf = settings::nova_conf(global, Some(judging))?;
        let has_source = has_inventory || has_libvirt;
        let texts = has_source.then(|| inventory::read(&judging.inventory, &judging.libvirt)).transpose()?;
        let images = images::load(&judging.listing.images)?;
        let mut warnings: Vec<Warning> = images.iter().flat_map(|it| it.warnings.clone()).collect();
        warnings.extend((!conf.remove_unused_base_images).then_some(Warning::RemoveUnusedBaseImages));
        Ok(Self {
            global,
            judging,
            as_of,
            asked,
            layout: settings::layout(global, &conf)?,
            policy: settings::policy(judging, &conf),
            images,
            texts: Mutex::new(texts),
            inventory: OnceLock::new(),
            has_source,
            progress: Progress::default(),
            warnings,
        })
    }

    pub fn inventory(&self) -> Option<&Inventory> {
        self.inventory.get().map(|it| &**it)
    }

    /// Gathers all evidence; the inventory is parsed beside that.
    pub fn gather(&self) -> Result<ManuallyDrop<Evidence>> {
        let evidence = thread::scope(|scope| {
            let parser = thread::Builder::new().spawn_scoped(scope, || self.parse_inventory());
            self.gather_with(&BTreeSet::new(), || {
                match parser {
                    Ok(parser) => {
                        parser.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
                    }
                    Err(_) => self.parse_inventory()?,
                }
                Ok(disks_of(self.inventory()))
            })
        })?;
        self.print_statistics(&evidence);
        Ok(evidence)
    }

    /// Gathers everything again, while files of these names are set aside by this run, with the inventory of then. Prints
    /// nothing: whoever does not read stderr would keep them there.
    pub fn gather_again(
        &self,
        set_aside: &BTreeSet<OsString>,
        inventory: Option<&Inventory>,
    ) -> Result<ManuallyDrop<Evidence>> {
        self.gather_with(set_aside, || Ok(disks_of(inventory)))
    }

    fn gather_with(
        &self,
        set_aside: &BTreeSet<OsString>,
        disks: impl FnOnce() -> Result<Vec<PathBuf>>,
    ) -> Result<ManuallyDrop<Evidence>> {
        let workers = Workers::new(&self.layout, &self.progress);
        let evidence = gather(&self.layout, set_aside, &workers, disks)?;
        // Not dropped: freeing it costs 5% of a pass and the process exits next.
        Ok(ManuallyDrop::new(evidence))
    }

    /// The inventory with the domains that libvirt has by now. What is not a file or a folder, as a pipe, was read to its
    /// end.
    pub fn inventory_again(&self) -> Result<Option<Cow<'_, Inventory>>> {
        // What has gone is an error.
        let was_a_pipe = |it: &Path| fs_err::metadata(it).is_ok_and(|it| !it.is_file() && !it.is_dir());
        let again: Vec<PathBuf> = self.judging.libvirt.iter().filter(|it| !was_a_pipe(it)).cloned().collect();
        let Some(inventory) = self.inventory() else { return Ok(None) };
        if again.is_empty() {
            return Ok(Some(Cow::Borrowed(inventory)));
        }
        let domains = inventory::read(&[], &again)?.parse(&self.policy.host)?;
        Ok(Some(Cow::Owned(inventory.with_domains(domains))))
    }

    /// Does `work` with a line of progress.
    pub fn shown<T>(&self, work: impl FnOnce() -> T) -> T {
        self.progress.shown(self.global.quiet, work)
    }

    fn parse_inventory(&self) -> Result<()> {
        // Poisoned only by a panic, which ends the run.
        let texts = self.texts.lock().ok().and_then(|mut it| it.take());
        if let Some(texts) = texts {
            self.inventory.set(ManuallyDrop::new(texts.parse(&self.policy.host)?)).ok();
        }
        Ok(())
    }

    /// Judges the evidence as of `now`, or of `--as-of`.
    pub fn judge<'e>(
        &'e self,
        evidence: &'e Evidence,
        inventory: Option<&'e Inventory>,
    ) -> Result<Found<'e>> {
        let now = Timestamp::now();
        let as_of = self.as_of.map(|it| it.resolve(now));
        let catalog = Catalog::new(self.images.as_ref(), inventory);
        let mut known = Known {
            cache_dir: self.layout.cache_dir(),
            names: evidence.cache_files().map(|(name, _)| name.as_os_str()).collect(),
            catalog: &catalog,
            is_to_keep: true,
        };
        let (keep, _) = Selection::resolve(&spelt(&self.judging.keep, &known), &known)?;
        let judgement = verdict::judge(evidence, inventory, (&self.policy, &keep), as_of.unwrap_or(now));
        // Only the judgement tells what is missing, and that is known, too.
        known.names.extend(judgement.missing.iter().map(|it| it.name.as_os_str()));
        let (_, unknown) = Selection::resolve(&spelt(&self.judging.keep, &known), &known)?;
        let mut warnings = self.case(evidence, inventory, &judgement).warnings();
        warnings.extend(self.warnings.iter().cloned());
        warnings.extend(unknown.into_iter().map(|name| Warning::KeepUnknown { name }));
        Ok(Found { evidence, inventory, judgement, catalog, warnings, asked: None, as_of })
    }

    /// Refuses what looks like a mistake.
    pub fn check(&self, found: &Found<'_>) -> Result<()> {
        self.case(found.evidence, found.inventory, &found.judgement).check()
    }

    fn case<'c>(
        &'c self,
        evidence: &'c Evidence,
        inventory: Option<&'c Inventory>,
        judgement: &'c Judgement<'c>,
    ) -> Case<'c> {
        Case { asked: self.asked, evidence, inventory, policy: &self.policy, judgement }
    }

    /// Finds what the operands mean. What is known but not in the cache is a note.
    pub fn select(&self, words: &[OsString], found: &mut Found<'_>) -> Result<()> {
        if words.is_empty() {
            return Ok(());
        }
        let files = found.judgement.files.iter().map(|it| it.name);
        let missing = found.judgement.missing.iter().map(|it| it.name.as_os_str());
        let known = Known {
            cache_dir: self.layout.cache_dir(),
            names: files.chain(missing).collect(),
            catalog: &found.catalog,
            is_to_keep: false,
        };
        let words = &spelt(words, &known);
        let (selection, unknown) = Selection::resolve(words, &known)?;
        if unknown.iter().any(String::is_empty) {
            anyhow::bail!("an empty name: give the name of a file of the cache, or the id of an image");
        }
        if let [first, ..] = &unknown[..] {
            anyhow::bail!(
                "{first}: neither a file of the cache (its name, or the first 8 or more digits of it) nor the id of a known \
                 image: run nova-imagecache scan to see what there is"
            );
        }
        for word in words {
            let (one, _) = Selection::resolve(std::slice::from_ref(word), &known)?;
            if !found.judgement.files.iter().any(|it| one.contains(it.name)) {
                found.warnings.push(Warning::NotInCache { name: word.display().to_string() });
            }
        }
        found.asked = Some(selection);
        Ok(())
    }

    /// Prints the report of a pass. `explain` shows the files that were asked for alone, and in full.
    pub fn report(&self, found: &Found<'_>, pruned: Option<&Pruned<'_>>) -> Result<Exit> {
        let asked = found.asked.as_ref();
        let is_shown = |name: &OsStr| pruned.is_some() || asked.is_none_or(|it| it.contains(name));
        let is_complete = found.judgement.is_complete();
        let is_done = pruned.is_none_or(Pruned::is_done);
        let files = found.judgement.files.iter().filter(|it| is_shown(it.name)).map(|it| Entry {
            name: it.name,
            file: it.file,
            judged: Some(it),
            done: pruned.and_then(|pruned| pruned.outcomes.get(it.name)),
        });
        let files = files.collect();
        let report = Report {
            command: if pruned.is_some() { "prune" } else { "explain" },
            generated_at: Timestamp::now(),
            layout: &self.layout,
            warnings: &found.warnings,
            catalog: &found.catalog,
            files,
            asked,
            verbose: self.global.verbose,
            pass: Some(report::Pass {
                policy: &self.policy,
                as_of: found.as_of,
                inventory: found.inventory.filter(|_| self.has_source),
                judgement: &found.judgement,
                is_complete,
                missing: found.judgement.missing.iter().filter(|it| is_shown(&it.name)).collect(),
            }),
            pruned,
        };
        report::print(&report, self.global)?;
        Ok(if is_complete && is_done { Exit::Done } else { Exit::Incomplete })
    }

    pub fn space(&self) -> Option<Space> {
        report::space_of(&self.layout)
    }

    fn print_statistics(&self, evidence: &Evidence) {
        // Within a prune's line of progress there is no place for it.
        if !self.global.verbose || self.progress.is_shown() {
            return;
        }
        let disks: usize = evidence.directories.values().map(|it| it.disks.len()).sum();
        report::print_message(&format!(
            "read {} cache files, {} directories with {disks} disks, and {} other backing files; {} until two listings \
             of the instances path agreed",
            evidence.cache.as_ref().map_or(0, |it| it.files.len()),
            evidence.directories.len(),
            evidence.references.len(),
            crate::warning::count(evidence.rounds, "round"),
        ));
    }
}

fn disks_of(inventory: Option<&Inventory>) -> Vec<PathBuf> {
    inventory.into_iter().flat_map(|it| &it.domain_disks).map(|it| it.path.clone()).collect()
}

/// Words with a slash are ids of images or paths. Paths into the cache directory are spelt as it is here, whatever links lead
/// there.
fn spelt(words: &[OsString], known: &Known<'_>) -> Vec<OsString> {
    let real = |path: &Path| fs_err::canonicalize(path).ok();
    let is_path = |word: &OsString| {
        word.as_encoded_bytes().contains(&b'/') && !word.to_str().is_some_and(|it| known.has_image(it))
    };
    let spelt = |word: &OsString| {
        let path = std::path::absolute(word).ok().filter(|_| is_path(word))?;
        let parent = path.parent()?;
        let is_in_cache =
            parent == known.cache_dir || real(parent).is_some_and(|it| Some(it) == real(&known.cache_dir));
        if !is_in_cache {
            return None;
        }
        Some(known.cache_dir.join(path.file_name()?).into_os_string())
    };
    words.iter().map(|word| spelt(word).unwrap_or_else(|| word.clone())).collect()
}
