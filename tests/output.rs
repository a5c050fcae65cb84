//! What is printed, and where: JSON field by field, tables, messages, pipes.

use std::collections::BTreeMap;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::common::{DAY, HOST, HOUR, MINUTE, Run, World, list, overlay, text};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::{Value, json};

const NO_ARGS: [&str; 0] = [];

/// A world with a file of every kind and verdict, missing files, unlisted directories and a warning.
fn world() -> World {
    let world = World::new();
    let used = world.original("used", 2 * DAY);
    let copy = world.resized("used", 1 << 30, 3 * HOUR);
    world.resized("used", 2 << 30, 3 * HOUR);
    world.original("young", MINUTE);
    let unused = world.original("unused", 9 * DAY);
    for name in ["swap_5", "swap_6", "ephemeral_7_abcdefg", "odd"] {
        world.cache_file(name, 9 * DAY);
    }
    for end in ["_sm", ".info", ".part"] {
        world.cache_file(&format!("{unused}{end}"), 9 * DAY);
    }
    world.instance_disk("uuid-1", &copy);
    world.instance_disk("orphan", &used);
    fs_err::write(world.path("orphan/notes.txt"), "no disk").unwrap();
    world.inventory(&json!([
        {"uuid": "uuid-1", "host": HOST, "image_ref": "used", "kernel_id": "absent", "swap_mb": 5},
        {"uuid": "uuid-2", "host": "compute-9", "image_ref": "of others"},
    ]));
    world
}

fn keys(value: &Value) -> Vec<&str> {
    let mut keys: Vec<_> = value.as_object().unwrap().keys().map(String::as_str).collect();
    keys.sort_unstable();
    keys
}

#[track_caller]
fn assert_keys(value: &Value, expected: &[&str]) {
    let mut expected = expected.to_vec();
    expected.sort_unstable();
    assert_eq!(keys(value), expected);
}

const FILE: [&str; 8] =
    ["name", "path", "kind", "size_bytes", "disk_bytes", "mtime", "age_seconds", "fingerprint"];
const JUDGED: [&str; 3] = ["minimum_age_seconds", "verdict", "reasons"];
const REASON: [&str; 5] = ["code", "text", "images", "instances", "disks"];
const ALL: [&str; 7] =
    ["schema_version", "command", "instances_path", "cache_dir", "warnings", "summary", "files"];
const PASS: [&str; 6] = ["missing", "unlisted_directories", "unreadable", "complete", "host", "inventory"];
const VERDICTS: [&str; 5] = ["ignored", "in_use", "removable", "too_young", "unknown"];

#[test]
fn the_json_of_scan_has_its_fields() {
    let world = world();
    let json = world.scan().exits(0).json();
    assert_keys(&json, &ALL);
    assert_eq!(json["schema_version"], 1);
    assert_eq!(json["command"], "scan");
    assert_eq!(json["instances_path"], json!(world.instances_path()));
    assert_eq!(json["cache_dir"], json!(world.path("_base")));
    for file in list(&json["files"]) {
        assert_keys(file, &FILE);
    }
    assert_keys(&json["summary"], &["files", "disk_bytes", "by_kind"]);
    let kinds = ["ephemeral", "info", "original", "other", "partial", "resized", "small", "swap"];
    assert_keys(&json["summary"]["by_kind"], &kinds);
}

#[test]
fn the_json_of_explain_and_prune_has_its_fields() {
    let world = world();
    // For something in the list of what could not be read.
    symlink("/nowhere", world.base(cache_file_name("link"))).unwrap();
    let explain = world.explain(NO_ARGS).exits(0).json();
    let dry_run = world.dry_run(NO_ARGS).exits(0).json();
    assert_keys(&explain, &[&ALL[..], &PASS].concat());
    assert_keys(&dry_run, &[&ALL[..], &PASS, &["dry_run"]].concat());
    assert_eq!((&explain["command"], &dry_run["command"]), (&json!("explain"), &json!("prune")));
    assert_eq!(dry_run["dry_run"], true);
    for json in [&explain, &dry_run] {
        assert_eq!(json["schema_version"], 1);
        assert_eq!(json["host"], HOST);
        assert_eq!(json["complete"], true);
        assert_eq!(json["unlisted_directories"], json!(["orphan"]));
        assert_eq!(
            json["inventory"],
            json!({"sources": [world.outside().join("inventory.json")], "instances": 2, "counted": 1})
        );
        assert!(!list(&json["missing"]).is_empty());
        for missing in list(&json["missing"]) {
            assert_keys(missing, &["name", "reasons"]);
            list(&missing["reasons"]).iter().for_each(|it| assert_keys(it, &REASON));
        }
        assert_eq!(list(&json["unreadable"]).len(), 1);
        assert_keys(&json["unreadable"][0], &["path", "error"]);
        for file in list(&json["files"]) {
            assert!(!list(&file["reasons"]).is_empty(), "{file:#}");
            list(&file["reasons"]).iter().for_each(|it| assert_keys(it, &REASON));
        }
        assert_keys(&json["summary"]["by_verdict"], &VERDICTS);
    }
    for file in list(&explain["files"]) {
        assert_keys(file, &[&FILE[..], &JUDGED].concat());
    }
    for file in list(&dry_run["files"]) {
        assert_keys(file, &[&FILE[..], &JUDGED, &["outcome", "error"]].concat());
        let removable = file["verdict"] == "removable";
        assert_eq!(file["outcome"], if removable { "would_remove" } else { "kept" }, "{file:#}");
        assert_eq!(file["error"], Value::Null);
    }
    assert_keys(&explain["summary"], &["files", "disk_bytes", "by_verdict"]);
    assert_keys(&dry_run["summary"], &["files", "disk_bytes", "by_verdict", "by_outcome", "touched"]);
    assert_eq!(dry_run["summary"]["touched"], 0);
}

#[test]
fn every_reason_is_of_a_known_code() {
    let world = world();
    let known = [
        "image_in_use",
        "kernel_in_use",
        "ramdisk_in_use",
        "backing_file",
        "backing_file_unlisted",
        "resized_copy_kept",
        "swap_in_use",
        "ephemeral_in_use",
        "sidecar",
        "unused",
        "not_a_cache_file",
        "partial",
    ];
    let json = world.explain(NO_ARGS).exits(0).json();
    for file in list(&json["files"]).iter().chain(list(&json["missing"])) {
        for reason in list(&file["reasons"]) {
            assert!(known.contains(&text(&reason["code"]).as_str()), "{reason:#}");
            assert!(!text(&reason["text"]).is_empty(), "{reason:#}");
        }
    }
}

#[test]
fn warnings_have_a_code_and_a_text() {
    let world = world();
    fs_err::remove_file(world.outside().join("inventory.json")).unwrap();
    let run = world.explain(NO_ARGS).exits(0);
    let json = run.json();
    assert_eq!(json["inventory"], Value::Null);
    assert_eq!(list(&json["warnings"]).len(), 1);
    assert_keys(&json["warnings"][0], &["code", "text"]);
    assert_eq!(json["warnings"][0]["code"], "no_inventory");
    assert!(run.stderr.contains(&text(&json["warnings"][0]["text"])), "{run:#?}");
}

#[test]
fn lists_are_sorted_by_name() {
    let world = world();
    for directory in ["z", "b", "Y", "a-1", "a", "é"] {
        overlay(&world.path(directory).join("disk"), format!("../_base/swap_{}", directory.len()));
        fs_err::os::unix::fs::symlink("/nowhere", world.path(directory).join("broken")).unwrap();
    }
    let json = world.explain(NO_ARGS).exits(1).json();
    let is_sorted = |items: Vec<String>| {
        assert!(items.len() > 2 && items.is_sorted(), "{items:?}");
    };
    for key in ["files", "missing"] {
        is_sorted(list(&json[key]).iter().map(|it| text(&it["name"])).collect());
    }
    is_sorted(list(&json["unlisted_directories"]).iter().map(text).collect());
    is_sorted(list(&json["unreadable"]).iter().map(|it| text(&it["path"])).collect());
}

#[test]
fn summaries_add_up() {
    let world = world();
    let add = |total: &mut BTreeMap<String, (u64, u64)>, key: &Value, file: &Value| {
        let sum = total.entry(text(key)).or_default();
        sum.0 += 1;
        sum.1 += file["disk_bytes"].as_u64().unwrap();
    };
    for (run, groups) in [
        (world.scan(), &[("by_kind", "kind")][..]),
        (world.explain(NO_ARGS), &[("by_verdict", "verdict")]),
        (world.explain(["used"]), &[("by_verdict", "verdict")]),
        (world.dry_run(["--partials"]), &[("by_verdict", "verdict"), ("by_outcome", "outcome")]),
    ] {
        let json = run.exits(0).json();
        let files = list(&json["files"]);
        assert_eq!(json["summary"]["files"], files.len());
        let sum: u64 = files.iter().map(|it| it["disk_bytes"].as_u64().unwrap()).sum();
        assert_eq!(json["summary"]["disk_bytes"], sum);
        assert!(sum > 0);
        for (group, key) in groups {
            let mut expected = BTreeMap::new();
            files.iter().for_each(|it| add(&mut expected, &it[key], it));
            for (word, total) in json["summary"][group].as_object().unwrap() {
                let (files, disk_bytes) = expected.remove(word).unwrap_or_default();
                assert_eq!(*total, json!({"files": files, "disk_bytes": disk_bytes}), "{group} {word}");
            }
            assert_eq!(expected, BTreeMap::new(), "left out of {group}");
        }
    }
}

#[test]
fn times_are_in_utc_with_nanoseconds() {
    let world = World::new();
    let name = world.original("a", Duration::ZERO);
    for (seconds, nanoseconds, written) in [
        (1_700_000_000, 123_456_789, "2023-11-14T22:13:20.123456789Z"),
        (951_782_400, 0, "2000-02-29T00:00:00.000000000Z"),
        (0, 1, "1970-01-01T00:00:00.000000001Z"),
    ] {
        let mtime = SystemTime::UNIX_EPOCH + Duration::new(seconds, nanoseconds);
        crate::common::set_mtime(&world.base(&name), mtime);
        assert_eq!(world.scan().exits(0).file(&name)["mtime"], written);
    }
    let before_1970 = SystemTime::UNIX_EPOCH - Duration::new(1, 500_000_000);
    crate::common::set_mtime(&world.base(&name), before_1970);
    assert_eq!(world.scan().exits(0).file(&name)["mtime"], "1969-12-31T23:59:58.500000000Z");
}

#[test]
fn what_does_not_apply_is_null() {
    let run = world().explain(NO_ARGS).exits(0);
    for name in ["swap_5", "ephemeral_7_abcdefg", "odd"] {
        assert_eq!(run.file(name)["fingerprint"], Value::Null, "{name}");
    }
    assert_eq!(run.file("odd")["minimum_age_seconds"], Value::Null);
    assert_eq!(run.file("swap_5")["minimum_age_seconds"], 86_400);
}

#[test]
fn data_goes_to_stdout_and_quiet_leaves_the_data() {
    let world = world();
    let args = ["-f", "json", "--host", HOST, "--as-of", "2030-01-01T00:00:00Z"];
    let loud = world.run("explain", args).exits(0);
    assert!(loud.stderr.starts_with("nova-imagecache: warning: "), "{}", loud.stderr);
    let quiet = world.run("explain", [&args[..], &["-q"]].concat()).exits(0);
    assert_eq!((quiet.stderr.as_str(), &quiet.stdout), ("", &loud.stdout));
    let verbose = world.run("explain", [&args[..], &["-v"]].concat()).exits(0);
    assert_eq!(verbose.stdout, loud.stdout);
    assert!(verbose.stderr.lines().count() > loud.stderr.lines().count(), "{}", verbose.stderr);
    assert!(verbose.stderr.contains("directories"), "{}", verbose.stderr);
    // Errors are not warnings.
    let refused = world.run("explain", ["-q", "nothing known"]);
    assert_eq!(refused.code, 2);
    assert!(refused.stderr.contains("nothing known"), "{}", refused.stderr);
}

#[test]
fn global_options_stand_before_or_after_the_subcommand() {
    let world = world();
    let path = world.instances_path();
    let run = |before: &[&str], after: &[&str]| {
        Run::of(world.command().args(before).arg("-p").arg(&path).arg("scan").args(after)).exits(0).stdout
    };
    let age_of = |stdout: &str| serde_json::from_str::<Value>(stdout).unwrap()["summary"].clone();
    assert_eq!(age_of(&run(&["-f", "json"], &[])), age_of(&run(&[], &["--format", "json"])));
}

#[test]
fn tables_have_a_line_for_each_file_and_no_colours_in_a_pipe() {
    let world = world();
    let names = world.cache_names();
    for (subcommand, heading) in [("scan", "KIND"), ("explain", "VERDICT"), ("prune", "OUTCOME")] {
        let mut command = world.command();
        command.arg(subcommand).arg("-p").arg(world.instances_path());
        if subcommand != "scan" {
            command.args(["--inventory", "inventory.json", "--host", HOST]);
        }
        if subcommand == "prune" {
            command.arg("--dry-run");
        }
        command.envs([("TERM", "xterm-256color"), ("COLORTERM", "truecolor")]);
        let plain = Run::of(&mut command).exits(0);
        assert!(!plain.stdout.contains('\u{1b}') && !plain.stderr.contains('\u{1b}'), "{plain:#?}");
        assert!(plain.stdout.starts_with(heading), "{}", plain.stdout);
        for name in &names {
            let lines = plain.stdout.lines().filter(|it| it.split_whitespace().any(|word| word == name));
            assert_eq!(lines.count(), 1, "{name} in {}", plain.stdout);
        }
        let last = plain.stdout.lines().last().unwrap();
        assert!(last.contains(&format!("{} files", names.len())), "{last}");
        let no_color = Run::of(command.env("NO_COLOR", "1")).exits(0);
        assert!(!no_color.stdout.contains('\u{1b}'), "{}", no_color.stdout);
    }
}

#[test]
fn names_from_disk_cannot_steer_the_terminal() {
    let world = World::new();
    let hostile = ["a\nremovable b", "\u{1b}[31mred", "tab\tbell\u{7}", "rtl\u{202e}txt", "back\\slash"];
    for name in hostile {
        fs_err::write(world.base(name), "").unwrap();
        overlay(&world.path(name).join("disk\u{1b}[2J"), "/x/_base/gone\r\u{9b}31m");
    }
    fs_err::os::unix::fs::symlink("/nowhere", world.path(hostile[0]).join("broken\n")).unwrap();
    for run in [world.run("scan", NO_ARGS), world.run("explain", NO_ARGS), world.run("explain", [hostile[1]])]
    {
        assert!(run.code < 2, "{run:#?}");
        for output in [&run.stdout, &run.stderr] {
            let bad = output.chars().find(|it| it.is_control() && *it != '\n' || *it == '\u{202e}');
            assert_eq!(bad, None, "{output}");
            assert!(!output.lines().any(|line| line.starts_with("removable b")), "{output}");
        }
    }
    // JSON has them as they are, escaped by its own rules.
    for name in hostile {
        assert_eq!(world.scan().exits(0).file(name)["kind"], "other");
    }
}

#[test]
fn output_does_not_depend_on_the_timing_of_threads() {
    let world = World::new();
    let images: Vec<_> = (0..20).map(|it| world.original(&it.to_string(), DAY)).collect();
    let template = world.outside().join("template");
    for (index, image) in images.iter().enumerate() {
        fs_err::remove_file(&template).ok();
        overlay(&template, world.base(image));
        for copy in 0..10 {
            let directory = world.path(format!("uuid-{index}-{copy}"));
            fs_err::create_dir(&directory).unwrap();
            fs_err::copy(&template, directory.join("disk")).unwrap();
            symlink("/nowhere", directory.join("broken")).unwrap();
        }
    }
    let look = || {
        let json = world.explain(["--as-of", "2030-01-01T00:00:00Z"]).exits(1).stdout;
        let table = world.run("explain", ["--as-of", "2030-01-01T00:00:00Z"]).exits(1);
        (json, table.stdout, table.stderr)
    };
    let first = look();
    for _ in 0..8 {
        assert_eq!(look(), first);
    }
}

#[test]
fn a_closed_pipe_ends_the_output_quietly() {
    let world = World::new();
    // More than a pipe holds.
    for index in 0..3000 {
        fs_err::write(world.base(format!("{}_{index}", cache_file_name("a"))), "").unwrap();
    }
    for (subcommand, format) in
        [("scan", "table"), ("scan", "json"), ("explain", "table"), ("explain", "json")]
    {
        let mut child = Command::new(assert_cmd::cargo::cargo_bin!("nova-imagecache"))
            .env_clear()
            .args([subcommand, "-q", "-f", format, "-p"])
            .arg(world.instances_path())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .unwrap();
        let mut line = String::new();
        BufReader::with_capacity(64, child.stdout.take().unwrap()).read_line(&mut line).unwrap();
        assert!(!line.is_empty());
        let mut stderr = String::new();
        child.stderr.take().unwrap().read_to_string(&mut stderr).unwrap();
        let status = child.wait().unwrap();
        assert_eq!(stderr, "", "{subcommand} {format}");
        assert_eq!(status.code(), Some(0), "{subcommand} {format}: {status}");
    }
}

#[test]
fn an_output_that_cannot_be_written_is_an_error() {
    let world = world();
    for format in ["table", "json"] {
        let output = Command::new(assert_cmd::cargo::cargo_bin!("nova-imagecache"))
            .env_clear()
            .args(["scan", "-f", format, "-p"])
            .arg(world.instances_path())
            .stdout(fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(!output.status.success(), "{format}");
        assert!(stderr.lines().count() == 1 && stderr.contains("No space left"), "{stderr}");
    }
}

#[test]
fn a_file_asked_for_by_name_tells_its_whole_story() {
    let world = world();
    let used = cache_file_name("used");
    let run = world.run("explain", ["--inventory", "inventory.json", "--host", HOST, &used]).exits(0);
    for word in [used.as_str(), "in_use", "original", "uuid-1", "orphan/disk", "used"] {
        assert!(run.stdout.contains(word), "no {word} in {}", run.stdout);
    }
}
