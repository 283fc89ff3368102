"""What the units promise: users, directories, credentials, several sockets; and errors that name the sandbox."""

import json
import re

import pytest
from harness import until
from harness.instance import PYTHON
from harness.systems import on_both

APP = """
import json, os, pwd

def app(environ, start_response):
    name = environ["PATH_INFO"]
    if name == "/credential":
        path = os.environ["CREDENTIALS_DIRECTORY"] + "/token"
        told = {"content": open(path).read(), "mode": oct(os.stat(path).st_mode & 0o777)}
    elif name == "/file":
        told = {"content": open("/srv/static/owned").read()}
    else:
        told = {"uid": os.getuid(), "user": pwd.getpwuid(os.getuid()).pw_name,
                "folders": {name: os.environ[name] for name in os.environ if name.endswith("_DIRECTORY")}}
        for name in ("STATE_DIRECTORY", "CACHE_DIRECTORY", "RUNTIME_DIRECTORY"):
            with open(os.environ[name] + "/written", "w") as file:
                file.write("x")
    body = json.dumps(told).encode()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def fails(one):
    """Starts the service, which must fail; its error records as one text."""
    one.may_fail = True
    assert one.box.systemctl("start", one.service, check=False).returncode != 0
    found = until(lambda: one.records("PRIORITY=3", "SYSLOG_IDENTIFIER=rgunicorn"), "an error record")
    one.box.systemctl("stop", one.service, check=False)
    return "\n".join(record["MESSAGE"] for record in found)


@on_both
def test_a_user_made_for_the_occasion_has_its_own_directories(instance):
    one = instance("dynamic", {"plain.py": APP}).open()
    told = one.get("/").json()
    assert told["user"] == "rgunicorn-dynamic" and 61184 <= told["uid"] <= 65519
    assert told["folders"] == {"STATE_DIRECTORY": "/var/lib/rgunicorn/dynamic", "CACHE_DIRECTORY":
                               "/var/cache/rgunicorn/dynamic", "RUNTIME_DIRECTORY": "/run/rgunicorn-dynamic"}
    status = one.box.path("/var/lib/private/rgunicorn/dynamic/written").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (told["uid"], 0o640)


@on_both
def test_a_user_that_was_made_beforehand_is_taken(instance):
    one = instance("static", {"plain.py": APP})
    one.box.run("useradd", "--system", "--user-group", "--no-create-home", "rgunicorn-static")
    uid = int(one.box.run("id", "-u", "rgunicorn-static").stdout)
    one.box.write("/srv/static/owned", "mine", 0o600)
    one.box.run("chown", "rgunicorn-static", "/srv/static/owned")
    one.open()
    assert one.get("/").json()["uid"] == uid
    assert one.get("/file").json()["content"] == "mine"
    assert one.box.path("/var/lib/private/rgunicorn/static").stat().st_uid == uid
    assert json.loads(one.box.run("rgunicornctl", "-i", "static", "--json", "status").stdout)["pid"] == one.arbiter


@on_both
def test_a_credential_reaches_the_application(instance):
    one = instance("credential", {"plain.py": APP})
    one.box.write("/etc/rgunicorn/token", "secret", 0o600)
    one.drop_in("LoadCredential=token:/etc/rgunicorn/token").open()
    for _ in range(2):
        told = one.get("/credential").json()
        assert told["content"] == "secret" and told["mode"] in ("0o400", "0o440")


@on_both
def test_what_systemd_itself_cannot_provide_has_the_status_that_the_guide_names_and_is_tried_again(instance):
    one = instance("unprovided", {"plain.py": APP}).open()
    one.may_fail = True
    for line, status in [("ReadWritePaths=/srv/nowhere", "226"), ("LoadCredential=token:/etc/rgunicorn/nowhere", "243")]:
        one.drop_in(line)
        with one.connect(30) as client:
            client.request(target="/")
            until(lambda status=status: one.show("ExecMainStatus") == status, f"status {status}", 20)
            one.drop_in("")
            assert client.response().status == 200, "who has waited meanwhile is served once it is repaired"
        one.box.systemctl("stop", one.service)


@on_both
def test_several_named_sockets_are_served_whichever_starts_the_service(instance):
    one = instance("several", {"plain.py": APP}, bind=["fdname:http", "fdname:admin"])
    one.box.write("/etc/systemd/system/several-admin.socket",
                  "[Socket]\nListenStream=/run/rgunicorn/several-admin.sock\nFileDescriptorName=admin\nSocketMode=0600\n"
                  "Service=rgunicorn@several.service\nRemoveOnStop=yes\n")
    one.drop_in("Sockets=several-admin.socket", "sockets")
    one.open()
    one.box.systemctl("start", "several-admin.socket")
    for path in ("/run/rgunicorn/several-admin.sock", one.path):
        with one.box.connect(path) as client:
            assert client.get("/").status == 200
    assert "(admin, from systemd)" in one.found("several-admin.sock")["MESSAGE"]
    assert "(http, from systemd)" in one.found("several.sock")["MESSAGE"]
    one.box.systemctl("stop", one.service, "several-admin.socket")


@on_both
def test_a_socket_that_bind_names_and_nobody_passes_is_an_error_that_names_both(instance):
    one = instance("unpassed", {"plain.py": APP}, bind=["fdname:http", "fdname:admin"])
    text = fails(one)
    assert "FileDescriptorName=admin" in text and "it passed: http" in text


@on_both
def test_units_of_ones_own_that_are_named_as_the_program_is_are_served(box):
    """As Gunicorn's documentation has gunicorn.socket: its fd has the unit's name, which is no name of the fd store."""
    box.write("/srv/own/plain.py", APP)
    box.write("/etc/systemd/system/rgunicorn.socket", "[Socket]\nListenStream=/run/own.sock\n")
    box.write("/etc/systemd/system/rgunicorn.service",
              "[Service]\nType=notify\nWorkingDirectory=/srv/own\nFileDescriptorStoreMax=16\n"
              "StateDirectory=own\nCacheDirectory=own\nRuntimeDirectory=own\n"
              f"ExecStart=/usr/bin/rgunicorn --python {PYTHON} plain:app\n")
    box.systemctl("daemon-reload")
    box.systemctl("start", "rgunicorn.socket")
    try:
        for _ in range(2):
            with box.connect("/run/own.sock") as client:
                assert client.get("/").json()["user"] == "root"
                box.systemctl("restart", "rgunicorn.service")
    finally:
        box.systemctl("stop", "rgunicorn.socket", "rgunicorn.service", check=False)
        box.run("rm", "/etc/systemd/system/rgunicorn.socket", "/etc/systemd/system/rgunicorn.service")
        box.systemctl("daemon-reload")


@on_both
def test_an_address_and_a_port_start_the_service_too(instance):
    one = instance("port", {"plain.py": APP})
    one.box.write(f"/etc/systemd/system/{one.socket}.d/tcp.conf", "[Socket]\nListenStream=127.0.0.1:8102\n")
    one.box.systemctl("daemon-reload")
    one.open()
    assert one.state == "inactive/dead"
    answer = one.box.run("curl", "-sS", "--max-time", "20", "http://127.0.0.1:8102/").stdout
    assert json.loads(answer)["user"] == "rgunicorn-port"


@on_both
def test_an_instance_named_after_a_domain_needs_a_user_of_another_name_and_is_told_so(instance):
    one = instance("shop.example.com", {"plain.py": APP})
    one.may_fail = True
    assert one.box.systemctl("start", one.service, check=False).returncode != 0
    one.box.systemctl("stop", one.service, one.socket)
    journal = " ".join(str(record["MESSAGE"]) for record in one.records())
    assert "'start' task: Invalid argument" in journal, "systemd says no more, and no less, than the guide has"
    told = one.box.run("rgunicornctl", "-i", one.name, "status", check=False).stderr
    checked = one.box.run("rgunicorn", "--instance", one.name, "--check-config").stderr
    for text in (told, checked):
        assert "systemd makes no user rgunicorn-shop.example.com" in text and "write User=" in text, text
    one.drop_in("User=shop").open()
    assert one.get("/").json()["user"] == "shop"
    assert json.loads(one.box.run("rgunicornctl", "-i", one.name, "--json", "status").stdout)["instance"] == one.name
    assert "systemd makes" not in one.box.run("rgunicorn", "--instance", "several", "--check-config", check=False).stderr


def suggested(text):
    """The lines for a drop-in that an error names."""
    return "\n".join(dict.fromkeys(re.findall(r"((?:ProtectHome|BindReadOnlyPaths|ReadWritePaths)=[\w/.-]+)", text)))


@on_both
def test_an_application_and_a_virtual_environment_in_a_home_are_explained_and_the_advice_works(instance):
    one = instance("home", {"plain.py": APP}, chdir="/home/me/app", python="/home/me/venv/bin/python")
    one.box.write("/home/me/app/plain.py", APP)
    if not one.box.path("/home/me/venv").exists():
        one.box.run(PYTHON, "-m", "venv", "--without-pip", "/home/me/venv")
    one.box.run("chmod", "0700", "/home/me")
    text = fails(one)
    assert 'chdir = "/home/me/app"' in text and 'python = "/home/me/venv/bin/python"' in text, text
    assert text.count("ProtectHome= of the unit hides /home") == 2
    lines = suggested(text)
    assert lines.split("\n") == ["ProtectHome=tmpfs", "BindReadOnlyPaths=/home/me/app", "BindReadOnlyPaths=/home/me/venv"]
    one.drop_in(lines).open()
    assert one.get("/").json()["user"] == "rgunicorn-home"


HINTS = {
    "data": ("open('/home/hints/data/f')", "BindReadOnlyPaths=/home/hints/data/f", "ProtectHome=tmpfs"),
    "module": ("import sys\nsys.path.append('/home/hints/lib')\nimport in_a_home", "BindReadOnlyPaths=/home/hints/lib",
               "ProtectHome=tmpfs"),
    "memory": ("open('/proc/meminfo')", "ProcSubset=all", ""),
    "priority": ("import os\nos.nice(1)", "SystemCallFilter=@resources", ""),
}


@on_both
@pytest.mark.parametrize("what", HINTS)
@pytest.mark.parametrize("factory", [False, True], ids=["import", "factory"])
def test_what_the_sandbox_refuses_at_an_import_is_explained_and_the_advice_works(instance, what, factory):
    source, *lines = HINTS[what]
    made = "def made():\n" + "".join(f"    {line}\n" for line in source.split("\n")) + "    return app\n"
    app = APP + made if factory else f"{source}\n{APP}"
    one = instance(f"hint-{what}-{factory}".lower(), {"plain.py": app}, app="plain:made()" if factory else "plain:app")
    one.box.write("/home/hints/data/f", "x")
    one.box.write("/home/hints/lib/in_a_home.py", "")
    text = fails(one)
    assert all(line in text for line in lines), text
    one.drop_in("\n".join(lines)).open()
    assert one.get("/").status == 200


def test_a_settings_file_that_the_instances_user_may_not_read_is_explained(instance):
    one = instance("secretive", {"plain.py": APP})
    one.box.path("/etc/rgunicorn/secretive.toml").chmod(0o600)
    text = fails(one)
    assert "cannot be read by user rgunicorn-secretive (its mode is 0600, its owner root:root)" in text, text
    assert "chmod 0644" in text and "LoadCredential=" in text, text


def test_half_of_the_advice_names_the_other_half(instance):
    one = instance("half", {"plain.py": APP}, python="/home/half/venv/bin/python")
    one.box.run(PYTHON, "-m", "venv", "--without-pip", "/home/half/venv")
    one.drop_in("ProtectHome=tmpfs")
    text = fails(one)
    assert "/home/half does not exist: ProtectHome= of the unit hides /home" in text
    assert "BindReadOnlyPaths=/home/half/venv" in text


def test_an_application_below_tmp_is_explained(instance):
    one = instance("tmp", {"plain.py": APP}, chdir="/tmp/app")
    one.box.write("/tmp/app/plain.py", APP)
    assert "PrivateTmp= of the unit" in fails(one)


@pytest.mark.parametrize("source", [
    "import sqlite3\nsqlite3.connect('/srv/{name}/db.sqlite3').execute('create table if not exists t (x)')\n",
    "open('/srv/{name}/media.bin', 'w')\n",
], ids=["sqlite", "file"])
def test_an_application_that_writes_beside_itself_is_explained_and_the_advice_works(instance, request, source):
    name = request.node.callspec.id
    one = instance(name, {"plain.py": source.format(name=name) + APP})
    one.box.run("useradd", "--system", "--user-group", "--no-create-home", f"rgunicorn-{name}")
    one.box.run("chown", "-R", f"rgunicorn-{name}", one.directory)
    text = fails(one)
    assert "ProtectSystem= of the unit" in text and "ReadWritePaths=" in text, text
    one.drop_in(f"ReadWritePaths={one.directory}").open()
    assert one.get("/").status == 200


def test_a_pidfile_where_the_unit_cannot_write_is_explained_and_in_its_own_directory_it_works(instance):
    one = instance("pidfile", {"plain.py": APP}, pidfile="/run/pidfile.pid")
    text = fails(one)
    assert "pidfile /run/pidfile.pid cannot be written: permission denied" in text, text
    assert "no pidfile is needed" in text and "RuntimeDirectory=" in text, text
    one.write({}, app="plain:app", pidfile="/run/rgunicorn-pidfile/pid")
    one.open()
    one.get("/")
    assert one.box.path("/run/rgunicorn-pidfile/pid").read_text() == f"{one.arbiter}\n"


def test_a_log_file_where_the_unit_cannot_write_is_explained(instance):
    text = fails(instance("logfile", {"plain.py": APP}, errorlog="/var/log/app.log"))
    assert 'errorlog = "/var/log/app.log"' in text and "ProtectSystem=" in text
