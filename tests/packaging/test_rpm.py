"""The RPM package: what is in it, what rpmlint says, and what its scriptlets do.

There is no Fedora here. The package is installed into an empty root, and with its scriptlets into a box of this machine,
whose systemd is real and whose rpm is Debian's; its dependencies are compared with what they should be.
"""

import re
import shutil
import subprocess

import pytest
from harness import Box
from harness.requirement import command
from harness.server import BINARY, ROOT

NEXT = ROOT / ".cache" / "next"


def build(directory, release=BINARY.parent, *version):
    command("rpmbuild")
    subprocess.run([ROOT / "packaging/rpm/build", release, directory, *version], check=True, stdout=subprocess.DEVNULL)
    (package,) = directory.glob("*.rpm")
    return package


@pytest.fixture(scope="module")
def rpm(tmp_path_factory):
    return build(tmp_path_factory.mktemp("rpm"))


def query(package, *words):
    return subprocess.run([command("rpm"), "-qp", *words, package], check=True, capture_output=True, text=True).stdout


def test_it_has_the_version_of_the_sources_and_is_no_package_for_one_python(rpm):
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    assert query(rpm, "--queryformat", "%{VERSION}") == version
    requires = query(rpm, "--requires").splitlines()
    for line in requires:
        assert re.match(r"/bin/sh|config\(|ld-linux|libc\.so|libm\.so|libgcc_s\.so|rpmlib\(|rtld\(|(group|user)\(", line), line
    glibc = {tuple(map(int, found.split("."))) for found in re.findall(r"GLIBC_([\d.]+)", " ".join(requires))}
    assert max(glibc) <= (2, 34), "RHEL 9 has glibc 2.34"


def test_what_an_operator_changes_is_configuration_and_is_not_replaced(rpm):
    out = query(rpm, "--queryformat", "[%{FILENAMES} %{FILEFLAGS:fflags}\n]")
    flags = dict(line.rsplit(" ", 1) if not line.endswith(" ") else (line.strip(), "") for line in out.splitlines())
    assert {path for path, flag in flags.items() if "c" in flag} == {"/etc/rgunicorn/example.toml", "/etc/logrotate.d/rgunicorn"}
    assert all("n" in flags[path] for path in ("/etc/rgunicorn/example.toml", "/etc/logrotate.d/rgunicorn"))


def test_rpmlint_finds_nothing(rpm):
    said = subprocess.run([command("rpmlint"), "-c", ROOT / "packaging/rpm/rpmlint.toml", rpm], capture_output=True, text=True)
    assert "0 errors, 0 warnings" in said.stdout, said.stdout + said.stderr


def test_it_unpacks_into_an_empty_root_with_the_same_files_as_the_debian_package(rpm, deb, tmp_path):
    root = tmp_path / "root"
    (root / "var/lib/rpm").mkdir(parents=True)
    subprocess.run([command("rpm"), "--root", root, "--dbpath", "/var/lib/rpm", "-i", "--nodeps", "--noscripts", rpm], check=True)
    assert subprocess.run([root / "usr/bin/rgunicorn", "--version"], check=True, capture_output=True).stdout.startswith(b"rgunicorn ")
    here = {str(path.relative_to(root)) for path in root.rglob("*") if not path.is_dir() and "var/" not in str(path)}
    listed = subprocess.run(["dpkg-deb", "--fsys-tarfile", deb], check=True, capture_output=True).stdout
    names = subprocess.run(["tar", "-t"], input=listed, check=True, capture_output=True).stdout.decode().splitlines()
    there = {name.removeprefix("./") for name in names if not name.endswith("/")}
    differ = {name for name in here ^ there if not name.startswith(("usr/share/doc/", "usr/share/licenses/"))}
    assert differ == {"usr/share/zsh/vendor-completions/_rgunicorn", "usr/share/zsh/site-functions/_rgunicorn",
                      "usr/share/lintian/overrides/rgunicorn"}


def test_its_scriptlets_start_nothing_upgrade_in_place_and_stop_at_the_end(rpm, tmp_path):
    later = build(tmp_path / "later", NEXT, version_of(NEXT))
    with Box() as box:
        for package, name in ((rpm, "first.rpm"), (later, "later.rpm")):
            shutil.copy(package, box.state / name)
        box.run("rpm", "-i", "--nodeps", "/run/outside/first.rpm")
        assert box.run("getent", "group", "rgunicorn").returncode == 0
        assert not box.systemctl("list-units", "--plain", "--no-legend", "rgunicorn@*").stdout
        box.write("/etc/rgunicorn/app.toml", 'app = "plain:app"\nchdir = "/srv/app"\npython = "/usr/bin/python3"\n')
        box.write("/srv/app/plain.py", (ROOT / "tests/apps/plain.py").read_text())
        box.systemctl("start", "rgunicorn@app.socket")
        with box.connect("/run/rgunicorn/app.sock") as client:
            assert client.get("/").body == b"hello\n"
            pid = box.show("rgunicorn@app.service", "MainPID")
            said = box.run("rpm", "-U", "--nodeps", "/run/outside/later.rpm")
            assert "goes on with" not in said.stdout + said.stderr
            assert box.show("rgunicorn@app.service", "MainPID") == pid
            assert box.run("stat", "-Lc", "%i", f"/proc/{pid}/exe", "/usr/bin/rgunicorn").stdout.split()[0] == \
                box.run("stat", "-c", "%i", "/usr/bin/rgunicorn").stdout.strip()
        with box.connect("/run/rgunicorn/app.sock") as client:
            assert client.get("/").body == b"hello\n"
        box.run("rpm", "-e", "rgunicorn")
        assert box.show("rgunicorn@app.service", "ActiveState") != "active"
        assert box.show("rgunicorn@app.socket", "ActiveState") != "active"
        assert not box.path("/usr/bin/rgunicorn").exists() and box.path("/etc/rgunicorn/app.toml").exists()


def version_of(release):
    return subprocess.run([release / "rgunicorn", "--version"], check=True, capture_output=True, text=True).stdout.split()[1]
