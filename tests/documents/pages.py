"""What README and docs ask their reader to do, as data.

A fenced block under a line `<!-- tested: run -->` is run, one under `<!-- tested: file PATH -->` is written to that
path. Both are invisible to readers. Owns the syntax; knows nothing of where the steps are carried out.
"""

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]

MARK = re.compile(r"^<!-- tested: (?P<what>run|file (?P<path>/\S+)) -->\n```\w+\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Step:
    """One block: commands, or the text of the file `path`."""

    text: str
    path: str | None
    line: int


def steps(page):
    """The marked blocks of a page, in their order."""
    source = (ROOT / page).read_text()
    found = [Step(match["text"], match["path"], source[:match.start()].count("\n") + 1) for match in MARK.finditer(source)]
    marks = re.findall(r"^<!-- tested:", source, re.MULTILINE)
    assert len(found) == len(marks), f"{page}: a mark without a fenced block right below it"
    return found


def links(page):
    """(target, fragment) of every link to a file of ours."""
    source = (ROOT / page).read_text()
    for target, fragment in re.findall(r"\]\(([^)#\s]*)(?:#([^)]*))?\)", source):
        if not target.startswith(("http:", "https:", "mailto:")):
            yield target, fragment


def headings(path):
    """The fragments that a page has, as GitHub makes them."""
    titles = re.findall(r"^#+ (.+)$", Path(path).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", title.lower()).replace(" ", "-") for title in titles}
