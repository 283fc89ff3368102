"""Fixtures of all the tests: `serve` starts servers and checks at the end that all went well."""

import subprocess
import sys

import pytest
from harness import Server
from harness.requirement import command, require
from harness.server import APPS, BINARY, ROOT, write


def pytest_sessionstart(session):
    if not BINARY.exists():
        pytest.exit(f"{BINARY} is missing: make build", returncode=1)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    setattr(item, f"report_{report.when}", report)
    return report


@pytest.fixture
def serve(request, tmp_path):
    """serve("module:variable", "--workers", 2, files={"module.py": ...}) -> a ready Server on 127.0.0.1.

    `files`: an application written for this test; without it the application is one of tests/apps. `bind`: other
    addresses than 127.0.0.1:0. `python`: another interpreter than that of the tests. `wait=False`: return at once. None for `python` or `workers`, and
    [] for `bind`: the command line says nothing of it.
    """
    servers = []

    def start(app, *arguments, files=None, bind=("127.0.0.1:0",), python=sys.executable, workers=1, wait=True, **more):
        directory = tmp_path / f"server{len(servers)}"
        directory.mkdir()
        chdir = APPS
        if files is not None:
            chdir = directory / "app"
            chdir.mkdir()
            write(chdir, files)
        words = [word for address in bind for word in ("--bind", address)]
        if python:
            words += ["--python", python]
        if workers and "--workers" not in arguments and "-w" not in arguments:
            words += ["--workers", workers]
        if "--chdir" not in arguments:
            words += ["--chdir", chdir]
        server = Server(directory, [*words, *arguments, *([app] if app else [])], **more)
        server.app_directory = chdir
        servers.append(server)
        server.start()
        return server.ready() if wait else server

    yield start

    failed = getattr(request.node, "report_call", None)
    if failed is not None and failed.failed:
        for server in servers:
            if server.log is not None:
                print(f"--- log of {' '.join(server.arguments)}\n{server.log.text}", file=sys.stderr)
            server.abandon()
        return
    problems = []
    for server in servers:
        try:
            server.finish()
        except AssertionError as error:
            problems.append(str(error))
    assert not problems, "\n\n".join(problems)


@pytest.fixture(scope="session")
def deb(tmp_path_factory):
    """The path of the Debian package, built once from the binaries under test."""
    command("dpkg-deb")
    directory = tmp_path_factory.mktemp("deb")
    subprocess.run([ROOT / "packaging/deb/build", BINARY.parent, directory], check=True, stdout=subprocess.DEVNULL)
    (package,) = directory.glob("rgunicorn_*.deb")
    return package


@pytest.fixture
def needs():
    """needs(condition, "what"): skips at home, fails in CI."""
    return require


@pytest.fixture(scope="session")
def wheels():
    """wheels("3.13") -> a folder with what applications of boxes need, for that Python; loaded once, by pip."""
    wanted = ["flask>=3.0,<4", "django>=5.1,<6", "gevent>=24.10", "flask-sock>=0.7", "fastapi>=0.115,<1", "uvloop>=0.21,<1"]

    def of(python):
        folder = ROOT / ".cache" / "wheels" / python
        # A folder that was filled for another list is filled again.
        done = folder / f"complete-{len(wanted)}"
        if not done.exists():
            ended = subprocess.run(
                [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--only-binary=:all:",
                 f"--python-version={python}", f"--dest={folder}", *wanted],
                capture_output=True, text=True)
            require(ended.returncode == 0, f"{wanted} for Python {python}, from the package index:\n{ended.stderr}")
            done.touch()
        return folder

    return of
