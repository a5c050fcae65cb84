//! The compute API's `GET /servers/detail`, whatever the microversion and whoever asked.
//!
//! What an answer holds depends on both: `kernel_id` came with 2.3 and is for administrators, as host and instance
//! name are; `flavor` has its sizes from 2.47 on; from 2.69 on servers of a cell that is down are rows that
//! say little more than their id.

use std::fmt;
use std::io::Read;

use anyhow::{Result, bail};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;
use serde::de::{Deserializer, MapAccess, Visitor};

use super::json::{self, Field, ListRow, Rows, text};
use super::{Instance, Lacks, Page, Row, Source};

#[derive(Deserialize)]
struct Answer {
    servers: Rows<Server>,
    servers_links: Option<Vec<Link>>,
}

#[derive(Deserialize)]
struct Link {
    rel: Option<Box<str>>,
    href: Option<Box<str>>,
}

#[derive(Deserialize)]
struct Server {
    id: Box<str>,
    status: Option<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:instance_name")]
    instance_name: Option<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:host")]
    host: Option<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:kernel_id", default)]
    kernel_id: Field<Box<str>>,
    #[serde(rename = "OS-EXT-SRV-ATTR:ramdisk_id", default)]
    ramdisk_id: Field<Box<str>>,
    #[serde(rename = "OS-EXT-STS:vm_state")]
    vm_state: Option<Box<str>>,
    #[serde(rename = "OS-EXT-STS:task_state")]
    task_state: Option<Box<str>>,
    #[serde(default)]
    image: Field<Image>,
    flavor: Option<Flavor>,
}

#[derive(Default, Deserialize)]
struct Flavor {
    #[serde(default)]
    swap: Field<Size>,
    #[serde(default)]
    ephemeral: Field<Size>,
}

/// Reads one answer.
///
/// # Errors
/// Where the text is no such answer: the error names the row (counted from 1) and the field. An answer without any
/// image is refused as well: it is that of `GET /servers`, and taking it would leave every image to the disks.
pub(super) fn parse(text: impl Read) -> Result<Source> {
    let answer: Answer = json::read(text)?;
    let mut source = answer.servers.source;
    if !source.instances.is_empty()
        && source.incomplete.is_empty()
        && source.instances.iter().all(|it| it.lacks(|lacks| lacks.image))
    {
        bail!(
            "no row has an \"image\": this is not what GET /servers/detail answers (GET /servers leaves it out)"
        );
    }
    let next =
        answer.servers_links.unwrap_or_default().into_iter().find(|link| link.rel.as_deref() == Some("next"));
    source.page = Some(match next {
        None => Page::Last,
        Some(link) => {
            let marker = link.href.as_deref().and_then(marker);
            let last = source.instances.last().map(Instance::id);
            Page::ContinuesAfter(last.filter(|last| marker == Some(last)).map(Into::into))
        }
    });
    Ok(source)
}

/// The id after which the next page begins.
fn marker(href: &str) -> Option<&str> {
    let (_, query) = href.split_once('?')?;
    query.split('&').find_map(|pair| pair.strip_prefix("marker="))
}

impl ListRow for Server {
    fn add_to(self, source: &mut Source) -> Result<(), String> {
        if self.id.is_empty() {
            return Err("\"id\": is empty".into());
        }
        let flavor = self.flavor.unwrap_or_default();
        let lacks = Lacks {
            image: self.image.is_lacking(),
            kernel: self.kernel_id.is_lacking() || self.ramdisk_id.is_lacking(),
            swap: flavor.swap.is_lacking(),
            ephemeral: flavor.ephemeral.is_lacking(),
        };
        let image_ref = self.image.value().and_then(|image| image.0);
        // Of an instance in such a cell little but its id is known; even that it has no image may be a guess.
        if self.status.as_deref() == Some("UNKNOWN") && image_ref.is_none() {
            source
                .incomplete
                .push(format!("{}: its cell did not answer (status UNKNOWN, no image)", self.id));
        }
        source.instances.push(Instance::new(&Row {
            uuid: Some(self.id),
            name: text(self.instance_name),
            host: text(self.host),
            image_ref,
            kernel_id: text(self.kernel_id.value()),
            ramdisk_id: text(self.ramdisk_id.value()),
            vm_state: text(self.vm_state),
            task_state: text(self.task_state),
            swap_mb: flavor.swap.value().map(|size| size.0),
            ephemeral_gb: flavor.ephemeral.value().map(|size| size.0),
            lacks,
        }));
        Ok(())
    }
}

/// `{"id": …}`, or `""` for a server that was started from a volume.
struct Image(Option<Box<str>>);

impl<'de> Deserialize<'de> for Image {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct ImageVisitor;
        #[derive(Deserialize)]
        struct WithId {
            #[serde(deserialize_with = "Option::deserialize")]
            id: Option<Box<str>>,
        }
        impl<'de> Visitor<'de> for ImageVisitor {
            type Value = Image;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object with an id, or an empty text")
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Image, E> {
                if value.is_empty() {
                    Ok(Image(None))
                } else {
                    Err(E::invalid_value(serde::de::Unexpected::Str(value), &self))
                }
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Image, A::Error> {
                let image = WithId::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Image(text(image.id)))
            }
        }
        deserializer.deserialize_any(ImageVisitor)
    }
}

/// A size of a flavor; the API writes a swap of 0 as `""`.
struct Size(u64);

impl<'de> Deserialize<'de> for Size {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct SizeVisitor;
        impl Visitor<'_> for SizeVisitor {
            type Value = Size;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number, or an empty text")
            }

            fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Size, E> {
                Ok(Size(value))
            }

            fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Size, E> {
                if value.is_empty() {
                    return Ok(Size(0));
                }
                value
                    .parse()
                    .map(Size)
                    .map_err(|_| E::invalid_value(serde::de::Unexpected::Str(value), &self))
            }
        }
        deserializer.deserialize_any(SizeVisitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn row(server: &str) -> Row {
        let text = format!("{{\"servers\": [{server}]}}");
        parse(text.as_bytes()).unwrap().instances[0].row()
    }

    #[test]
    fn a_full_row_of_an_administrator_gives_every_field() {
        let row = row(r#"{"id": "a", "name": "web", "status": "ACTIVE",
            "OS-EXT-SRV-ATTR:instance_name": "instance-1", "OS-EXT-SRV-ATTR:host": "h",
            "OS-EXT-SRV-ATTR:hypervisor_hostname": "h.domain", "OS-EXT-SRV-ATTR:kernel_id": "k",
            "OS-EXT-SRV-ATTR:ramdisk_id": "", "OS-EXT-STS:vm_state": "active", "OS-EXT-STS:task_state": null,
            "image": {"id": "i", "links": [{"rel": "bookmark"}], "properties": {"x": [{}]}},
            "flavor": {"original_name": "m", "swap": 512, "ephemeral": 10, "extra_specs": {}}, "tags": []}"#);
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
        assert_eq!(row, expected);
    }

    #[test]
    fn what_a_row_does_not_have_is_none_and_lacking() {
        let row = row(r#"{"id": "a", "status": "ACTIVE", "image": "", "flavor": {"id": "1", "links": []}}"#);
        assert_eq!((row.host, row.name, row.image_ref), (None, None, None));
        assert_eq!(row.lacks, Lacks { image: false, kernel: true, swap: true, ephemeral: true });
    }

    #[test]
    fn a_swap_of_nothing_is_none_and_not_lacking() {
        for (swap, expected) in [("\"\"", None), ("0", None), ("\"512\"", Some(512)), ("null", None)] {
            let row =
                row(&format!(r#"{{"id": "a", "image": "", "flavor": {{"swap": {swap}, "ephemeral": 0}}}}"#));
            assert_eq!((row.swap_mb, row.lacks.swap), (expected, false), "{swap}");
        }
    }

    #[test]
    fn a_cell_that_is_down_makes_the_inventory_incomplete() {
        for (server, incomplete) in [
            (r#"{"id": "a", "status": "UNKNOWN"}"#, 1),
            (r#"{"id": "a", "status": "UNKNOWN", "image": null}"#, 1),
            (r#"{"id": "a", "status": "UNKNOWN", "image": ""}"#, 1),
            (r#"{"id": "a", "status": "UNKNOWN", "image": {"id": "i"}}"#, 0),
            (r#"{"id": "a", "status": "ACTIVE", "image": null}"#, 0),
        ] {
            let source = parse(format!("{{\"servers\": [{server}]}}").as_bytes()).unwrap();
            assert_eq!(source.incomplete.len(), incomplete, "{server}");
            assert_eq!(source.instances.len(), 1);
        }
    }

    #[test]
    fn the_next_page_is_known_by_the_last_id() {
        for (links, expected) in [
            ("", Page::Last),
            (r#", "servers_links": []"#, Page::Last),
            (r#", "servers_links": null"#, Page::Last),
            (r#", "servers_links": [{"rel": "previous", "href": "x"}]"#, Page::Last),
            (
                r#", "servers_links": [{"rel": "next", "href": "p?limit=1&marker=a"}]"#,
                Page::ContinuesAfter(Some("a".into())),
            ),
            (r#", "servers_links": [{"rel": "next", "href": "p?marker=b"}]"#, Page::ContinuesAfter(None)),
            (r#", "servers_links": [{"rel": "next"}]"#, Page::ContinuesAfter(None)),
        ] {
            let text = format!("{{\"servers\": [{{\"id\": \"a\", \"image\": \"\"}}]{links}}}");
            assert_eq!(parse(text.as_bytes()).unwrap().page, Some(expected), "{links}");
        }
    }

    #[test]
    fn errors_name_row_and_field() {
        for (text, expected) in [
            (r#"{"server": {"id": "a"}}"#, "missing field `servers`"),
            (r#"{"servers": {}}"#, "\"servers\": invalid type: map"),
            (r#"{"servers": [{}]}"#, "\"servers\": row 1: missing field `id`"),
            (r#"{"servers": [{"id": ""}]}"#, "row 1: \"id\": is empty"),
            (r#"{"servers": [{"id": "a", "name": "x", "links": []}]}"#, "GET /servers leaves it out"),
            (
                r#"{"servers": [{"id": "a", "image": ""}, {"id": "b", "image": {}}]}"#,
                "\"servers\": row 2: \"image\": missing field `id`",
            ),
            (r#"{"servers": [{"id": "a", "image": "b"}]}"#, "row 1: \"image\": invalid value: string \"b\""),
            (r#"{"servers": [{"id": "a", "flavor": {"swap": -1}}]}"#, "row 1: \"flavor\": \"swap\": invalid"),
            (r#"{"servers": [{"id": "a", "flavor": {"ephemeral": 1.5}}]}"#, "\"ephemeral\": invalid type"),
            (r#"{"servers": [{"id": "a", "id": "b"}]}"#, "duplicate field `id`"),
            (
                r#"{"servers": [{"id": "a", "OS-EXT-SRV-ATTR:host": 7}]}"#,
                "\"OS-EXT-SRV-ATTR:host\": invalid type",
            ),
            (r#"{"servers": []} []"#, "trailing characters"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn an_answer_without_servers_is_an_empty_list() {
        assert_eq!(parse(&br#"{"servers": []}"#[..]).unwrap().instances, []);
    }
}
