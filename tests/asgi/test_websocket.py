"""WebSockets: the handshake and the frames of RFC 6455, and a client of another make."""

import asyncio
import base64
import hashlib
import json
import os
import re
import signal
import struct
import time

import pytest
import websockets
from harness.waiting import until
from harness.websocket import KEY, Raw, frame, handshake


@pytest.fixture
def server(asgi):
    return asgi()


def test_the_handshake_is_accepted_as_the_rfc_says(server):
    raw = Raw(server, "/ws/scope?q=1", Sec_WebSocket_Protocol="chat, superchat")
    accept = base64.b64encode(hashlib.sha1((KEY + "258EAFA5-E914-47DA-95CA-C5AB0DC85B11").encode()).digest()).decode()
    head = raw.head.decode().lower()
    assert head.startswith("http/1.1 101 ") and "upgrade: websocket\r\n" in head and "connection: upgrade\r\n" in head
    assert f"sec-websocket-accept: {accept.lower()}\r\n" in head
    assert "sec-websocket-protocol: superchat\r\n" in head and "x-mine: yes\r\n" in head
    scope = json.loads(raw.frame()[1])
    assert (scope["type"], scope["scheme"], scope["path"], scope["query_string"]) == ("websocket", "ws", "/ws/scope", "q=1")
    assert scope["subprotocols"] == ["chat", "superchat"] and "method" not in scope
    assert scope["extensions"] == {"websocket.http.response": {}} and scope["asgi"]["spec_version"] == "2.5"


@pytest.mark.parametrize("fields, status", [
    ({"Sec_WebSocket_Version": "8"}, 426), ({"Sec_WebSocket_Version": None}, 426), ({"Sec_WebSocket_Key": None}, 400),
    ({"Sec_WebSocket_Key": "short"}, 400), ({"Content_Length": "5"}, 400),
])
def test_a_wrong_handshake_is_refused_without_the_application(server, fields, status):
    raw = Raw(server, **fields)
    assert raw.head.startswith(b"HTTP/1.1 %d " % status)
    if status == 426:
        assert b"Sec-WebSocket-Version: 13" in raw.head


def test_an_application_denies_with_403_or_with_a_response_of_its_own(server):
    assert Raw(server, "/ws/deny").head.startswith(b"HTTP/1.1 403 ")
    raw = Raw(server, "/ws/deny_with")
    assert raw.head.startswith(b"HTTP/1.1 401 ") and b"x-why: because" in raw.head
    assert b"go " in raw.connection.socket.recv(100)


def test_an_application_that_does_not_answer_the_handshake_is_at_fault(server):
    server.expect("returned without answering the WebSocket's handshake")
    server.expect("Expected ASGI message 'websocket.accept'")
    assert Raw(server, "/ws/silent").head.startswith(b"HTTP/1.1 500 ")
    assert Raw(server, "/ws/early").head.startswith(b"HTTP/1.1 500 ")


def test_messages_come_back_whole(server):
    raw = Raw(server)
    raw.send(frame(0x81, "grüße".encode()), frame(0x82, b"\0\1"))
    assert [raw.frame(), raw.frame()] == [(0x81, "grüße".encode()), (0x82, b"\0\1")]
    big = os.urandom(1_000_000)
    raw.send(frame(0x02, big[:300_000]), frame(0x89, b"in between"), frame(0x00, big[300_000:600_000]), frame(0x80, big[600_000:]))
    assert raw.frame() == (0x8a, b"in between")
    assert raw.frame() == (0x82, big)
    raw.send(frame(0x88, struct.pack(">H", 1000)))
    assert raw.closed() == 1000


def test_frames_sent_behind_the_handshake_are_not_lost(server):
    connection = server.connect()
    connection.send(handshake().encode() + frame(0x81, b"at once"))
    data = b""
    while not data.endswith(b"\x81\x07at once"):
        part = connection.socket.recv(1000)
        assert part
        data += part


@pytest.mark.parametrize("frames, code", [
    ([b"\x81\x01a"], 1002), ([frame(0xc1, b"a")], 1002), ([frame(0x83, b"a")], 1002), ([frame(0x8b, b"a")], 1002),
    ([frame(0x80, b"a")], 1002), ([frame(0x01, b"a"), frame(0x81, b"b")], 1002), ([frame(0x09, b"")], 1002),
    ([frame(0x89, bytes(126))], 1002), ([frame(0x88, b"x")], 1002), ([frame(0x81, b"\xff\xfe")], 1007),
    ([frame(0x01, b"\xc3"), frame(0x80, b"\x28")], 1007),
], ids=["not masked", "reserved bit", "reserved opcode", "reserved control opcode", "continuation of nothing",
        "message inside a message", "fragmented ping", "long ping", "half a code", "not UTF-8", "not UTF-8 in parts"])
def test_a_client_that_breaks_the_protocol_is_told_the_code(server, tmp_path, frames, code):
    note = tmp_path / "note"
    raw = Raw(server, f"/ws/echo?{note}")
    raw.send(*frames)
    assert raw.closed() == code
    until(lambda: note.exists() and note.read_text(), "the application to hear of it")
    assert json.loads(note.read_text())[0] == code


def test_a_message_above_the_limit_is_1009(asgi):
    server = asgi("--websocket-max-message-size", 1000)
    raw = Raw(server)
    raw.send(frame(0x82, bytes(1000)))
    assert raw.frame() == (0x82, bytes(1000))
    raw.send(frame(0x82, bytes(1001)))
    assert raw.closed() == 1009


@pytest.mark.parametrize("ending, expected", [
    (frame(0x88, struct.pack(">H", 4002) + b"bye"), [4002, "bye"]), (frame(0x88), [1005, ""]),
    (None, [1006, "the client left without closing the WebSocket"]),
])
def test_the_application_hears_how_its_client_left(server, tmp_path, ending, expected):
    note = tmp_path / "note"
    raw = Raw(server, f"/ws/echo?{note}")
    if ending:
        raw.send(ending)
    raw.connection.close()
    until(lambda: note.exists() and note.read_text(), "the disconnect")
    assert json.loads(note.read_text()) == expected


def test_the_application_closes_with_its_code_and_may_not_send_after_it(server):
    server.expect("Unexpected ASGI message 'websocket.send', after sending 'websocket.close'")
    assert Raw(server, "/ws/close").closed() == 4001
    assert Raw(server, "/ws/return").closed() == 1000


def test_an_application_that_raises_closes_with_1011(server):
    server.expect("Error handling WebSocket GET /ws/raise.*raised in a websocket")
    assert Raw(server, "/ws/raise").closed() == 1011


def test_a_silent_client_is_pinged_and_one_that_does_not_answer_is_disconnected(asgi, tmp_path):
    server, note = asgi("--websocket-ping-interval", 0.3, "--websocket-ping-timeout", 3), tmp_path / "note"
    raw = Raw(server, f"/ws/echo?{note}")
    assert raw.frame() == (0x89, b"")
    raw.send(frame(0x8a))
    assert raw.frame() == (0x89, b"")
    assert raw.connection.socket.recv(1) == b""
    until(lambda: note.exists() and note.read_text(), "the disconnect")
    assert json.loads(note.read_text())[0] == 1006


def test_timeout_does_not_run_for_a_websocket(asgi):
    server = asgi("--timeout", 2)
    raw = Raw(server)
    for _ in range(3):
        assert server.get("/sleep?0.8").status == 200
    raw.send(frame(0x81, b"still here"))
    assert raw.frame() == (0x81, b"still here")


def test_send_waits_for_a_client_that_does_not_read_and_all_of_it_arrives(asgi):
    server = asgi("--response-buffer", 100_000)
    raw = Raw(server, "/ws/flood?200")
    assert server.get("/").status == 200
    for _ in range(200):
        assert raw.frame() == (0x82, b"x" * 65536)


def test_a_client_that_sends_faster_than_it_is_read_is_held_up(asgi):
    server = asgi("--graceful-timeout", 0.5)
    raw = Raw(server, "/ws/deaf")
    raw.connection.socket.settimeout(2)
    with pytest.raises(TimeoutError):
        for _ in range(1000):
            raw.send(frame(0x82, bytes(65536)))
    assert server.get("/").status == 200
    raw.connection.close()


def test_five_hundred_clients_of_another_make_get_their_echoes(asgi):
    server = asgi("--worker-connections", 1000)
    host, port = server.address

    async def client(number):
        async with websockets.connect(f"ws://{host}:{port}/ws/echo", open_timeout=30, compression=None,
                                      subprotocols=["one", "two"]) as socket:
            assert socket.subprotocol == "two"
            for turn in range(5):
                message = f"{number}-{turn}" * 20
                await socket.send(message)
                assert await socket.recv() == message
                await socket.send(message.encode())
                assert await socket.recv() == message.encode()

    async def everybody():
        await asyncio.gather(*(client(number) for number in range(500)))

    asyncio.run(asyncio.wait_for(everybody(), 60))


def test_a_websocket_stays_until_its_generation_ends_and_is_closed_with_1012(asgi, tmp_path):
    server, note = asgi("--graceful-timeout", 3), tmp_path / "note"
    before = server.get("/pid").body
    raw = Raw(server, f"/ws/echo?{note}")
    server.signal(signal.SIGHUP)
    until(lambda: server.get("/pid").body != before, "the new generation")
    raw.send(frame(0x81, b"still here"))
    assert raw.frame() == (0x81, b"still here")
    assert raw.closed() == 1012
    until(lambda: note.exists() and note.read_text(), "the disconnect")
    assert json.loads(note.read_text())[0] == 1012


def test_the_101_has_the_requests_id(server):
    head = Raw(server, "/ws/echo").head.decode()
    made = re.search(r"\r\nX-Request-ID: ([0-9a-f]{32})\r\n", head)
    assert made, head
    assert "\r\nX-Request-ID: from-the-proxy\r\n" in Raw(server, "/ws/echo", X_Request_ID="from-the-proxy").head.decode()
    own = Raw(server, "/ws/own_id").head.decode().lower()
    assert own.count("x-request-id") == 1 and "\r\nx-request-id: mine\r\n" in own
    raw = Raw(server, "/ws/scope")
    given = re.search(r"X-Request-ID: (\S+)", raw.head.decode()).group(1)
    assert ["x-request-id", given] in json.loads(raw.frame()[1])["headers"], "the application knows it, too"


def test_the_access_record_of_a_websocket_comes_at_its_end_and_is_complete(asgi):
    server = asgi("--access-logfile", "-", "--access-logformat", 'A %(r)s %(s)s %(B)s %(M)s %(id)s %({x-mine}o)s')
    raw = Raw(server, X_Request_ID="one-two")
    begun = time.monotonic()
    # A pong and an echo: 2 and 2 + 1000 + 2 bytes; 4 of a close.
    raw.send(frame(0x89), frame(0x82, bytes(1000)))
    assert [raw.frame()[0], raw.frame()[0]] == [0x8a, 0x82]
    assert server.get("/sleep?0.3").status == 200
    assert "/ws/echo" not in server.log.text, "it is not over"
    lasted = time.monotonic() - begun
    raw.send(frame(0x88, struct.pack(">H", 1000)))
    assert raw.closed() == 1000
    record = until(lambda: re.search(r"A GET /ws/echo HTTP/1.1 (\d+) (\d+) (\d+) (\S+) (\S+)", server.log.text), "the record")
    assert record.groups()[:2] == ("101", str(2 + 1004 + 4)) and record.groups()[3:] == ("one-two", "yes")
    assert int(record.group(3)) >= lasted * 1000 - 1


def test_a_websocket_that_is_denied_or_breaks_off_has_its_access_record(asgi):
    server = asgi("--access-logfile", "-", "--access-logformat", "A %(U)s %(s)s %(B)s")
    server.expect("raised in a websocket")
    Raw(server, "/ws/deny")
    Raw(server, "/ws/deny_with")
    Raw(server, "/ws/raise").closed()
    raw = Raw(server, "/ws/echo")
    raw.connection.close()
    for record in ("A /ws/deny 403 0", "A /ws/deny_with 401 7", "A /ws/raise 101 4", "A /ws/echo 101 0"):
        until(lambda record=record: record in server.log.text, record)


def test_receive_and_send_pass_for_coroutine_functions(server):
    """asgiref, by which Channels sends from its synchronous consumers, asks for it."""
    assert json.loads(Raw(server, "/ws/marked").frame()[1]) == [True, True]


@pytest.mark.parametrize("name", ["sec-websocket-protocol", "sec-websocket-extensions", "sec-websocket-accept"])
def test_what_is_the_servers_to_answer_is_refused_among_the_applications_headers(asgi, name):
    server = asgi(app="accepts:app", files={"accepts.py": f"""
async def app(scope, receive, send):
    await receive()
    await send({{"type": "websocket.accept", "headers": [(b"{name}", b"x")]}})
"""})
    server.expect("ValueError: websocket.accept: ")
    assert Raw(server, "/").head.startswith(b"HTTP/1.1 500 ")


LEFT = """
import asyncio, json, os, pathlib

async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        while True:
            event = await receive()
            if event["type"] == "lifespan.shutdown" and os.environ.get("NOTE"):
                pathlib.Path(os.environ["NOTE"]).write_text("shut down")
            await send({"type": event["type"] + ".complete"})
    if scope["type"] == "http":
        await send({"type": "http.response.start", "status": 200})
        return await send({"type": "http.response.body", "body": b"%d" % os.getpid()})
    note = pathlib.Path(scope["query_string"].decode())
    await receive()
    await send({"type": "websocket.accept"})
    await send({"type": "websocket.send", "text": "open"})
    try:
        if scope["path"] == "/waits_for_something_else":
            await asyncio.sleep(600)
        elif scope["path"] == "/is_told_and_goes_on":
            told = await receive()
            await asyncio.sleep(1.2)
            note.write_text(f"{told['type']}, and went on")
            return
        elif scope["path"] == "/ignores_it_all":
            while True:
                try:
                    await asyncio.sleep(600)
                except asyncio.CancelledError:
                    note.write_text("cancelled")
        elif scope["path"] == "/only_sends":
            while True:
                await send({"type": "websocket.send", "text": "tick"})
                await asyncio.sleep(0.01)
        elif scope["path"] == "/receives_again":
            told = [(await receive())["type"] for _ in range(3)]
            try:
                await send({"type": "websocket.send", "text": "tick"})
            except OSError as error:
                told.append(isinstance(error, OSError))
            try:
                await send({"type": "websocket.close"})
            except OSError as error:
                told.append(isinstance(error, OSError))
            note.write_text(json.dumps(told))
            return
    except BaseException as error:
        note.write_text(type(error).__name__)
        raise
"""


@pytest.fixture
def left(asgi, tmp_path):
    """left(path, ...) -> server and note, when the client of a WebSocket at that path has been there and has left."""

    def leave(path, *arguments, **more):
        server = asgi(*arguments, app="left:app", files={"left.py": LEFT}, **more)
        raw = Raw(server, f"{path}?{tmp_path / 'note'}")
        assert raw.frame() == (0x81, b"open")
        raw.connection.close()
        return server, tmp_path / "note"

    return leave


def said(note):
    return until(lambda: note.exists() and note.read_text(), "the note")


def test_a_task_that_does_not_learn_that_its_client_has_left_is_cancelled_after_the_grace_period(left):
    server, note = left("/waits_for_something_else", "--asgi-disconnect-grace-period", 0.5, "--worker-connections", 1)
    assert said(note) == "CancelledError"
    assert server.get("/").status == 200, "its lane is free again"


def test_a_task_that_was_told_goes_on(left):
    _, note = left("/is_told_and_goes_on", "--asgi-disconnect-grace-period", 0.2)
    assert said(note) == "websocket.disconnect, and went on"


def test_a_task_that_only_sends_gets_an_oserror_and_that_is_no_fault(left):
    _, note = left("/only_sends")
    assert said(note) == "BrokenPipeError"


def test_receive_says_it_again_and_every_send_is_an_oserror(left):
    _, note = left("/receives_again")
    assert json.loads(said(note)) == ["websocket.disconnect"] * 3 + [True, True]


def test_a_task_that_ignores_everything_ends_with_its_worker_and_the_lifespan_is_told(left, tmp_path):
    ended = tmp_path / "ended"
    server, note = left("/ignores_it_all", "--asgi-disconnect-grace-period", 600, "--graceful-timeout", 5, env={"NOTE": str(ended)})
    before = server.get("/").body
    server.signal(signal.SIGHUP)
    until(lambda: server.get("/").body != before, "the new generation")
    (record,) = [server.found("The task of GET /ignores_it_all.* is cancelled: it goes on without a client", "warning")]
    assert said(note) == "cancelled" and said(ended) == "shut down"
    until(lambda: len(server.workers) == 1, "the old worker's end")


def test_a_task_that_waits_for_something_else_is_cancelled_at_a_reload(left, tmp_path):
    ended = tmp_path / "ended"
    server, note = left("/waits_for_something_else", "--asgi-disconnect-grace-period", 600, "--graceful-timeout", 5,
                        env={"NOTE": str(ended)})
    server.signal(signal.SIGHUP)
    assert said(note) == "CancelledError" and said(ended) == "shut down"


@pytest.mark.parametrize("framework", ["starlette", "fastapi"])
def test_a_frameworks_word_for_a_client_that_left_is_no_error(asgi, framework):
    """Starlette raises WebSocketDisconnect from receive_text and send_text; few endpoints catch it."""
    server = asgi("--log-level", "debug", app=f"asgi_frameworks:{framework}()")
    for path in ("/ws/uncaught", "/ws/ticks"):
        raw = Raw(server, path)
        assert raw.frame()[0] == 0x81
        raw.connection.close()
        server.found(f"a client left before its response was complete.*{path}")
