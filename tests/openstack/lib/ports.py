"""Holds loopback ports for as long as it runs: ports.py FILE

FILE gets a line NAME=NUMBER for each; one that is there already is taken as it is, because a cloud's own database holds
its addresses. The ports come from the range and are marked with the locked files of the project's other tests (see
tests/src/harness/ports.rs), so none is taken twice, and the kernel takes the marks back when this process ends.
"""

import fcntl
import os
import random
import signal
import socket
import sys
import tempfile

NAMES = ["EPMD", "DISTRIBUTION", "AMQP", "DATABASE", "KEYSTONE", "GLANCE", "PLACEMENT", "NOVA", "NEUTRON", "CINDER"]
RANGE = range(21_000, 30_000)


def reserve(folder, number):
    """The locked file of a port on which nothing listens, or None."""
    lock = open(os.path.join(folder, str(number)), "a")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        with socket.socket() as listener:
            # As servers do: a port whose connections have only just ended is free.
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            listener.bind(("127.0.0.1", number))
    except OSError:
        lock.close()
        return None
    return lock


def main():
    path = sys.argv[1]
    folder = os.path.join(tempfile.gettempdir(), f"reeve-test-ports-{os.getuid()}")
    os.makedirs(folder, exist_ok=True)
    held = []
    if os.path.exists(path):
        for line in open(path):
            number = int(line.split("=")[1])
            lock = reserve(folder, number)
            if lock is None:
                sys.exit(f"port {number} of this state is in use: end its user, or make another state")
            held.append(lock)
    else:
        lines = []
        candidates = iter(random.sample(RANGE, len(RANGE)))
        for name in NAMES:
            number, lock = next((n, lock) for n in candidates if (lock := reserve(folder, n)))
            lines.append(f"{name}_PORT={number}\n")
            held.append(lock)
        with open(path + ".new", "w") as file:
            file.writelines(lines)
        os.rename(path + ".new", path)
    with open(path + ".held", "w") as file:
        file.write("held\n")
    signal.pause()


main()
