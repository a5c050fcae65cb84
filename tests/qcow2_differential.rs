//! The header reader against the real `qemu-img info`.
//!
//! Whatever qemu-img names as backing file is named the same here, or the header is an error, which makes the evidence
//! incomplete. The count is printed: `cargo test qcow2_differential -- --nocapture`.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use crate::common::hostile::{Numbers, by_two};
use crate::common::tool;
use nova_imagecache::{backing_name, qcow2};
use serde_json::Value;

/// How many images are spoilt after qemu-img made them.
const SPOILT: usize = 1200;

/// No larger image is copied and spoilt.
const LARGEST: u64 = 1 << 20;

fn qemu_img(directory: &Path, args: &[impl AsRef<OsStr>]) -> Output {
    Command::new(tool("qemu-img", "qemu-utils")).current_dir(directory).args(args).output().unwrap()
}

/// What `qemu-img info` says of an image, or its refusal.
fn info(image: &Path) -> Result<Value, String> {
    let directory = image.parent().unwrap();
    let args = [OsStr::new("info"), "--output=json".as_ref(), "-U".as_ref(), image.as_ref()];
    let output = qemu_img(directory, &args);
    if output.status.success() {
        Ok(serde_json::from_slice(&output.stdout).unwrap())
    } else {
        Err(String::from_utf8_lossy(&output.stderr).into_owned())
    }
}

/// Reads an image's header the way `evidence` does.
fn ours(image: &Path) -> Result<qcow2::Header, String> {
    let file = fs_err::File::open(image).unwrap();
    let size = file.metadata().unwrap().len();
    let mut wanted = qcow2::FIRST_READ;
    loop {
        let mut head = vec![0; wanted.min(usize::try_from(size).unwrap())];
        file.file().read_exact_at(&mut head, 0).unwrap();
        match qcow2::read(&head, size) {
            Ok(header) => return Ok(header),
            Err(qcow2::Error::Unknown(why)) => return Err(why),
            Err(qcow2::Error::NeedsMore(more)) => {
                assert!(more > head.len() && more <= qcow2::MOST, "{wanted} {more}");
                wanted = more;
            }
        }
    }
}

/// A name as it comes out of qemu-img's JSON, which has one U+FFFD or several where bytes are no UTF-8 or are one of
/// Unicode's noncharacters: here they are one.
fn as_in_json(name: &str) -> String {
    let mut text = String::new();
    for character in name.chars() {
        let is_noncharacter =
            matches!(character, '\u{fdd0}'..='\u{fdef}') || u32::from(character) & 0xfffe == 0xfffe;
        let character = if is_noncharacter || character == '\0' { '\u{fffd}' } else { character };
        if character != '\u{fffd}' || !text.ends_with('\u{fffd}') {
            text.push(character);
        }
    }
    text
}

/// What came of a comparison; the words are for the count.
fn compare(image: &Path, how: &str) -> &'static str {
    let ours = ours(image);
    let theirs = match info(image) {
        Ok(theirs) => theirs,
        Err(_) => return if ours.is_err() { "refused by both" } else { "refused by qemu-img" },
    };
    if let Ok(header) = &ours {
        compare_data_files(&theirs, header, how);
    }
    let named = theirs["backing-filename"].as_str();
    match (named, &ours) {
        (_, Err(_)) => "opened by qemu-img, an error here",
        (Some(named), Ok(qcow2::Header { backing_file: Some(name), .. }))
            if as_in_json(named) == as_in_json(&String::from_utf8_lossy(name)) =>
        {
            "the same backing file"
        }
        (None, Ok(qcow2::Header { backing_file: None, .. })) => "no backing file",
        _ => panic!("{how}: qemu-img says {named:?}, we say {ours:?}\n{theirs:#}"),
    }
}

/// The external data file likewise, which holds the guest's data and could be a cache file as well.
fn compare_data_files(theirs: &Value, ours: &qcow2::Header, how: &str) {
    let theirs = theirs["format-specific"]["data"]["data-file"].as_str().map(as_in_json);
    let ours = ours.data_file.as_deref().map(|it| as_in_json(&String::from_utf8_lossy(it)));
    assert_eq!(theirs, ours, "{how}: the data file");
}

/// An image that qemu-img is to make: options, and what it names.
struct Recipe {
    options: String,
    /// A name and the format that is noted beside it.
    backing: Option<(Vec<u8>, &'static str)>,
    encrypted: bool,
}

fn recipes() -> Vec<Recipe> {
    let longest = vec![b'n'; 1023];
    let json = br#"json:{"driver":"qcow2","file":{"driver":"file","filename":"/b/x"}}"#.to_vec();
    let mut json_longest = br#"json:{"driver":"file","filename":""#.to_vec();
    json_longest.resize(1021, b'j');
    json_longest.extend(br#""}"#);
    let names: [Vec<u8>; 18] = [
        b"/var/lib/nova/instances/_base/0d5e6b61602d758984b3bf038267614d6016eb2a".to_vec(),
        b"../_base/0d5e6b61602d758984b3bf038267614d6016eb2a_20".to_vec(),
        b"x".to_vec(),
        b"file:/b/x".to_vec(),
        b"file:x".to_vec(),
        json.clone(),
        b"json:{'driver':'raw','file.filename':'/b/x'}".to_vec(),
        b"nbd://desk/export".to_vec(),
        b"rbd:pool/image".to_vec(),
        b"/b/a:b,c=d".to_vec(),
        b"./a:b".to_vec(),
        b"/b/\xff\xfe\x80x".to_vec(),
        b"\xed\xa0\x80\xf0\x9f\xa6\x80\xef\xbf\xbf".to_vec(),
        b"a\nb\x1b[2J\"\\\x7f".to_vec(),
        " \u{202e}\u{e9} ".as_bytes().to_vec(),
        longest[..1022].to_vec(),
        longest.clone(),
        json_longest,
    ];
    let mut recipes = Vec::new();
    let mut add = |options: String, backing: Option<(Vec<u8>, &'static str)>| {
        recipes.push(Recipe { options, backing, encrypted: false });
    };
    let plain = Some((b"/b/base".to_vec(), "raw"));
    let sizes: Vec<usize> = (9..=21).map(|bits| 1 << bits).collect();
    for size in &sizes {
        for compat in ["0.10", "1.1"] {
            let options = format!("compat={compat},cluster_size={size}");
            add(options.clone(), None);
            add(options.clone(), plain.clone());
            add(options.clone(), Some((json.clone(), "qcow2")));
            // A name, its extensions and the header must fit into the first cluster.
            if *size > 1536 {
                add(options, Some((longest.clone(), "raw")));
            }
        }
        add(format!("compression_type=zstd,cluster_size={size}"), plain.clone());
        add(format!("data_file=data-{size}.raw,cluster_size={size}"), None);
        add(format!("data_file=raw-{size}.raw,data_file_raw=on,cluster_size={size}"), None);
        add(format!("data_file=b-{size}.raw,cluster_size={size}"), plain.clone());
        if *size >= 1 << 14 {
            add(format!("extended_l2=on,cluster_size={size}"), None);
            add(format!("extended_l2=on,compression_type=zstd,cluster_size={size}"), plain.clone());
        }
    }
    for bits in [1, 2, 4, 8, 16, 32, 64] {
        add(format!("lazy_refcounts=on,refcount_bits={bits}"), plain.clone());
    }
    for format in ["raw", "qcow2", "qed", "vmdk", "vhdx", "vpc", "vdi", "luks", "file", "host_device"] {
        add("compat=1.1".into(), Some((b"/b/base".to_vec(), format)));
        add("compat=0.10".into(), Some((b"/b/base".to_vec(), format)));
    }
    for name in names {
        for options in ["compat=1.1", "compat=0.10", "cluster_size=4096", "extended_l2=on"] {
            add(options.into(), Some((name.clone(), "raw")));
        }
    }
    for (options, backing) in [
        ("encrypt.format=luks,encrypt.iter-time=10", None),
        ("encrypt.format=luks,encrypt.iter-time=10,compat=0.10", plain.clone()),
        ("encrypt.format=aes", None),
        ("encrypt.format=aes,compat=0.10", plain),
    ] {
        recipes.push(Recipe { options: options.into(), backing, encrypted: true });
    }
    recipes
}

fn create(directory: &Path, index: usize, recipe: &Recipe) -> PathBuf {
    let image = directory.join(format!("{index}.qcow2"));
    let mut args: Vec<OsString> = ["create", "-q", "-f", "qcow2", "-u"].map(Into::into).into();
    let mut options = recipe.options.clone();
    if recipe.encrypted {
        args.extend(["--object", "secret,id=key,data=secret"].map(Into::into));
        options.push_str(",encrypt.key-secret=key");
    }
    args.extend(["-o".into(), options.into()]);
    if let Some((name, format)) = &recipe.backing {
        args.extend(["-b".into(), OsStr::from_bytes(name).into(), "-F".into(), format.into()]);
    }
    args.extend([image.clone().into(), "1M".into()]);
    let output = qemu_img(directory, &args);
    assert!(output.status.success(), "{args:?}: {}", String::from_utf8_lossy(&output.stderr));
    image
}

/// Changes the first 512 bytes of an image; says how.
fn spoil(head: &mut [u8], numbers: &mut Numbers) -> String {
    match numbers.below(10) {
        // The bits that say that the image was not closed, or is broken; QEMU opens it all the same.
        0 => {
            let bits = *numbers.pick(&[1, 2, 3]);
            head[79] |= bits;
            format!("dirty and corrupt bits {bits:#b}")
        }
        // Compatible and autoclear bits, which stop nobody.
        1 => {
            let (place, bit) = (80 + numbers.below(16), 1 << numbers.below(8));
            head[place] |= bit;
            format!("a compatible bit: byte {place} |= {bit:#x}")
        }
        // The backing file's name: where, how long, and what.
        2 | 3 => {
            let (place, value) = (12 + numbers.below(8), numbers.next() as u8);
            head[place] = if numbers.below(2) == 0 { value & 3 } else { value };
            format!("byte {place} = {:#x}", head[place])
        }
        4 => {
            let offset = u64::from_be_bytes(head[8..16].try_into().unwrap());
            let start = if offset == 0 { 104 } else { usize::try_from(offset).unwrap_or(0).min(500) };
            let place = (start + numbers.below(12)).min(511);
            head[place] = *numbers.pick(&[0, 1, b'/', b':', 0x1b, 0x80, 0xff]);
            format!("byte {place} = {:#x}", head[place])
        }
        // The header's length, the extensions behind it, and what comes next.
        5 | 6 => {
            let (place, bit) = (96 + numbers.below(64), 1 << numbers.below(8));
            head[place] ^= bit;
            format!("byte {place} ^= {bit:#x}")
        }
        _ => {
            let flips: Vec<(usize, u8)> =
                (0..=numbers.below(3)).map(|_| (numbers.below(head.len()), 1 << numbers.below(8))).collect();
            for (place, bit) in &flips {
                head[*place] ^= bit;
            }
            format!("flipped {flips:?}")
        }
    }
}

#[test]
fn the_backing_file_is_the_one_that_qemu_img_names_or_an_error() {
    let directory = tempfile::tempdir().unwrap();
    let recipes = recipes();
    let made = by_two(&recipes, |index, recipe| {
        let image = create(directory.path(), index, recipe);
        let how = format!("{} {:?}", recipe.options, recipe.backing);
        let result = compare(&image, &how);
        // What qemu-img itself makes is understood, not merely not misunderstood.
        let expected = if recipe.backing.is_some() { "the same backing file" } else { "no backing file" };
        assert_eq!(result, expected, "{how}: {:?}", ours(&image));
        (image, how, result)
    });

    let small: Vec<_> =
        made.iter().filter(|(image, ..)| fs_err::metadata(image).unwrap().len() <= LARGEST).collect();
    let spoilt = by_two(&[(); SPOILT], |index, ()| {
        let mut numbers = Numbers(index as u64);
        let (image, how, _) = numbers.pick(&small);
        let mut content = fs_err::read(image).unwrap();
        let how = format!("{how}, {}", spoil(&mut content[..512], &mut numbers));
        let image = directory.path().join(format!("spoilt-{index}.qcow2"));
        fs_err::write(&image, &content).unwrap();
        let result = compare(&image, &how);
        fs_err::remove_file(image).unwrap();
        result
    });

    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for result in made.iter().map(|(.., result)| *result).chain(spoilt) {
        *counts.entry(result).or_default() += 1;
    }
    let total: usize = counts.values().sum();
    println!("compared {total} qcow2 images with qemu-img info: {counts:?}");
    let agreed = counts["the same backing file"] + counts["no backing file"];
    assert!(total >= 1000 && agreed >= 900 && counts["no backing file"] >= 100, "too few to mean anything");
}

#[test]
fn other_formats_are_errors_where_they_can_have_parents_and_else_have_none() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path();
    let create = |args: &str| {
        let output = qemu_img(path, &format!("create -q -f {args} 1M").split(' ').collect::<Vec<_>>());
        assert!(output.status.success(), "{args}: {}", String::from_utf8_lossy(&output.stderr));
    };
    create("vmdk parent.vmdk");
    let mut compared = 0;
    for (args, is_error) in [
        ("raw image", false),
        ("vdi image", false),
        ("vpc image", false),
        ("vpc -o subformat=fixed image", false),
        ("parallels image", false),
        ("qcow image", true),
        ("qcow -u -b /b/base -F raw image", true),
        ("qed image", true),
        ("qed -u -b /b/base -F raw image", true),
        ("vhdx image", true),
        ("vhdx -o subformat=fixed image", true),
        ("vmdk image", true),
        ("vmdk -b parent.vmdk -F vmdk image", true),
        ("vmdk -o subformat=streamOptimized image", true),
        ("vmdk -o subformat=monolithicFlat image", true),
        ("vmdk -o subformat=twoGbMaxExtentSparse image", true),
    ] {
        create(args);
        let image = path.join("image");
        let theirs = info(&image).unwrap();
        let ours = ours(&image);
        assert_eq!(ours.is_err(), is_error, "{args:?}: {ours:?}");
        if let Err(why) = ours {
            assert!(why.ends_with(" image: its backing file cannot be determined"), "{args:?}: {why}");
        }
        let has_parent = theirs.get("backing-filename").is_some();
        assert!(is_error || !has_parent, "{args:?} has a parent: {theirs:#}");
        compared += 1;
        fs_err::remove_file(&image).unwrap();
    }
    println!("compared {compared} images of other formats with qemu-img info");
}

/// One level further: the file that QEMU really opens for a name is among those that the name is said to mean.
#[test]
fn a_name_means_the_file_that_qemu_opens_or_is_a_problem() {
    let directory = tempfile::tempdir().unwrap();
    let root = fs_err::canonicalize(directory.path()).unwrap();
    let (base, instance) = (root.join("_base"), root.join("instance"));
    fs_err::create_dir(&base).unwrap();
    fs_err::create_dir(&instance).unwrap();
    let absolute = |name: &str| base.join(name).into_os_string().into_string().unwrap();
    for name in ["a", "a:b", "a%2fb", "a b", "json:x", "é", "a?b", "a,b", "a'b", "a\"b"] {
        fs_err::write(base.join(name), [0; 4096]).unwrap();
    }
    fs_err::write(instance.join("beside"), [0; 4096]).unwrap();
    std::os::unix::fs::symlink(&base, root.join("link")).unwrap();
    let a = absolute("a");
    let names: Vec<String> = vec![
        a.clone(),
        "../_base/a".into(),
        "./../_base/./a".into(),
        "..//_base//a".into(),
        "../link/a".into(),
        "../link/../_base/a".into(),
        "beside".into(),
        "./beside".into(),
        format!("file:{a}"),
        format!("file://{a}"),
        absolute("a:b"),
        "../_base/a:b".into(),
        format!("file:{}", absolute("a:b")),
        absolute("a%2fb"),
        format!("file:{}", absolute("a%2fb")),
        absolute("a b"),
        absolute("json:x"),
        absolute("é"),
        absolute("a?b"),
        format!("file:{}", absolute("a?b")),
        absolute("a,b"),
        absolute("a'b"),
        absolute("a\"b"),
        format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{a}"}}}}"#),
        format!(r#"json:{{"driver":"raw","file.driver":"file","file.filename":"{a}"}}"#),
        format!(r#"json:{{"driver":"raw","file.filename":"{a}"}}"#),
        format!(r#"json:{{"driver":"raw","file":{{"filename":"file:{a}"}}}}"#),
        format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{}"}}}}"#, absolute("a:b")),
        format!(
            r#"json:{{"driver":"raw","size":2048,"offset":512,"file":{{"driver":"file","filename":"{a}"}}}}"#
        ),
        format!(r#"json:{{"driver":"file","filename":"{a}"}}"#),
        format!(r#"json:{{"filename":"{a}"}}"#),
        format!(r#"json:{{'driver':'raw','file.filename':'{a}'}}"#),
        format!(r#"json:{{"driver":"raw","file":{{"driver":"file","filename":"{a}","locking":"off"}}}}"#),
        format!(
            r#"json:{{"driver":"raw","file":{{"driver":"blkdebug","image":{{"driver":"file","filename":"{a}"}}}}}}"#
        ),
        format!(r#"json:{{"driver":"raw","file":"json:{{\"driver\":\"file\",\"filename\":\"{a}\"}}"}}"#),
        format!(r#"json:{{"driver":"copy-on-read","file":{{"driver":"file","filename":"{a}"}}}}"#),
        format!(r#" json:{{"driver":"file","filename":"{a}"}}"#),
        format!(r#"json: {{ "driver" : "file" , "filename" : "\u002f{}" }}"#, &a[1..]),
        format!(r#"json:{{"driver":"file","filename":"/nowhere","filename":"{a}"}}"#),
        format!(r#"json:{{"driver":"raw","file.filename":"{a}","backing":null}}"#),
        format!("fat:{}", base.display()),
        "../_base/missing".into(),
    ];
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for name in names {
        let disk = instance.join("disk");
        let disk_arg = disk.to_str().unwrap();
        let made =
            qemu_img(&root, &["create", "-q", "-f", "qcow2", "-u", "-b", &name, "-F", "raw", disk_arg, "1M"]);
        assert!(made.status.success(), "{name}: {}", String::from_utf8_lossy(&made.stderr));
        let header = ours(&disk).unwrap();
        let meaning = backing_name::parse(&header.backing_file.unwrap(), header.backing_format.as_deref());
        let chain = qemu_img(&root, &["info", "--output=json", "-U", "--backing-chain", disk_arg]);
        let result = if !chain.status.success() {
            "not opened by qemu-img"
        } else if meaning.problem.is_some() {
            "opened by qemu-img, a problem here"
        } else {
            let chain: Value = serde_json::from_slice(&chain.stdout).unwrap();
            let opened = opened_file(&chain[1]).unwrap_or_else(|| panic!("{name}: {chain:#}"));
            let opened = fs_err::canonicalize(opened).unwrap();
            let resolved = meaning.files.iter().map(|it| backing_name::resolve(&disk, it.clone()));
            let ours: Vec<PathBuf> = resolved.filter_map(|it| fs_err::canonicalize(it).ok()).collect();
            assert!(ours.contains(&opened), "{name}: QEMU opens {opened:?}, we say {:?}", meaning.files);
            "the same file"
        };
        *counts.entry(result).or_default() += 1;
    }
    println!("compared names with what qemu-img opens for them: {counts:?}");
    assert!(counts["the same file"] >= 20, "too few to mean anything: {counts:?}");
}

/// The file at the bottom of a node that `qemu-img info` describes, by the name that QEMU gives the node: QEMU 7 does not
/// list a node's children.
fn opened_file(node: &Value) -> Option<String> {
    let name = node["filename"].as_str()?;
    let Some(json) = name.strip_prefix("json:") else {
        return Some(name.trim_start_matches("blkdebug::").to_owned());
    };
    let mut node: &Value = &serde_json::from_str(json).ok()?;
    while let Some(child) = node.get("file").or(node.get("image")) {
        node = child;
    }
    Some(node["filename"].as_str()?.to_owned())
}
