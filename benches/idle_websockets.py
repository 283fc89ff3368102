#!/usr/bin/env python3
"""Memory of a server with many idle WebSockets: benches/idle_websockets.py [--count 10000] [--servers ...].

The clients are bare sockets in this process; the server's memory is the PSS of its process tree.
"""

import argparse
import base64
import os
import resource
import socket
import time
from pathlib import Path

import processes
from servers import ASGI, Running, Tools


def handshake(port):
    return (f"GET /ws HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: {base64.b64encode(os.urandom(16)).decode()}\r\n\r\n").encode()


def connect(port, count):
    """So many WebSockets whose handshake is answered."""
    clients = []
    for _ in range(0, count, 200):
        some = []
        for _ in range(min(200, count - len(clients))):
            client = socket.create_connection(("127.0.0.1", port), timeout=30)
            client.sendall(handshake(port))
            some.append(client)
        for client in some:
            answer = b""
            while b"\r\n\r\n" not in answer:
                part = client.recv(4096)
                if not part:
                    raise RuntimeError(f"the server has closed WebSocket {len(clients)}: {answer!r}")
                answer += part
            if not answer.startswith(b"HTTP/1.1 101"):
                raise RuntimeError(answer)
            clients.append(client)
    return clients


def memory(server):
    """MiB of the whole process tree."""
    return sum(processes.proportional_memory(pid) for pid in processes.tree(server.process.pid))


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--count", type=int, default=10_000)
    parser.add_argument("--servers", nargs="+", default=["rgunicorn-asgi", "uvicorn"], choices=ASGI)
    parser.add_argument("--cache", default=Path(__file__).resolve().parent.parent / ".cache" / "bench")
    options = parser.parse_args()
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tools = Tools(options.cache)
    tools.make(options.servers)
    for name in options.servers:
        with Running(name, tools, "application:either", cpus=os.sched_getaffinity(0)) as server:
            before = memory(server)
            clients = connect(server.port, options.count)
            time.sleep(1)
            after = memory(server)
            print(f"{name:16} {options.count} idle WebSockets: {before:.1f} -> {after:.1f} MiB, "
                  f"{(after - before) / options.count * 1024:.1f} KiB each", flush=True)
            for client in clients:
                client.close()


if __name__ == "__main__":
    main()
