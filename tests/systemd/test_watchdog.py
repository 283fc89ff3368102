"""WATCHDOG=1 is sent only while the instance does its work."""

from harness import processes, until
from harness.systems import on_both, on_debian13


def restarts(one):
    return int(one.show("NRestarts"))


def fed_for_four_seconds(one):
    def fed():
        return int(one.show("WatchdogTimestampMonotonic"))

    until(lambda: fed() > 0, "the watchdog")
    first = fed()
    until(lambda: fed() > first + 4_000_000, "it is fed for four seconds", 20)


@on_both
def test_a_stopped_arbiter_is_killed_and_started_again(instance):
    one = instance("stopped").drop_in("WatchdogSec=4").open()
    one.may_fail = True
    one.get("/")
    one.box.run("kill", "-STOP", str(one.arbiter))
    until(lambda: restarts(one) == 1, "systemd to start it again", 30)
    assert "watchdog" in one.found("watchdog", "_COMM=systemd")["MESSAGE"].lower()
    assert one.get("/").body == b"hello\n"


def test_a_pool_that_is_stuck_starves_the_watchdog_and_the_record_says_what_is_known(instance):
    """The thread that ends requests which hang hangs itself."""
    one = instance("stuck", workers=1, timeout=1, graceful_timeout=1).drop_in("WatchdogSec=4").open()
    one.may_fail = True
    worker = one.box.outside(int(one.get("/pid").text))
    (standby,) = [task for task, name in processes.threads(worker).items() if name == "standby"]
    gate = one.gate()
    with one.connect(60) as client, processes.held(standby):
        client.request(target=gate.target)
        gate.entered()
        dump = one.found("The watchdog is not fed", "PRIORITY=3", within=30)["MESSAGE"]
        assert "timeout and graceful_timeout" in dump
        assert f"GET {gate.target} for " in dump and "worker 1 of generation 1" in dump and "threads: " in dump, dump
        until(lambda: restarts(one) == 1, "systemd to start it again", 30)
    gate.open()
    assert one.get("/").body == b"hello\n"


def test_a_long_request_without_a_limit_is_no_fault_nor_is_a_worker_that_is_being_replaced(instance):
    one = instance("long", timeout=0, workers=2).drop_in("WatchdogSec=2").open()
    one.may_fail = True
    one.get("/")
    before, gate = one.arbiter, one.gate()
    with one.connect(60) as client:
        client.request(target=gate.target)
        gate.entered()
        for _ in range(6):  # each longer than a watchdog that nobody feeds would last for all of them
            victim = one.get("/pid").text
            before_it = len(one.records(f"RGUNICORN_WORKER_PID={victim}"))
            one.box.run("kill", "-STOP", victim)
            until(lambda victim=victim, known=before_it: len(one.records(f"RGUNICORN_WORKER_PID={victim}")) > known,
                  "a record of it")
            one.box.run("kill", "-CONT", victim)
        fed_for_four_seconds(one)
        gate.open()
        assert client.response().body == b"through the gate\n"
    assert one.arbiter == before and restarts(one) == 0


@on_debian13
def test_the_watchdog_is_fed_before_during_and_after_an_upgrade(instance):
    one = instance("fed").drop_in("WatchdogSec=2").open()
    one.get("/")
    before = one.arbiter
    for generation in (2, 3):
        one.box.run("rgunicornctl", "-i", one.name, "upgrade")
        one.found(f"Generation {generation} serves")
    fed_for_four_seconds(one)
    assert one.arbiter == before and restarts(one) == 0
    # The next program has its watchdog, too, and not only the first one's.
    one.may_fail = True
    one.box.run("kill", "-STOP", str(one.arbiter))
    until(lambda: restarts(one) == 1, "systemd to start it again", 30)
    assert one.get("/").body == b"hello\n"
