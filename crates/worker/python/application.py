# Finds the application. Run in the worker (or in a preloading mold) with `spec` = "module:variable".
import ast
import errno
import importlib
import os
import sys
import traceback


class Fault(Exception):
    """A fault of the application, told in one line. kind: "import" or "not_found"; exit: the SystemExit, if it was one."""

    def __init__(self, kind, message, text=None, exit=None):
        Exception.__init__(self, message)
        self.kind, self.message, self.traceback, self.exit = kind, message, text, exit


def _traceback(error, skip):
    tb = error.__traceback__
    while skip and tb is not None:
        tb, skip = tb.tb_next, skip - 1
    return "".join(traceback.format_exception(type(error), error, tb)).rstrip()


def _import(name):
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if error.name is not None and (name == error.name or name.startswith(error.name + ".")):
            hint = ""
            if name.endswith(".py"):
                hint = " (give the module's name, not its file: %r)" % name[:-3]
            raise Fault("not_found", "there is no module %r%s: searched from %s; check `app`, `chdir` and `pythonpath`"
                        % (name, hint, os.getcwd())) from None
        raise Fault("import", "importing %r failed: %s%s" % (name, _line(error), _sandbox(error)),
                    _traceback(error, 1)) from None
    except SystemExit as error:
        raise Fault("import", "importing %r ended the interpreter: sys.exit(%r) was called" % (name, error.code),
                    _traceback(error, 1), error) from None
    except BaseException as error:
        raise Fault("import", "importing %r failed: %s%s" % (name, _line(error), _sandbox(error)),
                    _traceback(error, 1)) from None


def _line(error):
    text = str(error).strip().split("\n")[0]
    return "%s: %s" % (type(error).__name__, text) if text else type(error).__name__


_HOMES = ("/home/", "/root/", "/run/user/")


def _hidden(path):
    # Inside of a folder that ProtectHome=yes closes nothing can be mounted: it takes both lines.
    return " (by ProtectHome= of the unit? ProtectHome=tmpfs and BindReadOnlyPaths=%s in a drop-in)" % path


def _sandbox(error):
    """What the sandbox of a systemd unit may have to do with an error, in brackets, or nothing."""
    if "INVOCATION_ID" not in os.environ:
        return ""
    seen = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        number = error.errno if isinstance(error, OSError) else None
        path = getattr(error, "filename", None)
        path = os.path.abspath(path) if isinstance(path, str) else ""
        text = str(error)
        if number == errno.EROFS or (type(error).__name__ == "OperationalError" and (
                "readonly database" in text or "unable to open database file" in text)):
            return (" (by ProtectSystem= of the unit the file system is read-only: write below $STATE_DIRECTORY, or put"
                    " ReadWritePaths=%s into a drop-in)" % (os.path.dirname(path) or "..."))
        if number in (errno.EACCES, errno.ENOENT) and path.startswith(_HOMES):
            return _hidden(path)
        if isinstance(error, ModuleNotFoundError):
            for folder in sys.path:
                if isinstance(folder, str) and folder.startswith(_HOMES) and not os.access(folder, os.R_OK):
                    return _hidden(folder)
        if number == errno.ENOENT and path.startswith(("/tmp/", "/var/tmp/")):
            return " (with PrivateTmp= the unit has a /tmp of its own)"
        if number == errno.EAFNOSUPPORT:
            return " (by RestrictAddressFamilies= of the unit?)"
        if number == errno.ENOENT and path.startswith("/proc/") and not path[6:7].isdigit():
            return " (by ProcSubset= of the unit? ProcSubset=all in a drop-in)"
        if number == errno.EPERM and not path:
            return " (by SystemCallFilter= of the unit? SystemCallFilter=@resources in a drop-in, if it is about priorities)"
        error = error.__cause__ or error.__context__
    return ""


def _expression(text, spec):
    """(name, args, kwargs) of `name` or `name(literals)`; args is None for a plain name."""
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except SyntaxError:
        raise Fault("not_found", "%r in app = %r is neither a name nor a call" % (text, spec)) from None
    names = node.func if isinstance(node, ast.Call) else node
    path, cursor = [], names
    while isinstance(cursor, ast.Attribute):
        path.insert(0, cursor.attr)
        cursor = cursor.value
    if not isinstance(cursor, ast.Name):
        raise Fault("not_found", "%r in app = %r is neither a name nor a call" % (text, spec))
    path.insert(0, cursor.id)
    if not isinstance(node, ast.Call):
        return path, None, None
    try:
        args = [ast.literal_eval(arg) for arg in node.args]
        kwargs = {kw.arg: ast.literal_eval(kw.value) for kw in node.keywords}
    except ValueError:
        raise Fault("not_found", "the arguments of %r in app = %r must be literals" % (text, spec)) from None
    return path, args, kwargs


def load(spec):
    """The application that `spec` names: `module`, `module:variable`, `module:factory("x")`."""
    importer = os.getpid()
    try:
        found = _load(spec)
    except Fault as fault:
        if os.getpid() != importer:
            _end_child(fault)
        raise
    if os.getpid() != importer:
        _end_child(None)
    return found


def _end_child(fault):
    """Ends a process that the application has forked and that has come back from the import: the channel to the arbiter,
    the listeners and all else are the importer's."""
    status = 1
    if fault is None:
        print("A process that the application forked while it was imported has come back from there, and is ended; it"
              " should end by os._exit()", file=sys.stderr)
    elif fault.exit is not None:
        status = fault.exit.code
        if status is None:
            status = 0
        elif not isinstance(status, int):
            print(status, file=sys.stderr)
            status = 1
        import atexit
        atexit._run_exitfuncs()
    else:
        print(fault.traceback or fault.message, file=sys.stderr)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except Exception:
            pass
    os._exit(status & 0xff)


def _load(spec):
    module_name, _, expression = spec.partition(":")
    path, args, kwargs = _expression(expression or "application", spec)
    module = _import(module_name)
    found = module
    for name in path:
        try:
            found = getattr(found, name)
        except AttributeError:
            candidates = [n for n in ("app", "application", "create_app", "make_app") if hasattr(module, n)]
            hint = "; it has %s" % ", ".join(repr(n) for n in candidates) if candidates else ""
            raise Fault("not_found", "module %r (%s) has no attribute %r%s: check `app`" % (
                module_name, getattr(module, "__file__", "built in"), ".".join(path), hint)) from None
    if args is not None:
        try:
            made = found(*args, **kwargs)
        except BaseException as error:
            if isinstance(error, TypeError) and error.__traceback__.tb_next is None:
                # It was not even entered. As with Gunicorn that is a wrong `app`, not a fault of the factory.
                raise Fault("not_found", "%s cannot be called like that: %s; check the arguments in app = %r" % (
                    expression, _line(error), spec)) from None
            raise Fault("import", "calling %s failed: %s%s" % (expression, _line(error), _sandbox(error)),
                        _traceback(error, 1), error if isinstance(error, SystemExit) else None) from None
        if made is None:
            raise Fault("not_found", "%s returned None instead of an application" % expression)
        found = made
    if not callable(found):
        raise Fault("not_found", "%r is not callable: it is %s of type %s; `app` must name an application or call a"
                    " factory" % (spec, found if len(repr(found)) < 60 else "an object", type(found).__name__))
    return found


def _interface(app):
    """"asgi3", "asgi2", "wsgi", or None where it cannot be told without calling it."""
    import functools
    import inspect
    while isinstance(app, functools.partial):
        app = app.func
    call = app if inspect.isroutine(app) or inspect.isclass(app) else getattr(app, "__call__", app)
    if inspect.iscoroutinefunction(call):
        return "asgi3"
    try:
        parameters = inspect.signature(call).parameters.values()
    except (TypeError, ValueError):
        return None
    if any(p.kind is p.VAR_POSITIONAL for p in parameters):
        return None
    needed = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD) and p.default is p.empty]
    if len(needed) == 1 and (inspect.isclass(call) or needed[0] == "scope"):
        return "asgi2"
    return {2: "wsgi", 3: "asgi3"}.get(len(needed))


def pool(app, spec, wanted):
    """(the pool that `worker_class` means, a sentence about why the application does not fit)."""
    kind = _interface(app)
    if kind == "asgi2" and wanted in ("asgi", "auto"):
        return None, ("app = %r is an ASGI 2 application (called with the scope alone), which no pool serves: wrap it by"
                      " asgiref.compatibility.guarantee_single_callable, or use a newer version of its framework" % spec)
    if wanted == "auto":
        return "asgi" if kind == "asgi3" else "sync", None
    if wanted == "asgi" and kind == "wsgi":
        return None, ("app = %r is a WSGI application and worker_class = \"asgi\" serves ASGI: set worker_class to"
                      " \"sync\", \"gthread\" or \"auto\"" % spec)
    if wanted != "asgi" and kind == "asgi3":
        return None, ("app = %r is an ASGI application and worker_class = %r serves WSGI: set worker_class = \"asgi\""
                      " (-k asgi) or \"auto\"" % (spec, str(wanted)))
    return None, None


def prepare(env, chdir, pythonpath):
    """Environment, working directory and sys.path, before anything of the application is imported."""
    for name, value in env:
        os.environ[name] = value
    os.chdir(chdir)
    for path in [chdir] + list(reversed(pythonpath)):
        if path in sys.path:
            sys.path.remove(path)
        sys.path.insert(0, path)
    for stream in (sys.stdout, sys.stderr):
        # What the application prints is a record as soon as its line is complete.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(line_buffering=True)


def freeze():
    """Before the first fork: nothing that exists now is looked at by the collector again, so pages stay shared."""
    import gc
    gc.collect()
    gc.freeze()


def fork_warnings():
    """What in a preloading mold does not survive a fork, one sentence each."""
    import threading
    names = [t.name for t in threading.enumerate() if t is not threading.main_thread()]
    found = []
    if names:
        found.append("the preloaded application has started threads, which do not exist in the workers: %s"
                     % ", ".join(names))
    sockets = []
    for entry in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink("/proc/self/fd/" + entry)
        except OSError:
            continue
        if target.startswith("socket:") and int(entry) not in KEPT_FDS and int(entry) > 2:
            sockets.append("fd %s (%s)" % (entry, target))
    if sockets:
        found.append("the preloaded application has open sockets, which all workers would share: %s; open them after"
                     " the fork, or turn preload_app off" % ", ".join(sockets))
    return found


KEPT_FDS = set()
