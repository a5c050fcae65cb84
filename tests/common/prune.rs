//! What the tests of real removal need beyond the world: prune in the background and under strace, and the others who
//! work on the same files: QEMU, and nova (see also `nova.rs`).

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant, SystemTime};

use assert_cmd::cargo::cargo_bin;
use fs_err::File;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nova_imagecache::cache_name::SET_ASIDE;
use serde_json::json;

use crate::common::{DAY, HOST, NO_ARGS, Run, Snapshot, World, list, mtime, set_age, set_mtime, text, tool};

/// Where `what` is awaited for longer than this, the test fails.
const PATIENCE: Duration = Duration::from_secs(30);

/// Waits for what another process does.
#[track_caller]
pub fn wait_until(what: &str, mut is_so: impl FnMut() -> bool) {
    let start = Instant::now();
    while !is_so() {
        assert!(start.elapsed() < PATIENCE, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// A world with one instance and its image, which is in use. Its mtime tells when a prune has judged, for prune
/// touches what is in use after its verdicts and before it takes the first lock of a file.
pub struct InUse {
    pub world: World,
    /// The name of the used original.
    pub used: String,
}

impl InUse {
    pub fn new() -> Self {
        let world = World::new();
        let used = world.original("image-used", 2 * DAY);
        world.instance_disk("instance-00000001", &used);
        world.inventory(&json!([{"name": "instance-00000001", "host": HOST, "image_ref": "image-used"}]));
        Self { world, used }
    }

    /// With three files to remove; what is done is done to the one in the middle, so that there is one before and one
    /// after.
    pub fn with_three() -> (Self, [String; 3]) {
        let it = Self::new();
        let files = it.three_files();
        (it, files)
    }

    pub fn three_files(&self) -> [String; 3] {
        let names = ["0", "1", "2"].map(|digit| digit.repeat(40));
        names.iter().for_each(|name| drop(plain_file(&self.world, name, 2 * DAY)));
        names
    }

    /// Prunes with nothing in the way: this file goes.
    #[track_caller]
    pub fn goes(&self, name: &str) {
        self.world.prune(NO_ARGS).exits(0).told(name, "removed", &[]);
    }

    /// Checks that the cache has the used file and these, and no other.
    #[track_caller]
    pub fn has<S: Into<String>>(&self, others: impl IntoIterator<Item = S>) {
        let expected = others.into_iter().map(Into::into).chain([self.used.clone()]).collect();
        assert_eq!(names(&self.world.path("_base")), expected);
    }

    /// Checks that of three files this one stays and the report says why, and that the others went.
    #[track_caller]
    pub fn only_this_stays(&self, run: &Run, name: &str, outcome: &str, why: &str) {
        run.told(name, outcome, &[why, &self.world.base(name).display().to_string()]);
        assert_eq!(with_outcome(run, "removed").len(), 2, "{run:#?}");
        self.has([name]);
    }

    /// A prune under strace, which does something to a system call that is about this path.
    pub fn injected(&self, action: &str, path: &Path, args: &[&str]) -> Command {
        under_strace(&self.world, inject(action, path), &prune_command(&self.world, args))
    }

    /// Starts a prune and waits until it has judged.
    #[track_caller]
    pub fn judged_by<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Running {
        self.judged(&mut prune_command(&self.world, args))
    }

    #[track_caller]
    pub fn judged(&self, command: &mut Command) -> Running {
        let before = mtime(&self.world.base(&self.used));
        let running = Running::start(command);
        wait_until("prune touches what is in use", || mtime(&self.world.base(&self.used)) != before);
        running
    }

    /// Starts a prune and stops it when it has set this file aside, the last of its batch.
    #[track_caller]
    pub fn aside<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Running {
        self.stopped(&mut prune_command(&self.world, args), name)
    }

    /// Starts this prune and stops it in its wait after it has set this file aside, the last of its batch.
    #[track_caller]
    pub fn stopped(&self, command: &mut Command, name: &str) -> Running {
        let running = Running::start(command.args(["--settle", "1s"]));
        let aside = aside(&self.world, name);
        wait_until("prune sets the file aside", || aside.exists());
        // The rest of the batch takes less than that.
        std::thread::sleep(Duration::from_millis(30));
        running.signal(Signal::SIGSTOP);
        assert!(aside.exists(), "prune went on before it was stopped");
        running
    }

    /// Prunes, and does something while this file, the last of its batch, is set aside.
    #[track_caller]
    pub fn while_aside(&self, name: &str, args: &[&str], act: impl FnOnce()) -> Run {
        let stopped = self.aside(name, args);
        act();
        stopped.finish()
    }

    /// Lets prune judge while the lock of a file is held here, does something, and lets go of the lock.
    #[track_caller]
    pub fn while_locked(&self, name: &str, act: impl FnOnce()) -> Run {
        let lock = hold_lock(&self.world, name);
        let prune = self.judged_by(["--lock-wait", "20s"]);
        act();
        drop(lock);
        prune.finish()
    }
}

/// Where a cache file is while it is set aside.
pub fn aside(world: &World, name: &str) -> PathBuf {
    world.base(format!("{SET_ASIDE}{name}"))
}

/// `prune -f json` of a world, to be started in the background or under another command.
pub fn prune_command<A: AsRef<OsStr>>(world: &World, args: impl IntoIterator<Item = A>) -> Command {
    judging_command(world, "prune", args)
}

pub fn judging_command<A: AsRef<OsStr>>(
    world: &World,
    subcommand: &str,
    args: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    command.env_clear().current_dir(world.outside());
    command.args([subcommand, "-f", "json", "--host", HOST, "-p"]).arg(world.instances_path());
    let inventory = world.outside().join("inventory.json");
    if inventory.exists() {
        command.arg("--inventory").arg(inventory);
    }
    command.args(args);
    command
}

/// The same command under strace with these arguments; what strace has to say goes to `strace.log` beside the
/// instances path. It follows the main thread alone, which does everything but to read headers.
pub fn under_strace<A: AsRef<OsStr>>(
    world: &World,
    args: impl IntoIterator<Item = A>,
    command: &Command,
) -> Command {
    let mut strace = Command::new(tool("strace", "strace"));
    strace.env_clear().current_dir(world.outside());
    strace.args(["-qq", "-o"]).arg(strace_log(world)).args(args).arg("--");
    strace.arg(command.get_program()).args(command.get_args());
    strace
}

pub fn strace_log(world: &World) -> PathBuf {
    world.outside().join("strace.log")
}

/// The names of the calls in that log, in their order.
pub fn traced_calls(world: &World) -> Vec<String> {
    let log = fs_err::read_to_string(strace_log(world)).unwrap();
    log.lines().filter_map(|line| Some(line.split_once('(')?.0.to_owned())).collect()
}

/// The arguments of strace that do something to a system call where it is about a path: as its argument, or as what
/// a descriptor among its arguments is open on.
pub fn inject(syscall_and_action: &str, path: &Path) -> [OsString; 4] {
    let (syscall, _) = syscall_and_action.split_once(':').unwrap();
    let [trace, inject] = [format!("--trace={syscall}"), format!("--inject={syscall_and_action}")];
    ["-P".into(), path.into(), trace.into(), inject.into()]
}

/// Runs a command to its end.
pub fn finish(command: &mut Command) -> Run {
    Run::from(command.output().unwrap())
}

/// A process that does not outlive its test.
pub struct Running(Option<Child>);

impl Running {
    pub fn start(command: &mut Command) -> Self {
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        Self(Some(command.spawn().unwrap_or_else(|error| panic!("{command:?}: {error}"))))
    }

    /// Starts a process that has this file open, as its standard input, and takes no locks.
    pub fn sleep_with(open: &Path) -> Self {
        let open = File::open(open).unwrap().into_parts().0;
        Self(Some(Command::new("sleep").arg("60").stdin(open).spawn().unwrap()))
    }

    /// Starts qemu-nbd on a disk and waits until it has this file open, which it does after it listens; none where it
    /// cannot open it.
    pub fn qemu_nbd(world: &World, args: &[&str], disk: &Path, opens: &Path) -> Option<Self> {
        let socket = world.outside().join("nbd.sock");
        fs_err::remove_file(&socket).ok();
        let mut command = Command::new(tool("qemu-nbd", "qemu-utils"));
        command.args(["--persistent", "--socket"]).arg(&socket).args(args).arg(disk);
        let mut running = Self::start(&mut command);
        wait_until("qemu-nbd opens the chain or ends", || {
            !running.is_running() || socket.exists() && is_locked(opens)
        });
        running.is_running().then_some(running)
    }

    pub fn is_running(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    /// Sends it a signal. One that is stopped gets it when it goes on.
    pub fn signal(&self, signal: Signal) {
        // It may have ended by itself.
        kill(Pid::from_raw(self.id().try_into().unwrap()), signal).ok();
    }

    pub fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Lets it go on, where it is stopped, and waits for its end.
    pub fn finish(self) -> Run {
        Run::from(self.end())
    }

    /// The same, where the end may be by a signal.
    pub fn end(mut self) -> Output {
        self.signal(Signal::SIGCONT);
        self.0.take().unwrap().wait_with_output().unwrap()
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(mut child) = self.0.take() {
            // It may have ended by itself.
            child.kill().ok();
            child.wait().unwrap();
        }
    }
}

/// Takes the lock of a cache file in this process when it is free, as nova does, until the file is closed: on the file
/// that it has opened, whatever the name stands for by then.
#[must_use]
pub fn hold_lock(world: &World, name: &str) -> File {
    let file = fs_err::OpenOptions::new().append(true).create(true).open(lock_file(world, name)).unwrap();
    fcntl(file.file(), FcntlArg::F_OFD_SETLKW(&whole_file())).unwrap();
    file
}

/// Whether anyone holds a record lock on a file that would keep out a writer.
pub fn is_locked(path: &Path) -> bool {
    let Ok(file) = File::open(path) else { return false };
    let mut lock = whole_file();
    fcntl(file.file(), FcntlArg::F_OFD_GETLK(&mut lock)).unwrap();
    i32::from(lock.l_type) != libc::F_UNLCK
}

fn whole_file() -> libc::flock {
    libc::flock {
        l_type: libc::F_WRLCK.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: 0,
        l_len: 0,
        l_pid: 0,
    }
}

/// Where nova and prune lock a cache file.
pub fn lock_file(world: &World, name: &str) -> PathBuf {
    world.path("locks").join(format!("nova-{name}"))
}

/// The names in a directory.
pub fn names(directory: &Path) -> BTreeSet<String> {
    fs_err::read_dir(directory).unwrap().map(|it| it.unwrap().file_name().into_string().unwrap()).collect()
}

/// The names of the files with that outcome.
pub fn with_outcome(run: &Run, outcome: &str) -> BTreeSet<String> {
    let json = run.json();
    list(&json["files"]).iter().filter(|it| it["outcome"] == outcome).map(|it| text(&it["name"])).collect()
}

impl Run {
    /// Checks the outcome of a file, and that its error has all these words.
    #[track_caller]
    pub fn told(&self, name: &str, outcome: &str, words: &[&str]) {
        let file = self.file(name);
        assert_eq!(file["outcome"], outcome, "{name}: {self:#?}");
        let error = file["error"].as_str().unwrap_or_default();
        for word in words {
            assert!(error.contains(word), "{name}: no {word:?} in {error:?}: {self:#?}");
        }
    }
}

/// Everything below the instances path as it may not change by a prune that removes nothing: without the mtimes of the
/// files named, which are in use, and of directories, and without the locks.
pub fn untouched<S: AsRef<str>>(world: &World, in_use: &[S]) -> Snapshot {
    let mut snapshot = Snapshot::of(&world.instances_path());
    let locks = world.path("locks");
    snapshot.0.retain(|path, _| path.parent() != Some(&locks));
    for (path, entry) in &mut snapshot.0 {
        let is_directory = entry.mode & libc::S_IFMT == libc::S_IFDIR;
        if is_directory || in_use.iter().any(|name| *path == world.base(name.as_ref())) {
            entry.mtime = (0, 0);
        }
        // A prune may make the directory of locks.
        if is_directory {
            entry.links = 0;
        }
        if *path == locks {
            entry.inode = 0;
        }
    }
    snapshot
}

/// Writes a cache file without qemu-img, where a test needs many.
pub fn plain_file(world: &World, name: &str, age: Duration) -> PathBuf {
    let path = world.base(name);
    fs_err::write(&path, format!("content of {name}\n")).unwrap();
    set_age(&path, age);
    path
}

/// Does something to a file that is not to show in its mtime.
pub fn keeping_mtime(path: &Path, act: impl FnOnce()) {
    let time = mtime(path);
    act();
    set_mtime(path, time);
}

/// The user whom nova runs as: another one if we are root, as prune is on a compute host.
pub fn nova_user() -> u32 {
    if nix::unistd::geteuid().is_root() { 12345 } else { nix::unistd::geteuid().as_raw() }
}

/// Who owns a file.
pub fn owner(path: &Path) -> u32 {
    fs_err::symlink_metadata(path).unwrap().uid()
}

/// Gives all that lies at and below a path to a user.
pub fn chown_all(path: &Path, uid: u32) {
    for path in Snapshot::of(path).0.keys() {
        std::os::unix::fs::lchown(path, Some(uid), Some(uid)).unwrap();
    }
}

/// Whether a time is that of the last minute.
pub fn is_now(time: SystemTime) -> bool {
    SystemTime::now().duration_since(time).is_ok_and(|age| age < Duration::from_secs(60))
}

/// Copies a tree with modes, owners and mtimes.
pub fn copy_tree(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").args([from, to]).status().unwrap().success());
}

/// Puts 1,500 other instances on the host of [`InUse`]: listing them takes more than one system call, and reading their
/// disks the time in which somebody can do something.
pub fn other_instances(world: &World) {
    let disk = fs_err::read(world.path("instance-00000001/disk")).unwrap();
    for number in 0..1500 {
        let directory = world.path(format!("10000000-0000-4000-8000-{number:012x}"));
        fs_err::create_dir(&directory).unwrap();
        fs_err::write(directory.join("disk"), &disk).unwrap();
    }
}

/// The absolute path of the backing file that a qcow2 header names, if any. For the disks of these tests only.
pub fn backing_file(disk: &Path) -> Option<PathBuf> {
    let content = fs_err::read(disk).ok().filter(|it| it.starts_with(b"QFI\xfb"))?;
    let offset = u64::from_be_bytes(content.get(8..16)?.try_into().unwrap()) as usize;
    let length = u32::from_be_bytes(content.get(16..20)?.try_into().unwrap()) as usize;
    let name = std::str::from_utf8(content.get(offset..offset + length)?).unwrap();
    (offset > 0).then(|| disk.parent().unwrap().join(name))
}

/// The disks of instances whose backing file is not there, and that file. Directories may go meanwhile.
pub fn broken_disks(instances_path: &Path, exists: impl Fn(&Path) -> bool) -> BTreeMap<PathBuf, PathBuf> {
    let mut broken = BTreeMap::new();
    for directory in names(instances_path).iter().filter(|it| !["_base", "locks"].contains(&it.as_str())) {
        for disk in fs_err::read_dir(instances_path.join(directory)).into_iter().flatten().flatten() {
            let disk = disk.path();
            if let Some(backing) = backing_file(&disk).filter(|it| !exists(it)) {
                broken.insert(disk, backing);
            }
        }
    }
    broken
}

/// Whether tests run in their long form: `NOVA_IMAGECACHE_FULL=1`.
pub fn is_full() -> bool {
    std::env::var_os("NOVA_IMAGECACHE_FULL").is_some_and(|it| it == "1")
}
