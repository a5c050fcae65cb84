//! What the tests of real removal need beyond the world: prune in the background and under strace, and the others who
//! work on the same files: QEMU, and nova (see also `nova.rs`).

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant, SystemTime};

use assert_cmd::cargo::cargo_bin;
use fs_err::File;
use nix::fcntl::{FcntlArg, fcntl};
use nix::libc;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use nova_imagecache::cache_name::SET_ASIDE;
use serde_json::{Value, json};

use crate::common::{DAY, HOST, Run, Snapshot, World, list, mtime, text, tool};

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

    /// Starts a prune and waits until it has judged.
    #[track_caller]
    pub fn judged_by<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Running {
        self.judged(&mut prune_command(&self.world, args))
    }

    /// Starts a prune and stops it when it has set this file aside, the last of its batch.
    #[track_caller]
    pub fn aside<A: AsRef<OsStr>>(&self, name: &str, args: impl IntoIterator<Item = A>) -> Stopped {
        self.world.aside(&mut prune_command(&self.world, args), name)
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
    pub fn while_locked(&self, name: &str, args: &[&str], act: impl FnOnce()) -> Run {
        let lock = hold_lock(&self.world, name);
        let prune = self.judged_by(["--lock-wait", "20s"].iter().chain(args));
        act();
        drop(lock);
        prune.finish()
    }

    /// Starts this prune and waits until it has judged.
    #[track_caller]
    pub fn judged(&self, command: &mut Command) -> Running {
        let before = mtime(&self.world.base(&self.used));
        let running = Running::start(command);
        wait_until("prune touches what is in use", || mtime(&self.world.base(&self.used)) != before);
        running
    }
}

impl World {
    /// Starts a prune and stops it in its wait after it has set this file aside, the last of its batch.
    #[track_caller]
    pub fn aside(&self, command: &mut Command, name: &str) -> Stopped {
        let running = Running::start(command.args(["--settle", "1s"]));
        wait_until("prune sets the file aside", || aside(self, name).exists());
        // The rest of the batch takes less than that.
        std::thread::sleep(Duration::from_millis(30));
        running.signal(Signal::SIGSTOP);
        assert!(aside(self, name).exists(), "prune went on before it was stopped");
        Stopped(running)
    }
}

/// A prune that is stopped while files are set aside.
pub struct Stopped(Running);

impl Stopped {
    /// Lets it go on.
    pub fn go_on(self) -> Running {
        self.0.signal(Signal::SIGCONT);
        self.0
    }

    pub fn finish(self) -> Run {
        self.go_on().finish()
    }

    /// Sends it a signal, which it gets when it goes on.
    pub fn signal(&self, signal: Signal) {
        self.0.signal(signal);
    }

    /// Kills it: what is set aside stays so.
    pub fn kill(self) {
        drop(self);
    }
}

/// Where a cache file is while it is set aside.
pub fn aside(world: &World, name: &str) -> PathBuf {
    world.base(format!("{SET_ASIDE}{name}"))
}

/// `prune -f json` of a world, to be started in the background or under another command.
pub fn prune_command<A: AsRef<OsStr>>(world: &World, args: impl IntoIterator<Item = A>) -> Command {
    prune_command_at(world, &world.instances_path(), args)
}

/// The same of an instances path under another name.
pub fn prune_command_at<A: AsRef<OsStr>>(
    world: &World,
    instances_path: &Path,
    args: impl IntoIterator<Item = A>,
) -> Command {
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    command.env_clear().current_dir(world.outside());
    command.args(["prune", "-f", "json", "--host", HOST, "-p"]).arg(instances_path);
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

/// The arguments of strace that do something to a system call where it is about a path: as its argument, or as what
/// a descriptor among its arguments is open on.
pub fn inject<'a>(syscall_and_action: &str, path: &'a Path) -> [std::borrow::Cow<'a, OsStr>; 4] {
    let (syscall, _) = syscall_and_action.split_once(':').unwrap();
    [
        OsStr::new("-P").into(),
        path.as_os_str().into(),
        std::ffi::OsString::from(format!("--trace={syscall}")).into(),
        std::ffi::OsString::from(format!("--inject={syscall_and_action}")).into(),
    ]
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

    /// Starts a process that has this file open, as its standard input.
    pub fn start_with(command: &mut Command, open: std::fs::File) -> Self {
        Self(Some(command.stdin(open).spawn().unwrap()))
    }

    pub fn is_running(&mut self) -> bool {
        self.0.as_mut().unwrap().try_wait().unwrap().is_none()
    }

    pub fn signal(&self, signal: Signal) {
        let pid = self.id().try_into().unwrap();
        kill(Pid::from_raw(pid), signal).unwrap();
    }

    pub fn id(&self) -> u32 {
        self.0.as_ref().unwrap().id()
    }

    /// Waits for its end.
    pub fn finish(mut self) -> Run {
        Run::from(self.0.take().unwrap().wait_with_output().unwrap())
    }

    /// Waits for its end, which may be by a signal.
    pub fn end(mut self) -> ExitStatus {
        self.0.take().unwrap().wait_with_output().unwrap().status
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

/// Takes the lock of a cache file in this process, as prune does, until the file is closed: where a test needs prune
/// to wait, and nothing of nova's.
#[must_use]
pub fn hold_lock(world: &World, name: &str) -> File {
    let path = lock_file(world, name);
    let file = fs_err::OpenOptions::new().append(true).create(true).open(&path).unwrap();
    fcntl(file.file(), FcntlArg::F_OFD_SETLK(&whole_file())).unwrap();
    file
}

/// Takes the lock of a cache file in this process when it is free, as nova does: on the file that it has opened, whatever
/// the name stands for by then.
#[must_use]
pub fn hold_lock_waiting(world: &World, name: &str) -> File {
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
    bytes(libc::F_WRLCK, 0, 0)
}

fn bytes(kind: i32, start: i64, length: i64) -> libc::flock {
    libc::flock {
        l_type: kind.try_into().unwrap(),
        l_whence: libc::SEEK_SET.try_into().unwrap(),
        l_start: start,
        l_len: length,
        l_pid: 0,
    }
}

/// The lock that QEMU has on a raw backing file, while this descriptor is open.
pub fn lock_as_qemu(file: &File) {
    fcntl(file.file(), FcntlArg::F_OFD_SETLK(&bytes(libc::F_RDLCK, 100, 1))).unwrap();
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

/// What is said of why a file was not removed.
#[track_caller]
pub fn error(run: &Run, name: &str) -> String {
    match &run.file(name)["error"] {
        Value::String(error) => error.clone(),
        other => panic!("{name} has no error but {other}: {run:#?}"),
    }
}

/// Everything below the instances path as it may not change by a prune that removes nothing: without the mtimes of the
/// files named, which are in use, and of directories, and without the locks.
pub fn untouched(world: &World, in_use: &[&str]) -> Snapshot {
    let mut snapshot = Snapshot::of(&world.instances_path());
    snapshot.0.retain(|path, _| !path.starts_with(world.path("locks")));
    for (path, entry) in &mut snapshot.0 {
        let is_directory = entry.mode & libc::S_IFMT == libc::S_IFDIR;
        if is_directory || in_use.iter().any(|name| *path == world.base(name)) {
            entry.mtime = (0, 0);
        }
        if is_directory {
            // That of the locks directory is one of them.
            entry.links = 0;
        }
    }
    snapshot
}

/// Writes a cache file without qemu-img, where a test needs many.
pub fn plain_file(world: &World, name: &str, age: Duration) -> PathBuf {
    let path = world.base(name);
    fs_err::write(&path, format!("content of {name}\n")).unwrap();
    crate::common::set_age(&path, age);
    path
}

/// The user whom nova runs as: another one if we are root, as prune is on a compute host.
pub fn nova_user() -> u32 {
    if nix::unistd::geteuid().is_root() { 12345 } else { nix::unistd::geteuid().as_raw() }
}

/// Three files to remove; what is done is done to the one in the middle, so that there is one before and one after.
pub fn three_files(it: &InUse) -> [String; 3] {
    let names = ["0", "1", "2"].map(|digit| digit.repeat(40));
    names.iter().for_each(|name| drop(plain_file(&it.world, name, 2 * DAY)));
    names
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
