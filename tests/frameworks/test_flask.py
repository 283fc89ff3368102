"""A Flask application through every way in."""

import hashlib
import os

from harness.server import APPS


def test_pages_are_served(through):
    _, browser = through("flask_app:app")
    assert browser.get("/").body == b"<h1>Hello from Flask</h1>"
    assert browser.get("/hello/J%C3%BCrgen?a=1&b=%26").json()["query"] == {"a": "1", "b": "&"}
    assert browser.get("/hello/J%C3%BCrgen").json()["hello"] == "Jürgen"
    assert browser.get("/nowhere").status == 404


def test_forms_and_json_arrive(through):
    _, browser = through("flask_app:app")
    assert browser.post_form("/form", {"name": "value", "umlaut": "ä"}).json() == {"name": "value", "umlaut": "ä"}
    assert browser.post("/json", b'{"a": [1, 2]}', "application/json").json() == {"got": {"a": [1, 2]}}


def test_an_upload_of_five_megabytes_arrives_whole(through):
    _, browser = through("flask_app:app")
    data = os.urandom(5 << 20)
    answer = browser.post_file("/upload", "big.bin", data).json()
    assert answer == {"name": "big.bin", "size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_sessions_are_kept(through):
    _, browser = through("flask_app:app", "--workers", 2)
    assert [browser.get("/session").json()["visits"] for _ in range(3)] == [1, 2, 3]


def test_streams_and_files_arrive_whole(through):
    _, browser = through("flask_app:app")
    assert browser.get("/stream").text == "".join(f"{number}\n" for number in range(100))
    assert browser.get("/file").body == (APPS / "flask_app.py").read_bytes()
    assert browser.get("/file", [("Range", "bytes=10-19")]).body == (APPS / "flask_app.py").read_bytes()[10:20]
    assert browser.get("/memory").body == b"x" * 300_000


def test_redirects_and_conditional_requests_work(through):
    _, browser = through("flask_app:app")
    moved = browser.get("/redirect")
    assert moved.status == 302 and moved.header("Location") == "/"
    unchanged = browser.get("/unchanged", [("If-None-Match", '"one"')])
    assert (unchanged.status, unchanged.body) == (304, b"")
    assert browser.get("/forbidden").status == 403


def test_an_error_is_answered_and_logged(through):
    server, browser = through("flask_app:app")
    server.expect("ERROR in app: Exception on /error")  # Flask's own logger writes to wsgi.errors
    assert browser.get("/error").status == 500
    server.found("ValueError: an error of the application")


def test_many_requests_follow_each_other(through):
    _, browser = through("flask_app:app", "--workers", 2)
    for number in range(100):
        assert browser.get(f"/hello/{number}").json()["hello"] == str(number)
