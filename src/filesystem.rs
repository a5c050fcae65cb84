//! What is asked of a filesystem as a whole: its size, whether other machines use it, and whether it shares locks.

use std::io;
use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use nix::libc;
use nix::sys::statfs;
use nix::sys::statvfs::statvfs;

use crate::warning::Warning;

/// The size of a filesystem in bytes, and what a user other than root may still write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    pub size_bytes: u64,
    pub available_bytes: u64,
}

impl Space {
    pub fn of(path: &Path) -> io::Result<Self> {
        let stat = statvfs(path)?;
        let unit = stat.fragment_size();
        Ok(Self {
            size_bytes: stat.blocks().saturating_mul(unit),
            available_bytes: stat.blocks_available().saturating_mul(unit),
        })
    }
}

/// The magic numbers of filesystems that several machines can mount, from statfs(2) and the kernel's linux/magic.h.
/// FUSE is among them, for sshfs and GlusterFS use it.
const NETWORK: [u32; 15] = [
    0x6969,      // NFS
    0xff53_4d42, // CIFS
    0xfe53_4d42, // SMB2
    0x517b,      // SMB
    0x00c3_6400, // Ceph
    0x6573_5546, // FUSE
    0x7461_636f, // OCFS2
    0x0116_1970, // GFS2
    0x4750_4653, // GPFS
    0x0bd0_0bd0, // Lustre
    0x0102_1997, // 9P
    0x1983_0326, // BeeGFS
    0x6b41_4653, // AFS
    0x7375_7245, // Coda
    0xaad7_aaea, // PanFS
];

/// Whether a path is on a network filesystem. One that does not answer may be one.
pub fn is_network(path: &Path) -> bool {
    // The type of the number differs between platforms; its low 32 bits do not.
    statfs::statfs(path).map_or(true, |it| NETWORK.contains(&(it.filesystem_type().0 as u32)))
}

/// The magic numbers of filesystems whose files are the kernel's own, where to open one may be to act: to open the
/// `free_buffer` of a trace empties it. From the kernel's linux/magic.h.
const KERNEL: [u32; 12] = [
    0x9fa0,      // proc
    0x6265_6572, // sysfs
    0x6462_6720, // debugfs
    0x7472_6163, // tracefs
    0x7363_6673, // securityfs
    0x6265_6570, // configfs
    0x0027_e0eb, // cgroup
    0x6367_7270, // cgroup2
    0xcafe_4a11, // bpf
    0x6165_676c, // pstore
    0xde5e_81e4, // efivarfs
    0xf97c_ff8c, // selinux
];

/// Whether an open file is one of the kernel's own.
pub fn is_of_kernel(file: impl AsFd) -> io::Result<bool> {
    Ok(KERNEL.contains(&(statfs::fstatfs(file)?.filesystem_type().0 as u32)))
}

/// Warns where an NFS mount keeps locks to this machine.
pub fn locks_not_shared(path: &Path) -> Option<Warning> {
    let device = fs_err::metadata(path).ok()?.dev();
    let device = format!("{}:{}", libc::major(device), libc::minor(device));
    mount_without_shared_locks(&fs_err::read_to_string("/proc/self/mountinfo").ok()?, &device)
}

fn mount_without_shared_locks(mountinfo: &str, device: &str) -> Option<Warning> {
    mountinfo.lines().find_map(|line| {
        // proc(5): id, parent, device, root, mount point, options, optional fields, "-", type, source, super options.
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (of, mount_point) = (before.next()?, before.nth(1)?);
        let (filesystem, options) = (after.split(' ').next()?, after.split(' ').nth(2)?);
        let option = options.split(',').find(|it| {
            *it == "nolock" || it.strip_prefix("local_lock=").is_some_and(|it| it == "all" || it == "posix")
        })?;
        (of == device && filesystem.starts_with("nfs"))
            .then(|| Warning::LocksNotShared { mount_option: option.into(), mount_point: mount_point.into() })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_nfs_mount_that_keeps_locks_to_itself_is_warned_of() {
        for (kind, options, expected) in [
            ("nfs4", "rw,vers=4.2,local_lock=none", false),
            ("nfs", "rw,vers=3,nolock,local_lock=all", true),
            ("nfs", "rw,local_lock=posix", true),
            ("nfs", "rw,local_lock=flock", false),
            ("ext4", "rw,nolock", false),
        ] {
            let line = format!("29 1 0:42 / /i rw,noatime shared:2 - {kind} server:/x {options}");
            assert_eq!(mount_without_shared_locks(&line, "0:42").is_some(), expected, "{line}");
            assert_eq!(mount_without_shared_locks(&line, "0:43"), None);
        }
    }
}
