# What of the asyncio driver must be Python: the coroutine around the application, and the choice of the loop.
import asyncio
import traceback


async def run(application, scope, receive, send, end):
    """The body of every task. `end` is told how it ended, so nothing is left for the task's own result."""
    try:
        await application(scope, receive, send)
    except BaseException as error:
        # This frame is not the application's.
        end(error.with_traceback(error.__traceback__.tb_next or error.__traceback__))
    else:
        end()


def new_loop(kind):
    """A loop of `asgi_loop`: auto, asyncio, uvloop."""
    loop = None
    if kind != "asyncio":
        try:
            import uvloop
        except ImportError:
            if kind == "uvloop":
                raise
        else:
            loop = uvloop.new_event_loop()
    if loop is None:
        loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    return loop


def stack(task):
    """Where a task waits, as text."""
    lines = []
    coroutine = task.get_coro()
    # Task.get_stack knows only the outermost frame of one that is suspended.
    while coroutine is not None:
        frame = getattr(coroutine, "cr_frame", None) or getattr(coroutine, "gi_frame", None)
        if frame is not None:
            lines += traceback.format_list(traceback.StackSummary.extract([(frame, frame.f_lineno)]))
        coroutine = getattr(coroutine, "cr_await", None) or getattr(coroutine, "gi_yieldfrom", None)
    return "The task waits here (most recent call last):\n" + "".join(lines) if lines else "The task has no frames"


def close(loop, fds):
    """Ends the loop once no request runs in it any more, as asyncio.run does: what the application has started and left is
    cancelled, and has a second."""
    for fd in fds:
        if fd is not None:
            loop.remove_reader(fd)
    try:
        left = asyncio.all_tasks(loop)
        for task in left:
            task.cancel()
        if left:
            loop.run_until_complete(asyncio.wait(left, timeout=1))
        loop.run_until_complete(loop.shutdown_asyncgens())
        loop.close()
    except RuntimeError:
        pass
