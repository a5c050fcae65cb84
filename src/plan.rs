//! A plan: the JSON of a dry run, reviewed, as the most that a prune may remove.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fmt::Display;
use std::os::unix::ffi::OsStringExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use crate::cache_name::set_aside_name;
use crate::input::{MOST, read_file};
use crate::layout::Layout;
use crate::schema::SCHEMA_VERSION;
use crate::time::{ForPeople, Timestamp};
use crate::verdict::{Judged, Judgement, Policy, is_same_host};
use crate::warning::Warning;

/// The files that a dry run would have removed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    files: BTreeMap<OsString, File>,
    judged_by: Option<JudgedBy>,
}

/// The settings that a plan was judged by.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct JudgedBy {
    host: String,
    original_minimum_age_seconds: u64,
    resized_minimum_age_seconds: u64,
    ignore_unlisted: bool,
    partials: bool,
    as_of: Option<String>,
}

#[derive(Deserialize)]
struct Document {
    command: String,
    #[serde(default)]
    dry_run: bool,
    instances_path: String,
    cache_dir: String,
    cache_dir_bytes: Option<String>,
    policy: Option<JudgedBy>,
    files: Vec<File>,
}

/// What a plan says of a file: enough to tell another one of the same name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
struct File {
    name: String,
    name_bytes: Option<String>,
    size_bytes: Option<u64>,
    /// As the report wrote it, so that no digit is lost.
    mtime: Option<String>,
    outcome: String,
}

impl Plan {
    /// Reads a plan from a file.
    ///
    /// # Errors
    /// Those of [`Plan::parse`], and where the file cannot be read.
    pub fn load(file: &Path, layout: &Layout) -> Result<Self> {
        let opened = fs_err::File::open(file)
            .context("cannot read the plan: give a file made by prune --dry-run --format json")?;
        read_file(opened, MOST)
            .and_then(|text| Self::parse(&text, layout))
            .with_context(|| format!("plan {}", file.display()))
    }

    /// Reads a plan for an instances path.
    ///
    /// # Errors
    /// Where the text is not what a dry run of this instances path prints.
    pub fn parse(text: &[u8], layout: &Layout) -> Result<Self> {
        // The version first: a later one may have another shape.
        #[derive(Deserialize)]
        struct Version {
            schema_version: u32,
        }
        const WHAT: &str = "not the output of prune --dry-run --format json";
        let Ok(version) = serde_json::from_slice::<Version>(text) else { bail!("{WHAT}: create a new plan") };
        if version.schema_version != SCHEMA_VERSION {
            bail!(
                "schema_version {}: only {SCHEMA_VERSION} is known: create a new plan",
                version.schema_version
            );
        }
        let mut deserializer = serde_json::Deserializer::from_slice(text);
        let document: Document = serde_path_to_error::deserialize(&mut deserializer)
            .with_context(|| format!("{WHAT}: create a new plan"))?;
        if document.command != "prune" || !document.dry_run {
            bail!("{WHAT}: create it with that command");
        }
        let here = layout.cache_dir();
        let there = exact(&document.cache_dir, document.cache_dir_bytes.as_deref());
        // The instances path is the parent of the cache directory, which is compared byte by byte.
        let is_same_path = document.instances_path == layout.instances_path.to_string_lossy();
        let (planned, own) = match is_same_path {
            true => (document.cache_dir, here.display()),
            false => (document.instances_path, layout.instances_path.display()),
        };
        if !is_same_path || there.as_deref() != Some(here.as_os_str()) {
            bail!("made for {planned}, not for {own}: create a new plan");
        }
        let mut files = BTreeMap::new();
        for (index, file) in document.files.into_iter().enumerate() {
            if file.outcome != "would_remove" {
                continue;
            }
            let row = index + 1;
            let name = exact(&file.name, file.name_bytes.as_deref())
                .with_context(|| format!("files: row {row}: \"name_bytes\": not hex: create a new plan"))?;
            files.insert(name, file);
        }
        Ok(Self { files, judged_by: document.policy })
    }

    /// Warns where the plan was judged by other settings than this run's.
    pub fn differs_from(&self, policy: &Policy, as_of: Option<Timestamp>) -> Option<Warning> {
        let plan = self.judged_by.as_ref()?;
        let (original, resized) =
            (policy.original_minimum_age.as_secs(), policy.resized_minimum_age.as_secs());
        let is_of_same_time = as_of.and_then(Timestamp::rfc3339) == plan.as_of;
        let is_same_host = is_same_host(&plan.host, &policy.host);
        let what = [
            differs("--host", &plan.host, &policy.host).filter(|_| !is_same_host),
            ages_differ("--original-min-age", plan.original_minimum_age_seconds, original),
            ages_differ("--resized-min-age", plan.resized_minimum_age_seconds, resized),
            differs("--ignore-unlisted", plan.ignore_unlisted, policy.ignore_unlisted),
            differs("--partials", plan.partials, policy.partials),
            plan.as_of.as_ref().filter(|_| !is_of_same_time).map(|it| format!("it was judged as of {it}")),
        ];
        let what: Vec<String> = what.into_iter().flatten().collect();
        (!what.is_empty()).then(|| Warning::PlanDiffers { what: what.join(", ") })
    }

    /// Notes which files the plan would remove that the cache no longer has.
    pub fn gone(&self, judgement: &Judgement<'_>) -> impl Iterator<Item = Warning> {
        let has = |name: &OsStr| judgement.file(name).is_some();
        let gone = self.files.keys().filter(move |name| !has(name) && !has(&set_aside_name(name)));
        gone.map(|name| Warning::NotInCache { name: name.display().to_string() })
    }

    pub fn would_remove(&self, name: &OsStr) -> bool {
        self.files.contains_key(name)
    }

    /// Why a file is not known to be the one that the plan would remove.
    pub fn why_not(&self, judged: &Judged<'_>) -> Option<&'static str> {
        let planned = self.files.get(judged.name);
        let (Some(size_bytes), Some(mtime)) =
            (planned.and_then(|it| it.size_bytes), planned.and_then(|it| it.mtime.as_ref()))
        else {
            // RFC 3339 can write the years 0 to 9999 alone.
            return Some(
                "cannot be compared, for the plan has no size or no mtime of it: prune it without --plan",
            );
        };
        let stat = judged.file.stat;
        let is_same = stat.is_some_and(|it| it.size_bytes == size_bytes)
            && stat.and_then(|it| it.mtime.rfc3339()).as_ref() == Some(mtime);
        (!is_same).then_some("is not the file of the plan: its size or mtime differs: create a new plan")
    }
}

fn ages_differ(option: &str, plan: u64, now: u64) -> Option<String> {
    let age = |seconds| ForPeople(Duration::from_secs(seconds)).to_string();
    if plan != now && age(plan) == age(now) {
        return Some(format!("{option} was {plan}s and is {now}s"));
    }
    differs(option, age(plan), age(now))
}

fn differs<T: PartialEq + Display>(option: &str, plan: T, now: T) -> Option<String> {
    (plan != now).then(|| format!("{option} was {plan} and is {now}"))
}

/// A name or path as the report wrote it, what is not UTF-8 in hex. `None` where that is no hex.
fn exact(text: &str, bytes: Option<&str>) -> Option<OsString> {
    bytes.map_or_else(|| Some(text.into()), from_hex)
}

fn from_hex(hex: &str) -> Option<OsString> {
    let digits: Vec<u8> = hex.chars().map(|it| it.to_digit(16).map(|it| it as u8)).collect::<Option<_>>()?;
    let (pairs, rest) = digits.as_chunks::<2>();
    rest.is_empty().then(|| OsString::from_vec(pairs.iter().map(|[high, low]| high << 4 | low).collect()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::verdict::tests::{NOW, evidence, judge, policy};

    fn parse(change: impl Fn(&mut serde_json::Value)) -> Result<Plan> {
        let mut document = serde_json::json!({
            "schema_version": 1, "command": "prune", "dry_run": true, "instances_path": "/i", "cache_dir": "/i/_base",
            "files": [
                {"name": "swap_1", "size_bytes": 7, "mtime": "2026-01-01T00:00:00.000000001Z", "outcome": "would_remove"},
                {"name": "swap_2", "size_bytes": 7, "mtime": "2026-01-01T00:00:00.000000001Z", "outcome": "kept"},
                {"name": "\u{fffd}", "name_bytes": "ff0a", "size_bytes": 1, "mtime": "x", "outcome": "would_remove"},
            ],
        });
        change(&mut document);
        let layout = Layout { instances_path: "/i".into(), subdirectory_name: "_base".into() };
        Plan::parse(document.to_string().as_bytes(), &layout)
    }

    #[test]
    fn a_plan_has_the_files_that_a_dry_run_would_remove() {
        let plan = parse(|_| {}).unwrap();
        let names: Vec<_> = plan.files.keys().cloned().collect();
        assert_eq!(names, [OsString::from("swap_1"), OsString::from_vec(vec![0xff, 0x0a])]);
    }

    #[test]
    fn planned_files_that_the_cache_no_longer_has_are_noted() {
        let plan = parse(|_| {}).unwrap();
        let evidence = evidence(&[("swap_1", 0)]);
        let judgement = judge(&evidence, None, &policy(), NOW);
        let notes: Vec<String> = plan.gone(&judgement).map(|it| it.to_string()).collect();
        assert_eq!(notes, ["\u{fffd}\n: the cache has no file of it"]);
    }

    #[test]
    fn what_is_no_plan_for_this_path_is_refused() {
        for (pointer, value, expected) in [
            ("/schema_version", serde_json::json!(2), "schema_version 2"),
            ("/command", serde_json::json!("explain"), "not the output of prune --dry-run"),
            ("/dry_run", serde_json::json!(false), "not the output of prune --dry-run"),
            ("/instances_path", serde_json::json!("/j"), "made for"),
            ("/cache_dir", serde_json::json!("/i/_base2"), "made for /i/_base2, not for /i/_base"),
            ("/files/0/size_bytes", serde_json::json!("7"), "files[0].size_bytes"),
            ("/files/2/name_bytes", serde_json::json!("f"), "row 3: \"name_bytes\""),
            ("/files", serde_json::json!({}), "files"),
        ] {
            let error =
                parse(|document| *document.pointer_mut(pointer).unwrap() = value.clone()).unwrap_err();
            assert!(format!("{error:#}").contains(expected), "{pointer}: {error:#}");
        }
    }
}
