//! A world to run the command in: an instances path of its own, disks made by the real qemu-img, inventories, and the
//! binary with a cleared environment.

pub mod host;
pub mod hostile;
pub mod nova;
pub mod parsers;
#[cfg(target_arch = "x86_64")]
pub mod proof;
pub mod prune;
pub mod slow;
#[cfg(target_arch = "x86_64")]
pub mod steps;
pub mod trees;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::process::Output;
use std::time::{Duration, SystemTime};

use assert_cmd::Command;
use assert_cmd::cargo::{cargo_bin, cargo_bin_cmd};
use nova_imagecache::cache_name::cache_file_name;
use serde_json::Value;
use tempfile::TempDir;

pub const MINUTE: Duration = Duration::from_secs(60);
pub const HOUR: Duration = Duration::from_secs(3600);
pub const DAY: Duration = Duration::from_secs(24 * 3600);

/// For [`World::explain`] and its like.
pub const NO_ARGS: [&str; 0] = [];

/// The host that the command is told it runs on.
pub const HOST: &str = "compute-1";

/// Debian's `nobody` and `nogroup`.
const NOBODY: u32 = 65534;

/// An instances path with a cache directory, in a directory of its own that goes when this does.
pub struct World {
    dir: TempDir,
}

impl World {
    /// `<instances path>/_base`, `<instances path>/locks` and a `compute_nodes` that names [`HOST`] alone.
    pub fn new() -> Self {
        let world = Self::bare();
        fs_err::create_dir_all(world.path("_base")).unwrap();
        fs_err::create_dir(world.path("locks")).unwrap();
        world.compute_nodes(&[HOST]);
        world
    }

    /// An instances path with nothing in it.
    pub fn bare() -> Self {
        let dir = tempfile::Builder::new().prefix("nova-imagecache-test-").tempdir().unwrap();
        // Another user must be able to look in, see `as_nobody`.
        fs_err::set_permissions(dir.path(), PermissionsExt::from_mode(0o755)).unwrap();
        fs_err::create_dir(dir.path().join("instances")).unwrap();
        Self { dir }
    }

    /// The directory that holds everything, the instances path among it.
    pub fn outside(&self) -> &Path {
        self.dir.path()
    }

    pub fn instances_path(&self) -> PathBuf {
        self.dir.path().join("instances")
    }

    /// A path below the instances path.
    pub fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.instances_path().join(below)
    }

    /// A file of the cache.
    pub fn base(&self, name: impl AsRef<Path>) -> PathBuf {
        self.path("_base").join(name)
    }

    /// A cache file of that name and age: a raw image by qemu-img. Returns its path.
    pub fn cache_file(&self, name: &str, age: Duration) -> PathBuf {
        let path = self.base(name);
        raw(&path, "4k");
        set_age(&path, age);
        path
    }

    /// The original of an image, with that age. Returns its file name.
    pub fn original(&self, image: &str, age: Duration) -> String {
        let name = cache_file_name(image);
        self.cache_file(&name, age);
        name
    }

    /// A resized copy of an image, with that age. Returns its file name.
    pub fn resized(&self, image: &str, bytes: u64, age: Duration) -> String {
        let name = format!("{}_{bytes}", cache_file_name(image));
        self.cache_file(&name, age);
        name
    }

    /// `<directory>/disk`, an overlay on the cache file of that name by its absolute path. Returns the disk's path.
    pub fn instance_disk(&self, directory: &str, backing: &str) -> PathBuf {
        let disk = self.path(directory).join("disk");
        overlay(&disk, self.base(backing));
        disk
    }

    /// Writes `compute_nodes` as nova does, every entry a day and more old: nova's own cut-off must not matter.
    pub fn compute_nodes(&self, hosts: &[&str]) {
        let day_and_a_half_ago = SystemTime::now() - 36 * HOUR;
        let epoch = day_and_a_half_ago.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs_f64();
        let nodes: BTreeMap<&str, f64> = hosts.iter().map(|host| (*host, epoch)).collect();
        fs_err::write(self.path("compute_nodes"), serde_json::to_vec(&nodes).unwrap()).unwrap();
    }

    /// Writes the inventory that [`World::explain`] and [`World::prune`] hand over.
    pub fn inventory(&self, rows: &Value) -> PathBuf {
        self.file("inventory.json", rows.to_string())
    }

    /// Writes a file beside the instances path. Returns its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.dir.path().join(name);
        fs_err::write(&path, content).unwrap();
        path
    }

    /// The command with a cleared environment, in the directory that holds everything.
    pub fn command(&self) -> Command {
        let mut command = cargo_bin_cmd!("nova-imagecache");
        command.env_clear().current_dir(self.dir.path());
        command
    }

    /// Runs the command with `-p` and these arguments.
    pub fn run<A: AsRef<OsStr>>(&self, subcommand: &str, args: impl IntoIterator<Item = A>) -> Run {
        Run::of(self.command().arg(subcommand).arg("-p").arg(self.instances_path()).args(args))
    }

    pub fn scan(&self) -> Run {
        self.run("scan", ["-f", "json"])
    }

    /// `explain -f json` with the host, the inventory if one was written, and these arguments.
    pub fn explain<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.run("explain", self.judging(args))
    }

    /// `prune -f json`, for real unless the arguments say otherwise.
    pub fn prune<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.run("prune", self.judging(args))
    }

    pub fn dry_run<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Run {
        self.run("prune", std::iter::once(OsString::from("--dry-run")).chain(self.judging(args)))
    }

    fn judging<A: AsRef<OsStr>>(&self, args: impl IntoIterator<Item = A>) -> Vec<OsString> {
        let mut all: Vec<OsString> = ["-f", "json", "--host", HOST].map(OsString::from).into();
        let inventory = self.dir.path().join("inventory.json");
        if inventory.exists() {
            all.extend(["--inventory".into(), inventory.into()]);
        }
        all.extend(args.into_iter().map(|it| it.as_ref().to_owned()));
        all
    }

    /// The command as a user whom file modes bind: root reads everything.
    pub fn as_nobody(&self) -> Command {
        if nix::unistd::geteuid().is_root() { self.as_user(NOBODY, &[]) } else { self.command() }
    }

    /// The command as a user, run by that wrapper.
    pub fn as_user(&self, uid: u32, wrapper: &[&str]) -> Command {
        // A copy, for the build directory may be closed to others.
        let copy = self.dir.path().join("nova-imagecache");
        if !copy.exists() {
            // By a process of its own: a descriptor open for writing that another test's child inherits would make
            // the copy busy.
            let status =
                std::process::Command::new("cp").arg(cargo_bin!("nova-imagecache")).arg(&copy).status();
            assert!(status.unwrap().success());
        }
        let mut command = Command::new(tool("setpriv", "util-linux"));
        command.env_clear().current_dir("/");
        command.arg(format!("--reuid={uid}")).arg(format!("--regid={uid}"));
        command.arg("--clear-groups").args(wrapper).arg(copy);
        command
    }

    /// Gives everything to the user of [`World::as_nobody`].
    pub fn give_to_nobody(&self) {
        if nix::unistd::geteuid().is_root() {
            prune::chown_all(self.dir.path(), NOBODY);
        }
    }

    pub fn set_mode(&self, below: impl AsRef<Path>, mode: u32) {
        fs_err::set_permissions(self.path(below), PermissionsExt::from_mode(mode)).unwrap();
    }

    /// The names in the cache directory, sorted.
    pub fn cache_names(&self) -> Vec<String> {
        let entries = fs_err::read_dir(self.path("_base")).unwrap();
        let mut names: Vec<_> = entries.map(|it| it.unwrap().file_name().into_string().unwrap()).collect();
        names.sort();
        names
    }

    /// Everything that a pass could change, the locks among it.
    pub fn snapshot(&self) -> Snapshot {
        Snapshot::of(self.dir.path())
    }
}

/// How a command ended.
#[derive(Debug)]
pub struct Run {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Run {
    pub fn of(command: &mut Command) -> Self {
        Self::from(command.output().unwrap())
    }

    /// The object on stdout. Panics with everything printed where there is none.
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout).unwrap_or_else(|error| panic!("{error}: {self:#?}"))
    }

    /// Everything said of a file.
    #[track_caller]
    pub fn file(&self, name: &str) -> Value {
        self.find("files", name).unwrap_or_else(|| panic!("no file {name}: {self:#?}"))
    }

    #[track_caller]
    pub fn verdict(&self, name: &str) -> String {
        text(&self.file(name)["verdict"])
    }

    #[track_caller]
    pub fn outcome(&self, name: &str) -> String {
        text(&self.file(name)["outcome"])
    }

    /// The codes of a file's reasons.
    #[track_caller]
    pub fn codes(&self, name: &str) -> Vec<String> {
        list(&self.file(name)["reasons"]).iter().map(|it| text(&it["code"])).collect()
    }

    /// A file's reason with that code.
    #[track_caller]
    pub fn reason(&self, name: &str, code: &str) -> Value {
        let file = self.file(name);
        let found = list(&file["reasons"]).iter().find(|it| it["code"] == code).cloned();
        found.unwrap_or_else(|| panic!("{name} has no reason {code}: {file:#}"))
    }

    /// What is said of a missing file, if anything.
    pub fn missing(&self, name: &str) -> Option<Value> {
        self.find("missing", name)
    }

    /// The names of the files with that verdict.
    pub fn with_verdict(&self, verdict: &str) -> Vec<String> {
        let json = self.json();
        list(&json["files"])
            .iter()
            .filter(|it| it["verdict"] == verdict)
            .map(|it| text(&it["name"]))
            .collect()
    }

    /// The codes of the warnings.
    pub fn warnings(&self) -> Vec<String> {
        list(&self.json()["warnings"]).iter().map(|it| text(&it["code"])).collect()
    }

    fn find(&self, among: &str, name: &str) -> Option<Value> {
        list(&self.json()[among]).iter().find(|it| it["name"] == name).cloned()
    }

    /// Checks the exit code, showing everything printed where it is another.
    #[track_caller]
    pub fn exits(self, code: i32) -> Self {
        assert_eq!(self.code, code, "{self:#?}");
        self
    }

    /// Checks that this was refused: exit 2, nothing on stdout, and one line on stderr that holds all these words.
    #[track_caller]
    pub fn refused(&self, words: &[&str]) {
        assert_eq!(self.code, 2, "{self:#?}");
        assert_eq!(self.stdout, "", "{self:#?}");
        assert_eq!(self.stderr.lines().count(), 1, "{self:#?}");
        for word in words {
            assert!(self.stderr.contains(word), "no {word:?} in: {}", self.stderr);
        }
    }
}

impl From<Output> for Run {
    fn from(output: Output) -> Self {
        Self {
            code: output.status.code().unwrap_or_else(|| panic!("killed: {output:?}")),
            stdout: String::from_utf8(output.stdout).unwrap(),
            stderr: String::from_utf8(output.stderr).unwrap(),
        }
    }
}

/// The items of a JSON list.
#[track_caller]
pub fn list(value: &Value) -> &[Value] {
    value.as_array().unwrap_or_else(|| panic!("not a list: {value}"))
}

#[track_caller]
pub fn text(value: &Value) -> String {
    value.as_str().unwrap_or_else(|| panic!("not a text: {value}")).to_owned()
}

/// One file, directory or link as it is on disk.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Entry {
    pub mode: u32,
    pub owner: (u32, u32),
    pub inode: u64,
    pub links: u64,
    pub mtime: (i64, i64),
    pub content: Vec<u8>,
}

/// All that lies below a directory: names, types, modes, owners, contents, mtimes in nanoseconds, link targets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot(pub BTreeMap<PathBuf, Entry>);

impl Snapshot {
    pub fn of(root: &Path) -> Self {
        let mut entries = BTreeMap::new();
        let mut next = vec![root.to_owned()];
        while let Some(path) = next.pop() {
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            let content = if metadata.is_symlink() {
                fs_err::read_link(&path).unwrap().into_os_string().into_encoded_bytes()
            } else if metadata.is_file() {
                fs_err::read(&path).unwrap()
            } else {
                Vec::new()
            };
            if metadata.is_dir() {
                next.extend(fs_err::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
            }
            let entry = Entry {
                mode: metadata.mode(),
                owner: (metadata.uid(), metadata.gid()),
                inode: metadata.ino(),
                links: metadata.nlink(),
                mtime: (metadata.mtime(), metadata.mtime_nsec()),
                content,
            };
            entries.insert(path, entry);
        }
        Self(entries)
    }

    /// Checks that everything is as it was, naming what is not.
    #[track_caller]
    pub fn assert_same(&self, later: &Self) {
        let paths: std::collections::BTreeSet<_> = self.0.keys().chain(later.0.keys()).collect();
        let changed: Vec<_> = paths.into_iter().filter(|it| self.0.get(*it) != later.0.get(*it)).collect();
        assert!(changed.is_empty(), "changed: {changed:#?}");
    }
}

/// A path of the repository.
pub fn repository(below: impl AsRef<Path>) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(below)
}

/// A Python with what the tests need: see tests/run.
pub fn python() -> String {
    std::env::var("NOVA_IMAGECACHE_PYTHON").unwrap_or_else(|_| "python3".into())
}

/// A command that runs another, whose words are to follow, in a mount namespace of its own. Root needs no user namespace for
/// it, and gets none in a chroot.
pub fn with_own_mounts() -> std::process::Command {
    let mut command = std::process::Command::new(tool("unshare", "util-linux"));
    if !nix::unistd::geteuid().is_root() {
        command.arg("--map-root-user");
    }
    command.arg("--mount");
    command
}

/// The path of a tool that the tests need. Panics with the package to install where it is not there.
pub fn tool(name: &str, package: &str) -> PathBuf {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|directory| directory.join(name))
        .find(|file| file.is_file())
        .unwrap_or_else(|| panic!("{name} is not installed: install the package {package} (see tests/run)"))
}

/// A domain as nova writes it and libvirt keeps it, with more in nova's metadata and these disks.
pub fn domain(uuid: &str, nova: &str, disks: &str) -> String {
    format!(
        r#"<!-- WARNING: THIS IS AN AUTO-GENERATED FILE. -->
<domain type='kvm'>
  <name>instance-0000000a</name>
  <uuid>{uuid}</uuid>
  <metadata>
    <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1">
      <nova:package version="1.0"/>
      <nova:flavor name="m1.tiny" id="1"><nova:swap>0</nova:swap><nova:ephemeral>0</nova:ephemeral></nova:flavor>
      {nova}
    </nova:instance>
  </metadata>
  <devices>
    {disks}
    <disk type='network'><source protocol='rbd' name='vms/x'/></disk>
  </devices>
</domain>"#
    )
}

/// A disk of a domain.
pub fn file_disk(path: &Path) -> String {
    format!(
        "<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='{}'/></disk>",
        path.display()
    )
}

/// Runs qemu-img with these arguments.
#[track_caller]
pub fn qemu_img<A: AsRef<OsStr>>(args: impl IntoIterator<Item = A>) {
    let output = std::process::Command::new(tool("qemu-img", "qemu-utils")).args(args).output().unwrap();
    assert!(output.status.success(), "{output:?}");
}

/// Makes an image with qemu-img, and the directories above it.
#[track_caller]
fn create(path: &Path, format: &str, options: &[&OsStr], size: &str) {
    fs_err::create_dir_all(path.parent().unwrap()).unwrap();
    let head = ["create", "-q", "-f", format].map(OsStr::new);
    qemu_img([&head, options, &[path.as_ref(), size.as_ref()]].concat());
}

/// Makes a raw image of that size, sparse.
pub fn raw(path: &Path, size: &str) {
    create(path, "raw", &[], size);
}

/// Makes a qcow2 image with that backing file name, as it stands. The backing file need not be there.
pub fn overlay(path: &Path, backing: impl AsRef<OsStr>) {
    overlay_with(path, backing, "cluster_size=512");
}

/// [`overlay`] with options of qemu-img's own, such as `compat=0.10`.
pub fn overlay_with(path: &Path, backing: impl AsRef<OsStr>, options: &str) {
    let options = ["-o", options, "-u", "-F", "raw", "-b"].map(OsStr::new);
    create(path, "qcow2", &[&options[..], &[backing.as_ref()]].concat(), "64k");
}

/// Makes a qcow2 image without a backing file.
pub fn plain_qcow2(path: &Path) {
    create(path, "qcow2", &["-o", "cluster_size=512"].map(OsStr::new), "64k");
}

/// Sets a file's mtime to so long ago.
pub fn set_age(path: &Path, age: Duration) {
    set_mtime(path, SystemTime::now() - age);
}

pub fn set_mtime(path: &Path, mtime: SystemTime) {
    fs_err::File::open(path).unwrap().file().set_modified(mtime).unwrap();
}

/// A file's mtime.
pub fn mtime(path: &Path) -> SystemTime {
    fs_err::metadata(path).unwrap().modified().unwrap()
}
