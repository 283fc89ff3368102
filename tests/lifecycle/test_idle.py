"""What a server costs that has nothing to do."""

import time

from harness.processes import proportional_memory, switches

# Ten seconds are the promise; the test takes less of everyone's time and allows nothing at all in it.
QUIET = 3.0


def test_the_arbiter_needs_at_most_six_mebibytes(serve):
    server = serve("plain:app", "--workers", 2)
    server.get("/")
    assert proportional_memory(server.pid) <= 6 << 20


def test_nobody_wakes_up_while_there_is_nothing_to_do(serve):
    server = serve("plain:app", "--workers", 2)
    with server.connect() as client:
        assert client.get("/").status == 200
    processes = [server.pid, *server.children]
    _settled(processes)
    before = {pid: switches(pid) for pid in processes}
    time.sleep(QUIET)  # the one thing that cannot be waited for: that nothing happens
    assert {pid: switches(pid) for pid in processes} == before


def _settled(processes):
    """Returns when no process has been awake for half a second."""
    last, since = None, time.monotonic()
    deadline = since + 10
    while time.monotonic() < deadline:
        now = [switches(pid) for pid in processes]
        if now != last:
            last, since = now, time.monotonic()
        if time.monotonic() - since > 0.5:
            return
        time.sleep(0.05)
    raise AssertionError("somebody wakes up again and again")
