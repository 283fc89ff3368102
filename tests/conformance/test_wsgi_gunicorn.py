"""What Gunicorn adds to PEP 3333, and where it is bettered on purpose."""

import pytest
from harness import until

SHOW = """
import json
def app(environ, start_response):
    body = json.dumps({name: value for name, value in environ.items() if isinstance(value, (str, bool))}).encode()
    start_response("200 OK", [("Content-Type", "application/json")])
    return [body]
"""


def test_raw_uri_is_the_target_as_it_came(wsgi):
    assert wsgi(SHOW).get("/a%2Fb//c?d=%20e").json()["RAW_URI"] == "/a%2Fb//c?d=%20e"


def test_remote_addr_and_port_are_the_clients(wsgi):
    server = wsgi(SHOW)
    with server.connect() as client:
        host, port = client.socket.getsockname()
        environ = client.get().json()
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == (host, str(port))


def test_a_unix_socket_has_neither_remote_port_nor_remote_addr(wsgi, tmp_path):
    environ = wsgi(SHOW, bind=[f"unix:{tmp_path}/s"]).get(headers=[("Host", "example.org:8443")]).json()
    assert environ["REMOTE_ADDR"] == "" and "REMOTE_PORT" not in environ
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == ("example.org", "8443")


@pytest.mark.parametrize("host, name, port", [("example.org", "example.org", "80"), ("[::1]:81", "[::1]", "81"),
                                              ("[::1]", "[::1]", "80")])
def test_on_a_unix_socket_the_servers_name_is_that_of_host(wsgi, tmp_path, host, name, port):
    environ = wsgi(SHOW, bind=[f"unix:{tmp_path}/s"]).get(headers=[("Host", host)]).json()
    assert (environ["SERVER_NAME"], environ["SERVER_PORT"]) == (name, port)


def test_forwarded_for_does_not_change_remote_addr(wsgi):
    assert wsgi(SHOW).get(headers=[("X-Forwarded-For", "203.0.113.7")]).json()["REMOTE_ADDR"] == "127.0.0.1"


# SCRIPT_NAME


@pytest.mark.parametrize("target, path", [("/app/page", "/page"), ("/app", ""), ("/app/a%20b?x", "/a b")])
def test_script_name_of_the_environment_is_taken_from_the_path(wsgi, target, path):
    environ = wsgi(SHOW, "--env", "SCRIPT_NAME=/app").get(target).json()
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", path)


@pytest.mark.parametrize("target", ["/elsewhere", "/application"])
def test_a_path_that_is_not_below_script_name_is_an_error(wsgi, target):
    server = wsgi(SHOW, "--env", "SCRIPT_NAME=/app")
    server.expect("is not below SCRIPT_NAME /app")
    assert server.get(target).status == 500


def test_a_trusted_proxy_may_set_script_name(wsgi):
    environ = wsgi(SHOW).get("/app/page", [("SCRIPT_NAME", "/app")]).json()
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("/app", "/page")


def test_an_untrusted_peer_may_not(wsgi):
    environ = wsgi(SHOW, "--forwarded-allow-ips", "192.0.2.1").get("/app/page", [("SCRIPT_NAME", "/app")]).json()
    assert (environ["SCRIPT_NAME"], environ["PATH_INFO"]) == ("", "/app/page")


def test_the_length_of_a_chunked_body_is_known(wsgi):
    """RFC 3875 section 4.1.2. Without it Django sees no body; Gunicorn leaves it out."""
    with wsgi(SHOW).connect() as client:
        client.request("POST", "/", [("Transfer-Encoding", "chunked")])
        client.send(b"3\r\nabc\r\n2\r\nde\r\n0\r\n\r\n")
        environ = client.response().json()
    assert environ["CONTENT_LENGTH"] == "5" and environ["wsgi.input_terminated"] is True


def test_a_proxy_header_names_the_client(wsgi):
    with wsgi(SHOW, "--proxy-protocol", "auto").connect() as client:
        client.send(b"PROXY TCP4 203.0.113.7 198.51.100.1 4567 443\r\n")
        environ = client.get().json()
    assert (environ["REMOTE_ADDR"], environ["REMOTE_PORT"]) == ("203.0.113.7", "4567")
    assert (environ["PROXY_PROTOCOL"], environ["PROXY_ADDR"], environ["PROXY_PORT"]) == ("TCP4", "198.51.100.1", "443")


# gunicorn.socket


def test_the_socket_is_the_connection(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            sock = environ["gunicorn.socket"]
            copy = sock.dup()
            assert copy.fileno() != sock.fileno()
            body = repr((sock.getpeername(), copy.getpeername())).encode()
            copy.close()
            start_response("200 OK", [])
            return [body]
    """)
    with server.connect() as client:
        me = client.socket.getsockname()
        assert client.get().text == repr((me, me))
        assert client.get().text == repr((me, me)), "the connection goes on"


# Records


def test_a_fault_is_one_record_that_names_the_header(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            start_response("200 OK", [("X-Split", "a\\r\\nSet-Cookie: b")])
            return [b"x"]
    """)
    server.expect('GET /page: the value of header "X-Split"')
    answer = server.get("/page")
    assert answer.status == 500 and answer.header("Set-Cookie") is None
    assert len(server.log.find("X-Split")) == 1


@pytest.mark.parametrize("call, said", [
    ("start_response(b'200 OK', [])", "status must be a str"),
    ("start_response('200 OK', [('X', b'1')])", "header 'X' must be a str"),
    ("start_response('200 OK', [('X', 1)])", "header 'X' must be a str"),
    ("start_response('200 OK', [('X', '1', '2')])", "must be a tuple"),
    ("start_response('200 OK', ['XY'])", "must be a tuple"),
    ("start_response('200 OK', 'XY')", "must be a list"),
    ("start_response('200 OK', [('X', '\\u20ac')])", "beyond latin-1"),
])
def test_what_start_response_refuses_it_names(wsgi, call, said):
    server = wsgi(f"def app(environ, start_response):\n    {call}\n    return [b'x']\n")
    server.expect(said)
    assert server.get().status == 500


def test_a_body_that_the_status_forbids_is_dropped_with_a_warning(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            start_response("304 Not Modified", [])
            return [b"not allowed"]
    """)
    with server.connect() as client:
        assert client.get("/x").body == b"" and client.get("/x").body == b""
    assert server.found("response to GET /x has a body", "warning")


def test_errors_are_one_record_per_write(wsgi):
    server = wsgi("""
        import traceback
        def app(environ, start_response):
            environ["wsgi.errors"].write("first\\n  second\\nthird\\n")
            environ["wsgi.errors"].write("not ended")
            start_response("200 OK", [])
            return []
    """)
    server.expect("first")
    server.expect("not ended")
    server.get()
    (record,) = server.log.find("first", "error")
    assert "third" in record.raw
    server.found("not ended")


# Access log


def access_line(wsgi, path, log_format, app, request):
    server = wsgi(app, "--access-logfile", path, "--access-logformat", log_format)
    request(server)
    return until(lambda: path.exists() and path.read_text(), "the access record")


def test_the_access_log_has_what_the_response_was(wsgi, tmp_path):
    log_format = ("%(h)s %(m)s %(U)s %(q)s %(H)s %(s)s %(B)s %({x-in}i)s %({x-out}o)s %({content-length}o)s"
                  " %({raw_uri}e)s")
    line = access_line(wsgi, tmp_path / "access", log_format, """
        def app(environ, start_response):
            start_response("201 Created", [("X-Out", "out")])
            return [b"12345"]
    """, lambda server: server.get("/path?query", [("X-In", "in")]))
    assert line == "127.0.0.1 GET /path query HTTP/1.1 201 5 in out 5 /path?query\n"


def test_the_access_log_has_failed_requests_too(wsgi, tmp_path):
    def request(server):
        server.expect("ZeroDivisionError")
        assert server.get("/boom").status == 500

    line = access_line(wsgi, tmp_path / "access", "%(r)s %(s)s %(B)s", "def app(environ, start_response):\n    1 / 0\n",
                       request)
    assert line == f"GET /boom HTTP/1.1 500 {len('Internal Server Error') + 1}\n"
