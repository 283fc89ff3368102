"""README and docs: their links lead somewhere, and what they say to type works, as it is written."""

import re
import shutil
import subprocess

import pytest
import yaml
from harness import until
from harness.systems import boot
from websockets.sync.client import unix_connect

from .pages import ROOT, headings, links, steps

PAGES = sorted(str(path.relative_to(ROOT)) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").glob("*.md")])


@pytest.mark.parametrize("page", PAGES)
def test_every_link_leads_somewhere(page):
    for target, fragment in links(page):
        path = (ROOT / page).parent / target if target else ROOT / page
        assert path.exists(), f"{page} links to {target}"
        if fragment:
            assert fragment in headings(path), f"{page} links to {target}#{fragment}"


def test_every_page_is_in_the_index():
    index = (ROOT / "docs/README.md").read_text()
    for path in (ROOT / "docs").glob("*.md"):
        assert path.name == "README.md" or f"]({path.name})" in index, path.name


def test_the_container_file_in_the_page_is_the_one_in_examples():
    example = (ROOT / "examples/Containerfile").read_text()
    instructions = example[example.index("FROM"):]
    assert instructions in (ROOT / "docs/containers.md").read_text()


def test_the_pod_of_the_page_is_probed_where_it_answers_and_has_the_time_to_stop(serve):
    """No cluster is here: the fragment is read as YAML, what it says is compared, and its environment is tried."""
    (text,) = re.findall(r"^```yaml\n(.*?)^```$", (ROOT / "docs/many-machines.md").read_text(), re.MULTILINE | re.DOTALL)
    pod = yaml.safe_load(text)
    (container,) = pod["containers"]
    environment = {entry["name"]: entry["value"] for entry in container["env"]}
    server = serve("plain:app", env=environment)
    for probe in ("readinessProbe", "livenessProbe"):
        asked = container[probe]["httpGet"]
        assert {"containerPort": asked["port"]} in container["ports"]
        answer = server.get(asked["path"])
        assert answer.status == 200 and answer.body != server.get("/").body, "rgunicorn answers, not the application"
    (sleep, seconds) = container["lifecycle"]["preStop"]["exec"]["command"]
    assert sleep == "sleep" and pod["terminationGracePeriodSeconds"] > int(seconds) + 30


class Reader:
    """Somebody at a bare Debian with a checkout in which `make deb` was run, who does what the pages say."""

    def __init__(self, box):
        self.box = box

    def follow(self, page):
        for step in steps(page):
            if step.path:
                self.box.write(step.path, step.text)
                continue
            ended = self.box.run("bash", "-euc", "cd /root/rgunicorn\n" + step.text, check=False, timeout=120)
            assert ended.returncode == 0, f"{page}:{step.line}:\n{ended.stdout}\n{ended.stderr}"
            self.said = ended.stdout
        return self


@pytest.fixture(scope="module", params=["debian12", "debian13"])
def reader(request, deb, wheels):
    """After the README was followed."""
    with boot(request.param) as box:
        (box.state / "dist").mkdir()
        shutil.copy(deb, box.state / "dist")
        box.run("mkdir", "-p", "/root/rgunicorn")
        box.run("ln", "-s", "/run/outside/dist", "/root/rgunicorn/dist")
        # The box has no network: what pip would load is here.
        python = box.run("python3", "-c", "import sys; print('%d.%d' % sys.version_info[:2])").stdout.strip()
        shutil.copytree(wheels(python), box.state / "wheels")
        box.write("/etc/pip.conf", "[global]\nno-index = true\nfind-links = /run/outside/wheels\n")
        box.write("/etc/hosts", "127.0.0.1 localhost box\n127.0.0.2 app1\n127.0.0.3 app2\n")
        reader = Reader(box).follow("README.md")
        reader.python = python
        yield reader


def test_the_readme_leads_from_a_bare_system_to_a_running_service(reader):
    box = reader.box
    assert "\ntimeout: " in reader.said, "the last command, explain"
    assert box.show("rgunicorn@app.service", "ActiveState") == "active"
    assert box.run("curl", "-s", "--unix-socket", "/run/rgunicorn/app.sock", "http://localhost/").stdout == "It works.\n"
    assert f"CPython {reader.python}" in box.run("journalctl", "-u", "rgunicorn@app", "--no-pager").stdout
    assert box.systemctl("is-enabled", "rgunicorn@app.socket").stdout.strip() == "enabled"


def test_nginx_is_configured_as_its_page_says(reader):
    box = reader.box
    box.run("rm", "-f", "/etc/nginx/sites-enabled/default")
    reader.follow("docs/nginx.md")
    assert reader.said.endswith("It works.\n")
    box.write("/srv/app/static/file.txt", "static\n")
    assert box.run("curl", "-sf", "-H", "Host: example.com", "http://localhost/static/file.txt").stdout == "static\n"
    # The application may stop and start: nobody sees it.
    box.systemctl("restart", "rgunicorn@app.service")
    assert box.run("curl", "-sf", "-H", "Host: example.com", "http://localhost/").stdout == "It works.\n"


def test_a_load_balancer_reaches_the_instance_by_tcp_as_its_page_says(reader):
    reader.follow("docs/load-balancers.md")
    assert reader.said.endswith("It works.\n")


def test_greenlets_and_coroutines_serve_websockets_as_their_page_says(reader):
    """Through the socket of the instance, and through nginx as nginx.md has it."""
    box = reader.box
    reader.follow("docs/coroutines.md")
    assert reader.said.endswith('"Hello, you."')
    (configuration,) = [step.text for step in steps("docs/nginx.md") if step.path]
    client = ("import simple_websocket as s; ws = s.Client('ws://localhost/echo'); "
              "ws.send('through nginx'); print(ws.receive(timeout=10)); ws.close()")
    for name in ("chat", "api"):
        with unix_connect(str(box.path(f"/run/rgunicorn/{name}.sock")), "ws://localhost/echo") as direct:
            direct.send("direct")
            assert direct.recv(timeout=10) == "direct", name
        box.write("/etc/nginx/conf.d/app.conf", configuration.replace("rgunicorn/app.sock", f"rgunicorn/{name}.sock"))
        box.run("sh", "-c", "getent group rgunicorn | grep -q www-data || adduser www-data rgunicorn")
        box.run("rm", "-f", "/etc/nginx/sites-enabled/default")
        box.systemctl("restart", "nginx")
        assert box.run("/srv/app/venv/bin/python", "-c", client).stdout == "through nginx\n", name


def test_two_machines_serve_behind_nginx_and_haproxy_and_one_may_stop(reader):
    """The two machines are two addresses of the box, with an instance each."""
    box = reader.box
    box.systemctl("stop", "rgunicorn@app.socket", "rgunicorn@app.service")
    for name in ("app1", "app2"):
        box.write(f"/etc/rgunicorn/{name}.toml",
                  f'app = "{name}:app"\nchdir = "/srv/{name}"\nhealth_path = "/healthz"\nworkers = 1\n')
        box.write(f"/srv/{name}/{name}.py",
                  'def app(environ, start_response):\n'
                  '    start_response("200 OK", [("Content-Length", "5")])\n'
                  f'    return [b"{name}\\n"]\n')
        address = {"app1": "127.0.0.2", "app2": "127.0.0.3"}[name]
        box.write(f"/etc/systemd/system/rgunicorn@{name}.socket.d/tcp.conf", f"[Socket]\nListenStream={address}:8000\n")
    box.systemctl("daemon-reload")
    box.systemctl("start", "rgunicorn@app1.socket", "rgunicorn@app2.socket")
    reader.follow("docs/many-machines.md")

    def asked(port, times=20):
        script = f"for i in $(seq {times}); do curl -sf --max-time 10 http://localhost:{port}/ || echo failed; done"
        return box.run("sh", "-c", script, timeout=120).stdout.split()

    for port in (8080, 8081):
        until(lambda port=port: set(asked(port)) == {"app1", "app2"}, f"both to answer behind port {port}", 30)
    box.systemctl("stop", "rgunicorn@app1.socket", "rgunicorn@app1.service")
    for port in (8080, 8081):
        assert set(asked(port)) == {"app2"}, f"behind port {port}"


def test_marks_are_only_where_a_test_follows_them():
    followed = {"README.md", "docs/nginx.md", "docs/load-balancers.md", "docs/many-machines.md", "docs/coroutines.md"}
    assert {page for page in PAGES if steps(page)} <= followed


def test_pages_name_no_command_that_does_not_exist():
    """Options of rgunicorn in running text and blocks that are not run."""
    from harness.server import BINARY

    known = subprocess.run([BINARY, "--help"], capture_output=True, text=True, check=True).stdout
    for page in PAGES:
        if page == "docs/settings.md":
            continue
        text = (ROOT / page).read_text()
        for line in re.findall(r"^.*\brgunicorn (?:-|\").*$", text, re.MULTILINE):
            for flag in re.findall(r"(?<![\w-])--[a-z][\w-]+", line.split("rgunicorn ", 1)[1]):
                assert flag in known or flag == "--check-config", f"{page}: {flag}"
