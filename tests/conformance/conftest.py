"""Applications written beside the test that needs them, through more than one pool where that could make a difference."""

import textwrap

import pytest

# Where reading, writing and waiting are: the way of the bytes differs between a thread and a greenlet.
THROUGH_GEVENT = ("test_wsgi_streaming", "test_pep3333_input", "test_wsgi_afterwards")


def pytest_generate_tests(metafunc):
    if "wsgi" in metafunc.fixturenames and metafunc.module.__name__.rpartition(".")[2] in THROUGH_GEVENT:
        metafunc.parametrize("pool", ["sync", "gevent"], indirect=True)


@pytest.fixture
def pool(request):
    """The worker class through which a test goes: sync, or what a module in THROUGH_GEVENT is run with, too."""
    return getattr(request, "param", "sync")


@pytest.fixture
def wsgi(serve, pool):
    """wsgi(source, *arguments) -> a Server of the application `app` in that source."""

    def start(source, *arguments, **more):
        if pool != "sync" and "-k" not in arguments and "--threads" not in arguments:
            arguments = ("-k", pool, *arguments)
        return serve("m:app", *arguments, files={"m.py": textwrap.dedent(source)}, **more)

    return start
