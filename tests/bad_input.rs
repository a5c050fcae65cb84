//! Bad input ends with exit 2, nothing on stdout and one line on stderr that names the file, the row and the field.

use std::path::Path;

use crate::common::{DAY, Run, World};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

const NO_ARGS: [&str; 0] = [];

#[test]
fn an_inventory_on_stdin_is_named_as_such() {
    let world = World::new();
    let mut command = world.command();
    command.args(["explain", "--inventory", "-", "-p"]).arg(world.instances_path());
    Run::of(command.write_stdin(r#"[{"uuid": 5}]"#)).refused(&["--inventory -", "row 1", "uuid"]);
}

#[test]
fn the_bad_one_of_several_inventories_is_named() {
    let world = World::new();
    let good = world.file("good.json", "[]");
    let bad = world.file("bad.json", r#"[{"uuid": "u"}, {"uuid": "v", "hosts": "x"}]"#);
    let args = [Path::new("--inventory"), &good, Path::new("--inventory"), &bad];
    world.run("explain", args).refused(&["bad.json", "row 2", "hosts"]);
}

#[test]
fn an_inventory_that_cannot_be_read_is_named() {
    let world = World::new();
    for (path, word) in [("/no/such/file.json", "No such file"), ("/", "directory")] {
        world.run("explain", ["--inventory", path]).refused(&[path, word]);
    }
    let inventory = world.inventory(&json!([]));
    world.give_to_nobody();
    let mode = std::os::unix::fs::PermissionsExt::from_mode(0o0);
    fs_err::set_permissions(&inventory, mode).unwrap();
    let mut command = world.as_nobody();
    command.args(["explain", "-p"]).arg(world.instances_path()).arg("--inventory").arg(&inventory);
    Run::of(&mut command).refused(&["inventory.json", "Permission denied"]);
}

#[test]
fn an_instances_path_that_is_missing_or_a_file_is_refused() {
    let world = World::new();
    let file = world.file("a-file", "");
    let inventory = world.inventory(&json!([]));
    for path in [Path::new("/no/such/directory"), &file, &file.join("below")] {
        for args in [
            &["scan"][..],
            &["explain"],
            &["prune", "--dry-run", "--inventory"],
            &["prune", "--inventory"],
            &["prune", "--disks-only"],
        ] {
            let mut command = world.command();
            command.args(args);
            if args.contains(&"--inventory") {
                command.arg(&inventory);
            }
            Run::of(command.arg("-p").arg(path)).refused(&[path.to_str().unwrap()]);
        }
    }
}

#[test]
fn a_subject_that_nothing_knows_is_refused() {
    let world = World::new();
    let name = world.original("a", DAY);
    world.inventory(&json!([{"uuid": "u1", "image_ref": "a"}]));
    for unknown in [
        "b",
        &cache_file_name("b"),
        "swap_1",
        &name[..7],
        &name[1..],
        &format!("{name}_sm"),
        // A path of another directory.
        world.path(&name).to_str().unwrap(),
        "u1",
        "",
        "..",
    ] {
        let run = world.explain([unknown]);
        run.refused(&[unknown]);
    }
    // Also where others are known.
    world.explain(["a", "nowhere"]).refused(&["nowhere"]);
    world.explain(["a"]).exits(0);
}

#[test]
fn empty_ids_are_refused_with_their_place() {
    let world = World::new();
    let fname =
        |args: &[&str], stdin: &str| Run::of(world.command().arg("fname").args(args).write_stdin(stdin));
    fname(&[""], "").refused(&["argument 1"]);
    fname(&["a", "b", ""], "").refused(&["argument 3"]);
    fname(&["a", "-"], "x\n\ny\n").refused(&["standard input", "line 2"]);
    fname(&["-"], "\n").refused(&["standard input", "line 1"]);
    fname(&["-"], "x\n  \n").refused(&["standard input", "line 2"]);
}

#[test]
fn ids_that_are_no_text_are_refused() {
    let world = World::new();
    let run = Run::of(world.command().args(["fname", "-"]).write_stdin(b"a\n\xff\n".as_slice()));
    run.refused(&["standard input"]);
}

#[test]
fn a_subdirectory_name_must_be_that_of_a_directory_under_the_instances_path() {
    let world = World::new();
    for name in ["a/b", "/_base", "..", ".", "_base/", "../_base", "locks"] {
        for subcommand in ["scan", "explain"] {
            world.run(subcommand, ["--subdirectory-name", name]).refused(&["subdirectory", name]);
        }
    }
}

#[test]
fn bad_usage_exits_2_and_names_the_option() {
    let world = World::new();
    for (args, word) in [
        (&[][..], "Usage"),
        (&["fname"], "IMAGE_ID"),
        (&["remove"], "remove"),
        (&["scan", "extra"], "extra"),
        (&["scan", "-p", ""], "--instances-path"),
        (&["scan", "--inventory", "x"], "--inventory"),
        (&["explain", "--dry-run"], "--dry-run"),
        (&["explain", "--original-min-age", "99999999999999999999999"], "--original-min-age"),
        (&["explain", "--as-of", "2026-11-30T00:00:00+01:00"], "--as-of"),
        (&["explain", "--as-of", "+x"], "--as-of"),
        (&["prune", "--until-free", "lots"], "--until-free"),
        (&["prune", "--settle", "x"], "--settle"),
    ] {
        // clap's message may have more lines.
        let run = Run::of(world.command().args(args));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{args:?}: {run:#?}");
        assert!(run.stderr.contains(word), "{args:?}: {}", run.stderr);
    }
}

#[test]
fn a_real_prune_as_of_another_time_is_refused() {
    let world = World::new();
    let name = world.original("a", DAY / 2);
    world.inventory(&json!([]));
    for as_of in ["+7d", "2099-01-01T00:00:00Z"] {
        let run = world.prune(["--as-of", as_of]);
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{}", run.stderr);
        assert!(run.stderr.contains("--dry-run"), "{}", run.stderr);
        assert!(world.base(&name).exists());
    }
}
