//! What the flags and nova.conf add up to: the flags win, and nova's defaults stand for what neither says.

use std::ffi::{OsStr, OsString};
use std::path::{Component, Path, PathBuf};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::cli::{Global, Judging};
use crate::layout::{LOCKS, Layout};
use crate::nova_conf::{self, NovaConf};
use crate::verdict::Policy;

/// nova's default for `instances_path`, with the state path that packages set.
const INSTANCES_PATH: &str = "/var/lib/nova/instances";
/// nova's default for `[image_cache] subdirectory_name`.
const SUBDIRECTORY_NAME: &str = "_base";
/// nova's default for `remove_unused_original_minimum_age_seconds`.
const ORIGINAL_MINIMUM_AGE: Duration = Duration::from_secs(24 * 3600);
/// nova's default for `remove_unused_resized_minimum_age_seconds`.
const RESIZED_MINIMUM_AGE: Duration = Duration::from_secs(3600);

/// What the files that `--config-file` names say, but for what the command line gives; nova.conf is read only where it is
/// named.
pub fn nova_conf(global: &Global, judging: Option<&Judging>) -> Result<NovaConf> {
    let given = [
        ("instances_path", global.instances_path.is_some()),
        ("subdirectory_name", global.subdirectory_name.is_some()),
        ("host", judging.is_none_or(|it| it.host.is_some())),
        (
            "remove_unused_original_minimum_age_seconds",
            judging.is_none_or(|it| it.original_min_age.is_some()),
        ),
        ("remove_unused_resized_minimum_age_seconds", judging.is_none_or(|it| it.resized_min_age.is_some())),
    ];
    let given: Vec<&str> = given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect();
    nova_conf::load(&global.config_file, &given, &machine_name().unwrap_or_default())
}

/// Where nova keeps things.
pub fn layout(global: &Global, conf: &NovaConf) -> Result<Layout> {
    let instances_path = match &global.instances_path {
        Some(path) => path.clone(),
        None => conf.instances_path.clone().unwrap_or_else(|| PathBuf::from(INSTANCES_PATH)),
    };
    if instances_path.as_os_str().is_empty() {
        bail!("--instances-path, or nova.conf's instances_path, is empty: name the directory");
    }
    let subdirectory_name = match &global.subdirectory_name {
        Some(name) => name.clone(),
        None => conf.subdirectory_name.clone().map_or_else(|| SUBDIRECTORY_NAME.into(), OsString::from),
    };
    if !is_plain_name(&subdirectory_name) || subdirectory_name == LOCKS {
        bail!(
            "--subdirectory-name, or nova.conf's subdirectory_name, is {}: give the name of a directory under the instances path, without slashes",
            subdirectory_name.display()
        );
    }
    let absolute =
        std::path::absolute(&instances_path).with_context(|| instances_path.display().to_string())?;
    // Without a trailing slash.
    Ok(Layout { instances_path: absolute.components().collect(), subdirectory_name })
}

fn is_plain_name(name: &OsStr) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(only)) if only == name) && components.next().is_none()
}

/// What the operator decides.
pub fn policy(judging: &Judging, conf: &NovaConf) -> Result<Policy> {
    let host = match judging.host.as_ref().or(conf.host.as_ref()) {
        Some(host) => host.clone(),
        None => machine_name().context("cannot read this machine's host name: give --host")?,
    };
    let original = judging.original_min_age.or(conf.original_minimum_age);
    let resized = judging.resized_min_age.or(conf.resized_minimum_age);
    Ok(Policy {
        host,
        original_minimum_age: original.unwrap_or(ORIGINAL_MINIMUM_AGE),
        resized_minimum_age: resized.unwrap_or(RESIZED_MINIMUM_AGE),
        ignore_unlisted: judging.ignore_unlisted,
        partials: judging.partials,
    })
}

fn machine_name() -> Result<String> {
    Ok(nix::unistd::gethostname()?.to_string_lossy().into_owned())
}
