//! Every fault: each system call of a prune and of an explain gives each error that it can give, and the program is
//! killed or told to end at each of them. Whatever happens, no needed file goes, the report is true, and one more prune
//! ends in the state of one that nobody disturbed.
//!
//! All of them: `NOVA_IMAGECACHE_FULL=1 cargo test proof_faults -- --nocapture`. Otherwise a sample.

use std::collections::{BTreeMap, BTreeSet};
use std::process::Command;
use std::time::Instant;

use nix::errno::Errno;
use nix::libc;
use nix::sys::signal::Signal;

use crate::common::NO_ARGS;
use crate::common::proof::{Scene, checked, none_failed, sample, share, thinned};
use crate::common::prune::judging_command;
use crate::common::steps::{Action, Call, Ended, Watch, run};

/// Of the calls on the `/proc` of other processes, whose number is that of the machine's processes, so many.
const PROC_CALLS: usize = 40;

/// The errors that a call can give on local and on network storage, or why none is tried.
fn errnos(call: &Call) -> Result<&'static [Errno], &'static str> {
    use Errno::{EACCES, EDQUOT, EINTR, EINVAL, EIO, EMFILE, ENOLCK, ENOSPC, EROFS, ESTALE};
    if call.is_on_a_message() {
        return Err("on the report or a message");
    }
    let flags = |index: usize, wanted: libc::c_int| call.args[index] & u64::try_from(wanted).unwrap() != 0;
    let command = call.args[1];
    let is = |one: libc::c_int| command == u64::try_from(one).unwrap();
    Ok(match call.name() {
        "openat" if flags(2, libc::O_CREAT) => &[EIO, EACCES, ESTALE, ENOSPC, EROFS, EDQUOT, EMFILE, EINTR],
        "openat" if flags(2, libc::O_WRONLY | libc::O_RDWR) => {
            &[EIO, EACCES, ESTALE, EROFS, EDQUOT, EMFILE, EINTR]
        }
        "open" | "openat" | "openat2" => &[EIO, EACCES, ESTALE, EMFILE, EINTR],
        "read" | "pread64" | "readv" | "preadv" => &[EIO, ESTALE, EINTR],
        "getdents64" => &[EIO, EACCES, ESTALE, EINTR],
        "write" | "pwrite64" | "writev" => &[EIO, ESTALE, ENOSPC, EROFS, EDQUOT, EINTR],
        "ftruncate" | "fallocate" => &[EIO, ESTALE, ENOSPC, EROFS, EDQUOT, EINTR],
        "fsync" | "fdatasync" => &[EIO, ESTALE, ENOSPC, EROFS, EDQUOT, EINTR],
        "stat" | "lstat" | "fstat" | "newfstatat" | "statx" | "access" | "faccessat" | "faccessat2"
        | "readlink" | "readlinkat" | "chdir" | "getcwd" => &[EIO, EACCES, ESTALE],
        "statfs" | "fstatfs" => &[EIO, EACCES, ESTALE, EINTR],
        "unlink" | "unlinkat" | "mkdir" | "mkdirat" | "rmdir" | "rename" | "renameat" | "linkat"
        | "symlinkat" | "utimensat" | "fchmod" | "fchmodat" | "fchown" | "fchownat" => {
            &[EIO, EACCES, ESTALE, ENOSPC, EROFS, EDQUOT]
        }
        // EINVAL: the filesystem does not know RENAME_NOREPLACE.
        "renameat2" => &[EIO, EACCES, ESTALE, ENOSPC, EROFS, EDQUOT, EINVAL],
        "fcntl" if call.is_ofd_lock() => &[EIO, EACCES, ESTALE, ENOLCK, EINTR],
        // EINVAL: the filesystem does not know these locks.
        "fcntl" if is(libc::F_OFD_GETLK) => &[EIO, EACCES, ESTALE, ENOLCK, EINTR, EINVAL],
        "fcntl" if is(libc::F_DUPFD) || is(libc::F_DUPFD_CLOEXEC) => &[EMFILE],
        "flock" => &[EIO, EACCES, ESTALE, ENOLCK, EINTR],
        // They have nothing to write back.
        "close"
            if call.place.in_proc
                || call.on.starts_with("/proc")
                || std::path::Path::new(&call.on).is_dir() =>
        {
            return Err("closing a directory or a file of /proc");
        }
        "close" => &[EIO, ENOSPC, EDQUOT, EINTR],
        "dup" | "pipe2" | "eventfd2" | "signalfd4" => &[EMFILE],
        "fcntl" | "lseek" | "ioctl" | "fadvise64" => {
            return Err("asking of a descriptor what the kernel knows");
        }
        "set_robust_list" | "set_tid_address" | "rseq" | "prctl" | "arch_prctl" | "clone" | "clone3"
        | "gettid" | "getpid" | "sched_getaffinity" | "sched_yield" | "rt_sigaction" | "rt_sigprocmask"
        | "rt_sigreturn" | "sigaltstack" | "tgkill" | "prlimit64" | "poll" | "ppoll" | "clock_gettime"
        | "clock_nanosleep" | "nanosleep" | "restart_syscall" | "uname" | "sysinfo" | "exit"
        | "exit_group" | "geteuid" | "getuid" | "getegid" | "getgid" | "setfsuid" | "setfsgid"
        | "setgroups" | "getgroups" | "umask" | "socket" | "connect" | "recvfrom" | "sendto" | "sendmmsg"
        | "wait4" | "waitid" | "execve" => return Err("not on a file"),
        other => panic!("{other}: say here which errors it can give"),
    })
}

#[derive(Clone, Copy, Debug)]
enum Fault {
    Errno(Errno),
    Signal(Signal),
}

/// The calls of a run at which there can be faults.
fn calls_of(recorded: &Ended) -> Vec<&Call> {
    // Before that the loader reads its libraries: a program that cannot be loaded does nothing.
    let first = recorded.calls.iter().position(|it| it.name() == "poll").unwrap_or_default();
    let (own, proc): (Vec<_>, Vec<_>) = recorded.calls[first..].iter().partition(|it| !it.place.in_proc);
    own.into_iter().chain(thinned(proc, PROC_CALLS)).collect()
}

/// A program, and how many faults of it are tried where not all are.
struct Subject<'a> {
    what: &'a str,
    scene: &'a Scene,
    command: Command,
    wanted: usize,
}

impl Subject<'_> {
    /// Runs the program with each fault that it can have in a run such as that recorded, and checks it.
    fn every_fault(&self, recorded: &Ended, check: impl Fn(&Ended)) {
        let start = Instant::now();
        let calls = calls_of(recorded);
        let mut left_out = BTreeMap::<_, usize>::new();
        let mut all = Vec::new();
        for call in &calls {
            let errnos = errnos(call).unwrap_or_else(|why| {
                *left_out.entry(why).or_default() += 1;
                &[]
            });
            let signals = [Signal::SIGKILL, Signal::SIGTERM].map(Fault::Signal);
            all.extend(errnos.iter().copied().map(Fault::Errno).chain(signals).map(|it| (*call, it)));
        }
        let number = all.len();
        // To be killed beside a change is never left out.
        let is_kill_beside_a_change = |(call, fault): &(&Call, Fault)| {
            call.is_removal_or_rename() && matches!(fault, Fault::Signal(Signal::SIGKILL))
        };
        let (mut faults, others): (Vec<_>, Vec<_>) = all.into_iter().partition(is_kill_beside_a_change);
        faults.extend(sample(others, self.wanted));
        let done = faults.len();
        let (mut kinds, mut ends) = (BTreeMap::<&str, usize>::new(), BTreeMap::<String, usize>::new());
        let mut unreached = 0;
        let mut failures = Vec::new();
        for (call, fault) in faults {
            self.scene.restore();
            let (kind, action) = match fault {
                Fault::Errno(errno) => ("errors", Action::Fail(errno)),
                Fault::Signal(signal) => (signal.as_str(), Action::Signal(signal)),
            };
            *kinds.entry(kind).or_default() += 1;
            let ended = run(&self.command, Watch::acting(call.place, action));
            // Other processes come and go.
            unreached += usize::from(ended.reached.is_none() && !call.place.in_proc);
            let end = ended.code.map(|it| format!("exit {it}"));
            *ends.entry(end.unwrap_or_else(|| ended.signal.unwrap().to_string())).or_default() += 1;
            failures.extend(checked(&format!("{fault:?} at {call}"), || {
                let may_be_killed = matches!(fault, Fault::Signal(signal) if ended.signal == Some(signal));
                assert!(ended.signal.is_none() || may_be_killed, "killed: {ended:?}");
                check(&ended);
            }));
        }
        println!(
            "every fault of {}: {} calls, {} faults: {kinds:?}; ended by {ends:?}; \
             not reached {unreached}; {} failed; no errors where {left_out:?}; {:.1?}",
            self.what,
            calls.len(),
            share(done, number),
            failures.len(),
            start.elapsed()
        );
        none_failed(&failures);
        // Threads share their work differently each time.
        let has_threads = recorded.calls.iter().any(|it| it.name().starts_with("clone"));
        assert!(has_threads || unreached * 50 <= done, "the calls differ from run to run");
    }
}

fn every_fault_of_a_prune(what: &str, scene: &Scene, wanted: usize) {
    scene.restore();
    let recorded = run(&scene.prune(&[]), Watch::recording());
    assert_eq!(recorded.code, Some(0), "{recorded:?}");
    scene.report_is_true(&recorded, &BTreeSet::new());
    scene.pruned_again();
    let whole = scene.state();
    let left: BTreeSet<String> = scene.world.cache_names().into_iter().collect();
    assert_eq!(left, scene.needed, "a whole run removes all that is removable");

    let command = scene.prune(&[]);
    Subject { what, scene, command, wanted }.every_fault(&recorded, |ended| {
        scene.nothing_needed_has_changed(&[]);
        scene.report_is_true(ended, &BTreeSet::new());
        let again = scene.pruned_again();
        let there = scene.world.cache_names();
        let stayed: Vec<_> = scene.removable.iter().filter(|it| there.contains(*it)).collect();
        assert!(stayed.is_empty(), "{stayed:?} stayed in the prune after it: {again:#?}");
        whole.assert_same(&scene.state());
    });
}

#[test]
fn no_fault_at_any_system_call_of_a_prune_loses_a_file_or_makes_a_false_report() {
    every_fault_of_a_prune("prune", &Scene::new(), 120);
}

#[test]
fn no_fault_at_any_system_call_of_a_prune_after_a_kill_loses_a_file_or_makes_a_false_report() {
    every_fault_of_a_prune("prune after a kill", &Scene::new().after_a_kill(), 60);
}

#[test]
fn no_fault_at_any_system_call_of_an_explain_changes_anything_or_frees_a_needed_file() {
    let scene = &Scene::new();
    let command = judging_command(&scene.world, "explain", NO_ARGS);
    let recorded = run(&command, Watch::recording());
    assert_eq!((recorded.code, recorded.stderr.as_str()), (Some(0), ""), "{recorded:?}");

    Subject { what: "explain", scene, command, wanted: 120 }.every_fault(&recorded, |ended| {
        scene.before.assert_same(&scene.state());
        scene.report_is_true(ended, &BTreeSet::new());
        let Ok(json) = serde_json::from_str::<serde_json::Value>(&ended.stdout) else { return };
        for file in crate::common::list(&json["files"]) {
            let name = crate::common::text(&file["name"]);
            assert!(file["verdict"] != "removable" || scene.removable.contains(&name), "{name}: {ended:?}");
        }
    });
}
