//! What nova.conf says, by the rules of oslo.config, whose `iniparser` and `string.Template` are followed to the letter.
//!
//! The parser is written here, since rust-ini gives other values: it reads on over an empty line inside an indented
//! value and drops the line break after an empty first line, takes an indented key for a new one, trims the names of
//! sections, accepts keys before the first section, and either keeps all quotes or strips those inside a value too.
//! `tests/nova_conf.rs` compares what this module reads with what the real oslo.config reads.

use std::cell::Cell;
use std::collections::HashMap;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

use crate::input::{read_file, unreadable};

/// What nova.conf says of what matters here, or nova's default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NovaConf {
    pub instances_path: PathBuf,
    pub host: String,
    pub subdirectory_name: String,
    pub original_minimum_age: Duration,
    pub resized_minimum_age: Duration,
    /// Whether nova's own task removes files.
    pub remove_unused_base_images: bool,
}

/// The longest nova.conf read, in bytes; a generated sample with every option explained has some 500,000.
const LONGEST_FILE: u64 = 4 << 20;

/// Reads these files, of which later ones win; see [`parse`].
pub fn load(paths: &[PathBuf], given: &[&str], machine: &str) -> Result<NovaConf> {
    let mut files = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let file = fs_err::File::open(path).map_err(|error| unreadable("--config-file", error))?;
        let text = read_file(file, LONGEST_FILE).with_context(|| format!("--config-file {name}"))?;
        let text = String::from_utf8(text)
            .map_err(|_| anyhow!("{name}: is not UTF-8: convert it, as iconv -t UTF-8 does"))?;
        files.push((name, text));
    }
    parse(&files, given, machine)
}

/// Reads files of these names and texts, of which later ones win.
///
/// Options that are `given` on the command line are left at their defaults, whatever is wrong with them in the files;
/// `machine` is this machine's name, which is the default of `host`.
///
/// # Errors
/// Where oslo.config would not read a file, an option has a value that nova would not take or a negative age, or a
/// reference undefined option. The error names the file, the line and the option.
pub fn parse(files: &[(String, String)], given: &[&str], machine: &str) -> Result<NovaConf> {
    let files = files.iter().map(|(name, text)| values(name, text)).collect::<Result<_>>()?;
    let conf = Conf { files, machine, references: Cell::new(0) };
    let value = |group, name| -> Result<String> {
        let option = option(group, name);
        let set = if given.contains(&name) { None } else { conf.value(option, &[])? };
        Ok(set.unwrap_or_else(|| conf.default(option).unwrap_or_default().to_owned()))
    };
    let age = |name| -> Result<Duration> { Ok(Duration::from_secs(value(IMAGE_CACHE, name)?.parse()?)) };
    Ok(NovaConf {
        instances_path: value(DEFAULT, INSTANCES_PATH)?.into(),
        host: value(DEFAULT, HOST)?,
        subdirectory_name: value(IMAGE_CACHE, SUBDIRECTORY_NAME)?,
        original_minimum_age: age(ORIGINAL_AGE)?,
        resized_minimum_age: age(RESIZED_AGE)?,
        remove_unused_base_images: value(IMAGE_CACHE, BASE_IMAGES)? != "False",
    })
}

const DEFAULT: &str = "DEFAULT";
const IMAGE_CACHE: &str = "image_cache";

pub const INSTANCES_PATH: &str = "instances_path";
pub const HOST: &str = "host";
pub const SUBDIRECTORY_NAME: &str = "subdirectory_name";
pub const ORIGINAL_AGE: &str = "remove_unused_original_minimum_age_seconds";
pub const RESIZED_AGE: &str = "remove_unused_resized_minimum_age_seconds";
const BASE_IMAGES: &str = "remove_unused_base_images";

/// A group and a name.
type Place<'a> = (&'a str, &'a str);

#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// A host name, which may end in a dot that is not part of it.
    Host,
    Seconds,
    Flag,
}

/// The options read here whose type, default or former places matter, as nova's `nova/conf` gives them. Former places
/// stand in the order in which they are looked for. state_path is what distributions set: nova's own default is where
/// its Python modules lie.
const OPTIONS: [(Place<'_>, Kind, Option<&str>, &[Place<'_>]); 7] = [
    ((DEFAULT, "state_path"), Kind::Text, Some("/var/lib/nova"), &[]),
    ((DEFAULT, INSTANCES_PATH), Kind::Text, Some("$state_path/instances"), &[]),
    ((DEFAULT, HOST), Kind::Host, None, &[]),
    ((IMAGE_CACHE, SUBDIRECTORY_NAME), Kind::Text, Some("_base"), &FORMER_SUBDIRECTORY_NAMES),
    ((IMAGE_CACHE, BASE_IMAGES), Kind::Flag, Some("True"), &[(DEFAULT, BASE_IMAGES)]),
    ((IMAGE_CACHE, ORIGINAL_AGE), Kind::Seconds, Some("86400"), &[(DEFAULT, ORIGINAL_AGE)]),
    ((IMAGE_CACHE, RESIZED_AGE), Kind::Seconds, Some("3600"), &[("libvirt", RESIZED_AGE)]),
];

const FORMER_SUBDIRECTORY_NAMES: [Place<'_>; 2] =
    [(DEFAULT, "image_cache_subdirectory_name"), (DEFAULT, "base_dir_name")];

#[derive(Clone, Copy)]
struct Opt<'a> {
    place: Place<'a>,
    kind: Kind,
    default: Option<&'static str>,
    former: &'static [Place<'static>],
}

/// An option by its present or a former name; any other is a text without a default.
fn option<'a>(group: &'a str, name: &'a str) -> Opt<'a> {
    let named = (group, name);
    for (place, kind, default, former) in OPTIONS {
        if place == named || former.contains(&named) {
            return Opt { place, kind, default, former };
        }
    }
    Opt { place: named, kind: Kind::Text, default: None, former: &[] }
}

/// A value as it stands in a file, and in which line of which file.
struct Value {
    text: String,
    line: String,
}

/// The values of one file by group and name, the last of each name.
type Values = HashMap<(String, String), Value>;

/// The files, in the order of the command line.
struct Conf<'a> {
    files: Vec<Values>,
    machine: &'a str,
    /// How many were replaced.
    references: Cell<usize>,
}

/// More references than any nova.conf has, and few enough for the stack.
const MOST_REFERENCES: usize = 500;

/// Longer than any path or name that a system takes, in bytes.
const LONGEST_VALUE: usize = 4096;

impl Conf<'_> {
    /// The value as the files have it, and in which place: a later file wins, and in one file the present name.
    fn find<'a>(&self, option: Opt<'a>) -> Option<(Place<'a>, &Value)> {
        self.files.iter().rev().find_map(|file| {
            let mut places = std::iter::once(option.place).chain(option.former.iter().copied());
            places.find_map(|(group, name)| {
                Some(((group, name), file.get(&(group.to_owned(), name.to_owned()))?))
            })
        })
    }

    fn default(&self, option: Opt<'_>) -> Option<&str> {
        if option.place == (DEFAULT, HOST) { Some(self.machine) } else { option.default }
    }

    /// The value with its references replaced, in the form in which oslo.config would replace a reference to it. It is
    /// referred to by the values of the options that it is `within`, listed from the outermost on.
    fn value(&self, option: Opt<'_>, within: &[Place<'_>]) -> Result<Option<String>> {
        let (group, name) = option.place;
        if within.contains(&option.place) {
            bail!("[{group}] {name}: refers to itself: give it a value");
        }
        let found = self.find(option);
        let Some(text) = found.map(|(_, it)| &*it.text).or(self.default(option)) else { return Ok(None) };
        self.substitute(text, &[within, &[option.place]].concat())
            .and_then(|text| convert(option.kind, text))
            .with_context(|| match found {
                Some(((group, name), Value { line, .. })) => format!("{line}: [{group}] {name}"),
                None => format!("[{group}] {name}"),
            })
    }

    /// Replaces `$name`, `${name}`, `${group.name}`, `$$` and `\$`; any other `$` stands for itself.
    fn substitute(&self, text: &str, within: &[Place<'_>]) -> Result<String> {
        let text = text.replace(r"\$", "$$");
        let mut replaced = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            replaced.push_str(before);
            if let Some((name, after)) = split_reference(after) {
                replaced.push_str(&self.reference(name, within)?);
                rest = after;
            } else {
                replaced.push('$');
                rest = after.strip_prefix('$').unwrap_or(after);
            }
        }
        replaced.push_str(rest);
        if replaced.len() > LONGEST_VALUE {
            bail!("is longer than {LONGEST_VALUE} bytes: shorten it");
        }
        Ok(replaced)
    }

    /// What a reference in a value stands for: an option of the value's group, else one of DEFAULT.
    fn reference(&self, name: &str, within: &[Place<'_>]) -> Result<String> {
        self.references.set(self.references.get() + 1);
        if self.references.get() > MOST_REFERENCES {
            bail!("${name}: more than {MOST_REFERENCES} references: write its value out");
        }
        let value = match name.split_once('.') {
            // oslo.config knows no group of that name.
            Some((DEFAULT, _)) => None,
            Some((group, name)) => self.value(option(group, name), within)?,
            None => {
                let group = within.last().map_or(DEFAULT, |(group, _)| *group);
                let own = option(group, name);
                // nova has no other options of image_cache that a value could want, whatever the file sets there.
                let is_own = match group {
                    IMAGE_CACHE => own.default.is_some(),
                    _ => self.find(own).is_some(),
                };
                self.value(if is_own { own } else { option(DEFAULT, name) }, within)?
            }
        };
        value.with_context(|| {
            format!(
                "${name}: undefined option: set it in one of the files, or give the command-line option that needs it"
            )
        })
    }
}

/// The name after a `$`, in braces or not, and the text after it.
fn split_reference(text: &str) -> Option<(&str, &str)> {
    let in_braces = text.strip_prefix('{');
    let text = in_braces.unwrap_or(text);
    let is_part = |(at, character): (usize, char)| {
        let is_letter = character.is_ascii_alphabetic() || character == '_';
        is_letter || (at > 0 && (character.is_ascii_digit() || character == '.'))
    };
    let end = text.char_indices().find(|it| !is_part(*it)).map_or(text.len(), |(at, _)| at);
    let (name, rest) = text.split_at(end);
    let rest = if in_braces.is_some() { rest.strip_prefix('}')? } else { rest };
    (!name.is_empty()).then_some((name, rest))
}

/// The value as its type makes it, `None` where that is Python's.
fn convert(kind: Kind, text: String) -> Result<Option<String>> {
    Ok(match kind {
        Kind::Text => Some(text),
        Kind::Host if text.is_empty() => bail!("is empty: give it a value, or remove the line"),
        Kind::Host => Some(text.strip_suffix('.').unwrap_or(&text).to_owned()),
        Kind::Seconds if trim(&text).is_empty() => None,
        Kind::Seconds => Some(seconds(trim(&text))?.to_string()),
        Kind::Flag => match text.to_lowercase().as_str() {
            "true" | "1" | "on" | "yes" => Some("True".into()),
            "false" | "0" | "off" | "no" => Some("False".into()),
            _ => bail!("{text:?}: neither true nor false: write True or False"),
        },
    })
}

/// A number as Python writes it: a sign, digits, and single underscores between digits.
fn seconds(text: &str) -> Result<u64> {
    let digits = text.strip_prefix('+').unwrap_or(text);
    let is_plain = digits.split('_').all(|it| !it.is_empty() && it.bytes().all(|byte| byte.is_ascii_digit()));
    if !is_plain {
        bail!("{text:?}: not a number of seconds: write zero or more");
    }
    digits.replace('_', "").parse().with_context(|| format!("{text} seconds"))
}

/// Python's `str.strip`.
fn trim(text: &str) -> &str {
    text.trim_matches(is_space)
}

/// Python's `str.isspace`, which takes four separators of ASCII that Unicode's `White_Space` leaves out.
fn is_space(character: char) -> bool {
    character.is_whitespace() || ('\x1c'..='\x1f').contains(&character)
}

/// Reads one file.
fn values(file: &str, text: &str) -> Result<Values> {
    let mut values = Values::new();
    let mut section = None;
    // What an indented line continues.
    let mut open: Option<&mut Value> = None;
    // As Python reads text: three kinds of line ends.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (number, text) in (1..).zip(text.split('\n')) {
        let text = text.trim_end_matches(is_space);
        let line = format!("{file}: line {number}");
        let shortened: String = text.chars().take(80).collect();
        let wrong = |what: &str| anyhow!("{line}: {what}: {shortened:?}");
        if text.starts_with([' ', '\t']) {
            let why =
                "is indented, but there is no value above that it continues: remove the spaces before it";
            let value = open.as_mut().ok_or_else(|| wrong(why))?;
            value.text.push('\n');
            value.text.push_str(text.trim_start_matches(is_space));
            continue;
        }
        open = None;
        if text.is_empty() || text.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = text.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| wrong("a section must end with ]"))?;
            if name.is_empty() {
                return Err(wrong("a section must have a name"));
            }
            section = Some(if name == DEFAULT { name.to_owned() } else { name.to_lowercase() });
            continue;
        }
        let (key, value) = text.split_once([':', '=']).ok_or_else(|| wrong("has neither = nor :"))?;
        let key = trim(key);
        if key.is_empty() {
            return Err(wrong("has no name before the = or :"));
        }
        let Some(section) = &section else {
            bail!("{line}: {key:.80}: stands before the first section: write [DEFAULT] above it");
        };
        let value = Value { text: unquoted(trim(value)).to_owned(), line };
        open = Some(values.entry((section.clone(), key.to_owned())).insert_entry(value).into_mut());
    }
    Ok(values)
}

/// Without the quotes around it; a lone quote is both of them.
fn unquoted(text: &str) -> &str {
    for quote in ['"', '\''] {
        if let Some(rest) = text.strip_prefix(quote) {
            return if rest.is_empty() { "" } else { rest.strip_suffix(quote).unwrap_or(text) };
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(texts: &[&str]) -> Result<NovaConf> {
        let files: Vec<_> = texts
            .iter()
            .enumerate()
            .map(|(index, text)| (format!("{}.conf", index + 1), (*text).to_owned()))
            .collect();
        parse(&files, &[], "machine")
    }

    /// oslo.config says `None` then, with which nova cannot work.
    #[test]
    fn an_age_without_a_value_is_novas_default() {
        let conf = read(&["[image_cache]\nremove_unused_resized_minimum_age_seconds =\n"]).unwrap();
        assert_eq!(conf.resized_minimum_age, Duration::from_secs(3600));
    }

    #[test]
    fn a_long_chain_of_references_is_read_or_refused() {
        for (length, expected) in [(400, Some("/end")), (100_000, None)] {
            let links: String = (0..length).map(|it| format!("a{it}=$a{}\n", it + 1)).collect();
            let conf = read(&[&format!("[DEFAULT]\ninstances_path=/$a0\n{links}a{length}=end\n")]);
            let path = conf.ok().map(|it| it.instances_path);
            assert_eq!(path, expected.map(PathBuf::from), "{length}");
        }
    }

    #[test]
    fn errors_name_the_file_the_line_and_the_option() {
        let many = format!("[DEFAULT]\ninstances_path={}\na={}\nb=\n", "$a".repeat(100), "$b".repeat(100));
        let long = format!("[DEFAULT]\ninstances_path=$a$a\na={}\n", "x".repeat(3000));
        for (text, expected) in [
            ("\n a = b", "1.conf: line 2: is indented"),
            ("[DEFAULT]\na = b\n\n  c", "1.conf: line 4: is indented"),
            ("a = b\n", "1.conf: line 1: a: stands before the first section: write [DEFAULT] above it"),
            ("[DEFAULT\n", "1.conf: line 1: a section must end with ]"),
            ("[DEFAULT] # all\n", "a section must end with ]"),
            ("[]\n", "a section must have a name"),
            ("[DEFAULT]\nhost\n", "1.conf: line 2: has neither = nor :: \"host\""),
            ("[DEFAULT]\n= a\n", "has no name before"),
            ("\u{feff}[DEFAULT]\n", "line 1: has neither"),
            ("[DEFAULT]\nhost =\n", "1.conf: line 2: [DEFAULT] host: is empty"),
            (
                "[image_cache]\nsubdirectory_name = $my_ip",
                "[image_cache] subdirectory_name: $my_ip: undefined option",
            ),
            ("[DEFAULT]\ninstances_path = $STATE_PATH\n", "$STATE_PATH: undefined option"),
            ("[DEFAULT]\ninstances_path = ${DEFAULT.state_path}\n", "$DEFAULT.state_path: undefined option"),
            ("[DEFAULT]\ninstances_path = $state_path.old\n", "$state_path.old: undefined option"),
            (
                "[DEFAULT]\ninstances_path = $instances_path\n",
                "instances_path: refers to itself: give it a value",
            ),
            ("[DEFAULT]\ninstances_path = $a\na=$b\nb=$a", "[DEFAULT] a: refers to itself: give it a value"),
            (&many, "more than 500 references: write its value out"),
            (&long, "is longer than 4096 bytes"),
            (
                "[libvirt]\nremove_unused_resized_minimum_age_seconds = 1h\n",
                "_seconds: \"1h\": not a number of seconds",
            ),
            (
                "[DEFAULT]\nremove_unused_original_minimum_age_seconds = -1\n",
                "line 2: [DEFAULT] remove_unused_original_minimum_age_seconds: \"-1\": not a number",
            ),
            (
                "[DEFAULT]\nbase_dir_name = $my_ip",
                "line 2: [DEFAULT] base_dir_name: $my_ip: undefined option",
            ),
            ("[DEFAULT]\nremove_unused_original_minimum_age_seconds = 1__0\n", "\"1__0\": not a number"),
            ("[DEFAULT]\nremove_unused_original_minimum_age_seconds = 99999999999999999999\n", "too large"),
            ("[image_cache]\nremove_unused_base_images = maybe\n", "\"maybe\": neither true nor false"),
        ] {
            let error = format!("{:#}", read(&[text]).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
            assert!(error.len() < 600, "{} bytes", error.len());
        }
    }
}
