//! libvirt's domain XML, as it lies in /etc/libvirt/qemu and as `virsh dumpxml` prints it.
//!
//! nova writes what it knows of the instance into the domain's `metadata`, under a namespace that ends in a version.
//! The kernel and ramdisk images are not there, only the files made of them; so they are told where there are none.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use roxmltree::{Document, Node, ParsingOptions};

use super::json::refuse_utf16;
use super::{Instance, Lacks, Row, Source};

/// Any version: 1.0 and 1.1 do not differ in what is read here.
const NOVA: &str = "http://openstack.org/xmlns/libvirt/nova/";

/// A domain with a thousand disks has fewer elements and texts; a node of the tree takes some 70 bytes.
const MOST_NODES: u32 = 200_000;

/// The XML reader's time grows with the square of an element's attributes, its memory with that of the namespace
/// declarations; libvirt and nova write some ten of each.
const MOST_ATTRIBUTES: usize = 1000;

/// Adds the disks of a domain, and the instance that it is where it has nova's metadata, on `host`.
///
/// Says whether the text is a domain at all: its folder holds other things of libvirt's as well.
///
/// # Errors
/// Where the text is no XML, has a document type (entities can make a short text a huge one), or nova's metadata cannot
/// be understood.
pub fn parse(text: &[u8], host: &str, source: &mut Source) -> Result<bool> {
    refuse_utf16(text)?;
    let text = str::from_utf8(text).context("is not UTF-8")?;
    refuse_many_attributes(text)?;
    let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text.strip_prefix('\u{feff}').unwrap_or(text), options)?;
    let domain = document.root_element();
    if domain.tag_name().name() != "domain" {
        return Ok(false);
    }
    source.disks.extend(disks(domain));
    if let Some(instance) = child(domain, "metadata").and_then(nova_instance) {
        source.instances.extend(rows(domain, instance, host)?.iter().map(Instance::new));
    }
    Ok(true)
}

/// Counts at least as many attributes as there are: an equals sign in a text or a value counts as well.
fn refuse_many_attributes(text: &str) -> Result<()> {
    if text.split('<').any(|element| element.matches('=').count() > MOST_ATTRIBUTES) {
        bail!("has an element of more than {MOST_ATTRIBUTES} attributes");
    }
    if text.matches("xmlns").count() > MOST_ATTRIBUTES {
        bail!("has more than {MOST_ATTRIBUTES} namespace declarations");
    }
    Ok(())
}

/// Every file that a disk, its backing stores or its mirror is in.
fn disks<'a>(domain: Node<'a, '_>) -> impl Iterator<Item = PathBuf> {
    child(domain, "devices")
        .into_iter()
        .flat_map(|devices| devices.children())
        .filter(|node| node.has_tag_name("disk"))
        .flat_map(|disk| {
            disk.descendants().filter(|node| node.has_tag_name("source") || node.has_tag_name("mirror"))
        })
        .filter_map(|node| node.attribute("file"))
        .filter(|file| !file.is_empty())
        .map(PathBuf::from)
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|it| it.tag_name().name() == name)
}

fn nova_instance<'a, 'input>(metadata: Node<'a, 'input>) -> Option<Node<'a, 'input>> {
    metadata.children().find(|node| {
        node.tag_name().name() == "instance"
            && node.tag_name().namespace().is_some_and(|it| it.starts_with(NOVA))
    })
}

/// A row, and a second one where `nova:image` names another image than `nova:root`: both are kept.
fn rows(domain: Node<'_, '_>, instance: Node<'_, '_>, host: &str) -> Result<Vec<Row>> {
    let text = |name| child(domain, name).and_then(|it| it.text()).map(str::trim).filter(|it| !it.is_empty());
    let (uuid, name) = (text("uuid"), text("name"));
    if uuid.is_none() && name.is_none() {
        bail!("the domain has neither name nor uuid");
    }
    let uuid_of = |node: Option<Node<'_, '_>>| {
        node.and_then(|it| it.attribute("uuid")).filter(|it| !it.is_empty()).map(Box::from)
    };
    let (root, image) = (child(instance, "root"), child(instance, "image"));
    let root_image = uuid_of(root.filter(|it| it.attribute("type") == Some("image")));
    let image_ref = uuid_of(image);
    let flavor = child(instance, "flavor");
    let (swap_mb, ephemeral_gb) = (size(flavor, "swap")?, size(flavor, "ephemeral")?);
    let os = child(domain, "os");
    let has_kernel = ["kernel", "initrd"].iter().any(|it| os.and_then(|os| child(os, it)).is_some());
    let row = Row {
        uuid: uuid.map(Into::into),
        name: name.map(Into::into),
        host: Some(host.into()),
        image_ref: root_image.clone().or_else(|| image_ref.clone()),
        swap_mb,
        ephemeral_gb,
        lacks: Lacks {
            image: root.is_none() && image.is_none(),
            kernel: has_kernel,
            swap: swap_mb.is_none(),
            ephemeral: ephemeral_gb.is_none(),
        },
        ..Row::default()
    };
    let second = (root_image.is_some() && image_ref.is_some() && root_image != image_ref)
        .then(|| Row { image_ref, ..row.clone() });
    Ok([Some(row), second].into_iter().flatten().collect())
}

fn size(flavor: Option<Node<'_, '_>>, name: &str) -> Result<Option<u64>> {
    let Some(node) = flavor.and_then(|flavor| child(flavor, name)) else { return Ok(None) };
    let text = node.text().unwrap_or_default().trim();
    let size =
        text.parse().with_context(|| format!("nova:flavor's nova:{name}: {text:?} is no whole number"))?;
    Ok(Some(size))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inventory::Text;
    use proptest::prelude::*;

    fn domain(namespace: &str, nova: &str) -> String {
        format!(
            r#"<domain type="kvm"><name>instance-0000000a</name><uuid>u</uuid><metadata>
            <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/{namespace}">
            <nova:name>web</nova:name>{nova}</nova:instance></metadata>
            <devices><disk type="file" device="disk"><source file="/i/u/disk"/>
              <backingStore type="file"><source file="/i/_base/0d5e"/><backingStore/></backingStore>
              <mirror type="file" file="/i/u/old"><source file="/i/u/copy"/></mirror></disk>
            <disk type="block"><source dev="/dev/sdb"/></disk>
            <interface><source file="/not/a/disk"/></interface></devices></domain>"#
        )
    }

    fn parsed(text: &str) -> Source {
        let mut source = Source::default();
        assert!(parse(text.as_bytes(), "h", &mut source).unwrap());
        source
    }

    #[test]
    fn an_instance_is_read_from_novas_metadata_of_any_version() {
        let flavor = r#"<nova:flavor name="m"><nova:swap>512</nova:swap><nova:ephemeral>10</nova:ephemeral></nova:flavor>"#;
        for namespace in ["1.0", "1.1", "2.0"] {
            for image in [
                r#"<nova:root type="image" uuid="i"/>"#,
                r#"<nova:image uuid="i"><nova:properties/></nova:image>"#,
            ] {
                let expected = Row {
                    uuid: Some("u".into()),
                    name: Some("instance-0000000a".into()),
                    host: Some("h".into()),
                    image_ref: Some("i".into()),
                    swap_mb: Some(512),
                    ephemeral_gb: Some(10),
                    ..Row::default()
                };
                assert_eq!(
                    parsed(&domain(namespace, &format!("{flavor}{image}"))).instances,
                    [Instance::new(&expected)]
                );
            }
        }
    }

    #[test]
    fn the_image_is_that_of_root_and_of_image() {
        for (nova, expected, lacks) in [
            (r#"<nova:root type="volume" uuid="v"/>"#, vec![None], false),
            (r#"<nova:root type="volume" uuid=""/><nova:image uuid=""/>"#, vec![None], false),
            (r#"<nova:root type="image" uuid="i"/><nova:image uuid="i"/>"#, vec![Some("i")], false),
            (
                r#"<nova:root type="image" uuid="i"/><nova:image uuid="j"/>"#,
                vec![Some("i"), Some("j")],
                false,
            ),
            (r#"<nova:root type="volume" uuid="v"/><nova:image uuid="j"/>"#, vec![Some("j")], false),
            ("", vec![None], true),
        ] {
            let source = parsed(&domain("1.1", nova));
            let images: Vec<_> = source.instances.iter().map(|it| it.texts(Text::ImageRef).next()).collect();
            assert_eq!((images, source.instances[0].row().lacks.image), (expected, lacks), "{nova}");
        }
    }

    #[test]
    fn every_file_of_a_disk_is_a_disk() {
        let disks = parsed(&domain("1.1", "")).disks;
        assert_eq!(disks, ["/i/u/disk", "/i/_base/0d5e", "/i/u/old", "/i/u/copy"].map(PathBuf::from));
    }

    #[test]
    fn a_domain_that_is_not_novas_has_disks_and_is_no_instance() {
        for metadata in ["", "<metadata/>", r#"<metadata><x:instance xmlns:x="other:nova/"/></metadata>"#] {
            let source = parsed(&format!(
                "<domain>{metadata}<name>n</name><devices><disk><source file='/d'/></disk></devices></domain>"
            ));
            assert_eq!((source.instances.len(), source.disks.len()), (0, 1));
        }
    }

    #[test]
    fn whether_there_is_a_kernel_image_is_told_where_there_is_no_kernel() {
        let text = domain("1.1", "");
        assert!(!parsed(&text).instances[0].row().lacks.kernel);
        let text =
            text.replace("<devices>", "<os><type>hvm</type><kernel>/i/u/kernel</kernel></os><devices>");
        assert!(parsed(&text).instances[0].row().lacks.kernel);
    }

    #[test]
    fn other_files_of_libvirt_are_no_domains() {
        assert!(!parse(b"<network><name>default</name></network>", "h", &mut Source::default()).unwrap());
    }

    #[test]
    fn malformed_xml_is_an_error_that_says_what_is_wrong() {
        let nested = "<a>".repeat(1_000_000);
        let wide = format!("<domain>{}</domain>", "<a/>".repeat(900_000));
        let attributes: String = (0..100_000).map(|number| format!(" a{number}=''")).collect();
        let attributes = format!("<domain{attributes}/>");
        let namespaces: String = (0..50_000).map(|number| format!("<a xmlns:a{number}='b'>")).collect();
        let utf16: Vec<u8> = "<domain/>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let bad_swap = domain("1.0", "<nova:flavor><nova:swap>-1</nova:swap></nova:flavor>");
        let nameless =
            domain("1.0", "").replace("<uuid>u</uuid>", "").replace("<name>instance-0000000a</name>", "");
        let cases: [(&[u8], &str); 12] = [
            (b"", "root"),
            (b"<domain><name>", "root"),
            (b"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>", "DTD"),
            (b"<domain>&a;</domain>", "unknown entity"),
            (b"<domain>\xff</domain>", "is not UTF-8"),
            (&utf16, "is UTF-16"),
            (nested.as_bytes(), ""),
            (wide.as_bytes(), "nodes limit"),
            (attributes.as_bytes(), "more than 1000 attributes"),
            (namespaces.as_bytes(), "more than 1000 namespace declarations"),
            (bad_swap.as_bytes(), "nova:swap: \"-1\" is no whole number"),
            (nameless.as_bytes(), "neither name nor uuid"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(text, "h", &mut Source::default()).unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }

    proptest! {
        #[test]
        fn no_text_makes_the_parser_panic(text in "\\PC{0,200}") {
            drop(parse(text.as_bytes(), "h", &mut Source::default()));
        }

        #[test]
        fn no_damage_to_a_good_text_makes_the_parser_panic(
            at in any::<proptest::sample::Index>(),
            byte in any::<u8>(),
            cut in any::<proptest::sample::Index>(),
        ) {
            let mut text = domain("1.1", "<nova:flavor><nova:swap>1</nova:swap></nova:flavor>").into_bytes();
            let at = at.index(text.len());
            text[at] = byte;
            drop(parse(&text, "h", &mut Source::default()));
            text.truncate(cut.index(text.len()));
            drop(parse(&text, "h", &mut Source::default()));
        }
    }
}
