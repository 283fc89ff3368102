"""Applications written beside the test that needs them."""

import textwrap

import pytest


@pytest.fixture
def wsgi(serve):
    """wsgi(source, *arguments) -> a Server of the application `app` in that source."""

    def start(source, *arguments, **more):
        return serve("m:app", *arguments, files={"m.py": textwrap.dedent(source)}, **more)

    return start
