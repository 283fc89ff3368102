"""The applications that are measured: as little as the question allows, so that the server is what costs."""

import ctypes
import time

_BODY = b"Hello, World!"
_HEADERS = [("Content-Type", "text/plain"), ("Content-Length", str(len(_BODY)))]


def hello(environ, start_response):
    """The cheapest response that is one."""
    start_response("200 OK", _HEADERS)
    return [_BODY]


async def asgi(scope, receive, send):
    """The cheapest response of ASGI."""
    await send(_START)
    await send(_END)


_START = {"type": "http.response.start", "status": 200,
          "headers": [(b"content-type", b"text/plain"), (b"content-length", b"13")]}
_END = {"type": "http.response.body", "body": _BODY}


async def either(scope, receive, send):
    """Hello, or a WebSocket that answers; for `idle_websockets.py`."""
    if scope["type"] != "websocket":
        return await asgi(scope, receive, send)
    await receive()
    await send({"type": "websocket.accept"})
    while (event := await receive())["type"] != "websocket.disconnect":
        await send({"type": "websocket.send", "text": event.get("text"), "bytes": event.get("bytes")})


_keep_lock = ctypes.PyDLL(None).usleep


def mixed(environ, start_response):
    """/sleep waits 10 ms as for a database, /nap 2 s, /spin computes for 5 ms, /hog for 50; /lock waits 10 ms and then has C
    code keep the interpreter lock for 50, as json.dumps of something large does; everything else is hello."""
    path = environ["PATH_INFO"]
    if path in ("/sleep", "/nap"):
        time.sleep(0.010 if path == "/sleep" else 2)
    elif path == "/lock":
        time.sleep(0.010)
        _keep_lock(50_000)
    elif path in ("/spin", "/hog"):
        end = time.thread_time() + (0.005 if path == "/spin" else 0.050)
        while time.thread_time() < end:
            sum(range(1000))
    start_response("200 OK", _HEADERS)
    return [_BODY]


def upload(environ, start_response):
    """Reads the body and says how long it is."""
    length = str(len(environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0)))).encode()
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(length)))])
    return [length]


_LARGE = b"x" * 1_000_000


def slow(environ, start_response):
    """Reads what there is to read; /large is 1 MB, everything else is hello."""
    environ["wsgi.input"].read(int(environ.get("CONTENT_LENGTH") or 0))
    body = _LARGE if environ["PATH_INFO"] == "/large" else _BODY
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]
