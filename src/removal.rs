//! Set aside, look again, then remove: the only module that changes anything in the cache directory.
//!
//! # The protocol
//!
//! Before a file is unlinked, all disks are read once more, and this reading starts after the file has lost its name and
//! nobody who found it by that name has it open. Step by step, and what each excludes:
//!
//! 1. *One prune at a time.* What a killed prune had set aside is put back first.
//! 2. *Gather and judge.* Files in use get their mtime set to now.
//! 3. *Take nova's lock of each file.* A nova that fetches the file, copies it or makes an overlay on it does so under this
//!    lock: it is done before, or waits for us and then finds no file.
//! 4. *Rename each file aside, wait, compare, and look who has it open.* Whoever looks for the file by its name from here on
//!    finds none. `qemu-img rebase` takes no lock of nova's and changes no directory, but it opens the new backing file
//!    before it writes the header of the disk: it either has the file open now, which QEMU's locks and `/proc` show, or
//!    has written the header already, which step 5 reads. The wait is there because QEMU opens a file before it locks it,
//!    and on a network filesystem because other hosts find a file by its old name until their caches expire. The
//!    comparison after the rename is there because precaching may put a new file in place between the first comparison
//!    and the rename.
//! 5. *Gather and judge again, everything from scratch*, libvirt's domains included. What is not removable any more is put
//!    back; everything is, where the evidence is incomplete now, or where a name in use has come to lead nowhere.
//! 6. *Unlink the rest*, if it is still the same file and its locks still stand. Their lock files go last, while they are
//!    still held, but for those that somebody waits for.
//!
//! So no mtime, clock or directory listing has to be trusted for what happens during a run. Setting aside and putting back
//! never replace a file. A kill at any moment leaves a file set aside, which the next prune puts back, or a spare lock file,
//! which is harmless.
//!
//! # What remains
//!
//! A nova that looked for the file just before it was set aside fails to start or unshelve that instance; the instance
//! has written nothing yet, so nothing is lost. `qemu-img create` closes the backing file before it writes the header
//! of the new disk: nova runs it under its lock; a disk that somebody makes by hand in that moment has only the
//! wait of step 4. Processes of other containers are seen only where this `/proc` shows them. nova's precaching fetches
//! without its lock; for partial downloads, age, the look in `/proc` and the comparison protect. A prune on another host,
//! where locks are not shared, may set a new file aside between our last look at it and the drop of the old one: then the
//! drop takes the new one. A disk that is copied
//! or moved in from elsewhere while prune runs is not seen. Minimum ages shorter than nova needs between choosing a
//! file and using it make failed starts likely.
//! `cargo test nova_beside_prune -- --nocapture` prints what real nova code met.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::io;
use std::iter::successors;
use std::os::fd::{AsFd as _, OwnedFd};
use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::fcntl::{AtFlags, RenameFlags, openat, readlinkat, renameat, renameat2};
use nix::libc;
use nix::sys::stat::{Mode, fstat, fstatat, futimens};
use nix::sys::time::TimeSpec;
use nix::unistd::{UnlinkatFlags, syncfs, unlinkat};
use rustix::fs::FileType;

use crate::cache_name::{CacheName, Kind, set_aside_name};
use crate::errors::{advice, cannot, cause};
use crate::evidence::{
    Evidence, Identity, Opened, Stat, is_open_in_qemu, open_examined, open_regular, type_of,
};
use crate::filesystem::Space;
use crate::layout::Layout;
use crate::listing::{DIRECTORY, each_entry};
use crate::lock::{Batch, Locks, NotHeld, locks_of};
use crate::outcome::{Done, Outcome, Outcomes};
use crate::owner::Owner;
use crate::processes::{Users, users_of};
use crate::progress::{Phase, Progress};
use crate::signals::Signals;
use crate::verdict::{Judged, Judgement, Verdict};
use crate::warning::Warning;

/// How long to wait between setting aside and looking who has a file open, by default: QEMU opens a file before it locks
/// it; NFS keeps names for up to a minute (`acdirmax`).
const SETTLE: Duration = Duration::from_millis(100);
const SETTLE_ON_NETWORK: Duration = Duration::from_secs(61);

/// For how long the free space must not have grown, for a filesystem to have freed what it will free; and how long that is
/// waited for at most, for others may free space all the time.
const FREES_NO_MORE: Duration = Duration::from_secs(1);
const FREES_WITHIN: Duration = Duration::from_secs(30);

/// How often a wait looks whether a signal has come.
const PAUSE: Duration = Duration::from_millis(20);

/// As many links as the kernel follows.
const MOST_LINKS: usize = 40;

const NAME_TAKEN: &str = "a link, a directory or a special file has its name now";

/// Open files that the rest of the program may need beside the locks of a batch.
const SPARE_DESCRIPTORS: usize = 256;

/// What the second look says.
pub enum SecondLook {
    /// Why each of these files is not removable any more.
    Complete(BTreeMap<OsString, String>),
    /// Why all of the batch are put back.
    AllStay(String),
    /// The same, and nothing more is removed.
    Incomplete(String),
}

/// A cache directory that is being pruned, and what that is done with.
pub struct Removal<'a> {
    pub layout: &'a Layout,
    /// Opened once, and the cache directory and `locks` from it: a path may lead elsewhere at any moment, if its owner
    /// renames a directory or puts a link in its place.
    pub instances: OwnedFd,
    pub cache_dir: OwnedFd,
    pub locks: &'a Locks,
    /// Whether other machines may use each of the two. Asked before anything is locked or set aside.
    pub cache_is_shared: bool,
    pub locks_are_shared: bool,
    pub owner: Owner,
    pub lock_wait: Duration,
    /// `None`: as the filesystem needs.
    pub settle: Option<Duration>,
    pub signals: &'a Signals,
    pub progress: &'a Progress,
}

/// What became of putting a file back.
enum PutBack {
    Done,
    /// A new file has the name by now; the one set aside was removed.
    Dropped,
    /// A new file has the name by now, and somebody has the one set aside open.
    StaysOpen(String),
    /// What has the name by now is no regular file: the one set aside may be the only copy, and stays.
    NameTaken,
}

/// Opens the cache directory of an instances path that is open; `None` where there is none.
pub fn open_cache_dir(layout: &Layout, instances: &OwnedFd) -> Result<Option<OwnedFd>> {
    let path = layout.cache_dir();
    match openat(instances, layout.subdirectory_name.as_os_str(), DIRECTORY, Mode::empty()) {
        Ok(cache_dir) => Ok(Some(cache_dir)),
        // Where something else has its name, whoever reads it says so.
        Err(Errno::ENOENT | Errno::ENOTDIR) => Ok(None),
        Err(errno) => Err(cannot("open the cache directory", &path, errno)),
    }
}

impl Removal<'_> {
    /// Whether these are the directories that were read.
    pub fn check_same(&self, read: &Evidence) -> Result<()> {
        let identity = |opened: &OwnedFd| fstat(opened).map(|it| Identity::from(&it));
        if read.cache.as_ref().map(|it| it.identity) != Some(identity(&self.cache_dir)?)
            || read.instances != identity(&self.instances)?
        {
            bail!("{}: replaced while it was read: run this again", self.layout.cache_dir().display());
        }
        Ok(())
    }

    /// Puts back what a killed prune had set aside, and warns of what stays.
    pub fn put_back_leftovers(&self) -> Result<Vec<Warning>> {
        let leftovers = self.leftovers().context("cannot list the cache directory")?;
        let mut warnings = Vec::new();
        for batch in leftovers.chunks(most_in_a_batch()) {
            let held = self.lock(batch.iter().map(OsString::as_os_str));
            warnings.extend(batch.iter().filter_map(|name| self.put_back_leftover(name, &held)));
        }
        Ok(warnings)
    }

    fn put_back_leftover(&self, name: &OsStr, held: &Batch) -> Option<Warning> {
        let path = self.path(&set_aside_name(name));
        let why = match self.not_held(name, held) {
            Some(NotHeld::Busy(why) | NotHeld::Failed(why)) => why,
            None => match self.put_back(name) {
                Ok(PutBack::Done) => return None,
                Ok(PutBack::Dropped) => return Some(Warning::SetAsideDropped { path }),
                Ok(PutBack::StaysOpen(who)) => made_again(&who),
                Ok(PutBack::NameTaken) => format!("{NAME_TAKEN}: move that away"),
                // A prune that does not see our lock, as on another host, has done it.
                Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return None,
                Err(error) => in_words(&error),
            },
        };
        Some(Warning::SetAsideLeft { path, why })
    }

    /// Takes nova's locks of these files, as far as they can be had in time.
    fn lock<'n>(&self, names: impl Iterator<Item = &'n OsStr>) -> Batch {
        let locks = names.flat_map(locks_of).map(OsStr::to_owned).collect();
        self.locks.acquire(&locks, self.lock_wait, || self.signals.received().is_some())
    }

    /// Warns of what this run could not put back, for it has been made again and the old file is open.
    pub fn stays_aside(&self, outcomes: &Outcomes<'_>) -> impl Iterator<Item = Warning> {
        outcomes.iter().filter_map(|(name, done)| {
            let why = made_again(done.stays_aside_for.as_ref()?);
            Some(Warning::SetAsideLeft { path: self.path(&set_aside_name(name)), why })
        })
    }

    /// The names of files, and of links, that are set aside.
    fn leftovers(&self) -> io::Result<Vec<OsString>> {
        let mut names = Vec::new();
        let listed = openat(&self.cache_dir, ".", DIRECTORY, Mode::empty())?;
        each_entry(listed.as_fd(), |name, _, _| {
            if let CacheName { kind: Kind::SetAside, of, .. } = CacheName::parse(name) {
                names.push(OsString::from(of));
            }
        })?;
        names.retain(|name| self.is_file_or_link(&set_aside_name(name)));
        names.sort_unstable();
        Ok(names)
    }

    /// Nobody set aside a directory or a device. A link may lead to a file that is set aside, too.
    fn is_file_or_link(&self, name: &OsStr) -> bool {
        let stat = fstatat(&self.cache_dir, name, AtFlags::AT_SYMLINK_NOFOLLOW);
        stat.is_ok_and(|it| matches!(type_of(&it), FileType::RegularFile | FileType::Symlink))
    }

    /// Sets the mtime of every file in use to now, as nova does: a file's age is the time since it was last seen in use.
    /// Returns how many were touched, and a warning where some could not be.
    pub fn touch(&self, judgement: &Judgement<'_>) -> (usize, Option<Warning>) {
        let mut touched = 0;
        let mut failures = Vec::new();
        let in_use = |it: &&Judged<'_>| it.verdict == Verdict::InUse && it.file.link.is_none();
        for judged in judgement.files.iter().filter(in_use) {
            match self.touch_one(judged) {
                Ok(()) => touched += 1,
                Err(error) => failures.push((judged.file.path.display().to_string(), format!("{error:#}"))),
            }
        }
        let more = failures.len().saturating_sub(1);
        let first = failures.into_iter().next();
        (touched, first.map(|(path, error)| Warning::TouchFailed { path, error, more }))
    }

    fn touch_one(&self, judged: &Judged<'_>) -> Result<()> {
        let opened =
            open_regular(self.cache_dir.as_fd(), judged.name)?.context("no longer a regular file")?;
        if judged.file.stat.map(|it| it.identity) != Some(opened.stat.identity) {
            bail!("replaced since it was judged");
        }
        // A file with other names may be anybody's: of that, root changes no more than nova could.
        let _as_owner = (opened.stat.links > 1).then(|| self.owner.assume()).transpose()?;
        futimens(&opened.file, &TimeSpec::new(0, libc::UTIME_OMIT), &TimeSpec::UTIME_NOW)
            .map_err(|errno| io::Error::from(errno).into())
    }

    /// Removes these files, in as few batches as the limit of open files allows. `look_again` gathers and judges
    /// everything again while the files that it is given are set aside.
    pub fn remove<'e>(
        &self,
        files: &[&Judged<'e>],
        mut look_again: impl FnMut(&BTreeSet<OsString>) -> SecondLook,
        outcomes: &mut Outcomes<'e>,
    ) {
        // A link leads nowhere while what it leads to is set aside.
        let mut by_depth: BTreeMap<Reverse<usize>, Vec<&Judged<'e>>> = BTreeMap::new();
        for judged in files {
            by_depth.entry(Reverse(self.depth(judged))).or_default().push(judged);
        }
        for batch in by_depth.values().flat_map(|it| it.chunks(most_in_a_batch())) {
            let was_complete = self.remove_batch(batch, &mut look_again, outcomes);
            if !was_complete {
                break;
            }
        }
    }

    /// How many links of the cache directory lead from an entry to its file, as far as their names tell.
    fn depth(&self, judged: &Judged<'_>) -> usize {
        let next = |name: &OsString| {
            let target = readlinkat(&self.cache_dir, name.as_os_str()).ok()?;
            Path::new(&target).file_name().map(OsStr::to_owned)
        };
        // An `.info` file goes with its file, whatever it is itself.
        let first = match CacheName::parse(judged.name) {
            CacheName { kind: Kind::Info, of, .. } => next(&of.into()),
            _ => judged.file.link.and_then(|_| next(&judged.name.to_owned())),
        };
        successors(first, next).take(MOST_LINKS).count()
    }

    /// Returns whether the evidence was still complete, as far as it was looked at.
    fn remove_batch<'e>(
        &self,
        batch: &[&Judged<'e>],
        look_again: &mut impl FnMut(&BTreeSet<OsString>) -> SecondLook,
        outcomes: &mut Outcomes<'e>,
    ) -> bool {
        if let Some(done) = self.interrupted() {
            outcomes.extend(batch.iter().map(|it| (it.name, done.clone())));
            return true;
        }
        self.progress.enter(Phase::Locks);
        let held = self.lock(batch.iter().map(|it| it.name));
        let mut aside: Vec<&Judged<'e>> = Vec::new();
        for judged in batch {
            let done = self
                .interrupted()
                .or_else(|| self.why_not_locked(judged.name, &held))
                .or_else(|| self.set_aside(judged));
            match done {
                Some(done) => drop(outcomes.insert(judged.name, done)),
                None => aside.push(judged),
            }
        }
        if !aside.is_empty() {
            self.wait_for_openers();
            let files = aside.iter().filter_map(|it| Some((it.file.stat?.identity, set_aside_name(it.name))));
            let users = users_of(&files.collect());
            self.put_back_where(&mut aside, outcomes, |it| {
                self.interrupted().or_else(|| self.examine(it, &users))
            });
        }
        let mut is_complete = true;
        if !aside.is_empty() {
            let names = aside.iter().map(|it| it.name.to_owned()).collect();
            let again = look_again(&names);
            is_complete = !matches!(again, SecondLook::Incomplete(_));
            let interrupted = self.interrupted();
            self.put_back_where(&mut aside, outcomes, |it| {
                interrupted.clone().or_else(|| not_removable_any_more(it, &again))
            });
        }
        for judged in aside {
            let done = self.follow_owner(judged, outcomes).unwrap_or_else(|| self.unlink(judged, &held));
            outcomes.insert(judged.name, done);
        }
        if !self.locks_are_shared {
            self.remove_lock_files(batch, &held, outcomes);
        }
        is_complete
    }

    /// nova's lock files of the originals and copies that are gone. It keeps those of the other kinds itself.
    fn remove_lock_files(&self, batch: &[&Judged<'_>], held: &Batch, outcomes: &Outcomes<'_>) {
        let is_gone = |it: &&&Judged<'_>| {
            matches!(it.kind, Kind::Original | Kind::Resized | Kind::Small)
                && outcomes.get(it.name).is_some_and(|done| done.outcome == Outcome::Removed)
        };
        let spare = batch
            .iter()
            .filter(is_gone)
            .filter_map(|it| held.get(it.name)?.as_ref().ok().map(|lock| (it.name, lock)));
        self.locks.remove_spare(spare, |name| matches!(self.stat(name), Ok(None)));
    }

    /// Puts those files back for which `why` has an outcome.
    fn put_back_where<'e>(
        &self,
        aside: &mut Vec<&Judged<'e>>,
        outcomes: &mut Outcomes<'e>,
        why: impl Fn(&Judged<'_>) -> Option<Done>,
    ) {
        aside.retain(|judged| match why(judged) {
            None => true,
            Some(done) => {
                outcomes.insert(judged.name, self.put_back_because(judged.name, done));
                false
            }
        });
    }

    /// Why the locks of a file do not exclude nova, if they do not.
    fn not_held(&self, name: &OsStr, held: &Batch) -> Option<NotHeld> {
        locks_of(name).into_iter().find_map(|lock| match held.get(lock) {
            Some(Ok(lock)) if lock.is_current(self.locks) => None,
            Some(Err(not_held)) => Some(not_held.clone()),
            Some(Ok(_)) | None => {
                Some(NotHeld::Busy("its lock file, or the directory of locks, was replaced".into()))
            }
        })
    }

    fn why_not_locked(&self, name: &OsStr, held: &Batch) -> Option<Done> {
        let path = self.path(name);
        Some(match self.not_held(name, held)? {
            NotHeld::Failed(why) => failed(&path, why),
            NotHeld::Busy(who) => self.interrupted().unwrap_or_else(|| {
                let why = format!("{path} is locked: {who}: run prune again later");
                Done::because(Outcome::Locked, why)
            }),
        })
    }

    /// Renames a file aside, if it is still the one that was judged.
    fn set_aside(&self, judged: &Judged<'_>) -> Option<Done> {
        let path = self.path(judged.name);
        match self.stat(judged.name) {
            Ok(Some(stat)) if is_as_judged(judged, &stat) => {}
            Ok(_) => return Some(changed(&path)),
            Err(error) => return Some(failed(&path, in_words(&error))),
        }
        let error = self.rename(judged.name, &set_aside_name(judged.name)).err()?;
        if error.raw_os_error() == Some(libc::EEXIST) {
            let aside = self.path(&set_aside_name(judged.name));
            let why = format!("{path} stays, for an earlier file of its name is still set aside as {aside}");
            let advice = "run prune again later, or move that away if it is no file";
            return Some(Done::because(Outcome::Changed, format!("{why}: {advice}")));
        }
        // It may have been renamed all the same.
        let done = failed(&path, format!("cannot rename it: {}", in_words(&error)));
        let is_aside = self.stat(&set_aside_name(judged.name)).is_ok_and(|it| it.is_some());
        Some(if is_aside { self.put_back_because(judged.name, done) } else { done })
    }

    fn wait_for_openers(&self) {
        self.progress.enter(Phase::Waiting);
        let default = if self.cache_is_shared { SETTLE_ON_NETWORK } else { SETTLE };
        let settle = self.settle.unwrap_or(default);
        let start = Instant::now();
        while start.elapsed() < settle && self.interrupted().is_none() {
            std::thread::sleep(PAUSE.min(settle.saturating_sub(start.elapsed())));
        }
    }

    /// Why a file that is set aside must be put back, as far as the file itself shows.
    fn examine(&self, judged: &Judged<'_>, users: &io::Result<Users>) -> Option<Done> {
        let path = self.path(judged.name);
        let opened = match self.open_aside(judged) {
            Ok(Some(opened)) => opened,
            Ok(None) => return Some(changed(&path)),
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return Some(changed(&path)),
            Err(error) => return Some(failed(&path, in_words(&error))),
        };
        if !judged.file.stat.is_some_and(|it| it.is_unchanged(&opened.stat)) {
            return Some(changed(&path));
        }
        let user = match users {
            Ok(users) => users.get(&opened.stat.identity),
            Err(error) => {
                return Some(failed(
                    &path,
                    format!("cannot see who has it open: {error}: check that /proc and /sys are mounted"),
                ));
            }
        };
        match is_open_in_qemu(&opened.file) {
            Err(error) => Some(failed(&path, format!("cannot ask for QEMU's locks: {}", in_words(&error)))),
            Ok(false) if user.is_none() => None,
            Ok(_) => {
                let who = user.map_or("a running QEMU", |it| it);
                Some(Done::because(
                    Outcome::Open,
                    format!("{path} is open: {who} has it open: run prune again later"),
                ))
            }
        }
    }

    fn open_aside(&self, judged: &Judged<'_>) -> io::Result<Option<Opened>> {
        let aside = set_aside_name(judged.name);
        match judged.file.link {
            None => open_regular(self.cache_dir.as_fd(), &aside),
            Some(_) => open_examined(self.cache_dir.as_fd(), &aside),
        }
    }

    /// The outcome of an `.info` file whose file was to go and stays.
    fn follow_owner(&self, judged: &Judged<'_>, outcomes: &Outcomes<'_>) -> Option<Done> {
        let CacheName { kind: Kind::Info, of, .. } = CacheName::parse(judged.name) else { return None };
        let owner = outcomes.get(OsStr::new(of)).filter(|it| it.outcome >= Outcome::Locked)?;
        Some(self.put_back_because(judged.name, owner.clone()))
    }

    fn unlink(&self, judged: &Judged<'_>, held: &Batch) -> Done {
        let path = self.path(judged.name);
        let aside = set_aside_name(judged.name);
        let why_not = match self.stat(&aside) {
            Ok(Some(stat)) if is_as_judged(judged, &stat) => self.why_not_locked(judged.name, held),
            Ok(_) => Some(changed(&path)),
            Err(error) => Some(failed(&path, in_words(&error))),
        };
        if let Some(done) = why_not {
            return self.put_back_because(judged.name, done);
        }
        let unlinked =
            self.as_owner(|| unlinkat(&self.cache_dir, aside.as_os_str(), UnlinkatFlags::NoRemoveDir));
        match unlinked {
            Ok(()) => Done::plain(Outcome::Removed),
            // NFS may lose the answer to what it has done; or somebody has given the file its name back.
            Err(_) if matches!(self.stat(&aside), Ok(None)) => match self.stat(judged.name) {
                Ok(Some(stat)) if is_as_judged(judged, &stat) => {
                    let why = format!("{path} was given its name back by somebody else: run prune again");
                    Done::because(Outcome::Changed, why)
                }
                Ok(_) => Done::plain(Outcome::Removed),
                Err(error) => failed(&path, in_words(&error)),
            },
            Err(error) => self.put_back_because(judged.name, failed(&path, in_words(&error))),
        }
    }

    /// Puts a file back and says so where that did not work as it should.
    fn put_back_because(&self, name: &OsStr, done: Done) -> Done {
        let more = match self.put_back(name) {
            Ok(PutBack::Done) => return done,
            Ok(PutBack::Dropped) => {
                let text =
                    format!("{} has been made again meanwhile; the old file was removed", self.path(name));
                return Done::because(Outcome::Changed, text);
            }
            Ok(PutBack::StaysOpen(who)) => {
                let text = format!(
                    "{} has been made again meanwhile; the old file stays set aside, for {who} has it open",
                    self.path(name)
                );
                return Done { stays_aside_for: Some(who), ..Done::because(Outcome::Changed, text) };
            }
            Ok(PutBack::NameTaken) => {
                format!("it stays set aside ({NAME_TAKEN}): move that away and run prune again")
            }
            // Whoever removed it left nothing to put back.
            Err(error) if error.raw_os_error() == Some(libc::ENOENT) => return done,
            Err(error) => {
                format!("it stays set aside ({}): then run prune again to put it back", in_words(&error))
            }
        };
        let why = done.error.map(|it| format!("{it}; ")).unwrap_or_default();
        Done::because(Outcome::Failed, format!("{why}{more}"))
    }

    /// Gives a file that is set aside its name again. nova's lock of it must be held.
    fn put_back(&self, name: &OsStr) -> io::Result<PutBack> {
        let aside = set_aside_name(name);
        loop {
            match self.rename(&aside, name) {
                Ok(()) => return Ok(PutBack::Done),
                Err(error) if error.raw_os_error() == Some(libc::EEXIST) => {}
                Err(error) => return Err(error),
            }
            // Precaching fetches without the lock.
            if let Some(opened) = open_regular(self.cache_dir.as_fd(), &aside)? {
                let file = opened.stat.identity;
                if let Some(who) = users_of(&HashMap::from([(file, aside.clone())]))?.remove(&file) {
                    return Ok(PutBack::StaysOpen(who));
                }
                if is_open_in_qemu(&opened.file)? {
                    return Ok(PutBack::StaysOpen("a running QEMU".into()));
                }
            }
            match open_regular(self.cache_dir.as_fd(), name) {
                Ok(Some(_)) => {}
                Ok(None) => return Ok(PutBack::NameTaken),
                // A prune on another host, which our locks may not exclude, may have set the new file aside by now: then
                // there is this one alone.
                Err(error) if error.kind() == io::ErrorKind::NotFound => continue,
                Err(error) => return Err(error),
            }
            self.as_owner(|| unlinkat(&self.cache_dir, aside.as_os_str(), UnlinkatFlags::NoRemoveDir))?;
            return Ok(PutBack::Dropped);
        }
    }

    /// Renames within the cache directory, and never replaces a file.
    fn rename(&self, from: &OsStr, to: &OsStr) -> io::Result<()> {
        let no_replace = RenameFlags::RENAME_NOREPLACE;
        let result = self.as_owner(|| renameat2(&self.cache_dir, from, &self.cache_dir, to, no_replace));
        let lacks_it = |error: &io::Error| {
            [libc::EINVAL, libc::ENOSYS, libc::EOPNOTSUPP].map(Some).contains(&error.raw_os_error())
        };
        if !result.as_ref().is_err_and(lacks_it) {
            return result;
        }
        // NFS and some FUSE filesystems lack it. Under nova's lock only precaching could come in between.
        let moved = self.stat(from)?.ok_or(Errno::ENOENT)?.identity;
        if self.leads_to_another(to, moved)? {
            return Err(Errno::EEXIST.into());
        }
        self.as_owner(|| renameat(&self.cache_dir, from, &self.cache_dir, to))?;
        // Where both names are of one file a rename does nothing, and says that it did it.
        match self.stat(from)? {
            Some(stat) if stat.identity == moved => Err(Errno::EEXIST.into()),
            _ => Ok(()),
        }
    }

    /// Whether a name leads to another file than this one. It is opened, for a network filesystem may show a name that
    /// another host has renamed: opening it asks the server, or leads to the renamed file itself.
    fn leads_to_another(&self, name: &OsStr, file: Identity) -> io::Result<bool> {
        match open_regular(self.cache_dir.as_fd(), name) {
            Ok(opened) => Ok(opened.is_none_or(|it| it.stat.identity != file)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Of the filesystem that holds the cache.
    pub fn space(&self) -> io::Result<Space> {
        Space::of_open(&self.cache_dir)
    }

    /// Waits until so much is free, or no more becomes free, or a signal has come: btrfs, and XFS for files of many
    /// extents, free what is unlinked later.
    pub fn wait_until_free(&self, bytes: u64) {
        let available = || self.space().map_or(u64::MAX, |it| it.available_bytes);
        if available() >= bytes || self.interrupted().is_some() {
            return;
        }
        // btrfs frees with its next commit.
        syncfs(&self.cache_dir).ok();
        let start = Instant::now();
        let (mut most, mut since) = (available(), start);
        let is_over = |since: Instant| since.elapsed() >= FREES_NO_MORE || start.elapsed() >= FREES_WITHIN;
        while most < bytes && !is_over(since) && self.interrupted().is_none() {
            std::thread::sleep(PAUSE);
            let now = available();
            if now > most {
                (most, since) = (now, Instant::now());
            }
        }
    }

    fn as_owner<T>(&self, act: impl FnOnce() -> nix::Result<T>) -> io::Result<T> {
        let _as_owner = self.owner.assume().map_err(io::Error::other)?;
        Ok(act()?)
    }

    /// What a name in the cache directory stands for now, links not followed.
    fn stat(&self, name: &OsStr) -> io::Result<Option<Stat>> {
        match fstatat(&self.cache_dir, name, AtFlags::AT_SYMLINK_NOFOLLOW) {
            Ok(stat) => Ok(Some(Stat::from(&stat))),
            Err(Errno::ENOENT) => Ok(None),
            Err(errno) => Err(errno.into()),
        }
    }

    pub fn interrupted(&self) -> Option<Done> {
        self.signals
            .received()
            .map(|signal| Done::because(Outcome::NotReached, format!("interrupted by {signal}")))
    }

    fn path(&self, name: &OsStr) -> String {
        self.layout.cache_dir().join(name).display().to_string()
    }
}

fn not_removable_any_more(judged: &Judged<'_>, again: &SecondLook) -> Option<Done> {
    let path = judged.file.path.display();
    let why = match again {
        SecondLook::Complete(kept) => kept.get(judged.name)?,
        SecondLook::AllStay(why) | SecondLook::Incomplete(why) => why,
    };
    Some(Done::because(Outcome::Changed, format!("{path} is kept: {why}")))
}

/// Whether an entry is the one that was judged: the link itself, where it is one.
fn is_as_judged(judged: &Judged<'_>, stat: &Stat) -> bool {
    match &judged.file.link {
        Some(link) => link.is_unchanged(stat),
        None => judged.file.stat.is_some_and(|it| it.is_unchanged(stat)),
    }
}

fn made_again(who: &str) -> String {
    format!("a new file has its name, and {who} has the old one open")
}

fn changed(path: &str) -> Done {
    Done::because(Outcome::Changed, format!("{path} is no longer the file that was judged"))
}

fn in_words(error: &io::Error) -> String {
    format!("{}: {}", cause(error), advice(error))
}

fn failed(path: &str, why: impl std::fmt::Display) -> Done {
    Done::because(Outcome::Failed, format!("Failed to remove {path}: {why}"))
}

/// Each file needs up to two locks.
fn most_in_a_batch() -> usize {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE) else { return 1 };
    let limit = if setrlimit(Resource::RLIMIT_NOFILE, hard, hard).is_ok() { hard } else { soft };
    (usize::try_from(limit).unwrap_or(usize::MAX).saturating_sub(SPARE_DESCRIPTORS) / 2).max(1)
}
