"""The console that commands print to: styled on an interactive terminal, plain anywhere else."""

from __future__ import annotations

from collections.abc import Mapping
from typing import IO

from rich.console import Console

_PLAIN_WIDTH = 100  # a pipe has no width; rich would assume 80 and wrap the tables


def is_interactive(stream: IO[str] | None, environ: Mapping[str, str]) -> bool:
    """Return whether output goes to an interactive terminal, and not to a pipe or a CI log.

    Args:
        stream: Where the output goes; None if the standard output is closed.
        environ: The environment.
    """
    if stream is None:
        return False
    return stream.isatty() and not _is_ci(environ) and environ.get("TERM") != "dumb"


def is_attended(stdin: IO[str] | None, stdout: IO[str] | None, environ: Mapping[str, str]) -> bool:
    """Return whether there is a user at a terminal, who sees the output and can press Ctrl-C.

    Args:
        stdin: The standard input; None if it is closed.
        stdout: The standard output; None if it is closed.
        environ: The environment.
    """
    streams = (stdin, stdout)
    return not _is_ci(environ) and all(stream is not None and stream.isatty() for stream in streams)


def _is_ci(environ: Mapping[str, str]) -> bool:
    """Return whether a service runs this as a build; all of them set `CI`."""
    return environ.get("CI", "").lower() not in ("", "0", "false")


def make_console(stream: IO[str] | None, environ: Mapping[str, str]) -> Console:
    """Return a console: colours and bars on an interactive terminal, plain text elsewhere.

    Output to a stream that is None goes nowhere.
    """
    if is_interactive(stream, environ):
        return Console(file=stream, highlight=False)
    # Explicit, so that FORCE_COLOR and the like put no control characters into a pipe.
    return Console(
        file=stream,
        force_terminal=False,
        force_interactive=False,
        color_system=None,
        highlight=False,
        width=_PLAIN_WIDTH,
    )
