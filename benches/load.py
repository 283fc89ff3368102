"""One run of wrk against one server, and what the server's process tree spent on it."""

import os
import re
import subprocess
from dataclasses import dataclass

import processes
from servers import APPS

_UNITS = {"us": 1e-3, "ms": 1.0, "s": 1e3, "m": 6e4}


@dataclass(frozen=True)
class Run:
    """The figures of a run. Times of latency are milliseconds."""

    requests: int
    seconds: float
    processor: float
    p50: float
    p99: float
    errors: int

    @property
    def microseconds(self):
        """Processor time per request of the whole tree."""
        return self.processor / self.requests * 1e6

    @property
    def rate(self):
        """Requests per second."""
        return self.requests / self.seconds


def run(server, *, seconds, connections, cpus, script=None, company=None):
    """Loads `server` from the processors `cpus`.

    `company`: a path and a number of connections that go on asking for it meanwhile; latencies and requests are those
    of the others, the processor time is everybody's.
    """
    if company:
        path, others = company
        beside = subprocess.Popen(["wrk", "-t1", f"-c{others}", f"-d{seconds}s", "--timeout", "5s",
                                   f"http://127.0.0.1:{server.port}{path}"], stdout=subprocess.DEVNULL,
                                  preexec_fn=lambda: os.sched_setaffinity(0, cpus))
        try:
            return run(server, seconds=seconds, connections=connections, cpus=cpus, script=script)
        finally:
            beside.wait(seconds + 30)
    command = ["wrk", "--latency", "-t1", f"-c{connections}", f"-d{seconds}s", "--timeout", "5s"]
    if script:
        command += ["-s", str(APPS / script)]
    command.append(f"http://127.0.0.1:{server.port}{server.path}")
    before = processes.processor_time(server.process.pid)
    finished = subprocess.run(command, capture_output=True, text=True, timeout=seconds + 30, check=True,
                              preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    spent = processes.processor_time(server.process.pid) - before
    return _read(finished.stdout, spent)


def bare(tools, *, seconds, threads, cpus):
    """So many Python threads without a server, which sleep 10 ms again and again: the most that a server can reach."""
    child = subprocess.Popen([tools.python, APPS / "bare_threads.py", str(seconds), str(threads)], text=True,
                             stdout=subprocess.PIPE, preexec_fn=lambda: os.sched_setaffinity(0, cpus))
    said = child.stdout.read().split()
    _, status, usage = os.wait4(child.pid, 0)
    child.returncode = os.waitstatus_to_exitcode(status)
    if len(said) != 2:
        raise RuntimeError("bare_threads.py has said nothing")
    return Run(requests=int(said[0]), seconds=float(said[1]), processor=usage.ru_utime + usage.ru_stime, p50=float("nan"),
               p99=float("nan"), errors=0)


def _read(text, processor):
    total = re.search(r"(\d+) requests in ([\d.]+)(us|ms|s|m)", text)
    if not total or total[1] == "0":
        raise RuntimeError(f"no request was answered:\n{text}")
    sockets = re.search(r"Socket errors: connect (\d+), read (\d+), write (\d+), timeout (\d+)", text)
    refused = re.search(r"Non-2xx or 3xx responses: (\d+)", text)
    # A read error is how wrk counts a connection that the server closes after each response, without keep-alive.
    errors = sum(int(sockets[group]) for group in (1, 3, 4)) if sockets else 0
    return Run(requests=int(total[1]), seconds=float(total[2]) * _UNITS[total[3]] / 1e3, processor=processor,
               p50=_percentile(text, 50), p99=_percentile(text, 99), errors=errors + int(refused[1] if refused else 0))


def _percentile(text, percent):
    found = re.search(rf"^\s+{percent}%\s+([\d.]+)(us|ms|s|m)$", text, re.MULTILINE)
    return float(found[1]) * _UNITS[found[2]] if found else float("nan")
