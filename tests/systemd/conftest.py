"""A booted systemd with rgunicorn installed from its package, and instances of it."""

import contextlib
import shutil
import sysconfig
from pathlib import Path

import pytest
from harness.instance import PYTHON, Instance
from harness.server import APPS
from harness.systems import boot


@pytest.fixture(scope="session")
def boxes(deb):
    """boxes("debian13") -> that box, booted, with rgunicorn, Flask and Django."""
    with contextlib.ExitStack() as stack:
        booted = {}

        def of(name):
            if name not in booted:
                booted[name] = stack.enter_context(boot(name))
                install(booted[name], deb)
            return booted[name]

        yield of


@pytest.fixture
def box(request, boxes):
    """The box of this machine's systemd, or, with @on_both, of each in turn."""
    return boxes(getattr(request, "param", "here"))


def install(box, deb):
    shutil.copy(deb, box.state / "rgunicorn.deb")
    box.run("dpkg", "-i", "/run/outside/rgunicorn.deb")
    box.run(PYTHON, "-m", "venv", "--without-pip", "/opt/venv")
    here = Path(sysconfig.get_path("purelib"))
    (there,) = box.path("/opt/venv/lib").glob("python3*/site-packages")
    for name in ("flask", "werkzeug", "jinja2", "markupsafe", "click", "itsdangerous", "blinker", "django", "asgiref",
                 "sqlparse"):
        shutil.copytree(here / name, there / name, ignore=shutil.ignore_patterns("__pycache__", "locale"))
    shutil.copytree(here / "django/conf/locale/en", there / "django/conf/locale/en", dirs_exist_ok=True)
    for name in ("__init__.py",):
        shutil.copy(here / "django/conf/locale" / name, there / "django/conf/locale" / name)


@pytest.fixture
def instance(box, request):
    """instance("name", {"app.py": source}, setting=value) -> Instance whose files are written."""
    made = []

    def make(name, files=None, **settings):
        files = files or {"plain.py": (APPS / "plain.py").read_text()}
        settings = {"app": "plain:app"} | settings
        made.append(Instance(box, name).write(files, **settings))
        return made[-1]

    yield make
    failed = getattr(request.node, "report_call", None)
    for one in made:
        if failed is not None and failed.failed:
            print("\n".join(f"{r.get('PRIORITY')} {r.get('MESSAGE')}" for r in one.records()[-60:]))
            one.may_fail = True
        one.close()
