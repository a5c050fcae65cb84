//! What `openstack server list --all-projects --long -f json` prints.
//!
//! Its keys are the headings of the client's table, and which there are depends on its version, on `-c` and on who
//! asked. `Name` is the display name and not used. `Host` is the hypervisor's host name in newer clients and nova's
//! host in older ones.

use std::io::Read;

use anyhow::{Result, bail};
use serde::Deserialize;

use super::json::{self, Field, ListRow, Rows, text};
use super::{Instance, Lacks, Row, Source};
use crate::warning::Warning;

/// What the client writes for a server without an image.
const BOOTED_FROM_VOLUME: &str = "N/A (booted from volume)";

/// The API's usual limit for one page, at which clients before `--limit -1` became the default stop.
const PAGE_LIMIT: usize = 1000;

#[derive(Deserialize)]
struct Listed {
    #[serde(rename = "ID")]
    id: Box<str>,
    #[serde(rename = "Status")]
    status: Option<Box<str>>,
    #[serde(rename = "Task State")]
    task_state: Option<Box<str>>,
    #[serde(rename = "Image ID", default)]
    image_id: Field<Box<str>>,
    #[serde(rename = "Host")]
    host: Option<Box<str>>,
}

/// Reads what the client printed.
///
/// # Errors
/// Where the text is no such list: the error names the row (counted from 1) and the field. A list without image ids is
/// refused as well: taking it would leave every image to the disks.
pub(super) fn parse(text: impl Read) -> Result<Source> {
    let mut source = json::read::<Rows<Listed>>(text)?.source;
    if !source.instances.is_empty() && source.instances.iter().all(|it| it.lacks(|lacks| lacks.image)) {
        bail!("no row has an \"Image ID\": list the servers with --long");
    }
    if source.instances.len() == PAGE_LIMIT {
        source.warnings.push(Warning::new(
            "list_of_1000",
            "has exactly 1000 servers: older clients stop there; if there are more, list them with --limit -1",
        ));
    }
    Ok(source)
}

impl ListRow for Listed {
    fn add_to(self, source: &mut Source) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("\"ID\": is empty".into());
        }
        // Python's None, which some versions print as it is.
        let or_none = |field: Option<Box<str>>| text(field).filter(|it| &**it != "None");
        let status = self.status.as_deref().unwrap_or_default();
        let lacks = Lacks { image: self.image_id.is_lacking(), kernel: true, swap: true, ephemeral: true };
        let image_ref = or_none(self.image_id.value()).filter(|id| &**id != BOOTED_FROM_VOLUME);
        // The client writes what it knows of a server in a cell that is down as if that had started from a volume.
        if status == "UNKNOWN" && image_ref.is_none() {
            source
                .incomplete
                .push(format!("{}: its cell did not answer (status UNKNOWN, no image)", self.id));
        }
        let (vm_state, task_state_of_status) = states(status);
        source.instances.push(Instance::new(&Row {
            uuid: Some(self.id),
            host: or_none(self.host),
            image_ref,
            vm_state: vm_state.map(Into::into),
            task_state: or_none(self.task_state).or(task_state_of_status.map(Into::into)),
            lacks,
            ..Row::default()
        }));
        Ok(())
    }
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
        parse(format!("[{{\"ID\": \"a\", {columns}}}]").as_bytes()).unwrap().instances[0].row()
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
            lacks: Lacks { image: false, kernel: true, swap: true, ephemeral: true },
            ..Row::default()
        };
        assert_eq!(row, expected);
    }

    #[test]
    fn a_server_without_an_image_has_none() {
        for image in ["\"N/A (booted from volume)\"", "\"\"", "null", "\"None\""] {
            assert_eq!(row(&format!("\"Image ID\": {image}")).image_ref, None, "{image}");
        }
    }

    #[test]
    fn the_status_tells_the_states_that_matter() {
        for (status, task_state, expected) in [
            ("ACTIVE", "null", (None, None)),
            ("RESIZE", "\"resize_prep\"", (None, Some("resize_prep"))),
            ("RESIZE", "null", (None, Some("resize_migrated"))),
            ("RESIZE", "\"None\"", (None, Some("resize_migrated"))),
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
        for (count, warnings) in [(999, 0), (1000, 1), (1001, 0)] {
            let rows: Vec<_> =
                (0..count).map(|id| format!("{{\"ID\": \"{id}\", \"Image ID\": \"i\"}}")).collect();
            let source = parse(format!("[{}]", rows.join(",")).as_bytes()).unwrap();
            assert_eq!(source.warnings.len(), warnings, "{count}");
        }
    }

    #[test]
    fn a_server_of_a_cell_that_is_down_makes_the_inventory_incomplete() {
        for (image, incomplete) in [("\"\"", 1), ("\"N/A (booted from volume)\"", 1), ("\"i\"", 0)] {
            let text = format!("[{{\"ID\": \"a\", \"Status\": \"UNKNOWN\", \"Image ID\": {image}}}]");
            assert_eq!(parse(text.as_bytes()).unwrap().incomplete.len(), incomplete, "{image}");
        }
    }

    #[test]
    fn errors_name_row_and_field() {
        for (text, expected) in [
            (r#"[{"Name": "x"}]"#, "row 1: missing field `ID`"),
            (r#"[{"ID": ""}]"#, "row 1: \"ID\": is empty"),
            (r#"[{"ID": "a", "Name": "x", "Image": "cirros"}]"#, "with --long"),
            (r#"[{"ID": "a", "Image ID": "i"}, {"ID": "b", "Host": 3}]"#, "row 2: \"Host\": invalid type"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
