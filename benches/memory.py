"""Memory of a server with four workers, and how often it wakes while nobody asks anything."""

import os
import sys
import time

import processes
from servers import Running, Unusable

TITLE = "4 workers with the Django project, after 400 requests: MiB of PSS; wake-ups while idle"
SERVERS = ("rgunicorn", "gunicorn-sync", "gunicorn-gthread", "granian")
_WORKERS = 4
_REQUESTS = 400


def measure(tools, names, place):
    """Figures by server and preloading."""
    figures = {}
    for name in names:
        for preload in (False, True):
            label = f"{name}{', preloaded' if preload else ''}"
            threads = 4 if name == "gunicorn-gthread" else 1
            try:
                with Running(name, tools, "heavy:hello", cpus=os.sched_getaffinity(0), workers=_WORKERS,
                             threads=threads, preload=preload) as server:
                    figures[label] = _row(server, place.idle)
            except Unusable as reason:
                print(f"left out of memory: {label}: {reason}", file=sys.stderr)
    return figures


def _row(server, idle):
    for _ in range(_REQUESTS):
        server.get()
    root = server.process.pid
    pids = processes.tree(root)
    before = {pid: processes.switches(pid) for pid in pids}
    time.sleep(idle)
    woken = {pid: processes.switches(pid) - count for pid, count in before.items()}
    return {
        "whole tree": sum(processes.proportional_memory(pid) for pid in pids),
        "arbiter": processes.proportional_memory(root),
        f"arbiter's wake-ups in {idle} s": woken[root],
        "the tree's": sum(woken.values()),
    }
