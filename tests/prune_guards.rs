//! What stands before the first removal of a real prune: its refusals, which change nothing, and the touch.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::Duration;

use crate::common::prune::{
    InUse, finish, is_now, names, plain_file, prune_command, under_strace, untouched,
};
use crate::common::{DAY, HOST, Run, Snapshot, World, mtime, set_age};
use serde_json::json;

const NO_ARGS: [&str; 0] = [];

/// A world with something to remove, a disk, and an inventory; without a directory of locks, which a refused prune must
/// not make.
fn world() -> (World, String) {
    let world = World::new();
    let name = world.original("image-a", 2 * DAY);
    let used = world.original("image-used", 2 * DAY);
    world.instance_disk("instance-00000001", &used);
    world.inventory(&json!([{"name": "instance-00000001", "host": HOST, "image_ref": "image-used"}]));
    fs_err::remove_dir(world.path("locks")).unwrap();
    (world, name)
}

fn without_inventory(world: &World) {
    fs_err::remove_file(world.outside().join("inventory.json")).unwrap();
}

const DOMAIN: &str = "<domain type='kvm'><name>instance-00000001</name>\
    <uuid>1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5</uuid><metadata>\
    <nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.1'>\
    <nova:root type='image' uuid='image-used'/></nova:instance></metadata></domain>";

/// Each guard once; the tables of what they refuse are beside them, in `guard.rs`. A dry run is refused, too, or shows the
/// file, or knows that the evidence is incomplete.
#[test]
fn a_prune_that_is_refused_changes_nothing_and_goes_on_when_that_is_mended() {
    type Act = fn(&World);
    type Guard = (&'static [&'static str], &'static [&'static str], i32, Act, &'static [&'static str]);
    let guards: [Guard; 8] = [
        (&[], &["--inventory", "--libvirt", "--disks-only"], 0, without_inventory, &["--disks-only"]),
        (&["--disks-only"], &["--disks-only", "--inventory"], 2, |_| {}, &[]),
        (
            &["--ignore-unlisted"],
            &["--ignore-unlisted", "--inventory"],
            2,
            without_inventory,
            &["--disks-only"],
        ),
        (
            &[],
            &["incomplete"],
            1,
            |world| {
                drop(world.inventory(&json!({"servers": [{"id": "2c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5", "status": "UNKNOWN"}, {
                "id": "1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5", "status": "ACTIVE", "image": {"id": "image-used"},
                "OS-EXT-SRV-ATTR:instance_name": "instance-00000001", "OS-EXT-SRV-ATTR:host": HOST}]})))
            },
            &[],
        ),
        (
            &[],
            &[HOST, "--host", "compute_nodes"],
            0,
            |world| {
                world.inventory(
                    &json!([{"name": "instance-00000001", "host": "compute-2", "image_ref": "image-used"}]),
                );
                world.compute_nodes(&["compute-2"]);
            },
            &["--allow-empty"],
        ),
        (
            &["--libvirt", "domain.xml", "--ignore-unlisted"],
            &["compute-2", "--ignore-unlisted"],
            0,
            |world| {
                without_inventory(world);
                world.file("domain.xml", DOMAIN);
                world.compute_nodes(&[HOST, "compute-2"]);
            },
            &["--libvirt", "domain.xml"],
        ),
        (&[], &["--allow-empty"], 2, |world| drop(world.inventory(&json!([]))), &["--allow-empty"]),
        (
            &["--disks-only"],
            &["mounted", "--allow-empty"],
            2,
            |world| {
                without_inventory(world);
                fs_err::remove_file(world.path("instance-00000001/disk")).unwrap();
            },
            &["--disks-only", "--allow-empty"],
        ),
    ];
    for (args, words, dry_code, act, mended) in guards {
        let (world, name) = world();
        act(&world);
        let before = world.snapshot();
        world.prune(args).refused(words);
        before.assert_same(&world.snapshot());
        let dry = world.dry_run(args);
        assert_eq!(dry.code, dry_code, "{args:?}: {dry:#?}");
        if dry_code < 2 {
            assert_eq!(dry.outcome(&name), if dry_code == 0 { "would_remove" } else { "kept" });
            assert_eq!(dry.json()["complete"], dry_code == 0);
        }
        before.assert_same(&world.snapshot());
        if dry_code == 1 {
            world.inventory(&json!([{"name": "instance-00000001", "host": HOST, "image_ref": "image-used"}]));
        }
        assert_eq!(world.prune(mended).exits(0).outcome(&name), "removed", "{args:?}");
    }
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
    without_inventory(&world);
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
    let before = world.snapshot();
    let run: Run = world.prune(NO_ARGS).exits(0);
    assert!(run.warnings().contains(&"no_cache_directory".to_owned()), "{run:#?}");
    assert!(run.missing(&nova_imagecache::cache_name::cache_file_name("image-used")).is_some(), "{run:#?}");
    before.assert_same(&world.snapshot());
}
