"""Manual pages, and the two sources of help beside them: `--help` and `rgunicorn explain`."""

import re
import subprocess

import pytest
from harness.requirement import command
from harness.server import ROOT, control, run

PAGES = sorted((ROOT / "man").iterdir())
# What mandoc says of this machine, not of the page: other pages that are not installed here.
MACHINE = re.compile(r"referenced manual not found|outdated mandoc\.db")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_mandoc_has_nothing_to_say_against_a_page(page):
    said = subprocess.run([command("mandoc"), "-Tlint", page], capture_output=True, text=True)
    lines = [line for line in (said.stdout + said.stderr).splitlines() if not MACHINE.search(line)]
    assert not lines, "\n".join(lines)


def test_pages_refer_to_pages_of_ours_that_exist():
    names = {page.name for page in PAGES}
    for page in PAGES:
        for name, section in re.findall(r"^\.Xr (rgunicorn\S*) (\d)", page.read_text(), re.MULTILINE):
            assert f"{name}.{section}" in names, f"{page.name} refers to {name}({section})"


def test_rgunicornctls_page_has_every_command_and_option_of_its_help():
    page = (ROOT / "man" / "rgunicornctl.1").read_text()
    help_text = control("--help").stdout
    commands = re.findall(r"^  ([a-z]+)\b", help_text.split("Options")[0], re.MULTILINE)
    options = re.findall(r"--([a-z]+)", help_text)
    assert len(commands) > 7 and len(options) > 5
    for word in commands:
        assert re.search(rf"^\.It Cm {word}\b", page, re.MULTILINE), f"{word} is not in rgunicornctl(1)"
    for word in options:
        assert f"Fl -{word}" in page, f"--{word} is not in rgunicornctl(1)"


def test_the_page_of_signals_has_every_signal_that_the_arbiter_takes():
    source = (ROOT / "src/supervisor/signals.rs").read_text()
    page = (ROOT / "man" / "rgunicorn-signals.7").read_text()
    taken = re.findall(r"\(Signal::(SIG\w+), Sent", source)
    assert len(taken) >= 9
    for signal in taken:
        assert signal in page, signal


def test_help_has_a_line_for_each_setting_and_explain_tells_it_all():
    text = run("--help").stdout
    assert max(len(line) for line in text.splitlines()) <= 120
    assert "-w, --workers NUMBER" in text and "--keyfile" not in text
    told = run("explain", "--keep-alive").stdout
    assert told.startswith("keepalive: ") and "load balancers" in told and "RGUNICORN_KEEPALIVE" in told
    assert "nginx" in run("explain", "keyfile").stdout, "a refused setting has a way out"
