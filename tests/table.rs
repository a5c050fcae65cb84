//! Tables as people see them: on a real terminal, made by script(1), and in a pipe.

use crate::common::host::{GONE, Host, JUDGED, id, original};
use crate::common::{DAY, HOST, HOUR, Run, World};
use serde_json::json;

const WITHOUT_IMAGES: &[&str] = JUDGED.split_at(4).0;

/// The lines without colours.
fn lines(run: &Run) -> Vec<String> {
    let plain = anstream::adapter::strip_str(&run.stdout).to_string();
    plain.lines().map(|line| line.trim_end_matches('\r').to_owned()).collect()
}

/// The line that has this text.
#[track_caller]
fn line<'a>(lines: &'a [String], text: &str) -> &'a str {
    lines.iter().find(|it| it.contains(text)).unwrap_or_else(|| panic!("no {text}: {lines:#?}"))
}

#[test]
fn every_terminal_gets_whole_names_and_no_line_that_is_wider() {
    let host = Host::new();
    let debian = original("debian-12");
    let sources = [&JUDGED[..], WITHOUT_IMAGES];
    for (kind, sources) in [
        (&["scan"][..], [&JUDGED[4..], &[]]),
        (&["explain"], sources),
        (&["explain", &debian, GONE], sources),
        (&["prune", "-n"], sources),
        (&["prune", "-n", "-v", "--until-free", "0%"], sources),
    ] {
        for (source, columns) in sources.iter().flat_map(|it| [80, 130, 200].map(|columns| (it, columns))) {
            let lines = lines(&host.on_terminal(columns, &[], &[kind, *source].concat()).exits(0));
            // A path that does not fit on a line of its own is left to the terminal, which can copy it whole; so are
            // messages, which script shows among the lines.
            let is_wide = |it: &&String| {
                let ends_in_path = it.split_whitespace().last().is_some_and(|it| it.starts_with('/'));
                it.chars().count() > columns && !ends_in_path && !it.starts_with("nova-imagecache: ")
            };
            let wide: Vec<&String> = lines.iter().filter(is_wide).collect();
            assert!(wide.is_empty() && lines.len() > 5, "{columns} {kind:?} {wide:#?} of {lines:#?}");
            if kind.len() == 1 {
                host.world.cache_names().iter().for_each(|it| assert!(line(&lines, it).len() > 5));
            }
        }
    }
}

#[test]
fn names_of_images_stand_where_there_is_room_for_them() {
    let host = Host::new();
    let shown = |columns, first: &[&str]| {
        let lines = lines(&host.on_terminal(columns, &[], &[first, &JUDGED[..]].concat()).exits(0));
        let at = lines.iter().position(|it| it.contains(&original("ubuntu-20.04"))).unwrap();
        lines[at..at + 3].join("\n")
    };
    for (columns, beside) in [(80, false), (130, true), (200, true)] {
        for first in [&["explain"][..], &["prune", "-n"]] {
            let shown = shown(columns, first);
            let (line, next) = shown.split_once('\n').unwrap();
            assert_eq!(line.contains("  ubuntu-20.04"), beside, "{columns} {shown}");
            assert_eq!(next.contains("ubuntu-20.04: unused"), !beside, "{columns} {shown}");
            let words: Vec<&str> = shown.split_whitespace().collect();
            assert!(words.join(" ").contains("cannot be downloaded again"), "{columns} {shown}");
        }
    }
    let images = &JUDGED[4..];
    for (columns, expected) in [(80, "\n    ubuntu-20.04; cannot"), (130, "  ubuntu-20.04; cannot")] {
        let lines = lines(&host.on_terminal(columns, &[], &[&["scan"], images].concat()).exits(0)).join("\n");
        assert!(lines.contains(expected), "{columns} {lines}");
        assert!(lines.contains("cannot be downloaded again: 6 files (6.3"), "{columns} {lines}");
    }
    let dry_run = host.run(&[&["prune", "-n"], &JUDGED[..]].concat()).exits(0).stdout;
    let end = "6 files (6.31 MiB), 4 of them would be removed (3.28 MiB)";
    assert!(dry_run.contains(&format!("\ncannot be downloaded again: {end}\n")), "{dry_run}");
}

#[test]
fn a_pipe_gets_one_line_a_file_with_everything_on_it_and_no_colours() {
    let host = Host::new();
    let names = host.world.cache_names();
    for (args, heading) in [
        (&["scan"][..], "KIND "),
        (&[&["explain"], &JUDGED[..]].concat(), "VERDICT "),
        (&[&["prune", "-n", "-v"], &JUDGED[..]].concat(), "OUTCOME "),
    ] {
        let plain = host.run(args).exits(0);
        assert!(!plain.stdout.contains('\u{1b}') && plain.stdout.starts_with(heading), "{plain:?}");
        for name in &names {
            let has_it = |it: &&str| !it.starts_with(' ') && it.split_whitespace().any(|word| word == name);
            assert_eq!(plain.stdout.lines().filter(has_it).count(), 1, "{name} in {}", plain.stdout);
        }
    }
    let explain = lines(&host.run(&[&["explain"], &JUDGED[..]].concat()));
    let used = line(&explain, &original("golden-2023"));
    let why = "is the image of 2 instances: 0000003";
    for text in ["in_use", "3.03 MiB        1h  ", why, "/disk; cannot be"] {
        assert!(used.contains(text), "no {text}: {used}");
    }
}

#[test]
fn what_can_be_won_comes_first_and_totals_and_free_space_last() {
    let lines = lines(&Host::new().run(&[&["explain"], &JUDGED[..]].concat()));
    let at =
        |text: &str| lines.iter().position(|it| it.starts_with(text)).unwrap_or_else(|| panic!("no {text}"));
    let words = "VERDICT removable too_young in_use ignored missing 2 total";
    assert!(words.split(' ').map(at).is_sorted(), "{lines:#?}");
    let directory = line(&lines, "    5e0f6b1d");
    let end = format!("s ago, keeps {}", original("orphans-image"));
    assert!(directory.contains(": 4.00 KiB in disks, changed ") && directory.ends_with(&end), "{directory}");
    let [totals, lost, space] = &lines[lines.len() - 3..] else { panic!() };
    assert!(totals.starts_with("total 19 files (26.9 MiB), in_use 10 (20.8 MiB), too_young 1 (1.66 MiB), "));
    assert_eq!(lost, "cannot be downloaded again: 6 files (6.31 MiB)");
    assert!(space.ends_with(" free on the filesystem of the cache"), "{space}");
}

#[test]
fn a_prune_lists_what_is_not_kept_and_all_of_it_with_verbose() {
    let host = Host::new();
    let run = |more: &[&str]| {
        host.run(&[&["prune", "--settle", "0s"], WITHOUT_IMAGES, more].concat()).exits(0).stdout
    };
    let dry = run(&["-n"]);
    assert!(!dry.contains("\nkept ") && !dry.contains("missing") && !dry.contains("directories"), "{dry}");
    assert_eq!(dry.matches("\nwould_remove ").count(), 6, "{dry}");
    assert!(dry.contains(
        "\ntotal 19 files (26.9 MiB), would_remove 6 (4.36 MiB), kept 13 (22.5 MiB)\nwould free 4.36 MiB; "
    ));
    assert_eq!(run(&["-n", "-v"]).matches("\nkept ").count(), 13);
    let spared = run(&["-n", "--until-free", "0%"]);
    assert_eq!(spared.matches("  not needed for --until-free: unused for").count(), 5, "{spared}");
    assert!(spared.contains("\nwould free 0 B (goal 0 B free: reached); "), "{spared}");
    let asked = run(&["-n", "-v", "swap_2048"]);
    assert_eq!(asked.matches("  not asked for: ").count(), 5, "{asked}");
    let real = run(&[]);
    assert_eq!(real.matches("\nremoved ").count(), 6, "{real}");
    assert!(real.contains("\nfreed 4.36 MiB; "), "{real}");
    assert!(real.ends_with(" free on the filesystem of the cache\n"), "{real}");
}

#[test]
fn without_an_inventory_no_text_speaks_of_instances() {
    let host = Host::new();
    for args in
        [&["explain", "-q"][..], &["prune", "-n", "-v"], &["explain", "-q", &original("orphans-image")]]
    {
        let run = host.run(args).exits(0);
        let text = run.stdout.replace("/instances/", "/");
        assert!(!text.contains("instance"), "{text}");
    }
    let json = host.run(&["explain", "-f", "json"]).exits(0).json();
    assert_eq!(json["unlisted_directories"], json!([]));
}

#[test]
fn a_file_or_a_missing_one_that_is_asked_for_is_told_in_full() {
    let host = Host::new();
    let file = original("debian-12");
    let shown = lines(&host.run(&[&["explain"], &JUDGED[..], &[&file, GONE]].concat()).exits(0)).join("\n");
    for text in [
        &format!("{file}\n  verdict       in_use\n  path "),
        "\n  image         fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8e02 (debian-12)\n  downloadable  yes\n",
        "\n  size          1.37 MiB (1.37 MiB on disk)\n  mtime ",
        "\n      instance  00000021-4c61-4b4e-8a35-0a8d3a6f1b02\n",
        "00000021-4c61-4b4e-8a35-0a8d3a6f1b02/disk\n",
        &format!("\nmissing  {GONE}\n  because\n    backing file of disk "),
        "\ntotal 1 file (1.37 MiB), in_use 1 (1.37 MiB)\n",
    ] {
        assert!(shown.contains(text), "no {text:?}: {shown}");
    }
}

#[test]
fn a_name_of_255_bytes_does_not_push_the_others_aside() {
    let host = Host::new();
    let long = "x".repeat(255);
    host.world.cache_file(&long, DAY);
    let images =
        json!([{"ID": id("fedora-39"), "Name": "long ".repeat(51)}, {"ID": id("debian-12"), "Name": "d"}]);
    host.world.file("images.json", images.to_string());
    let explain = [&["explain", "-q"], &JUDGED[..]].concat();
    for args in [&explain[..], &["scan", "--images", "images.json"]] {
        let lines = lines(&host.on_terminal(200, &[], args));
        assert!(lines.iter().all(|it| it.contains(&long) || it.chars().count() <= 200), "{lines:#?}");
        assert!(line(&lines, &original("debian-12")).contains("  d"), "{lines:#?}");
    }
    for run in [host.on_terminal(200, &[], &explain), host.run(&explain)] {
        let lines = lines(&run);
        let swap = line(&lines, "swap_2048");
        assert!(swap.find("unused for").is_some_and(|column| column < 110), "{swap}");
        assert!(lines.iter().any(|line| line.contains(&long)), "{lines:#?}");
    }
}

#[test]
fn ages_stand_once() {
    let host = Host { world: World::new() };
    let file = host.world.resized("unused", 21_474_836_480, 3 * DAY + 4 * HOUR);
    let narrow = lines(&host.on_terminal(80, &[], &["explain", "--host", HOST])).join(" ");
    assert!(narrow.matches("3d 4h").count() == 1 && narrow.contains(&file), "{narrow}");
}

#[test]
fn ages_of_directories_are_as_of_the_time_that_is_asked_for() {
    let host = Host::new();
    let explain = [&["explain"], WITHOUT_IMAGES, &["--as-of", "+7d"]].concat();
    let lines = lines(&host.run(&explain).exits(0));
    let directory = line(&lines, "    5e0f6b1d");
    assert!(directory.contains("changed 7d ago"), "{directory}");
}

#[test]
fn colours_are_for_terminals_unless_the_environment_says_otherwise() {
    let host = Host { world: World::new() };
    host.world.original("a", DAY);
    let has_colours = |run: &Run| run.stdout.contains("\u{1b}[");
    assert!(has_colours(&host.on_terminal(80, &[], &["scan"])));
    assert!(!has_colours(&host.on_terminal(80, &[("NO_COLOR", "1")], &["scan"])));
    let mut command = host.world.command();
    command.args(["scan", "-p", "instances"]).envs([("TERM", "xterm-256color"), ("COLORTERM", "truecolor")]);
    assert!(!has_colours(&Run::of(&mut command)));
    assert!(has_colours(&Run::of(command.env("CLICOLOR_FORCE", "1"))));
}
