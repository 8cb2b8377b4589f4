"""Gate and meter around any callable: what `wrap` and registered providers share, sync and async.

Theory of operation
-------------------
`Work` is one run of a callable as one call. Entering it sets the user of the calls inside; `begin`
gates; leaving it with an exception ends the call as failed; `end` takes the answer. `run` and
`run_async` differ only in how they wait. While the callable runs, the call *encloses* what it does
(`nesting.py`): if that makes calls which are metered themselves, this one drops its hold and counts
for nothing.

The application gets the very answer, except for a generator or coroutine, which `iteration.py`
wraps. A stream object of an SDK gets the taps of `streams/`; anything else is read at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from dataclasses import dataclass
from functools import partial
from typing import Any

from paygent.client.context.identity import CALL_ARGUMENTS, Identity
from paygent.client.context.scopes import current_identity, paygent_context
from paygent.client.instrument.callables.iteration import is_lazy, wrap_lazy
from paygent.client.instrument.callables.usage import AnyStream
from paygent.client.instrument.http_sdks.outcome import (
    BROKEN_OFF,
    end_answered,
    end_failed,
    names_of_causes,
)
from paygent.client.instrument.http_sdks.request import Prepared
from paygent.client.instrument.http_sdks.route import Route
from paygent.client.metering import nesting
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.client.metering.wait import Wait, ask_awaiting, ask_blocking
from paygent.core.notices import Notice
from paygent.core.request_size import Size
from paygent.core.usage import JobStatus, Usage, get
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics

UNSEEN = Size(4, 0)
"""Size of a request that cannot be measured: always the same, so that the next call is expected to
use what such calls have used.
"""


@dataclass(slots=True, eq=False)
class Work:
    """One run of a callable as one call; a context manager around it.

    Attributes:
        _meter: Gates and meters; None lets the callable run.
        _prepared: The request and the reader of its answer.
        _scope: The user of the calls inside; None keeps the current one.
    """

    _meter: Meter | None
    _prepared: Prepared
    _scope: paygent_context | None
    _call: Call | None = None
    _token: Token[nesting.Enclosing | None] | None = None

    def __enter__(self) -> Work:
        if self._scope is not None:
            self._scope.__enter__()
        return self

    def mark_async(self) -> None:
        """Note that the caller awaits the call, and so may wait for it on an event loop."""
        self._prepared.request.is_async = True

    def begin(self) -> Wait | None:
        """Gate the call; return what it has to wait for before the next try.

        Raises:
            PaygentLimitExceeded: if a limit refuses it.
        """
        if self._meter is None:
            return None
        # The same request at each try: it keeps its place among the waiting calls.
        call = self._meter.begin(self._prepared.request)
        if isinstance(call, Wait):
            return call
        if call is not None:
            self._call = call
            self._token = nesting.enter(nesting.Enclosing(self._yield_to_inner, self._meters))
        return None

    def void_for_inner(self) -> None:
        """Void the call, since calls inside it are metered themselves."""
        if self._meter is not None and self._call is not None:
            attempt("settle", self._meter.void, self._call, "its calls are metered themselves")

    # Called by a metered call that begins inside; a subclass may keep the call instead.
    _yield_to_inner = void_for_inner

    def _meters(self) -> bool:
        """Return whether the call still counts, and for all that its callable does."""
        return self._call is not None and not self._call.done

    def as_enclosing(self) -> nesting.Enclosing:
        """Return the call as one that encloses what its answer does."""
        return nesting.Enclosing(self.void_for_inner, self._meters)

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        # Also after an interruption of `begin`, when there is no token yet.
        if self._token is not None:
            nesting.leave(self._token)
        if self._scope is not None:
            self._scope.__exit__()
        if error is not None:
            self.fail(error)

    def end(self, answer: Any) -> Any:
        """End the call with its answer: now, or when the stream that it is has ended. Return what
        the application gets: the answer, or a wrapper around a generator or coroutine.
        """
        meter, call = self._meter, self._call
        if meter is None or call is None:
            return answer
        # Also for a call that is void already: its body still runs as the call's user.
        if is_lazy(answer):
            wrapper = attempt("settle", wrap_lazy, self, answer)
            if wrapper is not None:
                return wrapper
        if not call.done:  # if this fails, the call's finalizer ends it
            attempt("settle", self.end_with, meter, call, answer)
        return answer

    def end_with(self, meter: Meter, call: Call, answer: Any) -> None:
        """End the call after its callable has returned: now, or with the stream that it is."""
        prepared = self._prepared
        response = get(answer, "http_response")
        if response is not None or get(answer, "is_stream_consumed") is not None:
            # An SDK's raw response, or the HTTP library's own, which does not raise for a status.
            status = get(response or answer, "status_code")
            if isinstance(status, int) and status >= 400:
                meter.void(call, f"status {status}")
            else:
                end_answered(meter, call, prepared._replace(is_raw=True), answer)
        elif is_lazy(answer) and _is_stream_object(answer):
            end_answered(meter, call, prepared._replace(is_stream=True), answer)
        else:  # the end of an iterator of another class cannot be noticed
            meter.settle(call, attempt("usage", prepared.route.read, answer, call.wants_tools))

    def fail(self, error: BaseException) -> None:
        """End the call with an exception that was raised before there was an answer; safe in a
        finalizer.
        """
        meter, call = self._meter, self._call
        if meter is None or call is None:
            return
        end = partial(attempt, "settle", self.end_raised, meter, call, error)
        meter.deferred_ends.run_or_defer(end)  # perhaps a finalizer closes a generator

    def end_raised(self, meter: Meter, call: Call, error: BaseException) -> None:
        """End the call with the exception of its callable."""
        end_raised(meter, call, self._prepared, error)

    # -- the steps of a generator or coroutine, see `iteration.py`

    def step(self, action: Callable[..., Any], *args: Any) -> Any:
        """Run one step of the body inside the call. Between two steps, the code that iterates keeps
        its own user.
        """
        # Entered for each step and not once: what is set in the context of a generator is also seen
        # by the code that iterates over it.
        if self._scope is not None:
            self._scope.__enter__()
        token = nesting.enter(self.as_enclosing())
        try:
            return action(*args)
        finally:
            nesting.leave(token)
            if self._scope is not None:
                self._scope.__exit__()

    def end_unread(self, kind: str) -> None:
        """End the call with its estimate, since nothing in its answer can be read."""
        if self._meter is not None and self._call is not None and not self._call.done:
            _warn_unread(kind, self._call.request.route)
            attempt("settle", self._meter.settle, self._call, None)

    def end_later(self, kind: str) -> None:
        """End the call with its estimate; safe in a finalizer."""
        if self._meter is not None and self._call is not None and not self._call.done:
            self._meter.deferred_ends.run_or_defer(partial(self.end_unread, kind))


def run(work: Work, action: Callable[[], Any]) -> Any:
    """Run a callable as a call and return its answer; see `Work.end`.

    Raises:
        PaygentLimitExceeded: if a limit refuses it; also whatever the callable raises.
    """
    with work:
        ask_blocking(work.begin)
        answer = action()
    return work.end(answer)


async def run_async(work: Work, action: Callable[[], Any]) -> Any:
    """Await the answer of a callable as a call, and return it; see `run`."""
    work.mark_async()
    with work:
        await ask_awaiting(work.begin)
        answer = await action()
    return work.end(answer)


def take_arguments(kwargs: dict[str, Any]) -> paygent_context | None:
    """Remove the `paygent_*` arguments of a call; return them as a scope, or None."""
    if kwargs.keys().isdisjoint(CALL_ARGUMENTS):
        return None
    user_id, session_id, metadata = (kwargs.pop(name, None) for name in CALL_ARGUMENTS)
    own = Identity(user_id, session_id, None, metadata).merged_with(current_identity())
    return paygent_context(own.user_id, own.session_id, own.plan, own.metadata)


def prepare(request: Request, read: Callable[[Any, bool], Usage | JobStatus | None]) -> Prepared:
    """Return a request in the form that `outcome.py` ends. `read` reads the usage of an answer;
    unreadable ones are logged once per type.
    """

    def read_or_warn(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
        usage = read(answer, want_tools)
        if usage is None:
            _warn_unread(type(answer).__name__, request.route)
        return usage

    route = Route(request.route, read_or_warn, AnyStream)
    return Prepared(request, route, is_stream=False, is_raw=False, asks_for_usage=False)


def _warn_unread(kind: str, route: str) -> None:
    diagnostics.warn_once(Notice.UNREAD_ANSWER, kind, route, subject=f"{route}:{kind}")


def _is_stream_object(answer: Any) -> bool:
    """Return whether an answer is a stream object of an SDK: it has its HTTP response, and its
    iterator in a field or in a property that creates it.
    """
    kind = type(answer)
    return all(
        hasattr(kind, name) or get(answer, name) is not None for name in ("_iterator", "response")
    )


def end_raised(meter: Meter, call: Call, prepared: Prepared, error: BaseException) -> None:
    """End a call with the exception of its callable: a provider's error as in `outcome.py`.

    Any other exception is of the callable's own code and does not show that a request was sent, so
    it is void: a callable that fails on a bad argument must not use up a user's cap.
    """
    has_status = isinstance(getattr(error, "status_code", None), int)
    is_value_error = isinstance(error, ValueError) and not has_status
    if isinstance(error, PaygentLimitExceeded):
        meter.void(call, "refused inside")
    elif is_value_error and BROKEN_OFF.isdisjoint(names_of_causes(error)):
        meter.void(call, "raised by the application's code")
    else:
        end_failed(meter, call, prepared, error)
