"""A cloud to ask: keystone, nova and glance as far as the OpenStack clients look, on 127.0.0.1.

Used by `capture`. It answers a fixed number of requests, and one that takes long ends.
"""

import http.server
import json
import re
import threading
import urllib.parse

PROJECT = "5f705771f4a74ab2a9d3a0a1fc2c8f5b"
USER = "0b9d2f0c4f5e4c0e8d6b8a1f3a2f7c11"
HOSTS = {"compute-1": "compute-1.example.test", "compute-2": "compute-2.example.test"}

UBUNTU = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c101"
DEBIAN = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c102"
CIRROS = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c103"  # deactivated since
GONE = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c104"  # deleted from glance since
WINDOWS = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c105"  # on another host alone
SNAPSHOT = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c106"  # of no instance
UPLOAD = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c107"  # not there yet
SHELVED = "1b6a2f5e-3f0e-4d1c-9a51-0f6de2b7c108"  # of the shelved instance

# Number, name, host, image, status, vm_state, task_state, power_state.
SERVERS = [
    (1, "web-1", "compute-1", UBUNTU, "ACTIVE", "active", None, 1),
    (2, "web-2", "compute-1", UBUNTU, "REBOOT", "active", "rebooting", 1),
    (3, "db-1", "compute-1", DEBIAN, "SHUTOFF", "stopped", None, 4),
    (4, "broken-1", "compute-1", UBUNTU, "ERROR", "error", None, 0),
    (5, "never-placed", None, WINDOWS, "ERROR", "error", None, 0),
    (6, "shelved-1", None, WINDOWS, "SHELVED_OFFLOADED", "shelved_offloaded", None, 4),
    (7, "growing-1", "compute-1", DEBIAN, "RESIZE", "active", "resize_prep", 1),
    (8, "grown-1", "compute-1", DEBIAN, "VERIFY_RESIZE", "resized", None, 1),
    (9, "volume-1", "compute-1", None, "ACTIVE", "active", None, 1),
    (10, "other-1", "compute-2", WINDOWS, "ACTIVE", "active", None, 1),
    (11, "test-1", "compute-1", CIRROS, "PAUSED", "paused", None, 3),
    (12, "old-1", "compute-1", GONE, "ACTIVE", "active", None, 1),
    (13, "new-1", None, UBUNTU, "BUILD", "building", "scheduling", 0),
]

# Image, name, status, size.
IMAGES = [
    (UBUNTU, "ubuntu-24.04", "active", 629145600),
    (DEBIAN, "debian-12", "active", 356515840),
    (CIRROS, "cirros-0.6.2", "deactivated", 21430272),
    (WINDOWS, "windows-2022", "active", 13958643712),
    (SNAPSHOT, None, "active", 2147483648),
    (UPLOAD, "fedora-41", "queued", None),
    (SHELVED, "shelved-1-shelved", "active", 1073741824),
]

FLAVOR = {"id": "2", "name": "m1.small"}
SIZES = {"ram": 2048, "vcpus": 1, "disk": 20}
SWAP, EPHEMERAL = 512, 10

MOST_REQUESTS = 200
SECONDS_A_REQUEST = 10


def uuid(number):
    return f"8d2c0f6a-5b1e-4c7d-8f3a-{number:012x}"


class Cloud(http.server.ThreadingHTTPServer):
    """Listens on a port of 127.0.0.1 that the kernel chooses; lists come in pages of so many."""

    daemon_threads = True

    def __init__(self, servers_a_page=1000, images_a_page=25):
        super().__init__(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server_address[1]}"
        self.servers_a_page, self.images_a_page = servers_a_page, images_a_page
        self.unknown = []
        self.requests = 0
        self.lock = threading.Lock()

    def __enter__(self):
        threading.Thread(target=self.serve_forever, daemon=True).start()
        return self

    def __exit__(self, *_):
        self.shutdown()
        self.server_close()

    def count(self):
        with self.lock:
            self.requests += 1
            return self.requests

    def versions(self, *, kind, number, status="CURRENT", **more):
        href = f"{self.url}{ {'keystone': '/v3/', 'nova': '/compute/v2.1/', 'glance': '/image/v2/'}[kind] }"
        return {"id": number, "status": status, "links": [{"rel": "self", "href": href}], **more}

    def keystone(self):
        types = [{"base": "application/json", "type": "application/vnd.openstack.identity-v3+json"}]
        updated = "2020-04-07T00:00:00Z"
        return self.versions(kind="keystone", number="v3.14", status="stable", updated=updated, **{"media-types": types})

    def nova(self):
        types = [{"base": "application/json", "type": "application/vnd.openstack.compute+json;version=2.1"}]
        more = {"version": "2.100", "min_version": "2.1", "updated": "2013-07-23T11:33:21Z", "media-types": types}
        return self.versions(kind="nova", number="v2.1", **more)

    def token(self):
        services = [("identity", "keystone", "/v3"), ("compute", "nova", "/compute/v2.1"), ("image", "glance", "/image")]
        catalog = []
        for type_, name, path in services:
            endpoints = [
                {"id": f"{name}-{it}", "interface": it, "region": "RegionOne", "region_id": "RegionOne", "url": self.url + path}
                for it in ("public", "internal", "admin")
            ]
            catalog.append({"id": name, "type": type_, "name": name, "endpoints": endpoints})
        domain = {"id": "default", "name": "Default"}
        return {
            "methods": ["password"],
            "user": {"id": USER, "name": "admin", "domain": domain, "password_expires_at": None},
            "audit_ids": ["3T2dc1CGQxyJsHdDu1xkcw"],
            "issued_at": "2026-01-01T00:00:00.000000Z",
            "expires_at": "2099-01-01T00:00:00.000000Z",
            "project": {"id": PROJECT, "name": "admin", "domain": domain},
            "is_domain": False,
            "roles": [{"id": "r1", "name": "admin"}, {"id": "r2", "name": "reader"}],
            "catalog": catalog,
        }

    def flavor(self, minor):
        """An entry of `GET /flavors/detail`."""
        links = [{"rel": "self", "href": f"{self.url}/compute/v2.1/flavors/{FLAVOR['id']}"}]
        flavor = {**FLAVOR, **SIZES, "swap": SWAP, "OS-FLV-EXT-DATA:ephemeral": EPHEMERAL, "links": links}
        flavor |= {"OS-FLV-DISABLED:disabled": False, "os-flavor-access:is_public": True, "rxtx_factor": 1.0}
        return flavor | ({"description": None} if minor >= 55 else {}) | ({"extra_specs": {}} if minor >= 61 else {})

    def server(self, row, minor):
        """An entry of `GET /servers/detail` as an administrator sees it at microversion 2.<minor>."""
        number, name, host, image, status, vm_state, task_state, power_state = row
        on_host = host is not None
        server = {
            "id": uuid(number),
            "name": name,
            "status": status,
            "tenant_id": PROJECT,
            "user_id": USER,
            "metadata": {"role": name.split("-")[0]},
            "hostId": "2091634baaccdc4c5a1d57069c833e402921df696b7f970791b12ec6" if on_host else "",
            "image": "",
            "flavor": {"id": FLAVOR["id"], "links": [{"rel": "bookmark", "href": f"{self.url}/compute/flavors/2"}]},
            "created": f"2026-01-{number:02}T10:00:00Z",
            "updated": f"2026-01-{number:02}T10:01:00Z",
            "addresses": {},
            "accessIPv4": "",
            "accessIPv6": "",
            "links": [
                {"rel": "self", "href": f"{self.url}/compute/v2.1/servers/{uuid(number)}"},
                {"rel": "bookmark", "href": f"{self.url}/compute/servers/{uuid(number)}"},
            ],
            "OS-DCF:diskConfig": "AUTO",
            "OS-EXT-AZ:availability_zone": "nova" if on_host else "",
            "config_drive": "",
            "key_name": None,
            "OS-SRV-USG:launched_at": f"2026-01-{number:02}T10:01:00.000000" if on_host else None,
            "OS-SRV-USG:terminated_at": None,
            "OS-EXT-SRV-ATTR:host": host,
            "OS-EXT-SRV-ATTR:instance_name": f"instance-{number:08x}",
            "OS-EXT-SRV-ATTR:hypervisor_hostname": HOSTS.get(host),
            "OS-EXT-STS:task_state": task_state,
            "OS-EXT-STS:vm_state": vm_state,
            "OS-EXT-STS:power_state": power_state,
            "os-extended-volumes:volumes_attached": [],
        }
        if image is not None:
            server["image"] = {"id": image, "links": [{"rel": "bookmark", "href": f"{self.url}/compute/images/{image}"}]}
        else:
            server["os-extended-volumes:volumes_attached"] = [{"id": uuid(4096 + number)}]
        if on_host:
            port = {"version": 4, "addr": f"192.0.2.{number}", "OS-EXT-IPS:type": "fixed"}
            server["addresses"] = {"private": [port | {"OS-EXT-IPS-MAC:mac_addr": f"fa:16:3e:00:00:{number:02x}"}]}
            server["security_groups"] = [{"name": "default"}]
        if status in ("ACTIVE", "BUILD", "PAUSED", "REBOOT", "RESIZE", "VERIFY_RESIZE"):
            server["progress"] = 0
        if status == "ERROR":
            server["fault"] = {"code": 500, "created": "2026-01-02T00:00:00Z", "message": "No valid host was found."}
        since = {
            3: {
                "OS-EXT-SRV-ATTR:reservation_id": f"r-{number:08}",
                "OS-EXT-SRV-ATTR:launch_index": 0,
                "OS-EXT-SRV-ATTR:hostname": name,
                "OS-EXT-SRV-ATTR:kernel_id": "",
                "OS-EXT-SRV-ATTR:ramdisk_id": "",
                "OS-EXT-SRV-ATTR:root_device_name": "/dev/vda",
                "OS-EXT-SRV-ATTR:user_data": None,
                "os-extended-volumes:volumes_attached": [
                    it | {"delete_on_termination": False} for it in server["os-extended-volumes:volumes_attached"]
                ],
            },
            9: {"locked": False},
            16: {"host_status": "UP" if on_host else ""},
            19: {"description": None},
            26: {"tags": []},
            47: {"flavor": {**SIZES, "swap": SWAP, "ephemeral": EPHEMERAL, "original_name": FLAVOR["name"], "extra_specs": {}}},
            63: {"trusted_image_certificates": None},
            71: {"server_groups": []},
            73: {"locked_reason": None},
            96: {"pinned_availability_zone": None},
            100: {"scheduler_hints": {}},
        }
        for needed, fields in since.items():
            if minor >= needed:
                server |= fields
        if minor >= 98 and image is not None:
            server["image"]["properties"] = {"hw_rng_model": "virtio"}
        return server

    def image(self, row):
        id_, name, status, size = row
        there = size is not None
        checksum = f"{int(id_[-3:], 16):032x}" if there else None
        return {
            "id": id_,
            "name": name,
            "status": status,
            "disk_format": "qcow2",
            "container_format": "bare",
            "visibility": "public",
            "min_disk": 0,
            "min_ram": 0,
            "size": size,
            "virtual_size": None,
            "checksum": checksum,
            "os_hash_algo": "sha512" if there else None,
            "os_hash_value": checksum * 4 if there else None,
            "os_hidden": False,
            "owner": PROJECT,
            "protected": False,
            "tags": [],
            "created_at": "2026-01-01T09:00:00Z",
            "updated_at": "2026-01-01T09:05:00Z",
            "hw_rng_model": "virtio",
            "self": f"/v2/images/{id_}",
            "file": f"/v2/images/{id_}/file",
            "schema": "/v2/schemas/image",
        }

    def page(self, rows, query, most):
        """The rows after the marker, and the query of the page after them if there is one."""
        ids = [it["id"] for it in rows]
        marker = query.get("marker")
        first = ids.index(marker) + 1 if marker else 0
        limit = min(int(query.get("limit", most)), most)
        page = rows[first : first + limit]
        # As nova does, a full page is followed by a link even where nothing comes after it.
        if not page or len(page) < limit:
            return page, None
        return page, urllib.parse.urlencode({**query, "marker": page[-1]["id"]})

    def answer(self, path, query, minor):
        """Status and object, or none for what is not there."""
        if path in ("/", ""):
            return 300, {"versions": {"values": [self.keystone()]}}
        if path == "/v3":
            return 200, {"version": self.keystone()}
        if path == "/v3/projects":
            project = {"id": PROJECT, "name": "admin", "domain_id": "default", "enabled": True, "links": {}}
            return 200, {"projects": [project], "links": {"next": None}}
        if path == "/compute":
            return 200, {"versions": [self.nova()]}
        if path == "/compute/v2.1":
            return 200, {"version": self.nova()}
        if path == "/compute/v2.1/servers/detail":
            # nova lists the newest first.
            rows = [self.server(it, minor) for it in reversed(SERVERS)]
            page, next_ = self.page(rows, query, self.servers_a_page)
            links = [{"rel": "next", "href": f"{self.url}/compute/v2.1/servers/detail?{next_}"}] if next_ else []
            return 200, {"servers": page} | ({"servers_links": links} if links else {})
        if path == "/compute/v2.1/flavors/detail":
            page, _ = self.page([self.flavor(minor)], query, 1000)
            return 200, {"flavors": page}
        if path == "/image":
            all_ = [("v2.16", "CURRENT"), ("v2.15", "SUPPORTED"), ("v2.0", "SUPPORTED")]
            return 300, {"versions": [self.versions(kind="glance", number=id_, status=it) for id_, it in all_]}
        if path == "/image/v2/images":
            rows = [self.image(it) for it in IMAGES]
            wanted = query.get("id", "")
            if wanted.startswith("in:"):
                rows = [it for it in rows if it["id"] in wanted[3:].split(",")]
            page, next_ = self.page(rows, query, self.images_a_page)
            first = {key: value for key, value in query.items() if key != "marker"}
            first = "/v2/images" + (f"?{urllib.parse.urlencode(first)}" if first else "")
            answer = {"images": page, "first": first, "schema": "/v2/schemas/images"}
            return 200, answer | ({"next": f"/v2/images?{next_}"} if next_ else {})
        return None


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    timeout = SECONDS_A_REQUEST

    def log_message(self, *_):
        pass

    def minor(self):
        """Of the compute API's microversion; without one asked for it is 2.1."""
        found = re.fullmatch(r"(?:compute )?2\.(\d+)", self.headers.get("OpenStack-API-Version", ""))
        found = found or re.fullmatch(r"2\.(\d+)", self.headers.get("X-OpenStack-Nova-API-Version", ""))
        return int(found[1]) if found else 1

    def send(self, status, answer, headers=()):
        body = json.dumps(answer).encode()
        self.send_response(status)
        for name, value in (("Content-Type", "application/json"), ("Content-Length", str(len(body))), *headers):
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def refuse_more(self):
        if self.server.count() > MOST_REQUESTS:
            self.close_connection = True
            self.send(503, {"error": "too many requests"})
            return True
        return False

    def do_GET(self):
        if self.refuse_more():
            return
        parts = urllib.parse.urlsplit(self.path)
        query = dict(urllib.parse.parse_qsl(parts.query))
        answer = self.server.answer(parts.path.rstrip("/"), query, self.minor())
        if answer is None:
            self.server.unknown.append(f"GET {self.path}")
            self.send(404, {"itemNotFound": {"code": 404, "message": "not found"}})
            return
        version = f"2.{self.minor()}"
        self.send(*answer, [("OpenStack-API-Version", f"compute {version}"), ("X-OpenStack-Nova-API-Version", version)])

    def do_POST(self):
        if self.refuse_more():
            return
        length = min(int(self.headers.get("Content-Length", 0)), 1 << 16)
        self.rfile.read(length)
        if self.path == "/v3/auth/tokens":
            self.send(201, {"token": self.server.token()}, [("X-Subject-Token", "a-token")])
            return
        self.server.unknown.append(f"POST {self.path}")
        self.send(404, {"error": "not found"})
