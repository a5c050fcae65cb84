//! What once made a prune remove a file that was needed, or stopped a clean-up for no reason: each on real files, links
//! and devices. Every test here but the last fails with version 1.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use crate::common::hostile::{meanwhile, sane};
use crate::common::prune::{chown_all, finish, is_now, lock_as_qemu, names, under_strace};
use crate::common::{
    DAY, HOST, Run, World, domain, file_disk, list, mtime, overlay, plain_qcow2, set_age, text, tool,
};
use assert_cmd::cargo::cargo_bin;
use nova_imagecache::cache_name::{cache_file_name, set_aside_name};
use serde_json::{Value, json};

const NO_ARGS: [&str; 0] = [];
const OLD: Duration = Duration::from_secs(30 * 24 * 3600);
const I1: &str = "instance-00000001";
const UUID: &str = "0e1e1ab6-7d38-4f0e-a5b6-000000000001";
/// A user who has no other process.
const LONELY: u32 = 64_999;

/// An instance with its disk and image, and an old original that nothing needs until a test makes something need it.
struct Scene {
    world: World,
    file: String,
}

impl Scene {
    fn new() -> Self {
        let world = World::new();
        let used = world.original("used", OLD);
        let file = world.original("file", OLD);
        world.instance_disk(I1, &used);
        world.inventory(&json!([{"name": I1, "host": HOST, "image_ref": "used"}]));
        Self { world, file }
    }

    fn path(&self) -> PathBuf {
        self.world.base(&self.file)
    }

    fn disk(&self, name: &str) -> PathBuf {
        self.world.path(I1).join(name)
    }

    /// Writes the XML of a domain into a folder. Returns the folder.
    fn domain(&self, name: &str, xml: &str) -> PathBuf {
        let folder = self.world.outside().join("qemu");
        fs_err::create_dir_all(&folder).unwrap();
        fs_err::write(folder.join(name).with_extension("xml"), xml).unwrap();
        folder
    }

    fn explain_domains(&self) -> Run {
        self.world.run("explain", ["-f", "json", "--host", HOST, "--libvirt", "qemu"])
    }

    /// Checks that the file is in use for this reason, and that a real prune leaves it there.
    #[track_caller]
    fn is_kept(&self, code: &str, what: &str, args: &[&str]) {
        let run = self.world.explain(args).exits(0);
        assert_eq!(run.codes(&self.file), [code], "{what}: {run:#?}");
        let run = self.world.prune(args).exits(0);
        assert!(self.path().exists(), "{what}: {run:#?}");
    }
}

// Links, hard links and block devices.

#[test]
fn a_file_that_a_disk_names_through_a_link_of_another_name_is_kept() {
    for place in ["instances/locks/golden", "golden"] {
        let scene = Scene::new();
        let link = scene.world.outside().join(place);
        symlink(scene.path(), &link).unwrap();
        overlay(&scene.disk("disk.local"), &link);
        scene.is_kept("same_file", place, &[]);
    }
}

#[test]
fn a_file_that_a_disk_is_a_link_to_is_kept() {
    let scene = Scene::new();
    symlink(scene.path(), scene.disk("disk.local")).unwrap();
    scene.is_kept("same_file", "a symbolic link", &[]);
    let scene = Scene::new();
    fs_err::hard_link(scene.path(), scene.disk("disk.local")).unwrap();
    scene.is_kept("same_file", "a hard link", &[]);
}

#[test]
fn a_file_that_the_source_of_a_domain_leads_to_is_kept() {
    let scene = Scene::new();
    let link = scene.world.outside().join("vm.img");
    symlink(scene.path(), &link).unwrap();
    for (source, code) in [(link, "same_file"), (scene.path(), "backing_file")] {
        let devices = file_disk(&source);
        let xml = format!("<domain><name>vm</name><devices>{devices}</devices></domain>");
        scene.domain("vm", &xml);
        scene.is_kept(code, &devices, &["--libvirt", "qemu"]);
    }
}

#[test]
fn the_target_of_a_link_in_the_cache_is_kept_with_the_link() {
    for how in ["image", "disk"] {
        let scene = Scene::new();
        let link = cache_file_name("link");
        symlink(&scene.file, scene.world.base(&link)).unwrap();
        if how == "image" {
            let row = |image: &str| json!({"name": format!("of {image}"), "host": HOST, "image_ref": image});
            plain_qcow2(&scene.world.path("of link/disk"));
            scene.world.inventory(&json!([row("link"), row("used")]));
        } else {
            overlay(&scene.disk("disk.local"), scene.world.base(&link));
        }
        scene.is_kept("same_file", how, &[]);
        assert!(scene.world.base(&link).is_symlink(), "{how}");
    }
}

/// A loop device; it is given back when this is dropped.
struct LoopDevice(PathBuf);

impl LoopDevice {
    fn on(image: &Path) -> Self {
        // A device has whole sectors.
        let file = fs_err::OpenOptions::new().write(true).open(image).unwrap();
        file.set_len(1 << 20).unwrap();
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
    let scene = Scene::new();
    let image = scene.world.outside().join("volume");
    overlay(&image, scene.path());
    let device = LoopDevice::on(&image);
    for what in ["a chain", "a link to it in place of a disk", "a domain's disk", "a link in the cache"] {
        let disk = scene.disk("disk.local");
        let mut args = NO_ARGS.to_vec();
        match what {
            "a chain" => overlay(&disk, &device.0),
            "a link to it in place of a disk" => symlink(&device.0, &disk).unwrap(),
            "a domain's disk" => {
                let source = format!("<source dev='{}'/>", device.0.display());
                let disk = format!("<disk type='block'><driver type='qcow2'/>{source}</disk>");
                scene.domain("vm", &format!("<domain><name>vm</name><devices>{disk}</devices></domain>"));
                args = vec!["--libvirt", "qemu"];
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

#[test]
fn no_character_device_or_fifo_is_opened_wherever_it_lies() {
    // To open /dev/watchdog, and close it again, is to reset the machine some seconds later.
    const DEVICE: &str = "/dev/full";
    let scene = Scene::new();
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
    let swapped: Vec<PathBuf> = (0..20)
        .flat_map(|it| {
            [world.base(cache_file_name(&format!("swapped {it}"))), scene.disk(&format!("swapped.{it}"))]
        })
        .collect();
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
            assert_eq!(sane(run).verdict(&scene.file), "removable");
            let log: String = names(world.outside())
                .iter()
                .filter(|it| it.starts_with("strace.log."))
                .map(|it| fs_err::read_to_string(world.outside().join(it)).unwrap())
                .collect();
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
        let scene = Scene::new();
        nix::unistd::mkfifo(&scene.world.path("locks/fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
        let target = scene.world.path("locks").join(target);
        symlink(&target, scene.disk("disk.info")).unwrap();
        // disk.info is read where a disk cannot be understood.
        overlay(&scene.disk("disk.local"), "marsftp:/x");
        fs_err::remove_file(scene.world.path("compute_nodes")).unwrap();
        symlink(&target, scene.world.path("compute_nodes")).unwrap();
        let mut command = scene.world.command();
        command.timeout(Duration::from_secs(20)).args(["explain", "-f", "json", "--host", HOST]);
        command.args(["--inventory", "inventory.json", "-p"]).arg(scene.world.instances_path());
        let run = Run::of(&mut command).exits(1);
        assert_eq!(run.verdict(&scene.file), "unknown", "{}", target.display());
        assert!(run.warnings().contains(&"no_compute_nodes".into()), "{run:#?}");
    }
}

// Filesystems that are not mounted, and instances whose directories are elsewhere.

/// Domains of instances on image `used`, with a disk each in a directory of this instances path.
fn three_domains(scene: &Scene) -> Vec<String> {
    let uuids: Vec<String> = (1..=3).map(|it| UUID.replace("0001", &format!("000{it}"))).collect();
    for uuid in &uuids {
        scene.domain(
            uuid,
            &domain(
                uuid,
                "<nova:root type='image' uuid='used'/>",
                &file_disk(&scene.world.path(uuid).join("disk")),
            ),
        );
    }
    uuids
}

#[test]
fn an_instances_path_that_is_not_mounted_is_refused() {
    let scene = Scene::new();
    let uuids = three_domains(&scene);
    fs_err::remove_dir_all(scene.world.path(I1)).unwrap();
    let run = |args: &[&str]| scene.world.run("prune", [&["--host", HOST], args].concat());
    let own = json!(uuids.iter().map(|it| json!({"uuid": it, "image_ref": "used"})).collect::<Vec<_>>());
    scene.world.file("own.json", own.to_string());
    for source in [["--libvirt", "qemu"], ["--inventory", "own.json"]] {
        for dry in [&[][..], &["-n"]] {
            run(&[&source[..], dry].concat()).refused(&["not one of 3", "mounted", "--allow-empty"]);
        }
    }
    let explained = scene.explain_domains().exits(1);
    assert_eq!(explained.verdict(&scene.file), "unknown", "sources of domains are not there");
    assert!(explained.warnings().contains(&"directories_absent".into()), "{explained:#?}");
    run(&["--libvirt", "qemu", "--allow-empty"]).exits(1);
    assert!(scene.path().exists());

    scene.world.inventory(&own);
    let run = scene.world.prune(["--allow-empty"]).exits(0);
    assert_eq!(run.outcome(&scene.file), "removed", "the operator said so");
}

#[test]
fn instances_without_a_directory_here_are_named_and_one_that_is_here_is_enough() {
    let scene = Scene::new();
    let uuids = ["here", "absent-1", "absent-2", "volume", "building", "shelved", "of-another-host"];
    let row = |uuid: &str| match uuid {
        "volume" => json!({"uuid": uuid, "host": HOST}),
        "building" => json!({"uuid": uuid, "host": HOST, "image_ref": "used", "task_state": "spawning"}),
        "shelved" => {
            json!({"uuid": uuid, "host": HOST, "image_ref": "used", "vm_state": "shelved_offloaded"})
        }
        "of-another-host" => json!({"uuid": uuid, "host": "compute-2", "image_ref": "used"}),
        _ => json!({"uuid": uuid, "host": HOST, "image_ref": "used"}),
    };
    scene.world.inventory(&json!(uuids.map(row)));
    plain_qcow2(&scene.world.path("here/disk"));
    for run in [scene.world.explain(NO_ARGS), scene.world.dry_run(NO_ARGS), scene.world.prune(NO_ARGS)] {
        let run = run.exits(0);
        assert_eq!(run.warnings(), ["directories_absent"]);
        assert!(
            run.stderr.contains("2 instances") && run.stderr.contains("absent-1, absent-2\n"),
            "{run:#?}"
        );
    }
}

#[test]
fn a_missing_disk_of_a_domain_blocks_unless_it_is_known_to_be_gone_or_a_volume() {
    let serial = "<serial>3f6c2f0e-5a5e-4c52-8f0c-000000000001</serial>";
    for (what, below, more, exists, blocks) in [
        ("a directory that is not there", UUID, "", "", true),
        ("deleted by hand", UUID, "", "0e1e1ab6-7d38-4f0e-a5b6-000000000001/disk.config", false),
        ("renamed for a resize", UUID, "", "0e1e1ab6-7d38-4f0e-a5b6-000000000001_resize/disk", false),
        ("another disk was renamed", UUID, "", "0e1e1ab6-7d38-4f0e-a5b6-000000000001_resize/other", true),
        ("a link to where nothing is mounted", UUID, "", "a link", true),
        ("outside the instances path", "../elsewhere", "", "", true),
        ("a volume", "../mnt/share", serial, "", false),
    ] {
        let scene = Scene::new();
        let source = scene.world.path(below).join("disk");
        let disk = file_disk(&source).replace("</disk>", &format!("{more}</disk>"));
        scene.domain("a", &domain(UUID, "", &disk));
        match exists {
            "" => {}
            "a link" => symlink(scene.world.outside(), scene.world.path(below)).unwrap(),
            disk => plain_qcow2(&scene.world.path(disk)),
        }
        let run = scene.explain_domains();
        let expected = if blocks { (1, "unknown") } else { (0, "removable") };
        assert_eq!((run.code, run.verdict(&scene.file).as_str()), expected, "{what}: {run:#?}");
        let json = run.json();
        let unreadable = list(&json["unreadable"]).iter().find(|it| it["path"] == json!(source));
        assert_eq!(unreadable.map(|it| &it["blocks"]), Some(&json!(blocks)), "{what}: it is reported");
        assert_eq!(run.stderr.contains("undefine the domain"), blocks, "{what}: {}", run.stderr);
    }
}

// Inventories.

/// A way to list instances, and the arguments that give it.
fn sources_without_states(scene: &Scene) -> Vec<(&'static str, Vec<&'static str>)> {
    let world = &scene.world;
    fs_err::remove_file(world.outside().join("inventory.json")).unwrap();
    world.file("own.json", json!([{"uuid": UUID, "host": HOST}, {"name": I1}]).to_string());
    let client =
        json!([{"ID": UUID, "Image ID": "", "Host": HOST}, {"ID": I1, "Image ID": "used", "Host": HOST}]);
    world.file("client.json", client.to_string());
    scene.domain("a", &domain(UUID, "", &file_disk(&world.path(UUID).join("disk"))));
    vec![
        ("own rows", vec!["--inventory", "own.json"]),
        ("the client's list", vec!["--inventory", "client.json"]),
        ("domains", vec!["--libvirt", "qemu"]),
    ]
}

#[test]
fn a_disk_in_a_resize_directory_is_an_instances_whatever_its_source_tells() {
    let scene = Scene::new();
    scene.world.instance_disk(&format!("{UUID}_resize"), &scene.file);
    for (what, args) in sources_without_states(&scene) {
        scene.is_kept("backing_file", what, &[&args[..], &["--ignore-unlisted"]].concat());
    }
}

#[test]
fn hosts_are_the_same_by_their_short_and_full_names() {
    for (ours, theirs) in [(HOST, "compute-1.example.org"), ("Compute-1.example.org", HOST)] {
        let scene = Scene::new();
        let client = |id: &str, image: &str| json!({"ID": id, "Image ID": image, "Host": theirs});
        scene.world.inventory(&json!([client(I1, "used"), client(UUID, "file")]));
        let run = scene.world.run("explain", args_with_host(ours)).exits(0);
        assert_eq!(run.codes(&scene.file), ["image_in_use"], "{ours} {theirs}");
        assert!(!run.warnings().contains(&"host_unknown".into()), "{run:#?}");
    }
}

fn args_with_host(host: &str) -> [&str; 6] {
    ["-f", "json", "--inventory", "inventory.json", "--host", host]
}

#[test]
fn the_states_of_running_domains_are_read_and_a_folder_without_any_is_warned_of() {
    let scene = Scene::new();
    let running = domain(I1, "<nova:root type='image' uuid='file'/>", &file_disk(&scene.disk("disk")));
    let running = running.replace("<domain ", "<domstatus state='running' pid='1'><domain ") + "</domstatus>";
    scene.domain("a", &running);
    let run = scene.explain_domains().exits(0);
    assert_eq!(run.codes(&scene.file), ["image_in_use"]);
    assert!(!run.warnings().contains(&"no_domains".into()));

    fs_err::write(scene.world.outside().join("qemu/a.xml"), "<network/>").unwrap();
    assert_eq!(scene.explain_domains().warnings(), ["no_domains", "nothing_counted"]);
}

#[test]
fn the_image_that_libvirt_names_is_missing_only_where_no_disk_stands_on_the_cache() {
    // For an instance that was booted from a snapshot newer nova writes the snapshot's own base into the XML.
    let scene = Scene::new();
    scene.domain(
        "a",
        &domain(I1, "<nova:root type='image' uuid='base-of-snapshot'/>", &file_disk(&scene.disk("disk"))),
    );
    let base = cache_file_name("base-of-snapshot");
    assert_eq!(scene.explain_domains().exits(0).missing(&base), None);
    fs_err::remove_file(scene.disk("disk")).unwrap();
    plain_qcow2(&scene.disk("disk"));
    let missing = scene.explain_domains().exits(0).missing(&base).unwrap();
    assert_eq!(missing["reasons"][0]["code"], "image_in_use");
}

#[test]
fn a_subdirectory_name_on_the_command_line_needs_nothing_of_nova_conf() {
    let scene = Scene::new();
    scene.world.file("nova.conf", "[image_cache]\nsubdirectory_name = _base_$my_ip\n");
    let run = |args: &[&str]| scene.world.run("explain", [&["--config-file", "nova.conf"], args].concat());
    run(&["--subdirectory-name", "_base"]).exits(0);
    run(&[]).refused(&["nova.conf", "line 2", "subdirectory_name", "$my_ip", "command-line option"]);
}

// What is told.

#[test]
fn a_good_day_prints_nothing_on_stderr() {
    let scene = Scene::new();
    let server = json!({"ID": I1, "Name": "web", "Status": "ACTIVE", "Task State": null, "Image Name": "debian",
        "Image ID": "used", "Host": "compute-1.example.org", "Flavor Name": "m1.tiny", "Properties": {}});
    scene.world.inventory(&json!([server]));
    let judging = ["--host", HOST, "--inventory", "inventory.json"];
    for args in [&["explain"][..], &["prune", "-n"], &["prune"]] {
        let run = scene.world.run(args[0], [&args[1..], &judging].concat()).exits(0);
        assert_eq!(run.stderr, "", "{args:?}");
    }
    let run = scene.world.explain(["-v"]).exits(0);
    assert_eq!(run.warnings(), ["lacks_kernel", "lacks_swap", "lacks_ephemeral"]);
    assert!(list(&run.json()["warnings"]).iter().all(|it| it["level"] == "note"));
    assert!(run.stderr.contains("kernel"), "{}", run.stderr);
}

#[test]
fn a_broken_instance_is_told_of_on_stderr() {
    let scene = Scene::new();
    let gone = cache_file_name("gone");
    let disk = scene.world.instance_disk(UUID, &gone);
    for args in [&["explain"][..], &["prune", "-n"]] {
        let run = scene.world.run(args[0], [&args[1..], &args_with_host(HOST)].concat()).exits(0);
        assert_eq!(run.warnings(), ["instance_broken"]);
        for word in [&gone, disk.to_str().unwrap()] {
            assert!(run.stderr.contains(word), "{}", run.stderr);
        }
    }
}

#[test]
fn what_a_running_qemu_has_open_is_in_use_before_anything_is_set_aside() {
    let scene = Scene::new();
    let opened = fs_err::File::open(scene.path()).unwrap();
    lock_as_qemu(&opened);
    for run in [scene.world.explain(NO_ARGS), scene.world.dry_run(NO_ARGS)] {
        let run = run.exits(0);
        assert_eq!(
            (run.verdict(&scene.file).as_str(), run.codes(&scene.file)),
            ("in_use", vec!["open_in_qemu".into()])
        );
    }
    drop(opened);
    assert_eq!(scene.world.explain(NO_ARGS).exits(0).verdict(&scene.file), "removable");
}

#[test]
fn what_is_to_be_kept_is_kept_and_stays_young() {
    let scene = Scene::new();
    let copy = scene.world.resized("file", 1 << 30, OLD);
    for (keep, copy_stays) in [(scene.file.as_str(), false), ("file", true)] {
        let run = scene.world.explain(["--keep", keep]).exits(0);
        assert_eq!(run.codes(&scene.file), ["kept_on_request"], "{keep}");
        assert_eq!(run.verdict(&copy) == "in_use", copy_stays, "{keep}");
    }
    let run = scene.world.explain(["--keep", "nobody"]).exits(0);
    assert_eq!((run.warnings(), run.stderr.as_str()), (vec!["keep_unknown".into()], ""));
    scene.world.prune(["--keep", "file"]).exits(0);
    assert!(scene.path().exists() && is_now(mtime(&scene.path())));
}

#[test]
fn a_file_that_a_killed_prune_set_aside_is_told_of_and_not_missing() {
    let scene = Scene::new();
    let aside = set_aside_name(scene.file.as_ref()).into_string().unwrap();
    fs_err::rename(scene.path(), scene.world.base(&aside)).unwrap();
    overlay(&scene.disk("disk.local"), scene.path());
    let scan = scene.world.scan().exits(0);
    assert_eq!(
        (text(&scan.file(&aside)["kind"]), scan.warnings()),
        ("set_aside".into(), vec!["set_aside_found".into()])
    );
    for run in [scene.world.explain(NO_ARGS), scene.world.dry_run(NO_ARGS)] {
        let run = run.exits(0);
        assert_eq!((run.verdict(&aside).as_str(), run.codes(&aside)), ("ignored", vec!["set_aside".into()]));
        assert_eq!((run.missing(&scene.file), run.warnings()), (None, vec!["set_aside_found".into()]));
        assert!(run.stderr.contains("run prune again"), "{}", run.stderr);
        assert_eq!(run.file(&aside)["minimum_age_seconds"], Value::Null);
    }
    scene.world.prune(NO_ARGS).exits(0);
    assert!(scene.path().exists(), "it is put back");
}

#[test]
fn where_no_thread_can_be_made_the_output_is_the_same() {
    let scene = Scene::new();
    for index in 0..40 {
        fs_err::create_dir(scene.world.path(format!("other-{index}"))).unwrap();
        fs_err::hard_link(scene.disk("disk"), scene.world.path(format!("other-{index}/disk"))).unwrap();
    }
    chown_all(scene.world.outside(), LONELY);
    let run = |limit: &[&str], args: &[&str]| {
        let mut command = scene.world.as_user(LONELY, limit);
        command.args(args).args(["-f", "json", "--host", HOST, "-p"]).arg(scene.world.instances_path());
        Run::of(command.arg("--inventory").arg(scene.world.outside().join("inventory.json")))
    };
    let facts = |run: &Run| {
        let mut json = run.json();
        for file in json["files"].as_array_mut().unwrap() {
            file["age_seconds"].take();
            file["reasons"].as_array_mut().unwrap().retain(|it| it["code"] != "unused");
        }
        [&json["files"], &json["missing"], &json["unlisted_directories"], &json["warnings"]].map(Clone::clone)
    };
    let none = [tool("prlimit", "util-linux").display().to_string(), "--nproc=1:1".into(), "--".into()];
    let none: Vec<&str> = none.iter().map(String::as_str).collect();
    for args in [&["explain"][..], &["prune", "-n"]] {
        let (with, without) = (run(&[], args).exits(0), run(&none, args).exits(0));
        assert_eq!(facts(&with), facts(&without), "{args:?}");
    }
    assert_eq!(run(&none, &["prune"]).exits(0).outcome(&scene.file), "removed");
}

// What is refused: each once, for the rules are tested in src/guard.rs.

#[test]
fn a_prune_that_looks_like_a_mistake_is_refused() {
    type Prepare = fn(&Scene);
    let as_it_is: Prepare = |_| {};
    let no_disks: Prepare = |it| fs_err::remove_dir_all(it.world.path(I1)).unwrap();
    let of_others: Prepare = |it| drop(it.world.inventory(&json!([{"name": "x", "host": "elsewhere"}])));
    let shared: Prepare = |it| {
        it.world.compute_nodes(&[HOST, "compute-2"]);
        it.domain("a", &domain(I1, "", &file_disk(&it.disk("disk"))));
    };
    let inventory = ["--inventory", "inventory.json"];
    for (what, prepare, args, words, dry_too) in [
        ("no list", as_it_is, &[][..], &["--disks-only"][..], false),
        ("no disk at all", no_disks, &["--disks-only"], &["mounted", "rbd", "--allow-empty"], true),
        ("nobody counts", of_others, &inventory, &["no instance in the inventory", "--allow-empty"], true),
        (
            "a host that nobody knows",
            as_it_is,
            &["--inventory", "inventory.json", "--host", "nobody"],
            &["nobody"],
            false,
        ),
        (
            "disks beside a list",
            as_it_is,
            &["--disks-only", "--inventory", "inventory.json"],
            &["--disks-only"],
            true,
        ),
        ("unlisted by what", as_it_is, &["--disks-only", "--ignore-unlisted"], &["--ignore-unlisted"], true),
        ("unlisted by no list", as_it_is, &["--ignore-unlisted"], &["--ignore-unlisted"], true),
        (
            "unlisted by one host's domains",
            shared,
            &["--libvirt", "qemu", "--ignore-unlisted"],
            &["compute-2"],
            false,
        ),
    ] {
        let scene = Scene::new();
        prepare(&scene);
        let before = scene.world.snapshot();
        let host = if args.contains(&"--host") { &[][..] } else { &["--host", HOST] };
        let run = |more: &[&str]| scene.world.run("prune", [args, host, more].concat());
        if dry_too {
            run(&["-n"]).refused(words);
        } else {
            let dry = run(&["-n"]);
            assert!(dry.code <= 1, "{what}: {dry:#?}");
        }
        run(&[]).refused(words);
        before.assert_same(&scene.world.snapshot());
        if words.contains(&"--allow-empty") || what == "a host that nobody knows" {
            let run = run(&["--allow-empty", "-f", "json"]).exits(0);
            assert_eq!(run.outcome(&scene.file), "removed", "{what}");
        }
    }
}

#[test]
fn a_dry_run_goes_by_the_disks_alone_or_by_an_unknown_host_and_warns() {
    let scene = Scene::new();
    let run = scene.world.run("prune", ["-n", "-f", "json"]).exits(0);
    assert_eq!(
        (run.warnings(), run.outcome(&scene.file).as_str()),
        (vec!["no_inventory".into()], "would_remove")
    );
    assert_eq!(run.json()["inventory"], Value::Null);
    let run = scene.world.run("prune", [&["-n"][..], &args_with_host("nobody")].concat()).exits(0);
    assert_eq!(run.warnings(), ["host_unknown"]);
    assert!(run.stderr.contains("nobody"), "{}", run.stderr);
    set_age(&scene.path(), DAY / 2);
    assert_eq!(scene.world.dry_run(NO_ARGS).exits(0).verdict(&scene.file), "too_young");
}
