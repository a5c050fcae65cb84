//! What an operator should know beside the answer: printed to stderr and listed in the JSON.

use serde::Serialize;

/// Something worth knowing that stops nothing.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct Warning {
    /// A word for programs, in snake_case; the man page nova-imagecache-json(5) lists them.
    pub code: &'static str,
    /// A sentence for people.
    pub text: String,
}

impl Warning {
    /// A warning of that code.
    pub fn new(code: &'static str, text: impl Into<String>) -> Self {
        Self { code, text: text.into() }
    }
}
