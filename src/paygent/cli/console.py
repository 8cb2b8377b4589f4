"""The consoles that commands print to: for people on a terminal, plain anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

from rich.console import Console

_PLAIN_WIDTH = 100


def is_for_people(stream: IO[str], environ: Mapping[str, str]) -> bool:
    """Tell whether output goes to a terminal that someone looks at: no pipe, no CI, no dumb one."""
    return stream.isatty() and not environ.get("CI") and environ.get("TERM") != "dumb"


def make_console(stream: IO[str], environ: Mapping[str, str]) -> Console:
    """Return a console that writes colours and bars for people, and plain text for anything else.

    The choice is ours alone: variables that force colours do not put control characters in a pipe.
    """
    if is_for_people(stream, environ):
        return Console(file=stream, highlight=False)
    return Console(
        file=stream,
        force_terminal=False,
        force_interactive=False,
        color_system=None,
        highlight=False,
        width=_PLAIN_WIDTH,
    )
