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
from types import TracebackType
from typing import Any

from paygent.client.context.identity import CALL_ARGUMENTS, Identity
from paygent.client.context.scopes import current_identity, paygent_context
from paygent.client.instrument.callables.iteration import (
    SteppedCall,
    is_lazy,
    warn_unread,
    wrap_lazy,
)
from paygent.client.instrument.callables.usage import AnyStream, read_known
from paygent.client.instrument.http_sdks.outcome import (
    end_answered,
    end_failed,
    is_paid,
    names_of_causes,
)
from paygent.client.instrument.http_sdks.request import Prepared
from paygent.client.instrument.http_sdks.route import Route
from paygent.client.instrument.streams.iterator_tap import tap_stream
from paygent.client.metering import nesting
from paygent.client.metering.call import Call, Request, Wait
from paygent.client.metering.meter import Meter
from paygent.core.request_size import Size
from paygent.core.usage import JobStatus, Usage, get
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics

UNSEEN = Size(4, 0)
"""Size of a request that cannot be measured: always the same, so that the next call is expected to
use what such calls have used.
"""


class Work(SteppedCall):
    """One run of a callable as one call; a context manager around it."""

    __slots__ = ("_prepared", "_token", "is_async")

    def __init__(
        self, meter: Meter | None, prepared: Prepared, scope: paygent_context | None
    ) -> None:
        """Create a run.

        Args:
            meter: Gates and meters; None lets the callable run.
            prepared: The request and the reader of its answer.
            scope: The user of the calls inside; None keeps the current one.
        """
        self._meter = meter
        self._prepared = prepared
        self._scope = scope
        self.is_async = False
        self._call: Call | None = None
        self._token: Token[nesting.VoidCall | None] | None = None

    def __enter__(self) -> Work:
        if self._scope is not None:
            self._scope.__enter__()
        return self

    def begin(self) -> Wait | None:
        """Gate the call; return what it has to wait for before the next try.

        Raises:
            PaygentLimitExceeded: if a limit refuses it.
        """
        if self._meter is None:
            return None
        # The same request at each try: it keeps its place among the waiting calls.
        self._prepared.request.is_async = self.is_async
        call = attempt("begin", self._meter.begin, self._prepared.request)
        if isinstance(call, Wait):
            return call
        if call is not None:
            self._call = call
            self._token = nesting.enter(self._yield_to_inner)
        return None

    # Called by a metered call that begins inside; a subclass may keep the call instead.
    def _yield_to_inner(self) -> None:
        self.void_for_inner()

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        # Also after an interruption of `begin`, when there is no token yet.
        if self._token is not None:
            nesting.leave(self._token)
        if self._scope is not None:
            self._scope.__exit__(kind, error, trace)
        if error is not None and self._meter is not None and self._call is not None:
            attempt("settle", self.end_raised, self._meter, self._call, error)

    def end(self, answer: Any) -> Any:
        """End the call with its answer: now, or when the stream that it is has ended.

        Returns:
            What the application gets: the answer, or a wrapper around a generator or coroutine.
        """
        meter, call = self._meter, self._call
        if meter is None or call is None:
            return answer
        # Also for a call that is void already: its body still runs as the call's user.
        if is_lazy(answer):
            wrapper = attempt("settle", wrap_lazy, self, answer)
            if wrapper is not None:
                return wrapper
        if not call.done and not attempt("settle", self.end_with, meter, call, answer):
            attempt("settle", meter.settle, call, None)  # a hold must always end
        return answer

    def end_with(self, meter: Meter, call: Call, answer: Any) -> bool:
        """End the call after its callable has returned; true once its end is certain."""
        return end_returned(meter, call, self._prepared, answer)

    def end_raised(self, meter: Meter, call: Call, error: BaseException) -> None:
        """End the call with the exception of its callable."""
        end_raised(meter, call, self._prepared, error)


def run(work: Work, action: Callable[[], Any]) -> Any:
    """Run a callable as a call and return its answer; see `Work.end`.

    Raises:
        PaygentLimitExceeded: if a limit refuses it; also whatever the callable raises.
    """
    with work:
        wait = work.begin()
        while wait is not None:
            wait.block()
            wait = work.begin()
        answer = action()
    return work.end(answer)


async def run_async(work: Work, action: Callable[[], Any]) -> Any:
    """Await the answer of a callable as a call, and return it; see `run`."""
    work.is_async = True
    with work:
        wait = work.begin()
        while wait is not None:
            await wait
            wait = work.begin()
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
    """Return a request in the form that `outcome.py` ends.

    Args:
        request: Of the call.
        read: Reads the usage of an answer; unreadable ones are logged once per type.
    """

    def read_or_warn(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
        usage = read(answer, want_tools)
        if usage is None:
            warn_unread(type(answer).__name__, request.route)
        return usage

    route = Route(request.route, read_or_warn, AnyStream)
    return Prepared(request, route, is_stream=False, is_raw=False, asks_for_usage=False)


def end_returned(meter: Meter, call: Call, prepared: Prepared, answer: Any) -> bool:
    """End a call after its callable has returned: now, or with the stream that it returned. True
    once the end is certain.
    """
    want_tools = call.wants_tools
    read = prepared.route.read
    if get(answer, "http_response") is not None or get(answer, "is_stream_consumed") is not None:
        # An SDK's raw response, or the HTTP library's own, which does not raise for a status.
        status = get(get(answer, "http_response") or answer, "status_code")
        if isinstance(status, int) and status >= 400:
            meter.void(call, f"status {status}")
        else:
            end_answered(meter, call, prepared._replace(is_raw=True), answer)
    elif not is_lazy(answer):
        meter.settle(call, attempt("usage", read, answer, want_tools))
    elif _is_stream_object(answer) and tap_stream(
        answer,
        meter,
        call,
        AnyStream(want_tools, False),
        lambda document: read(document, want_tools),
    ):
        pass  # the taps end it
    elif (usage := attempt("usage", read_known, answer, want_tools)) is not None:
        meter.settle(call, usage)  # an answer that can be iterated too, such as a mock
    else:  # an iterator of another class: its end cannot be noticed
        diagnostics.warn_once(
            "stream_untapped", "a stream of type %s cannot be read", type(answer).__name__
        )
        meter.settle(call, None)
    return True


def _is_stream_object(answer: Any) -> bool:
    """Return whether an answer is a stream object of an SDK: it has its HTTP response, and its
    iterator in a field or in a property that creates it.
    """
    kind = type(answer)
    return all(
        hasattr(kind, name) or get(answer, name) is not None for name in ("_iterator", "response")
    )


_BROKE_OFF = frozenset(
    {
        "JSONDecodeError",
        "ReadTimeout",
        "ConnectionResetError",
        "ConnectionAbortedError",
        "BrokenPipeError",
        "IncompleteRead",
        "ChunkedEncodingError",
        "RemoteDisconnected",
        "ServerDisconnectedError",
        "DeadlineExceeded",
    }
)
"""Error classes of the standard library and other HTTP libraries, raised after a request was sent.
`outcome.py` knows those of the SDKs' own libraries.
"""


def end_raised(meter: Meter, call: Call, prepared: Prepared, error: BaseException) -> None:
    """End a call with the exception of its callable.

    A provider's error ends it as in `outcome.py`: a 4xx or 5xx and a connection that was never made
    are void; a time-out, a broken connection, an answer that is no JSON and an interruption settle
    the estimate. Any other exception is of the callable's own code and does not show that a request
    was sent, so it is void: a callable that fails on a bad argument must not use up a user's cap.
    """
    names = names_of_causes(error) if isinstance(error, Exception) else []
    has_status = isinstance(getattr(error, "status_code", None), int)
    if isinstance(error, PaygentLimitExceeded):
        meter.void(call, "refused inside")
    elif not has_status and not _BROKE_OFF.isdisjoint(names):
        meter.settle(call, None)
    elif not has_status and isinstance(error, ValueError) and not any(map(is_paid, names)):
        meter.void(call, "raised by the application's code")
    else:
        end_failed(meter, call, prepared, error)
