//! All tests of the program as a whole, in one binary: linking is what takes the time.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions, and not every test uses all of the world"
)]

mod common;

mod bad_input;
mod changes_nothing;
mod clients;
mod completions;
mod demo;
mod determinism;
mod domains;
mod evidence;
mod examples;
mod faults;
mod generated;
mod inventory;
mod nova_beside_prune;
mod nova_conf;
mod output;
mod parsers;
mod progress;
mod properties;
mod prune_failures;
mod prune_guards;
mod prune_kill;
mod prune_locks;
mod prune_open;
mod prune_owner;
mod prune_plan;
mod prune_promise;
mod prune_race;
mod qcow2_differential;
mod reference;
mod renames;
mod table;
mod traps;
mod two_hosts;
