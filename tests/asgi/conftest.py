"""Fixtures of the asgi pool's tests."""

import pytest


@pytest.fixture
def asgi(serve):
    """asgi("--flag", ...) -> a ready server of tests/apps/asgi_app.py, or of `app`."""

    def start(*arguments, app="asgi_app:app", **more):
        return serve(app, "--worker-class", "asgi", *arguments, **more)

    return start
