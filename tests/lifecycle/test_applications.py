"""Applications that cannot be loaded: one line that explains, the traceback where there is one, no loop inside."""

import pytest

APP = """
def app(environ, start_response):
    start_response("200 OK", [("Content-Length", "2")])
    return [b"ok"]
"""

# name: (files, application, exit status, what the record must say)
BROKEN = {
    "a module that does not exist": ({}, "nowhere:app", 4, r"nowhere"),
    "a module in a package that does not exist": ({}, "nowhere.wsgi:app", 4, r"nowhere"),
    "a variable that does not exist": ({"m.py": "x = 1\n"}, "m:app", 4, r"app.*\bm\b|\bm\b.*app"),
    "something that cannot be called": ({"m.py": "app = 42\n"}, "m:app", 4, r"m:app.*call|call.*m:app"),
    "a module that raises": (
        {"m.py": "def f():\n    raise ValueError('broken on purpose')\nf()\n"},
        "m:app", 3, r"Traceback \(most recent call last\).*m\.py.*line 2.*ValueError: broken on purpose"),
    "a module that is no Python": ({"m.py": "def app(:\n"}, "m:app", 3, r"m\.py.*SyntaxError"),
    "a module whose import is missing": (
        {"m.py": "import not_installed_here\n"}, "m:app", 3, r"Traceback.*not_installed_here"),
    "a module that exits": ({"m.py": "import sys\nsys.exit('leaving')\n"}, "m:app", 3, r"SystemExit.*leaving"),
    "a factory that raises": (
        {"m.py": "def make(name):\n    raise KeyError(name)\n"}, "m:make('x')", 3, r"Traceback.*KeyError: 'x'"),
    "a factory with wrong arguments": ({"m.py": "def make():\n    pass\n"}, "m:make('x')", 4, r"make\('x'\) cannot be called .*TypeError"),
    "a factory that calls something else with wrong arguments": (
        {"m.py": "def make():\n    len()\n"}, "m:make()", 3, r"Traceback.*TypeError"),
    "a factory that makes nothing": ({"m.py": "def make():\n    pass\n"}, "m:make()", 4, r"make\(\) returned None"),
}


@pytest.mark.parametrize("preload", [False, True], ids=["in the worker", "preloaded"])
@pytest.mark.parametrize("name", BROKEN)
def test_a_start_fails_with_one_record_because_of(serve, name, preload):
    files, app, status, says = BROKEN[name]
    server = serve(app, *(["--preload"] if preload else []), files=files or {"other.py": ""}, wait=False)
    server.expect(says)
    server.expect_status(status)
    assert server.wait() == status, server.log.text
    errors = [record for record in server.log.records if record.level in ("error", "critical")]
    assert len(errors) == 1, server.log.text
    assert "READY=1" not in server.notify.lines


def test_a_module_that_kills_its_process_is_named(serve):
    server = serve("m:app", files={"m.py": "import os\nos._exit(9)\n"}, wait=False)
    server.expect(r"status 9")
    server.expect_status(3)
    assert server.wait() == 3


@pytest.mark.parametrize("app", ["m:app", "m:make('factory')", 'm:make("factory")', "m:make(name='factory')", "m",
                                 "package.inner:app"])
def test_every_spelling_of_an_application_works(serve, app):
    source = APP + "application = app\ndef make(name):\n    assert name == 'factory'\n    return app\n"
    server = serve(app, files={"m.py": source, "package/__init__.py": "", "package/inner.py": APP})
    assert server.get("/").body == b"ok"


def test_a_class_can_be_the_application(serve):
    source = ("class App:\n"
              "    def __init__(self, environ, start_response):\n"
              "        start_response('200 OK', [('Content-Length', '2')])\n"
              "    def __iter__(self):\n"
              "        yield b'ok'\n")
    assert serve("m:App", files={"m.py": source}).get("/").body == b"ok"


def test_the_applications_directory_is_where_it_runs_and_first_in_the_search_path(serve):
    files = {"m.py": "import os, sys\n" + APP.replace('return [b"ok"]', "return [os.getcwd().encode()]")
                     .replace('"2"', "str(len(os.getcwd()))")}
    server = serve("m:app", files=files)
    assert server.get("/").text == str(server.app_directory)


def test_no_application_at_all_is_explained(serve):
    server = serve(None, wait=False, notify=False)
    server.expect_status(1, 2)
    assert server.wait() in (1, 2)
    assert "module:variable" in server.log.text.lower() or "app" in server.log.text.lower()


def test_preloading_imports_once_and_forks(serve):
    files = {"m.py": "import os\nimported_in = os.getpid()\n"
                     "def app(environ, start_response):\n"
                     "    body = b'%d %d' % (imported_in, os.getpid())\n"
                     "    start_response('200 OK', [('Content-Length', str(len(body)))])\n"
                     "    return [body]\n"}
    server = serve("m:app", "--preload", "--workers", 2, files=files)
    for _ in range(10):
        imported_in, pid = map(int, server.get("/").body.split())
        assert imported_in != pid
        assert imported_in in server.children


def test_without_preloading_each_worker_imports_itself(serve):
    files = {"m.py": "import os\nimported_in = os.getpid()\n"
                     "def app(environ, start_response):\n"
                     "    start_response('200 OK', [('Content-Length', '1')])\n"
                     "    return [b'1' if imported_in == os.getpid() else b'0']\n"}
    assert serve("m:app", files=files).get("/").body == b"1"
