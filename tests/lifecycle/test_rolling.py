"""Stories of rolling reloads (reload_strategy = "rolling"): worker by worker, with one more at most, and back."""

import json
import re
import signal

import pytest
from harness import Gate, until
from harness.broken import CODE, Broken
from harness.deployed import PATHS, Visitor, free_port, instance  # noqa: F401
from harness.http import Connection
from harness.processes import alive
from harness.server import APPS, write

# Each import takes long enough to be seen.
RELEASE = """
import os, time
time.sleep(0.2)

def app(environ, start_response):
    path = environ["PATH_INFO"]
    if path == "/check":
        counted = {counted!r}
        with open(counted, "a") as file:
            file.write("x")
        if os.path.getsize(counted) >= {failing}:
            raise RuntimeError("the third is one too many")
    start_response("200 OK", [])
    return [b"{name}" if path == "/release" else b"hello"]
"""
# Its import fails from some time on, and does so when a file is there.
THIRD = """
import os, time
with open({counted!r}, "a") as file:
    file.write("x")
if os.path.getsize({counted!r}) {condition}:
    while not os.path.exists({once!r}):
        time.sleep(0.01)
    raise RuntimeError("the third is one too many")
"""
# To be held in the application of either release.
GATE = f"""
import sys
plain = app

def app(environ, start_response):
    if environ["PATH_INFO"].startswith("/gate"):
        sys.path.insert(0, {str(APPS)!r})
        import plain as with_gates
        return with_gates.app(environ, start_response)
    return plain(environ, start_response)
"""
HANGS = {"a hang at import": Broken(r"not ready after .* \(boot_timeout\)", "import time\ntime.sleep(1000)\n")}


def release(name, counted="/dev/null", failing=1_000_000):
    """`failing`: the /check that is not answered any more."""
    return RELEASE.format(name=name, counted=str(counted), failing=failing)


def third(counted, condition, name, once="/"):
    return THIRD.format(counted=str(counted), condition=condition, once=str(once)) + release(name)


def releases(one):
    """Which releases answer: workers that are free take turns."""
    return {one.get("/release") for _ in range(40)}


class Watch:
    """Looks at the instance during a reload: how many workers serve, and how many there are in all."""

    def __init__(self, one):
        self.one, self.serving, self.all = one, [], []

    def look(self):
        status = json.loads(self.one.ctl("--json", "status").stdout)
        self.serving.append(status["workers_serving"])
        self.all.append(sum(status[f"workers_{kind}"] for kind in ("serving", "booting", "leaving")))
        return status["reloading"]

    def _begun(self):
        return self.one.server.log.find(r"generation \d+ boots")

    def reload(self):
        """Orders one by signal and looks until it is over."""
        known = len(self._begun())
        self.one.server.signal(signal.SIGHUP)
        until(lambda: len(self._begun()) > known, "the reload to begin")
        until(lambda: not self.look(), "the reload to be over", 60)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preloaded"])
@pytest.mark.parametrize("threads", [1, 4], ids=["sync", "gthread"])
def test_under_load_nothing_is_lost_and_there_is_never_more_than_one_worker_more(instance, preload, threads):
    one = instance(files={"app.py": release("old")}, workers=3, threads=threads, reload_strategy="rolling",
                   preload_app=preload)
    before, watch = one.server.children, Watch(one)
    visitor = Visitor(one.server)
    one.deploy(app=release("new"))
    watch.reload()
    visitor.leave()
    one.gone(before)
    assert min(watch.serving) >= 3 and max(watch.all) <= 4, (watch.serving, watch.all)
    assert releases(one) == {"new"}
    assert len(one.server.workers) == 3
    for number in (1, 2, 3):
        one.server.found(f"generation 2 serves in slot .: {number} of 3 workers")
    assert one.server.notify.status == "Generation 2 serves with 3 workers"


def test_old_and_new_code_answer_at_once_while_an_old_worker_finishes_its_requests(instance, tmp_path):
    gate = Gate(tmp_path)
    one = instance(files={"app.py": release("old") + GATE}, workers=2, reload_strategy="rolling")
    with one.server.connect() as busy:
        busy.request(target=gate.target)
        held = gate.entered()
        one.deploy(app=release("new") + GATE)
        one.server.signal(signal.SIGHUP)
        until(lambda: "new" in releases(one), "the first new worker")
        assert alive(held)
        gate.open()
        assert busy.response().status == 200
    one.server.found("Generation 2 serves with 2 workers")
    until(lambda: releases(one) == {"new"}, "the new code alone")


@pytest.mark.parametrize("preload", [False, True], ids=["", "preloaded"])
@pytest.mark.parametrize("name", [*CODE, *HANGS])
def test_if_already_the_first_new_worker_fails_no_old_one_is_touched(instance, name, preload):
    broken = (CODE | HANGS)[name]
    one = instance(reload_strategy="rolling", preload_app=preload)
    if name in HANGS:
        one.configure(boot_timeout=1.5, reload_strategy="rolling", preload_app=preload)
    before = one.server.children
    visitor = Visitor(one.server)
    one.deploy(app=broken.code)
    one.server.expect(f"the reload has failed and generation 1 goes on: .*{broken.reason}")
    failed = one.ctl("reload")
    said = failed.stdout + failed.stderr
    assert failed.returncode == 1 and re.search(broken.reason, said, re.DOTALL), said
    assert ("Traceback" in said) == broken.traceback, said
    until(lambda: one.server.children == before, "the failed generation to be gone, and only that")
    visitor.leave()
    assert re.match("Reload failed: .+; generation 1 still serves with 2 workers$", one.server.notify.status)
    one.deploy(app=PATHS)
    one.configure(reload_strategy="rolling", preload_app=preload)
    assert one.reload().endswith("serves\n")
    one.gone(before)


@pytest.mark.parametrize("preload", [False, True], ids=["", "preloaded"])
def test_if_the_third_new_worker_fails_the_old_code_comes_back_worker_by_worker(instance, tmp_path, preload):
    counted, current = tmp_path / "counted", tmp_path / "current"
    # A preloading mold is imported once and fails in its workers' check; without it each worker imports.
    new = release("new", counted, 3) if preload else third(counted, "== 3", "new")
    write(tmp_path / "releases" / "1", {"app.py": release("old")})
    write(tmp_path / "releases" / "2", {"app.py": new})
    current.symlink_to("releases/1")
    checks = {"reload_check": ["/check"]} if preload else {}
    one = instance(words=("--chdir", current), workers=4, reload_strategy="rolling", preload_app=preload, **checks)
    before, watch = set(one.server.workers), Watch(one)
    visitor = Visitor(one.server)
    link = tmp_path / "new"
    link.symlink_to("releases/2")
    link.rename(current)
    one.server.expect("the reload has failed and generation 1 goes on, 2 of its places to be taken back.*one too many"
                      "|Error handling request")
    watch.reload()
    one.server.found("the failed reload is undone: generation 1 has all its places back")
    visitor.leave()
    assert min(watch.serving) >= 4 and max(watch.all) <= 5, (watch.serving, watch.all)
    assert releases(one) == {"old"}
    until(lambda: len(one.server.workers) == 4, "four workers")
    assert len(before & set(one.server.workers)) == 2, "two were not touched"
    status = json.loads(one.ctl("--json", "status").stdout)
    assert status["generation"] == 1 and "one too many" in status["latest_reload"]["failure"]
    assert re.match("Reload failed: .*; generation 1 still serves with 4 workers$", one.server.notify.status)
    write(tmp_path / "releases" / "2", {"app.py": release("new")})
    said = one.ctl("reload").stdout
    assert "Generation 3 serves with 4 workers" in said and releases(one) == {"new"}


def test_rgunicornctl_reload_returns_when_a_failed_reload_is_undone_and_says_all_of_it(instance, tmp_path):
    counted, current = tmp_path / "counted", tmp_path / "current"
    write(tmp_path / "releases" / "1", {"app.py": release("old")})
    write(tmp_path / "releases" / "2", {"app.py": third(counted, "== 3", "new")})
    current.symlink_to("releases/1")
    one = instance(words=("--chdir", current), workers=3, reload_strategy="rolling")
    current.unlink()
    current.symlink_to("releases/2")
    one.server.expect("the reload has failed")
    failed = one.ctl("reload")
    assert failed.returncode == 1
    said = failed.stdout + failed.stderr
    for text in ("Generation 2 serves in slot 2: 2 of 3 workers", "RuntimeError: the third is one too many", "Traceback",
                 "Generation 1 serves in slot 2 again: 0 places to be taken back", "generation 1 has all its places back",
                 "the reload has failed, generation 1 goes on"):
        assert text in said, said
    assert releases(one) == {"old"}


def test_if_the_old_code_is_no_longer_on_the_disk_both_serve_until_the_next_reload(instance, tmp_path):
    counted = tmp_path / "counted"
    one = instance(files={"app.py": release("old")}, workers=4, reload_strategy="rolling")
    visitor = Visitor(one.server)
    one.deploy(app=third(counted, ">= 3", "new"))
    one.server.expect("the reload has failed.*one too many|could not boot.*one too many|the failed reload is not undone")
    failed = one.ctl("reload")
    assert failed.returncode == 1 and "2 workers go on with the new code until generation 1" in failed.stdout + failed.stderr
    assert releases(one) == {"old", "new"}
    assert "2 workers of generation 2 serve until their places are taken back" in one.server.notify.status
    one.deploy(app=release("repaired"))
    one.reload()
    visitor.leave()
    until(lambda: releases(one) == {"repaired"}, "the repaired code alone")
    until(lambda: len(one.server.workers) == 4, "four workers")


@pytest.mark.parametrize("preload", [False, True], ids=["", "preloaded"])
def test_term_in_the_middle_is_obeyed_and_requests_of_both_generations_are_finished(instance, tmp_path, preload):
    gates = [Gate(tmp_path, f"gate{n}") for n in range(2)]
    one = instance(files={"app.py": release("old") + GATE}, workers=2, reload_strategy="rolling", preload_app=preload)
    before = set(one.server.workers)
    old, new = one.server.connect(), one.server.connect()
    old.request(target=gates[0].target)
    held = gates[0].entered()
    one.deploy(app=release("new") + GATE)
    one.server.signal(signal.SIGHUP)
    one.server.found("generation 2 serves in slot .: 1 of 2 workers")
    assert held in before and alive(held)
    new.request(target=gates[1].target)
    assert gates[1].entered() != held
    one.server.signal(signal.SIGTERM)
    one.server.found("stopping: requests in flight")
    for gate, client in zip(gates, (old, new)):
        gate.open()
        assert client.response().status == 200
        client.close()
    assert one.server.wait() == 0


def test_ttin_and_another_reload_in_the_middle_are_both_obeyed(instance, tmp_path):
    counted, go = tmp_path / "counted", tmp_path / "go"
    waits = f"""
import os, time
with open({str(counted)!r}, "a") as file:
    file.write("x")
while os.path.getsize({str(counted)!r}) > 1 and not os.path.exists({str(go)!r}):
    time.sleep(0.01)
"""
    one = instance(files={"app.py": release("old")}, workers=2, reload_strategy="rolling")
    one.deploy(app=waits + release("new"))
    one.server.signal(signal.SIGHUP)
    one.server.found("generation 2 serves in slot 1: 1 of 2 workers")
    one.server.signal(signal.SIGTTIN)
    one.server.found("From now on 3 workers")
    one.server.signal(signal.SIGHUP)
    one.server.found("another reload follows")
    go.touch()
    one.server.found("generation 3 serves with 3 workers", within=30)
    until(lambda: len(one.server.workers) == 3, "three workers")
    assert releases(one) == {"new"}


@pytest.mark.parametrize("kind", ["tcp", "unix"])
@pytest.mark.parametrize("when", ["on the way back", "when it is barred", "when it is done"])
def test_a_listener_that_a_failed_reload_has_added_is_closed_and_comes_with_the_next_reload(instance, tmp_path, kind, when):
    address = ("127.0.0.1", free_port()) if kind == "tcp" else str(tmp_path / "added.sock")
    words = "%s:%d" % address if kind == "tcp" else f"unix:{address}"
    gate, counted = Gate(tmp_path), tmp_path / "counted"
    one = instance(files={"app.py": release("old")}, workers=4, reload_strategy="rolling")
    one.configure(bind=[f"127.0.0.1:{one.port}", words], workers=4, reload_strategy="rolling")
    visitor = Visitor(one.server)
    condition = ">= 3" if when == "when it is barred" else "== 3"
    one.deploy(app=third(counted, condition, "new", tmp_path / "gate.entered") + GATE)
    one.server.expect("the reload has failed.*one too many|could not boot.*one too many|the failed reload is not undone")
    one.server.signal(signal.SIGHUP)
    one.server.found("generation 2 serves in slot 1")
    with Connection(address) as busy:
        busy.request(target=gate.target)
        gate.entered()
        one.server.found("the reload has failed")
        gate.open()
        if when == "on the way back":
            one.reload()
        else:
            one.server.found("the failed reload is" + (" not" if when == "when it is barred" else "") + " undone")
            until(lambda: len(one.listeners) == 1, "the added listener to be closed")
            with pytest.raises((ConnectionRefusedError, FileNotFoundError)):
                Connection(address)
            one.deploy(app=release("repaired"))
            one.reload()
        assert busy.response().status == 200, "what the failed release had begun is finished"
    with Connection(address) as client:
        assert client.get("/").text == "hello"
    visitor.leave()
