"""The driver: a server under load, and what is done to it meanwhile.

Owns the subject, the load generator, and the order of events, which a seed decides. Invariants: an event is announced
to the generator, and has been understood by it, before it happens; a broken release is deployed while no other reload
runs, and repaired before the next event.
"""

import collections
import contextlib
import functools
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

from harness import processes
from harness.server import ROOT

from .subjects import SUBJECTS

# How often each event comes, among those that are wanted.
DECK = {"reload": 4, "break": 2, "upgrade": 1, "kill": 1, "more": 1, "less": 1}
EVENTS = tuple(DECK)


@functools.cache
def generator():
    """The load generator: TORTURE, or built now."""
    if path := os.environ.get("TORTURE"):
        return Path(path)
    subprocess.run(["cargo", "build", "--release", "--quiet", "-p", "rgunicorn-torture"], cwd=ROOT, check=True)
    return Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target")) / "release" / "rgunicorn-torture"


class Load:
    """The running generator."""

    def __init__(self, address, seconds, clients, seed, pipelining=True):
        where = address if isinstance(address, str) else "%s:%d" % address
        command = [generator(), where, str(seconds), str(clients), str(seed), *([] if pipelining else ["--no-pipelining"])]
        self.process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        self._output = []
        self._lock = threading.Lock()
        self._reader = threading.Thread(target=lambda: self._output.append(self.process.stdout.read()), daemon=True)
        self._reader.start()

    def announce(self, event):
        """Tells of an event; returns when the generator has heard it, or has ended."""
        with self._lock:
            try:
                self.process.stdin.write(event.encode() + b"\n")
                self.process.stdin.flush()
            except BrokenPipeError:
                return
            heard = self.process.stderr.readline().decode().strip()
        assert heard in (event, ""), f"the load generator says {heard!r} instead of {event!r}"

    def result(self, within):
        """Waits for the end: what was counted."""
        try:
            status = self.process.wait(within)
            self._reader.join(5)
        finally:
            self.process.kill()
        assert status == 0, f"the load generator ended with {status}"
        return json.loads(self._output[0])


class Events:
    """What happens to the subject during a run."""

    def __init__(self, subject, load, seconds, chance, wanted, workers, every):
        self.subject, self.load, self.chance, self.every = subject, load, chance, every
        self.end = time.monotonic() + seconds
        self.wanted = [event for event in wanted if event != "upgrade" or subject.can_upgrade()]
        self.deck = []
        self.usual = self.count = workers
        self.happened = collections.Counter()
        self.reloads = collections.Counter()
        # What should not have been.
        self.unexpected = []
        self.kills = 0
        self._running = []

    def run(self):
        while self.wanted and time.monotonic() < self.end - 1:
            # The one place that waits for time: events come when they come.
            time.sleep(self.chance.uniform(0.2, 2 * self.every - 0.2))
            if self.load.process.poll() is not None or not self.subject.running() or time.monotonic() > self.end - 0.5:
                break
            event = self._next()
            self.happened[event] += 1
            getattr(self, f"_{event}")()
        self._settle()

    def _next(self):
        if not self.deck:
            self.deck = [event for event in self.wanted for _ in range(DECK[event])]
            self.chance.shuffle(self.deck)
        event = self.deck.pop()
        if event == "more" and self.count >= self.usual + 2:
            event = "less" if "less" in self.wanted else "more"
        if event == "less" and self.count <= max(1, self.usual - 2):
            event = "more"
        return event

    def _more(self):
        self.load.announce("more")
        self.count += 1
        self.subject.signal(signal.SIGTTIN)

    def _less(self):
        self.load.announce("less")
        self.count -= 1
        self.subject.signal(signal.SIGTTOU)

    def _kill(self):
        self.load.announce("kill")
        victims = self.subject.workers()
        if victims:
            victim = self.chance.choice(victims)
            if processes.alive(victim):
                self.kills += 1
                with contextlib.suppress(ProcessLookupError):
                    os.kill(victim, signal.SIGKILL)

    def _reload(self):
        """Goes on in the background, so that kills, changes of scale and further reloads come in the middle of it."""
        self.load.announce("reload")
        if self.chance.random() < 0.25:
            # Is folded into another one, or the other one into it.
            self.subject.signal(signal.SIGHUP)
        thread = threading.Thread(target=self._watch_reload)
        self._running.append(thread)
        thread.start()

    def _watch_reload(self):
        kills = self.kills
        worked, said = self.subject.reload()
        self.load.announce("over reload")
        self.reloads["worked" if worked else "failed"] += 1
        # One whose worker was killed while it booted has rightly failed.
        if not worked and self.kills == kills:
            self.unexpected.append(f"a reload failed: {said[-2000:]}")

    def _break(self):
        self._settle()
        name = self.chance.choice(sorted(self.subject.broken))
        reason = self.subject.broken_down(name)
        self.load.announce("break")
        worked, said = self.subject.reload()
        self.load.announce("over break")
        self.subject.repair()
        self.reloads["worked" if worked else "rightly failed"] += 1
        if worked:
            self.unexpected.append(f"a release with {name} was promoted")
        elif not re.search(reason, said, re.DOTALL):
            self.unexpected.append(f"the failure because of {name} is not explained by {reason!r}: {said[-2000:]}")
        # A worker of the old generation that is recycled meanwhile imports the broken release, too: the one that it was to
        # replace stays.
        self.subject.expect("the reload has failed|could not boot")

    def _upgrade(self):
        self._settle()
        self.load.announce("upgrade")
        worked, said = self.subject.upgrade()
        self.load.announce("over upgrade")
        if not worked:
            self.unexpected.append(f"an upgrade failed: {said[-2000:]}")

    def _settle(self):
        """Waits for the reloads that run."""
        for thread in self._running:
            thread.join()
        self._running.clear()


def torture(directory, *, seconds, pool, events, seed=1, clients=60, unix=False, workers=None, arguments=(), every=1.5,
            server="rgunicorn", pipelining=True, strategy="overlap"):
    """One run: the result as a dict. `pool`: sync, gthread, gevent or asgi. `every`: mean seconds between two events.
    `strategy`: of rgunicorn's reloads."""
    directory = Path(directory)
    notes = directory / "notes"
    notes.mkdir()
    workers = workers or (4 if pool == "sync" else 2)
    if server == "rgunicorn":
        arguments = ("--reload-strategy", strategy, *arguments)
    subject = SUBJECTS[server](directory, notes, pool=pool, workers=workers, unix=unix, arguments=arguments)
    try:
        subject.start()
        memory = processes.proportional_memory(subject.pid)
        load = Load(subject.address, seconds, clients, seed, pipelining)
        course = Events(subject, load, seconds, random.Random(seed), events, workers, every)
        course.run()
        result = load.result(within=seconds + 60)
        if course.kills:
            # One that is killed before it has said its name is known by the end of its channel alone.
            subject.expect("killed|SIGKILL|the worker ended without a word before it was ready")
        result["arbiter_kib"] = [memory // 1024, processes.proportional_memory(subject.pid) // 1024]
        result["arbiter_fds"] = len(processes.open_files(subject.pid))
        subject.finish()
    except BaseException:
        sys.stderr.write(subject.log + "\n")
        subject.abandon()
        raise
    result["events"], result["reloads"] = dict(course.happened), dict(course.reloads)
    result["unexpected"] = course.unexpected
    result["worker_processes"] = len(list(notes.iterdir()))
    # What a killed worker had begun is asked again by nobody, so no token may run twice.
    result["run_twice"] = count_repeated(notes)
    result["server"], result["pool"], result["seed"], result["log"] = server, pool, seed, subject.log
    return result


def count_repeated(notes):
    """How many tokens (CLIENT-NUMBER) stand there more than once: a byte for each, as there are millions."""
    seen = collections.defaultdict(bytearray)
    repeated = 0
    for file in notes.iterdir():
        with open(file, "rb") as lines:
            for line in lines:
                client, _, number = line.partition(b"-")
                if not number.endswith(b"\n"):
                    continue  # cut off by the kill of its worker
                times, number = seen[client], int(number)
                if number >= len(times):
                    times.extend(bytes(max(1024, number - len(times) + 1)))
                times[number] = min(255, times[number] + 1)
                repeated += times[number] == 2
    return repeated


def lost(result):
    """Whether anything happened in a run that must not."""
    return bool(result["lost_in_all"] or result["run_twice"] or result["unexpected"])


def table(results):
    """The results as text, a column for each run."""
    def counts(values):
        return " ".join(f"{name}:{count}" for name, count in values.items()) or "0"

    rows = [
        ("server, pool", lambda r: f"{r['server']} {r['pool']}"),
        ("seconds", lambda r: f"{r['seconds']:.1f}"),
        ("answered", lambda r: f"{r['answered']:,}"),
        ("answered per second", lambda r: f"{r['answered_per_second']:,.0f}"),
        ("connections", lambda r: f"{r['connections']:,}"),
        ("worker processes", lambda r: r["worker_processes"]),
        ("events", lambda r: counts(r["events"])),
        ("reloads", lambda r: counts(r["reloads"])),
        ("LOST", lambda r: counts(r["lost"])),
        ("run twice", lambda r: r["run_twice"]),
        ("UNEXPECTED", lambda r: len(r["unexpected"])),
        ("lost in killed workers", lambda r: counts(r["killed"])),
        ("late (over 2 s)", lambda r: r["late"]),
        ("closed while idle", lambda r: r["closed_idle"]),
        ("sent again", lambda r: r["sent_again"]),
        ("arbiter's KiB, fds", lambda r: "{} -> {}, {}".format(*r["arbiter_kib"], r["arbiter_fds"])),
        ("p50 / p99 / worst in ms", lambda r: _milliseconds(r["latency_ms"])),
    ]
    names = sorted({name for result in results for name in result["latency_ms_during"]})
    for name in names:
        rows.append((f"  {name}", lambda r, name=name: _milliseconds(r["latency_ms_during"].get(name))))
    return "\n".join(f"{name:24}" + "".join(f"  {str(value(result)):>46}" for result in results) for name, value in rows)


def _milliseconds(latency):
    return " / ".join(f"{ms:.1f}" for ms in latency.values()) if latency else "-"
