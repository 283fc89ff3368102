"""idle_timeout: an instance that nobody uses ends, and the next connection starts it again."""

import json

from harness import until
from harness.systems import on_both


def over(one):
    return one.state == "inactive/dead"


@on_both
def test_an_instance_that_nobody_uses_ends_and_the_next_connection_starts_it(instance):
    one = instance("rests", idle_timeout=1).open()
    one.get("/")
    before = one.arbiter
    until(lambda: over(one), "it to end", 20)
    assert (one.show("Result"), one.show("ExecMainStatus"), one.show("NRestarts")) == ("success", "0", "0")
    assert one.found("idle_timeout")["MESSAGE_ID"] == "d1648bcd990a480bbdf82f927ad3b6b6"
    assert one.box.show(one.socket, "SubState") == "listening"
    assert one.get("/").body == b"hello\n"
    assert one.arbiter != before


def test_every_socket_of_an_instance_wakes_it_by_tcp_and_by_unix(instance):
    one = instance("wakes", idle_timeout=1)
    one.box.write("/etc/systemd/system/wakes-admin.socket",
                  "[Socket]\nListenStream=127.0.0.1:8211\nFileDescriptorName=admin\nService=rgunicorn@wakes.service\n")
    one.box.write("/etc/systemd/system/rgunicorn@wakes.service.d/sockets.conf", "[Service]\nSockets=wakes-admin.socket\n")
    one.box.systemctl("daemon-reload")
    one.box.systemctl("start", "wakes-admin.socket")
    one.open()
    try:
        for _ in range(2):
            assert one.box.run("curl", "-sS", "--max-time", "20", "http://127.0.0.1:8211/").stdout == "hello\n"
            assert any("(admin, from systemd)" in str(r["MESSAGE"]) for r in one.records())
            until(lambda: over(one), "it to end", 20)
            assert one.get("/").body == b"hello\n"
            until(lambda: over(one), "it to end", 20)
    finally:
        one.box.systemctl("stop", "wakes-admin.socket", check=False)


def test_an_open_connection_and_a_running_request_keep_it_awake(instance):
    one = instance("awake", idle_timeout=1, keepalive=60).open()
    with one.connect(60) as client, one.connect(60) as idle:
        idle.get("/")
        before = one.arbiter
        gate = one.gate()
        client.request(target=gate.target)
        gate.entered()
        began = int(one.show("WatchdogTimestampMonotonic") or 0), one.box.run("cat", "/proc/uptime").stdout.split()[0]
        until(lambda: float(one.box.run("cat", "/proc/uptime").stdout.split()[0]) > float(began[1]) + 3,
              "three times the idle_timeout", 20)
        assert one.arbiter == before and one.state == "active/running"
        gate.open()
        assert client.response().body == b"through the gate\n"
        assert idle.get("/").body == b"hello\n"
    until(lambda: over(one), "it to end", 20)


def test_clients_who_come_at_the_moment_of_its_end_are_all_answered(instance):
    one = instance("moment", idle_timeout=0.3).open()
    starts = set()
    for _ in range(12):
        with one.connect(30) as client:
            assert client.get("/").body == b"hello\n"
            starts.add(one.arbiter)
        until(lambda: one.show("StatusText").startswith("Stopp") or not one.state.startswith("active"), "its end", 20)
    assert len(starts) > 5, "it has ended many times meanwhile"


def test_where_nobody_would_start_it_again_it_stays_and_says_so(instance):
    one = instance("stays", idle_timeout=1, bind=["unix:/run/rgunicorn-stays/own.sock"]).open()
    one.get("/")
    before = one.arbiter
    warning = one.found("idle_timeout has no effect", "PRIORITY=4")["MESSAGE"]
    assert "own.sock" in warning
    one.write({}, app="plain:app", idle_timeout=1)
    one.box.systemctl("reload", one.service)
    until(lambda: over(one), "a reload without the own listener to let it end", 20)
    with one.connect() as client:  # an open connection keeps it awake
        assert client.get("/").body == b"hello\n" and one.arbiter != before
        status = json.loads(one.box.run("rgunicornctl", "-i", "stays", "--json", "status").stdout)
    assert status["life"] == "serving"
