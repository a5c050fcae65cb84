//! The policy in tables, on facts that no filesystem has seen.

use std::collections::BTreeSet;

use super::*;
use crate::evidence::{Cache, Directory, Stat};
use crate::inventory::{Row, Source};
use crate::layout::Layout;

pub(crate) const A: &str = "86f7e437faa5a7fce15d1ddcb9eaeaea377667b8"; // SHA-1 of "a"
const B: &str = "e9d71f5ee7c92d6dc9e92ffdad17b8bd49418f98"; // SHA-1 of "b"
const HOUR: i64 = 3600;
pub(crate) const NOW: Timestamp = Timestamp::from_unix(1_000_000, 0);

/// A cache with a file of each name and age in seconds, and nothing else.
pub(crate) fn evidence(files: &[(&str, i64)]) -> Evidence {
    let file = |ino: usize, age: i64| CacheFile {
        path: PathBuf::new(),
        stat: Some(Stat {
            identity: Identity { dev: 1, ino: ino as u64 },
            size_bytes: 1,
            disk_bytes: 512,
            mtime: Timestamp::from_unix(1_000_000 - age, 0),
            links: 1,
        }),
        is_file: true,
        ..CacheFile::default()
    };
    let files = files.iter().enumerate().map(|(ino, (name, age))| (OsString::from(name), file(ino, *age)));
    Evidence {
        layout: Layout { instances_path: "/i".into(), subdirectory_name: "_base".into() },
        instances: Identity { dev: 1, ino: 98 },
        cache: Some(Cache { identity: Identity { dev: 1, ino: 99 }, files: files.collect() }),
        directories: BTreeMap::new(),
        references: BTreeMap::new(),
        compute_nodes: Ok(BTreeSet::from(["here".into(), "there".into()])),
        cache_is_shared_apart: false,
        has_settled: true,
        rounds: 1,
    }
}

pub(crate) fn disk(path: &str, names: &[&str]) -> Disk {
    Disk {
        path: path.into(),
        identity: Some(Identity { dev: 2, ino: 1 }),
        references: names.iter().map(Into::into).collect(),
        has_header: true,
        ..Disk::default()
    }
}

pub(crate) fn broken(path: &str) -> Disk {
    Disk { problem: Some("broken".into()), ..disk(path, &[]) }
}

/// What a name leads to.
fn leads(evidence: &mut Evidence, disk: Disk) {
    evidence.references.insert(disk.path.clone(), disk);
}

fn missing(path: &str, link: &[&str]) -> Disk {
    Disk { identity: None, is_missing: true, ..disk(path, link) }
}

pub(crate) fn add(evidence: &mut Evidence, directory: &str, disks: Vec<Disk>) {
    evidence.directories.insert(directory.into(), Directory { disks, ..Directory::default() });
}

pub(crate) fn inventory(rows: &[Row]) -> Inventory {
    Inventory::merge(vec![("test".into(), Source { rows: rows.to_vec(), ..Source::default() })])
}

pub(crate) fn judge<'a>(
    evidence: &'a Evidence,
    inventory: Option<&'a Inventory>,
    policy: &Policy,
    now: Timestamp,
) -> Judgement<'a> {
    super::judge(evidence, inventory, (policy, &Selection::default()), now)
}

pub(crate) fn row(uuid: &str, host: &str, image: &str) -> Row {
    let text = |it: &str| Some(it).filter(|it| !it.is_empty()).map(Into::into);
    Row { uuid: text(&uuid.to_lowercase()), host: text(host), image_ref: text(image), ..Row::default() }
}

pub(crate) fn policy() -> Policy {
    Policy {
        host: "here".into(),
        original_minimum_age: Duration::from_secs(24 * 3600),
        resized_minimum_age: Duration::from_secs(3600),
        ignore_unlisted: false,
        partials: false,
    }
}

/// Its name while it is set aside.
pub(crate) fn aside(name: &str) -> String {
    crate::cache_name::set_aside_name(OsStr::new(name)).into_string().unwrap()
}

/// `name: verdict codes` for each file.
fn verdicts(evidence: &Evidence, inventory: Option<&Inventory>, policy: &Policy) -> Vec<String> {
    judge(evidence, inventory, policy, NOW)
        .files
        .iter()
        .map(|it| {
            let codes: Vec<_> = it.reasons.iter().map(|it| format!("{:?}", it.code)).collect();
            format!("{}: {} {}", it.name.display(), it.verdict.as_str(), codes.join(" "))
        })
        .collect()
}

fn verdict_of(evidence: &Evidence, rows: &[Row], policy: &Policy) -> String {
    verdicts(evidence, Some(&inventory(rows)), policy).concat()
}

#[test]
fn each_kind_waits_for_its_minimum_age() {
    for (name, hours, partials, expected) in [
        (A.to_owned(), 23, false, "too_young Unused"),
        (A.to_owned(), 24, false, "removable Unused"),
        (A.to_owned(), -1, false, "too_young Unused"),
        (format!("{A}_5"), 0, false, "too_young Unused"),
        (format!("{A}_5"), 1, false, "removable Unused"),
        (format!("{A}_sm"), 1, false, "removable Unused"),
        ("swap_5".into(), 23, false, "too_young Unused"),
        ("swap_5".into(), 24, false, "removable Unused"),
        ("ephemeral_5_abcdefg".into(), 24, false, "removable Unused"),
        (format!("{A}.info"), 23, false, "too_young Unused"),
        (format!("{A}.info"), 24, false, "removable Unused"),
        (format!("{A}.part"), 99, false, "ignored Partial"),
        (format!("{A}.part"), 23, true, "too_young Unused Partial"),
        (format!("{A}.part"), 24, true, "removable Unused Partial"),
        (A.to_uppercase(), 99, true, "ignored NotACacheFile"),
        (aside(A), 99, true, "ignored SetAside"),
    ] {
        let evidence = evidence(&[(&name, hours * HOUR)]);
        let policy = Policy { partials, ..policy() };
        assert_eq!(verdict_of(&evidence, &[], &policy), format!("{name}: {expected}"), "{hours} hours");
        let minimum_age = judge(&evidence, None, &policy, NOW).files[0].minimum_age;
        assert_eq!(minimum_age.is_none(), expected.starts_with("ignored"), "{name}");
    }
}

#[test]
fn the_sides_of_a_minimum_age_are_exact() {
    let mut evidence = evidence(&[(A, 0)]);
    for (nanoseconds, expected) in [(0, "removable"), (1, "too_young")] {
        let file = evidence.cache.as_mut().unwrap().files.get_mut(OsStr::new(A)).unwrap();
        file.stat.as_mut().unwrap().mtime = Timestamp::from_unix(1_000_000 - 24 * HOUR, nanoseconds);
        assert!(verdict_of(&evidence, &[], &policy()).contains(expected));
    }
}

#[test]
fn an_info_file_shares_the_fate_of_its_file() {
    let name = format!("{A}_5");
    let info = format!("{name}.info");
    let named = |name: &str| vec![disk("/i/u/disk", &[&format!("/i/_base/{name}")])];
    for (what, disks, is_file, expected) in [
        ("unused", vec![], true, ["removable Unused", "removable Sidecar"]),
        ("the file is in use", named(&name), true, ["in_use BackingFile", "in_use Sidecar"]),
        ("the info file is in use itself", named(&info), true, ["removable Unused", "in_use BackingFile"]),
        ("beside a directory", vec![], false, ["ignored NotACacheFile", "too_young Unused"]),
    ] {
        let mut evidence = evidence(&[(name.as_str(), 2 * HOUR), (info.as_str(), HOUR)]);
        evidence.cache.as_mut().unwrap().files.get_mut(OsStr::new(&name)).unwrap().is_file = is_file;
        add(&mut evidence, "u", disks);
        let expected = [format!("{name}: {}", expected[0]), format!("{info}: {}", expected[1])];
        assert_eq!(verdicts(&evidence, None, &policy()), expected, "{what}");
        let judgement = judge(&evidence, None, &policy(), NOW);
        let is_sidecar = expected[1].ends_with("Sidecar");
        let minimum_age = Duration::from_secs(if is_sidecar { 3600 } else { 24 * 3600 });
        assert_eq!(judgement.file(OsStr::new(&info)).unwrap().minimum_age, Some(minimum_age), "{what}");
    }
}

#[test]
fn a_reason_says_how_long_a_file_must_wait_and_which_image_a_copy_is_of() {
    let copy = format!("{A}_5");
    let evidence = evidence(&[(B, 23 * HOUR), (&copy, HOUR)]);
    let inventory = inventory(&[row("u", "here", "a")]);
    let judgement = judge(&evidence, Some(&inventory), &policy(), NOW);
    let reason = |name: &str| &judgement.file(OsStr::new(name)).unwrap().reasons[0];
    assert_eq!(reason(B).text, "unused for 23h (minimum 1d): can be removed in 1h if it stays unused");
    assert_eq!((&reason(&copy).images, &reason(&copy).instances), (&vec!["a"], &vec!["u"]));
}

#[test]
fn instances_count_by_host_directory_and_state() {
    let state = |host: &str, state: &str| Row { vm_state: Some(state.into()), ..row("u", host, "a") };
    for (what, row, directory, nodes, expected) in [
        ("on this host", row("u", "here", "a"), "", true, true),
        ("on a host that shares the storage", row("u", "there", "a"), "", true, true),
        ("on another host", row("u", "elsewhere", "a"), "", true, false),
        ("on another host, with a directory here", row("u", "elsewhere", "a"), "u", true, true),
        ("on another host, with another's directory here", row("u", "elsewhere", "a"), "v", true, false),
        ("on no host", row("u", "", "a"), "", true, true),
        ("shelved", state("", "shelved_offloaded"), "", true, false),
        ("failed to start", state("", "error"), "", true, false),
        ("on no host, and active", state("", "active"), "", true, true),
        ("shelved, with a directory here", state("", "shelved_offloaded"), "u", true, true),
        ("in error on this host", state("here", "error"), "", true, true),
        ("on another host, compute_nodes unknown", row("u", "elsewhere", "a"), "", false, true),
    ] {
        let mut evidence = evidence(&[(A, 99 * HOUR)]);
        if !directory.is_empty() {
            add(&mut evidence, directory, Vec::new());
        }
        if !nodes {
            evidence.compute_nodes = Err("none".into());
        }
        let expected = if expected { "in_use ImageInUse" } else { "removable Unused" };
        assert_eq!(verdict_of(&evidence, &[row], &policy()), format!("{A}: {expected}"), "{what}");
    }
    let shared_apart = Evidence { cache_is_shared_apart: true, ..evidence(&[(A, 99 * HOUR)]) };
    let rows = [row("u", "elsewhere", "a")];
    assert_eq!(verdict_of(&shared_apart, &rows, &policy()), format!("{A}: in_use ImageInUse"));
}

#[test]
fn where_sources_contradict_both_images_are_kept() {
    let evidence = evidence(&[(A, 99 * HOUR), (B, 99 * HOUR)]);
    let rows = [row("u", "elsewhere", "a"), row("u", "here", "b")];
    let sources = rows.map(|row| ("test".to_owned(), Source { rows: vec![row], ..Source::default() }));
    let merged = Inventory::merge(sources.into());
    assert_eq!(
        verdicts(&evidence, Some(&merged), &policy()),
        [format!("{A}: in_use ImageInUse"), format!("{B}: in_use ImageInUse")]
    );
}

#[test]
fn a_row_of_a_name_alone_counts_though_another_cell_has_an_instance_of_that_name() {
    let named = |row: Row| Row { name: Some("instance-1".into()), ..row };
    let elsewhere = named(row("u", "elsewhere", "b"));
    let state = |state: &str| Row { vm_state: Some(state.into()), ..named(row("", "", "a")) };
    for (what, nameless, expected) in [
        ("no state", named(row("", "", "a")), "in_use ImageInUse"),
        ("active", state("active"), "in_use ImageInUse"),
        ("shelved", state("shelved_offloaded"), "removable Unused"),
        ("on another host", named(row("", "elsewhere", "a")), "removable Unused"),
    ] {
        let evidence = evidence(&[(A, 99 * HOUR)]);
        let verdict = verdict_of(&evidence, &[nameless, elsewhere.clone()], &policy());
        assert_eq!(verdict, format!("{A}: {expected}"), "{what}");
    }
}

#[test]
fn copies_of_a_used_image_go_only_when_all_its_disks_tell() {
    let (old, used) = (format!("{A}_1"), format!("/i/_base/{A}_2"));
    let on = |it: &str, name: &str| vec![disk(&format!("/i/{it}/disk"), &[name])];
    let raw = |it: &str| vec![Disk { has_header: false, ..disk(&format!("/i/{it}/disk"), &[]) }];
    let swap = vec![disk("/i/v/disk.swap", &[])];
    let of_b = format!("/i/_base/{B}_2");
    for (what, disks_of_u, disks_of_v, expected) in [
        ("both backed by another copy", on("u", &used), on("v", &used), "removable Unused"),
        ("one raw", on("u", &used), raw("v"), "removable Unused"),
        ("both raw", raw("u"), raw("v"), "in_use ResizedCopyKept"),
        ("one without a disk", on("u", &used), vec![], "in_use ResizedCopyKept"),
        ("one with only a disk.swap", on("u", &used), swap, "in_use ResizedCopyKept"),
        ("one that cannot be read", on("u", &used), vec![broken("/i/v/disk")], "in_use ResizedCopyKept"),
        ("backed by this copy", on("u", &format!("/x/{old}")), raw("v"), "in_use BackingFile"),
        ("backed by a copy of another image", on("u", &of_b), raw("v"), "in_use ResizedCopyKept"),
    ] {
        let mut evidence = evidence(&[(&old, 99 * HOUR)]);
        add(&mut evidence, "u", disks_of_u);
        add(&mut evidence, "v", disks_of_v);
        let rows = [row("u", "here", "a"), row("v", "there", "a")];
        assert_eq!(verdict_of(&evidence, &rows, &policy()), format!("{old}: {expected}"), "{what}");
        evidence.cache_is_shared_apart = true;
        let expected = match expected {
            "removable Unused" => "in_use ResizedCopyKept",
            "in_use BackingFile" => "in_use BackingFile ResizedCopyKept",
            kept => kept,
        };
        assert_eq!(verdict_of(&evidence, &rows, &policy()), format!("{old}: {expected}"), "{what}, shared");
    }
}

#[test]
fn directories_are_listed_by_name_uuid_and_resize() {
    let named = Row { name: Some("instance-1".into()), ..row("u", "here", "") };
    for (directory, row, is_listed) in [
        ("u", row("u", "here", ""), true),
        ("u", row("U", "here", ""), true),
        ("instance-1", named, true),
        ("u_resize", row("u", "here", ""), true),
        ("u_del", row("u", "here", ""), false),
    ] {
        let mut evidence = evidence(&[(A, 99 * HOUR)]);
        let disks = vec![disk(&format!("/i/{directory}/disk"), &[&format!("../_base/{A}")])];
        add(&mut evidence, directory, disks);
        let rows = [row];
        let code = if is_listed { "BackingFile" } else { "BackingFileUnlisted" };
        assert_eq!(verdict_of(&evidence, &rows, &policy()), format!("{A}: in_use {code}"), "{directory}");
        let ignoring = Policy { ignore_unlisted: true, ..policy() };
        let expected = if is_listed { "in_use BackingFile" } else { "removable Unused" };
        assert_eq!(verdict_of(&evidence, &rows, &ignoring), format!("{A}: {expected}"), "{directory}");
    }
}

#[test]
fn the_cache_of_another_host_is_never_left_out() {
    let mut evidence = evidence(&[(A, 99 * HOUR)]);
    add(&mut evidence, "_base_10.0.0.1", vec![disk("/i/_base_10.0.0.1/x", &[A])]);
    let ignoring = Policy { ignore_unlisted: true, ..policy() };
    assert_eq!(verdict_of(&evidence, &[], &ignoring), format!("{A}: in_use BackingFile"));
    assert_eq!(judge(&evidence, None, &ignoring, NOW).unlisted_directories, []);
}

#[test]
fn one_thing_that_cannot_be_read_makes_nothing_removable() {
    type Change = fn(&mut Evidence);
    let cases: [(&str, bool, Change); 16] = [
        ("nothing wrong", true, |_| {}),
        ("a disk", false, |it| add(it, "u", vec![broken("/i/u/disk")])),
        ("a directory", false, |it| {
            add(it, "u", Vec::new());
            it.directories.get_mut(OsStr::new("u")).unwrap().problem = Some("EACCES".into());
        }),
        ("lost+found", true, |it| {
            for place in ["lost+found", "snapshots/lost+found"] {
                add(it, place, Vec::new());
                it.directories.get_mut(OsStr::new(place)).unwrap().problem = Some("EACCES".into());
            }
        }),
        ("a link of a chain elsewhere", false, |it| {
            add(it, "u", vec![disk("/i/u/disk", &["/x/y"])]);
            leads(it, broken("/x/y"));
        }),
        ("a link of a chain that nothing reaches", true, |it| {
            leads(it, broken("/x/y"));
        }),
        ("a file of the cache", true, |it| {
            let cache = it.cache.as_mut().unwrap();
            cache.files.get_mut(OsStr::new(A)).unwrap().problem = Some("QED".into());
        }),
        ("a raw disk", true, |it| add(it, "u", vec![Disk { is_raw: true, ..broken("/i/u/disk") }])),
        ("a backing file elsewhere that is missing", false, |it| {
            add(it, "u", vec![disk("/i/u/disk", &["/x/y"])]);
            leads(it, missing("/x/y", &[]));
        }),
        ("a backing file elsewhere that can be read", true, |it| {
            add(it, "u", vec![disk("/i/u/disk", &["/x/y"])]);
            leads(it, disk("/x/y", &[]));
        }),
        ("a backing file in the instances path that is missing", true, |it| {
            add(it, "u", vec![disk("/i/u/disk", &["/i/v/y"])]);
            leads(it, missing("/i/v/y", &[]));
        }),
        ("a backing file that is missing in a directory without any file", false, |it| {
            add(it, "u", vec![disk("/i/u/disk", &["/i/v/y"])]);
            add(it, "v", Vec::new());
            it.directories.get_mut(OsStr::new("v")).unwrap().is_empty = true;
            leads(it, missing("/i/v/y", &[]));
        }),
        ("a file of a cache elsewhere that is not understood", false, |it| {
            add(it, "u", vec![disk("/i/u/disk", &["/x/_base/y"])]);
            leads(it, broken("/x/_base/y"));
        }),
        ("a file of a cache elsewhere that cannot be opened", true, |it| {
            add(it, "u", vec![disk("/i/u/disk", &["/x/_base/y"])]);
            leads(it, Disk { identity: None, ..broken("/x/_base/y") });
        }),
        ("a listing that never settled", false, |it| it.has_settled = false),
        ("a file in the instances path itself", false, |it| add(it, "", vec![broken("/i/x.qcow2")])),
    ];
    for (what, complete, change) in cases {
        let mut evidence = evidence(&[(A, 99 * HOUR)]);
        change(&mut evidence);
        let expected = if complete { "removable" } else { "unknown" };
        assert_eq!(verdict_of(&evidence, &[], &policy()), format!("{A}: {expected} Unused"), "{what}");
        let judgement = judge(&evidence, None, &policy(), NOW);
        assert_eq!(judgement.is_complete(), complete, "{what}");
        assert_eq!(judgement.unreadable.iter().any(|it| it.blocks), !complete, "{what}");
    }
    let incomplete = Inventory { incomplete: vec!["a cell is down".into()], ..Inventory::default() };
    let evidence = evidence(&[(A, 99 * HOUR)]);
    assert_eq!(verdicts(&evidence, Some(&incomplete), &policy()), [format!("{A}: unknown Unused")]);
}

#[test]
fn a_chain_keeps_every_file_of_the_cache_that_it_comes_by() {
    let mut evidence = evidence(&[(A, 99 * HOUR), (B, 99 * HOUR)]);
    add(&mut evidence, "u", vec![disk("/i/u/disk", &["/a/one"])]);
    leads(&mut evidence, disk("/a/one", &["/a/two"]));
    // A cycle ends where it began.
    leads(&mut evidence, disk("/a/two", &["/a/one", &format!("/y/{A}")]));
    let files = &mut evidence.cache.as_mut().unwrap().files;
    files.get_mut(OsStr::new(A)).unwrap().references = vec![format!("/i/_base/{B}").into()];
    let inventory = inventory(&[row("u", "here", "")]);
    let judgement = judge(&evidence, Some(&inventory), &policy(), NOW);
    let reason = &judgement.files[0].reasons[0];
    assert_eq!((reason.code, &reason.instances[..]), (Code::BackingFile, &["u"][..]));
    assert_eq!(reason.disks, [Path::new("/a/two"), Path::new("/i/u/disk")]);
    assert_eq!(judgement.files[1].verdict, Verdict::InUse);
}

#[test]
fn behind_a_file_of_the_cache_blocks_what_is_missing_only_if_a_disk_tells_it_to_have_a_header() {
    for (is_told_image, is_link, has_problem, complete) in [
        (false, false, false, true),
        (true, false, false, false),
        (false, true, true, true),
        (true, true, true, false),
        (true, false, true, true),
    ] {
        let mut evidence = evidence(&[(A, 99 * HOUR), (B, 99 * HOUR)]);
        let file = evidence.cache.as_mut().unwrap().files.get_mut(OsStr::new(B)).unwrap();
        file.is_told_image = is_told_image;
        file.link = file.stat.filter(|_| is_link);
        file.problem = has_problem.then(|| "wrong".into());
        file.references.extend((!has_problem).then(|| "/x/y".into()));
        add(&mut evidence, "u", vec![disk("/i/u/disk", &[&format!("/i/_base/{B}")])]);
        leads(&mut evidence, missing("/x/y", &[]));
        let case = (is_told_image, is_link, has_problem);
        assert_eq!(judge(&evidence, None, &policy(), NOW).is_complete(), complete, "{case:?}");
    }
}

#[test]
fn a_file_of_this_cache_that_is_not_understood_blocks_nothing_by_either_name() {
    for name in ["/i/_base", "/i/u/../_base"].map(|it| format!("{it}/{B}")) {
        let mut evidence = evidence(&[(A, 99 * HOUR), (B, 99 * HOUR)]);
        let identity = evidence.cache_file(OsStr::new(B)).unwrap().stat.map(|it| it.identity);
        if name.contains("..") {
            leads(&mut evidence, Disk { identity, ..broken(&name) });
        }
        add(&mut evidence, "u", vec![disk("/i/u/disk", &[&name])]);
        assert!(judge(&evidence, None, &policy(), NOW).is_complete(), "{name}");
    }
}

#[test]
fn swap_and_ephemeral_files_are_kept_by_size() {
    let names = ["ephemeral_5_abcdefg", "swap_05", "swap_5", "swap_6"];
    let evidence = evidence(&names.map(|name| (name, 99 * HOUR)));
    let uses = Row { swap_mb: Some(5), ephemeral_gb: Some(5), ..row("u", "there", "") };
    let verdicts = verdicts(&evidence, Some(&inventory(&[uses])), &policy());
    let expected = ["in_use EphemeralInUse", "in_use SwapInUse", "in_use SwapInUse", "removable Unused"];
    assert!(verdicts.iter().zip(expected).all(|(verdict, end)| verdict.ends_with(end)), "{verdicts:?}");
}

#[test]
fn what_local_instances_and_disks_need_and_is_not_there_is_missing() {
    let mut evidence = evidence(&[(B, 0), (&aside("aside"), 0)]);
    let names = ["../_base/gone", "/i/_base/gone2", "../other/elsewhere", "/i/_base/aside"];
    add(&mut evidence, "u", vec![disk("/i/u/disk", &names)]);
    let local =
        Row { swap_mb: Some(5), ephemeral_gb: Some(6), kernel_id: Some("b".into()), ..row("u", "here", "a") };
    let remote = Row { swap_mb: Some(7), ..row("v", "there", "c") };
    let inventory = inventory(&[local, remote]);
    let judgement = judge(&evidence, Some(&inventory), &policy(), NOW);
    let missing: Vec<_> =
        judgement.missing.iter().map(|it| (it.name.to_str().unwrap(), it.reasons[0].code)).collect();
    assert_eq!(
        missing,
        [
            (A, Code::ImageInUse),
            ("ephemeral_6_*", Code::EphemeralInUse),
            ("gone", Code::BackingFile),
            ("gone2", Code::BackingFile),
            ("swap_5", Code::SwapInUse),
        ]
    );
}

#[test]
fn a_file_is_in_use_by_every_name_that_leads_to_it() {
    let identity = Identity { dev: 1, ino: 0 };
    let same = |path: &str| Disk { identity: Some(identity), ..disk(path, &[]) };
    type Change = fn(&mut Evidence, Disk);
    let cases: [(&str, &str, Change); 4] = [
        ("nothing", "removable Unused", |_, _| {}),
        ("a disk that is the file", "in_use SameFile", |it, same| add(it, "u", vec![same])),
        ("a backing name that leads to it", "in_use SameFile", |it, same| {
            add(it, "u", vec![disk("/i/u/disk", &["/x/alias"])]);
            leads(it, Disk { path: "/x/alias".into(), ..same });
        }),
        ("a backing name that is a link to its name", "in_use BackingFileUnlisted", |it, _| {
            add(it, "u", vec![disk("/i/u/disk", &["/i/alias"])]);
            leads(it, missing("/i/alias", &[&format!("/i/_base/{A}")]));
        }),
    ];
    for (what, expected, change) in cases {
        let mut evidence = evidence(&[(A, 99 * HOUR)]);
        change(&mut evidence, same("/i/u/disk"));
        assert_eq!(verdict_of(&evidence, &[], &policy()), format!("{A}: {expected}"), "{what}");
    }
}

#[test]
fn what_is_in_use_by_one_name_in_the_cache_is_in_use_by_all() {
    let mut evidence = evidence(&[(A, 99 * HOUR), ("swap_5", 99 * HOUR)]);
    let files = &mut evidence.cache.as_mut().unwrap().files;
    let target = files[OsStr::new("swap_5")].stat;
    files.get_mut(OsStr::new(A)).unwrap().stat = target;
    let rows = [row("u", "here", "a")];
    assert_eq!(
        verdicts(&evidence, Some(&inventory(&rows)), &policy()),
        [format!("{A}: in_use ImageInUse"), "swap_5: in_use SameFile".into()]
    );
}

#[test]
fn a_disk_of_a_domain_that_is_missing_blocks_unless_it_is_known_to_be_gone() {
    for (what, path, is_volume, directories, complete) in [
        ("elsewhere", "/x/disk", false, &["u"][..], false),
        ("a volume elsewhere", "/x/disk", true, &["u"], true),
        ("in a directory that was listed", "/i/u/disk", false, &["u"], true),
        ("in a directory that is not there", "/i/u/disk", false, &["v"], false),
        ("read in the directory of a resize", "/i/u/disk", false, &["u_resize"], true),
        ("another name in the directory of a resize", "/i/u/disk.swap", false, &["u_resize"], false),
        ("in the cache", "/i/_base/x", false, &[], true),
    ] {
        let mut evidence = evidence(&[(A, 99 * HOUR)]);
        for directory in directories {
            add(&mut evidence, directory, vec![disk(&format!("/i/{directory}/disk"), &[])]);
        }
        leads(&mut evidence, missing(path, &[]));
        let domain_disks = vec![crate::inventory::DomainDisk {
            path: path.into(),
            is_volume,
            may_be_raw: true,
            domain: "d".into(),
        }];
        let inventory = Inventory { domain_disks, ..Inventory::default() };
        let judgement = judge(&evidence, Some(&inventory), &policy(), NOW);
        assert_eq!(judgement.is_complete(), complete, "{what}");
        assert!(judgement.unreadable.iter().any(|it| it.path == Path::new(path)), "{what}");
    }
}

#[test]
fn an_image_that_only_libvirt_names_is_missing_only_without_a_disk_on_the_cache() {
    let libvirt = Row { is_from_libvirt: true, ..row("u", "here", "a") };
    for (what, rows, backing, expected) in [
        ("a disk on a cache file", vec![libvirt.clone()], B, 0),
        ("a disk on another file", vec![libvirt.clone()], "other", 1),
        ("the inventory names it, too", vec![libvirt, row("u", "here", "a")], B, 1),
    ] {
        let mut evidence = evidence(&[(B, 0)]);
        add(&mut evidence, "u", vec![disk("/i/u/disk", &[&format!("/x/{backing}")])]);
        let inventory = inventory(&rows);
        assert_eq!(judge(&evidence, Some(&inventory), &policy(), NOW).missing.len(), expected, "{what}");
    }
}

#[test]
fn an_image_told_in_capitals_keeps_the_file_of_either_spelling() {
    const CAPITAL: &str = "6dcd4ce23d88e2ee9568ba546c007c63d9131c1b"; // SHA-1 of "A"
    for (files, missing) in [(vec![A], 0), (vec![CAPITAL], 0), (vec![A, CAPITAL], 0), (vec![], 1)] {
        let evidence = evidence(&files.iter().map(|it| (*it, 99 * HOUR)).collect::<Vec<_>>());
        let inventory = inventory(&[row("u", "here", "A")]);
        let judgement = judge(&evidence, Some(&inventory), &policy(), NOW);
        assert!(judgement.files.iter().all(|it| it.verdict == Verdict::InUse), "{files:?}");
        assert!(judgement.files.iter().all(|it| it.reasons[0].images == ["A"]), "{files:?}");
        assert_eq!(judgement.missing.len(), missing, "{files:?}");
    }
    let evidence = evidence(&[(A, 99 * HOUR)]);
    let inventory = inventory(&[row("v", "here", "A"), row("u", "here", "a")]);
    let reason = &judge(&evidence, Some(&inventory), &policy(), NOW).files[0].reasons[0];
    assert_eq!((&reason.images[..], &reason.instances[..]), (&["a"][..], &["u", "v"][..]));
}

#[test]
fn hosts_are_the_same_up_to_the_first_dot_in_any_case() {
    for (a, b, expected) in [
        ("here", "here", true),
        ("here", "HERE.example.test", true),
        ("here.a", "here.b", true),
        ("here", "there", false),
        ("here", "here2", false),
        ("10.0.0.1", "10.0.0.1", true),
        ("10.0.0.1", "10.0.0.2", false),
    ] {
        assert_eq!(is_same_host(a, b), expected, "{a} {b}");
    }
}

#[test]
fn what_is_asked_to_be_kept_and_what_qemu_has_open_is_in_use() {
    let mut evidence = evidence(&[(A, 99 * HOUR), ("swap_5", 99 * HOUR), ("swap_6", 99 * HOUR)]);
    let files = &mut evidence.cache.as_mut().unwrap().files;
    files.get_mut(OsStr::new("swap_6")).unwrap().is_open_in_qemu = true;
    let (cache_dir, catalog) = (PathBuf::new(), &crate::catalog::Catalog::default());
    let known = crate::selection::Known {
        cache_dir,
        names: BTreeSet::from([OsStr::new(A)]),
        catalog,
        is_to_keep: true,
    };
    let (keep, _) = Selection::resolve(&["a".into()], &known).unwrap();
    let judgement = super::judge(&evidence, None, (&policy(), &keep), NOW);
    let codes: Vec<_> = judgement.files.iter().map(|it| it.reasons[0].code).collect();
    assert_eq!(codes, [Code::KeptOnRequest, Code::Unused, Code::OpenInQemu]);
    assert!([0, 2].iter().all(|index| judgement.files[*index].verdict == Verdict::InUse));
}

#[test]
fn what_a_later_reading_could_not_read_makes_only_what_is_left_unknown() {
    let (copy, young) = (format!("{A}_5"), format!("{B}_5"));
    let evidence = evidence(&[(A, 99 * HOUR), (&copy, 99 * HOUR), (&young, 0)]);
    let mut judgement = judge(&evidence, None, &policy(), NOW);
    let unreadable = Unreadable { path: "/i/u/disk".into(), error: "EIO".into(), blocks: true, advice: "" };
    judgement.becomes_incomplete(vec![unreadable], |name| name != A);
    assert!(!judgement.is_complete());
    let verdicts = judgement.files.iter().map(|it| it.verdict).collect::<Vec<_>>();
    assert_eq!(verdicts, [Verdict::Removable, Verdict::Unknown, Verdict::TooYoung]);
}

#[test]
fn an_unlisted_directory_has_its_size_and_what_it_keeps() {
    let mut evidence = evidence(&[(A, 99 * HOUR)]);
    let orphan = Disk { disk_bytes: 7, ..disk("/i/u_del/disk", &[&format!("/i/_base/{A}")]) };
    add(&mut evidence, "u_del", vec![orphan]);
    add(&mut evidence, "lost+found", vec![]);
    let empty = Inventory::default();
    let judgement = judge(&evidence, Some(&empty), &policy(), NOW);
    let expected = UnlistedDirectory {
        name: OsStr::new("u_del"),
        disk_bytes: 7,
        mtime: None,
        keeps: BTreeSet::from([OsStr::new(A)]),
    };
    assert_eq!(judgement.unlisted_directories, [expected]);
    assert_eq!(judge(&evidence, None, &policy(), NOW).unlisted_directories, []);
    // A disk that is the file itself, which another disk names.
    let identity = evidence.cache_file(OsStr::new(A)).unwrap().stat.map(|it| it.identity);
    add(&mut evidence, "v_del", vec![Disk { identity, ..disk("/i/v_del/disk", &[]) }]);
    let judgement = judge(&evidence, Some(&empty), &policy(), NOW);
    let keeps: Vec<_> = judgement.unlisted_directories.iter().map(|it| it.keeps.len()).collect();
    assert_eq!(keeps, [1, 1]);
}

#[test]
fn a_name_that_leads_to_the_file_by_identity_as_well_is_one_reason() {
    let mut evidence = evidence(&[(A, 99 * HOUR)]);
    let identity = evidence.cache_file(OsStr::new(A)).unwrap().stat.map(|it| it.identity);
    let name = format!("/i/u/../_base/{A}");
    leads(&mut evidence, Disk { identity, ..disk(&name, &[]) });
    add(&mut evidence, "u", vec![disk("/i/u/disk", &[&name])]);
    assert_eq!(verdicts(&evidence, None, &policy()), [format!("{A}: in_use BackingFile")]);
}

#[test]
fn many_names_are_cut_and_one_stands_alone() {
    assert_eq!(several("disk", &["a"]), "disk a");
    assert_eq!(several("disk", &["a", "b"]), "2 disks: a, b");
    assert_eq!(several("disk", &["a", "b", "c", "d", "e"]), "5 disks: a, b, c and 2 more");
}

#[test]
fn what_is_not_a_cache_file_is_told_by_what_it_is() {
    let problem = || Some("why".to_owned());
    let stat = evidence(&[(A, 0)]).cache_file(OsStr::new(A)).unwrap().stat;
    for (expected, file) in [
        ("cannot be examined: why: never touched", CacheFile { problem: problem(), ..CacheFile::default() }),
        (
            "a link that cannot be followed (why): never touched",
            CacheFile { problem: problem(), stat, link: stat, ..CacheFile::default() },
        ),
        ("a directory or special file: never touched", CacheFile { stat, ..CacheFile::default() }),
        (
            "a directory or special file: never touched",
            CacheFile { problem: problem(), stat, ..CacheFile::default() },
        ),
        (
            "not a cache file: never touched",
            CacheFile { problem: problem(), stat, link: stat, is_file: true, ..CacheFile::default() },
        ),
    ] {
        let mut evidence = evidence(&[]);
        evidence.cache.as_mut().unwrap().files.insert("x".into(), file);
        assert_eq!(judge(&evidence, None, &policy(), NOW).files[0].reasons[0].text, expected);
    }
}

#[test]
fn what_cannot_be_read_is_told_once_and_blocks_if_it_does_for_anybody() {
    let mut evidence = evidence(&[(A, 99 * HOUR)]);
    // Those of no instance, before and behind the one that names them, do not block by themselves.
    for directory in ["a", "v"] {
        let disks = ["disk", "disk.swap"].map(|it| broken(&format!("/i/{directory}/{it}")));
        leads(&mut evidence, disks[0].clone());
        add(&mut evidence, directory, disks.into());
    }
    let named = disk("/i/u/disk", &["/i/a/disk", "/i/v/disk", "/x/gone"]);
    add(&mut evidence, "u", vec![named, disk("/i/u/disk.swap", &["/x/gone"])]);
    leads(&mut evidence, missing("/x/gone", &[]));
    let domain_disks = vec![crate::inventory::DomainDisk {
        path: "/x/gone".into(),
        is_volume: true,
        may_be_raw: true,
        domain: "d".into(),
    }];
    let inventory = Inventory { domain_disks, ..inventory(&[row("u", "here", "b")]) };
    let policy = Policy { ignore_unlisted: true, ..policy() };
    let judgement = judge(&evidence, Some(&inventory), &policy, NOW);
    let told: Vec<_> = judgement.unreadable.iter().map(|it| (it.path.to_str().unwrap(), it.blocks)).collect();
    let expected = [
        ("/i/a/disk", true),
        ("/i/a/disk.swap", false),
        ("/i/v/disk", true),
        ("/i/v/disk.swap", false),
        ("/x/gone", true),
        ("/x/gone", false),
    ];
    assert_eq!(told, expected);
    assert_eq!(judgement.unreadable[4].error, "backing file of disk /i/u/disk, and it does not exist");
}

#[test]
fn a_swap_or_ephemeral_file_that_is_there_or_set_aside_is_not_missing() {
    let instance = Row { swap_mb: Some(5), ephemeral_gb: Some(7), ..row("u", "here", "") };
    let inventory = inventory(&[instance]);
    let swap = "swap of 5 MiB for instance u";
    for (file, expected) in [
        ("ephemeral_7_abcdefg".to_owned(), vec![swap]),
        ("swap_5".to_owned(), vec!["an ephemeral disk of 7 GiB for instance u"]),
        (aside("ephemeral_7_abcdefg"), vec![swap]),
        (A.to_owned(), vec!["an ephemeral disk of 7 GiB for instance u", swap]),
    ] {
        let evidence = evidence(&[(file.as_str(), 0)]);
        let judgement = judge(&evidence, Some(&inventory), &policy(), NOW);
        let reasons: Vec<_> = judgement.missing.iter().flat_map(|it| &it.reasons).collect();
        assert_eq!(reasons.iter().map(|it| &*it.text).collect::<Vec<_>>(), expected, "{file}");
        assert!(reasons.iter().all(|it| it.instances == ["u"]), "{file}");
    }
}

#[test]
fn a_disk_of_a_domain_that_cannot_be_read_blocks_unless_it_is_a_volume_or_raw() {
    let raw = |path| Disk { is_raw: true, ..broken(path) };
    for (what, disk, is_volume, complete) in [
        ("a disk", broken("/x/disk"), false, false),
        ("a volume", broken("/x/disk"), true, true),
        ("a raw disk", raw("/x/disk"), false, true),
    ] {
        let mut evidence = evidence(&[(A, 99 * HOUR)]);
        leads(&mut evidence, disk);
        let domain_disks = vec![crate::inventory::DomainDisk {
            path: "/x/disk".into(),
            is_volume,
            may_be_raw: true,
            domain: "d".into(),
        }];
        let inventory = Inventory { domain_disks, ..Inventory::default() };
        assert_eq!(judge(&evidence, Some(&inventory), &policy(), NOW).is_complete(), complete, "{what}");
    }
}

#[test]
fn a_disk_that_the_domain_calls_qcow2_is_not_raw_whatever_disk_info_says() {
    let raw = |names: &[&str]| Disk { is_raw: true, ..disk("/i/u/disk", names) };
    let problem = Disk { problem: Some("QED".into()), ..raw(&[]) };
    for (what, disk, may_be_raw, complete) in [
        ("not understood", problem.clone(), false, false),
        ("not understood, raw", problem, true, true),
        ("a name that was not followed", raw(&["/x/y"]), false, false),
        ("a name that was not followed, raw", raw(&["/x/y"]), true, true),
        ("a name that others have, and that is missing", raw(&["/x/z"]), false, false),
        ("a name in the cache", raw(&[&format!("/i/_base/{B}")]), false, true),
        ("its header lost", Disk { has_header: false, ..disk("/i/u/disk", &[]) }, false, false),
        ("without a header, raw", Disk { has_header: false, ..disk("/i/u/disk", &[]) }, true, true),
    ] {
        let mut evidence = evidence(&[(A, 99 * HOUR), (B, 99 * HOUR)]);
        add(&mut evidence, "u", vec![disk.clone()]);
        leads(&mut evidence, disk);
        leads(&mut evidence, missing("/x/z", &[]));
        let disk = crate::inventory::DomainDisk {
            path: "/i/u/disk".into(),
            is_volume: false,
            may_be_raw,
            domain: "d".into(),
        };
        let inventory = Inventory { domain_disks: vec![disk], ..Inventory::default() };
        assert_eq!(judge(&evidence, Some(&inventory), &policy(), NOW).is_complete(), complete, "{what}");
    }
}

#[test]
fn a_file_of_a_cache_elsewhere_is_missing_here_unless_it_can_be_read_there() {
    let there = format!("/x/_base/{B}");
    for (what, file, expected) in [
        ("read", disk(&there, &[]), 0),
        ("not understood", broken(&there), 0),
        ("not opened", Disk { identity: None, ..broken(&there) }, 1),
        ("not there", missing(&there, &[]), 1),
    ] {
        let mut evidence = evidence(&[]);
        add(&mut evidence, "u", vec![disk("/i/u/disk", &[&there])]);
        leads(&mut evidence, file);
        assert_eq!(judge(&evidence, None, &policy(), NOW).missing.len(), expected, "{what}");
    }
}

#[test]
fn a_disk_that_its_domain_names_too_is_one_disk() {
    let mut evidence = evidence(&[(A, 99 * HOUR)]);
    let names = format!("/i/_base/{A}");
    add(&mut evidence, "u", vec![disk("/i/u/disk", &[&names])]);
    leads(&mut evidence, disk("/i/u/disk", &[&names]));
    let domain_disks = vec![crate::inventory::DomainDisk {
        path: "/i/u/disk".into(),
        is_volume: false,
        may_be_raw: false,
        domain: "d".into(),
    }];
    let inventory = Inventory { domain_disks, ..inventory(&[row("u", "here", "")]) };
    let judgement = judge(&evidence, Some(&inventory), &policy(), NOW);
    assert_eq!(judgement.files[0].reasons[0].text, "backing file of disk /i/u/disk");
}

#[test]
fn reasons_say_who_uses_a_file() {
    let mut evidence = evidence(&[(A, 99 * HOUR), (B, 99 * HOUR)]);
    let at = |name: &str| evidence.cache_file(OsStr::new(name)).unwrap().stat.unwrap().identity;
    let (a, b) = (format!("/i/_base/{A}"), Disk { identity: Some(at(B)), ..disk("/i/u/b", &[]) });
    add(&mut evidence, "u", vec![b, disk("/i/u/disk", &[&a])]);
    add(&mut evidence, "v", vec![disk("/i/v/disk", &[&a])]);
    let inventory = inventory(&[row("u", "here", "a")]);
    let told = |evidence: &Evidence| -> Vec<String> {
        let judgement = judge(evidence, Some(&inventory), &policy(), NOW);
        let reasons = judgement.files.iter().flat_map(|it| &it.reasons);
        reasons.map(|it| format!("{} {:?} {:?}", it.text, it.images, it.instances)).collect()
    };
    let mut expected = vec![
        r#"a is the image of instance u ["a"] ["u"]"#,
        r#"backing file of disk /i/u/disk [] ["u"]"#,
        "backing file of disk /i/v/disk, in a directory of no instance in the inventory [] []",
        r#"used under another name by disk /i/u/b [] ["u"]"#,
    ];
    assert_eq!(told(&evidence), expected);
    add(&mut evidence, "w", vec![disk("/i/w/disk", &[&a])]);
    expected[2] =
        "backing file of 2 disks: /i/v/disk, /i/w/disk, in directories of no instance in the inventory [] []";
    assert_eq!(told(&evidence), expected);
}

#[test]
fn directories_that_can_be_of_instances_are_counted_by_their_disks() {
    let mut evidence = evidence(&[]);
    for directory in ["", "u", "v", "snapshots", "snapshots/x", "_base_10.0.0.1", "lost+found"] {
        add(&mut evidence, directory, vec![disk(&format!("/i/{directory}/disk"), &[])]);
    }
    add(&mut evidence, "without-a-disk", Vec::new());
    let listed = inventory(&[row("v", "here", "a"), row("without-a-disk", "here", "a")]);
    let judgement = judge(&evidence, Some(&listed), &policy(), NOW);
    assert_eq!((judgement.directories_with_disks, judgement.listed_with_disks), (2, 1));
}
