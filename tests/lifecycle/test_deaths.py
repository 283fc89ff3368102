"""Stories of deaths: of workers, molds, the arbiter, and of what applications leave behind."""

import os
import re
from signal import SIGKILL, SIGSTOP

import pytest
from harness import Gate, until
from harness.http import ConnectionEnded
from harness.processes import alive, children, with_environment


def test_a_killed_worker_is_replaced(serve):
    server = serve("plain:app", "--workers", 2)
    victim, other = server.workers
    server.expect(f"worker .*pid {victim}.* was killed by SIGKILL")
    os.kill(victim, SIGKILL)
    server.found(f"pid {victim}.*SIGKILL", "error")
    until(lambda: len(server.workers) == 2 and victim not in server.workers, "the replacement")
    assert other in server.workers
    assert server.get("/").body == b"hello\n"


def test_a_client_that_arrives_while_the_only_worker_is_dead_gets_its_answer(serve):
    server = serve("plain:app", "--workers", 1)
    (victim,) = server.workers
    server.expect("was killed by SIGKILL")
    os.kill(victim, SIGKILL)
    assert server.get("/").body == b"hello\n"


def test_only_the_client_of_a_killed_worker_loses_its_connection(serve, tmp_path):
    server = serve("plain:app", "--workers", 2)
    gates = [Gate(tmp_path, name) for name in ("one", "two")]
    clients = [server.connect() for _ in gates]
    for client, gate in zip(clients, gates):
        client.request(target=gate.target)
    victim, _ = [gate.entered() for gate in gates]
    server.expect("was killed by SIGKILL")
    os.kill(victim, SIGKILL)
    with pytest.raises(ConnectionEnded):
        clients[0].response()
    gates[1].open()
    assert clients[1].response().status == 200


def test_a_worker_that_leaves_by_itself_is_replaced(serve):
    server = serve("plain:app", "--workers", 1)
    (victim,) = server.workers
    server.expect(f"pid {victim}.*exited with status 7")
    with server.connect() as client, pytest.raises(ConnectionEnded):
        client.get("/leaves")
    until(lambda: server.workers and victim not in server.workers, "the replacement")
    assert server.get("/").body == b"hello\n"


def test_workers_that_die_again_and_again_are_replaced_more_and_more_slowly(serve):
    server = serve("plain:app", "--workers", 1)
    server.expect("was killed by SIGKILL")
    for death in range(1, 5):
        worker = until(lambda: server.workers, "a worker")[0]
        assert server.get("/pid").text == str(worker)
        os.kill(worker, SIGKILL)
        until(lambda: len(server.log.find("was killed by SIGKILL")) == death, f"the record of death {death}")
    delays = [re.search(r"a new one starts (at once|in ([\d.]+) s)", record.text)
              for record in server.log.find("was killed by SIGKILL")]
    assert all(delays), server.log.text
    seconds = [float(delay[2] or 0) for delay in delays]
    assert seconds[0] == 0, "a single death is repaired at once"
    assert seconds == sorted(seconds) and seconds[-1] > seconds[1] > 0, seconds
    assert server.get("/").body == b"hello\n", "and in the end it serves again"


def test_a_killed_mold_is_replaced_and_its_workers_go_on(serve):
    server = serve("plain:app", "--workers", 2)
    workers = server.workers
    (mold,) = server.molds
    server.expect("mold .*SIGKILL")
    os.kill(mold, SIGKILL)
    until(lambda: (molds := server.molds) and mold not in molds, "a new mold")
    assert server.workers == workers
    assert server.get("/").body == b"hello\n"


def test_a_killed_preloading_mold_means_a_new_generation(serve):
    """What a new mold imports may be newer code than that of the workers who live."""
    server = serve("plain:app", "--preload", "--workers", 2)
    (mold,) = server.molds
    server.expect("mold .*SIGKILL")
    os.kill(mold, SIGKILL)
    server.found("generation 2 serves")
    assert server.get("/").body == b"hello\n"


def test_workers_finish_and_leave_when_the_arbiter_is_killed(serve, tmp_path):
    server = serve("plain:app", "--workers", 2)
    workers = server.workers
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        server.signal(SIGKILL)
        server.process.wait(5)
        gate.open()
        assert client.response().body == b"through the gate\n"
    until(lambda: not with_environment(server.mark), "workers and mold to leave")
    until(lambda: not any(alive(pid) for pid in workers), "the workers to be gone")
    server.expect_status(-SIGKILL)


def test_a_killed_arbiters_address_can_be_bound_at_once(serve):
    first = serve("plain:app")
    host, port = first.address
    first.expect_status(-SIGKILL)
    first.signal(SIGKILL)
    until(lambda: not with_environment(first.mark), "workers and mold to leave")
    second = serve("plain:app", bind=[f"{host}:{port}"])
    assert second.get("/").body == b"hello\n"


def test_a_stopped_worker_is_killed_in_the_end(serve):
    server = serve("plain:app", "--workers", 1, "--graceful-timeout", 1)
    (worker,) = server.workers
    server.expect(f"pid {worker}.*(killed|SIGKILL)")
    os.kill(worker, SIGSTOP)
    assert server.stop() == 0
    assert not alive(worker)


def test_orphans_of_the_application_are_reaped(serve):
    """The arbiter is the subreaper: what loses its parent becomes its child."""
    server = serve("plain:app")
    orphan = int(server.get("/orphan").text)
    until(lambda: orphan in children(server.pid), "the orphan to be the arbiter's")
    os.kill(orphan, SIGKILL)
    until(lambda: not os.path.exists(f"/proc/{orphan}"), "the orphan to be reaped")
    assert server.get("/").body == b"hello\n"


def test_what_the_application_leaves_behind_ends_with_the_server(serve):
    """Without systemd nobody else would."""
    server = serve("plain:app")
    orphan = int(server.get("/orphan").text)
    child = int(server.get("/child").text)
    assert server.stop() == 0
    assert not alive(orphan) and not alive(child)
