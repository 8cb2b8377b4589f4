"""The only guard that swallows exceptions: Paygent may fail, the application must not notice.

Only `Exception` is swallowed, never `KeyboardInterrupt`, `SystemExit` or a cancellation; the one
exception that is meant for the application, `PaygentLimitExceeded`, passes. Each failure is counted
by kind and logged once per kind. A guard never owns the return value of a provider: callers hold it
before they enter here. Tests turn every swallowed failure into a failure of the test (`listeners`).
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from paygent.errors import PaygentLimitExceeded

logger = logging.getLogger("paygent")

_T = TypeVar("_T")

_KINDS_MAX = 200  # distinct kinds kept; a kind is a literal in our code, so this is never reached


class Failures:
    """Counts what was swallowed and what was said, by kind. Thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self.counts: dict[str, int] = {}
        self._said: set[str] = set()
        self.listeners: list[Callable[[str, BaseException], None]] = []

    def note(self, kind: str, error: BaseException) -> None:
        """Count a swallowed failure, and log it if it is the first of its kind."""
        if self._count(kind):
            # The traceback names our own code only; a message may quote a user's text, so it is
            # left out.
            logger.warning("paygent: %s failed (%s); the call goes on", kind, type(error).__name__)
            logger.debug("paygent: %s", kind, exc_info=error)
        for listener in tuple(self.listeners):
            listener(kind, error)

    def say(self, kind: str, message: str, *args: Any) -> None:
        """Count an observation, and log it if it is the first of its kind.

        Args:
            kind: What is counted; also the key of "once".
            message: Text for the log, with `%s` places for `args`. No prompt, answer or key may be
                in it.
        """
        if self._count(kind):
            logger.warning("paygent: " + message, *args)

    def _count(self, kind: str) -> bool:
        with self._lock:
            self.counts[kind] = self.counts.get(kind, 0) + 1
            first = kind not in self._said and len(self._said) < _KINDS_MAX
            self._said.add(kind)
            return first

    def renew_after_fork(self) -> None:
        """Replace the lock, which another thread of the parent may have held."""
        self._lock = threading.Lock()


failures = Failures()
"""The process's counters; `Paygent.health()` shows them."""


def attempt(kind: str, action: Callable[..., _T], *args: Any) -> _T | None:
    """Run something of ours that must not disturb the application.

    Args:
        kind: What it is, for the counter and the log.
        action: Called with `args`.

    Returns:
        What `action` returned, or None when it failed.

    Raises:
        PaygentLimitExceeded: if the action decided so; nothing else but what is no `Exception`.
    """
    try:
        return action(*args)
    except PaygentLimitExceeded:
        raise
    except Exception as error:
        failures.note(kind, error)
        return None


async def attempt_async(kind: str, action: Callable[..., Awaitable[Any]], *args: Any) -> None:
    """Await something of the application's on its own loop; what it raises is counted, not passed
    on.
    """
    try:
        await action(*args)
    except Exception as error:
        failures.note(kind, error)


def isolate(kind: str, action: Callable[..., Any], *args: Any) -> None:
    """Run a callback of the application on a thread of ours, where nothing it raises may reach a
    call.

    Unlike `attempt` this also swallows `SystemExit` and `KeyboardInterrupt`: the thread is ours,
        and a
    callback that raises them asks for the end of a thread that it does not own.
    """
    try:
        action(*args)
    except BaseException as error:
        failures.note(kind, error)
