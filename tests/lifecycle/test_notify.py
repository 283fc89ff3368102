"""What systemd is told, and when."""

from signal import SIGHUP, SIGTERM

from harness import Gate, until


def test_ready_is_said_once_and_only_when_the_application_can_serve(serve, tmp_path):
    gate = tmp_path / "go"
    files = {"m.py": "import os, time\n"
                     f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.005)\n"
                     "def app(environ, start_response):\n"
                     "    start_response('204 No Content', [])\n    return []\n"}
    server = serve("m:app", files=files, wait=False)
    until(lambda: server.workers, "a worker")
    assert "READY=1" not in server.notify.lines
    gate.touch()
    server.ready()
    assert server.get("/").status == 204
    assert server.notify.lines.count("READY=1") == 1


def test_status_says_what_serves(serve):
    server = serve("plain:app", "--workers", 2)
    until(lambda: "Generation 1 serves with 2 workers" in server.notify.status, "the STATUS")


def test_stopping_is_said(serve, tmp_path):
    server = serve("plain:app")
    gate = Gate(tmp_path)
    with server.connect() as client:
        client.request(target=gate.target)
        gate.entered()
        server.signal(SIGTERM)
        until(lambda: "STOPPING=1" in server.notify.lines, "STOPPING=1")
        gate.open()
        client.response()


def test_a_reload_is_announced_with_its_time_and_ends_with_ready(serve):
    server = serve("plain:app")
    server.signal(SIGHUP)
    server.found("generation 2 serves")
    lines = until(lambda: server.notify.lines.count("READY=1") == 2 and server.notify.lines, "the second READY=1")
    begin = lines.index("RELOADING=1")
    assert any(line.startswith("MONOTONIC_USEC=") for line in lines[begin:])
    assert "READY=1" in lines[begin:]


def test_a_slow_boot_asks_systemd_for_more_time(serve, tmp_path):
    gate = tmp_path / "go"
    files = {"m.py": "import os, time\n"
                     f"while not os.path.exists({str(gate)!r}):\n    time.sleep(0.005)\n"
                     "def app(environ, start_response):\n"
                     "    start_response('204 No Content', [])\n    return []\n"}
    server = serve("m:app", files=files, wait=False)
    until(lambda: any(line.startswith("EXTEND_TIMEOUT_USEC=") for line in server.notify.lines), "EXTEND_TIMEOUT_USEC")
    gate.touch()
    server.ready()


def test_it_serves_without_systemd_as_well(serve):
    server = serve("plain:app", notify=False, wait=False)
    server.found("generation 1 serves")
    assert server.get("/").body == b"hello\n"
