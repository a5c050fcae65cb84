//! 200 random trees: whatever the inventory says, no file that a disk names is removable, and with one disk that cannot
//! be read nothing is.

use std::collections::{BTreeMap, BTreeSet};

use crate::common::trees::{Nursery, Tree, for_each_tree, named_by_disks};
use crate::common::{Run, list, text};

const TREES: u32 = 200;
fn verdicts(run: &Run) -> BTreeMap<String, String> {
    let json = run.json();
    list(&json["files"]).iter().map(|it| (text(&it["name"]), text(&it["verdict"]))).collect()
}

/// What was seen over all trees, for properties of nothing prove nothing.
#[derive(Debug, Default)]
struct Seen {
    trees: u32,
    kept_for_disks: usize,
    removable: usize,
    removed: usize,
    refused: usize,
    unknown: usize,
}

#[test]
fn no_file_that_a_disk_names_is_removable_and_with_an_unreadable_disk_nothing_is() {
    let nursery = Nursery::new();
    let world = &nursery.world;
    let mut seen = Seen::default();
    let check = |tree: &Tree| {
        nursery.grow(tree);
        let named = named_by_disks(tree);

        let before = world.snapshot();
        let explained = world.explain(["--partials"]);
        before.assert_same(&world.snapshot());
        assert_eq!(explained.code, 0, "{explained:#?}");
        let verdicts_now = verdicts(&explained);
        assert!(verdicts_now.keys().eq(tree.cache.keys()), "every file is judged: {verdicts_now:#?}");
        for (name, verdict) in &verdicts_now {
            if named.contains(name.as_str()) {
                assert_eq!(verdict, "in_use", "{name}");
                seen.kept_for_disks += 1;
            }
            seen.removable += usize::from(verdict == "removable");
        }
        let of_missing = explained.json()["missing"].clone();
        for name in named.iter().filter(|it| !tree.cache.contains_key(**it)) {
            assert!(list(&of_missing).iter().any(|it| it["name"] == *name), "{name} is missing");
        }

        // The real thing takes what was called removable, and nothing else.
        let pruned = world.prune(["--partials"]);
        assert!(matches!(pruned.code, 0 | 2), "{pruned:#?}");
        let left: BTreeSet<String> = world.cache_names().into_iter().collect();
        for (name, verdict) in &verdicts_now {
            let stays = verdict != "removable" || pruned.code == 2;
            assert_eq!(left.contains(name), stays, "{name} was {verdict}: {pruned:#?}");
        }
        seen.removed += verdicts_now.len() - left.len();
        seen.refused += usize::from(pruned.code == 2);

        nursery.grow(tree);
        nursery.damage(tree.damage);
        let broken = world.explain(["--partials"]);
        assert_eq!(broken.code, 1, "{broken:#?}");
        let verdicts_broken = verdicts(&broken);
        for (name, verdict) in &verdicts_broken {
            // The broken disk's directory may be what an instance counts by, so that more is in use than before.
            let without_it = verdicts_now[name].as_str();
            let expected = if without_it == "removable" { "unknown" } else { without_it };
            assert!(verdict == expected || verdict == "in_use", "{name}: {verdict}, was {without_it}");
            seen.unknown += usize::from(verdict == "unknown");
        }
        let pruned = world.prune(["--partials"]);
        assert!(matches!(pruned.code, 1 | 2), "{pruned:#?}");
        assert_eq!(world.cache_names().len(), tree.cache.len(), "{pruned:#?}");
        seen.trees += 1;
    };
    for_each_tree(TREES, check);
    println!("{seen:?}");
    assert!(seen.trees >= TREES);
    for (what, count) in [
        ("files kept for disks", seen.kept_for_disks),
        ("removable files", seen.removable),
        ("removed files", seen.removed),
        ("unknown files", seen.unknown),
    ] {
        assert!(count >= 100, "only {count} {what}: {seen:?}");
    }
}
