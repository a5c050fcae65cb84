//! As whom prune acts: what it makes under `locks` is nova's from its first moment, for what nova cannot open for append
//! stops it; and nothing that nova puts in its way makes root change a file of others.

use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, symlink};
use std::path::PathBuf;
use std::process::Command;

use nix::fcntl::{AT_FDCWD, RenameFlags, renameat2};

use crate::common::hostile::meanwhile_each;
use crate::common::prune::{
    InUse, aside, chown_all, finish, is_now, lock_file, names, nova_user, owner, plain_file, prune_command,
    with_outcome,
};
use crate::common::{DAY, NO_ARGS, Snapshot, World, mtime, set_age, tool};

fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A world of nova's with a file to remove.
fn novas() -> (InUse, String) {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    chown_all(&it.world.instances_path(), nova_user());
    (it, name)
}

/// Checks the directory of locks and everything in it.
#[track_caller]
fn all_is_novas(world: &World) {
    let locks = world.path("locks");
    for path in Snapshot::of(&locks).0.keys() {
        assert_eq!(owner(path), nova_user(), "{}", path.display());
    }
    let mut setpriv = Command::new(tool("setpriv", "util-linux"));
    if is_root() {
        let user = nova_user();
        setpriv.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    }
    // Opened as by oslo.concurrency.
    let script = "cd \"$0\" && : > new && rm new && for file in *; do : >> \"$file\" || exit; done";
    assert!(setpriv.args(["sh", "-c", script]).arg(locks).status().unwrap().success());
}

#[test]
fn nova_can_open_whatever_prune_makes_under_locks_whenever_prune_is_killed() {
    for umask in ["022", "077"] {
        for with_locks in [true, false] {
            let (it, name) = novas();
            let zeros = "0".repeat(40);
            for other in [&zeros, &format!("{zeros}_1073741824"), "ephemeral_20_abcdefg"] {
                plain_file(&it.world, other, 2 * DAY);
            }
            if !with_locks {
                fs_err::remove_dir(it.world.path("locks")).unwrap();
            }
            let prune = prune_command(&it.world, NO_ARGS);
            let mut command = Command::new("sh");
            command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
            command.arg(prune.get_program()).args(prune.get_args());
            let stopped = it.stopped(&mut command, &name);
            assert!(names(&it.world.path("locks")).len() >= 5);
            all_is_novas(&it.world);
            drop(stopped);
            all_is_novas(&it.world);
            let run = it.world.prune(NO_ARGS).exits(0);
            assert_eq!(with_outcome(&run, "removed").len(), 4, "{run:#?}");
            it.has(NO_ARGS);
            all_is_novas(&it.world);
            assert!(!lock_file(&it.world, &name).exists());
        }
    }
}

/// With a path that belongs to root, prune acts as the owner of `locks`, else of the cache.
#[test]
fn where_the_path_is_roots_prune_acts_as_the_owner_of_the_locks() {
    let (it, name) = novas();
    std::os::unix::fs::chown(it.world.instances_path(), Some(0), Some(0))
        .unwrap_or_else(|_| assert!(!is_root()));
    let stopped = it.aside(&name, NO_ARGS);
    all_is_novas(&it.world);
    assert_eq!(stopped.finish().exits(0).outcome(&name), "removed");
}

/// nova writes there by the group alone, and must be able to open what prune leaves.
#[test]
fn where_all_is_roots_prune_acts_as_the_group_of_the_path() {
    for umask in ["022", "077"] {
        let (it, name) = novas();
        for directory in ["", "locks", "_base"] {
            let path = it.world.path(directory);
            std::os::unix::fs::chown(&path, Some(0), Some(nova_user())).unwrap();
            fs_err::set_permissions(&path, std::fs::Permissions::from_mode(0o775)).unwrap();
        }
        let open = fs_err::File::open(it.world.base(&name)).unwrap();
        let prune = prune_command(&it.world, NO_ARGS);
        let mut command = Command::new("sh");
        command.args(["-c", &format!("umask {umask}; exec \"$0\" \"$@\"")]);
        finish(command.arg(prune.get_program()).args(prune.get_args())).exits(0).told(&name, "open", &[]);
        drop(open);
        for path in [lock_file(&it.world, &name), it.world.path("locks/imagecache-prune.lock")] {
            let stat = fs_err::metadata(&path).unwrap();
            let found = (stat.uid(), stat.gid(), stat.mode() & 0o777);
            assert_eq!(found, (0, nova_user(), 0o664), "{}, umask {umask}", path.display());
        }
    }
}

// Attacks: nova's user against root. They are tried by root only.

/// A world of nova's with a file to remove, and a directory of root's that others can read but not write, as cron.hourly
/// is, with a file in it.
fn attacked() -> (InUse, String, PathBuf) {
    assert!(is_root(), "run this as root: it shows what a prune by root may not be led to do");
    let (it, name) = novas();
    let directory = it.world.outside().join("cron.hourly");
    fs_err::create_dir(&directory).unwrap();
    let file = directory.join("victim");
    fs_err::write(&file, "precious").unwrap();
    set_age(&file, 40 * DAY);
    fs_err::set_permissions(&file, std::fs::Permissions::from_mode(0o644)).unwrap();
    (it, name, directory)
}

#[test]
fn a_directory_of_locks_that_leads_to_roots_makes_nothing_there() {
    let (it, name, directory) = attacked();
    fs_err::remove_dir(it.world.path("locks")).unwrap();
    symlink(&directory, it.world.path("locks")).unwrap();
    std::os::unix::fs::lchown(it.world.path("locks"), Some(nova_user()), Some(nova_user())).unwrap();
    let before = it.world.snapshot();
    it.world.prune(NO_ARGS).refused(&["cannot lock", "locks/imagecache-prune.lock", "Permission denied"]);
    before.assert_same(&it.world.snapshot());

    // The lock files themselves.
    fs_err::remove_file(it.world.path("locks")).unwrap();
    fs_err::create_dir(it.world.path("locks")).unwrap();
    let novas = it.world.file("novas", "");
    std::os::unix::fs::chown(&novas, Some(nova_user()), Some(nova_user())).unwrap();
    let others = [directory.join("absent"), directory.join("victim"), novas];
    let names = [name, it.world.original("image-b", 2 * DAY), it.world.original("image-c", 2 * DAY)];
    for (name, other) in names.iter().zip(&others) {
        symlink(other, lock_file(&it.world, name)).unwrap();
    }
    chown_all(&it.world.instances_path(), nova_user());
    let before = Snapshot::of(&directory);
    let run = it.world.prune(NO_ARGS).exits(1);
    assert_eq!(with_outcome(&run, "failed"), names.into());
    before.assert_same(&Snapshot::of(&directory));
}

/// nova cannot remove what lies there, so that root does not for it.
#[test]
fn a_cache_directory_that_leads_to_roots_loses_nothing() {
    let (it, name, directory) = attacked();
    for name in [&name, &it.used] {
        fs_err::rename(it.world.base(name), directory.join(name)).unwrap();
    }
    fs_err::remove_dir(it.world.path("_base")).unwrap();
    symlink(&directory, it.world.path("_base")).unwrap();
    let run = it.world.prune(NO_ARGS).exits(1);
    assert_eq!((run.outcome(&name).as_str(), run.outcome(&it.used).as_str()), ("failed", "kept"), "{run:#?}");
    assert!(directory.join(&name).exists());
}

/// Two names are exchanged all the time, in `locks` and in the cache: one is nova's and the other leads to root's.
#[test]
fn names_that_are_exchanged_while_prune_runs_change_nothing_of_roots() {
    const PRUNES: usize = 40;
    let (it, _, directory) = attacked();
    let (world, victim) = (&it.world, directory.join("victim"));
    let before = Snapshot::of(&directory);
    let removable: Vec<String> = (0..4).map(|n| format!("{n:040x}")).collect();
    let mut outcomes = std::collections::BTreeMap::new();
    let swapped = [
        (world.path("locks"), &directory),
        (world.base(&it.used), &victim),
        (lock_file(world, &removable[1]), &victim),
        (world.base(&removable[2]), &victim),
        (aside(world, &removable[3]), &victim),
    ];
    let swapped = swapped.map(|(one, to)| {
        let other = world.outside().join(format!("other-{}", one.file_name().unwrap().display()));
        symlink(to, &other).unwrap();
        (one, other)
    });
    let exchange = |number: usize, _| {
        let (one, other) = &swapped[number];
        // What prune has just removed cannot be exchanged.
        renameat2(AT_FDCWD, one, AT_FDCWD, other, RenameFlags::RENAME_EXCHANGE).ok();
    };
    meanwhile_each(swapped.len(), exchange, || {
        for _ in 0..PRUNES {
            for name in &removable {
                let path = plain_file(world, "made", 2 * DAY);
                std::os::unix::fs::chown(&path, Some(nova_user()), Some(nova_user())).unwrap();
                fs_err::rename(path, world.base(name)).unwrap();
            }
            let run = finish(&mut prune_command(world, ["--lock-wait", "0", "--settle", "10ms"]));
            *outcomes.entry(run.code).or_insert(0) += 1;
        }
    });
    println!("{PRUNES} prunes by exit code: {outcomes:?}");
    before.assert_same(&Snapshot::of(&directory));
}

#[test]
fn only_the_mtime_of_a_file_with_one_name_is_set_as_root() {
    let (it, _, directory) = attacked();
    let victim = directory.join("victim");
    let before = Snapshot::of(&victim);
    fs_err::remove_file(it.world.base(&it.used)).unwrap();
    symlink(&victim, it.world.base(&it.used)).unwrap();
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(run.verdict(&it.used), "in_use");
    assert!(!run.warnings().contains(&"touch_failed".to_owned()), "{run:#?}");
    before.assert_same(&Snapshot::of(&victim));

    // libvirt gives files to root; they have one name, and must be touched all the same.
    fs_err::remove_file(it.world.base(&it.used)).unwrap();
    it.world.cache_file(&it.used, 2 * DAY);
    assert_eq!(owner(&it.world.base(&it.used)), 0);
    it.world.prune(NO_ARGS).exits(0);
    assert!(is_now(mtime(&it.world.base(&it.used))));

    fs_err::remove_file(it.world.base(&it.used)).unwrap();
    fs_err::hard_link(&victim, it.world.base(&it.used)).unwrap();
    let time = fs_err::metadata(&victim).unwrap().mtime();
    let run = it.world.prune(NO_ARGS).exits(0);
    assert!(run.warnings().contains(&"touch_failed".to_owned()), "{run:#?}");
    assert_eq!(fs_err::metadata(&victim).unwrap().mtime(), time);
}

/// The path leads to a directory of root's when prune begins, and from one of its calls on to nova's, where the name of the
/// cache directory leads to files of root's.
#[cfg(target_arch = "x86_64")]
#[test]
fn a_path_that_comes_to_lead_elsewhere_takes_no_right_of_roots_there() {
    use crate::common::steps::{Action, Watch, run};

    let (it, name, directory) = attacked();
    fs_err::rename(it.world.base(&name), directory.join(&name)).unwrap();
    chown_all(&directory, 0);
    fs_err::remove_dir_all(it.world.path("_base")).unwrap();
    symlink(&directory, it.world.path("_base")).unwrap();
    fs_err::remove_file(it.world.path("locks/imagecache-prune.lock")).ok();
    let roots = it.world.outside().join("roots");
    fs_err::create_dir(&roots).unwrap();
    let exchange = || {
        let path = it.world.instances_path();
        renameat2(AT_FDCWD, &path, AT_FDCWD, &roots, RenameFlags::RENAME_EXCHANGE).unwrap();
    };
    let before = Snapshot::of(&directory);
    let command = || prune_command(&it.world, ["--settle", "0"]);
    exchange();
    let calls = run(&command(), Watch::recording()).calls;
    let mut acted = 0;
    for call in &calls {
        let ended = run(&command(), Watch::acting(call.place, Action::stop(exchange)));
        if ended.reached.is_some() {
            acted += 1;
            exchange();
        }
        before.assert_same(&Snapshot::of(&directory));
    }
    assert!(acted > 20 && acted * 10 > calls.len() * 9, "{acted} of {} calls", calls.len());
    println!("a path that comes to lead elsewhere, at {acted} calls of prune: nothing of root's changed");
}
