"""Corners of the ASGI specification (HTTP and WebSocket 2.5, lifespan 2.0) that frameworks rarely reach."""

import signal

import pytest
from harness.waiting import until

PATHS = """
import json
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("only http")
    await PATHS[scope["path"]](scope, receive, send)

async def answer(send, body, status=200, headers=()):
    await send({"type": "http.response.start", "status": status, "headers": list(headers)})
    await send({"type": "http.response.body", "body": body})
"""


@pytest.fixture
def paths(asgi):
    """paths(source with PATHS) -> a server of these functions by their paths."""

    def start(source, *arguments, **more):
        return asgi(*arguments, app="paths:app", files={"paths.py": PATHS + source}, **more)

    return start


def test_what_an_application_does_to_its_scope_is_seen_by_nobody_else(paths):
    server = paths("""
async def spoil(scope, receive, send):
    seen = json.dumps([scope["asgi"], sorted(scope["extensions"]), scope["state"], len(scope["headers"]), "mine" in scope])
    scope["asgi"]["version"] = "spoilt"
    scope["extensions"]["spoilt"] = {}
    scope["state"]["spoilt"] = True
    scope["headers"].append((b"spoilt", b"yes"))
    scope["mine"] = True
    await answer(send, seen.encode())

PATHS = {"/": spoil}
""")
    with server.connect() as connection:
        first = connection.get("/").json()
        assert connection.get("/").json() == first
    assert first[0] == {"version": "3.0", "spec_version": "2.5"} and first[2] == {} and first[4] is False


@pytest.mark.parametrize("root, target, path, raw", [
    ("/my app", "/my%20app/x", "/my app/x", "/my%20app/x"), ("/my app", "/x%20y", "/my app/x y", "/my%20app/x%20y"),
    ("/ü/", "/%C3%BC/x", "/ü/x", "/%C3%BC/x"), ("/ü", "/x", "/ü/x", "/%C3%BC/x"), ("/api", "/apis", "/api/apis", "/api/apis"),
])
def test_a_root_path_of_any_characters_is_in_front_once(asgi, root, target, path, raw):
    server = asgi("--root-path", root, app="paths:app", files={"paths.py": PATHS + """
async def app(scope, receive, send):
    await answer(send, json.dumps([scope["root_path"], scope["path"], scope["raw_path"].decode()]).encode())
"""})
    assert server.get(target).json() == [root.rstrip("/"), path, raw]


def test_a_path_that_is_no_utf8_is_served_and_its_bytes_are_in_raw_path(asgi):
    server = asgi(app="paths:app", files={"paths.py": PATHS + """
async def app(scope, receive, send):
    await answer(send, repr((scope["path"], scope["raw_path"])).encode())
"""})
    assert server.get("/%ff%41").text == repr(("/\ufffdA", b"/%ff%41"))


def test_responses_without_a_body_have_none_and_the_connection_goes_on(paths):
    server = paths("""
async def status(scope, receive, send):
    await answer(send, b"", int(scope["query_string"]))

async def body(scope, receive, send):
    await answer(send, b"not allowed", int(scope["query_string"]))

async def stream(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-a", b"b")]})
    for _ in range(3):
        await send({"type": "http.response.body", "body": b"part", "more_body": True})
    await send({"type": "http.response.body"})

async def plain(scope, receive, send):
    await answer(send, b"12345", headers=[(b"content-length", b"5")])

PATHS = {"/status": status, "/body": body, "/stream": stream, "/": plain}
""")
    with server.connect() as connection:
        for status in (204, 304):
            for path in ("/status", "/body"):
                response = connection.get(f"{path}?{status}")
                assert (response.status, response.body, response.header("Transfer-Encoding")) == (status, b"", None)
        head = connection.exchange("HEAD", "/")
        assert (head.header("Content-Length"), head.body) == ("5", b"")
        head = connection.exchange("HEAD", "/stream")
        assert (head.body, head.header("X-A")) == (b"", "b")
        assert connection.get("/").body == b"12345", "nothing of a body was left on the wire"
    server.found("has a body, which status 204 does not allow", "warning")


def test_a_response_longer_than_its_content_length_is_cut_and_said(asgi):
    server = asgi()
    with server.connect() as connection:
        assert connection.get("/fault?long").body == b"abc"
        assert connection.get("/").status == 200
    server.found("longer than its Content-Length; the rest was cut", "warning")


def test_an_exception_between_the_start_and_the_body_is_a_500(paths):
    server = paths("""
async def late(scope, receive, send):
    await send({"type": "http.response.start", "status": 200, "headers": [(b"x-mine", b"1")]})
    raise RuntimeError("between start and body")

PATHS = {"/": late}
""")
    server.expect("between start and body")
    response = server.get("/")
    assert response.status == 500 and response.header("X-Mine") is None


def test_after_the_response_receive_gives_disconnects_and_what_is_sent_is_ignored(paths, tmp_path):
    note = tmp_path / "note"
    server = paths("""
import pathlib
async def more(scope, receive, send):
    await answer(send, b"complete")
    told = [(await receive())["type"] for _ in range(3)]
    await send({"type": "http.response.body", "body": b"too late", "more_body": True})
    await send({"type": "http.response.start", "status": 500})
    pathlib.Path(scope["query_string"].decode()).write_text(json.dumps(told))

PATHS = {"/": more}
""")
    with server.connect() as connection:
        assert connection.get(f"/?{note}").body == b"complete"
        assert connection.get(f"/?{note}").body == b"complete"
    assert until(lambda: note.exists() and note.read_text(), "the note") == '["http.disconnect", "http.disconnect", "http.disconnect"]'


def test_an_exception_group_of_nothing_but_the_clients_leaving_is_no_error(asgi):
    """What anyio's task groups make of it."""
    server = asgi("--log-level", "debug", app="groups:app", files={"groups.py": """
import anyio

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        raise ValueError("only http")
    await send({"type": "http.response.start", "status": 200})
    async with anyio.create_task_group() as group:
        for _ in range(2):
            group.start_soon(stream, send)

async def stream(send):
    while True:
        await send({"type": "http.response.body", "body": b"x" * 1000, "more_body": True})
        await anyio.sleep(0.01)
"""})
    connection = server.connect()
    connection.request()
    connection.socket.recv(100)
    connection.close()
    server.found("a client left before its response was complete")


def test_the_body_is_read_by_a_task_that_another_one_waits_for(paths):
    """As middleware does: receive and send are awaited in tasks of their own, with timeouts and in groups."""
    server = paths("""
import asyncio
async def apart(scope, receive, send):
    body, more = b"", True
    while more:
        event = await asyncio.wait_for(asyncio.create_task(receive()), 5)
        body, more = body + event["body"], event["more_body"]
    await asyncio.create_task(send({"type": "http.response.start", "status": 200}))
    await asyncio.gather(send({"type": "http.response.body", "body": body, "more_body": True}))
    await asyncio.wait_for(send({"type": "http.response.body"}), 5)

PATHS = {"/": apart}
""")
    data = bytes(range(256)) * 4000
    assert server.post("/", data).body == data


def test_a_context_variable_of_one_request_is_unknown_to_the_next(paths):
    server = paths("""
import asyncio, contextvars
variable = contextvars.ContextVar("variable", default="unset")

async def child():
    return variable.get()

async def vary(scope, receive, send):
    before = variable.get()
    variable.set(scope["query_string"].decode())
    inside = await asyncio.create_task(child())
    thread = await asyncio.to_thread(variable.get)
    await answer(send, json.dumps([before, inside, thread]).encode())

PATHS = {"/": vary}
""")
    with server.connect() as connection:
        for name in ("a", "b", "c"):
            assert connection.get(f"/?{name}").json() == ["unset", name, name]


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_a_task_factory_of_the_application_makes_the_tasks(asgi, loop):
    server = asgi("--asgi-loop", loop, app="factory:app", files={"factory.py": """
import asyncio

def factory(loop, coroutine, **more):
    task = asyncio.Task(coroutine, loop=loop, **more)
    task.mark = "mine"
    return task

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        asyncio.get_running_loop().set_task_factory(factory)
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": getattr(asyncio.current_task(), "mark", "none").encode()})
"""})
    assert server.get("/").body == b"mine"


def test_a_reload_whose_startup_fails_is_refused_with_its_message(asgi, tmp_path):
    broken = tmp_path / "broken"
    server = asgi(app="startup:app", env={"BROKEN": str(broken)}, files={"startup.py": """
import os
async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await receive()
        if os.path.exists(os.environ["BROKEN"]):
            await send({"type": "lifespan.startup.failed", "message": "the database is away"})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        return await send({"type": "lifespan.shutdown.complete"})
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
"""})
    before = server.get("/").body
    broken.touch()
    server.expect("the database is away")
    server.expect("the reload has failed")
    server.signal(signal.SIGHUP)
    server.found("the database is away", "error")
    assert server.get("/").body == before
    broken.unlink()
    server.signal(signal.SIGHUP)
    until(lambda: server.get("/").body != before, "the repaired generation")
