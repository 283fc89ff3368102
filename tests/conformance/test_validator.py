"""wsgiref.validate.validator wraps an application and stays silent."""

import pytest

SOURCE = """
    import warnings
    warnings.simplefilter("error")
    from wsgiref.validate import validator

    def inner(environ, start_response):
        path = environ["PATH_INFO"]
        stream = environ["wsgi.input"]
        if path == "/read":
            body = stream.read(10) + stream.readline(5) + b"".join(stream.readlines()) + stream.read(1)
        elif path == "/iterate":
            body = b"".join(stream)
        elif path == "/errors":
            environ["wsgi.errors"].write("written\\n")
            environ["wsgi.errors"].writelines(["more\\n"])
            environ["wsgi.errors"].flush()
            body = b"written"
        elif path == "/write":
            write = start_response("200 OK", [("Content-Type", "text/plain")])
            write(b"written ")
            return [b"and returned"]
        elif path == "/none":
            start_response("204 No Content", [])
            return []
        else:
            body = b"hello"
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]

    app = validator(inner)
"""


@pytest.fixture(params=["tcp", "unix"])
def server(wsgi, tmp_path, request):
    # wsgiref writes to stderr what it finds after the response has been sent; both reach the log.
    yield (served := wsgi(SOURCE, bind=["127.0.0.1:0"] if request.param == "tcp" else [f"unix:{tmp_path}/s"]))
    served.expect("written")
    served.expect("more")
    served.stop()
    assert not served.log.find("AssertionError|WSGIWarning|validate"), served.log.text


def test_the_validator_finds_nothing(server):
    with server.connect() as client:
        assert client.get("/").body == b"hello"
        assert client.get("/a%20b/c?x=y", [("Accept", "a"), ("Accept", "b"), ("X-Latin", "\xe9")]).body == b"hello"
        assert client.exchange("HEAD", "/").body == b""
        assert client.exchange("OPTIONS", "/").status == 200
        assert client.exchange("DELETE", "/").status == 200
        assert client.post("/read", b"line one\nline two\nline three").status == 200
        assert client.post("/iterate", b"a\nb\nc").body == b"a\nb\nc"
        assert client.get("/errors").body == b"written"
        assert client.get("/write").body == b"written and returned"
        assert client.get("/none").status == 204
        client.request("POST", "/iterate", [("Transfer-Encoding", "chunked")])
        client.send(b"3\r\na\nb\r\n0\r\n\r\n")
        assert client.response().body == b"a\nb"
    with server.connect() as client:
        assert client.get("/", version="HTTP/1.0").body == b"hello"
