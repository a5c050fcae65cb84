//! The tool's own inventory: a JSON list of instances, for operators who make it from their own database.

use std::collections::HashMap;

use anyhow::{Result, anyhow, bail};
use serde::Deserialize;

use super::{Row, Source};

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct OwnRow {
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

/// Reads an own list.
///
/// # Errors
/// Where the text is no list of instances: the error names the row (counted from 1) and the field.
pub fn parse(text: &[u8]) -> Result<Source> {
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let own: Vec<OwnRow> = serde_path_to_error::deserialize(&mut deserializer).map_err(located)?;
    deserializer.end()?;
    let rows: Vec<Row> = own.into_iter().map(Row::from).collect();
    let mut first_rows = HashMap::new();
    for (index, row) in rows.iter().enumerate() {
        let number = index + 1;
        let (field, id) = match (&row.uuid, &row.name) {
            (Some(uuid), _) => ("uuid", uuid.to_ascii_lowercase()),
            (None, Some(name)) => ("name", name.to_string()),
            (None, None) => bail!("row {number}: has neither \"uuid\" nor \"name\": give it one"),
        };
        if let Some(first) = first_rows.insert((field, id.clone()), number) {
            bail!("row {number}: \"{field}\": {id} is row {first} already: list each instance once");
        }
    }
    Ok(Source { rows, ..Source::default() })
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
    anyhow!("{place}{}", error.into_inner())
}

impl From<OwnRow> for Row {
    fn from(own: OwnRow) -> Self {
        let text = |field: Option<Box<str>>| field.filter(|it| !it.is_empty());
        Self {
            uuid: text(own.uuid),
            name: text(own.name),
            host: text(own.host),
            image_ref: text(own.image_ref),
            kernel_id: text(own.kernel_id),
            ramdisk_id: text(own.ramdisk_id),
            vm_state: text(own.vm_state),
            task_state: text(own.task_state),
            swap_mb: own.swap_mb,
            ephemeral_gb: own.ephemeral_gb,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn errors_name_row_and_field() {
        for (text, expected) in [
            ("", "EOF while parsing"),
            ("{}", "invalid type: map, expected a sequence"),
            ("[3]", "row 1: invalid type: integer `3`"),
            (
                r#"[{"uuid": "a"}, {"uuid": "b", "swap_mb": "512"}]"#,
                "row 2: \"swap_mb\": invalid type: string",
            ),
            (r#"[{"uuid": "a", "swap_mb": -1}]"#, "row 1: \"swap_mb\": invalid value"),
            (r#"[{"uuid": "a", "image": "x"}]"#, "row 1: \"image\": unknown field `image`"),
            (r#"[{"uuid": "a", "uuid": "b"}]"#, "row 1: duplicate field `uuid`"),
            (r#"[{"uuid": "a"}, {"uuid": "A"}]"#, "row 2: \"uuid\": a is row 1 already"),
            (r#"[{"name": "a"}, {"name": "a"}]"#, "row 2: \"name\": a is row 1 already"),
            (r#"[{"host": "a"}]"#, "row 1: has neither \"uuid\" nor \"name\""),
            (r#"[{"uuid": "", "name": null}]"#, "row 1: has neither"),
            (r#"[{"uuid": "a"}] x"#, "trailing characters"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn empty_texts_are_none() {
        let source = parse(br#"[{"uuid": "a", "image_ref": "", "swap_mb": null}]"#).unwrap();
        assert_eq!(source.rows[0].image_ref, None);
    }
}
