//! The compute API's `GET /servers/detail`, whatever the microversion and whoever asked, and the same from the
//! OpenStack SDK: `{"servers": [server.to_dict(original_names=True), …]}`.
//!
//! What an answer holds depends on both: `kernel_id` came with 2.3 and is for administrators, as host and instance
//! name are; `flavor` has its sizes from 2.47 on; from 2.69 on servers of a cell that is down are rows that say little
//! more than their id. The SDK writes null for what the API did not tell, and `{}` for an image of `""`.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;
use serde::de::IgnoredAny;

use super::json::{self, Object};
use super::page::Page;
use super::row::{Lacks, Row, Source};

#[derive(Deserialize)]
struct Answer {
    servers: Option<Vec<Object<Server>>>,
    servers_links: Option<Vec<Object<Link>>>,
    images: Option<IgnoredAny>,
}

#[derive(Deserialize)]
struct Link {
    rel: Box<str>,
    #[serde(default)]
    href: Box<str>,
}

/// Null is lacking throughout; nova itself writes `""` for none.
#[derive(Deserialize)]
struct Server {
    #[serde(deserialize_with = "json::id")]
    id: Box<str>,
    status: Option<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:instance_name")]
    instance_name: Option<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:host")]
    host: Option<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:kernel_id")]
    kernel_id: Option<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:ramdisk_id")]
    ramdisk_id: Option<Box<str>>,
    #[serde(rename = "OS-EXT-STS:vm_state")]
    vm_state: Option<Box<str>>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task_state: Option<Box<str>>,
    image: Option<OrEmpty<Object<Image>>>,
    flavor: Option<Object<Flavor>>,
}

#[derive(Default, Deserialize)]
struct Flavor {
    vcpus: Option<OrEmpty<u64>>,
    swap: Option<OrEmpty<u64>>,
    #[serde(alias = "OS-FLV-EXT-DATA:ephemeral")]
    ephemeral: Option<OrEmpty<u64>>,
}

/// # Errors
/// An answer without any image is refused as well: it is that of `GET /servers`, and taking it would leave every image
/// to the disks.
pub(super) fn parse(text: &[u8]) -> Result<Source> {
    let answer: Answer = json::read(text)?;
    if answer.servers.is_none() && answer.images.is_some() {
        bail!("is a list of images: give it to --images");
    }
    let servers = answer.servers.context(
        "has no list of \"servers\": give what GET /servers/detail answers, or a list of instances",
    )?;
    let links = answer.servers_links.unwrap_or_default();
    let next = links.iter().find(|it| &*it.0.rel == "next").map(|it| &*it.0.href);
    let page = Page::new(next, servers.iter().map(|it| it.0.id.clone()).collect());
    let mut source = Source { page: Some(page), ..Source::default() };
    for Object(server) in servers {
        let mut flavor = server.flavor.map(|it| it.0).unwrap_or_default();
        // No flavor is without CPUs: the SDK writes zeros for what the API did not tell.
        if matches!(flavor.vcpus, Some(OrEmpty::Is(0))) {
            for size in [&mut flavor.swap, &mut flavor.ephemeral] {
                size.take_if(|it| matches!(it, OrEmpty::Is(0)));
            }
        }
        let row = Row {
            uuid: Some(server.id),
            name: server.instance_name,
            host: server.host,
            lacks: Lacks {
                image: server.image.is_none(),
                kernel: server.kernel_id.is_none() || server.ramdisk_id.is_none(),
                swap: flavor.swap.is_none(),
                ephemeral: flavor.ephemeral.is_none(),
            },
            image_ref: server.image.and_then(OrEmpty::value).and_then(|image| image.0.id),
            kernel_id: server.kernel_id,
            ramdisk_id: server.ramdisk_id,
            vm_state: server.vm_state,
            task_state: server.task_state,
            swap_mb: flavor.swap.and_then(OrEmpty::value),
            ephemeral_gb: flavor.ephemeral.and_then(OrEmpty::value),
            ..Row::default()
        };
        source.push_server(row, server.status.as_deref());
    }
    if source.lacks_images() {
        bail!("no row has an \"image\": give what GET /servers/detail answers, not GET /servers");
    }
    Ok(source)
}

/// `{}`, as the SDK writes it, is no image either.
#[derive(Deserialize)]
struct Image {
    id: Option<Box<str>>,
}

/// The API writes `""` for an image and for a swap that are none.
#[derive(Deserialize)]
#[serde(untagged, expecting = "expected an object (image), a whole number (sizes) or an empty text")]
enum OrEmpty<T> {
    Is(T),
    Empty(Empty),
}

#[derive(Deserialize)]
enum Empty {
    #[serde(rename = "")]
    Text,
}

impl<T> OrEmpty<T> {
    fn value(self) -> Option<T> {
        match self {
            Self::Is(value) => Some(value),
            Self::Empty(Empty::Text) => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(server: &str) -> Row {
        parse(format!("{{\"servers\": [{server}]}}").as_bytes()).unwrap().rows[0].clone()
    }

    #[test]
    fn a_full_row_of_an_administrator_gives_every_field() {
        let expected = Row {
            uuid: Some("a".into()),
            name: Some("instance-1".into()),
            host: Some("h".into()),
            image_ref: Some("i".into()),
            kernel_id: Some("k".into()),
            vm_state: Some("active".into()),
            swap_mb: Some(512),
            ephemeral_gb: Some(10),
            ..Row::default()
        };
        let api = r#"{"id": "a", "name": "web", "status": "ACTIVE",
            "OS-EXT-SRV-ATTR:instance_name": "instance-1", "OS-EXT-SRV-ATTR:host": "h",
            "OS-EXT-SRV-ATTR:hypervisor_hostname": "h.domain", "OS-EXT-SRV-ATTR:kernel_id": "k",
            "OS-EXT-SRV-ATTR:ramdisk_id": "", "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:task_state": null,
            "image": {"id": "i", "links": [{"rel": "bookmark"}], "properties": {"x": [{}]}},
            "flavor": {"original_name": "m", "vcpus": 1, "swap": 512, "ephemeral": 10, "extra_specs": {}}, "tags": []}"#;
        assert_eq!(row(api), expected);
        // As openstacksdk 1.5 to 4.22 writes it: many keys of null, and some in the image.
        let sdk = api
            .replace(
                "\"tags\"",
                "\"adminPass\": null, \"imageRef\": null, \"flavorRef\": null, \"host\": null, \"tags\"",
            )
            .replace("\"id\": \"i\"", "\"checksum\": null, \"name\": null, \"status\": null, \"id\": \"i\"");
        assert_eq!(row(&sdk), expected);
    }

    #[test]
    fn what_a_row_does_not_have_is_none_and_lacking() {
        for server in [
            r#""flavor": {"id": "1", "links": []}"#,
            r#""OS-EXT-SRV-ATTR:host": null, "OS-EXT-SRV-ATTR:kernel_id": null, "OS-EXT-SRV-ATTR:ramdisk_id": null,
               "flavor": {"id": "1", "vcpus": 0, "ram": 0, "swap": 0, "ephemeral": 0}"#,
        ] {
            let row = row(&format!(r#"{{"id": "a", "status": "ACTIVE", "image": "", {server}}}"#));
            assert_eq!((row.host, row.name, row.image_ref), (None, None, None));
            assert_eq!(row.lacks, Lacks { image: false, kernel: true, swap: true, ephemeral: true });
        }
    }

    #[test]
    fn an_image_of_nothing_is_a_volume_and_none_is_lacking() {
        let other = r#"{"id": "b", "image": {"id": "i"}}"#;
        for (image, is_lacking) in [("\"\"", false), ("{}", false), ("{\"id\": null}", false), ("null", true)]
        {
            let row = row(&format!(r#"{{"id": "a", "image": {image}}}, {other}"#));
            assert_eq!((row.image_ref, row.lacks.image), (None, is_lacking), "{image}");
        }
    }

    #[test]
    fn sizes_are_numbers_or_empty_texts() {
        for (flavor, swap, ephemeral) in [
            (r#""swap": "", "ephemeral": 0"#, (None, false), (None, false)),
            (r#""swap": 0, "OS-FLV-EXT-DATA:ephemeral": 7"#, (None, false), (Some(7), false)),
            (r#""swap": 512, "ephemeral": 5"#, (Some(512), false), (Some(5), false)),
            (r#""swap": null"#, (None, true), (None, true)),
            (r#""vcpus": 0, "swap": 512, "ephemeral": 0"#, (Some(512), false), (None, true)),
            (r#""vcpus": 0, "swap": "", "ephemeral": 10"#, (None, false), (Some(10), false)),
        ] {
            let row = row(&format!(r#"{{"id": "a", "image": "", "flavor": {{{flavor}}}}}"#));
            assert_eq!((row.swap_mb, row.lacks.swap), swap, "{flavor}");
            assert_eq!((row.ephemeral_gb, row.lacks.ephemeral), ephemeral, "{flavor}");
        }
    }

    #[test]
    fn a_cell_that_is_down_makes_the_inventory_incomplete() {
        for (server, incomplete) in [
            (r#""status": "UNKNOWN""#, 1),
            (r#""status": "UNKNOWN", "image": null"#, 1),
            (r#""status": "UNKNOWN", "image": """#, 1),
            (r#""status": "UNKNOWN", "image": {}"#, 1),
            (r#""status": "UNKNOWN", "image": {"id": "i"}"#, 0),
            (r#""status": "ACTIVE", "image": """#, 0),
        ] {
            let source = parse(format!("{{\"servers\": [{{\"id\": \"a\", {server}}}]}}").as_bytes()).unwrap();
            assert_eq!((source.incomplete.len(), source.rows.len()), (incomplete, 1), "{server}");
        }
    }

    #[test]
    fn only_a_link_to_the_next_page_says_that_there_is_one() {
        for (links, next) in [
            ("", None),
            (r#", "servers_links": null"#, None),
            (r#", "servers_links": [{"rel": "previous", "href": "x"}]"#, None),
            (r#", "servers_links": [{"rel": "next"}]"#, Some("")),
            (r#", "servers_links": [{"rel": "next", "href": "p?marker=a"}]"#, Some("p?marker=a")),
        ] {
            let text = format!("{{\"servers\": [{{\"id\": \"a\", \"image\": \"\"}}]{links}}}");
            let expected = Page::new(next, vec!["a".into()]);
            assert_eq!(parse(text.as_bytes()).unwrap().page, Some(expected), "{links}");
        }
        assert_eq!(parse(b"{\"servers\": []}").unwrap().rows, []);
    }

    #[test]
    fn errors_name_row_and_field_and_what_to_use_instead() {
        for (text, expected) in [
            (
                r#"{"servers": [], "servers_links": [["next"]]}"#,
                "\"servers_links\": row 1: invalid type: sequence",
            ),
            (r#"{"server": {}}"#, "has no list of \"servers\": give what GET /servers/detail answers"),
            (r#"{"servers": {}}"#, "\"servers\": invalid type: map"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
        for (servers, expected) in [
            ("{}", "\"servers\": row 1: missing field `id`"),
            (r#"{"id": ""}"#, "row 1: \"id\": is empty"),
            (r#"["a", "ACTIVE"]"#, "\"servers\": row 1: invalid type: sequence, expected an object"),
            (r#"{"id": "a", "image": ["i"]}"#, "row 1: \"image\": expected an object (image)"),
            (r#"{"id": "a", "flavor": [1, 2]}"#, "\"flavor\": invalid type: sequence, expected an object"),
            (r#"{"id": "a", "name": "x", "links": []}"#, "not GET /servers"),
            (r#"{"id": "a", "image": ""}, {"id": "b", "image": 3}"#, "row 2: \"image\": expected an object"),
            (r#"{"id": "a", "image": "b"}"#, "row 1: \"image\": expected an object (image)"),
            (r#"{"id": "a", "flavor": {"swap": -1}}"#, "row 1: \"flavor\": \"swap\": expected"),
            (r#"{"id": "a", "flavor": {"ephemeral": "x"}}"#, "\"ephemeral\": expected an object"),
            (r#"{"id": "a", "id": "b"}"#, "duplicate field `id`"),
            (r#"{"id": "a", "OS-EXT-SRV-ATTR:host": 7}"#, "\"OS-EXT-SRV-ATTR:host\": invalid type"),
        ] {
            let text = format!("{{\"servers\": [{servers}]}}");
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }
}
