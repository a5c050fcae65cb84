//! What a prune is to do with each file, and what it did: values, apart from who acts on them.

use std::collections::BTreeMap;
use std::ffi::OsStr;

use crate::cache_name::{CacheName, Kind};
use crate::plan::Plan;
use crate::selection::Selection;
use crate::verdict::{Judged, Judgement, Verdict};
use crate::words::words;

words! {
    /// What became of a file.
    pub enum Outcome {
        Removed = "removed",
        /// A dry run: it would be tried. In a real prune: it is still to be done.
        WouldRemove = "would_remove",
        /// Its verdict keeps it, or it was not asked for.
        Kept = "kept",
        /// Not needed for the goal of `--until-free`.
        Spared = "spared",
        /// Somebody else, most likely nova, holds its lock.
        Locked = "locked",
        /// Another process has it open.
        Open = "open",
        /// It is no longer the file that was judged, or something now needs it.
        Changed = "changed",
        /// It could not be removed, or not be checked.
        Failed = "failed",
        /// The run was interrupted before.
        NotReached = "not_reached",
    }
}

/// An outcome, and why where that needs saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    pub outcome: Outcome,
    pub error: Option<String>,
    /// Who has the file open, where it could not be put back for that reason and a new file has its name.
    pub stays_aside_for: Option<String>,
}

impl Done {
    pub const fn plain(outcome: Outcome) -> Self {
        Self { outcome, error: None, stays_aside_for: None }
    }

    pub fn because(outcome: Outcome, error: impl Into<String>) -> Self {
        Self { outcome, error: Some(error.into()), stays_aside_for: None }
    }
}

/// The outcome of each file of the cache.
pub type Outcomes<'a> = BTreeMap<&'a OsStr, Done>;

/// What a prune is to do with each file: `would_remove`, `kept`, or `changed` where the plan means another file.
///
/// This is what a dry run reports, and what a real one acts on. With `asked`, only those files may be removed.
pub fn intents<'a>(
    judgement: &Judgement<'a>,
    plan: Option<&Plan>,
    asked: Option<&Selection>,
) -> Outcomes<'a> {
    let intent = |judged: &Judged<'_>| {
        let name = judged.name;
        let is_meant =
            asked.is_none_or(|it| it.contains(name)) && plan.is_none_or(|it| it.would_remove(name));
        if judged.verdict != Verdict::Removable || !is_meant {
            return Done::plain(Outcome::Kept);
        }
        if let Some(why) = plan.and_then(|it| it.why_not(judged)) {
            return Done::because(Outcome::Changed, format!("{} {why}", judged.file.path.display()));
        }
        Done::plain(Outcome::WouldRemove)
    };
    let mut intents: Outcomes<'a> =
        judgement.files.iter().map(|judged| (judged.name, intent(judged))).collect();
    for judged in &judgement.files {
        let CacheName { kind: Kind::Info, of, .. } = CacheName::parse(judged.name) else { continue };
        let owner = intents.get(OsStr::new(of)).filter(|it| it.outcome == Outcome::Changed).cloned();
        let info = intents.get_mut(judged.name).filter(|it| it.outcome == Outcome::WouldRemove);
        if let Some((info, owner)) = info.zip(owner) {
            *info = owner;
        }
    }
    intents
}
