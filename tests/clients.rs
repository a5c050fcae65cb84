//! What the real OpenStack clients print, as `clients/capture` wrote it down, is read without a word on stderr.
//!
//! The cloud that they asked is `clients/api.py`: thirteen servers, of which nine are on this host and one on none yet.

use std::path::PathBuf;

use crate::common::{DAY, HOST, Run, World, list, overlay, repository};
use serde_json::{Value, json};

/// The clients whose lists are there. From 6.1 (February 2023) on they print the hypervisor's full name as `Host`.
const CLIENTS: [&str; 4] = ["5.8.0", "6.6.0", "7.4.0", "10.5.0"];

const UBUNTU: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c101";
const DEBIAN: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c102";
const DEACTIVATED: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c103";
const DELETED: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c104";
const OF_ANOTHER_HOST: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c105";
const OF_NO_INSTANCE: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c106";
const QUEUED: &str = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c107";

const SWAP: &str = "swap_512";
const EPHEMERAL: &str = "ephemeral_10_40d1d2c";

/// The servers on this host that were started from an image: number and image.
const ON_THIS_HOST: [(u32, &str); 9] = [
    (1, UBUNTU),
    (2, UBUNTU),
    (3, DEBIAN),
    (4, UBUNTU),
    (7, DEBIAN),
    (8, DEBIAN),
    (9, ""),
    (11, DEACTIVATED),
    (12, DELETED),
];

/// Those, and the one that no host was found for yet.
const COUNTED: usize = ON_THIS_HOST.len() + 1;

fn captured(name: &str) -> PathBuf {
    repository("tests/clients").join(name)
}

fn uuid(number: u32) -> String {
    format!("8d2c0f6a-5b1e-4c7d-8f3a-{number:012x}")
}

/// The host of the captured servers, with every image in its cache. The disks are full copies that name no cache
/// file: what is kept is kept by what the clients print.
fn host() -> World {
    let world = World::new();
    for image in [UBUNTU, DEBIAN, DEACTIVATED, DELETED, OF_ANOTHER_HOST, OF_NO_INSTANCE, QUEUED] {
        world.original(image, 30 * DAY);
    }
    for name in [SWAP, EPHEMERAL] {
        world.cache_file(name, 30 * DAY);
    }
    for (number, _) in ON_THIS_HOST.iter().filter(|(_, image)| !image.is_empty()) {
        crate::common::plain_qcow2(&world.path(uuid(*number)).join("disk"));
    }
    world
}

fn options(option: &str, files: &[&str]) -> Vec<String> {
    files.iter().flat_map(|it| [option.to_owned(), captured(it).to_str().unwrap().to_owned()]).collect()
}

/// Checks that all servers of this host count, and that exactly their images are in use.
#[track_caller]
fn all_count(run: Run, what: &str) -> Run {
    let run = run.exits(0);
    assert_eq!(run.stderr, "", "{what}");
    let inventory = &run.json()["inventory"];
    assert_eq!((&inventory["instances"], &inventory["counted"]), (&json!(13), &json!(COUNTED)), "{what}");
    for (number, image) in ON_THIS_HOST.iter().filter(|(_, image)| !image.is_empty()) {
        let users = run.reason(&file(image), "image_in_use")["instances"].to_string();
        let name = format!("instance-{number:08x}");
        assert!(users.contains(&uuid(*number)) || users.contains(&name), "{what}: {users}");
    }
    for image in [OF_ANOTHER_HOST, OF_NO_INSTANCE, QUEUED] {
        assert_eq!(run.verdict(&file(image)), "removable", "{what}");
    }
    run
}

fn file(image: &str) -> String {
    nova_imagecache::cache_name::cache_file_name(image)
}

#[test]
fn the_lists_of_every_client_are_read_alone_and_together() {
    let world = host();
    for version in CLIENTS {
        let [servers, images] = ["servers", "images"].map(|it| format!("{it}-{version}.json"));
        let rows: Value = serde_json::from_slice(&fs_err::read(captured(&servers)).unwrap()).unwrap();
        let row = list(&rows).iter().find(|it| it["Name"] == "web-1").unwrap();
        let host = if version == "5.8.0" { HOST } else { "compute-1.example.test" };
        assert_eq!(row["Host"], host, "{version}");

        // Without a list of images the servers tell names too, and nothing is known to be lost.
        let (servers, images) = (options("--inventory", &[&servers]), options("--images", &[&images]));
        let run = all_count(world.explain(&servers), version);
        let used = json!({"id": UBUNTU, "name": "ubuntu-24.04", "status": null});
        assert_eq!(run.file(&file(UBUNTU))["image"], used, "{version}");
        assert_eq!(run.file(&file(DELETED))["downloadable"], Value::Null, "{version}");
        // Only the servers tell the id of an image that was deleted.
        let run = all_count(world.explain([servers, images].concat()), version);
        let deleted = run.file(&file(DELETED));
        assert_eq!(deleted["image"], json!({"id": DELETED, "name": null, "status": null}), "{version}");
        assert_eq!(deleted["downloadable"], false, "{version}");
        assert_eq!(run.json()["summary"]["not_downloadable"]["files"], 3, "{version}");
    }
}

#[test]
fn a_real_prune_by_a_client_s_list_removes_what_no_server_of_this_host_uses() {
    for version in CLIENTS {
        let world = host();
        overlay(&world.path(uuid(1)).join("disk.swap"), world.base(SWAP));
        overlay(&world.path(uuid(1)).join("disk.eph0"), world.base(EPHEMERAL));
        let args = options("--inventory", &[&format!("servers-{version}.json")]);
        for run in [world.dry_run(&args), world.prune(&args)] {
            assert_eq!(run.exits(0).stderr, "", "{version}");
        }
        let mut left = [UBUNTU, DEBIAN, DEACTIVATED, DELETED].map(file).to_vec();
        left.extend([SWAP, EPHEMERAL].map(String::from));
        left.sort();
        assert_eq!(world.cache_names(), left, "{version}");
    }
}

#[test]
fn a_dump_of_the_sdk_and_the_pages_of_the_api_are_read_with_swap_and_ephemeral() {
    let world = host();
    for files in [&["sdk.json"][..], &["servers-page-1.json", "servers-page-2.json", "servers-page-3.json"]] {
        let run = all_count(world.explain(options("--inventory", files)), files[0]);
        assert_eq!(run.codes(SWAP), ["swap_in_use"], "{files:?}");
        assert_eq!(run.codes(EPHEMERAL), ["ephemeral_in_use"], "{files:?}");
    }
}

#[test]
fn a_page_of_the_api_that_is_not_the_last_is_incomplete() {
    let world = host();
    for files in [&["servers-page-1.json"][..], &["servers-page-1.json", "servers-page-2.json"]] {
        let run = world.explain(options("--inventory", files)).exits(1);
        assert_eq!(run.json()["complete"], false, "{files:?}");
        assert_eq!(run.with_verdict("removable"), [""; 0], "{files:?}");
    }
}

#[test]
fn what_a_client_prints_for_people_is_refused() {
    let world = host();
    for name in ["servers.csv", "servers.table"] {
        world.explain(options("--inventory", &[name])).refused(&[name, "-f json"]);
        world.prune(options("--inventory", &[name])).refused(&[name, "-f json"]);
    }
    for name in ["images.csv", "images.table"] {
        world.run("scan", options("--images", &[name])).refused(&[name, "-f json"]);
    }
}

#[test]
fn the_image_list_of_every_client_names_the_files_and_what_is_lost_with_them() {
    let world = host();
    let mut lists = CLIENTS.map(|version| vec![format!("images-{version}.json")]).to_vec();
    lists.push(vec!["images-short.json".into()]);
    lists.push((1..4).map(|page| format!("images-page-{page}.json")).collect());
    for files in lists {
        let args = options("--images", &files.iter().map(String::as_str).collect::<Vec<_>>());
        let run = world.run("scan", [&["-f".to_owned(), "json".to_owned()], &args[..]].concat()).exits(0);
        assert_eq!(run.stderr, "", "{args:?}");
        let image = |id: &str, name: Value, status: &str| json!({"id": id, "name": name, "status": status});
        for (id, expected, downloadable) in [
            (UBUNTU, image(UBUNTU, json!("ubuntu-24.04"), "active"), true),
            (DEACTIVATED, image(DEACTIVATED, json!("cirros-0.6.2"), "deactivated"), false),
            (OF_NO_INSTANCE, image(OF_NO_INSTANCE, Value::Null, "active"), true),
            (QUEUED, image(QUEUED, json!("fedora-41"), "queued"), false),
            // The list is whole and does not have it.
            (DELETED, Value::Null, false),
        ] {
            let file = run.file(&file(id));
            let said = (&file["image"], &file["downloadable"]);
            assert_eq!(said, (&expected, &json!(downloadable)), "{id} {args:?}");
        }
        for name in [SWAP, EPHEMERAL] {
            let file = run.file(name);
            assert_eq!([&file["image"], &file["downloadable"]], [&Value::Null; 2], "{args:?}");
        }
    }
}
