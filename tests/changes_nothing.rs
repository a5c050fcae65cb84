//! The subcommands that only look change nothing: names, contents, mtimes, modes, locks.

use std::os::unix::fs::symlink;

use crate::common::{DAY, HOST, HOUR, MINUTE, Run, Snapshot, World};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

const LOOKING: [&[&str]; 9] = [
    &["scan"],
    &["scan", "-f", "json"],
    &["explain"],
    &["explain", "-f", "json"],
    &["explain", "used"],
    &["explain", "--as-of", "+365d", "--partials", "--ignore-unlisted"],
    &["prune", "--dry-run"],
    &["prune", "-n", "-f", "json", "--partials", "--original-min-age", "0", "--resized-min-age", "0"],
    &["prune", "--dry-run", "--as-of", "+365d", "--lock-wait", "1s"],
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

fn look(world: &World, args: &[&str]) -> Run {
    let mut command = world.command();
    command.args(args).arg("-p").arg(world.instances_path());
    if args[0] != "scan" {
        command.args(["--host", HOST, "--inventory", "inventory.json"]);
    }
    Run::of(&mut command)
}

#[test]
fn scan_explain_and_a_dry_run_change_nothing() {
    type Prepare = fn(&World);
    let whole: Prepare = |_| {};
    let incomplete: Prepare = |it| symlink("/nowhere", it.path("orphan/disk.local")).unwrap();
    let no_locks: Prepare = |it| fs_err::remove_dir_all(it.path("locks")).unwrap();
    for (what, prepare) in [("whole", whole), ("incomplete", incomplete), ("no locks", no_locks)] {
        let world = world();
        prepare(&world);
        let before = world.snapshot();
        for args in LOOKING {
            let is_left_out = args[0] == "scan" || args.contains(&"--ignore-unlisted");
            let run = look(&world, args).exits(i32::from(what == "incomplete" && !is_left_out));
            // The table of a prune lists what would go.
            let shown = if args[0] == "prune" { "total" } else { &cache_file_name("used") };
            assert!(run.stdout.contains(shown) || run.stdout.contains("summary"), "{run:#?}");
            before.assert_same(&world.snapshot());
            // Those that would remove something among them.
            if args.contains(&"-n") && what != "incomplete" {
                assert_eq!(run.outcome(&cache_file_name("unused")), "would_remove");
            }
        }
    }
}

#[test]
fn they_write_nothing_that_strace_sees() {
    // A snapshot cannot see what was made and removed again, or an mtime that was set to what it is.
    const WRITING: &str = "trace=rename,renameat,renameat2,unlink,unlinkat,mkdir,mkdirat,rmdir,link,linkat,symlink,\
                           symlinkat,chmod,fchmod,fchmodat,chown,fchown,lchown,fchownat,utimensat,utimes,utime,futimesat,\
                           truncate,ftruncate,creat,mknod,mknodat,setxattr,fsetxattr,fallocate,open,openat";
    let world = world();
    for args in LOOKING {
        let log = world.outside().join("strace.log");
        let mut command = std::process::Command::new(crate::common::tool("strace", "strace"));
        command.env_clear().current_dir(world.outside());
        command.args(["-f", "-qq", "-o"]).arg(&log).args(["-e", WRITING]);
        command.arg(assert_cmd::cargo::cargo_bin!("nova-imagecache")).args(args);
        command.arg("-p").arg(world.instances_path());
        if args[0] != "scan" {
            command.args(["--host", HOST, "--inventory", "inventory.json"]);
        }
        let output = command.output().unwrap();
        assert!(output.status.success(), "{output:?}");
        let log = fs_err::read_to_string(log).unwrap();
        let reads =
            |line: &&str| line.contains("open") && line.contains("O_RDONLY") && !line.contains("O_CREAT");
        assert!(log.lines().filter(reads).any(|line| line.contains("_base")), "{log}");
        // A call that another thread's interrupts has its arguments on its first line.
        let rest = |line: &&str| line.contains("resumed>") || line.contains("+++");
        let writes: Vec<_> = log.lines().filter(|line| !reads(line) && !rest(line)).collect();
        assert_eq!(writes, [""; 0], "{args:?}");
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
