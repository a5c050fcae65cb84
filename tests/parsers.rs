//! What the fuzz targets of `tests/fuzz` hold every parser to, in the ordinary run: their corpora, those spoilt in many
//! ways, and texts that are hostile by their size or depth.
//!
//! The count is printed: `cargo test parsers -- --nocapture`.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use crate::common::parsers::PARSERS;
use crate::common::repository;
use proptest::collection::vec;
use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How many inputs each parser is tried with, beside its corpus.
const CASES: u32 = 1500;

/// No input takes longer, in a build without optimisation on a busy machine.
const LIMIT: Duration = Duration::from_secs(20);

fn fuzz(below: &str) -> PathBuf {
    repository("tests/fuzz").join(below)
}

fn names(directory: &Path) -> BTreeSet<String> {
    let entries = fs_err::read_dir(directory).unwrap().map(|it| it.unwrap().path());
    entries.map(|path| path.file_stem().unwrap().to_str().unwrap().to_owned()).collect()
}

fn corpus(parser: &str) -> Vec<Vec<u8>> {
    let entries = fs_err::read_dir(fuzz("corpus").join(parser)).unwrap();
    let mut paths: Vec<_> = entries.map(|it| it.unwrap().path()).collect();
    paths.sort();
    paths.iter().map(|path| fs_err::read(path).unwrap()).collect()
}

/// One way to spoil a text: at a place, given as a share of its length.
#[derive(Clone, Debug)]
enum Spoil {
    Flip(f64, u8),
    /// Puts something else in place of so many bytes.
    Replace(f64, usize, Vec<u8>),
    Repeat(f64, usize, usize),
}

fn spoils() -> impl Strategy<Value = Vec<Spoil>> {
    let place = || 0.0..1.0_f64;
    // What parsers stumble over.
    let short = [
        "\"", "\\", "{", "}", "[", "]", ":", ",", "$", "${", "<", ">", "&", "]]>", "<!--", "&#0;", "null",
        "-1", "1e999", "\r\n", "\n ", "=", ".", "/", "..", "json:", "file:", "\0",
    ];
    let long = ["<![CDATA[", "18446744073709551616", "\\ud800", "\u{feff}", "\u{202e}"];
    let words: Vec<Vec<u8>> = short.iter().chain(&long).map(|it| it.as_bytes().to_vec()).collect();
    let words = prop::sample::select(words);
    let byte = prop_oneof![any::<u8>(), Just(0), Just(0xff)];
    vec(
        prop_oneof![
            (place(), any::<u8>()).prop_map(|(at, bit)| Spoil::Flip(at, 1 << (bit % 8))),
            (place(), byte).prop_map(|(at, byte)| Spoil::Replace(at, 1, vec![byte])),
            (place(), prop_oneof![words, vec(any::<u8>(), 1..9)])
                .prop_map(|(at, bytes)| Spoil::Replace(at, 0, bytes)),
            (place(), 1..40_usize).prop_map(|(at, count)| Spoil::Replace(at, count, Vec::new())),
            (place(), 1..60_usize, 1..20_usize)
                .prop_map(|(at, count, times)| Spoil::Repeat(at, count, times)),
            place().prop_map(|at| Spoil::Replace(at, usize::MAX, Vec::new())),
        ],
        1..6,
    )
}

fn spoil(mut text: Vec<u8>, spoils: &[Spoil]) -> Vec<u8> {
    for spoil in spoils {
        let place = |at: f64| (text.len() as f64 * at) as usize;
        let range = |at: f64, count: usize| place(at)..text.len().min(place(at).saturating_add(count));
        match spoil {
            _ if text.is_empty() => break,
            Spoil::Flip(at, bit) => {
                let at = place(*at);
                text[at] ^= bit;
            }
            Spoil::Replace(at, count, bytes) => drop(text.splice(range(*at, *count), bytes.iter().copied())),
            Spoil::Repeat(at, count, times) => {
                let range = range(*at, *count);
                let again = text[range.clone()].repeat(*times);
                text.splice(range.end..range.end, again);
            }
        }
    }
    text
}

#[test]
fn every_parser_has_a_fuzz_target_and_a_corpus() {
    let parsers: BTreeSet<String> = PARSERS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(names(&fuzz("fuzz_targets")), parsers);
    assert_eq!(names(&fuzz("corpus")), parsers);
    let manifest = fs_err::read_to_string(fuzz("Cargo.toml")).unwrap();
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
    let text = |part: &str| part.repeat(many);
    let around = |open: &str, inner: &str, close: &str| text(open) + inner + &text(close);
    let numbered = |before: &str, after: &str| -> String {
        (0..many).map(|it| format!("{before}{it}{after}")).collect()
    };
    // Each stands for ten of the one before.
    let tens = |option: fn(u32, String) -> String, of: fn(u32) -> String| -> String {
        (1..10).map(|it| option(it, of(it - 1).repeat(10))).collect()
    };
    let entities = tens(|it, value| format!("<!ENTITY e{it} '{value}'>"), |it| format!("&e{it};"));
    let options = tens(|it, value| format!("v{it} = {value}\n"), |it| format!("$v{it}"));
    let path = "[DEFAULT]\ninstances_path = ";
    let inputs = [
        ("lists in lists", around("[", "", "]")),
        ("objects in objects", around("{\"a\":", "1", "}")),
        ("lists in a row of an own list", format!("[{{\"uuid\":{}", around("[", "", "]"))),
        ("objects in a server", format!("{{\"servers\":[{{\"x\":{}}}]}}", around("{\"a\":", "1", "}"))),
        ("names in names", format!("json:{{\"file\":{}}}", around("{\"file\":", "1", "}"))),
        ("elements in elements", around("<a>", "", "</a>")),
        ("elements in a domain", format!("<domain><devices><disk>{}", around("<source>", "", "</source>"))),
        ("attributes", format!("<domain {}/>", text("a='b' "))),
        ("different attributes", format!("<domain {}/>", numbered("a", "='b' "))),
        ("namespaces", format!("<domain {}/>", numbered("xmlns:a", "='b' "))),
        ("entities", format!("<!DOCTYPE a [<!ENTITY e0 'e'>{entities}]><domain>&e9;</domain>")),
        ("options", format!("[DEFAULT]\nv0 = vvvvvvvvvv\n{options}instances_path = /$v9\n")),
        ("options in a circle", format!("{path}$state_path\nstate_path = ${{instances_path}}x$state_path\n")),
        ("sections", text("[a]\n")),
        ("lines that go on", format!("{path}a\n{}", text(" b\n"))),
        ("dollars", format!("{path}{}\n", text("$"))),
        ("braces", format!("{path}{}\n", text("${"))),
        ("rows", format!("[{}{{\"uuid\":\"b\"}}]", text("{\"uuid\":\"a\"},"))),
        ("blanks", text("    \n")),
        ("a number of many digits", format!("[{{\"swap_mb\":{}}}]", text("9"))),
        ("a text of many escapes", format!("[{{\"uuid\":\"{}\"}}]", text("\\u0000"))),
        ("a text without an end", format!("[{{\"uuid\":\"{}", text("aaaaaaaaaa"))),
        ("zeros", "\0".repeat(1 << 21)),
    ];
    let corpus = corpus("qcow2_header");
    let mut header = corpus.iter().find(|it| it.starts_with(b"QFI\xfb\0\0\0\x03")).unwrap()[..104].to_vec();
    header[..24].copy_from_slice(b"QFI\xfb\0\0\0\x03\0\0\0\0\0\0\0\0\0\0\0\0\0\0\0\x15");
    header[72..80].copy_from_slice(&4_u64.to_be_bytes());
    header.extend(b"\0\0\0\x01\0\0\0\0".repeat(300_000));
    let inputs = inputs.map(|(what, text)| (what, text.into_bytes()));
    let mut tried = 0;
    for (what, input) in inputs.into_iter().chain([("extensions of a header", header)]) {
        for (parser, property) in PARSERS {
            let start = Instant::now();
            property(&input);
            assert!(start.elapsed() < LIMIT, "{parser}: {what}: {:?}", start.elapsed());
            tried += 1;
        }
    }
    println!("{tried} inputs of hostile depth or size");
}
