//! Who has a file open: by the kernel's lists of descriptors and of loop devices.
//!
//! As root that is every process of this host. Those that may not be looked at are passed over: the look proves use, not
//! the lack of it.

use std::collections::HashMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use nix::errno::Errno;
use nix::fcntl::{AT_FDCWD, AtFlags};
use nix::libc;
use nix::sys::stat::fstatat;

use crate::evidence::Identity;
use crate::filesystem::{is_on_another_server, mountinfo};
use crate::listing::names;

/// Who has a file open, in words.
pub type Users = HashMap<Identity, String>;

/// Who has each of these files open, which have these names by now. This process is left out.
///
/// # Errors
/// Where the processes or the block devices cannot be listed, as where `/proc` or `/sys` is not mounted.
pub fn users_of(files: &HashMap<Identity, OsString>) -> io::Result<Users> {
    let mut users = HashMap::new();
    if files.is_empty() {
        return Ok(users);
    }
    // By the number that this /proc knows it by.
    let own = fs_err::read_link("/proc/self")?;
    let in_question = |path: &Path| identity_of(path).filter(|it| files.contains_key(it));
    let proc = Path::new("/proc");
    for pid in names(proc).map_err(|error| in_path(proc, &error))? {
        let pid = pid.display().to_string();
        if !is_number(&pid) || Path::new(&pid) == own {
            continue;
        }
        for descriptor in descriptors_of(&Path::new("/proc").join(&pid)) {
            if let Some(identity) = in_question(&descriptor) {
                users.entry(identity).or_insert_with(|| describe(&pid));
            }
        }
    }
    let block = Path::new("/sys/block");
    let devices = names(block).map_err(|error| in_path(block, &error))?;
    let mountinfo = mountinfo()?;
    let of_files: Vec<u64> = files.keys().map(|it| it.dev).collect();
    for device in devices {
        let backing_file = block.join(&device).join("loop/backing_file");
        let Ok(file) = fs_err::read(backing_file) else { continue };
        let file = Path::new(OsStr::from_bytes(file.strip_suffix(b"\n").unwrap_or(&file)));
        // The path is that of where the device was made, which may be a container; the name is the same.
        let by_name = files.iter().find(|(_, name)| file.file_name() == Some(name));
        // To look at a file whose server has gone would wait for ever, with nova's locks held.
        let by_identity =
            || if is_on_another_server(&mountinfo, file, &of_files) { None } else { in_question(file) };
        if let Some(identity) = by_name.map(|(identity, _)| *identity).or_else(by_identity) {
            users.entry(identity).or_insert_with(|| format!("the loop device {}", device.display()));
        }
    }
    Ok(users)
}

fn in_path(path: &Path, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
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

/// The descriptors of a process. Where its first thread has ended, the others still have them.
fn descriptors_of(process: &Path) -> Vec<PathBuf> {
    let of = |thread: &Path| {
        let directory = thread.join("fd");
        names(&directory).map(|them| them.into_iter().map(|it| directory.join(it)).collect::<Vec<_>>())
    };
    let Ok(descriptors) = of(process) else { return Vec::new() };
    if !descriptors.is_empty() {
        return descriptors;
    }
    let threads = process.join("task");
    entries(&threads).iter().flat_map(|thread| of(&threads.join(thread))).flatten().collect()
}

/// None of a directory that may not be looked at.
fn entries(directory: &Path) -> Vec<OsString> {
    names(directory).unwrap_or_default()
}

fn is_number(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit())
}
