"""What happens when something runs out: fds, disk, the share of the disk; and that idle workers share what comes."""

import resource
import socket

import pytest
from harness import processes
from harness.crowd import raise_fd_limit
from harness.http import ConnectionEnded
from harness.server import control
from harness.waiting import until

LIMITED = ("bash", "-c", 'ulimit -n 64; exec "$@"', "limited")


def closed(client):
    """Whether the server has ended this connection."""
    client.socket.setblocking(False)
    try:
        return client.socket.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionResetError:
        return True


def answered(client):
    """Whether something has come on this connection, be it the end. Nothing is taken from it."""
    client.socket.setblocking(False)
    try:
        client.socket.recv(1, socket.MSG_PEEK)
    except BlockingIOError:
        return False
    except ConnectionResetError:
        pass
    finally:
        client.socket.settimeout(10)
    return True


def test_a_limit_of_fds_below_the_least_is_named(serve):
    server = serve("plain:app", wrapper=("bash", "-c", 'ulimit -n 32; exec "$@"', "limited"), wait=False)
    says = r"32 file descriptors here, and rgunicorn needs 64.*LimitNOFILE="
    server.expect(says)
    server.expect_status(1)
    assert server.wait() == 1
    assert len(server.log.find(says, "error")) == 1


@pytest.mark.parametrize("workers", [1, 2])
def test_without_fds_the_oldest_idle_connections_make_room_for_new_ones(serve, workers):
    server = serve("plain:app", "--workers", workers, wrapper=LIMITED)
    before = server.workers
    address = server.address
    clients = []
    for _ in range(200):
        # Each is served: an idle one goes for each that comes.
        client = server.connect(address)
        assert client.get("/").status == 200
        clients.append(client)
    gone = [closed(client) for client in clients]
    if workers == 1:
        assert gone == sorted(gone, reverse=True), "an idle connection was closed before an older one"
    assert 20 * workers <= gone.count(False) < 64 * workers
    for client in clients:
        client.close()
    assert server.workers == before
    assert server.get("/").status == 200
    warnings = server.log.find("no fd is left", "warning")
    assert 0 < len(warnings) < 20, "one record per connection would fill the log"


def test_without_fds_the_oldest_half_of_a_request_makes_room_after_all_idle_connections(serve):
    raise_fd_limit(2048)
    server = serve("plain:app", "--header-timeout", 60, "--body-timeout", 60, wrapper=LIMITED)
    address = server.address
    uploading = server.connect(address)
    uploading.send(b"POST /echo HTTP/1.1\r\nHost: h\r\nContent-Length: 4\r\n\r\nab")
    idle = server.connect(address)
    assert idle.get("/").status == 200
    half_open = []
    for _ in range(100):
        client = server.connect(address)
        client.send(b"GET / HTTP/1.1\r\nHo")
        half_open.append(client)
    with server.connect(address) as client:
        assert client.get("/").status == 200
    assert idle.ended() == b""
    gone = [client for client in half_open if answered(client)]
    # Those that were read at once are equally old.
    assert 40 <= len(gone) < 90 and set(gone) <= set(half_open[: len(gone) + 10]), "the oldest ones go"
    for client in gone:
        response = client.response()
        assert response.status == 503 and response.header("Retry-After")
    half_open[-1].send(b"st: h\r\n\r\n")
    assert half_open[-1].response().status == 200
    uploading.send(b"cd")
    assert uploading.response().body == b"abcd", "a request whose head is complete stays"
    for client in (uploading, *half_open):
        client.close()
    assert server.log.find("no fd is left", "warning")


def test_idle_connections_for_which_nobody_has_an_fd_do_not_wait_in_the_handoff(serve, tmp_path):
    """Nobody would see the request that comes next on one of them: they are answered, or ended."""
    raise_fd_limit(2048)
    socket = tmp_path / "control.sock"
    server = serve("plain:app", "--workers", 3, "--keep-alive", 60, "--control-socket", socket, wrapper=LIMITED)
    address = server.address
    # One after the other, so that the workers share them, and more than one of them could have.
    clients = []
    for _ in range(75):
        clients.append(server.connect(address))
        assert asked(clients[-1])
    assert control("-s", socket, "scale", 1).returncode == 0
    until(lambda: len(server.workers) == 1, "one worker")
    answers = sum(asked(client) for client in clients)
    assert 10 < answers < len(clients), "as many as there are fds"


def asked(client):
    """A request: whether it was answered. Else the connection has ended; it may not be silent."""
    try:
        return client.get("/").status == 200
    except (ConnectionEnded, ConnectionResetError, BrokenPipeError):
        return False


def test_a_body_that_the_disk_does_not_take_is_a_500_and_hurts_nobody_else(serve):
    server = serve("plain:app", "--workers", 1, "--request-buffer", 1000)
    server.expect("could not be kept in /var/tmp")
    (worker,) = server.workers
    with server.connect() as other:
        assert other.get("/").status == 200
        resource.prlimit(worker, resource.RLIMIT_FSIZE, (64 << 10, 64 << 10))
        with server.connect() as client:
            assert client.post("/", b"x" * 200_000).status == 500
        assert other.get("/").status == 200
        assert other.post("/", b"x" * 20_000).status == 200
    assert server.workers == [worker]


def test_spool_limit_refuses_with_503_and_is_free_again_afterwards(serve):
    server = serve("plain:app", "--workers", 2, "--request-buffer", 1000, "--spool-limit", 100_000)
    with server.connect() as holder:
        holder.send(b"POST / HTTP/1.1\r\nHost: h\r\nContent-Length: 90000\r\n\r\n" + b"x" * 80_000)

        def refused():
            with server.connect() as client:
                response = client.post("/", b"x" * 50_000)
                return response.status == 503 and response.header("Retry-After")

        # The limit is the instance's, whichever worker has the other body.
        until(refused, "a body to be refused")
        holder.send(b"x" * 10_000)
        assert holder.response().status == 200
    # The answer is sent before the share is given back.
    until(lambda: not refused(), "the share to be free again")
    assert server.log.find("spool_limit", "warning")


def connections(pid):
    return sum(target.startswith("socket:") for target in processes.open_files(pid).values())


@pytest.mark.parametrize("how", ["in turn", "at once"])
def test_idle_workers_share_connections_and_none_has_twice_the_mean(serve, how):
    raise_fd_limit(2048)
    server = serve("plain:app", "--workers", 4)
    before = {pid: connections(pid) for pid in server.workers}
    address, clients = server.address, []
    for _ in range(400):
        client = socket.socket()
        client.settimeout(10)
        if how == "at once":
            client.setblocking(False)
        client.connect_ex(address)
        if how == "in turn":
            client.sendall(b"GET / HTTP/1.1\r\nHost: h\r\n\r\n")
            assert client.recv(4096).startswith(b"HTTP/1.1 200")
        clients.append(client)
    shares = until(
        lambda: (found := [connections(pid) - count for pid, count in before.items()]) and sum(found) == 400 and found,
        "all to be accepted",
    )
    for client in clients:
        client.close()
    assert max(shares) <= 200, shares

