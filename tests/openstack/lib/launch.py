"""Runs the main function of a service: launch.py NAME MODULE OPTION...

The libraries' packages have no programs. The folder of this file is importable for the service, so that it finds the
drivers that are here; nova only takes one from its own package, so the folder becomes a part of that.
"""

import importlib
import os
import sys

HERE = os.path.dirname(os.path.abspath(__file__))


def accept_redacted_context():
    """Debian's oslo.messaging copies the context into a notification with read_deleted=None, which cinder refuses: each
    write would be answered 500 while notifications are on."""
    from cinder.context import RequestContext

    original = RequestContext.__init__

    def patched(self, *args, **options):
        if options.get("read_deleted", "no") is None:
            options["read_deleted"] = "no"
        original(self, *args, **options)

    RequestContext.__init__ = patched


def main():
    name, module, *options = sys.argv[1:]
    sys.path.insert(1, HERE)
    # Before anything else: importing it makes eventlet take over the sockets.
    service = importlib.import_module(module)
    if name.startswith("cinder"):
        accept_redacted_context()
    if name == "nova-compute":
        import nova.virt

        nova.virt.__path__.append(HERE)
    sys.argv = [name, *options]
    sys.exit(service.main())


main()
