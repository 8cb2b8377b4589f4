"""Gate and meter around any callable: what `wrap` and registered providers share, sync and async.

Theory of operation
-------------------
`Work` is one run of a callable as one call. Entered, it says whose calls are made here; `begin`
gates; left with an exception, it ends the call as failed; `end` takes the answer. `run` and
`run_async` differ in how they wait, and in nothing else. While the callable runs, the call is the
one *around* what it does (`enclosing`): if that makes calls which are metered themselves, this one
gives up its hold and counts for nothing.

The answer is what the application gets, whatever it is. A stream object of an SDK gets the taps of
`stream.py`; a generator or coroutine is watched (`lazy.py`); anything else is read at once.
"""

from __future__ import annotations

from collections.abc import Callable
from contextvars import Token
from types import TracebackType
from typing import Any

from paygent.client.context.identity import (
    CALL_ARGUMENTS,
    Identity,
    current_identity,
    paygent_context,
)
from paygent.client.instrument.callables.lazy import Running, is_lazy, say_unread, watch
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
from paygent.core.estimate import Size
from paygent.core.usage import JobStatus, Usage, get
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics

UNSEEN = Size(4, 0)
"""Size of a request that nobody sees: always the same, so that what such calls took is what the
next one is expected to take.
"""


class Work:
    """One run of a callable as one call; a context manager around it."""

    __slots__ = ("_call", "_meter", "_prepared", "_scope", "_token", "is_async")

    def __init__(
        self, meter: Meter | None, prepared: Prepared, scope: paygent_context | None
    ) -> None:
        """Take the parts.

        Args:
            meter: Gates and meters; None lets the callable run.
            prepared: The request and how its answer is read.
            scope: Whose calls are made meanwhile; None is whose they are anyway.
        """
        self._meter = meter
        self._prepared = prepared
        self._scope = scope
        self.is_async = False
        self._call: Call | None = None
        self._token: Token[nesting.GiveUp | None] | None = None

    def __enter__(self) -> Work:
        if self._scope is not None:
            self._scope.__enter__()
        return self

    def begin(self) -> Wait | None:
        """Gate the call; return what it has to wait for before it asks again.

        Raises:
            PaygentLimitExceeded: if a limit refuses it.
        """
        if self._meter is None:
            return None
        self._prepared.request.is_async = self.is_async
        found = attempt("begin", self._meter.begin, self._prepared.request)
        if isinstance(found, Wait):
            return found
        if found is not None:
            self._call = found
            self._token = nesting.enter(self._give_up)
        return None

    def runs_in(self, task: Any) -> None:
        """Note that the work is done by a task, where the context of this run does not reach."""
        if self._meter is not None and self._call is not None:
            attempt("prepare", Running(task.get_coro(), self._meter, self._call).start)

    def _give_up(self) -> None:
        if self._meter is not None and self._call is not None:
            attempt("settle", self._meter.void, self._call, "its calls are metered themselves")

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._token is not None:
            nesting.leave(self._token)
        if self._scope is not None:
            self._scope.__exit__(kind, error, trace)
        if error is not None and self._meter is not None and self._call is not None:
            attempt("settle", self.end_raised, self._meter, self._call, error)

    def end(self, answer: Any) -> None:
        """End the call with its answer: now, or when the stream that it is has ended."""
        meter, call = self._meter, self._call
        if meter is None or call is None or call.done:
            return
        if not attempt("settle", self.end_with, meter, call, answer):
            attempt("settle", meter.settle, call, None)  # a hold must always end

    def end_with(self, meter: Meter, call: Call, answer: Any) -> bool:
        """End a call whose callable returned; true when that is seen to."""
        return end_returned(meter, call, self._prepared, answer)

    def end_raised(self, meter: Meter, call: Call, error: BaseException) -> None:
        """End a call whose callable raised."""
        end_raised(meter, call, self._prepared, error)


def run(work: Work, action: Callable[[], Any]) -> Any:
    """Run a callable as a call and return what it returns.

    Raises:
        PaygentLimitExceeded: if a limit refuses it; whatever else the callable raises.
    """
    with work:
        wait = work.begin()
        while wait is not None:
            wait.block()
            wait = work.begin()
        answer = action()
    work.end(answer)
    return answer


async def run_async(work: Work, action: Callable[[], Any]) -> Any:
    """Await what a callable returns as a call, and return that; see `run`."""
    work.is_async = True
    with work:
        wait = work.begin()
        while wait is not None:
            await wait
            wait = work.begin()
        answer = await action()
    work.end(answer)
    return answer


def take_arguments(kwargs: dict[str, Any]) -> paygent_context | None:
    """Take our arguments off a call; return whose it is by them, or None where it has none."""
    if kwargs.keys().isdisjoint(CALL_ARGUMENTS):
        return None
    user_id, session_id, metadata = (kwargs.pop(name, None) for name in CALL_ARGUMENTS)
    own = Identity(user_id, session_id, None, metadata).merged_with(current_identity())
    return paygent_context(own.user_id, own.session_id, own.plan, own.metadata)


def prepare(request: Request, read: Callable[[Any, bool], Usage | JobStatus | None]) -> Prepared:
    """Return a request as the funnel's endings take it.

    Args:
        request: What is known of the call.
        read: Reads the usage of an answer; what it cannot read is said once per type of answer.
    """

    def read_or_say(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
        usage = read(answer, want_tools)
        if usage is None:
            say_unread(type(answer).__name__, request.route)
        return usage

    route = Route(request.route, read_or_say, AnyStream)
    return Prepared(request, route, is_stream=False, is_raw=False, asks_for_usage=False)


def end_returned(meter: Meter, call: Call, prepared: Prepared, answer: Any) -> bool:
    """End a call whose callable returned, now or when what it returned has ended; true when that is
    seen to.
    """
    want_tools = call.wants_tools
    read = prepared.route.read
    if get(answer, "http_response") is not None or get(answer, "is_stream_consumed") is not None:
        # An SDK's raw response, or the HTTP library's own, which raises for no status.
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
    elif not watch(answer, meter, call):
        diagnostics.warn_once(
            "stream_untapped", "a stream of type %s cannot be read", type(answer).__name__
        )
        meter.settle(call, None)
    return True


def _is_stream_object(answer: Any) -> bool:
    """Tell whether an answer is a stream object of an SDK: it knows its HTTP response, and keeps
    its iterator in a field or makes it when it is first asked for.
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
"""Classes of the standard library's and other HTTP libraries' errors that come after a request was
sent. Those of the SDKs' own libraries are known to the funnel.
"""


def end_raised(meter: Meter, call: Call, prepared: Prepared, error: BaseException) -> None:
    """End a call whose callable raised.

    A provider's error ends it as in the funnel: a 4xx or 5xx and a connection that was never made
    are void, a time-out, a broken connection, an answer that is no JSON and an interruption settle
    the estimate. Any other exception is of the callable's own code and says nothing about a request
    having left, so it is void: a callable that fails on a bad argument must not use up a user's
    cap, and no answer has reached the application.
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
