"""The application under torture: says which request it answers, and notes in a file of its process that it ran it."""

import os
import time
import zlib
from urllib.parse import parse_qs

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
        time.sleep(int(query["sleep"][0]) / 1000)
    line = f"{token} {environ['REQUEST_METHOD']} {crc:08x} {length} {os.getpid()}\n".encode()
    padding = b"x" * int(query.get("padding", ["0"])[0])
    if "pieces" in query:
        start_response("200 OK", [("Content-Type", "text/plain")])
        return (piece for piece in [line, *(padding[at:at + 50000] for at in range(0, len(padding), 50000))])
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(line) + len(padding)))])
    return [line, padding]
