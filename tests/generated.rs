//! The man pages and completions in the tree are those of the command line as it is: the option parts are made from
//! clap's definition, the rest from `man/sections/`.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::{Path, PathBuf};

use clap::{Command, CommandFactory as _, ValueEnum as _};
use clap_complete::Shell;
use clap_mangen::Man;
use nova_imagecache::cli::Cli;

const RENEW: &str = "NOVA_IMAGECACHE_RENEW";
/// When the text of the pages was last looked over.
const DATE: &str = "2026-11-23";
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
        .filter(|(file, text)| fs::read_to_string(root.join(file)).ok().as_ref() != Some(text))
        .map(|(file, _)| file)
        .collect();
    if std::env::var_os(RENEW).is_some() {
        for file in stale {
            fs::write(root.join(file), &expected[file]).unwrap();
            println!("renewed {}", file.display());
        }
    } else {
        assert!(stale.is_empty(), "stale: {stale:?}; renew with: {RENEW}=1 cargo test --test generated");
    }
}

fn files_in(directory: &Path) -> BTreeSet<PathBuf> {
    let entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    entries.filter(|path| path.is_file()).collect()
}

fn completions() -> BTreeMap<PathBuf, String> {
    let mut command = Cli::command();
    let shells = Shell::value_variants().iter().filter(|it| matches!(it, Shell::Bash | Shell::Zsh | Shell::Fish));
    shells
        .map(|shell| {
            let mut text = Vec::new();
            clap_complete::generate(*shell, &mut command, "nova-imagecache", &mut text);
            let name = clap_complete::Generator::file_name(shell, "nova-imagecache");
            (Path::new("completions").join(name), String::from_utf8(text).unwrap())
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

/// The first line asks man(1) for tbl.
fn head(name: &str, section: &str) -> String {
    let (name, version) = (name.to_uppercase(), env!("CARGO_PKG_VERSION"));
    format!(
        "'\\\" t\n.\\\" Not to be edited: made of src/cli.rs and man/sections by {RENEW}=1 cargo test --test generated\n\
         .TH {name} {section} {DATE} \"nova-imagecache {version}\" \"{MANUAL}\"\n.ie \\n(.g .ds Aq \\(aq\n.el .ds Aq '\n"
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
    fs::read_to_string(sections.join(format!("{name}.roff"))).unwrap_or_else(|error| panic!("{name}: {error}"))
}
