//! `--until-free`: the oldest files go first, and no more than are needed.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use nix::sys::statvfs::statvfs;
use proptest::prelude::*;

use crate::common::prune::{InUse, names, plain_file, with_outcome};
use crate::common::{DAY, HOUR, Run, World, list, set_age, text, tool};
use serde_json::Value;

const NO_ARGS: [&str; 0] = [];
const GIB: u64 = 1 << 30;

/// An ext4 of its own, mounted where a path is, until this is dropped.
struct Mounted(PathBuf);

impl Mounted {
    fn at(path: PathBuf, image: &Path) -> Self {
        fs_err::File::create(image).unwrap().file().set_len(64 << 20).unwrap();
        let run = |command: &mut Command| {
            let output = command.output().unwrap();
            assert!(output.status.success(), "{output:?}: run this as root where loop devices can be made");
        };
        run(Command::new(tool("mkfs.ext4", "e2fsprogs")).args(["-q", "-F"]).arg(image));
        fs_err::create_dir_all(&path).unwrap();
        run(Command::new(tool("mount", "mount")).args(["-o", "loop"]).arg(image).arg(&path));
        Self(path)
    }

    fn available(&self) -> u64 {
        let stat = statvfs(&self.0).unwrap();
        stat.blocks_available() * stat.fragment_size()
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        Command::new("umount").arg("--lazy").arg(&self.0).status().ok();
    }
}

fn goal(run: &Run, field: &str) -> u64 {
    run.json()["goal"][field].as_u64().unwrap_or_else(|| panic!("{field}: {run:#?}"))
}

/// On a filesystem of its own, where nobody else takes or gives space.
#[test]
fn a_dry_run_foretells_what_is_free_after_the_real_one_and_the_oldest_go() {
    const EACH: u64 = 1 << 20;
    const BLOCK: u64 = 4096;
    let outside = InUse::new();
    let mounted = Mounted::at(outside.world.path("_base"), &outside.world.outside().join("image"));
    outside.world.cache_file(&outside.used, 2 * DAY);
    // The name is no order of age.
    let files: Vec<String> = (0..10_u32).map(|n| format!("{:040x}", n * 7 % 10)).collect();
    for (index, name) in files.iter().enumerate() {
        fs_err::write(outside.world.base(name), vec![1; EACH as usize]).unwrap();
        set_age(&outside.world.base(name), 20 * DAY - HOUR * index as u32);
    }
    plain_file(&outside.world, &format!("{}.info", files[0]), 2 * DAY);
    // Blocks are given late.
    Command::new("sync").status().unwrap();
    let wanted = mounted.available() + 3 * EACH;
    let args = ["--until-free", &wanted.to_string()];
    let dry = outside.world.dry_run(args).exits(0);
    let real = outside.world.prune(args).exits(0);
    let info = format!("{}.info", files[0]);
    let oldest: BTreeSet<String> = files[..3].iter().cloned().chain([info]).collect();
    assert_eq!(with_outcome(&dry, "would_remove"), oldest);
    assert_eq!(with_outcome(&real, "removed"), oldest, "{real:#?}");
    assert_eq!(with_outcome(&real, "spared"), files[3..].iter().cloned().collect());
    let (foretold, now) = (goal(&dry, "available_after_bytes"), mounted.available());
    println!("foretold {foretold}, now {now}, wanted {wanted}");
    assert!(foretold.abs_diff(now) <= BLOCK * oldest.len() as u64, "{foretold} and {now}");
    assert_eq!(goal(&real, "available_after_bytes"), now);
    assert!((wanted..wanted + EACH).contains(&now));

    // Of the size of that filesystem; it cannot be reached.
    let run = outside.world.prune(["--until-free", "99%"]).exits(1);
    assert_eq!(with_outcome(&run, "removed").len(), files.len() - 3);
    assert!(run.warnings().contains(&"goal_missed".to_owned()), "{run:#?}");
    assert!(goal(&run, "available_after_bytes") < goal(&run, "wanted_bytes"));
    // Nothing is needed for one that is reached.
    let again = plain_file(&outside.world, &files[0], 2 * DAY);
    assert_eq!(outside.world.prune(["--until-free", "1%"]).exits(0).outcome(&files[0]), "spared");
    assert!(again.exists());
}

/// Where the space cannot be asked for, a goal must not mean everything.
#[test]
fn without_an_answer_of_the_filesystem_nothing_is_removed() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    let command = crate::common::prune::prune_command(&it.world, ["--until-free", "1GiB"]);
    // statvfs is statfs of the whole path; what kind of filesystem it is is asked in the same way.
    let failing = ["--trace=statfs", "--inject=statfs:error=EIO"];
    let run =
        crate::common::prune::finish(&mut crate::common::prune::under_strace(&it.world, failing, &command));
    run.refused(&["cannot ask how much is free"]);
    assert!(it.world.base(name).exists());
}

#[test]
fn a_file_that_stays_is_made_up_for_by_the_next_oldest_and_links_count_as_nothing() {
    let it = InUse::new();
    let files: Vec<String> = (0..4).map(|n| format!("{n:040x}")).collect();
    for (index, name) in files.iter().enumerate() {
        plain_file(&it.world, name, 20 * DAY - HOUR * index as u32);
    }
    fs_err::hard_link(it.world.base(&files[0]), it.world.outside().join("other name")).unwrap();
    let open = fs_err::File::open(it.world.base(&files[1])).unwrap();
    let space = it.world.dry_run(NO_ARGS).json()["filesystem"]["available_bytes"].as_u64().unwrap();
    // More than can be: each round takes what falls short.
    let wanted = (space + 1000 * GIB).to_string();
    let dry = it.world.dry_run(["--until-free", &wanted]).exits(1);
    assert_eq!(with_outcome(&dry, "would_remove"), files.iter().cloned().collect());
    assert_eq!(
        goal(&dry, "available_after_bytes") - goal(&dry, "available_before_bytes"),
        3 * fs_err::metadata(it.world.base(&files[1]))
            .map(|it| std::os::unix::fs::MetadataExt::blocks(&it) * 512)
            .unwrap()
    );
    let run = it.world.prune(["--until-free", &wanted]).exits(1);
    assert_eq!(
        (with_outcome(&run, "removed").len(), run.outcome(&files[1]).as_str()),
        (3, "open"),
        "{run:#?}"
    );
    drop(open);
}

#[test]
fn operands_plans_and_a_goal_narrow_each_other() {
    let it = InUse::new();
    let files: Vec<String> = (0..4).map(|n| format!("{n:040x}")).collect();
    for (index, name) in files.iter().enumerate() {
        plain_file(&it.world, name, 20 * DAY - HOUR * index as u32);
    }
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
