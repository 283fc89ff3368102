"""Stories of SIGUSR2 and `rgunicornctl upgrade`: another program in the same process, while everything goes on."""

import json
import contextlib
import os
import shutil
import subprocess
import threading
from pathlib import Path
from signal import SIGHUP, SIGKILL, SIGTERM, SIGUSR2

import pytest
from harness import Gate, until
from harness.deployed import free_port
from harness.http import Connection, ConnectionEnded
from harness.processes import alive, open_files
from harness.requirement import command, require
from harness.server import BINARY, ROOT, control

PARTS = ("rgunicorn", "rgunicornctl", "librgunicorn_worker.so")
NEXT = ROOT / ".cache" / "next"


def place(source, folder):
    """Puts a build in the place of another as a package manager does: written beside, then renamed."""
    for name in PARTS:
        beside = folder / f"{name}.new"
        shutil.copy2(source / name, beside)
        beside.rename(folder / name)


def version(folder):
    return subprocess.run([folder / "rgunicorn", "--version"], capture_output=True, text=True,
                          check=True).stdout.split()[1]


@pytest.fixture
def installed(serve, tmp_path):
    """installed(...) as serve(...), run from a folder of its own: a server, that folder, and a function that runs
    rgunicornctl on it."""
    require((NEXT / "rgunicorn").exists(), "a build with another version (make next)")
    folder = tmp_path / "bin"
    folder.mkdir()
    place(BINARY.parent, folder)
    path = tmp_path / "control.sock"

    def start(app, *arguments, **more):
        server = serve(app, "--control-socket", path, *arguments, binary=folder / "rgunicorn", **more)
        return server, folder, lambda *words, **more: control("-s", path, *words, **more)

    return start


def program(folder, text):
    """Puts a shell script in the program's place."""
    script = folder / "script"
    script.write_text(f"#!/bin/sh\n{text}\n")
    script.chmod(0o755)
    script.rename(folder / "rgunicorn")


def module(folder, content):
    """Puts another worker module beside the program, which workers that run go on with."""
    beside = folder / "module.new"
    beside.write_bytes(content)
    beside.rename(folder / "librgunicorn_worker.so")


def test_another_version_takes_over_with_the_same_pid_and_its_workers_follow(installed, tmp_path):
    server, folder, ctl = installed("plain:app", "--workers", 2, "--pid", tmp_path / "pid")
    before, old_workers, address = version(folder), set(server.workers), server.address
    gate = Gate(tmp_path)
    kept, busy = server.connect(), server.connect()
    assert kept.get("/").status == 200
    busy.request(target=gate.target)
    gate.entered()
    place(NEXT, folder)
    after = version(folder)
    assert after != before
    done = ctl("upgrade")
    assert done.returncode == 0, done.stderr
    assert f"rgunicorn {after} has taken over from {before}" in done.stdout
    assert done.stdout.splitlines()[-1] == "generation 2 serves"
    assert (tmp_path / "pid").read_text().strip() == str(server.pid)
    assert Path(f"/proc/{server.pid}/exe").resolve() == folder / "rgunicorn"
    assert f"rgunicorn {after}" in ctl("status").stdout
    assert server.address == address
    assert kept.get("/").status == 200, "an idle connection is served by the new workers"
    gate.open()
    assert busy.response().body == b"through the gate\n", "a request in flight is finished by its worker"
    until(lambda: not any(alive(pid) for pid in old_workers), "the old workers to leave")
    assert len(server.workers) == 2


def test_workers_serve_while_the_arbiter_is_replaced_and_none_of_them_dies_of_it(installed):
    """The application is broken meanwhile, so that no worker is replaced afterwards: the old ones go on."""
    application = "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'one']\n"
    server, folder, ctl = installed("story:app", "--workers", 2, files={"story.py": application})
    workers = set(server.workers)
    (server.app_directory / "story.py").write_text("raise RuntimeError('broken release')\n")
    server.expect("broken release")
    place(NEXT, folder)
    done = ctl("upgrade")
    assert done.returncode == 1
    assert "broken release" in done.stdout and "generation 1 goes on" in done.stderr
    until(lambda: set(server.workers) == workers, "the broken generation to be gone")
    # What the new arbiter has taken up works: a dead worker is noticed and its old mold forks another.
    server.expect("was killed by SIGKILL")
    victim = min(workers)
    os.kill(victim, SIGKILL)
    until(lambda: len(server.workers) == 2 and victim not in server.workers, "a new worker")
    until(lambda: server.get("/").body == b"one", "the old application to answer")
    (server.app_directory / "story.py").write_text(application.replace("one", "two"))
    assert ctl("reload").returncode == 0
    assert server.get("/").body == b"two"
    until(lambda: not any(alive(pid) for pid in workers), "the workers of the version before to leave")


@pytest.mark.parametrize("what, words", [
    ("exits", "asked whether it can take over, it exited with status 1 and said nothing"),
    ("complains", "no libc for you"),
    ("claims nothing", "said nothing"),
    ("is missing", "No such file"),
    ("is not executable", "Permission denied"),
    ("reads another format", "restart the instance instead"),
    ("has a broken module", "cannot load rgunicorn's worker module"),
    ("has the module of another version", "the worker module beside rgunicorn"),
    ("has a module that ends the interpreter", "the interpreter ends when it loads the worker module"),
])
def test_a_program_that_cannot_take_over_is_refused_before_anything_has_changed(installed, what, words):
    server, folder, ctl = installed("plain:app")
    server.expect("the upgrade is refused")
    workers, running = server.workers, os.stat(f"/proc/{server.pid}/exe").st_ino
    match what:
        case "exits":
            program(folder, "exit 1")
        case "complains":
            program(folder, "echo no libc for you >&2; exit 127")
        case "claims nothing":
            program(folder, "exit 0")
        case "is missing":
            (folder / "rgunicorn").rename(folder / "away")
        case "is not executable":
            (folder / "rgunicorn").chmod(0o644)
        case "reads another format":
            (folder / "rgunicorn").rename(folder / "real")
            # The same program, which is shown a state of a later format.
            program(folder, 'sed -e "s/\\"format\\":[0-9]*,/\\"format\\":999,/" /proc/self/fd/3 >"$0.state"\n'
                            f'exec {folder}/real "$@" 3<>"$0.state"')
        case "has a broken module":
            module(folder, b"no module")
        case "has the module of another version":
            module(folder, (NEXT / "librgunicorn_worker.so").read_bytes())
        case "has a module that ends the interpreter":
            source = folder / "ends.c"
            source.write_text("#include <stdlib.h>\n__attribute__((constructor)) static void end(void) { _Exit(9); }\n")
            subprocess.run(["cc", "-shared", "-fPIC", "-o", folder / "ends.so", source], check=True)
            module(folder, (folder / "ends.so").read_bytes())
    done = ctl("upgrade")
    assert done.returncode == 1
    assert words in done.stdout, done.stdout
    assert "nothing has changed" in done.stderr
    assert server.workers == workers
    assert os.stat(f"/proc/{server.pid}/exe").st_ino == running
    assert server.get("/").status == 200


def closed_on_execution(pid):
    """Whether each fd of a process, beside its standard streams, would be closed by execve(2)."""
    flags = {}
    for path in Path(f"/proc/{pid}/fdinfo").iterdir():
        with contextlib.suppress(FileNotFoundError):
            flags[int(path.name)] = int(path.read_text().split("flags:")[1].split()[0], 8)
    return all(flags[fd] & os.O_CLOEXEC for fd in flags if fd > 2)


def test_a_program_that_vanishes_after_its_yes_changes_nothing_and_the_next_one_takes_over(installed):
    server, folder, ctl = installed("plain:app")
    server.expect("the upgrade is refused.*cannot be executed: No such file")
    workers = server.workers
    program(folder, 'rm "$0"; echo "rgunicorn 9.9.9 can take over"')
    done = ctl("upgrade")
    assert done.returncode == 1 and "nothing has changed" in done.stderr
    assert server.workers == workers and server.get("/").status == 200
    assert closed_on_execution(server.pid), "a mold would inherit what is open for the program that has vanished"
    place(NEXT, folder)
    assert ctl("upgrade").returncode == 0
    assert closed_on_execution(server.pid)


@pytest.mark.parametrize("kind", ["tcp", "unix"])
def test_a_socket_that_systemd_passed_is_the_same_one_afterwards_and_the_application_sees_no_trace(serve, tmp_path, kind):
    folder = tmp_path / "bin"
    folder.mkdir()
    place(BINARY.parent, folder)
    files = {"story.py": "import os\n"
                         "def app(environ, start_response):\n"
                         "    start_response('200 OK', [])\n"
                         "    return [','.join(n for n in os.environ if 'RGUNICORN' in n or 'LISTEN' in n).encode()]\n"}
    listen = str(tmp_path / "s.sock") if kind == "unix" else f"127.0.0.1:{free_port()}"
    path = tmp_path / "control.sock"
    server = serve("story:app", "--control-socket", path, bind=[], files=files, wait=False, binary=folder / "rgunicorn",
                   wrapper=[command("systemd-socket-activate"), "-l", listen])
    until(lambda: "Listening on" in server.log.text, "systemd-socket-activate to listen")
    address = listen if kind == "unix" else tuple([listen.split(":")[0], int(listen.split(":")[1])])
    with Connection(address) as client:
        assert client.get("/").body == b""
        until(lambda: "READY=1" in server.notify.lines, "READY=1")
        sockets = [target for fd, target in sorted(open_files(server.pid).items()) if fd == 3]
        assert control("-s", path, "upgrade").returncode == 0
        assert [target for fd, target in sorted(open_files(server.pid).items()) if fd == 3] == sockets
        assert server.addresses == [address], "adopted once"
        assert client.get("/").body == b""
    if kind == "unix":
        server.stop()
        assert os.path.exists(listen), "the socket is systemd's: it must stay"


def test_an_instance_that_nobody_uses_still_ends_when_the_reload_after_the_upgrade_has_failed(serve, tmp_path):
    path, listen = tmp_path / "control.sock", str(tmp_path / "s.sock")
    server = serve("story:app", "--control-socket", path, "--idle-timeout", 2, bind=[], wait=False,
                   files={"story.py": "def app(environ, start_response):\n    start_response('200 OK', [])\n    return []\n"},
                   wrapper=[command("systemd-socket-activate"), "-l", listen])
    until(lambda: "Listening on" in server.log.text, "systemd-socket-activate to listen")
    with Connection(listen) as client:
        assert client.get("/").status == 200
        (server.app_directory / "story.py").write_text("raise RuntimeError('broken release')\n")
        server.expect("broken release")
        assert control("-s", path, "upgrade").returncode == 1
        assert client.get("/").status == 200
    assert server.wait(within=20) == 0


def test_the_file_of_a_socket_that_is_ours_stays_until_the_end(installed, tmp_path):
    path = tmp_path / "app.sock"
    server, folder, ctl = installed("plain:app", bind=[f"unix:{path}"])
    before = path.stat().st_ino
    place(NEXT, folder)
    assert ctl("upgrade").returncode == 0
    assert path.stat().st_ino == before
    assert server.get("/").status == 200
    server.stop()
    assert not path.exists()


def test_a_program_that_hangs_is_given_up_while_everything_goes_on(installed):
    server, folder, ctl = installed("plain:app")
    server.expect("did not say within 10 s")
    program(folder, "echo $$ > pid; exec sleep 1000")
    waiting = threading.Thread(target=lambda: results.append(ctl("upgrade", timeout=60)), daemon=True)
    results = []
    waiting.start()
    asked = until(lambda: (server.cwd / "pid").read_text().strip(), "the program to be asked")
    assert server.get("/").status == 200
    assert ctl("status").returncode == 0
    waiting.join()
    assert results[0].returncode == 1
    until(lambda: not alive(int(asked)), "it to be killed")


def test_a_stop_ends_an_upgrade_at_once(installed):
    server, folder, ctl = installed("plain:app")
    program(folder, "exec sleep 1000")
    server.signal(SIGUSR2)
    server.found("is asked whether it can take over")
    server.signal(SIGTERM)
    assert server.wait(within=10) == 0


def test_an_upgrade_waits_for_the_end_of_a_reload(installed, tmp_path):
    gate, importing = tmp_path / "import", tmp_path / "importing"
    application = ("import pathlib, time\n"
                   f"gate, importing = pathlib.Path({str(gate)!r}), pathlib.Path({str(importing)!r})\n"
                   "while gate.exists():\n    importing.touch()\n    time.sleep(0.01)\n"
                   "def app(environ, start_response):\n    start_response('200 OK', [])\n    return [b'']\n")
    server, folder, ctl = installed("story:app", files={"story.py": application})
    gate.touch()
    server.signal(SIGHUP)
    until(importing.exists, "generation 2 to import the application")
    place(NEXT, folder)
    server.signal(SIGUSR2)
    server.found("upgrade begins when the running boot is over")
    gate.unlink()
    server.found("has taken over")
    server.found("generation 3 serves")
    assert server.log.text.index("Generation 2 serves") < server.log.text.index("has taken over")


def test_many_upgrades_in_a_row_leak_nothing_and_notice_every_death(installed):
    server, folder, ctl = installed("plain:app", "--workers", 2)
    assert ctl("upgrade").returncode == 0
    until(lambda: len(server.children) == 3, "the old generation to be gone")
    fds = len(open_files(server.pid))
    server.expect("was killed by SIGKILL")
    stop, killed = threading.Event(), []

    def murder():
        # Deaths before, in and after the execution.
        while not stop.wait(0.1):
            serving = json.loads(ctl("--json", "workers").stdout or '{"workers": []}')["workers"]
            for pid in [worker["pid"] for worker in serving if worker["state"] == "serving"][:1]:
                try:
                    os.kill(pid, SIGKILL)
                    killed.append(pid)
                except ProcessLookupError:
                    pass

    murderer = threading.Thread(target=murder, daemon=True)
    murderer.start()
    for number in range(20):
        place(NEXT if number % 2 else BINARY.parent, folder)
        done = ctl("upgrade", timeout=60)
        assert "has taken over" in done.stdout, done
    stop.set()
    murderer.join()
    assert killed
    assert ctl("upgrade").returncode == 0
    until(lambda: len(server.children) == 3, "the old generations to be gone", 30)
    assert not any(alive(pid) for pid in killed)
    assert server.get("/").status == 200
    until(lambda: len(open_files(server.pid)) <= fds, "no more files to be open than before")


def test_keep_alive_clients_notice_nothing_of_upgrades(installed):
    server, folder, ctl = installed("plain:app", "--workers", 2)
    stop, answered, wrong = threading.Event(), [0] * 8, []

    def client(number):
        connection = server.connect()
        while not stop.is_set():
            try:
                if connection.get("/").body != b"hello\n":
                    wrong.append("body")
            except (OSError, ConnectionEnded) as error:
                wrong.append(repr(error))
                return
            answered[number] += 1

    clients = [threading.Thread(target=client, args=(n,), daemon=True) for n in range(8)]
    for thread in clients:
        thread.start()
    for number in range(6):
        place(NEXT if number % 2 == 0 else BINARY.parent, folder)
        assert ctl("upgrade").returncode == 0
    stop.set()
    for thread in clients:
        thread.join()
    assert not wrong and min(answered) > 0, wrong


def test_a_newer_module_below_an_older_arbiter_is_refused_by_name(installed):
    server, folder, ctl = installed("plain:app")
    server.expect("the worker module is version")
    workers = server.workers
    place(NEXT, folder)
    done = ctl("reload")
    assert done.returncode == 1
    assert f"the worker module is version {version(folder)}" in done.stdout
    assert "rgunicornctl upgrade" in done.stdout
    assert server.workers == workers
    assert ctl("upgrade").returncode == 0


def test_upgrade_check_by_hand_says_what_it_is_for():
    done = subprocess.run([BINARY, "--upgrade-check"], capture_output=True, text=True)
    assert done.returncode == 2
    assert "rgunicornctl upgrade" in done.stderr


def test_a_program_found_through_a_link_is_looked_for_there_again(serve, tmp_path):
    """/opt/rgunicorn/current -> releases/1, then -> releases/2."""
    require((NEXT / "rgunicorn").exists(), "a build with another version (make next)")
    for name, source in (("1", BINARY.parent), ("2", NEXT)):
        (tmp_path / name).mkdir()
        place(source, tmp_path / name)
    current = tmp_path / "current"
    current.symlink_to("1")
    path = tmp_path / "control.sock"
    server = serve("plain:app", "--control-socket", path, binary=current / "rgunicorn")
    (tmp_path / "new").symlink_to("2")
    (tmp_path / "new").rename(current)
    assert control("-s", path, "upgrade").returncode == 0
    assert Path(f"/proc/{server.pid}/exe").resolve() == tmp_path / "2" / "rgunicorn"
    assert server.get("/").status == 200
