//! Tables for people: fitted to the terminal's width, one line a file in a pipe.

use std::borrow::Cow;
use std::cmp::Reverse;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _, Write};

use anstyle::{AnsiColor, Style};
use textwrap::WordSplitter;
use unicode_width::UnicodeWidthStr as _;

use super::{ImageFile, PassReport, ScanReport, Total, one_line, printable};
use crate::catalog::Catalog;
use crate::evidence::CacheFile;
use crate::filesystem::Space;
use crate::outcome::{Done, Outcome};
use crate::size::size_text;
use crate::time::ForPeople;
use crate::verdict::{Code, Judged, Reason, UnlistedDirectory, Verdict};
use crate::warning::count;

/// From this width on the reasons stand beside the files; below it, under them.
const WIDE: usize = 130;
/// How wide the column of names gets: the longest name that nova gives fits, a resized copy's interrupted conversion. What
/// is longer stands out, rather than pushing everything else aside.
const WIDEST_NAME: usize = 64;
/// The room that a reason needs beside everything else: less would spread it over many lines.
const NARROWEST_REASON: usize = 50;
const NOT_DOWNLOADABLE: &str = "cannot be downloaded again";
/// How many names of a list that is not the subject are shown.
const SHOWN: usize = 12;

/// The width to fit tables to; `None` in a pipe, where nothing is cut or wrapped.
pub fn terminal_width() -> Option<usize> {
    io::stdout()
        .is_terminal()
        .then(|| terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0).max(40)))
}

/// Writes the names that `fname` found, one a line.
pub fn fname(output: &mut dyn Write, files: &[ImageFile]) -> io::Result<()> {
    files.iter().try_for_each(|file| writeln!(output, "{}", file.file_name))
}

/// Writes what `scan` found.
pub fn scan(output: &mut dyn Write, report: &ScanReport<'_>, width: Option<usize>) -> io::Result<()> {
    /// The width of the columns before the name.
    const BEFORE: usize = 32;
    let mut files: Vec<_> = report.files.iter().collect();
    files.sort_by_key(|(name, file)| (Reverse(file.disk_bytes()), *name));
    let names: Vec<String> = files.iter().map(|(name, _)| printable(name)).collect();
    let images: Vec<String> = files.iter().map(|(name, file)| image_and_loss(report, name, file)).collect();
    let column = column_width(&names);
    let has_images = images.iter().any(|it| !it.is_empty());
    let image_column = column_width(&images);
    let beside = has_images && fits(BEFORE + column + 2 + image_column, width);
    if !files.is_empty() {
        let image = if beside { format!("{:pad$}  IMAGE", "", pad = column - 4) } else { String::new() };
        header(output, &format!("{:9}  {:>9}  {:>8}  FILE{image}", "KIND", "DISK", "AGE"))?;
    }
    for (((name, file), text), image) in files.iter().zip(&names).zip(&images) {
        let age = file.stat.map(|stat| ForPeople(stat.mtime.age_at(report.generated_at)));
        write!(
            output,
            "{:9}  {:>9}  {:>8}  ",
            file.kind(name).as_str(),
            size(file),
            age.map_or("?".into(), |it| it.to_string()),
        )?;
        if beside && !image.is_empty() && image.width() <= image_column {
            writeln!(output, "{text}{:pad$}  {image}", "", pad = column.saturating_sub(text.width()))?;
        } else {
            last_column(output, text, BEFORE, width)?;
            if !image.is_empty() {
                wrapped(output, image, 4, width)?;
            }
        }
    }
    let by_kind = report.by_kind();
    totals(output, width, by_kind.into_iter().map(|(kind, total)| (kind.as_str(), Style::new(), total)))?;
    let lost = report.not_downloadable();
    if lost.files > 0 {
        last_line(output, &format!("{NOT_DOWNLOADABLE}: {}", total_text(lost)), width)?;
    }
    space_line(output, report.space, "", width)
}

/// The image's name, and whether it is lost.
fn image_and_loss(report: &ScanReport<'_>, name: &OsStr, file: &CacheFile) -> String {
    let image = image_name(report.catalog, name);
    match report.catalog.downloadable(name, file.kind(name)) {
        Some(false) if image.is_empty() => NOT_DOWNLOADABLE.into(),
        Some(false) => format!("{image}; {NOT_DOWNLOADABLE}"),
        _ => image,
    }
}

/// Writes what `explain` or `prune` found.
pub fn pass(output: &mut dyn Write, report: &PassReport<'_>, width: Option<usize>) -> io::Result<()> {
    let mut files = report.files.clone();
    files.sort_by_key(|it| (rank(it.verdict), Reverse(it.file.disk_bytes()), it.name));
    let is_prune = report.pruned.is_some();
    if report.in_full {
        for file in &files {
            story(output, report, file, width)?;
        }
    } else {
        let is_shown = |it: &&Judged<'_>| {
            report.verbose
                || report.pruned.as_ref().is_none_or(|pruned| pruned.outcome(it.name) != Outcome::Kept)
        };
        files.retain(is_shown);
        rows(output, report, &files, width)?;
    }
    if !is_prune || report.verbose || !report.is_complete {
        missing(output, report, width)?;
        if !report.in_full && !is_prune {
            unlisted_directories(output, report, width)?;
        }
        list(
            output,
            if report.judgement.unreadable.len() == 1 {
                "path could not be read"
            } else {
                "paths could not be read"
            },
            report.judgement.unreadable.iter().map(|it| {
                let so = if it.blocks { "" } else { ", which does not matter for the verdicts" };
                format!("{} ({}{so})", printable(it.path.as_os_str()), one_line(&it.error))
            }),
            width,
        )?;
    }
    match report.by_outcome() {
        Some(by_outcome) => totals(
            output,
            width,
            by_outcome.into_iter().map(|(outcome, total)| (outcome.as_str(), outcome_style(outcome), total)),
        )?,
        None => totals(
            output,
            width,
            report.by_verdict().into_iter().map(|(verdict, total)| (verdict.as_str(), style(verdict), total)),
        )?,
    }
    let lost = report.not_downloadable(|_| true);
    if lost.files > 0 {
        last_line(output, &format!("{NOT_DOWNLOADABLE}: {}{}", total_text(lost), of_them(report)), width)?;
    }
    space_line(output, report.space, &freed(report), width)
}

/// How many of the files that cannot be downloaded again a prune removes.
fn of_them(report: &PassReport<'_>) -> String {
    let Some(pruned) = &report.pruned else { return String::new() };
    let verb = if pruned.dry_run { "would be removed" } else { "removed" };
    let removed = report.not_downloadable(|it| pruned.outcome(it.name) == pruned.removal());
    if removed.files == 0 {
        return String::new();
    }
    format!(", {} of them {verb} ({})", removed.files, size_text(removed.disk_bytes))
}

/// What a prune freed, and whether that was enough.
fn freed(report: &PassReport<'_>) -> String {
    let Some(pruned) = &report.pruned else { return String::new() };
    let (outcome, verb) = (pruned.removal(), if pruned.dry_run { "would free" } else { "freed" });
    let files = report.files.iter().filter(|it| pruned.outcome(it.name) == outcome);
    let bytes = files.map(|it| it.file.frees_bytes()).sum();
    let goal = pruned.goal.map(|goal| {
        let so = if goal.short_bytes() == 0 { "reached" } else { "missed" };
        format!(" (goal {} free: {so})", size_text(goal.wanted_bytes))
    });
    format!("{verb} {}{}; ", size_text(bytes), goal.unwrap_or_default())
}

fn space_line(
    output: &mut dyn Write,
    space: Option<Space>,
    before: &str,
    width: Option<usize>,
) -> io::Result<()> {
    let text = match space {
        Some(Space { size_bytes, available_bytes }) => format!(
            "{before}{} of {} free on the filesystem of the cache",
            size_text(available_bytes),
            size_text(size_bytes)
        ),
        None if before.is_empty() => return Ok(()),
        None => before.trim_end_matches("; ").to_owned(),
    };
    last_line(output, &text, width)
}

/// One of the lines below the table; what does not fit is indented.
fn last_line(output: &mut dyn Write, text: &str, width: Option<usize>) -> io::Result<()> {
    let lines = width.map_or_else(|| vec![Cow::from(text)], |width| wrap(text, width - 4));
    writeln!(output, "{}", lines.join("\n    "))
}

fn missing(output: &mut dyn Write, report: &PassReport<'_>, width: Option<usize>) -> io::Result<()> {
    let style = style(Verdict::Unknown);
    for missing in &report.missing {
        write!(output, "{style}missing{style:#}  {}", printable(&missing.name))?;
        let image = image_name(report.catalog, &missing.name);
        if image.is_empty() || width.is_some_and(|width| 9 + missing.name.len() + 3 + image.width() > width) {
            writeln!(output)?;
        } else {
            writeln!(output, " ({image})")?;
        }
        for reason in &missing.reasons {
            if report.in_full {
                full_reason(output, reason, width)?;
            } else {
                wrapped(output, &one_line(&reason.text), 4, width)?;
            }
        }
    }
    Ok(())
}

fn unlisted_directories(
    output: &mut dyn Write,
    report: &PassReport<'_>,
    width: Option<usize>,
) -> io::Result<()> {
    let directories = &report.judgement.unlisted_directories;
    let text = |it: &UnlistedDirectory<'_>| {
        let age =
            it.mtime.map(|mtime| format!(", changed {} ago", ForPeople(mtime.age_at(report.generated_at))));
        let keeps: Vec<String> = it.keeps.iter().map(|it| printable(it)).collect();
        let keeps = match keeps.len() {
            0 => String::new(),
            1..=2 => format!(", keeps {}", keeps.join(" and ")),
            number => format!(", keeps {number} files"),
        };
        let age = age.unwrap_or_default();
        format!("{}: {} in disks{age}{keeps}", printable(it.name), size_text(it.disk_bytes))
    };
    let what = if directories.len() == 1 { "directory" } else { "directories" };
    list(output, &format!("{what} of no instance in the inventory"), directories.iter().map(text), width)
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
    let images: Vec<String> = files.iter().map(|it| image_name(report.catalog, it.name)).collect();
    let columns = Columns::fit(&names, &images, width);
    columns.header(output, first)?;
    for ((file, name), image) in files.iter().zip(names).zip(images) {
        let done = report.done(file);
        let (word, style) = match done {
            Some(done) => (done.outcome.as_str(), outcome_style(done.outcome)),
            None => (file.verdict.as_str(), style(file.verdict)),
        };
        write!(output, "{style}{word:12}{style:#}  {:>9}  ", size(file.file))?;
        let age = file.age.map_or("?".into(), |it| ForPeople(it).to_string());
        if columns.age {
            write!(output, "{age:>8}  ")?;
        }
        let mut why = why(report, file, done);
        // Where it matters the sentence has the age.
        let has_age = file.reasons.iter().any(|it| it.code == Code::Unused)
            || file.verdict == Verdict::Ignored
            || done.is_some_and(|it| it.error.is_some());
        if !columns.age && !has_age {
            why = format!("{age} old; {why}");
        }
        let has_column = columns.image.is_some_and(|column| image.width() <= column);
        if !has_column && !image.is_empty() {
            why = format!("{image}: {why}");
        }
        columns.rest(output, &name, if has_column { &image } else { "" }, &why)?;
    }
    Ok(())
}

/// Which columns there are, and how wide.
struct Columns {
    width: Option<usize>,
    name: usize,
    age: bool,
    image: Option<usize>,
    /// Whether the reason stands beside the file, or below.
    why_beside: bool,
}

impl Columns {
    fn fit(names: &[String], images: &[String], width: Option<usize>) -> Self {
        let name = column_width(names);
        let has_room = |taken: usize| fits(WIDE, width) && fits(taken + 2 + NARROWEST_REASON, width);
        let before = 35;
        let why_beside = has_room(before + name);
        let image = column_width(images);
        let with_image = before + name + 2 + image;
        let has_images = images.iter().any(|it| !it.is_empty())
            && if why_beside { has_room(with_image) } else { fits(with_image, width) };
        Self {
            width,
            name,
            age: why_beside || fits(before + name, width),
            image: has_images.then_some(image),
            why_beside,
        }
    }

    /// The width of the columns before the name.
    const fn before(&self) -> usize {
        if self.age { 35 } else { 25 }
    }

    fn header(&self, output: &mut dyn Write, first: &str) -> io::Result<()> {
        let mut text = format!("{first:12}  {:>9}  ", "DISK");
        if self.age {
            text.push_str(&format!("{:>8}  ", "AGE"));
        }
        text.push_str(&format!("{:pad$}", "FILE", pad = self.name));
        if let Some(image) = self.image {
            text.push_str(&format!("  {:image$}", "IMAGE"));
        }
        if self.why_beside {
            text.push_str("  WHY");
        }
        header(output, text.trim_end())
    }

    /// From the name to the end of the line.
    fn rest(&self, output: &mut dyn Write, name: &str, image: &str, why: &str) -> io::Result<()> {
        let padded =
            |text: &str, to: usize| format!("{text}{:pad$}", "", pad = to.saturating_sub(text.width()));
        let mut line = name.to_owned();
        if let Some(column) = self.image.filter(|_| self.why_beside || !image.is_empty()) {
            line = format!("{}  {}", padded(name, self.name), padded(image, column));
        }
        if !self.why_beside {
            last_column(output, line.trim_end(), self.before(), self.width)?;
            return wrapped(output, why, 4, self.width);
        }
        let indent = self.before() + self.name + 2 + self.image.map_or(0, |it| it + 2);
        write!(output, "{}  ", padded(&line, self.name))?;
        let Some(width) = self.width else { return writeln!(output, "{why}") };
        if self.before() + line.width().max(self.name) + 2 > indent {
            write!(output, "\n{:indent$}", "")?;
        }
        writeln!(output, "{}", wrap(why, width - indent).join(&format!("\n{:indent$}", "")))
    }
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
    writeln!(output, "  path          {}", printable(file.file.path.as_os_str()))?;
    writeln!(output, "  kind          {}", file.kind.as_str())?;
    if let Some(image) = report.catalog.image(file.name) {
        let name = image.name.as_ref().map(|it| format!(" ({})", one_line(it))).unwrap_or_default();
        writeln!(output, "  image         {}{name}", one_line(&image.id))?;
    }
    if let Some(downloadable) = report.downloadable(file) {
        writeln!(output, "  downloadable  {}", if downloadable { "yes" } else { "no" })?;
    }
    if let Some(stat) = &file.file.stat {
        writeln!(output, "  size          {} ({} on disk)", size_text(stat.size_bytes), size(file.file))?;
        writeln!(
            output,
            "  mtime         {}",
            stat.mtime.rfc3339().unwrap_or_else(|| "out of range".into())
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
    wrapped(output, &one_line(&reason.text), 4, width)?;
    let images = reason.images.iter().map(|it| ("image", one_line(it)));
    let instances = reason.instances.iter().map(|it| ("instance", one_line(it)));
    let disks = reason.disks.iter().map(|it| ("disk", printable(it.as_os_str())));
    images
        .chain(instances)
        .chain(disks)
        .try_for_each(|(what, item)| writeln!(output, "      {what:8}  {item}"))
}

fn why(report: &PassReport<'_>, file: &Judged<'_>, done: Option<&Done>) -> String {
    let lost = match report.downloadable(file) {
        Some(false) => format!("; {NOT_DOWNLOADABLE}"),
        _ => String::new(),
    };
    if let Some(error) = done.and_then(|it| it.error.as_deref()) {
        return format!("{}{lost}", one_line(error));
    }
    // The outcome alone does not tell why a file was left.
    let verdict = match done.map(|it| it.outcome) {
        None => String::new(),
        Some(Outcome::Spared) => "not needed for --until-free: ".into(),
        Some(Outcome::Kept) if file.verdict == Verdict::Removable => "not asked for: ".into(),
        Some(_) if file.verdict == Verdict::Removable => String::new(),
        Some(_) => format!("{}: ", file.verdict.as_str()),
    };
    let reasons: Vec<String> = file.reasons.iter().map(|it| one_line(&it.text)).collect();
    format!("{verdict}{}{lost}", reasons.join("; "))
}

/// The name of a file's image, empty where none is known.
fn image_name(catalog: &Catalog<'_>, name: &OsStr) -> String {
    catalog.image(name).and_then(|it| it.name.as_deref()).map(one_line).unwrap_or_default()
}

/// The width of the widest name of ordinary length.
fn column_width(names: &[String]) -> usize {
    let widths = names.iter().map(|it| it.width()).filter(|width| *width <= WIDEST_NAME);
    widths.max().unwrap_or(0).max(5)
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
        Outcome::Kept | Outcome::Spared => AnsiColor::Green.on_default(),
        Outcome::Locked | Outcome::Open | Outcome::Changed => AnsiColor::Cyan.on_default(),
        Outcome::Failed | Outcome::NotReached => AnsiColor::Red.on_default().bold(),
    }
}

fn header(output: &mut dyn Write, text: &str) -> io::Result<()> {
    let bold = Style::new().bold();
    writeln!(output, "{bold}{text}{bold:#}")
}

fn size(file: &CacheFile) -> String {
    file.stat.map_or("?".into(), |stat| size_text(stat.disk_bytes))
}

/// A text, escaped already, on lines of its own, indented.
fn wrapped(output: &mut dyn Write, text: &str, indent: usize, width: Option<usize>) -> io::Result<()> {
    let lines = match width {
        Some(width) => wrap(text, width.saturating_sub(indent)),
        None => vec![Cow::from(text)],
    };
    lines.iter().try_for_each(|line| writeln!(output, "{:indent$}{line}", ""))
}

/// Whether so many columns are there; in a pipe there is no end of them.
fn fits(columns: usize, width: Option<usize>) -> bool {
    width.is_none_or(|width| columns <= width)
}

fn total_text(total: Total) -> String {
    format!("{} ({})", count(total.files, "file"), size_text(total.disk_bytes))
}

/// A name at the end of a line of which `used` columns are taken, or on a line of its own where it does not fit.
fn last_column(output: &mut dyn Write, name: &str, used: usize, width: Option<usize>) -> io::Result<()> {
    if !fits(used + name.width(), width) {
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
        wrapped(output, &item, 4, width)?;
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
    let sum = parts.iter().fold(Total::default(), |sum, (.., total)| sum.plus(*total));
    let text = format!("total {}", total_text(sum));
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
