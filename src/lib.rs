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
//! filesystem, clock or environment, and [`removal`] is the only place that deletes or touches a file of the cache.
//!
//! The law behind every rule: never remove what anything may still need; unknown means keep.

pub mod backing_name;
pub mod cache_name;
pub mod cli;
pub mod commands;
pub mod evidence;
pub mod exit;
pub mod guard;
pub mod inventory;
pub mod lock;
pub mod nova_conf;
pub mod plan;
pub mod progress;
pub mod qcow2;
pub mod removal;
pub mod report;
pub mod settings;
pub mod time;
pub mod verdict;
pub mod warning;
