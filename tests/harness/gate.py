"""A request that the test holds in the application: it enters, waits at the gate, and leaves when the test says so.

With it a test can be sure that a request is in flight, without any time.
"""

from pathlib import Path

from .waiting import until


class Gate:
    """`connection.request(target=gate.target)`; `gate.entered()`; `gate.open()`. The application is apps/plain.py."""

    def __init__(self, directory, name="gate", seen_as=None):
        """`seen_as`: the directory's name where the application runs, if it is another one there."""
        self._path = Path(directory) / name
        self._seen_as = Path(seen_as or directory) / name

    @property
    def target(self):
        return f"/gate?{self._seen_as}"

    def entered(self, within=10.0):
        """Waits until the request is in the application; returns the worker's pid."""
        entered = self._path.with_suffix(".entered")
        return int(until(lambda: entered.exists() and entered.read_text(), f"a request to enter {self._path}", within))

    def open(self):
        self._path.touch()
