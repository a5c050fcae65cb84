//! Tables for people: fitted to the terminal's width, one line a file in a pipe.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::io::{self, IsTerminal as _, Write};

use anstyle::{AnsiColor, Style};
use bytesize::ByteSize;
use textwrap::WordSplitter;
use unicode_width::UnicodeWidthStr as _;

use super::{FnameReport, PassReport, ScanReport, Total, one_line, printable};
use crate::evidence::CacheFile;
use crate::removal::{Done, Outcome};
use crate::time::ForPeople;
use crate::verdict::{Code, Judged, Reason, Verdict};

/// From this width on the reasons stand beside the files; below it, under them.
const WIDE: usize = 130;
/// How wide the column of names gets: the longest name that nova gives fits, a resized copy's broken conversion. What
/// is longer stands out, rather than pushing everything else aside.
const WIDEST_NAME: usize = 64;
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
pub fn scan(output: &mut dyn Write, report: &ScanReport<'_>, width: Option<usize>) -> io::Result<()> {
    let mut files: Vec<_> = report.files.iter().collect();
    files.sort_by_key(|(name, file)| (Reverse(disk_bytes(file)), *name));
    if !files.is_empty() {
        header(output, &format!("{:9}  {:>10}  {:>8}  FILE", "KIND", "DISK", "AGE"))?;
    }
    for (name, file) in files {
        let age = file.stat.as_ref().ok().map(|stat| ForPeople(stat.mtime.age_at(report.now)));
        write!(
            output,
            "{:9}  {:>10}  {:>8}  ",
            file.kind(name).as_str(),
            size(file),
            age.map_or("?".into(), |it| it.to_string()),
        )?;
        last_column(output, &printable(name), 33, width)?;
    }
    let by_kind = report.by_kind();
    totals(output, width, by_kind.into_iter().map(|(kind, total)| (kind.as_str(), Style::new(), total)))
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
            if report.in_full {
                full_reason(output, reason, width)?;
            } else {
                wrapped(output, &reason.text, 4, width)?;
            }
        }
    }
    if !report.in_full {
        let directories = &report.judgement.unlisted_directories;
        let what = if directories.len() == 1 { "directory" } else { "directories" };
        list(output, &format!("{what} of no instance"), directories.iter().map(|it| printable(it)), width)?;
    }
    list(
        output,
        "that could not be read",
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
            width,
            by_outcome.into_iter().map(|(outcome, total)| (outcome.as_str(), outcome_style(outcome), total)),
        ),
        None => totals(
            output,
            width,
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
    if files.is_empty() {
        return Ok(());
    }
    let first = if report.pruned.is_some() { "OUTCOME" } else { "VERDICT" };
    let names: Vec<String> = files.iter().map(|it| printable(it.name)).collect();
    let column =
        names.iter().map(|it| it.width()).filter(|width| *width <= WIDEST_NAME).max().unwrap_or(0).max(4);
    let indent = 36 + column + 2;
    // Beside the files, where there is room for a sentence.
    let beside = width.is_none_or(|width| width >= WIDE && width >= indent + 40);
    if beside {
        header(output, &format!("{first:12}  {:>10}  {:>8}  {:column$}  WHY", "DISK", "AGE", "FILE"))?;
    } else {
        header(output, &format!("{first:12}  {:>10}  FILE", "DISK"))?;
    }
    for (file, name) in files.iter().zip(names) {
        let done = done(report, file);
        let (word, style) = match done {
            Some(done) => (done.outcome.as_str(), outcome_style(done.outcome)),
            None => (file.verdict.as_str(), style(file.verdict)),
        };
        write!(output, "{style}{word:12}{style:#}  {:>10}  ", size(file.file))?;
        let age = file.age.map_or("?".into(), |it| ForPeople(it).to_string());
        let why = why(file, done);
        if beside {
            write!(output, "{age:>8}  {name}")?;
            match width {
                Some(width) => {
                    let lines = wrap(&why, width - indent);
                    match column.checked_sub(name.width()) {
                        Some(padding) => write!(output, "{:padding$}  ", "")?,
                        None => write!(output, "\n{:indent$}", "")?,
                    }
                    writeln!(output, "{}", lines.join(&format!("\n{:indent$}", "")))?;
                }
                None => {
                    writeln!(
                        output,
                        "{:padding$}  {why}",
                        "",
                        padding = column.saturating_sub(name.width())
                    )?;
                }
            }
        } else {
            last_column(output, &name, 26, width)?;
            // Where it matters the sentence has the age.
            let has_age = file.reasons.iter().any(|it| it.code == Code::Unused)
                || file.verdict == Verdict::Ignored
                || done.is_some_and(|it| it.error.is_some());
            let why = if has_age { why } else { format!("{age} old; {why}") };
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
        writeln!(output, "  size          {} ({} on disk)", size_text(stat.size_bytes), size(file.file))?;
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
    // An outcome does not tell the verdict, but for a file that is removable.
    let verdict = (done.is_some() && file.verdict != Verdict::Removable).then(|| file.verdict.as_str());
    let reasons: Vec<String> = file.reasons.iter().map(|it| one_line(&it.text)).collect();
    let reasons = reasons.join("; ");
    verdict.map_or(reasons.clone(), |verdict| format!("{verdict}: {reasons}"))
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
    file.stat.as_ref().map_or("?".into(), |stat| size_text(stat.disk_bytes))
}

/// In GiB, so that a column of sizes can be compared at a glance; what is less than a tenth of one, in smaller units.
fn size_text(bytes: u64) -> String {
    const GIBIBYTE: u64 = 1 << 30;
    if bytes >= GIBIBYTE / 10 {
        format!("{:.1} GiB", bytes as f64 / GIBIBYTE as f64)
    } else {
        ByteSize(bytes).display().to_string()
    }
}

fn disk_bytes(file: &CacheFile) -> u64 {
    file.stat.as_ref().map_or(0, |stat| stat.disk_bytes)
}

/// A text on lines of its own, indented.
fn wrapped(output: &mut dyn Write, text: &str, indent: usize, width: Option<usize>) -> io::Result<()> {
    let text = one_line(text);
    let lines = match width {
        Some(width) => wrap(&text, width.saturating_sub(indent)),
        None => vec![Cow::from(text)],
    };
    lines.iter().try_for_each(|line| writeln!(output, "{:indent$}{line}", ""))
}

/// A name at the end of a line of which `used` columns are taken, or on a line of its own where it does not fit.
fn last_column(output: &mut dyn Write, name: &str, used: usize, width: Option<usize>) -> io::Result<()> {
    if width.is_some_and(|width| used + name.width() > width) {
        write!(output, "\n    ")?;
    }
    writeln!(output, "{name}")
}

/// Lines of at most that width, or of 20; names and paths are broken only where they do not fit on one.
fn wrap(text: &str, width: usize) -> Vec<Cow<'_, str>> {
    textwrap::wrap(text, textwrap::Options::new(width.max(20)).word_splitter(WordSplitter::NoHyphenation))
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
            Some(width) => wrap(&item, width - 4),
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
    width: Option<usize>,
    parts: impl Iterator<Item = (&'a str, Style, Total)>,
) -> io::Result<()> {
    let parts: Vec<_> = parts.filter(|(.., total)| total.files > 0).collect();
    let sum = parts.iter().fold(Total::default(), |sum, (.., total)| Total {
        files: sum.files + total.files,
        disk_bytes: sum.disk_bytes + total.disk_bytes,
    });
    let files = if sum.files == 1 { "file" } else { "files" };
    let text = format!("total {} {files} ({})", sum.files, size_text(sum.disk_bytes));
    write!(output, "{text}")?;
    let mut column = text.len();
    for (word, style, total) in parts {
        let numbers = format!(" {} ({})", total.files, size_text(total.disk_bytes));
        let length = word.len() + numbers.len();
        // One more for the comma that may follow.
        if width.is_some_and(|width| column + 2 + length + 1 > width) {
            write!(output, ",\n    ")?;
            column = 4;
        } else {
            write!(output, ", ")?;
            column += 2;
        }
        write!(output, "{style}{word}{style:#}{numbers}")?;
        column += length;
    }
    writeln!(output)
}
