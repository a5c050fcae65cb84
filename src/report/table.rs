//! Tables for people: fitted to the terminal's width, one line a file in a pipe.

use std::cmp::Reverse;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};

use anstyle::{AnsiColor, Style};
use textwrap::core::Word;
use textwrap::{Options, WordSeparator, WordSplitter};
use unicode_width::UnicodeWidthStr as _;

use super::{ImageFile, PassReport, Pruned, ScanReport, Total, one_line, printable};
use crate::catalog::Catalog;
use crate::evidence::CacheFile;
use crate::filesystem::Space;
use crate::outcome::Outcome;
use crate::size::size_text;
use crate::time::{ForPeople, Timestamp};
use crate::verdict::{Code, Judged, Missing, Reason, UnlistedDirectory, Verdict};
use crate::warning::count;

/// From this width on the reasons stand beside the files; below it, under them.
const WIDE: usize = 130;
/// How wide the column of names gets: the longest name that nova gives fits, a resized copy's interrupted conversion. What
/// is longer stands out, rather than pushing everything else aside.
const WIDEST_NAME: usize = 64;
/// The room that a reason needs beside everything else: less would spread it over many lines.
const NARROWEST_REASON: usize = 50;
/// The width of a pipe, where nothing is wrapped.
const ENDLESS: usize = usize::MAX;
const NOT_DOWNLOADABLE: &str = "cannot be downloaded again";
/// How many names of a list that is not the subject are shown.
const SHOWN: usize = 12;

/// The width to fit tables to.
fn terminal_width() -> usize {
    if !io::stdout().is_terminal() {
        return ENDLESS;
    }
    terminal_size::terminal_size().map_or(80, |(width, _)| usize::from(width.0).max(40))
}

/// The names that `fname` found, one a line.
pub fn fname(files: &[ImageFile]) -> String {
    files.iter().map(|it| format!("{}\n", it.file_name)).collect()
}

/// What `scan` found.
pub fn scan(report: &ScanReport<'_>) -> String {
    let width = terminal_width();
    let mut files = report.files.clone();
    files.sort_by_key(|(name, file)| (Reverse(file.disk_bytes()), *name));
    let row = |(name, file): (&OsStr, &CacheFile)| {
        let lost = if report.is_lost(name, file) { NOT_DOWNLOADABLE } else { "" };
        let age = file.stat.as_ref().ok().map(|stat| stat.mtime.age_at(report.head.generated_at));
        Row {
            word: file.kind(name).as_str(),
            size: size(file),
            age: age.map_or("?".into(), |it| ForPeople(it).to_string()),
            name: printable(name),
            image: joined([&image_name(report.catalog, name), lost], "; "),
            ..Row::default()
        }
    };
    let rows: Vec<Row> = files.into_iter().map(row).collect();
    let lost = report.files.iter().filter(|(name, file)| report.is_lost(name, file)).map(|(_, file)| *file);
    let by_kind = report.by_kind().into_iter().map(|(kind, total)| (kind.as_str(), Style::new(), total));
    [
        table(("KIND", 9), &rows, width),
        totals(by_kind, width),
        not_downloadable(Total::of(lost), "", width),
        last_line(&free(report.head.space), width),
    ]
    .concat()
}

/// What `explain` or `prune` found.
pub fn pass(report: &PassReport<'_>) -> String {
    let width = terminal_width();
    let pruned = report.pruned.as_ref();
    let mut files = report.files.clone();
    files.sort_by_key(|it| (rank(it.verdict), Reverse(it.file.disk_bytes()), it.name));
    let mut text = String::new();
    if report.in_full {
        text.extend(files.iter().map(|it| story(report, it, width)));
    } else {
        files.retain(|file| {
            report.verbose || pruned.is_none_or(|pruned| pruned.outcome(file.name) != Outcome::Kept)
        });
        let rows: Vec<Row> = files.into_iter().map(|it| row(report, it)).collect();
        text.push_str(&table((if pruned.is_some() { "OUTCOME" } else { "VERDICT" }, 12), &rows, width));
    }
    if pruned.is_none() || report.verbose || !report.is_complete {
        text.extend(report.missing.iter().map(|it| missing(report, it, width)));
        if !report.in_full && pruned.is_none() {
            text.push_str(&unlisted_directories(report, width));
        }
        text.push_str(&unreadable(report, width));
    }
    let by_verdict = || report.by_verdict().into_iter().map(|(it, total)| (it.as_str(), style(it), total));
    let by_outcome = |pruned| {
        let by_outcome = report.by_outcome(pruned).into_iter();
        by_outcome.map(|(it, total)| (it.as_str(), outcome_style(it), total))
    };
    text.push_str(&pruned.map_or_else(|| totals(by_verdict(), width), |it| totals(by_outcome(it), width)));
    let lost = report.not_downloadable(|_| true);
    text.push_str(&not_downloadable(
        lost,
        &pruned.map_or("".into(), |it| removed_of_them(report, it)),
        width,
    ));
    let freed = pruned.map_or("".into(), |it| freed(report, it));
    text + &last_line(&joined([&freed, &free(report.head.space)], "; "), width)
}

fn not_downloadable(lost: Total, more: &str, width: usize) -> String {
    if lost.files == 0 {
        return String::new();
    }
    last_line(&format!("{NOT_DOWNLOADABLE}: {}{more}", total_text(lost)), width)
}

/// How many of the files that cannot be downloaded again a prune removes.
fn removed_of_them(report: &PassReport<'_>, pruned: &Pruned<'_>) -> String {
    let removed = report.not_downloadable(|it| pruned.outcome(it.name) == pruned.removal());
    if removed.files == 0 {
        return String::new();
    }
    let verb = if pruned.dry_run { "would be removed" } else { "removed" };
    format!(", {} of them {verb} ({})", removed.files, size_text(removed.disk_bytes))
}

/// What a prune freed, and whether that was enough.
fn freed(report: &PassReport<'_>, pruned: &Pruned<'_>) -> String {
    let removed = report.files.iter().filter(|it| pruned.outcome(it.name) == pruned.removal());
    let bytes = size_text(removed.map(|it| it.file.frees_bytes()).sum());
    let goal = pruned.goal.map(|goal| {
        let so = if goal.short_bytes() == 0 { "reached" } else { "missed" };
        format!(" (goal {} free: {so})", size_text(goal.wanted_bytes))
    });
    let verb = if pruned.dry_run { "would free" } else { "freed" };
    format!("{verb} {bytes}{}", goal.unwrap_or_default())
}

fn free(space: Option<Space>) -> String {
    let Some(Space { size_bytes, available_bytes }) = space else { return String::new() };
    let (available, size) = (size_text(available_bytes), size_text(size_bytes));
    format!("{available} of {size} free on the filesystem of the cache")
}

fn missing(report: &PassReport<'_>, missing: &Missing<'_>, width: usize) -> String {
    let style = style(Verdict::Unknown);
    let mut image = image_name(report.catalog, &missing.name);
    if !image.is_empty() && 9 + missing.name.len() + 3 + image.width() <= width {
        image = format!(" ({image})");
    } else {
        image.clear();
    }
    let reason = |it: &Reason<'_>| {
        if report.in_full { full_reason(it, width) } else { wrapped(&one_line(&it.text), 4, width) }
    };
    let reasons: String = missing.reasons.iter().map(reason).collect();
    format!("{style}missing{style:#}  {}{image}\n{reasons}", printable(&missing.name))
}

fn unlisted_directories(report: &PassReport<'_>, width: usize) -> String {
    let now = report.head.generated_at;
    let directories = &report.judgement.unlisted_directories;
    let text = |it: &UnlistedDirectory<'_>| {
        let age = it.mtime.map(|mtime| format!(", changed {} ago", ForPeople(mtime.age_at(now))));
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
    list(&format!("{what} of no instance in the inventory"), directories.iter().map(text), width)
}

fn unreadable(report: &PassReport<'_>, width: usize) -> String {
    let unreadable = &report.judgement.unreadable;
    let what = if unreadable.len() == 1 { "path" } else { "paths" };
    let items = unreadable.iter().map(|it| {
        let so = if it.blocks { "" } else { ", which does not matter for the verdicts" };
        format!("{} ({}{so})", printable(it.path.as_os_str()), one_line(&it.error))
    });
    list(&format!("{what} could not be read"), items, width)
}

/// A file in a table.
#[derive(Default)]
struct Row {
    word: &'static str,
    style: Style,
    size: String,
    age: String,
    name: String,
    image: String,
    why: String,
    /// Whether `why` has the age where that matters.
    age_is_told: bool,
}

fn row(report: &PassReport<'_>, file: &Judged<'_>) -> Row {
    let done = report.done(file);
    let error = done.and_then(|it| it.error.as_deref());
    // The outcome alone does not tell why a file was left.
    let verdict = match done.map(|it| it.outcome) {
        None => String::new(),
        Some(Outcome::Spared) => "not needed for --until-free: ".into(),
        Some(Outcome::Kept) if file.verdict == Verdict::Removable => "not asked for: ".into(),
        Some(_) if file.verdict == Verdict::Removable => String::new(),
        Some(_) => format!("{}: ", file.verdict.as_str()),
    };
    let reasons: Vec<String> = file.reasons.iter().map(|it| one_line(&it.text)).collect();
    let why = error.map_or_else(|| format!("{verdict}{}", reasons.join("; ")), one_line);
    let is_lost = report.downloadable(file) == Some(false);
    Row {
        word: done.map_or(file.verdict.as_str(), |it| it.outcome.as_str()),
        style: done.map_or(style(file.verdict), |it| outcome_style(it.outcome)),
        size: size(file.file),
        age: file.age.map_or("?".into(), |it| ForPeople(it).to_string()),
        name: printable(file.name),
        image: image_name(report.catalog, file.name),
        why: joined([&why, if is_lost { NOT_DOWNLOADABLE } else { "" }], "; "),
        age_is_told: file.reasons.iter().any(|it| it.code == Code::Unused)
            || file.verdict == Verdict::Ignored
            || error.is_some(),
    }
}

/// A table whose first column has this title and width.
fn table((title, word): (&'static str, usize), rows: &[Row], width: usize) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let columns = Columns::fit(word, rows, width);
    let header = Row {
        word: title,
        size: "DISK".into(),
        age: "AGE".into(),
        name: "FILE".into(),
        image: if columns.image.is_some() { "IMAGE".into() } else { String::new() },
        why: if columns.why_beside { "WHY".into() } else { String::new() },
        age_is_told: true,
        ..Row::default()
    };
    let bold = Style::new().bold();
    let header = format!("{bold}{}{bold:#}\n", columns.text(&header).trim_end());
    header + &rows.iter().map(|it| columns.text(it)).collect::<String>()
}

/// Which columns there are, and how wide.
struct Columns {
    width: usize,
    word: usize,
    age: bool,
    name: usize,
    image: Option<usize>,
    /// Whether the reason stands beside the file, or below.
    why_beside: bool,
}

impl Columns {
    fn fit(word: usize, rows: &[Row], width: usize) -> Self {
        let has_why = rows.iter().any(|it| !it.why.is_empty());
        let has_images = rows.iter().any(|it| !it.image.is_empty());
        let has_room = |taken: usize| width >= WIDE && taken + 2 + NARROWEST_REASON <= width;
        let name = column_width(rows.iter().map(|it| &*it.name));
        let image = column_width(rows.iter().map(|it| &*it.image));
        let to_name = word + 23 + name;
        let to_image = to_name + 2 + image;
        let why_beside = has_why && has_room(to_name);
        let image_fits = if why_beside { has_room(to_image) } else { to_image <= width };
        Self {
            width,
            word,
            age: !has_why || why_beside || to_name <= width,
            name,
            image: (has_images && image_fits).then_some(image),
            why_beside,
        }
    }

    /// A file's line, and what does not fit on it below.
    fn text(&self, row: &Row) -> String {
        let Row { word, style, size, age, name, image, .. } = row;
        let mut line = format!("{style}{word:pad$}{style:#}  {size:>9}  ", pad = self.word);
        let mut start = self.word + 13;
        let mut why = row.why.clone();
        if self.age {
            line.push_str(&format!("{age:>8}  "));
            start += 10;
        } else if !row.age_is_told {
            why = format!("{age} old; {why}");
        }
        let mut names = padded(name, self.name);
        let image_fits = self.image.is_some_and(|column| image.width() <= column);
        if let Some(column) = self.image {
            names = format!("{names}  {}", padded(if image_fits { image } else { "" }, column));
        }
        if !image_fits {
            why = joined([image, &why], ": ");
        }
        if !self.why_beside {
            let names = names.trim_end();
            let before = if start + names.width() > self.width { "\n    " } else { "" };
            return format!("{line}{before}{names}\n{}", wrapped(&why, 4, self.width));
        }
        let indent = start + self.name + 2 + self.image.map_or(0, |it| it + 2);
        let is_too_long = start + names.width() + 2 > indent && self.width != ENDLESS;
        let before = if is_too_long { format!("\n{:indent$}", "") } else { String::new() };
        format!("{line}{names}  {before}{}", wrapped(&why, indent, self.width).trim_start())
    }
}

/// One file, with everything that its verdict rests on.
fn story(report: &PassReport<'_>, file: &Judged<'_>, width: usize) -> String {
    let (bold, style) = (Style::new().bold(), style(file.verdict));
    let stat = file.file.stat.as_ref().ok();
    let image = report.catalog.image(file.name).map(|image| {
        let name = image.name.as_ref().map(|it| format!(" ({})", one_line(it))).unwrap_or_default();
        format!("{}{name}", one_line(&image.id))
    });
    let age = file.age.map(|age| {
        let minimum = file.minimum_age.map(|it| format!(" (minimum {})", ForPeople(it)));
        format!("{}{}", ForPeople(age), minimum.unwrap_or_default())
    });
    let on_disk = |size_bytes| format!("{} ({} on disk)", size_text(size_bytes), size(file.file));
    let mtime = |it: Timestamp| it.rfc3339().unwrap_or_else(|| "out of range".into());
    let fields = [
        ("verdict", Some(format!("{style}{}{style:#}", file.verdict.as_str()))),
        ("path", Some(printable(file.file.path.as_os_str()))),
        ("kind", Some(file.kind.as_str().into())),
        ("image", image),
        ("downloadable", report.downloadable(file).map(|it| if it { "yes" } else { "no" }.into())),
        ("size", stat.map(|it| on_disk(it.size_bytes))),
        ("mtime", stat.map(|it| mtime(it.mtime))),
        ("age", age),
    ];
    let fields = fields.into_iter().filter_map(|(what, text)| Some(format!("  {what:12}  {}\n", text?)));
    let reasons = file.reasons.iter().map(|it| full_reason(it, width));
    let text: String = fields.chain(reasons).collect();
    format!("{bold}{}{bold:#}\n{text}\n", printable(file.name))
}

fn full_reason(reason: &Reason<'_>, width: usize) -> String {
    let images = reason.images.iter().map(|it| ("image", one_line(it)));
    let instances = reason.instances.iter().map(|it| ("instance", one_line(it)));
    let disks = reason.disks.iter().map(|it| ("disk", printable(it.as_os_str())));
    let items = images.chain(instances).chain(disks);
    let items: String = items.map(|(what, item)| format!("      {what:8}  {item}\n")).collect();
    format!("  because\n{}{items}", wrapped(&one_line(&reason.text), 4, width))
}

/// The name of a file's image, empty where none is known.
fn image_name(catalog: &Catalog<'_>, name: &OsStr) -> String {
    catalog.image(name).and_then(|it| it.name.as_deref()).map(one_line).unwrap_or_default()
}

/// The width of the widest name of ordinary length.
fn column_width<'a>(names: impl Iterator<Item = &'a str>) -> usize {
    names.map(|it| it.width()).filter(|width| *width <= WIDEST_NAME).max().unwrap_or(0).max(5)
}

fn padded(text: &str, to: usize) -> String {
    format!("{text}{:pad$}", "", pad = to.saturating_sub(text.width()))
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

fn size(file: &CacheFile) -> String {
    file.stat.as_ref().map_or("?".into(), |stat| size_text(stat.disk_bytes))
}

fn total_text(total: Total) -> String {
    format!("{} ({})", count(total.files, "file"), size_text(total.disk_bytes))
}

/// The texts that there are.
fn joined(texts: [&str; 2], separator: &str) -> String {
    texts.into_iter().filter(|it| !it.is_empty()).collect::<Vec<_>>().join(separator)
}

/// A text, escaped already, on lines of its own, indented. Lines have room for at least 20 columns; names and paths are
/// broken only where they do not fit on one.
fn wrapped(text: &str, indent: usize, width: usize) -> String {
    if text.is_empty() {
        return String::new();
    }
    let indent_text = " ".repeat(indent);
    let options = Options::new(width.max(indent + 20)).word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(text, options.initial_indent(&indent_text).subsequent_indent(&indent_text)) + "\n"
}

/// One of the lines below the table; what does not fit is indented.
fn last_line(text: &str, width: usize) -> String {
    wrapped(text, 4, width).trim_start().into()
}

/// A list that is not the subject: its first items.
fn list(what: &str, items: impl ExactSizeIterator<Item = String>, width: usize) -> String {
    let count = items.len();
    if count == 0 {
        return String::new();
    }
    let mut text = format!("{count} {what}:\n");
    text.extend(items.take(SHOWN).map(|it| wrapped(&it, 4, width)));
    if count > SHOWN {
        text.push_str(&format!("    and {} more, which --format json lists\n", count - SHOWN));
    }
    text
}

/// The line of totals: everything, and what of it is what.
fn totals(parts: impl Iterator<Item = (&'static str, Style, Total)>, width: usize) -> String {
    let parts: Vec<_> = parts.filter(|(.., total)| total.files > 0).collect();
    let sum = Total {
        files: parts.iter().map(|(.., it)| it.files).sum(),
        disk_bytes: parts.iter().map(|(.., it)| it.disk_bytes).sum(),
    };
    let mut texts = vec![format!("total {}", total_text(sum))];
    texts.extend(parts.into_iter().map(|(word, style, total)| {
        format!("{style}{word}{style:#} {} ({})", total.files, size_text(total.disk_bytes))
    }));
    // Broken between the parts alone.
    let separator = WordSeparator::Custom(|line| Box::new(line.split_inclusive(", ").map(Word::from)));
    let options = Options::new(width).word_separator(separator).word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(&texts.join(", "), options.subsequent_indent("    ")) + "\n"
}
