"""The Django project of the tests, for the figures of memory: what a usual application weighs."""

import os
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2] / "tests" / "apps" / "django_project"))
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "mysite.settings")

from django.core.wsgi import get_wsgi_application  # noqa: E402

_application = get_wsgi_application()


def hello(environ, start_response):
    """The project's own admin login: sessions, templates, translations, forms are all in use."""
    environ["PATH_INFO"] = "/admin/login/"
    return _application(environ, start_response)
