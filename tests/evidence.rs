//! What is a cache file, what needs it, and what cannot be told: on disks made by the real qemu-img.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::{
    DAY, HOST, HOUR, MINUTE, Run, World, list, overlay, overlay_with, plain_qcow2, raw, text, tool,
};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::{Value, json};

const NO_ARGS: [&str; 0] = [];
const OLD: Duration = Duration::from_secs(30 * 24 * 3600);
/// An instance of this host that uses no image.
const I1: &str = "instance-00000001";

/// A world with one old original that nothing needs yet, and one instance of this host without an image.
fn world_with_an_unused_file() -> (World, String) {
    let world = World::new();
    let file = world.original("unused", OLD);
    world.inventory(&json!([{"name": I1, "host": HOST}]));
    (world, file)
}

// Kinds.

#[test]
fn every_name_has_its_kind() {
    let world = World::new();
    let hex = cache_file_name("a");
    let cases = [
        (hex.clone(), "original", true),
        (format!("{hex}_1"), "resized", true),
        (format!("{hex}_sm"), "small", true),
        (format!("{hex}.info"), "info", true),
        (format!("{hex}_1.info"), "info", true),
        (format!("{hex}_sm.info"), "info", true),
        (format!("{hex}.part"), "partial", true),
        (format!("{hex}_1.part"), "partial", true),
        (format!("{hex}.converted"), "partial", true),
        (format!("{hex}_sm.converted"), "partial", true),
        ("swap_1".into(), "swap", false),
        ("swap_1024".into(), "swap", false),
        ("ephemeral_20_a1b2c3d".into(), "ephemeral", false),
        ("ephemeral_1_abcdefg".into(), "ephemeral", false),
        ("ephemeral_1_default".into(), "ephemeral", false),
        (hex.to_uppercase(), "other", false),
        (format!("{hex}_"), "other", false),
        (format!("{hex}_1x"), "other", false),
        (format!("{hex}_1_2"), "other", false),
        (format!("{hex}_-1"), "other", false),
        (format!("{hex}_SM"), "other", false),
        (format!("{hex}0"), "other", false),
        (hex[1..].into(), "other", false),
        (format!("g{}", &hex[1..]), "other", false),
        (format!("{hex}.info.info"), "other", false),
        (format!("{hex}.part.info"), "other", false),
        (format!("{hex}.part.part"), "other", false),
        (format!("{hex}.tmp"), "other", false),
        (format!("{hex}.sha1"), "other", false),
        ("swap_1.info".into(), "other", false),
        ("swap_1.part".into(), "other", false),
        ("ephemeral_1_abcdefg.info".into(), "other", false),
        ("x".repeat(40), "other", false),
        ("00000001".into(), "other", false),
        ("swap_".into(), "other", false),
        ("swap_abc".into(), "other", false),
        ("123_swap".into(), "other", false),
        ("swap_129_".into(), "other", false),
        ("swap_+1".into(), "other", false),
        ("ephemeral_0_20_None".into(), "other", false),
        ("ephemeral_1_abcdef".into(), "other", false),
        ("ephemeral_1_abcdefgh".into(), "other", false),
        ("ephemeral_1_abc_efg".into(), "other", false),
        ("ephemeral__abcdefg".into(), "other", false),
        ("ephemeral_x_abcdefg".into(), "other", false),
    ];
    for (name, ..) in &cases {
        fs_err::write(world.base(name), "").unwrap();
    }
    let run = world.scan().exits(0);
    for (name, kind, has_fingerprint) in &cases {
        let file = run.file(name);
        assert_eq!(file["kind"], *kind, "{name}");
        let fingerprint = if *has_fingerprint { json!(hex) } else { Value::Null };
        assert_eq!(file["fingerprint"], fingerprint, "{name}");
    }
    assert_eq!(run.json()["summary"]["files"], cases.len());
}

#[test]
fn directories_and_special_files_of_the_cache_are_never_touched() {
    let world = World::new();
    let [directory, fifo, socket, dangling, to_directory] = ["a", "b", "c", "d", "e"].map(cache_file_name);
    fs_err::create_dir(world.base(&directory)).unwrap();
    nix::unistd::mkfifo(&world.base(&fifo), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(world.base(&socket)).unwrap();
    symlink("/nowhere/at/all", world.base(&dangling)).unwrap();
    symlink(world.path("locks"), world.base(&to_directory)).unwrap();
    world.inventory(&json!([]));
    let run = world.explain(["--as-of", "+365d"]).exits(0);
    for name in [&directory, &fifo, &socket, &dangling, &to_directory] {
        let file = run.file(name);
        assert_eq!((&file["kind"], &file["verdict"]), (&json!("other"), &json!("ignored")), "{file:#}");
        assert_eq!(file["minimum_age_seconds"], Value::Null);
        assert_eq!(run.codes(name), ["not_a_cache_file"]);
    }
}

#[test]
fn a_link_to_a_regular_file_counts_as_that_file() {
    let world = World::new();
    let target = world.outside().join("elsewhere");
    raw(&target, "12k");
    crate::common::set_age(&target, 3 * HOUR);
    let name = cache_file_name("a");
    symlink(&target, world.base(&name)).unwrap();
    let file = world.scan().exits(0).file(&name);
    assert_eq!(file["kind"], "original");
    assert_eq!(file["size_bytes"], 12 * 1024);
    assert!((3 * 3600..3 * 3600 + 60).contains(&file["age_seconds"].as_u64().unwrap()), "{file:#}");
}

#[test]
fn every_kind_has_its_minimum_age() {
    let world = World::new();
    let hex = cache_file_name("a");
    let day = 24 * 3600;
    let cases = [
        (hex.clone(), day, 1000),
        (format!("{hex}_1"), 3600, 2000),
        (format!("{hex}_sm"), 3600, 2000),
        ("swap_1".into(), day, 1000),
        ("ephemeral_1_abcdefg".into(), day, 1000),
        // Info files have that of their file; alone, that of originals.
        (format!("{hex}.info"), day, 1000),
        (format!("{hex}_1.info"), 3600, 2000),
        (format!("{hex}_5.info"), day, 1000),
        (format!("{hex}.part"), day, 1000),
    ];
    for (name, ..) in &cases {
        world.cache_file(name, Duration::ZERO);
    }
    world.inventory(&json!([]));
    let default = world.explain(["--partials"]).exits(0);
    let args = ["--partials", "--original-min-age", "1000", "--resized-min-age", "33m 20s"];
    let given = world.explain(args).exits(0);
    for (name, by_default, as_given) in &cases {
        assert_eq!(default.file(name)["minimum_age_seconds"], *by_default, "{name}");
        assert_eq!(default.verdict(name), "too_young", "{name}");
        assert_eq!(given.file(name)["minimum_age_seconds"], *as_given, "{name}");
    }
    // And each waits for just as long.
    for (name, by_default, _) in &cases {
        for (age, verdict) in [(by_default - 600, "too_young"), (by_default + 1, "removable")] {
            let then = format!("+{age}s");
            let run = world.explain(["--partials", "--as-of", &then]).exits(0);
            assert_eq!(run.verdict(name), verdict, "{name} at {then}");
        }
    }
}

#[test]
fn an_info_file_goes_with_its_file() {
    let world = World::new();
    let used = world.original("used", OLD);
    let unused = world.original("unused", OLD);
    let alone = cache_file_name("gone");
    for name in [&used, &unused, &alone] {
        world.cache_file(&format!("{name}.info"), 2 * HOUR);
    }
    world.inventory(&json!([{"name": I1, "host": HOST, "image_ref": "used"}]));
    let run = world.explain(NO_ARGS).exits(0);
    for (name, verdict, codes) in [
        (&used, "in_use", ["sidecar"]),
        // As old as its file, whatever its own mtime.
        (&unused, "removable", ["sidecar"]),
        (&alone, "too_young", ["unused"]),
    ] {
        let info = format!("{name}.info");
        assert_eq!(run.verdict(&info), verdict, "{info}");
        assert_eq!(run.codes(&info), codes, "{info}");
    }
}

#[test]
fn partials_are_judged_only_when_asked_for() {
    let (world, file) = world_with_an_unused_file();
    let names = ["part", "converted"].map(|it| format!("{file}.{it}"));
    for name in &names {
        world.cache_file(name, 25 * HOUR);
    }
    let without = world.explain(NO_ARGS).exits(0);
    let with = world.explain(["--partials"]).exits(0);
    for name in &names {
        assert_eq!(without.verdict(name), "ignored");
        assert_eq!(without.codes(name), ["partial"]);
        assert_eq!(with.verdict(name), "removable");
    }
    world.inventory(&json!([{"name": I1, "host": HOST, "image_ref": "unused"}]));
    let used = world.explain(["--partials"]).exits(0);
    assert_eq!(used.verdict(&names[0]), "removable", "a broken download is not what an instance uses");
}

// 1. Counted instances.

#[test]
fn instances_count_by_host_storage_or_directory() {
    let elsewhere = "compute-9";
    let uuid = "0e1e1ab6-7d38-4f0e-a5b6-000000000001";
    for (row, counted, local) in [
        (json!({"host": HOST}), true, true),
        (json!({"host": HOST, "vm_state": "shelved_offloaded"}), true, true),
        (json!({"host": HOST, "vm_state": "error"}), true, true),
        (json!({"host": "compute-2"}), true, false),
        (json!({"host": elsewhere}), false, false),
        (json!({"host": elsewhere, "vm_state": "active"}), false, false),
        (json!({}), true, true),
        (json!({"host": null, "vm_state": "building"}), true, true),
        (json!({"host": ""}), true, true),
        (json!({"vm_state": "shelved_offloaded"}), false, false),
        (json!({"vm_state": "error"}), false, false),
        (json!({"host": elsewhere, "name": "instance-here"}), true, false),
        (json!({"host": elsewhere, "uuid": uuid}), true, false),
        (json!({"host": elsewhere, "uuid": uuid.replace("01", "02")}), false, false),
        (json!({"name": "instance-here", "vm_state": "shelved_offloaded"}), true, true),
        (json!({"name": "instance-resized", "host": elsewhere, "vm_state": "resized"}), true, false),
        (json!({"name": "instance-resized", "host": elsewhere, "vm_state": "active"}), false, false),
    ] {
        let world = World::new();
        world.compute_nodes(&[HOST, "compute-2"]);
        for directory in ["instance-here", uuid, "instance-resized_resize"] {
            plain_qcow2(&world.path(directory).join("disk"));
        }
        let used = world.original("used", OLD);
        let mut row = row;
        row["image_ref"] = json!("used");
        row["kernel_id"] = json!("not here");
        if row["name"].is_null() && row["uuid"].is_null() {
            row["name"] = json!("instance-nowhere");
        }
        world.inventory(&json!([row.clone(), {"name": "another", "host": HOST}]));
        let run = world.explain(NO_ARGS).exits(0);
        assert_eq!(run.verdict(&used), if counted { "in_use" } else { "removable" }, "{row}");
        assert_eq!(run.json()["inventory"]["counted"], if counted { 2 } else { 1 }, "{row}");
        assert_eq!(run.json()["inventory"]["instances"], 2, "{row}");
        let missing = run.missing(&cache_file_name("not here"));
        assert_eq!(missing.is_some(), local, "only what a local instance asks for is missed: {row}");
    }
}

#[test]
fn without_a_readable_compute_nodes_every_instance_counts() {
    for broken in [None, Some("not json"), Some("[\"compute-1\"]"), Some("")] {
        let world = World::new();
        let used = world.original("used", OLD);
        world.inventory(&json!([{"name": "i", "host": "compute-9", "image_ref": "used"}]));
        assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&used), "removable");
        match broken {
            None => fs_err::remove_file(world.path("compute_nodes")).unwrap(),
            Some(content) => fs_err::write(world.path("compute_nodes"), content).unwrap(),
        }
        let run = world.explain(NO_ARGS).exits(0);
        assert_eq!(run.verdict(&used), "in_use", "{broken:?}");
        assert!(run.stderr.contains("compute_nodes"), "{broken:?}: {}", run.stderr);
    }
}

#[test]
fn a_compute_nodes_that_is_a_fifo_does_not_block() {
    let world = World::new();
    let used = world.original("used", OLD);
    world.inventory(&json!([{"name": "i", "host": "compute-9", "image_ref": "used"}]));
    fs_err::remove_file(world.path("compute_nodes")).unwrap();
    nix::unistd::mkfifo(&world.path("compute_nodes"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&used), "in_use");
}

// 2. Images.

#[test]
fn images_kernels_and_ramdisks_keep_their_originals_and_small_copies() {
    let world = World::new();
    let rows = ["image_ref", "kernel_id", "ramdisk_id"]
        .map(|field| json!({"uuid": format!("uuid-{field}"), "host": HOST, field: format!("of {field}")}));
    for (row, code) in rows.iter().zip(["image_in_use", "kernel_in_use", "ramdisk_in_use"]) {
        let uuid = text(&row["uuid"]);
        let image = uuid.replace("uuid-", "of ");
        let original = world.original(&image, OLD);
        let small = format!("{original}_sm");
        world.cache_file(&small, OLD);
        world.inventory(&json!(rows));
        let run = world.explain(NO_ARGS).exits(0);
        for name in [&original, &small] {
            assert_eq!(run.verdict(name), "in_use", "{code} of {name}");
            assert_eq!(run.codes(name), [code]);
            let reason = run.reason(name, code);
            assert_eq!(reason["images"], json!([image]));
            assert_eq!(reason["instances"], json!([uuid]));
        }
    }
}

#[test]
fn every_instance_disk_and_image_that_keeps_a_file_is_named() {
    let world = World::new();
    let image = world.original("a", OLD);
    let rows: Vec<Value> = (0..9)
        .map(|index| json!({"uuid": format!("uuid-{index}"), "host": HOST, "image_ref": "a"}))
        .collect();
    world.inventory(&json!(rows));
    let mut disks: Vec<_> =
        (0..9).map(|index| world.instance_disk(&format!("uuid-{index}"), &image)).collect();
    let orphans = ["orphan-1", "orphan-2"].map(|name| world.instance_disk(name, &image));
    let extra = world.path("uuid-3/disk.config");
    overlay(&extra, world.base(&image));
    disks.push(extra);
    disks.sort();

    let run = world.explain(NO_ARGS).exits(0);
    let uuids: Vec<_> = (0..9).map(|index| format!("uuid-{index}")).collect();
    assert_eq!(run.codes(&image), ["image_in_use", "backing_file", "backing_file_unlisted"]);
    assert_eq!(run.reason(&image, "image_in_use")["images"], json!(["a"]));
    assert_eq!(run.reason(&image, "image_in_use")["instances"], json!(uuids));
    assert_eq!(run.reason(&image, "backing_file")["disks"], json!(disks));
    assert_eq!(run.reason(&image, "backing_file")["instances"], json!(uuids));
    assert_eq!(run.reason(&image, "backing_file_unlisted")["disks"], json!(orphans));
    assert_eq!(run.reason(&image, "backing_file_unlisted")["instances"], json!([]));

    // And in the table, when the file is asked for.
    let table = world.run("explain", ["--host", HOST, "--inventory", "inventory.json", &image]).exits(0);
    let everything =
        uuids.iter().cloned().chain(disks.iter().chain(&orphans).map(|it| it.display().to_string()));
    for it in everything {
        assert!(table.stdout.contains(&it), "no {it} in {}", table.stdout);
    }
}

// 3. Disks.

#[test]
fn a_backing_name_counts_however_it_is_written() {
    let world = World::new();
    let names: Vec<_> = (0..14).map(|index| world.original(&index.to_string(), OLD)).collect();
    let base = world.path("_base").display().to_string();
    let json_name = |options: Value| format!("json:{options}");
    let written = [
        format!("{base}/{}", names[0]),
        format!("../_base/{}", names[1]),
        format!("file:{base}/{}", names[2]),
        format!("file:../_base/{}", names[3]),
        json_name(
            json!({"driver": "raw", "file": {"driver": "file", "filename": format!("{base}/{}", names[4])}}),
        ),
        json_name(
            json!({"driver": "raw", "file.driver": "file", "file.filename": format!("{base}/{}", names[5])}),
        ),
        json_name(json!({"file.filename": format!("{base}/{}", names[6])})),
        json_name(json!({"driver": "file", "filename": format!("../_base/{}", names[7])})),
        json_name(json!({"driver": "raw", "file": {"driver": "throttle", "throttle-group": "g",
            "file": {"driver": "file", "filename": format!("{base}/{}", names[8])}}})),
        // Of another instances path: only the base name counts.
        format!("/mnt/old/nova/instances/_base/{}", names[9]),
        format!("/another/name/than/_base/../_base/{}", names[10]),
        format!("{base}//.//{}", names[11]),
        format!("{base}/{}{}", "./".repeat(400), names[12]),
        format!("./../_base/{}", names[13]),
    ];
    let rows: Vec<_> = (0..written.len()).map(|it| json!({"name": format!("i{it}"), "host": HOST})).collect();
    world.inventory(&json!(rows));
    for (index, name) in written.iter().enumerate() {
        // The whole name must lie in the first cluster.
        overlay_with(&world.path(format!("i{index}/disk")), name, "cluster_size=4k");
    }
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.json()["complete"], true, "{:#}", run.json()["unreadable"]);
    for (index, (file, written)) in names.iter().zip(&written).enumerate() {
        assert_eq!(run.verdict(file), "in_use", "{written}");
        let reason = run.reason(file, "backing_file");
        assert_eq!(reason["disks"], json!([world.path(format!("i{index}/disk"))]), "{written}");
        assert_eq!(reason["instances"], json!([format!("i{index}")]), "{written}");
    }
}

#[test]
fn every_version_and_cluster_size_of_qcow2_is_read() {
    for options in [
        "compat=0.10",
        "compat=1.1",
        "cluster_size=512",
        "cluster_size=2M",
        "compat=1.1,lazy_refcounts=on",
        "compression_type=zstd",
        "extended_l2=on,cluster_size=64k",
        "refcount_bits=1",
    ] {
        let (world, file) = world_with_an_unused_file();
        overlay_with(&world.path("i/disk"), world.base(&file), options);
        let run = world.explain(NO_ARGS).exits(0);
        assert_eq!(run.verdict(&file), "in_use", "{options}");
    }
}

#[test]
fn an_internal_snapshot_or_bitmap_does_not_hide_the_backing_file() {
    let (world, file) = world_with_an_unused_file();
    let disk = world.path(I1).join("disk");
    overlay_with(&disk, world.base(&file), "cluster_size=64k");
    let disk_arg = disk.to_str().unwrap();
    crate::common::qemu_img(["bitmap", "--add", disk_arg, "bitmap0"]);
    crate::common::qemu_img(["snapshot", "-c", "snap", disk_arg]);
    assert_eq!(world.explain(NO_ARGS).exits(0).codes(&file), ["backing_file"]);
}

#[test]
fn every_regular_file_of_a_directory_is_read_whatever_its_name() {
    let names =
        ["disk", "disk.local", "disk.swap", "disk.eph0", "disk.rescue", "disk.config", "abc", "a b\n"];
    for name in names {
        let (world, file) = world_with_an_unused_file();
        overlay(&world.path(I1).join(name), world.base(&file));
        assert_eq!(world.explain(NO_ARGS).exits(0).codes(&file), ["backing_file"], "{name:?}");
    }
}

#[test]
fn snapshots_are_read_one_level_deeper() {
    let (world, file) = world_with_an_unused_file();
    overlay(&world.path("snapshots/snap-1/disk"), world.base(&file));
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use");

    let (world, file) = world_with_an_unused_file();
    overlay(&world.path("snapshots/disk"), world.base(&file));
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use");
}

#[test]
fn what_nova_never_uses_as_a_disk_and_deeper_directories_keep_nothing() {
    for below in ["i/deeper/disk", "locks/disk", "i/console.log", "i/console.log.0"] {
        let (world, file) = world_with_an_unused_file();
        overlay(&world.path(below), world.base(&file));
        assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "removable", "{below}");
    }
}

#[test]
fn a_chain_is_followed_to_its_end() {
    let (world, file) = world_with_an_unused_file();
    let links = ["one", "two", "three"].map(|name| world.outside().join("volumes").join(name));
    overlay(&links[2], world.base(&file));
    overlay(&links[1], "three");
    overlay(&links[0], &links[1]);
    let disk = world.path(I1).join("disk");
    overlay(&disk, &links[0]);
    let run = world.explain(NO_ARGS).exits(0);
    let reason = run.reason(&file, "backing_file");
    let disks: Vec<_> = list(&reason["disks"]).iter().map(text).collect();
    assert!(disks.contains(&disk.display().to_string()), "the disk that the chain began with: {reason:#}");
    assert_eq!(reason["instances"], json!([I1]));
}

#[test]
fn a_chain_within_the_cache_keeps_all_of_it() {
    let world = World::new();
    let [first, second, third] = ["1", "2", "3"].map(cache_file_name);
    world.cache_file(&third, OLD);
    overlay(&world.base(&second), &third);
    overlay(&world.base(&first), world.base(&second));
    for name in [&first, &second] {
        crate::common::set_age(&world.base(name), OLD);
    }
    world.instance_disk(I1, &first);
    world.inventory(&json!([{"name": I1, "host": HOST}]));
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.with_verdict("removable"), [""; 0]);
    assert_eq!(run.reason(&third, "backing_file")["disks"], json!([world.base(&second)]));
}

#[test]
fn a_chain_that_bites_its_tail_ends() {
    let (world, file) = world_with_an_unused_file();
    let [one, two] = ["one", "two"].map(|name| world.outside().join(name));
    overlay(&one, &two);
    overlay(&two, &one);
    overlay(&world.path(I1).join("disk"), &one);
    overlay(&world.path(I1).join("disk.local"), world.base(&file));
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use");
}

#[test]
fn an_external_data_file_is_kept() {
    let (world, file) = world_with_an_unused_file();
    let disk = world.path(I1).join("disk");
    fs_err::create_dir(world.path(I1)).unwrap();
    let options = format!("data_file={},cluster_size=64k", world.base(&file).display());
    crate::common::qemu_img(["create", "-q", "-f", "qcow2", "-o", &options, disk.to_str().unwrap(), "64k"]);
    crate::common::set_age(&world.base(&file), OLD);
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use");
}

#[test]
fn links_to_disks_and_directories_are_followed() {
    let (world, file) = world_with_an_unused_file();
    let elsewhere = world.outside().join("other-storage");
    overlay(&elsewhere.join("disk"), world.base(&file));
    fs_err::create_dir(world.path(I1)).unwrap();
    symlink(elsewhere.join("disk"), world.path(I1).join("disk")).unwrap();
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.reason(&file, "backing_file")["instances"], json!([I1]), "a link to a disk");

    fs_err::remove_dir_all(world.path(I1)).unwrap();
    symlink(&elsewhere, world.path(I1)).unwrap();
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.reason(&file, "backing_file")["instances"], json!([I1]), "a link to a directory");
}

#[test]
fn a_relative_name_in_a_linked_directory_is_understood() {
    let (world, file) = world_with_an_unused_file();
    let elsewhere = world.outside().join("other-storage/i");
    overlay(&elsewhere.join("disk"), "../middle");
    overlay(&world.outside().join("other-storage/middle"), world.base(&file));
    symlink(&elsewhere, world.path(I1)).unwrap();
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use");
}

#[test]
fn fifos_sockets_and_devices_are_no_disks_and_do_not_block() {
    let (world, file) = world_with_an_unused_file();
    let directory = world.path(I1);
    fs_err::create_dir(&directory).unwrap();
    nix::unistd::mkfifo(&directory.join("disk"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let _socket = std::os::unix::net::UnixListener::bind(directory.join("monitor.sock")).unwrap();
    symlink("/dev/tty", directory.join("disk.tty")).unwrap();
    symlink(directory.join("disk"), directory.join("disk.link")).unwrap();
    nix::unistd::mkfifo(&world.path("fifo"), nix::sys::stat::Mode::S_IRWXU).unwrap();
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&file), "removable");
    assert_eq!(run.json()["unreadable"], json!([]));
}

// 4. Listed and unlisted directories.

#[test]
fn disks_of_unlisted_directories_keep_files_unless_they_are_left_out() {
    for directory in ["orphan", "instance-00000001_del", "instance-00000001_resize", "Display Name"] {
        let (world, file) = world_with_an_unused_file();
        let disk = world.instance_disk(directory, &file);
        plain_qcow2(&world.path(I1).join("disk"));
        let run = world.explain(NO_ARGS).exits(0);
        assert_eq!(run.codes(&file), ["backing_file_unlisted"], "{directory}");
        assert_eq!(run.reason(&file, "backing_file_unlisted")["disks"], json!([disk]));
        assert_eq!(run.json()["unlisted_directories"], json!([directory]));
        let run = world.explain(["--ignore-unlisted"]).exits(0);
        assert_eq!(run.verdict(&file), "removable", "{directory}");
    }
}

#[test]
fn a_resize_directory_is_listed_just_while_its_instance_resizes() {
    let uuid = "0e1e1ab6-7d38-4f0e-a5b6-000000000001";
    for (field, state, is_listed) in [
        ("task_state", "resize_prep", true),
        ("task_state", "resize_migrating", true),
        ("task_state", "resize_migrated", true),
        ("task_state", "resize_finish", true),
        ("vm_state", "resized", true),
        ("task_state", "resize_reverting", false),
        ("task_state", "migrating", false),
        ("task_state", "resized", false),
        ("vm_state", "active", false),
        ("vm_state", "resize_prep", false),
    ] {
        for id in ["uuid", "name"] {
            let (world, file) = world_with_an_unused_file();
            world.instance_disk(&format!("{uuid}_resize"), &file);
            world.inventory(&json!([{id: uuid, "host": HOST, field: state}]));
            let run = world.explain(NO_ARGS).exits(0);
            let code = if is_listed { "backing_file" } else { "backing_file_unlisted" };
            assert_eq!(run.codes(&file), [code], "{field} {state}");
            let run = world.explain(["--ignore-unlisted"]).exits(0);
            let verdict = if is_listed { "in_use" } else { "removable" };
            assert_eq!(run.verdict(&file), verdict, "{field} {state}");
        }
    }
}

#[test]
fn cache_directories_of_other_hosts_are_neither_listed_nor_unlisted() {
    let (world, file) = world_with_an_unused_file();
    fs_err::create_dir(world.path("orphan")).unwrap();
    overlay(&world.path("_base_10.0.0.1/disk"), world.base(&file));
    for args in [&[][..], &["--ignore-unlisted"]] {
        let run = world.explain(args).exits(0);
        assert_eq!(run.json()["unlisted_directories"], json!(["orphan"]));
        assert_eq!(run.codes(&file), ["backing_file"], "{args:?}");
    }
}

#[test]
fn the_cache_directory_may_have_another_name() {
    let (world, file) = world_with_an_unused_file();
    fs_err::rename(world.path("_base"), world.path("_base_10.0.0.7")).unwrap();
    overlay(&world.path(I1).join("disk"), format!("../_base_10.0.0.7/{file}"));
    let run = world.explain(["--subdirectory-name", "_base_10.0.0.7"]).exits(0);
    assert_eq!(run.codes(&file), ["backing_file"]);
    assert_eq!(run.json()["cache_dir"], json!(world.path("_base_10.0.0.7")));
    assert_eq!(run.json()["unlisted_directories"], json!([]));
}

// 5. Resized copies.

#[test]
fn resized_copies_of_a_used_image_are_unused_only_where_every_disk_tells() {
    /// Directory, file, what backs it.
    type Disks<'a> = &'a [(&'a str, &'a str, &'a str)];
    let row = |name: &str, image: &str| json!({"name": name, "host": HOST, "image_ref": image});
    let cases: [(&str, Disks<'_>, bool); 9] = [
        ("one disk on a copy", &[("i1", "disk", "copy")], true),
        ("no disk at all", &[], false),
        ("a disk on the original", &[("i1", "disk", "original")], false),
        ("a disk on nothing", &[("i1", "disk", "")], false),
        ("another file on a copy", &[("i1", "disk.local", "copy")], false),
        ("a disk in a directory of no instance", &[("orphan", "disk", "copy")], false),
        ("a disk on a copy of another image", &[("i1", "disk", "foreign")], false),
        ("two disks, one on a copy", &[("i1", "disk", "copy"), ("i2", "disk", "original")], true),
        ("two instances, one without a disk", &[("i1", "disk", "copy"), ("i2", "disk.local", "")], false),
    ];
    for (what, disks, is_told) in cases {
        let world = World::new();
        let original = world.original("a", OLD);
        let copy = world.resized("a", 1 << 30, OLD);
        let other = world.resized("a", 2 << 30, OLD);
        let foreign = world.resized("b", 1 << 30, OLD);
        let mut rows = vec![row("i1", "a")];
        if disks.iter().any(|(directory, ..)| *directory == "i2") {
            rows.push(row("i2", "a"));
        }
        world.inventory(&json!(rows));
        for (directory, name, backing) in disks {
            let disk = world.path(directory).join(name);
            match *backing {
                "copy" => overlay(&disk, world.base(&copy)),
                "original" => overlay(&disk, world.base(&original)),
                "foreign" => overlay(&disk, world.base(&foreign)),
                _ => plain_qcow2(&disk),
            }
        }
        let run = world.explain(NO_ARGS).exits(0);
        if is_told {
            assert_eq!(run.verdict(&other), "removable", "{what}");
        } else {
            assert!(
                run.codes(&other).contains(&"resized_copy_kept".into()),
                "{what}: {:?}",
                run.codes(&other)
            );
        }
        assert_eq!(run.verdict(&original), "in_use", "{what}");
    }
}

#[test]
fn a_kernel_in_use_has_no_resized_copies_to_keep_by_disks_of_others() {
    // Rule 5 asks the instances that were started from the image, and no kernel is one.
    let world = World::new();
    let copy = world.resized("k", 1 << 30, OLD);
    world.inventory(&json!([{"name": I1, "host": HOST, "kernel_id": "k"}]));
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&copy), "in_use");
}

// 6. Swap and ephemeral files.

#[test]
fn swap_and_ephemeral_files_are_kept_by_size_or_by_disks() {
    let world = World::new();
    let names = [
        "swap_128",
        "swap_256",
        "swap_512",
        "ephemeral_10_aaaaaaa",
        "ephemeral_10_bbbbbbb",
        "ephemeral_20_aaaaaaa",
        "ephemeral_30_aaaaaaa",
    ];
    for name in names {
        world.cache_file(name, OLD);
    }
    world.inventory(&json!([
        {"name": "i1", "host": HOST, "swap_mb": 128, "ephemeral_gb": 10},
        {"name": "i2", "host": HOST, "swap_mb": 0, "ephemeral_gb": 0},
        {"name": "i3", "host": "elsewhere", "swap_mb": 256},
    ]));
    overlay(&world.path("i2/disk.swap"), world.base("swap_512"));
    overlay(&world.path("orphan/disk.eph0"), world.base("ephemeral_30_aaaaaaa"));
    let run = world.explain(NO_ARGS).exits(0);
    for (name, codes) in names.iter().zip([
        "swap_in_use",
        "unused",
        "backing_file",
        "ephemeral_in_use",
        "ephemeral_in_use",
        "unused",
        "backing_file_unlisted",
    ]) {
        assert_eq!(run.codes(name), [codes], "{name}");
    }
    assert_eq!(run.with_verdict("removable"), ["ephemeral_20_aaaaaaa", "swap_256"]);
    assert_eq!(run.reason("ephemeral_10_bbbbbbb", "ephemeral_in_use")["instances"], json!(["i1"]));
}

// Incomplete evidence.

/// What makes the evidence incomplete, or only seems to: given a world and its unused file.
type Damage<'a> = (&'a str, bool, &'a dyn Fn(&World, &str));

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    fs_err::OpenOptions::new().write(true).open(path).unwrap().file().write_all_at(bytes, offset).unwrap();
}

fn cut(path: &Path, length: u64) {
    fs_err::OpenOptions::new().write(true).open(path).unwrap().file().set_len(length).unwrap();
}

/// Where the backing file name of a qcow2 image ends.
fn name_end(path: &Path) -> u64 {
    let head = fs_err::read(path).unwrap();
    let offset = u64::from_be_bytes(head[8..16].try_into().unwrap());
    offset + u64::from(u32::from_be_bytes(head[16..20].try_into().unwrap()))
}

fn image_of_format(path: &Path, format: &str) {
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    crate::common::qemu_img(["create", "-q", "-f", format, path.to_str().unwrap(), "1M"]);
}

#[test]
fn whatever_could_hide_a_backing_name_makes_nothing_removable() {
    let disk = |world: &World| {
        let disk = world.path(I1).join("disk");
        overlay(&disk, world.base("0000"));
        disk
    };
    let named = |world: &World, name: &str| overlay(&world.path(I1).join("disk"), name);
    let cases: &[Damage<'_>] = &[
        ("a header cut off after the magic", false, &|w, _| cut(&disk(w), 4)),
        ("a header cut off within", false, &|w, _| cut(&disk(w), 60)),
        ("a header cut off within the name", false, &|w, _| cut(&disk(w), name_end(&disk(w)) - 1)),
        ("an unknown incompatible feature", false, &|w, _| {
            overwrite(&disk(w), 72, &(1_u64 << 40).to_be_bytes())
        }),
        ("an unknown version", false, &|w, _| overwrite(&disk(w), 4, &4_u32.to_be_bytes())),
        ("a name beyond the cluster", false, &|w, _| overwrite(&disk(w), 8, &4000_u64.to_be_bytes())),
        ("a name within the header", false, &|w, _| overwrite(&disk(w), 8, &8_u64.to_be_bytes())),
        ("a name of absurd length", false, &|w, _| overwrite(&disk(w), 16, &u32::MAX.to_be_bytes())),
        ("clusters of 2 bytes", false, &|w, _| overwrite(&disk(w), 20, &1_u32.to_be_bytes())),
        ("qcow version 1", false, &|w, _| image_of_format(&w.path(I1).join("disk"), "qcow")),
        ("QED", false, &|w, _| image_of_format(&w.path(I1).join("disk"), "qed")),
        ("VMDK", false, &|w, _| image_of_format(&w.path(I1).join("disk"), "vmdk")),
        ("VHDX", false, &|w, _| image_of_format(&w.path(I1).join("disk"), "vhdx")),
        ("VDI, which has no parents", true, &|w, _| image_of_format(&w.path(I1).join("disk"), "vdi")),
        ("raw, which has none either", true, &|w, _| image_of_format(&w.path(I1).join("disk"), "raw")),
        ("an empty file", true, &|w, _| raw(&w.path(I1).join("disk"), "0")),
        ("a protocol nobody knows", false, &|w, _| named(w, "marsftp:/a/b")),
        ("a remote protocol", true, &|w, _| named(w, "nbd:192.0.2.1:10809")),
        ("a remote json: name", true, &|w, _| {
            named(w, r#"json:{"driver":"raw","file":{"driver":"rbd","pool":"p","image":"i"}}"#);
        }),
        ("json: that is none", false, &|w, _| named(w, "json:{")),
        ("a json: driver nobody knows", false, &|w, _| {
            named(w, r#"json:{"driver":"mars","file":{"driver":"phobos"}}"#);
        }),
        ("a dangling link in the place of a disk", false, &|w, _| {
            fs_err::create_dir(w.path(I1)).unwrap();
            symlink("/nowhere/at/all", w.path(I1).join("disk")).unwrap();
        }),
        ("a dangling link in the place of a directory", false, &|w, _| {
            symlink("/nowhere/at/all", w.path(I1)).unwrap();
        }),
        ("a loop of links in the place of a disk", false, &|w, _| {
            fs_err::create_dir(w.path(I1)).unwrap();
            symlink("disk", w.path(I1).join("disk")).unwrap();
        }),
        ("a loop of links in the place of a directory", false, &|w, _| symlink(I1, w.path(I1)).unwrap()),
        ("a dangling link in a directory of no instance", false, &|w, _| {
            fs_err::create_dir(w.path("orphan")).unwrap();
            symlink("/nowhere/at/all", w.path("orphan/disk")).unwrap();
        }),
        ("a chain link elsewhere that is not there", false, &|w, _| named(w, "/nowhere/at/all")),
        ("a chain link elsewhere that is broken", false, &|w, _| {
            let link = w.outside().join("volume");
            overlay(&link, "/nowhere");
            overwrite(&link, 4, &9_u32.to_be_bytes());
            overlay(&w.path(I1).join("disk"), link);
        }),
        ("a chain link in a cache directory elsewhere", true, &|w, _| named(w, "/mnt/old/_base/0000")),
        ("a chain link to a missing cache file", true, &|w, _| named(w, "../_base/0000")),
        ("a chain link whose own backing file is gone", false, &|w, _| {
            let link = w.outside().join("volume");
            overlay(&link, "/nowhere/volume");
            overlay(&w.path(I1).join("disk"), link);
        }),
        ("a broken snapshot disk", false, &|w, _| {
            let path = w.path("snapshots/one/disk");
            overlay(&path, "x");
            overwrite(&path, 4, &9_u32.to_be_bytes());
        }),
        ("a broken file of the cache itself", true, &|w, _| {
            let path = w.base(cache_file_name("broken"));
            overlay(&path, "x");
            overwrite(&path, 4, &9_u32.to_be_bytes());
        }),
        ("a dangling link in the cache", true, &|w, _| {
            symlink("/nowhere/at/all", w.base(cache_file_name("broken"))).unwrap();
        }),
        ("a broken file that nova never uses as a disk", true, &|w, _| {
            let path = w.path(I1).join("console.log");
            overlay(&path, "x");
            overwrite(&path, 4, &9_u32.to_be_bytes());
        }),
    ];
    for (what, is_complete, damage) in cases {
        let (world, file) = world_with_an_unused_file();
        let young = world.original("young", MINUTE);
        let used = world.original("used", OLD);
        overlay(&world.path("i2/disk"), world.base(&used));
        damage(&world, &file);
        for run in [world.explain(NO_ARGS), world.dry_run(NO_ARGS)] {
            assert_eq!(run.code, if *is_complete { 0 } else { 1 }, "{what}: {run:#?}");
            assert_eq!(run.json()["complete"], *is_complete, "{what}");
            assert_eq!(run.verdict(&file), if *is_complete { "removable" } else { "unknown" }, "{what}");
            assert_eq!(run.verdict(&young), "too_young", "{what}");
            assert_eq!(run.verdict(&used), "in_use", "{what}");
            if !is_complete {
                assert!(!list(&run.json()["unreadable"]).is_empty(), "{what}");
                assert!(run.stderr.contains("incomplete"), "{what}: {}", run.stderr);
            }
        }
    }
}

#[test]
fn a_disk_that_is_raw_by_disk_info_cannot_stop_the_clean_up() {
    let cases = [
        (json!({"/somewhere/else/disk": "raw"}), true),
        (json!({"disk": "raw", "disk.config": "qcow2"}), true),
        (json!({"/a/disk": "qcow2"}), false),
        (json!({"/a/disk.config": "raw"}), false),
        (json!({"/a/disk": "raw", "/b/disk": "qcow2"}), false),
        (json!({}), false),
        (json!(["disk"]), false),
    ];
    for (info, is_excused) in cases {
        let (world, file) = world_with_an_unused_file();
        let disk = world.path(I1).join("disk");
        overlay(&disk, "x");
        overwrite(&disk, 4, &9_u32.to_be_bytes());
        fs_err::write(world.path(I1).join("disk.info"), info.to_string()).unwrap();
        let run = world.explain(NO_ARGS).exits(if is_excused { 0 } else { 1 });
        assert_eq!(run.verdict(&file), if is_excused { "removable" } else { "unknown" }, "{info}");
    }
}

#[test]
fn a_guest_that_writes_a_protocol_into_its_raw_disk_cannot_stop_the_clean_up() {
    let (world, file) = world_with_an_unused_file();
    overlay(&world.path(I1).join("disk"), "marsftp:/a");
    fs_err::write(world.path(I1).join("disk.info"), r#"{"/x/disk": "raw"}"#).unwrap();
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "removable");
}

#[test]
fn a_raw_disk_whose_header_can_be_read_keeps_what_it_names() {
    let (world, file) = world_with_an_unused_file();
    world.instance_disk(I1, &file);
    fs_err::write(world.path(I1).join("disk.info"), r#"{"/x/disk": "raw"}"#).unwrap();
    assert_eq!(world.explain(NO_ARGS).exits(0).codes(&file), ["backing_file"]);
}

#[test]
fn what_may_not_be_read_makes_nothing_removable_but_for_lost_and_found() {
    for (below, is_dir, is_complete) in
        [("i/disk", false, false), ("i", true, false), ("orphan", true, false), ("lost+found", true, true)]
    {
        let (world, file) = world_with_an_unused_file();
        if is_dir {
            fs_err::create_dir(world.path(below)).unwrap();
        } else {
            plain_qcow2(&world.path(below));
        }
        world.give_to_nobody();
        world.set_mode(below, 0);
        let mut command = world.as_nobody();
        command.args(["explain", "-f", "json", "--host", HOST, "--inventory"]);
        command.arg(world.outside().join("inventory.json")).arg("-p").arg(world.instances_path());
        let run = Run::of(&mut command);
        world.set_mode(below, 0o755);
        let run = run.exits(if is_complete { 0 } else { 1 });
        assert_eq!(run.verdict(&file), if is_complete { "removable" } else { "unknown" }, "{below}");
        let path = world.path(below).display().to_string();
        let unreadable = run.json()["unreadable"].clone();
        assert_eq!(list(&unreadable).iter().any(|it| it["path"] == path), !is_complete, "{unreadable:#}");
    }
}

#[test]
fn broken_disks_that_are_left_out_stop_nothing() {
    let (world, file) = world_with_an_unused_file();
    fs_err::create_dir(world.path("orphan")).unwrap();
    symlink("/nowhere", world.path("orphan/disk")).unwrap();
    assert_eq!(world.explain(NO_ARGS).exits(1).verdict(&file), "unknown");
    assert_eq!(world.explain(["--ignore-unlisted"]).exits(0).verdict(&file), "removable");
}

// Renames.

#[test]
fn a_directory_that_nova_renames_all_the_time_keeps_its_files() {
    let (world, file) = world_with_an_unused_file();
    world.instance_disk(I1, &file);
    // Enough around it for a listing to take its time.
    for index in 0..60 {
        fs_err::create_dir(world.path(format!("other-{index:03}"))).unwrap();
    }
    let [here, there] = [world.path(I1), world.path(format!("{I1}_resize"))];
    let stop = std::sync::atomic::AtomicBool::new(false);
    let (runs, renames) = std::thread::scope(|scope| {
        let renamer = scope.spawn(|| {
            let mut renames = 0_u32;
            while !stop.load(std::sync::atomic::Ordering::Relaxed) {
                for (from, to) in [(&here, &there), (&there, &here)] {
                    fs_err::rename(from, to).unwrap();
                    renames += 1;
                    std::thread::sleep(Duration::from_micros(300));
                }
            }
            renames
        });
        let runs: Vec<Run> = (0..60).map(|_| world.explain(NO_ARGS)).collect();
        stop.store(true, std::sync::atomic::Ordering::Relaxed);
        (runs, renamer.join().unwrap())
    });
    assert!(renames > 100, "only {renames} renames");
    for run in runs {
        // Found under either name, or owned up to.
        let verdict = run.verdict(&file);
        assert!(verdict == "in_use" || verdict == "unknown" && run.code == 1, "{run:#?}");
    }
}

// Missing files.

#[test]
fn missing_files_are_those_that_disks_name_or_local_instances_ask_for() {
    let world = World::new();
    world.compute_nodes(&[HOST, "compute-2"]);
    let [named, orphaned, image, kernel, remote] =
        ["named", "orphaned", "image", "kernel", "remote"].map(cache_file_name);
    world.inventory(&json!([
        {"uuid": "u1", "name": "i1", "host": HOST, "image_ref": "image", "kernel_id": "kernel", "swap_mb": 64,
         "ephemeral_gb": 5},
        {"uuid": "u2", "host": "compute-2", "image_ref": "remote", "swap_mb": 65, "ephemeral_gb": 6},
        {"uuid": "u3", "image_ref": "image"},
    ]));
    let disk = world.instance_disk("i1", &named);
    world.instance_disk("orphan", &orphaned);
    let run = world.explain(NO_ARGS).exits(0);
    let mut expected = [
        named.clone(),
        orphaned.clone(),
        image.clone(),
        kernel.clone(),
        "swap_64".into(),
        "ephemeral_5_*".into(),
    ];
    expected.sort();
    let json = run.json();
    let missing: Vec<_> = list(&json["missing"]).iter().map(|it| text(&it["name"])).collect();
    assert_eq!(missing, expected, "without {remote}, which only another host would fetch");
    let reasons = |name: &str| run.missing(name).unwrap()["reasons"].clone();
    for (name, code, instances) in [
        (named.as_str(), "backing_file", json!(["u1"])),
        (&orphaned, "backing_file_unlisted", json!([])),
        (&image, "image_in_use", json!(["u1", "u3"])),
        (&kernel, "kernel_in_use", json!(["u1"])),
        ("swap_64", "swap_in_use", json!(["u1"])),
        ("ephemeral_5_*", "ephemeral_in_use", json!(["u1"])),
    ] {
        assert_eq!(list(&reasons(name)).len(), 1, "{name}");
        assert_eq!(reasons(name)[0]["code"], code, "{name}");
        assert_eq!(reasons(name)[0]["instances"], instances, "{name}");
    }
    assert_eq!(reasons(&named)[0]["disks"], json!([disk]));

    for name in ["swap_64", "ephemeral_5_abcdefg", &named, &orphaned, &image, &kernel] {
        world.cache_file(name, OLD);
    }
    assert_eq!(world.explain(NO_ARGS).exits(0).json()["missing"], json!([]));
}

// Verdicts and times.

#[test]
fn an_mtime_in_the_future_is_the_age_zero() {
    let (world, file) = world_with_an_unused_file();
    crate::common::set_mtime(&world.base(&file), SystemTime::now() + 365 * DAY);
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&file), "too_young");
    assert_eq!(run.file(&file)["age_seconds"], 0);
    let run = world.explain(["--original-min-age", "0"]).exits(0);
    assert_eq!(run.verdict(&file), "removable");
}

#[test]
fn as_of_judges_as_if_it_were_then() {
    let (world, _) = world_with_an_unused_file();
    let file = world.original("b", Duration::ZERO);
    let mtime = SystemTime::UNIX_EPOCH + Duration::from_secs(1_900_000_000);
    crate::common::set_mtime(&world.base(&file), mtime);
    // 1,900,000,000 s is 2030-03-17T17:46:40Z.
    for (as_of, age, verdict) in [
        ("2030-03-17T17:46:39Z", 0, "too_young"),
        ("2030-03-17T17:46:50Z", 10, "too_young"),
        ("2030-03-18T17:46:39Z", 86_399, "too_young"),
        ("2030-03-18T17:46:40Z", 86_400, "removable"),
        ("2030-03-18T17:46:41.5Z", 86_401, "removable"),
    ] {
        for run in [world.explain(["--as-of", as_of]), world.dry_run(["--as-of", as_of])] {
            let run = run.exits(0);
            assert_eq!(run.file(&file)["age_seconds"], age, "{as_of}");
            assert_eq!(run.verdict(&file), verdict, "{as_of}");
        }
    }
    crate::common::set_age(&world.base(&file), Duration::ZERO);
    for (as_of, verdict) in
        [("+23h", "too_young"), ("+1d 1m", "removable"), ("+7d", "removable"), ("+86500", "removable")]
    {
        assert_eq!(world.explain(["--as-of", as_of]).exits(0).verdict(&file), verdict, "{as_of}");
    }
}

#[test]
fn an_unused_file_says_its_age_and_what_it_waits_for() {
    let (world, old) = world_with_an_unused_file();
    let young = world.original("young", 20 * HOUR);
    let run = world.explain(NO_ARGS).exits(0);
    let text_of = |name: &str| text(&run.reason(name, "unused")["text"]);
    assert!(text_of(&young).contains("20h"), "{}", text_of(&young));
    assert!(
        text_of(&young).contains("in 3h 59m") || text_of(&young).contains("in 4h"),
        "{}",
        text_of(&young)
    );
    assert!(text_of(&old).contains("30d"), "{}", text_of(&old));
}

// explain FILE|IMAGE_ID.

#[test]
fn explain_shows_only_what_is_asked_for() {
    let world = World::new();
    let a = world.original("a", OLD);
    let a_copy = world.resized("a", 77, OLD);
    let b = world.original("b", OLD);
    world.cache_file("swap_5", OLD);
    world.inventory(&json!([
        {"name": I1, "host": HOST, "image_ref": "in the inventory alone", "swap_mb": 9},
        {"name": "i2", "host": "elsewhere", "image_ref": "of another host"},
    ]));
    let missing = cache_file_name("in the inventory alone");
    let none: [&str; 0] = [];
    let cases: [(&[&str], &[&str], &[&str]); 9] = [
        (&["a"], &[&a, &a_copy], &none),
        (&[&a], &[&a], &none),
        (&[&a_copy], &[&a_copy], &none),
        (&["swap_5"], &["swap_5"], &none),
        (&["b", &a_copy], &[&a_copy, &b], &none),
        (&["in the inventory alone"], &none, &[&missing]),
        (&[&missing], &none, &[&missing]),
        (&["swap_9", "a", "a"], &[&a, &a_copy], &["swap_9"]),
        (&["of another host"], &none, &none),
    ];
    for (subjects, files, missing) in cases {
        let run = world.explain(subjects).exits(0);
        let json = run.json();
        let names = |key: &str| list(&json[key]).iter().map(|it| text(&it["name"])).collect::<Vec<_>>();
        let mut expected = files.to_vec();
        expected.sort_unstable();
        assert_eq!(names("files"), expected, "{subjects:?}");
        assert_eq!(names("missing"), missing, "{subjects:?}");
    }
}

// Guards of the dry run.

#[test]
fn a_dry_run_refuses_what_looks_like_a_mistake() {
    let with_disks = || {
        let (world, file) = world_with_an_unused_file();
        plain_qcow2(&world.path("orphan/disk"));
        (world, file)
    };

    let (world, file) = with_disks();
    world.inventory(&json!([]));
    world.dry_run(NO_ARGS).refused(&["--allow-empty"]);
    world.inventory(&json!([{"name": "i", "host": "elsewhere"}]));
    world.dry_run(NO_ARGS).refused(&["--allow-empty"]);
    assert_eq!(world.dry_run(["--allow-empty"]).exits(0).outcome(&file), "would_remove");
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "removable", "explain refuses nothing");

    let (world, file) = world_with_an_unused_file();
    fs_err::remove_file(world.outside().join("inventory.json")).unwrap();
    world.dry_run(["--disks-only"]).refused(&["--allow-empty"]);
    assert_eq!(world.dry_run(["--disks-only", "--allow-empty"]).exits(0).outcome(&file), "would_remove");
    world.dry_run(["--ignore-unlisted"]).refused(&["--ignore-unlisted", "--inventory"]);
    world.dry_run(["--ignore-unlisted", "--disks-only"]).refused(&["--ignore-unlisted"]);

    let (world, file) = with_disks();
    world.dry_run(["--disks-only"]).refused(&["--disks-only", "--inventory"]);
    fs_err::remove_file(world.outside().join("inventory.json")).unwrap();
    assert_eq!(world.dry_run(["--disks-only"]).exits(0).outcome(&file), "would_remove");
}

#[test]
fn a_dry_run_without_an_inventory_goes_by_the_disks_and_warns() {
    let (world, file) = world_with_an_unused_file();
    let named = world.original("named", OLD);
    world.instance_disk(I1, &named);
    fs_err::remove_file(world.outside().join("inventory.json")).unwrap();
    let run = world.dry_run(NO_ARGS).exits(0);
    assert_eq!((run.outcome(&file).as_str(), run.verdict(&named).as_str()), ("would_remove", "in_use"));
    assert!(run.stderr.contains("no inventory"), "{}", run.stderr);
    assert_eq!(run.json()["inventory"], Value::Null);
    assert_eq!(run.warnings(), ["no_inventory"]);
}

#[test]
fn a_host_that_nobody_knows_is_warned_of() {
    let (world, _) = world_with_an_unused_file();
    let args = ["-f", "json", "--inventory", "inventory.json", "--host", "compute-1.example"];
    let run = world.run("explain", args).exits(0);
    assert!(run.stderr.contains("compute-1.example"), "{}", run.stderr);
    assert!(run.warnings().contains(&"host_unknown".into()), "{:?}", run.warnings());
    assert_eq!(world.explain(NO_ARGS).exits(0).warnings(), [""; 0]);
}

// fname.

#[test]
fn fname_prints_one_name_a_line_in_the_order_asked() {
    let world = World::new();
    let run =
        Run::of(world.command().args(["fname", "b", "-", "a", "ü"]).write_stdin("1\r\n  21 \n42\n")).exits(0);
    let expected = ["b", "1", "21", "42", "a", "ü"].map(cache_file_name);
    assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected);
    assert_eq!(run.stdout.lines().nth(1), Some("356a192b7913b04c54574d18c28d46e6395428ab"));
    let run = Run::of(world.command().args(["fname", "-"]).write_stdin("1")).exits(0);
    assert_eq!(run.stdout.lines().count(), 1);
    let run = Run::of(world.command().args(["fname", "-"]).write_stdin("")).exits(0);
    assert_eq!(run.stdout, "");
}

#[test]
fn fname_needs_no_instances_path_but_looks_into_one_that_is_named() {
    let world = World::new();
    let there = world.original("a", OLD);
    let run = Run::of(world.command().args(["fname", "-f", "json", "a"])).exits(0);
    assert_eq!(
        run.json(),
        json!({"schema_version": 1, "files": [
        {"image_id": "a", "file_name": there, "path": null, "exists": null}]})
    );
    let absent = cache_file_name("b");
    let run = world.run("fname", ["-f", "json", "a", "b"]).exits(0);
    assert_eq!(
        run.json(),
        json!({"schema_version": 1, "files": [
        {"image_id": "a", "file_name": there, "path": world.base(&there), "exists": true},
        {"image_id": "b", "file_name": absent, "path": world.base(&absent), "exists": false}]})
    );
    let run = world.run("fname", ["-p", "/no/such/directory", "a"]);
    assert_eq!((run.code, run.stdout), (2, String::new()), "an instances path twice");
}

// The tools' own word.

#[test]
fn sizes_are_what_the_kernel_says() {
    let world = World::new();
    let name = world.original("a", OLD);
    overwrite(&world.base(&name), 100_000, b"x");
    crate::common::set_age(&world.base(&name), OLD);
    let metadata = fs_err::metadata(world.base(&name)).unwrap();
    let file = world.scan().exits(0).file(&name);
    assert_eq!(file["size_bytes"], 100_001);
    assert_eq!(file["size_bytes"], metadata.size());
    assert_eq!(file["disk_bytes"], metadata.blocks() * 512);
}

#[test]
fn names_that_are_not_utf8_come_with_their_bytes() {
    let world = World::new();
    let bytes = b"a\xff\xc3b";
    let name = std::ffi::OsStr::from_bytes(bytes);
    fs_err::write(world.base(name), "").unwrap();
    let disk_backing = [b"/x/_base/".as_slice(), b"c\xfe"].concat();
    overlay(&world.path(I1).join("disk"), std::ffi::OsStr::from_bytes(&disk_backing));
    world.inventory(&json!([{"name": I1, "host": HOST}]));
    for run in [world.scan(), world.explain(NO_ARGS)] {
        let file = run.exits(0).file("a\u{fffd}\u{fffd}b");
        assert_eq!(file["name_bytes"], "61ffc362");
        assert_eq!(file["kind"], "other");
    }
    let missing = world.explain(NO_ARGS).exits(0).missing("c\u{fffd}").unwrap();
    assert_eq!(missing["name_bytes"], "63fe");
    let table = world.run("scan", NO_ARGS).exits(0);
    assert!(table.stdout.contains("a\\xff\\xc3b"), "{}", table.stdout);
}

#[test]
fn what_it_reads_out_of_a_header_is_what_qemu_img_reads() {
    let (world, file) = world_with_an_unused_file();
    let disk = world.instance_disk(I1, &file);
    let output = std::process::Command::new(tool("qemu-img", "qemu-utils"))
        .args(["info", "--output=json", "-U"])
        .arg(&disk)
        .output()
        .unwrap();
    let info: Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(info["full-backing-filename"], json!(world.base(&file)));
    assert_eq!(world.explain(NO_ARGS).exits(0).reason(&file, "backing_file")["disks"], json!([disk]));
}
