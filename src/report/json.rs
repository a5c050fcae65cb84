//! JSON: one object, its lists sorted by name; nova-imagecache-json(5) describes every field.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

use super::{ImageFile, PassReport, ScanReport, Total};
use crate::cache_name::{CacheName, Kind};
use crate::catalog::Catalog;
use crate::evidence::CacheFile;
use crate::filesystem::Space;
use crate::goal::Goal;
use crate::layout::Layout;
use crate::outcome::Outcome;
use crate::schema::SCHEMA_VERSION;
use crate::time::Timestamp;
use crate::verdict::{self, Code, Judged, Reason, Verdict};
use crate::warning::Warning;

/// Writes what `fname` found.
pub fn fname(output: &mut dyn Write, files: &[ImageFile]) -> io::Result<()> {
    #[derive(Serialize)]
    struct Object {
        schema_version: u32,
        files: Vec<File>,
    }
    #[derive(Serialize)]
    struct File {
        image_id: String,
        file_name: String,
        path: Option<String>,
        exists: Option<bool>,
    }
    let files = files.iter().map(|file| File {
        image_id: file.image_id.clone(),
        file_name: file.file_name.clone(),
        path: file.place.as_ref().map(|(path, _)| lossy(path)),
        exists: file.place.as_ref().and_then(|(_, exists)| *exists),
    });
    write(output, &Object { schema_version: SCHEMA_VERSION, files: files.collect() })
}

/// What all objects but that of `fname` begin with.
#[derive(Serialize)]
struct Head<'a> {
    schema_version: u32,
    command: &'static str,
    version: &'static str,
    generated_at: Option<String>,
    instances_path: String,
    cache_dir: String,
    filesystem: Option<Space>,
    warnings: &'a [Warning],
}

impl<'a> Head<'a> {
    fn new(
        command: &'static str,
        generated_at: Timestamp,
        (layout, filesystem): (&Layout, Option<Space>),
        warnings: &'a [Warning],
    ) -> Self {
        Self {
            schema_version: SCHEMA_VERSION,
            command,
            version: env!("CARGO_PKG_VERSION"),
            generated_at: generated_at.rfc3339(),
            instances_path: lossy(&layout.instances_path),
            cache_dir: lossy(layout.cache_dir()),
            filesystem,
            warnings,
        }
    }
}

/// Writes what `scan` found.
pub fn scan(output: &mut dyn Write, report: &ScanReport<'_>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Object<'a, F: Fn() -> I, I: Iterator<Item = File<'a>>> {
        #[serde(flatten)]
        head: Head<'a>,
        #[serde(serialize_with = "each")]
        files: F,
        summary: Summary,
    }
    #[derive(Serialize)]
    struct Summary {
        #[serde(flatten)]
        total: Total,
        by_kind: BTreeMap<Kind, Total>,
    }
    let by_kind = report.by_kind();
    let place = (report.layout, report.space);
    let object = Object {
        head: Head::new("scan", report.generated_at, place, report.warnings),
        files: || {
            report.files.iter().map(|(name, file)| {
                let age = file.stat.map(|stat| stat.mtime.age_at(report.generated_at).as_secs());
                File::new((name, file), file.kind(name), age, report.catalog)
            })
        },
        summary: Summary { total: sum(&by_kind), by_kind },
    };
    write(output, &object)
}

/// Writes what `explain` or `prune` found.
pub fn pass(output: &mut dyn Write, report: &PassReport<'_>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Object<'a, F: Fn() -> I, I: Iterator<Item = JudgedFile<'a>>> {
        #[serde(flatten)]
        head: Head<'a>,
        #[serde(flatten)]
        pruned: Option<PrunedHead>,
        complete: bool,
        policy: Policy<'a>,
        inventory: Option<Sources<'a>>,
        #[serde(serialize_with = "each")]
        files: F,
        missing: Vec<Missing<'a>>,
        unlisted_directories: Vec<Directory>,
        unreadable: Vec<Unreadable<'a>>,
        summary: Summary,
    }
    let object = Object {
        head: Head::new(report.command, report.generated_at, (report.layout, report.space), report.warnings),
        pruned: report.pruned.as_ref().map(|it| PrunedHead { dry_run: it.dry_run, goal: it.goal }),
        complete: report.is_complete,
        policy: Policy::new(report),
        inventory: report.inventory.map(|inventory| Sources {
            sources: &inventory.sources,
            instances: inventory.instances.len(),
            counted: report.judgement.counted,
        }),
        files: || report.files.iter().map(|file| JudgedFile::new(file, report)),
        missing: report.missing.iter().map(|it| Missing::new(it, report.catalog)).collect(),
        unlisted_directories: report.judgement.unlisted_directories.iter().map(Directory::new).collect(),
        unreadable: report.judgement.unreadable.iter().map(Unreadable::new).collect(),
        summary: Summary::new(report),
    };
    write(output, &object)
}

#[derive(Serialize)]
struct PrunedHead {
    dry_run: bool,
    goal: Option<Goal>,
}

#[derive(Serialize)]
struct Policy<'a> {
    host: &'a str,
    original_minimum_age_seconds: u64,
    resized_minimum_age_seconds: u64,
    ignore_unlisted: bool,
    partials: bool,
    as_of: Option<String>,
}

impl<'a> Policy<'a> {
    fn new(report: &'a PassReport<'_>) -> Self {
        let policy = report.policy;
        Self {
            host: &policy.host,
            original_minimum_age_seconds: policy.original_minimum_age.as_secs(),
            resized_minimum_age_seconds: policy.resized_minimum_age.as_secs(),
            ignore_unlisted: policy.ignore_unlisted,
            partials: policy.partials,
            as_of: report.as_of.and_then(Timestamp::rfc3339),
        }
    }
}

#[derive(Serialize)]
struct Sources<'a> {
    sources: &'a [String],
    instances: usize,
    counted: usize,
}

#[derive(Serialize)]
struct Missing<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
    #[serde(serialize_with = "reasons")]
    reasons: &'a [Reason<'a>],
    image: Option<Image<'a>>,
    downloadable: Option<bool>,
}

impl<'a> Missing<'a> {
    fn new(missing: &'a verdict::Missing<'a>, catalog: &'a Catalog<'a>) -> Self {
        Self {
            name: lossy(&missing.name),
            name_bytes: name_bytes(&missing.name),
            reasons: &missing.reasons,
            image: Image::of(&missing.name, catalog),
            downloadable: catalog.downloadable(&missing.name, CacheName::parse(&missing.name).kind()),
        }
    }
}

#[derive(Serialize)]
struct Directory {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
    disk_bytes: u64,
    mtime: Option<String>,
    keeps: Vec<String>,
}

impl Directory {
    fn new(directory: &verdict::UnlistedDirectory<'_>) -> Self {
        Self {
            name: lossy(directory.name),
            name_bytes: name_bytes(directory.name),
            disk_bytes: directory.disk_bytes,
            mtime: directory.mtime.and_then(Timestamp::rfc3339),
            keeps: directory.keeps.iter().map(lossy).collect(),
        }
    }
}

#[derive(Serialize)]
struct Unreadable<'a> {
    path: String,
    error: &'a str,
    blocks: bool,
}

impl<'a> Unreadable<'a> {
    fn new(unreadable: &'a verdict::Unreadable) -> Self {
        Self { path: lossy(&unreadable.path), error: &unreadable.error, blocks: unreadable.blocks }
    }
}

#[derive(Serialize)]
struct Summary {
    #[serde(flatten)]
    total: Total,
    by_verdict: BTreeMap<Verdict, Total>,
    not_downloadable: Total,
    #[serde(skip_serializing_if = "Option::is_none")]
    by_outcome: Option<BTreeMap<Outcome, Total>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    touched: Option<usize>,
}

impl Summary {
    fn new(report: &PassReport<'_>) -> Self {
        let by_verdict = report.by_verdict();
        Self {
            total: sum(&by_verdict),
            by_verdict,
            not_downloadable: report.not_downloadable(|_| true),
            by_outcome: report.by_outcome(),
            touched: report.pruned.as_ref().map(|it| it.touched),
        }
    }
}

#[derive(Serialize)]
struct Image<'a> {
    id: &'a str,
    name: Option<&'a str>,
    status: Option<&'a str>,
}

impl<'a> Image<'a> {
    fn of(name: &OsStr, catalog: &'a Catalog<'a>) -> Option<Self> {
        let image = catalog.image(name)?;
        Some(Self { id: &image.id, name: image.name.as_deref(), status: image.status.as_deref() })
    }
}

#[derive(Serialize)]
struct File<'a> {
    name: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    name_bytes: Option<String>,
    path: String,
    kind: Kind,
    size_bytes: Option<u64>,
    disk_bytes: Option<u64>,
    mtime: Option<String>,
    age_seconds: Option<u64>,
    fingerprint: Option<&'a str>,
    image: Option<Image<'a>>,
    downloadable: Option<bool>,
}

impl<'a> File<'a> {
    fn new(
        (name, file): (&'a OsStr, &CacheFile),
        kind: Kind,
        age_seconds: Option<u64>,
        catalog: &'a Catalog<'a>,
    ) -> Self {
        let stat = file.stat;
        let is_other = kind == Kind::Other;
        Self {
            name: lossy(name),
            name_bytes: name_bytes(name),
            path: lossy(&file.path),
            kind,
            size_bytes: stat.map(|it| it.size_bytes),
            disk_bytes: stat.map(|it| it.disk_bytes),
            mtime: stat.and_then(|it| it.mtime.rfc3339()),
            age_seconds,
            fingerprint: if is_other { None } else { CacheName::parse(name).fingerprint() },
            image: if is_other { None } else { Image::of(name, catalog) },
            downloadable: catalog.downloadable(name, kind),
        }
    }
}

#[derive(Serialize)]
struct JudgedFile<'a> {
    #[serde(flatten)]
    file: File<'a>,
    minimum_age_seconds: Option<u64>,
    verdict: Verdict,
    #[serde(serialize_with = "reasons")]
    reasons: &'a [Reason<'a>],
    #[serde(flatten)]
    pruned: Option<PrunedFile<'a>>,
}

#[derive(Serialize)]
struct PrunedFile<'a> {
    outcome: Outcome,
    error: Option<&'a str>,
}

impl<'a> JudgedFile<'a> {
    fn new(judged: &'a Judged<'a>, report: &'a PassReport<'a>) -> Self {
        let age = judged.age.map(|it| it.as_secs());
        Self {
            file: File::new((judged.name, judged.file), judged.kind, age, report.catalog),
            minimum_age_seconds: judged.minimum_age.map(|it| it.as_secs()),
            verdict: judged.verdict,
            reasons: &judged.reasons,
            pruned: report
                .done(judged)
                .map(|it| PrunedFile { outcome: it.outcome, error: it.error.as_deref() }),
        }
    }
}

fn reasons<S: Serializer>(reasons: &[Reason<'_>], serializer: S) -> Result<S::Ok, S::Error> {
    #[derive(Serialize)]
    struct Object<'a> {
        code: Code,
        text: &'a str,
        images: &'a [&'a str],
        instances: &'a [&'a str],
        disks: Vec<Cow<'a, str>>,
    }
    serializer.collect_seq(reasons.iter().map(|it| Object {
        code: it.code,
        text: &it.text,
        images: &it.images,
        instances: &it.instances,
        disks: it.disks.iter().map(|it| it.to_string_lossy()).collect(),
    }))
}

/// Serializes items as they are made, so that no list of them stands in memory.
fn each<S: Serializer, T: Serialize, I: Iterator<Item = T>>(
    items: impl Fn() -> I,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    let mut sequence = serializer.serialize_seq(None)?;
    for item in items() {
        sequence.serialize_element(&item)?;
    }
    sequence.end()
}

fn write(output: &mut dyn Write, object: &impl Serialize) -> io::Result<()> {
    // Not through `dyn` for each of the many small writes, of which indentation alone takes several a line.
    let mut output = BufWriter::with_capacity(1 << 16, output);
    serde_json::to_writer_pretty(&mut output, object)?;
    output.flush()
}

fn sum<K>(totals: &BTreeMap<K, Total>) -> Total {
    totals.values().fold(Total::default(), |sum, it| sum.plus(*it))
}

fn lossy(name: impl AsRef<OsStr>) -> String {
    name.as_ref().to_string_lossy().into_owned()
}

/// A name that is not UTF-8, in hex.
fn name_bytes(name: &OsStr) -> Option<String> {
    name.to_str().is_none().then(|| {
        name.as_bytes().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            write!(hex, "{byte:02x}").ok();
            hex
        })
    })
}
