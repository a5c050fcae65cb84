//! `--until-free`: the oldest files go first, and no more than are needed.

use std::collections::BTreeSet;
use std::os::unix::fs::MetadataExt as _;
use std::time::Duration;

use proptest::prelude::*;

use crate::common::host::{Host, JUDGED};
use crate::common::prune::{InUse, finish, names, plain_file, prune_command, under_strace, with_outcome};
use crate::common::slow::compiled;
use crate::common::{DAY, HOUR, NO_ARGS, Run, World, list, set_age, text};
use serde_json::Value;

const GIB: u64 = 1 << 30;

fn goal(run: &Run, field: &str) -> u64 {
    run.json()["goal"][field].as_u64().unwrap_or_else(|| panic!("{field}: {run:#?}"))
}

/// Four files to remove, the oldest first.
fn four() -> (InUse, Vec<String>) {
    let it = InUse::new();
    let files: Vec<String> = (0..4).map(|n| format!("{n:040x}")).collect();
    for (index, name) in files.iter().enumerate() {
        plain_file(&it.world, name, 20 * DAY - HOUR * index as u32);
    }
    (it, files)
}

#[test]
fn where_there_is_no_cache_there_is_no_goal() {
    let world = World::new();
    fs_err::remove_dir(world.path("_base")).unwrap();
    for run in [["-n", "--disks-only"], ["--disks-only", "-q"]] {
        let run = world.run("prune", run.iter().chain(&["--until-free", "100%", "-f", "json"])).exits(0);
        assert_eq!((&run.json()["goal"], run.warnings()), (&Value::Null, vec!["no_cache_directory".into()]));
    }
}

/// On a filesystem of its own, where nobody else takes or gives space.
#[test]
fn a_dry_run_foretells_what_goes_and_what_is_free_after_the_real_one() {
    let host = Host::new();
    for (goal, chosen) in [("0%", 0), ("38.5MiB", 5), ("95%", 6)] {
        let [dry, real] = ["prune --dry-run", "prune"].map(|command| {
            let args: Vec<&str> = command.split(' ').chain(["--until-free", goal, "-f", "json"]).collect();
            host.run_on_own_filesystem("true", &[&args[..], &JUDGED].concat()).0
        });
        let removed = with_outcome(&real, "removed");
        assert_eq!((with_outcome(&dry, "would_remove"), removed.len()), (removed, chosen));
        assert_eq!(with_outcome(&dry, "spared"), with_outcome(&real, "spared"));
        assert_eq!((&dry.json()["goal"], dry.code), (&real.json()["goal"], real.code));
        assert_eq!(real.warnings().contains(&"goal_missed".into()), real.code == 1);
    }
}

/// Where the space cannot be asked for, a goal must not mean everything.
#[test]
fn without_an_answer_of_the_filesystem_nothing_is_removed() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    let command = prune_command(&it.world, ["--until-free", "1GiB"]);
    // statvfs is statfs of the whole path; what kind of filesystem it is is asked in the same way.
    let failing = ["--trace=statfs", "--inject=statfs:error=EIO"];
    finish(&mut under_strace(&it.world, failing, &command)).refused(&["cannot ask how much is free"]);
    assert!(it.world.base(name).exists());
}

/// What is free is that of the cache's filesystem: the instances path may be on another.
#[test]
fn where_the_space_cannot_be_asked_for_any_more_nothing_more_is_removed() {
    let (it, files) = four();
    it.world.prune(["--until-free", "0"]).exits(0);
    for (when, refused) in [("", true), (":when=2+", false)] {
        let action = format!("fstatfs:error=ESTALE{when}");
        let run = finish(&mut it.injected(&action, &it.world.path("_base"), &["--until-free", "100%"]));
        if refused {
            run.refused(&["cannot ask how much is free"]);
        } else {
            assert_eq!(with_outcome(&run.exits(1), "spared"), files.iter().cloned().collect());
        }
    }
    it.has(files);
}

/// As btrfs and XFS do it: `tests/common/late.c` stands for them. Where nothing becomes free, as where a snapshot keeps it,
/// all goes that may.
#[test]
fn where_space_is_freed_late_no_more_goes_than_is_needed() {
    for (is_freed, removed) in [(true, 3), (false, 4)] {
        let (it, files) = four();
        let available = it.world.dry_run(NO_ARGS).json()["filesystem"]["available_bytes"].as_u64().unwrap();
        let size = 512 * fs_err::metadata(it.world.base(&files[0])).unwrap().blocks();
        let wanted = (available + 2 * size + 1).to_string();
        let mut command = prune_command(&it.world, ["--until-free", &wanted]);
        command.env("LD_PRELOAD", compiled("tests/common/late.c", &it.world.outside().join("late.so")));
        command.env("LATE_AVAILABLE", available.to_string());
        command.env("LATE_BYTES", if is_freed { size } else { 0 }.to_string());
        let run = finish(&mut command).exits(i32::from(!is_freed));
        assert_eq!(with_outcome(&run, "removed"), files[..removed].iter().cloned().collect(), "{run:#?}");
        let after = available + if is_freed { 3 * size } else { 0 };
        assert_eq!(goal(&run, "available_after_bytes"), after);
    }
}

#[test]
fn a_file_that_stays_is_made_up_for_by_the_next_oldest_and_links_count_as_nothing() {
    let (it, files) = four();
    fs_err::hard_link(it.world.base(&files[0]), it.world.outside().join("other name")).unwrap();
    let open = fs_err::File::open(it.world.base(&files[1])).unwrap();
    let space = it.world.dry_run(NO_ARGS).json()["filesystem"]["available_bytes"].as_u64().unwrap();
    // More than can be: each round takes what falls short.
    let wanted = (space + 1000 * GIB).to_string();
    let dry = it.world.dry_run(["--until-free", &wanted]).exits(1);
    assert_eq!(with_outcome(&dry, "would_remove"), files.iter().cloned().collect());
    let freed = goal(&dry, "available_after_bytes") - goal(&dry, "available_before_bytes");
    assert_eq!(freed, 3 * 512 * fs_err::metadata(it.world.base(&files[1])).unwrap().blocks());
    let run = it.world.prune(["--until-free", &wanted]).exits(1);
    run.told(&files[1], "open", &[]);
    assert_eq!(with_outcome(&run, "removed").len(), 3, "{run:#?}");
    drop(open);
}

#[test]
fn operands_plans_and_a_goal_narrow_each_other() {
    let (it, files) = four();
    let plan = it.world.dry_run([&files[1], &files[2]]).exits(0);
    assert_eq!(with_outcome(&plan, "kept").len(), 3);
    let plan = it.world.file("plan.json", &plan.stdout).display().to_string();
    // Of the plan's files only this; the goal needs all that it can get.
    let run = it.world.prune([&files[2], &files[3], "--plan", &plan, "--until-free", "100%"]).exits(1);
    assert_eq!(with_outcome(&run, "removed"), [files[2].clone()].into(), "{run:#?}");
    let run = it.world.prune(["--plan", &plan, "--until-free", "0%"]).exits(0);
    assert_eq!(with_outcome(&run, "spared"), [files[1].clone()].into(), "{run:#?}");
    assert_eq!(names(&it.world.path("_base")).len(), 4);
}

/// A cache: for each file its kind by name, its age, and its pages.
fn cache() -> impl Strategy<Value = (Vec<(u8, Duration, usize)>, usize)> {
    let file = (0..6_u8, 0..100_u64, 0..6_usize)
        .prop_map(|(kind, hours, pages)| (kind, Duration::from_secs(hours * 3600), pages));
    (prop::collection::vec(file, 0..9), 0..24_usize)
}

fn grow(world: &World, files: &[(u8, Duration, usize)]) {
    for entry in fs_err::read_dir(world.path("_base")).unwrap() {
        fs_err::remove_file(entry.unwrap().path()).unwrap();
    }
    for (index, (kind, age, pages)) in files.iter().enumerate() {
        let name = match kind {
            0 => format!("swap_{index}"),
            1 => format!("{index:040x}_1073741824"),
            2 => format!("{:040x}.info", index.saturating_sub(1)),
            3 => format!("no-cache-file-{index}"),
            _ => format!("{index:040x}"),
        };
        fs_err::write(world.base(&name), vec![1; pages * 4096]).unwrap();
        set_age(&world.base(&name), *age);
    }
}

/// Checks a dry run against the rule: the oldest first, only removable ones, none too many.
fn check(world: &World, pages: usize) {
    let space = world.dry_run(["--disks-only", "--allow-empty"]).json();
    let available = space["filesystem"]["available_bytes"].as_u64().unwrap();
    let wanted = available + pages as u64 * 4096;
    let run = world.dry_run(["--disks-only", "--allow-empty", "--until-free", &wanted.to_string()]);
    let json = run.json();
    let short = goal(&run, "wanted_bytes").saturating_sub(goal(&run, "available_before_bytes"));
    let mut files: Vec<&Value> =
        list(&json["files"]).iter().filter(|it| it["verdict"] == "removable").collect();
    let is_removable = |name: &str, files: &[&Value]| files.iter().any(|it| it["name"] == name);
    // An .info file goes with its file, if that goes.
    let owner = |file: &Value, files: &[&Value]| {
        let owner = text(&file["name"]).strip_suffix(".info")?.to_owned();
        is_removable(&owner, files).then_some(owner)
    };
    let all = files.clone();
    files.retain(|it| owner(it, &all).is_none());
    files.sort_by_key(|it| (text(&it["mtime"]), text(&it["name"])));
    let mut freed = 0;
    let mut expected = BTreeSet::new();
    for file in files {
        if freed >= short {
            break;
        }
        let name = text(&file["name"]);
        for it in all.iter().filter(|it| it["name"] == *name || owner(it, &all).as_ref() == Some(&name)) {
            freed += it["disk_bytes"].as_u64().unwrap();
            expected.insert(text(&it["name"]));
        }
    }
    assert_eq!(with_outcome(&run, "would_remove"), expected, "{run:#?}");
    assert_eq!(goal(&run, "available_after_bytes") - goal(&run, "available_before_bytes"), freed);
    assert_eq!(run.code, i32::from(freed < short), "{run:#?}");
}

#[test]
fn the_oldest_removable_files_are_chosen_from_any_cache_and_none_too_many() {
    let cases = std::env::var("GOAL_CASES").ok().and_then(|it| it.parse().ok()).unwrap_or(100);
    let world = World::new();
    let mut runner = proptest::test_runner::TestRunner::new(ProptestConfig {
        cases,
        failure_persistence: None,
        ..ProptestConfig::default()
    });
    let result = runner.run(&cache(), |(files, pages)| {
        grow(&world, &files);
        check(&world, pages);
        Ok(())
    });
    result.unwrap_or_else(|error| panic!("{error}"));
    println!("{cases} caches");
}
