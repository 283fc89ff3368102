"""Workers that live and do nothing, that grow, that grow old, that die: each is found, named and replaced in time."""

import json
import os
import re
import subprocess
import sys
import time
from signal import SIGCONT, SIGKILL, SIGSTOP
from pathlib import Path

import pytest
from harness import Gate, until
from harness.http import ConnectionEnded
from harness.processes import alive
from harness.server import control, in_application, run, write

APP = {"app.py": """
import os, time

kept = []

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path.startswith("/grow/"):
        kept.append(b"x" * (int(path[6:]) << 20))
    if path == "/print":
        print("a printed word", flush=True)
    if path == "/burst":
        block = bytearray()
        for _ in range(100):
            block += b"x" * (8 << 20)
            time.sleep(0.05)
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""}


def _stopped(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "T"


def test_a_stopped_worker_is_named_at_once_and_replaced_when_nobody_continues_it(serve):
    server = serve("plain:app", "--workers", 2)
    victim, other = server.workers
    server.expect(f"worker .*pid {victim}.* is killed: it was stopped")
    os.kill(victim, SIGSTOP)
    server.found(f"pid {victim}.* was stopped by SIGSTOP", "warning", within=5)
    until(lambda: len(server.workers) == 2 and victim not in server.workers, "the replacement", within=25)
    assert other in server.workers
    killed = server.found(f"pid {victim}.* is killed: it was stopped")
    assert "is stopped" in killed.text, "the record says what the kernel says of its threads"


def test_a_worker_that_is_stopped_for_a_while_goes_on(serve):
    server = serve("plain:app", "--workers", 1)
    (worker,) = server.workers
    os.kill(worker, SIGSTOP)
    server.found(f"pid {worker}.* was stopped by SIGSTOP")
    os.kill(worker, SIGCONT)
    server.found(f"pid {worker}.* goes on after")
    assert server.get("/pid").text == str(worker)


def test_a_stopped_mold_is_replaced_and_its_workers_go_on(serve):
    server = serve("plain:app", "--workers", 1)
    workers = server.workers
    (mold,) = server.molds
    server.expect(f"mold .*pid {mold}.* is killed: it was stopped")
    os.kill(mold, SIGSTOP)
    until(lambda: server.molds and mold not in server.molds, "a new mold", within=25)
    until(lambda: server.workers == workers, "the new mold to have its name, and the worker to be the same")


def test_the_record_of_a_killed_worker_names_the_request_that_it_was_in(serve, tmp_path):
    server = serve("plain:app", "--workers", 1)
    gate = Gate(tmp_path)
    server.expect("was killed by SIGKILL")
    with server.connect() as client:
        client.request(target=gate.target)
        victim = gate.entered()
        os.kill(victim, SIGKILL)
        with pytest.raises(ConnectionEnded):
            client.response()
    record = server.found(f"pid {victim}.* was killed by SIGKILL")
    middle = r"in the middle of GET /gate\S* for [\d.]+ s \(id [0-9a-f]{32}\); a new one starts at once"
    assert re.search(middle, record.text), record.text
    assert "memory" not in record.text, "nothing was out of memory"


def test_the_record_of_a_killed_worker_counts_the_connections_that_ended_with_it(serve, tmp_path):
    server = serve("plain:app", "--workers", 1, "--control-socket", tmp_path / "control.sock")
    server.expect("was killed by SIGKILL")
    with server.connect() as one, server.connect() as other:
        assert {one.get("/").status, other.get("/").status} == {200}
        until(lambda: in_application(tmp_path / "control.sock") == [], "the lane to be free")
        (victim,) = server.workers
        os.kill(victim, SIGKILL)
        server.found(f"pid {victim}.* was killed by SIGKILL .* with 2 connections; a new one starts at once")


def test_an_arbiter_that_was_stopped_kills_nobody(serve):
    server = serve("plain:app", "--workers", 2, "--graceful-timeout", 1)
    before = server.workers
    worker = before[0]
    # A deadline that passes while the arbiter does not run: that of a stopped worker.
    os.kill(worker, SIGSTOP)
    server.found(f"pid {worker}.* was stopped by SIGSTOP")
    server.signal(SIGSTOP)
    until(lambda: _stopped(server.pid), "the arbiter to be stopped")
    began = time.monotonic()
    until(lambda: time.monotonic() - began > 12, "the deadline to have passed", within=15)
    server.signal(SIGCONT)
    server.found("The arbiter came .* too late")
    os.kill(worker, SIGCONT)
    server.found(f"pid {worker}.* goes on after")
    assert server.workers == before
    assert server.get("/").body == b"hello\n"


@pytest.mark.parametrize("more", [(), ("--preload",)], ids=["in the worker", "preloaded"])
def test_an_import_that_never_ends_is_given_up_after_boot_timeout_with_its_stack(tmp_path, more):
    write(tmp_path, {"app.py": "import time\ndef connect_for_ever():\n    time.sleep(600)\nconnect_for_ever()\n"})
    # The stack is taken after half of it.
    ended = run("app:app", "--boot-timeout", 3, "--bind", "127.0.0.1:0", *more, cwd=tmp_path, timeout=30)
    assert ended.returncode == 3, ended.stderr
    assert re.search(r"not ready after [3-9].* \(boot_timeout\)\s+Stack .*app.py\", line 3 in connect_for_ever\n"
                     r".*app.py\", line 4 in <module>", ended.stderr, re.DOTALL), ended.stderr


def test_an_old_worker_is_replaced_and_nobody_notices(serve):
    server = serve("plain:app", "--workers", 2, "--max-worker-lifetime", 2)
    before = server.workers
    with server.connect() as client:
        until(lambda: client.get("/").status == 200 and not set(before) & set(server.workers), "younger workers", 20)
    assert len(server.log.find("max_worker_lifetime")) >= 2


def test_a_worker_that_has_grown_is_replaced_after_its_request(serve):
    server = serve("app:app", "--workers", 1, "--max-worker-memory", "150M", files=APP)
    (before,) = server.workers
    assert int(server.get("/grow/200").body) == before
    until(lambda: int(server.get("/").body) != before, "the replacement")
    server.found(r"has 2\d\d MiB of memory, of 150 MiB \(max_worker_memory\)")
    until(lambda: not alive(before), "the old worker to leave")


def test_a_worker_that_has_grown_in_its_last_request_for_now_is_replaced_all_the_same(serve):
    server = serve("app:app", "--workers", 1, "--max-worker-memory", "150M", files=APP)
    assert server.get("/").status == 200  # so that the memory was just looked at
    before = int(server.get("/grow/200").body)
    until(lambda: not alive(before), "the worker to leave")
    server.found(r"has 2\d\d MiB of memory, of 150 MiB \(max_worker_memory\)")


def test_a_request_that_takes_all_memory_ends_with_its_worker_alone(serve, tmp_path):
    server = serve("app:app", "--workers", 2, "--max-worker-memory-hard", "300M", "--control-socket", tmp_path / "control.sock",
                   files=APP)
    before = server.workers
    server.expect("is killed.*max_worker_memory_hard")
    with server.connect(timeout=20) as client:
        client.request(target="/burst")
        with pytest.raises(ConnectionEnded):
            client.response()
    record = server.found("is killed.*max_worker_memory_hard")
    assert "in the middle of GET /burst" in record.text
    until(lambda: len(server.workers) == 2, "the replacement")
    assert len(set(before) & set(server.workers)) == 1
    assert server.get("/").status == 200
    status = json.loads(control("-s", tmp_path / "control.sock", "--json", "status").stdout)
    assert (status["deaths"], "GET /burst" in status["latest_death"]["text"]) == (1, True)


def test_a_worker_that_the_kernel_kills_for_want_of_memory_is_told_apart(serve):
    group = _memory_group(120 << 20)
    try:
        server = serve("app:app", "--workers", 1, files=APP,
                       wrapper=["sh", "-c", f'echo $$ > {group}/cgroup.procs && exec "$0" "$@"'])
        server.expect("was killed by SIGKILL")
        with server.connect(timeout=20) as client:
            client.request(target="/burst")
            with pytest.raises(ConnectionEnded):
                client.response()
        record = server.found("was killed by SIGKILL")
        assert "out of memory" in record.text and "in the middle of GET /burst" in record.text, record.text
        server.finish()
    finally:
        until(lambda: group.rmdir() is None, "the control group to be empty")


def _memory_group(limit):
    """A control group with so much memory and no swap, of either version; skips where none can be made."""
    name = f"rgunicorn-test-{os.getpid()}"
    for root, most, swap in (("/sys/fs/cgroup", "memory.max", "memory.swap.max"),
                             ("/sys/fs/cgroup/memory", "memory.limit_in_bytes", "memory.memsw.limit_in_bytes")):
        group = Path(root) / name
        if not (Path(root) / "cgroup.procs").exists():
            continue
        try:
            group.mkdir()
            (group / most).write_text(str(limit))
        except OSError:
            if group.exists():
                group.rmdir()
            continue
        if (group / swap).exists():
            (group / swap).write_text("0" if root.endswith("cgroup") else str(limit))
        return group
    pytest.skip("no control group with a memory limit can be made here")


@pytest.mark.parametrize("preload", [(), ("--preload",)])
def test_capture_output_sends_what_is_printed_to_errorlog(serve, tmp_path, preload):
    files = dict(APP)
    files["app.py"] = 'print("printed by the import")\n' + APP["app.py"]
    log = tmp_path / "error.log"
    server = serve("app:app", "--capture-output", "--error-logfile", log, *preload, files=files)
    server.get("/print")
    until(lambda: "a printed word" in log.read_text(), "what was printed")
    until(lambda: log.read_text().count("printed by the import") == 1, "the import's word, once")
    assert "printed" not in server.log.text


def test_a_mold_does_not_wait_for_threads_of_a_preloaded_application(serve):
    server = serve("app:app", "--preload", "--graceful-timeout", 60, files={"app.py": """
import atexit, os, threading, time
threading.Thread(target=time.sleep, args=(600,)).start()
mold = os.getpid()
atexit.register(lambda: os.getpid() == mold and print("the mold says goodbye"))
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""})
    assert server.get("/").status == 200
    assert server.stop(within=20) == 0
    assert "the mold says goodbye" in server.log.text


def test_preload_strict_refuses_threads(tmp_path):
    write(tmp_path, {"app.py": """
import threading, time
threading.Thread(target=time.sleep, args=(600,), name="ticker", daemon=True).start()
def app(environ, start_response): pass
"""})
    ended = run("app:app", "--preload", "--preload-strict", "--bind", "127.0.0.1:0", cwd=tmp_path)
    assert ended.returncode == 3, ended.stderr
    assert "preload_strict" in ended.stderr and "ticker" in ended.stderr, ended.stderr


IGNORES_SIGCHLD = (sys.executable, "-c", "import os, signal, sys\n"
                   "signal.signal(signal.SIGCHLD, signal.SIG_IGN)\nos.execv(sys.argv[1], sys.argv[1:])")


def test_a_supervisor_that_ignores_sigchld_takes_no_death_from_us(serve):
    """An ignored SIGCHLD outlives execve(2), and then the kernel reaps (sigaction(2))."""
    server = serve("plain:app", "--workers", 2, wrapper=IGNORES_SIGCHLD)
    victim = server.workers[0]
    server.expect("was killed by SIGKILL")
    os.kill(victim, SIGKILL)
    server.found(f"pid {victim}.* was killed by SIGKILL", "error")
    until(lambda: len(server.workers) == 2 and victim not in server.workers, "the replacement")
    assert server.stop(within=10) == 0


def test_a_pidfile_that_names_a_process_which_has_ended_and_is_not_reaped_is_taken_over(serve, tmp_path):
    pidfile = tmp_path / "pid"
    with subprocess.Popen(["true"]) as ended:
        until(lambda: Path(f"/proc/{ended.pid}/stat").read_text().rsplit(") ")[1].startswith("Z"), "it to be a zombie")
        pidfile.write_text(f"{ended.pid}\n")
        server = serve("plain:app", "--pid", pidfile)
        assert int(pidfile.read_text()) == server.pid
