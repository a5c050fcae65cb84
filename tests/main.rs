//! All tests of the program as a whole, in one binary: linking is what takes the time.

#![allow(
    dead_code,
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    reason = "clippy knows only #[test] functions, and not every test uses all of the world"
)]

mod common;

mod ansible;
mod bad_input;
mod changes_nothing;
mod clients;
mod completions;
mod demo;
mod determinism;
mod domains;
mod evidence;
mod examples;
mod generated;
mod inventory;
mod not_fooled;
mod nova_beside_prune;
mod nova_conf;
mod operator;
mod output;
mod parsers;
mod progress;
#[cfg(target_arch = "x86_64")]
mod proof_faults;
#[cfg(target_arch = "x86_64")]
mod proof_interleavings;
#[cfg(target_arch = "x86_64")]
mod proof_nova;
mod properties;
mod prune_failures;
mod prune_goal;
mod prune_guards;
mod prune_leftovers;
mod prune_locks;
mod prune_open;
mod prune_output;
mod prune_owner;
mod prune_plan;
mod prune_promise;
mod prune_second_look;
mod qcow2_differential;
mod reference;
mod renames;
mod table;
mod traps;
mod two_hosts;
