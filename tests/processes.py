"""Processes and what descends from them: found, frozen, killed, as a power failure would."""

import contextlib
import os
import signal
import subprocess


def running():
    """Return the parent of each running process, by their ids."""
    listed = subprocess.run(["ps", "-e", "-o", "pid=,ppid=,stat="], capture_output=True, text=True, check=True).stdout
    rows = [line.split() for line in listed.splitlines()]
    return {int(row[0]): int(row[1]) for row in rows if not row[2].startswith("Z")}


def family(pid):
    """Return a running process and all that descend from it; a process group is too small, kernels have their own."""
    parents = running()
    found = {pid} & set(parents)
    while more := {child for child, parent in parents.items() if parent in found} - found:
        found |= more
    return found


def send(number, pids):
    for pid in pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, number)


def power_fails(process):
    """Kill the process and all its descendants, first frozen so that none starts another meanwhile."""
    frozen = set()
    while process.poll() is None and (more := family(process.pid) - frozen):
        send(signal.SIGSTOP, more)
        frozen |= more
    send(signal.SIGKILL, frozen)
    process.wait()
