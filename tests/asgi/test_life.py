"""Life of an asgi worker: lifespan, choice of the pool, timeouts, blocked loops, retirement, reload."""

import os
import signal
import socket
import threading
import time

import pytest
from harness.crowd import raise_fd_limit
from harness.waiting import until
from harness.websocket import Raw

LIFESPAN = """
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        {lifespan}
    await send({{"type": "http.response.start", "status": 200}})
    await send({{"type": "http.response.body", "body": b"served"}})
"""


def application(lifespan):
    return {"app.py": LIFESPAN.format(lifespan=lifespan.replace("\n", "\n        "))}


def refused(serve, lifespan, *arguments):
    server = serve("app:app", "-k", "asgi", *arguments, files=application(lifespan), wait=False)
    server.expect_status(3, 4)
    server.expect(".")
    server.wait()
    return server.log.text


def test_the_lifespan_begins_before_the_first_request_and_ends_after_the_last(asgi, tmp_path):
    note, gate = tmp_path / "lifespan", tmp_path / "gate"
    server = asgi(env={"LIFESPAN_NOTE": str(note)})
    assert note.read_text() == "lifespan.startup\n"
    with server.connect() as connection:
        connection.request(target=f"/gate?{gate}")
        until(gate.with_suffix(".entered").exists, "the request to run")
        server.signal(signal.SIGTERM)
        server.found("Stopping")
        assert note.read_text() == "lifespan.startup\n"
        gate.touch()
        assert connection.response().body == b"through the gate"
    assert server.wait() == 0
    assert note.read_text() == "lifespan.startup\nlifespan.shutdown\n"


def test_a_startup_that_raises_stops_the_boot_with_its_traceback(serve):
    text = refused(serve, "await receive()\nraise RuntimeError('no database')")
    assert "lifespan startup has failed: RuntimeError: no database" in text
    assert "Traceback" in text and "app.py" in text


def test_a_startup_that_is_told_to_have_failed_stops_the_boot_with_its_message(serve):
    text = refused(serve, "await receive()\nawait send({'type': 'lifespan.startup.failed', 'message': 'no cache'})\nreturn")
    assert "lifespan startup has failed: no cache" in text


@pytest.mark.parametrize("lifespan", ["raise ValueError('only http')", "return", "pass"])
def test_an_application_that_does_not_know_the_lifespan_is_served_without(serve, lifespan):
    server = serve("app:app", "-k", "asgi", files=application(lifespan))
    assert server.get("/").body == b"served"


def test_an_application_must_know_the_lifespan_if_it_is_on(serve):
    assert "lifespan" in refused(serve, "raise ValueError('only http')", "--asgi-lifespan", "on")


def test_the_lifespan_is_not_told_if_it_is_off(asgi, tmp_path):
    note = tmp_path / "lifespan"
    server = asgi("--asgi-lifespan", "off", env={"LIFESPAN_NOTE": str(note)})
    assert server.get("/").status == 200 and not note.exists()


def test_a_wsgi_application_under_asgi_is_told_what_to_set(serve):
    server = serve("plain:app", "-k", "asgi", wait=False)
    server.expect_status(3, 4)
    server.expect("is a WSGI application and worker_class = .asgi. serves ASGI")
    server.wait()


@pytest.mark.parametrize("pool", ["sync", "gthread"])
def test_an_asgi_application_under_wsgi_is_told_what_to_set(serve, pool):
    server = serve("asgi_app:app", "-k", pool, wait=False)
    server.expect_status(3, 4)
    server.expect("is an ASGI application.*-k asgi")
    server.wait()


def test_an_asgi_2_application_is_told_to_be_wrapped(serve):
    server = serve("two:App", "-k", "asgi", wait=False, files={"two.py": """
class App:
    def __init__(self, scope):
        pass
    async def __call__(self, receive, send):
        pass
"""})
    server.expect_status(3, 4)
    server.expect("ASGI 2 application.*guarantee_single_callable")
    server.wait()


@pytest.mark.parametrize("app, path, answer", [("asgi_app:app", "/", b"Hello, world!"), ("plain:app", "/", b"hello\n")])
def test_auto_serves_either(serve, app, path, answer):
    server = serve(app, "-k", "auto")
    assert server.get(path).body == answer


def test_uvicorns_worker_class_is_asgi(serve):
    assert serve("asgi_app:app", "-k", "uvicorn.workers.UvicornWorker").get("/").status == 200


def test_a_task_that_hangs_is_answered_and_named_with_its_stack_and_replaced(asgi, tmp_path):
    server = asgi("--timeout", 1)
    server.expect("has been in the application for.*timeout = 1")
    before = server.get("/pid").body
    response = server.get(f"/deaf?{tmp_path / 'note'}")
    assert response.status == 504
    record = server.found("has been in the application for", "error")
    assert "asgi_app.py" in record.text and "asyncio.sleep(60)" in record.text
    until(lambda: server.get("/pid").body != before, "another worker")


def test_a_blocked_loop_is_named_with_the_line_that_blocks_it(asgi):
    server = asgi("--timeout", 1, "--graceful-timeout", 3)
    server.expect("has been in the application for.*timeout = 1.*time.sleep|has been in the application for.*asgi_app.py")
    assert server.get("/block?2.5").status == 504
    server.found("has been in the application for", "error")


def test_a_request_behind_a_blocked_loop_goes_to_another_worker(asgi, tmp_path):
    server = asgi("--workers", 2)
    gate = tmp_path / "gate"
    with server.connect() as connection:
        connection.get("/")
        other = server.connect()
        connection.request(target=f"/shut?{gate}")
        until(gate.with_suffix(".entered").exists, "the loop to be blocked")
        for _ in range(20):
            assert server.get("/").status == 200
        other.close()
        gate.touch()
        assert connection.response().body == b"opened"


def test_a_thousand_requests_that_wait_a_second_are_answered_together(asgi):
    raise_fd_limit(4096)
    server = asgi("--worker-connections", 1000, app="together:app", files={"together.py": """
import asyncio
inside = 0
together = asyncio.Event()

async def app(scope, receive, send):
    global inside
    if scope["type"] == "lifespan":
        raise ValueError("only http")
    inside += 1
    if inside == 1000:
        together.set()
    await together.wait()
    await asyncio.sleep(1)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % inside})
"""})
    address = server.address
    connections = [server.connect(address, timeout=30) for _ in range(1000)]
    for connection in connections:
        connection.request()
    answers, times = [], []
    # The first answer is read first; a later one may have come before it.
    for connection in connections:
        answers.append(int(connection.response().body))
        times.append(time.monotonic())
        connection.close()
    # 0.1 s on a machine with other work to do; one by one it would be a thousand.
    assert times[-1] - times[0] < 100
    assert answers == [1000] * 1000


def test_a_reload_lets_streams_finish_and_loses_nothing(asgi):
    server = asgi()
    before = server.get("/pid").body
    with server.connect(timeout=30) as stream:
        stream.request(target="/events?30")
        server.signal(signal.SIGHUP)
        until(lambda: server.get("/pid").body != before, "the new generation")
        response = stream.response()
    assert response.body.count(b"data: ") == 31 and response.body.endswith(b"data: end\n\n")


def test_an_idle_connection_lives_through_a_reload(asgi):
    server = asgi()
    with server.connect() as connection:
        before = connection.get("/pid").body
        server.signal(signal.SIGHUP)
        until(lambda: int(before) not in server.children, "the old worker to have left")
        assert connection.get("/pid").body != before


def test_recycling_replaces_workers_under_load(asgi):
    server = asgi("--max-requests", 100, "--workers", 2)
    pids = set()
    until(lambda: pids.add(server.get("/pid").body) or len(pids) > 3, "two workers to be replaced", within=60)


def test_what_outlives_graceful_timeout_is_cut_and_named(asgi, tmp_path):
    server = asgi("--graceful-timeout", 1)
    connection = server.connect()
    connection.request(target=f"/deaf?{tmp_path / 'note'}")
    until((tmp_path / "note.entered").exists, "the request to run")
    server.expect("is cut off after")
    assert server.stop() == 0


def test_an_idle_worker_does_nothing(asgi):
    server = asgi()
    server.get("/")
    (worker,) = server.workers

    def switches():
        total = 0
        for task in os.listdir(f"/proc/{worker}/task"):
            for line in open(f"/proc/{worker}/task/{task}/status"):
                if "ctxt_switches" in line:
                    total += int(line.split()[1])
        return total

    counts = []

    def quiet():
        counts.append(switches())
        return len(counts) > 20 and counts[-1] == counts[-20]

    until(quiet, "a worker that sleeps")


def test_slow_clients_hold_nobody_up(asgi):
    server = asgi()
    slow = []
    for _ in range(100):
        client = socket.create_connection(server.address)
        client.sendall(b"POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\nabc")
        slow.append(client)
    assert all(server.get("/").status == 200 for _ in range(50))
    for client in slow:
        client.close()


def test_a_client_that_sends_nothing_more_of_its_body_is_given_up(asgi):
    server = asgi("--body-timeout", 1)
    with server.connect() as connection:
        connection.request("POST", "/echo", [("Content-Length", "10")])
        connection.send("abc")
        assert connection.response().status == 408


def test_sys_exit_ends_the_worker_and_another_comes(serve):
    server = serve("app:app", "-k", "asgi", files={"app.py": """
import os, sys
async def app(scope, receive, send):
    assert scope["type"] == "http"
    if scope["path"] == "/exit":
        sys.exit(5)
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
"""})
    before = server.get("/").body
    server.expect("SystemExit")
    server.expect("exit|status 5")
    assert server.get("/exit").status == 500
    until(lambda: server.get("/").body != before, "another worker")


def test_threads_of_one_client_each_get_their_answer_while_the_worker_is_replaced(asgi):
    server, failures = asgi("--workers", 2), []

    def ask():
        for _ in range(100):
            try:
                assert server.get("/").status == 200
            except Exception as error:
                failures.append(repr(error))

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for generation in (2, 3, 4):
        server.signal(signal.SIGHUP)
        server.found(f"Generation {generation} serves")
    for thread in threads:
        thread.join(60)
    assert not failures


@pytest.mark.parametrize("arguments, app, pool, timeout", [
    ([], "plain:app", "sync", 30), (["--threads", 2], "plain:app", "gthread", 300), ([], "asgi_app:app", "asgi", 300),
    (["--timeout", 7], "plain:app", "sync", 7), (["--timeout", 7], "asgi_app:app", "asgi", 7),
])
def test_the_default_timeout_is_that_of_the_pool_which_auto_chooses(serve, arguments, app, pool, timeout):
    server = serve(app, "-k", "auto", "--log-level", "debug", *arguments)
    server.found(f"means {pool} for this application; timeout = {timeout} s")


LEAVES = """
import asyncio, os, pathlib
note = pathlib.Path(os.environ["NOTE"])

def tell(word):
    with note.open("a") as file:
        file.write(word + "\\n")

async def forever():
    try:
        await asyncio.sleep(600)
    finally:
        tell("what the application left was cancelled")

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        asyncio.get_running_loop().left = asyncio.create_task(forever())
        await send({"type": "lifespan.startup.complete"})
        await receive()
        tell("the lifespan ended")
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
    if scope["path"] == "/background":
        tell("the background task began")
        try:
            await asyncio.sleep(float(scope["query_string"]))
            tell("the background task ended")
        except asyncio.CancelledError:
            tell("the background task was cancelled")
            raise
"""


@pytest.mark.parametrize("number", [signal.SIGHUP, signal.SIGTERM], ids=["reload", "stop"])
def test_a_background_task_is_finished_before_the_lifespan_and_what_was_left_is_cancelled_last(asgi, tmp_path, number):
    note = tmp_path / "note"
    server = asgi(app="leaves:app", files={"leaves.py": LEAVES}, env={"NOTE": str(note)})
    assert server.get("/background?0.7").status == 200
    server.signal(number)
    until(lambda: "was cancelled" in note.read_text(), "the worker's end")
    assert note.read_text().splitlines() == [
        "the background task began", "the background task ended", "the lifespan ended", "what the application left was cancelled"]


def test_a_background_task_that_outlives_graceful_timeout_is_cancelled_and_named(asgi, tmp_path):
    note = tmp_path / "note"
    server = asgi("--graceful-timeout", 5, app="leaves:app", files={"leaves.py": LEAVES}, env={"NOTE": str(note)})
    pid = server.get("/background?600").body
    server.signal(signal.SIGHUP)
    server.found("The task of GET /background.* is cancelled: it goes on without a client", "warning")
    until(lambda: "was cancelled" in note.read_text() and "the lifespan ended" in note.read_text(), "the worker's end")
    assert server.get("/").body != pid


HANGS = """
import os, time
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("only requests")
    if scope["type"] == "websocket":
        await receive()
        await send({"type": "websocket.accept"})
        keep_the_loop()
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
    if scope["path"] == "/background":
        keep_the_loop()

def keep_the_loop():
    time.sleep(600)
"""


@pytest.mark.parametrize("where", ["background", "websocket"])
def test_a_loop_that_is_kept_by_no_request_is_found_and_its_worker_replaced(asgi, where):
    server = asgi("--timeout", 1, "--graceful-timeout", 1, app="hangs:app", files={"hangs.py": HANGS})
    server.expect("The event loop has not turned for .* s .timeout = 1 s.*in keep_the_loop")
    before = server.get("/").body
    if where == "background":
        assert server.get("/background").body == before
    else:
        Raw(server, "/")
    # It waits for the next worker.
    assert server.get("/").body != before
    server.found("will be replaced: its event loop has not turned")
    until(lambda: len(server.workers) == 1, "the end of the one that hangs")


def test_a_startup_that_takes_too_long_is_told_with_the_line_that_waits(serve):
    server = serve("app:app", "-k", "asgi", "--boot-timeout", 6, files=application("await receive()\nawait __import__('asyncio').sleep(600)"),
                   wait=False)
    server.expect_status(3)
    server.expect("not ready after .*boot_timeout")
    server.wait()
    record = server.found("lifespan startup is not complete after .* s .boot_timeout = 6 s", "warning")
    assert "app.py" in record.text and "sleep(600)" in record.text


def test_a_shutdown_that_takes_too_long_is_cut_off_and_told_with_the_line_that_waits(serve):
    server = serve("app:app", "-k", "asgi", "--graceful-timeout", 1, files=application(
        "await receive()\nawait send({'type': 'lifespan.startup.complete'})\nawait receive()\nawait __import__('asyncio').sleep(600)"))
    assert server.get("/").body == b"served"
    assert server.stop() == 0
    record = server.found("lifespan shutdown is not complete and is cut off", "warning")
    assert "sleep(600)" in record.text
