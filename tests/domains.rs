//! Domain XML as nova and libvirt write it, in `domains/`: an instance of Train whose disks are files, one of 2023.1 that
//! was booted from a volume, and the status that libvirt keeps of a running one of 2025.1.

use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use crate::common::{DAY, Run, World, list, overlay, raw};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::json;

const TRAIN: &str = include_str!("domains/train.xml");
const VOLUME: &str = include_str!("domains/2023.1-volume.xml");
const RUNNING: &str = include_str!("domains/2025.1-running.xml");

const TRAIN_UUID: &str = "4f1d9f1e-7c55-4d2b-9d5e-0a6b0c000021";
const RUNNING_UUID: &str = "4f1d9f1e-7c55-4d2b-9d5e-0a6b0c000023";

const TRAIN_IMAGE: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c101";
const RUNNING_IMAGE: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c102";

const SWAP: &str = "swap_512";
const EPHEMERAL: &str = "ephemeral_10_40d1d2c";

/// The host of the three domains. The volumes are not there, for their share is not mounted.
struct Host {
    world: World,
    /// The cache file of a disk that somebody gave to the running instance by hand, outside the instances path.
    by_hand: String,
    unused: String,
}

impl Host {
    fn new() -> Self {
        let world = World::new();
        let (by_hand, unused) = (world.original("by-hand", 30 * DAY), world.original("unused", 30 * DAY));
        for name in [SWAP, EPHEMERAL] {
            world.cache_file(name, 30 * DAY);
        }
        for (uuid, image) in [(TRAIN_UUID, TRAIN_IMAGE), (RUNNING_UUID, RUNNING_IMAGE)] {
            world.instance_disk(uuid, &world.original(image, 30 * DAY));
        }
        let train = world.path(TRAIN_UUID);
        overlay(&train.join("disk.swap"), world.base(SWAP));
        overlay(&train.join("disk.eph0"), world.base(EPHEMERAL));
        raw(&train.join("disk.config"), "4k");
        let host = Self { world, by_hand, unused };
        overlay(&host.disk_by_hand(), host.world.base(&host.by_hand));
        host.domain("etc", "instance-00000021.xml", TRAIN);
        host.domain("etc", "instance-00000022.xml", VOLUME);
        host.domain("run", "instance-00000023.xml", RUNNING);
        // What else lies in these folders.
        fs_err::create_dir_all(host.folder("etc").join("networks/autostart")).unwrap();
        for (name, content) in [("instance-00000023.pid", "4711"), ("driver.pid", "600"), ("autostarted", "")]
        {
            fs_err::write(host.folder("run").join(name), content).unwrap();
        }
        host
    }

    /// As `/etc/libvirt/qemu` or `/run/libvirt/qemu`.
    fn folder(&self, name: &str) -> PathBuf {
        self.world.outside().join(name)
    }

    fn disk_by_hand(&self) -> PathBuf {
        self.world.outside().join("by-hand/scratch.qcow2")
    }

    /// Writes a domain's file, with the paths of this world.
    fn domain(&self, folder: &str, name: &str, xml: &str) {
        let xml = xml.replace("/var/lib/nova", self.world.outside().to_str().unwrap());
        fs_err::create_dir_all(self.folder(folder)).unwrap();
        fs_err::write(self.folder(folder).join(name), xml).unwrap();
    }

    fn explain(&self) -> Run {
        self.world.explain(["etc", "run"].map(|it| format!("--libvirt={}", self.folder(it).display())))
    }

    /// Checks that a missing file stops the clean-up and is named with what can be done.
    fn stopped_by(&self, what: &str, path: &Path) {
        let run = self.explain();
        assert_eq!((run.code, run.verdict(&self.unused).as_str()), (1, "unknown"), "{what}: {run:#?}");
        let path = path.to_str().unwrap();
        let json = run.json();
        let found = list(&json["unreadable"]).iter().find(|it| it["path"] == path);
        assert_eq!(found.map(|it| &it["blocks"]), Some(&json!(true)), "{what}: {path} of {run:#?}");
        let says = |words: &str| run.stderr.contains(words);
        assert!(says(path) && says("undefine the domain"), "{what}: {}", run.stderr);
    }

    /// Checks that nothing stops the clean-up, nor is said.
    fn goes_on(&self, what: &str) -> Run {
        let run = self.explain();
        assert_eq!((run.code, run.stderr.as_str()), (0, ""), "{what}: {run:#?}");
        assert_eq!(run.verdict(&self.unused), "removable", "{what}");
        run
    }
}

#[test]
fn domains_of_three_releases_are_read_without_a_word() {
    let host = Host::new();
    let run = host.goes_on("as it is");
    let json = run.json();
    assert_eq!((&json["inventory"]["instances"], &json["inventory"]["counted"]), (&json!(3), &json!(3)));
    for (uuid, image) in [(TRAIN_UUID, TRAIN_IMAGE), (RUNNING_UUID, RUNNING_IMAGE)] {
        let file = cache_file_name(image);
        assert_eq!(run.reason(&file, "image_in_use")["images"], json!([image]));
        assert!(run.reason(&file, "backing_file")["disks"].to_string().contains(uuid));
    }
    run.reason(SWAP, "swap_in_use");
    run.reason(EPHEMERAL, "ephemeral_in_use");
    assert_eq!(json["unlisted_directories"], json!([]));
    let disks = run.reason(&host.by_hand, "backing_file")["disks"].take();
    assert!(disks.to_string().contains(host.disk_by_hand().to_str().unwrap()), "{disks}");
}

/// Changes a host, and returns what stops the clean-up then, if anything.
type Change = fn(&Host) -> Option<PathBuf>;

#[test]
fn only_a_missing_disk_that_may_be_somewhere_stops_the_clean_up() {
    let cases: [(&str, Change); 13] = [
        ("a disk elsewhere is gone", |host| {
            fs_err::remove_file(host.disk_by_hand()).unwrap();
            Some(host.disk_by_hand())
        }),
        ("and its directory, as where nothing is mounted", |host| {
            fs_err::remove_dir_all(host.disk_by_hand().parent().unwrap()).unwrap();
            Some(host.disk_by_hand())
        }),
        ("a volume without its serial", |host| {
            let serial = "<serial>9be1f3a6-58cb-4b04-9d3e-6f0000000122</serial>";
            assert!(VOLUME.contains(serial));
            host.domain("etc", "instance-00000022.xml", &VOLUME.replace(serial, ""));
            let mount = host.world.outside().join("mnt/7c51b5f0a1f14d1b9b9b6f0f6a000022");
            Some(mount.join("volume-9be1f3a6-58cb-4b04-9d3e-6f0000000122"))
        }),
        ("a volume of a storage pool, whose path libvirt alone knows", |host| {
            let pool = "<source pool='default' volume='vm.qcow2'/>";
            let xml = format!("<domain><name>by hand</name><devices><disk>{pool}</disk></devices></domain>");
            host.domain("etc", "pool.xml", &xml);
            Some("volume vm.qcow2 of storage pool default".into())
        }),
        ("a disk by a relative path, which is not looked for where this runs", |host| {
            raw(&host.world.outside().join("relative.img"), "4k");
            let source = "<source file='relative.img'/>";
            let xml =
                format!("<domain><name>by hand</name><devices><disk>{source}</disk></devices></domain>");
            host.domain("etc", "relative.xml", &xml);
            Some("relative.img".into())
        }),
        ("an instance's directory is gone", |host| {
            fs_err::remove_dir_all(host.world.path(TRAIN_UUID)).unwrap();
            Some(host.world.path(TRAIN_UUID).join("disk"))
        }),
        ("it is a link to where nothing is mounted", |host| {
            fs_err::remove_dir_all(host.world.path(TRAIN_UUID)).unwrap();
            symlink(host.folder("etc"), host.world.path(TRAIN_UUID)).unwrap();
            Some(host.world.path(TRAIN_UUID).join("disk"))
        }),
        ("a disk is deleted from its directory", |host| {
            fs_err::remove_file(host.world.path(TRAIN_UUID).join("disk.config")).unwrap();
            None
        }),
        ("a resize has renamed the disks", |host| {
            let resized = host.world.path(format!("{TRAIN_UUID}_resize"));
            fs_err::rename(host.world.path(TRAIN_UUID), resized).unwrap();
            None
        }),
        ("both folders have the domain", |host| {
            let (start, end) = (RUNNING.find("<domain type").unwrap(), RUNNING.find("</domain>").unwrap());
            host.domain("etc", "instance-00000023.xml", &format!("{}</domain>", &RUNNING[start..end]));
            None
        }),
        ("the instance's snapshot has a base that is not here", |host| {
            host.domain("etc", "instance-00000021.xml", &TRAIN.replace(TRAIN_IMAGE, "base-of-snapshot"));
            None
        }),
        // As 2025.1 writes it; 2025.2 also the image that the volume was rebuilt from.
        ("a root of type volume", |host| {
            host.domain("etc", "instance-00000022.xml", &volume(r#"<nova:root type="volume" uuid=""/>"#));
            None
        }),
        ("a root of type volume and an image", |host| {
            let root = r#"<nova:root type="volume" uuid="v"/><nova:image uuid="v"/>"#;
            host.domain("etc", "instance-00000022.xml", &volume(root));
            None
        }),
    ];
    for (what, change) in cases {
        let host = Host::new();
        match change(&host) {
            Some(path) => host.stopped_by(what, &path),
            None => {
                let json = host.goes_on(what).json();
                assert_eq!(
                    [&json["inventory"]["instances"], &json["missing"]],
                    [&json!(3), &json!([])],
                    "{what}"
                );
            }
        }
    }
}

fn volume(root: &str) -> String {
    VOLUME.replace("<nova:ports>", &format!("{root}<nova:ports>"))
}
