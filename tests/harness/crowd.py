"""Many slow clients in one thread: each does its part of a request as slowly as it was told to.

Owns their sockets. A client is a generator that yields what it waits for; the crowd drives them all with one selector.
Invariant: everything is on the loopback and ends with the crowd.
"""

import heapq
import itertools
import resource
import selectors
import socket
import threading
import time


def raise_fd_limit(count):
    """Lets this process, and the servers that it starts, have `count` fds."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < count:
        assert hard >= count, f"ulimit -Hn is {hard}; this test needs {count} file descriptors"
        resource.setrlimit(resource.RLIMIT_NOFILE, (count, hard))


class Crowd:
    """`with Crowd(address) as crowd: crowd.half_open(1000)`; they go on until the end of the block."""

    def __init__(self, address):
        self.address = address
        self.clients = []
        self._senders = []
        self._order = itertools.count()
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._drive, daemon=True)

    def _connect(self, receive_buffer=None):
        client = socket.socket()
        if receive_buffer:
            client.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
        client.settimeout(20)
        client.connect(self.address)
        client.setblocking(False)
        self.clients.append(client)
        return client

    def half_open(self, count):
        """Clients that send the beginning of a head and then nothing."""
        for _ in range(count):
            self._connect().sendall(b"GET /never HTTP/1.1\r\nHost: x\r\nX-Begun: y")

    def uploads(self, count, every, length=1_000_000):
        """Clients that announce a body and send one byte of it each `every` seconds."""
        for _ in range(count):
            client = self._connect()
            client.sendall(b"POST /never HTTP/1.1\r\nHost: x\r\nContent-Length: %d\r\n\r\n" % length)
            with self._lock:
                heapq.heappush(self._senders, (time.monotonic() + every, next(self._order), client, every))

    def readers(self, count, target):
        """Clients with a small receive buffer that ask for `target` and do not read the response."""
        for _ in range(count):
            self._connect(receive_buffer=4096).sendall(b"GET %s HTTP/1.1\r\nHost: x\r\n\r\n" % target)

    def ended(self):
        """How many of the connections the server has ended or reset."""
        selector = selectors.DefaultSelector()
        for client in self.clients:
            selector.register(client, selectors.EVENT_READ)
        count = 0
        for key, _ in selector.select(0):
            try:
                count += key.fileobj.recv(1, socket.MSG_PEEK) == b""
            except ConnectionError:
                count += 1
        selector.close()
        return count

    def _drive(self):
        while not self._stop.is_set():
            with self._lock:
                due = self._senders[0][0] if self._senders else time.monotonic() + 0.05
            left = due - time.monotonic()
            if left > 0:
                self._stop.wait(min(left, 0.05))
                continue
            with self._lock:
                _, order, client, every = heapq.heappop(self._senders)
                heapq.heappush(self._senders, (due + every, order, client, every))
            try:
                client.send(b"x")
            except (BlockingIOError, ConnectionError):
                pass

    def __enter__(self):
        self._thread.start()
        return self

    def __exit__(self, *_):
        self._stop.set()
        self._thread.join()
        for client in self.clients:
            client.close()
