//! nova renames `<uuid>` to `<uuid>_resize` and back whenever it likes. A listing of a directory that changes meanwhile may
//! show both names or neither, on some filesystems more often than on others: `tests/filesystems` runs this on each.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicUsize, Ordering::SeqCst};
use std::time::{Duration, Instant};

use crate::common::hostile::{Numbers, meanwhile_each};
use crate::common::prune::{InUse, is_full, other_instances};
use crate::common::{DAY, MINUTE, set_age};

/// Instances that are renamed all the time, each the only user of a base file.
const RENAMED: usize = 4;

fn uuid(number: usize) -> String {
    format!("00000000-0000-4000-8000-{number:012x}")
}

#[test]
fn a_base_file_whose_only_user_is_renamed_all_the_time_is_in_use_in_every_run() {
    // Where times are whole seconds a run waits for some.
    let (most, limit) = if is_full() { (1000, 10 * MINUTE) } else { (40, MINUTE / 3) };
    let it = InUse::new();
    let world = &it.world;
    other_instances(world);
    let bases: Vec<String> = (0..RENAMED)
        .map(|number| {
            let base = world.original(&format!("image-{number}"), 2 * DAY);
            world.instance_disk(&uuid(number), &base);
            base
        })
        .collect();
    let count = AtomicUsize::new(0);
    let mut verdicts = BTreeMap::<_, usize>::new();
    let (start, mut runs) = (Instant::now(), 0);
    // Its directory to and fro.
    let rename = |number: usize, step: u64| {
        let mut names = [uuid(number), format!("{}_resize", uuid(number))].map(|name| world.path(name));
        names.rotate_left((step % 2) as usize);
        fs_err::rename(&names[0], &names[1]).unwrap();
        count.fetch_add(1, SeqCst);
        // As a moment without renames is what ends the reading of a run.
        let pause = Numbers(step * RENAMED as u64 + number as u64).below(4000);
        std::thread::sleep(Duration::from_micros(pause as u64));
    };
    meanwhile_each(RENAMED, rename, || {
        for run in (0..most).take_while(|_| start.elapsed() < limit) {
            runs += 1;
            // A real prune makes what it finds in use young.
            let is_prune = run % 4 == 3;
            let run = if is_prune { world.prune(["-q", "--settle", "0"]) } else { world.explain(["-q"]) };
            for base in &bases {
                let seen = (if is_prune { "prune" } else { "explain" }, run.verdict(base), run.code);
                *verdicts.entry(seen).or_default() += 1;
                set_age(&world.base(base), 2 * DAY);
            }
        }
    });
    println!("{runs} runs in {:.0?}, {} renames: {verdicts:?}", start.elapsed(), count.load(SeqCst));
    // With as many renames as this it may find no quiet moment, and then says so.
    let is_right =
        |verdict: &str, code| verdict == "in_use" && code <= 1 || verdict == "unknown" && code == 1;
    assert!(verdicts.keys().all(|(_, verdict, code)| is_right(verdict, *code)), "{verdicts:?}");
}

/// Renames behind the back of the first listing, which are done when prune is about to open this path below an instance's
/// directory.
#[cfg(target_arch = "x86_64")]
#[test]
fn what_is_renamed_after_it_was_listed_is_read_again() {
    use crate::common::prune::prune_command;
    use crate::common::steps::{Action, Place, Watch, run};
    type Act = fn(&std::path::Path);
    let acts: [(&str, &str, Act); 3] = [
        ("a directory, and another one has its name", "", |directory| {
            fs_err::rename(directory, directory.with_extension("resize")).unwrap();
            fs_err::create_dir(directory).unwrap();
        }),
        ("a directory", "", |directory| {
            fs_err::rename(directory, directory.with_extension("resize")).unwrap();
        }),
        ("a disk within its directory", "disk", |directory| {
            fs_err::rename(directory.join("disk"), directory.join("disk.new")).unwrap();
        }),
    ];
    for (what, below, act) in acts {
        let it = InUse::new();
        let base = it.world.original("image-a", 2 * DAY);
        it.world.instance_disk(&uuid(1), &base);
        let directory = it.world.path(uuid(1));
        let at = Place { name: "openat", nth: 0, in_proc: false };
        let watch = Watch::acting(at, Action::stop(|| act(&directory)));
        let ended = run(&prune_command(&it.world, ["--dry-run"]), watch.of_all_below(&directory.join(below)));
        assert!(ended.reached.is_some(), "{what}");
        let report: serde_json::Value = serde_json::from_str(&ended.stdout).unwrap();
        let files = report["files"].as_array().unwrap();
        let file = files.iter().find(|it| it["name"] == base.as_str()).unwrap();
        assert_eq!(file["verdict"], "in_use", "{what}: {ended:?}");
    }
}
