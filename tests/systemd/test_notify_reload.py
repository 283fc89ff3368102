"""Type=notify-reload, which systemd knows from 253 on: it sends the signal itself, and the helper joins that reload."""

import pytest
from harness import until
from harness.server import APPS
from harness.systems import on_debian13, version

pytestmark = on_debian13


@pytest.fixture
def notify_reload(instance):
    """notify_reload("name", **settings) -> an open Instance of Type=notify-reload."""
    def make(name, **settings):
        one = instance(name, **settings).drop_in(link="notify-reload").open()
        assert version(one.box) >= 253 and one.show("Type") == "notify-reload"
        one.get("/")
        return one

    return make


def generations(one):
    return [r["MESSAGE"] for r in one.records() if str(r["MESSAGE"]).startswith("Generation ") and " boots" in r["MESSAGE"]]


def test_a_reload_is_one_reload_and_is_over_when_systemctl_returns(notify_reload):
    one = notify_reload("once")
    before = one.arbiter
    for number in (2, 3, 4):
        one.box.systemctl("reload", one.service)
        assert one.show("StatusText") == f"Generation {number} serves with 2 workers"
    assert len(generations(one)) == 3, "the helper has begun none of its own"
    assert one.arbiter == before and one.state == "active/running"


def test_a_broken_release_makes_systemctl_reload_fail_and_says_why(notify_reload):
    one = notify_reload("broken")
    one.may_fail = True
    one.box.write(f"{one.directory}/plain.py", "raise RuntimeError('broken release')\n")
    for _ in range(3):
        assert one.box.systemctl("reload", one.service, check=False).returncode != 0
        assert one.state == "active/running"
    assert "broken release" in one.found("The reload has failed", "PRIORITY=3")["MESSAGE"]
    status = one.show("StatusText")
    assert status.startswith("Reload failed: ") and "broken release" in status
    assert status.endswith("; generation 1 still serves with 2 workers")
    assert one.get("/").body == b"hello\n"
    one.box.write(f"{one.directory}/plain.py", (APPS / "plain.py").read_text())
    one.box.systemctl("reload", one.service)
    assert len(generations(one)) == 4


def test_a_reload_that_fails_before_the_helper_has_asked_fails_all_the_same(notify_reload):
    """Settings are read in no time: the reload is over before the helper's process exists."""
    one = notify_reload("settings")
    one.may_fail = True
    one.box.write("/etc/rgunicorn/settings.toml", "workers = 'many'\n")
    for _ in range(5):
        assert one.box.systemctl("reload", one.service, check=False).returncode != 0
    assert one.state == "active/running"
    assert one.get("/").body == b"hello\n"


def test_a_signal_by_hand_reloads_and_the_service_becomes_running_again(notify_reload):
    one = notify_reload("byhand")
    one.box.systemctl("kill", "--kill-whom=main", "--signal", "HUP", one.service)
    until(lambda: one.show("StatusText") == "Generation 2 serves with 2 workers", "the second generation")
    until(lambda: one.state == "active/running", "the service to be running")


def test_the_helper_begins_a_reload_if_systemd_has_signalled_none(notify_reload):
    one = notify_reload("alone")
    assert "generation 2 serves" in one.box.run("rgunicornctl", "-i", "alone", "reload", "--join").stdout
    assert len(generations(one)) == 1
