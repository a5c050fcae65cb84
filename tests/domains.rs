//! Domain XML as nova and libvirt write it, in `domains/`: an instance of Train whose disks are files, one of 2023.1 that
//! was booted from a volume, and the status that libvirt keeps of a running one of 2025.1.

use std::path::{Path, PathBuf};

use crate::common::{DAY, Run, World, list, overlay, raw, text};
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

    /// Checks that a missing file stops the clean-up and is named.
    #[track_caller]
    fn stopped_by(&self, path: &Path) {
        let run = self.explain().exits(1);
        assert_eq!(run.json()["complete"], false);
        assert_eq!(run.verdict(&self.unused), "unknown");
        let path = path.to_str().unwrap();
        let json = run.json();
        let found = list(&json["unreadable"]).iter().find(|it| it["path"] == path);
        assert_eq!(found.unwrap_or_else(|| panic!("{path} is not named: {run:#?}"))["blocks"], true);
        assert!(run.stderr.contains(path), "{}", run.stderr);
    }

    /// Checks that nothing stops the clean-up.
    #[track_caller]
    fn goes_on(&self) -> Run {
        let run = self.explain().exits(0);
        assert_eq!(run.json()["complete"], true);
        assert_eq!(run.verdict(&self.unused), "removable");
        run
    }
}

#[test]
fn domains_of_three_releases_are_read_without_a_word() {
    let host = Host::new();
    let run = host.goes_on();
    assert_eq!(run.stderr, "");
    let inventory = &run.json()["inventory"];
    assert_eq!((&inventory["instances"], &inventory["counted"]), (&json!(3), &json!(3)));
    for (uuid, image) in [(TRAIN_UUID, TRAIN_IMAGE), (RUNNING_UUID, RUNNING_IMAGE)] {
        let file = cache_file_name(image);
        let codes = run.codes(&file);
        for code in ["image_in_use", "backing_file"] {
            assert!(codes.iter().any(|it| it == code), "{image}: {codes:?}");
        }
        assert_eq!(text(&run.reason(&file, "image_in_use")["images"][0]), image);
        assert!(run.reason(&file, "backing_file")["disks"].to_string().contains(uuid));
    }
    assert!(run.codes(SWAP).contains(&"swap_in_use".into()));
    assert!(run.codes(EPHEMERAL).contains(&"ephemeral_in_use".into()));
    assert_eq!(run.json()["missing"], json!([]));
    assert_eq!(run.json()["unlisted_directories"], json!([]));
}

#[test]
fn the_disks_of_a_running_domain_are_read_wherever_they_are() {
    let host = Host::new();
    let disks = host.goes_on().reason(&host.by_hand, "backing_file")["disks"].clone();
    assert!(disks.to_string().contains(host.disk_by_hand().to_str().unwrap()), "{disks}");
}

#[test]
fn a_domain_that_both_folders_have_is_one_instance() {
    let host = Host::new();
    let (start, end) = (RUNNING.find("<domain type").unwrap(), RUNNING.find("</domain>").unwrap());
    host.domain("etc", "instance-00000023.xml", &format!("{}</domain>\n", &RUNNING[start..end]));
    let run = host.goes_on();
    assert_eq!((run.json()["inventory"]["instances"].clone(), run.stderr.as_str()), (json!(3), ""));
}

#[test]
fn a_missing_disk_that_is_no_volume_stops_the_clean_up() {
    let host = Host::new();
    fs_err::remove_file(host.disk_by_hand()).unwrap();
    host.stopped_by(&host.disk_by_hand());
    // Nor does it help that its directory is gone as well: so does an unmounted filesystem look.
    fs_err::remove_dir(host.disk_by_hand().parent().unwrap()).unwrap();
    host.stopped_by(&host.disk_by_hand());
}

#[test]
fn a_volume_without_its_serial_is_a_disk_like_others() {
    let host = Host::new();
    let serial = "<serial>9be1f3a6-58cb-4b04-9d3e-6f0000000122</serial>";
    assert!(VOLUME.contains(serial));
    host.domain("etc", "instance-00000022.xml", &VOLUME.replace(serial, ""));
    let mount = host.world.outside().join("mnt/7c51b5f0a1f14d1b9b9b6f0f6a000022");
    host.stopped_by(&mount.join("volume-9be1f3a6-58cb-4b04-9d3e-6f0000000122"));
}

#[test]
fn a_disk_that_was_deleted_from_a_directory_that_is_listed_does_not_stop_it() {
    let host = Host::new();
    fs_err::remove_file(host.world.path(TRAIN_UUID).join("disk.config")).unwrap();
    host.goes_on();
}

#[test]
fn disks_that_a_resize_has_renamed_do_not_stop_it() {
    let host = Host::new();
    fs_err::rename(host.world.path(TRAIN_UUID), host.world.path(format!("{TRAIN_UUID}_resize"))).unwrap();
    let run = host.goes_on();
    assert!(run.codes(&cache_file_name(TRAIN_IMAGE)).contains(&"backing_file".into()));
}

#[test]
fn an_instance_directory_that_is_gone_stops_it() {
    let host = Host::new();
    fs_err::remove_dir_all(host.world.path(TRAIN_UUID)).unwrap();
    host.stopped_by(&host.world.path(TRAIN_UUID).join("disk"));
}

#[test]
fn an_instance_of_a_volume_misses_no_image() {
    // 2025.1 writes a root of type volume; 2025.2 also the image that the volume was rebuilt from.
    let host = Host::new();
    for root in [
        r#"<nova:root type="volume" uuid=""/>"#.to_owned(),
        format!(r#"<nova:root type="volume" uuid="{0}"/><nova:image uuid="{0}"/>"#, "of-the-volume"),
    ] {
        let xml = VOLUME.replace("<nova:ports>", &format!("{root}<nova:ports>"));
        host.domain("etc", "instance-00000022.xml", &xml);
        let run = host.goes_on();
        assert_eq!((run.json()["missing"].clone(), run.stderr.as_str()), (json!([]), ""), "{root}");
    }
}
