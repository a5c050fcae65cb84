//! The subcommands that only look change nothing: names, contents, mtimes, locks.

mod common;

use common::{DAY, World};
use serde_json::json;

#[test]
fn explain_changes_nothing() {
    let world = World::new();
    let image = world.original("image-a", 2 * DAY);
    world.instance_disk("instance-00000001", &image);
    world.inventory(&json!([{"name": "instance-00000001", "host": "compute-1", "image_ref": "image-a"}]));
    let before = world.snapshot();
    let run = world.explain([""; 0]).exits(0);
    assert_eq!(run.verdict(&image), "in_use");
    before.assert_same(&world.snapshot());
}
