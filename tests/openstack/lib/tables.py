"""Makes the tables of a service in its empty database, and what else it wants before its first start: tables.py SERVICE

One process for each service: the imports take seconds, so each of their programs would cost them again.
"""

import os
import subprocess
import sys

ENV = os.environ
ETC = f"{ENV['STATE']}/etc"
DATABASE = f"mysql+pymysql://openstack:openstack@127.0.0.1:{ENV['DATABASE_PORT']}/"


def keystone():
    url = f"http://127.0.0.1:{ENV['KEYSTONE_PORT']}/v3"
    owner = ["--keystone-user", "root", "--keystone-group", "root"]
    addresses = [f"--bootstrap-{interface}-url={url}" for interface in ("public", "internal", "admin")]
    steps = [
        ["db_sync"],
        ["fernet_setup", *owner],
        ["bootstrap", "--bootstrap-password=admin", "--bootstrap-region-id=RegionOne", *addresses],
    ]
    os.makedirs(f"{ENV['STATE']}/keystone", exist_ok=True)
    for step in steps:
        subprocess.run(["keystone-manage", "--config-file", f"{ETC}/keystone.conf", *step], check=True)


def nova():
    from nova import config, objects
    from nova.cmd import manage

    config.parse_args(["nova-manage", "--config-file", f"{ETC}/nova.conf", "--config-file", f"{ETC}/nova-databases.conf"])
    objects.register_all()
    cells = manage.CellV2Commands()
    done = [
        manage.ApiDbCommands().sync(),
        cells.map_cell0(database_connection=f"{DATABASE}nova_cell0?charset=utf8"),
        manage.DbCommands().sync(),
        cells.create_cell(
            name="cell1",
            database_connection=f"{DATABASE}nova?charset=utf8",
            transport_url=f"rabbit://guest:guest@127.0.0.1:{ENV['AMQP_PORT']}/",
        ),
    ]
    if any(done):
        sys.exit(f"nova-manage: {done}")


def main_of(module, name, *options):
    import importlib

    sys.argv = [name, "--config-file", f"{ETC}/{name.split('-')[0]}.conf", *options]
    sys.exit(importlib.import_module(module).main())


SERVICES = {
    "keystone": keystone,
    "nova": nova,
    "glance": lambda: main_of("glance.cmd.manage", "glance-manage", "db_sync"),
    "neutron": lambda: main_of("neutron.db.migration.cli", "neutron-db-manage", "upgrade", "heads"),
    "cinder": lambda: main_of("cinder.cmd.manage", "cinder-manage", "db", "sync"),
}
SERVICES[sys.argv[1]]()
