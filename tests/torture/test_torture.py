"""A short torture: reloads, upgrades, recycling and changes of scale under load lose nothing. `make torture` is the long one."""

import json
import os

import pytest
from harness.requirement import command

from torture import drive

@pytest.fixture(scope="session")
def generator():
    """The load generator is built before the clock of a test runs."""
    if "TORTURE" not in os.environ:
        command("cargo")
    return drive.generator()


@pytest.mark.parametrize("pool, unix", [("sync", False), ("gthread", False), ("gthread", True)],
                         ids=["sync", "gthread", "gthread over a unix socket"])
def test_reloads_failed_reloads_recycling_and_changes_of_scale_lose_no_request(pool, unix, generator, tmp_path):
    result = drive.torture(tmp_path, seconds=12, pool=pool, unix=unix, events=("reload", "break", "upgrade", "more", "less"),
                           every=0.8, seed=4, arguments=("--max-requests", 4000, "--max-requests-jitter", 1000))
    log = result.pop("log")
    shown = f"{json.dumps(result, indent=1)}\n{log}"
    assert not drive.lost(result), shown
    assert result["answered"] > 1000, shown
