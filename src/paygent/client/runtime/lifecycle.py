"""The process's forks and its end, for every `Paygent` that it makes.

Hooks are registered with the first `Paygent`, once, and hold it weakly. No signal handler is
installed: a process that is killed leaves its journal, and the next one adopts it.
"""

from __future__ import annotations

import atexit
import os
import weakref
from typing import Protocol

from paygent.client.runtime import ids
from paygent.failopen import attempt, diagnostics

EXIT_WAIT_S = 2.0
"""How long the end of the process waits for a last delivery; the rest waits in the journal."""


class Watched(Protocol):
    """What is told of forks and of the end."""

    def shutdown(self, timeout: float = 10.0) -> None:
        """Deliver what there is, within a time, and stop."""

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit."""

    def resume_after_fork(self) -> None:
        """Go on in the parent."""

    def renew_after_fork(self) -> None:
        """Start anew in a forked child."""


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
_hooks: list[bool] = []


def watch(made: Watched) -> None:
    """Have something told of forks and of the end of the process."""
    _watched.add(made)
    if not _hooks:
        _hooks.append(True)
        atexit.register(_at_exit)
        if hasattr(os, "register_at_fork"):
            os.register_at_fork(
                before=_before_fork,
                after_in_parent=_after_fork_in_parent,
                after_in_child=_after_fork_in_child,
            )


def is_watched() -> bool:
    """Tell whether this process, or the one that it was forked from, has made a `Paygent`."""
    return bool(_hooks)


def _at_exit() -> None:
    for made in list(_watched):
        attempt("exit", made.shutdown, EXIT_WAIT_S)


def _before_fork() -> None:
    for made in list(_watched):
        attempt("fork", made.pause_for_fork)


def _after_fork_in_parent() -> None:
    for made in list(_watched):
        attempt("fork", made.resume_after_fork)


def _after_fork_in_child() -> None:
    diagnostics.renew_after_fork()
    ids.renew_after_fork()
    for made in list(_watched):
        attempt("fork", made.renew_after_fork)
