//! `scan`: what is in the cache.

use std::collections::BTreeSet;

use anyhow::Result;

use crate::catalog::Catalog;
use crate::cli::{Global, Listing};
use crate::evidence::{Workers, read_cache};
use crate::exit::Exit;
use crate::guard;
use crate::images;
use crate::input;
use crate::progress::Progress;
use crate::report::{self, Entry, Report};
use crate::settings;
use crate::time::Timestamp;
use crate::warning::Warning;

pub fn run(global: &Global, args: &Listing) -> Result<Exit> {
    let layout = settings::layout(global, &settings::nova_conf(global, None)?)?;
    input::check_stdin(&[], &args.images)?;
    let images = images::load(&args.images)?;
    let progress = Progress::default();
    let workers = Workers::new(&layout, &progress);
    let cache = progress.shown(global.quiet, || read_cache(&layout, &BTreeSet::new(), &workers))?;
    let mut warnings: Vec<Warning> = images.iter().flat_map(|it| it.warnings.clone()).collect();
    if cache.is_none() {
        warnings.push(Warning::NoCacheDirectory { cache_dir: layout.cache_dir().display().to_string() });
    }
    warnings.extend(guard::set_aside_found(cache.as_ref()));
    let entry = |(name, file)| Entry { name, file, judged: None, done: None };
    let report = Report {
        command: "scan",
        generated_at: Timestamp::now(),
        layout: &layout,
        warnings: &warnings,
        catalog: &Catalog::new(images.as_ref(), None),
        files: cache
            .iter()
            .flat_map(|it| &it.files)
            .map(|(name, file)| entry((name.as_os_str(), file)))
            .collect(),
        asked: None,
        verbose: global.verbose,
        pass: None,
        pruned: None,
    };
    report::print(&report, global)?;
    Ok(Exit::Done)
}
