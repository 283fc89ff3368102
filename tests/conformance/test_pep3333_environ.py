"""PEP 3333, "environ Variables": what the application is told about the request."""

import ast

import pytest

SHOW = """
    def app(environ, start_response):
        shown = {name: value for name, value in environ.items() if type(value) in (str, int, bool, tuple)}
        body = ascii(shown).encode()
        start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", str(len(body)))])
        return [body]
"""


@pytest.fixture
def ask(wsgi):
    """ask(method, target, headers, body) -> the environ's plain values."""
    server = wsgi(SHOW)

    def exchange(method="GET", target="/", headers=(), body=None, version="HTTP/1.1"):
        with server.connect() as client:
            response = client.exchange(method, target, headers, body, version)
        assert response.status == 200, response
        return ast.literal_eval(response.text)

    exchange.server = server
    return exchange


def test_it_is_a_dict_of_this_request_alone(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            assert type(environ) is dict
            before = "mark" in environ
            environ["mark"] = environ["PATH_INFO"] = "changed"
            start_response("200 OK", [("Content-Length", "1")])
            return [b"1" if before else b"0"]
    """)
    with server.connect() as client:
        assert [client.get().body for _ in range(3)] == [b"0"] * 3


def test_the_cgi_variables_are_there_and_are_strings(ask):
    environ = ask("GET", "/a/b?c=d")
    host, port = ask.server.address
    assert environ["REQUEST_METHOD"] == "GET"
    assert environ["SCRIPT_NAME"] == ""
    assert environ["PATH_INFO"] == "/a/b"
    assert environ["QUERY_STRING"] == "c=d"
    assert environ["SERVER_NAME"] == host
    assert environ["SERVER_PORT"] == str(port)
    assert environ["SERVER_PROTOCOL"] == "HTTP/1.1"
    assert environ["REMOTE_ADDR"] == "127.0.0.1"
    assert environ["REMOTE_PORT"].isdigit()
    assert environ["SERVER_SOFTWARE"].startswith("rgunicorn/")


def test_the_protocol_is_that_of_the_request(ask):
    assert ask(version="HTTP/1.0")["SERVER_PROTOCOL"] == "HTTP/1.0"


def test_server_name_is_never_empty_even_on_a_unix_socket(serve, tmp_path):
    server = serve("plain:app", bind=[f"unix:{tmp_path}/s"])
    environ = server.get("/environ").json()
    assert environ["SERVER_NAME"] not in ("''", None)
    assert environ["REMOTE_ADDR"] == "''"


def test_the_query_is_empty_and_not_missing_without_one(ask):
    assert ask(target="/")["QUERY_STRING"] == ""
    assert ask(target="/?")["QUERY_STRING"] == ""


@pytest.mark.parametrize("target, path", [
    ("/a%20b", "/a b"),
    ("/a+b", "/a+b"),
    ("/%C3%BC", "/\xc3\xbc"),  # the bytes of the UTF-8 form, each as one character (PEP 3333, "Unicode Issues")
    ("/%FF", "/\xff"),
    ("/a%2Fb", "/a/b"),
    ("/a%", "/a%"),
    ("/a%zz", "/a%zz"),
    ("/a%00b", "/a\x00b"),
    ("//two", "//two"),
    ("/a/../b", "/a/../b"),
    ("/a;p=1", "/a;p=1"),
])
def test_the_path_is_decoded_once_into_latin_1(ask, target, path):
    assert ask(target=target)["PATH_INFO"] == path


def test_the_query_is_not_decoded(ask):
    assert ask(target="/?a=%20&b=c+d&e")["QUERY_STRING"] == "a=%20&b=c+d&e"


def test_an_absolute_target_gives_its_path(ask):
    environ = ask(target="http://www.example.org:81/a?b=c")
    assert (environ["PATH_INFO"], environ["QUERY_STRING"]) == ("/a", "b=c")
    assert ask(target="http://www.example.org")["PATH_INFO"] in ("", "/")


def test_headers_become_http_variables(ask):
    environ = ask(headers=[("X-One", "1"), ("aCCept", "text/html"), ("User-Agent", "a b c")])
    assert environ["HTTP_X_ONE"] == "1"
    assert environ["HTTP_ACCEPT"] == "text/html"
    assert environ["HTTP_USER_AGENT"] == "a b c"
    assert environ["HTTP_HOST"]


def test_content_type_and_length_have_no_prefix(ask):
    environ = ask("POST", "/", [("Content-Type", "text/plain")], b"abc")
    assert (environ["CONTENT_TYPE"], environ["CONTENT_LENGTH"]) == ("text/plain", "3")
    assert "HTTP_CONTENT_TYPE" not in environ and "HTTP_CONTENT_LENGTH" not in environ


def test_without_a_body_there_is_no_length(ask):
    environ = ask()
    assert environ.get("CONTENT_LENGTH", "") == ""
    assert environ.get("CONTENT_TYPE", "") == ""


def test_repeated_headers_are_joined_in_order(ask):
    environ = ask(headers=[("X-Many", "1"), ("Other", "x"), ("X-Many", "2")])
    assert environ["HTTP_X_MANY"].replace(" ", "") == "1,2"


def test_header_values_are_latin_1_and_trimmed(ask):
    environ = ask(headers=[("X-Text", "  caf\xe9 \t")])
    assert environ["HTTP_X_TEXT"] == "caf\xe9"
    assert ask(headers=[("X-Empty", "")])["HTTP_X_EMPTY"] == ""


def test_a_header_with_an_underscore_cannot_pretend_to_be_another(ask):
    environ = ask(headers=[("X_Forwarded_For", "6.6.6.6"), ("X-Forwarded-For", "1.1.1.1")])
    assert environ["HTTP_X_FORWARDED_FOR"] == "1.1.1.1"


def test_headers_of_one_request_do_not_reach_the_next(ask):
    with ask.server.connect() as client:
        first = client.get("/", [("X-Secret", "s"), ("Cookie", "a=b")]).text
        second = client.get("/").text
    assert "HTTP_X_SECRET" in first
    assert "HTTP_X_SECRET" not in second and "HTTP_COOKIE" not in second


def test_the_wsgi_variables_have_their_types(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            assert environ["wsgi.version"] == (1, 0)
            assert environ["wsgi.url_scheme"] == "http"
            for name in ("multithread", "multiprocess", "run_once"):
                assert environ["wsgi." + name] in (True, False)
            assert not environ["wsgi.run_once"]
            for name in ("read", "readline", "readlines", "__iter__"):
                assert callable(getattr(environ["wsgi.input"], name))
            for name in ("flush", "write", "writelines"):
                assert callable(getattr(environ["wsgi.errors"], name))
            assert environ["wsgi.input_terminated"] is True
            assert callable(environ["wsgi.file_wrapper"])
            assert callable(environ["wsgi.early_hints"])
            for name, value in environ.items():
                assert type(name) is str
                if name.isupper():
                    assert type(value) is str, name
                    value.encode("latin-1")
            start_response("200 OK", [("Content-Length", "2")])
            return [b"ok"]
    """)
    assert server.get().body == b"ok"


@pytest.mark.parametrize("workers, several", [(1, False), (2, True)])
def test_multiprocess_says_whether_there_are_several_workers(wsgi, workers, several):
    server = wsgi(SHOW, "--workers", workers)
    assert ast.literal_eval(server.get().text)["wsgi.multiprocess"] is several


def test_sync_workers_are_not_multithreaded(ask):
    assert ask()["wsgi.multithread"] is False


def test_the_scheme_of_a_trusted_proxy_is_taken(ask):
    assert ask(headers=[("X-Forwarded-Proto", "https")])["wsgi.url_scheme"] == "https"
    assert ask(headers=[("X-Forwarded-Proto", "http")])["wsgi.url_scheme"] == "http"


def test_the_scheme_of_an_untrusted_peer_is_not_taken(wsgi):
    server = wsgi(SHOW, "--forwarded-allow-ips", "10.0.0.1")
    environ = ast.literal_eval(server.get("/", [("X-Forwarded-Proto", "https")]).text)
    assert environ["wsgi.url_scheme"] == "http"


def test_errors_reach_the_log(wsgi):
    server = wsgi("""
        def app(environ, start_response):
            errors = environ["wsgi.errors"]
            errors.write("one line\\n")
            errors.writelines(["two ", "parts\\n"])
            print("by print", file=errors)
            errors.flush()
            start_response("200 OK", [("Content-Length", "0")])
            return []
    """)
    for text in ("one line", "two parts", "by print"):
        server.expect(text)
    server.get()
    for text in ("one line", "two parts", "by print"):
        server.found(text, "error")
