//! What an operator asks for by option, operand and environment, on a host as operators have them.

use std::collections::BTreeSet;

use crate::common::host::{BROKEN, GONE, Host, JUDGED, id, original};
use crate::common::prune::{finish, with_outcome};
use crate::common::{DAY, HOST, Run, World, list, text};
use assert_cmd::cargo::cargo_bin;
use nova_imagecache::cache_name::cache_file_name;
use serde_json::{Value, json};

/// A real prune, without the wait.
const PRUNE: [&str; 3] = ["prune", "--settle", "0s"];
const DRY_RUN: [&str; 2] = ["prune", "-n"];

fn set<const N: usize>(names: [&str; N]) -> BTreeSet<String> {
    names.map(str::to_owned).into()
}

#[test]
fn a_list_of_images_changes_no_verdict_and_an_incomplete_one_calls_nothing_lost() {
    let host = Host::new();
    let whole = host.judged(&["explain"]).exits(0);
    let json = whole.json();
    let lost = list(&json["files"]).iter().filter(|it| it["downloadable"] == false);
    let bytes: u64 = lost.map(|it| it["disk_bytes"].as_u64().unwrap()).sum();
    assert_eq!(json["summary"]["not_downloadable"], json!({"files": 6, "disk_bytes": bytes}));
    assert_eq!(whole.file("swap_512")["downloadable"], Value::Null);
    let fedora = json!([{"id": id("fedora-39"), "name": "f", "status": "active"}]);
    host.world.file("page.json", json!({"images": fedora, "next": "/v2/images?marker=x"}).to_string());
    let args = ["-f", "json", "--images", "page.json"];
    let page = host.run(&[&["explain"], &JUDGED[..4], &args].concat()).exits(0);
    assert_eq!(page.json()["summary"]["by_verdict"], json["summary"]["by_verdict"]);
    assert!(page.warnings().contains(&"images_incomplete".into()), "{:?}", page.warnings());
    let downloadable = ["centos-7", "fedora-39"].map(|it| page.file(&original(it))["downloadable"].take());
    assert_eq!(downloadable, [Value::Null, json!(true)]);
    assert_eq!(page.json()["summary"]["not_downloadable"]["files"], 0);
}

#[test]
fn what_is_to_be_kept_is_in_use_by_file_or_image() {
    let host = Host::new();
    let centos = original("centos-7");
    let keep = ["--keep", "swap_2048", "--keep", &id("centos-7"), "--keep", "no such thing"];
    let explain = host.judged(&[&["explain"], &keep[..]].concat()).exits(0);
    for name in ["swap_2048", &centos, &format!("{centos}_21474836480")] {
        assert_eq!(explain.verdict(name), "in_use");
        assert_eq!(explain.codes(name), ["kept_on_request"]);
    }
    assert_eq!(explain.verdict(&format!("{centos}.info")), "in_use");
    assert!(!explain.stderr.contains("no such thing"), "{explain:?}");
    let prune = host.judged(&[&PRUNE, &keep[..]].concat()).exits(0);
    assert_eq!(with_outcome(&prune, "removed"), set([&original("ubuntu-20.04"), &original("fedora-39")]));
    assert_eq!(prune.json()["summary"]["touched"], 14, "kept files are touched, too");

    // By its path, whatever links lead there.
    let link = host.world.outside().join("link");
    std::os::unix::fs::symlink(host.world.instances_path(), &link).unwrap();
    let path = link.join("_base").join(&centos);
    let explain = host.judged(&["explain", "--keep", path.to_str().unwrap()]).exits(0);
    assert_eq!(explain.codes(&centos), ["kept_on_request"]);
}

#[test]
fn an_image_id_may_have_a_slash() {
    let world = World::new();
    let name = world.original("a/b", DAY);
    assert_eq!(world.explain(["a/b"]).exits(0).verdict(&name), "removable");
    assert_eq!(world.explain(["--keep", "a/b"]).exits(0).codes(&name), ["kept_on_request"]);
    // What is neither is told as it was written.
    world.explain(["a/c"]).refused(&["nova-imagecache: a/c: neither"]);
}

#[test]
fn a_missing_file_that_is_to_be_kept_is_known() {
    let host = Host::new();
    let explain = host.judged(&["explain", "--keep", GONE, "--keep", &GONE[..8]]).exits(0);
    assert!(!explain.warnings().contains(&"keep_unknown".into()), "{explain:?}");
}

/// On a filesystem of its own, where nobody else takes or gives space.
#[test]
fn until_free_says_what_was_spared_and_whether_the_goal_was_reached() {
    let host = Host::new();
    let on_own = |args: &[&str], goal, format| {
        host.run_on_own_filesystem("true", &[args, &JUDGED, &["--until-free", goal, "-f", format]].concat())
    };
    for (goal, chosen, wanted, code) in [
        ("0%", 0, "0 B", 0),
        ("38.5MiB", 5, "38.5 MiB", 0),
        ("60%", 5, "38.4 MiB", 0),
        ("95%", 6, "60.8 MiB", 1),
    ] {
        let ((dry, _), (real, left)) = (on_own(&DRY_RUN, goal, "json"), on_own(&PRUNE, goal, "json"));
        for (run, outcome) in [(&dry, "would_remove"), (&real, "removed")] {
            assert_eq!(run.code, code, "{goal} {}", run.stderr);
            let (removed, spared) = (with_outcome(run, outcome), with_outcome(run, "spared"));
            assert_eq!((removed.len(), spared.len()), (chosen, 6 - chosen), "{goal} {removed:?}");
            assert_eq!(run.warnings().contains(&"goal_missed".into()), code == 1);
        }
        assert_eq!(with_outcome(&dry, "would_remove"), with_outcome(&real, "removed"));
        assert_eq!(dry.json()["goal"], real.json()["goal"], "a prediction is what happens: {goal}");
        assert_eq!(left.len(), 19 - chosen, "{left:?}");
        let (table, _) = on_own(&PRUNE, goal, "table");
        let so = if code == 0 { "reached" } else { "missed" };
        assert!(table.stdout.contains(&format!(" (goal {wanted} free: {so}); ")), "{}", table.stdout);
        assert_eq!(table.stderr.contains("the goal of --until-free is missed by "), code == 1);
    }
}

#[test]
fn only_what_is_asked_for_is_removed() {
    let host = Host::new();
    let ubuntu = original("ubuntu-20.04");
    let fedora = original("fedora-39");
    let path = host.world.base(&fedora).display().to_string();
    let kept = set(["swap_2048", &original("centos-7")]);
    // Known, but not in the cache: an image of the inventory alone, a missing file.
    host.world.file(
        "more.json",
        json!([{"uuid": "v", "image_ref": "of a volume", "host": "compute-9"}]).to_string(),
    );
    let more = ["--inventory", "more.json", "-v", "of a volume", GONE, &ubuntu[..8], &path];
    let dry = host.judged(&[&DRY_RUN[..], &more].concat()).exits(0);
    assert_eq!(with_outcome(&dry, "would_remove"), set([&ubuntu, &fedora]));
    assert!(kept.is_subset(&with_outcome(&dry, "kept")));
    let notes = dry.stderr.lines().filter(|it| it.contains("note: ") && it.contains("no file of it")).count();
    assert_eq!(notes, 2, "{}", dry.stderr);
    assert_eq!(dry.warnings().iter().filter(|it| *it == "not_in_cache").count(), 2);
    host.judged(&[&DRY_RUN[..], &["never heard of"]].concat())
        .refused(&["never heard of", "nova-imagecache scan"]);
    let real = host.judged(&[&PRUNE[..], &[&id("ubuntu-20.04")]].concat()).exits(0);
    assert_eq!(with_outcome(&real, "removed"), set([&ubuntu]));
    assert_eq!(host.world.cache_names().len(), 18);
}

#[test]
fn directories_of_no_instance_are_told_with_what_they_take_and_keep() {
    let host = Host::new();
    let directory = "5e0f6b1d-2a6c-4d7b-9d5e-1b7c8a9f0e22";
    let time = std::time::SystemTime::UNIX_EPOCH + std::time::Duration::new(1_700_000_000, 5);
    crate::common::set_mtime(&host.world.path(directory), time);
    let json = host.judged(&["explain"]).exits(0).json();
    let disk = fs_err::metadata(host.world.path(directory).join("disk")).unwrap();
    let disk_bytes = std::os::unix::fs::MetadataExt::blocks(&disk) * 512;
    let [first, second] = list(&json["unlisted_directories"]) else { panic!("{json:#}") };
    assert_eq!(
        *first,
        json!({"name": directory, "disk_bytes": disk_bytes, "mtime": "2023-11-14T22:13:20.000000005Z",
               "keeps": [original("orphans-image")]})
    );
    assert_eq!(second["name"], "9b1c5c9e-77b4-4a3e-a2a0-6f2c5d9a0c11_del");
}

#[test]
fn the_environment_stands_for_options_that_are_not_given() {
    let host = Host::new();
    host.world.file("nova.conf", "[DEFAULT]\nremove_unused_original_minimum_age_seconds = 7200\n");
    let environment = [
        ("NOVA_IMAGECACHE_INSTANCES_PATH", "instances"),
        ("NOVA_IMAGECACHE_CONFIG_FILE", "nova.conf"),
        ("NOVA_IMAGECACHE_INVENTORY", "inventory.json"),
        ("NOVA_IMAGECACHE_LIBVIRT", "libvirt"),
        ("NOVA_IMAGECACHE_IMAGES", "images.json"),
        ("NOVA_IMAGECACHE_HOST", HOST),
    ];
    fs_err::create_dir(host.world.outside().join("libvirt")).unwrap();
    let run = |without: &[&str], more: &[(&str, &str)], args: &[&str]| {
        let mut command = host.world.command();
        command.envs(environment.iter().filter(|it| !without.contains(&it.0)).chain(more).copied());
        Run::of(command.args(args).args(["-f", "json"]))
    };
    let all = run(&[], &[], &["explain", "-v"]).exits(0);
    let used: Vec<&str> = environment.iter().map(|it| it.0).collect();
    let line = all.stderr.lines().find(|it| it.contains("from the environment: ")).unwrap();
    assert!(used.iter().all(|it| line.contains(it)), "{line}");
    let json = all.json();
    assert_eq!(json["policy"]["host"], HOST);
    assert_eq!(json["policy"]["original_minimum_age_seconds"], 7200);
    assert_eq!(json["inventory"]["sources"], json!(["inventory.json", "libvirt"]));
    assert_eq!(json["summary"]["not_downloadable"]["files"], 6);
    // The option wins, an empty value counts as unset, and --disks-only ignores two.
    let wins = run(&[], &[], &["explain", "-v", "--host", "compute-9", "--original-min-age", "1d"]);
    assert_eq!((&wins.json()["policy"]["host"], wins.stderr.contains("_HOST")), (&json!("compute-9"), false));
    let empty =
        run(&[], &[("NOVA_IMAGECACHE_IMAGES", ""), ("NOVA_IMAGECACHE_LIBVIRT", "")], &["explain", "-v"])
            .exits(0);
    assert_eq!(empty.json()["inventory"]["sources"], json!(["inventory.json"]));
    assert!(!empty.stderr.contains("_IMAGES") && !empty.stderr.contains("_LIBVIRT"), "{}", empty.stderr);
    let disks_only = run(&[], &[], &["prune", "-n", "-v", "--disks-only"]).exits(0);
    assert_eq!(disks_only.json()["inventory"], Value::Null);
    assert!(!disks_only.stderr.contains("_INVENTORY"), "{}", disks_only.stderr);
    run(&["NOVA_IMAGECACHE_INVENTORY", "NOVA_IMAGECACHE_LIBVIRT"], &[], &["prune"]).refused(&["--inventory"]);
    assert_eq!(run(&[], &[], &["fname", &id("debian-12")]).exits(0).json()["files"][0]["exists"], true);
    let unread = run(&[], &[("NOVA_IMAGECACHE_CONFIG_FILE", "nothing")], &["fname", "x"]).exits(0);
    assert_eq!(unread.json()["files"][0]["exists"], Value::Null, "it needs no instances path");
    run(&[], &[], &["fname", "x", "--config-file", "nothing"]).refused(&["--config-file", "nothing"]);
    run(&["NOVA_IMAGECACHE_IMAGES"], &[("NOVA_IMAGECACHE_IMAGES", "nothing")], &["scan"])
        .refused(&["--images", "nothing"]);
}

#[test]
fn nova_conf_stands_behind_the_options() {
    let world = World::new();
    let file = world.original("image", 2 * DAY);
    fs_err::rename(world.path("_base"), world.path("_base_10.0.0.1")).unwrap();
    let state_path = world.outside().display();
    let conf = format!(
        "[DEFAULT]\nstate_path = {state_path}\nmy_ip = 10.0.0.1\nhost = {HOST}\n[image_cache]\n\
         subdirectory_name = _base_$my_ip\nremove_unused_original_minimum_age_seconds = 259200\n\
         remove_unused_base_images = False\n"
    );
    world.file("nova.conf", conf);
    world.inventory(&json!([{"uuid": "u", "host": HOST}]));
    let explain = |more: &[&str]| {
        let args = ["explain", "-f", "json", "--inventory", "inventory.json", "--config-file", "nova.conf"];
        Run::of(world.command().args(args).args(more)).exits(0)
    };
    let run = explain(&[]);
    assert_eq!(run.file(&file)["minimum_age_seconds"], 259_200);
    assert_eq!(run.json()["policy"]["host"], HOST);
    assert_eq!(run.json()["cache_dir"], json!(world.path("_base_10.0.0.1")));
    assert_eq!(run.warnings(), ["remove_unused_base_images"]);
    assert_eq!(explain(&["--original-min-age", "1d"]).verdict(&file), "removable");
    assert_eq!(explain(&["--host", "other"]).json()["policy"]["host"], "other");
    let other = explain(&["--subdirectory-name", "_none"]);
    assert_eq!(other.json()["cache_dir"], json!(world.path("_none")));

    // Those before the subcommand are not lost where there are some after it.
    world.file("host.conf", "[DEFAULT]\nhost = host-of-the-last\n");
    let around = ["--config-file", "nova.conf", "explain", "-f", "json", "--config-file", "host.conf"];
    let policy = Run::of(world.command().args(around)).exits(0).json()["policy"].take();
    assert_eq!(
        [&policy["host"], &policy["original_minimum_age_seconds"]],
        [&json!("host-of-the-last"), &json!(259_200)]
    );
}

#[test]
fn an_inventory_may_be_standard_input_or_a_pipe() {
    let host = Host::new();
    let explain = "\"$0\" explain -p instances --host compute-1 -f json --inventory";
    for (script, source) in [
        (format!("{explain} - < inventory.json"), "standard input"),
        (format!("{explain} <(cat inventory.json)"), "/dev/fd/"),
    ] {
        let mut bash = std::process::Command::new("bash");
        bash.args(["-c", &script]).arg(cargo_bin!("nova-imagecache")).current_dir(host.world.outside());
        let inventory = finish(&mut bash).exits(0).json()["inventory"].take();
        assert_eq!(inventory["instances"], 41);
        assert!(text(&inventory["sources"][0]).starts_with(source), "{inventory}");
    }
}

#[test]
fn doubtful_input_is_warned_of() {
    let host = Host::new();
    let fname = host.run(&["fname", "debian-12", &id("debian-12")]).exits(0);
    assert_eq!(fname.stdout, format!("{}\n{}\n", cache_file_name("debian-12"), original("debian-12")));
    assert!(
        fname.stderr.lines().count() == 1 && fname.stderr.contains("debian-12 is not a lower-case UUID"),
        "{fname:?}"
    );
    let plan = host.judged(&[&DRY_RUN[..], &["--as-of", "+7d"]].concat()).exits(0).stdout;
    host.world.file("plan.json", plan);
    let ages = ["--original-min-age", "599", "--resized-min-age", "10m"];
    let run = host.judged(&[&DRY_RUN[..], &["--plan", "plan.json"], &ages].concat()).exits(0);
    let warnings = run.json()["warnings"].clone();
    let texts = |code: &str| {
        list(&warnings).iter().filter(|it| it["code"] == code).map(|it| text(&it["text"])).collect::<Vec<_>>()
    };
    let [short] = &texts("short_minimum_age")[..] else { panic!("{warnings:#}") };
    assert!(
        short.starts_with("the minimum age of files is 9m 59s (--original-min-age, or nova.conf): ")
            && short.ends_with("set 10m or more"),
        "{short}"
    );
    let [differs] = &texts("plan_differs")[..] else { panic!("{warnings:#}") };
    let ages = ["--original-min-age was 1d and is 9m 59s", "--resized-min-age was 1h and is 10m"];
    for word in ages.iter().chain(&["judged as of 20"]) {
        assert!(differs.contains(word), "{differs}");
    }
}

#[test]
fn a_filesystem_that_cannot_be_written_is_named_as_the_cause() {
    let host = Host::new();
    let prune = [&PRUNE[..], &JUDGED].concat();
    let full = "rm -r locks; while touch full-$((i = i + 1)) 2> /dev/null; do :; done";
    for (before, words) in [
        ("rm -r locks && mount -o remount,ro .", ["read-only", "mount it for writing"]),
        ("mount -o remount,ro .", ["read-only", "mount it for writing"]),
        (full, ["No space left", "the filesystem is full"]),
    ] {
        let (run, left) = host.run_on_own_filesystem(before, &prune);
        assert_eq!((run.code, left.len(), run.stdout.as_str()), (2, 19, ""), "{before}: {run:?}");
        assert!(words.iter().all(|it| run.stderr.contains(it)), "{before}: {}", run.stderr);
        assert!(!run.stderr.contains("root"), "{before}: {}", run.stderr);
    }
}

#[test]
fn one_corrupt_disk_stops_a_clean_up_and_the_message_says_which_and_what_to_do() {
    let host = Host::new();
    let disk = host.corrupt_disk().display().to_string();
    let run = host.judged(&PRUNE).exits(1);
    assert_eq!((run.json()["complete"].clone(), host.world.cache_names().len()), (json!(false), 19));
    assert_eq!(run.with_verdict("removable"), [""; 0]);
    let line = run.stderr.lines().find(|it| it.contains("incomplete")).unwrap();
    let what_to_do = ["repair it", "remove it and its directory", "disk.info"];
    for word in ["nothing is removable", &disk, "truncated"].iter().chain(&what_to_do) {
        assert!(line.contains(word), "no {word}: {line}");
    }
    let unreadable = json!([{"path": disk, "error": "qcow2 header: truncated", "blocks": true}]);
    assert_eq!(run.json()["unreadable"], unreadable);
    // What the message says helps.
    fs_err::write(host.world.path(BROKEN).join("disk.info"), json!({&disk: "raw"}).to_string()).unwrap();
    let repaired = host.judged(&PRUNE).exits(0);
    assert_eq!(with_outcome(&repaired, "removed").len(), 6);
    assert_eq!(repaired.json()["unreadable"][0]["blocks"], false);
}
