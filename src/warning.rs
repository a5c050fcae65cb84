//! What an operator should know beside the answer: on stderr, and in the JSON.

use std::fmt;

use crate::size::size_text;
use crate::time::ForPeople;

/// Makes the enum of these lines: each warning with its fields, its code for programs, its level and its sentence.
macro_rules! warnings {
    ($($name:ident $(($of:ident: $type:ty))? $({ $($field:ident: $field_type:ty),* })?,
        $code:literal, $level:literal, $text:literal $(, $value:expr)*;)*) => {
        /// Something that an operator should know and that stops nothing. Texts are whole sentences; names in them are
        /// escaped when they are printed.
        #[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
        pub enum Warning { $($name $(($type))? $({ $($field: $field_type),* })?),* }

        /// Each code with its level; nova-imagecache-json(5) lists them all.
        pub const CODES: &[(&str, &str)] = &[$(($code, $level)),*];

        impl Warning {
            /// The word for programs, and `warning` or `note`; notes are printed only with `-v`.
            pub const fn code_and_level(&self) -> (&'static str, &'static str) {
                match self { $(Self::$name { .. } => ($code, $level)),* }
            }
        }

        impl fmt::Display for Warning {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                match self { $(Self::$name $(($of))? $({ $($field),* })? => write!(f, $text $(, $value)*)),* }
            }
        }
    };
}

warnings! {
    NoInventory, "no_inventory", "warning",
        "no list of instances was given, so files are judged by the disks alone: add --libvirt or --inventory";
    InventoryIncomplete { why: String }, "inventory_incomplete", "warning",
        "the inventory is incomplete, so nothing is removable: {why}";
    NoComputeNodes { instances_path: String, why: String }, "no_compute_nodes", "warning",
        "cannot read which hosts share {instances_path}, so instances on all hosts count, which keeps more: {why}";
    HostUnknown { host: String, instances_path: String }, "host_unknown", "warning",
        "host {host} is neither in {instances_path}/compute_nodes nor in the inventory: set --host to the name that \
         nova uses for this host";
    NothingCounted { instances_path: String }, "nothing_counted", "warning",
        "no instance in the inventory uses {instances_path}, but there are instance directories with disks: check \
         --host and the inventory";
    DirectoriesAbsent { instances: Vec<String>, instances_path: String }, "directories_absent", "warning",
        "{} should have a directory in {instances_path} and {} none: check that all filesystems are mounted: {}",
        count(instances.len(), "instance"), if instances.len() == 1 { "has" } else { "have" }, shown(instances);
    NoCacheDirectory { cache_dir: String }, "no_cache_directory", "note",
        "there is no cache directory {cache_dir}: nothing to do";
    EvidenceIncomplete { path: String, error: String, advice: &'static str, more: usize },
        "evidence_incomplete", "warning",
        "the evidence is incomplete, so nothing is removable: {path}: {error}: {advice}{}",
        if *more == 0 { String::new() } else { format!(" (explain lists {more} more)") };
    InstanceBroken { file: String, why: String }, "instance_broken", "warning",
        "a disk is broken: {file} does not exist, and it is the {why}: copy that file from another host or a backup";
    RemoveUnusedBaseImages, "remove_unused_base_images", "warning",
        "remove_unused_base_images = False in nova.conf stops nova's own task, but not this command";
    ListOf1000 { source: String }, "list_of_1000", "warning",
        "{source}: has exactly 1000 servers, where older clients stop: if there are more, list them with --limit -1";
    LacksImage(instances: Lacking), "lacks_image", "note",
        "no source gives the image of {instances}: there original and resized files are judged by disks alone";
    LacksKernel(instances: Lacking), "lacks_kernel", "note",
        "no source gives the kernel and ramdisk image of {instances}: there the files of such images are judged by \
         disks alone";
    LacksSwap(instances: Lacking), "lacks_swap", "note",
        "no source gives the flavor's swap of {instances}: there swap files are judged by disks alone";
    LacksEphemeral(instances: Lacking), "lacks_ephemeral", "note",
        "no source gives the flavor's ephemeral disk of {instances}: there ephemeral files are judged by disks alone";
    NoDomains { path: String }, "no_domains", "warning",
        "--libvirt {path}: there is no domain XML in this folder: check that it is the right one, such as \
         /etc/libvirt/qemu";
    ImagesIncomplete { source: String, why: String }, "images_incomplete", "warning",
        "--images {source}: the list is incomplete, so images that it does not name may still exist: {why}";
    NotAUuid { id: String }, "not_a_uuid", "warning",
        "{id} is not a lower-case UUID: if it is the name of an image, use the image's id instead";
    ShortMinimumAge { option: &'static str, age: std::time::Duration }, "short_minimum_age", "warning",
        "the minimum age of files is {} ({option}, or nova.conf): nova may need 10 minutes between choosing a base file \
         and using it, so the start of an instance may fail: set 10m or more",
        ForPeople(*age);
    KeepUnknown { name: String }, "keep_unknown", "note",
        "--keep {name}: neither a file of the cache nor the id of a known image: check it";
    NotInCache { name: String }, "not_in_cache", "note",
        "{name}: the cache has no file of it";
    SetAsideFound { count: usize, first: String }, "set_aside_found", "warning",
        "a prune that was killed, or is still running, has set {} aside ({first}{}): if none is running, run prune \
         again, which puts files back first",
        self::count(*count, "file"), if *count == 1 { "" } else { " and more" };
    SetAsideLeft { path: String, why: String }, "set_aside_left", "warning",
        "{path} stays set aside: {why}: run prune again later";
    SetAsideDropped { path: String }, "set_aside_dropped", "warning",
        "{path}, which a prune that was killed had set aside, was removed, for a new file has its name";
    TouchFailed { path: String, error: String, more: usize }, "touch_failed", "warning",
        "cannot set the mtime of {path}, which is in use: {error}{}, so its age grows while it is in use: check \
         who owns it, and that it is not immutable (lsattr)",
        and_more(*more);
    GoalMissed { short_bytes: u64 }, "goal_missed", "warning",
        "the goal of --until-free is missed by {}: see with explain why the other files stay",
        size_text(*short_bytes);
    Interrupted { signal: &'static str }, "interrupted", "warning",
        "interrupted by {signal}: files that were not reached are kept";
    PlanDiffers { what: String }, "plan_differs", "warning",
        "the plan was made with other settings: {what}: check that this is meant, or create a new plan";
    LocksNotShared { mount_option: String, mount_point: String }, "locks_not_shared", "warning",
        "{mount_point} is mounted with {mount_option}, so locks do not exclude nova on other hosts: mount it without \
         that option, or stop nova-compute on them while this runs";
}

/// Instances of which no source tells some fact.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lacking {
    pub first: String,
    pub more: usize,
}

impl fmt::Display for Lacking {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "instance {}{}", self.first, and_more(self.more))
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

fn and_more(more: usize) -> String {
    if more == 0 { String::new() } else { format!(" (and {more} more)") }
}
