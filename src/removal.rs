//! The only place that deletes or touches a file of the cache; the lock files are [`crate::lock`]'s.
//!
//! What is to be removed comes as values ([`intents`]), for a dry run as for a real one; [`Removal`] acts on them, one
//! file at a time: lock, check everything again, unlink. One that fails is reported and the next is tried.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fs::File;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{OFlag, open, openat};
use nix::libc;
use nix::sys::stat::{Mode, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, unlinkat};
use serde::Serialize;

use crate::cache_name::{CacheName, Kind};
use crate::evidence::{Evidence, Identity, SecondLook, Stat};
use crate::lock::{HeldLock, Locks, is_open_in_qemu};
use crate::plan::Plan;
use crate::verdict::{Judged, Judgement, Verdict};

/// The mtime of an `.info` file whose file is going, in seconds since 1970: 2001-09-09T01:46:40Z.
const LONG_AGO: libc::time_t = 1_000_000_000;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is gone.
    Removed,
    /// A dry run: it would be tried.
    WouldRemove,
    /// Its verdict, or the plan, keeps it.
    Kept,
    /// Somebody else, nova most likely, holds its lock.
    Locked,
    /// A running QEMU has it open.
    Open,
    /// It is no longer what was judged, or something has come to need it.
    Changed,
    /// It could not be removed, or not be checked.
    Failed,
}

impl Outcome {
    /// Every outcome, in the order of reports.
    pub const ALL: [Self; 7] =
        [Self::Removed, Self::WouldRemove, Self::Kept, Self::Locked, Self::Open, Self::Changed, Self::Failed];

    /// The word for it in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::WouldRemove => "would_remove",
            Self::Kept => "kept",
            Self::Locked => "locked",
            Self::Open => "open",
            Self::Changed => "changed",
            Self::Failed => "failed",
        }
    }

    /// Whether less was done than was promised.
    pub const fn is_partial(self) -> bool {
        matches!(self, Self::Changed | Self::Failed)
    }
}

/// What became of one file, and why where that needs saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What became of it.
    pub outcome: Outcome,
    /// Why it failed or counts as changed: path and cause.
    pub error: Option<String>,
}

impl Done {
    /// An outcome that says everything.
    pub const fn plain(outcome: Outcome) -> Self {
        Self { outcome, error: None }
    }

    fn changed(error: impl Into<String>) -> Self {
        Self { outcome: Outcome::Changed, error: Some(error.into()) }
    }
}

/// What became of each file of the cache.
pub type Outcomes<'a> = BTreeMap<&'a OsStr, Done>;

/// What a prune is to do with each file: `would_remove`, `kept`, or `changed` where the plan means another file.
///
/// This is what a dry run reports, and what [`Removal::remove`] acts on.
pub fn intents<'a>(judgement: &'a Judgement<'a>, plan: Option<&Plan>) -> Outcomes<'a> {
    let intent = |judged: &Judged<'_>| {
        if judged.verdict != Verdict::Removable {
            return Done::plain(Outcome::Kept);
        }
        match plan.map(|plan| plan.allows(judged)) {
            None | Some(Some(true)) => Done::plain(Outcome::WouldRemove),
            Some(None) => Done::plain(Outcome::Kept),
            Some(Some(false)) => {
                let path = judged.file.path.display();
                Done::changed(format!("{path} is not the file of the plan: its size or mtime differs"))
            }
        }
    };
    judgement.files.iter().map(|judged| (judged.name, intent(judged))).collect()
}

/// A cache directory that is being pruned.
#[derive(Debug)]
pub struct Removal<'a> {
    evidence: &'a Evidence,
    locks: &'a Locks,
    cache_dir: OwnedFd,
    second_look: SecondLook<'a>,
    lock_wait: Duration,
    /// What failed without a consequence for any file.
    pub spare: Vec<String>,
}

impl<'a> Removal<'a> {
    /// Opens the cache directory that the evidence is about. The run's lock must be held.
    ///
    /// # Errors
    /// Where it cannot be opened, or is another one by now.
    pub fn open(evidence: &'a Evidence, locks: &'a Locks, lock_wait: Duration) -> Result<Self> {
        let path = evidence.layout.cache_dir();
        let cannot_open = || format!("cannot open {}", path.display());
        let flags = OFlag::O_RDONLY | OFlag::O_DIRECTORY | OFlag::O_CLOEXEC;
        let cache_dir = File::from(open(&path, flags, Mode::empty()).with_context(cannot_open)?);
        let identity = Identity::from(&cache_dir.metadata().with_context(cannot_open)?);
        if evidence.cache.as_ref().is_none_or(|cache| cache.identity != identity) {
            bail!("{}: replaced while it was read: run this again", path.display());
        }
        let second_look = SecondLook::new(evidence);
        Ok(Self { evidence, locks, cache_dir: cache_dir.into(), second_look, lock_wait, spare: Vec::new() })
    }

    /// Sets the mtime of every file in use to now, as nova does: a file's age is the time since it was last seen in
    /// use. Returns how many were touched, and what went wrong with the others.
    pub fn touch(&self, judgement: &Judgement<'_>) -> (usize, Vec<String>) {
        let mut touched = 0;
        let mut failures = Vec::new();
        for judged in judgement.files.iter().filter(|it| it.verdict == Verdict::InUse) {
            match self.touch_one(judged) {
                Ok(()) => touched += 1,
                Err(error) => {
                    failures.push(format!("cannot touch {}: {error:#}", judged.file.path.display()))
                }
            }
        }
        (touched, failures)
    }

    fn touch_one(&self, judged: &Judged<'_>) -> Result<()> {
        let file = self.open_file(judged.name)?;
        if judged.file.stat.as_ref().map(|it| it.identity) != Ok(Identity::from(&file.metadata()?)) {
            bail!("replaced since it was judged");
        }
        Ok(futimens(&file, &TimeSpec::new(0, libc::UTIME_OMIT), &TimeSpec::UTIME_NOW)?)
    }

    /// Removes every file that is to be removed, each with its `.info` file, and says what became of it.
    pub fn remove<'j>(&mut self, judgement: &'j Judgement<'j>, intents: Outcomes<'j>) -> Outcomes<'j> {
        let mut outcomes = intents;
        for judged in &judgement.files {
            // An `.info` file goes with the file that it belongs to, which comes before it.
            if outcomes.get(judged.name).is_none_or(|it| it.outcome != Outcome::WouldRemove) {
                continue;
            }
            if let CacheName::Info { of } = CacheName::parse(judged.name)
                && let Some(owner) = outcomes.get(OsStr::new(of))
                && self.evidence.cache_file(OsStr::new(of)).is_some_and(|it| it.is_file)
            {
                let done = owner.clone();
                outcomes.insert(judged.name, done);
                continue;
            }
            let mut info_name = judged.name.to_owned();
            info_name.push(".info");
            let info = judgement
                .file(&info_name)
                .filter(|it| outcomes.get(it.name).is_some_and(|it| it.outcome == Outcome::WouldRemove));
            let (done, info_done) = self.remove_one(judged, info);
            outcomes.insert(judged.name, done);
            if let Some((info, done)) = info.zip(info_done) {
                outcomes.insert(info.name, done);
            }
        }
        outcomes
    }

    fn remove_one(&mut self, judged: &Judged<'_>, info: Option<&Judged<'_>>) -> (Done, Option<Done>) {
        let path = judged.file.path.display();
        let failed = |error: anyhow::Error| Done {
            outcome: Outcome::Failed,
            error: Some(format!("Failed to remove {path}: {error:#}")),
        };
        let locks = match self.lock(judged.name) {
            Ok(Some(locks)) => locks,
            Ok(None) => return (Done::plain(Outcome::Locked), None),
            Err(error) => return (failed(error), None),
        };
        match self.check(judged) {
            Ok(None) => {}
            Ok(Some(done)) => return (done, None),
            Err(error) => return (failed(error), None),
        }
        let spare: Vec<&HeldLock> = locks
            .iter()
            .enumerate()
            .filter(|(index, lock)| {
                // The last is the file's own.
                lock.is_ours() || index + 1 == locks.len() && self.lock_goes_with(judged)
            })
            .map(|(_, lock)| lock)
            .collect();
        spare.iter().for_each(|lock| self.locks.mark_for_removal(lock));
        let aged_info = info.and_then(|info| self.age_info(info));
        // The last thing before the unlink, for of all that was checked the mtime can change most silently: nova sets it
        // when it is about to use the file.
        let stays = match self.stat(judged.name) {
            Ok(Some(stat)) if is_as_judged(judged, stat) => self.unlink(judged.name).err().map(failed),
            Ok(_) => Some(changed_file(judged)),
            Err(error) => Some(failed(error)),
        };
        if let Some(done) = stays {
            if let Some(aged_info) = aged_info {
                aged_info.give_back();
            }
            return (done, None);
        }
        let info_done = info.map(|info| match self.remove_info(info, aged_info.as_ref()) {
            Ok(done) => done,
            Err(error) => Done {
                outcome: Outcome::Failed,
                error: Some(format!("Failed to remove {}: {error:#}", info.file.path.display())),
            },
        });
        for lock in spare {
            if let Err(error) = self.locks.remove(lock) {
                self.spare.push(format!("removed {path}, but not its lock file: {error}"));
            }
        }
        (Done::plain(Outcome::Removed), info_done)
    }

    /// The locks of a file, in order: for copies the original's first, under which nova makes them. For `.info` files
    /// and broken downloads those of the file that they belong to. `None` where one cannot be had in time.
    fn lock(&self, name: &OsStr) -> Result<Option<Vec<HeldLock>>> {
        // None where that is beyond any clock: then it waits for ever.
        let deadline = Instant::now().checked_add(self.lock_wait);
        let own = match CacheName::parse(name) {
            CacheName::Info { of } | CacheName::Partial { of } => OsStr::new(of),
            _ => name,
        };
        let original = match CacheName::parse(own) {
            CacheName::Resized { fingerprint } | CacheName::Small { fingerprint } => Some(fingerprint),
            _ => None,
        };
        let mut held = Vec::new();
        for name in original.map(OsStr::new).into_iter().chain([own]) {
            let lock = self
                .locks
                .acquire(name, deadline)
                .with_context(|| format!("cannot lock {}", self.evidence.layout.nova_lock(name).display()))?;
            match lock {
                Some(lock) => held.push(lock),
                None => return Ok(None),
            }
        }
        Ok(Some(held))
    }

    /// Everything again, under the lock: still the same file, named by nobody who has come since, open in no QEMU.
    fn check(&mut self, judged: &Judged<'_>) -> Result<Option<Done>> {
        let file = match self.open_file(judged.name) {
            Ok(file) => file,
            Err(error) if error.downcast_ref() == Some(&Errno::ENOENT) => {
                return Ok(Some(changed_file(judged)));
            }
            Err(error) => return Err(error),
        };
        if !is_as_judged(judged, Stat::from(&file.metadata()?)) {
            return Ok(Some(changed_file(judged)));
        }
        if let Some(why) = self.second_look.keeps(judged.name)? {
            return Ok(Some(Done::changed(format!("{} is kept: {why}", judged.file.path.display()))));
        }
        if is_open_in_qemu(&file).context("cannot ask for QEMU's locks")? {
            return Ok(Some(Done::plain(Outcome::Open)));
        }
        Ok(None)
    }

    /// Whether a file's lock file goes with it. That of a file that stays does not, nor do those of swap and
    /// ephemeral files: nova keeps them.
    fn lock_goes_with(&self, judged: &Judged<'_>) -> bool {
        match CacheName::parse(judged.name) {
            CacheName::Info { of } | CacheName::Partial { of } => {
                matches!(self.stat(OsStr::new(of)), Ok(None))
            }
            _ => matches!(judged.kind, Kind::Original | Kind::Resized | Kind::Small),
        }
    }

    /// Makes an `.info` file old, just before its file goes: a kill between the two leaves it alone, and alone it has
    /// the minimum age of an original. `None` where that cannot be done; then the next run may have to wait for it.
    fn age_info(&self, info: &Judged<'_>) -> Option<AgedInfo> {
        // What a link leads to is not ours to change.
        let flags =
            OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC | OFlag::O_NOFOLLOW;
        let file = File::from(openat(&self.cache_dir, info.name, flags, Mode::empty()).ok()?);
        let metadata = file.metadata().ok()?;
        if !is_as_judged(info, Stat::from(&metadata)) {
            return None;
        }
        futimens(&file, &TimeSpec::new(0, libc::UTIME_OMIT), &TimeSpec::new(LONG_AGO, 0)).ok()?;
        Some(AgedInfo { file, mtime: TimeSpec::new(metadata.mtime(), metadata.mtime_nsec()) })
    }

    fn remove_info(&self, info: &Judged<'_>, aged: Option<&AgedInfo>) -> Result<Done> {
        let aged = aged.map(|it| it.file.metadata()).transpose()?.map(|it| Stat::from(&it));
        match self.stat(info.name)? {
            Some(stat) if is_as_judged(info, stat) || aged.is_some_and(|it| it.is_unchanged(stat)) => {
                self.unlink(info.name)?;
            }
            // Whoever removed it did what was to be done.
            None => {}
            Some(_) => return Ok(changed_file(info)),
        }
        Ok(Done::plain(Outcome::Removed))
    }

    fn unlink(&self, name: &OsStr) -> Result<()> {
        Ok(unlinkat(&self.cache_dir, name, UnlinkatFlags::NoRemoveDir)?)
    }

    fn open_file(&self, name: &OsStr) -> Result<File> {
        // Not blocking, in case that it has become a FIFO.
        let flags = OFlag::O_RDONLY | OFlag::O_NONBLOCK | OFlag::O_NOCTTY | OFlag::O_CLOEXEC;
        Ok(File::from(openat(&self.cache_dir, name, flags, Mode::empty())?))
    }

    /// The file that a name stands for now.
    fn stat(&self, name: &OsStr) -> Result<Option<Stat>> {
        match self.open_file(name) {
            Ok(file) => Ok(Some(Stat::from(&file.metadata()?))),
            Err(error) if error.downcast_ref() == Some(&Errno::ENOENT) => Ok(None),
            Err(error) => Err(error),
        }
    }
}

/// An `.info` file that was made old.
struct AgedInfo {
    file: File,
    /// What its mtime was.
    mtime: TimeSpec,
}

impl AgedInfo {
    /// Undoes it, as its file stays.
    fn give_back(self) {
        // As it stays, its age is that of its file.
        let _no_matter = futimens(&self.file, &TimeSpec::new(0, libc::UTIME_OMIT), &self.mtime);
    }
}

fn is_as_judged(judged: &Judged<'_>, stat: Stat) -> bool {
    judged.file.stat.as_ref().is_ok_and(|it| it.is_unchanged(stat))
}

fn changed_file(judged: &Judged<'_>) -> Done {
    Done::changed(format!("{} is no longer the file that was judged", judged.file.path.display()))
}
