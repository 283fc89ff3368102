"""Frames that a WebSocket's client may send and such that it may not (RFC 6455 sections 5 to 8), as Autobahn tries them."""

import struct
import sys

import pytest
from harness import Server
from harness.server import APPS
from harness.websocket import Raw, frame


@pytest.fixture
def server(asgi):
    return asgi()


@pytest.fixture
def raw(server):
    raw = Raw(server)
    yield raw
    raw.connection.close()


@pytest.mark.parametrize("size", [0, 1, 125, 126, 127, 128, 65_535, 65_536, 1_000_000])
def test_messages_of_every_length_come_back(raw, size):
    for kind in (0x81, 0x82):
        raw.send(frame(kind, b"*" * size))
        assert raw.frame() == (kind, b"*" * size)


def test_a_message_comes_back_though_each_byte_is_sent_alone(raw):
    for byte in frame(0x89, b"p") + frame(0x81, "zwölf".encode()):
        raw.send(bytes([byte]))
    assert [raw.frame(), raw.frame()] == [(0x8a, b"p"), (0x81, "zwölf".encode())]


@pytest.mark.parametrize("payload", [b"", b"\0\xff" * 62 + b"x"])
def test_pings_are_answered_with_what_they_carry_and_pongs_with_nothing(raw, payload):
    raw.send(frame(0x8a, b"unasked"), frame(0x89, payload), frame(0x81, b"end"))
    assert [raw.frame(), raw.frame()] == [(0x8a, payload), (0x81, b"end")]


def test_ten_pings_have_ten_answers_in_their_order(raw):
    raw.send(*(frame(0x89, b"%d" % number) for number in range(10)))
    assert [raw.frame() for _ in range(10)] == [(0x8a, b"%d" % number) for number in range(10)]


def test_fragments_make_one_message_and_control_frames_may_stand_between_them(raw):
    raw.send(frame(0x01, b"one "), frame(0x89, b"ping"), frame(0x00), frame(0x8a), frame(0x00, b"two "))
    assert raw.frame() == (0x8a, b"ping"), "before the message is complete"
    raw.send(frame(0x80, b"three"))
    assert raw.frame() == (0x81, b"one two three")
    raw.send(frame(0x01), frame(0x00), frame(0x80), frame(0x81, b"next"))
    assert [raw.frame(), raw.frame()] == [(0x81, b""), (0x81, b"next")]


@pytest.mark.parametrize("text", ["κόσμε", "\U0001d11e x", "\U0010ffff", "\x00\x7f", "\uffff"])
def test_utf8_may_be_cut_anywhere(raw, text):
    data = text.encode()
    for cut in range(len(data) + 1):
        raw.send(frame(0x01, data[:cut]), frame(0x80, data[cut:]))
        assert raw.frame() == (0x81, data)


PROTOCOL, INVALID, TOO_BIG = 1002, 1007, 1009
FAULTS = {
    "a fragmented ping": ([frame(0x09, b"x"), frame(0x80, b"y")], PROTOCOL),
    "a fragmented pong": ([frame(0x0a, b"x")], PROTOCOL),
    "a fragmented close": ([frame(0x08, b"\x03\xe8")], PROTOCOL),
    "a ping in the middle that is fragmented": ([frame(0x01, b"a"), frame(0x09, b"x")], PROTOCOL),
    "a ping of 126 bytes": ([frame(0x89, bytes(126))], PROTOCOL),
    "a close of 126 bytes": ([frame(0x88, b"\x03\xe8" + b"x" * 124)], PROTOCOL),
    "the first reserved bit: compression that was not negotiated": ([frame(0xc1, b"x")], PROTOCOL),
    "the second reserved bit": ([frame(0xa1, b"x")], PROTOCOL),
    "the third reserved bit, on a ping": ([frame(0x99, b"x")], PROTOCOL),
    "a reserved bit on a fragment": ([frame(0x01, b"x"), frame(0xc0, b"y")], PROTOCOL),
    "opcode 3": ([frame(0x83)], PROTOCOL), "opcode 7": ([frame(0x87, b"x")], PROTOCOL),
    "opcode 11": ([frame(0x8b)], PROTOCOL), "opcode 15": ([frame(0x8f, b"x")], PROTOCOL),
    "a continuation of nothing": ([frame(0x80, b"x")], PROTOCOL),
    "a message inside one": ([frame(0x01, b"x"), frame(0x82, b"y")], PROTOCOL),
    "not masked": ([b"\x81\x01x"], PROTOCOL), "an unmasked ping": ([b"\x89\x00"], PROTOCOL),
    "half a close code": ([frame(0x88, b"\x03")], PROTOCOL),
    "125 in a length of 16 bits": ([b"\x82\xfe\x00\x7d" + bytes(4 + 125)], PROTOCOL),
    "0 in a length of 16 bits": ([b"\x82\xfe\x00\x00" + bytes(4)], PROTOCOL),
    "65,535 in a length of 64 bits": ([b"\x82\xff" + struct.pack(">Q", 65_535) + bytes(4)], PROTOCOL),
    "5 in a length of 64 bits": ([b"\x82\xff" + struct.pack(">Q", 5) + bytes(4 + 5)], PROTOCOL),
    "the highest bit of a length": ([b"\x82\xff\x80" + bytes(11)], PROTOCOL),
    "all bits of a length but the highest": ([b"\x82\xff\x7f" + b"\xff" * 7 + bytes(4)], TOO_BIG),
    "invalid UTF-8": ([frame(0x81, b"\xce\xba\xe1\xbd\xb9\xcf\x83\xce\xbc\xce\xb5\xed\xa0\x80edited")], INVALID),
    "invalid UTF-8 in a message that goes on": ([frame(0x01, b"\xf4\x90\x80\x80")], INVALID),
    "invalid UTF-8 across fragments": ([frame(0x01, b"\xce"), frame(0x00), frame(0x80, b"\xce")], INVALID),
    "an incomplete character at the end": ([frame(0x01, b"ok"), frame(0x80, b"\xf0\x9f")], INVALID),
    "a surrogate": ([frame(0x81, b"\xed\xb0\x80")], INVALID), "an overlong character": ([frame(0x81, b"\xc0\xaf")], INVALID),
    "a close reason that is no UTF-8": ([frame(0x88, b"\x03\xe8\xce\xba\xff")], INVALID),
}


@pytest.fixture(scope="module")
def faulty(tmp_path_factory):
    """A server for all faults: each ends its own connection only."""
    server = Server(tmp_path_factory.mktemp("faulty"), ["--bind", "127.0.0.1:0", "--python", sys.executable, "--workers", 1,
                                                        "--chdir", APPS, "-k", "asgi", "asgi_app:app"])
    server.start().ready()
    yield server
    server.finish()


@pytest.mark.parametrize("fault", FAULTS)
def test_a_client_that_breaks_a_rule_is_told_the_code_and_served_no_more(faulty, fault):
    frames, code = FAULTS[fault]
    raw = Raw(faulty)
    raw.send(frame(0x82, b"before"))
    assert raw.frame() == (0x82, b"before")
    raw.send(*frames, frame(0x81, b"behind it"))
    assert raw.closed() == code


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65_535])
def test_a_close_code_that_nobody_may_send_is_1002(faulty, code):
    raw = Raw(faulty)
    raw.send(frame(0x88, struct.pack(">H", code)))
    assert raw.closed() == 1002


@pytest.mark.parametrize("code", [1000, 1001, 1003, 1007, 1010, 1013, 3000, 3999, 4000, 4999])
def test_a_close_is_answered_with_its_code_and_ends_the_connection(faulty, code):
    raw = Raw(faulty)
    raw.send(frame(0x88, struct.pack(">H", code) + "auf Wiedersehen, bis später".encode()), frame(0x81, b"behind it"))
    assert raw.closed() == code


def test_a_close_without_a_code_is_answered_without_one(faulty):
    raw = Raw(faulty)
    raw.send(frame(0x88))
    assert raw.closed() is None


def test_a_fault_in_a_header_is_answered_before_the_payload_comes(faulty):
    raw = Raw(faulty)
    raw.send(b"\xc2\xff" + struct.pack(">Q", 1_000_000))
    assert raw.closed() == 1002


@pytest.mark.parametrize("offer", ["permessage-deflate", "permessage-deflate; client_max_window_bits, x-unknown",
                                   "permessage-deflate; server_no_context_takeover"])
def test_compression_is_not_offered_and_a_client_that_proposes_it_goes_without(faulty, offer):
    """RFC 7692 section 5: the server declines by an answer without the extension."""
    raw = Raw(faulty, Sec_WebSocket_Extensions=offer)
    assert raw.head.startswith(b"HTTP/1.1 101 ") and b"extensions" not in raw.head.lower()
    raw.send(frame(0x81, b"plain"))
    assert raw.frame() == (0x81, b"plain")
    raw.send(frame(0xc1, b"\xca\x48\xcd\xc9\xc9\x07\x00"))
    assert raw.closed() == 1002


def test_a_client_that_reads_no_pongs_is_held_up_and_costs_no_memory(asgi):
    server = asgi("--response-buffer", 100_000)
    raw = Raw(server)
    raw.connection.socket.settimeout(2)
    sent, pings = 0, frame(0x89, b"x" * 125) * 1000
    with pytest.raises(TimeoutError):
        while sent < 500_000_000:
            sent += raw.connection.socket.send(pings)
    assert server.get("/").status == 200
    # It reads on, and so is read.
    raw.connection.socket.settimeout(10)
    for _ in range(5000):
        assert raw.frame() == (0x8a, b"x" * 125)
    raw.connection.close()
