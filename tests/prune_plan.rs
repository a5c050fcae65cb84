//! A plan is the most that a prune removes.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::time::Duration;

use crate::common::prune::{InUse, names, plain_file, with_outcome};
use crate::common::{DAY, HOST, Run, Snapshot, World, mtime, overlay, set_mtime};
use serde_json::{Value, json};

const NO_ARGS: [&str; 0] = [];

/// Three removable files, one in use, and the plan to remove the three.
struct Planned {
    it: InUse,
    files: [String; 3],
    plan: PathBuf,
}

impl Planned {
    fn new() -> Self {
        let it = InUse::new();
        let files = ["0", "1", "2"].map(|digit| digit.repeat(40));
        files.iter().for_each(|name| drop(plain_file(&it.world, name, 2 * DAY)));
        let dry = it.world.dry_run(NO_ARGS).exits(0);
        assert_eq!(with_outcome(&dry, "would_remove"), files.clone().into());
        let plan = it.world.file("plan.json", &dry.stdout);
        Self { it, files, plan }
    }

    fn world(&self) -> &World {
        &self.it.world
    }

    fn edit(&self, edit: impl FnOnce(&mut Value)) {
        let mut plan: Value = serde_json::from_slice(&fs_err::read(&self.plan).unwrap()).unwrap();
        edit(&mut plan);
        fs_err::write(&self.plan, plan.to_string()).unwrap();
    }

    fn args(&self) -> Vec<String> {
        vec!["--plan".to_owned(), self.plan.display().to_string()]
    }

    fn prune(&self) -> Run {
        self.world().prune(self.args())
    }

    fn show(&self) -> Run {
        self.world().dry_run(self.args())
    }

    /// Checks that plan and real run agree that only these go.
    #[track_caller]
    fn only_these_go(&self, files: &[&String]) {
        let expected: BTreeSet<String> = files.iter().map(ToString::to_string).collect();
        let before = names(&self.world().path("_base"));
        let show = self.show();
        assert_eq!(with_outcome(&show, "would_remove"), expected, "{show:#?}");
        let run = self.prune();
        assert_eq!(with_outcome(&run, "removed"), expected, "{run:#?}");
        assert_eq!(run.code, show.code, "{run:#?}");
        assert_eq!(names(&self.world().path("_base")), before.difference(&expected).cloned().collect());
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
    let later = plain_file(planned.world(), "swap_512", 30 * DAY);
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
fn what_has_come_into_use_since_the_plan_is_kept() {
    let planned = Planned::new();
    overlay(&planned.world().path("new-instance/disk"), planned.world().base(&planned.files[1]));
    let by_inventory = planned.world().original("image-b", 2 * DAY);
    fs_err::rename(planned.world().base(&planned.files[2]), planned.world().base(&by_inventory)).unwrap();
    planned.edit(|plan| plan["files"][2]["name"] = json!(by_inventory));
    planned.world().inventory(&json!([
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
            let time = mtime(path);
            fs_err::OpenOptions::new().append(true).open(path).unwrap().set_len(1 << 20).unwrap();
            set_mtime(path, time);
        }),
        ("empty", |path| {
            let time = mtime(path);
            fs_err::write(path, "").unwrap();
            set_mtime(path, time);
        }),
    ];
    for (what, change) in changes {
        let planned = Planned::new();
        let path = planned.world().base(&planned.files[1]);
        change(&path);
        let before = Snapshot::of(&path);
        let run = planned.show();
        assert!(["kept", "changed"].contains(&run.outcome(&planned.files[1]).as_str()), "{what}: {run:#?}");
        planned.only_these_go(&[&planned.files[0], &planned.files[2]]);
        before.assert_same(&Snapshot::of(&path));
    }
}

#[test]
fn a_file_that_is_gone_since_the_plan_is_no_failure() {
    let planned = Planned::new();
    fs_err::remove_file(planned.world().base(&planned.files[1])).unwrap();
    planned.only_these_go(&[&planned.files[0], &planned.files[2]]);
}

#[test]
fn the_info_file_of_a_planned_file_goes_only_if_it_is_planned() {
    let it = InUse::new();
    let [one, other] = ["0", "1"].map(|digit| digit.repeat(40));
    let [one_info, other_info] = [format!("{one}.info"), format!("{other}.info")];
    for name in [&one, &other, &one_info, &other_info] {
        plain_file(&it.world, name, 2 * DAY);
    }
    let dry = it.world.dry_run(NO_ARGS).exits(0);
    let plan = it.world.file("plan.json", &dry.stdout);
    let planned = Planned { it, files: [one.clone(), one_info, other.clone()], plan };
    planned.edit(|plan| {
        for file in plan["files"].as_array_mut().unwrap() {
            if file["name"] == other_info {
                file["outcome"] = json!("kept");
            }
        }
    });
    planned.only_these_go(&planned.files.each_ref());
    assert!(planned.world().base(&other_info).exists());
}

#[test]
fn what_is_no_plan_of_this_path_is_refused_and_nothing_changes() {
    type Make = Box<dyn Fn(&Planned) -> String>;
    let replace = |planned: &Planned, pointer: &str, value: Value| {
        planned.edit(|plan| *plan.pointer_mut(pointer).unwrap() = value);
        fs_err::read_to_string(&planned.plan).unwrap()
    };
    let cases: Vec<(&str, Make)> = vec![
        (
            "another path",
            Box::new(move |it| replace(it, "/instances_path", json!("/var/lib/nova/instances"))),
        ),
        (
            "another cache",
            Box::new(move |it| replace(it, "/cache_dir", json!("/var/lib/nova/instances/_base"))),
        ),
        ("another schema", Box::new(move |it| replace(it, "/schema_version", json!(2)))),
        ("no schema", Box::new(move |it| replace(it, "/schema_version", json!(null)))),
        ("another command", Box::new(move |it| replace(it, "/command", json!("explain")))),
        ("no dry run", Box::new(move |it| replace(it, "/dry_run", json!(false)))),
        ("no list of files", Box::new(move |it| replace(it, "/files", json!({})))),
        ("a size that is none", Box::new(move |it| replace(it, "/files/0/size_bytes", json!("52")))),
        ("an explanation", Box::new(|it| it.world().explain(NO_ARGS).exits(0).stdout)),
        ("a scan", Box::new(|it| it.world().scan().exits(0).stdout)),
        (
            "a table",
            Box::new(|it| {
                let args =
                    ["-n", "--inventory", &it.world().outside().join("inventory.json").display().to_string()]
                        .map(str::to_owned);
                it.world().run("prune", args).exits(0).stdout
            }),
        ),
        ("an inventory", Box::new(|_| "[]".to_owned())),
        ("nothing", Box::new(|_| String::new())),
        (
            "half a plan",
            Box::new(|it| {
                let plan = fs_err::read_to_string(&it.plan).unwrap();
                plan[..plan.len() / 2].to_owned()
            }),
        ),
    ];
    for (what, text) in cases {
        let planned = Planned::new();
        let text = text(&planned);
        fs_err::write(&planned.plan, text).unwrap();
        let before = planned.world().snapshot();
        for run in [planned.prune(), planned.show()] {
            assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{what}: {run:#?}");
            assert!(run.stderr.contains("plan.json"), "{what}: {run:#?}");
        }
        before.assert_same(&planned.world().snapshot());
    }
}

#[test]
fn a_plan_that_is_not_there_is_refused() {
    let planned = Planned::new();
    fs_err::remove_file(&planned.plan).unwrap();
    planned.prune().refused(&["plan.json", "No such file"]);
}
