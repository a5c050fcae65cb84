//! Real nova code in the proofs of `proof_interleavings.rs`: each of its operations, as a whole, at each system call of a
//! prune, and a whole prune at each system call of nova and of the programs that it runs.
//!
//! All of them: `NOVA_IMAGECACHE_FULL=1 cargo test proof_nova -- --nocapture`. Otherwise a sample.

use std::sync::Mutex;

use serde_json::{Value, json};

use crate::common::HOST;
use crate::common::nova::{Nova, images, upload};
use crate::common::proof::{INSTANCES, OLD_IMAGE, Scene, none_failed};
use crate::common::prune::{backing_file, names};
use crate::proof_interleavings::{Did, Operation, Range, at_every_call, needs, prune_at_every_call, resized};

/// An instance that nova makes.
const NEW: &str = "0d1e2f30-0000-4000-8000-000000000004";

/// An instance in a directory that is in no inventory.
const UNLISTED: &str = INSTANCES[2];

fn done(is_done: bool) -> Did {
    if is_done { Did::Done } else { Did::Refused }
}

/// The rows of nova's database.
fn instances() -> Value {
    INSTANCES.map(|uuid| json!({"uuid": uuid, "name": uuid, "host": HOST, "image_ref": "image-used"})).into()
}

fn without_target(scene: &Scene) {
    fs_err::remove_file(scene.world.base(&scene.target)).ok();
}

fn resized_by_nova(scene: &Scene) {
    let (directory, resized) = resized(scene);
    fs_err::rename(&directory, &resized).unwrap();
    fs_err::create_dir(&directory).unwrap();
    fs_err::copy(resized.join("disk"), directory.join("disk")).unwrap();
}

fn operations<'a>(scene: &'a Scene, nova: &'a Mutex<Nova>) -> Vec<Operation<'a>> {
    use Range::{FromLocking, FromReading};
    let does = |order: String| nova.lock().unwrap().does(&order).is_ok();
    let starts = move |_: &Scene| needs(does(format!("start {NEW} {OLD_IMAGE}")));
    let fetches = move |_: &Scene| needs(does(format!("precache {OLD_IMAGE}")));
    let (directory, directory_resized) = resized(scene);
    let disk = scene.world.path(INSTANCES[1]).join("disk");
    let kept = backing_file(&directory.join("disk")).unwrap();
    let target = &scene.target;
    let mut passes = Operation::new("nova's own cache manager passes", FromReading, move |scene| {
        let before = names(&scene.world.path("_base"));
        // Where prune removes a file that nova has just listed, this pass of nova's ends.
        if let Err(why) = nova.lock().unwrap().does(&format!("pass {}", instances())) {
            assert!(why.starts_with("FileNotFoundError"), "{why}");
        }
        let after = names(&scene.world.path("_base"));
        Did::MayHaveRemoved(before.difference(&after).cloned().collect())
    });
    passes.locks.clone_from(&scene.removable);
    vec![
        Operation::new("nova starts an instance", FromLocking, starts).locking(target).making(target),
        Operation::new("nova starts an instance whose image is gone", FromLocking, move |scene| {
            fs_err::remove_file(images(&scene.world).join(OLD_IMAGE)).unwrap();
            let did = starts(scene);
            upload(&scene.world, OLD_IMAGE);
            did
        })
        .locking(target),
        Operation::new("nova starts an instance and fetches the image", FromLocking, starts)
            .after(without_target)
            .locking(target)
            .making(target),
        Operation::new("nova rebases a disk", FromLocking, move |scene| {
            needs(does(format!("rebase {} {}", INSTANCES[1], scene.world.base(&scene.target).display())))
        })
        .changing(disk),
        Operation::new("nova resizes an instance", FromReading, move |_| {
            done(does(format!("resize {UNLISTED}")))
        })
        .changing(directory.clone()),
        Operation::new("nova reverts a resize", FromReading, move |_| {
            done(does(format!("revert {UNLISTED}")))
        })
        .after(resized_by_nova)
        .changing(directory.clone())
        .changing(directory_resized),
        Operation::new("nova deletes an instance", FromReading, move |_| {
            done(does(format!("delete {UNLISTED}")))
        })
        .changing(directory)
        .changing(kept),
        Operation::new("nova makes a swap disk", FromLocking, move |_| done(does(format!("swap {NEW} 16"))))
            .locking("swap_16")
            .making("swap_16"),
        Operation::new("nova makes a new swap disk", FromLocking, move |_| {
            done(does(format!("swap {NEW} 17")))
        })
        .locking("swap_17"),
        Operation::new("nova fetches an image without a lock", FromLocking, fetches).making(target),
        Operation::new("nova fetches a new image without a lock", FromLocking, fetches)
            .after(without_target)
            .making(target),
        passes,
    ]
}

fn start(scene: &Scene) -> Nova {
    let mut nova = Nova::start(&scene.world);
    upload(&scene.world, OLD_IMAGE);
    // It imports nova at its first order.
    nova.does(&format!("delete {NEW}")).ok();
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
    at_every_call_of_a_prune(&Scene::owned_by(0), 6);
}

#[test]
fn no_whole_operation_of_nova_at_any_system_call_of_a_prune_after_a_kill_loses_a_backing_file() {
    at_every_call_of_a_prune(&Scene::owned_by(0).after_a_kill(), 3);
}

#[test]
fn no_whole_prune_at_any_system_call_of_nova_loses_a_backing_file() {
    let scene = &Scene::owned_by(0);
    let nova = Mutex::new(start(scene));
    let pid = nova.lock().unwrap().pid();
    let operations = operations(scene, &nova);
    let failures: Vec<_> = operations.iter().flat_map(|it| prune_at_every_call(scene, it, pid, 5)).collect();
    none_failed(&failures);
}
