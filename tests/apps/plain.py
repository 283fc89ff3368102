"""A WSGI application without any framework: one path for each thing that a test of the server wants to happen."""

import json
import os
import subprocess
import sys
import threading
import time
from pathlib import Path


def hello(environ):
    return b"hello\n"


def pid(environ):
    return b"%d" % os.getpid()


def python(environ):
    return b"%d.%d" % sys.version_info[:2]


def executable(environ):
    return sys.prefix.encode()


def raises(environ):
    raise RuntimeError("raised on purpose")


def prints(environ):
    print("printed to stdout", flush=True)
    print("printed to stderr", file=sys.stderr, flush=True)
    os.write(1, b"written to fd 1\n")
    os.write(2, b"written to fd 2\n")
    subprocess.run(["sh", "-c", "echo printed by a child"], check=True)
    environ["wsgi.errors"].write("written to wsgi.errors\n")
    environ["wsgi.errors"].flush()
    return b"printed\n"


def echo(environ):
    return environ["wsgi.input"].read()


def shown(environ):
    return json.dumps({name: repr(value) for name, value in environ.items()}).encode()


def gate(environ):
    """Waits until the file in the query exists; says that it is here by a file `.entered`."""
    path = Path(environ["QUERY_STRING"])
    entered = path.with_suffix(".new")
    entered.write_text(str(os.getpid()))
    entered.rename(path.with_suffix(".entered"))
    while not path.exists():
        time.sleep(0.005)
    return b"through the gate\n"


def child(environ):
    """Leaves a process behind, which outlives the request."""
    process = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                               stderr=subprocess.DEVNULL)
    return b"%d" % process.pid


def orphan(environ):
    """Leaves a process behind whose parent is gone, too: it becomes the arbiter's."""
    out = subprocess.run(["sh", "-c", "sleep 1000 >/dev/null 2>&1 & echo $!"], stdout=subprocess.PIPE, check=True)
    return out.stdout.strip()


def leaves(environ):
    os._exit(7)


def exits(environ):
    sys.exit("exits on purpose")


def folder(environ):
    return os.getcwd().encode()


def signals(environ):
    """What a subprocess of the application inherits: the ignored signals."""
    out = subprocess.run(["cat", "/proc/self/status"], stdout=subprocess.PIPE, check=True).stdout
    return b"".join(line + b"\n" for line in out.splitlines() if line.startswith((b"SigIgn", b"SigBlk")))


def descriptors(environ):
    """What a subprocess of the application inherits: open fds beside those of ls itself."""
    out = subprocess.run(["ls", "/proc/self/fd"], stdout=subprocess.PIPE, check=True, close_fds=False).stdout
    return b" ".join(out.split())


def threads(environ):
    return b"%d" % threading.active_count()


PATHS = {
    "/": hello,
    "/pid": pid,
    "/python": python,
    "/executable": executable,
    "/raises": raises,
    "/prints": prints,
    "/echo": echo,
    "/environ": shown,
    "/gate": gate,
    "/child": child,
    "/orphan": orphan,
    "/leaves": leaves,
    "/exits": exits,
    "/folder": folder,
    "/signals": signals,
    "/descriptors": descriptors,
    "/threads": threads,
}


def app(environ, start_response):
    answer = PATHS.get(environ["PATH_INFO"])
    if answer is None:
        start_response("404 Not Found", [("Content-Type", "text/plain"), ("Content-Length", "0")])
        return []
    body = answer(environ)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
    return [body]


application = app


def make(name="made"):
    """A factory."""

    def made(environ, start_response):
        body = name.encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    return made
