//! Random trees of an instances path, their disks made by the real qemu-img.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use nova_imagecache::cache_name::cache_file_name;
use proptest::collection::{btree_map, vec};
use proptest::option;
use proptest::prelude::*;
use proptest::sample::select;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};
use serde_json::{Value, json};

use crate::common::{HOST, World, overlay, overlay_with, plain_qcow2, raw, set_age};

const IMAGES: [&str; 4] = ["image-0", "image-1", "image-2", "image-3"];
const HOSTS: [&str; 3] = [HOST, "compute-2", "compute-9"];
const INSTANCES: [&str; 4] =
    ["instance-00000001", "instance-00000002", "instance-00000003", "6a1f3d54-0c3e-4a39-9a53-9f1f4b6f0001"];
const DIRECTORIES: [&str; 9] = [
    "instance-00000001",
    "instance-00000002",
    "instance-00000001_resize",
    "6a1f3d54-0c3e-4a39-9a53-9f1f4b6f0001",
    "6a1f3d54-0c3e-4a39-9a53-9f1f4b6f0001_resize",
    "6a1f3d54-0c3e-4a39-9a53-9f1f4b6f0001_del",
    "orphan",
    "snapshots/snap-1",
    "_base_10.0.0.1",
];
const DISKS: [&str; 4] = ["disk", "disk.local", "disk.swap", "rescue"];

/// A tree of an instances path.
#[derive(Clone, Debug)]
pub struct Tree {
    /// Cache files and their ages in seconds.
    pub cache: BTreeMap<String, u64>,
    /// Disks below the instances path.
    pub disks: BTreeMap<(&'static str, &'static str), Content>,
    /// Rows, one an instance.
    pub inventory: Vec<Value>,
    /// The hosts in `compute_nodes`, where there is one.
    pub nodes: Option<BTreeSet<&'static str>>,
    pub damage: (&'static str, Damage),
}

/// What a disk is.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Content {
    Raw,
    Qcow2,
    /// On a cache file, its name written in one of several ways.
    On(String, Style),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Style {
    Absolute,
    Relative,
    File,
    Json,
    /// By way of an overlay outside the instances path.
    Chain,
    /// In the cache directory of an instances path that is not here.
    Moved,
    /// By way of a link of another name.
    Link,
}

const STYLES: [Style; 7] =
    [Style::Absolute, Style::Relative, Style::File, Style::Json, Style::Chain, Style::Moved, Style::Link];

/// A disk that cannot be read.
#[derive(Clone, Copy, Debug)]
pub enum Damage {
    Truncated,
    Version,
    DanglingDisk,
    DanglingDirectory,
    Format,
}

impl Damage {
    const ALL: [Self; 5] =
        [Self::Truncated, Self::Version, Self::DanglingDisk, Self::DanglingDirectory, Self::Format];
}

fn cache_names() -> Vec<String> {
    let sizes = ["swap_128", "swap_256", "ephemeral_5_abcdefg", "ephemeral_7_1234567"];
    let mut names = sizes.map(String::from).to_vec();
    for name in IMAGES.map(cache_file_name) {
        let ends = ["", "_10737418240", "_5368709120", "_sm", ".info", ".part"];
        names.extend(ends.map(|end| format!("{name}{end}")));
    }
    names
}

/// Names that a disk may have a backing file of.
fn backing_names() -> Vec<String> {
    let is_image = |name: &String| !name.ends_with(".info") && !name.ends_with(".part");
    cache_names().into_iter().filter(is_image).collect()
}

pub fn trees() -> impl Strategy<Value = Tree> {
    let content = prop_oneof![
        1 => Just(Content::Raw),
        1 => Just(Content::Qcow2),
        6 => (select(backing_names()), select(&STYLES[..])).prop_map(|(name, style)| Content::On(name, style)),
    ];
    let disks = btree_map((select(&DIRECTORIES[..]), select(&DISKS[..])), content, 0..14);
    let hosts = proptest::collection::btree_set(select(&HOSTS[..]), 0..3);
    (
        btree_map(select(cache_names()), select(vec![0_u64, 1800, 7200, 80_000, 90_000, 9_000_000]), 4..24),
        disks,
        vec((select(&INSTANCES[..]), rows()), 0..6).prop_map(one_row_an_instance),
        option::weighted(0.8, hosts),
        (select(&DIRECTORIES[..]), select(&Damage::ALL[..])),
    )
        .prop_map(|(cache, disks, inventory, nodes, damage)| Tree {
            cache,
            disks,
            inventory,
            nodes,
            damage,
        })
}

/// Rows without the instance's id.
fn rows() -> impl Strategy<Value = Value> {
    let maybe = |values: &'static [&'static str]| option::of(select(values));
    let size = |values: [u64; 3]| option::of(select(values.to_vec()));
    (
        maybe(&HOSTS),
        maybe(&IMAGES),
        option::weighted(0.2, select(&IMAGES[..])),
        maybe(&["active", "resized", "shelved_offloaded", "error"]),
        maybe(&["resize_migrating", "deleting"]),
        (size([0, 128, 256]), size([0, 5, 7])),
    )
        .prop_map(|(host, image, kernel, vm_state, task_state, (swap_mb, ephemeral_gb))| {
            json!({"host": host, "image_ref": image, "kernel_id": kernel, "vm_state": vm_state,
                   "task_state": task_state, "swap_mb": swap_mb, "ephemeral_gb": ephemeral_gb})
        })
}

fn one_row_an_instance(rows: Vec<(&str, Value)>) -> Vec<Value> {
    let mut by_id: BTreeMap<_, _> = rows.into_iter().collect();
    for (id, row) in &mut by_id {
        row[if id.starts_with("instance") { "name" } else { "uuid" }] = json!(id);
    }
    by_id.into_values().collect()
}

/// One world for all trees, so that the real qemu-img makes each kind of disk once: the trees have links to them.
pub struct Nursery {
    pub world: World,
    pub pool: BTreeMap<Content, PathBuf>,
}

impl Nursery {
    pub fn new() -> Self {
        let world = World::bare();
        let pool = world.outside().join("pool");
        let volumes = world.outside().join("volumes");
        let mut disks = BTreeMap::new();
        for content in [Content::Raw, Content::Qcow2] {
            disks.insert(content.clone(), pool.join(format!("{content:?}")));
        }
        raw(&disks[&Content::Raw], "4k");
        plain_qcow2(&disks[&Content::Qcow2]);
        for name in backing_names() {
            let file = world.base(&name).display().to_string();
            overlay(&volumes.join(&name).with_extension("volume"), &file);
            for style in STYLES {
                let disk = pool.join(format!("{name}-{style:?}"));
                let backing = match style {
                    Style::Absolute => file.clone(),
                    Style::Relative => format!("../_base/{name}"),
                    Style::File => format!("file:{file}"),
                    Style::Json => {
                        let json = json!({"driver": "raw", "file": {"driver": "file", "filename": file}});
                        format!("json:{json}")
                    }
                    Style::Chain => volumes.join(&name).with_extension("volume").display().to_string(),
                    Style::Moved => format!("/mnt/of/old/_base/{name}"),
                    Style::Link => world.path(format!("locks/link-to-{name}")).display().to_string(),
                };
                overlay_with(&disk, backing, "cluster_size=1k");
                disks.insert(Content::On(name.clone(), style), disk);
            }
        }
        Self { world, pool: disks }
    }

    pub fn grow(&self, tree: &Tree) {
        let world = &self.world;
        fs_err::remove_dir_all(world.instances_path()).unwrap();
        fs_err::create_dir_all(world.path("_base")).unwrap();
        fs_err::create_dir(world.path("locks")).unwrap();
        for (name, age) in &tree.cache {
            fs_err::copy(&self.pool[&Content::Raw], world.base(name)).unwrap();
            set_age(&world.base(name), Duration::from_secs(*age));
        }
        for ((directory, disk), content) in &tree.disks {
            fs_err::create_dir_all(world.path(directory)).unwrap();
            fs_err::hard_link(&self.pool[content], world.path(directory).join(disk)).unwrap();
            if let Content::On(name, Style::Link) = content {
                // Another disk may have made it.
                drop(symlink(world.base(name), world.path(format!("locks/link-to-{name}"))));
            }
        }
        if let Some(nodes) = &tree.nodes {
            world.compute_nodes(&nodes.iter().copied().collect::<Vec<_>>());
        }
        world.inventory(&json!(tree.inventory));
    }

    pub fn damage(&self, (directory, damage): (&str, Damage)) {
        let directory = self.world.path(directory);
        let parent = directory.parent().unwrap();
        fs_err::create_dir_all(parent).unwrap();
        if let Damage::DanglingDirectory = damage {
            symlink("/no/such/directory", parent.join("dangling")).unwrap();
            return;
        }
        fs_err::create_dir_all(&directory).unwrap();
        let disk = directory.join("broken");
        let good = fs_err::read(&self.pool[&Content::Qcow2]).unwrap();
        let write = |content: &[u8]| fs_err::write(&disk, content).unwrap();
        match damage {
            Damage::Truncated => write(&good[..60]),
            Damage::Version => write(&[&good[..4], &[0, 0, 0, 7], &good[8..]].concat()),
            Damage::Format => write(b"QED\0"),
            Damage::DanglingDisk => symlink("/no/such/disk", &disk).unwrap(),
            Damage::DanglingDirectory => unreachable!(),
        }
    }
}

/// The cache files that disks of the tree name, straight from what was put into it.
pub fn named_by_disks(tree: &Tree) -> BTreeSet<&str> {
    let contents = tree.disks.values();
    contents.filter_map(|it| if let Content::On(name, _) = it { Some(name.as_str()) } else { None }).collect()
}

/// Does something with so many random trees. They are the same each time, so that a run can be repeated.
pub fn for_each_tree(number: u32, check: impl FnMut(&Tree)) {
    // No files beside the tests.
    let config = Config { cases: number, failure_persistence: None, ..Config::default() };
    let mut runner = TestRunner::new_with_rng(config, TestRng::deterministic_rng(RngAlgorithm::ChaCha));
    let check = std::cell::RefCell::new(check);
    let result = runner.run(&trees(), |tree| {
        let mut check = check.borrow_mut();
        let run = std::panic::AssertUnwindSafe(|| check(&tree));
        std::panic::catch_unwind(run).map_err(|panic| {
            let why = panic.downcast_ref::<String>().cloned().unwrap_or_default();
            TestCaseError::fail(why)
        })
    });
    if let Err(error) = result {
        panic!("{error}");
    }
}
