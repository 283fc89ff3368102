"""Other parsers of HTTP/1.1, and the engine, each as a function from a stream of bytes to what it frames.

The engine is asked through `cargo run --example frame`, so that nothing is served and no socket is opened; so are h11
and Gunicorn's parser. nginx has to be run.
"""

import contextlib
import json
import re
import socket
import socketserver
import subprocess
import threading
from dataclasses import dataclass, field
from pathlib import Path

from harness.nginx import Nginx

ROOT = Path(__file__).resolve().parents[2]
TRANSCRIPTS = ROOT / "crates/http/tests/transcripts"


@dataclass
class Opinion:
    """What a parser makes of a stream."""

    # (method, target, (major, minor), body)
    messages: list = field(default_factory=list)
    # The name of the rule or exception that ended it.
    refused: str | None = None
    # Bytes were left unread because the connection closes.
    closed: bool = False


def engine(streams):
    """The engine's opinions, one per stream."""
    lines = "".join(stream.hex() + "\n" for stream in streams)
    command = ["cargo", "run", "--quiet", "--package", "rgunicorn-http", "--example", "frame"]
    done = subprocess.run(command, input=lines, capture_output=True, text=True, cwd=ROOT, timeout=300)
    assert done.returncode == 0, done.stderr
    opinions = []
    for line in done.stdout.splitlines():
        seen = json.loads(line)
        messages = [
            (bytes.fromhex(m["method"]), bytes.fromhex(m["target"]), tuple(m["version"]), bytes.fromhex(m["body"]))
            for m in seen["messages"]
        ]
        opinions.append(Opinion(messages, seen["refused"], seen["closed"]))
    assert len(opinions) == len(streams)
    return opinions


def h11_server(stream):
    """h11's opinion, in the role of a server that answers every request."""
    import h11

    opinion = Opinion()
    connection = h11.Connection(h11.SERVER, max_incomplete_event_size=1 << 20)
    connection.receive_data(stream)
    connection.receive_data(b"")
    request, body = None, b""
    try:
        while True:
            event = connection.next_event()
            if isinstance(event, h11.Request):
                request, body = event, b""
            elif isinstance(event, h11.Data):
                body += bytes(event.data)
            elif isinstance(event, h11.EndOfMessage):
                version = tuple(int(digit) for digit in request.http_version.split(b"."))
                opinion.messages.append((bytes(request.method), bytes(request.target), version, body))
                if request.method == b"CONNECT":
                    opinion.closed = True
                    return opinion
                connection.send(h11.Response(status_code=200, headers=[("Content-Length", "0")]))
                connection.send(h11.EndOfMessage())
                if connection.our_state is not h11.DONE or connection.their_state is not h11.DONE:
                    opinion.closed = True
                    return opinion
                connection.start_next_cycle()
            elif event is h11.PAUSED:
                opinion.closed = True
                return opinion
            else:
                return opinion
    except h11.RemoteProtocolError as error:
        # What follows the colon quotes the stream.
        opinion.refused = str(error).split(":")[0]
    return opinion


def gunicorn_parser(stream):
    """Gunicorn's opinion: its Python parser under its default settings."""
    from gunicorn.config import Config
    from gunicorn.http.parser import RequestParser

    config = Config()
    config.set("header_map", "dangerous")
    opinion = Opinion()
    parser = iter(RequestParser(config, [stream], ("203.0.113.1", 1)))
    while True:
        try:
            request = next(parser)
        except StopIteration:
            opinion.closed = bool(opinion.messages) and request.should_close()
            return opinion
        except Exception as error:
            opinion.refused = type(error).__name__
            return opinion
        try:
            body = request.body.read()
        except Exception as error:
            opinion.refused = type(error).__name__
            return opinion
        length = next((int(value) for name, value in request.headers if name == "CONTENT-LENGTH"), None)
        if length is not None and len(body) < length:
            # Gunicorn gives a body that was cut short to the application as though it were whole.
            opinion.refused = "truncated"
            return opinion
        target = request.uri.encode("latin-1")
        opinion.messages.append((request.method.encode(), target, request.version, body))


def transcripts():
    """(sentence, stream) of every transcript under the usual policy."""
    for path in sorted(TRANSCRIPTS.glob("*.txt")):
        for case in path.read_text().split("\n== ")[1:]:
            lines = case.split("\n")
            if any(line.startswith(("policy:", "trust:")) for line in lines):
                continue
            arrivals = [line[2:] for line in lines if line.startswith("> ") and line != "> FIN"]
            stream = b"".join(map(unescape, arrivals))
            if stream:
                yield f"{path.name}: {lines[0]}", stream


ESCAPES = {"r": b"\r", "n": b"\n", "t": b"\t", "0": b"\0", "\\": b"\\"}


def unescape(text):
    """The bytes that a transcript's line stands for (crates/http/tests/transcripts/README.md)."""
    out = b""
    for match in re.finditer(r"\\\{(?P<piece>.*?)\*(?P<times>\d+)\}|\\x(?P<hex>..)|\\(?P<escape>.)|(?P<plain>[^\\]+)", text):
        if match["times"]:
            out += unescape(match["piece"]) * int(match["times"])
        elif match["hex"]:
            out += bytes.fromhex(match["hex"])
        elif match["escape"]:
            out += ESCAPES[match["escape"]]
        else:
            out += match["plain"].encode()
    return out


def statuses():
    """The status of each rule, by its id, as the reference page says (a Rust test keeps it true)."""
    page = (ROOT / "docs/http-rules.md").read_text()
    return {match[1]: int(match[2]) for match in re.finditer(r"^\| `([a-z0-9-]+)` \| (\d{3}) \|", page, re.MULTILINE)}


class BodyEcho(socketserver.StreamRequestHandler):
    """What stands behind a proxy: it answers with the body that the proxy read, in hexadecimal."""

    def handle(self):
        while True:
            length = None
            while (line := self.rfile.readline()) not in (b"\r\n", b""):
                name, _, value = line.partition(b":")
                if name.lower() == b"content-length":
                    length = int(value)
            if not line:
                return
            answer = self.rfile.read(length or 0).hex().encode()
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(answer), answer))


class Upstream(socketserver.ThreadingMixIn, socketserver.UnixStreamServer):
    daemon_threads = True


@contextlib.contextmanager
def nginx_opinions(directory):
    """nginx's opinion: a function that plays a stream to an nginx that passes whole requests on."""
    path = str(directory / "upstream.sock")
    # A client that has sent FIN still gets its answer.
    patient = "proxy_ignore_client_abort on; proxy_request_buffering on;"
    with Upstream(path, BodyEcho) as upstream:
        threading.Thread(target=upstream.serve_forever, daemon=True).start()
        try:
            with Nginx(directory / "nginx", path, patient) as nginx:
                yield lambda stream: through_proxy(nginx.address, stream)
        finally:
            upstream.shutdown()


def through_proxy(address, stream):
    """The opinion of the proxy at this address, from its answers. Only bodies are known, of GET and the like none."""
    opinion = Opinion()
    received = b""
    with socket.create_connection(address, 10) as client:
        client.sendall(stream)
        client.shutdown(socket.SHUT_WR)
        # A reset ends it as well: the proxy had refused the rest.
        with contextlib.suppress(ConnectionResetError):
            while data := client.recv(65536):
                received += data
    for status, head, body in re.findall(rb"HTTP/1\.1 (\d{3}) [^\r]*\r\n((?:[^\r]+\r\n)*)\r\n([0-9a-f]*)", received):
        if status == b"200":
            opinion.messages.append(bytes.fromhex(body.decode()) if b"ontent-Length: 0\r" not in head else b"")
        elif status != b"100":
            opinion.refused = status.decode()
    return opinion
