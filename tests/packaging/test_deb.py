"""The Debian package: what is in it, and what installing and removing it does."""

import re
import shutil
import subprocess

import pytest
from harness import Box
from harness.server import ROOT


def field(deb, name):
    return subprocess.run(["dpkg-deb", "--field", deb, name], check=True, capture_output=True, text=True).stdout.strip()


@pytest.fixture(scope="module")
def contents(deb, tmp_path_factory):
    """The package, unpacked."""
    directory = tmp_path_factory.mktemp("contents")
    subprocess.run(["dpkg-deb", "--raw-extract", deb, directory], check=True)
    return directory


def test_it_has_the_version_of_the_sources(deb):
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert field(deb, "Version") == version
    assert f"_{version}_" in deb.name


def test_everything_is_where_it_belongs(contents):
    for path in ("usr/bin/rgunicorn", "usr/bin/rgunicornctl", "usr/lib/rgunicorn/rgunicorn_worker.abi3.so",
                 "usr/lib/systemd/system/rgunicorn@.service", "usr/lib/systemd/system/rgunicorn@.socket",
                 "usr/lib/sysusers.d/rgunicorn.conf", "usr/lib/tmpfiles.d/rgunicorn.conf",
                 "usr/lib/systemd/catalog/rgunicorn.catalog", "etc/rgunicorn/example.toml",
                 "usr/share/doc/rgunicorn/copyright", "usr/share/doc/rgunicorn/changelog.gz"):
        assert (contents / path).is_file(), path
    assert (contents / "DEBIAN/conffiles").read_text() == "/etc/rgunicorn/example.toml\n"


def test_nothing_links_libpython(contents):
    for path in ("usr/bin/rgunicorn", "usr/lib/rgunicorn/rgunicorn_worker.abi3.so"):
        out = subprocess.run(["objdump", "-p", contents / path], check=True, capture_output=True, text=True).stdout
        assert "NEEDED" in out and "libpython" not in out


def test_the_c_library_that_it_asks_for_is_the_one_that_it_needs(deb, contents):
    asked = re.search(r"libc6 \(>= ([\d.]+)\)", field(deb, "Depends"))[1]
    out = subprocess.run(["objdump", "-T", contents / "usr/bin/rgunicorn"], check=True, capture_output=True, text=True).stdout
    used = {tuple(map(int, version.split("."))) for version in re.findall(r"GLIBC_([\d.]+)", out)}
    assert tuple(map(int, asked.split("."))) >= max(used)


def test_the_example_names_only_settings_that_exist(contents, tmp_path):
    """The example, with every line switched on, is read without complaint about a name."""
    from harness.server import run

    text = (contents / "etc/rgunicorn/example.toml").read_text()
    on = re.sub(r"^# (\w+ = )", r"\1", text, flags=re.MULTILINE)
    on = re.sub(r'^(chdir|python|accesslog|raw_env|app) = .*$', "", on, flags=re.MULTILINE)
    path = tmp_path / "example.toml"
    path.write_text(on)
    ended = run("--print-config", "-c", path, "plain:app", cwd=ROOT / "tests" / "apps")
    assert str(path) in ended.stdout or ended.returncode == 0, ended.stderr
    assert "unknown" not in ended.stderr.lower(), ended.stderr


def test_installing_starts_nothing_and_removing_leaves_nothing(deb):
    with Box() as box:
        shutil.copy(deb, box.state / "rgunicorn.deb")
        before = box.systemctl("list-units", "--all", "--plain", "--no-legend", "rgunicorn*").stdout
        box.run("dpkg", "-i", "/run/outside/rgunicorn.deb")
        assert box.systemctl("list-units", "--all", "--plain", "--no-legend", "rgunicorn*").stdout == before
        assert box.run("getent", "group", "rgunicorn").returncode == 0
        assert box.path("/run/rgunicorn").is_dir()
        assert "rgunicorn" in box.run("rgunicorn", "--version").stdout

        box.write("/etc/rgunicorn/app.toml", 'app = "plain:app"\nchdir = "/srv/app"\npython = "/usr/bin/python3"\n')
        box.write("/srv/app/plain.py", (ROOT / "tests/apps/plain.py").read_text())
        box.systemctl("enable", "--now", "rgunicorn@app.socket")
        with box.connect("/run/rgunicorn/app.sock") as client:
            assert client.get("/").body == b"hello\n"

        box.run("dpkg", "-i", "/run/outside/rgunicorn.deb")  # again: an upgrade stops nothing
        assert box.show("rgunicorn@app.service", "ActiveState") == "active"
        with box.connect("/run/rgunicorn/app.sock") as client:
            assert client.get("/").body == b"hello\n"

        box.run("dpkg", "-r", "rgunicorn")
        assert box.show("rgunicorn@app.service", "ActiveState") != "active"
        assert not box.path("/run/rgunicorn/app.sock").exists() or not box.show("rgunicorn@app.socket", "MainPID")
        assert not box.path("/usr/bin/rgunicorn").exists()
        assert box.path("/etc/rgunicorn/app.toml").exists(), "what the operator wrote stays"
        box.run("dpkg", "-P", "rgunicorn")
        assert not box.path("/etc/rgunicorn/example.toml").exists()
        assert not list(box.path("/etc/systemd/system").glob("*.wants/rgunicorn@*"))
        assert "rgunicorn" not in box.systemctl("list-unit-files", "rgunicorn*", check=False).stdout
