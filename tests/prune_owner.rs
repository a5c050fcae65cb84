//! What prune makes under `locks` is nova's from its first moment: prune runs as root, nova as the owner of the
//! instances path, and what nova cannot open for append stops it.

use std::os::unix::process::ExitStatusExt as _;
use std::path::Path;
use std::process::Command;

use crate::common::prune::{
    InUse, Running, chown_all, inject, is_locked, lock_file, names, owner, plain_file, prune_command,
    under_strace, wait_until,
};
use crate::common::{DAY, World, tool};

/// The user whom nova runs as: another one if we are root, as prune is on a compute host.
fn nova_user() -> u32 {
    if nix::unistd::geteuid().is_root() { 12345 } else { nix::unistd::geteuid().as_raw() }
}

/// Whether nova could open a file for append, which is what oslo.concurrency does.
fn nova_can_append_to(path: &Path) -> bool {
    as_nova(&["sh", "-c", ": >> \"$0\""], path)
}

fn as_nova(command: &[&str], path: &Path) -> bool {
    let user = nova_user();
    let mut setpriv = Command::new(tool("setpriv", "util-linux"));
    if nix::unistd::geteuid().is_root() {
        setpriv.args([format!("--reuid={user}"), format!("--regid={user}"), "--clear-groups".to_owned()]);
    }
    setpriv.args(command).arg(path).status().unwrap().success()
}

fn nova_owned(it: &InUse) {
    chown_all(&it.world.instances_path(), nova_user());
}

/// Checks everything that lies under `locks`, and the directory itself.
#[track_caller]
fn all_is_novas(world: &World) {
    let locks = world.path("locks");
    assert_eq!(owner(&locks), nova_user());
    assert!(as_nova(&["sh", "-c", ": > \"$0/made by nova\" && rm \"$0/made by nova\""], &locks));
    for name in names(&locks) {
        assert_eq!(owner(&locks.join(&name)), nova_user(), "{name}");
        assert!(nova_can_append_to(&locks.join(&name)), "{name}");
    }
}

/// Stops prune where it is about to unlink the first file, and asks then; `with_locks` says whether nova ever locked
/// anything here before.
#[track_caller]
fn nova_can_open_the_lock_file_while_prune_holds_it(with_locks: bool) {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    if !with_locks {
        fs_err::remove_dir(it.world.path("locks")).unwrap();
    }
    nova_owned(&it);
    let cache_dir = it.world.path("_base");
    let action = inject("unlinkat:delay_enter=2500000", &cache_dir);
    let prune = Running::start(&mut under_strace(&it.world, action, &prune_command(&it.world, [""; 0])));
    wait_until("prune holds the lock", || is_locked(&lock_file(&it.world, &name)));
    assert!(nova_can_append_to(&lock_file(&it.world, &name)));
    all_is_novas(&it.world);
    assert!(it.world.base(&name).exists(), "prune was not stopped long enough");
    assert_eq!(prune.finish().exits(0).outcome(&name), "removed");
    all_is_novas(&it.world);
    assert_eq!(names(&it.world.path("locks")), ["imagecache-prune.lock".to_owned()].into());
}

#[test]
fn nova_can_open_a_lock_file_that_prune_made_in_novas_directory() {
    nova_can_open_the_lock_file_while_prune_holds_it(true);
}

#[test]
fn nova_can_open_a_lock_file_that_prune_made_with_its_directory() {
    nova_can_open_the_lock_file_while_prune_holds_it(false);
}

/// Kills prune where it is about to unlink the first file.
#[track_caller]
fn killed_between_creation_and_removal(with_locks: bool) {
    let it = InUse::new();
    let files = [
        it.world.original("image-a", 2 * DAY),
        it.world.resized("image-b", 1 << 30, 2 * DAY),
        "swap_512".to_owned(),
        "ephemeral_20_abcdefg".to_owned(),
    ];
    for name in &files[2..] {
        plain_file(&it.world, name, 2 * DAY);
    }
    if !with_locks {
        fs_err::remove_dir(it.world.path("locks")).unwrap();
    }
    nova_owned(&it);
    let cache_dir = it.world.path("_base");
    for nth in 1..=files.len() {
        let kill = inject("unlinkat:signal=KILL", &cache_dir);
        let command = prune_command(&it.world, [""; 0]);
        let status = Running::start(&mut under_strace(&it.world, kill, &command)).end();
        assert_eq!(status.signal(), Some(9), "{status:?}");
        let made =
            names(&it.world.path("locks")).into_iter().filter(|name| name.starts_with("nova-")).count();
        assert!(made >= 1, "no lock file was there when prune was killed");
        all_is_novas(&it.world);
        if nth < files.len() {
            // So that the next kill comes at another.
            let first = names(&cache_dir).into_iter().find(|name| *name != it.used).unwrap();
            fs_err::remove_file(cache_dir.join(first)).unwrap();
        }
    }
    it.world.prune([""; 0]).exits(0);
    assert_eq!(names(&cache_dir), [it.used.clone()].into());
    assert_eq!(names(&it.world.path("locks")), ["imagecache-prune.lock".to_owned()].into());
    all_is_novas(&it.world);
}

#[test]
fn nova_can_open_what_a_prune_that_was_killed_left_in_its_directory() {
    killed_between_creation_and_removal(true);
}

#[test]
fn nova_can_open_what_a_prune_that_was_killed_left_with_the_directory_it_made() {
    killed_between_creation_and_removal(false);
}

#[test]
fn a_tight_umask_does_not_lock_nova_out() {
    let it = InUse::new();
    it.world.original("image-a", 2 * DAY);
    fs_err::remove_dir(it.world.path("locks")).unwrap();
    nova_owned(&it);
    let cache_dir = it.world.path("_base");
    let kill = inject("unlinkat:signal=KILL", &cache_dir);
    let command = under_strace(&it.world, kill, &prune_command(&it.world, [""; 0]));
    let mut tight = Command::new("sh");
    tight.args(["-c", "umask 077; exec \"$0\" \"$@\""]).arg(command.get_program()).args(command.get_args());
    let status = Running::start(&mut tight).end();
    assert_eq!(status.signal(), Some(9), "{status:?}");
    assert!(names(&it.world.path("locks")).len() >= 2);
    all_is_novas(&it.world);
}
