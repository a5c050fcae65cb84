//! Tables as people see them: on a real terminal, made by script(1), and in a pipe.

use std::process::Command;

use crate::common::{DAY, HOST, HOUR, Run, World, tool};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

const IMAGE: &str = "fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0";
const UUID: &str = "8c1f2b0a-2d10-4a79-b0b9-ed3b2f2dd7f5";

/// A cache with every verdict but `unknown`, and a file that is missing.
fn world() -> World {
    let world = World::new();
    let used = world.original(IMAGE, DAY);
    world.resized("unused", 21_474_836_480, 3 * DAY + 4 * HOUR);
    world.cache_file("swap_512", HOUR);
    world.cache_file("README", DAY);
    world.instance_disk(UUID, &used);
    world.instance_disk("left-behind", &used);
    let row = json!({"uuid": UUID, "host": HOST, "image_ref": IMAGE, "ephemeral_gb": 20});
    world.inventory(&json!([row]));
    world
}

const EXPLAIN: [&str; 5] = ["explain", "--host", HOST, "--inventory", "inventory.json"];

/// What a terminal of that many columns is sent.
fn on_terminal(world: &World, columns: usize, environment: &[(&str, &str)], args: &[&str]) -> Run {
    let program = assert_cmd::cargo::cargo_bin!("nova-imagecache");
    let command =
        format!("stty cols {columns} rows 24 && {} -p instances {}", program.display(), args.join(" "));
    let output = Command::new(tool("script", "bsdutils"))
        .args(["-q", "-e", "-c", &command, "/dev/null"])
        .env_clear()
        .env("PATH", std::env::var_os("PATH").unwrap())
        .env("TERM", "xterm-256color")
        .envs(environment.iter().copied())
        .current_dir(world.outside())
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    Run::from(output).exits(0)
}

fn in_pipe(world: &World, environment: &[(&str, &str)], args: &[&str]) -> Run {
    let mut command = world.command();
    Run::of(command.envs(environment.iter().copied()).args(["-p", "instances"]).args(args)).exits(0)
}

/// The lines without colours.
fn lines(run: &Run) -> Vec<String> {
    let plain = anstream::adapter::strip_str(&run.stdout).to_string();
    plain.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

#[test]
fn no_line_is_wider_than_the_terminal() {
    let world = world();
    for columns in [80, 100, 130, 200] {
        for args in [
            &["scan"][..],
            &EXPLAIN,
            &[&["prune", "-n"], &EXPLAIN[1..]].concat(),
            &[&EXPLAIN[..], &["swap_512", "'ephemeral_20_*'"]].concat(),
        ] {
            let run = on_terminal(&world, columns, &[], args);
            let lines = lines(&run);
            assert!(lines.len() > 5, "{run:?}");
            // A path that does not fit on a line of its own is left to the terminal, which can copy it whole.
            let wide = lines.iter().filter(|it| it.chars().count() > columns && it.trim().contains(' '));
            assert_eq!(Vec::<&String>::new(), wide.collect::<Vec<_>>(), "{columns} {args:?}");
        }
    }
}

#[test]
fn names_are_whole_on_every_terminal() {
    let world = world();
    let resized = format!("{}_21474836480", cache_file_name("unused"));
    for columns in [80, 200] {
        for args in [&["scan"][..], &EXPLAIN] {
            let lines = lines(&on_terminal(&world, columns, &[], args));
            assert!(lines.iter().any(|line| line.contains(&resized)), "{columns} {args:?} {lines:#?}");
        }
    }
}

#[test]
fn a_name_of_255_bytes_does_not_push_the_others_aside() {
    let world = world();
    let long = "x".repeat(255);
    world.cache_file(&long, DAY);
    for run in [on_terminal(&world, 200, &[], &EXPLAIN), in_pipe(&world, &[], &EXPLAIN)] {
        let lines = lines(&run);
        let swap = lines.iter().find(|line| line.contains("swap_512")).unwrap();
        assert!(swap.find("no instance").is_some_and(|column| column < 110), "{swap}");
        assert!(lines.iter().any(|line| line.contains(&long)), "{lines:#?}");
    }
}

#[test]
fn a_pipe_gets_one_line_a_file_with_everything_on_it() {
    let world = world();
    let run = in_pipe(&world, &[], &EXPLAIN);
    let lines = lines(&run);
    let used = lines.iter().find(|line| line.contains(&cache_file_name(IMAGE))).unwrap();
    for text in ["in_use", "1d", IMAGE, UUID, "left-behind/disk"] {
        assert!(used.contains(text), "no {text}: {used}");
    }
}

#[test]
fn a_narrow_terminal_tells_the_age_once() {
    let world = world();
    let lines = lines(&on_terminal(&world, 80, &[], &EXPLAIN)).join(" ");
    assert_eq!(lines.matches("3d 4h").count(), 1, "{lines}");
}

#[test]
fn what_can_be_won_comes_first_and_the_totals_last() {
    let lines = lines(&in_pipe(&world(), &[], &EXPLAIN));
    let first_words: Vec<_> = lines.iter().filter_map(|it| it.split_whitespace().next()).collect();
    assert_eq!(first_words[..5], ["VERDICT", "removable", "too_young", "in_use", "ignored"]);
    assert!(first_words.contains(&"missing"), "{lines:#?}");
    let last = lines.last().unwrap();
    assert!(last.starts_with("total 4 files ("), "{last}");
    for verdict in ["in_use 1 (", "too_young 1 (", "removable 1 (", "ignored 1 ("] {
        assert!(last.contains(verdict), "{last}");
    }
}

#[test]
fn sizes_are_in_gib_from_a_tenth_on() {
    let world = world();
    let file = world.base("swap_512");
    let allocated = Command::new("fallocate").args(["-l", "107374183"]).arg(&file).status().unwrap();
    assert!(
        allocated.success(),
        "fallocate is of the package util-linux; the temporary directory must allow it"
    );
    let lines = lines(&in_pipe(&world, &[], &["scan"]));
    assert!(lines[1].contains("  0.1 GiB  ") && lines[1].contains("swap_512"), "{lines:#?}");
}

#[test]
fn the_whole_story_of_a_missing_file_names_who_needs_it() {
    let world = world();
    let lines = lines(&in_pipe(&world, &[], &[&EXPLAIN[..], &["ephemeral_20_*"]].concat())).join("\n");
    assert!(lines.contains(&format!("instance  {UUID}")), "{lines}");
}

#[test]
fn colours_are_for_terminals_unless_the_environment_says_otherwise() {
    let world = world();
    let has_colours = |run: &Run| run.stdout.contains("\u{1b}[");
    assert!(has_colours(&on_terminal(&world, 80, &[], &EXPLAIN)));
    assert!(!has_colours(&on_terminal(&world, 80, &[("NO_COLOR", "1")], &EXPLAIN)));
    assert!(!has_colours(&in_pipe(&world, &[], &EXPLAIN)));
    assert!(has_colours(&in_pipe(&world, &[("CLICOLOR_FORCE", "1")], &EXPLAIN)));
}
