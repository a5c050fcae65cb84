//! nova.conf as this project reads it and as the real oslo.config does: the same values from every file.
//!
//! Needs a Python with oslo.config: that of the environment variable `NOVA_IMAGECACHE_PYTHON`, else `python3`.

use std::io::Write as _;
use std::process::{Command, Stdio};

use crate::common::{python, repository};
use nova_imagecache::nova_conf;
use serde_json::{Value, json};

/// Each is what one run reads: the texts of the files that `--config-file` names, in that order.
const CASES: &[&[&str]] = &[
    &[],
    &[""],
    &["\n\n# nothing\n; at all\n"],
    &["[DEFAULT]\ninstances_path = /srv/nova\n"],
    &["[DEFAULT]\ninstances_path: /srv/nova\nhost:cmp-1\n"],
    &["[DEFAULT]\ninstances_path = /srv/a:b=c\n"],
    &["[DEFAULT]\nx:y=z\ninstances_path=$x\n"],
    &["[DEFAULT]\nstate_path = /srv\n"],
    &["[DEFAULT]\nstate_path = /srv\ninstances_path = ${state_path}/vms\n"],
    &["[DEFAULT]\ninstances_path = $state_path/vms\nstate_path = /late\n"],
    &["[DEFAULT]\nhost = one\nhost = two\n[g]\nx = 1\n[DEFAULT]\nhost = three\n"],
    &["[DEFAULT]\nhost = one\n", "[DEFAULT]\nhost = two\n", "[DEFAULT]\n"],
    &["[DEFAULT]\nstate_path = /first\n", "[DEFAULT]\ninstances_path = $state_path/i\n"],
    &["[DEFAULT]\ninstances_path = \"/srv/with space\"\nhost = 'quoted'\n"],
    &["[DEFAULT]\nx = \"half\ny = \"'both'\"\ninstances_path = $x$y\n"],
    &["[DEFAULT]\nx = '\ny = \"\"\ninstances_path = /a${x}b${y}c\n"],
    &["[DEFAULT]\ninstances_path = /srv # no comment\n[image_cache]\nsubdirectory_name = a;b #c\n"],
    &["[DEFAULT]\ninstances_path = /srv # no comment\n"],
    &["[DEFAULT]\ninstances_path = /srv\n  /more\n\t# still the value\n"],
    &["[DEFAULT]\ninstances_path =\n  /srv\n"],
    &["[DEFAULT]\ninstances_path = \"/srv\n  /more\"\n"],
    &["[DEFAULT]\nhost = a\n\n  b\n"],
    &["[DEFAULT]\nhost = a\n# comment\n  b\n"],
    &["[DEFAULT]\n  host = a\n"],
    &["host = a\n"],
    &["[DEFAULT]\nhost\n"],
    &["[DEFAULT]\n= a\n"],
    &["[DEFAULT\nhost = a\n"],
    &["[DEFAULT] # comment\nhost = a\n"],
    &["[]\n"],
    &["\u{feff}[DEFAULT]\nhost = a\n"],
    &["[DEFAULT]\r\nhost = a\r\n\r\n[image_cache]\r\nsubdirectory_name = b\r\n"],
    &["[DEFAULT]\rhost = a\r"],
    &["[DEFAULT]\nhost = a"],
    &["[DEFAULT]\nhost = a\u{a0}\u{1c}\ninstances_path =\u{3000}/x\u{85}y\n"],
    &["[default]\nhost = a\n[Image_Cache]\nsubdirectory_name = b\n"],
    &["[ DEFAULT ]\nhost = a\n"],
    &["[image_cache]\nsubdirectory_name = a\n", "[ image_cache ]\nsubdirectory_name = b\n"],
    &["[image_cache]\nsubdirectory_name = a\nsubdirectory_name = b\n"],
    &["[DEFAULT]\nHost = a\nstate-path = /x\n"],
    &["[DEFAULT]\nhost = Cmp_1.domain.\n"],
    &["[DEFAULT]\nhost =\n"],
    &["[DEFAULT]\nmy_ip = 10.0.0.1\n[image_cache]\nsubdirectory_name = _base_$my_ip\n"],
    &["[DEFAULT]\nmy_ip = 10.0.0.1\n[image_cache]\nmy_ip = 10.0.0.2\nsubdirectory_name = _base_${my_ip}\n"],
    &["[DEFAULT]\nimage_cache_subdirectory_name = a\n"],
    &["[DEFAULT]\nbase_dir_name = a\n"],
    &[
        "[DEFAULT]\nbase_dir_name = a\nimage_cache_subdirectory_name = b\n[image_cache]\nsubdirectory_name = c\n",
    ],
    &["[DEFAULT]\nbase_dir_name = a\nimage_cache_subdirectory_name = b\n"],
    &["[image_cache]\nsubdirectory_name = a\n", "[DEFAULT]\nimage_cache_subdirectory_name = b\n"],
    &["[DEFAULT]\nremove_unused_original_minimum_age_seconds = 60\nremove_unused_base_images = False\n"],
    &["[libvirt]\nremove_unused_resized_minimum_age_seconds = 60\n"],
    &["[DEFAULT]\nremove_unused_resized_minimum_age_seconds = 60\n"],
    &["[image_cache]\nremove_unused_resized_minimum_age_seconds = ' 1_000 '\n"],
    &["[image_cache]\nremove_unused_resized_minimum_age_seconds = +007\n"],
    &["[image_cache]\nremove_unused_resized_minimum_age_seconds = 1__0\n"],
    &["[image_cache]\nremove_unused_resized_minimum_age_seconds = 1.5\n"],
    &["[image_cache]\nremove_unused_original_minimum_age_seconds = 1h\n"],
    &["[image_cache]\nremove_unused_original_minimum_age_seconds = $x\n[DEFAULT]\nx = 5\n"],
    &[
        "[DEFAULT]\ninstances_path = /${image_cache.remove_unused_original_minimum_age_seconds}\n[image_cache]\nremove_unused_original_minimum_age_seconds = 0060\n",
    ],
    &[
        "[DEFAULT]\ninstances_path = /${image_cache.remove_unused_base_images}\n[image_cache]\nremove_unused_base_images = no\n",
    ],
    &["[image_cache]\nremove_unused_base_images = YES\n"],
    &["[image_cache]\nremove_unused_base_images = 0\n"],
    &["[image_cache]\nremove_unused_base_images = oFF\n"],
    &["[image_cache]\nremove_unused_base_images = never\n"],
    &["[image_cache]\nremove_unused_base_images =\n"],
    &["[DEFAULT]\ninstances_path = /$$x/\\$x/$/${/${}/$1/${x/$-\n"],
    &["[DEFAULT]\ninstances_path = $$$x/\\\\$x\nx = 1\n"],
    &["[DEFAULT]\nx = $y\ny = $state_path\ninstances_path = ${x}s\n"],
    &["[DEFAULT]\ninstances_path = /${g.x}\ny = 2\n[g]\nx = 1$y\n"],
    &["[DEFAULT]\ninstances_path = /${g.x}\nx = 2\n[g]\nx = 1$x\n"],
    &["[DEFAULT]\ninstances_path = /${image_cache.subdirectory_name}\n"],
    &["[DEFAULT]\ninstances_path = /$image_cache_subdirectory_name\nimage_cache_subdirectory_name = new\n"],
    &["[DEFAULT]\ninstances_path = ${DEFAULT.state_path}\n"],
    &["[DEFAULT]\ninstances_path = ${Image_Cache.subdirectory_name}\n"],
    &["[DEFAULT]\ninstances_path = $STATE_PATH\n"],
    &["[DEFAULT]\ninstances_path = $state_path.old\n"],
    &["[DEFAULT]\ninstances_path = $nothing\n"],
    &["[DEFAULT]\ninstances_path = $instances_path/x\n"],
    &["[DEFAULT]\ninstances_path = $x\nx = $y\ny = $x\n"],
    &["[DEFAULT]\ninstances_path = /stra\u{df}e/\u{1f4be}\n"],
];

fn ours(texts: &[&str]) -> Result<Value, String> {
    let files: Vec<_> =
        (1..).zip(texts).map(|(number, text)| (format!("{number}.conf"), (*text).to_owned())).collect();
    let conf = nova_conf::parse(&files, &[], "machine").map_err(|error| format!("{error:#}"))?;
    Ok(json!({
        "instances_path": conf.instances_path,
        "host": conf.host,
        "subdirectory_name": conf.subdirectory_name,
        "original": conf.original_minimum_age.as_secs(),
        "resized": conf.resized_minimum_age.as_secs(),
        "remove": conf.remove_unused_base_images,
    }))
}

fn oslo(cases: &[&[&str]]) -> Vec<Value> {
    let script = repository("tests/nova_conf_by_oslo.py");
    let mut python = Command::new(python());
    python
        .args(["-X", "utf8"])
        .arg(script)
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped());
    let mut child = python.spawn().unwrap_or_else(|error| panic!("cannot run {python:?}: {error}"));
    // Where the script has ended at once, what it says is more to the point than that the pipe is closed.
    drop(child.stdin.take().unwrap().write_all(json!(cases).to_string().as_bytes()));
    let output = child.wait_with_output().unwrap();
    assert!(
        output.status.success(),
        "install oslo.config (Debian: python3-oslo.config; else pip install oslo.config) and name that Python in \
         NOVA_IMAGECACHE_PYTHON:\n{}",
        String::from_utf8_lossy(&output.stderr)
    );
    serde_json::from_slice(&output.stdout).unwrap()
}

#[test]
fn every_file_gives_the_values_that_oslo_config_reads() {
    let theirs = oslo(CASES);
    assert_eq!(theirs.len(), CASES.len());
    let is_wrong = |ours: &Result<Value, String>, theirs: &Value| match ours {
        Ok(values) => values != theirs,
        Err(_) => !theirs.is_string(),
    };
    let pairs = CASES.iter().zip(theirs).map(|(texts, theirs)| (texts, ours(texts), theirs));
    let wrong: Vec<String> = pairs
        .filter(|(_, ours, theirs)| is_wrong(ours, theirs))
        .map(|(texts, ours, theirs)| format!("{texts:?}\n  oslo.config: {theirs}\n  here: {ours:?}"))
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}
