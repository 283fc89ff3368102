"""What is written: one record per event, per traceback, per request."""

import json
import os
import pwd
import re
from signal import SIGHUP, SIGKILL, SIGUSR1

import pytest
from harness import until
from harness.server import control


def test_what_the_application_prints_reaches_the_log(serve):
    server = serve("plain:app")
    server.expect("written to wsgi.errors")
    assert server.get("/prints").status == 200
    for text in ("printed to stdout", "printed to stderr", "written to fd 1", "written to fd 2", "printed by a child",
                 "written to wsgi.errors"):
        server.found(text)


def test_what_the_application_prints_while_it_is_imported_reaches_the_log(serve):
    files = {"m.py": "import sys\nprint('hello from the import')\nprint('and to stderr', file=sys.stderr)\n"
                     "def app(environ, start_response):\n    start_response('204 No Content', [])\n    return []\n"}
    server = serve("m:app", files=files)
    server.found("hello from the import")
    server.found("and to stderr")


def test_a_traceback_is_one_record(serve, tmp_path):
    log = tmp_path / "error.log"
    server = serve("plain:app", "--error-logfile", log)
    assert server.get("/raises?a=1").status == 500
    text = until(lambda: log.exists() and "raised on purpose" in log.read_text() and log.read_text(), "the traceback")
    assert text.count("Traceback (most recent call last)") == 1
    assert "in raises" in text and "GET" in text and "/raises" in text


def test_a_traceback_names_the_request(serve):
    server = serve("plain:app")
    server.expect("/raises.*Traceback.*in raises.*RuntimeError: raised on purpose")
    assert server.get("/raises").status == 500
    server.found("raised on purpose", "error")


def test_a_failing_application_tells_the_client_nothing(serve):
    server = serve("plain:app")
    server.expect("raised on purpose")
    answer = server.get("/raises")
    assert answer.status == 500
    assert b"raised" not in answer.body and b"Traceback" not in answer.body


def test_the_access_log_has_a_line_per_request(serve, tmp_path):
    log = tmp_path / "access.log"
    server = serve("plain:app", "--access-logfile", log)
    with server.connect() as client:
        client.get("/pid?a=1", [("User-Agent", "tests"), ("Referer", "http://example.org/")])
        client.get("/nowhere")
    lines = until(lambda: log.exists() and log.read_text().count("\n") == 2 and log.read_text().splitlines(),
                  "two lines in the access log")
    assert re.fullmatch(
        r'127\.0\.0\.1 - - \[\d\d/\w{3}/\d{4}:\d\d:\d\d:\d\d [+-]\d{4}\] "GET /pid\?a=1 HTTP/1\.1" 200 \d+'
        r' "http://example\.org/" "tests"', lines[0]), lines[0]
    assert '"GET /nowhere HTTP/1.1" 404 0 "-" "-"' in lines[1]


def test_the_access_log_can_go_to_stdout(serve):
    server = serve("plain:app", "--access-logfile", "-")
    server.get("/pid")
    server.found(r'"GET /pid HTTP/1\.1" 200')


def test_a_client_cannot_forge_lines(serve, tmp_path):
    log = tmp_path / "access.log"
    server = serve("plain:app", "--access-logfile", log)
    server.get("/", [("User-Agent", 'x" 200 0 "forged'), ("Referer", "tab\there")])
    text = until(lambda: log.exists() and log.read_text(), "a line in the access log")
    assert text.count("\n") == 1
    assert '" 200 0 "forged' not in text


def test_json_records_are_one_object_a_line(serve):
    server = serve("plain:app", "--log-format", "json", "--access-logfile", "-")
    server.get("/raises?a=1")
    until(lambda: server.log.find('"status":500'), "the access record")
    records = [json.loads(line) for line in server.log.text.splitlines()]
    (error,) = [record for record in records if record["level"] == "ERROR"]
    assert "/raises" in error["message"] and "raised on purpose" in error["traceback"]
    (access,) = [record for record in records if record.get("status")]
    assert (access["request_method"], access["path"], access["status"]) == ("GET", "/raises", 500)


@pytest.mark.parametrize("level", ["warning", "error"])
def test_the_level_leaves_out_what_is_below(serve, level):
    server = serve("plain:app", "--log-level", level)
    server.get("/")
    server.stop()
    assert not [record for record in server.log.records if record.level in ("info", "debug")], server.log.text


def test_the_start_record_names_the_number_of_workers_and_where_it_comes_from(serve):
    server = serve("plain:app", "--workers", 2)
    server.found(r"2\b.*(command line|-w|--workers)")


def test_start_and_stop_are_records(serve):
    server = serve("plain:app", "--workers", 2)
    server.found(r"listening at http://127\.0\.0\.1:\d+|127\.0\.0\.1:\d+")
    server.found("generation 1 serves with 2 workers.*CPython 3")
    server.stop()
    server.found("stopped")


def test_rotated_log_files_are_the_workers_files_again_though_they_run_as_another_user(serve, needs, tmp_path):
    needs(os.geteuid() == 0, "root, to become another user")
    open_to_all(tmp_path)
    errors, accesses = tmp_path / "error.log", tmp_path / "access.log"
    app = "def app(environ, start_response):\n    environ['wsgi.errors'].write('said\\n')\n" \
          "    start_response('204 No Content', [])\n    return []\n"
    server = serve("m:app", "--user", "nobody", "--error-logfile", errors, "--access-logfile", accesses,
                   files={"m.py": app}, python="/usr/bin/python3")
    assert server.get("/before").status == 204
    for path in (errors, accesses):
        path.rename(path.with_suffix(".1"))
    server.signal(SIGUSR1)
    until(lambda: errors.exists() and "opened anew" in errors.read_text(), "the files to be opened anew")
    uid = pwd.getpwnam("nobody").pw_uid
    assert (errors.stat().st_uid, accesses.stat().st_uid) == (uid, uid)
    until(lambda: server.get("/after").status == 204 and "/after" in accesses.read_text() and "said" in errors.read_text(),
          "an access and a word of the application in the new files")
    assert "could not be reopened" not in errors.with_suffix(".1").read_text()
    # A new generation opens the files by their names.
    server.signal(SIGHUP)
    until(lambda: "Generation 2 serves" in errors.read_text(), "the reload")


def test_a_log_folder_that_is_gone_takes_no_worker_away_and_a_reload_says_so(serve, tmp_path):
    logs = tmp_path / "logs"
    logs.mkdir()
    server = serve("plain:app", "--workers", 2, "--access-logfile", logs / "access.log", "--error-logfile", logs / "error.log",
                   "--control-socket", tmp_path / "control.sock")
    workers = server.workers
    for path in logs.iterdir():
        path.unlink()
    logs.rmdir()
    for worker in workers:
        os.kill(worker, SIGKILL)
    until(lambda: len(server.workers) == 2 and not set(workers) & set(server.workers), "other workers")
    server.expect("logs cannot be opened and go to stderr until a reload.*error.log")
    server.found("logs cannot be opened and go to stderr", "error")
    assert server.get("/").status == 200
    failed = control("-s", tmp_path / "control.sock", "reload")
    assert failed.returncode == 1 and "error.log" in failed.stdout + failed.stderr
    logs.mkdir()
    assert control("-s", tmp_path / "control.sock", "reload").returncode == 0
    assert server.get("/?again").status == 200
    until(lambda: "?again" in (logs / "access.log").read_text(), "its access")


def open_to_all(directory):
    """Lets any user enter the test's directory."""
    for above in (directory, *directory.parents):
        if above.stat().st_uid == os.geteuid() and above.stat().st_mode & 0o1 == 0:
            above.chmod(above.stat().st_mode | 0o011)
