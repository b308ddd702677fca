"""Writes the configuration of every service into STATE/etc, from the environment of `up`."""

import os

ENV = os.environ
STATE = ENV["STATE"]
ETC = f"{STATE}/etc"
KEYSTONE = f"http://127.0.0.1:{ENV['KEYSTONE_PORT']}/v3"
GLANCE = f"http://127.0.0.1:{ENV['GLANCE_PORT']}"
BROKER = f"rabbit://guest:guest@127.0.0.1:{ENV['AMQP_PORT']}/"

# How services log in to each other.
LOGIN = {
    "auth_type": "password",
    "auth_url": KEYSTONE,
    "username": "service",
    "password": "service",
    "project_name": "service",
    "user_domain_name": "Default",
    "project_domain_name": "Default",
    "region_name": "RegionOne",
}
GUARD = LOGIN | {
    "www_authenticate_uri": KEYSTONE,
    "service_token_roles": "service",
    "service_token_roles_required": True,
}
ON_BEHALF = LOGIN | {"send_service_user_token": True}
SILENT = {"driver": "noop"}
TOLD = {"driver": "messagingv2"}
COMMON = {"use_stderr": True}
LOCKS = {"lock_path": f"{STATE}/lock"}


def database(name):
    url = f"mysql+pymysql://openstack:openstack@127.0.0.1:{ENV['DATABASE_PORT']}/{name}?charset=utf8"
    return {"connection": url, "max_pool_size": 5, "max_overflow": 20}


def keystone():
    keys = f"{STATE}/keystone"
    return {
        "DEFAULT": COMMON | {"public_endpoint": KEYSTONE.removesuffix("v3")},
        "database": database("keystone"),
        "token": {"provider": "fernet", "expiration": 3600},
        "fernet_tokens": {"key_repository": f"{keys}/tokens"},
        "fernet_receipts": {"key_repository": f"{keys}/tokens"},
        "credential": {"key_repository": f"{keys}/credentials"},
        # Passwords that everybody may know need no slow hash.
        "identity": {"password_hash_rounds": 4},
        "cache": {"enabled": True, "backend": "oslo_cache.dict", "expiration_time": 60},
        "oslo_messaging_notifications": SILENT,
    }


def glance():
    return {
        "DEFAULT": COMMON
        | {
            "bind_host": "127.0.0.1",
            "bind_port": ENV["GLANCE_PORT"],
            "workers": 0,
            "enabled_backends": "files:file",
            "transport_url": BROKER,
        },
        "glance_store": {"default_backend": "files"},
        "files": {"filesystem_store_datadir": f"{STATE}/images"},
        "os_glance_tasks_store": {"filesystem_store_datadir": f"{STATE}/tmp"},
        "os_glance_staging_store": {"filesystem_store_datadir": f"{STATE}/tmp"},
        "database": database("glance"),
        "keystone_authtoken": GUARD,
        "paste_deploy": {"flavor": "keystone", "config_file": f"{ETC}/glance-paste.ini"},
        "oslo_messaging_notifications": SILENT,
        "oslo_concurrency": LOCKS,
    }


def placement():
    return {
        "DEFAULT": COMMON,
        "placement_database": database("placement") | {"sync_on_startup": True},
        "api": {"auth_strategy": "keystone"},
        "keystone_authtoken": GUARD,
    }


def nova():
    privileged = {"helper_command": f"privsep-helper --config-file {ETC}/nova.conf"}
    contexts = ["nova_sys_admin", "vif_plug_linux_bridge_privileged", "vif_plug_ovs_privileged", "privsep_osbrick"]
    return {
        "DEFAULT": COMMON
        | {
            "my_ip": "127.0.0.1",
            "state_path": STATE,
            "transport_url": BROKER,
            "compute_driver": ENV["DRIVER"],
            "enabled_apis": "osapi_compute",
            "osapi_compute_listen": "127.0.0.1",
            "osapi_compute_listen_port": ENV["NOVA_PORT"],
            "osapi_compute_workers": 1,
            # A dead host is seen within seconds, not within a minute.
            "report_interval": 2,
            "service_down_time": 8,
            # Otherwise the first look for new hosts waits up to a minute.
            "periodic_fuzzy_delay": 0,
            "update_resources_interval": 10,
            "sync_power_state_interval": 20,
            "heal_instance_info_cache_interval": 20 if ENV["NEUTRON"] == "real" else -1,
            # There is no agent that would tell when a port is plugged.
            "vif_plugging_is_fatal": False,
            "vif_plugging_timeout": 0,
            "force_raw_images": False,
            "force_config_drive": ENV["DRIVER"].startswith("libvirt."),
            "shutdown_timeout": 10,
            "reserved_host_memory_mb": 0,
            "reserved_host_disk_mb": 0,
            "cpu_allocation_ratio": 16,
        },
        "api": {"auth_strategy": "keystone"},
        "wsgi": {"api_paste_config": f"{ETC}/nova-paste.ini"},
        "keystone_authtoken": GUARD,
        "service_user": ON_BEHALF,
        "placement": LOGIN,
        "glance": {"api_servers": GLANCE},
        "neutron": LOGIN | {"endpoint_override": f"http://127.0.0.1:{ENV['NEUTRON_PORT']}"},
        "cinder": LOGIN | {"catalog_info": "volumev3::publicURL"},
        # Both families, so that either can be read; an update of every state; volumes and addresses in each.
        "notifications": {
            "notification_format": "both",
            "notify_on_state_change": "vm_and_task_state",
            "bdms_in_notifications": True,
        },
        "oslo_messaging_notifications": TOLD,
        "oslo_messaging_rabbit": {"heartbeat_timeout_threshold": 60, "rabbit_retry_interval": 1},
        "oslo_concurrency": LOCKS,
        # For more than the ten servers that a project may have otherwise.
        "quota": {"instances": 200, "cores": 400, "ram": 1_048_576},
        "conductor": {"workers": 1},
        "scheduler": {"workers": 1, "discover_hosts_in_cells_interval": 2},
        "filter_scheduler": {"track_instance_changes": False},
        "vnc": {"enabled": False},
        "spice": {"enabled": False},
        "libvirt": {
            "virt_type": ENV["VIRT_TYPE"],
            "cpu_mode": "none",
            # Its configuration drive is where the tiny guest's kernel finds it, whatever the image says of itself.
            "hw_machine_type": "x86_64=pc",
            "inject_partition": -2,
            "wait_soft_reboot_seconds": 20,
        },
    } | {context: privileged for context in contexts}


def compute(number, host):
    # Each is a hypervisor of its own, with an address and folders of its own.
    address = f"127.0.1.{number}"
    return {
        "DEFAULT": {
            "host": host,
            "my_ip": address,
            "state_path": f"{STATE}/computes/{host}",
            "instances_path": f"{STATE}/computes/{host}/instances",
        },
        "libvirt": {"connection_uri": f"qemu+unix:///system?socket={STATE}/libvirt/{host}/socket/libvirt-sock"},
    }


def neutron():
    return {
        "DEFAULT": COMMON
        | {
            "bind_host": "127.0.0.1",
            "bind_port": ENV["NEUTRON_PORT"],
            "core_plugin": "ml2",
            "service_plugins": "router",
            "transport_url": BROKER,
            "auth_strategy": "keystone",
            "state_path": f"{STATE}/neutron",
            "api_paste_config": f"{ETC}/neutron-paste.ini",
            "api_workers": 0,
            "rpc_workers": 0,
            "rpc_state_report_workers": 0,
            "notify_nova_on_port_status_changes": True,
            "notify_nova_on_port_data_changes": True,
            "dhcp_agent_notification": False,
        },
        "ml2": {
            "type_drivers": "local,flat",
            "tenant_network_types": "local",
            "mechanism_drivers": "reeve_bind",
            "extension_drivers": "port_security",
        },
        "ml2_type_flat": {"flat_networks": "*"},
        "database": database("neutron"),
        "keystone_authtoken": GUARD,
        "nova": LOGIN,
        "placement": LOGIN,
        "oslo_messaging_notifications": SILENT,
        "oslo_concurrency": LOCKS,
    }


def cinder():
    return {
        "DEFAULT": COMMON
        | {
            "my_ip": "127.0.0.1",
            "host": "volumes1",
            "osapi_volume_listen": "127.0.0.1",
            "osapi_volume_listen_port": ENV["CINDER_PORT"],
            "osapi_volume_workers": 1,
            "transport_url": BROKER,
            "auth_strategy": "keystone",
            "state_path": f"{STATE}/cinder",
            "volumes_dir": f"{STATE}/cinder",
            "api_paste_config": f"{ETC}/cinder-paste.ini",
            "rootwrap_config": "/dev/null",
            "glance_api_servers": GLANCE,
            "enabled_backends": "files",
            "default_volume_type": "__DEFAULT__",
            "quota_volumes": 100,
            "quota_snapshots": 100,
            # Or an attached volume could not be made an image of: what the driver `openstack` asks of a cloud.
            "enable_force_upload": True,
        },
        "files": {"volume_backend_name": "files", "volume_driver": "file_volumes.Driver"},
        "database": database("cinder"),
        "keystone_authtoken": GUARD,
        "nova": LOGIN | {"interface": "public"},
        "service_user": ON_BEHALF,
        "oslo_messaging_notifications": TOLD,
        "oslo_concurrency": LOCKS,
    }


def write(name, sections):
    with open(f"{ETC}/{name}", "w") as file:
        for section, options in sections.items():
            file.write(f"[{section}]\n")
            file.writelines(f"{option} = {value}\n" for option, value in options.items())
            file.write("\n")


def write_broker():
    with open(f"{ETC}/rabbitmq.conf", "w") as file:
        file.write(
            f"listeners.tcp.1 = 127.0.0.1:{ENV['AMQP_PORT']}\n"
            "vm_memory_high_watermark.absolute = 512MB\n"
            "disk_free_limit.absolute = 50MB\n"
            "log.console = true\n"
            "log.console.level = warning\n"
        )
    with open(f"{ETC}/rabbitmq.plugins", "w") as file:
        file.write("[].\n")


write_broker()
write("keystone.conf", keystone())
write("glance.conf", glance())
write("placement.conf", placement())
write("nova.conf", nova())
write("nova-databases.conf", {"api_database": database("nova_api"), "database": database("nova")})
for number, host in enumerate(ENV["COMPUTES"].split(","), 1):
    write(f"compute-{host}.conf", compute(number, host))
write("neutron.conf", neutron())
write("cinder.conf", cinder())
