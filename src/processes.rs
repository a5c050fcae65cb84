//! Who has a file open: by the kernel's lists of descriptors and of loop devices.
//!
//! As root that is every process of this host. Those that may not be looked at are passed over: the look proves use, not
//! the lack of it.

use std::collections::{HashMap, HashSet};
use std::ffi::OsString;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::stat::fstatat;

use crate::evidence::Identity;
use crate::listing::names;

/// Who has each of these files open, in words. This process is left out.
pub fn users_of(files: &HashSet<Identity>) -> HashMap<Identity, String> {
    let mut users = HashMap::new();
    if files.is_empty() {
        return users;
    }
    let own = std::process::id().to_string();
    let in_question = |path: &Path| identity_of(path).filter(|it| files.contains(it));
    for pid in entries(Path::new("/proc")) {
        let pid = pid.display().to_string();
        if !is_number(&pid) || pid == own {
            continue;
        }
        let descriptors = Path::new("/proc").join(&pid).join("fd");
        for descriptor in entries(&descriptors) {
            if let Some(identity) = in_question(&descriptors.join(descriptor)) {
                users.entry(identity).or_insert_with(|| describe(&pid));
            }
        }
    }
    let block = Path::new("/sys/block");
    for device in entries(block) {
        let backing_file = block.join(&device).join("loop/backing_file");
        let Ok(file) = fs_err::read_to_string(backing_file) else { continue };
        if let Some(identity) = in_question(Path::new(file.trim_end_matches('\n'))) {
            users.entry(identity).or_insert_with(|| format!("the loop device {}", device.display()));
        }
    }
    users
}

/// `process 4711 (qemu-img)`.
pub fn describe(pid: impl std::fmt::Display) -> String {
    match fs_err::read_to_string(format!("/proc/{pid}/comm")) {
        Ok(command) => format!("process {pid} ({})", command.trim_end()),
        Err(_) => format!("process {pid}"),
    }
}

/// The kernel's own knowledge of a file is enough: to ask a server that has gone would wait for ever, with nova's locks
/// held.
fn identity_of(path: &Path) -> Option<Identity> {
    let no_sync = AtFlags::from_bits_retain(libc::AT_STATX_DONT_SYNC);
    let stat = match fstatat(AT_FDCWD, path, no_sync) {
        // An old kernel, or a libc that does not pass it on.
        Err(Errno::EINVAL) => fstatat(AT_FDCWD, path, AtFlags::empty()),
        stat => stat,
    };
    stat.ok().map(|it| Identity::from(&it))
}

/// None of a directory that may not be looked at.
fn entries(directory: &Path) -> Vec<OsString> {
    names(directory).unwrap_or_default()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
