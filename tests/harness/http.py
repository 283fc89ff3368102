"""A client that sees bytes: it sends what it is told, reads one response at a time and hides nothing.

It accepts only well-formed HTTP/1.1 and fails the test otherwise, so every test that makes a request also checks the
framing of what came back (RFC 9112 section 6).
"""

import socket
from dataclasses import dataclass, field


@dataclass
class Response:
    """One response as it was on the wire."""

    version: str
    status: int
    reason: str
    headers: list = field(default_factory=list)
    body: bytes = b""
    #: How the body was framed: "length", "chunked", "close", or "none" where the protocol allows no body.
    framing: str = "none"
    #: Interim (1xx) responses that came before.
    interim: list = field(default_factory=list)
    #: Sizes of the chunks as received, without the last.
    chunks: list = field(default_factory=list)
    trailers: list = field(default_factory=list)

    def header(self, name):
        """The value of a header that may occur once, or None."""
        values = self.all(name)
        assert len(values) <= 1, f"{name} occurs {len(values)} times: {values}"
        return values[0] if values else None

    def all(self, name):
        """All values of a header, in order."""
        return [value for key, value in self.headers if key.lower() == name.lower()]

    @property
    def text(self):
        return self.body.decode()

    def json(self):
        import json

        return json.loads(self.body)


class ConnectionEnded(AssertionError):
    """The server closed or reset the connection before the response was complete."""


class Connection:
    """One connection to (host, port) or to a unix socket's path; also an abstract one (`@name`)."""

    def __init__(self, address, timeout=10.0):
        if isinstance(address, tuple):
            self.socket = socket.create_connection(address, timeout)
            name = f"[{address[0]}]" if ":" in address[0] else address[0]
            self.host = f"{name}:{address[1]}"
        else:
            path = str(address)
            self.socket = socket.socket(socket.AF_UNIX)
            self.socket.settimeout(timeout)
            self.socket.connect("\0" + path[1:] if path.startswith("@") else path)
            self.host = "localhost"
        self._buffer = b""

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def close(self):
        self.socket.close()

    def send(self, data):
        """Sends the bytes, all of them."""
        self.socket.sendall(data.encode("latin-1") if isinstance(data, str) else data)

    def shut(self):
        """Says that nothing more will be sent."""
        self.socket.shutdown(socket.SHUT_WR)

    def request(self, method="GET", target="/", headers=(), body=None, version="HTTP/1.1"):
        """Sends a request and does not wait for the answer. `headers`: pairs; Host and Content-Length are added."""
        lines = [f"{method} {target} {version}"]
        names = {name.lower() for name, _ in headers}
        if "host" not in names:
            lines.append(f"Host: {self.host}")
        lines += [f"{name}: {value}" for name, value in headers]
        if body is not None and not names & {"content-length", "transfer-encoding"}:
            lines.append(f"Content-Length: {len(body)}")
        self.send("\r\n".join(lines) + "\r\n\r\n")
        if body:
            self.send(body)

    def get(self, target="/", headers=(), **more):
        """One GET with its response; the connection stays open if the server lets it."""
        return self.exchange("GET", target, headers, **more)

    def post(self, target, body, headers=()):
        return self.exchange("POST", target, headers, body)

    def exchange(self, method="GET", target="/", headers=(), body=None, version="HTTP/1.1"):
        self.request(method, target, headers, body, version)
        return self.response(method)

    def response(self, method="GET"):
        """Reads the next final response; `method` is the request's, since HEAD has no body."""
        interim = []
        while True:
            response = self._head()
            if 100 <= response.status < 200 and response.status != 101:
                interim.append(response)
                continue
            response.interim = interim
            break
        self._body(response, method)
        return response

    def received(self, size):
        """So many bytes of whatever is spoken."""
        return self._exactly(size)

    def ended(self):
        """Reads to the end of the connection and returns what still came; a reset is the end, too."""
        while True:
            try:
                data = self.socket.recv(65536)
            except ConnectionResetError:
                break
            if not data:
                break
            self._buffer += data
        rest, self._buffer = self._buffer, b""
        return rest

    def _head(self):
        start, *fields = self._lines()
        version, _, rest = start.partition(" ")
        status, _, reason = rest.partition(" ")
        assert version in ("HTTP/1.1", "HTTP/1.0"), f"status line {start!r}"
        assert len(status) == 3 and status.isdigit(), f"status line {start!r}"
        return Response(version, int(status), reason, [_field(line) for line in fields])

    def _body(self, response, method):
        lengths = response.all("Content-Length")
        codings = response.all("Transfer-Encoding")
        assert not (lengths and codings), f"both Content-Length and Transfer-Encoding: {response.headers}"
        assert len(lengths) <= 1, f"Content-Length occurs {len(lengths)} times"
        if method == "HEAD" or response.status in (204, 304) or response.status == 101:
            return
        if codings:
            assert codings == ["chunked"], f"Transfer-Encoding: {codings}"
            response.framing = "chunked"
            while True:
                size = int(self._line().split(b";")[0], 16)
                if size == 0:
                    break
                response.body += self._exactly(size)
                response.chunks.append(size)
                assert self._exactly(2) == b"\r\n", "a chunk does not end with CRLF"
            while line := self._line():
                response.trailers.append(_field(line.decode("latin-1")))
        elif lengths:
            response.framing = "length"
            response.body = self._exactly(int(lengths[0]))
        else:
            response.framing = "close"
            response.body = self.ended()

    def _lines(self):
        lines = []
        while True:
            line = self._line()
            if not line:
                return lines
            lines.append(line.decode("latin-1"))

    def _line(self):
        while b"\r\n" not in self._buffer:
            self._more("a line")
        line, _, self._buffer = self._buffer.partition(b"\r\n")
        assert b"\n" not in line and b"\r" not in line, f"a bare CR or LF in {line!r}"
        return line

    def _exactly(self, size):
        while len(self._buffer) < size:
            self._more(f"{size} bytes")
        data, self._buffer = self._buffer[:size], self._buffer[size:]
        return data

    def _more(self, wanted):
        try:
            data = self.socket.recv(1 << 18)
        except ConnectionResetError as error:
            raise ConnectionEnded(f"reset while waiting for {wanted}; so far {self._buffer[:200]!r}") from error
        if not data:
            raise ConnectionEnded(f"closed while waiting for {wanted}; so far {self._buffer[:200]!r}")
        self._buffer += data


def _field(line):
    name, colon, value = line.partition(":")
    assert colon and name and not set(name) & set(" \t"), f"header line {line!r}"
    return name, value.strip(" \t")
