//! What once made a prune remove a file that was needed, or stopped a clean-up for no reason: each on real files, links
//! and devices.

use std::ffi::OsStr;
use std::os::unix::fs::{FileExt as _, symlink};
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::hostile::{Bait, limited, meanwhile, sane};
use crate::common::prune::{chown_all, finish, names, strace_log, under_strace, wait_until};
use crate::common::{HOST, NO_ARGS, Run, domain, file_disk, overlay, plain_qcow2, qemu_img, tool};
use assert_cmd::cargo::cargo_bin;
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

const I1: &str = "instance-00000001";
/// A user who has no other process.
const LONELY: u32 = 64_999;

/// An inventory of the instance with its disk, beside what nothing needs until a test makes something need it.
fn scene() -> Bait {
    let bait = Bait::new();
    bait.world.inventory(&json!([{"name": I1, "host": HOST, "image_ref": "a"}]));
    bait
}

impl Bait {
    fn unused_file(&self) -> PathBuf {
        self.world.base(&self.unused)
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.path(I1).join(name)
    }

    /// Writes a domain with these disks, which nova knows nothing of, for `--libvirt vm.xml`.
    fn domain(&self, disks: &str) {
        let xml = format!("<domain><name>vm</name><devices>{disks}</devices></domain>");
        self.world.file("vm.xml", xml);
    }

    /// Checks that the file is in use for this reason, and that a real prune leaves it there.
    #[track_caller]
    fn is_kept(&self, code: &str, what: &str, args: &[&str]) {
        let run = self.world.explain(args).exits(0);
        assert_eq!(run.codes(&self.unused), [code], "{what}: {run:#?}");
        let run = self.world.prune(args).exits(0);
        assert!(self.unused_file().exists(), "{what}: {run:#?}");
    }
}

// Links, hard links and block devices.

#[test]
fn a_file_that_a_disk_names_through_a_link_of_another_name_is_kept() {
    for place in ["instances/locks/golden", "golden"] {
        let scene = scene();
        let link = scene.world.outside().join(place);
        symlink(scene.unused_file(), &link).unwrap();
        overlay(&scene.disk("disk.local"), &link);
        scene.is_kept("same_file", place, &[]);
    }
}

#[test]
fn a_file_that_a_disk_is_a_link_to_is_kept() {
    type Link = fn(PathBuf, PathBuf);
    let links: [(&str, Link); 2] = [
        ("a symbolic link", |file, disk| symlink(file, disk).unwrap()),
        ("a hard link", |file, disk| fs_err::hard_link(file, disk).unwrap()),
    ];
    for (what, link) in links {
        let scene = scene();
        link(scene.unused_file(), scene.disk("disk.local"));
        scene.is_kept("same_file", what, &[]);
    }
}

#[test]
fn a_file_that_the_source_of_a_domain_leads_to_is_kept() {
    let scene = scene();
    let link = scene.world.outside().join("vm.img");
    symlink(scene.unused_file(), &link).unwrap();
    for (source, code) in [(link, "same_file"), (scene.unused_file(), "backing_file")] {
        scene.domain(&file_disk(&source));
        scene.is_kept(code, &source.display().to_string(), &["--libvirt", "vm.xml"]);
    }
}

#[test]
fn the_target_of_a_link_in_the_cache_is_kept_with_the_link() {
    for how in ["image", "disk"] {
        let scene = scene();
        let link = cache_file_name("link");
        symlink(&scene.unused, scene.world.base(&link)).unwrap();
        if how == "image" {
            let row = |image: &str| json!({"name": format!("of {image}"), "host": HOST, "image_ref": image});
            plain_qcow2(&scene.world.path("of link/disk"));
            scene.world.inventory(&json!([row("link"), row("a")]));
        } else {
            overlay(&scene.disk("disk.local"), scene.world.base(&link));
        }
        scene.is_kept("same_file", how, &[]);
        assert!(scene.world.base(&link).is_symlink(), "{how}");
    }
}

#[test]
fn what_a_link_in_the_cache_leads_to_is_kept_on_request() {
    for is_hard in [false, true] {
        let scene = scene();
        let (file, link) = (scene.unused_file(), scene.world.base("golden"));
        if is_hard { fs_err::hard_link(file, link) } else { symlink(file, link) }.unwrap();
        scene.is_kept("same_file", "golden", &["--keep", "golden"]);
    }
}

/// A loop device; it is given back when this is dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn on(image: &Path, size_bytes: u64) -> Self {
        let file = fs_err::OpenOptions::new().write(true).open(image).unwrap();
        file.set_len(size_bytes).unwrap();
        let losetup = Command::new(tool("losetup", "mount")).args(["--find", "--show"]).arg(image).output();
        let losetup = losetup.unwrap();
        assert!(losetup.status.success(), "this test needs root and a free loop device: {losetup:?}");
        Self(String::from_utf8(losetup.stdout).unwrap().trim().into())
    }
}

impl Drop for LoopDevice {
    fn drop(&mut self) {
        drop(Command::new(tool("losetup", "mount")).arg("--detach").arg(&self.0).status());
    }
}

#[test]
fn a_file_that_the_header_on_a_block_device_names_is_kept() {
    let scene = scene();
    let image = scene.world.outside().join("volume");
    overlay(&image, scene.unused_file());
    // A device has whole sectors.
    let device = LoopDevice::on(&image, 1 << 20);
    for what in ["a chain", "a link to it in place of a disk", "a domain's disk", "a link in the cache"] {
        let disk = scene.disk("disk.local");
        let mut args = NO_ARGS.to_vec();
        match what {
            "a chain" => overlay(&disk, &device.0),
            "a link to it in place of a disk" => symlink(&device.0, &disk).unwrap(),
            "a domain's disk" => {
                let source = format!("<source dev='{}'/>", device.0.display());
                scene.domain(&format!("<disk type='block'><driver type='qcow2'/>{source}</disk>"));
                args = vec!["--libvirt", "vm.xml"];
            }
            _ => {
                let link = scene.world.base(cache_file_name("device"));
                symlink(&device.0, &link).unwrap();
                overlay(&disk, &link);
            }
        }
        scene.is_kept("backing_file", what, &args);
        drop(fs_err::remove_file(&disk));
    }
}

/// Makes a qcow2 image that tells of a backing file in qcow2.
fn overlay_on_qcow2(path: &Path, backing: &Path) {
    let options = ["create", "-q", "-f", "qcow2", "-u", "-F", "qcow2", "-b"].map(OsStr::new);
    qemu_img([&options[..], &[backing.as_os_str(), path.as_os_str(), OsStr::new("64k")]].concat());
}

fn lose_header(image: &Path) {
    let file = fs_err::OpenOptions::new().write(true).open(image).unwrap();
    file.file().write_all_at(&[0; 512], 0).unwrap();
}

/// A file that begins with no header is a raw disk, and names nothing; but not where somebody tells that it has one.
#[test]
fn a_header_that_was_lost_hides_what_it_named() {
    for what in [
        "by disk.info",
        "by the domain",
        "by the header that names it",
        "by the header that names it, raw by disk.info",
    ] {
        let scene = scene();
        let (disk, outside) = (scene.disk("disk.local"), scene.world.outside().join("image"));
        let args: &[&str] = if what == "by the domain" { &["--libvirt", "vm.xml"] } else { &[] };
        overlay(&disk, scene.unused_file());
        scene.domain(&file_disk(&disk));
        let disk_info = |of: &Path, format: &str| {
            fs_err::write(
                of.with_file_name("disk.info"),
                json!({"/x/disk.local": format, "/x/image": format}).to_string(),
            )
        };
        match what {
            "by the domain" => lose_header(&disk),
            "by disk.info" => {
                lose_header(&disk);
                disk_info(&disk, "qcow2").unwrap();
            }
            _ => {
                fs_err::rename(&disk, &outside).unwrap();
                overlay_on_qcow2(&disk, &outside);
                if what == "by the header that names it" {
                    lose_header(&outside);
                } else {
                    disk_info(&outside, "raw").unwrap();
                    scene.is_kept("backing_file", what, args);
                    continue;
                }
            }
        }
        let run = scene.world.explain(args).exits(1);
        assert_eq!(run.verdict(&scene.unused), "unknown", "{what}: {run:#?}");
        assert!(run.stderr.contains("has no header"), "{what}: {}", run.stderr);
        scene.world.prune(args).exits(1);
        assert!(scene.unused_file().exists(), "{what}");
    }
}

/// Where the disk tells that a file of the cache is raw, the header in it is a guest's, and cannot stop the clean-up.
#[test]
fn a_chain_through_the_cache_that_cannot_be_followed_hides_what_it_named() {
    type Damage = fn(&Path, &Path);
    let cases: [(&str, &str, Damage); 3] = [
        ("gone", "and it does not exist", |outside, _| fs_err::remove_file(outside).unwrap()),
        ("without its header", "has no header", |outside, _| lose_header(outside)),
        ("a file of the cache that is a link to nothing", "No such file", |outside, golden| {
            fs_err::remove_file(golden).unwrap();
            symlink(outside.with_file_name("unmounted"), golden).unwrap();
        }),
    ];
    for (what, words, damage) in cases {
        for is_raw in [true, false] {
            let scene = scene();
            let (golden, outside) = (scene.world.base("golden"), scene.world.outside().join("image"));
            overlay(&outside, scene.unused_file());
            overlay_on_qcow2(&golden, &outside);
            let disk = scene.disk("disk.local");
            if is_raw {
                overlay(&disk, &golden)
            } else {
                overlay_on_qcow2(&disk, &golden)
            };
            assert_eq!(scene.world.explain(NO_ARGS).exits(0).verdict(&scene.unused), "in_use", "{what}");
            damage(&outside, &golden);
            let run = scene.world.explain(NO_ARGS).exits(i32::from(!is_raw));
            let expected = if is_raw { "removable" } else { "unknown" };
            assert_eq!(run.verdict(&scene.unused), expected, "{what}: {run:#?}");
            assert!(is_raw || run.stderr.contains(words), "{what}: {}", run.stderr);
        }
    }
}

/// As where it is a mount point whose filesystem is not mounted.
#[test]
fn a_directory_in_the_place_of_a_backing_file_or_of_its_empty_directory_hides_what_it_named() {
    for (directory, name) in [("tenant", "tenant/image"), ("../image", "../image")] {
        let scene = scene();
        let image = scene.path(name);
        fs_err::create_dir(scene.path(directory)).unwrap();
        overlay(&scene.disk("disk.local"), &image);
        let run = scene.world.explain(NO_ARGS).exits(1);
        assert_eq!(run.verdict(&scene.unused), "unknown", "{name}: {run:#?}");
    }
}

#[test]
fn a_raw_disk_that_nobody_calls_otherwise_does_not_stop_the_clean_up() {
    let scene = scene();
    let disk = scene.disk("disk.local");
    fs_err::write(&disk, [7; 512]).unwrap();
    for info in [None, Some("raw"), Some("surprise")] {
        if let Some(format) = info {
            fs_err::write(scene.disk("disk.info"), json!({"/x/disk.local": format}).to_string()).unwrap();
        }
        let run = scene.world.explain(NO_ARGS).exits(0);
        assert_eq!(run.verdict(&scene.unused), "removable", "{info:?}");
    }
}

/// nova writes disk.info, and then qemu-img makes the disk, which is empty for a moment.
#[test]
fn a_disk_that_is_just_being_made_does_not_stop_the_clean_up() {
    let scene = scene();
    let disk = scene.disk("disk.local");
    fs_err::write(scene.disk("disk.info"), json!({"/x/disk.local": "qcow2"}).to_string()).unwrap();
    fs_err::write(&disk, "").unwrap();
    let (made, base) = (scene.world.outside().join("made"), scene.world.base(&scene.used));
    overlay(&made, &base);
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    command.args(["explain", "-f", "json", "-p"]).arg(scene.world.instances_path());
    // What is read first of the disk comes late enough.
    let slow = [
        "-f",
        "-P",
        disk.to_str().unwrap(),
        "-e",
        "trace=pread64",
        "-e",
        "inject=pread64:delay_exit=300000:when=1",
    ];
    let mut slow = under_strace(&scene.world, slow, &command);
    let run = std::thread::scope(|scope| {
        let run = scope.spawn(|| finish(&mut slow));
        wait_until("the empty disk has been read", || {
            fs_err::read_to_string(strace_log(&scene.world)).is_ok_and(|it| it.contains("pread64"))
        });
        fs_err::rename(&made, &disk).unwrap();
        run.join().unwrap()
    });
    assert_eq!(run.exits(0).verdict(&scene.unused), "removable");
}

/// As a network block device is whose server is gone.
#[test]
fn a_block_device_without_content_hides_what_it_named() {
    let scene = scene();
    let image = scene.world.outside().join("volume");
    fs_err::write(&image, "").unwrap();
    let device = LoopDevice::on(&image, 0);
    overlay(&scene.disk("disk.local"), &device.0);
    let run = scene.world.explain(NO_ARGS).exits(1);
    assert_eq!(run.verdict(&scene.unused), "unknown", "{run:#?}");
    assert!(run.stderr.contains("a block device without content"), "{}", run.stderr);
}

/// It is found whatever comes of reading the directory once more.
#[test]
fn snapshots_that_cannot_be_listed_hide_disks() {
    let scene = scene();
    fs_err::create_dir_all(scene.path("snapshots/1")).unwrap();
    overlay(&scene.path("snapshots/1/delta"), scene.unused_file());
    assert_eq!(scene.world.explain(NO_ARGS).verdict(&scene.unused), "in_use");
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    command.args(["explain", "-f", "json", "-p"]).arg(scene.world.instances_path());
    let failing = ["-f", "-P", "snapshots", "-e", "trace=openat", "-e", "inject=openat:error=EIO:when=1+2"];
    let run = finish(&mut under_strace(&scene.world, failing, &command)).exits(1);
    assert_eq!(run.verdict(&scene.unused), "unknown", "{run:#?}");
}

#[test]
fn compute_nodes_is_no_disk() {
    let scene = scene();
    fs_err::write(scene.path("compute_nodes"), b"QFI\xfbno header").unwrap();
    let run = scene.world.explain(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&scene.unused), "removable", "{run:#?}");
}

/// To open some of the kernel's files is to act, too: the `free_buffer` of a trace empties it.
#[test]
fn no_file_of_the_kernels_own_is_opened() {
    let scene = scene();
    symlink("/proc/version", scene.disk("disk.x")).unwrap();
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    command.args(["explain", "-f", "json", "-p"]).arg(scene.world.instances_path());
    let run = finish(&mut under_strace(&scene.world, ["-f", "-y", "-e", "trace=/^open"], &command)).exits(1);
    assert_eq!(run.verdict(&scene.unused), "unknown");
    assert!(run.stderr.contains("disk.x: a file of the kernel's own"), "{}", run.stderr);
    let log = fs_err::read_to_string(strace_log(&scene.world)).unwrap();
    let opened: Vec<&str> = log.lines().filter(|it| it.contains("/proc/version>")).collect();
    assert!(!opened.is_empty() && opened.iter().all(|it| it.contains("O_PATH")), "{opened:#?}");
}

#[test]
fn no_character_device_or_fifo_is_opened_wherever_it_lies() {
    // To open /dev/watchdog, and close it again, is to reset the machine some seconds later.
    const DEVICE: &str = "/dev/full";
    let scene = scene();
    let world = &scene.world;
    let fifo = world.outside().join("fifo");
    nix::unistd::mkfifo(&fifo, nix::sys::stat::Mode::S_IRWXU).unwrap();
    let link = world.outside().join("link");
    symlink(DEVICE, &link).unwrap();
    for (index, name) in
        [DEVICE, "host_device:/dev/full", "file:/dev/full", link.to_str().unwrap(), fifo.to_str().unwrap()]
            .iter()
            .enumerate()
    {
        overlay(&scene.disk(&format!("disk.{index}")), name);
    }
    for (index, target) in [Path::new(DEVICE), &fifo].iter().enumerate() {
        symlink(target, scene.disk(&format!("link.{index}"))).unwrap();
        symlink(target, world.path(format!("link.{index}"))).unwrap();
        symlink(target, world.base(cache_file_name(&index.to_string()))).unwrap();
    }
    let mut command = Command::new(cargo_bin!("nova-imagecache"));
    command.args(["explain", "-f", "json", "-p"]).arg(world.instances_path());
    // Regular files now and links to the device then, in the cache and in place of disks.
    let images: Vec<String> = (0..20).map(|it| format!("swapped {it}")).collect();
    let swapped: Vec<PathBuf> =
        images.iter().flat_map(|it| [world.base(cache_file_name(it)), scene.disk(it)]).collect();
    let swap = |_| {
        let spare = world.outside().join("spare");
        for path in &swapped {
            fs_err::write(&spare, "").unwrap();
            fs_err::rename(&spare, path).unwrap();
            symlink(DEVICE, &spare).unwrap();
            fs_err::rename(&spare, path).unwrap();
        }
    };
    meanwhile(swap, || {
        for _ in 0..12 {
            // -y shows what a descriptor is open on, and -ff gives each thread a log, with whole lines.
            let run = finish(&mut under_strace(world, ["-ff", "-y", "-e", "trace=/^open"], &command));
            assert_eq!(sane(run).verdict(&scene.unused), "removable");
            let mut logs = names(world.outside());
            logs.retain(|it| it.starts_with("strace.log."));
            let read = |it| fs_err::read_to_string(world.outside().join(it)).unwrap();
            let log: String = logs.iter().map(read).collect();
            assert!(log.contains(I1), "it is a log: {log}");
            let targets = [DEVICE, fifo.to_str().unwrap()].map(|it| format!("<{it}>"));
            let is_opened =
                |it: &&str| !it.contains("O_PATH") && targets.iter().any(|target| it.contains(target));
            assert_eq!(log.lines().filter(is_opened).collect::<Vec<_>>(), [""; 0]);
        }
    });
}

#[test]
fn a_disk_info_or_compute_nodes_that_blocks_does_not_stop_the_run() {
    for target in ["/proc/kmsg", "fifo"] {
        let scene = scene();
        nix::unistd::mkfifo(&scene.world.path("locks/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let target = scene.world.path("locks").join(target);
        symlink(&target, scene.disk("disk.info")).unwrap();
        // disk.info is read where a disk cannot be understood.
        overlay(&scene.disk("disk.local"), "marsftp:/x");
        fs_err::remove_file(scene.world.path("compute_nodes")).unwrap();
        symlink(&target, scene.world.path("compute_nodes")).unwrap();
        let args = ["-f", "json", "--host", HOST, "--inventory", "inventory.json"];
        let run = limited(&scene.world, "explain", &args).exits(1);
        assert_eq!(run.verdict(&scene.unused), "unknown", "{}", target.display());
        assert!(run.warnings().contains(&"no_compute_nodes".into()), "{run:#?}");
    }
}

// Filesystems that are not mounted, and instances whose directories are elsewhere.

#[test]
fn an_instances_path_that_is_not_mounted_is_refused() {
    let scene = scene();
    let world = &scene.world;
    fs_err::remove_dir_all(world.path(I1)).unwrap();
    let uuids = ["1", "2", "3"].map(|it| format!("0e1e1ab6-7d38-4f0e-a5b6-00000000000{it}"));
    for uuid in &uuids {
        let disk = file_disk(&world.path(uuid).join("disk"));
        let xml = domain(uuid, "<nova:root type='image' uuid='a'/>", &disk);
        world.file(&format!("{uuid}.xml"), xml);
    }
    world.inventory(&uuids.iter().map(|it| json!({"uuid": it, "image_ref": "a"})).collect());
    let run = |args: &[&str]| world.run("prune", [&["--host", HOST], args].concat());
    for source in [["--libvirt", "."], ["--inventory", "inventory.json"]] {
        for dry in [&[][..], &["-n"]] {
            run(&[&source[..], dry].concat()).refused(&["not one of 3", "mounted", "--allow-empty"]);
        }
    }
    let explained = world.run("explain", ["-f", "json", "--host", HOST, "--libvirt", "."]).exits(1);
    assert_eq!(explained.verdict(&scene.unused), "unknown", "sources of domains are not there");
    assert!(explained.warnings().contains(&"directories_absent".into()), "{explained:#?}");
    run(&["--libvirt", ".", "--allow-empty"]).exits(1);
    assert!(scene.unused_file().exists());
    let run = world.prune(["--allow-empty"]).exits(0);
    assert_eq!(run.outcome(&scene.unused), "removed", "the operator said so");
}

#[test]
fn instances_without_a_directory_here_are_named_and_one_that_is_here_is_enough() {
    let scene = scene();
    let row = |uuid: &str, host: &str, image: &str, state: &str, task: &str| json!({"uuid": uuid, "host": host, "image_ref": image, "vm_state": state, "task_state": task});
    scene.world.inventory(&json!([
        row("here", HOST, "a", "", ""),
        row("absent-1", HOST, "a", "", ""),
        row("absent-2", HOST, "a", "", ""),
        row("volume", HOST, "", "", ""),
        row("building", HOST, "a", "", "spawning"),
        row("shelved", HOST, "a", "shelved_offloaded", ""),
        row("of-another-host", "compute-2", "a", "", ""),
    ]));
    plain_qcow2(&scene.world.path("here/disk"));
    for run in [scene.world.explain(NO_ARGS), scene.world.dry_run(NO_ARGS), scene.world.prune(NO_ARGS)] {
        let run = run.exits(0);
        assert_eq!(run.warnings(), ["directories_absent"]);
        for words in ["2 instances", "absent-1, absent-2\n"] {
            assert!(run.stderr.contains(words), "{run:#?}");
        }
    }
}

#[test]
fn a_subdirectory_name_on_the_command_line_needs_nothing_of_nova_conf() {
    let scene = scene();
    scene.world.file("nova.conf", "[image_cache]\nsubdirectory_name = _base_$my_ip\n");
    let run = |args: &[&str]| scene.world.run("explain", [&["--config-file", "nova.conf"], args].concat());
    run(&["--subdirectory-name", "_base"]).exits(0);
    run(&[]).refused(&["nova.conf", "line 2", "subdirectory_name", "$my_ip", "command-line option"]);
}

#[test]
fn where_no_thread_can_be_made_the_output_is_the_same() {
    let scene = scene();
    for index in 0..40 {
        fs_err::create_dir(scene.world.path(format!("other-{index}"))).unwrap();
        fs_err::hard_link(scene.disk("disk"), scene.world.path(format!("other-{index}/disk"))).unwrap();
    }
    chown_all(scene.world.outside(), LONELY);
    let run = |limit: &[&str], args: &[&str]| {
        let mut command = scene.world.as_user(LONELY, limit);
        command.args(args).args(["-f", "json", "--host", HOST, "-p"]).arg(scene.world.instances_path());
        Run::of(command.arg("--inventory").arg(scene.world.outside().join("inventory.json"))).exits(0)
    };
    let prlimit = tool("prlimit", "util-linux").display().to_string();
    let none = [&*prlimit, "--nproc=1:1", "--"];
    for args in [&["explain"][..], &["prune", "-n"]] {
        let [with, without] = [&[][..], &none].map(|limit| {
            let mut json = run(limit, args).json();
            let files = json["files"].as_array_mut().unwrap();
            files.iter_mut().for_each(|it| drop((it["age_seconds"].take(), it["reasons"][0]["text"].take())));
            ["files", "missing", "unlisted_directories", "warnings"].map(|key| json[key].take())
        });
        assert_eq!(with, without, "{args:?}");
    }
    assert_eq!(run(&none, &["prune"]).outcome(&scene.unused), "removed");
}

// What is refused: each once, for the rules are tested in src/guard.rs.
