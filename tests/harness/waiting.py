"""Waiting for facts. The only place in the tests that lets time pass."""

import time


def until(fact, what, within=10.0):
    """Returns what `fact()` returns as soon as that is true; fails the test after `within` seconds, for want of `what`:
    a text, or a function that makes it then.

    An exception of `fact` that says "not yet" (OSError, AssertionError) counts as not true and is shown at the end.
    """
    deadline = time.monotonic() + within
    last = None
    while True:
        try:
            if result := fact():
                return result
            last = None
        except (OSError, AssertionError) as error:
            last = error
        if time.monotonic() > deadline:
            because = f" ({type(last).__name__}: {last})" if last else ""
            raise AssertionError(f"waited {within:g} s for {what() if callable(what) else what}{because}")
        time.sleep(0.01)
