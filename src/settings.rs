//! What the flags and nova.conf add up to: the flags win, and nova's defaults stand for what neither says.

use std::ffi::OsStr;
use std::path::{Component, Path};

use anyhow::{Context as _, Result, anyhow, bail};

use crate::cli::{Global, Judging};
use crate::layout::{LOCKS, Layout};
use crate::nova_conf::{self, NovaConf};
use crate::verdict::Policy;

/// What the files that `--config-file` names say, but for what the command line gives; nova.conf is read only where it is
/// named.
pub fn nova_conf(global: &Global, judging: Option<&Judging>) -> Result<NovaConf> {
    let given = [
        (nova_conf::INSTANCES_PATH, global.instances_path.is_some()),
        (nova_conf::SUBDIRECTORY_NAME, global.subdirectory_name.is_some()),
        (nova_conf::HOST, judging.is_none_or(|it| it.host.is_some())),
        (nova_conf::ORIGINAL_AGE, judging.is_none_or(|it| it.original_min_age.is_some())),
        (nova_conf::RESIZED_AGE, judging.is_none_or(|it| it.resized_min_age.is_some())),
    ];
    let given: Vec<&str> = given.iter().filter(|(_, is_given)| *is_given).map(|(name, _)| *name).collect();
    let machine = nix::unistd::gethostname().context("cannot read this machine's host name")?;
    nova_conf::load(&global.config_file, &given, &machine.to_string_lossy())
}

/// Where nova keeps things.
pub fn layout(global: &Global, conf: &NovaConf) -> Result<Layout> {
    let instances_path = global.instances_path.as_ref().unwrap_or(&conf.instances_path);
    if instances_path.as_os_str().is_empty() {
        bail!("--instances-path, or nova.conf's instances_path, is empty: name the directory");
    }
    let subdirectory_name =
        global.subdirectory_name.clone().unwrap_or_else(|| conf.subdirectory_name.clone().into());
    if !is_plain_name(&subdirectory_name) || subdirectory_name == LOCKS {
        bail!(
            "--subdirectory-name, or nova.conf's subdirectory_name, is {}: give the name of a directory under the instances path, without slashes",
            subdirectory_name.display()
        );
    }
    let absolute = std::path::absolute(instances_path).map_err(|error| {
        let path = instances_path.display();
        anyhow!("instances path {path}: cannot read the working directory: {error}: give an absolute path")
    })?;
    // Without a trailing slash.
    Ok(Layout { instances_path: absolute.components().collect(), subdirectory_name })
}

fn is_plain_name(name: &OsStr) -> bool {
    let mut components = Path::new(name).components();
    matches!(components.next(), Some(Component::Normal(only)) if only == name) && components.next().is_none()
}

/// What the operator decides.
pub fn policy(judging: &Judging, conf: &NovaConf) -> Policy {
    Policy {
        host: judging.host.clone().unwrap_or_else(|| conf.host.clone()),
        original_minimum_age: judging.original_min_age.unwrap_or(conf.original_minimum_age),
        resized_minimum_age: judging.resized_min_age.unwrap_or(conf.resized_minimum_age),
        ignore_unlisted: judging.ignore_unlisted,
        partials: judging.partials,
    }
}
