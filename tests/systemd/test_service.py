"""The service in a real systemd: from its package, started by the first request, watched in the journal."""

import os
import re
import time

import pytest
from harness import until
from harness.instance import VENV
from harness.server import APPS
from harness.systems import on_both, on_debian13, version

GOOD = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "8")])
    return [b"repaired"]
"""


@on_debian13
def test_the_newer_systemd_is_one_that_knows_notify_reload(box):
    assert version(box) >= 253


@on_both
def test_the_first_request_starts_the_service(instance):
    first = instance("first").open()
    assert first.state == "inactive/dead"
    assert first.get("/").body == b"hello\n"
    assert first.state == "active/running"


@on_both
def test_a_flask_application_in_its_virtual_environment_is_served(instance):
    shop = instance("flask", {"flask_app.py": (APPS / "flask_app.py").read_text()}, app="flask_app:app",
                    python=VENV).open()
    assert shop.get("/").body == b"<h1>Hello from Flask</h1>"
    assert shop.get("/hello/box").json()["hello"] == "box"


def test_systemctl_status_shows_what_serves(instance):
    one = instance("status").open()
    one.get("/")
    until(lambda: one.show("StatusText") == "Generation 1 serves with 2 workers", "the STATUS")
    out = one.box.systemctl("status", one.service).stdout
    assert 'Status: "Generation 1 serves with 2 workers"' in out


def test_the_journal_has_the_start_a_traceback_and_the_requests(instance):
    one = instance("journal", accesslog="-").open()
    one.may_fail = True  # the error record below
    assert one.get("/pid?x=1").status == 200
    assert one.get("/raises").status == 500

    start = one.found("Generation 1 serves")
    assert start["PRIORITY"] == "6"
    assert start["SYSLOG_IDENTIFIER"] == "rgunicorn"

    traceback = one.found("raised on purpose", "PRIORITY=3")
    assert "Traceback (most recent call last)" in traceback["MESSAGE"]
    assert "RuntimeError" in traceback["MESSAGE"] and "/raises" in str(traceback)
    assert len([r for r in one.records() if "Traceback" in str(r.get("MESSAGE"))]) == 1

    access = one.found('"GET /pid?x=1 HTTP/1.1" 200')
    assert access["PRIORITY"] == "6"


def test_what_the_application_prints_is_in_the_journal(instance):
    one = instance("prints").open()
    one.may_fail = True  # wsgi.errors is for errors
    one.get("/prints")
    for text in ("printed to stdout", "written to fd 2", "printed by a child", "written to wsgi.errors"):
        one.found(text)


def test_stop_ends_cleanly_and_the_socket_stays(instance):
    one = instance("stops").open()
    one.get("/")
    one.box.systemctl("stop", one.service)
    assert one.state == "inactive/dead"
    assert (one.show("Result"), one.show("ExecMainStatus")) == ("success", "0")
    assert one.box.show(one.socket, "SubState") == "listening"
    assert one.get("/").body == b"hello\n", "the next request starts it again"


def test_stop_lets_a_request_finish(instance):
    one = instance("graceful").open()
    one.get("/")
    gate = one.gate()
    with one.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        one.box.systemctl("stop", "--no-block", one.service)
        until(lambda: one.show("ActiveState") == "deactivating", "the service to stop")
        gate.open()
        assert client.response().body == b"through the gate\n"
    until(lambda: one.state == "inactive/dead", "the end")


@on_both
def test_a_request_may_take_longer_than_systemd_would_wait_for_a_stop_as_long_as_graceful_timeout_allows_it(instance):
    one = instance("longer").drop_in("TimeoutStopSec=3").open()
    one.get("/")
    gate = one.gate()
    with one.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        began = time.monotonic()
        one.box.systemctl("stop", "--no-block", one.service)
        until(lambda: time.monotonic() - began > 6, "the time that systemd would have given it")
        assert one.show("ActiveState") == "deactivating"
        gate.open()
        assert client.response().body == b"through the gate\n"
    until(lambda: one.state == "inactive/dead", "the end")
    assert one.show("Result") == "success"


def test_an_import_may_take_longer_than_systemd_would_wait_for_a_start_up_to_boot_timeout(instance):
    """TimeoutStartSec= alone would end it; that it is not systemd which ends one that hangs says who keeps the time."""
    slow = "import time\ntime.sleep(6)\n" + GOOD
    one = instance("slow", {"plain.py": slow}, workers=1).drop_in("TimeoutStartSec=3\nRestart=no").open()
    one.may_fail = True
    assert one.get("/").body == b"repaired"
    one.box.systemctl("stop", one.service)
    one.write({"plain.py": slow.replace("6", "600")}, app="plain:app", boot_timeout=5)
    assert one.box.systemctl("start", one.service, check=False).returncode != 0
    assert (one.show("Result"), one.show("ExecMainStatus")) == ("exit-code", "3")
    one.found("(boot_timeout)", "PRIORITY=3")


def test_a_request_that_hangs_at_a_stop_is_ended_by_graceful_timeout_though_systemd_would_wait_less(instance):
    one = instance("hanging", graceful_timeout=5).drop_in("TimeoutStopSec=1").open()
    one.may_fail = True
    one.get("/")
    gate = one.gate()
    with one.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        one.box.systemctl("stop", one.service)
        client.ended()
    assert (one.state, one.show("Result")) == ("inactive/dead", "success")
    assert not [r for r in one.records() if "timed out" in str(r["MESSAGE"]) and r.get("_PID") == "1"]


@on_both
def test_systemctl_status_says_why_an_instance_could_not_start_and_what_the_system_refused(instance):
    one = instance("refused", bind="unix:/etc/refused.sock").drop_in("Restart=no")
    one.may_fail = True
    assert one.box.systemctl("start", one.service, check=False).returncode != 0
    assert (one.show("ExecMainStatus"), one.show("StatusErrno")) == ("1", "30")
    said = one.show("StatusText")
    assert re.match(r"Could not start: /etc/rgunicorn/refused.toml:\d+: cannot listen on unix:/etc/refused.sock: the folder "
                    "/etc", said), said
    shown = one.box.systemctl("status", one.service, check=False).stdout
    assert "30 (Read-only file system)" in shown, shown
    one.write({}, bind="unix:/run/rgunicorn-refused/own.sock", app="nowhere:app")
    assert one.box.systemctl("start", one.service, check=False).returncode != 0
    assert (one.show("ExecMainStatus"), one.show("StatusErrno")) == ("4", "0")
    assert "nowhere" in one.show("StatusText")


def test_restart_refuses_nobody(instance):
    one = instance("restarts").open()
    one.get("/")
    before = one.arbiter
    one.box.systemctl("restart", "--no-block", one.service)
    for _ in range(20):
        assert one.get("/").status == 200
    until(lambda: one.state == "active/running" and one.arbiter != before, "the new arbiter")
    assert one.get("/").body == b"hello\n"


@on_both
def test_reload_brings_a_new_generation_and_keeps_the_arbiter(instance):
    one = instance("reloads").open()
    one.get("/")
    before = one.arbiter
    one.box.systemctl("reload", one.service)
    until(lambda: "Generation 2 serves" in one.show("StatusText"), "the second generation")
    assert one.arbiter == before
    assert one.get("/").body == b"hello\n"


@on_both
def test_a_reload_that_fails_makes_systemctl_reload_fail_and_the_old_generation_serves_on(instance):
    one = instance("unready").open()
    one.may_fail = True
    one.get("/")
    before = one.arbiter
    one.box.write(f"{one.directory}/plain.py", "raise RuntimeError('broken release')\n")
    assert one.box.systemctl("reload", one.service, check=False).returncode != 0
    assert "broken release" in one.found("The reload has failed", "PRIORITY=3")["MESSAGE"]
    assert one.state == "active/running" and one.arbiter == before
    assert one.get("/").body == b"hello\n"
    one.box.write(f"{one.directory}/plain.py", (APPS / "plain.py").read_text())
    one.box.systemctl("reload", one.service)
    assert one.get("/").body == b"hello\n"


@on_both
def test_systemctl_reload_returns_and_fails_where_a_rolling_reload_cannot_be_undone(instance):
    """The release was replaced in place, so that the old generation cannot boot either."""
    one = instance("barred", reload_strategy="rolling").open()
    one.may_fail = True
    plain = (APPS / "plain.py").read_text()
    one.get("/")
    one.box.write(f"{one.directory}/plain.py", plain + """
import os
with open("/tmp/counted", "a") as file:
    file.write("x")
if os.path.getsize("/tmp/counted") >= 2:
    raise RuntimeError("broken release")
""")
    for _ in range(2):
        assert one.box.systemctl("reload", one.service, check=False).returncode != 0
        assert one.state == "active/running"
        assert one.get("/").body == b"hello\n"
    one.found("The failed reload is not undone")
    one.box.write(f"{one.directory}/plain.py", plain)
    one.box.systemctl("reload", one.service)
    assert one.get("/").body == b"hello\n"
    assert one.box.systemctl("stop", one.service).returncode == 0


def test_the_drop_in_for_notify_reload_does_no_harm_on_a_systemd_that_may_not_know_it(instance):
    one = instance("early").drop_in(link="notify-reload").open()
    one.may_fail = True
    one.get("/")
    one.box.systemctl("reload", one.service)
    assert one.show("StatusText") == "Generation 2 serves with 2 workers"
    one.box.write(f"{one.directory}/plain.py", "raise RuntimeError('broken release')\n")
    assert one.box.systemctl("reload", one.service, check=False).returncode != 0
    assert one.get("/").body == b"hello\n"


def test_root_asks_an_instance_by_its_name_and_others_may_not(instance):
    one = instance("asked").open()
    one.get("/")
    until(lambda: one.totals["requests"] == 1, "the request to be counted")
    status = one.status
    assert (status["instance"], status["pid"], status["generation"]) == ("asked", one.arbiter, 1)
    assert status["memory"][str(status["workers"][0])]["pss"] > 0
    stranger = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", "rgunicornctl", "-i", "asked", "status"]
    refused = one.box.run(*stranger, check=False)
    assert refused.returncode == 3 and "may not use" in refused.stderr


def test_a_signal_to_every_process_of_the_unit_is_a_reload_and_kills_nobody(instance):
    one = instance("signalled").open()
    one.get("/")
    one.box.systemctl("kill", "--signal", "HUP", one.service)
    until(lambda: "Generation 2 serves with 2 workers" in one.show("StatusText"), "the second generation")
    assert one.get("/").body == b"hello\n"


def test_a_killed_worker_is_replaced_without_a_restart(instance):
    one = instance("worker").open()
    one.may_fail = True
    victim = one.get("/pid").text
    one.box.run("kill", "-KILL", victim)
    one.found(f"pid {victim}")
    until(lambda: one.show("StatusText") == "Generation 1 serves with 2 workers", "the replacement")
    assert one.get("/pid").text != victim
    assert one.show("NRestarts") == "0"


def test_a_killed_arbiter_is_restarted_and_the_socket_never_refuses(instance):
    one = instance("arbiter").open()
    one.may_fail = True
    one.get("/")
    before = one.kill_arbiter()
    answers = [one.get("/").body for _ in range(5)]
    assert answers == [b"hello\n"] * 5
    assert one.arbiter != before
    assert one.show("NRestarts") == "1"
    assert one.box.show(one.socket, "ActiveState") == "active"


def test_a_client_who_waits_while_the_application_is_broken_is_answered_once_it_is_repaired(instance):
    """Thirty seconds of failing starts: enough for every limit that systemd has by default."""
    one = instance("broken", {"app.py": "raise RuntimeError('broken release')\n"}, app="app:app").open()
    one.may_fail = True
    with one.connect(timeout=60) as client:
        client.request(target="/")
        began = time.monotonic()

        def failed_for_thirty_seconds():
            assert one.box.show(one.socket, "ActiveState") == "active", "the socket must not fail"
            return time.monotonic() - began > 30 and int(one.show("NRestarts")) >= 10

        until(failed_for_thirty_seconds, "thirty seconds of failures", within=60)
        traceback = one.found("broken release", "PRIORITY=3")
        assert "Traceback" in traceback["MESSAGE"]
        assert one.show("ExecMainStatus") == "3" or one.state.startswith("activating")
        one.box.write(f"{one.directory}/app.py", GOOD)
        assert client.response().body == b"repaired"
    assert one.state == "active/running"


def test_an_application_that_crashes_at_boot_never_makes_the_socket_refuse(instance):
    one = instance("crashes", {"app.py": "import os\nos.abort()\n"}, app="app:app").open()
    one.may_fail = True
    waiting = [one.connect(timeout=40) for _ in range(5)]
    for client in waiting:
        client.request(target="/")
    until(lambda: int(one.show("NRestarts")) >= 6, "six restarts", within=40)
    assert one.box.show(one.socket, "ActiveState") == "active"
    one.box.write(f"{one.directory}/app.py", GOOD)
    for client in waiting:
        assert client.response().body == b"repaired"
        client.close()


def test_it_runs_as_a_user_that_exists_only_for_it(instance):
    one = instance("user").open()
    one.get("/")
    uids = one.box.run("ps", "-o", "uid=", "-p", str(one.arbiter), check=False).stdout.split() or [
        str(os.stat(f"/proc/{one.box.leader}/root/proc/{one.arbiter}").st_uid)]
    assert int(uids[0]) >= 61184
    assert one.box.path("/run/rgunicorn-user").stat().st_uid == int(uids[0])


def test_only_the_group_may_connect(instance):
    one = instance("closed").open()
    status = one.box.path(one.path).stat()
    assert status.st_mode & 0o777 == 0o660
    group = one.box.run("getent", "group", "rgunicorn").stdout.split(":")[2]
    assert status.st_gid == int(group)
    curl = ["curl", "-s", "-o", "/dev/null", "--max-time", "20", "--unix-socket", one.path, "http://x/"]
    outsider = one.box.run("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *curl, check=False)
    assert outsider.returncode == 7
    member = one.box.run("setpriv", "--reuid=65534", "--regid=65534", f"--groups={group}", *curl, check=False)
    assert member.returncode == 0


def test_the_activation_sockets_directory_is_roots(instance):
    one = instance("directory").open()
    status = one.box.path("/run/rgunicorn").stat()
    assert (status.st_uid, status.st_gid, status.st_mode & 0o7777) == (0, 0, 0o755)
    one.get("/")
    one.box.systemctl("stop", one.service)
    assert one.box.path(one.path).is_socket()


def test_the_application_may_write_to_its_state_directory_and_nowhere_else(instance):
    source = """
import json
import os
def app(environ, start_response):
    results = []
    for place in ("/var/lib/rgunicorn/writes", "/srv/writes", "/etc", "/usr", "/run/rgunicorn"):
        try:
            open(place + "/probe", "w").close()
            results.append("yes")
        except OSError:
            results.append("no")
    body = " ".join(results).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""
    one = instance("writes", {"app.py": source}, app="app:app").open()
    assert one.get("/").text == "yes no no no no"


def test_another_address_can_be_added_by_a_drop_in(instance):
    one = instance("tcp")
    one.box.write("/etc/systemd/system/rgunicorn@tcp.socket.d/address.conf", "[Socket]\nListenStream=127.0.0.1:8123\n")
    one.box.systemctl("daemon-reload")
    one.open()
    assert one.box.run("curl", "-sS", "--max-time", "10", "http://127.0.0.1:8123/").stdout == "hello\n"
    assert one.get("/").body == b"hello\n"


def test_two_instances_do_not_know_each_other(instance):
    one, two = instance("one").open(), instance("two", workers=1).open()
    one.get("/")
    two.get("/")
    one.box.systemctl("stop", one.service)
    assert two.state == "active/running"
    assert two.get("/").body == b"hello\n"


def test_check_config_tells_an_operator_what_is_wrong(instance):
    one = instance("check")
    ended = one.box.run("rgunicorn", "--instance", "check", "--check-config", check=False)
    assert ended.returncode == 0, ended.stderr
    one.box.write(f"{one.directory}/plain.py", "raise RuntimeError('typo')\n")
    ended = one.box.run("rgunicorn", "--instance", "check", "--check-config", check=False)
    assert ended.returncode == 3 and "typo" in ended.stderr


@pytest.mark.parametrize("unit", ["rgunicorn@.service"])
def test_the_unit_is_hardened(box, unit):
    out = box.run("systemd-analyze", "security", "--offline=yes", "--no-pager", f"/usr/lib/systemd/system/{unit}",
                  check=False).stdout
    score = float(out.strip().splitlines()[-1].split(":")[1].split()[0])
    assert score <= 4.0, out


def test_the_units_are_well_formed(box):
    out = box.run("systemd-analyze", "verify", "rgunicorn@x.service", "rgunicorn@x.socket", check=False)
    assert "rgunicorn@" not in out.stderr, out.stderr


def test_a_unit_without_room_for_another_process_names_the_limit(instance):
    one = instance("tasks", workers=2).drop_in("TasksMax=3\nRestart=no")
    one.may_fail = True
    assert one.box.systemctl("start", one.service, check=False).returncode != 0
    assert "TasksMax= of the unit" in one.found("cannot fork", "PRIORITY=3")["MESSAGE"]
    assert "TasksMax= of the unit" in one.show("StatusText")


def test_memory_that_runs_out_costs_one_worker_and_not_the_service(instance):
    source = """
def app(environ, start_response):
    if environ["PATH_INFO"] == "/eat":
        eaten = [bytearray(1 << 20) for _ in range(4096)]
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""
    one = instance("memory", {"app.py": source}, app="app:app", workers=1)
    one.may_fail = True
    one.box.write("/etc/systemd/system/rgunicorn@memory.service.d/limit.conf",
                  "[Service]\nMemoryMax=150M\nMemorySwapMax=0\n")
    one.box.systemctl("daemon-reload")
    one.open()
    one.get("/")
    before = one.arbiter
    with one.connect() as client:
        client.request(target="/eat")
        client.ended()
    one.found("SIGKILL")
    assert one.get("/").body == b"ok"
    assert one.arbiter == before
