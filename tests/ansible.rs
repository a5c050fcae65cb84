//! The playbooks of `packaging/ansible`, run by the real ansible-core on hosts that are all this machine, each with an
//! instances path of its own but for two that share one.
//!
//! Needs a Python with ansible-core: that of the environment variable `NOVA_IMAGECACHE_PYTHON`, else `python3`.

use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::Command;

use assert_cmd::cargo::cargo_bin;
use serde_json::{Value, json};

use crate::common::prune::finish;
use crate::common::{DAY, HOUR, Run, Snapshot, World, python, repository, text};

/// Hosts in a state each, and the machine that Ansible runs on.
struct Fleet {
    control: World,
    /// What can be removed (an unused image), is too young, and cannot be downloaded again.
    a: World,
    /// Of host-b and host-c.
    shared: World,
    /// A corrupt disk.
    e: World,
    /// A missing image, and a directory of no instance.
    f: World,
}

const UNUSED: &str = "image-unused";

fn uuid(n: u32) -> String {
    format!("00000000-0000-4000-8000-{n:012}")
}

impl Fleet {
    fn new() -> Self {
        let [a, shared, e, f] =
            [&["host-a"][..], &["host-b", "host-c"], &["host-e"], &["host-f"]].map(|hosts| {
                let world = World::new();
                world.compute_nodes(hosts);
                world
            });
        let mut instances = Vec::new();
        for (world, directory, host) in
            [(&a, 1, "host-a"), (&shared, 2, "host-b"), (&shared, 3, "host-c"), (&e, 5, "host-e")]
        {
            let used = world.original("image-used", 2 * DAY);
            world.original(UNUSED, 2 * DAY);
            world.instance_disk(&uuid(directory), &used);
            instances.push(json!({"uuid": uuid(directory), "host": host, "image_ref": "image-used"}));
        }
        a.original("image-young", HOUR);
        fs_err::write(e.path(uuid(5)).join("disk.eph0"), b"QFI\xfb\0\0\0\x03").unwrap();
        let kept = f.original("image-of-no-instance", 2 * DAY);
        f.instance_disk(&format!("{}_del", uuid(6)), &kept);
        f.instance_disk(&uuid(7), &kept);
        instances.push(json!({"uuid": uuid(7), "host": "host-f", "image_ref": "image-to-fetch"}));

        let fleet = Self { control: World::bare(), a, shared, e, f };
        fleet.control.file("servers", json!(instances).to_string());
        let images = ["image-used", UNUSED, "image-of-no-instance"];
        let images = images.map(|id| json!({"ID": id, "Name": id, "Status": "active"}));
        fleet.control.file("images", json!(images).to_string());
        // The API, which keeps count, and an ssh that reaches no host.
        fleet.script("api", "echo asked >> \"$0.log\"; cat \"${0%/*}/$1\"");
        fleet.script("ssh", "echo 'no route' >&2; exit 255");
        fleet.write_hosts();
        fleet
    }

    fn script(&self, name: &str, body: &str) {
        let path = self.control.file(name, format!("#!/bin/sh\n{body}\n"));
        fs_err::set_permissions(path, PermissionsExt::from_mode(0o755)).unwrap();
    }

    /// Ansible's inventory.
    fn write_hosts(&self) {
        let host = |path: PathBuf| json!({"instances_path": path});
        let outside = self.control.outside();
        let hosts = json!({"all": {
            "vars": {
                "ansible_python_interpreter": python(),
                "nova_imagecache_results": self.results(),
                "nova_imagecache_servers_command": format!("{} servers", outside.join("api").display()),
                "nova_imagecache_images_command": format!("{} images", outside.join("api").display()),
            },
            "children": {"compute": {
                "vars": {
                    "ansible_connection": "local",
                    "ansible_become": false,
                    "nova_imagecache_command": [cargo_bin!("nova-imagecache")],
                    "nova_imagecache_options": ["-p", "{{ instances_path }}", "--host", "{{ inventory_hostname }}"],
                },
                "hosts": {
                    "host-a": host(self.a.instances_path()),
                    "host-b": host(self.shared.instances_path()),
                    "host-c": host(self.shared.instances_path()),
                    "host-d": host(outside.join("nothing is mounted here")),
                    "host-e": host(self.e.instances_path()),
                    "host-f": host(self.f.instances_path()),
                    "host-g": {"ansible_connection": "ssh", "ansible_ssh_executable": outside.join("ssh")},
                },
            }},
        }});
        self.control.file("hosts.json", hosts.to_string());
    }

    fn results(&self) -> PathBuf {
        self.control.outside().join("results")
    }

    /// What a playbook brought back.
    fn result(&self, name: &str) -> Value {
        serde_json::from_slice(&fs_err::read(self.results().join(name)).unwrap()).unwrap()
    }

    fn play(&self, playbook: &str, args: &[&str]) -> Run {
        let home = self.control.outside();
        let mut ansible = Command::new(python());
        ansible.args(["-m", "ansible", "playbook", "-i", "hosts.json"]).args(args);
        ansible.arg(repository("packaging/ansible").join(playbook)).current_dir(home);
        ansible.envs([("LC_ALL", "C.UTF-8"), ("ANSIBLE_PIPELINING", "1"), ("ANSIBLE_FORKS", "7")]);
        let run = finish(ansible.env("HOME", home));
        assert!(
            !run.stderr.contains("No module named ansible"),
            "install ansible-core with pip (see tests/run)"
        );
        run
    }

    fn snapshots(&self) -> Vec<Snapshot> {
        [&self.a, &self.shared, &self.e, &self.f].map(World::snapshot).into()
    }
}

/// How many tasks have changed something on a host, and how many have failed, from the last lines.
#[track_caller]
fn recap(run: &Run, host: &str) -> String {
    let line = run.stdout.lines().rfind(|line| line.starts_with(&format!("{host} ")));
    let line = line.unwrap_or_else(|| panic!("no recap of {host}: {run:#?}"));
    let count = |word: &str| line.split_whitespace().find_map(|it| it.strip_prefix(word)).unwrap();
    format!("{} {}", count("changed="), count("failed="))
}

/// The same of host-a to host-g.
#[track_caller]
fn recaps(run: &Run) -> [String; 7] {
    ["a", "b", "c", "d", "e", "f", "g"].map(|it| recap(run, &format!("host-{it}")))
}

#[test]
fn a_fleet_is_audited_and_then_pruned_by_its_plans_until_a_host_fails() {
    let fleet = Fleet::new();
    fleet.play("install.yml", &["--syntax-check"]).exits(0);
    let before = fleet.snapshots();

    let audit = fleet.play("audit.yml", &[]).exits(2);
    for (before, after) in before.iter().zip(fleet.snapshots()) {
        before.assert_same(&after);
    }
    assert_eq!(recaps(&audit), ["0 0", "0 0", "0 0", "0 1", "0 0", "0 0", "0 1"], "{audit:#?}");
    let asked = fs_err::read_to_string(fleet.control.outside().join("api.log")).unwrap();
    assert_eq!(asked, "asked\nasked\n", "once for the servers, once for the images");

    let table = fs_err::read_to_string(fleet.results().join("audit.txt")).unwrap();
    let rows: Vec<_> =
        table.lines().take(8).map(|it| it.split_whitespace().collect::<Vec<_>>().join(" ")).collect();
    assert_eq!(
        rows,
        [
            "HOSTS STATE REMOVABLE TOO YOUNG NOT DOWNLOADABLE MISSING OF NO INSTANCE UNREADABLE",
            "host-a done 1 (0.0 GiB) 1 (0.0 GiB) 1 (0.0 GiB) 0 - 0",
            "host-b, host-c done 1 (0.0 GiB) - - 0 - 0",
            "host-d refused - - - 0 - 0",
            "host-e incomplete - - - 0 - 1",
            "host-f done - - - 1 1 (0.0 GiB) 0",
            "host-g unreachable - - - 0 - 0",
            "total 2 (0.0 GiB) 1 (0.0 GiB) 1 (0.0 GiB) 1 1 (0.0 GiB)",
        ],
        "{table}"
    );
    assert!(audit.stdout.contains("host-b, host-c"), "the table is shown");
    let notes = |host: &str| table.lines().filter(|it| it.starts_with(&format!("{host}: "))).count();
    assert!(["host-d", "host-e", "host-g"].into_iter().all(|host| notes(host) > 0), "{table}");
    let total = &fleet.result("audit.json")["total"];
    assert_eq!([&total["hosts"], &total["caches"], &total["missing"]], [7, 6, 1]);
    assert_eq!(total["removable"]["files"], 2);
    assert_eq!(fleet.result("plans/host-a.json")["dry_run"], true);
    assert!(!fleet.results().join("plans/host-d.json").exists(), "a host that refuses has no plan");

    let check = fleet.play("prune.yml", &["--check", "--limit", "localhost,host-a"]).exits(0);
    assert_eq!(recap(&check, "host-a"), "1 0");
    before[0].assert_same(&fleet.a.snapshot());

    let prune = fleet.play("prune.yml", &[]).exits(2);
    assert_eq!(recaps(&prune), ["1 0", "1 0", "0 0", "0 0", "0 1", "0 0", "0 0"], "{prune:#?}");
    let report = fleet.result("prune.json");
    assert_eq!(report["total"]["removed"]["files"], 2);
    let states: Vec<_> =
        ["a", "b", "c", "d", "e", "f"].map(|it| text(&report["hosts"][format!("host-{it}")]["state"])).into();
    assert_eq!(states, ["done", "done", "done", "left_out", "incomplete", "left_out"]);
    let unused = nova_imagecache::cache_name::cache_file_name(UNUSED);
    for world in [&fleet.a, &fleet.shared] {
        assert!(!world.base(&unused).exists());
    }
    assert!(fleet.e.base(&unused).exists());
    before[3].assert_same(&fleet.f.snapshot());
}
