//! An instances path of any size, made of real overlays.

use std::io::{Seek as _, SeekFrom, Write as _};
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::thread;
use std::time::{Duration, SystemTime};

use anyhow::{Context as _, Result, bail};
use fs_err::{File, OpenOptions};
use nova_imagecache::cache_name::cache_file_name;

/// What a filesystem gives out at once, in bytes: only blocks that are not zero are written, as by `cp --sparse`.
const BLOCK: usize = 4096;

/// A tree that can grow.
pub struct Tree {
    directory: PathBuf,
    /// How many instances it has, three files each: disk, disk.info and console.log.
    pub instances: usize,
    /// How many files its cache has.
    pub cache_files: usize,
    /// How many of them back disks, and what the overlays of each look like.
    overlays: Vec<Vec<u8>>,
}

impl Tree {
    /// Makes the cache, and one real overlay on each of its first `backing` files.
    pub fn new(directory: PathBuf, cache_files: usize, backing: usize) -> Result<Self> {
        let mut tree = Self { directory, instances: 0, cache_files: 0, overlays: Vec::new() };
        fs_err::create_dir_all(tree.cache_dir())?;
        tree.grow_cache(cache_files)?;
        tree.overlays = in_threads(0..backing, |index| tree.make_overlay(index))?;
        Ok(tree)
    }

    pub fn instances_path(&self) -> PathBuf {
        self.directory.join("instances")
    }

    /// The own inventory of all its instances.
    pub fn inventory(&self) -> PathBuf {
        self.directory.join("inventory.json")
    }

    pub fn disk(&self, instance: usize) -> PathBuf {
        self.instances_path().join(uuid("instance", instance)).join("disk")
    }

    fn cache_dir(&self) -> PathBuf {
        self.instances_path().join("_base")
    }

    /// Adds cache files: two of three are images, the third is a resized copy of the one before it. One of four is
    /// young.
    pub fn grow_cache(&mut self, cache_files: usize) -> Result<()> {
        let old = SystemTime::now() - Duration::from_secs(30 * 86_400);
        in_threads(self.cache_files..cache_files, |index| {
            let mut file = File::create(self.cache_dir().join(cache_file(index)))?;
            file.write_all(&[0x5a; BLOCK])?;
            file.set_len(1 << 24)?;
            if index % 4 != 0 {
                file.set_modified(old)?;
            }
            Ok(())
        })?;
        self.cache_files = cache_files;
        Ok(())
    }

    /// Makes the cache as it was, and so many files more that nothing uses and that are old. What can be removed has a
    /// lock file, for nova left one when it fetched the file.
    pub fn fill_cache(&mut self, unused: usize) -> Result<()> {
        let size = std::mem::take(&mut self.cache_files);
        self.grow_cache(size)?;
        let locks = self.instances_path().join("locks");
        fs_err::create_dir_all(&locks)?;
        let make_lock = |name: String| fs_err::write(locks.join(format!("nova-{name}")), "");
        (self.overlays.len()..size).map(cache_file).try_for_each(make_lock)?;
        let old = SystemTime::now() - Duration::from_secs(30 * 86_400);
        for index in 0..unused {
            let name = cache_file_name(&uuid("unused", index));
            let path = self.cache_dir().join(&name);
            make_lock(name)?;
            fs_err::write(&path, [0x5a; BLOCK])?;
            File::options().write(true).open(&path)?.set_modified(old)?;
        }
        Ok(())
    }

    fn make_overlay(&self, index: usize) -> Result<Vec<u8>> {
        let backing_file = self.cache_dir().join(cache_file(index));
        let overlay = self.directory.join(format!("overlay-{index}"));
        let made = Command::new("qemu-img")
            .args(["create", "-q", "-f", "qcow2", "-F", "raw", "-b"])
            .args([&backing_file, &overlay])
            .status()
            .context("cannot run qemu-img: install qemu-utils")?;
        if !made.success() {
            bail!("qemu-img create {}: {made}", overlay.display());
        }
        let bytes = fs_err::read(&overlay)?;
        fs_err::remove_file(&overlay)?;
        Ok(bytes)
    }

    /// Adds instances; each disk is a copy of one that qemu-img made, byte for byte, as fresh ones are.
    pub fn grow(&mut self, instances: usize) -> Result<()> {
        in_threads(self.instances..instances, |index| {
            let uuid = uuid("instance", index);
            let directory = self.instances_path().join(&uuid);
            fs_err::create_dir(&directory)?;
            write_sparsely(&directory.join("disk"), &self.overlays[index % self.overlays.len()])?;
            let info = format!("{{\"/var/lib/nova/instances/{uuid}/disk\": \"qcow2\"}}");
            fs_err::write(directory.join("disk.info"), info)?;
            let console = "[    0.000000] Linux version 6.1.0 (a guest's console)\n".repeat(150);
            fs_err::write(directory.join("console.log"), console)?;
            Ok(())
        })?;
        self.instances = instances;
        self.write_inventory()
    }

    fn write_inventory(&self) -> Result<()> {
        let mut file = std::io::BufWriter::new(File::create(self.inventory())?);
        for index in 0..self.instances {
            writeln!(
                file,
                "{}{{\"uuid\": \"{}\", \"name\": \"instance-{index:08x}\", \"host\": \"compute-1\", \
                 \"image_ref\": \"{}\", \"kernel_id\": null, \"ramdisk_id\": null, \"vm_state\": \"active\", \
                 \"task_state\": null, \"swap_mb\": 0, \"ephemeral_gb\": 0}}",
                if index == 0 { "[" } else { "," },
                uuid("instance", index),
                image_of(index % self.overlays.len()),
            )?;
        }
        writeln!(file, "]")?;
        Ok(file.flush()?)
    }
}

/// The name of a cache file by its number.
fn cache_file(index: usize) -> String {
    let fingerprint = cache_file_name(&image_of(index));
    if index % 3 == 2 { format!("{fingerprint}_20") } else { fingerprint }
}

/// The id of the image that a cache file belongs to.
fn image_of(cache_file: usize) -> String {
    uuid("image", if cache_file % 3 == 2 { cache_file - 1 } else { cache_file })
}

/// The same uuid for the same number on every run.
fn uuid(what: &str, index: usize) -> String {
    let hex = cache_file_name(&format!("{what} {index}"));
    format!("{}-{}-4{}-a{}-{}", &hex[..8], &hex[8..12], &hex[13..16], &hex[17..20], &hex[20..32])
}

fn write_sparsely(path: &Path, bytes: &[u8]) -> Result<()> {
    let mut file = OpenOptions::new().write(true).create_new(true).open(path)?;
    for (index, block) in bytes.chunks(BLOCK).enumerate() {
        if block.iter().any(|byte| *byte != 0) {
            file.seek(SeekFrom::Start((index * BLOCK) as u64))?;
            file.write_all(block)?;
        }
    }
    Ok(file.set_len(bytes.len() as u64)?)
}

/// Applies `work` to every number, on all processors; the results are in order.
fn in_threads<R: Send>(range: Range<usize>, work: impl Fn(usize) -> Result<R> + Sync) -> Result<Vec<R>> {
    let threads = thread::available_parallelism()?.get();
    let part = range.len().div_ceil(threads).max(1);
    let parts: Vec<Result<Vec<R>>> = thread::scope(|scope| {
        let started: Vec<_> = range
            .clone()
            .step_by(part)
            .map(|start| {
                let work = &work;
                let end = range.end.min(start + part);
                scope.spawn(move || (start..end).map(work).collect())
            })
            .collect();
        started
            .into_iter()
            .map(|it| it.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    });
    Ok(parts.into_iter().collect::<Result<Vec<_>>>()?.into_iter().flatten().collect())
}
