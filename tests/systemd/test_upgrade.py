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
    assert (one.arbiter, one.state) == (arbiter, "active/running")
    until(lambda: one.show("StatusText") == "Generation 2 serves with 2 workers", "the STATUS")
    one.box.systemctl("reload", one.service)
    one.found("Generation 3 serves")
    assert one.get("/").body == b"hello\n"
    assert int(one.show("NRestarts")) == 0
    assert one.records("MESSAGE_ID=059f3fbe136b4be185f19636ff51699b")
