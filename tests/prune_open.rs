//! Prune beside processes that have a file open which nothing on the instances path names: the real qemu-nbd, whose locks
//! show in the evidence, and others, which `/proc` shows while the file is set aside.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::prune::{
    InUse, Running, aside, backing_file, finish, inject, prune_command, under_strace, untouched, wait_until,
};
use crate::common::{
    DAY, NO_ARGS, Run, World, overlay, plain_qcow2, python, qemu_img, set_age, tool, with_own_mounts,
};

/// A cache file in that format; qcow2 is what nova keeps where `force_raw_images` is off.
fn base_in(world: &World, format: &str) -> String {
    let name = world.original("image-a", 2 * DAY);
    if format == "qcow2" {
        plain_qcow2(&world.base(&name));
        set_age(&world.base(&name), 2 * DAY);
    }
    name
}

/// An overlay on a cache file in that format, outside the instances path.
fn disk_elsewhere(world: &World, backing: &str, format: &str) -> PathBuf {
    let disk = world.outside().join("elsewhere/disk");
    overlay(&disk, world.base(backing));
    // `overlay` says that the backing file is raw.
    let args = ["rebase", "-u", "-f", "qcow2", "-F", format, "-b"].map(PathBuf::from);
    qemu_img(args.into_iter().chain([world.base(backing), disk.clone()]));
    disk
}

/// Checks that a file which QEMU has open is in use for all to see, and goes when it is not any more.
#[track_caller]
fn is_in_use_until_it_ends(it: &InUse, open: &str, qemu: Running) {
    let in_use = [it.used.as_str(), open];
    let other = it.world.original("image-other", 2 * DAY);
    let before = untouched(&it.world, &in_use);
    for run in [it.world.explain(NO_ARGS), it.world.dry_run(NO_ARGS)] {
        assert_eq!(
            (run.verdict(open).as_str(), run.codes(open).last().unwrap().as_str()),
            ("in_use", "open_in_qemu")
        );
    }
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome(open), "kept", "{run:#?}");
    assert_eq!(run.outcome(&other), "removed");
    let mut expected = before;
    expected.0.remove(&it.world.base(&other)).unwrap();
    expected.assert_same(&untouched(&it.world, &in_use));
    drop(qemu);
    // It was touched.
    set_age(&it.world.base(open), 2 * DAY);
    it.goes(open);
}

#[test]
fn the_bases_stay_while_qemu_has_an_overlay_open_that_lies_elsewhere() {
    for format in ["raw", "qcow2"] {
        for access in [&["--format=qcow2"][..], &["--format=qcow2", "--read-only"]] {
            let it = InUse::new();
            let base = base_in(&it.world, format);
            let disk = disk_elsewhere(&it.world, &base, format);
            let qemu = Running::qemu_nbd(&it.world, access, &disk, &it.world.base(&base)).unwrap();
            is_in_use_until_it_ends(&it, &base, qemu);
        }
    }
}

#[test]
fn a_swap_disk_stays_while_a_guest_whose_directory_is_gone_has_it_open() {
    let it = InUse::new();
    it.world.cache_file("swap_512", 2 * DAY);
    let disk = it.world.instance_disk("instance-0000000f", "swap_512");
    let qemu = Running::qemu_nbd(&it.world, &["--format=qcow2"], &disk, &it.world.base("swap_512")).unwrap();
    fs_err::remove_dir_all(disk.parent().unwrap()).unwrap();
    is_in_use_until_it_ends(&it, "swap_512", qemu);
}

/// The kernel then lists no descriptors for the process, only for the thread.
#[test]
fn a_file_that_a_thread_has_open_stays_when_the_first_thread_has_ended() {
    const SCRIPT: &str = "
import ctypes, os, sys, threading, time
def hold():
    os.open(sys.argv[1], os.O_RDONLY)
    time.sleep(60)
threading.Thread(target=hold).start()
exit_of_a_thread = {'x86_64': 60, 'aarch64': 93}[os.uname().machine]
ctypes.CDLL(None).syscall(exit_of_a_thread, 0)
";
    let (it, files) = InUse::with_three();
    let base = it.world.base(&files[1]);
    let mut python = Command::new(python());
    let running = Running::start(python.args(["-c", SCRIPT]).arg(&base));
    let process = PathBuf::from(format!("/proc/{}", running.id()));
    let has_it_open = |thread: fs_err::DirEntry| {
        let descriptors = fs_err::read_dir(thread.path().join("fd")).into_iter().flatten().flatten();
        descriptors.into_iter().any(|it| fs_err::read_link(it.path()).is_ok_and(|it| it == base))
    };
    wait_until("the first thread ends and the other opens the file", || {
        fs_err::read_dir(process.join("fd")).is_ok_and(|mut it| it.next().is_none())
            && fs_err::read_dir(process.join("task")).unwrap().flatten().any(has_it_open)
    });
    let run = it.world.prune(NO_ARGS).exits(0);
    it.only_this_stays(&run, &files[1], "open", &format!("process {}", running.id()));
}

#[test]
fn every_file_of_a_chain_through_the_cache_stays_while_it_is_open() {
    let it = InUse::new();
    let base = it.world.original("image-a", 2 * DAY);
    // No nova makes this, but an operator who converts by hand may.
    let resized = format!("{base}_1073741824");
    overlay(&it.world.base(&resized), it.world.base(&base));
    set_age(&it.world.base(&resized), 2 * DAY);
    let disk = disk_elsewhere(&it.world, &resized, "qcow2");
    let qemu = Running::qemu_nbd(&it.world, &["--format=qcow2"], &disk, &it.world.base(&resized)).unwrap();
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!([run.verdict(&base), run.verdict(&resized)], ["in_use", "in_use"]);
    drop(qemu);
    for name in [&resized, &base] {
        set_age(&it.world.base(name), 2 * DAY);
        it.goes(name);
    }
}

/// The look after the rename finds who has the file open.
#[test]
fn a_file_that_a_process_has_open_stays_and_the_report_names_the_process() {
    for (is_qemu, before_the_rename) in [(false, true), (false, false), (true, false)] {
        let it = InUse::new();
        let [name, other] = ["1", "0"].map(|digit| digit.repeat(40));
        for name in [&name, &other] {
            it.world.cache_file(name, 2 * DAY);
        }
        let start = |file: &Path| {
            let access = ["--format=raw", "--read-only"];
            let qemu = is_qemu.then(|| Running::qemu_nbd(&it.world, &access, file, file).unwrap());
            qemu.unwrap_or_else(|| Running::sleep_with(file))
        };
        let path = it.world.base(&name);
        let (run, process) = if before_the_rename {
            let process = start(&path);
            (it.world.prune(NO_ARGS), process)
        } else {
            let stopped = it.aside(&name, NO_ARGS);
            let process = start(&aside(&it.world, &name));
            (stopped.finish(), process)
        };
        let who = format!("process {} ({})", process.id(), if is_qemu { "qemu-nbd" } else { "sleep" });
        run.told(&name, "open", &[&who, path.to_str().unwrap()]);
        assert_eq!((run.verdict(&name), run.outcome(&other)), ("removable".into(), "removed".into()));
        assert_eq!(run.code, 0, "{run:#?}");
        it.has([&name]);
        drop(process);
        it.goes(&name);
    }
}

/// QEMU opens a file before it locks it. nova runs this rebase without a lock of its own, and no directory changes.
#[test]
fn a_base_that_qemu_img_rebase_has_opened_and_not_yet_locked_stays() {
    let it = InUse::new();
    let base = it.world.original("image-a", 2 * DAY);
    let path = it.world.base(&base);
    let disk = it.world.path("instance-00000001/disk");
    let mut rebase = Command::new(tool("qemu-img", "qemu-utils"));
    rebase.args(["rebase", "-f", "qcow2", "-F", "raw", "-b"]).args([&path, &disk]);
    let mut rebase = Running::start(&mut under_strace(
        &it.world,
        inject("fcntl:delay_enter=5000000:when=1", &path),
        &rebase,
    ));
    let has_it_open = |pid: u32| {
        let descriptors = fs_err::read_dir(format!("/proc/{pid}/fd")).into_iter().flatten().flatten();
        descriptors.filter_map(|it| fs_err::read_link(it.path()).ok()).any(|it| it == path)
    };
    let children = format!("/proc/{0}/task/{0}/children", rebase.id());
    let mut pid = String::new();
    wait_until("qemu-img opens the new base", || {
        assert!(rebase.is_running());
        pid = fs_err::read_to_string(&children).unwrap().trim().to_owned();
        pid.parse().is_ok_and(has_it_open)
    });
    it.world.prune(NO_ARGS).exits(0).told(&base, "open", &["(qemu-img)", &pid]);
    assert_eq!(rebase.finish().code, 0);
    assert_eq!(backing_file(&disk), Some(path));
    assert_eq!(it.world.prune(NO_ARGS).exits(0).verdict(&base), "in_use");
}

fn losetup(args: &[&OsStr]) -> String {
    let output = Command::new(tool("losetup", "mount")).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}: run this as root where loop devices can be made");
    String::from_utf8(output.stdout).unwrap().trim_end().to_owned()
}

#[test]
fn a_file_that_a_loop_device_stands_on_stays() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    let base = it.world.base(&name);
    let device = losetup(&["--show".as_ref(), "--read-only".as_ref(), "-f".as_ref(), base.as_os_str()]);
    let run = it.world.prune(NO_ARGS);
    losetup(&["-d".as_ref(), device.as_ref()]);
    run.told(&name, "open", &[&format!("loop device {}", device.trim_start_matches("/dev/"))]);
}

/// As a container's nova makes one: the path that the kernel shows of it is not one of this side.
#[test]
fn a_file_that_a_loop_device_of_another_mount_namespace_stands_on_stays() {
    let it = InUse::new();
    // Told by its name: no other test may have a file of that name aside meanwhile.
    let name = it.world.original("image-of-a-container", 2 * DAY);
    let made = with_own_mounts()
        .args(["sh", "-c", "mount --bind \"$1\" /mnt && losetup --show -r -f \"/mnt/_base/$2\"", "sh"])
        .arg(it.world.instances_path())
        .arg(&name)
        .output()
        .unwrap();
    assert!(made.status.success(), "{made:?}: run this as root where loop devices can be made");
    let device = String::from_utf8(made.stdout).unwrap().trim_end().to_owned();
    let run = it.world.prune(NO_ARGS);
    losetup(&["-d".as_ref(), device.as_ref()]);
    run.told(&name, "open", &[&format!("loop device {}", device.trim_start_matches("/dev/"))]);
}

/// A prune that sees nothing in a directory of the kernel's.
fn prune_without(it: &InUse, directory: &str) -> Run {
    let prune = prune_command(&it.world, NO_ARGS);
    let mount = format!("mount -t tmpfs none {directory} && exec \"$0\" \"$@\"");
    let mut command = with_own_mounts();
    command.args(["sh", "-c", &mount]);
    finish(command.arg(prune.get_program()).args(prune.get_args()))
}

#[test]
fn where_the_processes_or_the_block_devices_cannot_be_listed_nothing_is_removed() {
    for (directory, what) in [("/proc", "/proc"), ("/sys", "/sys/block: ")] {
        let it = InUse::new();
        let name = it.world.original("image-a", 2 * DAY);
        let run = prune_without(&it, directory).exits(1);
        run.told(&name, "failed", &["cannot see who has it open", what]);
        it.goes(&name);
    }
}

/// A loop device on another name of a file. By the list of mounts that name may be on a server: one that has gone would
/// answer nobody, so it is not asked.
#[test]
fn what_a_loop_device_stands_on_is_looked_at_unless_it_is_on_another_server() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    let elsewhere = it.world.outside().join("elsewhere");
    fs_err::create_dir(&elsewhere).unwrap();
    // No text, as names are that were made before UTF-8.
    let other = elsewhere.join(OsStr::from_bytes(b"image-\xff"));
    fs_err::hard_link(it.world.base(&name), &other).unwrap();
    let device = losetup(&["--show".as_ref(), "--read-only".as_ref(), "-f".as_ref(), other.as_os_str()]);
    let words = format!("loop device {}", device.trim_start_matches("/dev/"));
    let open = it.world.prune(NO_ARGS);
    // Another mount's name is no text.
    let mounts =
        format!(" rw - ext4 /dev/x rw\n30 1 0:9999 / {} rw - nfs4 server:/x rw\n", elsewhere.display());
    let mounts = it.world.file("mountinfo", [b"29 1 0:9998 / /\xff", mounts.as_bytes()].concat());
    let prune = prune_command(&it.world, NO_ARGS);
    let mut command = with_own_mounts();
    command.args(["sh", "-c", "mount --bind \"$0\" /proc/$$/mountinfo && exec \"$@\""]).arg(mounts);
    let removed = finish(command.arg(prune.get_program()).args(prune.get_args()));
    losetup(&["-d".as_ref(), device.as_ref()]);
    open.told(&name, "open", &[&words]);
    removed.told(&name, "removed", &[]);
}
