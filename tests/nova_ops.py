"""nova's part in the tests: does to an instances path what nova-compute does, with nova's own code, by order.

nova_ops.py INSTANCES_PATH IMAGES reads one order a line. IMAGES is a folder with a file for each image, named by its id:
the image service.

    try NAME                    takes nova's lock of a cache file if it is free: held, or busy
    release NAME                lets it go: released

These answer `ok`, or `failed CLASS: text`:

    start UUID IMAGE            makes the instance's disk, fetching the image if the cache does not have it
    swap UUID MIB               makes the instance's swap disk
    rebase UUID FILE            puts the instance's disk on another base file, as at the end of an unshelve
    resize UUID                 renames the directory to UUID_resize and copies the disks back, as a resize on one host does
    revert UUID                 renames UUID_resize back
    delete UUID                 deletes the instance's files
    precache IMAGE              fetches the image without a lock, if the cache does not have it
    pass [{...}, ...]           a pass of nova's own cache manager; each instance has uuid, name, host, image_ref, swap_mb

nova is imported at the first order that needs it; the locks need oslo.concurrency alone.
"""

import importlib.abc
import importlib.machinery
import json
import logging
import os
import shutil
import sys
from types import SimpleNamespace
from unittest import mock

from oslo_concurrency import lockutils

HOST = "compute-1"

# What nova's modules import and these orders do not use: database, message queue, clients of other services.
NOT_NEEDED = """
    castellan cffi cinderclient cryptography cursive dateutil eventlet futurist glanceclient jinja2 jsonschema
    keystoneauth1 lxml msgpack neutronclient openstack os_brick os_service_types os_vif oslo_cache oslo_db
    oslo_limit oslo_messaging oslo_middleware oslo_policy oslo_service paramiko paste psutil requests retrying
    sqlalchemy tooz webob
""".split()


class NotNeeded(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Gives an empty module in place of each that is not needed."""

    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in NOT_NEEDED or name.startswith("nova.db.main"):
            return importlib.machinery.ModuleSpec(name, self, is_package=True)

    def create_module(self, spec):
        # Of cursive nova makes a list that must not be empty.
        return mock.MagicMock(**{"signature_utils.HASH_METHODS": {"SHA-256": None}})

    def exec_module(self, module):
        pass


class Images:
    """The image service."""

    def __init__(self, folder, not_found):
        self.folder = folder
        self.not_found = not_found

    def get(self, context, image_id):
        return {"disk_format": "raw"}

    def download(self, context, image_id, dest_path, trusted_certs=None):
        source = os.path.join(self.folder, image_id)
        if not os.path.exists(source):
            raise self.not_found(image_id=image_id)
        shutil.copyfile(source, dest_path)


class Nova:
    def __init__(self, instances_path, images):
        sys.meta_path.insert(0, NotNeeded())
        import nova.conf
        import nova.privsep
        from nova import exception, objects
        from nova.virt import images as virt_images
        from nova.virt.libvirt import driver, imagebackend, imagecache, instancejobtracker, utils

        conf = nova.conf.CONF
        conf([], project="nova", default_config_files=[], default_config_dirs=[])
        conf.set_override("host", HOST)
        conf.set_override("instances_path", instances_path)
        # As in nova's own tests: what needs privileges is called, not sent to a daemon.
        nova.privsep.sys_admin_pctxt.set_client_mode(False)

        class Driver(driver.LibvirtDriver):
            """The driver without libvirt."""

            def __init__(self):
                self.job_tracker = instancejobtracker.InstanceJobTracker()

            def _is_booted_from_volume(self, block_device_info):
                return False

            def _is_path_shared_with(self, dest, path):
                return True

            def power_off(self, *args):
                pass

            unplug_vifs = power_off

            def _get_instance_disk_info(self, instance, block_device_info):
                directory = utils.get_instance_path(instance)
                disks = [name for name in os.listdir(directory) if name != "disk.info"]
                return [{"path": os.path.join(directory, name), "type": "qcow2"} for name in disks]

        self.images = virt_images.IMAGE_API = Images(images, exception.ImageNotFound)
        self.driver = Driver()
        self.qcow2 = imagebackend.Qcow2
        self.fetch_image = utils.fetch_image
        self.get_instance_path = utils.get_instance_path
        self.imagecache = imagecache
        self.objects = objects

    def instance(self, uuid, **more):
        flavor = SimpleNamespace(root_gb=1, ephemeral_gb=0)
        facts = {"name": uuid, "host": HOST, "task_state": None, "vm_state": "active", "os_type": None, **more}
        for name in ("image_ref", "kernel_id", "ramdisk_id", "trusted_certs", "migration_context"):
            facts.setdefault(name, None)
        return SimpleNamespace(uuid=uuid, flavor=flavor, **facts)

    def do_start(self, uuid, image):
        instance = self.instance(uuid, image_ref=image)
        file_name = self.imagecache.get_cache_fname(image)
        disk = self.qcow2(instance, "disk")
        self.driver._try_fetch_image_cache(disk, self.fetch_image, None, file_name, image, instance, None)

    def do_swap(self, uuid, mib):
        disk = self.qcow2(self.instance(uuid), "disk.swap")
        mib = int(mib)
        disk.cache(
            fetch_func=self.driver._create_swap,
            context=None,
            filename=f"swap_{mib}",
            size=mib << 20,
            swap_mb=mib,
            safe=True,
        )

    def do_rebase(self, uuid, base):
        disk = self.qcow2(self.instance(uuid), "disk")
        self.driver._rebase_with_qemu_img(disk.path, base)

    def do_resize(self, uuid):
        instance = self.instance(uuid)
        self.driver.migrate_disk_and_power_off(None, instance, HOST, instance.flavor, None)

    def do_revert(self, uuid):
        path = self.get_instance_path(self.instance(uuid))
        if not os.path.exists(path + "_resize"):
            raise FileNotFoundError(path + "_resize")
        self.driver._cleanup_remote_migration(HOST, path, path + "_resize", shared_storage=True)

    def do_delete(self, uuid):
        if not self.driver.delete_instance_files(self.instance(uuid)):
            raise OSError("not all files are deleted")

    def do_precache(self, image):
        self.driver.cache_image(None, image)

    def do_pass(self, instances):
        rows = json.loads(instances)
        swaps = {row["uuid"]: row.pop("swap_mb", 0) for row in rows}

        def bdms_by_instance_uuid(context, uuids):
            return {uuid: [swap_device(swaps[uuid])] for uuid in uuids if swaps[uuid]}

        # The database is the one thing that this takes from elsewhere.
        database = SimpleNamespace(bdms_by_instance_uuid=bdms_by_instance_uuid)
        with mock.patch.object(self.objects, "BlockDeviceMappingList", database, create=True):
            self.imagecache.ImageCacheManager().update(None, [self.instance(**row) for row in rows])


def swap_device(mib):
    """What nova's database holds of an instance's swap disk, as far as the cache manager looks."""
    kind = {"source_type": "blank", "destination_type": "local", "guest_format": "swap"}
    return mock.MagicMock(no_device=False, volume_size=mib, get=kind.get)


def say(answer):
    print(" ".join(answer.split()), flush=True)


def main(instances_path, images):
    logging.getLogger().addHandler(logging.NullHandler())
    held = {}
    nova = None
    say("ready")
    for order in iter(sys.stdin.readline, ""):
        verb, _, rest = order.strip().partition(" ")
        if verb == "release":
            held.pop(rest).__exit__(None, None, None)
            say("released")
            continue
        if verb == "try":
            lock_path = os.path.join(instances_path, "locks")
            lock = lockutils.lock(rest, "nova-", external=True, lock_path=lock_path, blocking=False)
            try:
                lock.__enter__()
            except lockutils.AcquireLockFailedException:
                say("busy")
            else:
                held[rest] = lock
                say("held")
            continue
        if nova is None:
            nova = Nova(instances_path, images)
        arguments = [rest] if verb == "pass" else rest.split()
        operation = getattr(nova, "do_" + verb)
        try:
            operation(*arguments)
            answer = "ok"
        except Exception as error:
            answer = f"failed {type(error).__name__}: {error}"
        say(answer)


if __name__ == "__main__":
    main(*sys.argv[1:])
