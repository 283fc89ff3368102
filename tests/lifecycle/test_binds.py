"""Where a server listens: its own sockets and inherited ones."""

import os
import socket
import stat

import pytest
from harness import Connection, until
from harness.requirement import command
from harness.server import run


def test_it_serves_on_tcp(serve):
    server = serve("plain:app")
    assert server.get("/").body == b"hello\n"


def test_it_serves_on_ipv6(serve):
    server = serve("plain:app", bind=["[::1]:0"])
    assert server.address[0] == "::1"
    assert server.get("/").body == b"hello\n"


def test_it_serves_on_a_unix_socket_and_removes_it(serve, tmp_path):
    path = tmp_path / "app.sock"
    server = serve("plain:app", bind=[f"unix:{path}"])
    assert server.get("/").body == b"hello\n"
    assert stat.S_ISSOCK(path.stat().st_mode)
    server.stop()
    assert not path.exists()


def test_it_serves_on_several_addresses_at_once(serve, tmp_path):
    server = serve("plain:app", bind=["127.0.0.1:0", f"unix:{tmp_path}/app.sock", "[::1]:0"])
    assert len(server.addresses) == 3
    for address in server.addresses:
        with server.connect(address) as client:
            assert client.get("/").body == b"hello\n"


def test_it_serves_on_an_abstract_socket(serve):
    name = f"@rgunicorn-test-{os.getpid()}"
    server = serve("plain:app", bind=[f"unix:{name}"])
    with Connection(name) as client:
        assert client.get("/").body == b"hello\n"


def test_the_socket_file_of_a_server_that_was_killed_is_replaced(serve, tmp_path):
    path = tmp_path / "app.sock"
    with socket.socket(socket.AF_UNIX) as stale:
        stale.bind(str(path))
    server = serve("plain:app", bind=[f"unix:{path}"])
    assert server.get("/").body == b"hello\n"


def test_the_socket_file_of_a_living_server_is_left_alone(serve, tmp_path):
    path = tmp_path / "app.sock"
    first = serve("plain:app", bind=[f"unix:{path}"])
    second = serve("plain:app", bind=[f"unix:{path}"], wait=False)
    second.expect(r"app\.sock")
    second.expect_status(1)
    assert second.wait() == 1
    assert first.get("/").body == b"hello\n"


def test_a_file_that_is_no_socket_is_never_removed(serve, tmp_path):
    path = tmp_path / "app.sock"
    path.write_text("precious")
    server = serve("plain:app", bind=[f"unix:{path}"], wait=False)
    server.expect(r"app\.sock")
    server.expect_status(1)
    assert server.wait() == 1
    assert path.read_text() == "precious"


def test_an_address_in_use_is_explained(serve):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        address = "127.0.0.1:%d" % taken.getsockname()[1]
        server = serve("plain:app", bind=[address], wait=False)
        server.expect(f"{address}.*in use")
        server.expect_status(1)
        assert server.wait() == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_serves_on_an_inherited_fd(serve, tmp_path, kind):
    if kind == "tcp":
        listener = socket.create_server(("127.0.0.1", 0))
        address = listener.getsockname()
    else:
        address = str(tmp_path / "app.sock")
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(address)
        listener.listen()
    with listener:
        server = serve("plain:app", bind=[f"fd://{listener.fileno()}"], fds=[listener.fileno()])
        with server.connect(address) as client:
            assert client.get("/").body == b"hello\n"


def test_an_fd_that_is_no_listening_socket_is_refused(serve):
    with socket.socket() as silent:
        server = serve("plain:app", bind=[f"fd://{silent.fileno()}"], fds=[silent.fileno()], wait=False)
        server.expect(rf"fd://{silent.fileno()}|fd {silent.fileno()}")
        server.expect_status(1)
        assert server.wait() == 1


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_it_takes_the_socket_of_systemd_socket_activate(serve, tmp_path, kind):
    if kind == "tcp":
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            address = probe.getsockname()
        listen = "127.0.0.1:%d" % address[1]
    else:
        address = listen = str(tmp_path / "app.sock")
    server = serve("plain:app", bind=[], wait=False, notify=True,
                   wrapper=[command("systemd-socket-activate"), "-l", listen])
    until(lambda: "Listening on" in server.log.text, "systemd-socket-activate to listen")
    with Connection(address) as client:
        assert client.get("/").body == b"hello\n"
        until(lambda: "READY=1" in server.notify.lines, "READY=1")
    if kind == "unix":
        server.stop()
        assert os.path.exists(address), "the socket is systemd's: it must stay"


def test_several_activated_sockets_with_names_are_all_served(serve, tmp_path):
    paths = [str(tmp_path / name) for name in ("one.sock", "two.sock")]
    server = serve("plain:app", bind=[], wait=False,
                   wrapper=[command("systemd-socket-activate"), "-l", paths[0], "-l", paths[1],
                            "--fdname=front:side"])
    until(lambda: server.log.text.count("Listening on") == 2, "systemd-socket-activate to listen")
    for path in paths:
        with Connection(path) as client:
            assert client.get("/").body == b"hello\n"


def test_sockets_of_another_process_are_not_taken(serve):
    """LISTEN_PID of somebody else: the variables were inherited by accident (sd_listen_fds(3))."""
    server = serve("plain:app", env={"LISTEN_FDS": "1", "LISTEN_PID": "1"})
    assert server.get("/").body == b"hello\n"


def test_the_activation_variables_do_not_reach_the_application(serve, tmp_path):
    path = str(tmp_path / "app.sock")
    files = {"app.py": "import os\n"
                       "def app(environ, start_response):\n"
                       "    start_response('200 OK', [])\n"
                       "    return [','.join(n for n in os.environ if n.startswith('LISTEN_')).encode()]\n"}
    server = serve("app:app", bind=[], files=files, wait=False,
                   wrapper=[command("systemd-socket-activate"), "-l", path])
    until(lambda: "Listening on" in server.log.text, "systemd-socket-activate to listen")
    with Connection(path) as client:
        assert client.get("/").body == b""


def test_a_wrong_address_is_explained():
    for wrong in ("127.0.0.1:notaport", "127.0.0.1:70000", "unix:", "fd://x", "::1"):
        ended = run("--bind", wrong, "plain:app")
        assert ended.returncode in (1, 2)
        assert "bind" in ended.stderr and wrong in ended.stderr, ended.stderr
