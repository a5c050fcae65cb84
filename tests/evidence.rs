//! What is a cache file, what needs it, and what cannot be told: on disks made by the real qemu-img.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::time::{Duration, SystemTime};

use crate::common::hostile::meanwhile;
use crate::common::{
    HOST, HOUR, MINUTE, Run, World, list, overlay, overlay_with, plain_qcow2, set_age, set_mtime, text,
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

// Wiring: which rule says what is tested in `src/verdict`.

#[test]
fn the_options_of_a_judgement_reach_it() {
    let (world, file) = world_with_an_unused_file();
    let copy = world.resized("unused", 1 << 30, 2 * HOUR);
    let part = format!("{file}.part");
    world.cache_file(&part, OLD);
    let cases: [(&[&str], [&str; 3]); 6] = [
        (&[], ["removable", "removable", "ignored"]),
        (&["--original-min-age", "31d"], ["too_young", "removable", "ignored"]),
        (&["--resized-min-age", "10800"], ["removable", "too_young", "ignored"]),
        (&["--partials"], ["removable", "removable", "removable"]),
        (&["--original-min-age", "31d", "--as-of", "+2d"], ["removable", "removable", "ignored"]),
        (&["--as-of", "2000-01-01T00:00:00Z"], ["too_young", "too_young", "ignored"]),
    ];
    for (args, verdicts) in cases {
        for run in [world.explain(args), world.dry_run(args)] {
            let run = run.exits(0);
            assert_eq!([&file, &copy, &part].map(|it| run.verdict(it)), verdicts, "{args:?}");
        }
    }
    let policy =
        world.explain(["--resized-min-age", "33m 20s", "--ignore-unlisted"]).json()["policy"].clone();
    assert_eq!(
        (&policy["resized_minimum_age_seconds"], &policy["ignore_unlisted"]),
        (&json!(2000), &json!(true))
    );
}

#[test]
fn an_instance_counts_with_its_images_its_sizes_and_its_disks() {
    let world = World::new();
    world.compute_nodes(&[HOST, "compute-2"]);
    let [image, kernel, ramdisk, other] =
        ["image", "kernel", "ramdisk", "other"].map(|it| world.original(it, OLD));
    let copies = [1_u64 << 30, 2 << 30].map(|size| world.resized("image", size, OLD));
    for name in ["swap_128", "swap_256", "ephemeral_10_aaaaaaa"] {
        world.cache_file(name, OLD);
    }
    world.instance_disk(I1, &copies[0]);
    world.inventory(&json!([
        {"uuid": "u1", "name": I1, "host": HOST, "image_ref": "image", "kernel_id": "gone", "swap_mb": 128},
        {"uuid": "u2", "host": "compute-2", "kernel_id": "kernel", "ramdisk_id": "ramdisk", "ephemeral_gb": 10},
        {"uuid": "u3", "host": "compute-9", "image_ref": "other", "swap_mb": 256},
    ]));
    let run = world.explain(NO_ARGS).exits(0);
    for (name, codes) in [
        (image.as_str(), "image_in_use"),
        (&kernel, "kernel_in_use"),
        (&ramdisk, "ramdisk_in_use"),
        (&other, "unused"),
        (&copies[0], "backing_file"),
        (&copies[1], "unused"),
        ("swap_128", "swap_in_use"),
        ("swap_256", "unused"),
        ("ephemeral_10_aaaaaaa", "ephemeral_in_use"),
    ] {
        assert_eq!(run.codes(name), [codes], "{name}");
    }
    assert_eq!(run.json()["inventory"]["counted"], 2);
    assert_eq!(run.missing(&cache_file_name("gone")).unwrap()["reasons"][0]["instances"], json!(["u1"]));
}

#[test]
fn explain_shows_only_what_is_asked_for() {
    let (world, file) = world_with_an_unused_file();
    let copy = world.resized("unused", 77, OLD);
    world.cache_file("swap_5", OLD);
    world.inventory(&json!([{"name": I1, "host": HOST, "swap_mb": 9}]));
    let path = world.base(&file).display().to_string();
    for (subjects, files, missing) in [
        (&["unused"][..], &[file.as_str(), &copy][..], &[][..]),
        (&[&copy], &[&copy], &[]),
        (&[&path, "swap_5"], &[&file, "swap_5"], &[]),
        (&[&file[..8], "swap_9"], &[&file, &copy], &["swap_9"]),
    ] {
        let json = world.explain(subjects).exits(0).json();
        let names = |key: &str| list(&json[key]).iter().map(|it| text(&it["name"])).collect::<Vec<_>>();
        assert_eq!(
            (names("files"), names("missing")),
            (
                files.iter().map(ToString::to_string).collect(),
                missing.iter().map(ToString::to_string).collect()
            ),
            "{subjects:?}"
        );
    }
}

// 1. Counted instances.

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
fn snapshots_are_read_one_level_deeper() {
    let (world, file) = world_with_an_unused_file();
    overlay(&world.path("snapshots/snap-1/disk"), world.base(&file));
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use");

    let (world, file) = world_with_an_unused_file();
    overlay(&world.path("snapshots/disk"), world.base(&file));
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use");
}

#[test]
fn a_directory_is_read_whatever_its_name() {
    for directory in ["console.log.d", "disk.info", "a b\n"] {
        let (world, file) = world_with_an_unused_file();
        world.instance_disk(directory, &file);
        assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&file), "in_use", "{directory}");
    }
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
        set_age(&world.base(name), OLD);
    }
    world.instance_disk(I1, &first);
    world.inventory(&json!([{"name": I1, "host": HOST}]));
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.with_verdict("removable"), [""; 0]);
    assert_eq!(run.reason(&third, "backing_file")["disks"], json!([world.base(&second)]));
}

#[test]
fn an_external_data_file_is_kept() {
    let (world, file) = world_with_an_unused_file();
    let disk = world.path(I1).join("disk");
    fs_err::create_dir(world.path(I1)).unwrap();
    let options = format!("data_file={},cluster_size=64k", world.base(&file).display());
    crate::common::qemu_img(["create", "-q", "-f", "qcow2", "-o", &options, disk.to_str().unwrap(), "64k"]);
    set_age(&world.base(&file), OLD);
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

// 4. Listed and unlisted directories.

#[test]
fn disks_of_unlisted_directories_keep_files_unless_they_are_left_out() {
    for directory in ["orphan", "instance-00000001_del", "Display Name"] {
        let (world, file) = world_with_an_unused_file();
        let disk = world.instance_disk(directory, &file);
        plain_qcow2(&world.path(I1).join("disk"));
        let run = world.explain(NO_ARGS).exits(0);
        assert_eq!(run.codes(&file), ["backing_file_unlisted"], "{directory}");
        assert_eq!(run.reason(&file, "backing_file_unlisted")["disks"], json!([disk]));
        let unlisted = run.json()["unlisted_directories"].clone();
        assert_eq!((list(&unlisted).len(), &unlisted[0]["name"]), (1, &json!(directory)));
        assert_eq!(unlisted[0]["keeps"], json!([file]));
        let run = world.explain(["--ignore-unlisted"]).exits(0);
        assert_eq!(run.verdict(&file), "removable", "{directory}");
    }
}

#[test]
fn cache_directories_of_other_hosts_are_neither_listed_nor_unlisted() {
    let (world, file) = world_with_an_unused_file();
    fs_err::create_dir(world.path("orphan")).unwrap();
    overlay(&world.path("_base_10.0.0.1/disk"), world.base(&file));
    for args in [&[][..], &["--ignore-unlisted"]] {
        let run = world.explain(args).exits(0);
        let unlisted = run.json()["unlisted_directories"].clone();
        assert_eq!((list(&unlisted).len(), &unlisted[0]["name"]), (1, &json!("orphan")));
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

// Incomplete evidence.

/// What makes the evidence incomplete, or only seems to: given a world and its unused file.
type Damage<'a> = (&'a str, bool, &'a dyn Fn(&World, &str));

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    fs_err::OpenOptions::new().write(true).open(path).unwrap().file().write_all_at(bytes, offset).unwrap();
}

#[test]
fn whatever_could_hide_a_backing_name_makes_nothing_removable() {
    // What headers, names and formats are errors: src/qcow2.rs, src/backing_name.rs and tests/qcow2_differential.rs.
    // Links that lead nowhere: tests/traps.rs.
    let named = |world: &World, name: &str| overlay(&world.path(I1).join("disk"), name);
    let broken = |path: &Path| {
        overlay(path, "x");
        overwrite(path, 4, &9_u32.to_be_bytes());
    };
    let cases: &[Damage<'_>] = &[
        ("a header that cannot be understood", false, &|w, _| broken(&w.path(I1).join("disk"))),
        ("the same in a directory of no instance", false, &|w, _| broken(&w.path("orphan/disk"))),
        ("the same of a snapshot", false, &|w, _| broken(&w.path("snapshots/one/disk"))),
        ("the same that nova never uses as a disk", true, &|w, _| broken(&w.path(I1).join("console.log"))),
        ("the same of the cache itself", true, &|w, _| broken(&w.base(cache_file_name("broken")))),
        ("a protocol nobody knows", false, &|w, _| named(w, "marsftp:/a/b")),
        ("a remote protocol", true, &|w, _| named(w, "nbd:192.0.2.1:10809")),
        ("a chain link elsewhere that is not there", false, &|w, _| named(w, "/nowhere/at/all")),
        ("a chain link elsewhere that is broken", false, &|w, _| {
            broken(&w.outside().join("volume"));
            overlay(&w.path(I1).join("disk"), w.outside().join("volume"));
        }),
        ("a chain link whose own backing file is gone", false, &|w, _| {
            overlay(&w.outside().join("volume"), "/nowhere/volume");
            overlay(&w.path(I1).join("disk"), w.outside().join("volume"));
        }),
        ("a chain link through a link in an instance's directory", false, &|w, _| {
            fs_err::create_dir(w.outside().join("unmounted")).unwrap();
            named(w, w.path(I1).join("volumes/a").to_str().unwrap());
            symlink(w.outside().join("unmounted"), w.path(I1).join("volumes")).unwrap();
        }),
        ("a chain link to a missing disk of an instance", true, &|w, _| named(w, "../i2/gone")),
        ("a chain link in a cache directory elsewhere", true, &|w, _| named(w, "/mnt/old/_base/0000")),
        ("a chain link to a missing cache file", true, &|w, _| named(w, "../_base/0000")),
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
            assert_eq!([&young, &used].map(|it| run.verdict(it)), ["too_young", "in_use"], "{what}");
            let blocks = |it: &&Value| it["blocks"] == true;
            assert_eq!(list(&run.json()["unreadable"]).iter().any(|it| blocks(&it)), !is_complete, "{what}");
            assert_eq!(run.stderr.contains("incomplete"), !is_complete, "{what}: {}", run.stderr);
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
fn a_raw_disk_whose_header_can_be_read_keeps_what_it_names() {
    let (world, file) = world_with_an_unused_file();
    world.instance_disk(I1, &file);
    fs_err::write(world.path(I1).join("disk.info"), r#"{"/x/disk": "raw"}"#).unwrap();
    assert_eq!(world.explain(NO_ARGS).exits(0).codes(&file), ["backing_file"]);
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
fn directories_that_nova_renames_all_the_time_keep_their_files() {
    let world = World::new();
    let ids: Vec<String> = (0..8).map(|it| format!("instance-{it:08x}")).collect();
    let files: Vec<String> = ids.iter().map(|it| world.original(it, OLD)).collect();
    for (id, file) in ids.iter().zip(&files) {
        world.instance_disk(id, file);
    }
    world.inventory(&json!(ids.iter().map(|it| json!({"name": it, "host": HOST})).collect::<Vec<_>>()));
    // Enough around them for a listing to take several calls, between which a directory is renamed.
    for index in 0..1000 {
        fs_err::create_dir(world.path(format!("other-{index:0200}"))).unwrap();
    }
    let long_ago = SystemTime::now() - OLD;
    let rename = |step: u64| {
        for id in &ids {
            let (here, there) = (world.path(id), world.path(format!("{id}_resize")));
            let (from, to) = if step.is_multiple_of(2) { (here, there) } else { (there, here) };
            fs_err::rename(from, to).unwrap();
            // As where the times of a filesystem are whole seconds: the listings differ, and the mtimes do not.
            set_mtime(&world.instances_path(), long_ago);
            std::thread::sleep(Duration::from_micros(100));
        }
    };
    meanwhile(rename, || {
        for _ in 0..20 {
            let run = world.explain(NO_ARGS);
            // Found under either name, or owned up to.
            for file in &files {
                let verdict = run.verdict(file);
                assert!(verdict == "in_use" || verdict == "unknown" && run.code == 1, "{run:#?}");
            }
        }
    });
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
    set_age(&world.base(&name), OLD);
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
