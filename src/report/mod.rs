//! The same values, printed twice: [`table`] for people, [`json`] for programs.

pub mod json;
pub mod table;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, Write};
use std::path::PathBuf;

use anstream::adapter::strip_bytes;
use anstream::{AutoStream, ColorChoice};
use anyhow::Result;

use crate::cache_name::Kind;
use crate::cli::Format;
use crate::evidence::{CacheFile, Layout};
use crate::exit::OutputFailed;
use crate::inventory::Inventory;
use crate::removal::{Done, Outcome};
use crate::time::Timestamp;
use crate::verdict::{Judged, Judgement, Missing, Verdict};
use crate::warning::Warning;

/// What `fname` prints.
#[derive(Debug)]
pub struct FnameReport {
    /// In the order asked.
    pub files: Vec<ImageFile>,
}

/// An image and the name of its cache file.
#[derive(Debug)]
pub struct ImageFile {
    /// The image's id.
    pub image_id: String,
    /// The name that its cache file has.
    pub file_name: String,
    /// Where that file is or would be, and whether it is there; where an instances path was named.
    pub place: Option<(PathBuf, Option<bool>)>,
}

/// What `scan` prints.
#[derive(Debug)]
pub struct ScanReport<'a> {
    /// Where.
    pub layout: &'a Layout,
    /// All that is in the cache, by name.
    pub files: Vec<(&'a OsStr, &'a CacheFile)>,
    /// When.
    pub now: Timestamp,
    /// What the operator should know.
    pub warnings: &'a [Warning],
}

/// What `explain` and `prune` print.
#[derive(Debug)]
pub struct PassReport<'a> {
    /// The subcommand.
    pub command: &'static str,
    /// Where.
    pub layout: &'a Layout,
    /// This host.
    pub host: &'a str,
    /// The sources of the instances, if there was any.
    pub inventory: Option<&'a Inventory>,
    /// Everything that was judged.
    pub judgement: &'a Judgement<'a>,
    /// The files to show.
    pub files: Vec<&'a Judged<'a>>,
    /// The missing files to show.
    pub missing: Vec<&'a Missing<'a>>,
    /// What became of the files; only of a prune.
    pub pruned: Option<Pruned<'a>>,
    /// What the operator should know.
    pub warnings: &'a [Warning],
    /// Whether the files were asked for by name, so that their whole story is wanted.
    pub in_full: bool,
}

/// What a prune did.
#[derive(Debug)]
pub struct Pruned<'a> {
    /// Nothing was changed.
    pub dry_run: bool,
    /// One for each file shown.
    pub done: &'a BTreeMap<&'a OsStr, Done>,
    /// How many files in use had their mtime set to now.
    pub touched: usize,
}

/// A number of files and what they take on the disk.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, serde::Serialize)]
pub struct Total {
    /// How many.
    pub files: usize,
    /// What they take, in bytes.
    pub disk_bytes: u64,
}

impl Total {
    fn add(&mut self, file: &CacheFile) {
        self.files += 1;
        self.disk_bytes += file.stat.as_ref().map_or(0, |stat| stat.disk_bytes);
    }

    /// The totals per key, every key of `all` among them.
    fn by<'a, K: Ord + Copy>(
        all: &[K],
        files: impl IntoIterator<Item = (K, &'a CacheFile)>,
    ) -> BTreeMap<K, Self> {
        let mut totals: BTreeMap<K, Self> = all.iter().map(|key| (*key, Self::default())).collect();
        for (key, file) in files {
            totals.entry(key).or_default().add(file);
        }
        totals
    }
}

impl ScanReport<'_> {
    fn by_kind(&self) -> BTreeMap<Kind, Total> {
        Total::by(&Kind::ALL, self.files.iter().map(|(name, file)| (file.kind(name), *file)))
    }
}

impl PassReport<'_> {
    fn by_verdict(&self) -> BTreeMap<Verdict, Total> {
        Total::by(&Verdict::ALL, self.files.iter().map(|it| (it.verdict, it.file)))
    }

    fn by_outcome(&self) -> Option<BTreeMap<Outcome, Total>> {
        self.pruned.as_ref().map(|pruned| {
            let outcome =
                |it: &&Judged<'_>| pruned.done.get(it.name).map_or(Outcome::Kept, |done| done.outcome);
            Total::by(&Outcome::ALL, self.files.iter().map(|it| (outcome(it), it.file)))
        })
    }
}

/// Prints to stdout; a closed pipe ends that quietly.
///
/// # Errors
/// [`OutputFailed`] where the output cannot be written.
pub fn print(
    format: Format,
    as_table: impl FnOnce(&mut dyn Write) -> io::Result<()>,
    as_json: impl FnOnce(&mut dyn Write) -> io::Result<()>,
) -> Result<()> {
    let mut stdout = io::stdout().lock();
    let result = match format {
        Format::Table => {
            // As a whole, for styles are stripped from what is written at once: thousands of calls, else.
            let mut text = Vec::new();
            as_table(&mut text).and_then(|()| {
                if AutoStream::choice(&stdout) == ColorChoice::Never {
                    text = strip_bytes(&text).into_vec();
                }
                stdout.write_all(&text)
            })
        }
        Format::Json => {
            let mut output = io::BufWriter::with_capacity(1 << 16, &mut stdout);
            as_json(&mut output).and_then(|()| output.write_all(b"\n")).and_then(|()| output.flush())
        }
    };
    let result = result.and_then(|()| stdout.flush());
    match result {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        result => Ok(result.map_err(OutputFailed)?),
    }
}

/// Prints a message to stderr, on one line.
pub fn print_message(text: &str) {
    // There is nobody left to tell where stderr cannot be written.
    let _unheard = writeln!(io::stderr(), "nova-imagecache: {}", one_line(text));
}

/// Prints warnings and notes to stderr.
pub fn print_warnings(warnings: &[Warning], quiet: bool) {
    if !quiet {
        warnings.iter().for_each(|it| print_message(&format!("warning: {}", it.text)));
    }
}

/// A name from disk as a terminal can bear it: what does not print, and the backslash, are escaped.
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
