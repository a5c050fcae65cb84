//! What the tests of hostile disks and broken storage share: a world to spoil, and a program that must end.

// Each test file takes what it needs.
#![allow(dead_code)]

use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::time::{Duration, SystemTime};

use serde_json::Value;

/// No run may take longer, however hostile what it reads is.
pub const LIMIT: Duration = Duration::from_secs(60);

/// An instances path of its own, with a cache directory.
pub struct World {
    /// Removes everything at the end.
    _directory: tempfile::TempDir,
    /// The directory around the instances path, for what lies elsewhere.
    pub outside: PathBuf,
    /// The instances path.
    pub instances: PathBuf,
}

impl World {
    pub fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let outside = fs_err::canonicalize(directory.path()).unwrap();
        let instances = outside.join("instances");
        fs_err::create_dir_all(instances.join("_base")).unwrap();
        Self { _directory: directory, outside, instances }
    }

    pub fn base(&self, name: impl AsRef<OsStr>) -> PathBuf {
        self.instances.join("_base").join(name.as_ref())
    }

    /// A cache file of 4 KiB, long unused.
    pub fn old_base(&self, name: impl AsRef<OsStr>) -> PathBuf {
        let path = self.base(name);
        fs_err::write(&path, [0; 4096]).unwrap();
        age(&path);
        path
    }

    /// A file in an instance directory, which is made where it is not there.
    pub fn disk(&self, instance: impl AsRef<OsStr>, name: &str, content: &[u8]) -> PathBuf {
        let directory = self.instances.join(instance.as_ref());
        fs_err::create_dir_all(&directory).unwrap();
        let path = directory.join(name);
        fs_err::write(&path, content).unwrap();
        path
    }

    /// Everything below, with type, size and mtime, and what links say: equal before and after what changes nothing.
    pub fn snapshot(&self) -> Vec<(PathBuf, String)> {
        let mut entries = Vec::new();
        let mut next = vec![self.outside.clone()];
        while let Some(path) = next.pop() {
            let metadata = fs_err::symlink_metadata(&path).unwrap();
            if metadata.is_dir() {
                next.extend(fs_err::read_dir(&path).unwrap().map(|it| it.unwrap().path()));
            }
            let target = if metadata.is_symlink() { Some(fs_err::read_link(&path).unwrap()) } else { None };
            let what = format!(
                "{:?} {} {:?} {target:?}",
                metadata.file_type(),
                metadata.len(),
                metadata.modified().ok()
            );
            entries.push((path, what));
        }
        entries.sort();
        entries
    }
}

/// Makes a file long unused.
pub fn age(path: &Path) {
    let long_ago = SystemTime::now() - Duration::from_secs(90 * 24 * 3600);
    fs_err::OpenOptions::new().write(true).open(path).unwrap().into_file().set_modified(long_ago).unwrap();
}

/// An instance of an own inventory, on no particular host.
pub fn inventory(uuids: &[&str]) -> String {
    let rows: Vec<Value> = uuids.iter().map(|uuid| serde_json::json!({ "uuid": uuid })).collect();
    Value::from(rows).to_string()
}

/// What a run said. It has ended by itself: with an exit code of the contract, and without a panic.
pub struct Said {
    pub code: i32,
    pub stdout: String,
    pub stderr: String,
}

impl Said {
    pub fn json(&self) -> Value {
        serde_json::from_str(&self.stdout)
            .unwrap_or_else(|error| panic!("no JSON: {error}\n{}\n{}", self.stdout, self.stderr))
    }

    /// The verdict on a file, from the JSON.
    pub fn verdict(&self, name: &str) -> String {
        let json = self.json();
        let files = json["files"].as_array().unwrap();
        let file =
            files.iter().find(|it| it["name"] == name).unwrap_or_else(|| panic!("no {name}: {json:#}"));
        file["verdict"].as_str().unwrap().to_owned()
    }

    /// The files that one could remove, from the JSON.
    pub fn removable(&self) -> Vec<String> {
        let json = self.json();
        let files = json["files"].as_array().unwrap().iter();
        files
            .filter(|it| it["verdict"] == "removable")
            .map(|it| it["name"].as_str().unwrap().to_owned())
            .collect()
    }

    /// The paths that could not be read, from the JSON.
    pub fn unreadable(&self) -> Vec<String> {
        let json = self.json();
        let paths = json["unreadable"].as_array().unwrap().iter();
        paths.map(|it| it["path"].as_str().unwrap().to_owned()).collect()
    }
}

/// The program, with nothing of the environment of whoever runs the tests.
pub fn program() -> assert_cmd::Command {
    let mut command = assert_cmd::cargo_bin_cmd!("nova-imagecache");
    command.env_clear().timeout(LIMIT);
    command
}

pub fn run<I, S>(args: I) -> Said
where
    I: IntoIterator<Item = S>,
    S: AsRef<OsStr>,
{
    said(&program().args(args).output().unwrap())
}

/// `explain` as JSON, with more arguments.
pub fn explain(world: &World, args: &[&str]) -> Said {
    let mut command = program();
    command.args(["explain", "--host", "here", "--format", "json", "-p"]).arg(&world.instances).args(args);
    said(&command.output().unwrap())
}

/// Checks what holds for every run.
pub fn said(output: &Output) -> Said {
    let stderr = String::from_utf8_lossy(&output.stderr).into_owned();
    let Some(code) = output.status.code() else {
        panic!("did not end by itself within {LIMIT:?}: {}\n{stderr}", output.status)
    };
    assert!((0..=3).contains(&code), "exit code {code}\n{stderr}");
    assert!(!stderr.contains("panicked"), "{stderr}");
    Said { code, stdout: String::from_utf8_lossy(&output.stdout).into_owned(), stderr }
}

/// Whether this is root, whom permissions do not stop.
pub fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// A tool of the system that a test cannot do without.
pub fn tool(name: &str, package: &str) -> Command {
    let is_there = std::env::split_paths(&std::env::var_os("PATH").unwrap_or_default())
        .any(|directory| directory.join(name).is_file());
    assert!(is_there, "{name} is missing: apt-get install {package}");
    Command::new(name)
}

/// A version 3 qcow2 header with 64 KiB clusters that names a backing file, and nothing else of an image.
pub fn qcow2_naming(name: &[u8]) -> Vec<u8> {
    let mut head = Vec::new();
    head.extend(b"QFI\xfb");
    head.extend(3_u32.to_be_bytes());
    head.extend(if name.is_empty() { 0_u64 } else { 112 }.to_be_bytes());
    head.extend(u32::try_from(name.len()).unwrap().to_be_bytes());
    head.extend(16_u32.to_be_bytes());
    head.resize(100, 0);
    head.extend(104_u32.to_be_bytes());
    head.resize(112, 0);
    head.extend(name);
    head.resize(4096, 0);
    head
}

/// Like [`qcow2_naming`], for a path.
pub fn overlay_on(backing_file: impl AsRef<Path>) -> Vec<u8> {
    qcow2_naming(backing_file.as_ref().as_os_str().as_bytes())
}

/// A generator of numbers that are the same in every run: SplitMix64.
pub struct Numbers(pub u64);

impl Numbers {
    pub fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    /// A number below `end`.
    pub fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    pub fn pick<'a, T>(&mut self, items: &'a [T]) -> &'a T {
        &items[self.below(items.len())]
    }
}
