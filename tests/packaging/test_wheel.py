"""The wheel: pip installs it into a virtual environment, and it serves from there."""

import os
import re
import subprocess
import sys
import zipfile

import pytest
from harness.server import BINARY, ROOT, clean_environment

from .contents import glibc, needed


@pytest.fixture(scope="module")
def wheel(tmp_path_factory):
    directory = tmp_path_factory.mktemp("wheel")
    subprocess.run([sys.executable, ROOT / "packaging/wheel/build", BINARY.parent, directory], check=True, stdout=subprocess.DEVNULL)
    (package,) = directory.glob("*.whl")
    return package


@pytest.fixture(scope="module")
def environment(wheel, tmp_path_factory):
    """A virtual environment in which it was installed by pip."""
    directory = tmp_path_factory.mktemp("environment") / "venv"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    subprocess.run([directory / "bin/pip", "install", "--quiet", "--disable-pip-version-check", "--no-index", wheel], check=True)
    return directory


def test_its_tag_is_true(wheel, tmp_path):
    """It says which C library it needs (PEP 600), and needs nothing else that a manylinux wheel may not."""
    version, architecture = re.search(r"-py3-none-manylinux_(\d+_\d+)_(\w+)\.whl$", wheel.name).groups()
    assert architecture == os.uname().machine
    with zipfile.ZipFile(wheel) as archive:
        files = [name for name in archive.namelist() if "/scripts/" in name or name.endswith(".so")]
        assert len(files) == 3
        archive.extractall(tmp_path)
    used = glibc(tmp_path, files)
    assert "_".join(map(str, used)) == version
    assert used <= (2, 35)
    assert needed(tmp_path, files) <= {"libc.so.6", "libm.so.6", "libgcc_s.so.1", "ld-linux-x86-64.so.2", "ld-linux-aarch64.so.1"}


def test_auditwheel_finds_the_tag_to_be_the_best_one(wheel):
    said = subprocess.run([sys.executable, "-m", "auditwheel", "show", wheel], check=True, capture_output=True, text=True).stdout
    tag = wheel.stem.split("-none-")[1]
    assert f'consistent with the following platform tag: "{tag}"' in " ".join(said.split())


def test_pip_takes_away_what_it_has_brought(wheel, tmp_path):
    directory = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", directory], check=True)
    pip = [directory / "bin/python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    files = lambda: {path for path in directory.rglob("*") if not path.is_dir() and "__pycache__" not in str(path)}
    subprocess.run([*pip, "--version"], check=True, stdout=subprocess.DEVNULL)
    before = files()
    subprocess.run([*pip, "install", "--no-index", wheel], check=True)
    assert files() > before
    subprocess.run([directory / "bin/python", "-m", "rgunicorn", "--version"], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([*pip, "uninstall", "--yes", "rgunicorn"], check=True)
    assert files() == before


def test_pip_finds_nothing_wrong_and_the_version_is_the_sources(environment):
    version = re.search(r'^version = "(.*)"$', (ROOT / "Cargo.toml").read_text(), re.MULTILINE)[1]
    told = subprocess.run([environment / "bin/pip", "show", "rgunicorn"], check=True, capture_output=True, text=True).stdout
    assert f"Version: {version}\n" in told
    subprocess.run([environment / "bin/pip", "check"], check=True, stdout=subprocess.DEVNULL)
    for command in ([environment / "bin/rgunicorn"], [environment / "bin/python", "-m", "rgunicorn"]):
        ended = subprocess.run([*command, "--version"], check=True, capture_output=True, text=True, env=clean_environment())
        assert ended.stdout == f"rgunicorn {version}\n"
    assert (environment / "share/man/man1/rgunicorn.1").is_file()


def test_it_serves_with_the_interpreter_of_its_environment(environment, serve):
    server = serve("plain:app", python=None, binary=environment / "bin" / "rgunicorn")
    assert server.get("/").body == b"hello\n"
    assert server.log.find(re.escape(f"{environment}/bin/python"))


def test_python_m_rgunicorn_becomes_the_program(environment, serve):
    """The same process, so that signals reach it."""
    server = serve("plain:app", python=None, binary=environment / "bin" / "rgunicorn",
                   wrapper=("/bin/sh", "-c", f'shift; exec {environment}/bin/python -m rgunicorn "$@"', "sh"))
    assert server.get("/").body == b"hello\n"
    assert os.readlink(f"/proc/{server.pid}/exe") == str(environment / "bin" / "rgunicorn")


def test_without_its_program_it_says_what_to_do(environment, tmp_path):
    code = "import rgunicorn; rgunicorn.find('nothing')"
    ended = subprocess.run([environment / "bin/python", "-c", code], capture_output=True, text=True)
    assert "pip install --force-reinstall" in ended.stderr


def test_a_folder_given_to_pip_target_works_too(wheel, tmp_path):
    subprocess.run([sys.executable, "-m", "pip", "install", "--quiet", "--no-index", "--target", tmp_path / "lib", wheel], check=True)
    ended = subprocess.run([sys.executable, "-m", "rgunicorn", "--version"], capture_output=True, text=True,
                           env=clean_environment() | {"PYTHONPATH": str(tmp_path / "lib"), "PATH": "/usr/bin"})
    assert ended.stdout.startswith("rgunicorn "), ended.stderr
