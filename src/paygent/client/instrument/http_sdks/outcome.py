"""After a call: its end, by the provider's answer or by the exception.

An answer settles with its usage, at once or when its stream ends. A call that cannot have cost
anything is void; one that the provider may have billed settles at its hold.
"""

from __future__ import annotations

import json
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
from paygent.core.notices import Notice
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
        kind = type(answer).__name__
        diagnostics.warn_once(Notice.UNREAD_STREAM, kind)
        meter.settle(call, None)


def _is_http(answer: Any) -> bool:
    """Return whether an answer is the HTTP library's own response (`cast_to=Response`)."""
    # Not `hasattr`: for a name that a pydantic object lacks, that takes microseconds.
    return "is_stream_consumed" in getattr(answer, "__dict__", ())


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
    is_read = any(getattr(response, name, False) for name in ("is_stream_consumed", "is_closed"))
    bytes_reader = BytesReader(response.headers, reader, read, is_plain=is_read)
    if is_read:  # the bytes are in memory, and no tap would see them again
        usage = attempt("usage", _read_whole, response, bytes_reader, read, call.estimate)
        meter.settle(call, usage)
        return
    ending = StreamEnd(meter, call, bytes_reader)
    if attempt("tap_bytes", tap_bytes, response, ending, bytes_reader):
        call.hand_over()
    else:  # not httpx's stream: unreadable without consuming it
        meter.settle(call, None)


def _read_whole(
    response: Any,
    bytes_reader: BytesReader,
    read: Callable[[Any], Usage | JobStatus | None],
    estimate: Estimate,
) -> Usage | JobStatus | None:
    content = response.content  # raises where the bytes were consumed as a stream
    if bytes_reader.is_by_line:
        bytes_reader.feed_bytes(content)
        bytes_reader.end()
        return bytes_reader.usage(estimate)
    # Of any size and content type: some gateways send JSON as plain text.
    try:
        document = json.loads(content)
    except ValueError:
        return None  # sound or text
    return read(document)


# Error classes by name, since the libraries may not be installed: of the SDKs, httpx, aiohttp,
# requests and the standard library.
NEVER_SENT = {
    "ConnectError", "ConnectTimeout", "PoolTimeout", "UnsupportedProtocol", "LocalProtocolError",
    "ClientConnectorError", "ConnectionTimeoutError",
}  # fmt: skip
"""Raised before a request was sent."""
BROKEN_OFF = {
    "ContentFilterFinishReasonError", "LengthFinishReasonError", "APIConnectionError",
    "APITimeoutError", "TransportError", "TimeoutException", "TimeoutError", "JSONDecodeError",
    "ReadTimeout", "ConnectionResetError", "ConnectionAbortedError", "BrokenPipeError",
    "IncompleteRead", "ChunkedEncodingError", "RemoteDisconnected", "ServerDisconnectedError",
    "DeadlineExceeded",
}  # fmt: skip
"""Raised after a request was sent, or for an answer that the SDK could not parse."""

_UNPARSED = {*BROKEN_OFF, "ValidationError", "UnicodeDecodeError"}
"""Also raised by code that parses an answer. Other errors of a value (a number that JSON lacks, a
header that is not ASCII) are raised for the request.
"""

_CAUSES_MAX = 8  # a chain of causes may be circular


def end_failed(
    meter: Meter, call: Call, prepared: Prepared, error: BaseException, was_sent: bool = True
) -> None:
    """End a call that raised: void what cannot have cost anything, settle the rest.

    A received 4xx or 5xx and a connection that was never made are void. A time-out, a cut body, a
    cancellation settle the estimate, since the provider may have billed. An answer that the SDK
    could not parse was billed too; if the error carries the answer, its usage counts. `was_sent` is
    false for an interruption between the gate and the provider.
    """
    usage = None
    void_reason = ""
    status = getattr(error, "status_code", None)
    if not was_sent:
        void_reason = "interrupted before it was sent"
    elif (answer := get(error, "completion")) is not None:
        # OpenAI's LengthFinishReasonError and ContentFilterFinishReasonError.
        usage = attempt("usage", prepared.route.read, answer, call.wants_tools)
    elif isinstance(status, int):
        void_reason = f"status {status}" if status >= 400 else ""
    elif isinstance(error, Exception):
        names = names_of_causes(error)
        if not NEVER_SENT.isdisjoint(names):
            void_reason = "never sent"
        elif _UNPARSED.isdisjoint(names):
            void_reason = "failed before it was sent"
    if void_reason:
        meter.void(call, void_reason)
    else:
        meter.settle(call, usage)


def names_of_causes(error: BaseException) -> list[str]:
    """Return the class names of an error and of its explicit causes."""
    # `__context__` is not followed: during a call in an `except` block of the application, that is
    # the application's error.
    names: list[str] = []
    cause: BaseException | None = error
    while cause is not None and len(names) < _CAUSES_MAX:
        names.extend(base.__name__ for base in type(cause).__mro__)
        cause = cause.__cause__
    return names


def end_collected(meter: Meter, prepared: Prepared, answer: Any) -> None:
    """Book an answer that reports the usage of an earlier job: now, or when its stream ends."""
    report = _JobReport(meter, prepared.request)
    end_answered(report, report, prepared, answer)


class _JobReport:
    """Takes the place of meter and call for an answer that ends no call: nothing was held, and
    nothing is lost if it is dropped.
    """

    drops_usage_chunk = wants_tools = is_provisional = stream_ended = False
    estimate = Estimate(0, 0)

    def __init__(self, meter: Meter, request: Request) -> None:
        self._meter = meter
        self._request = request
        self.deferred_ends = meter.deferred_ends
        self.done = False

    def settle(self, call: object, usage: Usage | JobStatus | None) -> None:
        """Book the reported status of a job, once."""
        is_first, self.done = not self.done, True
        if is_first and isinstance(usage, JobStatus):
            self._meter.collect(self._request, usage)

    def settle_left(self, call: object, usage: object) -> None:
        """Wait for the end: the stream may be read on, and nothing is held or booked meanwhile."""

    correct = settle_left

    def hand_over(self) -> None:
        """Do nothing: only real calls have an end to hand over."""
