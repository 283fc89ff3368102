"""Stories of signals: what an operator sends and what then happens."""

import json
import os
import signal
import threading
from signal import SIGHUP, SIGINT, SIGQUIT, SIGTERM, SIGTTIN, SIGTTOU, SIGUSR1, SIGUSR2

import pytest
from harness import Gate, until
from harness.http import ConnectionEnded
from harness.processes import alive
from harness.server import control, in_application


def test_term_lets_requests_in_flight_finish(serve, tmp_path):
    server = serve("plain:app")
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        server.signal(SIGTERM)
        server.found("stopping")
        gate.open()
        answer = client.response()
    assert answer.body == b"through the gate\n"
    assert server.wait() == 0


def test_term_closes_the_listeners_address(serve):
    server = serve("plain:app")
    address = server.address
    assert server.stop() == 0
    with pytest.raises(ConnectionRefusedError):
        server.connect(address)


def test_term_serves_the_requests_that_wait_in_the_backlog(serve, tmp_path):
    """Gunicorn's sync workers reset them."""
    server = serve("plain:app")
    gate = Gate(tmp_path)
    first = server.connect()
    first.request(target=gate.target)
    gate.entered()
    waiting = [server.connect() for _ in range(5)]
    for client in waiting:
        client.request(target="/")
    server.signal(SIGTERM)
    server.found("stopping")
    gate.open()
    assert first.response().status == 200
    for client in waiting:
        assert client.response().body == b"hello\n"
    assert server.wait() == 0


def test_term_lets_requests_finish_that_wait_for_the_lane_of_another_worker(serve, tmp_path):
    """They are in the handoff, where whoever has a lane first takes them."""
    socket = tmp_path / "control.sock"
    server = serve("plain:app", "--control-socket", socket, "--log-level", "debug", workers=2)
    gates = [Gate(tmp_path, name) for name in ("one", "two")]
    kept = [server.connect() for _ in range(12)]
    for client in kept:
        assert client.get("/").body == b"hello\n"
    running = [server.connect() for _ in gates]
    for client, gate in zip(running, gates):
        client.request(target=gate.target)
    for gate in gates:
        gate.entered()
    before = _handed_over(socket)
    for client in kept:
        client.request(target="/")
    # Offered and not taken: nobody has a lane.
    until(lambda: _handed_over(socket) >= before + len(kept), "all requests to be in the handoff")
    server.signal(SIGTERM)
    server.drains(workers=2)
    for gate in gates:
        gate.open()
    for client in running:
        assert client.response().status == 200
    for client in kept:
        response = client.response()
        assert (response.status, response.header("Connection")) == (200, "close")
    assert server.wait() == 0


def test_term_during_a_reload_leaves_no_request_to_workers_that_leave_too(serve, tmp_path):
    server = serve("plain:app", "--workers", 1, "--graceful-timeout", 60)
    gate = Gate(tmp_path)
    with server.connect() as client, server.connect() as upload:
        client.request(target=gate.target)
        old = gate.entered()
        upload.request("POST", "/echo", [("Content-Length", "10")])
        upload.send(b"first")
        server.signal(SIGHUP)
        server.found("Generation 2 serves")
        server.signal(SIGTERM)
        until(lambda: server.workers == [old], "the new worker to be gone")
        upload.send(b"later")
        upload.socket.settimeout(0.5)
        with pytest.raises(TimeoutError):
            upload.socket.recv(1)
        upload.socket.settimeout(10)
        gate.open()
        assert client.response().text == "through the gate\n"
        assert upload.response().text == "firstlater"


FEED = """
import os, sys, time
def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/hangs":
        time.sleep(1000)
    start_response("200 OK", [])
    if path.startswith("/feed"):
        while not os.path.exists(environ["QUERY_STRING"]):
            yield b"."
            time.sleep(0.05)
    yield b"end"
"""


def test_a_worker_that_hangs_takes_no_request_at_a_stop_that_another_one_will_answer(serve, tmp_path):
    socket, gate = tmp_path / "control.sock", tmp_path / "gate"
    server = serve("app:app", "--workers", 2, "--timeout", 2, "--graceful-timeout", 60, "--control-socket", socket,
                   files={"app.py": FEED})
    server.expect("GET /hangs has been in the application")
    with server.connect() as hung, server.connect() as feed, server.connect(timeout=20) as waits:
        feed.request(target=f"/feed?{gate}", headers=[("Connection", "close")])
        feed.received(5 * len("1\r\n.\r\n"))
        hung.request(target="/hangs")
        until(lambda: any(request["path"] == "/hangs" for request in in_application(socket)), "it to hang")
        before = _handed_over(socket)
        waits.request(target="/")
        until(lambda: _handed_over(socket) > before, "it to be in the handoff")
        server.signal(SIGTERM)
        assert hung.response().status == 504
        # Five seconds since it began: nothing more is expected of the lane that hangs.
        feed.received(100 * len("1\r\n.\r\n"))
        gate.touch()
        assert feed.ended().endswith(b"end\r\n0\r\n\r\n")
        assert waits.response().text == "end"


def test_what_waits_for_a_worker_that_hangs_is_told_so_at_a_stop(serve):
    server = serve("app:app", "--workers", 1, "--timeout", 1, "--graceful-timeout", 60, files={"app.py": FEED})
    server.expect("GET /hangs has been in the application")
    with server.connect() as hung, server.connect(timeout=20) as waits:
        hung.request(target="/hangs")
        waits.request(target="/")
        server.signal(SIGTERM)
        assert hung.response().status == 504
        assert waits.response().status == 503
    server.found("a request was answered with 503: its worker leaves, and all its lanes", "warning")
    server.found("GET /hangs is cut off after .* it has timed out, and its worker ends", "warning")


def test_while_it_stops_new_clients_are_refused_and_do_not_wait_for_the_end(serve, tmp_path):
    server = serve("plain:app", bind=["127.0.0.1:0", f"unix:{tmp_path}/second.sock"])
    tcp, unix = server.address, str(tmp_path / "second.sock")
    gate = Gate(tmp_path)
    with server.connect(tcp) as client:
        client.request(target=gate.target)
        gate.entered()
        server.signal(SIGTERM)
        for address in (tcp, unix):
            until(lambda address=address: _is_refused(server, address), f"{address} to refuse")
        gate.open()
        assert client.response().status == 200
    assert server.wait() == 0


def _is_refused(server, address):
    try:
        server.connect(address).close()
    except (ConnectionRefusedError, FileNotFoundError):
        return True
    return False


def _handed_over(control_socket):
    return json.loads(control("-s", control_socket, "--json", "status").stdout)["totals"]["handed_over"]


def test_a_request_that_outlives_graceful_timeout_is_ended(serve, tmp_path):
    server = serve("plain:app", "--graceful-timeout", 1)
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        worker = gate.entered()
        server.signal(SIGTERM)
        assert server.wait(within=10) == 0
        with pytest.raises(ConnectionEnded):
            client.response()
    assert not alive(worker)


@pytest.mark.parametrize("number", [SIGINT, SIGQUIT], ids=["INT", "QUIT"])
def test_a_quick_stop_does_not_wait_for_requests(serve, tmp_path, number):
    server = serve("plain:app")
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        assert server.stop(number, within=5) == 0
        with pytest.raises(ConnectionEnded):
            client.response()


def test_a_second_signal_hastens_a_graceful_stop(serve, tmp_path):
    server = serve("plain:app")
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        server.signal(SIGTERM)
        server.found("stopping")
        server.signal(SIGQUIT)
        assert server.wait(within=5) == 0


def test_ttin_adds_a_worker_and_ttou_takes_it_away(serve):
    server = serve("plain:app", "--workers", 1)
    assert len(server.workers) == 1
    server.signal(SIGTTIN)
    until(lambda: len(server.workers) == 2, "a second worker")
    until(lambda: "2 workers" in server.notify.status, "STATUS with two workers")
    server.signal(SIGTTOU)
    until(lambda: len(server.workers) == 1, "one worker again")
    assert server.get("/").status == 200


def test_ttou_never_takes_the_last_worker(serve):
    server = serve("plain:app", "--workers", 1)
    (worker,) = server.workers
    server.signal(SIGTTOU)
    server.found("one worker is the least")
    assert server.workers == [worker]


def test_ttou_lets_the_request_of_the_leaving_worker_finish(serve, tmp_path):
    server = serve("plain:app", "--workers", 2)
    gates = [Gate(tmp_path, name) for name in ("one", "two")]
    clients = [server.connect() for _ in gates]
    for client, gate in zip(clients, gates):
        client.request(target=gate.target)
    pids = {gate.entered() for gate in gates}
    assert len(pids) == 2
    server.signal(SIGTTOU)
    server.found("1 worker")
    for client, gate in zip(clients, gates):
        gate.open()
        assert client.response().status == 200
    until(lambda: len(server.workers) == 1, "one worker")


def test_hup_replaces_all_workers_by_a_new_generation(serve):
    server = serve("plain:app", "--workers", 2)
    old = set(server.children)
    server.signal(SIGHUP)
    server.found("generation 2 serves")
    until(lambda: not old & set(server.children), "the old generation to be gone")
    assert len(server.workers) == 2
    assert server.get("/").body == b"hello\n"


def test_hup_takes_up_changed_code(serve):
    source = ("def app(environ, start_response):\n"
              "    start_response('200 OK', [])\n"
              "    return [b'{}']\n")
    server = serve("m:app", files={"m.py": source.format("old")})
    assert server.get("/").body == b"old"
    # Of another length: Python takes a .pyc for current if time (in seconds) and length of its source agree.
    (server.app_directory / "m.py").write_text(source.format("newer"))
    server.signal(SIGHUP)
    server.found("generation 2 serves")
    until(lambda: server.get("/").body == b"newer", "the new code")


def test_hup_takes_up_changed_settings(serve, tmp_path):
    config = tmp_path / "settings.toml"
    config.write_text("workers = 1\n")
    server = serve("plain:app", "-c", config, "--workers", 1)
    config.write_text("workers = [\n")
    server.expect("settings.toml")
    server.signal(SIGHUP)
    server.found("settings.toml", "error")
    assert server.get("/").body == b"hello\n"


def test_hup_lets_requests_of_the_old_generation_finish(serve, tmp_path):
    server = serve("plain:app")
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        old = gate.entered()
        server.signal(SIGHUP)
        server.found("generation 2 serves")
        until(lambda: server.get("/pid").text != str(old), "an answer of the new generation")
        gate.open()
        assert client.response().body == b"through the gate\n"
    until(lambda: not alive(old), "the old worker to be gone")


def test_hup_with_broken_code_changes_nothing(serve):
    """The old generation never stops serving."""
    good = ("def app(environ, start_response):\n"
            "    start_response('200 OK', [('Content-Length', '2')])\n"
            "    return [b'ok']\n")
    server = serve("m:app", files={"m.py": good})
    workers = server.workers
    (server.app_directory / "m.py").write_text("raise RuntimeError('broken release')\n")
    server.expect("the reload has failed and generation 1 goes on.*Traceback.*broken release")
    server.signal(SIGHUP)
    server.found("the reload has failed", "error")
    assert server.get("/").body == b"ok"
    until(lambda: server.workers == workers, "the processes of generation 2 to be gone")
    until(lambda: server.notify.status.startswith("Reload failed: "), "the STATUS of the failure")
    assert server.notify.status.endswith("; generation 1 still serves with 1 worker")
    (server.app_directory / "m.py").write_text("# repaired\n" + good.replace("ok", "OK"))
    server.signal(SIGHUP)
    until(lambda: server.get("/").body == b"OK", "the repaired code")


def test_no_request_is_lost_while_generations_change(serve):
    server = serve("plain:app", "--workers", 2)
    answered = 0
    for generation in (2, 3, 4):
        server.signal(SIGHUP)
        while not server.log.find(f"generation {generation} serves"):
            assert server.get("/").body == b"hello\n"
            answered += 1
    assert answered > 0


@pytest.mark.parametrize("number", [SIGHUP, SIGUSR1, SIGUSR2, SIGTTIN, SIGTTOU, SIGINT, SIGTERM],
                         ids=lambda number: signal.Signals(number).name)
def test_workers_do_not_heed_signals_that_are_meant_for_the_arbiter(serve, number):
    """`systemctl kill -s HUP` signals every process of the unit."""
    import os

    server = serve("plain:app", "--workers", 1)
    children = server.children
    for pid in children:
        os.kill(pid, number)
    assert server.get("/").body == b"hello\n"
    assert server.children == children


@pytest.mark.parametrize("name", ["SIGALRM", "SIGVTALRM", "SIGPROF", "SIGXFSZ", "SIGIO", "SIGPWR", "SIGPIPE", "SIGWINCH"])
def test_a_signal_that_means_nothing_does_not_end_the_arbiter(serve, name):
    server = serve("plain:app", "--workers", 1)
    children = server.children
    server.signal(signal.Signals[name])
    # Signals are taken in any order; the answer to this one comes after the other has been delivered.
    server.signal(SIGTTIN)
    until(lambda: len(server.workers) == 2, "a second worker")
    assert set(children) < set(server.children)
    assert server.get("/").body == b"hello\n"


@pytest.mark.parametrize("number", [signal.SIGXCPU, signal.SIGRTMIN, signal.SIGRTMIN + 7, signal.SIGRTMAX],
                         ids=["XCPU", "RTMIN", "RTMIN+7", "RTMAX"])
def test_a_signal_that_can_only_be_a_mistake_is_told_once_and_ends_nothing(serve, number):
    server = serve("plain:app", "--workers", 1)
    children = server.children
    for _ in range(100):
        server.signal(number)
    server.signal(SIGTTIN)
    until(lambda: len(server.workers) == 2, "a second worker")
    assert set(children) < set(server.children)
    assert server.get("/").body == b"hello\n"
    (record,) = server.log.find(f"means nothing here: .*{number}|means nothing here: SIGXCPU", "warning")
    assert f"from process {os.getpid()} of user {os.getuid()}" in str(record)


def test_processes_that_the_arbiter_starts_have_no_signal_of_its_own_blocked(serve):
    server = serve("plain:app", "--workers", 1)
    for pid in server.children:
        with open(f"/proc/{pid}/status") as status:
            blocked, = (line.split()[1] for line in status if line.startswith("SigBlk:"))
        assert int(blocked, 16) == 0


def test_log_files_that_have_reached_the_limit_of_file_size_end_nothing(serve, tmp_path):
    log = tmp_path / "error.log"
    log.write_bytes(b"x" * 2048)
    server = serve("plain:app", "--error-logfile", log, wrapper=("bash", "-c", 'ulimit -f 2; exec "$@"', "limited"))
    assert server.get("/").body == b"hello\n"
    server.signal(SIGHUP)
    assert server.get("/").body == b"hello\n"
    assert server.stop() == 0
    assert len(log.read_bytes()) == 2048


def test_subprocesses_of_the_application_have_the_default_signals(serve):
    lines = dict(line.split(":") for line in serve("plain:app").get("/signals").text.splitlines())
    assert int(lines["SigBlk"], 16) == 0
    # Python itself ignores PIPE (13) and XFSZ (25). 32 and 33 are glibc's own: its posix_spawn leaves 32 ignored, and no
    # program can change that through sigaction(3).
    assert int(lines["SigIgn"], 16) & ~(1 << 12 | 1 << 24 | 1 << 31 | 1 << 32) == 0


def test_subprocesses_of_the_application_inherit_no_descriptor_of_ours(serve):
    descriptors = serve("plain:app").get("/descriptors").text.split()
    assert descriptors == ["0", "1", "2", "3"]  # 3 is the directory that ls reads


def test_term_lets_the_application_close_what_it_has_sent(serve, tmp_path):
    """The client has everything; close() of the body may still have work to do."""
    files = {"m.py": "import os, time\n"
                     "class Body(list):\n"
                     "    def close(self):\n"
                     f"        open({str(tmp_path / 'closing')!r}, 'w').close()\n"
                     f"        while not os.path.exists({str(tmp_path / 'go')!r}):\n"
                     "            time.sleep(0.005)\n"
                     "        print('closed in peace')\n"
                     "def app(environ, start_response):\n"
                     "    start_response('200 OK', [('Content-Length', '2'), ('Connection', 'close')])\n"
                     "    return Body([b'ok'])\n"}
    server = serve("m:app", files=files)
    (worker,) = server.workers
    assert server.get("/").body == b"ok"
    until(lambda: (tmp_path / "closing").exists(), "close() to be called")
    server.signal(SIGTERM)
    server.found("stopping")
    with pytest.raises(AssertionError):
        until(lambda: not alive(worker), "the worker to leave too early", within=0.5)
    (tmp_path / "go").touch()
    assert server.wait() == 0
    assert server.log.find("closed in peace")


@pytest.mark.parametrize("number", [SIGQUIT, SIGTERM], ids=["QUIT", "graceful_timeout"])
def test_a_request_that_is_cut_off_is_named(serve, tmp_path, number):
    server = serve("plain:app", "--graceful-timeout", 1)
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        server.signal(number)
        assert server.wait(within=10) == 0
    assert server.log.find(r"GET /gate.* is cut off")


WAITS = """
import time

def app(environ, start_response):
    time.sleep(0.02)
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""


@pytest.mark.parametrize("threads", [1, 4])
def test_whoever_asks_without_a_pause_is_answered_until_a_stop_and_told_that_it_was_the_last(serve, tmp_path, threads):
    server = serve("waits:app", "--threads", threads, workers=2, files={"waits.py": WAITS})
    address, stopping, lost, last = server.address, threading.Event(), [], []

    def ask():
        with server.connect(address) as client:
            while True:
                client.request(target="/")
                before = not stopping.is_set()
                try:
                    response = client.response()
                except ConnectionEnded as error:
                    # What is sent later than that may come too late (RFC 9112 section 9.3.1).
                    lost.extend([str(error)] if before else [])
                    return
                if response.header("Connection") == "close":
                    last.append(response.status)
                    return

    clients = [threading.Thread(target=ask) for _ in range(20)]
    for client in clients:
        client.start()
    until(lambda: server.get("/").status == 200, "an answer")
    stopping.set()
    server.signal(SIGTERM)
    for client in clients:
        client.join(20)
    assert not lost
    assert last and set(last) == {200}
    assert server.wait() == 0
