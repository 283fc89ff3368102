"""X-Request-ID: whose id a request has, and where it is found."""

import re

import pytest

MADE = re.compile(r"[0-9a-f]{32}")
PEERS = ["--forwarded-allow-ips", "10.0.0.1"]

APP = """
import time

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raises":
        raise RuntimeError("raised on purpose")
    if path == "/hangs":
        time.sleep(60)
    headers = [("X-Request-Id", "the application's")] if path == "/own" else []
    body = environ.get("HTTP_X_REQUEST_ID", "none").encode()
    start_response("200 OK", [("Content-Length", str(len(body))), *headers])
    return [body]
"""


@pytest.fixture
def served(serve):
    def start(*arguments):
        return serve("ids:app", *arguments, files={"ids.py": APP})

    return start


def test_every_request_has_an_id_of_its_own_for_application_and_client(served):
    server = served("--workers", 2)
    seen = []
    for _ in range(20):
        with server.connect() as client:
            for _ in range(5):
                answer = client.get("/")
                assert answer.all("X-Request-ID") == [answer.text]
                seen.append(answer.text)
    assert all(MADE.fullmatch(one) for one in seen)
    assert len(set(seen)) == 100


def test_the_id_of_a_believed_proxy_is_kept(served):
    answer = served().get("/", [("x-request-id", "proxy-7.2:a=b")])
    assert (answer.text, answer.all("X-Request-ID")) == ("proxy-7.2:a=b", ["proxy-7.2:a=b"])


def test_the_id_of_anybody_else_is_replaced(served):
    answer = served(*PEERS).get("/", [("X-Request-ID", "forged")])
    assert MADE.fullmatch(answer.text)


@pytest.mark.parametrize("values", [["a b"], ['"quoted"'], ["a,b"], ["x" * 129], [""], ["one", "two"]])
def test_what_is_no_id_is_replaced(served, values):
    answer = served().get("/", [("X-Request-ID", value) for value in values])
    assert MADE.fullmatch(answer.text) and answer.all("X-Request-ID") == [answer.text]


def test_an_id_of_the_application_is_the_one_that_is_sent(served):
    assert served().get("/own").all("X-Request-ID") == ["the application's"]


def test_an_error_has_its_id_in_the_record_and_on_the_page(served):
    server = served()
    server.expect("raised on purpose")
    answer = server.get("/raises")
    assert answer.status == 500
    assert f"request_id={answer.header('X-Request-ID')}" in server.found("raised on purpose").text


def test_what_goes_to_wsgi_errors_has_the_id_of_its_request(serve):
    """Flask's tracebacks do."""
    server = serve("flask_app:app", "--worker-class", "gthread", "--threads", 2)
    server.expect("Exception on")
    answer = server.get("/error")
    assert answer.status == 500
    assert f"request_id={answer.header('X-Request-ID')}" in server.found("Exception on").text


def test_what_goes_to_wsgi_errors_in_a_pool_of_greenlets_has_the_id_of_the_greenlets_request(serve):
    app = """
import gevent, gevent.event

all_are_here = gevent.event.Event()
here = []

def app(environ, start_response):
    here.append(1)
    if len(here) == 8:
        all_are_here.set()
    all_are_here.wait()
    print("a line of", environ["PATH_INFO"], file=environ["wsgi.errors"])
    gevent.sleep(0)
    environ["wsgi.errors"].write("another line of " + environ["PATH_INFO"] + "\\n")
    start_response("200 OK", [("Content-Length", "0")])
    return []
"""
    server = serve("greens:app", "--worker-class", "gevent", files={"greens.py": app})
    server.expect("line of")
    clients = [server.connect() for _ in range(8)]
    for number, client in enumerate(clients):
        client.request(target=f"/{number}", headers=[("X-Request-ID", f"id-of-{number}")])
    for number, client in enumerate(clients):
        assert client.response().status == 200
        for line in ("a line of", "another line of"):
            assert f"request_id=id-of-{number}" in server.found(f"{line} /{number}").text


def test_a_timeout_has_its_id_in_the_record_and_on_the_page(served):
    server = served("--timeout", 1, "--graceful-timeout", 1)
    server.expect("/hangs has been in the application")
    answer = server.get("/hangs", [("X-Request-ID", "slow-one")])
    assert (answer.status, answer.header("X-Request-ID")) == (504, "slow-one")
    assert "request_id=slow-one" in server.found("/hangs has been in the application").text


def test_the_access_log_can_have_it(served):
    server = served("--access-logfile", "-", "--access-logformat", "[%(id)s] [%({x-request-id}i)s] %(U)s")
    answer = server.get("/somewhere")
    server.found(re.escape(f"[{answer.text}] [{answer.text}] /somewhere"))


def test_without_it_the_header_is_the_clients_affair(served):
    server = served("--no-request-id", *PEERS)
    assert server.get("/", [("X-Request-ID", "any thing")]).text == "any thing"
    answer = server.get("/")
    assert (answer.text, answer.all("X-Request-ID")) == ("none", [])
