"""What applications under gevent have inside: clients of other servers, pools of greenlets, timeouts, locals.

The other servers are gates: they answer only once they have all the requests that are to wait at the same time. So a
client that blocks the hub, instead of waiting in it, is never answered.
"""

import socketserver
import struct
import threading

import pytest

TOGETHER = 8


class Gate(socketserver.ThreadingTCPServer):
    """A server on a free port, and the barrier at which its requests wait for each other."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self, handler):
        super().__init__(("127.0.0.1", 0), handler)
        self.barrier = threading.Barrier(TOGETHER)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    @property
    def port(self):
        return self.server_address[1]


class Http(socketserver.StreamRequestHandler):
    """Answers GET with the path, on a connection that is kept."""

    def handle(self):
        while line := self.rfile.readline():
            while self.rfile.readline().strip():
                pass
            self.server.barrier.wait(20)
            path = line.split()[1]
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(path), path))


class Postgres(socketserver.StreamRequestHandler):
    """As much of PostgreSQL's protocol (version 3) as a simple query needs: a SELECT is answered by its own text."""

    def handle(self):
        while (words := struct.unpack("!II", self.rfile.read(8)))[1] != 196608:
            self.rfile.read(words[0] - 8)
            self.wfile.write(b"N")  # neither TLS nor GSSAPI
        self.rfile.read(words[0] - 8)
        self._say(b"R", struct.pack("!I", 0))
        for name, value in {b"client_encoding": b"UTF8", b"server_version": b"15.0", b"DateStyle": b"ISO, MDY",
                            b"standard_conforming_strings": b"on", b"integer_datetimes": b"on"}.items():
            self._say(b"S", name + b"\0" + value + b"\0")
        self._say(b"Z", b"I")
        while kind := self.rfile.read(1):
            data = self.rfile.read(struct.unpack("!I", self.rfile.read(4))[0] - 4)
            if kind != b"Q":
                break
            if not data.startswith(b"SELECT"):
                self._say(b"C", data.split()[0].rstrip(b"\0;") + b"\0")
                self._say(b"Z", b"T" if data.startswith(b"BEGIN") else b"I")
                continue
            self.server.barrier.wait(20)
            text = data.rstrip(b"\0")
            self._say(b"T", struct.pack("!H", 1) + b"text\0" + struct.pack("!IHIhIh", 0, 0, 25, -1, 0xFFFFFFFF, 0))
            self._say(b"D", struct.pack("!HI", 1, len(text)) + text)
            self._say(b"C", b"SELECT 1\0")
            self._say(b"Z", b"T")

    def _say(self, kind, data):
        self.wfile.write(kind + struct.pack("!I", len(data) + 4) + data)
        self.wfile.flush()


@pytest.fixture
def gate():
    gates = []

    def start(handler):
        gates.append(Gate(handler))
        return gates[-1]

    yield start
    for one in gates:
        one.shutdown()
        one.server_close()


FLASK = {"app.py": """
import threading
import flask, gevent, gevent.local, gevent.pool, requests, psycopg2, psycopg2.extensions
from gevent.socket import wait_read, wait_write

def wait(connection):
    # As psycogreen does it: libpq is written in C, and knows nothing of patched sockets.
    while (state := connection.poll()) != psycopg2.extensions.POLL_OK:
        (wait_read if state == psycopg2.extensions.POLL_READ else wait_write)(connection.fileno())

psycopg2.extensions.set_wait_callback(wait)
app = flask.Flask(__name__)
session = requests.Session()
session.mount("http://", requests.adapters.HTTPAdapter(pool_maxsize=50))
local, of_gevent = threading.local(), gevent.local.local()

@app.get("/")
def index():
    return "index"

@app.get("/requests/<int:port>/<name>")
def fetch(port, name):
    return session.get(f"http://127.0.0.1:{port}/{name}", timeout=20).text

@app.get("/postgres/<int:port>/<name>")
def query(port, name):
    connection = psycopg2.connect(host="127.0.0.1", port=port, user="u", dbname="d", sslmode="disable")
    try:
        with connection, connection.cursor() as cursor:
            cursor.execute("SELECT %s", (name,))
            return cursor.fetchone()[0]
    finally:
        connection.close()

@app.get("/pool/<int:port>/<int:count>")
def fan_out(port, count):
    pool = gevent.pool.Pool(count)
    return ",".join(pool.map(lambda n: fetch(port, str(n)), range(count)))

@app.get("/threads/<int:port>/<int:count>")
def fan_out_by_threads(port, count):
    found = [None] * count
    def work(n):
        found[n] = fetch(port, str(n))
    threads = [threading.Thread(target=work, args=(n,)) for n in range(count)]
    for thread in threads: thread.start()
    for thread in threads: thread.join()
    return ",".join(found)

@app.get("/locals/<name>")
def locals_(name):
    assert not hasattr(local, "name") and not hasattr(of_gevent, "name"), "left behind by another request"
    local.name = of_gevent.name = name
    for _ in range(10):
        gevent.sleep(0.001)
        assert (local.name, of_gevent.name, flask.request.view_args["name"]) == (name,) * 3
    return name

@app.get("/timeout")
def timeout():
    try:
        with gevent.Timeout(0.05):
            gevent.sleep(60)
    except gevent.Timeout:
        with gevent.Timeout(0.05, False):
            gevent.event.Event().wait()
            return "not reached"
        return "timed out"
"""}


@pytest.fixture
def flask(serve):
    return serve("app:app", "-k", "gevent", files=FLASK)


def together(server, paths):
    """The answers to requests that are all under way before the first is read."""
    clients = [server.connect(timeout=30) for _ in paths]
    try:
        for client, path in zip(clients, paths, strict=True):
            client.request(target=path)
        answers = [client.response() for client in clients]
    finally:
        for client in clients:
            client.close()
    assert [answer.status for answer in answers] == [200] * len(paths), [answer.text for answer in answers]
    return [answer.text for answer in answers]


@pytest.mark.parametrize("handler, answer", [(Http, "/{}"), (Postgres, "SELECT '{}'")], ids=["requests", "psycopg2"])
def test_clients_of_other_servers_wait_in_the_hub_while_other_requests_go_on(flask, gate, handler, answer):
    port = gate(handler).port
    path = f"/{'requests' if handler is Http else 'postgres'}/{port}"
    for _ in range(3):
        # One is missing at the gate, so the others wait; and meanwhile the page is served.
        waiting = [flask.connect(timeout=30) for _ in range(TOGETHER - 1)]
        for n, client in enumerate(waiting):
            client.request(target=f"{path}/{n}")
        for _ in range(20):
            assert flask.get("/").text == "index"
        assert flask.get(f"{path}/last").text == answer.format("last")
        for n, client in enumerate(waiting):
            response = client.response()
            assert (response.status, response.text) == (200, answer.format(n))
            client.close()


@pytest.mark.parametrize("how", ["pool", "threads"])
def test_a_view_can_have_greenlets_of_its_own(flask, gate, how):
    port = gate(Http).port
    assert flask.get(f"/{how}/{port}/{TOGETHER}").text == ",".join(f"/{n}" for n in range(TOGETHER))


def test_locals_of_threads_and_of_gevent_and_the_request_of_flask_belong_to_one_request_each(flask):
    names = [f"name{n}" for n in range(30)]
    for _ in range(3):
        assert together(flask, [f"/locals/{name}" for name in names]) == names


def test_timeouts_of_gevents_end_what_waits_and_not_the_request(flask):
    assert together(flask, ["/timeout"] * 10) == ["timed out"] * 10


def test_views_of_django_wait_in_the_hub(serve, gate):
    server = serve("app:app", "-k", "gevent", files={"app.py": """
import requests
from django.conf import settings
from django.core.wsgi import get_wsgi_application
from django.http import HttpResponse, StreamingHttpResponse
from django.urls import path

settings.configure(ROOT_URLCONF=__name__, ALLOWED_HOSTS=["*"], SECRET_KEY="only for tests")

def fetch(port, name):
    return requests.get(f"http://127.0.0.1:{port}/{name}", timeout=20).text

def answered(request, port, name):
    return HttpResponse(fetch(port, name))

def streamed(request, port, name):
    def pieces():
        yield "got "
        yield fetch(port, name)
    return StreamingHttpResponse(pieces())

urlpatterns = [path("answered/<int:port>/<name>", answered), path("streamed/<int:port>/<name>", streamed)]
app = get_wsgi_application()
"""})
    port = gate(Http).port
    half = TOGETHER // 2
    paths = [f"/answered/{port}/{n}" for n in range(half)] + [f"/streamed/{port}/{n}" for n in range(half)]
    assert together(server, paths) == [f"/{n}" for n in range(half)] + [f"got /{n}" for n in range(half)]
