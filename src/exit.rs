//! What the process tells its caller: the exit codes, and the errors that are more than bad input.

use std::fmt;

/// How a command ended. Errors end it with [`Exit::Usage`] unless they are a [`Failure`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    Done = 0,
    /// Done in part.
    Incomplete = 1,
    /// Bad usage or input, or refused: nothing was changed.
    Usage = 2,
    AlreadyRunning = 3,
}

/// An error that ends the process with another code than bad input does.
#[derive(Debug)]
pub struct Failure {
    pub exit: Exit,
    pub message: String,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

impl std::error::Error for Failure {}
