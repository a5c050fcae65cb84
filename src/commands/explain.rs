//! `explain`: why each file stays or may go.

use std::ffi::OsString;
use std::os::unix::ffi::OsStrExt as _;

use anyhow::{Result, bail};

use crate::cache_name::{CacheName, cache_file_name};
use crate::cli::{Explain, Global};
use crate::evidence;
use crate::exit::Exit;
use crate::guard::{self, Asked};
use crate::inventory::{Inventory, Text};
use crate::progress;
use crate::report::{self, PassReport, json, table};
use crate::settings;
use crate::time::Timestamp;
use crate::verdict::{self, Judged, Judgement, Missing};

/// Runs `explain`.
///
/// # Errors
/// Bad input, or a subject that nothing knows.
pub fn run(global: &Global, args: &Explain) -> Result<Exit> {
    let asked = Asked {
        dry_run: true,
        ignore_unlisted: args.judging.ignore_unlisted,
        has_inventory: !args.judging.inventory.is_empty(),
        has_libvirt: !args.judging.libvirt.is_empty(),
        ..Asked::default()
    };
    guard::check_usage(asked)?;
    let conf = settings::nova_conf(global)?;
    let layout = settings::layout(global, &conf)?;
    let policy = settings::policy(&args.judging, &conf)?;
    let inventory = settings::inventory(&args.judging, &policy.host)?;
    let inventory = inventory.as_ref();
    let now = Timestamp::now();
    let domain_disks = inventory.map_or(&[][..], |it| &it.disks);
    let evidence = super::kept_until_exit(progress::shown(global.quiet, |progress| {
        evidence::gather(&layout, domain_disks, progress)
    })?);
    super::tell(&evidence, global.verbose);
    let judgement =
        verdict::judge(&evidence, inventory, &policy, args.as_of.map_or(now, |it| it.resolve(now)));
    let (files, missing) = select(&args.subjects, &judgement, inventory)?;
    let mut warnings = guard::warnings(asked, &evidence, inventory, &policy, &judgement);
    warnings.extend(settings::note(&conf));
    let report = PassReport {
        command: "explain",
        layout: &layout,
        host: &policy.host,
        inventory,
        judgement: &judgement,
        files,
        missing,
        pruned: None,
        warnings: &warnings,
        in_full: !args.subjects.is_empty(),
    };
    report::print_warnings(&warnings, global.quiet);
    report::print(
        global.format,
        |output| table::pass(output, &report, table::terminal_width()),
        |output| json::pass(output, &report),
    )?;
    Ok(if judgement.complete { Exit::Done } else { Exit::Partly })
}

/// The files that the subjects mean: a base name, or the id of an image for all that belongs to it.
fn select<'a>(
    subjects: &[OsString],
    judgement: &'a Judgement<'a>,
    inventory: Option<&Inventory>,
) -> Result<(Vec<&'a Judged<'a>>, Vec<&'a Missing<'a>>)> {
    if subjects.is_empty() {
        return Ok((judgement.files.iter().collect(), judgement.missing.iter().collect()));
    }
    let mut names: Vec<&OsString> = Vec::new();
    let mut fingerprints: Vec<String> = Vec::new();
    for subject in subjects {
        let is_file = judgement.files.iter().any(|it| it.name == subject)
            || judgement.missing.iter().any(|it| it.name == *subject);
        if is_file {
            names.push(subject);
            continue;
        }
        let fingerprint = subject.to_str().filter(|it| !it.is_empty()).map(cache_file_name);
        let is_image = fingerprint.as_ref().is_some_and(|fingerprint| {
            judgement.files.iter().any(|it| fingerprint_of(it) == Some(fingerprint))
                || judgement.missing.iter().any(|it| it.name.as_bytes() == fingerprint.as_bytes())
        }) || inventory.is_some_and(|it| has_image(it, subject));
        match fingerprint {
            Some(fingerprint) if is_image => fingerprints.push(fingerprint),
            _ => bail!(
                "{}: neither a file of the cache, by its base name, nor the id of an image that the cache or the \
                 inventory has: run nova-imagecache scan to see what there is",
                subject.display()
            ),
        }
    }
    let belongs = |name: &OsString| {
        CacheName::parse(name).fingerprint().is_some_and(|it| fingerprints.iter().any(|wanted| wanted == it))
    };
    Ok((
        judgement
            .files
            .iter()
            .filter(|it| {
                names.iter().any(|name| *name == it.name)
                    || fingerprint_of(it).is_some_and(|it| fingerprints.iter().any(|wanted| wanted == it))
            })
            .collect(),
        judgement
            .missing
            .iter()
            .filter(|it| names.iter().any(|name| **name == it.name) || belongs(&it.name))
            .collect(),
    ))
}

fn fingerprint_of<'a>(file: &Judged<'a>) -> Option<&'a str> {
    CacheName::parse(file.name).fingerprint()
}

fn has_image(inventory: &Inventory, id: &OsString) -> bool {
    inventory.instances.iter().any(|instance| {
        let images = instance.texts(Text::ImageRef);
        let kernels = instance.texts(Text::KernelId);
        let ramdisks = instance.texts(Text::RamdiskId);
        images.chain(kernels).chain(ramdisks).any(|it| it == id.as_os_str())
    })
}
