"""Forks and the end of the process.

The composition root registers what each part must renew in a forked child (`on_fork_child`); a
`Paygent` is also notified before a fork and before the process ends (`watch`). Hooks are installed
with the first registration, never at import, and hold objects weakly. No signal handler is
installed: a process that is killed leaves its journal, and the next one adopts it.
"""

from __future__ import annotations

import atexit
import os
import sys
import threading
import weakref
from collections.abc import Callable
from typing import Protocol

from paygent.client.runtime import ids
from paygent.failopen import attempt, diagnostics

EXIT_WAIT_S = 2.0
"""Longest wait for a last delivery at the end of the process; the rest stays in the journal."""


class Watched(Protocol):
    """An object that is notified of forks and of the end of the process."""

    def end_process(self) -> None:
        """Deliver all events, within `EXIT_WAIT_S`; calls may still come."""

    def pause_for_fork(self) -> None:
        """Close what a forked child must not inherit."""

    def resume_after_fork(self) -> None:
        """Resume in the parent."""


_watched: weakref.WeakSet[Watched] = weakref.WeakSet()
_renewals: list[weakref.WeakMethod[Callable[[], None]]] = []
_installed: list[bool] = []
_renewed_pid = os.getpid()  # of the process that the parts belong to
_renewing = threading.Lock()


def watch(paygent: Watched) -> None:
    """Notify an object of forks and of the end of the process."""
    _watched.add(paygent)
    _install()


def on_fork_child(renew: Callable[[], None]) -> None:
    """Call a bound method in each forked child before the child's own code, in the order of
    registration. It is held weakly; it replaces locks and forgets what belongs to the parent.
    """
    _renewals[:] = [kept for kept in _renewals if kept() not in (None, renew)]
    _renewals.append(weakref.WeakMethod(renew))
    _install()


def _install() -> None:
    global _renewed_pid
    if _installed:
        return  # a hook of the interpreter cannot be removed, so there is one
    _installed.append(True)
    _renewed_pid = os.getpid()  # what was forked before has no parts of its parent's
    atexit.register(_at_exit)
    if hasattr(os, "register_at_fork"):  # Windows has no fork
        os.register_at_fork(
            before=_before_fork,
            after_in_parent=_after_fork_in_parent,
            after_in_child=_after_fork_in_child,
        )


def is_watched() -> bool:
    """Return whether this process, or the one that it was forked from, has made a `Paygent`."""
    return bool(_installed)


def _at_exit() -> None:
    for watched in list(_watched):
        attempt("exit", watched.end_process)


def _before_fork() -> None:
    for watched in list(_watched):
        attempt("fork", watched.pause_for_fork)


def _after_fork_in_parent() -> None:
    for watched in list(_watched):
        attempt("fork", watched.resume_after_fork)


def renew_if_forked() -> None:
    """Renew the parts in a child of a fork that has skipped Python's hooks, as uWSGI's does."""
    if os.getpid() == _renewed_pid:
        return
    with _renewing:
        if os.getpid() != _renewed_pid:
            _after_fork_in_child()


def may_fork_unseen() -> bool:
    """Return whether this process may be forked without Python's hooks."""
    return "uwsgi" in sys.modules  # a module of uWSGI's interpreter, which is there from its start


def may_start_threads() -> bool:
    """Return whether threads run in this process: without an option uWSGI runs none, and starting
    one there never returns.
    """
    options = getattr(sys.modules.get("uwsgi"), "opt", None)
    if not isinstance(options, dict):
        return True
    enabled = options.get("enable-threads")
    enabled = enabled.decode() if isinstance(enabled, bytes) else str(enabled)
    is_enabled = enabled.lower() not in ("none", "false", "off", "no", "0")
    return is_enabled or "threads" in options  # `threads` implies `enable-threads`


def _after_fork_in_child() -> None:
    global _renewed_pid
    _renewed_pid = os.getpid()
    diagnostics.renew_after_fork()  # first, because the others may report errors
    ids.renew_after_fork()
    for reference in _renewals:
        renew = reference()
        if renew is not None:
            attempt("fork", renew)
