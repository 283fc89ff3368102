"""A Django project through every way in: database, sessions, CSRF, uploads, streams, files, the admin."""

import hashlib
import os
import re

from harness.server import APPS


def test_pages_are_served(django):
    _, browser = django()
    answer = browser.get("/")
    assert answer.body == b"<h1>Hello from Django</h1>"
    assert answer.header("X-Frame-Options") == "DENY"
    assert browser.get("/nowhere/").status == 404


def test_sessions_are_kept_in_the_database(django):
    _, browser = django("--workers", 2)
    assert [browser.get("/visits/").json()["visits"] for _ in range(3)] == [1, 2, 3]


def test_a_form_needs_its_csrf_token(django):
    server, browser = django()
    assert browser.post_form("/notes/", {"text": "without token"}).status == 403
    token = browser.get("/notes/").json()["csrf"]
    headers = [("Referer", _referer(server, browser))]
    answer = browser.post_form("/notes/", {"text": "with token", "csrfmiddlewaretoken": token}, headers)
    assert answer.status == 302, answer.text
    assert browser.get("/notes/").json()["notes"] == ["with token"]


def test_an_upload_of_five_megabytes_arrives_whole(django):
    server, browser = django()
    token = browser.get("/upload/").json()["csrf"]
    data = os.urandom(5 << 20)
    answer = browser.post_file("/upload/", "big.bin", data, [("csrfmiddlewaretoken", token)],
                               [("Referer", _referer(server, browser))])
    assert answer.status == 200, answer.text
    assert answer.json() == {"size": len(data), "sha256": hashlib.sha256(data).hexdigest()}


def test_streams_and_files_arrive_whole(django):
    _, browser = django()
    assert browser.get("/stream/").text == "".join(f"{number}\n" for number in range(1000))
    assert browser.get("/file/").body == (APPS / "django_project/pages/views.py").read_bytes()


def test_the_admin_can_be_used(django):
    server, browser = django()
    page = browser.get("/admin/login/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
    headers = [("Referer", _referer(server, browser))]
    answer = browser.post_form("/admin/login/?next=/admin/", {
        "username": "admin", "password": "secret", "csrfmiddlewaretoken": token}, headers)
    assert answer.status == 302, answer.text
    assert "Site administration" in browser.get("/admin/").text
    page = browser.get("/admin/pages/note/add/")
    token = re.search(r'name="csrfmiddlewaretoken" value="(\w+)"', page.text)[1]
    answer = browser.post_form("/admin/pages/note/add/", {"text": "from the admin", "csrfmiddlewaretoken": token}, headers)
    assert answer.status == 302, answer.text
    assert "from the admin" in browser.get("/notes/").json()["notes"]


def test_an_error_is_answered_and_logged(django):
    server, browser = django()
    assert browser.get("/error/").status == 500
    # Django itself mails errors when DEBUG is off; its django.request logger has no handler for the console.
    assert browser.get("/").status == 200


def _referer(server, browser):
    """Behind nginx the request is https to the project, and Django then checks the Referer (CSRF)."""
    seen = browser.get("/seen/").json()
    return f"{'https' if seen['secure'] else 'http'}://{seen['host']}/"
