"""Head of the line: 40 connections of one worker, in which one request waits 2 s. How long do the others wait?

All connections are opened while there is one worker, which then gets three beside it: so they are all that worker's, as
they are when a proxy has opened its connections in a quiet minute.
"""

import os
import selectors
import signal
import sys
import time

import processes
from client import Client, percentile
from servers import Running, Unusable

SERVERS = ("rgunicorn", "gunicorn-gthread")
TITLE = "4 workers with one lane; of 40 connections to one of them one waits 2 s in the application: the other 39"
_WORKERS = 4
_CONNECTIONS = 40


def measure(tools, names, place):
    """Milliseconds by server: p50 and the worst of the 39, over some starts."""
    figures = {}
    for name in names:
        waits = []
        try:
            for _ in range(place.starts):
                waits += _once(name, tools, place.server)
        except (Unusable, OSError) as reason:
            print(f"left out of line: {name}: {reason}", file=sys.stderr)
            continue
        figures[name] = {"p50 ms": percentile(waits, 50) * 1e3, "worst ms": max(waits) * 1e3, "requests": len(waits)}
    return figures


def _once(name, tools, cpus):
    with Running(name, tools, "application:mixed", cpus=cpus, workers=1, threads=1) as server:
        clients = [Client(server.port) for _ in range(_CONNECTIONS)]
        for client in clients:
            client.get()
        alone = len(processes.tree(server.process.pid))
        for _ in range(_WORKERS - 1):
            os.kill(server.process.pid, signal.SIGTTIN)
            time.sleep(0.2)
        deadline = time.monotonic() + 20
        while len(processes.tree(server.process.pid)) < alone + _WORKERS - 1 and time.monotonic() < deadline:
            time.sleep(0.05)
        # That a process is there does not mean that it serves.
        time.sleep(2)
        sleeper, *others = clients
        sleeper.ask("/nap")
        time.sleep(0.05)
        waits = _at_once(others)
        sleeper.answer()
        for client in clients:
            client.socket.close()
        return waits


def _at_once(clients):
    """One request on each, all at once: the seconds until each was answered."""
    waits = []
    with selectors.DefaultSelector() as selector:
        begun = time.perf_counter()
        for client in clients:
            client.ask()
            selector.register(client, selectors.EVENT_READ)
        while selector.get_map():
            found = selector.select(5)
            if not found:
                raise TimeoutError(f"{len(selector.get_map())} of {len(clients)} requests are not answered in 5 s")
            for key, _ in found:
                key.fileobj.answer()
                waits.append(time.perf_counter() - begun)
                selector.unregister(key.fileobj)
    return waits
