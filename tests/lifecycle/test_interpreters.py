"""The application's own interpreter runs it: every CPython from 3.10 on, and nothing else."""

import os
import shutil
import subprocess
import sys

import pytest
from harness.requirement import command, require
from harness.server import APPS, BINARY, clean_environment, interpreter_at, interpreters, write

FOUND = interpreters()
HELLO = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "5")])
    return [b"hello"]
"""


@pytest.mark.parametrize("version", ["3.10", "3.11", "3.12", "3.13"])
@pytest.mark.parametrize("preload", [False, True], ids=["", "preloaded"])
def test_workers_run_on_python(serve, version, preload):
    if version not in FOUND:
        pytest.skip(f"this machine has no Python {version}")
    server = serve("plain:app", *(["--preload"] if preload else []), python=FOUND[version])
    assert server.get("/python").text == version
    assert server.get("/").body == b"hello\n"


def test_the_machine_has_a_python_to_test_with():
    require(FOUND, "a CPython from 3.10 on")


def test_a_virtual_environment_is_used_as_it_is(serve, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    package = next(environment.glob("lib/python3*/site-packages"))
    (package / "only_in_there.py").write_text("name = b'found it'\n")
    files = {"m.py": "import only_in_there\n"
                     "def app(environ, start_response):\n"
                     "    start_response('200 OK', [('Content-Length', '8')])\n"
                     "    return [only_in_there.name]\n"}
    server = serve("m:app", files=files, python=environment / "bin" / "python")
    assert server.get("/").body == b"found it"
    assert not list(package.glob("*rgunicorn*")), "nothing of ours belongs into the virtual environment"


@pytest.mark.parametrize("name", [".venv", "venv"])
def test_the_virtual_environment_in_the_applications_directory_is_found(serve, tmp_path, name):
    project = tmp_path / "project"
    write(project, {"plain.py": (APPS / "plain.py").read_text()})
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", project / name], check=True)
    server = serve("plain:app", "--chdir", project, python=None)
    assert server.get("/executable").text == str(project / name)


def test_virtual_env_in_the_environment_is_used(serve, tmp_path):
    environment = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", environment], check=True)
    server = serve("plain:app", python=None, env={"VIRTUAL_ENV": str(environment)})
    assert server.get("/executable").text == str(environment)


def refused(serve, python, says):
    server = serve("plain:app", python=python, wait=False)
    server.expect(says)
    status = server.wait()
    assert status in (1, 3), server.log.text  # 1: it can be seen before anything is started
    server.expect_status(status)
    assert len(server.log.find(says)) == 1, server.log.text


def test_an_old_python_is_refused_by_its_version(serve):
    python = interpreter_at("3.9")
    require(python or "CI" not in os.environ, "Python 3.9")
    if python is None:
        pytest.skip("this machine has no Python 3.9")
    refused(serve, python, r"3\.9.*3\.10")


def test_pypy_is_refused_by_its_name(serve):
    python = shutil.which("pypy3")
    if python is None:
        pytest.skip("this machine has no PyPy")
    refused(serve, python, r"PyPy")


def test_a_missing_interpreter_is_named(serve, tmp_path):
    refused(serve, tmp_path / "venv/bin/python", rf"{tmp_path}/venv")


def test_a_file_that_cannot_be_executed_is_named(serve, tmp_path):
    (tmp_path / "python").write_text("not a program")
    refused(serve, tmp_path / "python", rf"{tmp_path}/python")


def test_a_program_that_is_no_python_is_named(serve):
    refused(serve, command("true"), r"the interpreter .*exited with status 0 before it was ready.*is `python` a working CPython\?")


def test_a_directory_that_the_server_may_not_enter_is_named(serve, tmp_path, needs):
    """As /root is for a service's user: the message names the directory that has to be opened."""
    needs(os.geteuid() == 0, "root, to become another user")
    closed = tmp_path / "closed"
    (closed / "bin").mkdir(parents=True)
    (closed / "bin" / "python").symlink_to(sys.executable)
    closed.chmod(0o700)
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    # The binary may itself be out of the user's reach.
    place = tmp_path / "bin"
    place.mkdir()
    for name in ("rgunicorn", "librgunicorn_worker.so"):
        shutil.copy(BINARY.with_name(name), place / name)
    (tmp_path / "m.py").write_text("app = print\n")
    ended = subprocess.run(["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", place / "rgunicorn",
                            "--bind", "127.0.0.1:0", "--chdir", tmp_path, "--python", closed / "bin" / "python",
                            "m:app"],
                           capture_output=True, text=True, timeout=30, env=clean_environment(), cwd="/")
    assert ended.returncode == 1
    assert f"{closed}" in ended.stderr and "0700" in ended.stderr, ended.stderr


def test_nothing_is_imported_from_the_folder_where_rgunicorn_was_started(serve, tmp_path, needs):
    """Least of all as root, before `user` is taken."""
    needs(os.geteuid() == 0, "root, to become another user")
    for directory in [tmp_path, *tmp_path.parents][:3]:
        directory.chmod(0o755)
    folder, seen = tmp_path / "started", tmp_path / "seen"
    folder.mkdir()
    for name in ("sysconfig", "json", "threading", "traceback", "importlib", "platform"):
        (folder / f"{name}.py").write_text(f"open({str(seen)!r}, 'a').write('{name} ')\nraise ImportError('a trap')\n")
    server = serve("app:app", "--user", "nobody", python="/usr/bin/python3", cwd=folder, files={"app.py": HELLO})
    assert server.get("/").status == 200
    assert not seen.exists(), seen.read_text()


# Opens so many fds, says that standard output is the journal, and becomes the rest of its command line.
HAS_FDS = """
import os, sys
while True:
    fd = os.open("/dev/null", os.O_RDONLY)
    if fd >= 2 + int(sys.argv[1]):
        break
    os.set_inheritable(fd, True)
os.set_inheritable(fd, True)
told = os.fstat(1)
os.environ["JOURNAL_STREAM"] = f"{told.st_dev}:{told.st_ino}"
os.execv(sys.argv[2], sys.argv[2:])
"""


def test_what_an_application_prints_at_import_reaches_no_channel_whatever_fds_there_were(serve, tmp_path):
    """The channel has a number of its own in the mold (63), which another of our fds may have had."""
    files = {"app.py": "print('printed at import', flush=True)\n" + HELLO}
    for count in range(50, 60):
        server = serve("app:app", "--preload", "--error-logfile", tmp_path / "error.log", files=files,
                       wrapper=(sys.executable, "-c", HAS_FDS, count))
        assert server.get("/").status == 200, count
        assert server.stop() == 0
