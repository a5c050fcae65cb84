//! The same tree gives the same bytes, whichever thread is first.

use crate::common::host::{Host, JUDGED};
use crate::common::{DAY, Run, overlay, set_age};

/// A host on which there is an order to get wrong everywhere: several disks a file, several problems, chains elsewhere.
fn host() -> Host {
    let host = Host::new();
    let world = &host.world;
    let mut directories: Vec<_> = fs_err::read_dir(world.instances_path())
        .unwrap()
        .map(|it| it.unwrap().path())
        .filter(|it| it.join("disk").exists())
        .collect();
    directories.sort();
    for (number, directory) in directories.iter().enumerate() {
        for disk in ["disk.config", "disk.swap"] {
            fs_err::copy(directory.join("disk"), directory.join(disk)).unwrap();
        }
        if number % 5 == 0 {
            fs_err::write(directory.join("broken"), b"QFI\xfb\0\0\0\x03").unwrap();
        }
        if number < 6 {
            let elsewhere = world.outside().join(format!("elsewhere-{number}"));
            overlay(&elsewhere, world.base("swap_2048"));
            overlay(&directory.join("disk.chained"), &elsewhere);
        }
        // "Changed so long ago" is to be the same for all runs.
        set_age(directory, 9 * DAY);
    }
    host
}

#[test]
fn output_does_not_depend_on_which_thread_is_first() {
    let host = host();
    let library = crate::common::slow::library(host.world.outside());
    for format in ["json", "table"] {
        let run = |is_slow: bool| {
            let mut command = host.world.command();
            command.args(["explain", "-p", "instances", "--as-of", "2100-01-01T00:00:00Z", "-f", format]);
            command.args(JUDGED);
            if is_slow {
                command.env("LD_PRELOAD", &library).env("SLOW_MS", "2").env("SLOW_JITTER", "1");
            }
            let run = Run::of(&mut command);
            // What is of the moment, and not of the tree.
            let of_the_moment = ["\"generated_at\"", "\"available_bytes\"", " free on the filesystem"];
            let is_of_the_tree = |line: &&str| !of_the_moment.iter().any(|it| line.contains(it));
            (run.stdout.lines().filter(is_of_the_tree).collect::<Vec<_>>().join("\n"), run.stderr)
        };
        let first = run(false);
        for turn in 0..12 {
            let again = run(turn % 2 == 0);
            let pairs = first.0.lines().zip(again.0.lines());
            let differences: Vec<_> = pairs.filter(|(first, again)| first != again).collect();
            assert!(first == again, "{format}, run {turn}: {differences:#?}\n{again:#?}");
        }
        assert!(first.0.contains("elsewhere-0"), "{}", first.0);
    }
}
