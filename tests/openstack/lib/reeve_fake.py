"""compute_driver = reeve_fake.Driver: Nova's fake hypervisor, which keeps its guests and uploads its snapshots.

Nova's own forgets its guests when nova-compute starts again, and a snapshot's image stays queued for ever. What an
operation does can be changed while it runs: STATE/faults.json is read at each call,
{"spawn": {"delay": 2, "fail": "no disk", "host": "compute1"}}, where each of the three may be left out.
"""

import io
import json
import os
import time

from nova import context, exception, objects
from nova.compute import power_state, vm_states
from nova.image import glance
from nova.virt import fake

FAULTS = os.path.join(os.environ["STATE"], "faults.json")
# Enough that both halves of a transfer are seen, little enough that a hundred of them cost nothing.
SNAPSHOT = bytes(range(256)) * 256
WITHOUT_GUEST = (vm_states.BUILDING, vm_states.DELETED, vm_states.SHELVED_OFFLOADED)
OPERATIONS = (
    "spawn destroy power_off power_on reboot pause unpause suspend resume attach_volume detach_volume "
    "live_migration migrate_disk_and_power_off finish_migration"
).split()


class Driver(fake.FakeDriver):
    vcpus, memory_mb, local_gb = 64, 262_144, 10_000

    def init_host(self, host):
        super().init_host(host)
        everywhere = context.get_admin_context()
        for instance in objects.InstanceList.get_by_host(everywhere, host, expected_attrs=["flavor"]):
            if instance.vm_state in WITHOUT_GUEST:
                continue
            flavor = instance.flavor
            self.resources.claim(flavor.vcpus, flavor.memory_mb, flavor.root_gb)
            stopped = instance.vm_state == vm_states.STOPPED
            state = power_state.SHUTDOWN if stopped else power_state.RUNNING
            self.instances[instance.uuid] = fake.FakeInstance(instance.name, state, instance.uuid)

    def inject(self, operation):
        try:
            with open(FAULTS) as file:
                fault = json.load(file).get(operation)
        except (OSError, ValueError):
            return
        if fault is None or fault.get("host", self._host) != self._host:
            return
        time.sleep(fault.get("delay", 0))
        if "fail" in fault:
            raise exception.NovaException(fault["fail"])

    def snapshot(self, request, instance, image_id, update_task_state):
        self.inject("snapshot")
        super().snapshot(request, instance, image_id, update_task_state)
        images = glance.API()
        image = {
            "name": images.get(request, image_id)["name"],
            "status": "active",
            "disk_format": "raw",
            "container_format": "bare",
            "properties": {"owner_id": instance.project_id},
        }
        images.update(request, image_id, image, io.BytesIO(SNAPSHOT), purge_props=False)


def with_faults(operation):
    def call(self, *args, **options):
        self.inject(operation)
        return getattr(super(Driver, self), operation)(*args, **options)

    return call


for each in OPERATIONS:
    setattr(Driver, each, with_faults(each))
