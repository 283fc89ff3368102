"""docs/systemd.md: its commands, in their order, work."""

import re
import shutil

import pytest
from harness.server import ROOT
from harness.systems import on_both

GUIDE = (ROOT / "docs/systemd.md").read_text()
BLOCK = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)

APP = """
import os

def app(environ, start_response):
    body = b"served\\n"
    if environ["PATH_INFO"] == "/upload":
        open("/srv/shop/media/upload", "w").close()
    if environ["PATH_INFO"] == "/secret":
        body = open(os.environ["CREDENTIALS_DIRECTORY"] + "/django-secret-key", "rb").read()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


@pytest.fixture
def guest(box):
    """The box with an application at /srv/shop, and without what the guide writes afterwards."""
    box.write("/srv/shop/shop.py", APP)
    yield box
    instances = ["rgunicorn@shop", "rgunicorn@blog"]
    units = [f"{name}.{kind}" for name in instances for kind in ("socket", "service")] + ["shop-admin.socket"]
    box.systemctl("disable", "--now", *units, check=False)
    for path in ["rgunicorn@.service.d", "rgunicorn@shop.service.d", "rgunicorn@shop.socket.d"]:
        shutil.rmtree(box.path(f"/etc/systemd/system/{path}"), ignore_errors=True)
    box.run("rm", "-f", "/etc/systemd/system/shop-admin.socket")
    box.systemctl("daemon-reload")


@on_both
def test_the_commands_of_the_guide_work_in_their_order(guest):
    ran = 0
    for kind, text in BLOCK.findall(GUIDE):
        if kind in ("toml", "ini"):
            first, rest = text.split("\n", 1)
            guest.write(first.removeprefix("# "), rest)
            continue
        for line in text.splitlines():
            command = line.removeprefix("# ")
            ended = guest.run("bash", "-c", command, check=False)
            assert ended.returncode == 0, f"{command}\n{ended.stdout}{ended.stderr}"
            if "curl" in command:
                assert ended.stdout.strip(), command
                assert ended.stdout == "served\n" or "secret" in command, f"{command}: {ended.stdout}"
            ran += 1
    assert ran > 40
    assert guest.run("journalctl", "--no-pager", "-u", "rgunicorn@shop", "-p", "err", "-o", "cat").stdout == ""


def test_what_the_guide_says_of_the_units_is_true():
    unit = (ROOT / "systemd/rgunicorn@.service").read_text()
    for line in ("TimeoutStopSec=40", "WatchdogSec=30"):
        assert line in unit
    assert "FileDescriptorName=http" in (ROOT / "systemd/rgunicorn@.socket").read_text()
