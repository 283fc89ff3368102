"""A quick client beside three thousand slow ones, on one lane.

The slow ones: 1,000 that have begun a head and send nothing more, 1,000 that upload a byte each 100 ms, 1,000 that have asked
for 1 MB and do not read it. They are the crowd of the tests, in a process of its own, so that it takes no time from the one
that measures.
"""

import multiprocessing
import resource
import sys
from pathlib import Path

from client import Client, percentile
from servers import Running, Unusable

# At the end: modules of the standard library have the same names as some that are there.
sys.path.append(str(Path(__file__).resolve().parents[1] / "tests" / "harness"))
from crowd import Crowd  # noqa: E402

SERVERS = ("rgunicorn", "gunicorn-gthread", "granian")
TITLE = "a quick client beside 1,000 begun heads, 1,000 uploads of 1 byte per 100 ms, 1,000 readers that do not read; one lane"
_EACH = 1000
_REQUESTS = 2000
#: Seconds for an answer.
_PATIENCE = 5.0
#: After so many that were not answered it is clear.
_FAILURES = 3


def measure(tools, names, place):
    """By server: milliseconds of the quick client's requests, and how many were not answered."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    figures = {}
    for name in names:
        try:
            with Running(name, tools, "application:slow", cpus=place.server, threads=1) as server:
                figures[name] = _beside_a_crowd(server)
        except (Unusable, OSError) as reason:
            print(f"left out of slow: {name}: {reason}", file=sys.stderr)
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
    return figures


def _beside_a_crowd(server):
    # Not forked: a thread drives the crowd.
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    crowd = context.Process(target=_crowd, args=(server.port, theirs), daemon=True)
    crowd.start()
    theirs.close()
    try:
        said = ours.recv() if ours.poll(60) else "it did not come together within 60 s"
        if said != "all are there":
            raise Unusable(f"the crowd: {said}")
        waits, failures = [], 0
        # A request of one's own comes after those of the readers: when it is answered, they have been served.
        try:
            with Client(server.port, 60) as last:
                last.get()
        except OSError:
            failures += 1
        while len(waits) < _REQUESTS and failures < _FAILURES:
            try:
                with Client(server.port, _PATIENCE) as quick:
                    while len(waits) < _REQUESTS:
                        waits.append(quick.get())
            except OSError:
                failures += 1
    finally:
        ours.close()
        crowd.join(20)
        crowd.kill()
    return {"p50 ms": percentile(waits, 50) * 1e3, "p99 ms": percentile(waits, 99) * 1e3,
            "worst ms": max(waits, default=float("nan")) * 1e3, "answered": len(waits),
            f"not within {_PATIENCE:g} s": failures}


def _crowd(port, pipe):
    """Until the other end is closed."""
    try:
        with Crowd(("127.0.0.1", port)) as crowd:
            crowd.half_open(_EACH)
            crowd.uploads(_EACH, every=0.1)
            crowd.readers(_EACH, b"/large")
            pipe.send("all are there")
            try:
                pipe.recv()
            except EOFError:
                pass
    except OSError as reason:
        pipe.send(str(reason))
