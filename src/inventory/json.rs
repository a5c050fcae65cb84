//! What the parsers of JSON share: whether a text is JSON at all, and errors that name the row and the field.

use std::fmt;
use std::marker::PhantomData;

use anyhow::{Result, anyhow, bail};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{DeserializeOwned, Deserializer, Error as _, MapAccess, Visitor};
use serde_json::error::Category;

use super::row::is_none;

/// The longest error text shown in full, in bytes: serde quotes what it found, which may be the whole file.
const LONGEST_ERROR: usize = 400;

pub(super) const BOM: &[u8] = b"\xef\xbb\xbf";

/// The text without a byte order mark.
///
/// # Errors
/// Where it is in UTF-16, as Windows PowerShell's `>` writes; a JSON or XML reader would not say so.
pub(crate) fn without_bom(text: &[u8]) -> Result<&[u8]> {
    match text {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'\t'..=b'~', ..] | [b'\t'..=b'~', 0, ..] => {
            bail!("is UTF-16: convert it to UTF-8, as iconv -f UTF-16 -t UTF-8 does")
        }
        _ => Ok(text.strip_prefix(BOM).unwrap_or(text)),
    }
}

/// The text of a list of `what` without a byte order mark, where it begins as JSON does.
///
/// # Errors
/// Where it is something else: what, and what to use instead.
pub(crate) fn check<'a>(text: &'a [u8], what: &str) -> Result<&'a [u8]> {
    let text = without_bom(text)?;
    let form = match text.trim_ascii_start() {
        [b'{' | b'[', ..] => return Ok(text),
        [] => bail!("is empty: create it again"),
        [b'<', ..] => bail!("is XML: give domain XML to --libvirt"),
        [b'+', b'-', ..] => "a table",
        other if str::from_utf8(other).is_err() => "not text",
        other if other.split(|byte| *byte == b'\n').next().is_some_and(|line| line.contains(&b',')) => "CSV",
        _ => "plain text",
    };
    bail!("is {form}, not JSON: list the {what} with -f json")
}

/// Reads one JSON value and nothing after it.
///
/// # Errors
/// Where the text is not that: the error names the row (counted from 1), the field, and what to do.
pub(crate) fn read<T: DeserializeOwned>(text: &[u8]) -> Result<T> {
    // Keeping track of the place takes as long as all the rest, and only errors need it.
    if let Ok(text) = str::from_utf8(text)
        && let Ok(value) = serde_json::from_str(text)
    {
        return Ok(value);
    }
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(located)?;
    deserializer.end().map_err(|error| anyhow!("{error}: put each list in a file of its own"))?;
    Ok(value)
}

/// Turns `[2].swap_mb` into the row and the field.
fn located(error: serde_path_to_error::Error<serde_json::Error>) -> anyhow::Error {
    let mut place = String::new();
    for segment in error.path() {
        match segment {
            serde_path_to_error::Segment::Seq { index } => place.push_str(&format!("row {}: ", index + 1)),
            serde_path_to_error::Segment::Map { key } => place.push_str(&format!("\"{key}\": ")),
            _ => {}
        }
    }
    let cause = error.into_inner();
    let advice = match cause.classify() {
        Category::Eof => "the file is truncated: create it again",
        Category::Syntax | Category::Io => "this is not valid JSON: create it again",
        Category::Data => "correct it, or create the list again",
    };
    anyhow!("{}{}: {advice}", cut(&place), cut(&cause.to_string()))
}

/// Both ends of a long text: the start says what is wrong, the end the line and column.
fn cut(text: &str) -> String {
    if text.len() <= LONGEST_ERROR {
        return text.to_owned();
    }
    let head: String = text.chars().take(LONGEST_ERROR / 2).collect();
    let tail = text.char_indices().rev().nth(LONGEST_ERROR / 2).map_or(0, |(at, _)| at);
    format!("{head} … {}", &text[tail..])
}

/// What is read from an object alone. serde's derived readers take a list too, by position: a field that they do not
/// expect there, such as the image, would be lost.
pub(crate) struct Object<T>(pub(crate) T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_map(ObjectVisitor(PhantomData))
    }
}

struct ObjectVisitor<T>(PhantomData<T>);

impl<'de, T: Deserialize<'de>> Visitor<'de> for ObjectVisitor<T> {
    type Value = Object<T>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Self::Value, A::Error> {
        T::deserialize(MapAccessDeserializer::new(map)).map(Object)
    }
}

/// For serde: the id of a row.
pub(crate) fn id<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Box<str>, D::Error> {
    let id = Box::<str>::deserialize(deserializer)?;
    if is_none(&id) { Err(D::Error::custom("is empty")) } else { Ok(id) }
}
