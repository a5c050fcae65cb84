//! The tool's own inventory: a JSON list of instances, for operators who make it from their own database.

use std::collections::HashMap;

use anyhow::{Result, bail};

use super::json::{self, Object};
use super::row::{Row, Source};

pub(super) fn parse(text: &[u8]) -> Result<Source> {
    // Nothing is lacking in a row: its fields are optional, and what is not there is none.
    let rows = json::read::<Vec<Object<Row>>>(text)?;
    let rows: Vec<Row> = rows.into_iter().map(|Object(row)| row.normalized()).collect();
    let mut numbers = HashMap::with_capacity(rows.len());
    // One that has a uuid in another row is the same instance by its name.
    let has_names_alone = rows.iter().any(|row| row.uuid.is_none());
    let with_uuid = rows.iter().zip(1..).filter(|(row, _)| has_names_alone && row.uuid.is_some());
    let named: HashMap<_, _> =
        with_uuid.filter_map(|(row, number)| Some((row.name.as_ref()?, number))).collect();
    for (row, number) in rows.iter().zip(1..) {
        let key = match (&row.uuid, &row.name) {
            (Some(uuid), _) => ("uuid", uuid),
            (None, Some(name)) => ("name", name),
            (None, None) => bail!("row {number}: has neither \"uuid\" nor \"name\": give it one"),
        };
        let named = named.get(key.1).filter(|_| key.0 == "name");
        if let Some(first) = numbers.insert(key, number).or(named.copied()) {
            bail!(
                "row {number}: \"{}\": {} is in row {first} already: list each instance once",
                key.0,
                key.1
            );
        }
    }
    Ok(Source { rows, ..Source::default() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_row_and_field() {
        for (text, expected) in [
            ("{}", "invalid type: map, expected a sequence"),
            ("[3]", "row 1: invalid type: integer `3`, expected an object"),
            (r#"[{"uuid": "a"}, ["b", "n", "h", "i"]]"#, "row 2: invalid type: sequence, expected an object"),
            (r#"[{"uuid": "a"}, {"uuid": "b", "swap_mb": "5"}]"#, "row 2: \"swap_mb\": invalid type: string"),
            (r#"[{"uuid": "a", "swap_mb": -1}]"#, "row 1: \"swap_mb\": invalid value"),
            (r#"[{"uuid": "a", "image": "x"}]"#, "\"image\": unknown field `image`, expected one of `uuid`"),
            (r#"[{"uuid": "a", "uuid": "b"}]"#, "row 1: duplicate field `uuid`"),
            (r#"[{"uuid": "a"}, {"uuid": "A"}]"#, "row 2: \"uuid\": a is in row 1 already: list each"),
            (
                r#"[{"uuid": "b"}, {"uuid": "a"}, {"uuid": "b"}, {"uuid": "a"}]"#,
                "row 3: \"uuid\": b is in row 1",
            ),
            (r#"[{"name": "a"}, {"name": "a"}]"#, "row 2: \"name\": a is in row 1 already"),
            (r#"[{"uuid": "a", "name": "n"}, {"name": "n"}]"#, "row 2: \"name\": n is in row 1 already"),
            (r#"[{"host": "a"}]"#, "row 1: has neither \"uuid\" nor \"name\": give it one"),
            (r#"[{"uuid": "", "name": null}]"#, "row 1: has neither"),
            (r#"[{"uuid": "a"}] x"#, "trailing characters"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn blanks_and_words_for_none_are_no_value() {
        let expected = Row { uuid: Some("a".into()), image_ref: Some("i".into()), ..Row::default() };
        for none in ["None", " None ", "", " ", "NULL", "null", "-", "N/A"] {
            let text =
                format!(r#"[{{"uuid": " A ", "name": "{none}", "host": "{none}", "image_ref": "i\n"}}]"#);
            assert_eq!(parse(text.as_bytes()).unwrap().rows, std::slice::from_ref(&expected), "{none:?}");
        }
    }

    #[test]
    fn empty_texts_null_and_zero_are_none_and_nothing_is_lacking() {
        let text = br#"[{"uuid": "a", "image_ref": "", "host": null, "swap_mb": 0, "ephemeral_gb": 1}]"#;
        let expected = Row { uuid: Some("a".into()), ephemeral_gb: Some(1), ..Row::default() };
        assert_eq!(parse(text).unwrap().rows, [expected]);
    }
}
