//! What the fuzz targets of `tests/fuzz` hold every parser to, in the ordinary run: their corpora, those spoilt in many
//! ways, and texts that are hostile by their size or depth.
//!
//! The count is printed: `cargo test parsers -- --nocapture`.

use std::collections::BTreeSet;
use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::parsers::PARSERS;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How many inputs each parser is tried with, beside its corpus.
const CASES: u32 = 1500;

/// No input takes longer, in a build without optimisation on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

fn fuzz() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/tests/fuzz"))
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs_err::read_dir(directory).unwrap().map(|it| it.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn corpus(parser: &str) -> Vec<Vec<u8>> {
    let entries = fs_err::read_dir(fuzz().join("corpus").join(parser)).unwrap();
    let mut paths: Vec<_> = entries.map(|it| it.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs_err::read(path).unwrap()).collect()
}

/// One way to spoil a text: at a place, given as a share of its length.
#[derive(Clone, Debug)]
enum Spoil {
    Flip(f64, u8),
    Set(f64, u8),
    Insert(f64, Vec<u8>),
    Remove(f64, usize),
    Repeat(f64, usize, usize),
    Cut(f64),
}

fn spoils() -> impl Strategy<Value = Vec<Spoil>> {
    let place = || 0.0..1.0_f64;
    // What parsers stumble over.
    let words = prop::sample::select(
        [
            "\"",
            "\\",
            "{",
            "}",
            "[",
            "]",
            ":",
            ",",
            "$",
            "${",
            "<",
            ">",
            "&",
            "]]>",
            "<!--",
            "<![CDATA[",
            "&#0;",
            "null",
            "-1",
            "1e999",
            "18446744073709551616",
            "\\ud800",
            "\u{feff}",
            "\r\n",
            "\n ",
            "=",
            ".",
            "/",
            "..",
            "json:",
            "file:",
            "\0",
            "\u{202e}",
        ]
        .map(|it| it.as_bytes().to_vec())
        .to_vec(),
    );
    vec(
        prop_oneof![
            (place(), any::<u8>()).prop_map(|(at, bit)| Spoil::Flip(at, 1 << (bit % 8))),
            (place(), prop_oneof![any::<u8>(), Just(0), Just(0xff)])
                .prop_map(|(at, byte)| Spoil::Set(at, byte)),
            (place(), prop_oneof![words, vec(any::<u8>(), 1..9)])
                .prop_map(|(at, bytes)| Spoil::Insert(at, bytes)),
            (place(), 1..40_usize).prop_map(|(at, count)| Spoil::Remove(at, count)),
            (place(), 1..60_usize, 1..20_usize)
                .prop_map(|(at, count, times)| Spoil::Repeat(at, count, times)),
            place().prop_map(Spoil::Cut),
        ],
        1..6,
    )
}

fn spoil(mut text: Vec<u8>, spoils: &[Spoil]) -> Vec<u8> {
    let place = |text: &[u8], at: f64| (text.len() as f64 * at) as usize;
    for spoil in spoils {
        if text.is_empty() {
            break;
        }
        match spoil {
            Spoil::Flip(at, bit) => {
                let at = place(&text, *at);
                text[at] ^= bit;
            }
            Spoil::Set(at, byte) => {
                let at = place(&text, *at);
                text[at] = *byte;
            }
            Spoil::Insert(at, bytes) => {
                let at = place(&text, *at);
                text.splice(at..at, bytes.iter().copied());
            }
            Spoil::Remove(at, count) => {
                let at = place(&text, *at);
                let end = text.len().min(at + count);
                text.drain(at..end);
            }
            Spoil::Repeat(at, count, times) => {
                let at = place(&text, *at);
                let end = text.len().min(at + count);
                let again = text[at..end].repeat(*times);
                text.splice(end..end, again);
            }
            Spoil::Cut(at) => text.truncate(place(&text, *at)),
        }
    }
    text
}

#[test]
fn every_parser_has_a_fuzz_target_and_a_corpus() {
    let parsers: BTreeSet<String> = PARSERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz().join("fuzz_targets")), parsers);
    assert_eq!(names(&fuzz().join("corpus")), parsers);
    let manifest = fs_err::read_to_string(fuzz().join("Cargo.toml")).unwrap();
    for parser in parsers {
        assert!(manifest.contains(&format!("name = \"{parser}\"")), "{parser}");
    }
}

#[test]
fn no_input_breaks_a_parser() {
    let tried = AtomicUsize::new(0);
    for (parser, property) in PARSERS {
        let corpus = corpus(parser);
        assert!(!corpus.is_empty(), "{parser}");
        corpus.iter().for_each(|text| property(text));
        tried.fetch_add(corpus.len(), Ordering::Relaxed);
        let inputs = prop_oneof![
            9 => (prop::sample::select(corpus), spoils()).prop_map(|(text, spoils)| spoil(text, &spoils)),
            1 => vec(any::<u8>(), 0..2000),
        ];
        let config = Config { cases: CASES, failure_persistence: None, ..Config::default() };
        TestRunner::new(config)
            .run(&inputs, |text| {
                property(&text);
                tried.fetch_add(1, Ordering::Relaxed);
                Ok(())
            })
            .unwrap_or_else(|error| panic!("{parser}: {error}"));
    }
    println!("{} inputs to {} parsers", tried.into_inner(), PARSERS.len());
}

#[test]
fn inputs_of_hostile_depth_and_size_take_little_time() {
    let many = 200_000;
    let text = |part: &str| part.repeat(many).into_bytes();
    let around = |open: &str, inner: &str, close: &str| {
        [open.repeat(many), inner.to_owned(), close.repeat(many)].concat().into_bytes()
    };
    let mut tried = 0;
    for (what, input) in [
        ("lists in lists", around("[", "", "]")),
        ("objects in objects", around("{\"a\":", "1", "}")),
        ("lists in a row of an own list", [b"[{\"uuid\":".to_vec(), text("["), text("]")].concat()),
        (
            "objects in a server",
            [b"{\"servers\":[{\"x\":".to_vec(), around("{\"a\":", "1", "}"), b"}]}".to_vec()].concat(),
        ),
        (
            "names in names",
            [b"json:{\"file\":".to_vec(), around("{\"file\":", "1", "}"), b"}".to_vec()].concat(),
        ),
        ("elements in elements", around("<a>", "", "</a>")),
        (
            "elements in a domain",
            [b"<domain><devices><disk>".to_vec(), around("<source>", "", "</source>")].concat(),
        ),
        ("attributes", [b"<domain ".to_vec(), text("a='b' "), b"/>".to_vec()].concat()),
        (
            "different attributes",
            format!("<domain {}/>", (0..many).map(|it| format!("a{it}='b' ")).collect::<String>())
                .into_bytes(),
        ),
        (
            "namespaces",
            format!("<domain {}/>", (0..many).map(|it| format!("xmlns:a{it}='b' ")).collect::<String>())
                .into_bytes(),
        ),
        (
            "entities that stand for ten each",
            format!(
                "<!DOCTYPE a [<!ENTITY e0 'e'>{}]><domain>&e9;</domain>",
                (1..10)
                    .map(|it| format!("<!ENTITY e{it} '{}'>", format!("&e{};", it - 1).repeat(10)))
                    .collect::<String>()
            )
            .into_bytes(),
        ),
        (
            "options that stand for ten each",
            format!(
                "[DEFAULT]\nv0 = {}\n{}instances_path = /$v9\n",
                "v".repeat(10),
                (1..10)
                    .map(|it| format!("v{it} = {}\n", format!("$v{}", it - 1).repeat(10)))
                    .collect::<String>()
            )
            .into_bytes(),
        ),
        (
            "options in a circle",
            b"[DEFAULT]\ninstances_path = $state_path\nstate_path = ${instances_path}x$state_path\n".to_vec(),
        ),
        ("sections", text("[a]\n")),
        ("lines that go on", [b"[DEFAULT]\ninstances_path = a\n".to_vec(), text(" b\n")].concat()),
        ("dollars", [b"[DEFAULT]\ninstances_path = ".to_vec(), text("$"), b"\n".to_vec()].concat()),
        ("braces", [b"[DEFAULT]\ninstances_path = ".to_vec(), text("${"), b"\n".to_vec()].concat()),
        ("rows", [b"[".to_vec(), text("{\"uuid\":\"a\"},"), b"{\"uuid\":\"b\"}]".to_vec()].concat()),
        ("blanks", text("    \n")),
        ("a number of many digits", [b"[{\"swap_mb\":".to_vec(), text("9"), b"}]".to_vec()].concat()),
        ("a text of many escapes", [b"[{\"uuid\":\"".to_vec(), text("\\u0000"), b"\"}]".to_vec()].concat()),
        ("a text without an end", [b"[{\"uuid\":\"".to_vec(), text("aaaaaaaaaa")].concat()),
        ("extensions of a header", {
            let mut header =
                corpus("qcow2_header").into_iter().find(|it| it.starts_with(b"QFI\xfb\0\0\0\x03")).unwrap();
            header[..24].copy_from_slice(b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x15");
            header[72..80].copy_from_slice(&4_u64.to_be_bytes());
            header.truncate(104);
            header.extend(b"\0\0\0\x01\0\0\0\0".repeat(300_000));
            header
        }),
        ("zeros", vec![0; 1 << 21]),
    ] {
        for (parser, property) in PARSERS {
            let start = Instant::now();
            property(&input);
            assert!(start.elapsed() < LIMIT, "{parser}: {what}: {:?}", start.elapsed());
            tried += 1;
        }
    }
    println!("{tried} inputs of hostile depth or size");
}
