"""Trees: the files of another Debian, for a box with another systemd, or with nothing of this machine in it.

Owns how they are made (mmdebstrap, once, some 60 s) and where they are kept: below $XDG_CACHE_HOME/rgunicorn, or in the
checkout's .cache. Invariant: what has the final name is complete, and nobody changes it; a box puts an overlay on it.
Knows no mirror: it is the one that this machine's apt uses for itself, or $DEBIAN_MIRROR where the machine is no Debian.
"""

import fcntl
import hashlib
import os
import shutil
import signal
import subprocess
from pathlib import Path

from .requirement import command, require

ROOT = Path(__file__).resolve().parents[2]
KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
# What every tree has: a bootable systemd whose dynamic users have names, Python for an application, a few tools to look.
BASE = ("systemd", "systemd-sysv", "dbus", "libnss-systemd", "python3", "python3-venv", "curl", "iproute2", "procps",
        "passwd", "util-linux",
        # What the pages in docs/ put in front, and what they type.
        "nginx", "haproxy", "sudo", "adduser", "logrotate")
# The longest that making one may take: a slow mirror, a loaded machine.
SECONDS = 900
# Documentation is half of the size. The rule is taken out again: packages that a test installs are complete.
LEAN = ("path-exclude=/usr/share/doc/*", "path-exclude=/usr/share/man/*", "path-exclude=/usr/share/locale/*")


def tree(suite, packages=()):
    """The directory of a Debian `suite` ("trixie" has systemd 257, "bookworm" 252) with BASE and `packages`.

    Made at the first call for the same suite and packages, found again later. Without root, mmdebstrap or packages to
    load the test is skipped; with CI=true it fails and says which of them is missing.
    """
    require(os.geteuid() == 0, "root, to make a Debian tree")
    names = sorted({*BASE, *packages})
    key = hashlib.sha256(" ".join([*names, *LEAN]).encode()).hexdigest()[:12]
    place = cache()
    place.mkdir(parents=True, exist_ok=True)
    made = place / f"{suite}-{key}"
    # Whoever else wants the same one waits for it.
    with open(place / f"{made.name}.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not made.is_dir():
            # The time that this takes is not the test's (pytest-timeout counts with this timer); it has its own bound.
            left, _ = signal.setitimer(signal.ITIMER_REAL, 0)
            try:
                _make(suite, names, made)
            finally:
                signal.setitimer(signal.ITIMER_REAL, left)
    return made


def cache():
    """Where trees are kept."""
    home = os.environ.get("XDG_CACHE_HOME")
    return Path(home) / "rgunicorn" / "trees" if home else ROOT / ".cache" / "trees"


def _make(suite, names, made):
    command("mmdebstrap")
    require(KEYRING.exists(), f"{KEYRING} (package debian-archive-keyring)")
    mirror = _mirror()
    require(mirror, "a Debian mirror: none in this machine's apt sources (name one in $DEBIAN_MIRROR)")
    part = made.with_name(f"{made.name}.part")
    _remove(part)
    print(f"making a Debian {suite} tree with {len(names)} packages: {made}", flush=True)
    log = made.with_name(f"{made.name}.log")
    with open(log, "w") as out:
        ended = subprocess.run(
            ["mmdebstrap", "--mode=root", "--variant=minbase", f"--keyring={KEYRING}", f"--include={','.join(names)}",
             *(f"--aptopt={line}" for line in _apt_options()), *(f"--dpkgopt={rule}" for rule in LEAN),
             '--customize-hook=rm "$1/etc/dpkg/dpkg.cfg.d/99mmdebstrap"', suite, part, mirror],
            stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=SECONDS)
    if ended.returncode != 0:
        _remove(part)
        last = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
        require(False, f"the packages of Debian {suite} cannot be loaded or unpacked ({log}):\n{last}")
    part.rename(made)


def _mirror():
    """The archive that this machine's apt loads its own packages from, if it is Debian's."""
    if mirror := os.environ.get("DEBIAN_MIRROR"):
        return mirror
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    release = {name: value.strip('"') for name, value in release.items()}
    if release.get("ID") != "debian" or not shutil.which("apt-get"):
        return None
    targets = subprocess.run(["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)",
                              "Created-By: Packages"], capture_output=True, text=True).stdout
    for line in targets.splitlines():
        uri, suite, component = line.split()
        if suite in (release.get("VERSION_CODENAME"), "stable", "testing", "unstable", "sid") and component == "main":
            return uri
    return None


def _apt_options():
    """How this machine's apt loads: its proxies and the like, which mmdebstrap does not take over by itself."""
    dump = subprocess.run(["apt-config", "dump"], capture_output=True, text=True).stdout
    kinds = ("http", "https", "retries", "check-valid-until", "check-date", "forceipv4", "forceipv6")
    return [line for line in dump.splitlines()
            if line.lower().startswith(tuple(f"acquire::{kind}" for kind in kinds)) and not line.endswith('"";')]


def _remove(part):
    # A run that was killed may have left the kernel's file systems mounted in it.
    for line in Path("/proc/self/mounts").read_text().splitlines():
        if line.split()[1].startswith(f"{part}/"):
            subprocess.run(["umount", "--lazy", line.split()[1]], check=False)
    shutil.rmtree(part, ignore_errors=True)
