"""SIGUSR2 in a real systemd: the main process stays, its sockets, watchdog and reload go on."""

import pytest
from harness import until
from harness.systems import on_both


@on_both
@pytest.mark.parametrize("way", ["signal", "rgunicornctl"])
def test_the_main_process_stays_and_the_service_goes_on(instance, way):
    one = instance(f"upgrade-{way}").open()
    assert one.get("/").body == b"hello\n"
    arbiter = one.arbiter
    with one.connect() as kept:
        assert kept.get("/").status == 200
        if way == "signal":
            one.box.systemctl("kill", "--kill-who=main", "--signal=USR2", one.service)
        else:
            assert "generation 2 serves" in one.box.run("rgunicornctl", "-i", one.name, "upgrade").stdout
        one.found("has taken over")
        one.found("Generation 2 serves")
        assert kept.get("/").status == 200
    until(lambda: one.show("StatusText") == "Generation 2 serves with 2 workers", "the STATUS")
    assert (one.arbiter, one.state) == (arbiter, "active/running")
    one.box.systemctl("reload", one.service)
    one.found("Generation 3 serves")
    assert one.get("/").body == b"hello\n"
    assert int(one.show("NRestarts")) == 0
    assert one.records("MESSAGE_ID=059f3fbe136b4be185f19636ff51699b")


@on_both
def test_what_systemd_keeps_and_what_workers_print_are_the_same_after_an_upgrade(instance):
    one = instance("upgrade-kept", bind=["unix:/run/rgunicorn-upgrade-kept/own.sock"]).open()
    one.may_fail = True  # wsgi.errors is for errors
    assert one.get("/").body == b"hello\n"
    before, kept = one.arbiter, int(one.show("NFileDescriptorStore"))
    assert kept == 4, "listener, both ends of the handoff, scoreboard"
    for generation in (2, 3):
        one.box.run("rgunicornctl", "-i", one.name, "upgrade")
        one.found(f"Generation {generation} serves")
    assert int(one.show("NFileDescriptorStore")) == kept
    one.get("/prints")
    for text in ("printed to stdout", "written to fd 2"):
        one.found(text)
    # What the arbiter has taken up is what it leaves to the next one.
    with one.connect() as client:
        assert client.get("/").status == 200
        one.box.systemctl("restart", one.service)
        assert client.get("/").status == 200
    assert one.arbiter != before


@on_both
def test_an_instance_runs_on_when_its_package_is_installed_anew_and_takes_the_new_program_when_told(instance):
    one = instance("upgrade-dpkg").open()
    assert one.get("/").body == b"hello\n"
    before = one.arbiter
    with one.connect() as kept:
        assert kept.get("/").status == 200
        one.box.run("dpkg", "-i", "/run/outside/rgunicorn.deb")
        assert one.get("/").body == b"hello\n"
        one.box.run("rgunicornctl", "-i", one.name, "upgrade")
        assert kept.get("/").status == 200
    assert (one.arbiter, one.state) == (before, "active/running")
    assert one.box.run("readlink", f"/proc/{before}/exe").stdout.strip() == "/usr/bin/rgunicorn"
