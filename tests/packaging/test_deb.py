"""The Debian package: what is in it, and what lintian says of it. What installing it does is in test_debian.py."""

import re
import subprocess

import pytest
from harness.requirement import command
from harness.server import BINARY, ROOT

from .contents import BINARIES, glibc, needed


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
    for path in (*BINARIES, "usr/lib/rgunicorn/upgrade-instances",
                 "usr/lib/systemd/system/rgunicorn@.service", "usr/lib/systemd/system/rgunicorn@.socket",
                 "usr/lib/sysusers.d/rgunicorn.conf", "usr/lib/tmpfiles.d/rgunicorn.conf",
                 "usr/lib/systemd/catalog/rgunicorn.catalog", "etc/rgunicorn/example.toml", "etc/logrotate.d/rgunicorn",
                 "usr/share/man/man1/rgunicorn.1.gz", "usr/share/man/man1/rgunicornctl.1.gz",
                 "usr/share/man/man5/rgunicorn.toml.5.gz", "usr/share/man/man7/rgunicorn-signals.7.gz",
                 "usr/share/man/man7/rgunicorn-systemd.7.gz", "usr/share/bash-completion/completions/rgunicorn",
                 "usr/share/bash-completion/completions/rgunicornctl", "usr/share/zsh/vendor-completions/_rgunicorn",
                 "usr/share/fish/vendor_completions.d/rgunicorn.fish", "usr/share/doc/rgunicorn/settings.md",
                 "usr/share/doc/rgunicorn/copyright", "usr/share/doc/rgunicorn/changelog.gz",
                 "usr/share/doc/rgunicorn/third-party-licences.txt.gz"):
        assert (contents / path).is_file(), path
    assert (contents / "DEBIAN/conffiles").read_text() == "/etc/logrotate.d/rgunicorn\n/etc/rgunicorn/example.toml\n"


def test_it_needs_the_c_library_and_libgcc_alone(deb, contents):
    """No Python: every application has its own. Debian 12 has glibc 2.36, Ubuntu 22.04 has 2.35."""
    most = glibc(contents)
    assert most <= (2, 35), f"a symbol of glibc {most} is used; nothing before that version could run this"
    depends = field(deb, "Depends")
    assert depends == f"libc6 (>= {most[0]}.{most[1]}), libgcc-s1"
    assert needed(contents) <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_lintian_finds_no_error_and_nothing_to_warn_of(deb):
    said = subprocess.run([command("lintian"), "--allow-root", "--fail-on", "error,warning", "--tag-display-limit", "0", deb],
                          capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


def test_the_debug_symbols_are_those_of_the_programs(deb, contents, tmp_path):
    """A debugger finds them by build id: of each program the file is there, and it knows a function of ours."""
    (symbols,) = deb.parent.glob("rgunicorn-dbgsym_*.deb")
    assert field(symbols, "Depends") == f"rgunicorn (= {field(deb, 'Version')})"
    subprocess.run(["dpkg-deb", "--extract", symbols, tmp_path], check=True)
    ids = {}
    for path in BINARIES:
        notes = subprocess.run(["readelf", "-n", contents / path], check=True, capture_output=True, text=True).stdout
        ids[path] = re.search(r"Build ID: ([0-9a-f]+)", notes)[1]
        debug = tmp_path / f"usr/lib/debug/.build-id/{ids[path][:2]}/{ids[path][2:]}.debug"
        assert "rgunicorn" in subprocess.run(["nm", debug], check=True, capture_output=True, text=True).stdout, path
    assert sorted(field(symbols, "Build-Ids").split()) == sorted(ids.values())
    # A build for quick tests may have been told to make no line tables; then there are only names.
    tables = ".debug_line" in subprocess.run(["readelf", "-SW", BINARY], check=True, capture_output=True, text=True).stdout
    less = [] if tables else ["--suppress-tags", "debug-file-with-no-debug-symbols"]
    said = subprocess.run([command("lintian"), "--allow-root", "--fail-on", "error,warning", *less, symbols],
                          capture_output=True, text=True)
    assert said.returncode == 0, said.stdout + said.stderr


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


def test_rotated_logs_are_made_anew_by_the_instance(contents):
    said = subprocess.run([command("logrotate"), "--debug", contents / "etc/logrotate.d/rgunicorn"], capture_output=True, text=True)
    assert said.returncode == 0 and "error" not in said.stderr.lower(), said.stderr
