//! The README's first command: what it prints on a fresh clone, and that the demo's tree is what its script makes.

use std::path::PathBuf;
use std::process::Command;

use crate::common::{Run, World, list, repository, text};
use serde_json::{Value, json};

const LISTS: [&str; 2] = ["inventory.json", "images.json"];

/// What the README shows first, after `cargo run --release -- `.
fn command_of_the_readme() -> Vec<String> {
    let readme = fs_err::read_to_string(repository("README.md")).unwrap();
    let command = readme.lines().find_map(|line| line.trim().strip_prefix("cargo run --release -- "));
    command.expect("no cargo run --release in README.md").split_whitespace().map(String::from).collect()
}

/// A directory with a copy of the demo as a fresh clone has it: every file is new.
fn fresh_clone() -> World {
    let world = World::bare();
    fs_err::create_dir(world.outside().join("tests")).unwrap();
    let to = world.outside().join("tests");
    assert!(Command::new("cp").arg("-R").args([demo(), to]).status().unwrap().success());
    world
}

fn demo() -> PathBuf {
    repository("tests/demo")
}

/// Runs the README's command there.
fn explain(world: &World) -> Value {
    Run::of(world.command().args(command_of_the_readme()).args(["-f", "json"])).exits(0).json()
}

/// What is said of each file, without what differs between two copies.
fn told(json: &Value) -> Vec<String> {
    let line = |file: &Value| {
        let codes: Vec<_> = list(&file["reasons"]).iter().map(|it| text(&it["code"])).collect();
        let [verdict, kind, name] = ["verdict", "kind", "name"].map(|key| text(&file[key]));
        format!("{verdict} {kind} {name} {}", codes.join(" "))
    };
    list(&json["files"]).iter().map(line).collect()
}

#[test]
fn the_demo_shows_what_can_become_of_a_file() {
    let world = fresh_clone();
    let json = explain(&world);
    assert_eq!(
        told(&json),
        [
            "in_use original 39a04131f29a450b98dea995f2d89c0874b51107 kernel_in_use",
            "in_use original 706e89a47443c5b7a98a00eb298e7cce4758850f image_in_use",
            "in_use resized 706e89a47443c5b7a98a00eb298e7cce4758850f_10737418240 backing_file",
            "removable resized 706e89a47443c5b7a98a00eb298e7cce4758850f_21474836480 unused",
            "ignored other before-upgrade.qcow2 not_a_cache_file",
            "too_young original de5b9c6a809397d51c1e85e2af95604655fc67f3 unused",
            "removable resized de5b9c6a809397d51c1e85e2af95604655fc67f3_1073741824 unused",
            "in_use original e304bc937cc7955a762c46930bcc420c59b2e059 backing_file_unlisted",
            "in_use ephemeral ephemeral_20_40d1d2c backing_file ephemeral_in_use",
            "in_use original fb75a369b37a7334d1d6623be667974e105aadce image_in_use",
            "too_young swap swap_1024 unused",
            "in_use swap swap_512 backing_file swap_in_use",
        ]
    );
    assert_eq!(json["missing"][0]["name"], "b170c117c31758211fb9501f365f43e1031e712b");
    let counts = ["missing", "warnings"].map(|key| list(&json[key]).len());
    assert_eq!((counts, &json["warnings"][0]["code"]), ([1, 1], &json!("instance_broken")));
    assert_eq!(json["complete"], true);
}

#[test]
fn the_demos_tree_is_what_its_script_makes() {
    let committed = fresh_clone();
    let made = fresh_clone();
    let demo = made.outside().join("tests/demo");
    fs_err::remove_dir_all(demo.join("instances")).unwrap();
    for file in LISTS {
        fs_err::remove_file(demo.join(file)).unwrap();
    }
    // For its message, where it is not there.
    crate::common::tool("qemu-img", "qemu-utils");
    let output = Command::new(demo.join("make")).output().unwrap();
    assert!(output.status.success(), "{output:?}");

    let lists =
        |world: &World| LISTS.map(|it| fs_err::read(world.outside().join("tests/demo").join(it)).unwrap());
    assert_eq!(lists(&made), lists(&committed));
    let facts = |world: &World| {
        let json = explain(world);
        let pairs = |of: &str, keys: [&str; 2]| -> Vec<[Value; 2]> {
            list(&json[of]).iter().map(|it| keys.map(|key| it[key].clone())).collect()
        };
        let unlisted = pairs("unlisted_directories", ["name", "keeps"]);
        (told(&json), unlisted, pairs("files", ["name", "size_bytes"]))
    };
    assert_eq!(facts(&made), facts(&committed));
}

#[test]
fn the_picture_of_the_readme_is_what_its_first_command_prints() {
    crate::common::tool("python3", "python3");
    let program = assert_cmd::cargo::cargo_bin!("nova-imagecache");
    let output = Command::new(demo().join("picture")).arg("--check").arg(program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let readme = fs_err::read_to_string(repository("README.md")).unwrap();
    assert!(readme.contains("](tests/demo/explain.svg)"));
}
