//! What stands before the first removal of a real prune: its refusals, which change nothing, and the touch.

use std::os::unix::fs::{MetadataExt as _, symlink};
use std::time::Duration;

use crate::common::prune::{
    InUse, copy_tree, finish, is_now, names, plain_file, prune_command, under_strace, untouched,
};
use crate::common::{DAY, HOST, NO_ARGS, Snapshot, World, mtime};
use serde_json::json;

/// With something to remove, and without a directory of locks, which a refused prune must not make.
fn world() -> (InUse, String) {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    fs_err::remove_dir(it.world.path("locks")).unwrap();
    (it, name)
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
    let as_it_is: Act = |_| {};
    let of_another_host: Act = |world| {
        let row = json!([{"name": "instance-00000001", "host": "compute-2", "image_ref": "image-used"}]);
        world.inventory(&row);
        world.compute_nodes(&["compute-2"]);
    };
    let domain_of_one_host: Act = |world| {
        without_inventory(world);
        world.file("domain.xml", DOMAIN);
        world.compute_nodes(&[HOST, "compute-2"]);
    };
    let without_disk: Act = |world| {
        without_inventory(world);
        fs_err::remove_file(world.path("instance-00000001/disk")).unwrap();
    };
    let incomplete: Act = |world| {
        drop(world.inventory(
            &json!({"servers": [{"id": "2c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5", "status": "UNKNOWN"}, {
            "id": "1c5a8d9e-8f1f-4f0a-bc6e-2f0dbe7e64c5", "status": "ACTIVE", "image": {"id": "image-used"},
            "OS-EXT-SRV-ATTR:instance_name": "instance-00000001", "OS-EXT-SRV-ATTR:host": HOST}]}),
        ));
    };
    let empty: Act = |world| drop(world.inventory(&json!([])));
    // Options, words of the message, the dry run's exit code, what makes it so, and options that mend it.
    let guards: [(&str, &str, i32, Act, &str); 9] = [
        ("", "--inventory --libvirt --disks-only", 0, without_inventory, "--disks-only"),
        ("--disks-only", "--disks-only --inventory", 2, as_it_is, ""),
        ("--ignore-unlisted", "--ignore-unlisted --inventory", 2, without_inventory, "--disks-only"),
        ("--disks-only --ignore-unlisted", "--ignore-unlisted", 2, without_inventory, "--disks-only"),
        ("", "incomplete", 1, incomplete, ""),
        ("", "compute-1 --host compute_nodes", 0, of_another_host, "--allow-empty"),
        (
            "--libvirt domain.xml --ignore-unlisted",
            "compute-2 --ignore-unlisted",
            0,
            domain_of_one_host,
            "--libvirt domain.xml",
        ),
        ("", "--allow-empty", 2, empty, "--allow-empty"),
        ("--disks-only", "mounted --allow-empty", 2, without_disk, "--disks-only --allow-empty"),
    ];
    for (args, words, dry_code, act, mended) in guards {
        let (InUse { world, .. }, name) = world();
        let inventory = fs_err::read(world.outside().join("inventory.json")).unwrap();
        act(&world);
        let before = world.snapshot();
        let dry = world.dry_run(args.split_whitespace());
        assert_eq!(dry.code, dry_code, "{args:?}: {dry:#?}");
        if dry_code < 2 {
            assert_eq!(dry.outcome(&name), if dry_code == 0 { "would_remove" } else { "kept" });
            assert_eq!(dry.json()["complete"], dry_code == 0);
        }
        world.prune(args.split_whitespace()).refused(&words.split(' ').collect::<Vec<_>>());
        before.assert_same(&world.snapshot());
        if dry_code == 1 {
            world.file("inventory.json", inventory);
        }
        world.prune(mended.split_whitespace()).exits(0).told(&name, "removed", &[]);
    }
}

/// The filesystem is made one by strace: its type is what `statfs` writes first.
#[test]
fn libvirt_or_the_disks_alone_are_refused_where_the_cache_is_on_a_network_filesystem_of_its_own() {
    // Another filesystem than that of the temporary directory, whatever that is.
    let elsewhere = tempfile::Builder::new().prefix("nova-imagecache-test-").tempdir_in("/dev/shm").unwrap();
    let (InUse { world, .. }, name) = world();
    assert_ne!(
        fs_err::metadata("/dev/shm").unwrap().dev(),
        fs_err::metadata(world.outside()).unwrap().dev(),
        "the temporary directory lies in /dev/shm: set TMPDIR"
    );
    let moved = elsewhere.path().join("cache");
    copy_tree(&world.path("_base"), &moved);
    fs_err::remove_dir_all(world.path("_base")).unwrap();
    symlink(&moved, world.path("_base")).unwrap();
    world.file("domain.xml", DOMAIN);
    let inventory = fs_err::read(world.outside().join("inventory.json")).unwrap();
    without_inventory(&world);
    let nfs = ["--trace=statfs", "--inject=statfs:poke_exit=@arg2=6969000000000000"];
    for args in [&["--libvirt", "domain.xml"][..], &["--disks-only"]] {
        let before = Snapshot::of(&world.instances_path());
        let cache_before = Snapshot::of(&moved);
        let run = finish(&mut under_strace(&world, nfs, &prune_command(&world, args)));
        run.refused(&["network filesystem", "--inventory"]);
        before.assert_same(&Snapshot::of(&world.instances_path()));
        cache_before.assert_same(&Snapshot::of(&moved));
    }
    // On one of this machine's, and with an inventory, it may.
    assert_eq!(world.dry_run(["--disks-only"]).exits(0).outcome(&name), "would_remove");
    world.file("inventory.json", inventory);
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
fn with_incomplete_evidence_prune_touches_what_is_in_use_and_stops() {
    let it = InUse::new();
    let old = it.world.original("image-a", 2 * DAY);
    fs_err::create_dir(it.world.path("instance-0000000f")).unwrap();
    fs_err::write(it.world.path("instance-0000000f/disk"), b"QFI\xfb\x00\x00\x00\x03").unwrap();
    let before = untouched(&it.world, &[&it.used]);
    let run = it.world.prune(NO_ARGS).exits(1);
    assert_eq!(run.json()["complete"], false);
    assert_eq!((run.verdict(&old), run.outcome(&old)), ("unknown".into(), "kept".into()));
    assert_eq!(run.json()["summary"]["touched"], 1);
    assert!(is_now(mtime(&it.world.base(&it.used))));
    before.assert_same(&untouched(&it.world, &[&it.used]));
    assert_eq!(names(&it.world.path("locks")), ["imagecache-prune.lock".to_owned()].into());
}

#[test]
fn a_path_without_a_cache_directory_has_nothing_to_prune() {
    let (InUse { world, .. }, _) = world();
    fs_err::remove_dir_all(world.path("_base")).unwrap();
    let before = world.snapshot();
    let run = world.prune(NO_ARGS).exits(0);
    assert!(run.warnings().contains(&"no_cache_directory".to_owned()), "{run:#?}");
    assert!(run.missing(&nova_imagecache::cache_name::cache_file_name("image-used")).is_some(), "{run:#?}");
    before.assert_same(&world.snapshot());
}
