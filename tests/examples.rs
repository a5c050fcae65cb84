//! Every command of the README, of the man pages' examples and of the help texts runs as it is written.
//!
//! What stands between a command as it is written and as it runs here: absolute paths lead into a directory of the
//! test's own, which holds a copy of `tests/demo` as `/var/lib/nova/instances`, a `nova.conf`, domain XML and the other
//! places that the commands name; `servers.json`, `images.json` and `images.txt` lie in the working directory; what a
//! block exports holds for those after it; a goal of `--until-free` is 1 MiB, for the disk here may be small; and
//! `nova-imagecache` is told that path, and that it runs on compute-1, where the command does not say it.
//! `cargo run --release --` is the binary under test. sudo, docker, ansible-playbook, systemctl, journalctl and openstack
//! are stand-ins that check how they are called and run what they are told to.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};

use crate::common::{DAY, domain, file_disk, list, repository, set_age, text, tool};
use clap::CommandFactory as _;
use serde_json::{Value, json};
use tempfile::TempDir;

/// The directories of a real host that the commands name.
const PLACES: [&str; 4] = ["/etc/", "/var/lib/", "/var/log/", "/usr/local/bin/"];

const WRAPPER: &str = r#"
given=" $* ${NOVA_IMAGECACHE_CONFIG_FILE:+ --config-file }"
case "$1" in
    explain|prune) case "$given" in *" --host "*|*" --config-file "*) ;; *) set -- "$@" --host compute-1 ;; esac ;;
esac
case "$given" in *" -p "*|*" --config-file "*|" fname "*) ;; *) set -- "$@" -p "$SCENE/var/lib/nova/instances" ;; esac
exec "$PROGRAM" "$@"
"#;

/// What stands in for other programs, each a shell script.
const STAND_INS: [(&str, &str); 6] = [
    ("sudo", r#"[ "$1 $2" = "-u nova" ] || exit 97; shift 2; exec "$@""#),
    (
        "docker",
        r#"case "$1 $2" in
            "exec nova_libvirt") shift 2; exec "$@" ;;
            cp*) [ $# = 3 ] && [ "$3" = "nova_libvirt:/usr/local/bin/" ] || exit 97 ;;
            *) exit 97 ;;
        esac"#,
    ),
    // Only looks whether the playbook is there.
    (
        "ansible-playbook",
        r#"[ "$1 $2" = "-i hosts" ] && [ -e "$PLAYBOOKS/$3" ] || exit 97; echo "PLAY [$3]""#,
    ),
    ("systemctl", r#"[ "$*" = "enable --now nova-imagecache.timer" ] || exit 97"#),
    ("journalctl", r#"[ "$*" = "-u nova-imagecache" ] || exit 97; echo journal"#),
    (
        "openstack",
        r#"case "$*" in
            "server list --all-projects --long -f json") cat "$SCENE/openstack.json" ;;
            "image list --long -f json") cat tests/demo/images.json ;;
            *) exit 97 ;;
        esac"#,
    ),
];

/// A host to run commands on.
struct Scene {
    directory: TempDir,
}

impl Scene {
    fn new() -> Self {
        let scene = Self { directory: tempfile::tempdir().unwrap() };
        let demo = repository("tests/demo");
        let instances = scene.path("var/lib/nova/instances");
        copy(&demo.join("instances"), &instances);
        // The file that the examples ask for by its name.
        scene.write("var/lib/nova/instances/_base/0d5e6b61602d758984b3bf038267614d6016eb2a", "an image");
        for file in fs_err::read_dir(instances.join("_base")).unwrap() {
            set_age(&file.unwrap().path(), 2 * DAY);
        }
        copy(&demo.join("instances"), &scene.path("var/lib/docker/volumes/nova_compute/_data/instances"));
        copy(&demo, &scene.path("work/tests/demo"));
        let inventory = fs_err::read_to_string(demo.join("inventory.json")).unwrap();
        scene.write("work/servers.json", &inventory);
        copy(&demo.join("images.json"), &scene.path("work/images.json"));
        let rows: Value = serde_json::from_str(&inventory).unwrap();
        let listed: Value = list(&rows).iter().map(as_listed).collect();
        scene.write("openstack.json", &listed.to_string());
        for instance in list(&rows).iter().filter(|it| it["host"] == "compute-1") {
            let file = format!("etc/libvirt/qemu/{}.xml", text(&instance["name"]));
            let uuid = text(&instance["uuid"]);
            let root = format!("<nova:root type='image' uuid='{}'/>", text(&instance["image_ref"]));
            scene.write(&file, &domain(&uuid, &root, &file_disk(&instances.join(&uuid).join("disk"))));
        }
        let images: Vec<_> = list(&rows).iter().map(|it| text(&it["image_ref"])).collect();
        scene.write("work/images.txt", &(images.join("\n") + "\n"));
        let conf = format!("[DEFAULT]\ninstances_path = {}\nhost = compute-1\n", instances.display());
        scene.write("etc/nova/nova.conf", &conf);
        for directory in ["var/log", "var/lib/prometheus/node-exporter"] {
            fs_err::create_dir_all(scene.path(directory)).unwrap();
        }
        for (name, script) in STAND_INS.into_iter().chain([("nova-imagecache", WRAPPER)]) {
            let file = format!("usr/bin/{name}");
            scene.write(&file, &format!("#!/bin/sh\n{script}\n"));
            fs_err::set_permissions(scene.path(file), PermissionsExt::from_mode(0o755)).unwrap();
        }
        scene
    }

    fn path(&self, below: impl AsRef<Path>) -> PathBuf {
        self.directory.path().join(below)
    }

    fn write(&self, below: &str, text: &str) {
        let path = self.path(below);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, text).unwrap();
    }

    /// Leads the absolute paths of a script here.
    fn redirect(&self, script: &str) -> String {
        let mut redirected = String::new();
        let mut rest = script;
        while let Some(next) = rest.chars().next() {
            let begins = redirected.chars().last().is_none_or(|it| " \n=>'\"".contains(it));
            if begins && PLACES.iter().any(|place| rest.starts_with(place)) {
                redirected.push_str(self.directory.path().to_str().unwrap());
            }
            redirected.push(next);
            rest = &rest[next.len_utf8()..];
        }
        redirected
            .replace("cargo run --release -- ", "nova-imagecache ")
            .replace("--until-free 200GiB", "--until-free 1MiB")
    }

    /// Runs a script as written, with these exceptions, and stops at its first error.
    #[track_caller]
    fn run(&self, script: &str) -> String {
        tool("jq", "jq");
        let path = std::env::var("PATH").unwrap();
        let output = Command::new("bash")
            .args(["-euo", "pipefail", "-c", &self.redirect(script)])
            .env_clear()
            .env("PATH", format!("{}:{path}", self.path("usr/bin").display()))
            .env("SCENE", self.directory.path())
            .env("PLAYBOOKS", repository("packaging/ansible"))
            .env("PROGRAM", assert_cmd::cargo::cargo_bin!("nova-imagecache"))
            .current_dir(self.path("work"))
            .stdin(Stdio::null())
            .output()
            .unwrap();
        assert!(output.status.success(), "{script}\n{}", said(&output));
        String::from_utf8(output.stdout).unwrap()
    }
}

fn said(output: &Output) -> String {
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    format!("{}\n{stdout}\n{stderr}", output.status)
}

fn copy(from: &Path, to: &Path) {
    fs_err::create_dir_all(to.parent().unwrap()).unwrap();
    let status = Command::new("cp").arg("-R").args([from, to]).status().unwrap();
    assert!(status.success(), "cp {from:?} {to:?}");
}

/// An instance as `openstack server list --long` shows it.
fn as_listed(instance: &Value) -> Value {
    json!({
        "ID": instance["uuid"], "Name": "a display name", "Status": "ACTIVE", "Task State": null, "Power State": 1,
        "Networks": {}, "Image Name": "an image", "Image ID": instance["image_ref"], "Flavor Name": "m1.small",
        "Availability Zone": "nova", "Host": instance["host"], "Properties": {}
    })
}

/// The blocks of the README that are fenced as that language.
fn readme(language: &str) -> Vec<String> {
    let readme = fs_err::read_to_string(repository("README.md")).unwrap();
    let mut blocks = Vec::new();
    let mut parts = readme.split("```");
    while let (Some(_), Some(block)) = (parts.next(), parts.next()) {
        let (fence, body) = block.split_once('\n').unwrap();
        if fence == language {
            blocks.push(body.to_owned());
        }
    }
    blocks
}

#[test]
fn every_command_of_the_readme_runs() {
    let scene = Scene::new();
    let blocks = readme("sh");
    assert!(blocks.len() > 15, "{blocks:#?}");
    assert_eq!(blocks.iter().filter(|it| it.trim() == "tests/run").count(), 1);
    let mut exported = String::new();
    for block in blocks.iter().filter(|it| it.trim() != "tests/run") {
        let stdout = scene.run(&format!("{exported}{block}"));
        exported.extend(block.split_inclusive('\n').filter(|it| it.starts_with("export ")));
        let last = block.trim().lines().last().unwrap();
        // The last command prints something, unless it writes a file.
        let is_quiet = last.contains('>') || last.contains("docker cp");
        assert!(is_quiet || !stdout.trim().is_empty(), "prints nothing: {block}");
    }
    let metrics =
        fs_err::read_to_string(scene.path("var/lib/prometheus/node-exporter/imagecache.prom")).unwrap();
    assert_eq!(metrics.lines().filter(|it| it.starts_with("# TYPE ")).count(), 4, "{metrics}");
    for line in metrics.lines().filter(|it| !it.starts_with('#')) {
        let (name, value) = line.rsplit_once(' ').unwrap();
        assert!(name.starts_with("nova_imagecache_") && value.parse::<u64>().is_ok(), "{line}");
    }
    assert!(metrics.contains("nova_imagecache_files{verdict=\"in_use\"} "), "{metrics}");
}

#[test]
fn the_crontab_of_the_readme_is_one_and_its_command_runs() {
    let scene = Scene::new();
    // Else one instance of the demo is broken, which is worth a mail.
    scene.write("var/lib/nova/instances/_base/b170c117c31758211fb9501f365f43e1031e712b", "an image");
    let [crontab] = &readme("crontab")[..] else { panic!("not one crontab") };
    let jobs: Vec<&str> =
        crontab.lines().filter(|it| it.starts_with(|first: char| first.is_ascii_digit())).collect();
    assert_eq!(jobs.len(), 1, "{crontab}");
    let mut fields = jobs[0].splitn(7, ' ');
    for most in [59, 23, 31, 12, 7] {
        let field = fields.next().unwrap();
        assert!(field == "*" || field.parse::<u32>().is_ok_and(|it| it <= most), "{field}");
    }
    assert_eq!(fields.next(), Some("root"));
    let command = fields.next().unwrap();
    assert!(!command.contains('%'), "cron ends the line there: {command}");
    assert_eq!(scene.run(&format!("({command}) 2> mail")), "");
    assert_eq!(fs_err::read_to_string(scene.path("work/mail")).unwrap(), "", "a good day has no mail");
    let log = fs_err::read_to_string(scene.path("var/log/nova-imagecache.log")).unwrap();
    assert!(log.contains(", removed "), "{log}");
}

#[test]
fn every_example_of_the_man_pages_runs() {
    let mut count = 0;
    for entry in fs_err::read_dir(repository("man")).unwrap() {
        let page = entry.unwrap().path();
        if page.is_dir() {
            continue;
        }
        let scene = Scene::new();
        let mut printed = String::new();
        for block in examples_of(&fs_err::read_to_string(&page).unwrap()) {
            if ["nova-imagecache ", "openstack "].iter().any(|program| block.starts_with(program)) {
                printed = scene.run(&block);
                count += 1;
            } else {
                assert_eq!(block, printed, "{}", page.display());
            }
        }
    }
    assert!(count >= 14, "{count}");
}

/// What stands between `.EX` and `.EE` in the section EXAMPLES.
fn examples_of(page: &str) -> Vec<String> {
    let Some((_, section)) = page.split_once(".SH EXAMPLES\n") else { return Vec::new() };
    let section = section.split("\n.SH ").next().unwrap();
    let blocks = section.split(".EX\n").skip(1).map(|it| it.split(".EE\n").next().unwrap());
    blocks.map(|it| it.replace("\\-", "-").replace("\\(aq", "'").replace("\\e", "\\")).collect()
}

#[test]
fn every_example_of_the_help_texts_runs() {
    let command = nova_imagecache::cli::Cli::command();
    for command in std::iter::once(&command).chain(command.get_subcommands()) {
        let help = command.get_after_help().unwrap().to_string();
        let examples: Vec<&str> =
            help.lines().filter(|line| line.starts_with("  nova-imagecache ")).collect();
        assert!(!examples.is_empty(), "{help}");
        Scene::new().run(&examples.join("\n"));
    }
}
