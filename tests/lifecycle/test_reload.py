"""Stories of reloads: what changes, what stays, and what a reload that fails leaves untouched."""

import os
import re
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from harness import Connection, Gate, until
from harness.broken import CODE, SETTINGS, Broken
from harness.deployed import APP, PATHS, Instance, Visitor, free_port, instance  # noqa: F401
from harness.http import ConnectionEnded
from harness.processes import alive, open_files, proportional_memory
from harness.requirement import command
from harness.server import APPS, control, write

GATED = (APPS / "plain.py").read_text().replace('b"hello\\n"', 'b"hello"')


# What fails is rolled back

HANGS = {"a hang at import": Broken(r"not ready after .* \(boot_timeout\)", "import time\ntime.sleep(1000)\n")}


@pytest.mark.parametrize("name", [*CODE, *SETTINGS, *HANGS])
def test_a_reload_is_rolled_back_and_explained_because_of(instance, name):
    broken = (CODE | SETTINGS | HANGS)[name]
    with socket.create_server(("127.0.0.1", 0)) as taken:
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        reason = broken.reason.replace(r"\{taken\}", address)
        one = instance()
        if name in HANGS:
            one.configure(boot_timeout=1.5)
        before = one.server.children
        visitor = Visitor(one.server)
        if broken.code is not None:
            one.deploy(app=broken.code)
        else:
            one.configure(broken.settings.replace("{taken}", address))
        one.server.expect(f"the reload has failed and generation 1 goes on.*{reason}")
        failed = one.ctl("reload")
        said = failed.stdout + failed.stderr
        assert failed.returncode == 1, said
        one.server.found(f"(?s)the reload has failed and generation 1 goes on.*{reason}", "error")
        until(lambda: one.server.children == before, "the failed generation to be gone, and only that")
        visitor.leave()
    assert "generation 1 goes on" in failed.stderr, said
    assert re.search(reason, said, re.DOTALL), said
    assert ("Traceback" in said) == broken.traceback, said
    assert re.match("Reload failed: .+; generation 1 still serves with 2 workers$", one.server.notify.status)
    one.deploy(app=PATHS)
    one.configure()
    assert one.reload().endswith("serves\n")
    until(lambda: "Reload failed" not in one.server.notify.status, "a STATUS without the failure")
    one.gone(before)


def test_a_reason_that_is_long_or_no_utf8_is_told_nevertheless(instance):
    one = instance()
    one.server.expect("the reload has failed")
    for code, reason in [(r"raise Exception('undecodable: \udcff')", "Exception: undecodable: "),
                         ("raise Exception('long ' * 100000)", "Exception: long long"),
                         ("import sys; sys.exit('long ' * 100000)", "sys.exit\\('long long")]:
        one.deploy(app=code)
        failed = one.ctl("reload")
        assert failed.returncode == 1 and re.search(reason, failed.stdout) and "Traceback" in failed.stdout, failed.stdout


def test_a_pipe_or_a_device_in_the_place_of_a_file_of_settings_fails_the_reload_and_nothing_waits(instance, tmp_path):
    one = instance()
    one.server.expect("env_file|settings file")
    os.mkfifo(tmp_path / "pipe")
    for path, reason in [(tmp_path / "pipe", "named pipe"), ("/dev/zero", "larger than 16 MiB")]:
        one.configure(env_file=str(path))
        failed = one.ctl("reload")
        assert failed.returncode == 1 and reason in failed.stdout, failed.stdout
    one.file.unlink()
    one.file.symlink_to(tmp_path / "pipe")
    failed = one.ctl("reload")
    assert failed.returncode == 1 and "named pipe" in failed.stdout, failed.stdout
    assert one.get("/") == "hello"


def test_what_was_ordered_is_done_also_if_it_cannot_be_printed(instance):
    one = instance()
    with open("/dev/full", "w") as full:
        done = control("-s", one.socket, "reload", stdout=full, timeout=60)
        assert done.returncode == 0 and "it is done, but stdout" in done.stderr, done.stderr
        one.server.found("Generation 2 serves")
        asked = control("-s", one.socket, "status", stdout=full)
        assert asked.returncode == 1 and "stdout" in asked.stderr, asked.stderr


def test_a_new_worker_that_is_killed_while_it_boots_ends_the_reload(instance):
    one = instance()
    before = one.server.children
    one.deploy(app="import os, signal\nos.kill(os.getpid(), signal.SIGKILL)\n")
    one.server.expect("the reload has failed and generation 1 goes on.*killed by SIGKILL")
    failed = one.ctl("reload")
    assert failed.returncode == 1 and "SIGKILL" in failed.stdout + failed.stderr
    until(lambda: one.server.children == before, "only the old generation")


@pytest.mark.timeout(600)
def test_two_hundred_reloads_leave_nothing_behind(instance):
    one = instance(workers=1)
    server = one.server

    def measure():
        until(lambda: len(server.children) == 2, "one mold and one worker")
        held = open_files(server.pid)
        (board,) = [fd for fd, target in held.items() if "rgunicorn-scoreboard" in target]
        return len(held), os.stat(f"/proc/{server.pid}/fd/{board}").st_size, proportional_memory(server.pid)

    for _ in range(20):
        one.reload()
    fds, board, memory = measure()
    for _ in range(180):
        one.reload()
    # The last ones to leave may have fds here until they are reaped.
    until(lambda: measure()[0] <= fds, "no more fds than before")
    _, later_board, later_memory = measure()
    # When generations overlap longer than before a worker gets a new sheet; a leak would be 180 of them.
    assert later_board <= board + 4 * 65536
    # A kilobyte for each reload would be a leak; the allocator's own noise is less than half a megabyte.
    assert later_memory < memory + 512 * 1024, (memory, later_memory)
    assert '"generation": 201' in one.ctl("--json", "status").stdout
    assert one.get("/") == "hello"


# What changes


def test_an_env_file_that_is_too_long_is_said_to_be_so_at_once(instance, tmp_path):
    one = instance()
    file = tmp_path / "long.env"
    file.write_text("".join(f"V{number}={'x' * 60_000}\n" for number in range(4)))
    one.configure(env_file=str(file), boot_timeout=0)
    one.server.expect("the reload has failed and generation 1 goes on.*env_file")
    failed = one.ctl("reload")
    assert failed.returncode == 1 and "with env_file and raw_env" in failed.stdout + failed.stderr, failed
    assert one.get("/") == "hello"


def test_an_env_file_is_read_anew(instance, tmp_path):
    file = tmp_path / "app.env"
    file.write_text("GREETING=hello\n")
    one = instance(env_file=str(file))
    assert one.get("/env") == "hello"
    file.write_text("GREETING='good evening'\n")
    one.reload()
    assert one.get("/env") == "good evening"


def test_a_current_link_may_be_moved_to_another_release_and_only_a_reload_follows_it(instance, serve, tmp_path):
    for release in ("1", "2"):
        write(tmp_path / "releases" / release, {"app.py": PATHS})
    current = tmp_path / "current"
    current.symlink_to("releases/1")
    one = instance(words=("--chdir", current), workers=1, max_requests=3)
    assert one.get("/file") == f"{tmp_path}/releases/1/app.py"
    new = tmp_path / "new"
    new.symlink_to("releases/2")
    new.rename(current)
    first = int(one.get("/pid"))
    # A worker that is replaced before the reload is one of the old release, though it is imported now.
    until(lambda: int(one.get("/pid")) != first, "a worker of the same generation")
    assert one.get("/file") == f"{tmp_path}/releases/1/app.py"
    one.reload()
    assert one.get("/file") == f"{tmp_path}/releases/2/app.py"


def test_another_python_and_a_changed_virtual_environment_are_taken_up(instance, tmp_path):
    places = [tmp_path / "one", tmp_path / "two"]
    for place in places:
        subprocess.run([sys.executable, "-m", "venv", "--without-pip", place], check=True)
    library = f"lib/python{sys.version_info.major}.{sys.version_info.minor}/site-packages"
    write(places[1] / library, {"release.py": "number = 1\n"})
    one = instance(python=f"{places[0]}/bin/python")
    assert one.get("/prefix") == str(places[0])
    one.configure(python=f"{places[1]}/bin/python")
    one.deploy(app=APP.replace("import os, sys", "import sys, release").format(text='f"{sys.prefix} {release.number}"'))
    one.reload()
    assert one.get("/") == f"{places[1]} 1"
    write(places[1] / library, {"release.py": "number = 2222\n"})
    one.reload()
    assert one.get("/") == f"{places[1]} 2222"


def test_workers_threads_and_the_kind_of_pool_follow_the_settings(instance):
    one = instance(workers=1)
    assert one.get("/multithread") == "False"
    one.configure(workers=3, threads=4)
    one.reload()
    until(lambda: len(one.server.workers) == 3, "three workers")
    assert one.get("/multithread") == "True"
    one.configure(workers=1, worker_class="sync")
    one.reload()
    until(lambda: len(one.server.workers) == 1, "one worker")
    assert one.get("/multithread") == "False"


def test_limits_timeouts_and_logs_follow_the_settings(instance, tmp_path):
    one = instance()
    long = "/" + 3000 * "x"
    assert one.server.get(long).status == 200
    assert one.server.get("/").header("connection") is None
    log, errors = tmp_path / "access.log", tmp_path / "error.log"
    one.configure(limit_request_line=1000, accesslog=str(log), errorlog=str(errors), keepalive=0)
    one.reload()
    assert one.server.get(long).status in (400, 414)
    assert one.server.get("/seen").header("connection") == "close"
    until(lambda: "GET /seen" in log.read_text(), "the access log")
    one.reload()
    assert "Generation 3 serves" in errors.read_text()
    assert not one.server.log.find("generation 3 serves")


@pytest.mark.parametrize("name, value", [("pidfile", "other.pid"), ("control_socket_mode", "0o660")])
def test_a_setting_that_waits_for_a_restart_says_so_by_its_name(instance, name, value):
    one = instance()
    one.configure(**{name: value})
    for times in (1, 2):  # it goes on waiting
        said = one.reload()
        assert re.search(f"new value of {name} .* waits for a restart", said), said
        assert len(one.server.log.find(f"{name} .* waits for a restart", "warning")) == times
    one.configure()
    assert "waits for a restart" not in one.reload()


def test_a_number_of_workers_ordered_by_hand_survives_a_reload_that_does_not_change_it(instance):
    one = instance()
    one.server.signal(signal.SIGTTIN)
    until(lambda: len(one.server.workers) == 3, "a third worker")
    before = one.server.children
    one.reload()
    one.gone(before)
    assert len(one.server.workers) == 3


# Listeners


def test_listeners_are_kept_by_identity_however_their_order_changes(instance, tmp_path):
    ports = [free_port() for _ in range(3)]
    path = tmp_path / "app.sock"
    binds = [f"127.0.0.1:{ports[0]}", f"unix:{path}", f"127.0.0.1:{ports[1]}", f"127.0.0.1:{ports[2]}"]
    one = instance(bind=binds[:3])
    first = one.listeners
    assert set(first) == {ports[0], ports[1], str(path)}
    one.configure(bind=binds[::-1])
    one.reload()
    second = one.listeners
    assert {address: second[address] for address in first} == first and set(second) - set(first) == {ports[2]}
    for address in [("127.0.0.1", port) for port in ports] + [str(path)]:
        assert one.get("/", address) == "hello"


def test_a_failed_reload_opens_and_closes_no_listener(instance):
    ports = [free_port() for _ in range(2)]
    one = instance(bind=[f"127.0.0.1:{ports[0]}"])
    first = one.listeners
    one.configure(bind=[f"127.0.0.1:{ports[1]}"])
    one.deploy(app="raise RuntimeError('broken')\n")
    one.server.expect("the reload has failed")
    assert one.ctl("reload").returncode == 1
    until(lambda: one.listeners == first, "the new listener to be closed")
    with pytest.raises(ConnectionRefusedError):
        one.server.connect(("127.0.0.1", ports[1]))


def test_an_inherited_listener_that_a_failed_reload_was_to_add_or_to_remove_is_still_there_for_the_next(serve, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as passed:
        fd, address = f"fd://{passed.fileno()}", passed.getsockname()
        one = Instance(serve, tmp_path, {}, None, fds=[passed.fileno()])
    for bind in ([one.bind, fd], [one.bind]):
        one.server.expect("the reload has failed")
        one.configure(bind=bind)
        one.deploy(app="raise RuntimeError('broken')\n")
        assert one.ctl("reload").returncode == 1
        one.deploy(app=PATHS)
        one.configure(bind=[one.bind, fd])
        one.reload()
        assert one.get("/", address) == one.get("/") == "hello"
    first = one.server.children
    one.configure(bind=[one.bind])
    assert f"No longer listening on http://127.0.0.1:{address[1]}" in one.reload()
    one.gone(first)
    with pytest.raises(ConnectionRefusedError):
        one.server.connect(address)


def test_a_unix_socket_whose_file_was_removed_is_there_again_after_a_reload(instance, tmp_path):
    path = tmp_path / "app.sock"
    one = instance(bind=[f"unix:{path}"])
    path.unlink()
    one.reload()
    assert one.get("/", str(path)) == "hello"
    path.unlink()
    with socket.socket(socket.AF_UNIX) as other:
        other.bind(str(path))
        other.listen()
        one.server.expect("the reload has failed")
        failed = one.ctl("reload")
        assert failed.returncode == 1 and f"in use by pid {os.getpid()}" in failed.stdout, failed.stdout
        assert re.search(r"\.toml:\d+: cannot listen on unix:", failed.stdout), failed.stdout


def test_a_unix_socket_that_stays_follows_the_umask_once_the_reload_has_worked(instance, tmp_path):
    path = tmp_path / "app.sock"
    one = instance(bind=[f"unix:{path}"], umask="0o007")
    mode = lambda: path.stat().st_mode & 0o777  # noqa: E731
    assert mode() == 0o770
    one.configure(bind=[f"unix:{path}"], umask="0o077")
    one.deploy(app="raise RuntimeError('broken')\n")
    one.server.expect("the reload has failed")
    assert one.ctl("reload").returncode == 1
    assert mode() == 0o770
    one.deploy(app=PATHS)
    one.reload()
    assert mode() == 0o700 and one.get("/", str(path)) == "hello"


def test_a_changed_bind_comes_in_addition_to_activated_sockets_and_that_is_explained(instance, tmp_path):
    path = str(tmp_path / "app.sock")
    one = instance(bind=None, wait=False, wrapper=[command("systemd-socket-activate"), "-l", path])
    until(lambda: "Listening on" in one.server.log.text, "systemd-socket-activate to listen")
    with Connection(path) as client:
        assert client.get("/").text == "hello"
    port = free_port()
    one.configure(bind=f"127.0.0.1:{port}")
    assert "in addition to what systemd passes" in one.reload()
    one.server.found("in addition to what systemd passes")
    for address in (path, ("127.0.0.1", port)):
        with Connection(address) as client:
            assert client.get("/").text == "hello"


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("threads", [1, 2], ids=["sync", "gthread"])
def test_what_waits_at_a_listener_that_a_reload_removes_is_answered_before_it_is_closed(instance, tmp_path, kind, threads):
    address = ("127.0.0.1", free_port()) if kind == "tcp" else str(tmp_path / "second.sock")
    words = "%s:%d" % address if kind == "tcp" else f"unix:{address}"
    gates = [Gate(tmp_path, f"gate{n}") for n in range(threads)]
    first = f"127.0.0.1:{free_port()}"
    one = instance(bind=[first, words], workers=1, threads=threads, files={"app.py": GATED})
    busy = [one.server.connect() for _ in gates]
    for client, gate in zip(busy, gates):
        client.request(target=gate.target)
        gate.entered()
    # The only worker is stopped, so that these wait in the backlog and nowhere else.
    (worker,) = one.server.workers
    os.kill(worker, signal.SIGSTOP)
    waiting = [Connection(address) for _ in range(20)]
    for client in waiting[::2]:
        client.request(target="/")
    one.configure(bind=[first], workers=1, threads=threads)
    one.reload()
    os.kill(worker, signal.SIGCONT)
    one.server.found("No longer listening on")
    for client in waiting[1::2]:
        client.request(target="/")
    for client in waiting:
        assert client.response().text == "hello"
        client.close()
    for client, gate in zip(busy, gates):
        gate.open()
        assert client.response().status == 200
        client.close()
    until(lambda: not alive(worker), "the old worker to leave")
    with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
        Connection(address)
    if kind == "unix":
        assert not os.path.exists(address)
    assert one.get("/") == "hello"


def test_a_connection_from_a_listener_that_a_reload_removes_is_still_one_of_that_listener(instance):
    """It is handed over to a generation that has no such listener."""
    ports = [free_port() for _ in range(2)]
    binds = [f"127.0.0.1:{port}" for port in ports]
    one = instance(bind=binds, workers=1, files={"app.py": APP.format(text='environ["SERVER_PORT"]')})
    with one.server.connect(("127.0.0.1", ports[1])) as client:
        assert client.get("/").text == str(ports[1])
        before = one.server.children
        one.configure(bind=binds[:1])
        one.reload()
        one.gone(before)
        assert client.get("/").text == str(ports[1])
    assert one.get("/") == str(ports[0])


# Who answers what


def test_a_kept_connection_is_answered_by_the_new_generation(instance):
    one = instance(workers=1)
    with one.server.connect() as client:
        old = int(client.get("/pid").text)
        one.reload()
        assert int(client.get("/pid").text) != old
        until(lambda: not alive(old), "the old worker to leave")
        assert client.get("/").text == "hello"


def test_a_request_whose_head_was_begun_is_finished_by_the_old_generation(instance):
    one = instance(workers=1)
    with one.server.connect() as client:
        old = int(client.get("/pid").text)
        client.send("GET /pid HTTP/1.1\r\nHo")
        until(lambda: _has_read_all(client), "the worker to read the beginning")
        one.reload()
        client.send("st: x\r\n\r\n")
        assert int(client.response().text) == old
    until(lambda: not alive(old), "the old worker to leave")


def _has_read_all(client):
    """Nothing of what was sent still waits in the server's socket."""
    import fcntl
    import struct
    import termios

    # SIOCOUTQ says what the peer's TCP has not acknowledged; that the application has read it shows in its queue.
    local = "%08X:%04X" % (struct.unpack("=I", socket.inet_aton(client.socket.getsockname()[0]))[0],
                           client.socket.getsockname()[1])
    assert struct.unpack("i", fcntl.ioctl(client.socket, termios.TIOCOUTQ, bytes(4)))[0] >= 0
    for line in Path("/proc/net/tcp").read_text().splitlines()[1:]:
        columns = line.split()
        if columns[2] == local:
            return columns[4].endswith(":00000000")
    return False


@pytest.mark.parametrize("words", [("--workers", 1), ("--workers", 1, "--threads", 2)], ids=["sync", "gthread"])
def test_what_outlives_graceful_timeout_is_cut_off_and_named(serve, tmp_path, words):
    server = serve("plain:app", *words, "--graceful-timeout", 1)
    gate = Gate(tmp_path)
    with server.connect() as running, server.connect() as arriving:
        arriving.send("POST /upload?secret=1 HTTP/1.1\r\nHost: x\r\nContent-Length: 100\r\n\r\nbegin")
        until(lambda: _has_read_all(arriving), "the worker to read the beginning")
        running.request(target=gate.target)
        old = gate.entered()
        server.signal(signal.SIGHUP)
        server.found("generation 2 serves")
        until(lambda: not alive(old), "the old worker to be gone")
        for client in (running, arriving):
            with pytest.raises(ConnectionEnded):
                client.response()
        assert server.get("/").status == 200
    server.found(r"GET /gate.* is cut off after \d+\.\d s", "warning")
    server.found(r"POST /upload\S* is cut off after \d+\.\d s: only 5 bytes of its body", "warning")


# Reloads and other orders


def test_reloads_during_a_reload_are_folded_into_one_more(instance, tmp_path):
    one = instance(workers=1)
    wait = tmp_path / "wait"
    one.deploy(app=f"import os, time\nopen({str(tmp_path / 'importing')!r}, 'w').close()\n"
                   f"while not os.path.exists({str(wait)!r}): time.sleep(0.01)\n" + PATHS)
    one.server.signal(signal.SIGHUP)
    until((tmp_path / "importing").exists, "the import to begin")
    for _ in range(5):
        one.server.signal(signal.SIGHUP)
        one.server.found("another reload follows")
    wait.touch()
    one.server.found("generation 3 serves")
    until(lambda: "generation 3" in one.ctl("status").stdout.lower(), "generation 3")
    assert not one.server.log.find("Generation 4")


def test_term_during_a_reload_is_obeyed_at_once(instance, tmp_path):
    one = instance(workers=1)
    one.deploy(app=f"import time\nopen({str(tmp_path / 'importing')!r}, 'w').close()\ntime.sleep(1000)\n")
    one.server.signal(signal.SIGHUP)
    until((tmp_path / "importing").exists, "the import to begin")
    assert one.server.stop(within=10) == 0


def test_the_exit_statuses_are_in_the_help():
    assert "Exit status: 0 done, 1 failed, 2 the command line is wrong, 3 no instance" in control("--help").stdout


def test_a_new_worker_that_cannot_have_its_threads_ends_the_reload(instance):
    """As at a TasksMax= that is too low for two generations."""
    one = instance(threads=4)
    before = one.server.children
    visitor = Visitor(one.server)
    one.deploy(app="import threading\ndef start(self):\n    raise RuntimeError(\"can't start new thread\")\n"
               "threading.Thread.start = start\n" + PATHS)
    one.server.expect("the reload has failed and generation 1 goes on.*threads cannot be started|worker's threads cannot be started")
    failed = one.ctl("reload")
    assert failed.returncode == 1 and re.search("thread.*TasksMax=", failed.stdout + failed.stderr), failed.stdout + failed.stderr
    until(lambda: one.server.children == before, "the failed generation to be gone, and only that")
    visitor.leave()


# reload_check

CHECKED = """
import os, time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    with open({seen!r}, "a") as seen:
        seen.write(" ".join([path, environ["HTTP_HOST"], environ["wsgi.url_scheme"], environ["REMOTE_ADDR"] or "-",
                             environ.get("HTTP_USER_AGENT", "-"), str(os.getpid())]) + "\\n")
    {body}
    start_response(status, [])
    return [b"hello"]
"""


@pytest.fixture(params=[1, 2], ids=["sync", "gthread"])
def checked(request, instance, tmp_path):
    """checked(...): an instance whose application writes down what it is asked; `one.release(lines)` is a new one."""

    def start(*checks, **settings):
        seen = tmp_path / "seen"
        first = CHECKED.format(seen=str(seen), body='status = "200 OK"')
        one = instance(files={"app.py": first}, threads=request.param, reload_check=list(checks), **settings)
        one.release = lambda body: one.deploy(app=CHECKED.format(seen=str(seen), body=body))
        one.seen = lambda: [line.split() for line in seen.read_text().splitlines()] if seen.exists() else []
        return one

    return start


def test_each_new_worker_of_a_reload_answers_reload_check_before_it_serves(checked):
    one = checked("/health", "/made=201", "https://shop.example/login?next=/")
    assert one.seen() == [], "a start is not checked"
    one.release('status = "201 Created" if path == "/made" else "302 Found" if path == "/login" else "204 No Content"')
    one.reload()
    asked = [line[:-1] for line in one.seen()]
    once = [["/health", "localhost", "http", "127.0.0.1", "rgunicorn-reload-check"],
            ["/made", "localhost", "http", "127.0.0.1", "rgunicorn-reload-check"],
            ["/login", "shop.example", "https", "127.0.0.1", "rgunicorn-reload-check"]]
    assert sorted(asked) == sorted(once + once)
    until(lambda: {int(line[-1]) for line in one.seen()} == set(one.server.workers), "the old generation to leave")
    count = len(one.seen())
    one.ctl("retire", 1)
    until(lambda: len(one.server.workers) == 2 and {int(line[-1]) for line in one.seen()} - set(one.server.workers),
          "another worker")
    assert len(one.seen()) == count, "a replacement is not checked"


def test_a_check_is_answered_by_the_new_release_though_its_lane_is_still_busy(checked):
    """And not by a worker of the old one, which has a free lane."""
    one = checked("/health", "/made=201")
    one.release("""status = "201 Created" if path == "/made" else "200 OK"
    if path == "/health":
        class Body(list):
            def close(self):
                time.sleep(0.5)
        start_response(status, [("Content-Length", "5")])
        return Body([b"hello"])""")
    one.reload()


@pytest.mark.parametrize("body, reason, shown", [
    ("raise RuntimeError('no database')", r"GET /health was answered with 500 Internal Server Error instead of a status from "
     "200 to 399", "Traceback.*RuntimeError: no database"),
    ('status = "404 Not Found"', "GET /health was answered with 404 Not Found", "hello"),
    ("os._exit(41)", "exited with status 41", ""),
    ("time.sleep(1000)", r"GET /health was not answered within boot_timeout \(5 s\)", r"app\.py.*in app"),
], ids=["raises", "another status", "exits", "hangs"])
def test_a_release_that_does_not_answer_reload_check_is_rolled_back(checked, body, reason, shown):
    one = checked("/health", boot_timeout=5 if "boot_timeout" in reason else 60)
    before = one.server.children
    visitor = Visitor(one.server)
    one.release(body)
    one.server.expect(f"the reload has failed and generation 1 goes on.*{reason}|Error handling request GET? ?/health")
    failed = one.ctl("reload")
    said = failed.stdout + failed.stderr
    assert failed.returncode == 1, said
    assert re.search(reason, said), said
    assert re.search(shown, said, re.DOTALL), said
    until(lambda: one.server.children == before, "the failed generation to be gone, and only that")
    visitor.leave()


def test_what_is_wrong_in_reload_check_is_said_before_anything_boots(instance):
    one = instance()
    one.configure(reload_check=["health"])
    one.server.expect("a path begins with /")
    failed = one.ctl("reload")
    assert failed.returncode == 1 and "a path begins with /" in failed.stdout + failed.stderr
    assert "boots" not in failed.stdout.replace("Generation 2 boots", "")
