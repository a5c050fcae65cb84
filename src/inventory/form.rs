//! Which form of JSON inventory a text is, by how it begins.

use anyhow::Result;

use super::row::Source;
use super::{json, own, server_list, servers_detail};

/// Reads a JSON inventory of any form.
///
/// An object is an answer of the API. A list is the client's where the first key of its first row begins with a
/// capital (`ID`, `Name`, `Image ID`: `-c` changes their order), else the tool's own.
///
/// # Errors
/// Where the text is none of them: the error names the row and the field, or says what to use instead.
pub fn parse(text: &[u8]) -> Result<Source> {
    let text = json::check(text, "servers")?;
    let mut tokens = text.iter().filter(|byte| !byte.is_ascii_whitespace());
    match [tokens.next(), tokens.next(), tokens.next(), tokens.next()] {
        [Some(b'{'), ..] => servers_detail::parse(text),
        [Some(b'['), Some(b'{'), Some(b'"'), Some(b'A'..=b'Z')] => server_list::parse(text),
        _ => own::parse(text),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_form_is_recognised_by_how_the_text_begins() {
        let blank = " \n".repeat(10_000);
        for (text, kernel_is_lacking) in [
            ("[{\"uuid\": \"a\"}]".to_owned(), false),
            ("\u{feff}\n [ { \"host\": null, \"name\": \"a\" } ]".to_owned(), false),
            (format!("[{blank}{{\"Image ID\": \"b\", \"ID\": \"a\"}}]"), true),
            ("  {\"servers\": [{\"id\": \"a\", \"image\": \"\"}]}".to_owned(), true),
        ] {
            let rows = parse(text.as_bytes()).unwrap().rows;
            assert_eq!((rows.len(), rows[0].lacks.kernel), (1, kernel_is_lacking), "{text}");
        }
    }

    #[test]
    fn what_is_no_inventory_is_an_error_that_says_what_to_do() {
        let utf16: Vec<u8> = "[]".encode_utf16().flat_map(u16::to_le_bytes).collect();
        let bomb = "[".repeat(1_000_000);
        let bomb_in_row = format!("[{{\"uuid\": {bomb}");
        let bomb_in_image = format!("{{\"servers\": [{{\"id\": \"a\", \"image\": {{\"id\": {bomb}");
        let bomb_of_objects = "{\"servers\":".repeat(100_000);
        let long = format!("[{{\"uuid\": \"a\", \"swap_mb\": \"{}\"}}]", "x".repeat(1_000_000));
        let long_key = format!("[{{\"uuid\": \"a\", \"{}\": 1}}]", "ä".repeat(1_000_000));
        let cases: [(&[u8], &str); 22] = [
            (b"", "is empty: create it again"),
            (b"\xef\xbb\xbf \n", "is empty"),
            (b"<domain/>", "is XML: give domain XML to --libvirt"),
            (b"+----+------+\n| ID | Name |", "is a table, not JSON: list the servers with -f json"),
            (b"\"ID\",\"Name\"\n\"a\",\"b\"", "is CSV, not JSON: list the servers with -f json"),
            (b"ID,Name\na,b", "is CSV"),
            (b"a active", "is plain text, not JSON"),
            (&utf16, "is UTF-16: convert it"),
            (b"\xff\xfe[\0", "is UTF-16"),
            (b"[{\"uuid\": \"a", "the file is truncated: create it again"),
            (b"{\"servers\": [{\"id\": \"a\"", "the file is truncated"),
            (b"[{\"ID\": \"a\"", "the file is truncated"),
            (b"[{\"uuid\": \"\xff\"}]", "invalid unicode"),
            (b"[{\"uuid\": \"a\"},]", "this is not valid JSON: create it again"),
            (b"{\"servers\": []}\n{\"servers\": []}", "put each list in a file of its own"),
            (b"{\"images\": []}", "is a list of images: give it to --images"),
            (bomb.as_bytes(), "invalid type: sequence"),
            (bomb_in_row.as_bytes(), "row 1: \"uuid\": invalid type: sequence"),
            (bomb_in_image.as_bytes(), "recursion limit exceeded"),
            (bomb_of_objects.as_bytes(), "\"servers\": invalid type: map, expected a sequence"),
            (long.as_bytes(), "row 1: \"swap_mb\": invalid type: string"),
            (long_key.as_bytes(), "unknown field"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(text).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
            assert!(error.len() < 2000 && !error.contains('\n'), "{} bytes", error.len());
        }
    }

    #[test]
    fn nesting_in_fields_that_are_not_needed_is_read() {
        let deep = format!("{}{}", "[".repeat(200_000), "]".repeat(200_000));
        let text = format!("{{\"servers\": [{{\"id\": \"a\", \"image\": \"\", \"addresses\": {deep}}}]}}");
        assert_eq!(parse(text.as_bytes()).unwrap().rows.len(), 1);
    }
}
