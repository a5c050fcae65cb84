"""What the real oslo.config reads from configuration files, with the options as nova declares them.

Standard input: a JSON list of cases, each a list of the texts of files. Standard output: a JSON list with an object
of values, or a text that says what went wrong, for each of them.
"""

import json
import logging
import os
import sys
import tempfile

from oslo_config import cfg


def options():
    conf = cfg.ConfigOpts()
    conf.register_opts([
        cfg.StrOpt("state_path", default="/var/lib/nova"),
        cfg.StrOpt("instances_path", default="$state_path/instances"),
        cfg.HostDomainOpt("host", default="machine"),
        cfg.StrOpt("my_ip"),
        # Stand for nova's hundreds of others.
        cfg.StrOpt("x"),
        cfg.StrOpt("y"),
    ])
    conf.register_opts([cfg.StrOpt("x")], group="g")
    conf.register_opts([
        cfg.StrOpt("subdirectory_name", default="_base", deprecated_opts=[
            cfg.DeprecatedOpt("image_cache_subdirectory_name", group="DEFAULT"),
            cfg.DeprecatedOpt("base_dir_name", group="DEFAULT"),
        ]),
        cfg.BoolOpt("remove_unused_base_images", default=True, deprecated_group="DEFAULT"),
        cfg.IntOpt("remove_unused_original_minimum_age_seconds", default=86400, deprecated_group="DEFAULT"),
        cfg.IntOpt("remove_unused_resized_minimum_age_seconds", default=3600, deprecated_group="libvirt"),
    ], group="image_cache")
    return conf


def values(texts, folder):
    arguments = []
    for number, text in enumerate(texts):
        path = os.path.join(folder, f"{number}.conf")
        with open(path, "w", encoding="utf-8", newline="") as file:
            file.write(text)
        arguments += ["--config-file", path]
    conf = options()
    try:
        conf(arguments, project="nova", use_env=False)
        return {
            "instances_path": conf.instances_path,
            "host": conf.host,
            "subdirectory_name": conf.image_cache.subdirectory_name,
            "original": conf.image_cache.remove_unused_original_minimum_age_seconds,
            "resized": conf.image_cache.remove_unused_resized_minimum_age_seconds,
            "remove": conf.image_cache.remove_unused_base_images,
        }
    except (Exception, SystemExit) as error:
        return f"{type(error).__name__}: {error}"


logging.disable(logging.CRITICAL)
with tempfile.TemporaryDirectory() as folder:
    json.dump([values(texts, folder) for texts in json.load(sys.stdin)], sys.stdout)
