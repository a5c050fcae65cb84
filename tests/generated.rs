//! The man pages and completions in the tree are those of the command line as it is: the option parts are made from
//! clap's definition, the rest from `man/sections/`. And they say all that there is to say.

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::ffi::OsStrExt as _;
use std::path::{Path, PathBuf};

use crate::common::{DAY, World, overlay, tool};
use clap::{Command, CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;
use clap_mangen::Man;
use nova_imagecache::cache_name::{Kind, cache_file_name};
use nova_imagecache::cli::Cli;
use nova_imagecache::outcome::Outcome;
use nova_imagecache::verdict::{Code, Verdict};
use nova_imagecache::warning::CODES;
use serde_json::{Value, json};

const RENEW: &str = "NOVA_IMAGECACHE_RENEW";
/// When the text of the pages was last looked over.
const DATE: &str = "2026-11-25";
const MANUAL: &str = "OpenStack administration";

#[test]
fn man_pages_and_completions_are_those_of_the_command_line() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let mut expected = completions();
    expected.extend(man_pages(&root.join("man/sections")));
    let surplus = ["man", "completions"]
        .iter()
        .flat_map(|directory| files_in(&root.join(directory)))
        .map(|file| file.strip_prefix(root).unwrap().to_owned())
        .filter(|file| !expected.contains_key(file));
    assert_eq!(Vec::<PathBuf>::new(), surplus.collect::<Vec<_>>(), "nothing makes these files: remove them");
    let stale: Vec<&PathBuf> = expected
        .iter()
        .filter(|(file, text)| fs_err::read_to_string(root.join(file)).ok().as_ref() != Some(text))
        .map(|(file, _)| file)
        .collect();
    if std::env::var_os(RENEW).is_some() {
        for file in stale {
            fs_err::write(root.join(file), &expected[file]).unwrap();
            println!("renewed {}", file.display());
        }
    } else {
        assert!(
            stale.is_empty(),
            "stale: {stale:?}; renew with: {RENEW}=1 cargo test --test suite generated"
        );
    }
}

fn files_in(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs_err::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

fn completions() -> BTreeMap<PathBuf, String> {
    let mut command = Cli::command();
    let shells =
        Shell::value_variants().iter().filter(|it| matches!(it, Shell::Bash | Shell::Zsh | Shell::Fish));
    shells
        .map(|shell| {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command, "nova-imagecache", &mut text);
            let name = clap_complete::Generator::file_name(shell, "nova-imagecache");
            // clap_complete 4.6.11 calls a program with a hyphen by two names in its script for bash, which then
            // completes nothing behind a subcommand.
            let text =
                String::from_utf8(text).unwrap().replace("nova__subcmd__imagecache", "nova__imagecache");
            (Path::new("completions").join(name), text)
        })
        .collect()
}

/// The page of the program and one for each subcommand, from clap, and the page of the JSON.
fn man_pages(sections: &Path) -> BTreeMap<PathBuf, String> {
    let mut program = Cli::command().disable_help_subcommand(true);
    program.build();
    let commands = std::iter::once(&program).chain(program.get_subcommands());
    let mut pages: BTreeMap<PathBuf, String> = commands
        .map(|command| {
            let name = command.get_display_name().unwrap_or_else(|| command.get_name());
            (format!("man/{name}.8").into(), page_of_command(command, name, sections))
        })
        .collect();
    let json = head("nova-imagecache-json", "5") + &section(sections, "nova-imagecache-json");
    pages.insert("man/nova-imagecache-json.5".into(), json + &section(sections, "see-also"));
    pages
}

fn page_of_command(command: &Command, name: &str, sections: &Path) -> String {
    let usage = command.clone().render_usage().to_string();
    let man = Man::new(command.clone().override_usage(usage.trim_start_matches("Usage: ").to_owned()));
    let render = |part: fn(&Man, &mut dyn std::io::Write) -> std::io::Result<()>| {
        let mut text = Vec::new();
        part(&man, &mut text).unwrap();
        without_preamble(&String::from_utf8(text).unwrap())
    };
    let mut page = head(name, "8");
    page += &render(Man::render_name_section);
    page += &render(Man::render_synopsis_section);
    page += &render(Man::render_description_section);
    page += &render(Man::render_options_section);
    if command.has_subcommands() {
        page += &subcommands(command);
    }
    for part in ["exit-status", name, "see-also"] {
        page += &section(sections, part);
    }
    page
}

/// The first line asks man(1) for tbl. On a terminal a page has one length, or tbl warns where a table meets its end.
fn head(name: &str, section: &str) -> String {
    let (name, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    format!(
        "'\\\" t\n.\\\" Not to be edited: made of src/cli.rs and man/sections by {RENEW}=1 cargo test --test suite generated\n\
         .TH {name} {section} {DATE} \"nova-imagecache {version}\" \"{MANUAL}\"\n.if \\n[cR] .pl 9999v\n\
         .ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n"
    )
}

/// Each part that clap_mangen makes begins with the same definition of an apostrophe; the page has it once.
fn without_preamble(text: &str) -> String {
    text.lines()
        .filter(|line| !line.starts_with(".ie \\n(.g") && !line.starts_with(".el .ds Aq"))
        .map(|line| format!("{}\n", line.trim_end()))
        .collect::<String>()
        // Before the values of an option it puts more breaks than mandoc likes.
        .replace(".br\n\n.br\n", ".sp\n")
}

/// clap_mangen's own list calls the pages by the section that it was told, 1.
fn subcommands(command: &Command) -> String {
    let entry = |it: &Command| {
        let name = it.get_name().replace('-', "\\-");
        let about = it.get_about().map(ToString::to_string).unwrap_or_default();
        format!(".TP\n\\fBnova\\-imagecache\\-{name}\\fR(8)\n{about}\n")
    };
    format!(".SH SUBCOMMANDS\n{}", command.get_subcommands().map(entry).collect::<String>())
}

fn section(sections: &Path, name: &str) -> String {
    fs_err::read_to_string(sections.join(format!("{name}.roff")))
        .unwrap_or_else(|error| panic!("{name}: {error}"))
}

#[test]
fn mandoc_finds_nothing_above_style_level() {
    let pages = files_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man"));
    assert!(pages.len() > 5, "{pages:?}");
    let mandoc = std::process::Command::new(tool("mandoc", "mandoc"))
        .args(["-T", "lint", "-W", "warning"])
        .args(pages)
        .output()
        .unwrap();
    assert_eq!(String::from_utf8_lossy(&mandoc.stdout), "");
    assert!(mandoc.status.success(), "{mandoc:?}");
}

#[test]
fn groff_sets_every_page_without_a_warning_at_80_columns() {
    for page in files_in(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man")) {
        let groff = std::process::Command::new(tool("groff", "groff-base"))
            .args(["-t", "-man", "-T", "utf8", "-w", "w", "-rLL=78n", "-rcR=1"])
            .arg(&page)
            .output()
            .unwrap();
        assert_eq!(String::from_utf8_lossy(&groff.stderr), "", "{page:?}");
        assert!(groff.stdout.len() > 1000, "{page:?}");
    }
}

#[test]
fn the_page_of_the_json_has_every_field() {
    let world = World::new();
    world.original("used", DAY);
    world.original("unused", 2 * DAY);
    fs_err::write(world.base(std::ffi::OsStr::from_bytes(b"\xff")), "").unwrap();
    overlay(&world.path("listed/disk"), world.base(cache_file_name("gone")));
    overlay(&world.path("unlisted/disk"), world.base(cache_file_name("used")));
    std::os::unix::fs::symlink("nowhere", world.path("unlisted/disk.link")).unwrap();
    world.inventory(&json!([{"uuid": "listed", "image_ref": "used"}]));
    world.file("images.json", r#"[{"ID": "used", "Name": "debian", "Status": "active"}]"#);
    let fname = world.run("fname", ["-f", "json", "used"]);
    let dry_run = world.dry_run(["--images", "images.json", "--until-free", "1MiB"]);
    assert!(dry_run.json()["goal"].is_object(), "{dry_run:?}");
    for run in [fname, world.scan(), world.explain([""; 0]), dry_run] {
        for field in fields(&run.json()) {
            assert!(documents(&field), "{field} is not in man/sections/nova-imagecache-json.roff");
        }
    }
}

/// The names of all fields, but for those of the maps by kind, verdict and outcome: these are values, tested below.
fn fields(value: &Value) -> BTreeSet<String> {
    match value {
        Value::Object(object) => object
            .iter()
            .flat_map(|(name, value)| {
                let below = if name.starts_with("by_") { BTreeSet::new() } else { fields(value) };
                below.into_iter().chain([name.clone()])
            })
            .collect(),
        Value::Array(items) => items.iter().flat_map(fields).collect(),
        _ => BTreeSet::new(),
    }
}

/// Whether the page has an entry for a field or a code: in a table, or in bold in a text.
fn documents(word: &str) -> bool {
    let page = section(&Path::new(env!("CARGO_MANIFEST_DIR")).join("man/sections"), "nova-imagecache-json");
    page.lines().any(|line| {
        let entry = line.split('@').next().unwrap();
        line.contains('@') && entry.rsplit('.').next() == Some(word)
            || entry.contains(&format!("\\fB{word}\\fR"))
            || entry == format!(".B {word}")
    }) || ["summary", "name_bytes"].contains(&word) && page.contains(word)
}

#[test]
fn the_page_of_the_json_has_every_code() {
    let verdicts = Verdict::ALL.iter().map(|it| it.as_str());
    let outcomes = Outcome::ALL.iter().map(|it| it.as_str());
    let kinds = Kind::ALL.iter().map(|it| it.as_str());
    let reasons = Code::ALL.iter().map(|it| it.as_str());
    for code in verdicts.chain(outcomes).chain(kinds).chain(reasons) {
        assert!(documents(code), "{code} is not in man/sections/nova-imagecache-json.roff");
    }
}

#[test]
fn the_page_of_the_json_has_every_warning_with_its_level() {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let page = section(&root.join("man/sections"), "nova-imagecache-json");
    for (code, level) in CODES {
        let entry = format!("\n{code}@{level}@");
        assert!(page.contains(&entry), "{entry} is not in man/sections/nova-imagecache-json.roff");
    }
}
