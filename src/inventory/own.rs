//! The tool's own inventory: a JSON list of instances, for operators who make it from their own database.

use std::io::Read;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::json::{self, ListRow, Rows, text};
use super::{Instance, Lacks, Row, Source, Text};

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
pub(super) fn parse(text: impl Read) -> Result<Source> {
    let source = json::read::<Rows<OwnRow>>(text)?.source;
    if let Some((first, second)) = first_repetition(&source.instances) {
        let (field, id) = key(&source.instances[second]);
        bail!(
            "row {}: \"{field}\": {} is row {} already: list each instance once",
            second + 1,
            if field == "uuid" { id.to_ascii_lowercase() } else { id.to_owned() },
            first + 1
        );
    }
    Ok(source)
}

/// What tells a row from the others of its list.
fn key(instance: &Instance) -> (&'static str, &str) {
    match instance.first_text(Text::Uuid) {
        Some(uuid) => ("uuid", uuid),
        None => ("name", instance.id()),
    }
}

/// The first row that is there already, and where: numbers are sorted, since a set of all ids takes much memory.
fn first_repetition(instances: &[Instance]) -> Option<(usize, usize)> {
    let compare = |a: usize, b: usize| {
        let ((field_a, id_a), (field_b, id_b)) = (key(&instances[a]), key(&instances[b]));
        let fold = |byte: u8| if field_a == "uuid" { byte.to_ascii_lowercase() } else { byte };
        field_a.cmp(field_b).then_with(|| id_a.bytes().map(fold).cmp(id_b.bytes().map(fold)))
    };
    let mut order: Vec<usize> = (0..instances.len()).collect();
    order.sort_unstable_by(|a, b| compare(*a, *b).then(a.cmp(b)));
    order
        .windows(2)
        .filter(|pair| compare(pair[0], pair[1]).is_eq())
        .map(|pair| (pair[0], pair[1]))
        .min_by_key(|(_, second)| *second)
}

impl ListRow for OwnRow {
    fn add_to(self, source: &mut Source) -> Result<(), String> {
        let row = Row::from(self);
        if row.uuid.is_none() && row.name.is_none() {
            return Err("has neither \"uuid\" nor \"name\": give it one".into());
        }
        source.instances.push(Instance::new(&row));
        Ok(())
    }
}

impl From<OwnRow> for Row {
    fn from(own: OwnRow) -> Self {
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
            // Its fields are optional: what is not there is none.
            lacks: Lacks::default(),
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
            (
                r#"[{"uuid": "b"}, {"uuid": "a"}, {"uuid": "b"}, {"uuid": "a"}]"#,
                "row 3: \"uuid\": b is row 1 already",
            ),
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
        let source = parse(&br#"[{"uuid": "a", "image_ref": "", "swap_mb": null}]"#[..]).unwrap();
        assert_eq!(source.instances[0].row().image_ref, None);
    }
}
