"""The driver: rgunicorn under load, and what is done to it meanwhile.

Owns the server, the load generator, and the order of events, which a seed decides. Invariant: a kill is announced to the
generator, and has been understood by it, before it happens.
"""

import collections
import functools
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import processes
from harness.server import ROOT, Server

HERE = Path(__file__).resolve().parent
EVENTS = ("kill", "more", "less", "reload")


@functools.cache
def generator():
    """The load generator: TORTURE, or built now."""
    if path := os.environ.get("TORTURE"):
        return Path(path)
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "rgunicorn-torture"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "rgunicorn-torture"


class Load:
    """The running generator."""

    def __init__(self, address, seconds, clients, seed):
        where = address if isinstance(address, str) else "%s:%d" % address
        command = [generator(), where, str(seconds), str(clients), str(seed)]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._output = []
        self._reader = threading.Thread(target=lambda: self._output.append(self.process.stdout.read()), daemon=True)
        self._reader.start()

    def announce(self, event):
        """Tells of an event; returns when the generator has heard it."""
        self.process.stdin.write(event.encode() + b"\n")
        self.process.stdin.flush()
        heard = self.process.stderr.readline().decode().strip()
        assert heard == event, f"the load generator says {heard!r} instead of {event!r}"

    def result(self, within):
        """Waits for the end: what was counted."""
        try:
            status = self.process.wait(within)
            self._reader.join(5)
        finally:
            self.process.kill()
        assert status == 0, f"the load generator ended with {status}"
        return json.loads(self._output[0])


def torture(directory, *, seconds, pool, events, seed=1, clients=60, unix=False, workers=None, arguments=(), every=1.5):
    """One run: the result as a dict. `pool`: sync or gthread. `every`: mean seconds between two events."""
    directory = Path(directory)
    notes = directory / "notes"
    notes.mkdir()
    workers = workers or (4 if pool == "sync" else 2)
    words = ["--bind", f"unix:{directory}/torture.sock" if unix else "127.0.0.1:0", "--workers", workers,
             "--threads", 1 if pool == "sync" else 4, "--python", sys.executable, "--chdir", HERE, *arguments, "app:app"]
    server = Server(directory, words, env={"TORTURE_NOTES": str(notes)})
    server.start()
    try:
        server.ready()
        load = Load(server.address, seconds, clients, seed)
        happened = _events(server, load, seconds, random.Random(seed), events, workers, every)
        result = load.result(within=seconds + 40)
        if "kill" in events:
            server.expect("killed|SIGKILL")
        server.finish()
    except BaseException:
        sys.stderr.write(server.log.text + "\n")
        server.abandon()
        raise
    ran = collections.Counter(token for file in notes.iterdir() for token in file.read_text().split())
    result["events"] = dict(happened)
    result["worker_processes"] = len(list(notes.iterdir()))
    # What a killed worker had begun is asked again by nobody, so no token may run twice.
    result["run_twice"] = sum(count > 1 for count in ran.values())
    result["pool"], result["seed"], result["log"] = pool, seed, server.log.text
    return result


def _events(server, load, seconds, chance, events, workers, every):
    happened = collections.Counter()
    end = time.monotonic() + seconds
    count = workers
    while events and time.monotonic() < end - 1:
        # The one place that waits for time: events come when they come.
        time.sleep(chance.uniform(0.2, 2 * every - 0.2))
        event = chance.choice(events)
        if event == "more" and count >= workers + 2:
            event = "less" if "less" in events else "more"
        if event == "less" and count <= max(1, workers - 2):
            event = "more"
        if load.process.poll() is not None or not server.running():
            break
        load.announce(event)
        happened[event] += 1
        if event == "more":
            count += 1
            server.signal(signal.SIGTTIN)
        elif event == "less":
            count -= 1
            server.signal(signal.SIGTTOU)
        elif event == "reload":
            server.signal(signal.SIGHUP)
        else:
            victims = server.workers
            if victims:
                victim = chance.choice(victims)
                if processes.alive(victim):
                    os.kill(victim, signal.SIGKILL)
    return happened


def table(results):
    """The results as text, a column for each run."""
    def losses(counts):
        return " ".join(f"{name}:{count}" for name, count in counts.items()) or "0"

    rows = [
        ("pool", lambda r: r["pool"]),
        ("seconds", lambda r: f"{r['seconds']:.1f}"),
        ("answered", lambda r: r["answered"]),
        ("connections", lambda r: r["connections"]),
        ("worker processes", lambda r: r["worker_processes"]),
        ("events", lambda r: losses(r["events"])),
        ("LOST", lambda r: losses(r["lost"])),
        ("run twice", lambda r: r["run_twice"]),
        ("lost in killed workers", lambda r: losses(r["killed"])),
        ("late (over 2 s)", lambda r: r["late"]),
        ("closed while idle", lambda r: r["closed_idle"]),
        ("sent again", lambda r: r["sent_again"]),
        ("p50 / p99 / worst in ms", lambda r: " / ".join(f"{ms:.1f}" for ms in r["latency_ms"].values())),
        ("worst in ms during", lambda r: " ".join(f"{n}:{ms:.0f}" for n, ms in r["worst_ms_during"].items())),
    ]
    return "\n".join(f"{name:24}" + "".join(f"  {str(value(result)):>34}" for result in results) for name, value in rows)
