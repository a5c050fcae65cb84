//! What is asked of a filesystem as a whole: its size, whether other machines use it, and whether it shares locks.

use std::ffi::OsString;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::ffi::OsStringExt as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use nix::libc;
use nix::sys::statfs;
use nix::sys::statvfs::{Statvfs, fstatvfs, statvfs};

use crate::warning::Warning;

/// The size of a filesystem in bytes, and what a user other than root may still write.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Serialize)]
pub struct Space {
    pub size_bytes: u64,
    pub available_bytes: u64,
}

impl Space {
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(statvfs(path)?.into())
    }

    /// Of the filesystem that an open file or directory is on.
    pub fn of_open(file: impl AsFd) -> io::Result<Self> {
        Ok(fstatvfs(file)?.into())
    }
}

impl From<Statvfs> for Space {
    fn from(stat: Statvfs) -> Self {
        let unit = stat.fragment_size();
        Self {
            size_bytes: stat.blocks().saturating_mul(unit),
            available_bytes: stat.blocks_available().saturating_mul(unit),
        }
    }
}

/// The magic numbers of filesystems that several machines can mount, from statfs(2), the kernel's linux/magic.h and
/// coreutils' stat(1). FUSE is among them, for sshfs and GlusterFS use it.
const NETWORK: [u32; 22] = [
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
    0x6b41_4653, // AFS, the kernel's
    0x5346_414f, // AFS, OpenAFS's
    0x7375_7245, // Coda
    0xaad7_aaea, // PanFS
    0x2003_0528, // OrangeFS
    0x6163_6673, // ACFS
    0xa501_fcf5, // VxFS
    0xbeef_dead, // StorNext
    0xbacb_acbc, // VMware's shared folders
    0x786f_4256, // VirtualBox's
];

/// How the names of their types begin in the list of mounts.
const NETWORK_TYPES: [&str; 22] = [
    "9p", "acfs", "afs", "autofs", "beegfs", "ceph", "cifs", "coda", "fuse", "gfs2", "gpfs", "lustre", "nfs",
    "ocfs2", "panfs", "pvfs2", "smb", "snfs", "vboxsf", "virtiofs", "vmhgfs", "vxfs",
];

/// nfs-utils' list of what this host exports by now, exports(5).
const EXPORTS: &str = "/var/lib/nfs/etab";

/// Whether a path is on a network filesystem. One that does not answer may be one.
pub fn is_network(path: &Path) -> bool {
    // The type of the number differs between platforms; its low 32 bits do not.
    statfs::statfs(path).map_or(true, |it| NETWORK.contains(&(it.filesystem_type().0 as u32)))
}

/// Whether other machines may use a path: it is on a network filesystem, or this host is the server, or may be.
pub fn is_shared(path: &Path) -> bool {
    is_network(path)
        || match fs_err::read(EXPORTS) {
            Ok(exports) => {
                let path = fs_err::canonicalize(path).unwrap_or(path.into());
                is_exported(&exports, &mountinfo().unwrap_or_default(), &path)
            }
            Err(error) => error.kind() != io::ErrorKind::NotFound,
        }
}

/// By name, or as another mount of the same filesystem: what NFSv4 exports is as a rule bound below one directory.
fn is_exported(exports: &[u8], mountinfo: &str, path: &Path) -> bool {
    let is_within = |a: &Path, b: &Path| a.starts_with(b) || b.starts_with(a);
    let own = in_filesystem(mountinfo, path);
    let exported = exports.split(|it| *it == b'\n').filter_map(|it| it.split(u8::is_ascii_whitespace).next());
    let mut exported = exported.filter(|it| it.starts_with(b"/")).map(unescaped);
    exported.any(|export| {
        let same = own.as_ref().zip(in_filesystem(mountinfo, &export));
        is_within(path, &export) || same.is_some_and(|(a, b)| a.0 == b.0 && is_within(&a.1, &b.1))
    })
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

/// The kernel's list of mounts. What is not UTF-8 in their names comes as U+FFFD.
///
/// # Errors
/// Where it cannot be read, as where `/proc` is not mounted.
pub fn mountinfo() -> io::Result<String> {
    let list = fs_err::read("/proc/self/mountinfo")?;
    Ok(String::from_utf8_lossy(&list).into_owned())
}

/// A line of it, see proc(5).
struct Mount<'a> {
    /// `major:minor`
    device: &'a str,
    /// What of the filesystem is mounted.
    root: &'a str,
    mount_point: &'a str,
    filesystem: &'a str,
    /// The filesystem's own.
    options: &'a str,
}

fn mounts(mountinfo: &str) -> impl Iterator<Item = Mount<'_>> {
    mountinfo.lines().filter_map(|line| {
        // id, parent, device, root, mount point, options, optional fields, "-", type, source, options of the filesystem.
        let (before, after) = line.split_once(" - ")?;
        let mut before = before.split(' ').skip(2);
        let (device, root, mount_point) = (before.next()?, before.next()?, before.next()?);
        let mut after = after.split(' ');
        Some(Mount { device, root, mount_point, filesystem: after.next()?, options: after.nth(1)? })
    })
}

/// The mount that a path is on, as the list has it; nothing is asked of the filesystem.
fn mount_of<'a>(mountinfo: &'a str, path: &Path) -> Option<Mount<'a>> {
    // Of several on one mount point the last is seen.
    let above = mounts(mountinfo).filter(|it| path.starts_with(unescaped(it.mount_point.as_bytes())));
    above.max_by_key(|it| it.mount_point.len())
}

/// The device of a path, and where the path is below the root of its filesystem.
fn in_filesystem<'a>(mountinfo: &'a str, path: &Path) -> Option<(&'a str, PathBuf)> {
    let mount = mount_of(mountinfo, path)?;
    let below = path.strip_prefix(unescaped(mount.mount_point.as_bytes())).ok()?;
    Some((mount.device, unescaped(mount.root.as_bytes()).join(below)))
}

/// A device number as the list of mounts has it.
fn in_mountinfo(device: u64) -> String {
    format!("{}:{}", libc::major(device), libc::minor(device))
}

/// A name as the kernel and nfs-utils list it, where blanks and the like are octal: `\040`.
fn unescaped(name: &[u8]) -> PathBuf {
    let mut bytes = Vec::new();
    let mut rest = name;
    while let [first, after @ ..] = rest {
        let is_octal = |it: &&[u8; 3]| *first == b'\\' && it.iter().all(|it| matches!(it, b'0'..=b'7'));
        let escape = after.first_chunk::<3>().filter(is_octal);
        let octal = escape.and_then(|it| u8::from_str_radix(str::from_utf8(it).ok()?, 8).ok());
        bytes.push(octal.unwrap_or(*first));
        rest = if octal.is_some() { &after[3..] } else { after };
    }
    OsString::from_vec(bytes).into()
}

/// Whether a path is on a network filesystem that is none of these devices, by the list of mounts: nothing is asked of
/// the server, which may have gone.
pub fn is_on_another_server(mountinfo: &str, path: &Path, devices: &[u64]) -> bool {
    // As the list has it.
    let path = PathBuf::from(path.to_string_lossy().into_owned());
    mount_of(mountinfo, &path).is_some_and(|it| {
        NETWORK_TYPES.iter().any(|kind| it.filesystem.starts_with(kind))
            && !devices.iter().any(|device| in_mountinfo(*device) == it.device)
    })
}

/// Warns where an NFS mount keeps locks to this machine.
pub fn locks_not_shared(path: &Path) -> Option<Warning> {
    let device = in_mountinfo(fs_err::metadata(path).ok()?.dev());
    mount_without_shared_locks(&mountinfo().ok()?, &device)
}

fn mount_without_shared_locks(mountinfo: &str, device: &str) -> Option<Warning> {
    let mut of_nfs = mounts(mountinfo).filter(|it| it.device == device && it.filesystem.starts_with("nfs"));
    of_nfs.find_map(|it| {
        let option = it.options.split(',').find(|it| {
            *it == "nolock" || it.strip_prefix("local_lock=").is_some_and(|it| it == "all" || it == "posix")
        })?;
        Some(Warning::LocksNotShared { mount_option: option.into(), mount_point: it.mount_point.into() })
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

    #[test]
    fn what_this_host_exports_is_shared() {
        let exports = b"/srv/nova\t*(rw,sync)\n/a\\040b/c\t10.0.0.0/8(rw)\n\n# /d\n/e/bound/\n/f\\+12";
        let mount = |device, root, point| format!("29 1 {device} {root} {point} rw - ext4 /dev/x rw\n");
        let mountinfo =
            [mount("8:1", "/", "/"), mount("8:2", "/", "/var/nova"), mount("8:2", "/in", "/e/bound")]
                .concat();
        for (path, expected) in [
            ("/var/nova/in/_base", true),
            ("/var/nova/out/_base", false),
            ("/srv/nova/instances/_base", true),
            ("/srv/nova", true),
            ("/srv", true),
            ("/srv/nova2", false),
            ("/a b/c/_base", true),
            ("/d", false),
            ("/e/bound/_base", true),
            ("/f\n", false),
        ] {
            assert_eq!(is_exported(exports, &mountinfo, Path::new(path)), expected, "{path}");
        }
        assert!(
            !is_exported(b"", &mountinfo, Path::new("/srv"))
                && is_exported(b"/srv rw", "", Path::new("/srv"))
        );
    }

    #[test]
    fn a_path_on_another_server_is_known_by_the_list_of_mounts() {
        let line =
            |device, point, kind| format!("29 1 {device} / {point} rw,noatime shared:2 - {kind} s:/x rw\n");
        let mountinfo = [
            line("8:1", "/", "ext4"),
            line("0:42", "/far", "nfs4"),
            line("0:43", "/far/near", "ext4"),
            line("0:44", "/b\\040c", "fuse.sshfs"),
            line("0:45", "/twice", "nfs"),
            line("8:1", "/twice", "btrfs"),
        ]
        .concat();
        let ours = &[libc::makedev(0, 9), libc::makedev(8, 1)];
        for (path, expected) in [
            ("/far/x", true),
            ("/far", true),
            ("/farther", false),
            ("/far/near/x", false),
            ("/b c/x", true),
            ("/twice/x", false),
            ("relative", false),
        ] {
            assert_eq!(is_on_another_server(&mountinfo, Path::new(path), ours), expected, "{path}");
        }
        assert!(!is_on_another_server(&mountinfo, Path::new("/far/x"), &[libc::makedev(0, 42)]));
    }
}
