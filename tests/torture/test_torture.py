"""A short torture: reloads, upgrades, recycling, kills, changes of scale lose nothing. `make torture` is the long one."""

import json
import os
import time

import pytest
from harness.requirement import command
from harness.server import control

from torture import drive
from torture.subjects import Rgunicorn


@pytest.fixture(scope="session")
def generator():
    """The load generator is built before the clock of a test runs."""
    if "TORTURE" not in os.environ:
        command("cargo")
    return drive.generator()


@pytest.mark.parametrize("pool, unix", [("sync", False), ("gthread", False), ("gthread", True), ("gevent", False),
                                        ("asgi", False)],
                         ids=["sync", "gthread", "gthread over a unix socket", "gevent", "asgi"])
def test_reloads_failed_reloads_recycling_and_changes_of_scale_lose_no_request(pool, unix, generator, tmp_path):
    result = drive.torture(tmp_path, seconds=12, pool=pool, unix=unix, events=("reload", "break", "upgrade", "more", "less"),
                           every=0.8, seed=4, arguments=("--max-requests", 4000, "--max-requests-jitter", 1000))
    log = result.pop("log")
    shown = f"{json.dumps(result, indent=1)}\n{log}"
    assert not drive.lost(result), shown
    assert result["answered"] > 1000, shown


def test_rolling_reloads_lose_no_request_whatever_comes_in_the_middle(generator, tmp_path):
    result = drive.torture(tmp_path, seconds=12, pool="gthread", events=("reload", "break", "upgrade", "more", "less"),
                           every=0.8, seed=7, strategy="rolling", arguments=("--max-requests", 4000))
    log = result.pop("log")
    shown = f"{json.dumps(result, indent=1)}\n{log}"
    assert not drive.lost(result), shown
    assert result["answered"] > 1000 and result["reloads"]["worked"] > 1, shown


@pytest.mark.parametrize("pool", ["sync", "gthread", "gevent", "asgi"])
def test_kills_of_random_workers_lose_no_request_of_another_one(pool, generator, tmp_path):
    result = drive.torture(tmp_path, seconds=8, pool=pool, events=("kill",), every=0.8, seed=5,
                           arguments=("--max-requests", 4000))
    shown = f"{json.dumps(result, indent=1)}"
    assert not drive.lost(result), shown
    assert result["events"]["kill"] > 3 and result["answered"] > 1000, shown


def test_recycling_after_fifty_requests_loses_nothing_and_there_are_never_fewer_workers_that_serve(generator, tmp_path):
    notes = tmp_path / "notes"
    notes.mkdir()
    workers = 4
    subject = Rgunicorn(tmp_path, notes, pool="sync", workers=workers, unix=False, arguments=("--max-requests", 50))
    try:
        subject.start()
        load = drive.Load(subject.address, 8, 100, 6)
        end, serving = time.monotonic() + 7, []
        while time.monotonic() < end and load.process.poll() is None:
            asked = control("-s", subject.control, "--json", "status")
            serving.append(json.loads(asked.stdout)["workers_serving"])
        result = load.result(within=60)
        subject.finish()
    finally:
        subject.abandon()
    assert result["lost_in_all"] == 0 and drive.count_repeated(notes) == 0, f"{json.dumps(result, indent=1)}\n{subject.log}"
    assert min(serving) >= workers and len(serving) > 2, serving
    # Recycled all the time, or nothing was shown.
    assert len(list(notes.iterdir())) > 10, subject.log
