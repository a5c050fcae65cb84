//! Bad input ends with exit 2, nothing on stdout and one line on stderr that names the file, the row and the field.

use std::path::Path;

use crate::common::{DAY, Run, World};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

const NO_ARGS: [&str; 0] = [];

#[test]
fn a_bad_inventory_is_refused_by_every_command_that_judges() {
    let world = World::new();
    world.original("a", DAY);
    world.file("inventory.json", r#"[{"uuid": "u1"}, {"uuid": "u2", "swap_mb": "x"}]"#);
    for run in [world.explain(NO_ARGS), world.dry_run(NO_ARGS), world.prune(NO_ARGS)] {
        run.refused(&["inventory.json", "row 2", "swap_mb"]);
    }
}

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
fn an_instances_path_that_may_not_be_read_is_refused() {
    // The instances path itself, or the cache directory in it.
    for below in ["", "_base"] {
        let world = World::new();
        world.original("a", DAY);
        let inventory = world.inventory(&json!([]));
        world.give_to_nobody();
        world.set_mode(below, 0);
        let looks = ["scan", "explain", "prune"].map(|subcommand| {
            let mut command = world.as_nobody();
            command.arg(subcommand).arg("-p").arg(world.instances_path());
            if subcommand != "scan" {
                command.arg("--inventory").arg(&inventory);
            }
            Run::of(&mut command)
        });
        world.set_mode(below, 0o755);
        let path = world.path(below);
        for run in looks {
            // Without the slash that joining nothing leaves.
            run.refused(&[path.to_str().unwrap().trim_end_matches('/'), "Permission denied"]);
        }
    }
}

#[test]
fn a_cache_directory_that_is_a_file_is_refused() {
    let world = World::bare();
    fs_err::write(world.path("_base"), "").unwrap();
    for subcommand in ["scan", "explain"] {
        world.run(subcommand, NO_ARGS).refused(&["_base", "not a directory"]);
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
fn a_hostile_subject_or_name_stays_on_one_line() {
    let world = World::new();
    let run = world.explain(["a\nb\u{1b}[31m"]);
    assert!(!run.stderr.contains('\u{1b}'), "{run:?}");
    run.refused(&["a\\nb"]);
    let inventory = world.file("in\nventory.json", "{");
    world.run("explain", [Path::new("--inventory"), &inventory]).refused(&["in\\nventory.json"]);
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

/// Bad usage: clap's message may have more lines, and names the option.
fn is_bad_usage(world: &World, args: &[&str], word: &str) {
    let run = Run::of(world.command().args(args));
    assert_eq!(run.code, 2, "{args:?}: {run:#?}");
    assert_eq!(run.stdout, "", "{args:?}");
    assert!(run.stderr.contains(word), "{args:?}: {}", run.stderr);
}

#[test]
fn bad_usage_exits_2_and_names_the_option() {
    let world = World::new();
    let path = world.instances_path().display().to_string();
    for (args, word) in [
        (&[][..], "Usage"),
        (&["fname"], "IMAGE_ID"),
        (&["remove"], "remove"),
        (&["scan", "extra"], "extra"),
        (&["scan", "-f", "yaml"], "--format"),
        (&["scan", "--inventory", "x"], "--inventory"),
        (&["scan", "-p"], "--instances-path"),
        (&["scan", "-p", ""], "--instances-path"),
        (&["scan", "-q", "-v"], "--quiet"),
        (&["explain", "--dry-run"], "--dry-run"),
        (&["explain", "--disks-only"], "--disks-only"),
        (&["explain", "--original-min-age", "soon"], "--original-min-age"),
        (&["explain", "--original-min-age", "-1"], "-1"),
        (&["explain", "--original-min-age", ""], "--original-min-age"),
        (&["explain", "--resized-min-age", "5 fortnights"], "--resized-min-age"),
        (&["explain", "--resized-min-age", "99999999999999999999999"], "--resized-min-age"),
        (&["explain", "--as-of", "tomorrow"], "--as-of"),
        (&["explain", "--as-of", "2026-13-01T00:00:00Z"], "--as-of"),
        (&["explain", "--as-of", "2026-11-30T00:00:00+01:00"], "--as-of"),
        (&["explain", "--as-of", "2026-11-30"], "--as-of"),
        (&["explain", "--as-of", "+"], "--as-of"),
        (&["explain", "--as-of", "+x"], "--as-of"),
        (&["explain", "--as-of", "7d"], "--as-of"),
        (&["prune", "--dry-run", "--lock-wait", "x"], "--lock-wait"),
        (&["prune", "--until-free", "lots"], "--until-free"),
        (&["prune", "--settle", "x"], "--settle"),
    ] {
        is_bad_usage(&world, args, word);
        if args.len() > 1 && !args.contains(&"-p") && args[0] != "fname" {
            is_bad_usage(&world, &[args, &["-p", &path]].concat(), word);
        }
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

#[test]
fn minimum_ages_and_times_of_absurd_size_are_judged_or_refused_but_no_crash() {
    let world = World::new();
    let name = world.original("a", DAY);
    world.inventory(&json!([]));
    let longest = u64::MAX.to_string();
    let run = world.explain(["--original-min-age", &longest]).exits(0);
    assert_eq!(run.verdict(&name), "too_young");
    assert_eq!(run.file(&name)["minimum_age_seconds"], u64::MAX);
    let then = format!("+{longest}s");
    let run = world.explain(["--as-of", &then, "--resized-min-age", &longest]);
    assert!(run.code == 2 || run.verdict(&name) == "removable", "{run:#?}");
    for early in ["1970-01-01T00:00:00Z", "0001-01-01T00:00:00Z"] {
        let run = world.explain(["--as-of", early]);
        assert!(run.code == 2 || run.verdict(&name) == "too_young", "{run:#?}");
    }
}
