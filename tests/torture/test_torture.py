"""A short torture: reloads, recycling and changes of scale under load lose nothing. `make torture` is the long one."""

import importlib.util
import json
import os
from pathlib import Path

import pytest
from harness.requirement import command

_spec = importlib.util.spec_from_file_location("torture_drive", Path(__file__).with_name("drive.py"))
drive = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(drive)


@pytest.fixture(scope="session")
def generator():
    """The load generator is built before the clock of a test runs."""
    if "TORTURE" not in os.environ:
        command("cargo")
    return drive.generator()


@pytest.mark.parametrize("pool, unix", [("sync", False), ("gthread", False), ("gthread", True)],
                         ids=["sync", "gthread", "gthread over a unix socket"])
def test_reloads_recycling_and_changes_of_scale_lose_no_request(pool, unix, generator, tmp_path):
    result = drive.torture(tmp_path, seconds=12, pool=pool, unix=unix, events=("reload", "more", "less"), every=1.0,
                           seed=4, arguments=("--max-requests", 400, "--max-requests-jitter", 100))
    log = result.pop("log")
    shown = f"{json.dumps(result, indent=1)}\n{log}"
    assert result["lost_in_all"] == 0, shown
    assert result["run_twice"] == 0, shown
    assert result["answered"] > 1000, shown
    assert result["events"].keys() == {"reload", "more", "less"}, shown
    assert result["worker_processes"] > 8, shown
