"""What an idle keep-alive connection costs: bytes of the server, beside the kernel's, and its weight on the others."""

import os
import resource
import sys
import time

import processes
from client import Client, percentile
from servers import Running, Unusable

SERVERS = ("rgunicorn", "gunicorn-gthread", "granian")
TITLE = "idle keep-alive connections of one worker, each of which has been answered once"
_CONNECTIONS = 15_000
_REQUESTS = 500


def measure(tools, names, place):
    """By server: bytes per connection, and the milliseconds of a request among them."""
    # One fd for each here, and one in the server, which inherits the limit.
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    count = min(_CONNECTIONS, hard - 500)
    figures = {}
    for name in names:
        try:
            with Running(name, tools, "application:hello", cpus=place.server, threads=1) as server:
                figures[name] = _row(server, count)
        except (Unusable, OSError) as reason:
            print(f"left out of idle: {name}: {reason}", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return figures


def _row(server, count):
    with Client(server.port) as quick:
        for _ in range(_REQUESTS):
            quick.get()
        before = _memory(server)
        clients = []
        for _ in range(count):
            client = Client(server.port)
            client.get()
            clients.append(client)
        after = _memory(server)
        waits = [quick.get() for _ in range(_REQUESTS)]
        for client in clients:
            client.socket.close()
    return {"connections": count, "bytes each": (after - before) * (1 << 20) / count,
            "p50 ms": percentile(waits, 50) * 1e3, "p99 ms": percentile(waits, 99) * 1e3}


def _memory(server):
    # What was freed a moment ago may still be given back.
    time.sleep(0.5)
    return sum(processes.proportional_memory(pid) for pid in processes.tree(server.process.pid) if os.path.exists(f"/proc/{pid}"))
