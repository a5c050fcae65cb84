//! Prune beside a running QEMU that has a file open which nothing on the instances path names any more: the instance's
//! directory is gone or lies elsewhere. QEMU is here the real qemu-nbd and qemu-io.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::prune::{InUse, Running, is_locked, untouched, wait_until, with_outcome};
use crate::common::{DAY, Run, World, overlay, qemu_img, set_age, tool};

const NO_ARGS: [&str; 0] = [];

/// A cache file in qcow2, as nova keeps one where `force_raw_images` is off.
fn qcow2_original(world: &World, image: &str) -> String {
    let name = nova_imagecache::cache_name::cache_file_name(image);
    crate::common::plain_qcow2(&world.base(&name));
    set_age(&world.base(&name), 2 * DAY);
    name
}

/// `<instances path>/<uuid>/disk`, an overlay on a cache file in that format.
fn instance_disk(world: &World, backing: &str, format: &str) -> PathBuf {
    let disk = world.path("1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5/disk");
    overlay(&disk, world.base(backing));
    // `overlay` says that the backing file is raw.
    let base = world.base(backing);
    let args = ["rebase", "-u", "-f", "qcow2", "-F", format, "-b"].map(PathBuf::from);
    qemu_img(args.into_iter().chain([base, disk.clone()]));
    disk
}

/// Starts qemu-nbd on a disk and waits until it has the chain open, which it does after it listens.
fn qemu_nbd(world: &World, disk: &Path, base: &str, args: &[&str]) -> Running {
    let socket = world.outside().join("nbd.sock");
    let mut command = Command::new(tool("qemu-nbd", "qemu-utils"));
    command.args(["--format=qcow2", "--persistent", "--socket"]).arg(&socket).args(args).arg(disk);
    let mut running = Running::start(&mut command);
    wait_until("qemu-nbd opens the chain", || {
        assert!(running.is_running(), "qemu-nbd cannot open {}", disk.display());
        socket.exists() && is_locked(&world.base(base))
    });
    running
}

/// Ends qemu-nbd, and with it its locks.
fn end(qemu: Running, world: &World) {
    drop(qemu);
    fs_err::remove_file(world.outside().join("nbd.sock")).unwrap();
}

/// Prunes while a file is open and checks that it is left as it was, and that everything else goes.
#[track_caller]
fn stays_while_open(it: &InUse, open: &str) {
    let other = it.world.original("image-other", 2 * DAY);
    let before = untouched(&it.world, &[&it.used]);
    let run: Run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome(open), "open", "{run:#?}");
    assert_eq!(run.verdict(open), "removable", "the evidence knows nothing of it: {run:#?}");
    assert_eq!(run.outcome(&other), "removed");
    let mut expected = before;
    expected.0.remove(&it.world.base(&other)).unwrap();
    expected.assert_same(&untouched(&it.world, &[&it.used]));
}

#[track_caller]
fn goes_now(it: &InUse, name: &str) {
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome(name), "removed", "{run:#?}");
    assert!(!it.world.base(name).exists());
}

#[test]
fn a_raw_base_stays_while_qemu_nbd_has_an_overlay_open_whose_directory_is_gone() {
    let it = InUse::new();
    let base = it.world.original("image-a", 2 * DAY);
    let disk = instance_disk(&it.world, &base, "raw");
    let qemu = qemu_nbd(&it.world, &disk, &base, &[]);
    fs_err::remove_dir_all(disk.parent().unwrap()).unwrap();
    stays_while_open(&it, &base);
    end(qemu, &it.world);
    goes_now(&it, &base);
}

#[test]
fn a_qcow2_base_stays_while_qemu_nbd_has_an_overlay_open_whose_directory_is_gone() {
    let it = InUse::new();
    let base = qcow2_original(&it.world, "image-a");
    let disk = instance_disk(&it.world, &base, "qcow2");
    let qemu = qemu_nbd(&it.world, &disk, &base, &[]);
    fs_err::remove_dir_all(disk.parent().unwrap()).unwrap();
    stays_while_open(&it, &base);
    end(qemu, &it.world);
    goes_now(&it, &base);
}

#[test]
fn the_bases_stay_while_qemu_nbd_reads_an_overlay_that_lies_elsewhere() {
    for format in ["raw", "qcow2"] {
        let it = InUse::new();
        let base = if format == "raw" {
            it.world.original("image-a", 2 * DAY)
        } else {
            qcow2_original(&it.world, "image-a")
        };
        let disk = instance_disk(&it.world, &base, format);
        let elsewhere = it.world.outside().join("elsewhere");
        fs_err::rename(disk.parent().unwrap(), &elsewhere).unwrap();
        let qemu = qemu_nbd(&it.world, &elsewhere.join("disk"), &base, &["--read-only"]);
        stays_while_open(&it, &base);
        end(qemu, &it.world);
        goes_now(&it, &base);
    }
}

#[test]
fn the_bases_stay_while_qemu_io_has_an_overlay_open() {
    for format in ["raw", "qcow2"] {
        let it = InUse::new();
        let base = if format == "raw" {
            it.world.original("image-a", 2 * DAY)
        } else {
            qcow2_original(&it.world, "image-a")
        };
        let disk = instance_disk(&it.world, &base, format);
        let elsewhere = it.world.outside().join("elsewhere");
        fs_err::rename(disk.parent().unwrap(), &elsewhere).unwrap();
        let mut command = Command::new(tool("qemu-io", "qemu-utils"));
        // It waits for commands on its standard input, which is a pipe that nobody writes to.
        let qemu = Running::start(command.args(["-f", "qcow2"]).arg(elsewhere.join("disk")));
        wait_until("qemu-io opens the chain", || is_locked(&it.world.base(&base)));
        stays_while_open(&it, &base);
        drop(qemu);
        goes_now(&it, &base);
    }
}

#[test]
fn every_file_of_a_chain_through_the_cache_stays_while_it_is_open() {
    let it = InUse::new();
    let base = it.world.original("image-a", 2 * DAY);
    // No nova makes this, but an operator who converts by hand may.
    let resized = format!("{base}_1073741824");
    overlay(&it.world.base(&resized), it.world.base(&base));
    set_age(&it.world.base(&resized), 2 * DAY);
    let disk = instance_disk(&it.world, &resized, "qcow2");
    let qemu = qemu_nbd(&it.world, &disk, &resized, &[]);
    fs_err::remove_dir_all(disk.parent().unwrap()).unwrap();
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome(&resized), "open");
    assert!(it.world.base(&base).exists());
    end(qemu, &it.world);
    goes_now(&it, &resized);
    // A file in use was touched, so now it is young.
    set_age(&it.world.base(&base), 2 * DAY);
    goes_now(&it, &base);
}

#[test]
fn a_swap_disk_that_a_guest_has_open_stays_with_the_lock_file() {
    let it = InUse::new();
    it.world.cache_file("swap_512", 2 * DAY);
    let disk = instance_disk(&it.world, "swap_512", "raw");
    let qemu = qemu_nbd(&it.world, &disk, "swap_512", &[]);
    fs_err::remove_dir_all(disk.parent().unwrap()).unwrap();
    stays_while_open(&it, "swap_512");
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(with_outcome(&run, "open"), ["swap_512".to_owned()].into());
    end(qemu, &it.world);
    goes_now(&it, "swap_512");
}
