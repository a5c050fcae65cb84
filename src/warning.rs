//! What an operator should know beside the answer: on stderr, and in the JSON.

use std::fmt;

use serde::ser::{Serialize, SerializeStruct as _, Serializer};

use crate::size::size_text;
use crate::time::ForPeople;

/// Whether it is printed on every run, or only with `-v`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Level {
    Warning,
    Note,
}

impl Level {
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Warning => "warning",
            Self::Note => "note",
        }
    }
}

/// Something that an operator should know and that stops nothing. Texts are whole sentences; names in them are escaped
/// when they are printed.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Warning {
    NoInventory,
    InventoryIncomplete { why: String },
    NoComputeNodes { instances_path: String, why: String },
    HostUnknown { host: String, instances_path: String },
    NothingCounted { instances_path: String },
    DirectoriesAbsent { instances: Vec<String>, instances_path: String },
    NoCacheDirectory { cache_dir: String },
    EvidenceIncomplete { path: String, error: String, advice: &'static str, more: usize },
    InstanceBroken { file: String, why: String },
    RemoveUnusedBaseImages,
    ListOf1000 { source: String },
    LacksImage(Lacking),
    LacksKernel(Lacking),
    LacksSwap(Lacking),
    LacksEphemeral(Lacking),
    NoDomains { path: String },
    ImagesIncomplete { source: String, why: String },
    NotAUuid { id: String },
    ShortMinimumAge { option: &'static str, age: std::time::Duration },
    KeepUnknown { name: String },
    NotInCache { name: String },
    SetAsideFound { count: usize, first: String },
    SetAsideLeft { path: String, why: String },
    TouchFailed { path: String, error: String, more: usize },
    GoalMissed { short_bytes: u64 },
    Interrupted { signal: &'static str },
    PlanDiffers { what: String },
    LocksNotShared { mount_option: String, mount_point: String },
}

/// Instances of which no source tells some fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lacking {
    pub first: String,
    pub more: usize,
}

impl Warning {
    /// The word for programs; nova-imagecache-json(5) lists them all.
    pub const fn code(&self) -> &'static str {
        match self {
            Self::NoInventory => "no_inventory",
            Self::InventoryIncomplete { .. } => "inventory_incomplete",
            Self::NoComputeNodes { .. } => "no_compute_nodes",
            Self::HostUnknown { .. } => "host_unknown",
            Self::NothingCounted { .. } => "nothing_counted",
            Self::DirectoriesAbsent { .. } => "directories_absent",
            Self::NoCacheDirectory { .. } => "no_cache_directory",
            Self::EvidenceIncomplete { .. } => "evidence_incomplete",
            Self::InstanceBroken { .. } => "instance_broken",
            Self::RemoveUnusedBaseImages => "remove_unused_base_images",
            Self::ListOf1000 { .. } => "list_of_1000",
            Self::LacksImage(_) => "lacks_image",
            Self::LacksKernel(_) => "lacks_kernel",
            Self::LacksSwap(_) => "lacks_swap",
            Self::LacksEphemeral(_) => "lacks_ephemeral",
            Self::NoDomains { .. } => "no_domains",
            Self::ImagesIncomplete { .. } => "images_incomplete",
            Self::NotAUuid { .. } => "not_a_uuid",
            Self::ShortMinimumAge { .. } => "short_minimum_age",
            Self::KeepUnknown { .. } => "keep_unknown",
            Self::NotInCache { .. } => "not_in_cache",
            Self::SetAsideFound { .. } => "set_aside_found",
            Self::SetAsideLeft { .. } => "set_aside_left",
            Self::TouchFailed { .. } => "touch_failed",
            Self::GoalMissed { .. } => "goal_missed",
            Self::Interrupted { .. } => "interrupted",
            Self::PlanDiffers { .. } => "plan_differs",
            Self::LocksNotShared { .. } => "locks_not_shared",
        }
    }

    pub const fn level(&self) -> Level {
        match self {
            Self::LacksImage(_)
            | Self::LacksKernel(_)
            | Self::LacksSwap(_)
            | Self::LacksEphemeral(_)
            | Self::NoCacheDirectory { .. }
            | Self::KeepUnknown { .. }
            | Self::NotInCache { .. } => Level::Note,
            _ => Level::Warning,
        }
    }
}

impl fmt::Display for Warning {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::NoInventory => f.write_str(
                "no list of instances was given, so files are judged by the disks alone: add --libvirt or --inventory",
            ),
            Self::InventoryIncomplete { why } => {
                write!(f, "the inventory is incomplete, so nothing is removable: {why}")
            }
            Self::NoComputeNodes { instances_path, why } => write!(
                f,
                "cannot read which hosts share {instances_path}, so instances on all hosts count: {why}"
            ),
            Self::HostUnknown { host, instances_path } => write!(
                f,
                "host {host} is neither in {instances_path}/compute_nodes nor in the inventory: set --host to the name \
                 that nova uses for this host"
            ),
            Self::NothingCounted { instances_path } => write!(
                f,
                "no instance in the inventory uses {instances_path}, but there are instance directories with disks: check \
                 --host and the inventory"
            ),
            Self::DirectoriesAbsent { instances, instances_path } => write!(
                f,
                "{} should have a directory in {instances_path} and {} none: check that all filesystems are mounted: {}",
                count(instances.len(), "instance"),
                if instances.len() == 1 { "has" } else { "have" },
                shown(instances)
            ),
            Self::NoCacheDirectory { cache_dir } => {
                write!(f, "there is no cache directory {cache_dir}: nothing to do")
            }
            Self::EvidenceIncomplete { path, error, advice, more } => {
                write!(f, "the evidence is incomplete, so nothing is removable: {path}: {error}: {advice}")?;
                if *more > 0 { write!(f, " (explain lists {more} more)") } else { Ok(()) }
            }
            Self::InstanceBroken { file, why } => {
                write!(
                    f,
                    "an instance is broken: {file} does not exist, and it is the {why}: restore it from another host \
                     or a backup, or remove what uses it"
                )
            }
            Self::RemoveUnusedBaseImages => f.write_str(
                "remove_unused_base_images = False in nova.conf stops nova's own task, but not this command",
            ),
            Self::ListOf1000 { source } => write!(
                f,
                "{source}: has exactly 1000 servers, where older clients stop: if there are more, list them with \
                 --limit -1"
            ),
            Self::LacksImage(lacking) => lacking.write(f, "the image", "original and resized files"),
            Self::LacksKernel(lacking) => {
                lacking.write(f, "the kernel and ramdisk image", "the files of such images")
            }
            Self::LacksSwap(lacking) => lacking.write(f, "the flavor's swap", "swap files"),
            Self::LacksEphemeral(lacking) => lacking.write(f, "the flavor's ephemeral disk", "ephemeral files"),
            Self::NoDomains { path } => write!(
                f,
                "--libvirt {path}: there is no domain XML in this folder: check that it is the right one, such as \
                 /etc/libvirt/qemu"
            ),
            Self::ImagesIncomplete { source, why } => write!(
                f,
                "--images {source}: the list is incomplete, so images that it does not name may still exist: {why}"
            ),
            Self::NotAUuid { id } => write!(
                f,
                "{id} is not a lower-case UUID: if it is the name of an image, use the image's id instead"
            ),
            Self::ShortMinimumAge { option, age } => write!(
                f,
                "{option} is {}: nova may need 10 minutes between choosing a base file and using it, so the start of an \
                 instance may fail: set 10m or more",
                ForPeople(*age)
            ),
            Self::KeepUnknown { name } => {
                write!(f, "--keep {name}: neither a file of the cache nor the id of a known image: check it")
            }
            Self::NotInCache { name } => write!(f, "{name}: the cache has no file of it"),
            Self::SetAsideFound { count: files, first } => write!(
                f,
                "a prune that was killed, or is still running, has set {} aside: if none is running, run prune again, which \
                 puts back and judges what it finds: {first}{}",
                count(*files, "file"),
                if *files == 1 { "" } else { " and more" }
            ),
            Self::SetAsideLeft { path, why } => {
                write!(f, "{path} stays set aside: {why}: run prune again later")
            }
            Self::TouchFailed { path, error, more } => {
                write!(f, "cannot set the mtime of {path}, which is in use: {error}")?;
                and_more(f, *more)
            }
            Self::GoalMissed { short_bytes } => {
                let short = size_text(*short_bytes);
                write!(
                    f,
                    "the goal of --until-free is missed by {short}: explain shows what is still too young, and directories \
                     of no instance"
                )
            }
            Self::Interrupted { signal } => {
                write!(f, "interrupted by {signal}: files that were not reached are kept")
            }
            Self::PlanDiffers { what } => write!(f, "the plan was made with other settings: {what}: check that this is meant, or create a new plan"),
            Self::LocksNotShared { mount_option, mount_point } => write!(
                f,
                "{mount_point} is mounted with {mount_option}, so locks do not exclude nova on other hosts: mount it \
                 without that option, or stop nova-compute on them while this runs"
            ),
        }
    }
}

impl Lacking {
    fn write(&self, f: &mut fmt::Formatter<'_>, field: &str, files: &str) -> fmt::Result {
        let Self { first, more } = self;
        write!(f, "no source gives {field} of instance {first}")?;
        and_more(f, *more)?;
        write!(f, ": there {files} are judged by disks alone")
    }
}

impl Serialize for Warning {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let mut object = serializer.serialize_struct("Warning", 3)?;
        object.serialize_field("code", self.code())?;
        object.serialize_field("level", self.level().as_str())?;
        object.serialize_field("text", &self.to_string())?;
        object.end()
    }
}

/// `1 file`, `2 files`.
pub(crate) fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// The first few of a list: `a, b, c and 6 more`.
pub(crate) fn shown(items: &[impl fmt::Display]) -> String {
    const SHOWN: usize = 3;
    let mut text = items.iter().take(SHOWN).map(ToString::to_string).collect::<Vec<_>>().join(", ");
    if items.len() > SHOWN {
        text.push_str(&format!(" and {} more", items.len() - SHOWN));
    }
    text
}

fn and_more(f: &mut fmt::Formatter<'_>, more: usize) -> fmt::Result {
    if more == 0 { Ok(()) } else { write!(f, " (and {more} more)") }
}
