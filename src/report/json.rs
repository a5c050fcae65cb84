//! JSON: one object, its lists sorted by name; nova-imagecache-json(5) describes every field.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::fmt::Write as _;
use std::io::{self, Write};
use std::os::unix::ffi::OsStrExt as _;

use serde::ser::SerializeSeq as _;
use serde::{Serialize, Serializer};

use super::{FnameReport, PassReport, Pruned, ScanReport, Total};
use crate::cache_name::{CacheName, Kind};
use crate::evidence::CacheFile;
use crate::removal::Outcome;
use crate::verdict::{Code, Judged, Reason, Verdict};
use crate::warning::Warning;

/// The version of the format; it changes when a field is removed or means something else.
pub const SCHEMA_VERSION: u32 = 1;

/// Writes what `fname` found.
///
/// # Errors
/// Those of the output.
pub fn fname(output: &mut dyn Write, report: &FnameReport) -> io::Result<()> {
    #[derive(Serialize)]
    struct Object<F: Fn() -> I, I: Iterator<Item = File>> {
        schema_version: u32,
        #[serde(serialize_with = "each")]
        files: F,
    }
    #[derive(Serialize)]
    struct File {
        image_id: String,
        file_name: String,
        path: Option<String>,
        exists: Option<bool>,
    }
    let files = || {
        report.files.iter().map(|file| File {
            image_id: file.image_id.clone(),
            file_name: file.file_name.clone(),
            path: file.place.as_ref().map(|(path, _)| lossy(path)),
            exists: file.place.as_ref().and_then(|(_, exists)| *exists),
        })
    };
    write(output, &Object { schema_version: SCHEMA_VERSION, files })
}

/// Writes what `scan` found.
///
/// # Errors
/// Those of the output.
pub fn scan(output: &mut dyn Write, report: &ScanReport<'_>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Object<'a, F: Fn() -> I, I: Iterator<Item = File<'a>>> {
        schema_version: u32,
        command: &'static str,
        instances_path: String,
        cache_dir: String,
        #[serde(serialize_with = "each")]
        files: F,
        warnings: &'a [Warning],
        summary: Summary,
    }
    #[derive(Serialize)]
    struct Summary {
        #[serde(flatten)]
        total: Total,
        by_kind: BTreeMap<Kind, Total>,
    }
    let by_kind = report.by_kind();
    let object = Object {
        schema_version: SCHEMA_VERSION,
        command: "scan",
        instances_path: lossy(&report.layout.instances_path),
        cache_dir: lossy(report.layout.cache_dir()),
        files: || {
            report.files.iter().map(|(name, file)| {
                let age = file.stat.as_ref().ok().map(|stat| stat.mtime.age_at(report.now).as_secs());
                File::new(name, file, file.kind(name), age)
            })
        },
        warnings: report.warnings,
        summary: Summary { total: sum(&by_kind), by_kind },
    };
    write(output, &object)
}

/// Writes what `explain` or `prune` found.
///
/// # Errors
/// Those of the output.
pub fn pass(output: &mut dyn Write, report: &PassReport<'_>) -> io::Result<()> {
    #[derive(Serialize)]
    struct Object<'a, F: Fn() -> I, I: Iterator<Item = JudgedFile<'a>>> {
        schema_version: u32,
        command: &'static str,
        #[serde(skip_serializing_if = "Option::is_none")]
        dry_run: Option<bool>,
        instances_path: String,
        cache_dir: String,
        host: &'a str,
        inventory: Option<Sources<'a>>,
        complete: bool,
        #[serde(serialize_with = "each")]
        files: F,
        missing: Vec<Missing<'a>>,
        unlisted_directories: Vec<String>,
        unreadable: Vec<Unreadable<'a>>,
        warnings: &'a [Warning],
        summary: Summary,
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
    }
    #[derive(Serialize)]
    struct Unreadable<'a> {
        path: String,
        error: &'a str,
    }
    #[derive(Serialize)]
    struct Summary {
        #[serde(flatten)]
        total: Total,
        by_verdict: BTreeMap<Verdict, Total>,
        #[serde(skip_serializing_if = "Option::is_none")]
        by_outcome: Option<BTreeMap<Outcome, Total>>,
        #[serde(skip_serializing_if = "Option::is_none")]
        touched: Option<usize>,
    }
    let by_verdict = report.by_verdict();
    let object = Object {
        schema_version: SCHEMA_VERSION,
        command: report.command,
        dry_run: report.pruned.as_ref().map(|it| it.dry_run),
        instances_path: lossy(&report.layout.instances_path),
        cache_dir: lossy(report.layout.cache_dir()),
        host: report.host,
        inventory: report.inventory.map(|inventory| Sources {
            sources: &inventory.sources,
            instances: inventory.instances.len(),
            counted: report.judgement.counted,
        }),
        complete: report.judgement.complete,
        files: || report.files.iter().map(|file| JudgedFile::new(file, report.pruned.as_ref())),
        missing: report
            .missing
            .iter()
            .map(|it| Missing {
                name: lossy(&it.name),
                name_bytes: name_bytes(&it.name),
                reasons: &it.reasons,
            })
            .collect(),
        unlisted_directories: report.judgement.unlisted_directories.iter().map(lossy).collect(),
        unreadable: report
            .judgement
            .unreadable
            .iter()
            .map(|it| Unreadable { path: lossy(&it.path), error: &it.error })
            .collect(),
        warnings: report.warnings,
        summary: Summary {
            total: sum(&by_verdict),
            by_verdict,
            by_outcome: report.by_outcome(),
            touched: report.pruned.as_ref().map(|it| it.touched),
        },
    };
    write(output, &object)
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
}

impl<'a> File<'a> {
    fn new(name: &'a OsStr, file: &CacheFile, kind: Kind, age_seconds: Option<u64>) -> Self {
        let stat = file.stat.as_ref().ok();
        Self {
            name: lossy(name),
            name_bytes: name_bytes(name),
            path: lossy(&file.path),
            kind,
            size_bytes: stat.map(|it| it.size_bytes),
            disk_bytes: stat.map(|it| it.disk_bytes),
            mtime: stat.and_then(|it| it.mtime.rfc3339()),
            age_seconds,
            fingerprint: if kind == Kind::Other { None } else { CacheName::parse(name).fingerprint() },
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
    #[serde(skip_serializing_if = "Option::is_none")]
    outcome: Option<Outcome>,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<Option<&'a str>>,
}

impl<'a> JudgedFile<'a> {
    fn new(judged: &'a Judged<'a>, pruned: Option<&Pruned<'a>>) -> Self {
        let done = pruned.and_then(|it| it.done.get(judged.name));
        Self {
            file: File::new(judged.name, judged.file, judged.kind, judged.age.map(|it| it.as_secs())),
            minimum_age_seconds: judged.minimum_age.map(|it| it.as_secs()),
            verdict: judged.verdict,
            reasons: &judged.reasons,
            outcome: done.map(|it| it.outcome),
            error: done.map(|it| it.error.as_deref()),
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
        disks: Vec<String>,
    }
    serializer.collect_seq(reasons.iter().map(|it| Object {
        code: it.code,
        text: &it.text,
        images: &it.images,
        instances: &it.instances,
        disks: it.disks.iter().map(lossy).collect(),
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
    Ok(serde_json::to_writer_pretty(output, object)?)
}

fn sum<K>(totals: &BTreeMap<K, Total>) -> Total {
    totals.values().fold(Total::default(), |sum, it| Total {
        files: sum.files + it.files,
        disk_bytes: sum.disk_bytes + it.disk_bytes,
    })
}

fn lossy(name: impl AsRef<OsStr>) -> String {
    name.as_ref().to_string_lossy().into_owned()
}

/// A name that is not UTF-8, in hex.
fn name_bytes(name: &OsStr) -> Option<String> {
    name.to_str().is_none().then(|| {
        name.as_bytes().iter().fold(String::new(), |mut hex, byte| {
            // Writing to a String cannot fail.
            let _infallible = write!(hex, "{byte:02x}");
            hex
        })
    })
}
