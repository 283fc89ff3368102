"""What the engine accepts, other parsers frame in the same way; every difference in what is accepted has its reason.

The reasons are in known_differences.toml. A difference in framing has none: it would be request smuggling.
"""

import random
import subprocess
import tomllib
from pathlib import Path

import pytest

from harness.requirement import command

from .second_opinions import engine, gunicorn_parser, h11_server, nginx_opinions, transcripts

DIFFERENCES = tomllib.loads((Path(__file__).parent / "known_differences.toml").read_text())["difference"]

FIRST = [b"GET / HTTP/1.1\r\n", b"POST /a?b HTTP/1.1\r\n", b"PUT http://h/x HTTP/1.1\r\n", b"POST / HTTP/1.0\r\n", b"\r\nGET / HTTP/1.1\r\n"]
FIELDS = [
    b"Accept: */*", b"X: \t a \t", b"X:", b"Connection: close", b"Connection: keep-alive", b"Content-Length: 3",
    b"Content-Length: 03", b"Content-Length: 3, 3", b"Content-Length: +3", b"Content-Length: 3\r\nContent-Length: 3",
    b"Transfer-Encoding: chunked", b"Transfer-Encoding: Chunked", b"transfer-encoding: chunked, chunked",
    b"Transfer-Encoding: gzip, chunked", b"Transfer-Encoding : chunked", b"Transfer-Encoding:\x0bchunked", b" fold",
    b"X: a\x00b", b"X: a\rb", b"Expect: 100-continue", b"no colon", b"Host: other", b"X: caf\xc3\xa9",
]
BODIES = [
    b"", b"abc", b"ab", b"3\r\nabc\r\n0\r\n\r\n", b"3;a=b\r\nabc\r\n0\r\nX: y\r\n\r\n", b"3 ;a\r\nabc\r\n0\r\n\r\n",
    b"03\r\nabc\r\n00\r\n\r\n", b"3\nabc\n0\n\n", b"0x3\r\nabc\r\n0\r\n\r\n", b"3\r\nabcd\r\n0\r\n\r\n", b"3\r\nabc\r\n0\r\n",
    b"3\r\nabc0\r\n\r\n", b"-3\r\nabc\r\n0\r\n\r\n", b"3;\r\nabc\r\n0\r\n\r\n", b"3;a=\"\r\n\"\r\nabc\r\n0\r\n\r\n",
]
SPOILERS = [b"\r", b"\n", b"\r\n", b" ", b"\t", b"\0", b":", b"0", b"\x7f", b"\xff", b";"]


def bent_streams(seed, number):
    """Streams of one to three requests, most of them with something wrong."""
    chance = random.Random(seed)
    for _ in range(number):
        stream = b""
        for _ in range(chance.randint(1, 3)):
            lines = [b"Host: h"] if chance.random() < 0.9 else []
            lines += chance.choices(FIELDS, k=chance.choice([0, 0, 0, 1, 1, 2]))
            body = chance.choice(BODIES)
            if body and chance.random() < 0.7:
                lines.append(b"Content-Length: 3" if body == b"abc" else b"Transfer-Encoding: chunked")
            stream += chance.choice(FIRST) + b"".join(line + b"\r\n" for line in lines) + b"\r\n" + body
        if chance.random() < 0.3:
            at = chance.randrange(len(stream))
            stream = stream[:at] + chance.choice(SPOILERS) + stream[at + chance.randint(0, 1) :]
        yield stream


@pytest.mark.parametrize("other", [h11_server, gunicorn_parser])
def test_what_both_accept_both_frame_alike(other):
    streams = [stream for _, stream in transcripts()]
    streams += list(bent_streams(seed=1, number=4000))
    agreed = 0
    for stream, ours in zip(streams, engine(streams), strict=True):
        theirs = other(stream)
        for our_message, their_message in zip(ours.messages, theirs.messages, strict=False):
            assert our_message == their_message, (stream, ours, theirs)
            agreed += 1
    assert agreed > 1000


def differences(peer, ask):
    """What only one of the engine and the peer accepts, as in known_differences.toml, with the transcripts that show it."""
    cases = list(transcripts())
    found = {}
    for (title, stream), ours in zip(cases, engine([stream for _, stream in cases]), strict=True):
        theirs = ask(stream)
        if len(ours.messages) < len(theirs.messages) and ours.refused:
            found.setdefault((ours.refused, None), []).append(title)
        elif len(ours.messages) > len(theirs.messages) and theirs.refused:
            found.setdefault((None, theirs.refused), []).append(title)
    known = {(entry.get("here"), entry.get("there")) for entry in DIFFERENCES if entry["peer"] == peer}
    unknown = {key: titles for key, titles in found.items() if key not in known}
    return unknown, known - set(found)


@pytest.mark.parametrize(("name", "other"), [("h11", h11_server), ("gunicorn", gunicorn_parser)])
def test_every_difference_in_what_is_accepted_is_known_with_its_reason(name, other):
    unknown, stale = differences(name, other)
    assert not unknown, "differences without a reason in known_differences.toml"
    assert not stale, "differences that are listed and do not exist"


def test_every_difference_from_nginx_is_known_with_its_reason(tmp_path):
    with nginx_opinions(tmp_path) as ask:
        unknown, stale = differences("nginx", ask)
        version = subprocess.run([command("nginx"), "-v"], capture_output=True, text=True, timeout=10).stderr
    assert not unknown, f"differences without a reason in known_differences.toml ({version})"
    # Another nginx may be stricter than the one that was compared.
    assert not stale or "/1.22." not in version, "differences that are listed and do not exist"


def test_nginx_passes_on_the_bodies_that_the_engine_reads(tmp_path):
    streams = [stream for _, stream in transcripts()] + list(bent_streams(seed=2, number=300))
    agreed = 0
    with nginx_opinions(tmp_path) as ask:
        for stream, ours in zip(streams, engine(streams), strict=True):
            theirs = ask(stream)
            for (method, _, _, our_body), their_body in zip(ours.messages, theirs.messages, strict=False):
                if method != b"HEAD":
                    assert our_body == their_body, (stream, ours, theirs)
                    agreed += 1
    assert agreed > 100
