"""The same bytes over real sockets to rgunicorn, Gunicorn and nginx: what each serves is what its parser frames.

test_second_opinions.py compares the parsers, with the reason of each difference. Here the servers are held to them, so
that those reasons are about what is really served: nothing between the socket and the application frames otherwise.
"""

import contextlib
import hashlib
import re
import socket
import subprocess
import sys

from harness.server import clean_environment
from harness.waiting import until

from .second_opinions import engine, gunicorn_parser, nginx_opinions, transcripts
from .test_refusals import TRUNCATED
from .test_second_opinions import bent_streams

# Answers each request with a digest of what it was: in a field, since HEAD has no body.
APP = {"m.py": """
import hashlib

def app(environ, start_response):
    body = environ["wsgi.input"].read()
    whole = len(body) >= int(environ.get("CONTENT_LENGTH") or 0)
    words = (environ["REQUEST_METHOD"], environ["RAW_URI"], environ["SERVER_PROTOCOL"])
    seen = hashlib.sha256(repr((*words, body)).encode()).hexdigest()
    start_response("200 OK" if whole else "422 Cut", [("Content-Length", "0"), ("X-Seen", seen)])
    return []
"""}


def digests(opinion):
    """What the application would answer to what a parser has framed."""
    found = []
    for method, target, version, body in opinion.messages:
        words = (method.decode(), target.decode("latin-1"), "HTTP/%d.%d" % version, body)
        found.append(hashlib.sha256(repr(words).encode()).hexdigest())
    return found


def played(address, stream):
    """The digests that a server answers with, in order, and the status of the refusal at their end if there is one."""
    received = b""
    with socket.create_connection(address, 10) as client:
        # A server that has refused the beginning may be gone before the end is sent.
        with contextlib.suppress(ConnectionResetError, BrokenPipeError, OSError):
            client.sendall(stream)
            client.shutdown(socket.SHUT_WR)
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += data
    seen = re.findall(rb"(?i)HTTP/\d\.\d 200 [^\r]*\r\n(?:[^\r]+\r\n)*?X-Seen: (\w+)\r\n", received)
    refused = re.findall(rb"HTTP/\d\.\d ([45]\d\d) ", received)
    return [digest.decode() for digest in seen], refused[-1].decode() if refused else None


@contextlib.contextmanager
def gunicorn(directory):
    """A Gunicorn that keeps connections open, on a port of 127.0.0.1."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        command = [sys.executable, "-m", "gunicorn", "--bind", f"fd://{listener.fileno()}", "--worker-class", "gthread",
                   "--threads", "4", "--keep-alive", "5", "--header-map", "dangerous",
                   "--forwarded-allow-ips", "192.0.2.1", "--chdir", directory, "m:app"]
        with subprocess.Popen([*map(str, command)], env=clean_environment(), pass_fds=[listener.fileno()],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
            try:
                address = listener.getsockname()
                stream = b"GET / HTTP/1.1\r\nHost: h\r\nConnection: close\r\n\r\n"
                until(lambda: played(address, stream)[0], "Gunicorn to serve")
                yield address
            finally:
                process.terminate()


def streams():
    return [stream for _, stream in transcripts()] + list(bent_streams(seed=3, number=300))


def test_rgunicorn_serves_what_its_engine_frames(serve):
    server = serve("m:app", "--log-level", "error", "--forwarded-allow-ips", "192.0.2.1", files=APP)
    address, cases = server.address, streams()
    served = refused = 0
    for stream, opinion in zip(cases, engine(cases), strict=True):
        seen, status = played(address, stream)
        assert seen == digests(opinion), (stream, opinion)
        # A client that left in the middle need not be told.
        if opinion.refused not in TRUNCATED:
            assert bool(status) == bool(opinion.refused), (stream, opinion, status)
        served, refused = served + len(seen), refused + bool(status)
    assert served > 100 and refused > 100


def test_gunicorn_serves_what_its_parser_frames(serve, tmp_path):
    (tmp_path / "m.py").write_text(APP["m.py"])
    same = 0
    with gunicorn(tmp_path) as address:
        for stream in streams():
            if b"script_name" in stream.lower():
                # Gunicorn refuses a prefix that the path does not have only after it has framed the request.
                continue
            opinion = gunicorn_parser(stream)
            seen, _ = played(address, stream)
            assert seen == digests(opinion), (stream, opinion)
            same += len(seen)
    assert same > 100


def test_all_three_give_the_same_requests_to_the_application(serve, tmp_path):
    """What more than one of them serves of a stream is the same, byte for byte; otherwise it could be smuggled."""
    (tmp_path / "m.py").write_text(APP["m.py"])
    server = serve("m:app", "--log-level", "error", "--forwarded-allow-ips", "192.0.2.1", files=APP)
    here, agreed = server.address, 0
    with gunicorn(tmp_path) as there, nginx_opinions(tmp_path) as ask:
        for stream, opinion in zip(cases := streams(), engine(cases), strict=True):
            ours, theirs = played(here, stream)[0], played(there, stream)[0]
            bodies = [body for method, _, _, body in opinion.messages if method != b"HEAD"]
            for mine, other in zip(ours, theirs, strict=False):
                assert mine == other, stream
                agreed += 1
            for body, other in zip(bodies, ask(stream).messages, strict=False):
                assert body == other, stream
    assert agreed > 100
