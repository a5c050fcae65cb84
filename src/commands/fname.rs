//! `fname`: image ids to cache file names.

use std::io::BufRead as _;

use anyhow::{Context as _, Result, bail};

use crate::cache_name::cache_file_name;
use crate::cli::{Fname, Global};
use crate::exit::Exit;
use crate::report::{self, ImageFile, json, table};
use crate::settings;
use crate::warning::Warning;

/// Nothing is printed unless every id is good.
pub fn run(global: &Global, args: &Fname) -> Result<Exit> {
    // Where the cache is matters only where it was named: the command serves at a desk, too.
    let is_placed = global.instances_path.is_some() || !global.config_file.is_empty();
    let layout = |conf| settings::layout(global, &conf);
    let layout = is_placed.then(|| settings::nova_conf(global, None).and_then(layout));
    // Nor does a nova.conf matter that only the environment names, and that this user may not read.
    let is_from_environment = global.environment.contains(&"NOVA_IMAGECACHE_CONFIG_FILE");
    let layout = layout.filter(|it| it.is_ok() || !is_from_environment).transpose()?;
    let cache_dir = layout.map(|it| it.cache_dir());
    let ids = ids(&args.image_ids)?;
    let doubtful = ids.iter().filter(|it| !is_uuid(it)).map(|id| Warning::NotAUuid { id: id.clone() });
    report::print_warnings(&doubtful.collect::<Vec<_>>(), global);
    let files: Vec<ImageFile> = ids
        .into_iter()
        .map(|image_id| {
            let file_name = cache_file_name(&image_id);
            let path = cache_dir.as_ref().map(|dir| dir.join(&file_name));
            let exists = path.as_ref().and_then(|it| it.try_exists().ok());
            let path = path.map(|it| it.to_string_lossy().into_owned());
            ImageFile { image_id, file_name, path, exists }
        })
        .collect();
    report::write(global, || table::fname(&files), |output| json::fname(output, &files))?;
    Ok(Exit::Done)
}

fn ids(args: &[String]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    if args.iter().filter(|it| *it == "-").count() > 1 {
        bail!("standard input (-) can be read only once: give - once");
    }
    for (index, arg) in args.iter().enumerate() {
        if arg == "-" {
            for (number, line) in (1..).zip(std::io::stdin().lock().split(b'\n')) {
                let line = line.context("cannot read image ids from standard input")?;
                let Ok(line) = str::from_utf8(&line) else {
                    bail!("standard input: line {number}: not UTF-8: save the list as UTF-8");
                };
                // A file that came from elsewhere may have other line ends, or blanks before them.
                let id = line.trim();
                if id.is_empty() {
                    bail!("standard input: line {number}: an empty image id: leave the line out");
                }
                ids.push(id.to_owned());
            }
        } else if arg.is_empty() {
            bail!("argument {}: an empty image id: give the id of an image", index + 1);
        } else {
            ids.push(arg.clone());
        }
    }
    Ok(ids)
}

/// Whether an id is a UUID as glance writes it: lower-case hex in groups of 8, 4, 4, 4 and 12.
fn is_uuid(id: &str) -> bool {
    let is_hex = |part: &str| part.bytes().all(|it| matches!(it, b'0'..=b'9' | b'a'..=b'f'));
    id.split('-').map(str::len).eq([8, 4, 4, 4, 12]) && id.split('-').all(is_hex)
}
