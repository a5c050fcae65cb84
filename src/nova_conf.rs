//! What nova.conf says, by the rules of oslo.config, whose `iniparser` and `string.Template` are followed to the letter.
//!
//! The parser is written here, since rust-ini gives other values: it reads on over an empty line inside an indented
//! value and drops the line break after an empty first line, takes an indented key for a new one, trims the names of
//! sections, accepts keys before the first section, and either keeps all quotes or strips those inside a value too.
//! `tests/nova_conf.rs` compares what this module reads with what the real oslo.config reads.

use std::cell::Cell;
use std::collections::HashMap;
use std::io::Read as _;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};

/// What nova.conf sets of what matters here; `None` where it leaves a default.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NovaConf {
    /// `[DEFAULT] instances_path`, or `instances` under `state_path` where only that is set.
    pub instances_path: Option<PathBuf>,
    /// `[DEFAULT] host`.
    pub host: Option<String>,
    /// `[image_cache] subdirectory_name`.
    pub subdirectory_name: Option<String>,
    /// `[image_cache] remove_unused_original_minimum_age_seconds`.
    pub original_minimum_age: Option<Duration>,
    /// `[image_cache] remove_unused_resized_minimum_age_seconds`.
    pub resized_minimum_age: Option<Duration>,
    /// `[image_cache] remove_unused_base_images`: whether nova's own task removes files.
    pub remove_unused_base_images: bool,
}

/// The longest nova.conf read, in bytes; a generated sample with every option explained has some 500,000.
const LONGEST_FILE: u64 = 4 << 20;

/// Reads these files, of which later ones win.
///
/// # Errors
/// Where a file cannot be read, is larger than 4 MiB or is not UTF-8, and those of [`parse`].
pub fn load(paths: &[PathBuf], given: &[&str], machine: &str) -> Result<NovaConf> {
    let mut files = Vec::new();
    for path in paths {
        let name = path.display().to_string();
        let mut text = Vec::new();
        fs_err::File::open(path)
            .and_then(|file| file.take(LONGEST_FILE + 1).read_to_end(&mut text))
            .map_err(|error| {
                anyhow!(
                    "--config-file: {:#}: name a file that this user may read",
                    anyhow::Error::from(error)
                )
            })?;
        if text.len() as u64 > LONGEST_FILE {
            bail!("{name}: is larger than {LONGEST_FILE} bytes: check that it is a nova.conf");
        }
        let text = String::from_utf8(text)
            .map_err(|_| anyhow!("{name}: is not UTF-8: convert it, as iconv -t UTF-8 does"))?;
        files.push((name, text));
    }
    parse(&files, given, machine)
}

/// Reads files of these names and texts, of which later ones win.
///
/// Options that are `given` on the command line are left out, whatever is wrong with them; `machine` is this machine's
/// name, for which `$host` stands where no file sets it.
///
/// # Errors
/// Where oslo.config would not read a file, an option has a value that nova would not take or a negative age, or a
/// reference undefined option. The error names the file, the line and the option.
pub fn parse(files: &[(String, String)], given: &[&str], machine: &str) -> Result<NovaConf> {
    let mut conf = Conf { files: Vec::new(), substitutions: Cell::new(0), machine };
    for (name, text) in files {
        conf.files.push(sections(name, text)?);
    }
    let is_set = |name| Option::is_some(&conf.find(option("DEFAULT", name)));
    let is_wanted = |name: &str| !given.contains(&name);
    let instances_path = if is_wanted("instances_path") && (is_set("instances_path") || is_set("state_path"))
    {
        conf.value(option("DEFAULT", "instances_path"))?
    } else {
        None
    };
    let if_set = |group, name| {
        let option = option(group, name);
        if is_wanted(name) && conf.find(option).is_some() { conf.value(option) } else { Ok(None) }
    };
    let age = |name| -> Result<Option<Duration>> {
        let Some(seconds) = if_set("image_cache", name)? else { return Ok(None) };
        // Its kind makes it a whole number, and not a negative one.
        Ok(Some(Duration::from_secs(seconds.parse()?)))
    };
    Ok(NovaConf {
        instances_path: instances_path.map(PathBuf::from),
        host: if_set("DEFAULT", "host")?,
        subdirectory_name: if_set("image_cache", "subdirectory_name")?,
        original_minimum_age: age("remove_unused_original_minimum_age_seconds")?,
        resized_minimum_age: age("remove_unused_resized_minimum_age_seconds")?,
        remove_unused_base_images: conf.value(option("image_cache", "remove_unused_base_images"))?
            != Some("False".into()),
    })
}

/// An option whose name, type and default nova's `nova/conf` gives.
struct Opt {
    group: &'static str,
    name: &'static str,
    kind: Kind,
    default: Option<&'static str>,
    /// Former groups and names, in the order in which they are looked for.
    deprecated: &'static [(&'static str, &'static str)],
}

#[derive(Clone, Copy)]
enum Kind {
    Text,
    /// A host name, which may end in a dot that is not part of it.
    Host,
    Seconds,
    Flag,
}

/// Distributions set nova's `state_path` to this; its own default is where its Python modules lie.
const STATE_PATH: &str = "/var/lib/nova";

/// The options read here. `host` and `my_ip` have defaults in nova, too, but those depend on the machine.
const OPTIONS: [Opt; 8] = [
    Opt {
        group: "DEFAULT",
        name: "state_path",
        kind: Kind::Text,
        default: Some(STATE_PATH),
        deprecated: &[],
    },
    Opt {
        group: "DEFAULT",
        name: "instances_path",
        kind: Kind::Text,
        default: Some("$state_path/instances"),
        deprecated: &[],
    },
    Opt { group: "DEFAULT", name: "host", kind: Kind::Host, default: None, deprecated: &[] },
    Opt { group: "DEFAULT", name: "my_ip", kind: Kind::Text, default: None, deprecated: &[] },
    Opt {
        group: "image_cache",
        name: "subdirectory_name",
        kind: Kind::Text,
        default: Some("_base"),
        deprecated: &[("DEFAULT", "image_cache_subdirectory_name"), ("DEFAULT", "base_dir_name")],
    },
    Opt {
        group: "image_cache",
        name: "remove_unused_base_images",
        kind: Kind::Flag,
        default: Some("True"),
        deprecated: &[("DEFAULT", "remove_unused_base_images")],
    },
    Opt {
        group: "image_cache",
        name: "remove_unused_original_minimum_age_seconds",
        kind: Kind::Seconds,
        default: Some("86400"),
        deprecated: &[("DEFAULT", "remove_unused_original_minimum_age_seconds")],
    },
    Opt {
        group: "image_cache",
        name: "remove_unused_resized_minimum_age_seconds",
        kind: Kind::Seconds,
        default: Some("3600"),
        deprecated: &[("libvirt", "remove_unused_resized_minimum_age_seconds")],
    },
];

/// What a reference or this module can name.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    group: &'a str,
    name: &'a str,
    known: Option<&'static Opt>,
}

/// An option by its present or a former name.
fn option<'a>(group: &'a str, name: &'a str) -> Wanted<'a> {
    let known = OPTIONS
        .iter()
        .find(|it| (it.group, it.name) == (group, name))
        .or_else(|| OPTIONS.iter().find(|it| it.deprecated.contains(&(group, name))));
    match known {
        Some(known) => Wanted { group: known.group, name: known.name, known: Some(known) },
        None => Wanted { group, name, known: None },
    }
}

/// A value as it stands in a file, and where: the name of the file and the line (counted from 1).
struct Value<'a> {
    text: String,
    file: &'a str,
    line: usize,
}

/// The values of one file by group and name, the last of each name.
type Sections<'a> = HashMap<(String, String), Value<'a>>;

/// The files, in the order of the command line.
struct Conf<'a> {
    files: Vec<Sections<'a>>,
    substitutions: Cell<usize>,
    machine: &'a str,
}

/// More references than any nova.conf has, and few enough for the stack.
const MOST_SUBSTITUTIONS: usize = 500;

/// Longer than any path or name that a system takes, in bytes.
const LONGEST_VALUE: usize = 4096;

impl Conf<'_> {
    /// The value as the files have it: a later file wins, and in one file the present name.
    fn find(&self, wanted: Wanted<'_>) -> Option<&Value<'_>> {
        let former = wanted.known.map_or(&[][..], |it| it.deprecated);
        self.files.iter().rev().find_map(|file| {
            let get = |group: &str, name: &str| file.get(&(group.to_owned(), name.to_owned()));
            get(wanted.group, wanted.name)
                .or_else(|| former.iter().find_map(|(group, name)| get(group, name)))
        })
    }

    /// The value with its references replaced, in the form in which oslo.config would replace a reference to it.
    fn value(&self, wanted: Wanted<'_>) -> Result<Option<String>> {
        self.value_within(wanted, &[])
    }

    /// The same for a reference in the values of other options, which are listed from the outermost on.
    fn value_within(&self, wanted: Wanted<'_>, within: &[(&str, &str)]) -> Result<Option<String>> {
        let id = (wanted.group, wanted.name);
        if within.contains(&id) {
            bail!("[{}] {}: refers to itself: give it a value", wanted.group, wanted.name);
        }
        let within = &[within, &[id]].concat();
        let found = self.find(wanted);
        let default = wanted.known.and_then(|it| it.default);
        let Some(text) = found.map(|it| it.text.as_str()).or(default) else { return Ok(None) };
        self.substitute(text, within)
            .and_then(|text| convert(wanted.known.map_or(Kind::Text, |it| it.kind), text))
            .with_context(|| match found {
                Some(it) => format!("{}: line {}: [{}] {}", it.file, it.line, wanted.group, wanted.name),
                None => format!("[{}] {}", wanted.group, wanted.name),
            })
    }

    /// Replaces `$name`, `${name}`, `${group.name}`, `$$` and `\$`; any other `$` stands for itself.
    fn substitute(&self, text: &str, within: &[(&str, &str)]) -> Result<String> {
        let text = text.replace(r"\$", "$$");
        let mut replaced = String::new();
        let mut rest = text.as_str();
        while let Some((before, after)) = rest.split_once('$') {
            replaced.push_str(before);
            rest = after;
            if let Some(after) = rest.strip_prefix('$') {
                replaced.push('$');
                rest = after;
                continue;
            }
            let braced = rest
                .strip_prefix('{')
                .map(split_name)
                .filter(|(name, rest)| !name.is_empty() && rest.starts_with('}'));
            let (name, after) = braced.map_or_else(|| split_name(rest), |(name, rest)| (name, &rest[1..]));
            if name.is_empty() {
                replaced.push('$');
                continue;
            }
            rest = after;
            replaced.push_str(&self.reference(name, within)?);
            if replaced.len() > LONGEST_VALUE {
                bail!("is longer than {LONGEST_VALUE} bytes: shorten it");
            }
        }
        replaced.push_str(rest);
        if replaced.len() > LONGEST_VALUE {
            bail!("is longer than {LONGEST_VALUE} bytes: shorten it");
        }
        Ok(replaced)
    }

    /// What a reference in a value stands for: an option of the value's group, else one of DEFAULT.
    fn reference(&self, name: &str, within: &[(&str, &str)]) -> Result<String> {
        let group = within.last().map_or("DEFAULT", |(group, _)| group);
        self.substitutions.set(self.substitutions.get() + 1);
        if self.substitutions.get() > MOST_SUBSTITUTIONS {
            bail!("${name}: more than {MOST_SUBSTITUTIONS} references: write its value out");
        }
        let wanted = match name.split_once('.') {
            // oslo.config knows no group of that name.
            Some(("DEFAULT", _)) => None,
            Some((group, name)) => Some(option(group, name)),
            // nova has no other options of image_cache that a value could want, whatever the file sets there.
            None if group == "image_cache" && option(group, name).known.is_some() => {
                Some(option(group, name))
            }
            None if group != "image_cache" && self.find(option(group, name)).is_some() => {
                Some(option(group, name))
            }
            None => Some(option("DEFAULT", name)),
        };
        let value = match wanted {
            Some(wanted) => self.value_within(wanted, within)?,
            None => None,
        };
        let is_host = wanted.is_some_and(|it| (it.group, it.name) == ("DEFAULT", "host"));
        value.or_else(|| is_host.then(|| self.machine.to_owned())).ok_or_else(|| anyhow!("${name}: undefined option: set it in one of the files, or give the command-line option that needs it"))
    }
}

/// Splits off the name of an option, empty where there is none.
fn split_name(text: &str) -> (&str, &str) {
    let is_part = |(at, character): (usize, char)| {
        let letter = character.is_ascii_alphabetic() || character == '_';
        letter || (at > 0 && (character.is_ascii_digit() || character == '.'))
    };
    let end = text.char_indices().find(|it| !is_part(*it)).map_or(text.len(), |(at, _)| at);
    text.split_at(end)
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
fn sections<'a>(file: &'a str, text: &str) -> Result<Sections<'a>> {
    let mut sections = Sections::new();
    let mut section = None;
    let mut open: Option<(String, Value<'_>)> = None;
    // As Python reads text: three kinds of line ends.
    let text = text.replace("\r\n", "\n").replace('\r', "\n");
    for (index, line) in text.split('\n').enumerate() {
        let number = index + 1;
        let line = line.trim_end_matches(is_space);
        let wrong = |what: &str| anyhow!("{file}: line {number}: {what}: {:?}", shortened(line));
        if line.starts_with([' ', '\t']) {
            let Some((_, value)) = &mut open else {
                return Err(wrong(
                    "is indented, but there is no value above that it continues: remove the spaces before it",
                ));
            };
            value.text.push('\n');
            value.text.push_str(line.trim_start_matches(is_space));
            continue;
        }
        close(&mut sections, section.as_deref(), open.take())?;
        if line.is_empty() || line.starts_with(['#', ';']) {
            continue;
        }
        if let Some(name) = line.strip_prefix('[') {
            let name = name.strip_suffix(']').ok_or_else(|| wrong("a section must end with ]"))?;
            if name.is_empty() {
                return Err(wrong("a section must have a name"));
            }
            section = Some(if name == "DEFAULT" { name.to_owned() } else { name.to_lowercase() });
            continue;
        }
        let (key, value) = line.split_once([':', '=']).ok_or_else(|| wrong("has neither = nor :"))?;
        let (key, text) = (trim(key), unquoted(trim(value)).to_owned());
        if key.is_empty() {
            return Err(wrong("has no name before the = or :"));
        }
        open = Some((key.to_owned(), Value { text, file, line: number }));
    }
    close(&mut sections, section.as_deref(), open)?;
    Ok(sections)
}

fn close<'a>(
    sections: &mut Sections<'a>,
    section: Option<&str>,
    open: Option<(String, Value<'a>)>,
) -> Result<()> {
    if let Some((key, value)) = open {
        let section = section.ok_or_else(|| {
            anyhow!(
                "{}: line {}: {}: stands before the first section: write [DEFAULT] above it",
                value.file,
                value.line,
                shortened(&key)
            )
        })?;
        sections.insert((section.to_owned(), key), value);
    }
    Ok(())
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

fn shortened(text: &str) -> String {
    text.chars().take(80).collect()
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

    #[test]
    fn a_long_chain_of_references_is_read_or_refused() {
        for (length, expected) in [(400, Some("/end")), (100_000, None)] {
            let links: String = (0..length).map(|it| format!("a{it}=$a{}\n", it + 1)).collect();
            let conf = read(&[&format!("[DEFAULT]\ninstances_path=/$a0\n{links}a{length}=end\n")]);
            let path = conf.ok().and_then(|it| it.instances_path);
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
            ("[DEFAULT]\nremove_unused_original_minimum_age_seconds = -1\n", "\"-1\": not a number"),
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
