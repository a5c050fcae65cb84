//! JSON: one object, its lists sorted by name; nova-imagecache-json(5) describes every field.

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufWriter, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use serde::{Serialize, Serializer};
use serde_json::{Value, json};

use super::{Entry, ImageFile, Pass, Report, Total};
use crate::cache_name::{CacheName, Kind};
use crate::catalog::Catalog;
use crate::outcome::Outcome;
use crate::schema::SCHEMA_VERSION;
use crate::verdict::{Code, Reason, Verdict};

/// Writes what `fname` found.
pub fn fname(output: &mut dyn Write, files: &[ImageFile]) -> io::Result<()> {
    write(output, json!({ "schema_version": SCHEMA_VERSION, "files": files }))
}

/// Writes what `scan`, `explain` or `prune` found.
pub fn report(output: &mut dyn Write, report: &Report<'_>) -> io::Result<()> {
    let warnings = report.warnings.iter().map(|it| {
        let (code, level) = it.code_and_level();
        json!({ "code": code, "level": level, "text": it.to_string() })
    });
    let mut head = json!({
        "schema_version": SCHEMA_VERSION,
        "command": report.command,
        "version": env!("CARGO_PKG_VERSION"),
        "generated_at": report.generated_at.rfc3339(),
        "instances_path": report.layout.instances_path.to_string_lossy(),
        "cache_dir": report.layout.cache_dir().to_string_lossy(),
        "filesystem": super::space_of(report.layout),
        "warnings": warnings.collect::<Value>(),
    });
    if let Some(hex) = hex(report.layout.cache_dir().as_os_str()) {
        head["cache_dir_bytes"] = hex.into();
    }
    if let Some(pruned) = report.pruned {
        head["dry_run"] = json!(pruned.dry_run);
        head["goal"] = json!(pruned.goal);
    }
    let mut tail = json!({});
    let mut summary = json!(Total::of(&report.files));
    match &report.pass {
        None => summary["by_kind"] = totals(Kind::ALL, report, |it| Some(it.file.kind(it.name))),
        Some(pass) => {
            add_head(&mut head, pass);
            add_lists(&mut tail, pass, report.catalog);
            summary["by_verdict"] = totals(Verdict::ALL, report, |it| it.judged.map(|it| it.verdict));
            summary["not_downloadable"] = json!(Total::of(report.lost()));
        }
    }
    if let Some(pruned) = report.pruned {
        summary["by_outcome"] = totals(Outcome::ALL, report, |it| it.done.map(|it| it.outcome));
        summary["touched"] = json!(pruned.touched);
    }
    tail["summary"] = summary;
    write(output, Document { head, files: || report.files.iter().map(|it| file(it, report)), tail })
}

fn add_head(head: &mut Value, pass: &Pass<'_>) {
    head["complete"] = json!(pass.is_complete);
    head["policy"] = json!({
        "host": pass.policy.host,
        "original_minimum_age_seconds": pass.policy.original_minimum_age.as_secs(),
        "resized_minimum_age_seconds": pass.policy.resized_minimum_age.as_secs(),
        "ignore_unlisted": pass.policy.ignore_unlisted,
        "partials": pass.policy.partials,
        "as_of": pass.as_of.map(|it| it.rfc3339()),
    });
    let counted = pass.judgement.counted;
    head["inventory"] = json!(
        pass.inventory
            .map(|it| json!({ "sources": it.sources, "instances": it.instances.len(), "counted": counted }))
    );
}

/// The lists that follow the files.
fn add_lists(tail: &mut Value, pass: &Pass<'_>, catalog: &Catalog<'_>) {
    let missing = pass.missing.iter().map(|it| {
        let mut missing = named(&it.name);
        missing["reasons"] = json!(reasons(&it.reasons));
        missing["image"] = json!(catalog.image(&it.name));
        missing["downloadable"] = json!(catalog.downloadable(&it.name, CacheName::parse(&it.name).kind));
        missing
    });
    let directories = pass.judgement.unlisted_directories.iter().map(|it| {
        let mut directory = named(it.name);
        directory["disk_bytes"] = json!(it.disk_bytes);
        directory["mtime"] = json!(it.mtime.map(|it| it.rfc3339()));
        directory["keeps"] = it.keeps.iter().map(|it| it.to_string_lossy()).collect();
        directory
    });
    let unreadable = pass.judgement.unreadable.iter();
    let unreadable = unreadable
        .map(|it| json!({ "path": it.path.to_string_lossy(), "error": it.error, "blocks": it.blocks }));
    tail["missing"] = missing.collect();
    tail["unlisted_directories"] = directories.collect();
    tail["unreadable"] = unreadable.collect();
}

/// The totals per key, every key among them.
fn totals<K: Copy + Ord + Serialize>(
    keys: &[K],
    report: &Report<'_>,
    key_of: impl Fn(&Entry<'_>) -> Option<K>,
) -> Value {
    let total = |key: K| Total::of(report.files.iter().filter(|it| key_of(it) == Some(key)));
    json!(keys.iter().map(|key| (*key, total(*key))).collect::<BTreeMap<K, Total>>())
}

fn file<'a>(it: &Entry<'a>, report: &Report<'_>) -> File<'a> {
    let kind = it.file.kind(it.name);
    let stat = it.file.stat;
    let fingerprint = CacheName::parse(it.name).fingerprint.filter(|_| kind != Kind::Other);
    let mut file = named(it.name);
    file["path"] = json!(it.file.path.to_string_lossy());
    file["kind"] = json!(kind);
    file["size_bytes"] = json!(stat.map(|it| it.size_bytes));
    file["disk_bytes"] = json!(stat.map(|it| it.disk_bytes));
    file["mtime"] = json!(stat.map(|it| it.mtime.rfc3339()));
    file["age_seconds"] = json!(report.age(it).map(|it| it.as_secs()));
    file["fingerprint"] = json!(fingerprint);
    file["image"] = json!(fingerprint.and_then(|_| report.catalog.image(it.name)));
    file["downloadable"] = json!(report.downloadable(it));
    let mut done = json!({});
    if let Some(judged) = it.judged {
        file["minimum_age_seconds"] = json!(judged.minimum_age.map(|it| it.as_secs()));
        file["verdict"] = json!(judged.verdict);
    }
    if let Some(it) = it.done {
        done = json!({ "outcome": it.outcome, "error": it.error });
    }
    File { facts: file, reasons: it.judged.map(|it| reasons(&it.reasons)), done }
}

fn reasons<'a>(reasons: &'a [Reason<'a>]) -> Vec<PrintedReason<'a>> {
    let printed = |Reason { code, text, images, instances, disks }: &'a Reason<'a>| PrintedReason {
        code: *code,
        text,
        images,
        instances,
        disks,
    };
    reasons.iter().map(printed).collect()
}

/// The name of a file; one that is not UTF-8 in hex too.
fn named(name: &OsStr) -> Value {
    let mut object = json!({ "name": name.to_string_lossy() });
    if let Some(hex) = hex(name) {
        object["name_bytes"] = hex.into();
    }
    object
}

/// What is not UTF-8, in hex.
fn hex(name: &OsStr) -> Option<String> {
    let hex = || name.as_bytes().iter().map(|byte| format!("{byte:02x}")).collect();
    name.to_str().is_none().then(hex)
}

/// A file of the cache. The reasons name every instance and disk, so that they are not copied before they are written.
#[derive(Serialize)]
struct File<'a> {
    #[serde(flatten)]
    facts: Value,
    #[serde(skip_serializing_if = "Option::is_none")]
    reasons: Option<Vec<PrintedReason<'a>>>,
    #[serde(flatten)]
    done: Value,
}

#[derive(Serialize)]
struct PrintedReason<'a> {
    code: Code,
    text: &'a str,
    images: &'a [&'a str],
    instances: &'a [&'a str],
    #[serde(serialize_with = "lossy")]
    disks: &'a [&'a Path],
}

fn lossy<S: Serializer>(paths: &[&Path], serializer: S) -> Result<S::Ok, S::Error> {
    // What is UTF-8 is found to be so faster by `to_str`.
    serializer.collect_seq(paths.iter().map(|it| it.to_str().map_or_else(|| it.to_string_lossy(), Cow::from)))
}

/// What is printed. The list of files is made as it is written, so that it does not stand in memory.
#[derive(Serialize)]
struct Document<F: Fn() -> I, I: Iterator<Item: Serialize>> {
    #[serde(flatten)]
    head: Value,
    #[serde(serialize_with = "each")]
    files: F,
    #[serde(flatten)]
    tail: Value,
}

fn each<S: Serializer, I: Iterator<Item: Serialize>>(
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
