//! The README's first command: what it prints on a fresh clone, and that the demo's tree is what its script makes.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::common::{Run, World, list, text};
use serde_json::Value;

const LISTS: [&str; 2] = ["inventory.json", "images.json"];

/// What the README shows first, after `cargo run --release -- `.
fn command_of_the_readme() -> Vec<String> {
    let readme = fs_err::read_to_string(repository().join("README.md")).unwrap();
    let command = readme.lines().find_map(|line| line.trim().strip_prefix("cargo run --release -- "));
    command.expect("no cargo run --release in README.md").split_whitespace().map(String::from).collect()
}

fn repository() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// A directory with a copy of the demo as a fresh clone has it: every file is new.
fn fresh_clone() -> World {
    let world = World::bare();
    fs_err::create_dir(world.outside().join("tests")).unwrap();
    let status =
        Command::new("cp").arg("-R").arg(demo()).arg(world.outside().join("tests")).status().unwrap();
    assert!(status.success());
    world
}

fn demo() -> PathBuf {
    repository().join("tests/demo")
}

/// Runs the README's command there, with more arguments.
fn run_the_readme(world: &World, more: &[&str]) -> Run {
    Run::of(world.command().args(command_of_the_readme()).args(more)).exits(0)
}

fn explain(world: &World) -> Value {
    run_the_readme(world, &["-f", "json"]).json()
}

/// The lines of a list of files: what is said of each, without what differs between two copies.
fn told(json: &Value) -> Vec<String> {
    let mut told = Vec::new();
    for file in list(&json["files"]) {
        let codes: Vec<_> = list(&file["reasons"]).iter().map(|it| text(&it["code"])).collect();
        let name = text(&file["name"]);
        told.push(format!("{} {} {name} {}", text(&file["verdict"]), text(&file["kind"]), codes.join(" ")));
    }
    told
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
    let missing: Vec<_> = list(&json["missing"]).iter().map(|it| text(&it["name"])).collect();
    assert_eq!(missing, ["b170c117c31758211fb9501f365f43e1031e712b"]);
    assert_eq!(json["complete"], true);
    let warnings: Vec<_> = list(&json["warnings"]).iter().map(|it| text(&it["code"])).collect();
    assert_eq!(warnings, ["instance_broken"]);
}

#[test]
fn the_demos_table_has_a_line_for_each_file_and_its_verdict() {
    let world = fresh_clone();
    let table = run_the_readme(&world, &[]).stdout;
    for file in list(&explain(&world)["files"]) {
        let (name, verdict) = (text(&file["name"]), text(&file["verdict"]));
        let is_its_line =
            |line: &&str| line.starts_with(&verdict) && line.split_whitespace().any(|word| word == name);
        assert_eq!(table.lines().filter(is_its_line).count(), 1, "{name} in {table}");
    }
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
    let (made_json, committed_json) = (explain(&made), explain(&committed));
    assert_eq!(told(&made_json), told(&committed_json));
    let unlisted = |json: &Value| {
        json["unlisted_directories"]
            .as_array()
            .unwrap()
            .iter()
            .map(|it| [it["name"].clone(), it["keeps"].clone()])
            .collect::<Vec<_>>()
    };
    assert_eq!(unlisted(&made_json), unlisted(&committed_json));
    assert_eq!(made_json["summary"]["files"], committed_json["summary"]["files"]);
    let sizes = |json: &Value| -> Vec<Value> {
        list(&json["files"]).iter().map(|it| it["size_bytes"].clone()).collect()
    };
    assert_eq!(sizes(&made_json), sizes(&committed_json));
}

#[test]
fn the_picture_of_the_readme_is_what_its_first_command_prints() {
    crate::common::tool("python3", "python3");
    let program = assert_cmd::cargo::cargo_bin!("nova-imagecache");
    let output = Command::new(demo().join("picture")).arg("--check").arg(program).output().unwrap();
    assert!(output.status.success(), "{output:?}");
    let readme = fs_err::read_to_string(repository().join("README.md")).unwrap();
    assert!(readme.contains("](tests/demo/explain.svg)"));
}
