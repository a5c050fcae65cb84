//! The tool's own inventory: a JSON list of instances, for operators who make it from their own database.

use std::collections::HashMap;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::json;
use super::row::{Row, Source, non_empty, non_zero};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Own {
    uuid: Option<Box<str>>,
    name: Option<Box<str>>,
    host: Option<Box<str>>,
    image_ref: Option<Box<str>>,
    kernel_id: Option<Box<str>>,
    ramdisk_id: Option<Box<str>>,
    vm_state: Option<Box<str>>,
    task_state: Option<Box<str>>,
    swap_mb: Option<u64>,
    ephemeral_gb: Option<u64>,
}

pub(super) fn parse(text: &[u8]) -> Result<Source> {
    let rows: Vec<Row> = json::read::<Vec<Own>>(text)?.into_iter().map(Row::from).collect();
    let mut first_rows = HashMap::new();
    for (row, number) in rows.iter().zip(1..) {
        let (field, id) = match (&row.uuid, &row.name) {
            (Some(uuid), _) => ("uuid", uuid.to_ascii_lowercase()),
            (None, Some(name)) => ("name", name.to_string()),
            (None, None) => bail!("row {number}: has neither \"uuid\" nor \"name\": give it one"),
        };
        if let Some(first) = first_rows.insert((field, id), number) {
            bail!("row {number}: \"{field}\": the same as in row {first}: list each instance once");
        }
    }
    Ok(Source { rows, ..Source::default() })
}

impl From<Own> for Row {
    fn from(own: Own) -> Self {
        Self {
            uuid: non_empty(own.uuid),
            name: non_empty(own.name),
            host: non_empty(own.host),
            image_ref: non_empty(own.image_ref),
            kernel_id: non_empty(own.kernel_id),
            ramdisk_id: non_empty(own.ramdisk_id),
            vm_state: non_empty(own.vm_state),
            task_state: non_empty(own.task_state),
            swap_mb: non_zero(own.swap_mb),
            ephemeral_gb: non_zero(own.ephemeral_gb),
            // Nothing is lacking: the fields are optional, and what is not there is none.
            ..Self::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_row_and_field() {
        for (text, expected) in [
            ("{}", "invalid type: map, expected a sequence"),
            ("[3]", "row 1: invalid type: integer `3`"),
            (
                r#"[{"uuid": "a"}, {"uuid": "b", "swap_mb": "512"}]"#,
                "row 2: \"swap_mb\": invalid type: string",
            ),
            (r#"[{"uuid": "a", "swap_mb": -1}]"#, "row 1: \"swap_mb\": invalid value"),
            (
                r#"[{"uuid": "a", "image": "x"}]"#,
                "row 1: \"image\": unknown field `image`, expected one of `uuid`",
            ),
            (r#"[{"uuid": "a", "uuid": "b"}]"#, "row 1: duplicate field `uuid`"),
            (r#"[{"uuid": "a"}, {"uuid": "A"}]"#, "row 2: \"uuid\": the same as in row 1: list each"),
            (
                r#"[{"uuid": "b"}, {"uuid": "a"}, {"uuid": "b"}, {"uuid": "a"}]"#,
                "row 3: \"uuid\": the same as in row 1",
            ),
            (r#"[{"name": "a"}, {"name": "a"}]"#, "row 2: \"name\": the same as in row 1"),
            (r#"[{"host": "a"}]"#, "row 1: has neither \"uuid\" nor \"name\": give it one"),
            (r#"[{"uuid": "", "name": null}]"#, "row 1: has neither"),
            (r#"[{"uuid": "a"}] x"#, "trailing characters"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn empty_texts_null_and_zero_are_none_and_nothing_is_lacking() {
        let text = br#"[{"uuid": "a", "image_ref": "", "host": null, "swap_mb": 0, "ephemeral_gb": 1}]"#;
        let expected = Row { uuid: Some("a".into()), ephemeral_gb: Some(1), ..Row::default() };
        assert_eq!(parse(text).unwrap().rows, [expected]);
    }
}
