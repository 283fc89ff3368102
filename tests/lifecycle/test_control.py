"""Stories of rgunicornctl: what an operator asks, orders and is told."""

import json
import os
import socket
import stat
import subprocess
import sys
import tempfile
from pathlib import Path
from signal import SIGCONT, SIGHUP, SIGKILL, SIGSTOP, SIGTERM

import pytest
from harness import Gate, until
from harness.processes import alive
from harness.server import control


@pytest.fixture
def instance(serve, tmp_path):
    """instance(...) as serve(...): a server and a function that runs rgunicornctl on it."""

    def start(app, *arguments, name="control.sock", **more):
        path = tmp_path / name
        server = serve(app, "--control-socket", path, *arguments, **more)

        def ctl(*words, **more):
            return control("-s", path, *words, **more)

        ctl.path = path
        return server, ctl

    return start


def asked(ctl, *words):
    """The answer as an object."""
    done = ctl("--json", *words)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


def serving(ctl):
    """Slot -> pid of the workers that serve."""
    return {w["slot"]: w["pid"] for w in asked(ctl, "workers")["workers"] if w["state"] == "serving"}


# Asking


def test_status_tells_an_operator_what_is_served_by_whom_and_how_fast(instance):
    server, ctl = instance("plain:app", "--workers", 2)
    for _ in range(20):
        assert server.get("/").status == 200
    assert server.get("/nothing").status == 404
    until(lambda: asked(ctl, "status")["totals"]["requests"] == 21, "all requests to be counted")
    status = asked(ctl, "status")
    assert (status["life"], status["pid"], status["generation"]) == ("serving", server.pid, 1)
    assert (status["workers_serving"], status["workers_wanted"], status["lanes"]) == (2, 2, 2)
    assert status["app"] == "plain:app"
    assert (status["totals"]["responses_2xx"], status["totals"]["responses_4xx"]) == (20, 1)
    assert status["recent"]["requests"] == 21 and 0 < status["recent"]["latency"]["p50"] < 5
    assert set(status["workers"]) == set(server.workers)
    assert status["memory"][str(server.pid)]["pss"] > 0
    text = ctl("status").stdout
    for word in ("2 of 2 serve", "21 requests", "p99", "Memory", "Generation 1"):
        assert word in text, text


def test_a_request_that_runs_is_listed_with_its_worker_until_it_is_over(instance, tmp_path):
    server, ctl = instance("plain:app", "--workers", 2)
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target, headers=[("X-Request-ID", "from-nginx")])
        pid = gate.entered()
        (request,) = asked(ctl, "requests")["requests"]
        assert (request["method"], request["path"], request["pid"]) == ("GET", gate.target, pid)
        assert request["state"] == "application" and request["seconds"] >= 0
        # Who speaks from 127.0.0.1 is believed, as a proxy would be.
        assert request["id"] == "from-nginx"
        assert f"from-nginx  GET {gate.target}" in ctl("requests").stdout
        assert asked(ctl, "status")["workers_busy"] == 1
        gate.open()
        assert client.response().status == 200
    until(lambda: asked(ctl, "requests")["requests"] == [], "the request to be over")
    assert ctl("requests").stdout == "no request runs\n"


def test_requests_on_all_threads_of_a_worker_are_listed(instance, tmp_path):
    server, ctl = instance("plain:app", "--threads", 3)
    gates = [Gate(tmp_path, name) for name in ("one", "two", "three")]
    clients = [server.connect() for _ in gates]
    for client, gate in zip(clients, gates):
        client.request(target=gate.target)
        gate.entered()
    requests = asked(ctl, "requests")["requests"]
    assert {request["path"] for request in requests} == {gate.target for gate in gates}
    assert len({request["lane"] for request in requests}) == 3
    assert len({request["thread"] for request in requests}) == 3
    for client, gate in zip(clients, gates):
        gate.open()
        assert client.response().status == 200


ASGI = """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"ok"})
"""


@pytest.mark.parametrize("pool, app, threads, shown, lanes", [
    ("auto", "plain:app", 1, "sync", 1), ("auto", "plain:app", 3, "gthread with 3 threads each", 3),
    ("sync", "plain:app", 3, "gthread with 3 threads each", 3), ("gthread", "plain:app", 1, "gthread,", 1),
    ("auto", "app:app", 1, "asgi with up to 1000 requests each", 1000)])
def test_status_tells_what_auto_has_chosen_and_how_many_lanes_it_has(instance, pool, app, threads, shown, lanes):
    _, ctl = instance(app, "-k", pool, "--threads", threads, "--workers", 1, files={"app.py": ASGI} if app == "app:app" else None)
    status = asked(ctl, "status")
    assert (status["worker_class"], status["lanes"]) == (shown.split()[0].rstrip(","), lanes)
    assert f", {shown}" in ctl("status").stdout
    assert asked(ctl, "workers")["workers"][0]["lanes"] == lanes


def test_log_files_that_cannot_be_opened_anew_are_told_to_who_has_ordered_it(instance, tmp_path):
    folder = tmp_path / "logs"
    folder.mkdir()
    server, ctl = instance("plain:app", "--access-logfile", folder / "access.log")
    assert ctl("reopen").returncode == 0
    folder.rename(tmp_path / "elsewhere")
    server.expect("cannot be opened anew|could not be reopened")
    failed = ctl("reopen")
    assert failed.returncode == 1 and "access.log" in failed.stderr, failed.stderr
    folder.mkdir()
    assert ctl("reopen").returncode == 0


def test_connections_and_bytes_are_counted(instance):
    server, ctl = instance("plain:app")
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        assert client.get("/").status == 200

    def counted():
        status = asked(ctl, "status")
        return status["connections"], status["totals"]["accepted"], status["totals"]["body_bytes"]

    until(lambda: counted() == (5, 5, 5 * len("hello\n")), "all to be counted")
    for client in clients:
        client.close()
    until(lambda: asked(ctl, "status")["connections"] == 0, "the connections to be closed")


def test_what_breaks_http_is_counted_apart(instance):
    server, ctl = instance("plain:app")
    with server.connect() as client:
        client.send("GET / HTTP/1.1\r\n\r\n")
        assert client.response().status == 400
    totals = asked(ctl, "status")["totals"]
    assert (totals["rejected"], totals["requests"]) == (1, 0)


def test_settings_are_shown_with_their_origin(instance):
    _, ctl = instance("plain:app")
    assert "command line" in ctl("settings").stdout


# Totals


def test_totals_survive_the_death_of_a_worker_and_a_reload(instance):
    server, ctl = instance("plain:app", "--workers", 1)
    for _ in range(10):
        server.get("/")
    until(lambda: asked(ctl, "status")["totals"]["requests"] == 10, "ten requests")
    (victim,) = server.workers
    server.expect("was killed by SIGKILL")
    os.kill(victim, SIGKILL)
    until(lambda: asked(ctl, "status")["deaths"] == 1, "the death to be known")
    for _ in range(10):
        server.get("/")
    assert ctl("reload").returncode == 0
    for _ in range(10):
        server.get("/")
    until(lambda: asked(ctl, "status")["totals"]["requests"] == 30, "thirty requests")
    status = asked(ctl, "status")
    assert status["recent"]["requests"] == 30
    assert f"pid {victim}" in status["latest_death"]["text"]
    until(lambda: asked(ctl, "status")["connections"] == 0, "the connections to be closed")


def test_the_spool_is_one_account_and_a_dead_workers_share_is_given_back(instance):
    server, ctl = instance("plain:app", "--workers", 2, "--request-buffer", 1024, "--spool-limit", 100_000)
    server.expect("was killed by SIGKILL")
    with server.connect() as client:
        client.send("POST / HTTP/1.1\r\nHost: x\r\nContent-Length: 90000\r\n\r\n" + 80_000 * "x")
        until(lambda: asked(ctl, "status")["spooled"] == 80_000, "the body to be spooled")
        assert server.post("/", 50_000 * b"x").status == 503
        (holder,) = [w["pid"] for w in asked(ctl, "workers")["workers"] if w["spooled"] == 80_000]
        os.kill(holder, SIGKILL)
        until(lambda: asked(ctl, "status")["spooled"] == 0, "the dead worker's share to come back")
    assert server.post("/", 50_000 * b"x").status == 200


# Ordering


def test_scale_changes_the_number_of_workers(instance):
    server, ctl = instance("plain:app", "--workers", 1)
    assert ctl("scale", 3).returncode == 0
    until(lambda: len(serving(ctl)) == 3, "three workers")
    assert ctl("scale", "-2").returncode == 0
    until(lambda: len(server.workers) == 1, "one worker")
    refused = ctl("scale", 0)
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "0 workers" in refused.stderr
    assert server.get("/").status == 200


def test_retire_replaces_the_worker_of_a_slot_and_no_other(instance):
    server, ctl = instance("plain:app", "--workers", 2)
    before = serving(ctl)
    assert ctl("retire", 2).returncode == 0
    until(lambda: serving(ctl).get(2) not in (None, before[2]), "another worker in slot 2")
    until(lambda: not alive(before[2]), "the old worker to leave")
    assert serving(ctl)[1] == before[1]
    refused = ctl("retire", 7)
    assert refused.returncode == 1 and "slot 7" in refused.stderr


def test_reload_returns_when_the_new_generation_serves(instance):
    server, ctl = instance("plain:app", "--workers", 2)
    before = set(serving(ctl).values())
    done = ctl("reload")
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "generation 2 serves"
    assert "Worker 2 of generation 2" in done.stdout
    assert not before & set(serving(ctl).values())
    assert asked(ctl, "status")["latest_reload"] | {"at": 0} == {"at": 0, "generation": 2, "failure": None}


def test_a_reload_that_fails_says_why_and_nothing_is_lost(instance):
    server, ctl = instance("shop:app", "--workers", 2, files={"shop.py": "from plain_app import app\n",
                                                              "plain_app.py": WORKING})
    before = serving(ctl)
    (server.app_directory / "shop.py").write_text("import does_not_exist\n")
    server.expect("does_not_exist")
    failed = ctl("reload")
    assert failed.returncode == 1
    assert "Traceback" in failed.stdout and "does_not_exist" in failed.stdout
    assert "generation 1 goes on" in failed.stderr
    assert serving(ctl) == before
    assert server.get("/").status == 200
    assert "does_not_exist" in asked(ctl, "status")["latest_reload"]["failure"]
    assert "FAILED" in ctl("status").stdout
    (server.app_directory / "shop.py").write_text("from plain_app import app\n")
    assert ctl("reload").returncode == 0


def test_reloads_that_are_ordered_together_all_return_after_one_that_began_later(instance):
    server, ctl = instance("plain:app", "--workers", 1)
    reloads = [subprocess.Popen([*map(str, ctl("--version").args[:1]), "-s", str(ctl.path), "reload"],
                                stdout=subprocess.PIPE, text=True) for _ in range(4)]
    said = [reload.communicate(timeout=30)[0] for reload in reloads]
    assert [reload.returncode for reload in reloads] == [0, 0, 0, 0]
    served = asked(ctl, "status")["generation"]
    assert 2 <= served <= 5
    assert any(text.endswith(f"generation {served} serves\n") for text in said)


def test_a_client_that_waits_for_a_reload_hears_that_the_instance_stops(instance):
    server, ctl = instance("slow:app", files={"slow.py": SLOW_SECOND_IMPORT})
    with subprocess.Popen([*map(str, ctl("--version").args[:1]), "-s", str(ctl.path), "reload"], stdout=subprocess.PIPE,
                          stderr=subprocess.PIPE, text=True) as reload:
        until(lambda: asked(ctl, "status")["reloading"], "the reload to begin")
        server.signal(SIGTERM)
        _, error = reload.communicate(timeout=30)
    assert reload.returncode == 1 and "stops" in error
    assert server.wait() == 0


def test_stop_returns_when_the_instance_has_ended(instance):
    server, ctl = instance("plain:app")
    done = ctl("stop")
    assert (done.returncode, done.stdout.splitlines()[-1]) == (0, "stopped")
    assert server.wait() == 0
    assert not ctl.path.exists()


def test_reopen_opens_the_log_files_anew(instance, tmp_path):
    log = tmp_path / "access.log"
    server, ctl = instance("plain:app", "--access-logfile", log)
    log.rename(tmp_path / "access.log.1")
    assert ctl("reopen").returncode == 0
    until(log.exists, "the new log file")


def test_the_words_of_gunicornc_are_understood(instance):
    server, ctl = instance("plain:app", "--workers", 2)
    assert "SLOT" in ctl("-c", "show workers").stdout
    assert "2 of 2 serve" in ctl("show", "all").stdout
    assert ctl("worker", "add").returncode == 0
    until(lambda: len(serving(ctl)) == 3, "three workers")
    assert ctl("worker", "remove", 1).returncode == 0
    until(lambda: len(serving(ctl)) == 2, "two workers")
    (victim, _) = serving(ctl).values()
    assert ctl("worker", "kill", victim).returncode == 0
    until(lambda: not alive(victim) and len(serving(ctl)) == 2, "the replacement")
    assert ctl("worker", "kill", 1).returncode == 1
    assert ctl("shutdown", "quick").returncode == 0
    assert server.wait() == 0


def test_orders_that_come_at_once_are_answered_with_what_becomes_of_all_of_them(instance):
    server, ctl = instance("plain:app", "--workers", 2)
    orders = [{"order": "scale_by", "difference": by} for by in (1, 1, -1, -3)] + [{"order": "scale", "workers": 1}]
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(ctl.path))
        client.sendall(b"".join(json.dumps(order).encode() + b"\n" for order in orders))
        client.shutdown(socket.SHUT_WR)
        client.settimeout(20)
        answers = [json.loads(line) for line in client.makefile()]
    assert [answer["text"] for answer in answers] == [
        "from now on 3 workers, 2 before", "from now on 4 workers, 3 before", "from now on 3 workers, 4 before",
        "0 workers cannot be had: from 1 to 4096", "from now on 1 worker, 3 before"]
    until(lambda: len(serving(ctl)) == 1, "one worker")


def test_an_arbiter_that_does_not_answer_gets_no_order_that_it_would_obey_later(instance):
    server, ctl = instance("plain:app")
    server.signal(SIGSTOP)
    try:
        refused = ctl("reload")
    finally:
        server.signal(SIGCONT)
    assert refused.returncode == 3 and "does not answer" in refused.stderr
    assert asked(ctl, "status")["generation"] == 1


# The socket


def test_the_socket_is_in_the_units_runtime_directory_and_only_for_its_user(serve, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    server = serve("plain:app", env={"RUNTIME_DIRECTORY": f"{directory}:/elsewhere"})
    path = directory / "control.sock"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert control("-s", path, "status").returncode == 0
    server.stop()
    assert directory.exists() and not path.exists()


def test_without_systemd_the_one_instance_that_runs_is_found(serve, tmp_path, needs):
    needs(os.geteuid() == 0 or os.environ.get("XDG_RUNTIME_DIR"), "a runtime directory")
    server = serve("plain:app")
    found = control("-i", server.pid, "--json", "status")
    assert found.returncode == 0, found.stderr
    assert json.loads(found.stdout)["pid"] == server.pid
    server.stop()
    gone = control("-i", server.pid, "status")
    assert gone.returncode == 3 and "no instance" in gone.stderr
    assert not Path(f"/run/rgunicorn-{server.pid}").exists()


def test_no_control_socket_means_none(serve, tmp_path):
    directory = tmp_path / "run"
    directory.mkdir()
    serve("plain:app", "--no-control-socket", env={"RUNTIME_DIRECTORY": str(directory)})
    assert list(directory.iterdir()) == []


def test_a_place_that_cannot_be_written_is_one_line_and_no_obstacle(serve, tmp_path):
    server = serve("plain:app", "--control-socket", tmp_path / "missing" / "control.sock")
    server.found("no control socket.*missing", "warning")
    assert server.get("/").status == 200


def test_what_a_killed_arbiter_left_behind_is_replaced(instance):
    first, ctl = instance("plain:app")
    first.expect_status(-SIGKILL)
    os.kill(first.pid, SIGKILL)
    first.wait()
    assert ctl.path.exists()
    dead = ctl("status")
    assert dead.returncode == 3 and "no longer running" in dead.stderr
    second, ctl = instance("plain:app")
    assert asked(ctl, "status")["pid"] == second.pid


def test_the_socket_of_an_instance_that_runs_is_not_taken_from_it(instance):
    first, ctl = instance("plain:app")
    second, _ = instance("plain:app")
    second.found("no control socket.*another process listens", "warning")
    assert second.get("/").status == 200
    second.stop()
    assert asked(ctl, "status")["pid"] == first.pid


@pytest.mark.parametrize("gone", ["file", "folder"])
def test_a_socket_that_somebody_has_removed_is_made_anew_by_the_next_reload(serve, needs, gone):
    needs(os.geteuid() == 0 or os.environ.get("XDG_RUNTIME_DIR"), "a runtime directory")
    server = serve("plain:app")
    folder = Path("/run" if os.geteuid() == 0 else os.environ["XDG_RUNTIME_DIR"]) / f"rgunicorn-{server.pid}"
    path = folder / "control.sock"
    path.unlink()
    if gone == "folder":
        folder.rmdir()
    server.signal(SIGHUP)
    server.found("The control socket .* was gone and is made anew")
    assert control("-s", path, "status").returncode == 0
    assert [stat.S_IMODE(made.stat().st_mode) for made in (path, folder)] == [0o600, 0o700]
    server.stop()
    assert not folder.exists()


def test_another_user_is_told_that_permission_is_missing(serve, needs):
    needs(os.geteuid() == 0, "root")
    with tempfile.TemporaryDirectory() as directory:
        os.chmod(directory, 0o755)
        path = Path(directory) / "control.sock"
        serve("plain:app", "--control-socket", path)
        ask = ("import socket, sys; s = socket.socket(socket.AF_UNIX); s.connect(sys.argv[1]);"
               "print(s.makefile().read())")
        command = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", sys.executable, "-c", ask, path]
        refused = subprocess.run(command, capture_output=True, text=True)
        assert "PermissionError" in refused.stderr
        # Even a socket that somebody has opened to all hears only its own.
        os.chmod(path, 0o666)
        refused = subprocess.run(command, capture_output=True, text=True)
        assert "may not control" in refused.stdout, refused.stderr
        assert control("-s", path, "status").returncode == 0


def test_nonsense_on_the_socket_hurts_nobody(instance):
    server, ctl = instance("plain:app")
    clients = []
    for words in (b"\n", b"{}\n", b'{"order":"explode"}\n', b"\xff\xfe\n", 100_000 * b"x", b'{"order":"status"}\n' * 3000):
        client = socket.socket(socket.AF_UNIX)
        client.connect(str(ctl.path))
        client.settimeout(5)
        try:
            client.sendall(words)
        except (BrokenPipeError, TimeoutError):
            pass
        clients.append(client)
    silent = [socket.socket(socket.AF_UNIX) for _ in range(100)]
    for client in silent:
        client.connect(str(ctl.path))
    assert asked(ctl, "status")["pid"] == server.pid
    for client in clients + silent:
        client.close()
    assert server.get("/").status == 200


def test_many_clients_at_once_are_all_answered_and_silent_ones_make_room(instance):
    server, ctl = instance("plain:app")
    silent = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for client in silent:
        client.settimeout(10)
        client.connect(str(ctl.path))
    clients = [socket.socket(socket.AF_UNIX) for _ in range(60)]
    for client in clients:
        client.settimeout(20)
        client.connect(str(ctl.path))
        client.sendall(b'{"order":"workers"}\n')
    answers = []
    for client in clients:
        with client, client.makefile() as lines:
            answers.append(json.loads(lines.readline()))
    assert all(len(answer["workers"]) == 1 for answer in answers), answers
    for client in silent:
        client.close()


def test_clients_that_wait_for_a_reload_keep_nobody_else_out(instance, tmp_path):
    go = tmp_path / "go"
    server, ctl = instance("m:app", files={"m.py": f"""
import os, time
while os.environ.get("WAITS") and not os.path.exists({str(go)!r}):
    time.sleep(0.01)
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"ok"]
"""})
    (server.app_directory / "m.py").write_text((server.app_directory / "m.py").read_text().replace(
        'os.environ.get("WAITS")', "True"))
    waiting = [socket.socket(socket.AF_UNIX) for _ in range(40)]
    for client in waiting:
        client.settimeout(30)
        client.connect(str(ctl.path))
        client.sendall(b'{"order":"reload"}\n')
        client.shutdown(socket.SHUT_WR)
        assert asked(ctl, "status")["pid"] == server.pid
    go.touch()
    for client in waiting:
        with client, client.makefile() as lines:
            *_, last = lines
            assert "serves" in last or "done" in last, last


def test_a_client_that_says_all_and_shuts_its_side_is_answered(instance):
    server, ctl = instance("plain:app")
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(str(ctl.path))
        client.sendall(b'{"order":"reload"}\n{"order":"workers"}\n')
        client.shutdown(socket.SHUT_WR)
        client.settimeout(20)
        lines = [json.loads(line) for line in client.makefile()]
    assert [line["answer"] for line in lines if line["answer"] != "progress"] == ["done", "workers"]


def test_a_command_line_that_is_wrong_has_a_status_of_its_own():
    wrong = control("explode")
    assert wrong.returncode == 2 and "explode" in wrong.stderr
    assert control("--help").returncode == 0


WORKING = """
def app(environ, start_response):
    start_response("200 OK", [])
    return [b"works"]
"""

SLOW_SECOND_IMPORT = """
import os, time
if os.path.exists("imported"):
    time.sleep(20)
open("imported", "w").close()

def app(environ, start_response):
    start_response("200 OK", [])
    return []
"""
