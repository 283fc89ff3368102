"""What systemd's fd store keeps from one arbiter to the next: own listeners, idle connections, figures."""

import time

from harness import until
from harness.systems import on_both


def kept(one):
    """Fds that systemd keeps for the instance."""
    return int(one.show("NFileDescriptorStore"))


def own(name, **settings):
    """Settings of an instance that binds a socket of its own beside systemd's."""
    return {"bind": [f"unix:/run/rgunicorn-{name}/own.sock"]} | settings


def restarted(one, before):
    until(lambda: one.state == "active/running" and one.arbiter not in (0, before), "the next arbiter", 30)
    return one.arbiter


@on_both
def test_an_idle_connection_lives_through_a_restart(instance):
    one = instance("idle").open()
    with one.connect() as client, one.connect() as silent:
        first = client.get("/pid").text
        before = one.arbiter
        one.box.systemctl("restart", one.service)
        assert one.arbiter != before
        answer = client.get("/pid")
        assert answer.status == 200 and answer.text != first
        assert silent.get("/").body == b"hello\n", "also one that had not said anything"


@on_both
def test_a_request_in_flight_finishes_and_its_connection_serves_on_after_the_restart(instance):
    one = instance("inflight").open()
    one.get("/")
    before, gate = one.arbiter, one.gate()
    with one.connect(30) as client:
        client.request(target=gate.target)
        gate.entered()
        one.box.systemctl("restart", "--no-block", one.service)
        until(lambda: one.show("ActiveState") == "deactivating", "the service to stop")
        gate.open()
        answer = client.response()
        assert answer.body == b"through the gate\n"
        assert answer.header("Connection") is None, "it is not told to leave"
        restarted(one, before)
        assert client.get("/").body == b"hello\n"


@on_both
def test_when_the_service_stops_for_good_idle_connections_end_and_nothing_is_kept(instance):
    one = instance("forgood").open()
    with one.connect() as client:
        client.get("/")
        assert kept(one) >= 3, "the handoff's two ends and the scoreboard"
        one.box.systemctl("stop", one.service)
        assert client.ended() == b""
    assert kept(one) == 0


@on_both
def test_when_the_service_stops_for_good_requests_that_wait_for_another_workers_lane_are_answered(instance):
    one = instance("waiting", workers=2).open()
    kept_alive = [one.connect(30) for _ in range(8)]
    for client in kept_alive:
        assert client.get("/").status == 200
    gates = [one.gate("one"), one.gate("two")]
    running = [one.connect(30) for _ in gates]
    for client, gate in zip(running, gates):
        client.request(target=gate.target)
    for gate in gates:
        gate.entered()
    before = one.totals["handed_over"]
    for client in kept_alive:
        client.request(target="/")
    until(lambda: one.totals["handed_over"] >= before + len(kept_alive), "all requests to be in the handoff")
    one.box.systemctl("stop", "--no-block", one.service)
    until(lambda: one.show("ActiveState") == "deactivating", "the service to stop")
    for gate in gates:
        gate.open()
    for client in running + kept_alive:
        assert client.response().status == 200
        client.close()


@on_both
def test_an_own_listener_never_refuses_through_restart_and_sigkill_of_the_arbiter(instance):
    one = instance("bound", **own("bound")).open()
    one.may_fail = True  # SIGKILL
    one.get("/")
    path = one.box.path("/run/rgunicorn-bound/own.sock")
    inode = path.stat().st_ino

    def asked_all_the_while(before):
        """A client comes whenever the last one was answered; none is refused."""
        count = 0
        while True:
            with one.box.connect("/run/rgunicorn-bound/own.sock", 30) as client:
                assert client.get("/").body == b"hello\n"
            count += 1
            if one.state == "active/running" and one.arbiter not in (0, before):
                return count

    before = one.arbiter
    one.box.systemctl("restart", "--no-block", one.service)
    asked_all_the_while(before)
    before = one.kill_arbiter()
    # Nobody accepts now; whoever connects waits.
    with one.box.connect("/run/rgunicorn-bound/own.sock", 30) as early:
        early.request(target="/")
        asked_all_the_while(before)
        assert early.response().body == b"hello\n"
    assert path.stat().st_ino == inode, "it is the same socket file"


def test_a_tcp_listener_keeps_its_port_and_its_backlog_over_a_crash(instance):
    one = instance("port-kept", bind=["127.0.0.1:8207"]).open()
    one.may_fail = True
    one.get("/")
    curl = ["curl", "-sS", "--max-time", "20", "http://127.0.0.1:8207/"]
    assert one.box.run(*curl).stdout == "hello\n"
    before = one.kill_arbiter()
    assert one.box.run(*curl).stdout == "hello\n", "not refused: it waited in the backlog"
    assert restarted(one, before) != before


def test_a_listener_that_is_no_longer_wanted_is_closed_and_not_kept(instance):
    one = instance("unwanted", **own("unwanted")).open()
    one.get("/")
    path = one.box.path("/run/rgunicorn-unwanted/own.sock")
    assert path.is_socket()
    before = kept(one)
    one.write({}, app="plain:app")
    one.box.systemctl("restart", one.service)
    assert "no longer wanted" in one.found("A listener that systemd had kept is closed")["MESSAGE"]
    until(lambda: kept(one) == before - 1, "the store to have one less")
    one.write({}, app="plain:app", **own("unwanted"))
    one.box.systemctl("reload", one.service)
    assert one.box.connect("/run/rgunicorn-unwanted/own.sock").get("/").body == b"hello\n"
    until(lambda: kept(one) == before, "the store to have the new one")
    one.write({}, app="plain:app")
    one.box.systemctl("reload", one.service)
    until(lambda: kept(one) == before - 1, "a reload removes it, too")


@on_both
def test_figures_outlive_restart_and_crash(instance):
    one = instance("figures").open()
    one.may_fail = True

    def counted(requests):
        until(lambda: one.totals["requests"] == requests, f"{requests} requests to be counted")

    for _ in range(5):
        one.get("/")
    counted(5)
    one.box.systemctl("restart", one.service)
    counted(5)
    one.get("/")
    counted(6)
    restarted(one, one.kill_arbiter())
    one.get("/")
    counted(7)


def test_a_restart_while_clients_ask_all_the_time_loses_nothing(instance):
    one = instance("always-asked").open()
    clients = [one.connect(30) for _ in range(20)]
    for client in clients:
        client.get("/")
    for _ in range(3):
        before = one.arbiter
        one.box.systemctl("restart", "--no-block", one.service)
        end = None
        while end is None or time.monotonic() < end:
            for client in clients:
                assert client.get("/").body == b"hello\n"
            if end is None and one.state == "active/running" and one.arbiter not in (0, before):
                end = time.monotonic() + 0.2
    for client in clients:
        client.close()


def test_without_a_store_idle_connections_end_and_the_service_serves(instance):
    one = instance("storeless").drop_in("FileDescriptorStoreMax=0").open()
    with one.connect() as client:
        client.get("/")
        before = one.arbiter
        one.box.systemctl("restart", one.service)
        assert one.arbiter != before
        assert client.ended() == b""
    assert one.get("/").body == b"hello\n"
    assert kept(one) == 0
