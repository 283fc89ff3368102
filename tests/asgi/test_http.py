"""HTTP through ASGI 3: what the specification says of scope, receive and send, sentence by sentence."""

import os
import socket
import threading

import pytest
from harness.waiting import until


@pytest.fixture
def server(asgi):
    return asgi()


def test_the_scope_is_what_the_specification_says(server):
    with server.connect() as connection:
        host, port = connection.socket.getsockname()
        scope = connection.get("/scope?a=%20b", [("X-Upper", "One"), ("X-Upper", "Two"), ("Cookie", "a=b")]).json()
    assert scope["type"] == "http" and scope["asgi"] == {"version": "3.0", "spec_version": "2.5"}
    assert (scope["http_version"], scope["method"], scope["scheme"]) == ("1.1", "GET", "http")
    assert (scope["path"], scope["raw_path"], scope["query_string"]) == ("/scope", "/scope", "a=%20b")
    assert scope["kinds"] == {"headers": "list", "raw_path": "bytes", "query_string": "bytes"}
    assert scope["root_path"] == ""
    assert scope["client"] == [host, port] and scope["server"] == list(server.address)
    assert [pair for pair in scope["headers"] if pair[0] == "x-upper"] == [["x-upper", "One"], ["x-upper", "Two"]]
    assert ["cookie", "a=b"] in scope["headers"]
    assert scope["state"] == {"shared": ["from the lifespan"]}
    assert set(scope["extensions"]) == {"http.response.pathsend", "http.response.zerocopysend", "http.response.early_hint"}


def test_a_path_is_decoded_and_its_raw_form_is_kept(asgi):
    server = asgi(app="paths:app", files={"paths.py": """
async def app(scope, receive, send):
    await send({"type": "http.response.start", "status": 200})
    await send({"type": "http.response.body", "body": repr((scope["path"], scope["raw_path"])).encode()})
"""})
    assert server.get("/J%C3%BCrgen/a%2Fb?x=%20").text == repr(("/Jürgen/a/b", b"/J%C3%BCrgen/a%2Fb"))


def test_a_unix_socket_has_a_path_and_no_port_and_no_client(asgi, tmp_path):
    server = asgi(bind=[f"unix:{tmp_path}/s"])
    scope = server.get("/scope").json()
    assert scope["server"] == [f"{tmp_path}/s", None] and scope["client"] is None
    assert server.get("/scope", [("X-Forwarded-For", "2001:db8::1")]).json()["client"] == ["2001:db8::1", 0]


@pytest.mark.parametrize("arguments, forwarded, client", [
    ([], ["203.0.113.9"], ["203.0.113.9", 0]), ([], ["1.1.1.1, 203.0.113.9:99"], ["203.0.113.9", 99]),
    (["--forwarded-allow-ips", "127.0.0.1,10.0.0.0/8"], ["1.1.1.1, 203.0.113.9", "10.1.1.1"], ["203.0.113.9", 0]),
    (["--forwarded-allow-ips", "10.0.0.0/8"], ["203.0.113.9"], None), ([], ["unknown"], None),
])
def test_the_client_is_whom_a_believed_proxy_names(asgi, arguments, forwarded, client):
    server = asgi(*arguments)
    with server.connect() as connection:
        scope = connection.get("/scope", [("X-Forwarded-For", value) for value in forwarded]).json()
        assert scope["client"] == (client or list(connection.socket.getsockname()))


def test_root_path_is_in_front_of_the_path_whether_the_proxy_has_taken_it_away_or_not(asgi):
    server = asgi("--root-path", "/api")
    for target in ("/scope", "/api/scope"):
        scope = server.get(target).json()
        assert (scope["root_path"], scope["path"], scope["raw_path"]) == ("/api", "/api/scope", "/api/scope")


def test_the_scheme_is_that_of_a_trusted_proxy(server):
    assert server.get("/scope", [("X-Forwarded-Proto", "https")]).json()["scheme"] == "https"


@pytest.mark.parametrize("method, target, expected", [("OPTIONS", "*", "*"), ("PATCH", "/scope", "/scope")])
def test_methods_and_targets_arrive_as_sent(server, method, target, expected):
    with server.connect() as connection:
        response = connection.exchange(method, target)
    if expected == "/scope":
        assert (response.json()["method"], response.json()["path"]) == (method, expected)
    else:
        assert response.status == 200


def test_bodies_arrive_whole_however_they_are_framed(server):
    data = os.urandom(3_000_000)
    assert server.post("/echo", b"").body == b""
    assert server.post("/echo", data).body == data
    with server.connect() as connection:
        connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nabc\r\n")
        connection.send("2\r\nde\r\n0\r\n\r\n")
        assert connection.response().body == b"abcde"
        assert connection.post("/echo", b"next").body == b"next"


def test_a_body_is_given_part_by_part_as_it_arrives(server):
    with server.connect() as connection:
        connection.send("POST /echo HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\nab")
        assert server.get("/").status == 200, "others are served meanwhile"
        connection.send("cd")
        response = connection.response()
    assert response.body == b"abcd" and int(response.header("x-parts")) >= 1


def test_100_continue_is_sent_when_the_application_first_receives(server):
    with server.connect() as connection:
        connection.request("POST", "/echo", [("Expect", "100-continue"), ("Content-Length", "2")])
        assert connection.socket.recv(100).startswith(b"HTTP/1.1 100 Continue")
        connection.send("ab")
        assert connection.response().body == b"ab"
    with server.connect() as connection:
        connection.request("POST", "/ignore", [("Expect", "100-continue"), ("Content-Length", "2")])
        response = connection.response()
        assert response.body == b"not read" and not response.interim


def test_a_body_given_at_once_has_a_content_length_and_a_stream_has_chunks(server):
    assert server.get("/").framing == "length"
    stream = server.get("/stream")
    assert (stream.framing, stream.body) == ("chunked", b"01234")
    with server.connect() as connection:
        assert connection.exchange(target="/stream", version="HTTP/1.0").framing == "close"


def test_head_has_the_headers_and_no_body(server):
    with server.connect() as connection:
        assert connection.exchange("HEAD", "/").body == b""
        assert connection.get("/").body == b"Hello, world!", "the connection goes on"


def test_requests_that_wait_do_not_wait_for_each_other(asgi):
    server = asgi("--worker-connections", 1000)
    address = server.address
    connections = [server.connect(address, timeout=20) for _ in range(200)]
    for connection in connections:
        connection.request(target="/sleep?0.5")
    for connection in connections:
        assert connection.response().body == b"slept"
        connection.close()


def test_pipelined_requests_are_answered_in_order(server):
    with server.connect() as connection:
        connection.send("".join(f"GET {target} HTTP/1.1\r\nHost: a\r\n\r\n" for target in ("/sleep?0.1", "/", "/stream")))
        assert [connection.response().body for _ in range(3)] == [b"slept", b"Hello, world!", b"01234"]


def test_a_client_that_leaves_is_a_disconnect_and_sending_to_it_an_oserror(server, tmp_path):
    note = tmp_path / "note"
    connection = server.connect()
    connection.request(target=f"/disconnect?{note}")
    until(note.with_suffix(".entered").exists, "the application to run")
    connection.close()
    until(lambda: note.exists() and note.read_text(), "http.disconnect")
    assert note.read_text() == "http.disconnect"
    until(lambda: note.with_suffix(".error").exists() and note.with_suffix(".error").read_text(), "an OSError")
    assert note.with_suffix(".error").read_text() in ("BrokenPipeError", "ConnectionResetError")


def test_an_application_that_does_not_listen_is_cancelled_after_the_grace_period(asgi, tmp_path):
    server = asgi("--asgi-disconnect-grace-period", 0.2)
    note = tmp_path / "note"
    connection = server.connect()
    connection.request(target=f"/deaf?{note}")
    until(note.with_suffix(".entered").exists, "the application to run")
    connection.close()
    until(lambda: note.exists() and note.read_text() == "cancelled", "the cancellation")


def test_after_the_response_receive_gives_a_disconnect_and_the_connection_goes_on(server, tmp_path):
    note = tmp_path / "note"
    with server.connect() as connection:
        assert connection.get(f"/after?{note}").body == b"done"
        assert connection.get("/").status == 200
    until(lambda: note.exists() and note.read_text() == "http.disconnect", "the disconnect")


def test_send_waits_for_a_client_that_does_not_read(asgi, tmp_path):
    server = asgi("--response-buffer", 100_000)
    note = tmp_path / "note"
    connection = server.connect()
    connection.socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    connection.request(target=f"/endless?{note}")
    until(lambda: note.exists() and note.read_text(), "the stream to begin")
    sizes = []

    def still():
        sizes.append(int(note.read_text() or 0))
        return len(sizes) > 20 and len(set(sizes[-20:])) == 1

    until(still, "the application to be held up")
    assert sizes[-1] < 20_000_000
    assert server.get("/").status == 200
    connection.close()
    until(lambda: note.with_suffix(".error").exists(), "the application to hear of it")


def test_files_are_sent_by_path_and_by_descriptor(server, tmp_path):
    file = tmp_path / "file"
    data = os.urandom(1_000_000)
    file.write_bytes(data)
    sent = server.get(f"/pathsend?{file}")
    assert (sent.framing, sent.body) == ("length", data)
    assert server.get(f"/zerocopysend?{file}").body == data[10:15] + data


def test_early_hints_precede_the_response(server):
    response = server.get("/hints")
    links = [value for interim in response.interim for name, value in interim.headers if name.lower() == "link"]
    assert [interim.status for interim in response.interim] == [103, 103]
    assert links == ["</a.css>; rel=preload", "</b.js>; rel=preload", "</c.css>; rel=preload"]
    assert response.body == b"hinted"


def test_trailers_follow_for_a_client_that_takes_them(server):
    response = server.get("/trailers", [("TE", "trailers")])
    assert (response.body, response.trailers) == (b"body", [("x-first", "1"), ("x-second", "2")])
    assert server.get("/trailers").trailers == []
    assert "http.response.trailers" in server.get("/scope", [("TE", "trailers")]).json()["extensions"]


@pytest.mark.parametrize("fault, record", [
    ("raises", "RuntimeError: raised on purpose"),
    ("silent", "returned without starting a response"),
    ("body_first", "Expected ASGI message 'http.response.start', but got 'http.response.body'"),
    ("start_twice", "Expected ASGI message 'http.response.body', but got 'http.response.start'"),
    ("text_body", "http.response.body: body must be bytes, not str"),
    ("text_header", "a header must be a pair of bytes"),
    ("split_header", "contains a control character"),
    ("text_status", "status must be an int, not str"),
    ("unknown", "'http.response.nonsense' is no ASGI message"),
    ("no_dict", "send takes a dict, not str"),
])
def test_a_fault_before_the_response_is_a_500_with_one_record(server, fault, record):
    server.expect(record)
    assert server.get(f"/fault?{fault}").status == 500
    assert server.get("/").status == 200


@pytest.mark.parametrize("fault, record", [("raises_late", "raised late"), ("incomplete", "without completing its response"),
                                           ("short", "7 bytes shorter than its Content-Length")])
def test_a_fault_within_the_response_cuts_the_connection(server, fault, record):
    server.expect(record)
    with server.connect() as connection:
        connection.request(target=f"/fault?{fault}")
        data = b""
        while part := connection.socket.recv(65536):
            data += part
    assert data.startswith(b"HTTP/1.1 200") and not data.endswith(b"0\r\n\r\n")


def test_a_fault_after_the_response_is_recorded_and_harms_nobody(server):
    server.expect("Error after the response to GET /fault.*raised after the response")
    with server.connect() as connection:
        assert connection.get("/fault?raises_after").body == b"complete"
        assert connection.get("/").status == 200
    server.found("raised after the response")


def test_more_than_content_length_is_cut(server):
    assert server.get("/fault?long").body == b"abc"
    server.found("longer than its Content-Length")


def test_tasks_contexts_and_timeouts_are_those_of_asyncio(server):
    for value in ("one", "two"):
        found = server.get(f"/task?{value}").json()
        assert (found["before"], found["after"], found["same"], found["listed"]) == ("unset", value, True, True)


@pytest.mark.parametrize("loop, module", [("asyncio", "asyncio"), ("uvloop", "uvloop"), ("auto", "uvloop")])
def test_the_loop_is_the_one_that_was_chosen(asgi, loop, module):
    server = asgi("--asgi-loop", loop)
    assert server.get("/task").json()["loop"].startswith(module)
    assert server.get("/anyio").json() == {"moved_on": True, "found": ["asyncio", "asyncio", "thread"]}


def test_a_task_may_cancel_itself_and_a_receive(server):
    assert server.get("/cancel_self").body == b"survived"
    assert server.post("/receive_task", b"body").body == b"0 body"


def test_each_request_has_its_copy_of_the_state(server):
    assert [server.get("/state").json()["mine"] for _ in range(2)] == [1, 1]


def test_many_clients_at_once_get_their_own_answers(server):
    failures = []

    def ask(number):
        with server.connect() as connection:
            for turn in range(50):
                body = f"{number}-{turn}".encode() * 100
                if connection.post("/echo", body).body != body:
                    failures.append(number)

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert not failures
