//! Bad input ends with exit 2, nothing on stdout and one line on stderr that names the file, the row, the field and what
//! can be done; nothing is changed. Every message of a parser is tested beside it; here is one of each source.

use std::path::Path;

use crate::common::prune::finish;
use crate::common::{DAY, Run, Snapshot, World};
use assert_cmd::cargo::cargo_bin;
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

#[test]
fn bad_input_is_refused_with_its_place_and_what_to_do() {
    let world = World::new();
    world.original("a", DAY);
    world.inventory(&json!([]));
    let servers = json!([{"ID": "a", "Image ID": "b", "Status": "ACTIVE", "Networks": {}}]);
    world.file("servers.json", servers.to_string());
    world.file("images.json", r#"[{"ID": "a", "Name": "x", "Status": "active"}]"#);
    world.file("network.xml", "<network/>");
    let before = Snapshot::of(&world.instances_path());
    // What is in the file x and on standard input, the arguments, and words of the message.
    for (content, args, words) in [
        ("", "explain --inventory x", "--inventory x|is empty"),
        ("ID,Name\n1,x\n", "explain --inventory x", "is CSV|-f json"),
        ("[{\"uuid\": \"a\"", "prune --inventory x", "the file is truncated"),
        (r#"[{"uuid": "u"}, {"uuid": "v", "swap_mb": "x"}]"#, "prune --inventory x", "row 2|\"swap_mb\""),
        (r#"[{"uuid": "v", "hosts": "x"}]"#, "explain --inventory inventory.json --inventory x", "x: |hosts"),
        (r#"[{"uuid": 5}]"#, "explain --inventory -", "--inventory standard input|row 1|uuid"),
        (r#"[{"ID": "a", "Image": "cirros"}]"#, "explain --inventory x", "--long"),
        (
            r#"{"servers": [{"id": "a", "name": "x", "links": []}]}"#,
            "prune --inventory x",
            "GET /servers/detail",
        ),
        ("", "explain --inventory network.xml", "--inventory network.xml|is XML|--libvirt"),
        ("", "explain --inventory images.json", "is a list of images: give it to --images"),
        ("", "explain --inventory gone", "--inventory|gone|No such file"),
        ("", "explain --inventory instances", "--inventory|instances|directory"),
        ("", "explain --libvirt gone", "--libvirt gone|No such file|/etc/libvirt/qemu"),
        ("", "explain --libvirt images.json", "--libvirt images.json|is JSON: give it to --inventory"),
        ("", "explain --libvirt network.xml", "--libvirt network.xml|is no domain XML|virsh dumpxml"),
        ("", "scan --images gone", "--images|gone|No such file|name a file"),
        ("", "scan --images servers.json", "is a list of servers: give it to --inventory"),
        ("", "scan --images network.xml", "--images network.xml|is XML"),
        ("", "scan --images instances", "--images|instances|directory"),
        ("", "scan --config-file gone", "--config-file|gone|No such file|name a file"),
        ("", "prune --disks-only --plan gone", "cannot read the plan|gone|prune --dry-run --format json"),
        ("", "scan --subdirectory-name a/b", "subdirectory|a/b"),
        ("", "explain --subdirectory-name /_base", "subdirectory|/_base"),
        ("", "scan --subdirectory-name ..", "subdirectory|.."),
        ("", "scan --subdirectory-name .", "subdirectory|."),
        ("", "scan --subdirectory-name _base/", "subdirectory|_base/"),
        ("", "scan --subdirectory-name ../_base", "subdirectory|../_base"),
        ("", "scan --subdirectory-name locks", "subdirectory|locks"),
        ("", "fname ", "argument 1"),
        ("", "fname a b ", "argument 3"),
        ("x\n\ny\n", "fname a -", "standard input|line 2"),
        ("\n", "fname -", "standard input|line 1"),
        ("x\n  \n", "fname -", "standard input|line 2"),
        ("x\n", "fname - -", "standard input (-) can be read only once"),
        ("", "explain ", "an empty name: give the name of a file"),
    ] {
        world.file("x", content);
        let run =
            Run::of(world.command().args(args.split(' ')).args(["-p", "instances"]).write_stdin(content));
        assert!(run.code == 2 && words.split('|').all(|it| run.stderr.contains(it)), "{args}: {run:#?}");
        run.refused(&[]);
    }
    let not_utf8 = Run::of(world.command().args(["fname", "-"]).write_stdin(b"a\n\xff\n".as_slice()));
    not_utf8.refused(&["standard input: line 2: not UTF-8", "save the list as UTF-8"]);
    before.assert_same(&Snapshot::of(&world.instances_path()));
}

#[test]
fn an_instances_path_that_is_missing_or_a_file_is_refused() {
    let world = World::new();
    world.inventory(&json!([]));
    let file = world.file("a-file", "");
    for path in [Path::new("/no/such/directory"), &file, &file.join("below")] {
        for args in [
            &["scan"][..],
            &["explain"],
            &["prune", "--dry-run", "--inventory", "inventory.json"],
            &["prune", "--inventory", "inventory.json"],
            &["prune", "--disks-only"],
        ] {
            Run::of(world.command().args(args).arg("-p").arg(path)).refused(&[path.to_str().unwrap()]);
        }
    }
    let help = [": not found", "is mounted", "--instances-path"];
    Run::of(world.command().args(["scan", "-p", "/no/such/path"])).refused(&help);
    // The default: nova's package makes it.
    if !Path::new("/var/lib/nova/instances").exists() {
        Run::of(world.command().arg("scan")).refused(&help);
    }
}

#[test]
fn a_working_directory_that_is_gone_is_named_as_the_cause() {
    let world = World::new();
    let mut bash = std::process::Command::new("bash");
    bash.args(["-c", "mkdir gone && cd gone && rmdir ../gone && exec \"$0\" scan -p rel"]);
    let bash = bash.env_clear().current_dir(world.outside()).arg(cargo_bin!("nova-imagecache"));
    finish(bash).refused(&["rel: ", "working directory", "give an absolute path"]);
}

#[test]
fn a_subject_that_nothing_knows_is_refused() {
    let world = World::new();
    let name = world.original("a", DAY);
    world.inventory(&json!([{"uuid": "u1", "image_ref": "a"}]));
    let [copy, other, elsewhere] =
        [format!("{name}_sm"), cache_file_name("b"), world.path(&name).display().to_string()];
    for unknown in ["b", &other, "swap_1", &name[..7], &name[1..], &copy, &elsewhere, "u1", "", ".."] {
        world.explain([unknown]).refused(&[unknown]);
    }
    // Also where others are known.
    world.explain(["a", "nowhere"]).refused(&["nowhere"]);
    world.explain(["a"]).exits(0);
    world.cache_file(&format!("{}{}", &name[..12], "f".repeat(28)), DAY);
    world.explain([&name[..8]]).refused(&[&name[..8], "2 images", "more digits"]);
    // Nor does a prune that is refused leave anything behind.
    let before = Snapshot::of(&world.instances_path());
    world.prune(["--allow-empty", "nowhere"]).refused(&["nowhere"]);
    before.assert_same(&Snapshot::of(&world.instances_path()));
}

#[test]
fn bad_usage_exits_2_and_names_the_option() {
    let world = World::new();
    world.original("a", DAY / 2);
    for (args, word) in [
        ("", "Usage"),
        ("fname", "IMAGE_ID"),
        ("remove", "remove"),
        ("scan extra", "extra"),
        ("scan -p ", "--instances-path"),
        ("scan --inventory x", "--inventory"),
        ("scan -p instances -p instances", "--instances-path"),
        ("-p instances scan -p instances", "--instances-path"),
        ("-f json scan -f table", "--format"),
        ("-q scan -v", "--verbose"),
        ("scan --images - --images -", "only once"),
        ("explain --as-of +1001y", "--as-of"),
        ("explain --dry-run", "--dry-run"),
        ("explain --original-min-age 99999999999999999999999", "--original-min-age"),
        ("explain --as-of 2026-11-30T00:00:00+01:00", "--as-of"),
        ("explain --as-of +x", "--as-of"),
        ("prune --until-free lots", "--until-free"),
        ("prune --settle x", "--settle"),
        ("prune -p instances --disks-only --allow-empty --as-of +7d", "--dry-run"),
        ("prune -p instances --disks-only --allow-empty --as-of 2099-01-01T00:00:00Z", "--dry-run"),
    ] {
        // clap's message may have more lines.
        let run = Run::of(world.command().args(args.split(' ').skip_while(|_| args.is_empty())));
        assert_eq!((run.code, run.stdout.as_str()), (2, ""), "{args}: {run:#?}");
        assert!(run.stderr.contains(word), "{args}: {}", run.stderr);
    }
    assert_eq!(world.cache_names().len(), 1);
}
