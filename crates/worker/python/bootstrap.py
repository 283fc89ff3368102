# Run by the application's own interpreter as `python -c <this> MODULE_PATH`: checks the interpreter, loads the worker
# module from rgunicorn's library folder and becomes the mold. Nothing is installed into the virtual environment.
# Written so that any Python, even 2.7, parses it and can say why it is refused.
import sys

CHANNEL_FD = 63


def refuse(message):
    import json
    import os
    fault = {"type": "boot_fault", "kind": "interpreter", "message": message, "traceback": None}
    os.write(CHANNEL_FD, json.dumps(fault).encode("utf-8"))
    sys.exit(1)


def check_interpreter():
    name = getattr(getattr(sys, "implementation", None), "name", "cpython")
    if name != "cpython":
        refuse("the interpreter %s is %s; rgunicorn runs applications in CPython: set `python` to a CPython 3.10 or"
               " newer" % (sys.executable, {"pypy": "PyPy"}.get(name, name)))
    version = "%d.%d.%d" % tuple(sys.version_info[:3])
    if sys.version_info < (3, 10):
        refuse("the interpreter %s is Python %s; rgunicorn needs Python 3.10 or newer: make the virtual environment"
               " with a newer Python, or set `python`" % (sys.executable, version))
    import sysconfig
    if sysconfig.get_config_var("Py_GIL_DISABLED"):
        refuse("the interpreter %s is a free-threaded build of Python %s, which rgunicorn does not support yet: set"
               " `python` to the ordinary build" % (sys.executable, version))


def load_worker_module(path):
    from importlib.machinery import ExtensionFileLoader
    from importlib.util import module_from_spec, spec_from_file_location
    loader = ExtensionFileLoader("rgunicorn_worker", path)
    spec = spec_from_file_location("rgunicorn_worker", path, loader=loader)
    module = module_from_spec(spec)
    sys.modules["rgunicorn_worker"] = module
    loader.exec_module(module)
    return module


def main():
    # The folder of whoever started rgunicorn: nothing may be imported from there, least of all as root.
    if sys.path and sys.path[0] == "":
        del sys.path[0]
    path = sys.argv[1]
    check_interpreter()
    try:
        module = load_worker_module(path)
    except Exception as error:
        refuse("the interpreter %s cannot load rgunicorn's worker module %s: %s" % (sys.executable, path, error))
    sys.argv[:] = ["rgunicorn"]
    sys.exit(module.mold(CHANNEL_FD))


if __name__ == "__main__":
    main()
