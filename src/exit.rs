//! What the process tells its caller: the exit codes, and the two errors that are more than bad input.

use std::fmt;
use std::process::ExitCode;

/// How a command ended. Errors end it with [`Exit::Usage`] unless they are [`AlreadyRunning`] or [`OutputFailed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Done in part.
    Incomplete = 1,
    /// Bad usage or input, or refused: nothing was changed.
    Usage = 2,
    AlreadyRunning = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The error that another prune of this instances path is running.
#[derive(Debug)]
pub struct AlreadyRunning(pub String);

impl fmt::Display for AlreadyRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another prune of {} is running: wait for it to end, then run this again", self.0)
    }
}

impl std::error::Error for AlreadyRunning {}

/// The error that the report could not be written, whatever had been done before.
#[derive(Debug)]
pub struct OutputFailed(pub std::io::Error);

impl fmt::Display for OutputFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write the output: {}", self.0)
    }
}

impl std::error::Error for OutputFailed {}
