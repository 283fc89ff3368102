"""ASGI on Debian 13: its Python starts tasks eagerly."""

import json
import time

import pytest
from harness.server import APPS
from harness.systems import on_debian13

EAGER = """
import asyncio, sys
from asgi_app import app as inner

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        asyncio.get_running_loop().set_task_factory(asyncio.eager_task_factory)
    await inner(scope, receive, send)
"""


@on_debian13
@pytest.mark.parametrize("module", ["asgi_app", "eager"])
def test_requests_and_websockets_are_served_by_eager_tasks(instance, module):
    files = {"asgi_app.py": (APPS / "asgi_app.py").read_text(), "eager.py": EAGER}
    one = instance(module.replace("_", "-"), files, app=f"{module}:app", worker_class="asgi", workers=1).open()
    assert one.get("/").body == b"Hello, world!"
    with one.connect() as client:
        for value in ("one", "two"):
            found = client.get(f"/task?{value}").json()
            assert (found["before"], found["after"], found["same"], found["listed"]) == ("unset", value, True, True)
        assert client.get("/cancel_self").body == b"survived"
        assert client.post("/receive_task", b"body").body == b"0 body"
        assert client.get("/stream").body == b"01234"
        data = bytes(range(256)) * 1000
        assert client.post("/echo", data).body == data
        assert client.get("/sleep?0.01").body == b"slept"
        assert client.get("/state").json()["shared"][0] == "from the lifespan"
    with one.connect() as client:
        client.request(target="/ws/marked", headers=[
            ("Upgrade", "websocket"), ("Connection", "Upgrade"), ("Sec-WebSocket-Version", "13"),
            ("Sec-WebSocket-Key", "dGhlIHNhbXBsZSBub25jZQ==")])
        assert client.response().status == 101
        client.send(b"\x81\x82\0\0\0\0hi")
        assert client.received(18) == b"\x81\x0c[true, true]\x81\x02hi"
        client.send(b"\x88\x82\0\0\0\0\x03\xe8")
        assert client.ended() == b"\x88\x02\x03\xe8"
    one.box.systemctl("reload", one.service)
    assert one.get("/").status == 200
    assert json.loads(one.get("/scope").body)["client"] is None
    one.found("CPython 3.13")


@on_debian13
def test_requests_that_came_together_with_one_that_blocks_go_to_another_worker(instance):
    """An eager task blocks the very turn that has found all of them."""
    one = instance("together", {"asgi_app.py": (APPS / "asgi_app.py").read_text()}, app="asgi_app:app", worker_class="asgi",
                   workers=2).open()
    victim, clients = one.get("/pid").body, []
    while len(clients) < 8:
        client = one.connect()
        if client.get("/pid").body == victim:
            clients.append(client)
        else:
            client.close()
    one.box.run("kill", "-STOP", victim.decode())
    clients[0].request(target="/block?5")
    for client in clients[1:]:
        client.request(target="/pid")
    begun = time.monotonic()
    one.box.run("kill", "-CONT", victim.decode())
    assert {client.response().body for client in clients[1:]}.isdisjoint({victim})
    assert time.monotonic() - begun < 4
    assert clients[0].response().body == b"blocked"
