//! What is a cache file, what needs it, and what cannot be told: on disks made by the real qemu-img. Which rule says what
//! is tested in `src/verdict`, in tables; here each is reached.

use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileExt as _, MetadataExt as _, symlink};
use std::path::Path;
use std::time::Duration;

use crate::common::{
    HOST, HOUR, MINUTE, NO_ARGS, Run, World, list, overlay, overlay_with, qemu_img, set_age, text,
};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::{Value, json};

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
    let policy = world.explain(["--resized-min-age", "33m 20s", "--ignore-unlisted"]).json()["policy"].take();
    assert_eq!(policy["resized_minimum_age_seconds"], 2000);
    assert_eq!(policy["ignore_unlisted"], true);
}

#[test]
fn where_it_is_not_known_who_shares_the_path_every_instance_counts() {
    let world = World::new();
    let [shared, other] = ["shared", "other"].map(|it| world.original(it, OLD));
    world.compute_nodes(&[HOST, "compute-2"]);
    world.inventory(&json!([
        {"uuid": "u2", "host": "compute-2", "kernel_id": "shared", "swap_mb": 7, "ephemeral_gb": 7},
        {"uuid": "u3", "host": "compute-9", "image_ref": "other"},
    ]));
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!([run.codes(&shared), run.codes(&other)], [["kernel_in_use"], ["unused"]]);
    assert_eq!((&run.json()["inventory"]["counted"], &run.json()["missing"]), (&json!(1), &json!([])));
    for broken in [None, Some("not json"), Some("[\"compute-1\"]"), Some("")] {
        match broken {
            None => fs_err::remove_file(world.path("compute_nodes")).unwrap(),
            Some(content) => fs_err::write(world.path("compute_nodes"), content).unwrap(),
        }
        let run = world.explain(NO_ARGS).exits(0);
        assert_eq!(run.codes(&other), ["image_in_use"], "{broken:?}");
        assert!(run.stderr.contains("compute_nodes"), "{broken:?}: {}", run.stderr);
    }
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
        for (key, expected) in [("files", files), ("missing", missing)] {
            let names: Vec<_> = list(&json[key]).iter().map(|it| text(&it["name"])).collect();
            assert_eq!(names, expected, "{subjects:?}");
        }
    }
}

#[test]
fn every_instance_disk_and_image_that_keeps_a_file_is_named() {
    let world = World::new();
    let image = world.original("a", OLD);
    let uuids: Vec<String> = (0..9).map(|index| format!("uuid-{index}")).collect();
    let row = |uuid: &String| json!({"uuid": uuid, "host": HOST, "image_ref": "a"});
    world.inventory(&uuids.iter().map(row).collect());
    let disks: Vec<_> = uuids.iter().map(|uuid| world.instance_disk(uuid, &image)).collect();
    let orphan = world.instance_disk("orphan", &image);

    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.codes(&image), ["image_in_use", "backing_file", "backing_file_unlisted"]);
    let [used, listed, unlisted] =
        ["image_in_use", "backing_file", "backing_file_unlisted"].map(|code| run.reason(&image, code));
    assert_eq!((&used["images"], &used["instances"]), (&json!(["a"]), &json!(uuids)));
    assert_eq!((&listed["disks"], &listed["instances"]), (&json!(disks), &json!(uuids)));
    assert_eq!((&unlisted["disks"], &unlisted["instances"]), (&json!([orphan]), &json!([])));
    // And in the table, when the file is asked for.
    let table = world.run("explain", ["--host", HOST, "--inventory", "inventory.json", &image]).exits(0);
    for it in disks.iter().chain([&orphan]).map(|it| it.to_str().unwrap()).chain(uuids.iter().map(|it| &**it))
    {
        assert!(table.stdout.contains(it), "no {it} in {}", table.stdout);
    }
}

/// Lays something into a world, given its unused file.
type Lay = fn(&World, &str);

#[test]
fn a_file_is_kept_by_whatever_disk_leads_to_it() {
    let cases: [(&str, &str, Lay); 11] = [
        ("a disk with a snapshot and a bitmap", "backing_file", |world, file| {
            let disk = world.path(I1).join("disk");
            overlay_with(&disk, world.base(file), "cluster_size=64k");
            qemu_img(["bitmap", "--add", disk.to_str().unwrap(), "bitmap0"]);
            qemu_img(["snapshot", "-c", "snap", disk.to_str().unwrap()]);
        }),
        ("a raw disk by disk.info that has a header", "backing_file", |world, file| {
            world.instance_disk(I1, file);
            fs_err::write(world.path(I1).join("disk.info"), r#"{"/x/disk": "raw"}"#).unwrap();
        }),
        ("a disk of a snapshot", "backing_file_unlisted", |world, file| {
            overlay(&world.path("snapshots/snap-1/disk"), world.base(file));
        }),
        ("a disk beside the snapshots", "backing_file_unlisted", |world, file| {
            overlay(&world.path("snapshots/disk"), world.base(file));
        }),
        ("directories of any name", "backing_file_unlisted", |world, file| {
            for directory in ["console.log.d", "disk.info", "a b\n"] {
                world.instance_disk(directory, file);
            }
        }),
        ("an external data file", "backing_file", |world, file| {
            fs_err::create_dir(world.path(I1)).unwrap();
            let disk = world.path(I1).join("disk").display().to_string();
            let options = format!("data_file={},cluster_size=64k", world.base(file).display());
            qemu_img(["create", "-q", "-f", "qcow2", "-o", &options, &disk, "64k"]);
            set_age(&world.base(file), OLD);
        }),
        ("a link to a disk", "backing_file", |world, file| {
            let disk = world.outside().join("other-storage/disk");
            overlay(&disk, world.base(file));
            fs_err::create_dir(world.path(I1)).unwrap();
            symlink(disk, world.path(I1).join("disk")).unwrap();
        }),
        ("a link to a directory", "backing_file", |world, file| {
            overlay(&world.outside().join("other-storage/disk"), world.base(file));
            symlink(world.outside().join("other-storage"), world.path(I1)).unwrap();
        }),
        ("a relative name in a linked directory", "backing_file", |world, file| {
            overlay(&world.outside().join("other-storage/i/disk"), "../middle");
            overlay(&world.outside().join("other-storage/middle"), world.base(file));
            symlink(world.outside().join("other-storage/i"), world.path(I1)).unwrap();
        }),
        ("a chain elsewhere", "backing_file", |world, file| {
            let links = ["one", "two", "three"].map(|name| world.outside().join("volumes").join(name));
            overlay(&links[2], world.base(file));
            overlay(&links[1], "three");
            overlay(&links[0], &links[1]);
            overlay(&world.path(I1).join("disk"), &links[0]);
        }),
        ("a chain within the cache", "backing_file", |world, file| {
            let [first, second] = ["1", "2"].map(cache_file_name);
            overlay(&world.base(&second), file);
            overlay(&world.base(&first), world.base(&second));
            world.instance_disk(I1, &first);
        }),
    ];
    for (what, code, lay) in cases {
        let (world, file) = world_with_an_unused_file();
        lay(&world, &file);
        let run = world.explain(NO_ARGS).exits(0);
        assert_eq!(run.codes(&file), [code], "{what}: {run:#?}");
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
fn disks_of_unlisted_directories_keep_files_unless_they_are_left_out() {
    let (world, file) = world_with_an_unused_file();
    let disk = world.instance_disk("orphan", &file);
    // Another host's cache, and an instance that is resized, are never left out.
    let [of_another_host, resized] = ["other", "resized"].map(|it| world.original(it, OLD));
    overlay(&world.path("_base_10.0.0.1/disk"), world.base(&of_another_host));
    world.instance_disk(&format!("{I1}_resize"), &resized);
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.codes(&file), ["backing_file_unlisted"]);
    assert_eq!(run.reason(&file, "backing_file_unlisted")["disks"], json!([disk]));
    let unlisted = run.json()["unlisted_directories"].take();
    assert_eq!((list(&unlisted).len(), &unlisted[0]["name"]), (1, &json!("orphan")));
    assert_eq!(unlisted[0]["keeps"], json!([file]));
    // Left out, it cannot stop anything either.
    symlink("/nowhere", world.path("orphan/disk.local")).unwrap();
    world.explain(NO_ARGS).exits(1);
    let run = world.explain(["--ignore-unlisted"]).exits(0);
    assert_eq!(run.verdict(&file), "removable");
    for kept in [of_another_host, resized] {
        assert_eq!(run.codes(&kept), ["backing_file"]);
    }
}

// Incomplete evidence.

fn overwrite(path: &Path, offset: u64, bytes: &[u8]) {
    fs_err::OpenOptions::new().write(true).open(path).unwrap().file().write_all_at(bytes, offset).unwrap();
}

/// Makes a disk whose header cannot be understood.
fn broken(path: &Path) {
    overlay(path, "x");
    overwrite(path, 4, &9_u32.to_be_bytes());
}

#[test]
fn whatever_could_hide_a_backing_name_makes_nothing_removable() {
    // What headers, names and formats are errors: src/qcow2.rs, src/backing_name.rs and tests/qcow2_differential.rs.
    // Links that lead nowhere: tests/traps.rs.
    fn names(world: &World, name: &str) {
        overlay(&world.path(I1).join("disk"), name);
    }
    type Damage = fn(&World);
    let cases: [(&str, bool, Damage); 14] = [
        ("a header that cannot be understood", false, |w| broken(&w.path(I1).join("disk"))),
        ("the same in a directory of no instance", false, |w| broken(&w.path("orphan/disk"))),
        ("the same of a snapshot", false, |w| broken(&w.path("snapshots/one/disk"))),
        ("the same that nova never uses as a disk", true, |w| broken(&w.path(I1).join("console.log"))),
        ("the same of the cache itself", true, |w| broken(&w.base(cache_file_name("broken")))),
        ("a protocol nobody knows", false, |w| names(w, "marsftp:/a/b")),
        ("a remote protocol", true, |w| names(w, "nbd:192.0.2.1:10809")),
        ("a chain link elsewhere that is not there", false, |w| names(w, "/nowhere/at/all")),
        ("a chain link elsewhere that is broken", false, |w| {
            broken(&w.outside().join("volume"));
            names(w, "../../volume");
        }),
        ("a chain link whose own backing file is gone", false, |w| {
            overlay(&w.outside().join("volume"), "/nowhere/volume");
            names(w, "../../volume");
        }),
        ("a chain link through a link in an instance's directory", false, |w| {
            fs_err::create_dir(w.outside().join("unmounted")).unwrap();
            names(w, w.path(I1).join("volumes/a").to_str().unwrap());
            symlink(w.outside().join("unmounted"), w.path(I1).join("volumes")).unwrap();
        }),
        ("a chain link to a missing disk of an instance", true, |w| names(w, "../i2/gone")),
        ("a chain link in a cache directory elsewhere", true, |w| names(w, "/mnt/old/_base/0000")),
        ("a chain link to a missing cache file", true, |w| names(w, "../_base/0000")),
    ];
    for (what, is_complete, damage) in cases {
        let (world, file) = world_with_an_unused_file();
        let young = world.original("young", MINUTE);
        let used = world.original("used", OLD);
        overlay(&world.path("i2/disk"), world.base(&used));
        damage(&world);
        for run in [world.explain(NO_ARGS), world.dry_run(NO_ARGS)] {
            let json = run.json();
            assert_eq!(run.code, i32::from(!is_complete), "{what}: {run:#?}");
            assert_eq!(json["complete"], is_complete, "{what}");
            assert_eq!(run.verdict(&file), if is_complete { "removable" } else { "unknown" }, "{what}");
            assert_eq!([&young, &used].map(|it| run.verdict(it)), ["too_young", "in_use"], "{what}");
            let blocks = |it: &Value| it["blocks"] == true;
            assert_eq!(list(&json["unreadable"]).iter().any(blocks), !is_complete, "{what}");
            assert_eq!(run.stderr.contains("incomplete"), !is_complete, "{what}: {}", run.stderr);
        }
    }
}

#[test]
fn a_disk_that_is_raw_by_disk_info_cannot_stop_the_clean_up() {
    for (info, is_excused) in [
        (json!({"/somewhere/else/disk": "raw"}), true),
        (json!({"disk": "raw", "disk.config": "qcow2"}), true),
        (json!({"/a/disk": "qcow2"}), false),
        (json!({"/a/disk.config": "raw"}), false),
        (json!({"/a/disk": "raw", "/b/disk": "qcow2"}), false),
        (json!({}), false),
        (json!(["disk"]), false),
    ] {
        let (world, file) = world_with_an_unused_file();
        broken(&world.path(I1).join("disk"));
        fs_err::write(world.path(I1).join("disk.info"), info.to_string()).unwrap();
        let run = world.explain(NO_ARGS).exits(i32::from(!is_excused));
        assert_eq!(run.verdict(&file), if is_excused { "removable" } else { "unknown" }, "{info}");
    }
}

// fname.

#[test]
fn fname_prints_one_name_a_line_in_the_order_asked() {
    let world = World::new();
    for (args, stdin, expected) in [
        (&["b", "-", "a", "ü"][..], "1\r\n  21 \n42\n", &["b", "1", "21", "42", "a", "ü"][..]),
        (&["-"], "1", &["1"]),
        (&["-"], "", &[]),
    ] {
        let run = Run::of(world.command().arg("fname").args(args).write_stdin(stdin)).exits(0);
        let expected: Vec<_> = expected.iter().map(|it| cache_file_name(it)).collect();
        assert_eq!(run.stdout.lines().collect::<Vec<_>>(), expected);
    }
}

#[test]
fn fname_needs_no_instances_path_but_looks_into_one_that_is_named() {
    let world = World::new();
    let [there, absent] = [world.original("a", OLD), cache_file_name("b")];
    let run = Run::of(world.command().args(["fname", "-f", "json", "a"])).exits(0);
    let file = json!({"image_id": "a", "file_name": there, "path": null, "exists": null});
    assert_eq!(run.json(), json!({"schema_version": 1, "files": [file]}));
    let run = world.run("fname", ["-f", "json", "a", "b"]).exits(0);
    assert_eq!(
        run.json()["files"],
        json!([{"image_id": "a", "file_name": there, "path": world.base(&there), "exists": true},
               {"image_id": "b", "file_name": absent, "path": world.base(&absent), "exists": false}])
    );
}

// The tools' own word.

#[test]
fn sizes_are_what_the_kernel_says() {
    let world = World::new();
    let name = world.original("a", OLD);
    overwrite(&world.base(&name), 100_000, b"x");
    let metadata = fs_err::metadata(world.base(&name)).unwrap();
    let file = world.scan().exits(0).file(&name);
    assert_eq!((&file["size_bytes"], metadata.size()), (&json!(100_001), 100_001));
    assert_eq!(file["disk_bytes"], metadata.blocks() * 512);
}

#[test]
fn names_that_are_not_utf8_come_with_their_bytes() {
    let world = World::new();
    fs_err::write(world.base(std::ffi::OsStr::from_bytes(b"a\xff\xc3b")), "").unwrap();
    overlay(&world.path(I1).join("disk"), std::ffi::OsStr::from_bytes(b"/x/_base/c\xfe"));
    world.inventory(&json!([{"name": I1, "host": HOST}]));
    for run in [world.scan(), world.explain(NO_ARGS)] {
        let file = run.exits(0).file("a\u{fffd}\u{fffd}b");
        assert_eq!((&file["name_bytes"], &file["kind"]), (&json!("61ffc362"), &json!("other")));
    }
    let missing = world.explain(NO_ARGS).exits(0).missing("c\u{fffd}").unwrap();
    assert_eq!(missing["name_bytes"], "63fe");
    let table = world.run("scan", NO_ARGS).exits(0);
    assert!(table.stdout.contains("a\\xff\\xc3b"), "{}", table.stdout);
}
