//! `--until-free`: which files are needed until enough is free. Pure.

use std::collections::BTreeSet;
use std::ffi::OsStr;

use anyhow::{Context as _, Result, bail};
use serde::Serialize;

use crate::cache_name::{CacheName, Kind};
use crate::filesystem::Space;
use crate::outcome::{Done, Outcome, Outcomes};
use crate::verdict::{Judged, Judgement};

/// What `--until-free` says.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum UntilFree {
    Bytes(u64),
    /// Of the size of the filesystem that holds the cache.
    Percent(f64),
}

/// Reads `200GiB` or `20%`.
pub fn parse_until_free(text: &str) -> Result<UntilFree> {
    let invalid = || format!("{text:?}: invalid size: write 200GiB, or 20% of the filesystem");
    if let Some(percent) = text.trim().strip_suffix('%') {
        let percent: f64 = percent.trim().parse().with_context(invalid)?;
        if !(0.0..=100.0).contains(&percent) {
            bail!("{text:?}: out of range: a percentage is from 0% to 100%");
        }
        return Ok(UntilFree::Percent(percent));
    }
    let bytes: bytesize::ByteSize = text.parse().map_err(|_| anyhow::Error::msg(invalid()))?;
    Ok(UntilFree::Bytes(bytes.as_u64()))
}

impl UntilFree {
    pub fn wanted_bytes(self, space: Space) -> u64 {
        match self {
            Self::Bytes(bytes) => bytes,
            Self::Percent(percent) => (space.size_bytes as f64 * percent / 100.0).ceil() as u64,
        }
    }
}

/// How far a prune came towards its goal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
pub struct Goal {
    pub wanted_bytes: u64,
    pub available_before_bytes: u64,
    /// As expected, of a dry run.
    pub available_after_bytes: u64,
}

impl Goal {
    pub const fn short_bytes(&self) -> u64 {
        self.wanted_bytes.saturating_sub(self.available_after_bytes)
    }
}

/// The next files to remove until so many bytes more are free: of all that would be removed, the oldest first, then by
/// name. With an `.info` file, which goes and counts with its file.
pub fn next_for<'a>(
    judgement: &Judgement<'a>,
    outcomes: &Outcomes<'a>,
    mut short_bytes: u64,
) -> Vec<&'a OsStr> {
    let is_left = |name: &OsStr| outcomes.get(name).is_some_and(|it| it.outcome == Outcome::WouldRemove);
    let owner = |judged: &Judged<'a>| match CacheName::parse(judged.name) {
        CacheName { kind: Kind::Info, of, .. } => Some(OsStr::new(of)).filter(|it| is_left(it)),
        _ => None,
    };
    let mut files: Vec<&Judged<'a>> =
        judgement.files.iter().filter(|it| is_left(it.name) && owner(it).is_none()).collect();
    files.sort_by_key(|it| (it.file.stat.map(|stat| stat.mtime), it.name));
    let mut chosen = Vec::new();
    for file in files {
        if short_bytes == 0 {
            break;
        }
        let mut info = file.name.to_owned();
        info.push(".info");
        for it in [Some(file), judgement.file(&info).filter(|it| is_left(it.name))].into_iter().flatten() {
            short_bytes = short_bytes.saturating_sub(it.file.frees_bytes());
            chosen.push(it.name);
        }
    }
    chosen
}

/// Marks what is still to be removed, but for these files, as not needed for the goal.
pub fn spare_others(outcomes: &mut Outcomes<'_>, needed: &BTreeSet<&OsStr>) {
    for (name, done) in outcomes.iter_mut() {
        if done.outcome == Outcome::WouldRemove && !needed.contains(name) {
            *done = Done::plain(Outcome::Spared);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_goal_is_a_size_or_a_part_of_the_filesystem() {
        let space = Space { size_bytes: 1001, available_bytes: 0 };
        for (text, wanted) in [
            ("200GiB", Some(200 << 30)),
            ("1.5 MiB", Some(3 << 19)),
            ("4096", Some(4096)),
            ("2GB", Some(2_000_000_000)),
            ("10%", Some(101)),
            ("0%", Some(0)),
            ("101%", None),
            ("-1%", None),
            ("NaN%", None),
            ("lots", None),
            ("", None),
            ("%", None),
        ] {
            assert_eq!(parse_until_free(text).ok().map(|it| it.wanted_bytes(space)), wanted, "{text}");
        }
    }
}
