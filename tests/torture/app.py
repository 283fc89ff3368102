"""The application under torture: says which request it answers, and notes in a file of its process that it ran it."""

import asyncio
import ctypes
import os
import time
import zlib
from urllib.parse import parse_qs

# As long as a real application takes to be imported, if that is asked for.
time.sleep(float(os.environ.get("TORTURE_IMPORT", 0)))

# Keeps the interpreter lock meanwhile, as C code does that does not think of others.
_hold = ctypes.PyDLL(None).usleep

# One file for each process, in which each token stands once for each time that its request was run.
_notes = {}


def _note(token):
    folder = os.environ.get("TORTURE_NOTES")
    if folder:
        pid = os.getpid()
        if pid not in _notes:
            _notes[pid] = os.open(f"{folder}/{pid}", os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        os.write(_notes[pid], token.encode() + b"\n")


def app(environ, start_response):
    text = environ["QUERY_STRING"]
    # Most requests have nothing else, and there are to be many.
    query = parse_qs(text) if "&" in text else {"token": [text[6:]]}
    token = query["token"][0]
    _note(token)
    crc, length = 0, 0
    while data := environ["wsgi.input"].read(65536):
        crc, length = zlib.crc32(data, crc), length + len(data)
    if "sleep" in query:
        milliseconds = int(query["sleep"][0])
        _hold(milliseconds * 1000) if milliseconds % 3 == 0 else time.sleep(milliseconds / 1000)
    line = f"{token} {environ['REQUEST_METHOD']} {crc:08x} {length} {os.getpid()}\n".encode()
    padding = b"x" * int(query.get("padding", ["0"])[0])
    if "pieces" in query:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (piece for piece in [line, *(padding[at:at + 50000] for at in range(0, len(padding), 50000))])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(line) + len(padding)))])
    return [line, padding]


async def asgi(scope, receive, send):
    """The same as `app`, for the asgi pool."""
    if scope["type"] != "http":
        raise ValueError("only requests are served")
    text = scope["query_string"].decode()
    query = parse_qs(text) if "&" in text else {"token": [text[6:]]}
    token = query["token"][0]
    _note(token)
    crc, length, more = 0, 0, True
    while more:
        event = await receive()
        if event["type"] == "http.disconnect":
            raise ConnectionResetError("the client has left in the middle of its body")
        data, more = event["body"], event["more_body"]
        crc, length = zlib.crc32(data, crc), length + len(data)
    if "sleep" in query:
        await asyncio.sleep(int(query["sleep"][0]) / 1000)
    line = f"{token} {scope['method']} {crc:08x} {length} {os.getpid()}\n".encode()
    padding = b"x" * int(query.get("padding", ["0"])[0])
    headers = [(b"content-type", b"text/plain")]
    if "pieces" in query:
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        for piece in [line, *(padding[at:at + 50000] for at in range(0, len(padding), 50000))]:
            await send({"type": "http.response.body", "body": piece, "more_body": True})
        await send({"type": "http.response.body"})
    else:
        headers.append((b"content-length", str(len(line) + len(padding)).encode()))
        await send({"type": "http.response.start", "status": 200, "headers": headers})
        await send({"type": "http.response.body", "body": line, "more_body": True})
        await send({"type": "http.response.body", "body": padding})
