"""rgunicorn is a program, not a library: what is installed is bin/rgunicorn, bin/rgunicornctl and lib/rgunicorn.

`find()` is for those who want to start it from Python, as `python -m rgunicorn` does.
"""

import os
import sys
import sysconfig

__all__ = ["find"]


def find(program="rgunicorn"):
    """The path of an installed program of ours: `rgunicorn` or `rgunicornctl`.

    It is where pip puts scripts: beside this interpreter, in the user's own folder (`pip install --user`), or in the bin
    of the folder that was given to `pip install --target` or `--prefix`.
    """
    here = os.path.dirname(os.path.abspath(__file__))
    folders = [
        sysconfig.get_path("scripts"),
        sysconfig.get_path("scripts", scheme=sysconfig.get_preferred_scheme("user")),
        # --target FOLDER: FOLDER/rgunicorn is this package. --prefix: PREFIX/lib/pythonX.Y/site-packages/rgunicorn.
        os.path.join(os.path.dirname(here), "bin"),
        os.path.join(here, *[os.pardir] * 4, "bin"),
    ]
    for folder in folders:
        path = os.path.join(folder, program)
        if os.path.isfile(path):
            return os.path.normpath(path)
    places = ", ".join(dict.fromkeys(map(os.path.normpath, folders)))
    raise FileNotFoundError(f"{program} is not in {places}: install the package again (pip install --force-reinstall)")


def _main():
    try:
        path = find()
    except FileNotFoundError as error:
        sys.exit(f"rgunicorn: {error}")
    # The same process: signals and the exit status are the program's own.
    os.execv(path, [path, *sys.argv[1:]])
