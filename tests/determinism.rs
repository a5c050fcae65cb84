//! The same tree gives the same bytes, whichever thread is first.

use crate::common::{DAY, HOST, Run, World, overlay, set_age};
use serde_json::json;

/// A tree in which there is an order to get wrong everywhere: several disks a file, several problems, chains elsewhere.
fn world() -> World {
    let world = World::new();
    let images: Vec<String> = (0..12).map(|it| world.original(&format!("image-{it}"), DAY)).collect();
    world.resized("image-1", 1 << 30, DAY);
    let mut rows = Vec::new();
    for number in 0..60 {
        let directory = format!("instance-{number}");
        let path = world.path(&directory);
        let first = number % 8;
        if number < 8 {
            world.instance_disk(&directory, &images[first]);
        } else {
            fs_err::create_dir(&path).unwrap();
            for disk in ["disk", "disk.config", "disk.swap"] {
                fs_err::copy(world.path(format!("instance-{first}/disk")), path.join(disk)).unwrap();
            }
        }
        // Of no instance; twelve of them with a header that ends too early.
        if number % 5 == 0 {
            fs_err::write(path.join("broken"), b"QFI\xfb\0\0\0\x03").unwrap();
        } else {
            rows.push(json!({"uuid": directory, "host": HOST, "image_ref": format!("image-{first}")}));
        }
    }
    for number in 0..6 {
        let elsewhere = world.outside().join(format!("elsewhere-{number}"));
        overlay(&elsewhere, world.base(&images[10]));
        overlay(&world.path(format!("instance-{number}")).join("disk.chained"), &elsewhere);
    }
    // "Changed so long ago" is to be the same for all runs.
    for number in 0..60 {
        set_age(&world.path(format!("instance-{number}")), 9 * DAY);
    }
    world.inventory(&json!(rows));
    world
}

#[test]
fn output_does_not_depend_on_which_thread_is_first() {
    let world = world();
    let library = crate::common::slow::library(world.outside());
    for format in ["json", "table"] {
        let run = |is_slow: bool| {
            let mut command = world.command();
            command.args(["explain", "--host", HOST, "--as-of", "2100-01-01T00:00:00Z", "-f", format]);
            command.arg("-p").arg(world.instances_path());
            command.arg("--inventory").arg(world.outside().join("inventory.json"));
            if is_slow {
                command.env("LD_PRELOAD", &library).env("SLOW_MS", "2").env("SLOW_JITTER", "1");
            }
            let run = Run::of(&mut command);
            // What is of the moment, and not of the tree.
            let is_of_the_tree = |line: &&str| {
                !["\"generated_at\"", "\"available_bytes\"", " free on the filesystem"]
                    .iter()
                    .any(|it| line.contains(it))
            };
            (run.stdout.lines().filter(is_of_the_tree).collect::<Vec<_>>().join("\n"), run.stderr)
        };
        let first = run(false);
        for turn in 0..12 {
            let again = run(turn % 2 == 0);
            let differences =
                first.0.lines().zip(again.0.lines()).filter(|(a, b)| a != b).collect::<Vec<_>>();
            assert!(first == again, "{format}, run {turn}: {differences:#?}\n{again:#?}");
        }
        assert!(first.0.contains("elsewhere-5"), "{}", first.0);
    }
}
