//! The list of images: it names cache files for people, and tells which cannot be downloaded again.

use std::collections::HashMap;
use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use serde::de::IgnoredAny;
use serde::{Deserialize, Serialize};

use crate::cache_name::cache_file_name;
use crate::input::{name, read_list};
use crate::inventory::json::{self, Object};
use crate::inventory::page::{self, Page};
use crate::inventory::spellings;
use crate::warning::Warning;

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Image {
    pub id: String,
    pub name: Option<String>,
    /// glance's word: `active`, `deactivated`, …
    pub status: Option<String>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Images {
    /// By the 40 hex digits that the names of an image's cache files begin with.
    pub by_fingerprint: HashMap<String, Image>,
    /// Whether an image that is not in the list does not exist.
    pub is_complete: bool,
    pub warnings: Vec<Warning>,
}

/// What one file gave.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct List {
    pub images: Vec<Image>,
    /// Where it is an answer of the API.
    pub page: Option<Page>,
}

/// Reads the files that `--images` names (`-` is standard input); `None` where it names none. Where two list the same
/// image, the later one counts.
///
/// # Errors
/// Where one cannot be read or is no list of images.
pub fn load(files: &[PathBuf]) -> Result<Option<Images>> {
    if files.is_empty() {
        return Ok(None);
    }
    let list = |file: &PathBuf| {
        let text = read_list("--images", file)?;
        let name = name(file);
        let list = parse(&text).with_context(|| format!("--images {name}"))?;
        Ok((name, list))
    };
    Ok(Some(merge(files.iter().map(list).collect::<Result<_>>()?)))
}

fn merge(lists: Vec<(String, List)>) -> Images {
    let pages = lists.iter().map(|(name, list)| (&**name, list.page.as_ref()));
    let warnings: Vec<_> = page::unfinished(pages)
        .into_iter()
        .map(|(source, why)| Warning::ImagesIncomplete { source: source.into(), why })
        .collect();
    let images = lists.into_iter().flat_map(|(_, list)| list.images);
    Images { by_fingerprint: by_fingerprint(images.collect()), is_complete: warnings.is_empty(), warnings }
}

/// Images by the fingerprint of their id, also in lower case; the id as it stands comes before another's lower case.
pub fn by_fingerprint(images: Vec<Image>) -> HashMap<String, Image> {
    let mut found = HashMap::with_capacity(images.len());
    for image in &images {
        found.extend(spellings(&image.id).skip(1).map(|id| (cache_file_name(&id), image.clone())));
    }
    found.extend(images.into_iter().map(|image| (cache_file_name(&image.id), image)));
    found
}

/// What `GET /v2/images` answers.
#[derive(Deserialize)]
struct Answer {
    images: Option<Vec<Object<OfApi>>>,
    next: Option<String>,
    servers: Option<IgnoredAny>,
}

/// An image of the API's. Beside these fields it has properties of any name.
#[derive(Deserialize)]
struct OfApi {
    id: Option<String>,
    name: Option<String>,
    status: Option<String>,
}

/// A row of what `openstack image list -f json` or an SDK prints.
#[derive(Default, Deserialize)]
struct Listed {
    #[serde(alias = "ID")]
    id: Option<String>,
    #[serde(alias = "Name")]
    name: Option<String>,
    #[serde(alias = "Status")]
    status: Option<String>,
    /// Of servers alone, as a status in capitals is.
    #[serde(rename = "Image ID", alias = "uuid", alias = "OS-EXT-STS:vm_state")]
    of_servers: Option<IgnoredAny>,
}

/// Reads a list of images of either form.
///
/// # Errors
/// Where the text is none: the error names the row and the field, or says what to use instead.
pub fn parse(text: &[u8]) -> Result<List> {
    const SERVERS: &str = "is a list of servers: give it to --inventory";
    let text = json::check(text, "images")?;
    let (rows, next) = if text.trim_ascii_start().starts_with(b"[") {
        (json::read::<Vec<Object<Listed>>>(text)?, None)
    } else {
        let answer: Answer = json::read(text)?;
        if answer.servers.is_some() {
            bail!(SERVERS);
        }
        let rows = answer.images.context("has no list of \"images\": give what GET /v2/images answers")?;
        let rows = rows.into_iter().map(|Object(OfApi { id, name, status })| {
            Object(Listed { id, name, status, ..Listed::default() })
        });
        (rows.collect(), Some(answer.next))
    };
    let mut images = Vec::new();
    for (Object(row), number) in rows.into_iter().zip(1..) {
        let is_server =
            row.status.as_deref().is_some_and(|it| it.starts_with(|first: char| first.is_ascii_uppercase()));
        if is_server || row.of_servers.is_some() {
            bail!(SERVERS);
        }
        let text = |text: Option<String>| text.filter(|it| !it.is_empty());
        let Some(id) = text(row.id) else {
            bail!("row {number}: has no \"id\" or \"ID\": list the images with their ids");
        };
        images.push(Image { id, name: text(row.name), status: text(row.status) });
    }
    let ids = images.iter().map(|image: &Image| image.id.as_str().into()).collect();
    let page = next.map(|next| Page::new(next.as_deref(), ids));
    Ok(List { images, page })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn image(id: &str, name: Option<&str>, status: Option<&str>) -> Image {
        Image { id: id.into(), name: name.map(Into::into), status: status.map(Into::into) }
    }

    #[test]
    fn the_clients_list_and_the_apis_are_read() {
        for (text, expected) in [
            ("[]", vec![]),
            (
                r#"[{"ID": "a", "Name": "n", "Status": "active"}]"#,
                vec![image("a", Some("n"), Some("active"))],
            ),
            (
                r#"[{"ID": "a", "Name": "", "Size": 1, "Status": "queued", "Tags": []}, {"ID": "b"}]"#,
                vec![image("a", None, Some("queued")), image("b", None, None)],
            ),
            (
                r#"{"images": [{"id": "a", "name": null, "status": "x", "tags": []}], "first": "/"}"#,
                vec![image("a", None, Some("x"))],
            ),
            (
                // Properties that somebody gave the image.
                r#"{"images": [{"id": "a", "status": "x", "ID": "b", "Name": "c", "uuid": "d", "Image ID": 1}]}"#,
                vec![image("a", None, Some("x"))],
            ),
        ] {
            let with_mark = format!("\u{feff}{text}");
            assert_eq!(parse(with_mark.as_bytes()).unwrap().images, expected, "{text}");
        }
    }

    #[test]
    fn errors_name_row_and_field_and_what_to_use_instead() {
        for (text, expected) in [
            ("", "is empty: create it again"),
            ("+----+\n| ID |", "is a table, not JSON: list the images with -f json"),
            ("\"ID\",\"Name\"\n", "is CSV, not JSON: list the images with -f json"),
            ("<domain/>", "is XML"),
            ("[\0", "is UTF-16"),
            ("[{\"ID\": \"a\"", "the file is truncated"),
            (r#"{"servers": []}"#, "is a list of servers: give it to --inventory"),
            (
                r#"[{"ID": "a", "Status": "ACTIVE", "Networks": {}}]"#,
                "is a list of servers: give it to --inventory",
            ),
            (r#"[{"ID": "a", "Image ID": "b"}]"#, "is a list of servers"),
            (r#"[{"uuid": "a", "image_ref": "b"}]"#, "is a list of servers"),
            (r#"{"id": "a"}"#, "has no list of \"images\": give what GET /v2/images answers"),
            (r#"{"images": [{"id": "a"}, {"id": 3}]}"#, "\"images\": row 2: \"id\": invalid type"),
            (r#"[{"ID": "a"}, {"Name": "b"}]"#, "row 2: has no \"id\" or \"ID\": list the images with their"),
            (r#"[{"ID": ""}]"#, "row 1: has no \"id\""),
            (r#"[["a", "b", "active"]]"#, "row 1: invalid type: sequence, expected an object"),
            (r#"{"images": [["a", "b"]]}"#, "\"images\": row 1: invalid type: sequence, expected an object"),
        ] {
            let error = format!("{:#}", parse(text.as_bytes()).unwrap_err());
            assert!(error.contains(expected), "{text}: {error}");
        }
    }

    #[test]
    fn lists_are_complete_where_no_next_page_is_missing() {
        let list = |name: &str, text: &str| (name.to_owned(), parse(text.as_bytes()).unwrap());
        let first = list("first", r#"{"images": [{"id": "a"}], "next": "/v2/images?limit=1&marker=a"}"#);
        let last = list("last", r#"{"images": [{"id": "b"}]}"#);
        let client = list("client", r#"[{"ID": "c"}]"#);
        for (lists, count, unfinished) in [
            (vec![client.clone()], 1, None),
            (vec![first.clone(), last, client.clone()], 3, None),
            (vec![first, client], 2, Some("first")),
        ] {
            let images = merge(lists);
            let source = images.warnings.iter().find_map(|it| match it {
                Warning::ImagesIncomplete { source, .. } => Some(&**source),
                _ => None,
            });
            assert_eq!(source, unfinished);
            assert_eq!((images.by_fingerprint.len(), images.is_complete), (count, unfinished.is_none()));
        }
    }

    #[test]
    fn images_are_found_by_fingerprint_and_the_later_file_counts() {
        assert_eq!(load(&[]).unwrap(), None);
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, status: &str| {
            let path = folder.path().join(name);
            let id = "fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0";
            fs_err::write(&path, format!(r#"[{{"ID": "{id}", "Status": "{status}"}}]"#)).unwrap();
            path
        };
        let images = load(&[file("one", "active"), file("two", "killed")]).unwrap().unwrap();
        let image = &images.by_fingerprint["0d5e6b61602d758984b3bf038267614d6016eb2a"];
        assert_eq!(image.status.as_deref(), Some("killed"));
        let capitals = parse(br#"[{"ID": "A"}, {"ID": "b"}, {"ID": "B"}]"#).unwrap();
        let images = merge(vec![("list".into(), capitals)]).by_fingerprint;
        let id = |of: &str| images[&cache_file_name(of)].id.clone();
        assert_eq!(["a", "A", "b", "B"].map(id), ["A", "A", "b", "B"]);
        let error = format!("{:#}", load(&[folder.path().join("absent")]).unwrap_err());
        assert!(error.contains("--images") && error.contains("absent"), "{error}");
        let error = format!("{:#}", load(&[file("three", "ACTIVE")]).unwrap_err());
        assert!(error.starts_with("--images /") && error.contains("three: is a list of servers"), "{error}");
    }
}
