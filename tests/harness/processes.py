"""Facts about processes, read from /proc."""

import contextlib
import ctypes
import os
import socket
import threading
from pathlib import Path


def alive(pid):
    """Whether the process runs. A zombie does not: it has ended, only nobody has asked for its status yet."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except (FileNotFoundError, ProcessLookupError):
        return False


def children(pid):
    """Pids of the living children, in the order of their birth."""
    try:
        pids = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    except (FileNotFoundError, ProcessLookupError):
        return []
    return sorted((int(child) for child in pids if alive(int(child))), key=born)


def born(pid):
    """When the process started, in clock ticks since boot; infinity for one that is gone."""
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return float("inf")


def with_environment(entry):
    """Pids of all processes that were started with `entry` (NAME=VALUE) in their environment."""
    found = []
    for process in Path("/proc").iterdir():
        if not process.name.isdigit():
            continue
        try:
            if entry.encode() in (process / "environ").read_bytes().split(b"\0") and alive(process.name):
                found.append(int(process.name))
        except (FileNotFoundError, ProcessLookupError, PermissionError):
            continue
    return found


def command_line(pid):
    """The arguments that the process shows."""
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().rstrip(b"\0").decode(errors="replace").split("\0")
    except (FileNotFoundError, ProcessLookupError):
        return []


def open_files(pid):
    """What the process has open: fd number -> target."""
    result = {}
    try:
        numbers = os.listdir(f"/proc/{pid}/fd")
    except (FileNotFoundError, ProcessLookupError):
        return result
    for number in numbers:
        try:
            result[int(number)] = os.readlink(f"/proc/{pid}/fd/{number}")
        except FileNotFoundError:
            continue
    return result


def proportional_memory(pid):
    """PSS in bytes."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) * 1024
    raise AssertionError(f"no Pss of {pid}")


def switches(pid):
    """Voluntary context switches of all threads: how often the process has gone to sleep, i.e. has been awake."""
    total = 0
    for thread in Path(f"/proc/{pid}/task").iterdir():
        for line in (thread / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


def listening(pid):
    """Addresses at which a process listens, in the order of the fds: (host, port), or the path of a unix socket."""
    addresses = {}
    for name in ("tcp", "tcp6"):
        for line in Path(f"/proc/{pid}/net/{name}").read_text().splitlines()[1:]:
            columns = line.split()
            if columns[3] == "0A":
                addresses[columns[9]] = _address(columns[1])
    for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]:
        columns = line.split(maxsplit=7)
        if int(columns[3], 16) & 0x10000 and len(columns) == 8:  # __SO_ACCEPTCON
            addresses[columns[6]] = columns[7]
    found = []
    for _, target in sorted(open_files(pid).items()):
        inode = target.removeprefix("socket:[").removesuffix("]")
        if target.startswith("socket:[") and inode in addresses:
            found.append(addresses[inode])
    return found


def _address(text):
    host, port = text.split(":")
    words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
    raw = b"".join(words)
    family = socket.AF_INET if len(raw) == 4 else socket.AF_INET6
    return socket.inet_ntop(family, raw), int(port, 16)


def threads(pid):
    """Names of a process's threads by their ids."""
    return {int(task.name): (task / "comm").read_text().strip() for task in Path(f"/proc/{pid}/task").iterdir()}


@contextlib.contextmanager
def held(thread):
    """One thread does not run, and the rest of its process does (ptrace(2): PTRACE_SEIZE, PTRACE_INTERRUPT)."""
    libc = ctypes.CDLL(None, use_errno=True)
    for request in (0x4206, 0x4207):
        if libc.ptrace(request, thread, None, None) != 0:
            raise OSError(ctypes.get_errno(), f"thread {thread} cannot be held")
    # The kernel keeps a thread that was killed until its tracer has heard of it.
    threading.Thread(target=_hear_of_its_end, args=(thread,), daemon=True).start()
    try:
        yield
    finally:
        libc.ptrace(17, thread, None, None)  # PTRACE_DETACH


def _hear_of_its_end(thread):
    with contextlib.suppress(ChildProcessError):
        status = None
        while status is None or not (os.WIFEXITED(status) or os.WIFSIGNALED(status)):
            _, status = os.waitpid(thread, 0x40000000)  # __WALL
