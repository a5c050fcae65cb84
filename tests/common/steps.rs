//! Runs a program from system call to system call (ptrace) and does something at one of them: an error in place of the
//! call, a signal, or a whole operation of somebody else while the program stands before it. x86_64 only.
//!
//! A call has its place: its name and its number among the calls of that name. Not counted are calls on memory and
//! between threads ([`UNCOUNTED`]): nobody else can see them, and their number changes from run to run. Calls on the
//! `/proc` of other processes have numbers of their own, for other processes come and go.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::io::Write as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::LazyLock;
use std::sync::mpsc::{Receiver, RecvTimeoutError, Sender, channel};
use std::thread::Scope;
use std::time::Duration;

use crate::common::prune::wait_until;
use nix::errno::Errno;
use nix::libc;
use nix::sys::ptrace::{self, Options};
use nix::sys::signal::{Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

/// A run that takes longer hangs. The program's own longest wait is 5 seconds for a lock.
const PATIENCE: Duration = Duration::from_secs(60);

const UNCOUNTED: &str = "brk mmap munmap mremap mprotect madvise futex getrandom";

/// The calls whose first argument is a path.
const BY_PATH: &str = "open stat lstat access readlink unlink rename mkdir rmdir chdir statfs chmod execve";

/// The calls whose first argument is a directory's descriptor and whose second is a path.
const BY_DIRECTORY: &str = "openat openat2 newfstatat statx unlinkat renameat renameat2 mkdirat readlinkat faccessat faccessat2 \
    utimensat fchownat fchmodat linkat";

/// The calls whose first argument is a descriptor.
const BY_DESCRIPTOR: &str = "read pread64 readv preadv write pwrite64 writev close fstat getdents64 fcntl flock ftruncate fsync \
    fdatasync fchmod fchown lseek fstatfs dup";

fn is_in(names: &str, name: &str) -> bool {
    names.split(' ').any(|it| it == name)
}

const F_DUPFD: u64 = libc::F_DUPFD as u64;
const F_DUPFD_CLOEXEC: u64 = libc::F_DUPFD_CLOEXEC as u64;

/// Which call of a run: the how many-th of that name, from 0.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Place {
    pub name: &'static str,
    pub nth: usize,
    /// Among those on the `/proc` of other processes.
    pub in_proc: bool,
}

#[derive(Clone, Debug)]
pub struct Call {
    pub place: Place,
    pub args: [u64; 6],
    /// The path or descriptor that it is about; where the run is recorded with the path of the descriptor.
    pub on: String,
}

impl fmt::Display for Call {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "call {} of {}({})", self.place.nth + 1, self.name(), self.on)
    }
}

impl Call {
    pub fn name(&self) -> &'static str {
        self.place.name
    }

    /// Whether it asks for an open-file-description lock, as for nova's lock files.
    pub fn is_ofd_lock(&self) -> bool {
        let commands = [libc::F_OFD_SETLK, libc::F_OFD_SETLKW].map(|it| u64::try_from(it).unwrap());
        self.name() == "fcntl" && commands.contains(&self.args[1])
    }

    pub fn is_removal_or_rename(&self) -> bool {
        ["unlinkat", "unlink", "renameat", "renameat2", "rename"].contains(&self.name())
    }

    pub fn is_on_a_message(&self) -> bool {
        is_in(BY_DESCRIPTOR, self.name()) && [1, 2].contains(&self.args[0])
    }
}

/// What is done when the program has come to the call and has not made it yet.
pub enum Action<'a> {
    Nothing,
    /// The call is not made and gives that error. `close` is made all the same, as Linux does.
    Fail(Errno),
    Signal(Signal),
    /// The operation runs to its end while the program stands there. Where that takes longer than so long, which is asked
    /// before it begins, it waits for the program, which goes on.
    Stop(Box<dyn FnOnce() + Send + 'a>, Box<dyn Fn() -> Duration + Send + 'a>),
}

impl<'a> Action<'a> {
    pub fn stop(operation: impl FnOnce() + Send + 'a) -> Self {
        Self::Stop(Box::new(operation), Box::new(|| PATIENCE / 2))
    }
}

/// What to do with a run.
pub struct Watch<'a> {
    /// At this call; at none where all calls are wanted.
    at: Option<Place>,
    action: Action<'a>,
    /// Count only the calls that are about this path or something below it, those of other threads and of child processes
    /// too.
    below: Option<PathBuf>,
}

impl<'a> Watch<'a> {
    pub fn recording() -> Self {
        Self { at: None, action: Action::Nothing, below: None }
    }

    pub fn acting(at: Place, action: Action<'a>) -> Self {
        Self { at: Some(at), action, below: None }
    }

    /// For programs such as qemu-img and nova.
    pub fn of_all_below(self, path: &Path) -> Self {
        Self { below: Some(path.to_owned()), ..self }
    }
}

/// How a watched run ended. Its debug text has of a report only names, outcomes and errors.
#[derive(Default)]
pub struct Ended {
    pub code: Option<i32>,
    pub signal: Option<Signal>,
    pub stdout: String,
    pub stderr: String,
    /// All calls that count, if nothing was done at one of them.
    pub calls: Vec<Call>,
    /// The call at which something was done. None where the run did not come to it.
    pub reached: Option<Call>,
    /// Whether the operation was still waiting when the program went on.
    pub waited: bool,
}

impl fmt::Debug for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let end = self.signal.map_or_else(|| format!("{:?}", self.code), |it| it.to_string());
        write!(f, "ended by {end}, {}", self.stderr)?;
        let keys = ["\"name\"", "\"outcome\"", "\"error\""];
        let lines = self.stdout.lines().map(str::trim);
        let lines = lines.filter(|line| keys.iter().any(|key| line.starts_with(key)));
        f.write_str(&lines.collect::<Vec<_>>().join(" "))
    }
}

/// Runs a program to its end. Its environment is what was set on the command, without anything inherited.
#[expect(clippy::zombie_processes, reason = "the tracer waits for it")]
pub fn run(command: &Command, watch: Watch<'_>) -> Ended {
    let output = [(); 2].map(|()| tempfile::NamedTempFile::new().unwrap());
    let [stdout, stderr] = output.each_ref().map(|it| Stdio::from(it.reopen().unwrap()));
    // It waits until it is seized.
    let mut waiting = Command::new("/bin/sh");
    waiting
        .args(["-c", "read -r _ && exec \"$@\"", "sh"])
        .arg(command.get_program())
        .args(command.get_args());
    waiting.env_clear().envs(command.get_envs().filter_map(|(name, value)| Some((name, value?))));
    command.get_current_dir().map(|it| waiting.current_dir(it));
    waiting.stdin(Stdio::piped()).stdout(stdout).stderr(stderr);
    let mut ended = traced(watch, |tracer| {
        let mut child = waiting.spawn().unwrap();
        let pid = Pid::from_raw(child.id().try_into().unwrap());
        // Its own exec must not be taken for the program's.
        wait_until("the shell reads its standard input", || {
            fs_err::read_to_string(format!("/proc/{pid}/syscall")).is_ok_and(|it| it.starts_with("0 0x0 "))
        });
        ptrace::seize(pid, tracer.options() | Options::PTRACE_O_EXITKILL).unwrap();
        tracer.tracees.insert(pid, Tracee::new(pid));
        child.stdin.take().unwrap().write_all(b"\n").unwrap();
        (pid, None)
    });
    let [stdout, stderr] = output.map(|it| fs_err::read_to_string(it.path()).unwrap());
    (ended.stdout, ended.stderr) = (stdout, stderr);
    ended
}

/// Watches a process that runs already and waits for an order on its standard input, while it does what `order` asks
/// it to. `order` must return when it has read the answer. For what serves many orders and takes long to start.
pub fn attached(pid: Pid, watch: Watch<'_>, order: impl FnOnce() + Send) -> Ended {
    std::thread::scope(|scope| {
        let (seized, is_seized) = channel();
        scope.spawn(move || is_seized.recv().is_ok().then(order));
        traced(watch, move |tracer| {
            ptrace::seize(pid, tracer.options()).unwrap();
            tracer.tracees.insert(pid, Tracee::new(pid));
            ptrace::interrupt(pid).unwrap();
            (pid, Some(seized))
        })
    })
}

fn traced<'env>(
    watch: Watch<'env>,
    start: impl FnOnce(&mut Tracer<'env>) -> (Pid, Option<Sender<()>>) + Send + 'env,
) -> Ended {
    std::thread::scope(|scope| {
        // A thread of its own: to be traced is a relation to a thread, and it waits for nobody's children but its own.
        let tracer = scope.spawn(move || {
            let mut tracer = Tracer::new(watch);
            let (pid, seized) = start(&mut tracer);
            tracer.root = pid;
            let (_end, ended) = channel::<()>();
            let guard = scope.spawn(move || is_killed_for_hanging(pid, &ended));
            tracer.follow(scope, seized);
            drop(_end);
            assert!(!guard.join().unwrap(), "hung: {:?}", tracer.ended);
            tracer.ended
        });
        tracer.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
    })
}

fn is_killed_for_hanging(pid: Pid, ended: &Receiver<()>) -> bool {
    ended.recv_timeout(PATIENCE) == Err(RecvTimeoutError::Timeout) && kill(pid, Signal::SIGKILL).is_ok()
}

struct Tracee {
    memory: fs_err::File,
    /// Descriptors that lead to the `/proc` of other processes.
    proc_fds: BTreeSet<u64>,
    entered: Option<Entered>,
}

struct Entered {
    name: &'static str,
    fd: u64,
    opens_proc: bool,
    fails: Option<Errno>,
}

impl Tracee {
    fn new(pid: Pid) -> Self {
        let memory = fs_err::File::open(format!("/proc/{pid}/mem")).unwrap();
        Self { memory, proc_fds: BTreeSet::new(), entered: None }
    }

    fn text(&self, address: u64) -> String {
        let mut bytes = [0; 4096];
        // What cannot be read whole, for it ends before a page that is not there, is read in part.
        let length = self.memory.file().read_at(&mut bytes, address).unwrap_or(0);
        let end = bytes[..length].iter().position(|byte| *byte == 0).unwrap_or(0);
        String::from_utf8_lossy(&bytes[..end]).into_owned()
    }
}

struct Tracer<'a> {
    root: Pid,
    watch: Watch<'a>,
    tracees: BTreeMap<Pid, Tracee>,
    /// Where the program was started by us: its exec has been seen.
    is_started: bool,
    counts: BTreeMap<(&'static str, bool), usize>,
    has_answered: bool,
    ended: Ended,
}

impl<'a> Tracer<'a> {
    fn new(watch: Watch<'a>) -> Self {
        Self {
            root: Pid::from_raw(0),
            watch,
            tracees: BTreeMap::new(),
            is_started: false,
            counts: BTreeMap::new(),
            has_answered: false,
            ended: Ended::default(),
        }
    }

    fn options(&self) -> Options {
        let options = Options::PTRACE_O_TRACESYSGOOD | Options::PTRACE_O_TRACEEXEC;
        if self.watch.below.is_none() {
            return options;
        }
        options | Options::PTRACE_O_TRACECLONE | Options::PTRACE_O_TRACEFORK | Options::PTRACE_O_TRACEVFORK
    }

    /// To the end of the program or, where it serves orders, of the order.
    fn follow<'scope>(&mut self, scope: &'scope Scope<'scope, 'a>, mut seized: Option<Sender<()>>)
    where
        'a: 'scope,
    {
        let serves_orders = seized.is_some();
        self.is_started = serves_orders;
        loop {
            let status = waitpid(None, Some(WaitPidFlag::__WALL | WaitPidFlag::__WNOTHREAD)).unwrap();
            match status {
                WaitStatus::Exited(pid, code) if pid == self.root => {
                    self.ended.code = Some(code);
                    return;
                }
                WaitStatus::Signaled(pid, signal, _) if pid == self.root => {
                    self.ended.signal = Some(signal);
                    return;
                }
                WaitStatus::PtraceEvent(pid, _, event) => {
                    if event == libc::PTRACE_EVENT_EXEC {
                        self.is_started = true;
                        // The memory is another one.
                        self.tracees.insert(pid, Tracee::new(pid));
                    }
                    self.tracees.entry(pid).or_insert_with(|| Tracee::new(pid));
                    self.go_on(pid, None);
                    seized.take().map(|it| it.send(()));
                }
                WaitStatus::PtraceSyscall(pid) => {
                    let is_done = self.syscall(pid, scope);
                    if serves_orders && self.is_answered(pid) || is_done && self.watch.below.is_none() {
                        ptrace::detach(pid, None).ok();
                        if serves_orders {
                            return;
                        }
                    } else {
                        self.go_on(pid, None);
                    }
                }
                WaitStatus::Stopped(pid, signal) => self.go_on(pid, Some(signal)),
                _ => {}
            }
        }
    }

    fn go_on(&self, pid: Pid, signal: Option<Signal>) {
        let result = if self.is_started { ptrace::syscall(pid, signal) } else { ptrace::cont(pid, signal) };
        // It may have been killed just now.
        assert!(matches!(result, Ok(()) | Err(Errno::ESRCH)), "{result:?}");
    }

    /// Whether a process that serves orders has written its answer and asks for the next order.
    fn is_answered(&mut self, pid: Pid) -> bool {
        let tracee = self.tracees.get(&pid).filter(|_| pid == self.root);
        let Some(entered) = tracee.and_then(|it| it.entered.as_ref()) else { return false };
        self.has_answered |= entered.name == "write" && entered.fd == 1;
        self.has_answered && entered.name == "read" && entered.fd == 0
    }

    /// At the beginning or the end of a call. Returns whether all has been done that was to be done.
    fn syscall<'scope>(&mut self, pid: Pid, scope: &'scope Scope<'scope, 'a>) -> bool
    where
        'a: 'scope,
    {
        match ptrace::syscall_info(pid).map(|info| info.op) {
            Ok(libc::PTRACE_SYSCALL_INFO_ENTRY) => self.enter(pid, scope),
            Ok(libc::PTRACE_SYSCALL_INFO_EXIT) => self.leave(pid),
            _ => false,
        }
    }

    fn enter<'scope>(&mut self, pid: Pid, scope: &'scope Scope<'scope, 'a>) -> bool
    where
        'a: 'scope,
    {
        let Ok(mut registers) = ptrace::getregs(pid) else { return false };
        let name = name_of(registers.orig_rax);
        let args = [registers.rdi, registers.rsi, registers.rdx, registers.r10, registers.r8, registers.r9];
        let tracee = self.tracees.get_mut(&pid).unwrap();
        let path = if is_in(BY_PATH, name) {
            Some(tracee.text(args[0]))
        } else {
            is_in(BY_DIRECTORY, name).then(|| tracee.text(args[1]))
        };
        let has_fd = is_in(BY_DIRECTORY, name) || is_in(BY_DESCRIPTOR, name);
        let is_absolute = path.as_ref().is_some_and(|it| it.starts_with('/'));
        let in_proc = match &path {
            Some(path) if is_absolute => path.starts_with("/proc") && !path.starts_with("/proc/self"),
            _ => has_fd && tracee.proc_fds.contains(&args[0]),
        };
        if name == "close" {
            tracee.proc_fds.remove(&args[0]);
        }
        let duplicates = name == "dup" || name == "fcntl" && [F_DUPFD, F_DUPFD_CLOEXEC].contains(&args[1]);
        let opens_proc = in_proc && (name.starts_with("open") || duplicates);
        tracee.entered = Some(Entered { name, fd: args[0], opens_proc, fails: None });

        let mut on = path.unwrap_or_default();
        if has_fd && !is_absolute && (self.watch.at.is_none() || self.watch.below.is_some()) {
            on = format!("{}/{on}", path_of(pid, args[0])).trim_end_matches('/').to_owned();
        }
        let is_counted = match &self.watch.below {
            Some(below) => Path::new(&on).starts_with(below),
            None => !is_in(UNCOUNTED, name),
        };
        if !is_counted || !self.is_started {
            return false;
        }
        let count = self.counts.entry((name, in_proc)).or_default();
        let place = Place { name, nth: *count, in_proc };
        *count += 1;
        let call = Call { place, args, on };
        let entered = tracee.entered.as_mut().unwrap();
        if self.watch.at.is_none() {
            self.ended.calls.push(call);
            return false;
        }
        if self.watch.at != Some(place) || self.ended.reached.is_some() {
            return false;
        }
        self.ended.reached = Some(call);
        match std::mem::replace(&mut self.watch.action, Action::Nothing) {
            Action::Nothing => {}
            Action::Fail(errno) => {
                entered.fails = Some(errno);
                if name != "close" {
                    registers.orig_rax = u64::MAX;
                    ptrace::setregs(pid, registers).unwrap();
                }
                return false;
            }
            Action::Signal(signal) => kill(self.root, signal).unwrap(),
            Action::Stop(operation, patience) => {
                let patience = patience();
                let (end, ended) = channel();
                scope.spawn(move || {
                    // Dropped by a panic too, which is an end.
                    let _end: Sender<()> = end;
                    operation();
                });
                self.ended.waited = ended.recv_timeout(patience) == Err(RecvTimeoutError::Timeout);
            }
        }
        true
    }

    fn leave(&mut self, pid: Pid) -> bool {
        let tracee = self.tracees.get_mut(&pid).unwrap();
        let Some(entered) = tracee.entered.take() else { return false };
        if !entered.opens_proc && entered.fails.is_none() {
            return false;
        }
        let Ok(mut registers) = ptrace::getregs(pid) else { return false };
        if let Some(errno) = entered.fails {
            registers.rax = i64::from(-(errno as i32)).cast_unsigned();
            ptrace::setregs(pid, registers).unwrap();
        }
        if entered.opens_proc && registers.rax.cast_signed() >= 0 {
            tracee.proc_fds.insert(registers.rax);
        }
        entered.fails.is_some()
    }
}

/// What a descriptor of another process leads to.
fn path_of(pid: Pid, fd: u64) -> String {
    // A descriptor is an int.
    let fd = fd as i32;
    let link = if fd == libc::AT_FDCWD { "cwd".to_owned() } else { format!("fd/{fd}") };
    let target = fs_err::read_link(format!("/proc/{pid}/{link}"));
    target.map_or_else(|_| format!("fd {fd}"), |it| it.to_string_lossy().into_owned())
}

/// The names of all system calls, from the kernel's header.
fn name_of(number: u64) -> &'static str {
    static NAMES: LazyLock<BTreeMap<u64, String>> = LazyLock::new(|| {
        let header = ["/usr/include/x86_64-linux-gnu/asm/unistd_64.h", "/usr/include/asm/unistd_64.h"]
            .iter()
            .find_map(|path| fs_err::read_to_string(path).ok())
            .expect("asm/unistd_64.h is not there: install the package libc6-dev (see tests/run)");
        let define = |line: &str| {
            let (name, number) = line.strip_prefix("#define __NR_")?.split_once(' ')?;
            Some((number.trim().parse().ok()?, name.to_owned()))
        };
        header.lines().filter_map(define).collect()
    });
    NAMES.get(&number).map_or("unknown", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::common::{World, tool};

    #[test]
    fn a_run_is_recorded_and_each_action_takes_place_at_its_call() {
        let world = World::new();
        let file = world.file("file", "content");
        let mut command = Command::new(tool("cat", "coreutils"));
        command.arg(&file);
        let whole = run(&command, Watch::recording());
        assert_eq!((whole.code, whole.stdout.as_str()), (Some(0), "content"), "{whole:?}");
        let opens = |it: &&Call| it.name() == "openat" && Path::new(&it.on) == file;
        let at = whole.calls.iter().find(opens).unwrap().place;

        let failed = run(&command, Watch::acting(at, Action::Fail(Errno::ESTALE)));
        assert_eq!((failed.code, failed.stdout.as_str()), (Some(1), ""));
        assert!(failed.stderr.contains("Stale file handle"), "{failed:?}");
        for signal in [Signal::SIGKILL, Signal::SIGTERM] {
            let killed = run(&command, Watch::acting(at, Action::Signal(signal)));
            assert_eq!((killed.signal, killed.stdout.as_str()), (Some(signal), ""));
        }
        let change = || fs_err::write(&file, "another").unwrap();
        let stopped = run(&command, Watch::acting(at, Action::stop(change)));
        assert_eq!((stopped.code, stopped.stdout.as_str(), stopped.waited), (Some(0), "another", false));
        assert_eq!(stopped.reached.unwrap().place, at);
    }

    #[test]
    fn an_operation_that_waits_for_the_program_does_not_stop_it() {
        let world = World::new();
        let fifo = world.outside().join("fifo");
        nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
        let mut command = Command::new(tool("cat", "coreutils"));
        command.arg(&fifo);
        let whole_of_another = run(Command::new(tool("true", "coreutils")).arg(""), Watch::recording());
        let first = whole_of_another.calls[0].place;
        // Each waits for the other: to open a FIFO for writing takes a reader.
        let write = || fs_err::write(&fifo, "content").unwrap();
        let ended = run(
            &command,
            Watch::acting(first, Action::Stop(Box::new(write), Box::new(|| Duration::from_millis(50)))),
        );
        assert_eq!((ended.code, ended.stdout.as_str(), ended.waited), (Some(0), "content", true));
    }

    #[test]
    fn what_other_processes_have_open_changes_no_number_but_those_on_proc() {
        let places = |opens: &str, last: u32| {
            let mut shell = Command::new("/bin/sh");
            shell.args(["-c", &format!("{opens}; read -r _")]).stdin(Stdio::piped());
            let mut shell = shell.spawn().unwrap();
            let directory = format!("/proc/{}/fd", shell.id());
            wait_until("the shell opens its files", || Path::new(&format!("{directory}/{last}")).exists());
            wait_until("the shell reads", || {
                fs_err::read_to_string(format!("/proc/{}/syscall", shell.id())).unwrap().starts_with("0 0x0 ")
            });
            let mut find = Command::new(tool("find", "findutils"));
            find.arg(directory).args(["-printf", "%l"]);
            let calls = run(&find, Watch::recording()).calls.into_iter().map(|it| it.place);
            drop(shell.stdin.take());
            shell.wait().unwrap();
            calls.partition::<Vec<_>, _>(|it| it.in_proc)
        };
        let (few, own) = places("true", 2);
        let (many, own_beside_many) = places("exec 5</dev/null 6</dev/null 7</dev/null 8</dev/null", 8);
        assert!(many.len() >= few.len() + 4, "{} and {}", few.len(), many.len());
        assert!(own == own_beside_many, "{} and {}", own.len(), own_beside_many.len());
    }

    #[test]
    fn children_and_servers_of_orders_are_followed() {
        let world = World::new();
        let file = world.file("file", "content");
        let mut command = Command::new("/bin/sh");
        command.args(["-c", "while read -r path; do /bin/cat \"$path\" >&2; echo ok; done"]);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::null());
        let mut server = command.spawn().unwrap();
        let pid = Pid::from_raw(server.id().try_into().unwrap());
        let mut orders = server.stdin.take().unwrap();
        let mut answers = std::io::BufReader::new(server.stdout.take().unwrap());
        let mut order = || {
            writeln!(orders, "{}", file.display()).unwrap();
            let mut answer = String::new();
            std::io::BufRead::read_line(&mut answers, &mut answer).unwrap();
            assert_eq!(answer, "ok\n");
        };
        let whole = attached(pid, Watch::recording().of_all_below(&file), &mut order);
        let names: Vec<_> = whole.calls.iter().map(Call::name).collect();
        assert!(names.starts_with(&["openat"]) && names.contains(&"read"), "{names:?}");
        let count = std::sync::atomic::AtomicUsize::new(0);
        for call in whole.calls {
            let add = || {
                count.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            };
            let watch = Watch::acting(call.place, Action::stop(add));
            let ended = attached(pid, watch.of_all_below(&file), &mut order);
            assert_eq!(ended.reached.unwrap().place, call.place);
        }
        assert_eq!(count.into_inner(), names.len());
        drop(orders);
        assert!(server.wait().unwrap().success());
    }
}
