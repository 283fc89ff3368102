"""The log of a server as it comes out of stderr: lines grouped into records."""

import os
import re
import select
import threading

# A record begins with a time and a level; the lines of a traceback that follow belong to it.
_BEGIN = re.compile(
    r"^(?P<time>\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d\S*( [+-]\d{4}\])?|<\d>) *(\[?(?P<pid>\d+)\]? )?"
    r"\[?(?P<level>DEBUG|INFO|NOTICE|WARNING|WARN|ERROR|CRITICAL|DEBG|ERRO|CRIT|TRCE)\]?:? (?P<text>.*)$",
    re.DOTALL,
)
_LEVELS = {"WARN": "warning", "ERRO": "error", "CRIT": "critical", "DEBG": "debug", "TRCE": "debug", "NOTICE": "info"}
_COLOUR = re.compile(r"\x1b\[[0-9;]*m")


class Record:
    """One record: `level` in lower case (None for a line that is none, e.g. of a child), `text` with its lines."""

    def __init__(self, line):
        self.raw = _COLOUR.sub("", line)
        match = _BEGIN.match(self.raw)
        self.level = None
        self.text = self.raw
        if match:
            level = match["level"]
            self.level = _LEVELS.get(level, level.lower())
            self.text = match["text"]

    def __repr__(self):
        return f"<{self.level}: {self.text}>"


class Log:
    """Collects a pipe; tests ask it for facts. What was written before a question is known to the answer."""

    def __init__(self, stream):
        self._records = []
        self._begun = b""
        self._lock = threading.Lock()
        self._stream = stream
        os.set_blocking(stream.fileno(), False)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def _read(self):
        goes_on = True
        while goes_on:
            select.select([self._stream], [], [])
            with self._lock:
                goes_on = self._take()

    def _take(self):
        """Takes what is there. Whether more may come. With the lock."""
        while True:
            try:
                data = os.read(self._stream.fileno(), 65536)
            except BlockingIOError:
                return True
            if not data:
                if self._begun:
                    self._add(self._begun)
                    self._begun = b""
                return False
            *lines, self._begun = (self._begun + data).split(b"\n")
            for line in lines:
                self._add(line)

    def _add(self, line):
        record = Record(line.decode(errors="replace"))
        last = self._records[-1] if self._records else None
        continues = record.level is None and (record.raw[:1] in (" ", "\t") or _in_traceback(last, record))
        if last is not None and continues:
            last.text += "\n" + record.raw
            last.raw += "\n" + record.raw
        else:
            self._records.append(record)

    def ended(self, within):
        """Whether everyone who could write to the stream is gone."""
        self._thread.join(within)
        return not self._thread.is_alive()

    @property
    def records(self):
        with self._lock:
            self._take()
            return list(self._records)

    @property
    def text(self):
        return "\n".join(record.raw for record in self.records)

    def find(self, pattern, level=None):
        """Records whose text matches the regular expression, of one level if that is given."""
        return [
            record
            for record in self.records
            if re.search(pattern, record.text, re.DOTALL | re.IGNORECASE) and level in (None, record.level)
        ]


def _in_traceback(last, record):
    return last is not None and last.level is not None and "Traceback (most recent call last)" in last.text
