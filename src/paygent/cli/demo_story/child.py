"""A child process of the demo that never outlives it.

The child ends when its standard input is closed, which happens however the parent ends. It is in a
session of its own: Ctrl-C must reach only the parent, and the child would print a traceback.
"""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Mapping, Sequence
from contextlib import suppress
from typing import IO

_STOP_WAIT_S = 5.0  # children exit in milliseconds; after this they are killed


class ChildProcess:
    """A module that runs in a process of its own.

    Attributes:
        pid: Id of the process.
    """

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        log: IO[bytes] | None = None,
    ) -> None:
        """Start the process.

        Args:
            name: What it is, for messages.
            arguments: The module, and its arguments.
            environ: Its environment; None is the parent's.
            log: Where its standard error goes; None is the parent's.
        """
        self._name = name
        self._process = subprocess.Popen(  # noqa: S603 - modules of this package
            [sys.executable, "-m", *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            env=None if environ is None else dict(environ),
            text=True,
            start_new_session=True,
        )
        self.pid = self._process.pid

    def write_line(self, line: str) -> None:
        """Send a line to the process.

        Raises:
            RuntimeError: if it has exited.
        """
        assert self._process.stdin is not None  # a pipe was asked for
        try:
            self._process.stdin.write(f"{line}\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError(f"{self._name} has exited") from error

    def read_line(self) -> str:
        """Return the next line that the process prints.

        Raises:
            RuntimeError: if it has exited.
        """
        assert self._process.stdout is not None  # a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"{self._name} has exited")
        return line.strip()

    @property
    def exit_status(self) -> int | None:
        """Its exit status, negative after a signal; None while it runs."""
        return self._process.poll()

    def stop(self) -> None:
        """Stop the process and wait for it; idempotent."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with suppress(OSError):  # the child has already exited, and its pipe with it
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_WAIT_S)
        finally:  # also after Ctrl-C: no process may be left behind
            self._process.kill()  # does nothing if it has exited
            # Not for ever: an exception of a signal handler in the middle of a poll can leave the
            # lock of `Popen` held, and then no wait sees that the process has ended.
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_WAIT_S)
            self._process.stdout.close()
