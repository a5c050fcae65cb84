#!/usr/bin/env python3
"""How long large inventories take, and how much memory: inventory.py BINARY [MEGABYTES]

Runs `explain` of an empty cache with 20,000 servers in each form, and with MEGABYTES (200) of each form and of texts
that are no inventory. Prints for each the wall time, the greatest resident set size, and that by the size of the file.
"""

import os
import sys
import tempfile
import time
import uuid

HOST = "compute-%03d"


def own(number, identity):
    return ('{"uuid": "%s", "name": "instance-%08x", "host": "%s", "image_ref": "%s", "kernel_id": null, '
            '"ramdisk_id": null, "vm_state": "active", "task_state": null, "swap_mb": 512, "ephemeral_gb": 20}'
            % (identity, number, HOST % (number % 500), image(number)))


def shortest(number, identity):
    return '{"uuid": "%s", "image_ref": "%s"}' % (identity, image(number))


def detail(number, identity):
    links = ('[{"rel": "self", "href": "scheme:/v2.1/servers/%s"}, {"rel": "bookmark", "href": "scheme:/servers/%s"}]'
             % (identity, identity))
    return ('{"id": "%s", "name": "server-%d", "status": "ACTIVE", "tenant_id": "%s", "user_id": "%s", "metadata": '
            '{"role": "web", "owner": "someone"}, "hostId": "%s%s", "image": {"id": "%s", "links": %s}, "flavor": '
            '{"vcpus": 2, "ram": 4096, "disk": 20, "ephemeral": 20, "swap": 512, "original_name": "m1.medium", '
            '"extra_specs": {"hw:cpu_policy": "dedicated", "hw:mem_page_size": "large"}}, "created": '
            '"2026-01-01T00:00:00Z", "updated": "2026-01-01T00:00:00Z", "addresses": {"private": [{"version": 4, "addr": '
            '"10.0.0.1", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:00"}, {"version": 6, '
            '"addr": "fd00::1", "OS-EXT-IPS:type": "fixed", "OS-EXT-IPS-MAC:mac_addr": "fa:16:3e:00:00:00"}]}, '
            '"accessIPv4": "", "accessIPv6": "", "links": %s, "OS-DCF:diskConfig": "AUTO", "progress": 0, '
            '"OS-EXT-AZ:availability_zone": "nova", "config_drive": "", "key_name": null, "OS-SRV-USG:launched_at": '
            '"2026-01-01T00:00:00.000000", "OS-SRV-USG:terminated_at": null, "OS-EXT-SRV-ATTR:host": "%s", '
            '"OS-EXT-SRV-ATTR:instance_name": "instance-%08x", "OS-EXT-SRV-ATTR:hypervisor_hostname": "%s", '
            '"OS-EXT-SRV-ATTR:kernel_id": "", "OS-EXT-SRV-ATTR:ramdisk_id": "", "OS-EXT-STS:task_state": null, '
            '"OS-EXT-STS:vm_state": "active", "OS-EXT-STS:power_state": 1, "os-extended-volumes:volumes_attached": [], '
            '"security_groups": [{"name": "default"}], "locked": false, "tags": []}'
            % (identity, number, "t" * 32, "u" * 32, "h" * 28, "h" * 28, image(number), links, links,
               HOST % (number % 500), number, HOST % (number % 500)))


def listed(number, identity):
    return ('{"ID": "%s", "Name": "server-%d", "Status": "ACTIVE", "Task State": null, "Power State": 1, "Networks": '
            '{"private": ["10.0.0.1"]}, "Image Name": "debian", "Image ID": "%s", "Flavor Name": "m1.medium", '
            '"Availability Zone": "nova", "Host": "%s", "Properties": {}}'
            % (identity, number, image(number), HOST % (number % 500)))


def image(number):
    return str(uuid.UUID(int=number % 300))


def rows(before, row, after):
    def write(file, enough):
        file.write(before)
        number = 0
        while not enough(file, number):
            file.write((", " if number else "") + row(number, str(uuid.UUID(int=number * 7919 + 1))))
            number += 1
        file.write(after)
    return write


def repeated(before, part, after):
    def write(file, enough):
        file.write(before)
        while not enough(file, 0):
            file.write(part * 10000)
        file.write(after)
    return write


FORMS = {
    "own list": rows("[", own, "]"),
    "own list, uuid and image": rows("[", shortest, "]"),
    "GET /servers/detail": rows('{"servers": [', detail, "]}"),
    "openstack server list": rows("[", listed, "]"),
}
NO_INVENTORIES = {
    "blank": repeated("", " ", ""),
    "nested lists": repeated("", "[", ""),
    "nested in a field that is not needed": repeated('{"servers": [{"id": "a", "image": "", "tags": ', "[", ""),
    "one long text": repeated('[{"uuid": "', "x", '"}]'),
    "a long text for a number": repeated('[{"uuid": "a", "swap_mb": "', "x", '"}]'),
    "an unknown field of a long name": repeated('[{"uuid": "a", "', "x", '": 1}]'),
    "truncated": rows("[", own, ""),
    "zero bytes": repeated("", "\0", ""),
}


def measure(binary, folder, name, write, enough):
    path = os.path.join(folder, "inventory.json")
    with open(path, "w", encoding="utf-8") as file:
        write(file, enough)
    size = os.path.getsize(path)
    arguments = [binary, "explain", "-q", "-p", folder, "--host", HOST % 1, "--inventory", path]
    started = time.monotonic()
    with open(os.devnull, "w", encoding="utf-8") as null:
        redirections = [(os.POSIX_SPAWN_DUP2, null.fileno(), 1), (os.POSIX_SPAWN_DUP2, null.fileno(), 2)]
        child = os.posix_spawn(binary, arguments, os.environ, file_actions=redirections)
        _, status, usage = os.wait4(child, 0)
    seconds = time.monotonic() - started
    peak = usage.ru_maxrss * 1024
    print(f"{name:40} {size / 1e6:7.1f} MB {seconds:7.2f} s {peak / 1e6:7.1f} MB {peak / size:5.2f} times  "
          f"exit {os.waitstatus_to_exitcode(status)}", flush=True)


def main():
    binary, megabytes = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 200
    with tempfile.TemporaryDirectory() as folder:
        print("20,000 servers")
        for name, write in FORMS.items():
            measure(binary, folder, name, write, lambda file, number: number == 20000)
        print(f"{megabytes} MB")
        for name, write in (FORMS | NO_INVENTORIES).items():
            measure(binary, folder, name, write, lambda file, number: file.tell() >= megabytes * 1000000)


main()
