//! Prunes, one after another, while a nova fetches images and starts instances on them all the time: no disk that was
//! made ever loses its base file.

use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed};
use std::time::{Duration, Instant, SystemTime};

use crate::common::prune::{InUse, finish, hold_lock_waiting, prune_command, with_outcome};
use crate::common::{DAY, World, overlay};

const IMAGES: usize = 4;
const HOW_LONG: Duration = Duration::from_secs(6);

#[derive(Debug, Default)]
struct Seen {
    starts: AtomicUsize,
    fetches: AtomicUsize,
    /// Starts that found no base file any more, which nova schedules again.
    failed_starts: AtomicUsize,
}

/// What nova does to start an instance (`Image.cache` and `Qcow2.create_image` of nova/virt/libvirt/imagebackend.py):
/// fetches the image under its lock if it is not there, sets the mtime of the base file, and makes the overlay under
/// the lock. Says whether it came to that.
fn start_instance(world: &World, base: &str, prepared: &Path, directory: &str, seen: &Seen) -> bool {
    let path = world.base(base);
    if !path.exists() {
        let _lock = hold_lock_waiting(world, base);
        if !path.exists() {
            let part = world.base(format!("{base}.part"));
            fs_err::write(&part, "image").unwrap();
            fs_err::rename(part, &path).unwrap();
            seen.fetches.fetch_add(1, Relaxed);
        }
    }
    touch(&path, Duration::ZERO);
    fs_err::create_dir_all(world.path(directory)).unwrap();
    let _lock = hold_lock_waiting(world, base);
    if !path.exists() {
        seen.failed_starts.fetch_add(1, Relaxed);
        return false;
    }
    fs_err::copy(prepared, world.path(directory).join("disk")).unwrap();
    seen.starts.fetch_add(1, Relaxed);
    true
}

/// Sets the mtime of a file that prune may have removed.
fn touch(path: &Path, age: Duration) {
    if let Ok(file) = fs_err::File::open(path) {
        file.file().set_modified(SystemTime::now() - age).unwrap();
    }
}

#[test]
fn no_disk_that_nova_makes_while_prune_runs_loses_its_base_file() {
    let it = InUse::new();
    let world = &it.world;
    let images: Vec<String> = (0..IMAGES).map(|n| format!("{n:040x}")).collect();
    let prepared: Vec<_> = images
        .iter()
        .map(|name| {
            let disk = world.outside().join("prepared").join(name);
            overlay(&disk, world.base(name));
            disk
        })
        .collect();
    let seen = Seen::default();
    let end = AtomicBool::new(false);
    let (mut prunes, mut removed, mut kept_in_time) = (0, 0, 0);
    std::thread::scope(|scope| {
        for (index, (name, prepared)) in images.iter().zip(&prepared).enumerate() {
            let (seen, end) = (&seen, &end);
            scope.spawn(move || {
                // Even where the test ends by a panic here, the prunes must end.
                struct AtEnd<'a>(&'a AtomicBool);
                impl Drop for AtEnd<'_> {
                    fn drop(&mut self) {
                        self.0.store(true, Relaxed);
                    }
                }
                let _at_end = AtEnd(end);
                let base = world.base(name);
                for round in 0.. {
                    if end.load(Relaxed) {
                        return;
                    }
                    let directory = format!("instance-{index}-{round}");
                    if start_instance(world, name, prepared, &directory, seen) {
                        // Old at once, so that the disk alone keeps it.
                        touch(&base, 2 * DAY);
                        for _ in 0..4 {
                            std::thread::sleep(Duration::from_millis(7));
                            assert!(base.exists(), "{directory}/disk has lost its base file {name}");
                        }
                    }
                    fs_err::remove_dir_all(world.path(&directory)).unwrap();
                    touch(&base, 2 * DAY);
                    std::thread::sleep(Duration::from_millis(11 * (round % 7)));
                }
            });
        }
        let start = Instant::now();
        while start.elapsed() < HOW_LONG && !end.load(Relaxed) {
            let run = finish(&mut prune_command(world, ["--lock-wait", "50ms"]));
            assert!(run.code <= 1, "{run:#?}");
            assert!(with_outcome(&run, "failed").is_empty(), "{run:#?}");
            prunes += 1;
            removed += with_outcome(&run, "removed").len();
            kept_in_time += with_outcome(&run, "changed").len();
        }
        end.store(true, Relaxed);
    });
    println!("{prunes} prunes removed {removed} files and found {kept_in_time} changed; nova: {seen:?}");
    assert!(removed >= 5 && seen.starts.load(Relaxed) >= 40, "too little happened");
}
