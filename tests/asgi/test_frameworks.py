"""Starlette, FastAPI, Quart and Django's ASGI handler, with asyncio and with uvloop."""

import asyncio
import hashlib
import os
import shutil
import subprocess
import sys

import pytest
import websockets
from harness import Browser
from harness.server import APPS
from harness.waiting import until


@pytest.fixture(params=["starlette", "fastapi", "quart"])
def framework(request):
    return request.param


@pytest.fixture(params=["asyncio", "uvloop"])
def loop(request):
    return request.param


@pytest.fixture
def application(asgi, framework, loop):
    server = asgi("--asgi-loop", loop, app=f"asgi_frameworks:{framework}()")
    browser = Browser(server.connect)
    yield server, browser
    browser.close()


def test_an_application_does_what_applications_do(application, framework):
    server, browser = application
    assert "Hello from" in browser.get("/").text
    data = os.urandom(2 << 20)
    assert browser.post_file("/upload", "big.bin", data).json() == {
        "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert browser.get("/stream").text == "".join(f"{number}\n" for number in range(100))
    assert browser.get("/file").body == (APPS / "asgi_frameworks.py").read_bytes()
    state = browser.get("/state").json()
    assert state["told"][0] == "started" and state["database"] == "from the lifespan"
    assert browser.get("/nowhere").status == 404
    if framework != "quart":
        server.expect("ValueError: an error of the application")
    else:
        server.expect("Exception on request GET /error|ValueError: an error of the application")
    assert browser.get("/error").status == 500
    until(lambda: "an error of the application" in server.log.text, "the error's record")

    async def echo():
        host, port = server.address
        async with websockets.connect(f"ws://{host}:{port}/ws") as socket:
            for text in ("one", "zwei ü", "x" * 100_000):
                await socket.send(text)
                assert await socket.recv() == text

    asyncio.run(asyncio.wait_for(echo(), 20))


def test_a_background_task_runs_after_the_response(asgi):
    server = asgi(app="asgi_frameworks:starlette()")
    assert server.get("/background").body == b"now"
    until(lambda: "later" in server.get("/state").json()["told"], "the background task")


@pytest.fixture
def django_asgi(asgi, tmp_path):
    state = tmp_path / "state"
    state.mkdir()
    env = {"PROJECT_STATE": str(state), "DJANGO_SETTINGS_MODULE": "mysite.settings"}
    subprocess.run([sys.executable, "manage.py", "migrate", "-v0"], cwd=APPS / "django_project", env=os.environ | env,
                   check=True, stdout=subprocess.DEVNULL)
    server = asgi("--chdir", APPS / "django_project", app="mysite.asgi:application", env=env)
    browser = Browser(server.connect)
    yield browser
    browser.close()
    shutil.rmtree(state)


def test_djangos_asgi_handler_serves_the_project(django_asgi):
    browser = django_asgi
    assert browser.get("/").body == b"<h1>Hello from Django</h1>"
    assert [browser.get("/visits/").json()["visits"] for _ in range(3)] == [1, 2, 3]
    assert browser.post_form("/notes/", {"text": "without token"}).status == 403
    seen = browser.get("/seen/?a=b").json()
    assert seen["path"] == "/seen/?a=b"
    token = browser.get("/notes/").json()["csrf"]
    answer = browser.post_form("/notes/", {"text": "with token", "csrfmiddlewaretoken": token},
                               [("Referer", f"http://{seen['host']}/")])
    assert answer.status == 302, answer.text
    assert browser.get("/notes/").json()["notes"] == ["with token"]
    data = os.urandom(1 << 20)
    token = browser.get("/upload/").json()["csrf"]
    answer = browser.post_file("/upload/", "big.bin", data, [("csrfmiddlewaretoken", token)],
                               [("Referer", f"http://{seen['host']}/")])
    assert answer.json() == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}
    assert browser.get("/stream/").text == "".join(f"{number}\n" for number in range(1000))
    assert browser.get("/file/").body == (APPS / "django_project/pages/views.py").read_bytes()
