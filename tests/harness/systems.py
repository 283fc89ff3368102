"""The systemds that tests run on: this machine's own, and that of Debian 13.

`@on_both` runs a test on each. Boxes are booted at their first use and live as long as the session.
"""

import pytest

from .box import Box
from .tree import tree

# Name, Debian suite: None is this machine. Debian 12 has systemd 252 (no notify-reload, no FileDescriptorStorePreserve=),
# Debian 13 has 257.
SUITES = {"here": None, "debian13": "trixie", "debian12": "bookworm"}

on_both = pytest.mark.parametrize("box", ["here", "debian13"], indirect=True)
on_debian13 = pytest.mark.parametrize("box", ["debian13"], indirect=True)


def boot(name):
    """A box that is not booted yet: `with boot("debian13") as box`."""
    suite = SUITES[name]
    return Box() if suite is None else Box(tree(suite))


def version(box):
    """The number of the box's systemd."""
    return int(box.run("systemctl", "--version").stdout.split()[1])
