//! Two hosts that share an instances path as badly as can be: by two sshfs mounts, each with its own cache of names and
//! attributes, no locks between them, and no `RENAME_NOREPLACE`. `tests/filesystems sshfs` mounts them and runs this: the
//! second one at the same path, in a mount namespace of its own.

use crate::common::prune::is_full;
use crate::nova_beside_prune::{Hosts, share};

fn rounds() -> usize {
    if is_full() { 40 } else { 8 }
}

#[test]
#[ignore = "two mounts are needed: tests/filesystems sshfs"]
fn no_disk_of_a_nova_on_another_host_loses_its_base_file() {
    share(&Hosts::two(), rounds(), &[false]);
}

#[test]
#[ignore = "two mounts are needed: tests/filesystems sshfs"]
fn no_disk_loses_its_base_file_to_two_prunes_one_on_each_host() {
    share(&Hosts::two(), rounds(), &[false, true]);
}
