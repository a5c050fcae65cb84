//! A plan is the most that a prune removes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};

use crate::common::prune::{InUse, keeping_mtime, names, plain_file, with_outcome};
use crate::common::{DAY, HOST, NO_ARGS, Run, Snapshot, World, mtime, overlay, set_mtime, text};
use serde_json::{Value, json};

/// Three removable files, one in use, and the plan to remove the three.
struct Planned {
    it: InUse,
    files: [String; 3],
    plan: PathBuf,
}

impl Planned {
    fn new() -> Self {
        let (it, files) = InUse::with_three();
        let dry = it.world.dry_run(NO_ARGS).exits(0);
        assert_eq!(with_outcome(&dry, "would_remove"), files.clone().into());
        let plan = it.world.file("plan.json", &dry.stdout);
        Self { it, files, plan }
    }

    fn base(&self, name: &str) -> PathBuf {
        self.it.world.base(name)
    }

    fn edit(&self, edit: impl FnOnce(&mut Value)) {
        let mut plan: Value = serde_json::from_slice(&fs_err::read(&self.plan).unwrap()).unwrap();
        edit(&mut plan);
        fs_err::write(&self.plan, plan.to_string()).unwrap();
    }

    fn prune(&self) -> Run {
        self.it.world.prune(["--plan", "plan.json"])
    }

    fn show(&self) -> Run {
        self.it.world.dry_run(["--plan", "plan.json"])
    }

    /// Checks that plan and real run agree that only these go.
    #[track_caller]
    fn only_these_go(&self, files: &[&String]) {
        let expected: BTreeSet<String> = files.iter().map(ToString::to_string).collect();
        let before = names(&self.it.world.path("_base"));
        let show = self.show();
        assert_eq!(with_outcome(&show, "would_remove"), expected, "{show:#?}");
        let run = self.prune();
        assert_eq!(with_outcome(&run, "removed"), expected, "{run:#?}");
        assert_eq!(run.code, show.code, "{run:#?}");
        assert_eq!(names(&self.it.world.path("_base")), before.difference(&expected).cloned().collect());
    }
}

#[test]
fn a_plan_removes_what_it_lists() {
    let planned = Planned::new();
    planned.only_these_go(&planned.files.each_ref());
    assert_eq!(planned.prune().exits(0).json()["summary"]["by_outcome"]["removed"]["files"], 0);
}

#[test]
fn what_a_plan_does_not_list_is_kept() {
    let planned = Planned::new();
    let later = plain_file(&planned.it.world, "swap_512", 30 * DAY);
    // In the plan, but not to be removed.
    planned.edit(|plan| plan["files"][0]["outcome"] = json!("kept"));
    let file = |index: usize| &planned.files[index];
    let run = planned.show().exits(0);
    assert_eq!(run.outcome("swap_512"), "kept");
    assert_eq!(run.verdict("swap_512"), "removable");
    planned.only_these_go(&[file(1), file(2)]);
    assert!(later.exists());
}

#[test]
fn the_info_of_a_file_that_is_not_the_plans_stays_with_it() {
    let planned = Planned::new();
    let world = &planned.it.world;
    plain_file(world, &format!("{}.info", planned.files[0]), 30 * DAY);
    world.file("plan.json", &world.dry_run(NO_ARGS).exits(0).stdout);
    set_mtime(&planned.base(&planned.files[0]), SystemTime::now() - 20 * DAY);
    planned.only_these_go(&[&planned.files[1], &planned.files[2]]);
}

#[test]
fn a_plan_of_an_age_that_is_nearly_the_same_is_told() {
    let planned = Planned::new();
    planned.edit(|plan| plan["policy"]["original_minimum_age_seconds"] = json!(86_401));
    let run = planned.show().exits(0);
    assert!(run.stderr.contains("--original-min-age was 86401s and is 86400s"), "{}", run.stderr);
}

#[test]
fn what_has_come_into_use_since_the_plan_is_kept() {
    let planned = Planned::new();
    overlay(&planned.it.world.path("new-instance/disk"), planned.base(&planned.files[1]));
    let by_inventory = planned.it.world.original("image-b", 2 * DAY);
    fs_err::rename(planned.base(&planned.files[2]), planned.base(&by_inventory)).unwrap();
    planned.edit(|plan| plan["files"][2]["name"] = json!(by_inventory));
    planned.it.world.inventory(&json!([
        {"name": "instance-00000001", "host": HOST, "image_ref": "image-used"},
        {"name": "instance-00000002", "host": HOST, "image_ref": "image-b"},
    ]));
    planned.only_these_go(&[&planned.files[0]]);
    let run = planned.prune().exits(0);
    assert_eq!(run.outcome(&planned.files[1]), "kept");
    assert_eq!(run.verdict(&planned.files[1]), "in_use");
}

#[test]
fn a_file_of_another_size_or_mtime_than_in_the_plan_is_not_removed() {
    type Change = fn(&std::path::Path);
    let changes: [(&str, Change); 4] = [
        ("a nanosecond later", |path| set_mtime(path, mtime(path) + Duration::from_nanos(1))),
        ("a nanosecond earlier", |path| set_mtime(path, mtime(path) - Duration::from_nanos(1))),
        ("longer", |path| {
            keeping_mtime(path, || {
                fs_err::OpenOptions::new().append(true).open(path).unwrap().set_len(1 << 20).unwrap();
            });
        }),
        ("empty", |path| keeping_mtime(path, || fs_err::write(path, "").unwrap())),
    ];
    for (what, change) in changes {
        let planned = Planned::new();
        let path = planned.base(&planned.files[1]);
        change(&path);
        let before = Snapshot::of(&path);
        let run = planned.show();
        assert!(["kept", "changed"].contains(&run.outcome(&planned.files[1]).as_str()), "{what}: {run:#?}");
        planned.only_these_go(&[&planned.files[0], &planned.files[2]]);
        before.assert_same(&Snapshot::of(&path));
    }
}

/// As of a file of the year -1 or 10,000.
#[test]
fn a_file_of_which_the_plan_has_no_mtime_stays_and_the_others_go() {
    let planned = Planned::new();
    planned.edit(|plan| {
        let files = plan["files"].as_array_mut().unwrap();
        files.iter_mut().filter(|it| it["name"] == planned.files[1]).for_each(|it| it["mtime"] = Value::Null);
    });
    let run = planned.show().exits(0);
    run.told(&planned.files[1], "changed", &["no mtime", "without --plan"]);
    planned.only_these_go(&[&planned.files[0], &planned.files[2]]);
}

#[test]
fn a_plan_of_another_host_is_warned_of() {
    let planned = Planned::new();
    for (host, warnings) in [("compute-1.example", &[][..]), ("compute-9", &["plan_differs"])] {
        planned.edit(|plan| plan["policy"]["host"] = json!(host));
        let run = planned.show().exits(0);
        assert_eq!(run.warnings(), warnings, "{run:#?}");
        assert_eq!(run.stderr.contains("--host was compute-9 and is compute-1"), !warnings.is_empty());
    }
}

#[test]
fn a_file_that_is_gone_since_the_plan_is_no_failure() {
    let planned = Planned::new();
    fs_err::remove_file(planned.base(&planned.files[1])).unwrap();
    let show = planned.show().exits(0);
    assert_eq!(show.warnings(), ["not_in_cache"], "{show:#?}");
    planned.only_these_go(&[&planned.files[0], &planned.files[2]]);
}

#[test]
fn the_info_file_of_a_planned_file_goes_only_if_it_is_planned() {
    let planned = Planned::new();
    let infos = planned.files.each_ref().map(|name| format!("{name}.info"));
    infos.iter().for_each(|name| drop(plain_file(&planned.it.world, name, 2 * DAY)));
    let dry = planned.it.world.dry_run([&planned.files[0], &infos[0], &planned.files[1]]).exits(0);
    fs_err::write(&planned.plan, &dry.stdout).unwrap();
    planned.edit(|plan| {
        let files = plan["files"].as_array_mut().unwrap();
        files.iter_mut().filter(|it| it["name"] == *infos[1]).for_each(|it| it["outcome"] = json!("kept"));
    });
    planned.only_these_go(&[&planned.files[0], &infos[0], &planned.files[1]]);
}

#[test]
fn a_plan_of_the_same_moment_and_of_a_path_that_is_not_utf_8_is_a_plan() {
    use std::os::unix::ffi::OsStrExt as _;
    let world = World::bare();
    let path = world.outside().join(std::ffi::OsStr::from_bytes(b"instances-\xff"));
    let disk = path.join("u/disk");
    fs_err::create_dir_all(path.join("_base")).unwrap();
    crate::common::plain_qcow2(&disk);
    fs_err::write(path.join("_base/swap_5"), "").unwrap();
    let prune = |more: &[&str]| {
        let args = ["prune", "-n", "--disks-only", "-f", "json", "--as-of", "2099-01-01T00:00:00Z"];
        Run::of(world.command().arg("-p").arg(&path).args(args).args(more)).exits(0)
    };
    world.file("plan.json", prune(&[]).stdout);
    let run = prune(&["--plan", "plan.json"]);
    assert_eq!((run.outcome("swap_5").as_str(), run.warnings().len()), ("would_remove", 0), "{run:#?}");
    assert!(text(&run.json()["cache_dir_bytes"]).ends_with("2dff2f5f62617365"), "{run:#?}");
    // Another path that looks the same.
    let other = world.outside().join(std::ffi::OsStr::from_bytes(b"instances-\xfe"));
    fs_err::rename(&path, &other).unwrap();
    let mut command = world.command();
    command.args(["prune", "-n", "--disks-only", "--plan", "plan.json", "-p"]).arg(&other);
    Run::of(&mut command).refused(&["made for", "create a new plan"]);
}

/// The table of what is no plan is beside the code, in `plan.rs`.
#[test]
fn what_is_no_plan_of_this_path_is_refused_and_nothing_changes() {
    let planned = Planned::new();
    let plan = fs_err::read_to_string(&planned.plan).unwrap();
    let path = planned.it.world.instances_path().display().to_string();
    let others = [
        plan.replace(&path, "/var/lib/nova/instances"),
        plan[..plan.len() / 2].to_owned(),
        planned.it.world.explain(NO_ARGS).exits(0).stdout,
        planned.it.world.scan().exits(0).stdout,
        "[]".to_owned(),
        String::new(),
    ];
    for other in others {
        fs_err::write(&planned.plan, other).unwrap();
        let before = planned.it.world.snapshot();
        for run in [planned.prune(), planned.show()] {
            run.refused(&["plan.json"]);
        }
        before.assert_same(&planned.it.world.snapshot());
    }
}
