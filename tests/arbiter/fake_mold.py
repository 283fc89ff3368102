"""A mold that does what the variable FAKE says, for tests/arbiter.rs: what no honest worker would do.

It speaks the protocol of crates/protocol (one JSON object per datagram on fd 63) and forks its workers twice, as the
real mold does, so that the arbiter inherits and reaps them.
"""

import json
import os
import signal
import socket
import sys
import time

FAKE = os.environ.get("FAKE", "")
# The arbiter's side of a version check; given by the test, as this file has no version of its own.
VERSION = os.environ["FAKE_VERSION"]


def say(channel, **message):
    channel.send(json.dumps(message).encode())


def hello(channel, worker, pid=None):
    say(channel, type="hello", worker=worker, pid=pid or os.getpid(), version=VERSION, interpreter="CPython (a fake)")


def hear(channel):
    data, fds, _, _ = socket.recv_fds(channel, 1 << 17, 300)
    return (json.loads(data) if data else None), fds


def open_channel(fd):
    channel = socket.socket(fileno=fd)
    channel.setblocking(True)
    return channel


def ignore_signals():
    for number in (signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGUSR1):
        signal.signal(number, lambda *_: None)


def obey(channel):
    """An honest worker's life after its boot."""
    while True:
        message, _ = hear(channel)
        if message is None or message["type"] in ("retire", "stop"):
            os._exit(0)


def work(channel, worker):
    if FAKE == "dies before hello":
        os._exit(5)
    if FAKE == "garbage" and worker > 2:
        channel.send(b"\x00\xff not json")
        time.sleep(60)
    if FAKE == "false pid":
        hello(channel, worker, pid=int(os.environ["STRANGER"]))
        say(channel, type="ready", warnings=[])
        time.sleep(60)
    hello(channel, worker)
    if FAKE == "dies after hello":
        os._exit(5)
    say(channel, type="ready", warnings=["a word of warning"])
    if FAKE == "dies when ready" and worker > 2:
        os._exit(5)
    if FAKE == "leaves a child" and os.fork() == 0:
        channel.close()
        os.setsid()
        with open(os.environ["ORPHAN"] + ".new", "w") as file:
            file.write(str(os.getpid()))
        os.rename(os.environ["ORPHAN"] + ".new", os.environ["ORPHAN"])
        time.sleep(600)
    if FAKE == "closes its channel":
        hear(channel)
        channel.close()
        time.sleep(600)
    if FAKE == "floods":
        channel.setblocking(False)
        while True:
            try:
                say(channel, type="pong", id=1)
            except BlockingIOError:
                pass
    obey(channel)


def fork_twice(mold, fds, message):
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        for fd in fds:
            os.close(fd)
        return
    if os.fork():
        os._exit(0)
    mold.close()
    work(open_channel(fds[0]), message["worker"])


def main():
    ignore_signals()
    if FAKE == "mold says nothing":
        time.sleep(600)
    channel = open_channel(63)
    if FAKE == "another version":
        global VERSION
        VERSION = "0.0.0"
    hello(channel, 0)
    configuration, fds = hear(channel)
    assert configuration["type"] == "configure", configuration
    assert len(fds) == len(configuration["listeners"]) + 3, "the listeners, the two ends of the handoff, the scoreboard"
    inherited = sorted(int(fd) for fd in os.listdir("/proc/self/fd"))
    strangers = [fd for fd in inherited if fd > 2 and fd != 63 and fd not in fds and os.path.exists(f"/proc/self/fd/{fd}")]
    assert not strangers, strangers
    private = [name for name in os.environ if name.startswith(("LISTEN_", "NOTIFY_", "WATCHDOG_"))]
    assert not private, private
    say(channel, type="ready", warnings=[])
    while True:
        message, fds = hear(channel)
        if message is None or message["type"] in ("retire", "stop"):
            sys.exit(0)
        if message["type"] == "fork":
            fork_twice(channel, fds, message)


main()
