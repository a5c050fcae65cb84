//! What the JSON inventories share: which of them a text is, its rows one at a time, and errors that name the place.
//!
//! A row is turned into a [`Row`](super::Row) as soon as it is read, and the text is read as it comes: memory holds
//! neither the whole text nor a tree of it, so that it stays below a small multiple of what the rows say.

use std::fmt;
use std::io::{self, BufReader, Read};
use std::marker::PhantomData;

use anyhow::{Result, anyhow, bail};
use serde::Deserialize;
use serde::de::{DeserializeOwned, Deserializer, Error as _, SeqAccess, Visitor};

use super::{Source, own, server_list, servers_detail};

/// The longest error text shown in full, in bytes: serde cites what it found, which may be the whole file.
const LONGEST_ERROR: usize = 400;

/// Reads an inventory of any of the three JSON forms, told apart by how it begins.
///
/// An object is an answer of the API. A list is the client's where the first key of its first row begins with a
/// capital (`ID`, `Name`, `Image ID`; `-c` changes their order), else the tool's own.
///
/// # Errors
/// Where the text cannot be read, is in UTF-16, or is none of the three: the error names the row and the field.
pub fn parse(mut text: impl Read) -> Result<Source> {
    let mut start = Vec::new();
    let form = loop {
        let before = start.len();
        // Twice as much each time: a text may begin with any amount of blank.
        text.by_ref().take(before.max(4096) as u64).read_to_end(&mut start)?;
        let end = start.len() == before;
        if let Some(form) = recognise(&start, end)? {
            break form;
        }
    };
    let bom = if start.starts_with(BOM) { BOM.len() } else { 0 };
    let text = start[bom..].chain(text);
    match form {
        Form::Own => own::parse(text),
        Form::ServersDetail => servers_detail::parse(text),
        Form::ServerList => server_list::parse(text),
    }
}

const BOM: &[u8] = b"\xef\xbb\xbf";

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Form {
    Own,
    ServersDetail,
    ServerList,
}

/// What the start of a text shows: `None` where it is too short to tell and the text does not end there.
fn recognise(start: &[u8], end: bool) -> Result<Option<Form>> {
    refuse_utf16(start)?;
    let text = start.strip_prefix(BOM).unwrap_or(start);
    let mut tokens = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    let mut next = || tokens.next().copied();
    Ok(match (next(), next(), next(), next()) {
        (Some(b'{'), ..) => Some(Form::ServersDetail),
        (Some(b'['), Some(b'{'), Some(b'"'), Some(letter)) if letter.is_ascii_uppercase() => {
            Some(Form::ServerList)
        }
        (.., Some(_)) => Some(Form::Own),
        _ if end => Some(Form::Own),
        _ => None,
    })
}

/// Refuses what Windows PowerShell's `>` writes, which no JSON or XML reader here would explain.
///
/// # Errors
/// Where the text begins with a UTF-16 byte order mark, or with a character of ASCII in UTF-16.
pub(super) fn refuse_utf16(start: &[u8]) -> Result<()> {
    match start {
        [0xff, 0xfe, ..] | [0xfe, 0xff, ..] | [0, b'\t'..=b'~', ..] | [b'\t'..=b'~', 0, ..] => {
            bail!("is UTF-16: convert it to UTF-8, as iconv -f UTF-16 -t UTF-8 does")
        }
        _ => Ok(()),
    }
}

/// Reads one JSON value and nothing after it.
///
/// # Errors
/// Where the text is not that: the error names the row (counted from 1) and the field.
pub(super) fn read<T: DeserializeOwned>(text: impl Read) -> Result<T> {
    let mut text = ShortTexts::new(text);
    let mut start = Vec::new();
    text.by_ref().take(AT_ONCE as u64).read_to_end(&mut start)?;
    if start.len() < AT_ONCE {
        // To keep track of the place takes as long as all the rest, and only errors need it.
        return serde_json::from_slice(&start)
            .or_else(|_| read_from(serde_json::Deserializer::from_slice(&start)));
    }
    let text = BufReader::with_capacity(1 << 16, start.chain(text));
    read_from(serde_json::Deserializer::from_reader(text))
}

fn read_from<'de, T: DeserializeOwned>(
    mut deserializer: serde_json::Deserializer<impl serde_json::de::Read<'de>>,
) -> Result<T> {
    let value = serde_path_to_error::deserialize(&mut deserializer).map_err(located)?;
    deserializer.end()?;
    Ok(value)
}

/// A text of less than this many bytes, some 50,000 instances, is parsed where it stands, which takes half the time.
const AT_ONCE: usize = 1 << 25;

/// The longest text that a JSON inventory may hold, in bytes. The longest of the API's is user data, 65,535 bytes.
const LONGEST_TEXT: usize = 1 << 20;

/// Passes JSON on as long as its texts are short: the parser, its errors and whatever uses a text would each hold a copy.
struct ShortTexts<R> {
    json: R,
    /// How many bytes of a text have been read, where one has begun.
    inside: Option<usize>,
    is_escaped: bool,
}

impl<R> ShortTexts<R> {
    const fn new(json: R) -> Self {
        Self { json, inside: None, is_escaped: false }
    }

    fn step(&mut self, byte: u8) {
        self.inside = match self.inside {
            None => (byte == b'"').then_some(0),
            Some(_) if byte == b'"' && !self.is_escaped => None,
            Some(length) => Some(length + 1),
        };
        self.is_escaped = self.inside.is_some() && byte == b'\\' && !self.is_escaped;
    }
}

impl<R: Read> Read for ShortTexts<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        // A text that begins and ends within one large buffer would not be seen.
        let most = buffer.len().min(1 << 16);
        let length = self.json.read(&mut buffer[..most])?;
        buffer[..length].iter().for_each(|byte| self.step(*byte));
        if self.inside.is_some_and(|length| length > LONGEST_TEXT) {
            return Err(io::Error::other(format!("a text of more than {LONGEST_TEXT} bytes")));
        }
        Ok(length)
    }
}

/// Turns `[2].swap_mb` into the row and the field.
fn located(error: serde_path_to_error::Error<serde_json::Error>) -> anyhow::Error {
    let mut place = String::new();
    for segment in error.path() {
        match segment {
            serde_path_to_error::Segment::Seq { index } => place.push_str(&format!("row {}: ", index + 1)),
            serde_path_to_error::Segment::Map { key } => place.push_str(&format!("\"{}\": ", cut(key))),
            _ => {}
        }
    }
    let cause = error.into_inner().to_string();
    anyhow!("{place}{}", cut(&cause))
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

/// A row of a list, of whatever form.
pub(super) trait ListRow: DeserializeOwned {
    /// Adds what it says to the source.
    ///
    /// # Errors
    /// What is wrong with it, without its number.
    fn add_to(self, source: &mut Source) -> Result<(), String>;
}

/// A list of rows, each added to the source as it is read.
pub(super) struct Rows<T> {
    pub source: Source,
    row: PhantomData<T>,
}

impl<'de, T: ListRow> Deserialize<'de> for Rows<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let source = deserializer.deserialize_seq(RowsVisitor::<T>(PhantomData))?;
        Ok(Self { source, row: PhantomData })
    }
}

struct RowsVisitor<T>(PhantomData<T>);

impl<'de, T: ListRow> Visitor<'de> for RowsVisitor<T> {
    type Value = Source;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a sequence")
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut rows: A) -> Result<Source, A::Error> {
        let mut source = Source::default();
        let mut number = 0_usize;
        while let Some(row) = rows.next_element::<T>()? {
            number += 1;
            row.add_to(&mut source).map_err(|what| A::Error::custom(format!("row {number}: {what}")))?;
        }
        Ok(source)
    }
}

/// A field that a source may not have at all, which is other than having none.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Field<T> {
    /// The row has no such key.
    #[default]
    Lacking,
    /// The value, `None` for null.
    Is(Option<T>),
}

impl<T> Field<T> {
    /// Whether the row has no such key.
    pub(super) const fn is_lacking(&self) -> bool {
        matches!(self, Self::Lacking)
    }

    /// The value, none where the row has no such key.
    pub(super) fn value(self) -> Option<T> {
        match self {
            Self::Lacking => None,
            Self::Is(value) => value,
        }
    }
}

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Field<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Option::deserialize(deserializer).map(Self::Is)
    }
}

/// A text, empty ones left out: sources write "none" as null and as `""`.
pub(super) fn text(field: Option<Box<str>>) -> Option<Box<str>> {
    field.filter(|it| !it.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_form_is_told_by_how_the_text_begins() {
        for (text, expected) in [
            ("", Some(Form::Own)),
            ("[]", Some(Form::Own)),
            (" [ {} ]", Some(Form::Own)),
            ("\u{feff}\n[{\"uuid\"", Some(Form::Own)),
            ("[{\"ID\"", Some(Form::ServerList)),
            ("[\n  {\n    \"Image ID\"", Some(Form::ServerList)),
            ("{\"servers\"", Some(Form::ServersDetail)),
            ("  {", Some(Form::ServersDetail)),
            ("nonsense", Some(Form::Own)),
        ] {
            assert_eq!(recognise(text.as_bytes(), true).unwrap(), expected, "{text}");
        }
        assert_eq!(recognise(b"[ { \n", false).unwrap(), None);
    }

    #[test]
    fn a_form_is_recognised_after_any_amount_of_blank() {
        let text = format!("[{}{{\"ID\": \"a\", \"Image ID\": \"b\"}}]", " ".repeat(10_000));
        assert_eq!(parse(text.as_bytes()).unwrap().instances[0].row().image_ref.as_deref(), Some("b"));
    }

    #[test]
    fn malformed_texts_are_errors_that_say_what_is_wrong() {
        let utf16: Vec<u8> = "[]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let bomb = "[".repeat(1_000_000);
        let bomb_in_row = format!("[{{\"uuid\": {bomb}");
        let bomb_of_objects = "{\"servers\":".repeat(100_000);
        let long = format!("[{{\"uuid\": \"a\", \"swap_mb\": \"{}\"}}]", "x".repeat(1_000_000));
        let too_long = format!("[{{\"uuid\": \"a\", \"name\": \"\\\"{}\"}}]", "x".repeat(2_000_000));
        let cases: [(&[u8], &str); 12] = [
            (b"", "EOF while parsing"),
            (b"[{\"uuid\": \"a", "EOF while parsing"),
            (b"{\"servers\": [{\"id\": \"a\"", "EOF while parsing"),
            (b"[{\"ID\": \"a\"", "EOF while parsing"),
            (&utf16, "is UTF-16"),
            (b"\xff\xfe[\0", "is UTF-16"),
            (b"[{\"uuid\": \"\xff\"}]", "invalid unicode"),
            (bomb.as_bytes(), "invalid type: sequence"),
            (bomb_in_row.as_bytes(), "row 1: \"uuid\": invalid type: sequence"),
            (bomb_of_objects.as_bytes(), "\"servers\": invalid type: map, expected a sequence"),
            (too_long.as_bytes(), "a text of more than 1048576 bytes"),
            (long.as_bytes(), "row 1: \"swap_mb\": invalid type: string"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{error}");
            assert!(error.len() < 600, "{} bytes", error.len());
        }
    }

    #[test]
    fn many_texts_are_not_taken_for_a_long_one() {
        let rows: Vec<_> = (0..20_000)
            .map(|id| format!(r#"{{"uuid": "{id}", "name": "a\"b\\\\", "vm_state": "{id:0>90}"}}"#))
            .collect();
        assert_eq!(parse(format!("[{}]", rows.join(",")).as_bytes()).unwrap().instances.len(), 20_000);
    }

    #[test]
    fn nesting_in_fields_that_are_not_needed_is_read() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let text = format!("{{\"servers\": [{{\"id\": \"a\", \"image\": \"\", \"addresses\": {deep}}}]}}");
        assert_eq!(parse(text.as_bytes()).unwrap().instances.len(), 1);
    }

    const WELL_FORMED: [&str; 3] = [
        r#"[{"uuid": "a", "name": "instance-1", "host": null, "image_ref": "b", "swap_mb": 512}]"#,
        r#"{"servers": [{"id": "a", "status": "ACTIVE", "image": {"id": "b"}, "flavor": {"swap": "", "ephemeral": 1}}],
            "servers_links": [{"rel": "next", "href": "?marker=a"}]}"#,
        r#"[{"ID": "a", "Status": "RESIZE", "Image ID": "N/A (booted from volume)", "Host": "c"}]"#,
    ];

    proptest! {
        #[test]
        fn no_text_makes_the_parsers_panic(text in proptest::collection::vec(any::<u8>(), 0..300)) {
            drop(parse(text.as_slice()));
        }

        #[test]
        fn no_damage_to_a_good_text_makes_the_parsers_panic(
            which in 0..WELL_FORMED.len(),
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut text = WELL_FORMED[which].as_bytes().to_vec();
            let at = at.index(text.len());
            text[at] = byte;
            drop(parse(text.as_slice()));
            text.truncate(cut.index(text.len()));
            drop(parse(text.as_slice()));
        }
    }
}
