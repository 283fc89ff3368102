"""gevent: a greenlet per request, in the hub of gevent's own; what the application may do there, and what ends it."""

import socket
import threading
import time

import pytest
from harness.crowd import raise_fd_limit
from harness.waiting import until

APP = {"app.py": """
import contextvars, gc, json, os, socket, sys, threading, time, urllib.request
from pathlib import Path
import gevent, gevent.local
from gevent import monkey

variable = contextvars.ContextVar("variable", default=None)
local = threading.local()
kept = []

def wait_for(path):
    path = Path(path)
    path.with_suffix(f".{os.getpid()}-{id(gevent.getcurrent())}.entered").touch()
    while not path.exists():
        time.sleep(0.005)

def app(environ, start_response):
    path, query = environ["PATH_INFO"], environ["QUERY_STRING"]
    me = gevent.getcurrent()
    found = {"variable": variable.get(), "local": getattr(local, "value", None), "tree": dict(me.spawn_tree_locals),
             "attributes": hasattr(me, "mine"), "class": type(me).__mro__[0].__name__, "dead": me.dead,
             "thread": threading.current_thread() is threading.main_thread()}
    if path == "/context":
        variable.set("left behind")
    elif path == "/local":
        local.value = "left behind"
    elif path == "/tree":
        me.spawn_tree_locals["left"] = "behind"
    elif path == "/attribute":
        me.mine = "left behind"
    elif path == "/keep":
        kept.append(me)
    elif path == "/late-timeout":
        gevent.Timeout(0.05).start()
    elif path == "/late-kill":
        gevent.spawn_later(0.05, me.kill)
    elif path == "/kept":
        found = [greenlet.dead for greenlet in kept]
    elif path == "/killed":
        gevent.spawn_later(0.05, me.kill)
        gevent.sleep(20)
    elif path == "/sleep":
        time.sleep(float(query))
    elif path == "/gate":
        wait_for(query)
    elif path == "/block":
        monkey.get_original("time", "sleep")(float(query))
    elif path == "/uncaught-timeout":
        gevent.Timeout(0.05).start()
        gevent.sleep(20)
    elif path == "/count":
        until = time.monotonic() + float(query)
        while time.monotonic() < until:
            pass
    elif path == "/fetch":
        with urllib.request.urlopen(f"http://{environ['HTTP_HOST']}/sleep?0.1", timeout=10) as response:
            found = json.load(response)
    elif path == "/lookup":
        found = len(socket.getaddrinfo("localhost", 80)) > 0
    elif path == "/subprocess":
        import subprocess
        found = subprocess.run(["sh", "-c", "echo out"], stdout=subprocess.PIPE, check=True).stdout.decode()
    elif path in ("/psycopg", "/pymysql"):
        try:
            if path == "/psycopg":
                import psycopg
                psycopg.connect(f"host=127.0.0.1 port={query} user=nobody connect_timeout=20")
            else:
                import pymysql
                pymysql.connect(host="127.0.0.1", port=int(query), connect_timeout=20, read_timeout=20)
        except Exception as error:
            found = type(error).__name__
    elif path == "/exit":
        sys.exit(5)
    elif path == "/pid":
        found = os.getpid()
    elif path == "/endless":
        start_response("200 OK", [])
        return (b"x" * 10000 for _ in range(2000))
    elif path == "/read":
        body = environ["wsgi.input"].read()
        found = len(body)
    elif path == "/lines":
        found = [len(line) for line in environ["wsgi.input"]]
    elif path == "/timed-read":
        try:
            with gevent.Timeout(0.2):
                environ["wsgi.input"].read()
        except gevent.Timeout:
            found = "timed out"
    elif path == "/read-elsewhere":
        found = len(gevent.spawn(environ["wsgi.input"].read).get())
    elif path == "/pooled-thread":
        found = len(gevent.get_hub().threadpool.apply(environ["wsgi.input"].read))
    body = json.dumps(found).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""}


@pytest.fixture
def start(serve):
    def start(*arguments, **more):
        return serve("app:app", "-k", "gevent", *arguments, files=APP, **more)

    return start


CLEAN = {"variable": None, "local": None, "tree": {}, "attributes": False, "class": "Greenlet", "dead": False,
         "thread": False}


@pytest.mark.parametrize("path", ["/context", "/local", "/tree", "/attribute", "/keep", "/late-timeout", "/late-kill"])
def test_nothing_of_a_request_reaches_a_later_one_in_the_same_greenlet_or_another(start, path):
    server = start()
    with server.connect() as client:
        for _ in range(5):
            assert client.get(path).json() == CLEAN
        assert client.get("/sleep?0.1").json() == CLEAN, "what was to be thrown into another request comes to nobody"
        assert client.get("/").json() == CLEAN
        assert client.get("/kept").json() == [path == "/keep"] * (5 if path == "/keep" else 0), "they have ended"


def test_a_greenlet_that_nobody_knows_serves_again(serve):
    server = serve("app:app", "-k", "gevent", files={"app.py": """
import gevent
made = 0

class Greenlet(gevent.Greenlet):
    def __init__(self, *arguments, **more):
        global made
        made += not arguments or "request" in repr(arguments[0])
        super().__init__(*arguments, **more)

gevent.Greenlet = Greenlet

def app(environ, start_response):
    start_response("200 OK", [])
    return [b"%d" % made]
"""})
    with server.connect() as client:
        made = [int(client.get("/").body) for _ in range(20)]
    # Making one costs more than all the rest of a short request.
    assert made[0] > 0 and made[-1] == made[0]


def test_an_application_may_patch_once_more_by_itself(serve):
    server = serve("app:app", "-k", "gevent", files={"app.py": "from gevent import monkey\nmonkey.patch_all()\n" + APP["app.py"]})
    assert server.get("/fetch").status == 200
    assert server.get("/").json() == CLEAN
    assert "Warning" not in server.log.text, server.log.text


def test_a_timeout_of_gevents_that_nobody_catches_is_an_error_of_its_request_alone(start):
    server = start()
    server.expect("Error handling request GET /uncaught-timeout")
    with server.connect() as client:
        assert client.get("/uncaught-timeout").status == 500
        server.found("gevent.timeout.Timeout: 0.05 seconds|exception=Timeout")
    for _ in range(3):
        assert server.get("/").json() == CLEAN


def test_a_worker_that_waits_for_a_thread_of_its_application_at_its_end_sleeps_meanwhile(serve):
    files = {"app.py": "import threading, time\nthreading.Thread(target=time.sleep, args=(1000,)).start()\n" + APP["app.py"]}
    server = serve("app:app", "-k", "gevent", files=files)
    server.expect("told to stop at once and did not")
    with server.connect() as client:
        assert client.get("/").status == 200
        server.signal(2)
        server.found("told to stop at once and did not. Its threads: python sleeps")


def test_a_killed_greenlet_is_an_error_of_its_request_alone(start):
    server = start()
    server.expect("Error handling request GET /killed")
    assert server.get("/killed").status == 500
    assert server.get("/").json() == CLEAN


def test_a_thousand_requests_that_wait_are_served_at_once_by_one_worker(start):
    raise_fd_limit(2000)
    server = start("--worker-connections", 1000)
    address = server.address
    connections = [server.connect(address, timeout=60) for _ in range(1000)]
    for connection in connections:
        connection.request(target="/sleep?1")
    assert connections[0].response().status == 200
    first = time.monotonic()
    for connection in connections[1:]:
        assert connection.response().status == 200
        connection.close()
    connections[0].close()
    apart = time.monotonic() - first
    print(f"the last answer came {apart:.2f} s after the first")
    # 0.1 s when it was written. One after the other takes 1000 s, a hundred at a time 10 s.
    assert apart < 8
    assert len(server.workers) == 1


def entered(gate, count):
    until(lambda: len(list(gate.parent.glob("gate.*.entered"))) >= count, f"{count} requests in the application")


def test_no_more_requests_than_worker_connections_are_in_the_application(start, tmp_path):
    server = start("--worker-connections", 2)
    gate = tmp_path / "gate"
    clients = [server.connect() for _ in range(5)]
    for client in clients:
        client.request(target=f"/gate?{gate}")
    entered(gate, 2)
    with server.connect() as other:
        other.request(target="/pid")
        other.socket.settimeout(0.3)
        with pytest.raises(TimeoutError):
            other.socket.recv(1)
        assert len(list(tmp_path.glob("gate.*.entered"))) == 2
        gate.touch()
        other.socket.settimeout(10)
        for client in [*clients, other]:
            assert client.response().status == 200
            client.close()


@pytest.mark.parametrize("target", ["/fetch", "/lookup", "/subprocess"])
def test_what_waits_in_the_application_waits_in_the_hub(start, target):
    # A single worker answers the request that its own request makes.
    assert start().get(target).status == 200


@pytest.mark.parametrize("driver", ["psycopg", "pymysql"])
def test_a_database_that_does_not_answer_keeps_only_its_own_greenlet(start, driver):
    """What docs/coroutines.md says of these drivers."""
    server = start()
    with socket.create_server(("127.0.0.1", 0)) as database, server.connect() as client:
        database.settimeout(20)
        client.request(target=f"/{driver}?{database.getsockname()[1]}")
        connection, _ = database.accept()
        if driver == "psycopg":
            assert connection.recv(100), "its first message has come, and no answer goes back"
        for _ in range(20):
            assert server.get("/").json() == CLEAN
        connection.close()
        assert client.response().json() == "OperationalError"


def slow_upload(server, path, size=30_000):
    client = server.connect()
    client.request("POST", path, [("Content-Length", str(size))])
    client.send(b"line\n" * 100)
    return client


@pytest.mark.parametrize("path, result", [("/read", 30_000), ("/lines", [5] * 6000), ("/read-elsewhere", 30_000),
                                          ("/pooled-thread", 30_000)])
def test_a_body_that_arrives_slowly_is_waited_for_in_the_hub(start, path, result):
    server = start("--no-request-buffering")
    slow = [slow_upload(server, path) for _ in range(10)]
    with server.connect() as quick:
        for _ in range(20):
            assert quick.get("/").json() == CLEAN
    for client in slow:
        client.send(b"line\n" * 5900)
        assert client.response().json() == result
        assert client.get("/").json() == CLEAN, "the connection goes on"
        client.close()


def test_a_timeout_of_gevents_ends_a_read(start):
    server = start("--no-request-buffering")
    with slow_upload(server, "/timed-read") as client:
        assert client.response().json() == "timed out"


def test_a_client_that_reads_slowly_keeps_only_its_own_greenlet(start):
    server = start()
    with server.connect() as slow, server.connect() as quick:
        slow.request(target="/endless")
        slow.socket.recv(1)
        for _ in range(20):
            assert quick.get("/").json() == CLEAN
        size = 1
        slow.socket.settimeout(10)
        tail = b""
        while not tail.endswith(b"0\r\n\r\n"):
            data = slow.socket.recv(1 << 20)
            assert data, "cut"
            size, tail = size + len(data), (tail + data)[-10:]
        assert size > 20_000_000


def test_a_greenlet_that_hangs_is_explained_by_its_own_stack_and_its_neighbours_finish(start, tmp_path):
    server = start("--timeout", 4, "--graceful-timeout", 10)
    server.expect("GET /sleep.30 has been in the application")
    (before,) = server.workers
    gate = tmp_path / "gate"
    with server.connect(timeout=20) as hanging, server.connect(timeout=20) as neighbour:
        hanging.request(target="/sleep?30")
        time_of_other = time.monotonic()
        while time.monotonic() - time_of_other < 2:
            assert server.get("/").status == 200
        neighbour.request(target=f"/gate?{gate}")
        entered(gate, 1)
        assert hanging.response().status == 504
        server.found(r"GET /sleep.30 has been in the application .*The greenlet waits here.*time.sleep\(float\(query\)\)")
        gate.touch()
        assert neighbour.response().status == 200
    until(lambda: before not in server.children, "the worker to be replaced")
    assert int(server.get("/pid").body) != before


@pytest.mark.parametrize("how", ["block", "count"])
def test_a_hub_that_is_blocked_is_found_and_what_waits_is_given_to_another_worker(start, how):
    server = start("--workers", 2, "--timeout", 2, "--graceful-timeout", 2)
    server.expect(f"GET /{how}.20 has been in the application")
    with server.connect(timeout=20) as blocking:
        blocking.request(target=f"/{how}?20")
        for _ in range(40):
            assert server.get("/").json() == CLEAN
        assert blocking.response().status == 504
    server.found(rf"GET /{how}.20 has been in the application .*in app")


def test_a_short_block_of_the_hub_loses_nothing(start):
    server = start()
    threads = [threading.Thread(target=server.get, args=("/block?0.2",)) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        assert server.get("/").json() == CLEAN
    for thread in threads:
        thread.join()


def test_requests_that_run_are_finished_at_a_stop_and_a_reload(start, tmp_path):
    server = start("--workers", 2)
    gate = tmp_path / "gate"
    clients = [server.connect(timeout=20) for _ in range(10)]
    idle = server.connect(timeout=20)
    assert idle.get("/").status == 200
    for client in clients:
        client.request(target=f"/gate?{gate}")
    entered(gate, 10)
    old = server.workers
    server.signal(1)
    server.found("Generation 2 serves")
    until(lambda: idle.get("/pid").json() not in old, "the idle connection to go over to the new generation")
    gate.touch()
    for client in clients:
        assert client.response().status == 200
    until(lambda: not set(old) & set(server.children), "the old workers to be gone")
    (tmp_path / "gate").unlink()
    late = [server.connect(timeout=20) for _ in range(5)]
    for client in late:
        client.request(target=f"/gate?{gate}")
    entered(gate, 15)
    server.signal(15)
    server.found("Stopping")
    gate.touch()
    for client in late:
        assert client.response().status == 200


def test_a_preloaded_application_that_has_used_the_hub_serves_in_every_worker(serve):
    files = {"app.py": "import gevent\ngevent.sleep(0.01)\nlate = gevent.spawn_later(0.01, lambda: 7)\n" +
             APP["app.py"].replace('elif path == "/pid":', 'elif path == "/late":\n        found = late.get(timeout=5)\n'
                                   '    elif path == "/pid":')}
    server = serve("app:app", "-k", "gevent", "--preload", "--workers", 2, files=files)
    seen = set()

    def both():
        seen.add(server.get("/pid").json())
        return len(seen) == 2

    until(both, "both workers to answer")
    assert server.get("/fetch").status == 200
    assert server.get("/late").json() == 7, "what was spawned before the fork runs after it"


def test_sys_exit_ends_the_worker_and_nothing_else(start):
    server = start()
    server.expect("exit|ended|exited")
    (before,) = server.workers
    try:
        server.get("/exit")
    except AssertionError:
        pass
    until(lambda: server.workers and before not in server.workers, "another worker")
    assert server.get("/").json() == CLEAN


def test_recycled_workers_lose_no_request(start):
    server = start("--workers", 2, "--max-requests", 50)
    before = set(server.workers)
    with server.connect() as client:
        for _ in range(300):
            assert client.get("/").status == 200
    until(lambda: before - set(server.workers), "a worker to be replaced")


@pytest.mark.parametrize("module, says", [
    ("raise ModuleNotFoundError('No module named gevent', name='gevent')", "has no gevent: .*-m pip install 'gevent>="),
    ("__version__ = '1.4.0'", "needs gevent 22.10 or newer.* has 1.4.0: .*-m pip install 'gevent>="),
    ("raise ImportError('libfoo.so is missing')", "gevent cannot be imported .libfoo.so is missing.*pip install"),
])
def test_without_a_usable_gevent_the_start_fails_and_says_what_to_install(serve, module, says):
    server = serve("app:app", "-k", "gevent", files={"gevent.py": module, "app.py": "def app(e, s): pass"}, wait=False)
    server.expect("The application could not be started")
    server.expect_status(0, 1, 2, 3, 4)
    server.wait()
    assert server.log.find(says, "error"), server.log.text


@pytest.mark.parametrize("pool", ["gthread", "gevent"])
def test_flask_sock_serves_websockets_beside_requests(serve, pool):
    from simple_websocket import Client

    server = serve("app:app", "-k", pool, "--threads", 4, "--timeout", 1, files={"app.py": """
import flask, flask_sock
app = flask.Flask(__name__)
sock = flask_sock.Sock(app)

@sock.route("/echo")
def echo(ws):
    while True:
        ws.send(ws.receive())

@app.route("/")
def index():
    return "index"
"""})
    host, port = server.address
    with_socket = Client(f"ws://{host}:{port}/echo")
    for n in range(50):
        with_socket.send(f"message {n}")
        assert with_socket.receive(timeout=10) == f"message {n}"
    begun = time.monotonic()
    while time.monotonic() - begun < 2.5:
        assert server.get("/").text == "index"
    with_socket.send("longer than timeout")
    assert with_socket.receive(timeout=10) == "longer than timeout"
    with_socket.close()
    assert server.get("/").text == "index"
    # What is not a WebSocket there is the framework's to refuse.
    assert server.get("/echo").status == 400


def test_a_client_that_leaves_is_no_error(start):
    server = start()
    for _ in range(5):
        client = server.connect()
        client.request(target="/endless")
        client.socket.recv(100)
        client.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        client.close()
    assert server.get("/").json() == CLEAN
