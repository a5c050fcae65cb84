//! Reads an instances path into [`Evidence`], with many calls under way at once.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::ffi::{OsStr, OsString};
use std::fs::{File, Metadata};
use std::io::{self, ErrorKind, Read as _};
use std::os::fd::{AsFd as _, BorrowedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Component, Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use nix::dir::{Dir, Type};
use nix::fcntl::{AtFlags, OFlag, open, openat};
use nix::sys::stat::{FileStat, Mode, fstatat};
use nix::sys::statfs::{self, FsType};

use super::disk::{self, DiskRead};
use super::{
    Cache, CacheFile, Directory, Disk, Evidence, Identity, Layout, Problem, Stamp, Stat, Subdirectory,
};
use crate::time::Timestamp;

/// How many opens and reads are under way at once. Not for the processor's sake: on slow storage each call waits.
const THREADS: usize = 16;

/// The error of a directory that is closed to this user.
const CANNOT_LIST: &str = "cannot list the cache directory: run this as root or as nova's user";

/// How often the instances path is listed again because something that had been listed was gone.
const MOST_ROUNDS: usize = 32;

/// How directories are opened.
const DIRECTORY: OFlag = OFlag::O_RDONLY.union(OFlag::O_DIRECTORY).union(OFlag::O_CLOEXEC);

/// How long a chain of files outside the instances path is followed.
const LONGEST_CHAIN: usize = 64;

/// How many files outside the instances path are read a step, at least. A chain is a line, so that there are never more
/// than at the first step; only paths that name themselves in several ways become more and more.
const LINKS_A_STEP: usize = 256;

/// How much of `compute_nodes` is read, in bytes.
const LARGEST_COMPUTE_NODES: u64 = 1 << 24;

/// A directory whose last change is not older than this when it is listed may change again without a new mtime: the
/// clock of a filesystem moves in ticks, of up to two seconds on the coarsest, and need not be that of this machine.
const SETTLED_AFTER: Duration = Duration::from_secs(3);

/// How far a pass has come, for a line of progress.
#[derive(Debug, Default)]
pub struct Progress {
    /// Directories and files that have been read.
    pub done: AtomicUsize,
    /// Directories and files that are to be read, as far as is known.
    pub total: AtomicUsize,
}

/// Gathers everything.
///
/// # Errors
/// Where the instances path or the cache directory is there but cannot be listed. What lies in them and cannot be read
/// is no error but evidence.
pub fn gather(layout: &Layout, domain_disks: &[PathBuf], progress: &Progress) -> Result<Evidence> {
    // The cache first: a file that a new instance begins to use while we read was then seen before its disk.
    let cache = read_cache(layout, progress)?;
    let walker = Walker { layout, cache: cache.as_ref().map(|it| it.identity), progress };
    let walk = walker.walk(|_| None)?;
    let mut evidence = Evidence {
        layout: layout.clone(),
        cache_is_shared_apart: cache.is_some() && is_shared_apart(layout),
        cache,
        directories: walk.read,
        links: BTreeMap::new(),
        domain_disks: domain_disks.to_vec(),
        compute_nodes: read_compute_nodes(&layout.instances_path.join("compute_nodes")),
        restless: walk.restless,
        rounds: walk.rounds,
    };
    let disks = evidence.directories.values().flat_map(|it| &it.disks);
    let of_cache = evidence.cache.iter().flat_map(|it| it.files.values()).flat_map(|it| &it.references);
    let mut wave = elsewhere(disks, |path| evidence.is_covered(path));
    wave.extend(of_cache.filter(|it| !evidence.is_covered(it)).chain(&evidence.domain_disks).cloned());
    evidence.links = follow_links(wave, |path| evidence.is_covered(path), progress);
    Ok(evidence)
}

/// Reads the cache directory; `None` where there is none.
///
/// # Errors
/// Where it is there but cannot be listed.
pub fn read_cache(layout: &Layout, progress: &Progress) -> Result<Option<Cache>> {
    let metadata = fs_err::metadata(&layout.instances_path)
        .context("no instances path: name it with --instances-path")?;
    if !metadata.is_dir() {
        bail!(
            "instances path {}: not a directory: name another with --instances-path",
            layout.instances_path.display()
        );
    }
    let cache_dir = layout.cache_dir();
    let metadata = match fs_err::metadata(&cache_dir) {
        Ok(metadata) => metadata,
        Err(error) if error.kind() == ErrorKind::NotFound && !is_there(&cache_dir) => {
            // Nothing to do is an answer only where there is something to ask.
            fs_err::read_dir(&layout.instances_path)
                .context("no instances path that can be listed: name it with --instances-path")?;
            return Ok(None);
        }
        Err(error) => {
            return Err(error)
                .context("cannot look into the cache directory: run this as root or as nova's user");
        }
    };
    if !metadata.is_dir() {
        bail!(
            "cache directory {}: not a directory: name another with --subdirectory-name",
            cache_dir.display()
        );
    }
    let mut names = Vec::new();
    for entry in fs_err::read_dir(&cache_dir).context(CANNOT_LIST)? {
        names.push(entry.context(CANNOT_LIST)?.file_name());
    }
    let files = in_parallel(&names, progress, |name| read_cache_file(&cache_dir.join(name)));
    Ok(Some(Cache {
        identity: Identity::from(&metadata),
        files: names.into_iter().zip(files).filter_map(|(name, file)| Some((name, file?))).collect(),
    }))
}

/// An entry of the cache directory, or `None` where it has gone.
fn read_cache_file(path: &Path) -> Option<CacheFile> {
    let nothing = |stat: Result<Stat, String>, problem| {
        Some(CacheFile { path: path.to_owned(), stat, is_file: false, references: Vec::new(), problem })
    };
    let metadata = match fs_err::metadata(path) {
        Ok(metadata) => metadata,
        Err(error) => {
            // A dangling link, or a loop of links, is there all the same.
            let link = match fs_err::symlink_metadata(path) {
                Ok(metadata) => Ok(Stat::from(&metadata)),
                Err(error) if error.kind() == ErrorKind::NotFound => return None,
                Err(error) => Err(disk::reason(&error)),
            };
            return nothing(link, Some(disk::reason(&error)));
        }
    };
    let stat = Ok(Stat::from(&metadata));
    if !metadata.is_file() {
        return nothing(stat, None);
    }
    let (references, problem) = match disk::read_references(path) {
        Ok(Some(read)) => read,
        Ok(None) => return nothing(stat, None),
        Err(error) if error.kind() == ErrorKind::NotFound => return None,
        Err(error) => (Vec::new(), Some(disk::reason(&error))),
    };
    Some(CacheFile { path: path.to_owned(), stat, is_file: true, references, problem })
}

/// What became of a directory since it was last read.
enum DirectoryRead {
    Unchanged,
    /// It is gone, or something in it was gone when it was opened.
    Vanished,
    Read(Box<Directory>),
}

/// Reads directories of disks.
pub(super) struct Walker<'a> {
    pub(super) layout: &'a Layout,
    pub(super) cache: Option<Identity>,
    pub(super) progress: &'a Progress,
}

/// What a walk over all directories found.
pub(super) struct Walk {
    /// The directories that were not known, or have changed since.
    pub(super) read: BTreeMap<OsString, Directory>,
    /// Why the walk came to no end, if it did not.
    pub(super) restless: Option<String>,
    /// How often the instances path was listed.
    pub(super) rounds: usize,
}

impl Walker<'_> {
    /// Reads every directory that is not `known` or has changed since, until nothing that was listed vanishes.
    ///
    /// nova renames `<uuid>` to `<uuid>_resize` and back at any time: what has vanished may be there under another
    /// name.
    ///
    /// # Errors
    /// Where the instances path cannot be listed.
    pub(super) fn walk<'k>(&self, known: impl Fn(&OsStr) -> Option<&'k Directory> + Sync) -> Result<Walk> {
        let mut read: BTreeMap<OsString, Directory> = BTreeMap::new();
        for rounds in 1..=MOST_ROUNDS {
            let before = Stamp::of(&self.layout.instances_path)?;
            let at = open(&self.layout.instances_path, DIRECTORY, Mode::empty())
                .with_context(|| format!("cannot open {}", self.layout.instances_path.display()))?;
            let at = at.as_fd();
            let root = self.list_root(at)?;
            let mut quiet = true;
            // What an earlier round read; what is not there any more is left in it.
            let mut earlier = std::mem::take(&mut read);
            let mut level: Vec<(OsString, bool)> = root
                .subdirectories
                .iter()
                .filter(|it| it.name != self.layout.subdirectory_name && it.name != "locks")
                .map(|it| (it.name.clone(), it.is_link))
                .collect();
            read.insert(OsString::new(), root);
            while !level.is_empty() {
                let results = in_parallel(&level, self.progress, |(path, is_link)| {
                    self.read_directory(at, path, *is_link, earlier.get(path).or_else(|| known(path)))
                });
                let mut deeper = Vec::new();
                for ((path, _), result) in level.into_iter().zip(results) {
                    let directory = match result {
                        DirectoryRead::Vanished => {
                            quiet = false;
                            continue;
                        }
                        DirectoryRead::Unchanged => earlier.remove(&path),
                        DirectoryRead::Read(directory) => Some(*directory),
                    };
                    if let Some(directory) = directory.as_ref().or_else(|| known(&path)) {
                        let below = directory.subdirectories.iter();
                        deeper.extend(
                            below.map(|it| (Path::new(&path).join(&it.name).into_os_string(), it.is_link)),
                        );
                    }
                    if let Some(directory) = directory {
                        read.insert(path, directory);
                    }
                }
                level = deeper;
            }
            // A listing that was under way during a rename may show neither name.
            if quiet && before.is_same_listing(Stamp::of(&self.layout.instances_path)?) {
                return Ok(Walk { read, restless: None, rounds });
            }
        }
        let restless = format!("directories kept changing during {MOST_ROUNDS} attempts to read them");
        Ok(Walk { read, restless: Some(restless), rounds: MOST_ROUNDS })
    }

    /// Lists the instances path itself, and reads the files that lie directly in it.
    fn list_root(&self, at: BorrowedFd<'_>) -> Result<Directory> {
        for _ in 1..=MOST_ROUNDS {
            if let DirectoryRead::Read(root) = self.read_directory(at, OsStr::new(""), false, None) {
                if let Some(problem) = root.problem {
                    bail!(
                        "cannot list the instances path {}: {problem}: run this as root or as nova's user",
                        self.layout.instances_path.display()
                    );
                }
                return Ok(*root);
            }
        }
        bail!(
            "instances path {}: its files kept vanishing while they were read: run this again",
            self.layout.instances_path.display()
        )
    }

    /// Reads a directory by its path below the instances path, which `at` is open on.
    fn read_directory(
        &self,
        at: BorrowedFd<'_>,
        below: &OsStr,
        is_link: bool,
        known: Option<&Directory>,
    ) -> DirectoryRead {
        if let Some(known) = known
            && known.problem.is_none()
            // To ask is cheaper than to open, and of a directory that is open already.
            && fstatat(at, below, AtFlags::empty())
                .is_ok_and(|stat| known.stamp.is_some_and(|stamp| stamp.is_unchanged(&stat)))
        {
            return DirectoryRead::Unchanged;
        }
        let path = self.layout.instances_path.join(below);
        let mut directory = Directory { is_link, ..Directory::default() };
        match self.list(at, &path, below, &mut directory) {
            Ok(true) => {}
            Ok(false) => return DirectoryRead::Vanished,
            // A link that leads nowhere is there all the same.
            Err(error) if error.kind() == ErrorKind::NotFound && !(is_link && is_there(&path)) => {
                return DirectoryRead::Vanished;
            }
            Err(error) => directory.problem = Some(disk::reason(&error)),
        }
        directory.disks.sort_unstable_by(|a, b| a.path.as_os_str().cmp(b.path.as_os_str()));
        DirectoryRead::Read(Box::new(directory))
    }

    /// Lists a directory and reads the disks in it; `false` where one has vanished.
    fn list(
        &self,
        at: BorrowedFd<'_>,
        path: &Path,
        below: &OsStr,
        directory: &mut Directory,
    ) -> io::Result<bool> {
        // Only these two have directories that matter: an instance's disks lie directly in its own.
        let is_deep = below.is_empty() || below == "snapshots";
        let below = if below.is_empty() { OsStr::new(".") } else { below };
        let opened = File::from(openat(at, below, DIRECTORY, Mode::empty())?);
        let stamp = Stamp::from(&opened.metadata()?);
        directory.stamp = Some(stamp);
        if self.cache == Some(stamp.identity) {
            directory.is_cache = true;
            return Ok(true);
        }
        let mut listing = Dir::from_fd(opened.into())?;
        let mut disks = Vec::new();
        for entry in listing.iter() {
            let entry = entry?;
            let name = OsStr::from_bytes(entry.file_name().to_bytes());
            if name == "." || name == ".." || disk::is_never_a_disk(name) {
                continue;
            }
            let full_path = || path.join(name);
            let mut entry_type = match entry.file_type() {
                Some(known) => known,
                None => type_of(&fs_err::symlink_metadata(full_path())?),
            };
            let is_link = entry_type == Type::Symlink;
            if is_link {
                entry_type = match fs_err::metadata(full_path()) {
                    Ok(metadata) => type_of(&metadata),
                    // Among directories a link that leads nowhere is a directory that cannot be read.
                    Err(_) if is_deep => Type::Directory,
                    Err(error) => {
                        directory.disks.push(disk::dangling(full_path(), &error));
                        continue;
                    }
                };
            }
            match entry_type {
                Type::Directory if is_deep => {
                    directory.subdirectories.push(Subdirectory { name: name.to_owned(), is_link });
                }
                Type::File => disks.push(name.to_owned()),
                _ => {}
            }
        }
        for name in disks {
            match disk::read_in(listing.as_fd(), path, &name) {
                DiskRead::Disk(disk) => directory.disks.push(disk),
                DiskRead::NotADisk => {}
                DiskRead::Missing => return Ok(false),
            }
        }
        Ok(true)
    }
}

/// What an entry is, as listings say it.
fn type_of(metadata: &Metadata) -> Type {
    let file_type = metadata.file_type();
    if file_type.is_symlink() {
        Type::Symlink
    } else if file_type.is_dir() {
        Type::Directory
    } else if file_type.is_file() {
        Type::File
    } else {
        // It does not matter which: none of them is a disk.
        Type::Socket
    }
}

/// The files that disks name and that lie in none of the directories.
pub(super) fn elsewhere<'a>(
    disks: impl IntoIterator<Item = &'a Disk>,
    is_covered: impl Fn(&Path) -> bool,
) -> BTreeSet<PathBuf> {
    // Each is named by many disks, and most lie in the cache.
    let mut covered: HashMap<&OsStr, bool> = HashMap::new();
    let mut paths = BTreeSet::new();
    for disk in disks {
        let mut references = disk
            .references
            .iter()
            .filter(|it| !*covered.entry(it.as_os_str()).or_insert_with(|| is_covered(it)))
            // Where the cache goes by another name every disk names a file elsewhere: one of each name is asked.
            .filter(|it| !paths.contains(*it))
            .cloned()
            .collect::<Vec<_>>()
            .into_iter()
            .peekable();
        // A raw disk stands on nothing. What is in it is the guest's, who must not lead us about the host.
        if references.peek().is_some() && !disk::is_raw_by_disk_info(&disk.path).unwrap_or(false) {
            paths.extend(references);
        }
    }
    paths
}

/// Reads the files that disks name and that lie in none of the directories, and those that they name in turn.
pub(super) fn follow_links(
    mut wave: BTreeSet<PathBuf>,
    is_covered: impl Fn(&Path) -> bool,
    progress: &Progress,
) -> BTreeMap<PathBuf, Disk> {
    let mut links: BTreeMap<PathBuf, Disk> = BTreeMap::new();
    let most = LINKS_A_STEP.max(2 * wave.len());
    for depth in 1.. {
        let paths: Vec<PathBuf> = wave.into_iter().filter(|it| !links.contains_key(it)).collect();
        if paths.is_empty() {
            break;
        }
        let read = if depth > LONGEST_CHAIN || paths.len() > most {
            let text = if depth > LONGEST_CHAIN {
                format!("a chain of more than {LONGEST_CHAIN} backing files leads here")
            } else {
                format!("a chain that branches into {} files leads here", paths.len())
            };
            let problem = Some(Problem { text, is_missing: false });
            let unread = |path| Disk { path, references: Vec::new(), problem: problem.clone() };
            paths.into_iter().map(unread).collect()
        } else {
            in_parallel(&paths, progress, |path| match disk::read_named(path.clone()) {
                DiskRead::Disk(disk) => disk,
                DiskRead::NotADisk => Disk { path: path.clone(), references: Vec::new(), problem: None },
                DiskRead::Missing => disk::missing(path.clone()),
            })
        };
        wave = elsewhere(&read, &is_covered);
        links.extend(read.into_iter().map(|link| (link.path.clone(), link)));
    }
    links
}

impl Evidence {
    /// Whether a file lies in a directory that was read anyway.
    pub(super) fn is_covered(&self, path: &Path) -> bool {
        let Some(below) = self.below_instances_path(path) else { return false };
        below.parent().is_some_and(|parent| {
            parent.as_os_str() == self.layout.subdirectory_name
                || self
                    .directories
                    .get(parent.as_os_str())
                    .is_some_and(|it| !it.is_link && it.problem.is_none())
        })
    }

    /// The part of a path below the instances path, where it can be told from the text alone: `..` is undone only
    /// behind a directory that is known to be no link.
    pub fn below_instances_path(&self, path: &Path) -> Option<PathBuf> {
        let mut below = PathBuf::new();
        for component in path.strip_prefix(&self.layout.instances_path).ok()?.components() {
            match component {
                Component::Normal(name) => below.push(name),
                Component::ParentDir
                    if self.directories.get(below.as_os_str()).is_some_and(|it| !it.is_link) =>
                {
                    if !below.pop() {
                        return None;
                    }
                }
                _ => return None,
            }
        }
        Some(below)
    }
}

impl Stamp {
    fn of(path: &Path) -> io::Result<Self> {
        let metadata = fs_err::metadata(path)?;
        if !metadata.is_dir() {
            return Err(ErrorKind::NotADirectory.into());
        }
        Ok(Self::from(&metadata))
    }

    /// Whether a directory that looks so now has the same entries as when this was taken.
    fn is_unchanged(self, now: &FileStat) -> bool {
        self.settled
            && self.identity == Identity { dev: now.st_dev, ino: now.st_ino }
            && self.mtime == Timestamp::from_unix(now.st_mtime, now.st_mtime_nsec)
    }

    fn is_same_listing(self, other: Self) -> bool {
        self.identity == other.identity && self.mtime == other.mtime
    }
}

impl From<&Metadata> for Stamp {
    fn from(metadata: &Metadata) -> Self {
        let Stat { identity, mtime, .. } = metadata.into();
        Self { identity, mtime, settled: mtime.age_at(Timestamp::now()) > SETTLED_AFTER }
    }
}

/// Whether a path names anything, a dangling link included.
fn is_there(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok()
}

/// The hosts that share this storage (nova's nova/virt/storage_users.py writes them).
fn read_compute_nodes(path: &Path) -> Result<BTreeSet<String>, String> {
    let read = || -> Result<BTreeSet<String>> {
        let metadata = match fs_err::metadata(path) {
            Ok(metadata) => metadata,
            Err(error) if error.kind() == ErrorKind::NotFound => bail!("there is no {}", path.display()),
            Err(error) => return Err(error.into()),
        };
        if !metadata.is_file() || metadata.len() > LARGEST_COMPUTE_NODES {
            bail!("{}: not a file that nova could have written", path.display());
        }
        let mut text = Vec::new();
        fs_err::File::open(path)?.take(LARGEST_COMPUTE_NODES).read_to_end(&mut text)?;
        parse_compute_nodes(&text).with_context(|| path.display().to_string())
    };
    read().map_err(|error| format!("{error:#}"))
}

/// The host names in a `compute_nodes` file.
///
/// # Errors
/// Where the text is no JSON object.
pub fn parse_compute_nodes(text: &[u8]) -> Result<BTreeSet<String>> {
    let nodes: BTreeMap<String, serde::de::IgnoredAny> =
        serde_json::from_slice(text).context("not a JSON object of host names")?;
    Ok(nodes.into_keys().collect())
}

/// Whether the cache directory is on a network filesystem other than that of the instances path.
fn is_shared_apart(layout: &Layout) -> bool {
    let device = |path: &Path| fs_err::metadata(path).map(|it| Identity::from(&it).dev).ok();
    let cache_dir = layout.cache_dir();
    device(&cache_dir) != device(&layout.instances_path)
        // A filesystem that does not tell may be one.
        && statfs::statfs(&cache_dir).map_or(true, |it| is_network_filesystem(it.filesystem_type()))
}

/// The magic numbers of filesystems that several machines can mount, from statfs(2) and the kernel's linux/magic.h.
/// FUSE is among them, for sshfs and GlusterFS are.
fn is_network_filesystem(magic: FsType) -> bool {
    const NETWORK: [u32; 15] = [
        0x6969,      // NFS
        0xff53_4d42, // CIFS
        0xfe53_4d42, // SMB2
        0x517b,      // SMB
        0x00c3_6400, // Ceph
        0x6573_5546, // FUSE
        0x7461_636f, // OCFS2
        0x0116_1970, // GFS2
        0x4750_4653, // GPFS
        0x0bd0_0bd0, // Lustre
        0x0102_1997, // 9P
        0x1983_0326, // BeeGFS
        0x6b41_4653, // AFS
        0x7375_7245, // Coda
        0xaad7_aaea, // PanFS
    ];
    // The type of the number differs between platforms; its low 32 bits do not.
    NETWORK.contains(&(magic.0 as u32))
}

/// Applies `work` to every item, several at once; the results are in the order of the items.
fn in_parallel<T: Sync, R: Send>(items: &[T], progress: &Progress, work: impl Fn(&T) -> R + Sync) -> Vec<R> {
    progress.total.fetch_add(items.len(), Ordering::Relaxed);
    let next = AtomicUsize::new(0);
    let worker = || {
        let mut results = Vec::new();
        while let Some((index, item)) = {
            let index = next.fetch_add(1, Ordering::Relaxed);
            items.get(index).map(|item| (index, item))
        } {
            results.push((index, work(item)));
            progress.done.fetch_add(1, Ordering::Relaxed);
        }
        results
    };
    let mut results: Vec<(usize, R)> = std::thread::scope(|scope| {
        let others: Vec<_> = (1..THREADS.min(items.len())).map(|_| scope.spawn(worker)).collect();
        let mut results = worker();
        for other in others {
            // A panic of a worker is passed on, not hidden.
            results.extend(other.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)));
        }
        results
    });
    results.sort_unstable_by_key(|(index, _)| *index);
    results.into_iter().map(|(_, result)| result).collect()
}
