"""The only guard that swallows exceptions: a failure in Paygent must not affect the application.

Around calls, only `Exception` is swallowed, never `KeyboardInterrupt`, `SystemExit` or a
cancellation, and the one exception that is meant for the application, `PaygentLimitExceeded`,
passes. What callbacks raise is swallowed whole (`isolate`), except a cancellation on the
application's loop. Each failure is counted by kind and logged once per kind. A guard never owns the
return value of a provider: callers hold it before they enter here. Tests turn every swallowed
failure into a failure of the test (`listeners`).
"""

from __future__ import annotations

import logging
import os
import sys
import threading
import traceback
import warnings
from collections.abc import Awaitable, Callable
from functools import partial
from types import BuiltinFunctionType, FunctionType, MethodType
from typing import Any, TypeVar

from paygent.core.notices import Notice
from paygent.errors import PaygentLimitExceeded

logger = logging.getLogger("paygent")

_T = TypeVar("_T")

_KINDS_MAX = 199  # keys kept before those of further subjects: model names have no bound
_CALLBACKS_MAX = 100  # names of failing callbacks that are remembered
OTHER = "other"
"""The kind under which subjects beyond the bound are counted."""


class Diagnostics:
    """Counts swallowed failures and logged notices, by kind. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: dict[str, int] = {}
        self._callbacks: set[str] = set()  # those of which a failure was logged
        self.listeners: list[Callable[[str, BaseException], None]] = []

    def record_error(self, kind: str, error: BaseException) -> None:
        """Count a swallowed failure, and log it if it is the first of its kind."""
        if self._count(kind):
            # A message may quote a user's text, so it is left out, also of the traceback.
            self._log(
                "step %s failed (%s); the application is not affected", kind, type(error).__name__
            )
            if logger.isEnabledFor(logging.DEBUG):
                lines = "".join(traceback.format_tb(error.__traceback__))
                self._log("%s failed in\n%s", kind, lines, level=logging.DEBUG)
        self._notify(kind, error)

    def record_callback_error(
        self, kind: str, callback: object, error: BaseException, harm: str = ""
    ) -> None:
        """Count a failure of an application's function; log its first one with its traceback, which
        is the application's own, and what follows from it.
        """
        name = _name_of(callback)
        self._count(kind)
        with self._lock:
            is_logged = name in self._callbacks or len(self._callbacks) >= _CALLBACKS_MAX
            if not is_logged:
                self._callbacks.add(name)
        if not is_logged:
            text = "%s raised an exception; %s"
            self._log(text, name, harm or "calls are not affected", error=error)
        self._notify(kind, error)

    def _notify(self, kind: str, error: BaseException) -> None:
        for listener in tuple(self.listeners):
            listener(kind, error)

    def warn_once(self, notice: Notice, *args: Any, subject: str = "") -> None:
        """Count a notice, and log it if it is the first of its kind.

        Args:
            notice: The kind and the text, with a place for each of `args`.
            args: No prompt, answer or key may be one of them.
            subject: Counts the kind apart for each subject, such as a model.
        """
        if self._count(f"{notice.kind}:{subject}" if subject else notice.kind):
            self._log(notice.text, *args)

    def count(self, notice: Notice, *, subject: str = "") -> None:
        """Count a notice without logging it; see `warn_once`."""
        self._count(f"{notice.kind}:{subject}" if subject else notice.kind)

    def count_again(self, kind: str) -> None:
        """Count a notice, by its kind, of which one was logged before."""
        with self._lock:
            self.counts[kind] = self.counts.get(kind, 0) + 1

    def _log(
        self,
        message: str,
        *args: Any,
        level: int = logging.WARNING,
        error: BaseException | None = None,
    ) -> None:
        """Log a line; a filter or handler of the application that raises is only counted."""
        try:
            # Without any handler Python prints the bare message, which must say where it is from.
            prefix = "" if logger.hasHandlers() else "paygent: "
            logger.log(level, prefix + message, *args, exc_info=error)
        except Exception:
            self._count("log")

    def _count(self, kind: str) -> bool:
        """Count a kind; return whether it is the first of its kind."""
        with self._lock:
            # Kinds without a subject are a closed set, which subjects must not silence.
            is_bounded = ":" in kind and kind not in self.counts
            if is_bounded and len(self.counts) >= _KINDS_MAX:
                kind = OTHER  # its first is logged; the rest is in the count alone
            self.counts[kind] = self.counts.get(kind, 0) + 1
            return self.counts[kind] == 1

    def renew_after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()


diagnostics = Diagnostics()
"""The process's counters; `Paygent.health()` shows them."""


def attempt(kind: str, action: Callable[..., _T], *args: Any) -> _T | None:
    """Call a function that must not disturb the application.

    Args:
        kind: The step that may fail (`Step`), for the counter and the log.
        action: Called with `args`.

    Returns:
        The result of `action`, or None when it failed.

    Raises:
        PaygentLimitExceeded: if the action decided so; otherwise nothing that is an `Exception`.
    """
    try:
        return action(*args)
    except PaygentLimitExceeded:
        raise
    except Exception as error:
        diagnostics.record_error(kind, error)
        return None


class guard:  # noqa: N801 - used in a `with` statement, like a function
    """Run a block as `attempt` runs a function; for blocks that await."""

    __slots__ = ("_kind",)

    def __init__(self, kind: str) -> None:
        self._kind = kind

    def __enter__(self) -> None:
        """Enter the block."""

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> bool:
        # A cancellation is no `Exception`, so it passes.
        if not isinstance(error, Exception) or isinstance(error, PaygentLimitExceeded):
            return False
        diagnostics.record_error(self._kind, error)
        return True


async def isolate_async(kind: str, callback: Callable[..., Awaitable[Any]], *args: Any) -> None:
    """Await an application's callback on the application's loop, which it must not end. A
    cancellation passes: it comes from the loop.
    """
    from asyncio import CancelledError  # imported already, since a loop of it runs

    try:
        await callback(*args)
    except (CancelledError, GeneratorExit):
        raise
    except BaseException as error:
        diagnostics.record_callback_error(kind, callback, error)


def ask(kind: str, function: Callable[[], _T], harm: str) -> _T | None:
    """Call a function of the application and return its answer; None when it fails.

    Args:
        kind: The step that may fail (`Step`), for the counter.
        function: Called without arguments.
        harm: What follows from a failure, for the log.
    """
    try:
        return function()
    except PaygentLimitExceeded:
        raise
    except Exception as error:
        diagnostics.record_callback_error(kind, function, error, harm)
        return None


def isolate(kind: str, callback: object, run: Callable[..., Any], *args: Any) -> None:
    """Run an application's callback on Paygent's own thread, where its exceptions reach no call.

    Unlike `attempt` this also swallows `SystemExit` and `KeyboardInterrupt`: a callback that raises
    them asks for the end of a thread that it does not own.

    Args:
        kind: The kind under which a failure is counted.
        callback: The application's function, for the log.
        run: Calls it; called with `args`.
    """
    try:
        run(*args)
    except BaseException as error:
        diagnostics.record_callback_error(kind, callback, error)


def _name_of(callback: object) -> str:
    """Return the module and name of a function; of any other callable, those of its type."""
    # By type: an attribute of an application's object may run its code.
    while isinstance(callback, (partial, MethodType)):
        callback = callback.func if isinstance(callback, partial) else callback.__func__
    is_named = isinstance(callback, (type, FunctionType, BuiltinFunctionType))
    named: Any = callback if is_named else type(callback)
    return f"{named.__module__}.{named.__qualname__}"


_PACKAGE = os.path.dirname(__file__) + os.sep


def warn(problem: Warning) -> None:
    """Warn the caller of a configuring verb; `-W error` must not break an application over it."""
    level = 2  # of the first frame outside this package; Python 3.12 has `skip_file_prefixes`
    frame = sys._getframe(1)
    while frame.f_back is not None and frame.f_code.co_filename.startswith(_PACKAGE):
        frame, level = frame.f_back, level + 1
    try:
        warnings.warn(problem, stacklevel=level)
    except Warning:
        diagnostics.warn_once(Notice.WARNING, problem, subject=type(problem).__name__)
