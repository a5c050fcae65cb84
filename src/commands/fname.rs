//! `fname`: image ids to cache file names.

use std::io::Read as _;

use anyhow::{Context as _, Result, bail};

use crate::cache_name::cache_file_name;
use crate::cli::{Fname, Global};
use crate::exit::Exit;
use crate::report::{self, FnameReport, ImageFile, json, table};
use crate::settings;

/// Runs `fname`. Nothing is printed unless every id is good.
///
/// # Errors
/// An empty id, or stdin that cannot be read or is not UTF-8.
pub fn run(global: &Global, args: &Fname) -> Result<Exit> {
    // Where the cache is matters only where it was named: the command serves at a desk, too.
    let is_placed = global.instances_path.is_some() || !global.config_file.is_empty();
    let layout = |conf| settings::layout(global, &conf);
    let layout = is_placed.then(|| settings::nova_conf(global).and_then(layout)).transpose()?;
    let cache_dir = layout.map(|it| it.cache_dir());
    let files = ids(&args.image_ids)?
        .into_iter()
        .map(|image_id| {
            let file_name = cache_file_name(&image_id);
            let place = cache_dir.as_ref().map(|dir| dir.join(&file_name)).map(|path| {
                let exists = path.try_exists().ok();
                (path, exists)
            });
            ImageFile { image_id, file_name, place }
        })
        .collect();
    let report = FnameReport { files };
    report::print(
        global.format,
        |output| table::fname(output, &report),
        |output| json::fname(output, &report),
    )?;
    Ok(Exit::Done)
}

fn ids(args: &[String]) -> Result<Vec<String>> {
    let mut ids = Vec::new();
    for (index, arg) in args.iter().enumerate() {
        if arg == "-" {
            let mut text = String::new();
            std::io::stdin()
                .lock()
                .read_to_string(&mut text)
                .context("cannot read image ids from standard input")?;
            for (number, line) in (1..).zip(text.lines()) {
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
