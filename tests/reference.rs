//! nova's own unit test of the pass, case by case, on real files: tests/README.md says which test here stands for which
//! case there.

use std::time::{Duration, SystemTime};

use crate::common::nova::Nova;
use crate::common::prune::{
    Running, finish, inject, is_now, prune_command, under_strace, untouched, wait_until,
};
use crate::common::{DAY, HOST, HOUR, Run, World, list, mtime, set_age, set_mtime, text};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

/// A fingerprint that the reference uses, of an image whose id nobody knows.
const E97: &str = "e97222e91fc4241f49a7f520d1dcf446751129b3";
const NO_ARGS: [&str; 0] = [];

/// Three instances of the reference, of no image, and a directory with a disk for one of them.
fn world_with_a_disk_on(directory: &str, backing: &str) -> World {
    let world = World::new();
    world.cache_file(backing, 30 * DAY);
    world.instance_disk(directory, backing);
    let names = ["instance-00000001", "instance-00000002", "instance-00000003", "banana-42-hamster"];
    let rows: Vec<_> = names.iter().map(|name| json!({"name": name, "host": HOST})).collect();
    world.inventory(&json!(rows));
    world
}

/// A file of that name with its `.info` and the lock file that nova left.
fn world_with_a_base_file(name: &str) -> World {
    let world = World::new();
    world.cache_file(name, Duration::ZERO);
    fs_err::write(world.base(format!("{name}.info")), "").unwrap();
    fs_err::write(lock_of(&world, name), "data").unwrap();
    world.inventory(&json!([]));
    world
}

fn lock_of(world: &World, name: &str) -> std::path::PathBuf {
    world.path("locks").join(format!("nova-{name}"))
}

#[test]
fn the_cache_file_name_of_an_image_is_the_sha1_of_its_id() {
    let world = World::new();
    let run = Run::of(world.command().args(["fname", "fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0"])).exits(0);
    assert_eq!(run.stdout, "0d5e6b61602d758984b3bf038267614d6016eb2a\n");
}

#[test]
fn the_age_of_a_file_is_the_time_since_its_mtime() {
    let world = World::new();
    let image = world.original("image-a", 1_000_000 * Duration::from_secs(1));
    let started = SystemTime::now();
    let age = world.scan().exits(0).file(&image)["age_seconds"].as_u64().unwrap();
    // The clock goes on between the making of the file and the look at it.
    let slack = started.elapsed().unwrap().as_secs() + 5;
    assert!((1_000_000..=1_000_000 + slack).contains(&age), "{age}");
}

#[test]
fn a_file_that_is_not_there_has_no_age_and_is_no_error() {
    // nova says "not there, and of age 0". Here it is missing, and no minimum age makes it a file to judge or remove.
    let world = World::new();
    let gone = world.original("image-a", 30 * DAY);
    world.inventory(&json!([{"name": "instance-00000001", "host": HOST, "image_ref": "image-a"}]));
    assert_eq!(world.explain(NO_ARGS).exits(0).missing(&gone), None);
    assert!(world.explain(NO_ARGS).file(&gone)["age_seconds"].as_u64().unwrap() >= 30 * 24 * 3600);
    fs_err::remove_file(world.base(&gone)).unwrap();

    let ages = ["--original-min-age", "0", "--resized-min-age", "0"];
    for run in [world.explain(ages), world.prune([&ages[..], &["--allow-empty"]].concat())] {
        let json = run.exits(0).json();
        assert_eq!((&json["files"], &json["summary"]["files"]), (&json!([]), &json!(0)));
        let missing = &list(&json["missing"])[0];
        let fields: Vec<_> = missing.as_object().unwrap().keys().map(String::as_str).collect();
        assert_eq!(fields, ["name", "reasons", "image", "downloadable"], "no age, size or mtime");
        assert_eq!(
            (&missing["name"], &missing["reasons"][0]["code"]),
            (&json!(gone), &json!("image_in_use"))
        );
    }
    assert_eq!(world.cache_names(), [""; 0], "it is not made");
}

#[test]
fn the_cache_is_listed_by_kind() {
    let world = World::new();
    let fingerprint = "17d1b00b81642842e514494a78e804e9a511637c";
    let resized = format!("{fingerprint}_5368709120");
    let resized_larger = format!("{fingerprint}_10737418240");
    let info = format!("{resized}.info");
    let expected = [
        ("00000001", "other"),
        ("00000004", "other"),
        (fingerprint, "original"),
        (&resized_larger, "resized"),
        (&resized, "resized"),
        (&info, "info"),
        ("e09c675c2d1cfac32dae3c2d83689c8c94bc693b_sm", "small"),
        (E97, "original"),
        (&format!("{E97}_sm"), "small"),
        ("ephemeral_0_20_None", "other"),
        ("swap_1000", "swap"),
    ];
    for (name, _) in expected {
        world.cache_file(name, DAY);
    }
    let json = world.scan().exits(0).json();
    let listed: Vec<_> =
        list(&json["files"]).iter().map(|it| (text(&it["name"]), text(&it["kind"]))).collect();
    let expected = expected.map(|(name, kind)| (name.to_owned(), kind.to_owned()));
    assert_eq!(listed, expected);
    for file in list(&json["files"]) {
        let path = world.base(text(&file["name"]));
        assert_eq!(file["path"], path.to_str().unwrap());
    }
    assert_eq!(json["summary"]["by_kind"]["original"]["files"], 2);
    assert_eq!(json["summary"]["by_kind"]["swap"]["files"], 1);
}

#[test]
fn a_small_copy_that_a_disk_names_is_in_use() {
    let small = format!("{E97}_sm");
    let run = world_with_a_disk_on("instance-00000001", &small).explain(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&small), "in_use");
    assert_eq!(run.codes(&small), ["backing_file"]);
    assert_eq!(run.with_verdict("removable"), [""; 0]);
}

#[test]
fn a_resized_copy_that_a_disk_names_is_in_use() {
    let resized = format!("{E97}_10737418240");
    let run = world_with_a_disk_on("instance-00000002", &resized).explain(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&resized), "in_use");
    assert_eq!(run.codes(&resized), ["backing_file"]);
    assert_eq!(run.with_verdict("removable"), [""; 0]);
}

#[test]
fn a_disk_in_a_directory_of_an_instances_odd_name_counts() {
    let small = format!("{E97}_sm");
    let world = world_with_a_disk_on("banana-42-hamster", &small);
    let run = world.explain(["--ignore-unlisted"]).exits(0);
    assert_eq!(run.verdict(&small), "in_use");
    assert_eq!(run.reason(&small, "backing_file")["instances"], json!(["banana-42-hamster"]));
}

#[test]
fn a_disk_that_cannot_be_read_ends_the_clean_up() {
    // The disk is there, as in the reference, and reading it fails: here with EIO.
    let used = format!("{E97}_sm");
    let world = world_with_a_disk_on("banana-42-hamster", &used);
    let unused = world.original("image-a", 30 * DAY);
    let disk = world.path("banana-42-hamster/disk");
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&unused), "removable");
    let mut command =
        under_strace(&world, inject("pread64:error=EIO", &disk), &prune_command(&world, NO_ARGS));
    let run = finish(&mut command).exits(1);
    assert_eq!((run.verdict(&unused), run.verdict(&used)), ("unknown".into(), "unknown".into()));
    let json = run.json();
    assert_eq!(json["unreadable"][0]["path"], json!(disk));
    assert!(text(&json["unreadable"][0]["error"]).contains("os error 5"), "{json:#}");
    assert!(world.base(&unused).exists() && world.base(&used).exists());
}

#[test]
fn no_file_of_an_image_is_found_where_there_is_none() {
    let world = World::new();
    let other = world.original("another", 30 * DAY);
    world.inventory(&json!([{"name": "i", "host": HOST, "image_ref": "image-a"}]));
    let run = world.explain(["image-a"]).exits(0);
    assert_eq!(list(&run.json()["files"]).len(), 0);
    assert_eq!(world.explain(NO_ARGS).verdict(&other), "removable");
}

#[test]
fn a_used_image_keeps_its_small_copy() {
    let world = World::new();
    let small = format!("{}_sm", cache_file_name("image-a"));
    world.cache_file(&small, 30 * DAY);
    world.inventory(&json!([{"name": "i", "host": HOST, "image_ref": "image-a"}]));
    let run = world.explain(["image-a"]).exits(0);
    assert_eq!(list(&run.json()["files"]).len(), 1);
    assert_eq!(run.codes(&small), ["image_in_use"]);
}

#[test]
fn a_used_image_keeps_its_resized_copy_where_no_disk_tells_more() {
    let world = World::new();
    let resized = world.resized("image-a", 10_737_418_240, 30 * DAY);
    for name in ["00000001", "ephemeral_0_20_None", "00000004"] {
        world.cache_file(name, 30 * DAY);
    }
    world.inventory(&json!([{"name": "i", "host": HOST, "image_ref": "image-a"}]));
    let run = world.explain(["image-a"]).exits(0);
    assert_eq!(list(&run.json()["files"]).len(), 1);
    assert_eq!(run.codes(&resized), ["resized_copy_kept"]);
}

#[test]
fn an_image_is_asked_for_by_its_id_and_all_its_files_are_found() {
    let world = World::new();
    let original = world.original("image-a", 30 * DAY);
    let resized = world.resized("image-a", 10_737_418_240, 30 * DAY);
    let small = format!("{original}_sm");
    world.cache_file(&small, 30 * DAY);
    for name in ["00000001", "ephemeral_0_20_None", "00000004"] {
        world.cache_file(name, 30 * DAY);
    }
    world.inventory(&json!([{"name": "i", "host": HOST, "image_ref": "image-a"}]));
    let run = world.explain(["image-a"]).exits(0);
    assert_eq!(run.with_verdict("in_use"), [original, resized, small]);
    assert_eq!(list(&run.json()["files"]).len(), 3);
}

#[test]
fn an_unused_copy_stays_until_it_is_an_hour_old_and_then_goes_with_info_and_lock() {
    let name = format!("{E97}_10737418240");
    let world = world_with_a_base_file(&name);
    let info = world.base(format!("{name}.info"));

    let run = world.prune(NO_ARGS).exits(0);
    assert_eq!((run.verdict(&name).as_str(), run.outcome(&name).as_str()), ("too_young", "kept"));
    assert!(world.base(&name).exists() && info.exists() && lock_of(&world, &name).exists());

    set_age(&world.base(&name), Duration::from_secs(3601));
    let run = world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome(&name), "removed");
    assert!(!world.base(&name).exists(), "the file");
    assert!(!lock_of(&world, &name).exists(), "the lock");
    assert!(!info.exists(), "the info file");
}

#[test]
fn an_unused_original_stays_longer_than_a_copy_and_then_goes() {
    let world = world_with_a_base_file(E97);
    let info = world.base(format!("{E97}.info"));

    for age in [Duration::ZERO, Duration::from_secs(3601)] {
        set_age(&world.base(E97), age);
        let run = world.prune(NO_ARGS).exits(0);
        assert_eq!(run.verdict(E97), "too_young", "at the age of {age:?}");
        assert!(world.base(E97).exists() && info.exists());
    }

    set_age(&world.base(E97), 25 * HOUR);
    let run = world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome(E97), "removed");
    assert!(!world.base(E97).exists() && !info.exists());
}

#[test]
fn a_file_that_goes_before_it_is_removed_is_no_error() {
    // It is there when it is judged, and has gone when prune, which waited for its lock, comes to it.
    let world = world_with_a_base_file(E97);
    let other = world.original("image-b", 25 * HOUR);
    set_age(&world.base(E97), 25 * HOUR);
    let mut nova = Nova::start(&world);
    nova.takes(E97);
    let prune = Running::start(&mut prune_command(&world, ["--lock-wait", "20s"]));
    wait_until("prune has judged and takes locks", || lock_of(&world, &other).exists());
    fs_err::remove_file(world.base(E97)).unwrap();
    nova.releases(E97);
    let run = prune.finish().exits(0);
    assert_eq!((run.verdict(E97).as_str(), run.outcome(E97).as_str()), ("removable", "changed"), "{run:#?}");
    assert!(text(&run.file(E97)["error"]).len() > 10);
    assert_eq!(run.outcome(&other), "removed", "the next file is tried");
}

#[test]
fn a_file_that_cannot_be_removed_is_reported_and_stays() {
    let world = World::new();
    let names = [E97.to_owned(), cache_file_name("image-b")];
    for name in &names {
        world.cache_file(name, 25 * HOUR);
    }
    let inventory = world.inventory(&json!([]));
    world.give_to_nobody();
    world.set_mode("_base", 0o555);
    let mut command = world.as_nobody();
    command.args(["prune", "-f", "json", "--host", HOST, "-p"]).arg(world.instances_path());
    let run = Run::of(command.arg("--inventory").arg(inventory)).exits(1);
    world.set_mode("_base", 0o755);
    // The second one was tried although the first one failed.
    for name in &names {
        assert_eq!(run.outcome(name), "failed");
        assert!(world.base(name).exists());
        let error = text(&run.file(name)["error"]);
        assert!(error.contains("Failed to remove") && error.contains(name.as_str()), "{error}");
    }
}

#[test]
fn an_image_that_no_instance_uses_is_removable() {
    let world = World::new();
    let image = world.original("123", 25 * HOUR);
    world.inventory(&json!([]));
    let run = world.explain(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&image), "removable");
    assert_eq!(run.codes(&image), ["unused"]);
}

#[test]
fn an_image_that_an_instance_uses_is_kept_and_its_age_starts_again() {
    let world = World::new();
    let image = world.original("123", 25 * HOUR);
    world.inventory(&json!([{"name": "banana-42", "host": HOST, "image_ref": "123"}]));
    let before = SystemTime::now() - Duration::from_secs(1);
    crate::common::plain_qcow2(&world.path("banana-42/disk"));
    let run = world.prune(NO_ARGS).exits(0);
    assert_eq!((run.verdict(&image).as_str(), run.outcome(&image).as_str()), ("in_use", "kept"));
    assert!(mtime(&world.base(&image)) >= before);
    assert_eq!(run.json()["summary"]["touched"], 1);
}

#[test]
fn an_image_that_an_instance_on_another_host_uses_is_kept_and_its_age_starts_again() {
    let world = World::new();
    world.compute_nodes(&[HOST, "compute-2"]);
    let image = world.original("123", 25 * HOUR);
    world.inventory(&json!([{"name": "banana-42", "host": "compute-2", "image_ref": "123"}]));
    let before = SystemTime::now() - Duration::from_secs(1);
    let run = world.prune(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&image), "in_use");
    assert!(mtime(&world.base(&image)) >= before);
}

#[test]
fn an_image_in_use_without_a_base_file_is_reported_as_missing() {
    let world = World::new();
    crate::common::plain_qcow2(&world.path("banana-42/disk"));
    world.inventory(&json!([{"name": "banana-42", "host": HOST, "image_ref": "123"}]));
    let run = world.prune(NO_ARGS).exits(0);
    let missing = run.missing(&cache_file_name("123")).unwrap();
    assert_eq!(missing["reasons"][0]["images"], json!(["123"]));
    assert_eq!(missing["reasons"][0]["instances"], json!(["banana-42"]));
    assert_eq!(run.with_verdict("removable"), [""; 0]);
}

#[test]
fn a_base_file_in_use_that_has_gone_makes_nothing_removable_and_is_missing() {
    let world = World::new();
    let image = world.original("123", 25 * HOUR);
    world.instance_disk("banana-42", &image);
    world.inventory(&json!([{"name": "banana-42", "host": HOST, "image_ref": "123"}]));
    assert_eq!(world.explain(NO_ARGS).exits(0).verdict(&image), "in_use");
    fs_err::remove_file(world.base(&image)).unwrap();
    let run = world.prune(NO_ARGS).exits(0);
    let codes: Vec<_> =
        list(&run.missing(&image).unwrap()["reasons"]).iter().map(|it| text(&it["code"])).collect();
    assert_eq!(codes, ["image_in_use", "backing_file"]);
    assert_eq!(list(&run.json()["files"]).len(), 0);
}

#[test]
fn the_scene_of_verify_base_images_gives_its_active_and_removable_files() {
    let world = World::new();
    let [of_1, of_21, of_22, of_42] = ["1", "21", "22", "42"].map(cache_file_name);
    assert_eq!(of_1, "356a192b7913b04c54574d18c28d46e6395428ab");
    let backing = format!("{of_1}_5368709120");
    let other_size = format!("{of_1}_10737418240");
    let [small_1, small_2] = [format!("{E97}_sm"), "e09c675c2d1cfac32dae3c2d83689c8c94bc693b_sm".into()];
    let info = format!("{of_42}.info");
    let others = ["00000001", "00000004", "ephemeral_0_20_None"];
    for name in [&of_1, &of_21, &of_22, &of_42, &backing, &other_size, &small_1, &small_2, &info] {
        world.cache_file(name, DAY);
        set_mtime(&world.base(name), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    }
    for name in others {
        world.cache_file(name, DAY);
        set_mtime(&world.base(name), SystemTime::UNIX_EPOCH + Duration::from_secs(1_000_000));
    }
    world.instance_disk("instance-1", &backing);
    world.instance_disk("instance-2", &backing);
    crate::common::plain_qcow2(&world.path("instance-3/disk"));
    world.inventory(&json!([
        {"image_ref": "1", "host": HOST, "name": "instance-1", "uuid": "4c7c8ac1-7b8c-4dbf-a0a0-000000000001",
         "vm_state": "", "task_state": ""},
        {"image_ref": "1", "kernel_id": "21", "ramdisk_id": "22", "host": HOST, "name": "instance-2",
         "uuid": "4c7c8ac1-7b8c-4dbf-a0a0-000000000002", "vm_state": "", "task_state": ""},
    ]));

    let mut active = vec![of_1, of_21, of_22, backing];
    active.sort();
    let mut removable = vec![of_42, other_size, small_1, small_2, info];
    removable.sort();
    for args in [&[][..], &["--ignore-unlisted"]] {
        let run = world.explain(args).exits(0);
        assert_eq!(run.with_verdict("in_use"), active);
        assert_eq!(run.with_verdict("removable"), removable);
        assert_eq!(run.with_verdict("ignored"), others);
    }

    let run = world.prune(NO_ARGS).exits(0);
    let left: Vec<String> = world.cache_names();
    let mut expected = [active.as_slice(), &others.map(String::from)].concat();
    expected.sort();
    assert_eq!(left, expected, "{run:#?}");
}

#[test]
fn an_instances_path_without_a_cache_gives_nothing_to_do() {
    let world = World::bare();
    world.compute_nodes(&[HOST]);
    world.inventory(&json!([]));
    for run in [world.explain(NO_ARGS), world.prune(NO_ARGS), world.scan()] {
        let run = run.exits(0);
        assert_eq!(list(&run.json()["files"]).len(), 0);
        assert_eq!((run.warnings(), run.stderr.as_str()), (vec!["no_cache_directory".into()], ""));
    }
    assert!(!world.path("_base").exists());
}

#[test]
fn info_files_are_told_by_their_names() {
    let world = World::new();
    let [info, sha1] = [format!("{E97}.info"), format!("{E97}.sha1")];
    for (name, kind) in
        [("banana", "other"), ("00000001", "other"), (E97, "original"), (&sha1, "other"), (&info, "info")]
    {
        world.cache_file(name, DAY);
        assert_eq!(world.scan().exits(0).file(name)["kind"], kind, "{name}");
    }
}

#[test]
fn a_pass_counts_every_instance_of_the_inventory() {
    // The reference asks only whether the instances were asked for. Here the whole pass: what each of them needs is kept
    // and touched, what neither needs goes, and nothing else is changed.
    let world = World::new();
    let image = world.original("image-a", 30 * DAY);
    let unused = world.original("image-b", 30 * DAY);
    let copy = world.resized("image-a", 1 << 30, 30 * DAY);
    let disks =
        ["u0", "instance-1"].map(|it| world.instance_disk(it, if it == "u0" { &image } else { &copy }));
    world.inventory(&json!([
        {"uuid": "u0", "name": "instance-0", "image_ref": "image-a", "vm_state": "", "task_state": ""},
        {"uuid": "u1", "name": "instance-1", "image_ref": "image-a", "vm_state": "", "task_state": ""},
    ]));
    let before = untouched(&world, &[&image, &copy]);
    let run = world.prune(NO_ARGS).exits(0);
    let json = run.json();
    assert_eq!((&json["inventory"]["instances"], &json["inventory"]["counted"]), (&json!(2), &json!(2)));
    assert_eq!(run.reason(&image, "image_in_use")["instances"], json!(["u0", "u1"]));
    for (file, disk, instance) in [(&image, &disks[0], "u0"), (&copy, &disks[1], "u1")] {
        let reason = run.reason(file, "backing_file");
        assert_eq!((&reason["disks"], &reason["instances"]), (&json!([disk]), &json!([instance])));
        assert!(is_now(mtime(&world.base(file))), "{file}");
    }
    assert_eq!((run.outcome(&unused).as_str(), &json["summary"]["touched"]), ("removed", &json!(2)));
    let mut expected = before;
    expected.0.remove(&world.base(&unused)).unwrap();
    expected.assert_same(&untouched(&world, &[&image, &copy]));
}

#[test]
fn swap_files_are_told_by_their_names() {
    let world = World::new();
    let expected = [
        ("123_swap", "other"),
        ("swap_", "other"),
        ("swap_123", "swap"),
        ("swap_129_", "other"),
        ("swap_456", "swap"),
        ("swap_abc", "other"),
    ];
    for (name, _) in expected {
        world.cache_file(name, DAY);
    }
    let json = world.scan().exits(0).json();
    let listed: Vec<_> =
        list(&json["files"]).iter().map(|it| (text(&it["name"]), text(&it["kind"]))).collect();
    assert_eq!(listed, expected.map(|(name, kind)| (name.to_owned(), kind.to_owned())));
}

#[test]
fn a_swap_file_that_an_instance_uses_stays_and_the_other_goes() {
    let world = World::new();
    for name in ["swap_128", "swap_256"] {
        world.cache_file(name, Duration::from_secs(1_000_000));
    }
    world.inventory(&json!([{"name": "i", "host": HOST, "swap_mb": 128}]));
    let run = world.prune(NO_ARGS).exits(0);
    assert_eq!(run.outcome("swap_256"), "removed");
    assert_eq!(run.codes("swap_128"), ["swap_in_use"]);
    assert_eq!(world.cache_names(), ["swap_128"]);
}

#[test]
fn a_file_is_removed_only_under_novas_lock_of_its_name() {
    let world = World::new();
    let name = format!("{E97}_10737418240");
    for name in [&name, "swap_256"] {
        world.cache_file(name, 25 * HOUR);
    }
    world.inventory(&json!([]));

    let mut nova = Nova::start(&world);
    nova.takes(&name);
    nova.takes("swap_256");
    let run = world.prune(["--lock-wait", "100ms"]).exits(0);
    assert_eq!(run.outcome(&name), "locked");
    assert_eq!(run.outcome("swap_256"), "locked");
    assert_eq!(world.cache_names(), [&name, "swap_256"]);

    nova.releases(&name);
    nova.releases("swap_256");
    let run = world.prune(["--lock-wait", "100ms"]).exits(0);
    assert_eq!(run.outcome(&name), "removed");
    assert_eq!(run.outcome("swap_256"), "removed");
    assert_eq!(world.cache_names(), [""; 0]);
    assert!(!lock_of(&world, &name).exists());
    assert!(lock_of(&world, "swap_256").exists(), "nova leaves the locks of its swap files");
}

#[test]
fn the_table_of_cases_names_every_test_here_and_none_that_is_not() {
    let directory = std::path::Path::new(env!("CARGO_MANIFEST_DIR")).join("tests");
    let table = fs_err::read_to_string(directory.join("README.md")).unwrap();
    let rows: Vec<&str> = table.lines().filter(|line| line.starts_with("| `test_")).collect();
    assert_eq!(rows.len(), 28, "the reference has 28 cases");
    let here = fs_err::read_to_string(directory.join("reference.rs")).unwrap();
    let others =
        ["evidence.rs", "bad_input.rs"].map(|it| fs_err::read_to_string(directory.join(it)).unwrap());
    let declares = |source: &str, test: &str| source.contains(&format!("#[test]\nfn {test}() {{"));
    for row in &rows {
        let tests: Vec<&str> =
            row.split('`').skip(3).step_by(2).filter(|word| !word.ends_with(".rs")).collect();
        assert!(!tests.is_empty() && declares(&here, tests[0]), "{row}");
        assert!(tests[1..].iter().all(|test| others.iter().any(|it| declares(it, test))), "{row}");
    }
    let tests_here = here.matches("#[test]\nfn ").count();
    assert_eq!(tests_here, rows.len() + 1, "a test for each case, and this one");
}
