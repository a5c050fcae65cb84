//! Who has a file open: by the kernel's lists of descriptors and of loop devices.
//!
//! As root that is every process of this host. Those that may not be looked at are passed over: the look proves use, not
//! the lack of it.

use std::collections::{HashMap, HashSet};
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::stat::fstatat;

use crate::evidence::Identity;

/// Who has each of these files open, in words. This process is left out.
pub fn users_of(files: &HashSet<Identity>) -> HashMap<Identity, String> {
    let mut users = HashMap::new();
    if files.is_empty() {
        return users;
    }
    let own = std::process::id().to_string();
    for process in entries("/proc") {
        let Some(pid) = process.file_name().and_then(|it| it.to_str()).filter(|it| is_number(it)) else {
            continue;
        };
        if pid == own {
            continue;
        }
        for descriptor in entries(process.join("fd")) {
            if let Some(identity) = identity_of(&descriptor)
                && files.contains(&identity)
            {
                users.entry(identity).or_insert_with(|| describe(pid));
            }
        }
    }
    for device in entries("/sys/block") {
        let Ok(file) = fs_err::read_to_string(device.join("loop/backing_file")) else { continue };
        if let Some(identity) = identity_of(Path::new(file.trim_end_matches('\n')))
            && files.contains(&identity)
        {
            let name = device.file_name().unwrap_or_default().display().to_string();
            users.entry(identity).or_insert_with(|| format!("the loop device {name}"));
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

fn entries(directory: impl AsRef<Path>) -> impl Iterator<Item = std::path::PathBuf> {
    fs_err::read_dir(directory.as_ref()).into_iter().flatten().flatten().map(|it| it.path())
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
