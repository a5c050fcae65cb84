//! A compute host as operators have them: a dozen images, forty instances, orphans and a broken instance.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

use crate::common::{DAY, HOST, HOUR, MINUTE, Run, World, overlay, set_age, tool, with_own_mounts};

/// Name, KiB in the cache, age, status in the list of images (`None`: glance has it no more), instances.
type Image = (&'static str, usize, Duration, Option<&'static str>, usize);

const IMAGES: [Image; 12] = [
    ("ubuntu-24.04", 2600, HOUR, Some("active"), 12),
    ("ubuntu-22.04", 2300, HOUR, Some("active"), 9),
    ("debian-12", 1400, HOUR, Some("active"), 8),
    ("rocky-9", 1900, HOUR, Some("active"), 5),
    ("Windows Server 2022 Datacenter (2026-03)", 9200, HOUR, Some("active"), 3),
    ("golden-2023", 3100, HOUR, None, 2),
    ("cirros-0.6.2", 20, HOUR, Some("active"), 1),
    ("centos-7", 1250, Duration::from_secs(400 * 24 * 3600), None, 0),
    ("ubuntu-20.04", 2100, Duration::from_secs(41 * 24 * 3600), Some("deactivated"), 0),
    ("fedora-39", 1100, Duration::from_secs(9 * 24 * 3600), Some("active"), 0),
    ("alma-9", 1700, MINUTE, Some("active"), 0),
    ("orphans-image", 800, Duration::from_secs(90 * 24 * 3600), Some("active"), 0),
];

/// The instance whose backing file is gone.
pub const BROKEN: &str = "00000039-4c61-4b4e-8a35-0a8d3a6f1b02";
/// Its backing file.
pub const GONE: &str = "da39a3ee5e6b4b0d3255bfef95601890afd80709";

/// Judged by `--host`, `--inventory inventory.json` and `--images images.json`.
pub const JUDGED: [&str; 6] = ["--host", HOST, "--inventory", "inventory.json", "--images", "images.json"];

pub struct Host {
    pub world: World,
}

/// The id of an image, by its name.
pub fn id(image: &str) -> String {
    let number = IMAGES.iter().position(|it| it.0 == image).unwrap();
    format!("fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8e{number:02x}")
}

/// The original of an image, by its name.
pub fn original(image: &str) -> String {
    cache_file_name(&id(image))
}

impl Host {
    pub fn new() -> Self {
        let world = World::new();
        let mut rows = Vec::new();
        let mut images = Vec::new();
        for (name, kibibytes, age, status, instances) in IMAGES {
            let file = world.base(original(name));
            fs_err::write(&file, vec![1; kibibytes << 10]).unwrap();
            set_age(&file, age);
            if let Some(status) = status {
                images.push(json!({"ID": id(name), "Name": name, "Status": status}));
            }
            for _ in 0..instances {
                let uuid = format!("{:08}-4c61-4b4e-8a35-0a8d3a6f1b02", rows.len());
                match rows.len() {
                    39 => overlay(&world.path(BROKEN).join("disk"), world.base(GONE)),
                    _ => disk(&world, &uuid, &file),
                }
                let (swap_mb, ephemeral_gb) = (rows.len() % 2 * 512, rows.len() / 30 * 20);
                rows.push(json!({"uuid": uuid, "host": HOST, "image_ref": id(name), "vm_state": "active",
                                 "swap_mb": swap_mb, "ephemeral_gb": ephemeral_gb}));
            }
        }
        rows[39]["uuid"] = json!(BROKEN);
        rows.push(json!({"uuid": "elsewhere", "host": "compute-9", "image_ref": id("fedora-39")}));
        world.inventory(&json!(rows));
        world.file("images.json", json!(images).to_string());
        world.resized(&id("centos-7"), 21_474_836_480, 400 * DAY);
        for (file, age) in [("swap_512", HOUR), ("swap_2048", 60 * DAY), ("ephemeral_20_8c4ce2a", HOUR)] {
            world.cache_file(file, age);
        }
        for end in [".info", ".part"] {
            world.cache_file(&format!("{}{end}", original("centos-7")), 400 * DAY);
        }
        world.cache_file("README", 30 * DAY);
        for directory in ["9b1c5c9e-77b4-4a3e-a2a0-6f2c5d9a0c11_del", "5e0f6b1d-2a6c-4d7b-9d5e-1b7c8a9f0e22"]
        {
            disk(&world, directory, &world.base(original("orphans-image")));
        }
        Self { world }
    }

    /// Runs the command in the directory of the inventory and the list of images, in a pipe, without these two.
    pub fn run(&self, args: &[&str]) -> Run {
        Run::of(self.world.command().args(["-p", "instances"]).args(args))
    }

    /// The same with the instances path on a filesystem of its own, of 64 MiB and 300 inodes: a tmpfs of a mount namespace.
    /// `before` is run there first. Returns what is left in the cache, too.
    pub fn run_on_own_filesystem(&self, before: &str, args: &[&str]) -> (Run, Vec<String>) {
        const SCRIPT: &str = r#"cp -a . ../saved && mount -t tmpfs -o size=64m,nr_inodes=300 none . && cd "$PWD" &&
            cp -a ../saved/. . && rm -r ../saved && eval "$0" &&
            { cd ..; "$@"; code=$?; ls instances/_base > left; exit $code; }"#;
        let output = with_own_mounts()
            .args(["sh", "-c", SCRIPT, before])
            .arg(assert_cmd::cargo::cargo_bin!("nova-imagecache"))
            .args(["-p", "instances"])
            .args(args)
            .current_dir(self.world.instances_path())
            .output();
        let run = Run::from(output.unwrap());
        let left = fs_err::read_to_string(self.world.outside().join("left"))
            .unwrap_or_else(|_| panic!("the tests need leave to mount a tmpfs: {run:#?}"));
        (run, left.lines().map(str::to_owned).collect())
    }

    /// The same with both, and JSON.
    pub fn judged(&self, args: &[&str]) -> Run {
        self.run(&[args, &JUDGED, &["-f", "json"]].concat())
    }

    /// What a terminal of that many columns is sent.
    pub fn on_terminal(&self, columns: usize, environment: &[(&str, &str)], args: &[&str]) -> Run {
        let program = assert_cmd::cargo::cargo_bin!("nova-imagecache");
        let quoted: Vec<String> = args.iter().map(|it| format!("'{it}'")).collect();
        let line =
            format!("stty cols {columns} rows 24 && {} -p instances {}", program.display(), quoted.join(" "));
        let output = Command::new(tool("script", "bsdutils"))
            .args(["-q", "-e", "-c", &line, "/dev/null"])
            .env_clear()
            .env("PATH", std::env::var_os("PATH").unwrap())
            .env("TERM", "xterm-256color")
            .envs(environment.iter().copied())
            .current_dir(self.world.outside())
            .stdin(std::process::Stdio::null())
            .output();
        Run::from(output.unwrap())
    }

    /// A disk that is no image any more. Returns its path.
    pub fn corrupt_disk(&self) -> PathBuf {
        let disk = self.world.path(BROKEN).join("disk");
        fs_err::write(&disk, b"QFI\xfb\0\0\0\x03cut").unwrap();
        disk
    }
}

/// An overlay that qemu-img made, copied where it has made one on that file before.
fn disk(world: &World, directory: &str, backing: &std::path::Path) {
    let template = world.outside().join("templates").join(backing.file_name().unwrap());
    if !template.exists() {
        overlay(&template, backing);
    }
    fs_err::create_dir(world.path(directory)).unwrap();
    fs_err::copy(template, world.path(directory).join("disk")).unwrap();
}
