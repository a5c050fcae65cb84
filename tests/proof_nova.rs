//! Real nova code in the proofs of `proof_interleavings.rs`: each of its operations, as a whole, at each system call of a
//! prune, and a whole prune at each system call of nova and of the programs that it runs.
//!
//! All of them: `NOVA_IMAGECACHE_FULL=1 cargo test proof_nova -- --nocapture`. Otherwise a sample.

use std::collections::BTreeSet;
use std::sync::Mutex;

use serde_json::{Value, json};

use crate::common::HOST;
use crate::common::nova::{Nova, Order, upload};
use crate::common::proof::{INSTANCES, OLD_IMAGE, Scene, backing_file, none_failed};
use crate::common::prune::names;
use crate::common::steps::attached;
use crate::proof_interleavings::{Did, Operation, Range, at_every_call, prune_at_every_call, resized};

/// An instance that nova makes.
const NEW: &str = "0d1e2f30-0000-4000-8000-000000000004";

/// An instance in a directory that is in no inventory.
const UNLISTED: &str = INSTANCES[2];

fn needs(result: Result<(), String>) -> Did {
    if result.is_ok() { Did::Needs } else { Did::Refused }
}

fn done(result: Result<(), String>) -> Did {
    if result.is_ok() { Did::Done } else { Did::Refused }
}

/// The rows of nova's database.
fn instances() -> Value {
    INSTANCES.map(|uuid| json!({"uuid": uuid, "name": uuid, "host": HOST, "image_ref": "image-used"})).into()
}

fn operations<'a>(scene: &'a Scene, nova: &'a Mutex<Nova>) -> Vec<Operation<'a>> {
    use Range::{FromLocking, FromReading};
    let does = |order: Order<'_>| nova.lock().unwrap().does(order);
    let (directory, directory_resized) = resized(scene);
    let disk = scene.world.path(INSTANCES[1]).join("disk");
    let kept = backing_file(&directory.join("disk")).unwrap();
    let makes = BTreeSet::from([scene.target.clone()]);
    vec![
        Operation {
            locks: makes.clone(),
            makes: makes.clone(),
            ..Operation::new("nova starts an instance", FromLocking, move |_| {
                needs(does(Order::Start(NEW, OLD_IMAGE)))
            })
        },
        Operation {
            locks: makes.clone(),
            ..Operation::new("nova starts an instance whose image is gone", FromLocking, move |_| {
                needs(does(Order::StartNoFetch(NEW, OLD_IMAGE)))
            })
        },
        Operation {
            locks: makes.clone(),
            makes: makes.clone(),
            prepare: |scene| {
                fs_err::remove_file(scene.world.base(&scene.target)).ok();
            },
            ..Operation::new("nova starts an instance and fetches the image", FromLocking, move |_| {
                needs(does(Order::Start(NEW, OLD_IMAGE)))
            })
        },
        Operation::new("nova rebases a disk", FromLocking, move |scene| {
            needs(does(Order::Rebase(INSTANCES[1], &scene.world.base(&scene.target))))
        })
        .changing(disk),
        Operation::new("nova resizes an instance", FromReading, move |_| done(does(Order::Resize(UNLISTED))))
            .changing(directory.clone()),
        Operation {
            prepare: |scene| {
                let (directory, resized) = resized(scene);
                fs_err::rename(&directory, &resized).unwrap();
                fs_err::create_dir(&directory).unwrap();
                fs_err::copy(resized.join("disk"), directory.join("disk")).unwrap();
            },
            ..Operation::new("nova reverts a resize", FromReading, move |_| {
                done(does(Order::Revert(UNLISTED)))
            })
        }
        .changing(directory.clone())
        .changing(directory_resized),
        Operation::new("nova deletes an instance", FromReading, move |_| done(does(Order::Delete(UNLISTED))))
            .changing(directory)
            .changing(kept),
        Operation {
            locks: ["swap_16".to_owned()].into(),
            makes: ["swap_16".to_owned()].into(),
            ..Operation::new("nova makes a swap disk", FromLocking, move |_| done(does(Order::Swap(NEW, 16))))
        },
        Operation {
            makes: makes.clone(),
            ..Operation::new("nova fetches an image without a lock", FromLocking, move |_| {
                needs(does(Order::Precache(OLD_IMAGE)))
            })
        },
        Operation {
            locks: scene.removable.clone(),
            ..Operation::new("nova's own cache manager passes", FromReading, move |scene| {
                let before = names(&scene.world.path("_base"));
                let result = does(Order::Pass(&instances()));
                assert_eq!(result, Ok(()));
                let after = names(&scene.world.path("_base"));
                Did::MayHaveRemoved(before.difference(&after).cloned().collect())
            })
        },
    ]
}

fn start(scene: &Scene) -> Nova {
    let mut nova = Nova::start(&scene.world);
    upload(&scene.world, OLD_IMAGE);
    // It imports nova at its first order.
    nova.does(Order::Delete(NEW)).ok();
    nova
}

fn at_every_call_of_a_prune(scene: &Scene, wanted: usize) {
    let nova = Mutex::new(start(scene));
    let operations = operations(scene, &nova);
    let failures: Vec<_> = operations.iter().flat_map(|it| at_every_call(scene, it, wanted)).collect();
    none_failed(&failures);
}

#[test]
fn no_whole_operation_of_nova_at_any_system_call_of_a_prune_loses_a_backing_file() {
    at_every_call_of_a_prune(&Scene::owned_by_root(), 6);
}

#[test]
fn no_whole_operation_of_nova_at_any_system_call_of_a_prune_after_a_kill_loses_a_backing_file() {
    at_every_call_of_a_prune(&Scene::owned_by_root().after_a_kill(), 3);
}

#[test]
fn no_whole_prune_at_any_system_call_of_nova_loses_a_backing_file() {
    let scene = Scene::owned_by_root();
    let nova = Mutex::new(start(&scene));
    let base = scene.world.base(&scene.target);
    let disk = scene.world.path(INSTANCES[1]).join("disk");
    let makes = BTreeSet::from([scene.target.clone()]);
    let orders = [
        ("nova rebases a disk", Order::Rebase(INSTANCES[1], &base), 5),
        ("nova starts an instance", Order::Start(NEW, OLD_IMAGE), 5),
    ];
    let mut failures = Vec::new();
    for (name, order, wanted) in orders {
        let changes = std::slice::from_ref(&disk);
        failures.extend(prune_at_every_call(&scene, name, changes, &makes, wanted, |watch| {
            let pid = nova.lock().unwrap().pid();
            let mut result = Ok(());
            let mut ended = attached(pid, watch, || result = nova.lock().unwrap().does(order));
            ended.code = Some(i32::from(result.is_err()));
            ended.stderr = result.err().unwrap_or_default();
            ended
        }));
    }
    none_failed(&failures);
}
