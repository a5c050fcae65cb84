//! What is printed, and where: JSON field by field, tables, messages, pipes.

use std::collections::BTreeSet;
use std::os::unix::fs::symlink;

use crate::common::host::{BROKEN, GONE, Host, id};
use crate::common::prune::finish;
use crate::common::{World, list, overlay, text};
use assert_cmd::cargo::cargo_bin;
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

    let explain = host.judged(&["explain"]).exits(0);
    // What does not apply is null.
    for (name, age) in [("swap_512", json!(86_400)), ("README", Value::Null)] {
        let file = explain.file(name);
        assert_eq!((&file["fingerprint"], &file["image"]), (&Value::Null, &Value::Null), "{name}");
        assert_eq!(file["minimum_age_seconds"], age, "{name}");
    }
    let explain = explain.json();
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
        [&[][..], &["-v"], &["-q"]].map(|more| host.run(&[&args[..], more].concat()).exits(0));
    let json = loud.json();
    let warning = |code: &str| list(&json["warnings"]).iter().find(|it| it["code"] == code).unwrap();
    for (code, level, loud_too) in [
        ("no_inventory", "warning", true),
        ("instance_broken", "warning", true),
        ("keep_unknown", "note", false),
    ] {
        assert_eq!(warning(code)["level"], level);
        let line = format!("nova-imagecache: {level}: {}\n", text(&warning(code)["text"]));
        let is_printed = [&loud, &verbose].map(|run| run.stderr.contains(&line));
        assert_eq!(is_printed, [loud_too, true], "{line} {loud:?}");
    }
    for word in [GONE, BROKEN] {
        assert!(loud.stderr.contains(word), "{}", loud.stderr);
    }
    let gathered = "nova-imagecache: read 19 cache files, 43 directories with 42 disks";
    assert!(verbose.stderr.contains(gathered), "{verbose:?}");
    assert_eq!((quiet.stderr.as_str(), &quiet.json()["warnings"]), ("", &json["warnings"]));
    // Errors are not warnings.
    let refused = host.run(&["explain", "-q", "nothing known"]);
    assert!(refused.code == 2 && refused.stderr.contains("nothing known"), "{refused:?}");
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
    for (args, groups) in [
        (&["scan", "-f", "json"][..], &["kind"][..]),
        (&["explain", "-f", "json"], &["verdict"]),
        (&["explain", "-f", "json", &id("centos-7")], &["verdict"]),
        (&["prune", "-n", "-f", "json", "--partials"], &["verdict", "outcome"]),
    ] {
        let json = host.run(args).exits(0).json();
        let summary = &json["summary"];
        let total_of = |is_counted: &dyn Fn(&Value) -> bool| {
            let counted = list(&json["files"]).iter().filter(|it| is_counted(it));
            let bytes: Vec<u64> = counted.map(|it| it["disk_bytes"].as_u64().unwrap()).collect();
            json!({"files": bytes.len(), "disk_bytes": bytes.iter().sum::<u64>()})
        };
        let all = json!({"files": summary["files"], "disk_bytes": summary["disk_bytes"]});
        assert_eq!(all, total_of(&|_| true));
        for key in groups {
            let totals = summary[format!("by_{key}")].as_object().unwrap();
            for (word, total) in totals {
                assert_eq!(*total, total_of(&|it| it[key] == **word), "{key} {word}");
            }
            assert_eq!(all, total_of(&|it| totals.contains_key(it[key].as_str().unwrap())));
        }
    }
}

/// As an event loop hands it to a child.
#[test]
fn a_pipe_that_does_not_block_gets_the_whole_report() {
    let world = World::new();
    // More than a pipe holds.
    for index in 0..300 {
        fs_err::write(world.base(format!("{}_{index}", cache_file_name("a"))), "").unwrap();
    }
    let (mut reader, writer) = std::io::pipe().unwrap();
    nix::fcntl::fcntl(&writer, nix::fcntl::FcntlArg::F_SETFL(nix::fcntl::OFlag::O_NONBLOCK)).unwrap();
    let mut command = std::process::Command::new(cargo_bin!("nova-imagecache"));
    let command = command.args(["scan", "-f", "json", "-p"]).arg(world.instances_path()).stdout(writer);
    let mut child = command.stderr(std::process::Stdio::inherit()).spawn().unwrap();
    // Drops our writer of the pipe, so that the pipe ends with the child.
    command.stdout(std::process::Stdio::null());
    std::thread::sleep(std::time::Duration::from_millis(300));
    let mut stdout = Vec::new();
    std::io::Read::read_to_end(&mut reader, &mut stdout).unwrap();
    assert_eq!(child.wait().unwrap().code(), Some(0));
    let json: Value = serde_json::from_slice(&stdout).unwrap();
    assert!(list(&json["files"]).len() == 300 && stdout.len() > 1 << 16, "{} bytes", stdout.len());
}

#[test]
fn a_closed_pipe_ends_the_output_quietly_and_a_full_disk_is_an_error() {
    let world = World::new();
    // More than a pipe holds.
    for index in 0..3000 {
        fs_err::write(world.base(format!("{}_{index}", cache_file_name("a"))), "").unwrap();
    }
    for args in ["scan", "scan -f json", "explain", "explain -f json"] {
        for (redirection, code, message) in [
            ("| (read -r line && test -n \"$line\")", 0, ""),
            ("> /dev/full", 1, "No space left"),
            ("1< /dev/null", 1, "Bad file descriptor"),
        ] {
            let script = format!("set -o pipefail; \"$0\" {args} -q -p instances {redirection}");
            let mut bash = std::process::Command::new("bash");
            let bash = bash.env_clear().current_dir(world.outside()).args(["-c", &script]);
            let run = finish(bash.arg(cargo_bin!("nova-imagecache"))).exits(code);
            assert!(run.stderr.contains(message) && run.stderr.lines().count() == code as usize, "{run:?}");
        }
    }
    let script = "ulimit -f 0; exec \"$0\" scan -q -p instances > limited";
    let mut bash = std::process::Command::new("bash");
    let bash = bash.env_clear().current_dir(world.outside()).args(["-c", script]);
    let run = finish(bash.arg(cargo_bin!("nova-imagecache"))).exits(1);
    assert!(run.stderr.contains("File too large"), "{run:?}");
    for option in ["--help", "--version"] {
        let full = fs_err::OpenOptions::new().write(true).open("/dev/full").unwrap();
        let mut command = std::process::Command::new(cargo_bin!("nova-imagecache"));
        let command = command.arg(option).stdout(full.into_parts().0).stderr(std::process::Stdio::piped());
        let output = command.spawn().unwrap().wait_with_output().unwrap();
        let stderr = String::from_utf8(output.stderr).unwrap();
        assert!(output.status.code() == Some(1) && stderr.contains("No space left"), "{option}: {stderr}");
    }
}
