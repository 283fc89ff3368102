"""The same application through every way in: each kind of address, nginx in front of a unix socket, and the gevent pool."""

import os
import shutil
import socket
import subprocess
import sys

import pytest
from harness import Browser, until
from harness.nginx import Nginx
from harness.requirement import command
from harness.server import APPS

WAYS = ["tcp", "unix", "fd", "activated", "nginx", "gevent"]


@pytest.fixture(params=WAYS)
def way(request):
    return request.param


@pytest.fixture
def through(serve, tmp_path, way):
    """through("module:variable", ...) -> (server, browser) over the way that the fixture `way` names."""
    closing = []

    def start(app, *arguments, **more):
        path = str(tmp_path / "s")
        if way == "tcp":
            server = serve(app, *arguments, **more)
            connect = server.connect
        elif way == "gevent":
            server = serve(app, "-k", "gevent", *arguments, **more)
            connect = server.connect
        elif way in ("unix", "nginx"):
            server = serve(app, *arguments, bind=[f"unix:{path}"], **more)
            connect = server.connect
        elif way == "fd":
            listener = socket.create_server(("127.0.0.1", 0))
            closing.append(listener.close)
            server = serve(app, *arguments, bind=[f"fd://{listener.fileno()}"], fds=[listener.fileno()], **more)
            connect = server.connect
        else:
            server = serve(app, *arguments, bind=[], wait=False,
                           wrapper=[command("systemd-socket-activate"), "-l", path], **more)
            until(lambda: "Listening on" in server.log.text, "systemd-socket-activate to listen")

            def connect():
                return server.connect(path)

        if way == "nginx":
            nginx = Nginx(tmp_path / "nginx", path).__enter__()
            closing.append(lambda: nginx.__exit__())
            connect = nginx.connect
            server.nginx = nginx
        browser = Browser(connect)
        closing.append(browser.close)
        return server, browser

    yield start
    for close in reversed(closing):
        close()


@pytest.fixture(scope="session")
def django_state(tmp_path_factory):
    """A migrated database with an administrator, made once; tests get copies."""
    state = tmp_path_factory.mktemp("django")
    env = os.environ | {"PROJECT_STATE": str(state), "DJANGO_SETTINGS_MODULE": "mysite.settings",
                        "DJANGO_SUPERUSER_PASSWORD": "secret"}
    for words in (["migrate", "-v0"], ["createsuperuser", "--noinput", "--username", "admin", "--email", "a@b.example"]):
        subprocess.run([sys.executable, "manage.py", *words], cwd=APPS / "django_project", env=env, check=True,
                       stdout=subprocess.DEVNULL)
    return state


@pytest.fixture
def django(through, django_state, tmp_path):
    """django(...) -> (server, browser) of the Django project, with a database of its own."""
    state = tmp_path / "state"
    shutil.copytree(django_state, state)

    def start(*arguments):
        return through("mysite.wsgi:application", "--chdir", APPS / "django_project", *arguments,
                       env={"PROJECT_STATE": str(state)})

    return start
