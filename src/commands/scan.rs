//! `scan`: what is in the cache.

use anyhow::Result;

use crate::cli::Global;
use crate::evidence;
use crate::exit::Exit;
use crate::progress;
use crate::report::{self, ScanReport, json, table};
use crate::settings;
use crate::time::Timestamp;
use crate::warning::Warning;

/// Runs `scan`.
///
/// # Errors
/// An instances path or a cache directory that cannot be listed.
pub fn run(global: &Global) -> Result<Exit> {
    let layout = settings::layout(global, &settings::nova_conf(global)?)?;
    let cache = progress::shown(global.quiet, |progress| evidence::read_cache(&layout, progress))?;
    let mut warnings = Vec::new();
    if cache.is_none() {
        let text = format!("no cache directory {}: nothing to list", layout.cache_dir().display());
        warnings.push(Warning::new("no_cache_directory", text));
    }
    let report = ScanReport {
        layout: &layout,
        files: cache.iter().flat_map(|it| &it.files).map(|(name, file)| (name.as_os_str(), file)).collect(),
        now: Timestamp::now(),
        warnings: &warnings,
    };
    report::print_warnings(&warnings, global.quiet);
    report::print(
        global.format,
        |output| table::scan(output, &report, table::terminal_width()),
        |output| json::scan(output, &report),
    )?;
    Ok(Exit::Done)
}
