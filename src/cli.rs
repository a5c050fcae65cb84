//! The whole command line on one page.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::time::{AsOf, parse_as_of, parse_duration};

/// Show, explain and prune the image cache of an OpenStack nova compute host.
///
/// nova keeps every image that an instance was ever started from in the directory _base of its instances path; the
/// disks of the instances are qcow2 overlays on those files. This is nova's clean-up pass as a command: scan lists the
/// cache, explain says of each file what needs it, prune --dry-run shows what would go, and prune removes it. It never
/// removes what anything may still need: what it cannot tell, it keeps.
#[derive(Debug, Parser)]
#[command(
    version,
    propagate_version = true,
    max_term_width = 100,
    after_help = "\
Examples, of which only the last changes anything:
  nova-imagecache scan
  nova-imagecache explain --libvirt /etc/libvirt/qemu
  nova-imagecache prune --dry-run --inventory servers.json
  nova-imagecache prune --inventory servers.json"
)]
pub struct Cli {
    /// Options of every subcommand.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every subcommand.
#[derive(Args, Debug)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// nova's instances_path [default: /var/lib/nova/instances, or what --config-file says]
    #[arg(short = 'p', long, global = true, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub instances_path: Option<PathBuf>,
    /// Name of the cache directory under it [default: _base, or what --config-file says]
    #[arg(long, global = true, value_name = "NAME")]
    pub subdirectory_name: Option<OsString>,
    /// Take what the command line leaves open from this nova.conf: instances path, cache directory, minimum ages and
    /// host; may be given several times, and the last file wins
    #[arg(long, global = true, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config_file: Vec<PathBuf>,
    /// Print a table for people or JSON for programs
    #[arg(short, long, global = true, value_enum, default_value_t = Format::Table)]
    pub format: Format,
    /// Print no warnings or notes on stderr
    #[arg(short, long, global = true)]
    pub quiet: bool,
    /// Say on stderr how the evidence was gathered
    #[arg(short, long, global = true, conflicts_with = "quiet")]
    pub verbose: bool,
}

/// How to print.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs: nova-imagecache-json(5).
    Json,
}

/// The subcommands, each one phase of the pass.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Print the cache file name of an image
    ///
    /// The name is the SHA-1 of the image's id in hex. Names are printed one a line, in the order asked. This needs no
    /// instances path; where one is named (-p or --config-file), --format json also says whether the file is there.
    #[command(after_help = "\
Example:
  nova-imagecache fname fd0cb2f1-8375-44c9-b1f4-3e1f4c4a8ef0")]
    Fname(Fname),
    /// List what is in the cache
    ///
    /// Prints each file with its kind, what it takes on the disk and its age, the largest first, and totals per kind.
    /// Reads no instance's disk and judges nothing.
    #[command(after_help = "\
Example:
  nova-imagecache scan --format json")]
    Scan,
    /// Say of each file why it stays or may go
    ///
    /// Reads the headers of all disks, puts them together with the instances of the inventory, and prints a verdict
    /// with its reasons for each file of the cache. FILE or IMAGE_ID limits that to some files and tells their whole
    /// story. Changes nothing.
    #[command(after_help = "\
Examples:
  nova-imagecache explain --inventory servers.json
  nova-imagecache explain --inventory servers.json 0d5e6b61602d758984b3bf038267614d6016eb2a")]
    Explain(Explain),
    /// Remove what is unused and old enough
    ///
    /// Judges as explain does, sets the mtime of each file in use to now, and removes each removable file under nova's
    /// own lock, after looking again whether anything has come to need it. With --dry-run it changes nothing and shows
    /// what would be removed.
    #[command(after_help = "\
Examples, of which the first two change nothing:
  nova-imagecache prune --dry-run --inventory servers.json --as-of +7d
  nova-imagecache prune --dry-run --inventory servers.json --format json > plan.json
  nova-imagecache prune --inventory servers.json --plan plan.json")]
    Prune(Prune),
}

/// `fname`
#[derive(Args, Debug)]
pub struct Fname {
    /// Ids of images; - reads them from standard input, one a line
    #[arg(required = true, value_name = "IMAGE_ID")]
    pub image_ids: Vec<String>,
}

/// Where the verdicts come from.
#[derive(Args, Debug)]
pub struct Judging {
    /// Instances as JSON: the tool's own list, the answer to GET /servers/detail, or the output of "openstack server list
    /// --all-projects --long -f json"; - is standard input; may be given several times
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub inventory: Vec<PathBuf>,
    /// Instances as domain XML, a file or a folder of them, as in /etc/libvirt/qemu; may be given several times
    #[arg(long, value_name = "PATH", value_hint = clap::ValueHint::AnyPath)]
    pub libvirt: Vec<PathBuf>,
    /// This host's name as nova knows it [default: what --config-file says, else the machine's host name]
    #[arg(long, value_name = "NAME", value_parser = clap::builder::NonEmptyStringValueParser::new())]
    pub host: Option<String>,
    /// Minimum age of unused images, swap and ephemeral files [default: 24h, or what --config-file says]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub original_min_age: Option<Duration>,
    /// Minimum age of unused resized copies [default: 1h, or what --config-file says]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    pub resized_min_age: Option<Duration>,
    /// Leave out disks in directories of no instance of the inventory, as nova does: their backing files may go
    #[arg(long)]
    pub ignore_unlisted: bool,
    /// Judge broken downloads (.part, .converted) too
    #[arg(long)]
    pub partials: bool,
}

/// `explain`
#[derive(Args, Debug)]
pub struct Explain {
    /// Show only these, in full: names of cache files, or ids of images for all that belongs to them
    #[arg(value_name = "FILE|IMAGE_ID")]
    pub subjects: Vec<OsString>,
    /// Where the verdicts come from.
    #[command(flatten)]
    pub judging: Judging,
    /// Judge as if it were then: 2026-11-30T00:00:00Z, or +7d from now
    #[arg(long, value_name = "TIME", value_parser = parse_as_of)]
    pub as_of: Option<AsOf>,
}

/// `prune`
#[derive(Args, Debug)]
pub struct Prune {
    /// Change nothing: show what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    /// Where the verdicts come from.
    #[command(flatten)]
    pub judging: Judging,
    /// Judge as if it were then: 2026-11-30T00:00:00Z, or +7d from now; only with --dry-run
    #[arg(long, value_name = "TIME", value_parser = parse_as_of, requires = "dry_run")]
    pub as_of: Option<AsOf>,
    /// Go by the disks alone, without an inventory
    #[arg(long)]
    pub disks_only: bool,
    /// Go on although no instance counts for this cache, or no instance directory holds a disk
    #[arg(long)]
    pub allow_empty: bool,
    /// How long to wait for nova's lock, for each file
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, default_value = "5s")]
    pub lock_wait: Duration,
    /// Remove at most what this output of prune --dry-run --format json would remove
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub plan: Option<PathBuf>,
}
