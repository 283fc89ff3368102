"""What is asked of the programs in a package, whatever its kind."""

import re
import subprocess

BINARIES = ("usr/bin/rgunicorn", "usr/bin/rgunicornctl", "usr/lib/rgunicorn/rgunicorn_worker.abi3.so")


def glibc(tree, files=BINARIES):
    """The oldest C library that has every symbol that is used, as (2, 34)."""
    found = set()
    for path in files:
        out = subprocess.run(["objdump", "-T", tree / path], check=True, capture_output=True, text=True).stdout
        found |= {tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([\d.]+)", out)}
    return max(found)[:2]


def needed(tree, files=BINARIES):
    """The libraries that are linked."""
    found = set()
    for path in files:
        out = subprocess.run(["objdump", "-p", tree / path], check=True, capture_output=True, text=True).stdout
        found |= set(re.findall(r"NEEDED\s+(\S+)", out))
    return found
