"""A real nginx in front, over a unix socket with keep-alive to the upstream."""

from pathlib import Path

import pytest
from harness import Browser
from harness.nginx import Nginx


@pytest.fixture
def behind(serve, tmp_path):
    """behind("module:variable") -> (server, nginx)."""
    started = []

    def start(app, *arguments, extra="", **more):
        path = str(tmp_path / "s")
        server = serve(app, *arguments, bind=[f"unix:{path}"], **more)
        nginx = Nginx(tmp_path / "nginx", path, extra).__enter__()
        started.append(nginx)
        return server, nginx

    yield start
    for nginx in started:
        nginx.__exit__()


def test_the_scheme_that_nginx_saw_is_believed(behind):
    """A peer on a unix socket is trusted."""
    _, nginx = behind("flask_app:app")
    with nginx.connect() as client:
        seen = client.get("/seen", [("Host", "www.example.org")]).json()
    assert seen["scheme"] == "https" and seen["url"] == "https://www.example.org/seen"
    assert seen["forwarded"] == "127.0.0.1"


def test_upstream_connections_are_reused(behind, tmp_path):
    log = tmp_path / "access.log"
    server, nginx = behind("plain:app", "--workers", 1, "--access-logfile", log)
    with nginx.connect() as client:
        for _ in range(20):
            assert client.get("/").body == b"hello\n"
        # 20 requests of one client came over one connection: the worker still holds exactly that one.
        (worker,) = server.workers
        connections = [line for line in Path("/proc/net/unix").read_text().splitlines()
                       if line.endswith(f"{tmp_path}/s") and line.split()[5] == "03"]
        assert len(connections) == 1, connections
    assert "upstream" not in nginx.errors, nginx.errors


def test_nginx_never_sees_a_broken_response(behind):
    server, nginx = behind("flask_app:app", "--workers", 2)
    server.expect("ERROR in app: Exception on /error")
    browser = Browser(nginx.connect)
    for target, status in [("/", 200), ("/stream", 200), ("/file", 200), ("/memory", 200), ("/error", 500),
                           ("/redirect", 302), ("/forbidden", 403), ("/nowhere", 404)] * 5:
        assert browser.get(target).status == status
    browser.close()
    assert "upstream" not in nginx.errors, nginx.errors


def test_no_request_is_lost_behind_nginx_while_generations_change(behind):
    from signal import SIGHUP

    server, nginx = behind("plain:app", "--workers", 2)
    browser = Browser(nginx.connect)
    for generation in (2, 3, 4):
        server.signal(SIGHUP)
        while not server.log.find(f"generation {generation} serves"):
            assert browser.get("/").status == 200
        assert browser.get("/").status == 200
    browser.close()
    assert "upstream" not in nginx.errors, nginx.errors


def test_a_buffered_upload_holds_no_worker(behind, tmp_path):
    """nginx sends the body at once; a client that is slow to nginx does not reach the only worker."""
    server, nginx = behind("plain:app", "--workers", 1)
    with nginx.connect() as slow:
        slow.send("POST /echo HTTP/1.1\r\nHost: x\r\nContent-Length: 10\r\n\r\nhalf")
        with nginx.connect() as other:
            assert other.get("/").body == b"hello\n"
        slow.send(b"-other")
        assert slow.response().body == b"half-other"
