//! What stands before the first removal of a real prune: its refusals, which change nothing, and the touch.

use std::collections::BTreeSet;
use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::Duration;

use crate::common::prune::{
    InUse, finish, is_now, names, plain_file, prune_command, under_strace, untouched, with_outcome,
};
use crate::common::{DAY, HOST, Run, Snapshot, World, mtime, overlay, set_age, set_mtime};
use serde_json::json;

const NO_ARGS: [&str; 0] = [];

/// Checks that a real prune is refused with these words and changes nothing, and that a dry run is not refused, or is.
#[track_caller]
fn is_refused(world: &World, args: &[&str], words: &[&str], dry_too: bool) {
    let before = world.snapshot();
    world.prune(args).refused(words);
    before.assert_same(&world.snapshot());
    let dry = world.dry_run(args);
    assert_eq!(dry.code == 2, dry_too, "{dry:#?}");
    before.assert_same(&world.snapshot());
}

/// A world with something to remove, a disk, and an inventory yet to come; without a directory of locks, which a
/// refused prune must not make.
fn world() -> (World, String) {
    let world = World::new();
    let name = world.original("image-a", 2 * DAY);
    let used = world.original("image-used", 2 * DAY);
    world.instance_disk("instance-00000001", &used);
    fs_err::remove_dir(world.path("locks")).unwrap();
    (world, name)
}

const DOMAIN: &str = "<domain type='kvm'><name>instance-00000001</name>\
    <uuid>1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5</uuid><metadata>\
    <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\
    <nova:root type='image' uuid='image-used'/></nova:instance></metadata></domain>";

#[test]
fn without_a_source_a_real_prune_is_refused_and_a_dry_run_goes_by_the_disks() {
    let (world, name) = world();
    is_refused(&world, &[], &["--inventory", "--libvirt", "--disks-only"], false);
    let dry = world.dry_run(NO_ARGS).exits(0);
    assert!(dry.warnings().contains(&"no_inventory".to_owned()));
    assert_eq!(dry.outcome(&name), "would_remove");
    assert_eq!(world.prune(["--disks-only"]).exits(0).outcome(&name), "removed");
}

#[test]
fn an_inventory_that_says_that_it_is_incomplete_is_refused() {
    let (world, name) = world();
    let server = json!({"id": "1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5", "status": "ACTIVE", "image": {"id": "image-used"},
        "OS-EXT-SRV-ATTR:instance_name": "instance-00000001", "OS-EXT-SRV-ATTR:host": HOST});
    let next =
        json!([{"rel": "next", "href": "/servers/detail?marker=1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5"}]);
    let down = json!({"id": "2c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5", "status": "UNKNOWN"});
    for inventory in [json!({"servers": [server, down]}), json!({"servers": [server], "servers_links": next})]
    {
        world.inventory(&inventory);
        let before = world.snapshot();
        world.prune(NO_ARGS).refused(&["incomplete"]);
        before.assert_same(&world.snapshot());
        // The dry run shows all that it can.
        let dry = world.dry_run(NO_ARGS).exits(1);
        assert_eq!(dry.json()["complete"], false);
        assert_eq!(dry.verdict(&name), "unknown");
        assert_eq!(with_outcome(&dry, "would_remove"), BTreeSet::new());
        before.assert_same(&world.snapshot());
    }
    world.inventory(&json!({"servers": [server]}));
    assert_eq!(world.prune(NO_ARGS).exits(0).outcome(&name), "removed");
}

#[test]
fn a_host_that_neither_compute_nodes_nor_the_inventory_names_is_refused() {
    let (world, name) = world();
    let rows = |host| json!([{"name": "instance-00000001", "host": host, "image_ref": "image-used"}]);
    world.inventory(&rows("compute-2"));
    world.compute_nodes(&["compute-2", "compute-3"]);
    is_refused(&world, &[], &[HOST, "--host", "compute_nodes"], false);
    let no_host = json!([{"name": "instance-00000001", "image_ref": "image-used"}]);
    for (inventory, nodes, is_known) in [
        (rows(HOST), Some(&["compute-2"][..]), true),
        (rows("compute-2"), Some(&[HOST, "compute-2"]), true),
        (no_host.clone(), None, true),
        (no_host, Some(&["compute-2"]), false),
        (rows("compute-2"), None, false),
    ] {
        fs_err::remove_file(world.path("compute_nodes")).ok();
        if let Some(nodes) = nodes {
            world.compute_nodes(nodes);
        }
        world.inventory(&inventory);
        assert_eq!(world.original("image-a", 2 * DAY), name);
        if is_known {
            assert_eq!(world.prune(NO_ARGS).exits(0).outcome(&name), "removed", "{inventory} {nodes:?}");
        } else {
            fs_err::remove_dir_all(world.path("locks")).ok();
            is_refused(&world, &[], &[HOST, "--host"], false);
            assert_eq!(
                world.prune(["--allow-empty"]).exits(0).outcome(&name),
                "removed",
                "{inventory} {nodes:?}"
            );
        }
    }
}

#[test]
fn libvirt_alone_with_ignore_unlisted_is_refused_where_another_host_shares_the_path() {
    let (world, name) = world();
    let domain = world.file("domain.xml", DOMAIN).display().to_string();
    let args = ["--libvirt", &domain, "--ignore-unlisted"];
    world.compute_nodes(&[HOST, "compute-2"]);
    is_refused(&world, &args, &["compute-2", "--ignore-unlisted"], false);
    world.compute_nodes(&[HOST]);
    assert_eq!(world.prune(args).exits(0).outcome(&name), "removed");
    // With an inventory beside it, or with the unlisted ones, it may.
    world.compute_nodes(&[HOST, "compute-2"]);
    world.original("image-a", 2 * DAY);
    assert_eq!(world.prune(&args[..2]).exits(0).outcome(&name), "removed");
    world.original("image-a", 2 * DAY);
    world.inventory(&json!([]));
    assert_eq!(world.prune(args).exits(0).outcome(&name), "removed");
}

/// The filesystem is made one by strace: its type is what `statfs` writes first.
#[test]
fn libvirt_or_the_disks_alone_are_refused_where_the_cache_is_on_a_network_filesystem_of_its_own() {
    // Another filesystem than that of the temporary directory, whatever that is.
    let elsewhere = tempfile::Builder::new().prefix("nova-imagecache-test-").tempdir_in("/dev/shm").unwrap();
    let (world, name) = world();
    assert_ne!(
        fs_err::metadata("/dev/shm").unwrap().dev(),
        fs_err::metadata(world.outside()).unwrap().dev(),
        "the temporary directory lies in /dev/shm: set TMPDIR"
    );
    let moved = elsewhere.path().join("cache");
    assert!(
        std::process::Command::new("cp")
            .arg("-a")
            .arg(world.path("_base"))
            .arg(&moved)
            .status()
            .unwrap()
            .success()
    );
    fs_err::remove_dir_all(world.path("_base")).unwrap();
    symlink(&moved, world.path("_base")).unwrap();
    let domain = world.file("domain.xml", DOMAIN).display().to_string();
    let nfs = ["--trace=statfs", "--inject=statfs:poke_exit=@arg2=6969000000000000"];
    for args in [&["--libvirt", &domain][..], &["--disks-only"]] {
        let before = Snapshot::of(&world.instances_path());
        let cache_before = Snapshot::of(&moved);
        let run = finish(&mut under_strace(&world, nfs, &prune_command(&world, args)));
        run.refused(&["network filesystem", "--inventory"]);
        before.assert_same(&Snapshot::of(&world.instances_path()));
        cache_before.assert_same(&Snapshot::of(&moved));
    }
    // On one of this machine's, and with an inventory, it may.
    assert_eq!(world.dry_run(["--disks-only"]).exits(0).outcome(&name), "would_remove");
    world.inventory(&json!([{"name": "instance-00000001", "host": HOST, "image_ref": "image-used"}]));
    let run = finish(&mut under_strace(&world, nfs, &prune_command(&world, ["--settle", "0"]))).exits(0);
    assert_eq!(run.outcome(&name), "removed");
}

#[test]
fn an_inventory_of_which_no_instance_counts_is_refused_where_there_are_disks() {
    let (world, name) = world();
    for inventory in [
        json!([]),
        json!([{"name": "instance-0000000f", "vm_state": "shelved_offloaded", "image_ref": "image-a"}]),
    ] {
        world.inventory(&inventory);
        is_refused(&world, &[], &["--allow-empty"], true);
    }
    assert_eq!(world.prune(["--allow-empty"]).exits(0).outcome(&name), "removed");
    // No disks, no doubt.
    world.original("image-a", 2 * DAY);
    fs_err::remove_dir_all(world.path("instance-00000001")).unwrap();
    assert_eq!(world.prune(NO_ARGS).exits(0).outcome(&name), "removed");
}

#[test]
fn disks_only_is_refused_where_no_instance_directory_holds_a_disk() {
    let (world, name) = world();
    fs_err::remove_file(world.path("instance-00000001/disk")).unwrap();
    fs_err::write(world.path("instance-00000001/console.log"), "x").unwrap();
    is_refused(&world, &["--disks-only"], &["mounted", "--allow-empty"], true);
    assert_eq!(world.prune(["--disks-only", "--allow-empty"]).exits(0).outcome(&name), "removed");
}

#[test]
fn options_that_contradict_each_other_are_refused() {
    let (world, _) = world();
    is_refused(&world, &["--ignore-unlisted"], &["--ignore-unlisted", "--inventory"], true);
    is_refused(&world, &["--ignore-unlisted", "--disks-only"], &["--ignore-unlisted"], true);
    world.inventory(&json!([{"name": "instance-00000001", "host": HOST, "image_ref": "image-used"}]));
    is_refused(&world, &["--disks-only"], &["--disks-only", "--inventory"], true);
}

#[test]
fn a_file_in_use_is_touched_and_nothing_else_of_it_changes() {
    let it = InUse::new();
    let resized = it.world.resized("image-used", 1 << 30, 40 * DAY);
    let young = it.world.original("image-young", DAY / 2);
    plain_file(&it.world, "README", 40 * DAY);
    let in_use = [it.used.as_str(), &resized];
    // A read sets the atime where it is older than the mtime or the ctime, as `relatime` has it: once.
    std::thread::sleep(Duration::from_millis(20));
    in_use.iter().for_each(|name| drop(fs_err::read(it.world.base(name)).unwrap()));
    let atimes =
        |world: &World| in_use.map(|name| fs_err::metadata(world.base(name)).unwrap().accessed().unwrap());
    let (before, atimes_before) = (untouched(&it.world, &in_use), atimes(&it.world));
    let mtimes: Vec<_> = in_use.iter().map(|name| mtime(&it.world.base(name))).collect();
    std::thread::sleep(Duration::from_millis(20));

    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(run.json()["summary"]["touched"], 2);
    assert_eq!(run.outcome(&young), "kept");
    // Before anything reads them again.
    assert_eq!(atimes(&it.world), atimes_before);
    before.assert_same(&untouched(&it.world, &in_use));
    for (name, before) in in_use.iter().zip(mtimes) {
        let after = mtime(&it.world.base(name));
        assert!(is_now(after) && after > before, "{name}");
    }
}

#[test]
fn a_link_that_goes_leaves_its_file() {
    let it = InUse::new();
    let goes = "1".repeat(40);
    let file = it.world.file("file", "content");
    set_age(&file, 2 * DAY);
    symlink(&file, it.world.base(&goes)).unwrap();
    let before = Snapshot::of(&file);
    assert_eq!(it.world.prune(NO_ARGS).exits(0).outcome(&goes), "removed");
    assert_eq!(names(&it.world.path("_base")), [it.used.clone()].into());
    before.assert_same(&Snapshot::of(&file));
}

#[test]
fn with_incomplete_evidence_prune_touches_what_is_in_use_and_stops() {
    let it = InUse::new();
    let old = it.world.original("image-a", 2 * DAY);
    fs_err::create_dir(it.world.path("instance-0000000f")).unwrap();
    fs_err::write(it.world.path("instance-0000000f/disk"), b"QFI\xfb\x00\x00\x00\x03").unwrap();
    let before = untouched(&it.world, &[&it.used]);
    let run = it.world.prune(NO_ARGS).exits(1);
    assert_eq!(run.json()["complete"], false);
    assert_eq!(run.verdict(&old), "unknown");
    assert_eq!(run.outcome(&old), "kept");
    assert_eq!(run.json()["summary"]["touched"], 1);
    assert!(is_now(mtime(&it.world.base(&it.used))));
    before.assert_same(&untouched(&it.world, &[&it.used]));
    assert_eq!(names(&it.world.path("locks")), ["imagecache-prune.lock".to_owned()].into());
}

#[test]
fn a_path_without_a_cache_directory_has_nothing_to_prune() {
    let (world, _) = world();
    fs_err::remove_dir_all(world.path("_base")).unwrap();
    world.inventory(&json!([{"name": "instance-00000001", "host": HOST, "image_ref": "image-used"}]));
    let before = world.snapshot();
    let run: Run = world.prune(NO_ARGS).exits(0);
    assert!(run.warnings().contains(&"no_cache_directory".to_owned()), "{run:#?}");
    assert!(run.missing(&nova_imagecache::cache_name::cache_file_name("image-used")).is_some(), "{run:#?}");
    before.assert_same(&world.snapshot());
}

#[test]
fn a_path_that_is_not_there_is_bad_input() {
    let (world, _) = world();
    world.inventory(&json!([{"name": "instance-00000001", "host": HOST}]));
    fs_err::remove_dir_all(world.instances_path()).unwrap();
    let before = world.snapshot();
    world.prune(NO_ARGS).refused(&["instances"]);
    before.assert_same(&world.snapshot());
}

#[test]
fn a_real_prune_with_a_later_or_earlier_clock_is_no_danger() {
    let it = InUse::new();
    let future = it.world.original("image-a", Duration::ZERO);
    set_mtime(&it.world.base(&future), std::time::SystemTime::now() + 400 * DAY);
    let run = it.world.prune(["--original-min-age", "1s"]).exits(0);
    assert_eq!(run.verdict(&future), "too_young");
    assert_eq!(run.outcome(&future), "kept");
}

#[test]
fn a_disk_in_an_unlisted_directory_keeps_its_file_unless_told_otherwise() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    overlay(&it.world.path("evacuated/disk"), it.world.base(&name));
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome(&name), "kept");
    set_age(&it.world.base(&name), 2 * DAY);
    let run = it.world.prune(["--ignore-unlisted"]).exits(0);
    assert_eq!(run.outcome(&name), "removed");
}
