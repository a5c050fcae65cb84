//! A tree of traps: what may lie where a disk, a cache file or a directory is expected, and what each of them gives.
//!
//! Every run ends within a limit, changes nothing but what it says, and leads nowhere outside the cache directory.

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::symlink;
use std::os::unix::net::UnixListener;
use std::path::Path;
use std::time::{Duration, Instant, SystemTime};

use crate::common::hostile::{Bait, LIMIT, header_naming, limited, meanwhile, sane};
use crate::common::{DAY, NO_ARGS, Run, Snapshot, World, list, overlay, set_age, set_mtime, text};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::{Value, json};

/// Lays a trap of that kind at a path.
fn lay(kind: &str, path: &Path) {
    match kind {
        "file" => fs_err::write(path, "").unwrap(),
        "fifo" => nix::unistd::mkfifo(path, nix::sys::stat::Mode::S_IRWXU).unwrap(),
        "socket" => drop(UnixListener::bind(path).unwrap()),
        "device" => symlink("/dev/full", path).unwrap(),
        "endless device" => symlink("/dev/zero", path).unwrap(),
        "directory" => fs_err::create_dir(path).unwrap(),
        "link to a directory" => symlink("/", path).unwrap(),
        "dangling link" => symlink("nowhere", path).unwrap(),
        "link loop" => symlink(path.file_name().unwrap(), path).unwrap(),
        _ => panic!("{kind}"),
    }
}

/// Whether there is anything of that name.
fn is_there(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok()
}

/// What is no regular file, wherever a link leads.
const NO_FILES: [&str; 8] = [
    "fifo",
    "socket",
    "device",
    "endless device",
    "directory",
    "link to a directory",
    "dangling link",
    "link loop",
];

#[test]
fn in_place_of_a_disk_a_special_file_is_none_and_a_link_that_leads_nowhere_is_unreadable() {
    for kind in NO_FILES {
        // Of an instance, of a snapshot, and in place of a directory.
        for place in ["instance-00000001/disk.local", "snapshots/one/disk", "instance-00000002"] {
            if kind.ends_with("directory") && place == "instance-00000002" {
                continue;
            }
            let bait = Bait::new();
            let path = bait.path(place);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            lay(kind, &path);
            if ["dangling link", "link loop"].contains(&kind) {
                bait.stays(kind, &path);
            } else {
                bait.goes(kind);
            }
            assert!(is_there(&path), "{kind}");
        }
    }
}

#[test]
fn in_place_of_a_cache_file_what_is_no_file_is_never_touched() {
    for kind in NO_FILES {
        let bait = Bait::new();
        let trap = cache_file_name("trap");
        let names = [format!("{trap}_5"), "swap_5".into(), format!("{}.info", bait.used), trap];
        names.iter().for_each(|name| lay(kind, &bait.world.base(name)));
        let run = bait.goes(kind);
        let scan = sane(bait.world.scan()).exits(0);
        for name in &names {
            let said = [run.verdict(name), run.outcome(name), text(&scan.file(name)["kind"])];
            assert_eq!(said, ["ignored", "kept", "other"], "{kind} {name}");
            assert!(is_there(&bait.world.base(name)), "{kind} {name}");
        }
    }
}

#[test]
fn a_link_to_a_file_in_the_cache_goes_alone_and_what_it_leads_to_stays() {
    let bait = Bait::new();
    let outside = bait.world.file("precious", "not ours");
    set_age(&outside, 90 * DAY);
    let name = cache_file_name("linked");
    symlink(&outside, bait.world.base(&name)).unwrap();
    let run = bait.goes("link");
    assert_eq!(run.outcome(&name), "removed");
    assert!(!is_there(&bait.world.base(&name)));
    assert_eq!(fs_err::read_to_string(&outside).unwrap(), "not ours");
}

#[test]
fn a_hard_link_is_a_file_like_any_other_and_only_its_name_in_the_cache_goes() {
    let bait = Bait::new();
    let outside = bait.world.outside().join("other name");
    fs_err::hard_link(bait.world.base(&bait.unused), &outside).unwrap();
    // And one file under two names of the cache, of which only one is named by a disk: both stay.
    let twin = cache_file_name("twin");
    fs_err::hard_link(bait.world.base(&bait.used), bait.world.base(&twin)).unwrap();
    let run = limited(&bait.world, "prune", &["-f", "json", "--disks-only"]);
    assert_eq!(run.outcome(&bait.unused), "removed");
    assert!(outside.exists());
    assert_eq!(run.codes(&twin), ["same_file"], "{run:#?}");
    assert!(bait.world.base(&twin).exists() && bait.world.base(&bait.used).exists());
}

#[test]
fn a_cache_directory_that_is_a_link_is_pruned_where_it_leads_and_nowhere_else() {
    let bait = Bait::new();
    let real = bait.world.outside().join("elsewhere");
    fs_err::rename(bait.path("_base"), &real).unwrap();
    symlink(&real, bait.path("_base")).unwrap();
    let beside = bait.world.file(&bait.unused, "a file of the same name outside of the cache");
    set_age(&beside, 90 * DAY);
    bait.goes("a link");
    assert!(!real.join(&bait.unused).exists() && real.join(&bait.used).exists() && beside.exists());
}

#[test]
fn a_cache_directory_that_is_not_one_is_an_error_and_nothing_is_changed() {
    for kind in ["file", "fifo", "socket", "device", "dangling link", "link loop"] {
        let bait = Bait::new();
        fs_err::rename(bait.path("_base"), bait.world.outside().join("away")).unwrap();
        lay(kind, &bait.path("_base"));
        let before = bait.world.snapshot();
        for (command, args) in [
            ("scan", &[][..]),
            ("explain", &[]),
            ("prune", &["--disks-only"]),
            ("prune", &["--disks-only", "-n"]),
        ] {
            let run = limited(&bait.world, command, args);
            assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{kind} {command}: {run:#?}");
            assert!(run.stderr.contains("_base"), "{kind} {command}: {run:#?}");
        }
        before.assert_same(&bait.world.snapshot());
    }
}

/// Instance directories with names that no nova gives.
fn hostile_names() -> Vec<Vec<u8>> {
    vec![
        b"new\nline".to_vec(),
        b"carriage\rreturn".to_vec(),
        b"\x1b[2J\x1b[31mred\x1b]0;title\x07".to_vec(),
        b"back\x08space\x7f\x00".split_last().unwrap().1.to_vec(),
        b"c1 \xc2\x9b31m".to_vec(),
        "bidi \u{202e}\u{2066} zero \u{200b}".as_bytes().to_vec(),
        vec![b'x'; 255],
        b"not \xff\xfe utf-8 \xc3".to_vec(),
        b"--help".to_vec(),
        b"  spaces  ".to_vec(),
        b"json:{}".to_vec(),
        b"\"quotes\" 'and' `more` $(reboot)".to_vec(),
        b"...".to_vec(),
    ]
}

#[test]
fn names_of_directories_cannot_hide_disks_nor_steer_a_terminal() {
    let bait = Bait::new();
    let names = hostile_names();
    for (index, name) in names.iter().enumerate() {
        let directory = bait.path(OsStr::from_bytes(name));
        let image = bait.world.original(&format!("image-{index}"), 90 * DAY);
        overlay(&directory.join("disk"), bait.world.base(image));
        // An unreadable disk of a hostile name, so that it stands in messages, too.
        lay("dangling link", &directory.join(OsStr::from_bytes(&name[..name.len().min(200)])));
        // And cache files of such names.
        fs_err::write(bait.world.base(OsStr::from_bytes(name)), "").unwrap();
    }
    let run = bait.explain(&[]).exits(1);
    for index in 0..names.len() {
        let file = cache_file_name(&format!("image-{index}"));
        assert_eq!(run.verdict(&file), "in_use");
        assert_eq!(list(&run.file(&file)["reasons"][0]["disks"]).len(), 1, "{run:#?}");
    }
    // All of them, though some of the lossy texts may look alike.
    let json = run.json();
    let count = |is_one: fn(&&Value) -> bool| list(&json["files"]).iter().filter(is_one).count();
    let counts = (count(|it| it["kind"] == "other"), count(|it| !it["name_bytes"].is_null()));
    assert_eq!((counts, list(&json["unreadable"]).len()), ((names.len(), 1), names.len()));

    let image = cache_file_name("image-2");
    // Whoever may make an image gives it its name.
    let name: String = names.iter().map(|it| String::from_utf8_lossy(it)).collect();
    bait.world.file("images.json", json!([{"ID": "image-2", "Name": name}]).to_string());
    for args in [
        &["scan", "--images", "images.json"][..],
        &["explain", "--images", "images.json"],
        &["explain", "-v"],
        &["explain", "--images", "images.json", &image],
        &["prune", "--disks-only", "--dry-run"],
        &["prune", "--disks-only"],
        &["explain", "no\u{1b}[31msuch\nfile"],
        &["explain", "--inventory", "no\u{1b}[31msuch\nfile"],
        &["explain", "--host", "\u{1b}[31m\n"],
    ] {
        let run = limited(&bait.world, args[0], &args[1..]);
        for output in [&run.stdout, &run.stderr] {
            let steering = output.chars().find(|it| {
                it.is_control() && *it != '\n'
                    || matches!(it, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{200b}')
            });
            assert_eq!(steering, None, "{args:?}: {output}");
            // A name with a line break may not begin a line of its own.
            assert!(!output.lines().any(|line| line.starts_with("line")), "{args:?}: {output}");
        }
    }
}

#[test]
fn a_backing_name_that_leads_outside_is_read_and_no_more() {
    let bait = Bait::new();
    fs_err::create_dir_all(bait.world.outside().join("etc")).unwrap();
    let passwd = bait.world.file("etc/passwd", "root:x:0:0:");
    set_age(&passwd, 90 * DAY);
    overlay(&bait.path("instance-00000002/disk"), "../../etc/passwd");
    // A name of the cache that is no plain name.
    overlay(&bait.path("instance-00000003/disk"), "../_base/../../etc/passwd");
    let before = Snapshot::of(&bait.world.outside().join("etc"));
    bait.goes("../../etc/passwd");
    before.assert_same(&Snapshot::of(&bait.world.outside().join("etc")));

    let bait = Bait::new();
    overlay(&bait.path("instance-00000002/disk"), "../../etc/nothing");
    bait.stays("missing elsewhere", &bait.path("instance-00000002/../../etc/nothing"));
}

#[test]
fn a_cycle_of_backing_files_ends() {
    let bait = Bait::new();
    overlay(&bait.path("instance-00000002/disk"), "../instance-00000003/disk");
    overlay(&bait.path("instance-00000003/disk"), "../instance-00000002/disk");
    overlay(&bait.path("instance-00000003/self"), "self");
    let outside = bait.world.outside().join("outside");
    overlay(&outside.join("x"), "y");
    overlay(&outside.join("y"), outside.join("x"));
    overlay(&outside.join("z"), "./z");
    for name in ["x", "z"] {
        overlay(&bait.path("instance-00000003").join(name), outside.join(name));
    }
    bait.goes("cycles");
}

#[test]
fn a_path_that_grows_with_every_step_ends() {
    // By steps down and up again, for `.` adds nothing to a path.
    let bait = Bait::new();
    let outside = bait.world.outside().join("outside");
    fs_err::create_dir_all(outside.join("s")).unwrap();
    overlay(&outside.join("x"), "s/../x");
    overlay(&bait.path("instance-00000002/disk"), outside.join("x"));
    let run = bait.explain(&[]);
    assert_eq!((run.code, run.verdict(&bait.unused).as_str()), (1, "unknown"), "{run:#?}");
    assert!(run.stdout.contains("a chain of more than"), "{run:#?}");
}

#[test]
fn a_path_that_grows_into_a_tree_of_paths_ends() {
    // A file that names itself in two ways has 2^n names after n steps.
    let bait = Bait::new();
    let outside = bait.world.outside().join("outside");
    ["s", "t"].iter().for_each(|it| fs_err::create_dir_all(outside.join(it)).unwrap());
    let names = ["s/../x", "t/../x", "s/../t/../x", "t/../s/../x"];
    let children: Vec<_> = names.iter().map(|it| json!({"file": {"filename": it}})).collect();
    let name = format!("json:{}", json!({"driver": "quorum", "children": children}));
    fs_err::write(outside.join("x"), header_naming(name)).unwrap();
    overlay(&bait.path("instance-00000002/disk"), outside.join("x"));
    let start = Instant::now();
    let run = bait.explain(&[]);
    assert!(start.elapsed() < LIMIT / 4, "{:?}", start.elapsed());
    assert_eq!((run.code, run.verdict(&bait.unused).as_str()), (1, "unknown"), "{run:#?}");
}

#[test]
fn a_raw_disk_cannot_stop_the_clean_up_whatever_header_its_guest_writes() {
    for (what, content) in [
        ("a header that cannot be understood", header_naming([0; 8])),
        ("half a header", header_naming("x")[..50].to_vec()),
        ("a name of nothing", header_naming("/nowhere/at/all")),
        ("a name of no file", header_naming("surprise:x")),
        ("a name of a directory that cannot be there", header_naming("/dev/null/x")),
        ("another format", b"QED\0".to_vec()),
        ("a name of itself by another way", header_naming("/proc/self/root/../x")),
    ] {
        let bait = Bait::new();
        let disk = bait.path("instance-00000002/disk");
        fs_err::create_dir(bait.path("instance-00000002")).unwrap();
        fs_err::write(&disk, &content).unwrap();
        let unexplained = bait.explain(&[]);
        assert_eq!(unexplained.code, 1, "{what}: {unexplained:#?}");
        let info = json!({ "/elsewhere/instance-00000002/disk": "raw" });
        fs_err::write(disk.with_file_name("disk.info"), info.to_string()).unwrap();
        bait.goes(what);
    }
}

#[test]
fn mtimes_of_any_century_are_told_and_judged() {
    let epoch = SystemTime::UNIX_EPOCH;
    for (what, mtime, verdict) in [
        ("1901", epoch - Duration::from_secs(1 << 31), "removable"),
        ("before 1970 by a nanosecond", epoch - Duration::from_nanos(1), "removable"),
        ("1970", epoch, "removable"),
        ("2038", epoch + Duration::from_secs(1 << 31), "too_young"),
        ("2446, the last of ext4", epoch + Duration::from_secs(15_032_385_535), "too_young"),
    ] {
        let world = World::new();
        let name = world.original("a", DAY);
        set_mtime(&world.base(&name), mtime);
        assert_eq!(super::common::mtime(&world.base(&name)), mtime, "{what}: a TMPDIR that cannot hold it");
        let run = limited(&world, "explain", &["-f", "json"]);
        assert_eq!((run.code, run.verdict(&name).as_str()), (0, verdict), "{what}: {run:#?}");
        assert_eq!(limited(&world, "scan", &NO_ARGS).code, 0, "{what}");
        let args = ["-f", "json", "--disks-only", "--allow-empty"];
        let plan = limited(&world, "prune", &[&args[..], &["-n"]].concat());
        world.file("plan", &plan.stdout);
        let run = limited(&world, "prune", &[&args[..], &["--plan", "plan"]].concat());
        let outcome = if verdict == "removable" { "removed" } else { "kept" };
        assert_eq!((run.code, run.outcome(&name).as_str()), (0, outcome), "{what}: {run:#?}");
    }
}

/// The command as a user whom file modes bind, over an instances path that is that user's.
#[track_caller]
fn as_nobody(world: &World, args: &[&str]) -> Run {
    let mut command = world.as_nobody();
    command.timeout(LIMIT).args(args).arg("-p").arg(world.instances_path());
    sane(Run::of(&mut command))
}

#[test]
fn permissions_that_are_lacking_are_told_and_nothing_goes() {
    for (what, below, mode, explain_code, prune_code) in [
        // Nothing may be made or removed there, but everything may be read.
        ("a read-only cache directory", "_base", 0o555, 0, 1),
        ("read-only locks", "locks", 0o555, 0, 2),
        ("a cache directory that cannot be listed", "_base", 0o311, 2, 2),
        // What is wrong with a file of the cache hides no disk. Prune cannot put back what may have been set aside.
        ("a cache directory without execute permission", "_base", 0o666, 0, 2),
        ("an instance directory that cannot be listed", "instance-00000001", 0o311, 1, 1),
        ("an instance directory without execute permission", "instance-00000001", 0o666, 1, 1),
        ("a disk that cannot be read", "instance-00000001/disk", 0o000, 1, 1),
        ("a lost+found", "lost+found", 0o000, 0, 0),
        ("a read-only instances path", "", 0o555, 0, 0),
        ("an instances path without execute permission", "", 0o666, 2, 2),
        ("an instances path that cannot be listed", "", 0o311, 2, 2),
    ] {
        let bait = Bait::new();
        // Without any disk that can be read prune would refuse.
        bait.world.instance_disk("instance-00000002", &bait.used);
        fs_err::create_dir(bait.path("lost+found")).unwrap();
        bait.world.give_to_nobody();
        bait.world.set_mode(below, mode);
        let explained = as_nobody(&bait.world, &["explain", "-f", "json"]);
        let pruned = as_nobody(&bait.world, &["prune", "--disks-only", "-f", "json"]);
        bait.world.set_mode(below, 0o755);
        let codes = (explained.code, pruned.code);
        assert_eq!(codes, (explain_code, prune_code), "{what}: {explained:#?} {pruned:#?}");
        assert_eq!(bait.world.base(&bait.unused).exists(), prune_code != 0, "{what}");
        if explain_code == 0 {
            assert_eq!(explained.missing(&bait.used), None, "{what}");
        }
        if explain_code == 1 {
            assert_eq!(explained.verdict(&bait.unused), "unknown", "{what}: {explained:#?}");
            let unreadable = &explained.json()["unreadable"][0];
            assert!(text(&unreadable["path"]).starts_with(bait.path(below).to_str().unwrap()), "{what}");
            assert_eq!(unreadable["error"], "Permission denied (os error 13)", "{what}");
        }
        if prune_code == 2 {
            assert!(pruned.stderr.contains("Permission denied"), "{what}: {pruned:#?}");
        }
        if explain_code == 0 && prune_code == 1 {
            let error = text(&pruned.file(&bait.unused)["error"]).to_lowercase();
            assert!(
                error.starts_with("failed to remove /") && error.contains("permission denied"),
                "{error}"
            );
        }
    }
}

#[test]
fn a_disk_that_changes_while_it_is_read_keeps_what_it_names_and_costs_nothing_but_certainty() {
    let bait = Bait::new();
    let disk = bait.path("instance-00000001/disk");
    let spare = bait.path("instance-00000001/disk.spare");
    let (short, long) = (header_naming(&bait.used), header_naming(format!("../_base/{}", bait.used)));
    let replace = |step: u64| {
        fs_err::write(&spare, if step.is_multiple_of(2) { &short } else { &long }).unwrap();
        fs_err::rename(&spare, &disk).unwrap();
    };
    let another = bait.path("instance-00000002/disk");
    fs_err::create_dir(bait.path("instance-00000002")).unwrap();
    // A name at the end of the cluster, so that the reader must ask twice.
    let mut head = header_naming("");
    head[8..16].copy_from_slice(&60_000_u64.to_be_bytes());
    head[16..20].copy_from_slice(&40_u32.to_be_bytes());
    head.resize(60_000, 0);
    head.extend(bait.used.as_bytes());
    let grow_shrink_or_vanish = |step: u64| match step % 4 {
        0 => fs_err::write(&another, &head).unwrap(),
        1 => fs_err::OpenOptions::new().write(true).open(&another).unwrap().set_len(5000).unwrap(),
        2 => fs_err::write(&another, "").unwrap(),
        _ => fs_err::remove_file(&another).unwrap(),
    };
    let check = || {
        for _ in 0..20 {
            // Half written files are errors, and a directory that never rests is one, too; the file in use stays.
            let run = bait.explain(&[]);
            assert!(run.code <= 1, "{run:#?}");
            assert_eq!(run.verdict(&bait.used), "in_use", "{run:#?}");
            let is_unknown = run.verdict(&bait.unused) == "unknown";
            assert_eq!(is_unknown, run.code == 1, "{run:#?}");
        }
    };
    meanwhile(replace, check);
    meanwhile(grow_shrink_or_vanish, check);
}

#[test]
fn an_instances_path_with_a_hundred_thousand_entries_is_read_in_time() {
    let bait = Bait::new();
    // Mostly files, which might be disks; names of a few of them, for those are soon made.
    for index in 0..1_000 {
        fs_err::create_dir(bait.path(format!("instance-{index:08x}-d"))).unwrap();
    }
    for index in 0..99_000 {
        let file = bait.path(format!("file-{}", index / 9_900));
        if !file.exists() {
            overlay(&file, &bait.used);
        }
        fs_err::hard_link(&file, bait.path(format!("file-{index}-too"))).unwrap();
    }
    let start = Instant::now();
    let run = bait.explain(&[]);
    assert_eq!((run.code, run.verdict(&bait.unused).as_str()), (0, "removable"));
    assert_eq!(run.json()["unlisted_directories"], json!([]), "without an inventory nothing is unlisted");
    // With the run's lock there already, one look is enough.
    fs_err::write(bait.path("locks/imagecache-prune.lock"), "").unwrap();
    let table = limited(&bait.world, "prune", &["--disks-only"]);
    assert_eq!(table.code, 0, "{table:#?}");
    assert!(table.stdout.lines().count() < 100, "a table is for people");
    assert!(!bait.world.base(&bait.unused).exists());
    println!("100,000 entries explained and pruned in {:?}", start.elapsed());
    assert!(start.elapsed() < LIMIT, "{:?}", start.elapsed());
}
