"""Every transcript of the engine, played to a real server: each request gets its answer, each broken rule its status."""

import re
import socket

from .second_opinions import engine, statuses, transcripts

ECHO = """
    def app(environ, start_response):
        body = environ["wsgi.input"].read()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [body.hex().encode()]
"""

# The client left in the middle; an answer is a courtesy.
TRUNCATED = {"head-truncated", "body-truncated"}


def exchange(address, stream):
    """Sends the stream and FIN, and returns all that comes back."""
    with socket.create_connection(address, 10) as client:
        client.sendall(stream)
        client.shutdown(socket.SHUT_WR)
        received = b""
        while data := client.recv(65536):
            received += data
        return received


def test_each_request_is_answered_and_each_broken_rule_has_its_status(wsgi):
    server = wsgi(ECHO, "--forwarded-allow-ips", "192.0.2.1")
    status_of = statuses()
    cases = list(transcripts())
    for (title, stream), opinion in zip(cases, engine([stream for _, stream in cases]), strict=True):
        received = exchange(server.address, stream)
        seen = [int(status) for status in re.findall(rb"HTTP/1\.1 (\d\d\d) ", received) if status != b"100"]
        expected = [200] * len(opinion.messages)
        if opinion.refused in TRUNCATED:
            assert seen in (expected, [*expected, 400]), (title, stream, received)
        elif opinion.refused:
            assert seen == [*expected, status_of[opinion.refused]], (title, stream, received)
        else:
            assert seen == expected, (title, stream, received)
        for _, _, _, body in opinion.messages:
            assert body.hex().encode() in received, (title, stream, received)
