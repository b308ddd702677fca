"""What a cloud has before its first user comes: seed.py identity | conductor | cloud

identity   the services' user, the catalog
conductor  waits until nova-conductor is listening: a nova-compute that starts before it loses ten seconds
cloud      flavors, images, networks; waits for every host

Each may be done again: what is there already stays.
"""

import os
import sys
import time

import requests

ENV = os.environ
PATIENCE = 120
FLAVORS = [("tiny", "1", 64, 0), ("small", "2", 128, 1)]


def url(service):
    return f"http://127.0.0.1:{ENV[service + '_PORT']}"


KEYSTONE = url("KEYSTONE") + "/v3"
NOVA = url("NOVA") + "/v2.1"
GLANCE = url("GLANCE") + "/v2"
NEUTRON = url("NEUTRON") + "/v2.0"


class NotYet(Exception):
    pass


class Admin:
    def __init__(self):
        self.session = requests.Session()
        self.session.trust_env = False
        domain = {"id": "default"}
        user = {"name": "admin", "password": "admin", "domain": domain}
        body = {
            "auth": {
                "identity": {"methods": ["password"], "password": {"user": user}},
                "scope": {"project": {"name": "admin", "domain": domain}},
            }
        }
        answer = self.session.post(f"{KEYSTONE}/auth/tokens", json=body)
        answer.raise_for_status()
        self.session.headers["X-Auth-Token"] = answer.headers["X-Subject-Token"]

    def ask(self, method, address, **options):
        answer = self.session.request(method, address, **options)
        if answer.status_code >= 400:
            raise NotYet(f"{method} {address}: {answer.status_code} {answer.text[:500]}")
        return answer.json() if answer.content else None

    def all(self, address, key):
        return self.ask("GET", address)[key]

    def make(self, address, key, **body):
        return self.ask("POST", address, json={key: body})[key]

    def named(self, address, key, name, **body):
        """The thing of this name in a collection, made if it is not there."""
        collection = address.rpartition("/")[2].replace("-", "_")
        found = self.all(f"{address}?name={name}", collection)
        return found[0] if found else self.make(address, key, name=name, **body)


def patiently(what, act):
    end = time.monotonic() + PATIENCE
    while True:
        try:
            return act()
        except (requests.ConnectionError, NotYet) as error:
            if time.monotonic() > end:
                sys.exit(f"{what}: {error}")
        time.sleep(0.2)


def identity():
    admin = Admin()
    catalog = [
        ("nova", "compute", NOVA),
        ("placement", "placement", url("PLACEMENT")),
        ("glance", "image", url("GLANCE")),
        ("neutron", "network", url("NEUTRON")),
    ]
    if ENV["CINDER"] == "1":
        catalog.append(("cinderv3", "volumev3", url("CINDER") + "/v3/%(project_id)s"))
    known = {service["type"] for service in admin.all(f"{KEYSTONE}/services", "services")}
    for name, kind, address in catalog:
        if kind in known:
            continue
        service = admin.make(f"{KEYSTONE}/services", "service", name=name, type=kind)["id"]
        for interface in ("public", "internal", "admin"):
            endpoint = {"interface": interface, "service_id": service, "url": address, "region_id": "RegionOne"}
            admin.make(f"{KEYSTONE}/endpoints", "endpoint", **endpoint)
    project = admin.named(f"{KEYSTONE}/projects", "project", "service", domain_id="default")["id"]
    login = {"password": "service", "domain_id": "default", "default_project_id": project}
    user = admin.named(f"{KEYSTONE}/users", "user", "service", **login)["id"]
    for name in ("admin", "service"):
        role = admin.named(f"{KEYSTONE}/roles", "role", name)["id"]
        admin.ask("PUT", f"{KEYSTONE}/projects/{project}/users/{user}/roles/{role}")


def conductor():
    import amqp
    import kombu

    def has_consumer():
        broker = f"amqp://guest:guest@127.0.0.1:{ENV['AMQP_PORT']}//"
        try:
            with kombu.Connection(broker, connect_timeout=5) as connection:
                queue = kombu.Queue("conductor", channel=connection.channel())
                if queue.queue_declare(passive=True).consumer_count == 0:
                    raise NotYet("nobody listens")
        except (OSError, amqp.AMQPError) as error:
            raise NotYet(str(error)) from error

    patiently("nova-conductor", has_consumer)


def cloud():
    admin = Admin()
    known = {flavor["name"] for flavor in patiently("nova-api", lambda: admin.all(f"{NOVA}/flavors", "flavors"))}
    for name, number, ram, disk in FLAVORS:
        if name not in known:
            admin.make(f"{NOVA}/flavors", "flavor", name=name, id=number, ram=ram, vcpus=1, disk=disk)
    patiently("glance", lambda: images(admin))
    if ENV["NEUTRON"] == "real":
        patiently("neutron", lambda: networks(admin))
    patiently("hosts", lambda: hosts(admin))


def images(admin):
    """`blank` has nothing on it, enough for guests that do not run; `guest` boots."""
    image(admin, "blank", bytes(65_536))
    if ENV["DRIVER"].startswith("libvirt."):
        with open(f"{ENV['STATE']}/guest.raw", "rb") as disk:
            image(admin, "guest", disk)


def image(admin, name, content):
    if admin.all(f"{GLANCE}/images?name={name}&status=active", "images"):
        return
    record = {"name": name, "disk_format": "raw", "container_format": "bare", "visibility": "public"}
    made = admin.ask("POST", f"{GLANCE}/images", json=record)["id"]
    headers = {"Content-Type": "application/octet-stream"}
    admin.ask("PUT", f"{GLANCE}/images/{made}/file", data=content, headers=headers)


def networks(admin):
    """`inside` for servers, `outside` for floating IPs, and a router between them."""
    inside = admin.named(f"{NEUTRON}/networks", "network", "inside", shared=True)["id"]
    prefix = f"10.99.{int(ENV['NEUTRON_PORT']) % 250}"
    subnet = {"network_id": inside, "ip_version": 4, "cidr": f"{prefix}.0/24", "enable_dhcp": False}
    # The first address is the router's, the second this machine's, where guests are real.
    subnet["allocation_pools"] = [{"start": f"{prefix}.10", "end": f"{prefix}.250"}]
    within = admin.named(f"{NEUTRON}/subnets", "subnet", "inside", **subnet)["id"]
    outside = admin.named(f"{NEUTRON}/networks", "network", "outside", **{"router:external": True})["id"]
    subnet = {"network_id": outside, "ip_version": 4, "cidr": "203.0.113.0/24", "enable_dhcp": False}
    admin.named(f"{NEUTRON}/subnets", "subnet", "outside", **subnet)
    if ENV["DRIVER"].startswith("libvirt."):
        # How nova calls the bridge of this network, and an address on it for this machine.
        with open(f"{ENV['STATE']}/tmp/bridge", "w") as file:
            file.write(f"brq{inside[:11]} {prefix}.2/24\n")
    gateway = {"external_gateway_info": {"network_id": outside}}
    router = admin.named(f"{NEUTRON}/routers", "router", "router", **gateway)["id"]
    if not admin.all(f"{NEUTRON}/ports?device_id={router}&network_id={inside}", "ports"):
        admin.ask("PUT", f"{NEUTRON}/routers/{router}/add_router_interface", json={"subnet_id": within})


def hosts(admin):
    up = {
        hypervisor["service"]["host"]
        for hypervisor in admin.all(f"{NOVA}/os-hypervisors/detail", "hypervisors")
        if hypervisor["state"] == "up"
    }
    missing = set(ENV["COMPUTES"].split(",")) - up
    if missing:
        raise NotYet(f"not up: {sorted(missing)}")
    if ENV["CINDER"] == "1":
        volumes(admin)


def volumes(admin):
    project = admin.all(f"{KEYSTONE}/projects?name=admin", "projects")[0]["id"]
    services = admin.all(f"{url('CINDER')}/v3/{project}/os-services", "services")
    up = {service["binary"] for service in services if service["state"] == "up"}
    missing = {"cinder-scheduler", "cinder-volume"} - up
    if missing:
        raise NotYet(f"not up: {sorted(missing)}")


{"identity": identity, "conductor": conductor, "cloud": cloud}[sys.argv[1]]()
