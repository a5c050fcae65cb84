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

/// What a prune may not change: all but the locks, and times where something goes or is in use.
fn what_stays(world: &World, mut snapshot: Snapshot, dry: &Run) -> Snapshot {
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
        if index % 4 == 0 {
            fs_err::remove_dir_all(world.path("locks")).unwrap();
        } else {
            for name in tree.cache.keys().step_by(1 + index % 3) {
                fs_err::write(lock_file(world, name), "").unwrap();
            }
        }
        let locks_before = if index % 4 == 0 { BTreeSet::new() } else { names(&world.path("locks")) };
        let args = [
            "--partials",
            "--ignore-unlisted",
            "--partials --original-min-age 20m --resized-min-age 0",
            "--resized-min-age 3h --allow-empty",
            "--partials --ignore-unlisted --allow-empty --original-min-age 0",
        ][index % 5];

        let before = Snapshot::of(&world.instances_path());
        let dry = world.dry_run(args.split(' '));
        before.assert_same(&Snapshot::of(&world.instances_path()));
        let is_by_plan = index % 2 == 0 && dry.code != 2;
        world.file("plan.json", &dry.stdout);
        seen.by_plan += usize::from(is_by_plan);
        let plan = ["--plan", "plan.json"].into_iter().filter(|_| is_by_plan);
        let real = world.prune(args.split(' ').chain(plan));
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
        let mut expected = what_stays(world, before, &dry);
        promised.iter().for_each(|name| drop(expected.0.remove(&world.base(name)).unwrap()));
        expected.assert_same(&what_stays(world, Snapshot::of(&world.instances_path()), &dry));
        let in_use = dry.with_verdict("in_use");
        assert!(in_use.iter().all(|name| is_now(mtime(&world.base(name)))), "{real:#?}");
        assert_eq!(real.json()["summary"]["touched"], in_use.len());
        seen.promised += promised.len();
        seen.touched += in_use.len();

        let locks = names(&world.path("locks"));
        for file in list(&dry.json()["files"]) {
            let name = text(&file["name"]);
            let has_lock_file = ["original", "resized", "small"].iter().any(|it| file["kind"] == *it);
            let goes = promised.contains(&name) && has_lock_file;
            let lock = format!("nova-{name}");
            let stays = !goes && locks_before.contains(&lock);
            let is_right = if locks.contains(&lock) { !goes } else { !stays };
            assert!(is_right, "the lock file of {name}: {locks:?}, before {locks_before:?}");
        }
        let again = world.dry_run(args.split(' '));
        assert_eq!(with_outcome(&again, "would_remove"), BTreeSet::new(), "{again:#?}");
    });
    println!("{seen:?}");
    assert!(seen.trees >= TREES as usize);
    for count in [seen.promised, seen.touched] {
        assert!(count >= 100, "{seen:?}");
    }
    assert!(seen.refused < seen.trees / 2, "{seen:?}");
}
