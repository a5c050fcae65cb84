//! Prune beside a running nova, which is here the real oslo.concurrency, and beside another prune.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;
use nova_imagecache::cache_name::cache_file_name;

use crate::common::nova::Nova;
use crate::common::prune::{
    InUse, Running, aside, finish, hold_lock, lock_file, names, plain_file, prune_command, wait_until,
    with_outcome,
};
use crate::common::{DAY, HOST, NO_ARGS, Run, World, set_age, with_own_mounts};

#[test]
fn all_files_have_one_wait_and_the_report_names_the_process_that_holds_the_lock() {
    let it = InUse::new();
    let held = ["image-a", "image-b"].map(|image| it.world.original(image, 2 * DAY));
    let mut nova = Nova::start(&it.world);
    held.iter().for_each(|name| nova.takes(name));
    for (wait, least, most) in [("1500ms", 1500, 2900), ("0", 0, 1400)] {
        let start = Instant::now();
        let free = it.world.original("image-free", 2 * DAY);
        let run = it.world.prune(["--lock-wait", wait]).exits(0);
        let waited = start.elapsed().as_millis();
        assert_eq!(with_outcome(&run, "locked"), BTreeSet::from(held.clone()));
        assert_eq!(run.outcome(&free), "removed");
        assert!(held.iter().all(|name| lock_file(&it.world, name).exists()));
        assert!((least..most).contains(&waited), "--lock-wait {wait}: {waited} ms");
        for name in &held {
            run.told(name, "locked", &[&format!("process {} (python", nova.pid()), &format!("nova-{name}")]);
        }
    }
}

/// Files that are removed under the original's lock as well as, or instead of, one of their own. The original is in
/// use, but for the sidecar, which goes with it.
#[test]
fn what_is_made_from_an_original_waits_for_the_lock_of_the_original() {
    let it = InUse::new();
    // A used image keeps its small copy: that one is of an image that is not here.
    let gone = cache_file_name("image-gone");
    let mut nova = Nova::start(&it.world);
    for (original, end) in [
        (&gone, ""),
        (&gone, "_1073741824"),
        (&gone, "_sm"),
        (&gone, ".info"),
        (&gone, ".part"),
        (&gone, ".converted"),
        (&it.used, ".part"),
    ] {
        nova.takes(original);
        let name = format!("{original}{end}");
        plain_file(&it.world, &name, 2 * DAY);
        let run = it.world.prune(["--partials", "--lock-wait", "300ms"]).exits(0);
        run.told(&name, "locked", &[]);
        it.has([&name]);

        let mut prune = it.judged_by(["--partials", "--lock-wait", "20s"]);
        std::thread::sleep(Duration::from_millis(200));
        assert!(prune.is_running(), "{name}");
        nova.releases(original);
        let start = Instant::now();
        prune.finish().exits(0).told(&name, "removed", &[]);
        assert!(start.elapsed() < Duration::from_secs(5), "{name}");
        it.has(NO_ARGS);
    }
}

/// The reverse: prune is stopped while the file is set aside, and nova, which does not wait, asks.
#[test]
fn nova_does_not_get_the_lock_that_prune_holds() {
    let it = InUse::new();
    let gone = cache_file_name("image-gone");
    let mut nova = Nova::start(&it.world);
    for (end, locks) in [
        ("", vec![""]),
        ("_1073741824", vec!["", "_1073741824"]),
        ("_sm", vec!["", "_sm"]),
        ("_1073741824.info", vec!["", "_1073741824"]),
        (".part", vec![""]),
    ] {
        let name = format!("{gone}{end}");
        plain_file(&it.world, &name, 2 * DAY);
        let prune = it.aside(&name, ["--partials"]);
        let locks: Vec<String> = locks.iter().map(|end| format!("{gone}{end}")).collect();
        for lock in &locks {
            assert!(!nova.gets(lock), "nova got {lock} while prune removes {name}");
        }
        assert_eq!(prune.finish().exits(0).outcome(&name), "removed");
        for lock in &locks {
            nova.takes(lock);
            nova.releases(lock);
        }
    }
}

/// nova takes its locks in the new directory, and another prune begins.
#[test]
fn where_another_directory_of_locks_takes_the_place_of_the_first_everything_stays() {
    let (it, files) = InUse::with_three();
    let replace = || {
        fs_err::rename(it.world.path("locks"), it.world.outside().join("old locks")).unwrap();
        fs_err::create_dir(it.world.path("locks")).unwrap();
    };
    let run = it.while_aside(&files[2], &[], replace).exits(0);
    assert_eq!(with_outcome(&run, "locked"), files.clone().into(), "{run:#?}");
    it.has(files);
}

#[cfg(target_arch = "x86_64")]
#[test]
fn a_prune_whose_directory_of_locks_is_replaced_before_it_has_the_runs_lock_is_refused() {
    use crate::common::steps::{Action, Watch, run};

    let (it, files) = InUse::with_three();
    let calls = run(&prune_command(&it.world, ["-n"]), Watch::recording()).calls;
    assert!(calls.iter().all(|it| it.name() != "flock"), "the dry run takes the lock");
    it.world.prune(["no-such-file"]).refused(&["no-such-file"]);
    let calls = run(&prune_command(&it.world, ["--lock-wait", "0"]), Watch::recording()).calls;
    let lock = calls.iter().find(|it| it.name() == "flock").unwrap();
    it.three_files();
    let act = || {
        fs_err::rename(it.world.path("locks"), it.world.outside().join("old locks")).unwrap();
        fs_err::create_dir(it.world.path("locks")).unwrap();
    };
    let ended = run(&prune_command(&it.world, NO_ARGS), Watch::acting(lock.place, Action::stop(act)));
    assert!(ended.code == Some(2) && ended.stderr.contains("replaced while it was locked"), "{ended:?}");
    it.has(files);
}

/// One that nova waits for must not go: two novas could then fetch one image at once.
#[test]
fn the_lock_file_goes_with_an_image_unless_somebody_has_it_open_and_stays_of_swap_and_ephemeral_disks() {
    let it = InUse::new();
    let [original, open] = ["image-a", "image-o"].map(|image| it.world.original(image, 2 * DAY));
    let resized = format!("{original}_1073741824");
    let small = format!("{original}_sm");
    let [swap, ephemeral] = ["swap_512", "ephemeral_20_abcdefg"].map(str::to_owned);
    for name in [&resized, &small, &swap, &ephemeral] {
        plain_file(&it.world, name, 2 * DAY);
    }
    let mut nova = Nova::start(&it.world);
    for name in [&original, &resized, &small, &swap, &it.used] {
        nova.takes(name);
        nova.releases(name);
    }
    fs_err::write(lock_file(&it.world, &open), "").unwrap();
    let waits = Running::sleep_with(&lock_file(&it.world, &open));
    let run = it.world.prune(NO_ARGS).exits(0);
    assert_eq!(with_outcome(&run, "removed").len(), 6);
    let expected = [swap, ephemeral, open, it.used.clone()].map(|name| format!("nova-{name}"));
    assert_eq!(
        names(&it.world.path("locks")),
        expected.into_iter().chain(["imagecache-prune.lock".to_owned()]).collect()
    );
    drop(waits);
}

/// strace holds prune up between the two.
#[test]
fn the_lock_file_stays_where_the_file_has_been_made_again() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    let (path, aside) = (it.world.base(&name), aside(&it.world, &name));
    let hold_up = "unlinkat:delay_exit=1000000";
    let prune = Running::start(&mut it.injected(hold_up, &it.world.path("_base"), &[]));
    wait_until("prune removes the file", || !aside.exists() && !path.exists());
    plain_file(&it.world, &name, DAY / 2);
    assert_eq!(prune.finish().exits(0).outcome(&name), "removed");
    assert!(lock_file(&it.world, &name).exists() && path.exists());
}

#[test]
fn a_directory_of_locks_that_is_a_link_is_novas_all_the_same() {
    let it = InUse::new();
    let [held, free] = ["image-a", "image-b"].map(|image| it.world.original(image, 2 * DAY));
    let elsewhere = it.world.outside().join("elsewhere");
    fs_err::rename(it.world.path("locks"), &elsewhere).unwrap();
    std::os::unix::fs::symlink(&elsewhere, it.world.path("locks")).unwrap();
    let mut nova = Nova::start(&it.world);
    nova.takes(&held);
    let run = it.world.prune(["--lock-wait", "0"]).exits(0);
    assert_eq!((run.outcome(&held), run.outcome(&free)), ("locked".into(), "removed".into()));
    let expected = ["imagecache-prune.lock".to_owned(), format!("nova-{held}")];
    assert_eq!(names(&elsewhere), expected.into());
}

/// nova removes lock files without holding them: while prune waits for one, or when prune has opened it and is about to
/// lock it, where strace holds prune up. One that is only gone is made anew.
#[test]
fn a_lock_on_a_file_without_a_name_is_none() {
    for (waits, is_replaced) in [(true, true), (true, false), (false, true), (false, false)] {
        let it = InUse::new();
        let name = it.world.original("image-a", 2 * DAY);
        let lock = lock_file(&it.world, &name);
        fs_err::write(&lock, "").unwrap();
        let mut nova = Nova::start(&it.world);
        let held = waits.then(|| hold_lock(&it.world, &name));
        let hold_up = if waits { "fcntl:delay_enter=0" } else { "fcntl:delay_enter=1500000:when=1" };
        let prune = it.judged(&mut it.injected(hold_up, &lock, &["--lock-wait", "2s"]));
        std::thread::sleep(Duration::from_millis(300));
        if is_replaced {
            replace_lock_file(&it.world, &name, &mut nova);
        } else {
            fs_err::remove_file(&lock).unwrap();
        }
        drop(held);
        prune.finish().exits(0).told(&name, if is_replaced { "locked" } else { "removed" }, &[]);
        // The lock file that nova holds is not prune's to remove.
        assert_eq!([it.world.base(&name).exists(), lock.exists()], [is_replaced; 2]);
        if is_replaced {
            nova.releases("anew");
            it.goes(&name);
        }
    }
}

/// The same while the file is set aside; of a copy, the original's counts as well.
#[test]
fn a_file_whose_lock_file_is_replaced_while_it_is_set_aside_is_put_back() {
    for of_original in [false, true] {
        let it = InUse::new();
        let original = "1".repeat(40);
        let name = format!("{original}_1073741824");
        plain_file(&it.world, &name, 2 * DAY);
        let mut nova = Nova::start(&it.world);
        let run = it.while_aside(&name, &[], || {
            replace_lock_file(&it.world, if of_original { &original } else { &name }, &mut nova);
        });
        run.exits(0).told(&name, "locked", &[]);
        it.has([&name]);
    }
}

/// Puts another lock file, which this nova holds, in the place of that of a cache file, at once.
fn replace_lock_file(world: &World, name: &str, nova: &mut Nova) {
    nova.takes("anew");
    fs_err::rename(lock_file(world, "anew"), lock_file(world, name)).unwrap();
}

#[test]
fn a_second_prune_of_the_path_is_told_so_and_changes_nothing() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    let mut nova = Nova::start(&it.world);
    nova.takes(&name);
    let first = it.judged_by(["--lock-wait", "20s"]);
    let link = it.world.outside().join("link");
    std::os::unix::fs::symlink(it.world.instances_path(), &link).unwrap();
    let before = it.world.snapshot();
    for path in [it.world.instances_path(), link] {
        let mut second = it.world.command();
        second.args(["prune", "--host", HOST, "--inventory", "inventory.json", "-p"]).arg(path);
        let second = Run::of(&mut second).exits(3);
        assert_eq!((second.stdout.as_str(), second.stderr.lines().count()), ("", 1), "{second:#?}");
    }
    assert_eq!(it.world.dry_run(NO_ARGS).exits(0).outcome(&name), "would_remove", "a dry run needs no lock");
    before.assert_same(&it.world.snapshot());
    nova.releases(&name);
    assert_eq!(first.finish().exits(0).outcome(&name), "removed");
}

/// Where the first does not exclude the second, as on two hosts, is a matter of `proof_interleavings`.
#[test]
fn two_prunes_at_once_take_turns_or_one_is_told_of_the_other() {
    let it = InUse::new();
    let images: Vec<String> = (0..12).map(|n| format!("{n:040x}")).collect();
    let mut told = 0;
    const PAIRS: usize = 60;
    for round in 0..PAIRS {
        // The first prunes of a path make what they lock.
        match round % 3 {
            0 => fs_err::remove_dir_all(it.world.path("locks")).unwrap(),
            1 => fs_err::remove_file(it.world.path("locks/imagecache-prune.lock")).unwrap(),
            _ => {}
        }
        images.iter().for_each(|name| drop(plain_file(&it.world, name, 2 * DAY)));
        set_age(&it.world.base(&it.used), 2 * DAY);
        let pair = [0; 2].map(|_| Running::start(&mut prune_command(&it.world, NO_ARGS)));
        let mut removed = Vec::new();
        for run in pair.map(Running::finish) {
            if run.code == 3 {
                assert_eq!(run.stdout, "", "{run:#?}");
                told += 1;
                continue;
            }
            let run = run.exits(0);
            removed.extend(with_outcome(&run, "removed"));
            for outcome in ["failed", "changed", "locked", "open"] {
                assert_eq!(with_outcome(&run, outcome), BTreeSet::new(), "{outcome}: {run:#?}");
            }
        }
        removed.sort();
        assert_eq!(removed, images, "each once");
        it.has(NO_ARGS);
        assert_eq!(names(&it.world.path("locks")), BTreeSet::from(["imagecache-prune.lock".to_owned()]));
    }
    println!("{PAIRS} pairs: in {told} one was told of the other, in {} they took turns", PAIRS - told);
}

/// Other machines may use what this host exports: they know names for a minute, and may wait for a lock file.
#[test]
fn on_the_server_itself_prune_waits_and_leaves_lock_files_as_on_its_clients() {
    let it = InUse::new();
    let name = it.world.original("image-a", 2 * DAY);
    let prune = |args: &[&str]| {
        let prune = prune_command(&it.world, args);
        let export = "mount -t tmpfs none /var/lib && mkdir /var/lib/nfs && echo \"$0 *(rw)\" > /var/lib/nfs/etab && exec \"$@\"";
        let mut command = with_own_mounts();
        command.args(["sh", "-c", export]).arg(it.world.outside());
        command.arg(prune.get_program()).args(prune.get_args());
        command
    };
    let waiting = Running::start(&mut prune(&[]));
    wait_until("prune sets the file aside", || aside(&it.world, &name).exists());
    std::thread::sleep(Duration::from_secs(1));
    assert!(aside(&it.world, &name).exists());
    waiting.signal(Signal::SIGTERM);
    waiting.finish().exits(1).told(&name, "not_reached", &[]);
    finish(&mut prune(&["--settle", "0"])).exits(0).told(&name, "removed", &[]);
    assert!(lock_file(&it.world, &name).exists());
}
