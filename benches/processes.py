"""What a tree of processes costs: processor time, memory, wake-ups. Read from the kernel, Linux only."""

import os
import time
from pathlib import Path


def tree(root):
    """The pids of `root` and all its descendants."""
    parents = {}
    for directory in Path("/proc").iterdir():
        if directory.name.isdigit():
            try:
                stat = (directory / "stat").read_text()
            except OSError:
                continue
            # The command's name may contain anything, spaces and parentheses too.
            parents[int(directory.name)] = int(stat.rpartition(")")[2].split()[1])
    found = [root]
    for pid in found:
        found += [child for child, parent in parents.items() if parent == pid]
    return found


def processor_time(root):
    """Seconds of processor time of the tree, of its living processes and of the children that they have reaped.

    A process's own clock counts nanoseconds and includes its ended threads; reaped children come in ticks.
    """
    tick = os.sysconf("SC_CLK_TCK")
    total = 0.0
    for pid in tree(root):
        try:
            # The clock of another process, see clock_getcpuclockid(3): CPUCLOCK_SCHED of the whole thread group.
            total += time.clock_gettime_ns((~pid << 3) | 2) / 1e9
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
            total += (int(fields[13]) + int(fields[14])) / tick
        except (OSError, ValueError):
            continue
    return total


def proportional_memory(pid):
    """MiB of PSS of one process: what is shared is divided among those who share it."""
    for line in Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines():
        if line.startswith("Pss:"):
            return int(line.split()[1]) / 1024
    return 0.0


def switches(pid):
    """How often the threads of a process went to sleep of their own accord: each is a wake-up later."""
    total = 0
    for task in Path(f"/proc/{pid}/task").iterdir():
        for line in (task / "status").read_text().splitlines():
            if line.startswith("voluntary_ctxt_switches:"):
                total += int(line.split()[1])
    return total


class Stolen:
    """How much of the machine others took since this object was made: the host's steal, in percent of all time."""

    def __init__(self):
        self._before = self._read()

    def percent(self):
        """Since the object was made."""
        total, stolen = (now - before for now, before in zip(self._read(), self._before))
        return 100 * stolen / total if total else 0.0

    @staticmethod
    def _read():
        fields = [int(field) for field in Path("/proc/stat").read_text().splitlines()[0].split()[1:9]]
        return sum(fields), fields[7]
