//! The image cache pass of OpenStack nova's libvirt driver as a command of its own.
//!
//! The road through the code, and the order in which to read it:
//!
//! ```text
//! cli ─> settings ─> inventory ┐
//!          cache directory ────┼─> evidence ─> verdict ─> report
//!          instance disks ─────┘                  └─────> removal ─> report
//! ```
//!
//! [`evidence`] gathers facts and is the only reader of the instances path, [`verdict`] judges them and knows no
//! filesystem, clock or environment, and [`removal`] is the only place that changes anything in the cache directory.
//!
//! The law behind every rule: never remove what anything may still need; unknown means keep.

pub mod backing_name;
pub mod cache_name;
mod catalog;
pub mod cli;
pub mod commands;
mod errors;
pub mod evidence;
pub mod exit;
mod filesystem;
mod goal;
mod guard;
pub mod images;
mod input;
pub mod inventory;
pub mod layout;
mod listing;
mod lock;
pub mod nova_conf;
pub mod outcome;
mod owner;
pub mod plan;
mod processes;
mod progress;
pub mod qcow2;
mod removal;
pub mod report;
mod schema;
mod selection;
mod settings;
pub mod signals;
mod size;
mod time;
pub mod verdict;
pub mod warning;
mod words;
