//! Tables for people: fitted to the terminal's width, one line a file in a pipe.

use std::cmp::Reverse;
use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, IsTerminal as _};

use anstyle::{AnsiColor, Style};
use textwrap::{Options, WordSeparator, WordSplitter};
use unicode_width::UnicodeWidthStr as _;

use super::{Entry, ImageFile, Pass, Pruned, Report, Total, one_line, printable, space_of};
use crate::cache_name::Kind;
use crate::catalog::Catalog;
use crate::evidence::CacheFile;
use crate::filesystem::Space;
use crate::outcome::{Done, Outcome};
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

/// What `scan`, `explain` or `prune` found.
pub fn report(report: &Report<'_>) -> String {
    let width = terminal_width();
    let mut files = report.files.clone();
    files.sort_by_key(|it| (rank(it), Reverse(it.file.disk_bytes()), it.name));
    let mut text = String::new();
    if report.in_full() {
        text.extend(files.iter().map(|it| story(report, it, width)));
    } else {
        let is_shown = |it: &Entry<'_>| {
            report.verbose
                || it.done.is_none_or(|it| it.outcome != Outcome::Kept)
                || report.asked.is_some_and(|asked| asked.contains(it.name))
        };
        files.retain(is_shown);
        let rows: Vec<Row> = files.iter().map(|it| row(report, it)).collect();
        let first = match (&report.pass, report.pruned) {
            (None, _) => ("KIND", 9),
            (Some(_), None) => ("VERDICT", 12),
            (Some(_), Some(_)) => ("OUTCOME", 12),
        };
        text.push_str(&table(first, &rows, width));
    }
    if let Some(pass) = &report.pass {
        text.push_str(&beside_the_files(report, pass, width));
    }
    text.push_str(&totals(report, width));
    text.push_str(&last_line(&lost(report), width));
    let freed = report.pruned.map(|it| freed(report, it)).unwrap_or_default();
    let free = space_of(report.layout).map(free).unwrap_or_default();
    text + &last_line(&joined([&freed, &free], "; "), width)
}

fn beside_the_files(report: &Report<'_>, pass: &Pass<'_>, width: usize) -> String {
    let is_prune = report.pruned.is_some();
    if is_prune && !report.verbose && pass.is_complete {
        return String::new();
    }
    let mut text: String = pass.missing.iter().map(|it| missing(report, it, width)).collect();
    if !report.in_full() && !is_prune {
        let directories = pass.judgement.unlisted_directories.iter();
        let what = if directories.len() == 1 { "directory" } else { "directories" };
        let now = pass.as_of.unwrap_or(report.generated_at);
        let items = directories.map(|it| unlisted_directory(it, now));
        text.push_str(&list(&format!("{what} of no instance in the inventory"), items, width));
    }
    let unreadable = pass.judgement.unreadable.iter();
    let what = if unreadable.len() == 1 { "path" } else { "paths" };
    let items = unreadable.map(|it| {
        let so = if it.blocks { "" } else { ", which does not matter for the verdicts" };
        format!("{} ({}{so})", printable(it.path.as_os_str()), one_line(&it.error))
    });
    text + &list(&format!("{what} could not be read"), items, width)
}

/// The files that cannot be downloaded again, and how many of them a prune removes.
fn lost(report: &Report<'_>) -> String {
    let lost = Total::of(report.lost());
    if lost.files == 0 {
        return String::new();
    }
    let removed = report.pruned.and_then(|pruned| {
        let removed = Total::of(report.lost().filter(|it| pruned.removes(it)));
        let verb = if pruned.dry_run { "would be removed" } else { "removed" };
        let text = || format!(", {} of them {verb} ({})", removed.files, size_text(removed.disk_bytes));
        (removed.files > 0).then(text)
    });
    format!("{NOT_DOWNLOADABLE}: {}{}", total_text(lost), removed.unwrap_or_default())
}

/// What a prune freed, and whether that was enough.
fn freed(report: &Report<'_>, pruned: &Pruned<'_>) -> String {
    let removed = report.files.iter().filter(|it| pruned.removes(it));
    let bytes = size_text(removed.map(|it| it.file.frees_bytes()).sum());
    let goal = pruned.goal.map(|goal| {
        let so = if goal.short_bytes() == 0 { "reached" } else { "missed" };
        format!(" (goal {} free: {so})", size_text(goal.wanted_bytes))
    });
    let verb = if pruned.dry_run { "would free" } else { "freed" };
    format!("{verb} {bytes}{}", goal.unwrap_or_default())
}

fn free(space: Space) -> String {
    let (available, size) = (size_text(space.available_bytes), size_text(space.size_bytes));
    format!("{available} of {size} free on the filesystem of the cache")
}

fn missing(report: &Report<'_>, missing: &Missing<'_>, width: usize) -> String {
    let style = Word::Verdict(Verdict::Unknown).style();
    let mut image = image_name(report.catalog, &missing.name);
    if !image.is_empty() && 9 + missing.name.len() + 3 + image.width() <= width {
        image = format!(" ({image})");
    } else {
        image.clear();
    }
    let reason = |it: &Reason<'_>| match report.in_full() {
        true => full_reason(it, width),
        false => wrapped(&one_line(&it.text), 4, width),
    };
    let reasons: String = missing.reasons.iter().map(reason).collect();
    format!("{style}missing{style:#}  {}{image}\n{reasons}", printable(&missing.name))
}

fn unlisted_directory(it: &UnlistedDirectory<'_>, now: Timestamp) -> String {
    let age = it.mtime.map(|mtime| format!(", changed {} ago", ForPeople(mtime.age_at(now))));
    let keeps: Vec<String> = it.keeps.iter().map(|it| printable(it)).collect();
    let keeps = match keeps.len() {
        0 => String::new(),
        1..=2 => format!(", keeps {}", keeps.join(" and ")),
        number => format!(", keeps {number} files"),
    };
    let age = age.unwrap_or_default();
    format!("{}: {} in disks{age}{keeps}", printable(it.name), size_text(it.disk_bytes))
}

/// What is said of a file first, in the order of the totals.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Word {
    Kind(Kind),
    Verdict(Verdict),
    Outcome(Outcome),
}

impl Word {
    fn of(it: &Entry<'_>) -> Self {
        let verdict = it.judged.map(|it| Self::Verdict(it.verdict));
        let outcome = it.done.map(|it| Self::Outcome(it.outcome));
        outcome.or(verdict).unwrap_or(Self::Kind(it.file.kind(it.name)))
    }

    const fn as_str(self) -> &'static str {
        match self {
            Self::Kind(kind) => kind.as_str(),
            Self::Verdict(verdict) => verdict.as_str(),
            Self::Outcome(outcome) => outcome.as_str(),
        }
    }

    fn style(self) -> Style {
        use Outcome::{Changed, Failed, Kept, Locked, NotReached, Open, Removed, Spared, WouldRemove};

        match self {
            Self::Kind(_) => Style::new(),
            Self::Verdict(Verdict::Ignored) => Style::new().dimmed(),
            Self::Verdict(Verdict::Unknown) => AnsiColor::Magenta.on_default(),
            Self::Verdict(Verdict::InUse) | Self::Outcome(Kept | Spared) => AnsiColor::Green.on_default(),
            Self::Verdict(Verdict::TooYoung) | Self::Outcome(Locked | Open | Changed) => {
                AnsiColor::Cyan.on_default()
            }
            Self::Verdict(Verdict::Removable) | Self::Outcome(Removed | WouldRemove) => {
                AnsiColor::Yellow.on_default().bold()
            }
            Self::Outcome(Failed | NotReached) => AnsiColor::Red.on_default().bold(),
        }
    }
}

/// A line of a table.
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

fn row(report: &Report<'_>, it: &Entry<'_>) -> Row {
    let word = Word::of(it);
    let lost = if report.downloadable(it) == Some(false) { NOT_DOWNLOADABLE } else { "" };
    let mut row = Row {
        word: word.as_str(),
        style: word.style(),
        size: size(it.file),
        age: report.age(it).map_or("?".into(), |it| ForPeople(it).to_string()),
        name: printable(it.name),
        image: image_name(report.catalog, it.name),
        ..Row::default()
    };
    match it.judged {
        None => row.image = joined([&row.image, lost], "; "),
        Some(judged) => {
            row.why = joined([&why(judged, it.done), lost], "; ");
            row.age_is_told = judged.reasons.iter().any(|it| it.code == Code::Unused)
                || judged.verdict == Verdict::Ignored
                || it.done.is_some_and(|it| it.error.is_some());
        }
    }
    row
}

fn why(judged: &Judged<'_>, done: Option<&Done>) -> String {
    if let Some(error) = done.and_then(|it| it.error.as_deref()) {
        return one_line(error);
    }
    // The outcome alone does not tell why a file was left.
    let verdict = match done.map(|it| it.outcome) {
        None => String::new(),
        Some(Outcome::Spared) => "not needed for --until-free: ".into(),
        Some(Outcome::Kept) if judged.verdict == Verdict::Removable => "not asked for: ".into(),
        Some(_) if judged.verdict == Verdict::Removable => String::new(),
        Some(_) => format!("{}: ", judged.verdict.as_str()),
    };
    let reasons: Vec<String> = judged.reasons.iter().map(|it| one_line(&it.text)).collect();
    format!("{verdict}{}", reasons.join("; "))
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
fn story(report: &Report<'_>, it: &Entry<'_>, width: usize) -> String {
    let word = Word::of(it);
    let (bold, style) = (Style::new().bold(), word.style());
    let stat = it.file.stat;
    let image = report.catalog.image(it.name).map(|image| {
        let name = image.name.as_ref().map(|it| format!(" ({})", one_line(it))).unwrap_or_default();
        format!("{}{name}", one_line(&image.id))
    });
    let minimum = it.judged.and_then(|it| it.minimum_age).map(|it| format!(" (minimum {})", ForPeople(it)));
    let minimum = minimum.unwrap_or_default();
    let mtime = |it: Timestamp| it.rfc3339().unwrap_or_else(|| "out of range".into());
    let fields = [
        ("verdict", Some(format!("{style}{}{style:#}", word.as_str()))),
        ("path", Some(printable(it.file.path.as_os_str()))),
        ("kind", Some(it.file.kind(it.name).as_str().into())),
        ("image", image),
        ("downloadable", report.downloadable(it).map(|it| if it { "yes" } else { "no" }.into())),
        ("size", stat.map(|stat| format!("{} ({} on disk)", size_text(stat.size_bytes), size(it.file)))),
        ("mtime", stat.map(|it| mtime(it.mtime))),
        ("age", report.age(it).map(|age| format!("{}{minimum}", ForPeople(age)))),
    ];
    let fields = fields.into_iter().filter_map(|(what, text)| Some(format!("  {what:12}  {}\n", text?)));
    let reasons = it.judged.iter().flat_map(|it| &it.reasons).map(|it| full_reason(it, width));
    let text: String = fields.chain(reasons).collect();
    format!("{bold}{}{bold:#}\n{text}\n", printable(it.name))
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
fn rank(it: &Entry<'_>) -> u8 {
    match it.judged.map(|it| it.verdict) {
        None | Some(Verdict::Removable) => 0,
        Some(Verdict::TooYoung) => 1,
        Some(Verdict::Unknown) => 2,
        Some(Verdict::InUse) => 3,
        Some(Verdict::Ignored) => 4,
    }
}

fn size(file: &CacheFile) -> String {
    file.stat.map_or("?".into(), |stat| size_text(stat.disk_bytes))
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
fn totals(report: &Report<'_>, width: usize) -> String {
    let mut by_word: BTreeMap<Word, Vec<&Entry<'_>>> = BTreeMap::new();
    for it in &report.files {
        by_word.entry(Word::of(it)).or_default().push(it);
    }
    let mut texts = vec![format!("total {}", total_text(Total::of(&report.files)))];
    texts.extend(by_word.into_iter().map(|(word, files)| {
        let (style, total) = (word.style(), Total::of(files));
        format!("{style}{}{style:#} {} ({})", word.as_str(), total.files, size_text(total.disk_bytes))
    }));
    // Broken between the parts alone.
    let separator =
        WordSeparator::Custom(|line| Box::new(line.split_inclusive(", ").map(textwrap::core::Word::from)));
    let options = Options::new(width).word_separator(separator).word_splitter(WordSplitter::NoHyphenation);
    textwrap::fill(&texts.join(", "), options.subsequent_indent("    ")) + "\n"
}
