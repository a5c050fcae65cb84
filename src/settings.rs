//! What the flags and nova.conf add up to: the flags win, and nova's defaults stand for what neither says.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cli::{Global, Judging};
use crate::evidence::Layout;
use crate::inventory::{self, Inventory};
use crate::nova_conf::{self, NovaConf};
use crate::verdict::Policy;
use crate::warning::Warning;

/// nova's default for `instances_path`, with the state path that packages set.
const INSTANCES_PATH: &str = "/var/lib/nova/instances";
/// nova's default for `[image_cache] subdirectory_name`.
const SUBDIRECTORY_NAME: &str = "_base";
/// nova's default for `remove_unused_original_minimum_age_seconds`.
const ORIGINAL_MINIMUM_AGE: Duration = Duration::from_secs(24 * 3600);
/// nova's default for `remove_unused_resized_minimum_age_seconds`.
const RESIZED_MINIMUM_AGE: Duration = Duration::from_secs(3600);

/// What the files that `--config-file` names say; nova.conf is read only where it is named.
///
/// # Errors
/// Those of [`nova_conf::load`].
pub fn nova_conf(global: &Global) -> Result<NovaConf> {
    nova_conf::load(&global.config_file)
}

/// What the operator should know of nova.conf.
pub fn note(conf: &NovaConf) -> Option<Warning> {
    (!conf.remove_unused_base_images).then(|| {
        Warning::new(
            "remove_unused_base_images",
            "remove_unused_base_images = False keeps nova's own task from removing files, not this command",
        )
    })
}

/// Where nova keeps things.
///
/// # Errors
/// Where the cache directory's name is no name of a directory, or there is no working directory to start from.
pub fn layout(global: &Global, conf: &NovaConf) -> Result<Layout> {
    let instances_path = global.instances_path.as_ref().or(conf.instances_path.as_ref()).cloned();
    let instances_path = instances_path.unwrap_or_else(|| PathBuf::from(INSTANCES_PATH));
    if instances_path.as_os_str().is_empty() {
        bail!("instances path: an empty path: name the directory");
    }
    let subdirectory_name =
        global.subdirectory_name.clone().or_else(|| conf.subdirectory_name.clone().map(OsString::from));
    let subdirectory_name = subdirectory_name.unwrap_or_else(|| SUBDIRECTORY_NAME.into());
    if !is_plain_name(&subdirectory_name) || subdirectory_name == "locks" {
        bail!(
            "--subdirectory-name, or nova.conf's subdirectory_name, is {}: name a directory under the instances path",
            subdirectory_name.display()
        );
    }
    Ok(Layout {
        instances_path: std::path::absolute(&instances_path)
            .with_context(|| instances_path.display().to_string())?
            // Without a trailing slash.
            .components()
            .collect(),
        subdirectory_name,
    })
}

fn is_plain_name(name: &OsStr) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(only)) if only == name) && components.next().is_none()
}

/// What the operator decides.
///
/// # Errors
/// Where the machine does not tell its host name.
pub fn policy(judging: &Judging, conf: &NovaConf) -> Result<Policy> {
    let host = match judging.host.as_ref().or(conf.host.as_ref()) {
        Some(host) => host.clone(),
        None => nix::unistd::gethostname()
            .context("cannot read this machine's host name: give --host")?
            .to_string_lossy()
            .into_owned(),
    };
    Ok(Policy {
        host,
        original_minimum_age: judging
            .original_min_age
            .or(conf.original_minimum_age)
            .unwrap_or(ORIGINAL_MINIMUM_AGE),
        resized_minimum_age: judging
            .resized_min_age
            .or(conf.resized_minimum_age)
            .unwrap_or(RESIZED_MINIMUM_AGE),
        ignore_unlisted: judging.ignore_unlisted,
        partials: judging.partials,
    })
}

/// The inventory, where any source is named; libvirt's domains are on `host`.
///
/// # Errors
/// Those of [`inventory::load`].
pub fn inventory(judging: &Judging, host: &str) -> Result<Option<Inventory>> {
    if judging.inventory.is_empty() && judging.libvirt.is_empty() {
        return Ok(None);
    }
    inventory::load(&judging.inventory, &judging.libvirt, host).map(Some)
}
