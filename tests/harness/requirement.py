"""What a machine must have for a test. At home a missing thing skips the test; with CI=true it fails."""

import os
import shutil

import pytest


def require(present, what):
    """Goes on if `present`; else skips, or in CI fails, and says `what` is missing."""
    if present:
        return
    if os.environ.get("CI", "") not in ("", "0", "false"):
        pytest.fail(f"missing requirement: {what}", pytrace=False)
    pytest.skip(f"missing here: {what}")


def command(name):
    """The path of a command, which is required."""
    found = shutil.which(name) or shutil.which(name, path="/usr/sbin:/sbin:/usr/lib/systemd:/lib/systemd")
    require(found, f"the command {name}")
    return found
