"""volume_driver = file_volumes.Driver: each volume and each snapshot is a sparse file under STATE/volumes.

With real guests a volume is attached as a loop device of its file; with the fake hypervisor, which looks at nothing, as
an iSCSI target that nobody connects to.
"""

import os
import subprocess

from cinder.volume import driver

FOLDER = os.path.join(os.environ["STATE"], "volumes")
REAL_GUESTS = os.environ["DRIVER"].startswith("libvirt.")


def file_of(record):
    return os.path.join(FOLDER, record["id"])


def remove(path):
    if os.path.exists(path):
        os.unlink(path)


def copy(source, target):
    subprocess.run(["cp", "--sparse=always", source, target], check=True)


def loops_of(path):
    listed = subprocess.run(["losetup", "-n", "-O", "NAME", "-j", path], check=True, capture_output=True, text=True)
    return listed.stdout.split()


def release(path):
    for device in loops_of(path):
        subprocess.run(["losetup", "-d", device], check=True)


class Driver(driver.VolumeDriver):
    VERSION = "1"

    def do_setup(self, context):
        os.makedirs(FOLDER, exist_ok=True)

    def check_for_setup_error(self):
        pass

    def get_volume_stats(self, refresh=False):
        return {
            "volume_backend_name": self.configuration.safe_get("volume_backend_name"),
            "vendor_name": "files",
            "driver_version": self.VERSION,
            "storage_protocol": "local",
            "total_capacity_gb": 1_000,
            "free_capacity_gb": 900,
            "reserved_percentage": 0,
            "QoS_support": False,
            "thin_provisioning_support": True,
            "max_over_subscription_ratio": "20",
        }

    def create_volume(self, volume):
        with open(file_of(volume), "wb") as file:
            file.truncate(volume["size"] << 30)

    def delete_volume(self, volume):
        release(file_of(volume))
        remove(file_of(volume))

    def extend_volume(self, volume, size):
        os.truncate(file_of(volume), size << 30)

    def create_snapshot(self, snapshot):
        copy(os.path.join(FOLDER, snapshot["volume_id"]), file_of(snapshot))

    def delete_snapshot(self, snapshot):
        remove(file_of(snapshot))

    def create_volume_from_snapshot(self, volume, snapshot):
        self.create_cloned_volume(volume, snapshot)

    def create_cloned_volume(self, volume, source):
        copy(file_of(source), file_of(volume))
        self.extend_volume(volume, volume["size"])

    def copy_image_to_volume(self, context, volume, image_service, image_id, *_, **__):
        with open(file_of(volume), "r+b") as file:
            image_service.download(context, image_id, file)

    def copy_volume_to_image(self, context, volume, image_service, image, *_, **__):
        with open(file_of(volume), "rb") as file:
            image_service.update(context, image["id"], {}, file)

    def ensure_export(self, context, volume):
        pass

    def create_export(self, context, volume, connector):
        pass

    def remove_export(self, context, volume):
        pass

    def initialize_connection(self, volume, connector, **_):
        path = file_of(volume)
        if REAL_GUESTS:
            devices = loops_of(path)
            if not devices:
                made = subprocess.run(["losetup", "-f", "--show", path], check=True, capture_output=True, text=True)
                devices = made.stdout.split()
            return {"driver_volume_type": "local", "data": {"device_path": devices[0]}}
        target = {
            "target_portal": "127.0.0.1:3260",
            "target_iqn": f"iqn.2026-01.test:{volume['id']}",
            "target_lun": 1,
            "volume_id": volume["id"],
        }
        return {"driver_volume_type": "iscsi", "data": target}

    def terminate_connection(self, volume, connector, **_):
        if REAL_GUESTS:
            release(file_of(volume))
