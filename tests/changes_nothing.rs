//! The subcommands that only look change nothing: names, contents, mtimes, modes, locks.

use std::os::unix::fs::symlink;
use std::process::Command;

use crate::common::prune::{finish, strace_log, under_strace};
use crate::common::{DAY, HOST, HOUR, MINUTE, Snapshot, World};
use assert_cmd::cargo::cargo_bin;
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

const LOOKING: [&str; 9] = [
    "scan",
    "scan -f json",
    "explain",
    "explain -f json",
    "explain used",
    "explain --as-of +365d --partials --ignore-unlisted",
    "prune --dry-run",
    "prune -n -f json --partials --original-min-age 0 --resized-min-age 0",
    "prune --dry-run --as-of +365d --lock-wait 1s",
];

/// A world with files of every verdict, locks of nova's, and links.
fn world() -> World {
    let world = World::new();
    let used = world.original("used", 2 * DAY);
    let copy = world.resized("used", 1 << 30, 3 * HOUR);
    world.resized("used", 2 << 30, 3 * HOUR);
    world.original("young", MINUTE);
    let unused = world.original("unused", 9 * DAY);
    for name in [format!("{unused}.info"), format!("{unused}.part"), "odd".into()] {
        world.cache_file(&name, 9 * DAY);
    }
    symlink(world.base(&unused), world.base(cache_file_name("link"))).unwrap();
    world.instance_disk("instance-00000001", &copy);
    world.instance_disk("orphan", &used);
    fs_err::write(world.path("locks").join(format!("nova-{unused}")), "").unwrap();
    world.inventory(&json!([
        {"name": "instance-00000001", "host": HOST, "image_ref": "used", "kernel_id": "absent", "swap_mb": 5}
    ]));
    world
}

/// The calls that a snapshot cannot see the effects of, for what they made was removed again or was there, among them.
const WRITING: &str = "trace=rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,\
                       symlinkat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,utimensat,utimes,utime,futimesat,\
                       truncate,ftruncate,creat,mknod,mknodat,setxattr,fsetxattr,fallocate,open,openat";

#[test]
fn scan_explain_and_a_dry_run_change_nothing_and_write_nothing_that_strace_sees() {
    type Prepare = fn(&World);
    let whole: Prepare = |_| {};
    let incomplete: Prepare = |it| symlink("/nowhere", it.path("orphan/disk.local")).unwrap();
    let no_locks: Prepare = |it| fs_err::remove_dir_all(it.path("locks")).unwrap();
    for (what, prepare) in [("whole", whole), ("incomplete", incomplete), ("no locks", no_locks)] {
        let world = world();
        prepare(&world);
        fs_err::write(strace_log(&world), "").unwrap();
        let instances = || Snapshot::of(&world.instances_path());
        let before = instances();
        for args in LOOKING {
            let mut command = Command::new(cargo_bin!("nova-imagecache"));
            command.args(args.split(' ')).args(["-p", "instances"]);
            if !args.starts_with("scan") {
                command.args(["--host", HOST, "--inventory", "inventory.json"]);
            }
            let is_left_out = args.starts_with("scan") || args.contains("--ignore-unlisted");
            let run = finish(&mut under_strace(&world, ["-f", "-e", WRITING], &command));
            let run = run.exits(i32::from(what == "incomplete" && !is_left_out));
            before.assert_same(&instances());
            // The table of a prune lists what would go.
            let shown = if args.starts_with("prune") { "total" } else { &cache_file_name("used") };
            assert!(run.stdout.contains(shown) || run.stdout.contains("summary"), "{run:#?}");
            // Those that would remove something among them.
            if args.contains(" -n ") && what != "incomplete" {
                run.told(&cache_file_name("unused"), "would_remove", &[]);
            }
            let log = fs_err::read_to_string(strace_log(&world)).unwrap();
            let reads =
                |line: &&str| line.contains("open") && line.contains("O_RDONLY") && !line.contains("O_CREAT");
            assert!(log.lines().filter(reads).any(|line| line.contains("_base")), "{log}");
            // A call that another thread's interrupts has its arguments on its first line.
            let rest = |line: &&str| line.contains("resumed>") || line.contains("+++");
            let writes: Vec<_> = log.lines().filter(|line| !reads(line) && !rest(line)).collect();
            assert_eq!(writes, [""; 0], "{args}");
        }
    }
}

#[test]
fn a_snapshot_sees_what_it_is_to_see() {
    let world = world();
    let file = world.base("odd");
    let changes: [&dyn Fn(); 5] = [
        &|| crate::common::set_age(&file, DAY),
        &|| fs_err::write(&file, "x").unwrap(),
        &|| world.set_mode("_base/odd", 0o600),
        &|| fs_err::write(world.path("locks/nova-odd"), "").unwrap(),
        &|| fs_err::remove_file(&file).unwrap(),
    ];
    for change in changes {
        let before = Snapshot::of(world.outside());
        change();
        assert_ne!(before, Snapshot::of(world.outside()));
    }
}
