"""Releases that do not work: what an operator may deploy, and what a reload must then say.

A variant is files beside the application's module `app.py`, or lines for the settings file. Knows no server.
"""

from dataclasses import dataclass


@dataclass(frozen=True)
class Broken:
    """`code`: the text of app.py. `settings`: the whole settings file, with {taken} for an address that is in use.

    `reason`: a regular expression that the explanation matches. `traceback`: Python's own is part of it.
    """

    reason: str
    code: str | None = None
    settings: str | None = None
    traceback: bool = False


CODE = {
    "a SyntaxError": Broken(r"SyntaxError.*app\.py|app\.py.*SyntaxError", "def app(:\n    pass\n", traceback=True),
    "an import error": Broken(r"No module named 'does_not_exist'", "import does_not_exist\n", traceback=True),
    "an exception at import": Broken(r"RuntimeError: no database", "raise RuntimeError('no database')\n", traceback=True),
    "sys.exit at import": Broken(r"SystemExit|sys\.exit|exit", "import sys\nsys.exit('not today')\n", traceback=True),
    "os._exit at import": Broken(r"exit(ed)? .*(status )?33", "import os\nos._exit(33)\n"),
    "no application": Broken(r"app:app|attribute.*app", "application_of_another_name = None\n"),
}

SETTINGS = {
    "TOML that does not parse": Broken(r"settings\.toml", settings="workers = [\n"),
    "an unknown setting": Broken(r"wrokers", settings="wrokers = 3\n"),
    "a wrong value": Broken(r"timeout", settings='timeout = "soon"\n'),
    "a missing interpreter": Broken(r"/nowhere/bin/python", settings='python = "/nowhere/bin/python"\n'),
    "an address in use": Broken(r"\{taken\}.*in use", settings='bind = ["{taken}"]\n'),
}
