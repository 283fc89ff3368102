"""A client that measures single requests on one connection, where wrk would average over many."""

import socket
import time


class Client:
    """One keep-alive connection. Owns the socket; `with` closes it."""

    def __init__(self, port, timeout=5.0):
        self.socket = socket.create_connection(("127.0.0.1", port), timeout)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.socket.close()

    def fileno(self):
        return self.socket.fileno()

    def ask(self, path="/"):
        """Sends a request and does not wait."""
        self.socket.sendall(f"GET {path} HTTP/1.1\r\nHost: localhost\r\n\r\n".encode())

    def answer(self):
        """Reads one response whole; the body. A connection that ends instead is a ConnectionError."""
        data = b""
        while b"\r\n\r\n" not in data:
            data += self._more()
        head, _, body = data.partition(b"\r\n\r\n")
        lengths = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        length = int(lengths[0].partition(b":")[2])
        while len(body) < length:
            body += self._more()
        return body

    def get(self, path="/"):
        """One request with its response: seconds."""
        begun = time.perf_counter()
        self.ask(path)
        self.answer()
        return time.perf_counter() - begun

    def _more(self):
        part = self.socket.recv(65536)
        if not part:
            raise ConnectionError("the server has closed the connection")
        return part


def percentile(values, percent):
    """The value that `percent` of all do not exceed; of nothing, NaN."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, len(ordered) * percent // 100)] if ordered else float("nan")
