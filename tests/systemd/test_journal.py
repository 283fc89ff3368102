"""The journal: fields, ids with their catalog, what the application prints, and a journal that stands still."""

import re
import time
from signal import SIGCONT, SIGSTOP

import pytest
from harness import until
from harness.server import ROOT
from harness.systems import on_both

APP = """
import os, subprocess, sys, threading

print("imported")

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/raises":
        raise RuntimeError("raised on purpose")
    if path == "/prints":
        print("a line on stdout", flush=True)
        print("two", "lines", sep="\\n", file=sys.stderr, flush=True)
        os.write(2, b"<4>a line with a priority\\n")
        subprocess.run(["sh", "-c", "echo a line of a child"], check=True)
    if path == "/spawns":
        for number in range(50):
            subprocess.run(["/bin/echo", f"brief {number}"], check=True)
    if path == "/leaves":
        # Two forks away, so that it is nobody's child by the time it prints; it prints on when the worker is gone.
        subprocess.run(["sh", "-c", "(while kill -0 $PPID; do :; done; echo left behind) 2>/dev/null &"], check=True)
        os._exit(0)
    if path == "/hangs":
        threading.Event().wait()
    if path == "/torn":
        os.write(1, b"the first half ")
    if path == "/mended":
        os.write(1, b"and the second\\n")
    if path == "/dies":
        os.write(2, b"last words\\nunended last words")
        os._exit(7)
    if path == "/floods":
        for number in range(40):
            os.write(1, (b"%05d " % number + b"x" * 200 + b"\\n") * 100)
    body = b"%d" % os.getpid()
    start_response("200 OK", [("Content-Length", str(len(body)))])
    return [body]
"""


def a(field, record):
    return record.get(f"RGUNICORN_{field}")


@on_both
def test_an_access_record_has_a_field_for_everything(instance):
    one = instance("fields", {"plain.py": APP}, accesslog="-").open()
    with one.connect() as client:
        pid = client.get("/some/where?x=1", [("X-Request-ID", "from-nginx")]).text
    record = one.found("GET /some/where")
    assert record["MESSAGE_ID"] and record["PRIORITY"] == "6" and record["SYSLOG_IDENTIFIER"] == "rgunicorn"
    assert (record["_PID"], a("WORKER_PID", record)) == (pid, pid)
    assert (a("INSTANCE", record), a("GENERATION", record)) == ("fields", "1") and a("SLOT", record) in ("1", "2")
    assert (a("REQUEST_METHOD", record), a("PATH", record), a("STATUS", record)) == ("GET", "/some/where", "200")
    assert a("REQUEST_ID", record) == "from-nginx" and a("BYTES", record) == str(len(pid))
    assert int(a("DURATION_USEC", record)) >= int(a("QUEUE_USEC", record)) >= 0
    matched = one.box.journal("RGUNICORN_INSTANCE=fields", "RGUNICORN_STATUS=200")
    assert [found["__CURSOR"] for found in matched] == [record["__CURSOR"]]


def test_a_client_on_tcp_has_its_address_in_the_record(instance):
    one = instance("address", {"plain.py": APP}, accesslog="-")
    one.box.write(f"/etc/systemd/system/{one.socket}.d/tcp.conf", "[Socket]\nListenStream=127.0.0.1:8101\n")
    one.box.systemctl("daemon-reload")
    one.open()
    one.box.run("curl", "-sS", "--max-time", "20", "http://127.0.0.1:8101/by/tcp")
    assert a("REMOTE_ADDR", one.found("GET /by/tcp")) == "127.0.0.1"


def test_an_error_is_found_by_the_id_that_its_client_was_told(instance):
    one = instance("errors", {"plain.py": APP}).open()
    one.may_fail = True
    answer = one.get("/raises")
    (record,) = until(lambda: one.box.journal(f"RGUNICORN_REQUEST_ID={answer.header('X-Request-ID')}"), "the record")
    assert "Traceback" in record["MESSAGE"] and record["PRIORITY"] == "3"
    assert (a("INSTANCE", record), a("EXCEPTION", record)) == ("errors", "RuntimeError")


def test_what_became_of_a_request_without_an_answer_is_found_by_its_id(instance):
    one = instance("unanswered", {"plain.py": APP}, timeout=1, graceful_timeout=1).open()
    one.may_fail = True
    with one.connect() as client:
        client.request(target="/dies", headers=[("X-Request-ID", "died-with-its-worker")])
        client.ended()
    one.found("exited with status 7")
    (record,) = one.records("RGUNICORN_REQUEST_ID=died-with-its-worker")
    assert "in the middle of GET /dies for" in record["MESSAGE"] and "(id died-with-its-worker)" in record["MESSAGE"]
    with one.connect() as client:
        assert client.get("/hangs", [("X-Request-ID", "took-too-long")]).status == 504
    for told in ("GET /hangs has been in the application for", "GET /hangs is cut off after"):
        one.found(told, "RGUNICORN_REQUEST_ID=took-too-long")


@on_both
def test_what_the_application_prints_is_a_record_per_line_with_its_workers_fields(instance):
    one = instance("lines", {"plain.py": APP}).open()
    pid = one.get("/prints").text
    one.found("a line of a child")
    printed = {r["MESSAGE"]: r for r in one.records("SYSLOG_IDENTIFIER=rgunicorn") if a("WORKER_PID", r) == pid}
    for line, priority in [("a line on stdout", "6"), ("two", "6"), ("lines", "6"), ("a line with a priority", "4"),
                           ("a line of a child", "6")]:
        record = printed[line]
        assert (record["PRIORITY"], a("GENERATION", record), a("INSTANCE", record)) == (priority, "1", "lines")
        assert a("SLOT", record) in ("1", "2") and record["MESSAGE_ID"]
    assert printed["a line of a child"]["SYSLOG_PID"] != pid == printed["two"]["SYSLOG_PID"]


def test_what_a_child_prints_that_ends_at_once_belongs_to_its_worker(instance):
    one = instance("brief", {"plain.py": APP}).open()
    pid = one.get("/spawns").text
    one.found("brief 49")
    brief = [record for record in one.records() if str(record["MESSAGE"]).startswith("brief ")]
    assert len(brief) == 50 and {a("WORKER_PID", record) for record in brief} == {pid}
    assert len({record["SYSLOG_PID"] for record in brief}) == 50


def test_what_is_left_behind_by_a_worker_still_prints_in_its_name(instance):
    one = instance("behind", {"plain.py": APP}).open()
    one.may_fail = True
    pid = one.get("/").text
    with one.connect() as client:
        client.request(target="/leaves")
        client.ended()
    record = one.found("left behind")
    assert a("GENERATION", record) == "1" and a("SLOT", record) in ("1", "2") and a("WORKER_PID", record)
    assert one.get("/").status == 200 and pid


@pytest.mark.parametrize("preload", [False, True])
def test_what_is_printed_while_it_is_imported_belongs_to_the_process_that_imports(instance, preload):
    one = instance(f"imports-{preload}".lower(), {"plain.py": APP}, preload_app=preload).open()
    one.get("/")
    wanted = 1 if preload else 2
    records = until(lambda: len(found := [r for r in one.records() if r["MESSAGE"] == "imported"]) >= wanted and found,
                    "the lines of the import")
    assert [a("GENERATION", record) for record in records] == ["1"] * wanted
    assert sorted(filter(None, (a("SLOT", record) for record in records))) == ([] if preload else ["1", "2"])


def test_a_line_that_is_written_in_pieces_is_one_record(instance):
    one = instance("pieces", {"plain.py": APP}, workers=1).open()
    one.get("/torn")
    one.get("/mended")
    assert one.found("the first half")["MESSAGE"] == "the first half and the second"


def test_the_last_words_of_a_worker_stand_before_its_death(instance):
    one = instance("words", {"plain.py": APP}, workers=1).open()
    one.may_fail = True
    with one.connect() as client:
        client.request(target="/dies")
        client.ended()
    one.found("exited with status 7")
    messages = [str(record["MESSAGE"]) for record in one.records()]
    death = next(at for at, text in enumerate(messages) if "exited with status 7" in text)
    assert messages.index("last words") < messages.index("unended last words") < death


@on_both
def test_journalctl_x_explains_every_record_that_has_an_id(instance):
    one = instance("explained", {"plain.py": APP}).open()
    one.may_fail = True
    one.get("/raises")
    # journald asks /proc for the unit of who has sent a record: it must have read this one before its worker dies.
    one.found("raised on purpose")
    with one.connect() as client:
        client.send("no request\r\n\r\n")
        assert client.response().status == 400
    with one.connect() as client:
        client.request(target="/dies")
        client.ended()
    one.found("exited with status 7")
    one.box.run("rgunicornctl", "-i", "explained", "scale", "3")
    one.box.systemctl("reload", one.service)
    one.box.systemctl("kill", "--signal", "USR1", one.service)
    one.found("log files were opened anew")
    one.box.systemctl("stop", one.service)
    ids = {record["MESSAGE_ID"] for record in one.records() if record.get("SYSLOG_IDENTIFIER") == "rgunicorn"
           and "MESSAGE_ID" in record}
    assert len(ids) >= 10
    without = [r["MESSAGE"] for r in one.records("SYSLOG_IDENTIFIER=rgunicorn") if "MESSAGE_ID" not in r]
    assert without == []
    listed = one.box.run("journalctl", "--list-catalog").stdout
    assert [one_id for one_id in ids if one_id not in listed] == []
    explained = one.box.run("journalctl", "-x", "--no-pager", "-u", one.service).stdout
    assert "The application raised an exception" in explained and "Instance explained was reloaded" in explained
    known = re.findall(r"^-- (\w{32})$", (ROOT / "systemd/catalog/rgunicorn.catalog").read_text(), re.MULTILINE)
    assert [one_id for one_id in known if one_id not in listed] == []


@on_both
def test_a_journal_that_stands_still_blocks_no_request_and_what_was_dropped_is_counted(instance):
    one = instance("still", {"plain.py": APP}, accesslog="-", workers=1).open()
    one.may_fail = True
    one.get("/")
    journald = one.box.show("systemd-journald.service", "MainPID")
    one.box.run("kill", f"-{int(SIGSTOP)}", journald)
    try:
        began = time.monotonic()
        with one.connect() as client:
            for number in range(5000):
                assert client.get(f"/{number}/{'x' * 500}").status == 200
            for _ in range(3):
                assert client.get("/floods").status == 200
        # Any wait for the journal would be without end.
        assert time.monotonic() - began < 60
    finally:
        one.box.run("kill", f"-{int(SIGCONT)}", journald)
    dropped = {}

    def reported():
        one.get("/later")
        dropped.update({r["MESSAGE"].split(" ", 1)[1]: r for r in one.records("PRIORITY=4") if "were dropped" in r["MESSAGE"]})
        return any("printed" in text for text in dropped) and any("access" in text for text in dropped)

    until(reported, "the reports of what was dropped", within=30)
    printed = next(record for text, record in dropped.items() if "printed" in text)
    served = next(record for text, record in dropped.items() if "access" in text)
    for record in (printed, served):
        assert record["PRIORITY"] == "4" and int(a("DROPPED", record)) > 0

    def recorded_again():
        one.get("/later")
        return any("GET /later" in str(record.get("MESSAGE")) for record in one.records("RGUNICORN_STATUS=200"))

    until(recorded_again, "a later record", within=30)
