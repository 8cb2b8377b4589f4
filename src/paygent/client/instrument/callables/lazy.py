"""Generators and coroutines that a metered callable returned: their bodies run later, and the call
ends when they do.

The application gets the very object, so nothing can stand between it and its body. What can be seen
from outside is enough: it is collected, or it has no frame any more since it was exhausted, closed
or raised. The second is looked for before figures are read and by the delivering thread, twice a
second.
"""

from __future__ import annotations

import inspect
import itertools
import weakref
from typing import Any

from paygent.client.instrument.streams.ending import StreamEnd
from paygent.client.metering import nesting
from paygent.client.metering.call import Call
from paygent.client.metering.meter import Meter
from paygent.core.estimate import Estimate
from paygent.core.usage import Usage
from paygent.failopen import attempt, diagnostics

_FRAMES = ("gi_frame", "ag_frame", "cr_frame")
_keys = itertools.count()


class Unseen:
    """Stands for the reader of work that nobody can look into."""

    __slots__ = ("_kind", "_route")

    def __init__(self, kind: str, route: str) -> None:
        self._kind = kind
        self._route = route

    def feed(self, chunk: Any) -> bool | None:
        """See nothing; see `StreamReader.feed`."""
        return None

    def usage(self, estimate: Estimate) -> Usage | None:
        """Know nothing, and say so once; see `StreamReader.usage`."""
        say_unread(self._kind, self._route)
        return None


def say_unread(kind: str, route: str) -> None:
    """Say that the usage of an answer is not known.

    Args:
        kind: The name of the answer's type.
        route: What was called.
    """
    diagnostics.warn_once(
        f"unread:{route}:{kind}",
        "the usage of an answer of type %s (%s) cannot be read; the estimate is booked",
        kind,
        route,
    )


class Watched:
    """One lazy object and the call that ends with it; see `enclosing.Lazy`."""

    __slots__ = ("_call", "_ending", "_frame_name", "_key", "_meter", "_reference")

    def __init__(self, lazy: Any, meter: Meter, call: Call) -> None:
        self._meter = meter
        self._call = call
        self._ending = StreamEnd(meter, call, Unseen(type(lazy).__name__, call.request.route))
        self._frame_name = next((name for name in _FRAMES if hasattr(lazy, name)), None)
        self._key = next(_keys)
        self._reference = weakref.ref(lazy, self._collected)

    def start(self) -> None:
        """Be looked at from now on."""
        nesting.lazies[self._key] = self

    def _collected(self, reference: Any) -> None:
        nesting.lazies.pop(self._key, None)
        self._ending.from_anywhere()

    def _frame(self) -> Any:
        """Return the frame of the body; None when there is none any more, or never was one."""
        lazy = self._reference()
        if lazy is None or self._frame_name is None:
            return None
        return getattr(lazy, self._frame_name)

    def runs_in(self, frames: set[int]) -> bool:
        """Tell whether the body is among these frames."""
        frame = self._frame()
        return frame is not None and id(frame) in frames

    def give_up(self) -> None:
        """Void the call: what its body calls is metered itself."""
        nesting.lazies.pop(self._key, None)
        attempt("settle", self._meter.void, self._call, "its calls are metered themselves")

    def look(self) -> None:
        """End the call if the body has come to its end."""
        if self._call.done:
            nesting.lazies.pop(self._key, None)
        elif self._frame_name is not None and self._frame() is None:
            nesting.lazies.pop(self._key, None)
            self._ending()


class Running(Watched):
    """The coroutine of a task that runs in a context of its own: what it calls counts instead, and
    its result ends the call.
    """

    __slots__ = ()

    def _collected(self, reference: Any) -> None:
        nesting.lazies.pop(self._key, None)

    def look(self) -> None:
        """Be looked at no more when the call has ended."""
        if self._call.done:
            nesting.lazies.pop(self._key, None)


def watch(answer: Any, meter: Meter, call: Call) -> bool:
    """End a call when the lazy object that it gave has come to its end; false for other answers.

    An iterator of another kind, which shows no frame, ends its call when it is collected.
    """
    if not is_lazy(answer):
        return False
    try:
        Watched(answer, meter, call).start()
    except TypeError:  # a kind that no weak reference can be had of, such as `map`
        return False
    return True


def is_lazy(answer: Any) -> bool:
    """Tell whether an answer is work that is still to be done: an iterator, or an awaitable."""
    kind = type(answer)
    return hasattr(kind, "__next__") or hasattr(kind, "__anext__") or inspect.isawaitable(answer)
