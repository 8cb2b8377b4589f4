"""The pages of the documentation as their readers use them: in the order of the index, with the
programs they show, what those print, and the commands they name.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).parents[2]
INDEX = ROOT / "docs/index.md"
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]

_FENCE = re.compile(r"^```(\w*)(?: (\S+))?\n(.*?)^```$", re.M | re.S)
"""A block has a kind, and a name if it is a file of its own, or what running that prints."""

_LINK = re.compile(r"\]\(([^)#]+\.md)[^)]*\)")
_COMMAND = re.compile(r"(?:[A-Z_]+=\S*\s+)*paygent(?:\s+(.*))?")
"""A command with variables of its own."""

PATIENCE = (
    "from paygent.client.metering import wait; from paygent.client.runtime import callbacks;"
    " wait.FIRST_TOUCH_WAIT_S = callbacks.OWN_WAIT_S = 10.0"
)
"""Begins each program, on the line of the page's title: on a busy machine the ledger and callbacks
take longer than an application should wait, and lines would change places.
"""

_VARYING = (
    (re.compile(r"\b\d{4}-\d{2}-\d{2}\b"), "<date>"),
    (re.compile(r"\b\d{2}:\d{2}(:\d{2}(\.\d+)?)?\b"), "<time>"),
    (re.compile(r"\b[0-9a-f]{8}(-[0-9a-f]{4}){3}-[0-9a-f]{12}\b"), "<id>"),
)
"""What differs between two runs of one program."""


def name_of(page: Path) -> str:
    """Return a page's path below the root."""
    return page.relative_to(ROOT).as_posix()


def in_order(index: Path = INDEX) -> list[Path]:
    """Return the pages that an index links to, each once, in its order."""
    links = _LINK.findall(index.read_text(encoding="utf-8"))
    pages = [(index.parent / link).resolve() for link in links if "://" not in link]
    return list(dict.fromkeys(pages))


def blocks(text: str, kind: str) -> list[str]:
    """Return the contents of a page's blocks of one kind, such as "sh", except those with names."""
    return [content for found, name, content in _FENCE.findall(text) if found == kind and not name]


def files(text: str) -> dict[str, str]:
    """Return the files that a page shows, by their names: blocks such as "python x.py", which are
    not in the page's program.
    """
    return {
        name: content for kind, name, content in _FENCE.findall(text) if name and kind != "text"
    }


def outputs(text: str) -> dict[str, str]:
    """Return what a page says that its files print, by their names: blocks such as "text x.py"."""
    return {
        name: content for kind, name, content in _FENCE.findall(text) if name and kind == "text"
    }


def program(text: str) -> str:
    """Return a page's Python blocks as one program, on the lines that they have in the page, so
    that a traceback and a type checker name those.
    """
    lines = [""] * (text.count("\n") + 1)
    for match in _FENCE.finditer(text):
        if match[1] == "python" and not match[2]:
            first = text.count("\n", 0, match.start(3))
            for number, line in enumerate(match[3].splitlines(), first):
                lines[number] = line
    code = "\n".join(lines).rstrip()
    return code + "\n" if code.strip() else ""


def output(text: str) -> str:
    """Return what a page says that its program prints."""
    return "".join(blocks(text, "text"))


def normalised(printed: str) -> str:
    """Return what was printed without dates, times and ids of events."""
    for pattern, name in _VARYING:
        printed = pattern.sub(name, printed)
    return printed


def commands(text: str) -> Iterator[list[str]]:
    """Yield the arguments of each `paygent` command in a page's shell blocks."""
    for block in blocks(text, "sh"):
        for line in block.replace("\\\n", " ").splitlines():
            for part in re.split(r"\s(?:&&|\|\|?|;|>)\s", line):
                # Other commands are not read: their quotes may span lines.
                found = _COMMAND.fullmatch(part.strip())
                if found:
                    yield shlex.split(found[1] or "", comments=True)
