//! The same values, printed twice: [`table`] for people, [`json`] for programs.

pub mod json;
pub mod table;

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd as _;
use std::time::Duration;

use anstream::adapter::strip_str;
use anstream::{AutoStream, ColorChoice};
use anyhow::Result;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};

use crate::catalog::Catalog;
use crate::cli::{Format, Global};
use crate::evidence::CacheFile;
use crate::exit::{Exit, Failure};
use crate::filesystem::Space;
use crate::goal::Goal;
use crate::inventory::Inventory;
use crate::layout::Layout;
use crate::outcome::{Done, Outcome, Outcomes};
use crate::selection::Selection;
use crate::time::Timestamp;
use crate::verdict::{Judged, Judgement, Missing, Policy};
use crate::warning::Warning;

/// An image and the name of its cache file.
#[derive(serde::Serialize)]
pub struct ImageFile {
    pub image_id: String,
    pub file_name: String,
    /// Where that file is or would be, and whether it is there; where an instances path was named.
    pub path: Option<String>,
    pub exists: Option<bool>,
}

/// What `scan`, `explain` and `prune` print.
pub struct Report<'a> {
    pub command: &'static str,
    pub generated_at: Timestamp,
    pub layout: &'a Layout,
    pub warnings: &'a [Warning],
    pub catalog: &'a Catalog<'a>,
    /// Those to show, by name.
    pub files: Vec<Entry<'a>>,
    /// The files that were asked for by name.
    pub asked: Option<&'a Selection>,
    pub verbose: bool,
    /// Not of `scan`.
    pub pass: Option<Pass<'a>>,
    /// Only of `prune`.
    pub pruned: Option<&'a Pruned<'a>>,
}

/// A file of the cache.
#[derive(Clone, Copy)]
pub struct Entry<'a> {
    pub name: &'a OsStr,
    pub file: &'a CacheFile,
    /// Not of `scan`.
    pub judged: Option<&'a Judged<'a>>,
    /// Only of `prune`.
    pub done: Option<&'a Done>,
}

/// What `explain` and `prune` print of a pass.
pub struct Pass<'a> {
    pub policy: &'a Policy,
    pub as_of: Option<Timestamp>,
    pub inventory: Option<&'a Inventory>,
    pub judgement: &'a Judgement<'a>,
    pub is_complete: bool,
    pub missing: Vec<&'a Missing<'a>>,
}

/// What a prune did, so far.
#[derive(Default)]
pub struct Pruned<'a> {
    pub dry_run: bool,
    pub outcomes: Outcomes<'a>,
    /// How many files in use had their mtime set to now.
    pub touched: usize,
    pub goal: Option<Goal>,
    pub is_interrupted: bool,
}

impl<'a> Pruned<'a> {
    /// Whether all was done that was asked for.
    pub fn is_done(&self) -> bool {
        !self.is_interrupted
            && self.goal.is_none_or(|it| it.short_bytes() == 0)
            && !self.outcomes.values().any(|it| it.outcome == Outcome::Failed)
    }

    /// What is still to be removed.
    pub fn left(&self) -> impl Iterator<Item = &'a OsStr> {
        let left = self.outcomes.iter().filter(|(_, it)| it.outcome == Outcome::WouldRemove);
        left.map(|(name, _)| *name)
    }

    /// Whether a file is removed, or would be.
    fn removes(&self, file: &Entry<'_>) -> bool {
        let removal = if self.dry_run { Outcome::WouldRemove } else { Outcome::Removed };
        file.done.is_some_and(|it| it.outcome == removal)
    }
}

/// A number of files and what they take on the disk.
#[derive(Clone, Copy, Default, serde::Serialize)]
pub struct Total {
    pub files: usize,
    pub disk_bytes: u64,
}

impl Total {
    fn of<'a>(files: impl IntoIterator<Item = &'a Entry<'a>>) -> Self {
        let mut total = Self::default();
        for Entry { file, .. } in files {
            total.files += 1;
            total.disk_bytes += file.disk_bytes();
        }
        total
    }
}

impl Report<'_> {
    /// Whether everything about the files is wanted.
    fn in_full(&self) -> bool {
        self.asked.is_some() && self.pruned.is_none()
    }

    fn age(&self, it: &Entry<'_>) -> Option<Duration> {
        match it.judged {
            Some(judged) => judged.age,
            None => it.file.stat.map(|stat| stat.mtime.age_at(self.generated_at)),
        }
    }

    fn downloadable(&self, it: &Entry<'_>) -> Option<bool> {
        self.catalog.downloadable(it.name, it.file.kind(it.name))
    }

    /// Those files that cannot be downloaded again.
    fn lost(&self) -> impl Iterator<Item = &Entry<'_>> {
        self.files.iter().filter(|it| self.downloadable(it) == Some(false))
    }
}

/// The filesystem that holds the cache, or would.
pub fn space_of(layout: &Layout) -> Option<Space> {
    Space::of(&layout.cache_dir()).or_else(|_| Space::of(&layout.instances_path)).ok()
}

/// Prints a report with its warnings.
pub fn print(report: &Report<'_>, global: &Global) -> Result<()> {
    print_warnings(report.warnings, global);
    write(global, || table::report(report), |output| json::report(output, report))
}

/// Writes to stdout; a closed pipe ends that quietly.
///
/// # Errors
/// Where the output cannot be written, whatever had been done before.
pub fn write(
    global: &Global,
    as_table: impl FnOnce() -> String,
    as_json: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut stdout = Stdout;
    let result = match global.format.unwrap_or_default() {
        Format::Table => {
            let mut text = as_table();
            if AutoStream::choice(&io::stdout()) == ColorChoice::Never {
                text = strip_str(&text).to_string();
            }
            stdout.write_all(text.as_bytes())
        }
        Format::Json => as_json(&mut stdout).and_then(|()| stdout.write_all(b"\n")),
    };
    match result {
        Err(error) if error.kind() != io::ErrorKind::BrokenPipe => {
            let message = format!("cannot write the output: {error}; what was done before stays done");
            Err(Failure { exit: Exit::Incomplete, message }.into())
        }
        _ => Ok(()),
    }
}

/// Standard output, not buffered. Not the standard library's, to which one that is not open for writing is no error.
struct Stdout;

impl Write for Stdout {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match nix::unistd::write(io::stdout(), bytes) {
                // Whoever started this may have made the pipe non-blocking, as event loops do.
                Err(Errno::EAGAIN) => {
                    poll(&mut [PollFd::new(io::stdout().as_fd(), PollFlags::POLLOUT)], PollTimeout::NONE)?;
                }
                written => return Ok(written?),
            }
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Prints a message to stderr, on one line.
pub fn print_message(text: &str) {
    // Where stderr cannot be written there is nobody to tell.
    writeln!(io::stderr(), "nova-imagecache: {}", one_line(text)).ok();
}

/// Prints warnings to stderr, and notes where they are wanted.
pub fn print_warnings(warnings: &[Warning], global: &Global) {
    for warning in warnings {
        let (_, level) = warning.code_and_level();
        if !global.quiet && (level != "note" || global.verbose) {
            print_message(&format!("{level}: {warning}"));
        }
    }
}

/// A name from disk that cannot steer a terminal: what does not print, and the backslash, are escaped.
pub fn printable(name: &OsStr) -> String {
    use std::os::unix::ffi::OsStrExt as _;

    let mut text = String::new();
    for chunk in name.as_bytes().utf8_chunks() {
        text.push_str(&one_line(chunk.valid()));
        for byte in chunk.invalid() {
            text.push_str(&format!("\\x{byte:02x}"));
        }
    }
    text
}

/// A message on one line, with what does not print escaped.
pub fn one_line(text: &str) -> String {
    // Nearly every text, in a tenth of the time.
    if text.bytes().all(|byte| matches!(byte, b' '..=b'~') && byte != b'\\') {
        return text.to_owned();
    }
    let mut line = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '\'' | '"' => line.push(character),
            _ => line.extend(character.escape_debug()),
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::ffi::OsStrExt as _;

    #[test]
    fn names_from_disk_cannot_steer_a_terminal() {
        for (name, text) in [
            (b"swap_5".as_slice(), "swap_5"),
            (b"a b\"'", "a b\"'"),
            (b"a\nb\x1b[31m", "a\\nb\\u{1b}[31m"),
            (b"\xffx", "\\xffx"),
            ("x\u{202e}y\u{200b}é".as_bytes(), "x\\u{202e}y\\u{200b}é"),
            (b"a\\b", "a\\\\b"),
        ] {
            assert_eq!(printable(OsStr::from_bytes(name)), text);
        }
    }
}
