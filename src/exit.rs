//! What the process tells its caller: the exit codes, and the two errors that are more than bad input.

use std::fmt;
use std::process::ExitCode;

/// How a command ended. Errors end it with [`Exit::Usage`] unless they are [`AlreadyRunning`] or [`OutputFailed`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// Everything asked for was done; locked and open files and warnings included.
    Done = 0,
    /// Done in part: the evidence is incomplete, or a file could not be removed or was not what had been judged.
    Partly = 1,
    /// Bad usage or input, or refused: nothing was changed.
    Usage = 2,
    /// Another prune of this instances path is running.
    AlreadyRunning = 3,
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> Self {
        Self::from(exit as u8)
    }
}

/// The error that another prune holds the run's lock.
#[derive(Debug)]
pub struct AlreadyRunning(
    /// The instances path, for people.
    pub String,
);

impl fmt::Display for AlreadyRunning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "another prune of {} is running: wait for it to end, then run this again", self.0)
    }
}

impl std::error::Error for AlreadyRunning {}

/// The error that the report could not be written, whatever had been done before.
#[derive(Debug)]
pub struct OutputFailed(
    /// What the write gave.
    pub std::io::Error,
);

impl fmt::Display for OutputFailed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "cannot write the output: {}", self.0)
    }
}

impl std::error::Error for OutputFailed {}
