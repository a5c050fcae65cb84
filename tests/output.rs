//! What is printed, and where: JSON field by field, tables, messages, pipes.

use std::collections::BTreeSet;
use std::ffi::OsStr;
use std::io::{BufRead as _, BufReader, Read as _};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::process::{Command, Stdio};
use std::time::{Duration, SystemTime};

use crate::common::host::{Host, id};
use crate::common::{DAY, Run, World, list, overlay, text};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::{Value, json};

#[track_caller]
fn assert_keys(value: &Value, expected: &str) {
    let keys: BTreeSet<&str> = value.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(keys, expected.split_whitespace().collect());
}

// The keys of a command's object, of its files and of its summary: SPEC, section 7.
const HEAD: &str =
    "schema_version command version generated_at instances_path cache_dir filesystem warnings summary files";
const FILE: &str = "name path kind size_bytes disk_bytes mtime age_seconds fingerprint image downloadable";
const PASS: &str = "missing unlisted_directories unreadable complete policy inventory";
const JUDGED_FILE: &str = "minimum_age_seconds verdict reasons";
const POLICY: &str =
    "host original_minimum_age_seconds resized_minimum_age_seconds ignore_unlisted partials as_of";
const KINDS: &str = "ephemeral info original other partial resized set_aside small swap";
const VERDICTS: &str = "ignored in_use removable too_young unknown";
const OUTCOMES: &str = "removed would_remove kept spared locked open changed failed not_reached";
const TOTAL: &str = "files disk_bytes";

#[test]
fn json_has_exactly_these_keys() {
    let host = Host::new();
    symlink("/nowhere", host.world.base(cache_file_name("link"))).unwrap();
    let fname = host.run(&["fname", "-f", "json", &id("debian-12")]).exits(0).json();
    assert_keys(&fname, "schema_version files");
    assert_keys(&fname["files"][0], "image_id file_name path exists");

    let scan = host.run(&["scan", "-f", "json", "--images", "images.json"]).exits(0).json();
    assert_keys(&scan, HEAD);
    list(&scan["files"]).iter().for_each(|it| assert_keys(it, FILE));
    assert_keys(&scan["summary"], &format!("{TOTAL} by_kind"));
    assert_keys(&scan["summary"]["by_kind"], KINDS);

    let explain = host.judged(&["explain"]).exits(0).json();
    let dry_run = host.judged(&["prune", "-n", "--until-free", "0%"]).exits(0).json();
    let prune = host.judged(&["prune", "--settle", "0s"]).exits(0).json();
    assert_keys(&dry_run["goal"], "wanted_bytes available_before_bytes available_after_bytes");
    assert_eq!(prune["goal"], Value::Null);
    assert_eq!((&dry_run["dry_run"], &prune["dry_run"]), (&json!(true), &json!(false)));
    for json in [&dry_run, &prune] {
        assert_keys(&json["summary"]["by_outcome"], OUTCOMES);
    }
    for (json, command, more, of_file, of_summary) in [
        (&explain, "explain", "", "", ""),
        (&dry_run, "prune", "dry_run goal", "outcome error", "by_outcome touched"),
        (&prune, "prune", "dry_run goal", "outcome error", "by_outcome touched"),
    ] {
        assert_keys(json, &format!("{HEAD} {PASS} {more}"));
        assert_eq!((&json["schema_version"], &json["command"]), (&json!(1), &json!(command)));
        assert_eq!(json["instances_path"], json!(host.world.instances_path()));
        assert_eq!(json["cache_dir"], json!(host.world.path("_base")));
        assert_keys(&json["filesystem"], "size_bytes available_bytes");
        assert_keys(&json["policy"], POLICY);
        assert_eq!(json["inventory"], json!({"sources": ["inventory.json"], "instances": 41, "counted": 40}));
        assert_keys(&json["summary"], &format!("{TOTAL} by_verdict not_downloadable {of_summary}"));
        assert_keys(&json["summary"]["by_verdict"], VERDICTS);
        assert_keys(&json["summary"]["not_downloadable"], TOTAL);
        let each = |list_of: &str, expected: &str| {
            assert!(!list(&json[list_of]).is_empty(), "{list_of}");
            list(&json[list_of]).iter().for_each(|it| assert_keys(it, expected));
        };
        each("warnings", "code level text");
        each("unreadable", "path error blocks");
        each("unlisted_directories", "name disk_bytes mtime keeps");
        each("missing", "name reasons image downloadable");
        each("files", &format!("{FILE} {JUDGED_FILE} {of_file}"));
        for it in list(&json["files"]).iter().chain(list(&json["missing"])) {
            assert!(!list(&it["reasons"]).is_empty(), "{it:#}");
            list(&it["reasons"]).iter().for_each(|it| assert_keys(it, "code text images instances disks"));
            if it["image"] != Value::Null {
                assert_keys(&it["image"], "id name status");
            }
        }
    }
}

#[test]
fn warnings_are_printed_and_notes_only_with_verbose() {
    let host = Host::new();
    let args = ["explain", "--keep", "nothing", "-f", "json"];
    let [loud, verbose, quiet] =
        [&[][..], &["-v"], &["-q"]].map(|more| host.run(&[&args[..], more].concat()));
    let json = loud.json();
    let warning = |code: &str| list(&json["warnings"]).iter().find(|it| it["code"] == code).unwrap();
    for (code, level, runs) in [
        ("no_inventory", "warning", &[&loud, &verbose][..]),
        ("instance_broken", "warning", &[&loud, &verbose]),
        ("keep_unknown", "note", &[&verbose]),
    ] {
        assert_eq!(warning(code)["level"], level);
        let line = format!("nova-imagecache: {level}: {}\n", text(&warning(code)["text"]));
        for run in [&loud, &verbose, &quiet] {
            let is_printed = runs.iter().any(|it| std::ptr::eq(*it, run));
            assert_eq!(run.stderr.contains(&line), is_printed, "{line} {run:?}");
        }
    }
    assert_eq!(quiet.stderr, "");
    assert!(
        verbose.stderr.contains("nova-imagecache: read 19 cache files, 43 directories with 43 disks"),
        "{verbose:?}"
    );
    let data = |run: &Run| {
        Value::from_iter(["warnings", "files", "missing"].map(|it| (it, strip_ages(&run.json()[it]))))
    };
    assert_eq!(data(&quiet), data(&loud));
    assert_eq!(data(&verbose), data(&loud));
    // Errors are not warnings.
    let refused = host.run(&["explain", "-q", "nothing known"]);
    assert!(refused.code == 2 && refused.stderr.contains("nothing known"), "{refused:?}");
}

/// Without what differs between two runs.
fn strip_ages(files: &Value) -> Value {
    let mut files = files.clone();
    for file in files.as_array_mut().unwrap() {
        let file = file.as_object_mut().unwrap();
        file.remove("age_seconds");
        file.remove("reasons");
    }
    files
}

#[test]
fn lists_are_sorted_by_name() {
    let host = Host::new();
    for directory in ["z", "b", "Y", "a-1", "a", "é"] {
        let path = host.world.path(directory);
        overlay(&path.join("disk"), format!("../_base/swap_{}", directory.len()));
        symlink("/nowhere", path.join("broken")).unwrap();
    }
    let json = host.judged(&["explain"]).exits(1).json();
    for (key, by) in
        [("files", "name"), ("missing", "name"), ("unlisted_directories", "name"), ("unreadable", "path")]
    {
        let items: Vec<_> = list(&json[key]).iter().map(|it| text(&it[by])).collect();
        assert!(items.len() > 2 && items.is_sorted(), "{items:?}");
    }
}

#[test]
fn summaries_add_up() {
    let host = Host::new();
    for (run, groups) in [
        (host.run(&["scan", "-f", "json"]), &[("by_kind", "kind")][..]),
        (host.judged(&["explain"]), &[("by_verdict", "verdict")]),
        (host.judged(&["explain", &id("centos-7")]), &[("by_verdict", "verdict")]),
        (
            host.judged(&["prune", "-n", "--partials"]),
            &[("by_verdict", "verdict"), ("by_outcome", "outcome")],
        ),
    ] {
        let json = run.exits(0).json();
        let files = list(&json["files"]);
        let total_of = |files: &mut dyn Iterator<Item = &Value>| {
            let bytes: Vec<u64> = files.map(|it| it["disk_bytes"].as_u64().unwrap()).collect();
            json!({"files": bytes.len(), "disk_bytes": bytes.iter().sum::<u64>()})
        };
        let all = total_of(&mut files.iter());
        assert_eq!(
            json!({"files": json["summary"]["files"], "disk_bytes": json["summary"]["disk_bytes"]}),
            all
        );
        for (group, key) in groups {
            let totals = json["summary"][group].as_object().unwrap();
            assert!(files.iter().all(|it| totals.contains_key(&text(&it[key]))), "{group}");
            for (word, total) in totals {
                assert_eq!(
                    *total,
                    total_of(&mut files.iter().filter(|it| it[key] == **word)),
                    "{group} {word}"
                );
            }
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
    let run = Host::new().run(&["explain", "-f", "json"]).exits(0);
    for name in ["swap_512", "ephemeral_20_8c4ce2a", "README"] {
        assert_eq!(
            (&run.file(name)["fingerprint"], &run.file(name)["image"]),
            (&Value::Null, &Value::Null),
            "{name}"
        );
    }
    assert_eq!(run.file("README")["minimum_age_seconds"], Value::Null);
    assert_eq!(run.file("swap_512")["minimum_age_seconds"], 86_400);
}

#[test]
fn global_options_stand_before_or_after_the_subcommand() {
    let host = Host::new();
    let summary = |args: &[&str]| Run::of(host.world.command().args(args)).exits(0).json()["summary"].clone();
    assert_eq!(
        summary(&["-f", "json", "-p", "instances", "scan"]),
        summary(&["scan", "--instances-path", "instances", "--format", "json"])
    );
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
    // Whoever may make an image gives it its name.
    let image = world.original("i", DAY);
    let images = world.file("images.json", json!([{"ID": "i", "Name": hostile.concat()}]).to_string());
    let images = ["--images", images.to_str().unwrap()];
    for run in [
        world.run("scan", images),
        world.run("explain", images),
        world.run("explain", [images[0], images[1], hostile[1], &image]),
    ] {
        assert!(run.code < 2, "{run:#?}");
        for output in [&run.stdout, &run.stderr] {
            let bad = output.chars().find(|it| it.is_control() && *it != '\n' || *it == '\u{202e}');
            assert_eq!(bad, None, "{output}");
            assert!(!output.lines().any(|line| line.starts_with("removable b")), "{output}");
        }
    }
    // JSON has them as they are, escaped by its own rules; a name that is not UTF-8 in hex as well.
    for name in hostile {
        assert_eq!(world.scan().exits(0).file(name)["kind"], "other");
    }
    let bytes = OsStr::from_bytes(b"bytes\xff");
    fs_err::write(world.base(bytes), "").unwrap();
    assert_eq!(world.scan().exits(0).file("bytes\u{fffd}")["name_bytes"], "6279746573ff");
    assert!(world.run("explain", [bytes]).stdout.contains("bytes\\xff"));
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
    let world = World::new();
    for format in ["table", "json"] {
        let output = Command::new(assert_cmd::cargo::cargo_bin!("nova-imagecache"))
            .env_clear()
            .args(["scan", "-f", format, "-p"])
            .arg(world.instances_path())
            .stdout(fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap().into_parts().0)
            .output()
            .unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert_eq!(output.status.code(), Some(1), "{format}");
        assert!(stderr.lines().count() == 1 && stderr.contains("No space left"), "{stderr}");
    }
}
