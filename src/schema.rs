//! The version of the JSON; it changes when a field is removed or means something else.

pub const SCHEMA_VERSION: u32 = 1;
