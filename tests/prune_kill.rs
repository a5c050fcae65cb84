//! Prune is killed at every call by which it changes something, and at every lock. After each kill every file is there,
//! by its name or set aside, unless it was to be removed; nova can open every lock file; and the next run ends where one
//! whole run does. Every other call is for the stepper, see `tests/README.md`.

use std::collections::BTreeMap;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::process::ExitStatusExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use nix::libc;
use serde_json::json;

use crate::common::prune::{
    Running, aside, chown_all, finish, lock_file, names, nova_user, owner, plain_file, prune_command,
    under_strace, with_outcome,
};
use crate::common::{DAY, HOST, HOUR, World, set_age};

const CHANGING: [&str; 6] = ["mkdirat", "renameat2", "unlinkat", "utimensat", "flock", "fcntl"];

/// A tree, and a copy of it to begin with each time.
struct Killed {
    world: World,
    pristine: PathBuf,
    stay: Vec<String>,
    removable: Vec<String>,
}

impl Killed {
    fn new(with_locks: bool) -> Self {
        let world = World::new();
        let used = world.original("image-used", 2 * DAY);
        let [kept, unused] = [1 << 30, 2_u64 << 30].map(|bytes| world.resized("image-used", bytes, 2 * DAY));
        world.instance_disk("instance-00000001", &kept);
        world.inventory(&json!([{
            "name": "instance-00000001", "host": HOST, "image_ref": "image-used", "swap_mb": 64,
        }]));
        let [a, young] = ["a", "d"].map(|digit| digit.repeat(40));
        let removable: Vec<String> = vec![
            unused,
            a.clone(),
            format!("{a}.info"),
            format!("{a}_sm"),
            format!("{a}.part"),
            "swap_512".into(),
        ];
        removable.iter().for_each(|name| drop(plain_file(&world, name, 2 * DAY)));
        let stay =
            vec![used, kept, "swap_64".into(), young.clone(), format!("{young}.info"), "README".into()];
        stay[2..].iter().for_each(|name| drop(plain_file(&world, name, 3 * HOUR)));
        if with_locks {
            removable.iter().chain(&stay).for_each(|it| fs_err::write(lock_file(&world, it), "").unwrap());
        } else {
            fs_err::remove_dir(world.path("locks")).unwrap();
        }
        set_age(&world.base(&stay[0]), 2 * DAY);
        if nix::unistd::geteuid().is_root() {
            chown_all(&world.instances_path(), nova_user());
        }
        let pristine = world.outside().join("pristine");
        copy(&world.instances_path(), &pristine);
        Self { world, pristine, stay, removable }
    }

    fn prune(&self) -> Command {
        prune_command(&self.world, ["--partials", "--settle", "0"])
    }

    /// Runs prune until strace kills it at the nth of these calls; says whether it came to that.
    fn kill(&self, calls: &[String], syscall: &str, nth: usize) -> bool {
        fs_err::remove_dir_all(self.world.instances_path()).unwrap();
        copy(&self.pristine, &self.world.instances_path());
        let what = format!("{syscall}:signal=KILL:when={nth}");
        let inode = |path: &Path| fs_err::symlink_metadata(path).ok().map(|it| it.ino());
        let all: Vec<&String> = self.removable.iter().chain(&self.stay).collect();
        let before: Vec<_> = all.iter().map(|name| inode(&self.world.base(name))).collect();
        let args = calls.iter().cloned().chain([format!("--inject={what}")]);
        let status = Running::start(&mut under_strace(&self.world, args, &self.prune())).end();
        if status.code() == Some(0) {
            return false;
        }
        assert_eq!(status.signal(), Some(libc::SIGKILL), "{what}: {status:?}");
        for (name, before) in all.into_iter().zip(before) {
            let [own, aside] = [self.world.base(name), aside(&self.world, name)].map(|path| inode(&path));
            let is_removable = self.removable.contains(name);
            assert!(own == before || is_removable && (aside == before || aside.is_none()), "{what}: {name}");
        }
        if self.world.path("locks").exists() {
            for name in names(&self.world.path("locks")) {
                assert_eq!(owner(&self.world.path("locks").join(&name)), nova_user(), "{what}: {name}");
            }
        }
        let run = finish(&mut self.prune()).exits(0);
        assert!(
            with_outcome(&run, "removed").iter().all(|it| self.removable.contains(it)),
            "{what}: {run:#?}"
        );
        assert_eq!(names(&self.world.path("_base")), self.stay.iter().cloned().collect(), "{what}: {run:#?}");
        true
    }

    fn kill_everywhere(&self) {
        let mut kills = BTreeMap::new();
        for syscall in CHANGING {
            let made =
                (1..).take_while(|nth| self.kill(&[format!("--trace={syscall}")], syscall, *nth)).count();
            kills.insert(syscall, made);
        }
        // Files are made by openat, which other threads use as well, but not on this directory.
        let in_locks =
            ["-P".to_owned(), self.world.path("locks").display().to_string(), "--trace=openat".to_owned()];
        let made = (1..).take_while(|nth| self.kill(&in_locks, "openat", *nth)).count();
        kills.insert("openat in locks", made);
        println!("{} kills: {kills:?}", kills.values().sum::<usize>());
        assert_eq!(kills["renameat2"], self.removable.len(), "strace did not kill");
    }
}

fn copy(from: &Path, to: &Path) {
    assert!(Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap().success());
}

#[test]
fn a_kill_at_any_changing_call_is_made_good_by_the_next_run() {
    Killed::new(false).kill_everywhere();
}

#[test]
fn a_kill_at_any_changing_call_where_nova_locked_every_file_is_made_good_by_the_next_run() {
    Killed::new(true).kill_everywhere();
}
