"""An ML2 mechanism driver that binds every port at once: there is no agent on the hosts that would do it.

The kind is a Linux bridge, which nova makes by itself for real guests. The folder reeve_bind-1.dist-info tells Neutron of
this driver.
"""

from neutron_lib.plugins.ml2 import api


class Driver(api.MechanismDriver):
    def initialize(self):
        pass

    def bind_port(self, context):
        for segment in context.segments_to_bind[:1]:
            # As if something filtered already: otherwise nova would change the firewall of this machine.
            details = {"port_filter": True, "connectivity": "l2"}
            context.set_binding(segment[api.ID], "bridge", details, status="ACTIVE")
