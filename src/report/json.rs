//! JSON: one object, its lists sorted by name; nova-imagecache-json(5) describes every field.

use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::time::Duration;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{Head, ImageFile, PassReport, ScanReport, Total};
use crate::cache_name::{CacheName, Kind};
use crate::catalog::Catalog;
use crate::evidence::CacheFile;
use crate::schema::SCHEMA_VERSION;
use crate::verdict::{Judged, Reason};

/// Writes what `fname` found.
pub fn fname(output: &mut dyn Write, files: &[ImageFile]) -> io::Result<()> {
    let head = json!({ "schema_version": SCHEMA_VERSION });
    let file = |it: &ImageFile| {
        json!({
            "image_id": it.image_id,
            "file_name": it.file_name,
            "path": it.path.as_ref().map(|it| it.to_string_lossy()),
            "exists": it.exists,
        })
    };
    write(output, Document { head, files: || files.iter().map(file), tail: Value::Null })
}

/// Writes what `scan` found.
pub fn scan(output: &mut dyn Write, report: &ScanReport<'_>) -> io::Result<()> {
    let head = head(&report.head);
    let now = report.head.generated_at;
    let age = |file: &CacheFile| file.stat.as_ref().ok().map(|stat| stat.mtime.age_at(now));
    let files = || report.files.iter().map(|(name, it)| file((name, it), age(it), report.catalog));
    let total = Total::of(report.files.iter().map(|(_, file)| *file));
    let tail = json!({ "summary": merged([json!(total), json!({ "by_kind": report.by_kind() })]) });
    write(output, Document { head, files, tail })
}

/// Writes what `explain` or `prune` found.
pub fn pass(output: &mut dyn Write, report: &PassReport<'_>) -> io::Result<()> {
    let pruned = report.pruned.as_ref();
    let policy = report.policy;
    let judgement = report.judgement;
    let head = merged([
        head(&report.head),
        pruned.map_or(Value::Null, |it| json!({ "dry_run": it.dry_run, "goal": it.goal })),
        json!({
            "complete": report.is_complete,
            "policy": {
                "host": policy.host,
                "original_minimum_age_seconds": policy.original_minimum_age.as_secs(),
                "resized_minimum_age_seconds": policy.resized_minimum_age.as_secs(),
                "ignore_unlisted": policy.ignore_unlisted,
                "partials": policy.partials,
                "as_of": report.as_of.map(|it| it.rfc3339()),
            },
            "inventory": report.inventory.map(|it| json!({
                "sources": it.sources,
                "instances": it.instances.len(),
                "counted": judgement.counted,
            })),
        }),
    ]);
    let missing = report.missing.iter().map(|it| {
        let fields = json!({
            "reasons": reasons(&it.reasons),
            "image": report.catalog.image(&it.name),
            "downloadable": report.catalog.downloadable(&it.name, CacheName::parse(&it.name).kind()),
        });
        merged([named(&it.name), fields])
    });
    let unlisted_directories = judgement.unlisted_directories.iter().map(|it| {
        let fields = json!({
            "disk_bytes": it.disk_bytes,
            "mtime": it.mtime.map(|it| it.rfc3339()),
            "keeps": it.keeps.iter().map(|it| it.to_string_lossy()).collect::<Value>(),
        });
        merged([named(it.name), fields])
    });
    let unreadable = judgement.unreadable.iter();
    let unreadable = unreadable
        .map(|it| json!({ "path": it.path.to_string_lossy(), "error": it.error, "blocks": it.blocks }));
    let summary = merged([
        json!(Total::of(report.files.iter().map(|it| it.file))),
        json!({ "by_verdict": report.by_verdict(), "not_downloadable": report.not_downloadable(|_| true) }),
        pruned
            .map_or(Value::Null, |it| json!({ "by_outcome": report.by_outcome(it), "touched": it.touched })),
    ]);
    let tail = json!({
        "missing": missing.collect::<Value>(),
        "unlisted_directories": unlisted_directories.collect::<Value>(),
        "unreadable": unreadable.collect::<Value>(),
        "summary": summary,
    });
    write(output, Document { head, files: || report.files.iter().map(|it| judged(it, report)), tail })
}

fn head(head: &Head<'_>) -> Value {
    let warnings = head.warnings.iter().map(|it| {
        let (code, level) = it.code_and_level();
        json!({ "code": code, "level": level, "text": it.to_string() })
    });
    json!({
        "schema_version": SCHEMA_VERSION,
        "command": head.command,
        "version": env!("CARGO_PKG_VERSION"),
        "generated_at": head.generated_at.rfc3339(),
        "instances_path": head.layout.instances_path.to_string_lossy(),
        "cache_dir": head.layout.cache_dir().to_string_lossy(),
        "filesystem": head.space,
        "warnings": warnings.collect::<Value>(),
    })
}

fn judged(judged: &Judged<'_>, report: &PassReport<'_>) -> Value {
    let fields = json!({
        "minimum_age_seconds": judged.minimum_age.map(|it| it.as_secs()),
        "verdict": judged.verdict,
        "reasons": reasons(&judged.reasons),
    });
    let done = report.done(judged).map(|it| json!({ "outcome": it.outcome, "error": it.error }));
    let file = file((judged.name, judged.file), judged.age, report.catalog);
    merged([file, fields, done.unwrap_or_default()])
}

fn file((name, file): (&OsStr, &CacheFile), age: Option<Duration>, catalog: &Catalog<'_>) -> Value {
    let kind = file.kind(name);
    let stat = file.stat.as_ref().ok();
    let fingerprint = CacheName::parse(name).fingerprint().filter(|_| kind != Kind::Other);
    let fields = json!({
        "path": file.path.to_string_lossy(),
        "kind": kind,
        "size_bytes": stat.map(|it| it.size_bytes),
        "disk_bytes": stat.map(|it| it.disk_bytes),
        "mtime": stat.map(|it| it.mtime.rfc3339()),
        "age_seconds": age.map(|it| it.as_secs()),
        "fingerprint": fingerprint,
        "image": fingerprint.and_then(|_| catalog.image(name)),
        "downloadable": catalog.downloadable(name, kind),
    });
    merged([named(name), fields])
}

fn reasons(reasons: &[Reason<'_>]) -> Value {
    let reason = |it: &Reason<'_>| {
        json!({
            "code": it.code,
            "text": it.text,
            "images": it.images,
            "instances": it.instances,
            "disks": it.disks.iter().map(|it| it.to_string_lossy()).collect::<Value>(),
        })
    };
    reasons.iter().map(reason).collect()
}

/// The name of a file; one that is not UTF-8 in hex too.
fn named(name: &OsStr) -> Value {
    let mut object = json!({ "name": name.to_string_lossy() });
    if name.to_str().is_none() {
        let hex: String = name.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
        object["name_bytes"] = hex.into();
    }
    object
}

/// One object with the fields of all of these; null has none.
fn merged<const N: usize>(objects: [Value; N]) -> Value {
    let mut merged = serde_json::Map::new();
    for object in objects {
        if let Value::Object(fields) = object {
            merged.extend(fields);
        }
    }
    merged.into()
}

/// What is printed. The list of files is made as it is written, so that it does not stand in memory.
#[derive(Serialize)]
struct Document<F: Fn() -> I, I: Iterator<Item = Value>> {
    #[serde(flatten)]
    head: Value,
    #[serde(serialize_with = "each")]
    files: F,
    #[serde(flatten)]
    tail: Value,
}

fn each<S: Serializer, I: Iterator<Item = Value>>(
    items: impl Fn() -> I,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(items())
}

fn write(output: &mut dyn Write, document: impl Serialize) -> io::Result<()> {
    // Not through `dyn` for each of the many small writes, of which indentation alone takes several a line.
    let mut output = BufWriter::with_capacity(1 << 16, output);
    serde_json::to_writer_pretty(&mut output, &document)?;
    output.flush()
}
