//! What `openstack server list --all-projects --long -f json` prints.
//!
//! Its keys are the headings of the client's table, and which there are depends on its version, on `-c` and on who
//! asked. `Name` is the display name and not used. `Host` is the hypervisor's host name in newer clients and nova's
//! host in older ones.

use anyhow::{Result, bail};
use serde::Deserialize;

use super::json::{self, Object};
use super::row::{Lacks, Row, Source, is_none};

/// What the client writes for the id and the name of the image of a server that has none.
const BOOTED_FROM_VOLUME: &str = "N/A (booted from volume)";

/// The API's usual limit for one page, at which older clients stop.
const PAGE_LIMIT: usize = 1000;

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "ID", deserialize_with = "json::id")]
    id: Box<str>,
    #[serde(rename = "Status")]
    status: Option<Box<str>>,
    #[serde(rename = "Task State")]
    task_state: Option<Box<str>>,
    /// Without the column, and null where the client does not know it: lacking. An empty text: none.
    #[serde(rename = "Image ID")]
    image_id: Option<Box<str>>,
    #[serde(rename = "Image Name")]
    image_name: Option<Box<str>>,
    #[serde(rename = "Host")]
    host: Option<Box<str>>,
}

/// # Errors
/// A list without image ids is refused as well: taking it would leave every image to the disks.
pub(super) fn parse(text: &[u8]) -> Result<Source> {
    let listed: Vec<Object<Listed>> = json::read(text)?;
    let mut source = Source { is_at_client_limit: listed.len() == PAGE_LIMIT, ..Source::default() };
    let mut is_of_images = false;
    for Object(server) in listed {
        let status = server.status.as_deref().unwrap_or_default();
        // The states of servers are in capitals, those of images are not.
        is_of_images |= status.starts_with(|first: char| first.is_ascii_lowercase());
        let (vm_state, task_state) = states(status);
        // Some versions print Python's None as text.
        let value = |text: Option<Box<str>>| text.filter(|it| !is_none(it) && **it != *BOOTED_FROM_VOLUME);
        let row = Row {
            uuid: Some(server.id),
            host: value(server.host),
            lacks: Lacks { image: server.image_id.is_none(), kernel: true, swap: true, ephemeral: true },
            image_ref: value(server.image_id),
            image_name: value(server.image_name),
            vm_state: vm_state.map(Into::into),
            task_state: value(server.task_state).or(task_state.map(Into::into)),
            ..Row::default()
        };
        source.push_server(row, Some(status));
    }
    if source.lacks_images() && is_of_images {
        bail!("is a list of images: give it to --images");
    }
    if source.lacks_images() {
        bail!("no row has an \"Image ID\": list the servers with --long");
    }
    Ok(source)
}

/// The `vm_state` and `task_state` behind the API's status, as far as a verdict depends on them.
///
/// RESIZE stands for four task states; any of them says that there may be a `_resize` directory.
fn states(status: &str) -> (Option<&'static str>, Option<&'static str>) {
    match status {
        "RESIZE" => (None, Some("resize_migrated")),
        "VERIFY_RESIZE" | "REVERT_RESIZE" => (Some("resized"), None),
        "SHELVED_OFFLOADED" => (Some("shelved_offloaded"), None),
        "ERROR" => (Some("error"), None),
        _ => (None, None),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(columns: &str) -> Row {
        parse(format!("[{{\"ID\": \"a\", {columns}}}]").as_bytes()).unwrap().rows[0].clone()
    }

    #[test]
    fn the_columns_that_matter_are_read() {
        let row = row(r#""Name": "instance-9", "Status": "ACTIVE", "Task State": null, "Power State": 1,
            "Networks": {"net": ["10.0.0.1"]}, "Image Name": "x", "Image ID": "i", "Flavor Name": "f",
            "Flavor ID": "1", "Availability Zone": "nova", "Host": "h", "Properties": {}"#);
        let expected = Row {
            uuid: Some("a".into()),
            host: Some("h".into()),
            image_ref: Some("i".into()),
            image_name: Some("x".into()),
            lacks: Lacks { image: false, kernel: true, swap: true, ephemeral: true },
            ..Row::default()
        };
        assert_eq!(row, expected);
    }

    #[test]
    fn a_server_without_an_image_has_none() {
        for image in ["\"N/A (booted from volume)\"", "\"\"", "\"None\""] {
            let row = row(&format!("\"Image ID\": {image}, \"Image Name\": {image}"));
            assert_eq!((row.image_ref, row.image_name, row.lacks.image), (None, None, false), "{image}");
        }
    }

    #[test]
    fn the_status_tells_the_states_that_matter() {
        for (status, task_state, expected) in [
            ("ACTIVE", "null", (None, None)),
            ("RESIZE", "\"resize_prep\"", (None, Some("resize_prep"))),
            ("RESIZE", "null", (None, Some("resize_migrated"))),
            ("RESIZE", "\"None\"", (None, Some("resize_migrated"))),
            ("RESIZE", "\"-\"", (None, Some("resize_migrated"))),
            ("VERIFY_RESIZE", "null", (Some("resized"), None)),
            ("REVERT_RESIZE", "\"resize_reverting\"", (Some("resized"), Some("resize_reverting"))),
            ("SHELVED_OFFLOADED", "null", (Some("shelved_offloaded"), None)),
            ("ERROR", "null", (Some("error"), None)),
        ] {
            let row =
                row(&format!("\"Status\": \"{status}\", \"Task State\": {task_state}, \"Image ID\": \"i\""));
            assert_eq!((row.vm_state.as_deref(), row.task_state.as_deref()), expected, "{status}");
        }
    }

    #[test]
    fn exactly_1000_rows_are_doubtful() {
        for (count, is_doubtful) in [(999, false), (1000, true), (1001, false)] {
            let rows: Vec<_> =
                (0..count).map(|id| format!("{{\"ID\": \"{id}\", \"Image ID\": \"i\"}}")).collect();
            let source = parse(format!("[{}]", rows.join(",")).as_bytes()).unwrap();
            assert_eq!(source.is_at_client_limit, is_doubtful, "{count}");
        }
    }

    #[test]
    fn a_server_of_a_cell_that_is_down_makes_the_inventory_incomplete() {
        for (image, incomplete) in
            [("null", 1), ("\"\"", 1), ("\"N/A (booted from volume)\"", 1), ("\"i\"", 0)]
        {
            let text = format!("[{{\"ID\": \"a\", \"Status\": \"UNKNOWN\", \"Image ID\": {image}}}]");
            assert_eq!(parse(text.as_bytes()).unwrap().incomplete.len(), incomplete, "{image}");
        }
    }

    #[test]
    fn errors_name_row_and_field_and_what_to_use_instead() {
        for (text, expected) in [
            (r#"[{"Name": "x"}]"#, "row 1: missing field `ID`"),
            (r#"[{"ID": ""}]"#, "row 1: \"ID\": is empty"),
            (
                r#"[{"ID": "a", "Image ID": "i"}, ["b", "ACTIVE", null, "i"]]"#,
                "row 2: invalid type: sequence, expected an object",
            ),
            (r#"[{"ID": "a", "Name": "x", "Image": "cirros"}]"#, "list the servers with --long"),
            (r#"[{"ID": "a", "Name": "x", "Status": "ACTIVE"}]"#, "list the servers with --long"),
            (r#"[{"ID": "a", "Name": "x", "Status": "active"}]"#, "is a list of images: give it to --images"),
            (r#"[{"ID": "a", "Image ID": "i"}, {"ID": "b", "Host": 3}]"#, "row 2: \"Host\": invalid type"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
