"""After a call: its end, by the provider's answer or by the exception.

An answer settles with its usage, at once or when its stream ends. A call that cannot have cost
anything is void; one that the provider may have billed settles at its hold.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from paygent.client.instrument.http_sdks.request import Prepared
from paygent.client.instrument.streams.byte_tap import BytesReader, tap_bytes
from paygent.client.instrument.streams.ending import EndableCall, Settler, StreamEnd
from paygent.client.instrument.streams.iterator_tap import tap_stream
from paygent.client.instrument.streams.reader import StreamReader
from paygent.client.metering.call import Call, Request
from paygent.client.metering.meter import Meter
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage, get
from paygent.failopen import attempt, diagnostics


def end_answered(meter: Settler, call: EndableCall, prepared: Prepared, answer: Any) -> None:
    """End a call with its answer: now, or when its stream ends."""
    route = prepared.route
    want_tools = call.wants_tools
    if not prepared.is_raw and not prepared.is_stream and not _is_http(answer):
        meter.settle(call, attempt("usage", route.read, answer, want_tools))
        return
    reader = route.stream_reader(want_tools, call.drops_usage_chunk)

    def read(document: Any) -> Usage | JobStatus | None:
        return route.read(document, want_tools)

    if prepared.is_raw or _is_http(answer):
        _end_raw(meter, call, answer, reader, read)
    elif not tap_stream(answer, meter, call, reader, read):
        diagnostics.warn_once(
            "stream_untapped", "a stream of type %s cannot be read", type(answer).__name__
        )
        meter.settle(call, None)


def _is_http(answer: Any) -> bool:
    """Return whether an answer is the HTTP library's own response (`cast_to=Response`)."""
    return hasattr(answer, "is_stream_consumed") and hasattr(answer, "stream")


def _end_raw(
    meter: Settler,
    call: EndableCall,
    answer: Any,
    reader: StreamReader,
    read: Callable[[Any], Usage | JobStatus | None],
) -> None:
    """End a call by the bytes of its response, read or still to come: the application parses it."""
    response = answer if _is_http(answer) else getattr(answer, "http_response", None)
    if response is None:  # an envelope of an unknown version of the SDK
        meter.settle(call, None)
        return
    if getattr(response, "is_stream_consumed", False) or getattr(response, "is_closed", False):
        # The bytes are in memory, and no tap would see them again.
        meter.settle(call, attempt("usage", _read_whole, response, reader, read, call.estimate))
        return
    bytes_reader = BytesReader(response.headers, reader, read)
    ending = StreamEnd(meter, call, bytes_reader)
    if attempt("tap_bytes", tap_bytes, response, ending, bytes_reader):
        call.hand_over()
    else:  # not httpx's stream: unreadable without consuming it
        meter.settle(call, None)


def _read_whole(
    response: Any,
    reader: StreamReader,
    read: Callable[[Any], Usage | JobStatus | None],
    estimate: Estimate,
) -> Usage | JobStatus | None:
    """Read the usage of an HTTP response that has been read to its end."""
    is_events = "event-stream" in str(response.headers.get("content-type"))
    if not (is_events or getattr(reader, "reads_lines", False)):
        try:
            document = response.json()
        except ValueError:
            return None  # audio or text, not JSON
        return read(document)
    bytes_reader = BytesReader(response.headers, reader, read, is_plain=True)
    bytes_reader.feed_bytes(response.content)
    bytes_reader.end()
    return bytes_reader.usage(estimate)


NEVER_SENT = (
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "UnsupportedProtocol",
    "LocalProtocolError",
)
"""Error classes of the HTTP libraries, raised before a request was sent."""

_CAUSES_MAX = 8  # a chain of causes may be circular


def end_failed(
    meter: Meter, call: Call, prepared: Prepared, error: BaseException, was_sent: bool = True
) -> None:
    """End a call that raised: void what cannot have cost anything, settle the rest.

    A received 4xx or 5xx and a connection that was never made are void. A time-out, a cut body, a
    cancellation settle the estimate, since the provider may have billed. An answer that the SDK
    could not parse was billed too; if the error carries the answer, its usage counts.

    Args:
        was_sent: False for an interruption between the gate and the provider.
    """
    if not was_sent:
        meter.void(call, "interrupted before it was sent")
        return
    # OpenAI's LengthFinishReasonError and ContentFilterFinishReasonError.
    answered = get(error, "completion")
    if answered is not None:
        usage = attempt("usage", prepared.route.read, answered, call.wants_tools)
        meter.settle(call, usage)
        return
    status = getattr(error, "status_code", None)
    if isinstance(status, int):
        if status >= 400:
            meter.void(call, f"status {status}")
        else:
            meter.settle(call, None)
        return
    if not isinstance(error, Exception):
        meter.settle(call, None)
        return
    names = names_of_causes(error)
    if any(name in NEVER_SENT for name in names):
        meter.void(call, "never sent")
    elif isinstance(error, ValueError) or any(is_paid(name) for name in names):
        meter.settle(call, None)
    else:
        meter.void(call, "failed before it was sent")


def names_of_causes(error: BaseException) -> list[str]:
    """Return the class names of an error and of its explicit causes.

    `__context__` is not followed: during a call in an `except` block of the application, that is
    the application's error.
    """
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(names) < _CAUSES_MAX:
        names.extend(base.__name__ for base in type(cause).__mro__)
        cause = cause.__cause__
    return names


def is_paid(name: str) -> bool:
    """Return whether an exception's class is one of the SDKs or HTTP libraries for a broken
    exchange, or for an answer that the SDK could not parse.
    """
    return name in (
        "ContentFilterFinishReasonError",
        "LengthFinishReasonError",
        "APIConnectionError",
        "APITimeoutError",
        "TransportError",
        "TimeoutException",
        "TimeoutError",
    )


def end_collected(meter: Meter, prepared: Prepared, answer: Any) -> None:
    """Book an answer that reports the usage of an earlier job: now, or when its stream ends."""
    end_answered(_JobSettler(meter), _StatusRequest(prepared.request), prepared, answer)


class _JobSettler:
    """Takes the place of the meter for answers that end no call."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.deferred_ends = meter.deferred_ends

    def settle(self, call: Any, found: Usage | JobStatus | None) -> None:
        """Book the reported status of a job."""
        if call.claim_end() and isinstance(found, JobStatus):
            self._meter.collect(call.request, found)

    def settle_left(self, call: Any, found: Usage | JobStatus | None) -> None:
        """Wait for the end: the stream may be read on, and nothing is held meanwhile."""

    def correct(self, call: Any, found: Usage | JobStatus | None) -> None:
        """Correct nothing: nothing is booked before the end."""


class _StatusRequest:
    """Takes the place of a call: nothing was held, and nothing is lost if it is dropped."""

    drops_usage_chunk = False
    wants_tools = False
    is_provisional = False
    estimate = Estimate(0, 0)

    def __init__(self, request: Request) -> None:
        self.request = request
        self.done = False

    def claim_end(self) -> bool:
        """Take the right to end it; true for the first caller."""
        first, self.done = not self.done, True
        return first

    def hand_over(self) -> None:
        """Do nothing: only real calls have an end to hand over."""
