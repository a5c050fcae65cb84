//! The whole command line on one page.

use std::ffi::OsString;
use std::path::PathBuf;
use std::time::Duration;

use clap::error::ErrorKind;
use clap::{Args, CommandFactory as _, Parser, Subcommand, ValueEnum};

use crate::goal::{UntilFree, parse_until_free};
use crate::time::{AsOf, parse_as_of, parse_duration};

/// Show, explain and prune the image cache of an OpenStack nova compute host.
///
/// nova keeps every image that an instance was ever started from in the directory _base of its instances path; the
/// disks of the instances are qcow2 overlays on those files. This is nova's clean-up pass as a command: scan lists the
/// cache, explain says for each file what needs it, prune --dry-run shows what would be removed, and prune removes it. It
/// never removes what anything may still need: what is unknown is kept.
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
  nova-imagecache prune --inventory servers.json

NOVA_IMAGECACHE_LIBVIRT and other variables stand for options: see nova-imagecache(8)."
)]
pub struct Cli {
    #[command(flatten)]
    pub global: Global,
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every subcommand, before it or after it. Not clap's global ones: of those that may be given several times
/// clap drops the ones before the subcommand where there are some after it.
#[derive(Args, Debug, Default)]
#[command(next_help_heading = "Global options")]
pub struct Global {
    /// nova's instances_path [default: /var/lib/nova/instances, or what --config-file says]
    #[arg(short = 'p', long, value_name = "DIR", value_hint = clap::ValueHint::DirPath)]
    pub instances_path: Option<PathBuf>,
    /// Name of the cache directory under it [default: _base, or what --config-file says]
    #[arg(long, value_name = "NAME")]
    pub subdirectory_name: Option<OsString>,
    /// Read the instances path, cache directory, minimum ages and host from this nova.conf, where the command line does
    /// not give them; may be given several times, and the last file wins
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub config_file: Vec<PathBuf>,
    /// Print a table for people or JSON for programs [default: table]
    #[arg(short, long, value_enum)]
    pub format: Option<Format>,
    /// Print no warnings or notes on stderr
    #[arg(short, long)]
    pub quiet: bool,
    /// Print notes and how the evidence was gathered on stderr, and all files of a prune
    #[arg(short, long, conflicts_with = "quiet")]
    pub verbose: bool,
    /// The environment variables that were used.
    #[arg(skip)]
    pub environment: Vec<&'static str>,
}

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    #[default]
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
    Fname(With<Fname>),
    /// List what is in the cache
    ///
    /// Prints each file with its kind, what it takes on the disk and its age, the largest first, and totals per kind.
    /// Reads no instance's disk and judges nothing.
    #[command(after_help = "\
Example:
  nova-imagecache scan --format json")]
    Scan(With<Listing>),
    /// Say for each file why it stays or can be removed
    ///
    /// Reads the headers of all disks, compares them with the instances of the inventory, and prints a verdict with its
    /// reasons for each file of the cache. FILE or IMAGE_ID limits that to some files and shows everything about them.
    /// Changes nothing.
    #[command(after_help = "\
Examples:
  nova-imagecache explain --inventory servers.json
  nova-imagecache explain --inventory servers.json 0d5e6b61602d758984b3bf038267614d6016eb2a")]
    Explain(With<Explain>),
    /// Remove what is unused and old enough
    ///
    /// Judges as explain does and sets the mtime of each file in use to now. Then it takes nova's own locks, sets the
    /// removable files aside, judges everything again, and removes what is still unused. With --dry-run it changes nothing
    /// and shows what would be removed. FILE or IMAGE_ID limits the removal to some files.
    #[command(after_help = "\
Examples, of which only the last changes anything:
  nova-imagecache prune --dry-run --inventory servers.json --as-of +7d
  nova-imagecache prune --dry-run --libvirt /etc/libvirt/qemu --until-free 200GiB
  nova-imagecache prune --dry-run --inventory servers.json --format json > plan.json
  nova-imagecache prune --inventory servers.json --plan plan.json")]
    Prune(With<Prune>),
}

/// A subcommand's own options, and those of every subcommand.
#[derive(Args, Debug)]
pub struct With<A: Args> {
    #[command(flatten)]
    pub args: A,
    #[command(flatten)]
    pub global: Global,
}

#[derive(Args, Debug)]
pub struct Fname {
    /// Ids of images; - reads them from standard input, one a line
    #[arg(required = true, value_name = "IMAGE_ID")]
    pub image_ids: Vec<String>,
}

#[derive(Args, Debug)]
pub struct Listing {
    /// Images as JSON, to show names and what cannot be downloaded again: the output of "openstack image list --long -f
    /// json" or the answer to GET /v2/images; - is standard input; may be given several times
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub images: Vec<PathBuf>,
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
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    pub original_min_age: Option<Duration>,
    /// Minimum age of unused resized copies [default: 1h, or what --config-file says]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    pub resized_min_age: Option<Duration>,
    /// Keep these although they are unused: names of cache files, or ids of images for all that belongs to them; may be
    /// given several times
    #[arg(long, value_name = "FILE|IMAGE_ID")]
    pub keep: Vec<OsString>,
    /// Ignore disks in directories of no instance in the inventory, as nova does: their backing files can be removed
    #[arg(long)]
    pub ignore_unlisted: bool,
    /// Judge interrupted downloads (.part, .converted) too
    #[arg(long)]
    pub partials: bool,
    #[command(flatten)]
    pub listing: Listing,
}

#[derive(Args, Debug)]
pub struct Explain {
    /// Show only these, in full: names or paths of cache files, the first 8 or more hex digits of a name, or ids of images
    /// for all that belongs to them
    #[arg(value_name = "FILE|IMAGE_ID")]
    pub subjects: Vec<OsString>,
    #[command(flatten)]
    pub judging: Judging,
    /// Judge as if it were then: 2026-11-30T00:00:00Z, or +7d from now
    #[arg(long, value_name = "TIME", value_parser = parse_as_of, allow_hyphen_values = true)]
    pub as_of: Option<AsOf>,
}

#[derive(Args, Debug)]
pub struct Prune {
    /// Remove only these, if they are removable: as for explain
    #[arg(value_name = "FILE|IMAGE_ID")]
    pub subjects: Vec<OsString>,
    /// Change nothing: show what would be removed
    #[arg(short = 'n', long)]
    pub dry_run: bool,
    #[command(flatten)]
    pub judging: Judging,
    /// Judge as if it were then: 2026-11-30T00:00:00Z, or +7d from now; only with --dry-run
    #[arg(long, value_name = "TIME", value_parser = parse_as_of, allow_hyphen_values = true)]
    pub as_of: Option<AsOf>,
    /// Remove the oldest files only until so much is free: 200GiB, or 20% of the filesystem that holds the cache
    #[arg(long, value_name = "SIZE|PERCENT", value_parser = parse_until_free, allow_hyphen_values = true)]
    pub until_free: Option<UntilFree>,
    /// Judge by the disks alone, without a list of instances
    #[arg(long)]
    pub disks_only: bool,
    /// Go on although no instance uses this cache, or no instance directory holds a disk
    #[arg(long)]
    pub allow_empty: bool,
    /// How long to wait for nova's locks
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true, default_value = "5s")]
    pub lock_wait: Duration,
    /// How long files are set aside before everything is read again [default: 0.1s, or 61s on a network filesystem]
    #[arg(long, value_name = "DURATION", value_parser = parse_duration, allow_hyphen_values = true)]
    pub settle: Option<Duration>,
    /// Remove at most what this output of prune --dry-run --format json would remove
    #[arg(long, value_name = "FILE", value_hint = clap::ValueHint::FilePath)]
    pub plan: Option<PathBuf>,
}

impl Cli {
    /// Reads the command line. The global options that stand after the subcommand join those before it.
    ///
    /// # Errors
    /// Those of clap, and where one that takes one value has two.
    pub fn read(arguments: impl IntoIterator<Item = OsString>) -> Result<Self, clap::Error> {
        let mut cli = Self::try_parse_from(arguments)?;
        let after = std::mem::take(match &mut cli.command {
            Command::Fname(it) => &mut it.global,
            Command::Scan(it) => &mut it.global,
            Command::Explain(it) => &mut it.global,
            Command::Prune(it) => &mut it.global,
        });
        cli.global.join(after).map_err(|it| Self::command().error(ErrorKind::ArgumentConflict, it))?;
        Ok(cli)
    }

    /// Takes from the environment what the command line does not give. An empty value counts as unset.
    pub fn fill_in(&mut self, var: impl Fn(&str) -> Option<OsString>) {
        let Self { global, command } = self;
        let used = &mut global.environment;
        let mut take = |name: &'static str, is_given: bool| {
            let value = if is_given { None } else { var(name).filter(|it| !it.is_empty()) };
            used.extend(value.is_some().then_some(name));
            value
        };
        if let Some(path) = take("NOVA_IMAGECACHE_INSTANCES_PATH", global.instances_path.is_some()) {
            global.instances_path = Some(path.into());
        }
        let mut fill = |name: &'static str, option: &mut Vec<PathBuf>| {
            option.extend(take(name, !option.is_empty()).map(PathBuf::from));
        };
        fill("NOVA_IMAGECACHE_CONFIG_FILE", &mut global.config_file);
        let (judging, disks_only) = match command {
            Command::Fname(_) => return,
            Command::Scan(scan) => return fill("NOVA_IMAGECACHE_IMAGES", &mut scan.args.images),
            Command::Explain(explain) => (&mut explain.args.judging, false),
            Command::Prune(prune) => (&mut prune.args.judging, prune.args.disks_only),
        };
        fill("NOVA_IMAGECACHE_IMAGES", &mut judging.listing.images);
        if !disks_only {
            fill("NOVA_IMAGECACHE_INVENTORY", &mut judging.inventory);
            fill("NOVA_IMAGECACHE_LIBVIRT", &mut judging.libvirt);
        }
        if let Some(host) = take("NOVA_IMAGECACHE_HOST", judging.host.is_some()) {
            judging.host = Some(host.to_string_lossy().into_owned());
        }
    }
}

impl Global {
    /// Takes the options of another place too.
    fn join(&mut self, after: Self) -> Result<(), String> {
        fn one<T>(option: &str, before: &mut Option<T>, after: Option<T>) -> Result<(), String> {
            if before.is_some() && after.is_some() {
                return Err(format!("the argument '{option}' cannot be used multiple times"));
            }
            *before = before.take().or(after);
            Ok(())
        }
        one("--instances-path <DIR>", &mut self.instances_path, after.instances_path)?;
        one("--subdirectory-name <NAME>", &mut self.subdirectory_name, after.subdirectory_name)?;
        one("--format <FORMAT>", &mut self.format, after.format)?;
        self.config_file.extend(after.config_file);
        self.quiet |= after.quiet;
        self.verbose |= after.verbose;
        if self.quiet && self.verbose {
            return Err("the argument '--quiet' cannot be used with '--verbose'".into());
        }
        Ok(())
    }
}
