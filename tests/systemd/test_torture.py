"""Restarts, reloads and kills of the arbiter in a real systemd while many clients ask: what is lost?

The numbers are small here; TORTURE_TIMES=20 makes them those that the project states.
"""

import json
import os

import pytest
from harness import until
from harness.requirement import command
from harness.server import ROOT
from harness.systems import on_debian13
from torture import drive

APP = (ROOT / "tests/torture/app.py").read_text()
TIMES = int(os.environ.get("TORTURE_TIMES", 3))


@pytest.fixture(scope="module")
def generator():
    """The load generator is built before the clock of a test runs."""
    if "TORTURE" not in os.environ:
        command("cargo")
    return drive.generator()


@pytest.fixture
def tortured(instance, generator):
    """tortured("name", {event: act}, times) -> what the clients counted while each act(one) was done so often."""
    def run(name, steps, times, **settings):
        one = instance(name, {"app.py": APP}, app="app:app", workers=2, **settings).open()
        one.may_fail = "kill" in steps
        one.get("/?token=first")
        load = drive.Load(str(one.box.path(one.path)), 1000, 30, 7)
        try:
            for event, happen in [*steps.items()] * times:
                load.announce(event)
                happen(one)
                load.announce(f"over {event}")
            load.process.stdin.write(b"stop\n")
            load.process.stdin.flush()
            result = load.result(within=60)
        finally:
            load.process.kill()
        print(json.dumps(result))
        assert result["answered"] > 100 * times * len(steps)
        return result

    return run


def restart(one):
    one.box.systemctl("restart", one.service)


def reload(one):
    one.box.systemctl("reload", one.service)


def kill(one):
    before = one.arbiter
    one.box.run("kill", "-KILL", str(before))
    until(lambda: one.state == "active/running" and one.arbiter not in (0, before), "the next arbiter", 30)


def test_restarts_under_load_lose_nothing(tortured):
    assert tortured("restarted", {"restart": restart}, TIMES)["lost_in_all"] == 0


def test_reloads_under_load_lose_nothing(tortured):
    assert tortured("reloaded", {"reload": reload}, TIMES)["lost_in_all"] == 0


@on_debian13
def test_a_pool_of_threads_on_the_newer_systemd_loses_nothing_in_restarts_reloads_and_kills(tortured):
    steps = {"restart": restart, "reload": reload, "kill": kill}
    result = tortured("mixed", steps, max(1, TIMES // 3), worker_class="gthread", threads=4)
    assert result["lost_in_all"] == 0, "apart from what is counted as killed"


def test_a_killed_arbiter_loses_only_what_its_workers_held(tortured):
    result = tortured("slain", {"kill": kill}, max(2, TIMES // 2))
    assert result["lost_in_all"] == 0, "apart from what is counted as killed"
