# What of the gevent driver must be Python: gevent's own preparations, its watchers, and the stack of a greenlet.
import sys
import traceback

OLDEST = (22, 10)


def patch():
    """Before anything of the application is imported. What is wrong, as a sentence, or None."""
    how = "%s -m pip install 'gevent>=%d.%d'" % ((sys.executable,) + OLDEST)
    try:
        import gevent
    except ImportError as error:
        if error.name in ("gevent", "greenlet"):
            return ("worker_class = \"gevent\", but the application's virtual environment has no %s: %s"
                    % (error.name, how))
        return "worker_class = \"gevent\", but gevent cannot be imported (%s); install it anew: %s" % (error, how)
    # gevent.version_info is not kept up to date by its makers.
    version = tuple(int(part) for part in gevent.__version__.split(".")[:2] if part.isdigit())
    if version < OLDEST:
        return ("worker_class = \"gevent\" needs gevent %d.%d or newer, and the application's virtual environment has %s: %s"
                % (OLDEST + (gevent.__version__, how)))
    from gevent import monkey
    monkey.patch_all()
    return None


def after_fork():
    """In a worker, right after the fork. What the mold had of a hub (an application that is preloaded may have used it
    while it was imported) must not share the epoll set of the mold's."""
    import gevent
    gevent.reinit()


class Hub:
    """The hub of the worker's main thread, and what the driver needs of gevent."""

    def __init__(self):
        import gevent
        from gevent.event import Event
        self.hub = gevent.get_hub()
        self.Greenlet = gevent.Greenlet
        self.Event = Event
        self.done = Event()
        self.watchers = []

    def watch(self, fds, turn):
        for fd in fds:
            watcher = self.hub.loop.io(fd, 1)
            watcher.start(turn)
            self.watchers.append(watcher)

    def unwatch(self):
        """At the end; and in a process that the application has forked: the fds are not ours there."""
        for watcher in self.watchers:
            watcher.stop()


def stack(greenlet):
    """Where a greenlet waits, as text."""
    frame = greenlet.gr_frame
    if frame is None:
        return "The greenlet has no frames"
    return "The greenlet waits here (most recent call last):\n" + "".join(traceback.format_stack(frame))
