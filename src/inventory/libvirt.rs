//! libvirt's domain XML, as in /etc/libvirt/qemu and /run/libvirt/qemu, and as `virsh dumpxml` prints it.
//!
//! nova writes what it knows of the instance into the domain's `metadata`, under a namespace that ends in a version.
//! The ids of kernel and ramdisk images are not in it, only the files made of them: a domain without such files uses
//! no such images.

use std::path::PathBuf;

use anyhow::{Context as _, Result, bail};
use roxmltree::{Document, Node, ParsingOptions};

use super::json::without_bom;
use super::row::{DomainDisk, Lacks, Row, Source, is_none};
use crate::qcow2;

/// Any version: 1.0 and 1.1 do not differ in what is read here.
const NOVA: &str = "http://openstack.org/xmlns/libvirt/nova/";

/// A domain with a thousand disks has fewer elements and texts; a node of the tree takes some 70 bytes.
const MOST_NODES: u32 = 200_000;

/// The XML reader's time grows with the square of an element's attributes, its memory with that of the namespace
/// declarations; libvirt and nova write some ten of each.
const MOST_ATTRIBUTES: usize = 1000;

/// The disks of a domain, and where it has nova's metadata the instance, on `host`. `None` for other XML: libvirt keeps
/// networks beside its domains.
///
/// # Errors
/// Where the text is no XML, has a document type (entities can make a short text a huge one), or nova's metadata cannot
/// be understood.
pub fn parse(text: &[u8], host: &str) -> Result<Option<Source>> {
    let text = str::from_utf8(without_bom(text)?).context("is not UTF-8: create it again")?;
    if text.trim_start().starts_with(['{', '[']) {
        bail!("is JSON: give it to --inventory");
    }
    refuse_many_attributes(text)?;
    let options = ParsingOptions { nodes_limit: MOST_NODES, ..ParsingOptions::default() };
    let document = Document::parse_with_options(text, options)
        .context("is not valid XML: create it again, as virsh dumpxml does")?;
    let root = document.root_element();
    // /run/libvirt/qemu has the domain inside the status of a running one.
    let is_running_domain = root.has_tag_name("domstatus");
    let domain = if is_running_domain { child(root, "domain") } else { Some(root) };
    let Some(domain) = domain.filter(|it| it.has_tag_name("domain")) else {
        let name = root.tag_name().name();
        // A snapshot or a checkpoint has the domain as it was.
        if !matches!(name, "domainsnapshot" | "domaincheckpoint")
            && root.descendants().any(|it| it.has_tag_name("domain") && child(it, "devices").is_some())
        {
            bail!(
                "has domains within its element {name}: give each a file of its own, as virsh dumpxml prints it"
            );
        }
        return Ok(None);
    };
    let Some(id) = text_of(domain, "uuid").or(text_of(domain, "name")) else {
        bail!("the domain has neither name nor uuid: create it again")
    };
    let mut rows = Vec::new();
    for instance in child(domain, "metadata").into_iter().flat_map(nova_instances) {
        rows.extend(instance_rows(domain, instance, host)?);
    }
    let domain_disks = disks(domain, id, !rows.is_empty());
    Ok(Some(Source { rows, domain_disks, is_running_domain, ..Source::default() }))
}

/// Counts at least as many attributes as there are: an equals sign in a text or a value counts as well.
fn refuse_many_attributes(text: &str) -> Result<()> {
    if text.split('<').any(|element| element.matches('=').count() > MOST_ATTRIBUTES) {
        bail!("has an element of more than {MOST_ATTRIBUTES} attributes: no domain XML has so many");
    }
    if text.matches("xmlns").count() > MOST_ATTRIBUTES {
        bail!("has more than {MOST_ATTRIBUTES} namespace declarations: no domain XML has so many");
    }
    Ok(())
}

/// Every file or block device that a disk or a filesystem, its backing stores or its mirror is in, and those that a block
/// job of a running domain has.
fn disks(domain: Node<'_, '_>, id: &str, is_novas: bool) -> Vec<DomainDisk> {
    let mut disks = Vec::new();
    let devices = child(domain, "devices").into_iter().flat_map(|it| it.children());
    let devices = devices.filter(|it| it.has_tag_name("disk") || it.has_tag_name("filesystem"));
    let jobs = domain.parent_element().and_then(|status| child(status, "blockjobs"));
    for disk in devices.chain(jobs) {
        // nova gives one to volumes alone; what others give does not matter.
        let is_volume = is_novas && child(disk, "serial").is_some();
        disks.extend(disk.descendants().filter_map(|node| {
            let path = path(node).filter(|it| !it.is_empty()).map(|it| in_slice(node, it));
            let path = path.or_else(|| in_pool(node))?;
            let may_be_raw = !format(node).is_some_and(qcow2::has_header);
            Some(DomainDisk { path, is_volume, may_be_raw, domain: id.into() })
        }));
    }
    disks
}

/// The path that an element of a disk names. A raw block device is a volume, and has no backing file.
fn path<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    match node.tag_name().name() {
        "source" => {
            node.attribute("file").or_else(|| node.attribute("dev").filter(|_| format(node) != Some("raw")))
        }
        "mirror" => node.attribute("file"),
        _ => None,
    }
}

/// The image format that is given to what an element of a disk names. A filesystem's driver has a type of another kind.
fn format<'a>(node: Node<'a, '_>) -> Option<&'a str> {
    let owner = if node.has_tag_name("mirror") { node } else { node.parent_element()? };
    let given = child(owner, "driver").or_else(|| child(owner, "format"));
    given.and_then(|it| it.attribute("format").or(it.attribute("type"))).or(owner.attribute("format"))
}

/// The file, or what stands for a disk that cannot be read where the image does not begin with the file.
fn in_slice(source: Node<'_, '_>, file: &str) -> PathBuf {
    let is_inner = |it: Node<'_, '_>| it.has_tag_name("slice") && it.attribute("offset") != Some("0");
    if source.descendants().any(is_inner) { format!("slice of {file}").into() } else { file.into() }
}

/// A volume of one of libvirt's storage pools. libvirt alone knows the path, so it stands for a disk that cannot be read.
fn in_pool(node: Node<'_, '_>) -> Option<PathBuf> {
    let (pool, volume) = (node.attribute("pool")?, node.attribute("volume")?);
    node.has_tag_name("source").then(|| format!("volume {volume} of storage pool {pool}").into())
}

fn child<'a, 'input>(node: Node<'a, 'input>, name: &str) -> Option<Node<'a, 'input>> {
    node.children().find(|it| it.tag_name().name() == name)
}

fn text_of<'a>(node: Node<'a, '_>, name: &str) -> Option<&'a str> {
    child(node, name)?.text().map(str::trim).filter(|it| !is_none(it))
}

/// As a rule one.
fn nova_instances<'a, 'input>(metadata: Node<'a, 'input>) -> impl Iterator<Item = Node<'a, 'input>> {
    metadata.children().filter(|node| {
        node.tag_name().name() == "instance"
            && node.tag_name().namespace().is_some_and(|it| it.starts_with(NOVA))
    })
}

/// What nova's metadata tells, once for each image that it names: `nova:image` may name another image than `nova:root`,
/// and both are kept.
fn instance_rows(domain: Node<'_, '_>, instance: Node<'_, '_>, host: &str) -> Result<Vec<Row>> {
    let [root, image, flavor] = ["root", "image", "flavor"].map(|it| child(instance, it));
    let (swap_mb, ephemeral_gb) = (size(flavor, "swap")?, size(flavor, "ephemeral")?);
    let has_kernel = |os| child(os, "kernel").or(child(os, "initrd")).is_some();
    let row = Row {
        uuid: text_of(domain, "uuid").map(Into::into),
        name: text_of(domain, "name").map(Into::into),
        host: Some(host.into()),
        swap_mb,
        ephemeral_gb,
        lacks: Lacks {
            // nova before 2025.1 writes a flavor and no root for an instance that was booted from a volume.
            image: root.is_none() && image.is_none() && flavor.is_none(),
            kernel: child(domain, "os").is_some_and(has_kernel),
            swap: swap_mb.is_none(),
            ephemeral: ephemeral_gb.is_none(),
        },
        is_from_libvirt: true,
        ..Row::default()
    };
    let row = row.normalized();
    let root_type = root.and_then(|it| it.attribute("type"));
    let root = root.filter(|_| root_type == Some("image"));
    // From 2025.2 on nova:image may name the image that a volume was made of: nova fetches it for no disk.
    let image = image.filter(|_| root_type != Some("volume"));
    let images = [root, image].into_iter().flatten().filter_map(|it| it.attribute("uuid"));
    let mut images: Vec<_> = images.map(str::trim).filter(|id| !is_none(id)).collect();
    images.dedup();
    if images.is_empty() {
        return Ok(vec![row]);
    }
    Ok(images.into_iter().map(|id| Row { image_ref: Some(id.into()), ..row.clone() }).collect())
}

fn size(flavor: Option<Node<'_, '_>>, name: &str) -> Result<Option<u64>> {
    let Some(node) = flavor.and_then(|flavor| child(flavor, name)) else { return Ok(None) };
    let text = node.text().unwrap_or_default().trim();
    let error = || format!("nova:flavor's nova:{name}: {text:?} is not a whole number: correct it");
    text.parse().map(Some).with_context(error)
}

#[cfg(test)]
mod tests {
    use std::path::Path;

    use super::*;

    fn domain(namespace: &str, nova: &str) -> String {
        format!(
            r#"<domain type="kvm"><name>instance-0000000a</name><uuid>u</uuid><metadata>
            <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/{namespace}">
            <nova:name>web</nova:name>{nova}</nova:instance></metadata>
            <devices><disk type="file" device="disk"><source file="/i/u/disk"/></disk></devices></domain>"#
        )
    }

    fn parsed(text: &str) -> Source {
        parse(text.as_bytes(), "h").unwrap().unwrap()
    }

    #[test]
    fn an_instance_is_read_from_novas_metadata_of_any_version() {
        let flavor = r#"<nova:flavor name="m"><nova:swap>512</nova:swap><nova:ephemeral>10</nova:ephemeral></nova:flavor>"#;
        let expected = Row {
            uuid: Some("u".into()),
            name: Some("instance-0000000a".into()),
            host: Some("h".into()),
            image_ref: Some("i".into()),
            swap_mb: Some(512),
            ephemeral_gb: Some(10),
            is_from_libvirt: true,
            ..Row::default()
        };
        for namespace in ["1.0", "1.1", "2.0"] {
            for image in [
                r#"<nova:root type="image" uuid="i"/>"#,
                r#"<nova:image uuid="i"><nova:properties/></nova:image>"#,
            ] {
                let text = domain(namespace, &format!("{flavor}{image}"));
                assert_eq!(parsed(&text).rows, std::slice::from_ref(&expected));
                let running = format!("<domstatus state='running'><monitor path='/m'/>{text}</domstatus>");
                let expected = Source { is_running_domain: true, ..parsed(&text) };
                assert_eq!(parsed(&running), expected);
            }
        }
    }

    #[test]
    fn the_image_is_that_of_root_and_of_image() {
        let flavor = "<nova:flavor name='m'><nova:swap>0</nova:swap></nova:flavor>";
        for (nova, expected, is_lacking) in [
            (r#"<nova:root type="volume" uuid="v"/>"#.to_owned(), vec![None], false),
            (r#"<nova:root type="volume" uuid=""/><nova:image uuid=""/>"#.into(), vec![None], false),
            (r#"<nova:root type="image" uuid="i"/><nova:image uuid="i"/>"#.into(), vec![Some("i")], false),
            (
                r#"<nova:root type="image" uuid="i"/><nova:image uuid="j"/>"#.into(),
                vec![Some("i"), Some("j")],
                false,
            ),
            (r#"<nova:root type="volume" uuid="v"/><nova:image uuid="j"/>"#.into(), vec![None], false),
            (format!(r#"{flavor}<nova:image uuid=" j "/>"#), vec![Some("j")], false),
            (format!(r#"{flavor}<nova:image uuid="None"/>"#), vec![None], false),
            (flavor.into(), vec![None], false),
            (String::new(), vec![None], true),
        ] {
            let rows = parsed(&domain("1.1", &nova)).rows;
            let images: Vec<_> = rows.iter().map(|it| it.image_ref.as_deref()).collect();
            assert_eq!((images, rows[0].lacks.image), (expected, is_lacking), "{nova}");
        }
    }

    #[test]
    fn every_file_of_a_disk_is_a_disk_and_a_block_device_unless_it_is_raw() {
        let text = r#"<domain><name>n</name><metadata>
            <nova:instance xmlns:nova="http://openstack.org/xmlns/libvirt/nova/1.1"/></metadata><devices>
            <disk type="file" device="disk"><driver name="qemu" type="qcow2"/><source file="/i/u/disk"/>
              <backingStore type="file"><format type="raw"/><source file="/i/_base/0d5e"/><backingStore/></backingStore>
              <mirror type="file" file="/i/u/old"><format type="qcow2"/><source file="/i/u/copy"/></mirror></disk>
            <disk type="block"><driver type="raw"/><source dev="/dev/raw"/><serial>s</serial></disk>
            <disk type="block"><driver type="qcow2"/><source dev="/dev/qcow2"/>
              <backingStore type="block"><format type="raw"/><source dev="/dev/raw"/>
              <backingStore type="block"><format type="qcow2"/><source dev="/dev/base"/></backingStore></backingStore></disk>
            <disk type="file"><driver type="raw"/><source file="/nfs/volume"/><serial>s</serial></disk>
            <disk type="network"><source protocol="rbd" name="vms/x"/></disk>
            <disk type="block"><source dev="/dev/any"/></disk><disk type="file"><source file=""/></disk>
            <filesystem type="file"><source file="/fs"/></filesystem>
            <filesystem type="block"><driver type="nbd" format="qcow2"/><source dev="/dev/fs"/></filesystem>
            <filesystem type="mount"><source dir="/not/a/disk"/></filesystem>
            <interface><source file="/not/a/disk" dev="eth0"/></interface></devices></domain>"#;
        let text = format!(
            r#"<domstatus>{text}<blockjobs active="yes"><blockjob type="copy"><chains><disk type="file" format="qcow2">
            <source file="/job"/><backingStore type="file"><source file="/job.base"/></backingStore></disk></chains>
            </blockjob></blockjobs></domstatus>"#
        );
        let disks = parsed(&text).domain_disks;
        let may_be_raw: Vec<_> = disks.iter().filter(|it| it.may_be_raw).map(|it| &*it.path).collect();
        assert_eq!(
            may_be_raw,
            ["/i/_base/0d5e", "/nfs/volume", "/dev/any", "/fs", "/job.base"].map(Path::new)
        );
        let disks: Vec<_> = disks.into_iter().map(|it| (it.path, it.is_volume)).collect();
        let expected = [
            ("/i/u/disk", false),
            ("/i/_base/0d5e", false),
            ("/i/u/old", false),
            ("/i/u/copy", false),
            ("/dev/qcow2", false),
            ("/dev/base", false),
            ("/nfs/volume", true),
            ("/dev/any", false),
            ("/fs", false),
            ("/dev/fs", false),
            ("/job", false),
            ("/job.base", false),
        ];
        assert_eq!(disks, expected.map(|(path, is_volume)| (PathBuf::from(path), is_volume)));
        // Whoever made another domain may give serials to any disk.
        let not_novas = text.replace("xmlns:nova=\"http://openstack.org", "xmlns:nova=\"other");
        assert!(parsed(&not_novas).domain_disks.iter().all(|it| !it.is_volume));
    }

    #[test]
    fn a_disk_that_does_not_begin_with_its_file_cannot_be_read() {
        let disk = |source: &str, offset: usize| {
            let slice = format!("<slices><slice type='storage' offset='{offset}' size='9'/></slices>");
            format!("<disk><driver type='raw'/><source {source}>{slice}</source></disk>")
        };
        let text = format!(
            "<domstatus><domain><name>n</name><metadata><slice offset='1'/></metadata><devices>{}{}{}</devices></domain>\
             <blockjobs><blockjob>{}</blockjob></blockjobs></domstatus>",
            disk("file='/whole'", 0),
            disk("file='/d'", 512),
            disk("protocol='rbd' name='vms/x'", 512),
            disk("file='/job'", 512)
        );
        let disks: Vec<_> = parsed(&text).domain_disks.into_iter().map(|it| it.path).collect();
        assert_eq!(disks, ["/whole", "slice of /d", "slice of /job"].map(Path::new));
    }

    #[test]
    fn a_domain_that_is_not_novas_has_disks_and_is_no_instance() {
        for metadata in ["", "<metadata/>", r#"<metadata><x:instance xmlns:x="other:nova/"/></metadata>"#] {
            let source = parsed(&format!(
                "<domain>{metadata}<name>n</name><devices><disk><source file='/d'/></disk></devices></domain>"
            ));
            assert_eq!((source.rows.len(), source.domain_disks.len()), (0, 1));
            assert_eq!(&*source.domain_disks[0].domain, "n");
        }
    }

    #[test]
    fn what_every_instance_of_a_domain_uses_is_read() {
        let other = "<nova:instance xmlns:nova='http://openstack.org/xmlns/libvirt/nova/1.0'>\
                     <nova:root type='image' uuid='j'/></nova:instance></metadata>";
        let text = domain("1.1", "<nova:root type='image' uuid='i'/>").replace("</metadata>", other);
        let rows = parsed(&text).rows;
        assert_eq!(rows.iter().map(|it| it.image_ref.as_deref()).collect::<Vec<_>>(), [Some("i"), Some("j")]);
    }

    #[test]
    fn a_domain_without_a_kernel_uses_no_kernel_image() {
        let text = domain("1.1", "");
        assert!(!parsed(&text).rows[0].lacks.kernel);
        let text =
            text.replace("<devices>", "<os><type>hvm</type><kernel>/i/u/kernel</kernel></os><devices>");
        assert!(parsed(&text).rows[0].lacks.kernel);
    }

    #[test]
    fn other_files_of_libvirt_are_no_domains() {
        let network = "<network><name>default</name><domain name='example'/></network>";
        let snapshot = format!("<domainsnapshot>{}</domainsnapshot>", domain("1.1", ""));
        for text in [network, "<domstatus/>", &snapshot] {
            assert_eq!(parse(text.as_bytes(), "h").unwrap(), None);
        }
    }

    #[test]
    fn malformed_xml_is_an_error_that_says_what_to_do() {
        let nested = "<a>".repeat(1_000_000);
        let wide = format!("<domain>{}</domain>", "<a/>".repeat(900_000));
        let attributes: String = (0..100_000).map(|number| format!(" a{number}=''")).collect();
        let attributes = format!("<domain{attributes}/>");
        let namespaces: String = (0..50_000).map(|number| format!("<a xmlns:a{number}='b'>")).collect();
        let utf16: Vec<u8> = "<domain/>".encode_utf16().flat_map(u16::to_be_bytes).collect();
        let bad_swap = domain("1.0", "<nova:flavor><nova:swap>-1</nova:swap></nova:flavor>");
        let several = format!("<domains>{0}{0}</domains>", domain("1.0", ""));
        let cases: [(&[u8], &str); 14] = [
            (several.as_bytes(), "has domains within its element domains: give each a file of its own"),
            (b"", "is not valid XML: create it again"),
            (b"<domain><name>", "is not valid XML"),
            (b"{\"servers\": []}", "is JSON: give it to --inventory"),
            (b"<!DOCTYPE domain [<!ENTITY a 'b'>]><domain>&a;</domain>", "DTD"),
            (b"<domain>&a;</domain>", "unknown entity"),
            (b"<domain>\xff</domain>", "is not UTF-8"),
            (b"<domain/>", "neither name nor uuid"),
            (&utf16, "is UTF-16"),
            (nested.as_bytes(), ""),
            (wide.as_bytes(), "nodes limit"),
            (attributes.as_bytes(), "more than 1000 attributes"),
            (namespaces.as_bytes(), "more than 1000 namespace declarations"),
            (bad_swap.as_bytes(), "nova:swap: \"-1\" is not a whole number"),
        ];
        for (text, expected) in cases {
            let error = format!("{:#}", parse(text, "h").unwrap_err());
            assert!(error.contains(expected), "{expected}: {error}");
        }
    }
}
