//! What a dry run promises is what a real run does, on 100 random trees.

use std::collections::BTreeSet;

use crate::common::prune::{is_now, lock_file, names, with_outcome};
use crate::common::trees::{Nursery, Tree, for_each_tree};
use crate::common::{Run, Snapshot, World, list, mtime, text};
use serde_json::Value;

const TREES: u32 = 100;

/// What is said of each file but for what a real run may say in another way: the age at another moment, and what
/// became of it.
fn said_of_files(run: &Run) -> Vec<Value> {
    let mut files = list(&run.json()["files"]).to_vec();
    for file in &mut files {
        let fields = file.as_object_mut().unwrap();
        for field in ["age_seconds", "outcome", "error"] {
            assert!(fields.remove(field).is_some(), "no field {field}: {run:#?}");
        }
        for reason in fields["reasons"].as_array_mut().unwrap() {
            // It says how old the file is.
            reason.as_object_mut().unwrap().remove("text");
        }
    }
    files
}

/// The tree as a prune may leave it: without what it removed, without the locks, and in use means touched now.
fn as_promised(world: &World, mut before: Snapshot, dry: &Run) -> Snapshot {
    for name in with_outcome(dry, "would_remove") {
        before.0.remove(&world.base(name)).unwrap();
    }
    leave_out_what_must_change(world, before, dry)
}

fn leave_out_what_must_change(world: &World, mut snapshot: Snapshot, dry: &Run) -> Snapshot {
    let locks = world.path("locks");
    snapshot.0.retain(|path, _| !path.starts_with(&locks));
    for path in [world.instances_path(), world.path("_base")] {
        let entry = snapshot.0.get_mut(&path).unwrap();
        (entry.mtime, entry.links) = ((0, 0), 0);
    }
    for name in dry.with_verdict("in_use") {
        snapshot.0.get_mut(&world.base(name)).unwrap().mtime = (0, 0);
    }
    snapshot
}

#[derive(Debug, Default)]
struct Seen {
    trees: usize,
    by_plan: usize,
    promised: usize,
    touched: usize,
    refused: usize,
}

#[test]
fn a_dry_runs_promise_is_the_real_runs_act_on_random_trees() {
    let nursery = Nursery::new();
    let world = &nursery.world;
    let mut seen = Seen::default();
    for_each_tree(TREES, |tree: &Tree| {
        nursery.grow(tree);
        let index = seen.trees;
        seen.trees += 1;
        let with_novas_locks: Vec<String> = tree.cache.keys().step_by(1 + index % 3).cloned().collect();
        if index % 4 == 0 {
            fs_err::remove_dir(world.path("locks")).unwrap();
        } else {
            for name in &with_novas_locks {
                fs_err::write(lock_file(world, name), "").unwrap();
            }
        }
        let locks_before = if index % 4 == 0 { BTreeSet::new() } else { names(&world.path("locks")) };
        let mut args = [
            &["--partials"][..],
            &["--ignore-unlisted"],
            &["--partials", "--original-min-age", "20m", "--resized-min-age", "0"],
            &["--resized-min-age", "3h", "--allow-empty"],
            &["--partials", "--ignore-unlisted", "--allow-empty", "--original-min-age", "0"],
        ][index % 5]
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>();

        let before = Snapshot::of(&world.instances_path());
        let dry = world.dry_run(&args);
        before.assert_same(&Snapshot::of(&world.instances_path()));
        if index % 2 == 0 && dry.code != 2 {
            args.extend(["--plan".into(), world.file("plan.json", &dry.stdout).display().to_string()]);
            seen.by_plan += 1;
        }
        let real = world.prune(&args);
        if real.code == 2 {
            // Of some inventories only a real run is refused: the host is not in them.
            assert!(dry.code == 2 || real.stderr.contains("refused: host "), "{dry:#?} {real:#?}");
            before.assert_same(&Snapshot::of(&world.instances_path()));
            seen.refused += 1;
            return;
        }
        assert_eq!((dry.code, real.code), (0, 0), "{dry:#?} {real:#?}");

        let promised = with_outcome(&dry, "would_remove");
        assert_eq!(with_outcome(&real, "removed"), promised);
        assert_eq!(with_outcome(&real, "kept"), with_outcome(&dry, "kept"));
        assert_eq!(said_of_files(&dry), said_of_files(&real));
        let after = Snapshot::of(&world.instances_path());
        as_promised(world, before, &dry).assert_same(&leave_out_what_must_change(world, after, &dry));
        let in_use = dry.with_verdict("in_use");
        assert!(in_use.iter().all(|name| is_now(mtime(&world.base(name)))), "{real:#?}");
        assert_eq!(real.json()["summary"]["touched"], in_use.len());
        seen.promised += promised.len();
        seen.touched += in_use.len();

        let locks = names(&world.path("locks"));
        for file in list(&dry.json()["files"]) {
            let name = text(&file["name"]);
            let goes = promised.contains(&name)
                && ["original", "resized", "small"].iter().any(|it| file["kind"] == *it);
            let lock = format!("nova-{name}");
            assert!(!goes || !locks.contains(&lock), "the lock file of {name} stays");
            assert!(
                goes || !locks_before.contains(&lock) || locks.contains(&lock),
                "the lock file of {name}"
            );
        }
        args.retain(|it| it != "--plan" && !it.ends_with("plan.json"));
        let again = world.dry_run(&args);
        assert_eq!(with_outcome(&again, "would_remove"), BTreeSet::new(), "{again:#?}");
    });
    println!("{seen:?}");
    assert!(seen.trees >= TREES as usize);
    for count in [seen.promised, seen.touched] {
        assert!(count >= 100, "{seen:?}");
    }
    assert!(seen.refused < seen.trees / 2, "{seen:?}");
}
