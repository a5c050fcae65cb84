//! The only place that deletes or touches anything.

use serde::Serialize;

/// What became of a file.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome {
    /// It is gone.
    Removed,
    /// A dry run: it would be tried.
    WouldRemove,
    /// Its verdict, or the plan, keeps it.
    Kept,
    /// nova holds its lock.
    Locked,
    /// A running QEMU has it open.
    Open,
    /// It is no longer what was judged, or something has come to need it.
    Changed,
    /// It could not be removed, or not be checked.
    Failed,
}

impl Outcome {
    /// Every outcome, in the order of reports.
    pub const ALL: [Self; 7] =
        [Self::Removed, Self::WouldRemove, Self::Kept, Self::Locked, Self::Open, Self::Changed, Self::Failed];

    /// The word for it in tables and JSON.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Removed => "removed",
            Self::WouldRemove => "would_remove",
            Self::Kept => "kept",
            Self::Locked => "locked",
            Self::Open => "open",
            Self::Changed => "changed",
            Self::Failed => "failed",
        }
    }
}

/// What became of one file, and why where that needs saying.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Done {
    /// What became of it.
    pub outcome: Outcome,
    /// Why, where it was not removed though it was removable.
    pub error: Option<String>,
}

impl Done {
    /// An outcome that says everything.
    pub const fn plain(outcome: Outcome) -> Self {
        Self { outcome, error: None }
    }
}
