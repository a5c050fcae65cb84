//! Tables for people: fitted to the terminal's width, one line a file in a pipe.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::fmt::Display;
use std::io::{self, IsTerminal as _, Write};

use anstyle::{AnsiColor, Style};
use bytesize::ByteSize;
use unicode_width::UnicodeWidthStr as _;

use super::{FnameReport, PassReport, ScanReport, Total, one_line, printable};
use crate::evidence::CacheFile;
use crate::removal::{Done, Outcome};
use crate::time::ForPeople;
use crate::verdict::{Judged, Reason, Verdict};

/// From this width on the reasons stand beside the files; below it, under them.
const WIDE: usize = 130;
/// How many names of a list that is not the subject are shown.
const SHOWN: usize = 12;

/// The width to fit tables to; `None` in a pipe, where nothing is cut or wrapped.
pub fn terminal_width() -> Option<usize> {
    io::stdout()
        .is_terminal()
        .then(|| terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0).max(40)))
}

/// Writes the names that `fname` found, one a line.
///
/// # Errors
/// Those of the output.
pub fn fname(output: &mut dyn Write, report: &FnameReport) -> io::Result<()> {
    report.files.iter().try_for_each(|file| writeln!(output, "{}", file.file_name))
}

/// Writes what `scan` found.
///
/// # Errors
/// Those of the output.
pub fn scan(output: &mut dyn Write, report: &ScanReport<'_>) -> io::Result<()> {
    let mut files: Vec<_> = report.files.iter().collect();
    files.sort_by_key(|(name, file)| (Reverse(disk_bytes(file)), *name));
    header(output, &format!("{:9}  {:>10}  {:>8}  FILE", "KIND", "DISK", "AGE"))?;
    for (name, file) in files {
        let age = file.stat.as_ref().ok().map(|stat| ForPeople(stat.mtime.age_at(report.now)));
        writeln!(
            output,
            "{:9}  {:>10}  {:>8}  {}",
            file.kind(name).as_str(),
            size(file),
            age.map_or("?".into(), |it| it.to_string()),
            printable(name)
        )?;
    }
    let by_kind = report.by_kind();
    totals(output, by_kind.into_iter().map(|(kind, total)| (kind.as_str(), Style::new(), total)))
}

/// Writes what `explain` or `prune` found.
///
/// # Errors
/// Those of the output.
pub fn pass(output: &mut dyn Write, report: &PassReport<'_>, width: Option<usize>) -> io::Result<()> {
    let mut files = report.files.clone();
    files.sort_by_key(|it| (rank(it.verdict), Reverse(disk_bytes(it.file)), it.name));
    if report.in_full {
        for file in &files {
            story(output, report, file, width)?;
        }
    } else {
        rows(output, report, &files, width)?;
    }
    for missing in &report.missing {
        writeln!(
            output,
            "{}missing{:#}  {}",
            style(Verdict::Unknown),
            style(Verdict::Unknown),
            printable(&missing.name)
        )?;
        for reason in &missing.reasons {
            wrapped(output, &reason.text, 4, width)?;
        }
    }
    list(
        output,
        "directories of no instance",
        report.judgement.unlisted_directories.iter().map(|it| printable(it)),
        width,
    )?;
    list(
        output,
        "could not be read",
        report
            .judgement
            .unreadable
            .iter()
            .map(|it| format!("{} ({})", printable(it.path.as_os_str()), one_line(&it.error))),
        width,
    )?;
    match report.by_outcome() {
        Some(by_outcome) => totals(
            output,
            by_outcome.into_iter().map(|(outcome, total)| (outcome.as_str(), outcome_style(outcome), total)),
        ),
        None => totals(
            output,
            report.by_verdict().into_iter().map(|(verdict, total)| (verdict.as_str(), style(verdict), total)),
        ),
    }
}

/// A line or two for each file.
fn rows(
    output: &mut dyn Write,
    report: &PassReport<'_>,
    files: &[&Judged<'_>],
    width: Option<usize>,
) -> io::Result<()> {
    let first = if report.pruned.is_some() { "OUTCOME" } else { "VERDICT" };
    let names: Vec<String> = files.iter().map(|it| printable(it.name)).collect();
    let longest = names.iter().map(|it| it.width()).max().unwrap_or(0).max(4);
    // Beside the files, where there is room for a sentence.
    let beside = width.is_none_or(|width| width >= WIDE && width >= 37 + longest + 40);
    if beside {
        header(output, &format!("{first:12}  {:>10}  {:>8}  {:longest$}  WHY", "DISK", "AGE", "FILE"))?;
    } else {
        header(output, &format!("{first:12}  {:>10}  FILE", "DISK"))?;
    }
    for (file, name) in files.iter().zip(names) {
        let done = done(report, file);
        let (word, style) = match done {
            Some(done) if done.outcome != Outcome::Kept => {
                (done.outcome.as_str(), outcome_style(done.outcome))
            }
            _ => (file.verdict.as_str(), style(file.verdict)),
        };
        write!(output, "{style}{word:12}{style:#}  {:>10}  ", size(file.file))?;
        let age = file.age.map_or("?".into(), |it| ForPeople(it).to_string());
        let why = why(file, done);
        if beside {
            let padding = longest - name.width();
            write!(output, "{age:>8}  {name}{:padding$}  ", "")?;
            let indent = 36 + longest + 2;
            let lines = match width {
                Some(width) => textwrap::wrap(&why, width - indent),
                None => vec![Cow::from(&why)],
            };
            writeln!(output, "{}", lines.join(&format!("\n{:indent$}", "")))?;
        } else {
            writeln!(output, "{name}")?;
            let why = if done.is_some_and(|it| it.error.is_some()) || file.verdict == Verdict::Ignored {
                why
            } else {
                format!("{age} old; {why}")
            };
            wrapped(output, &why, 4, width)?;
        }
    }
    Ok(())
}

/// One file, with everything that its verdict rests on.
fn story(
    output: &mut dyn Write,
    report: &PassReport<'_>,
    file: &Judged<'_>,
    width: Option<usize>,
) -> io::Result<()> {
    let bold = Style::new().bold();
    writeln!(output, "{bold}{}{bold:#}", printable(file.name))?;
    let style = style(file.verdict);
    writeln!(output, "  verdict       {style}{}{style:#}", file.verdict.as_str())?;
    if let Some(done) = done(report, file) {
        writeln!(output, "  outcome       {}", done.outcome.as_str())?;
    }
    writeln!(output, "  path          {}", printable(file.file.path.as_os_str()))?;
    writeln!(output, "  kind          {}", file.kind.as_str())?;
    if let Ok(stat) = &file.file.stat {
        writeln!(
            output,
            "  size          {} ({} on disk)",
            ByteSize(stat.size_bytes).display(),
            size(file.file)
        )?;
        writeln!(
            output,
            "  mtime         {}",
            stat.mtime.rfc3339().unwrap_or_else(|| "beyond any calendar".into())
        )?;
    }
    if let Some(age) = file.age {
        write!(output, "  age           {}", ForPeople(age))?;
        match file.minimum_age {
            Some(minimum_age) => writeln!(output, " (minimum {})", ForPeople(minimum_age))?,
            None => writeln!(output)?,
        }
    }
    for reason in &file.reasons {
        full_reason(output, reason, width)?;
    }
    writeln!(output)
}

fn full_reason(output: &mut dyn Write, reason: &Reason<'_>, width: Option<usize>) -> io::Result<()> {
    writeln!(output, "  because")?;
    wrapped(output, &reason.text, 4, width)?;
    let images = reason.images.iter().map(|it| ("image", one_line(it)));
    let instances = reason.instances.iter().map(|it| ("instance", one_line(it)));
    let disks = reason.disks.iter().map(|it| ("disk", printable(it.as_os_str())));
    images
        .chain(instances)
        .chain(disks)
        .try_for_each(|(what, item)| writeln!(output, "      {what:8}  {item}"))
}

fn why(file: &Judged<'_>, done: Option<&Done>) -> String {
    if let Some(error) = done.and_then(|it| it.error.as_deref()) {
        return one_line(error);
    }
    let texts: Vec<String> = file.reasons.iter().map(|it| one_line(&it.text)).collect();
    texts.join("; ")
}

fn done<'a>(report: &'a PassReport<'_>, file: &Judged<'_>) -> Option<&'a Done> {
    report.pruned.as_ref().and_then(|it| it.done.get(file.name))
}

/// What can be won comes first.
fn rank(verdict: Verdict) -> u8 {
    match verdict {
        Verdict::Removable => 0,
        Verdict::TooYoung => 1,
        Verdict::Unknown => 2,
        Verdict::InUse => 3,
        Verdict::Ignored => 4,
    }
}

fn style(verdict: Verdict) -> Style {
    match verdict {
        Verdict::InUse => AnsiColor::Green.on_default(),
        Verdict::TooYoung => AnsiColor::Cyan.on_default(),
        Verdict::Removable => AnsiColor::Yellow.on_default().bold(),
        Verdict::Unknown => AnsiColor::Magenta.on_default(),
        Verdict::Ignored => Style::new().dimmed(),
    }
}

fn outcome_style(outcome: Outcome) -> Style {
    match outcome {
        Outcome::Removed | Outcome::WouldRemove => AnsiColor::Yellow.on_default().bold(),
        Outcome::Kept => AnsiColor::Green.on_default(),
        Outcome::Locked | Outcome::Open => AnsiColor::Cyan.on_default(),
        Outcome::Changed | Outcome::Failed => AnsiColor::Red.on_default().bold(),
    }
}

fn header(output: &mut dyn Write, text: &str) -> io::Result<()> {
    let bold = Style::new().bold();
    writeln!(output, "{bold}{text}{bold:#}")
}

fn size(file: &CacheFile) -> String {
    file.stat.as_ref().map_or("?".into(), |stat| ByteSize(stat.disk_bytes).display().to_string())
}

fn disk_bytes(file: &CacheFile) -> u64 {
    file.stat.as_ref().map_or(0, |stat| stat.disk_bytes)
}

/// A text on lines of its own, indented.
fn wrapped(output: &mut dyn Write, text: &str, indent: usize, width: Option<usize>) -> io::Result<()> {
    let text = one_line(text);
    let lines = match width {
        Some(width) => textwrap::wrap(&text, width.saturating_sub(indent).max(20)),
        None => vec![Cow::from(text)],
    };
    lines.iter().try_for_each(|line| writeln!(output, "{:indent$}{line}", ""))
}

/// A list that is not the subject: its first items.
fn list(
    output: &mut dyn Write,
    what: &str,
    items: impl ExactSizeIterator<Item = String>,
    width: Option<usize>,
) -> io::Result<()> {
    let count = items.len();
    if count == 0 {
        return Ok(());
    }
    writeln!(output, "{count} {what}:")?;
    for item in items.take(SHOWN) {
        // Escaped already.
        let lines = match width {
            Some(width) => textwrap::wrap(&item, width - 4),
            None => vec![Cow::from(item)],
        };
        lines.iter().try_for_each(|line| writeln!(output, "    {line}"))?;
    }
    if count > SHOWN {
        writeln!(output, "    and {} more, which --format json lists", count - SHOWN)?;
    }
    Ok(())
}

/// The last line: everything, and what of it is what.
fn totals<'a>(
    output: &mut dyn Write,
    parts: impl Iterator<Item = (&'a str, Style, Total)>,
) -> io::Result<()> {
    let show = |total: Total| -> Box<dyn Display> { Box::new(ByteSize(total.disk_bytes).display()) };
    let mut sum = Total::default();
    let mut text = String::new();
    for (word, style, total) in parts.filter(|(.., total)| total.files > 0) {
        sum.files += total.files;
        sum.disk_bytes += total.disk_bytes;
        text.push_str(&format!(", {style}{word}{style:#} {} ({})", total.files, show(total)));
    }
    let files = if sum.files == 1 { "file" } else { "files" };
    writeln!(output, "total {} {files} ({}){text}", sum.files, show(sum))
}
