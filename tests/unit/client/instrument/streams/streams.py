"""Streams, readers and a meter that records its calls, for the tests of taps."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx2

from paygent.client.accounts.forecasts import Use
from paygent.client.accounts.user_state import Hold
from paygent.client.instrument.openai.answers import (
    ChatStream,
    read_chat,
)
from paygent.client.instrument.streams.byte_tap import BytesReader
from paygent.client.metering.abandoned import DeferredEnds
from paygent.client.metering.call import Call
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage

ESTIMATE = Estimate(50, 60)


EVENTS = {"content-type": "text/event-stream; charset=utf-8"}


USAGE = {"prompt_tokens": 3, "completion_tokens": 4}


STREAM = (
    b'data: {"choices":[{"delta":{"content":"Hi"}}]}\n\n'
    b": a comment\n\n"
    b'event: x\r\ndata: {"model":"gpt-4o","choices":[],"usage":{"prompt_tokens":3,'
    b'"completion_tokens":4}}\r\n\r\ndata: [DONE]\n\n'
)


class NotingMeter:
    """Stands for a meter: notes each settlement, and ends a call once."""

    def __init__(self) -> None:
        self.settled: list[Usage | None] = []
        self.deferred_ends = DeferredEnds()

    def settle(self, call: Call, usage: Usage | None) -> None:
        """Note a settlement."""
        call.ends = []
        self.settled.append(usage)

    def settle_left(self, call: Call, usage: Usage | None) -> None:
        """Note a settlement of a stream that was left."""
        self.settle(call, usage)

    def correct(self, call: Call, usage: Usage | None) -> None:
        """Nothing is corrected: no call here is provisional."""


def call_of() -> Call:
    """A call under way."""
    call = Call()
    call.ends, call.drops_usage_chunk, call.provisional = [None], False, None
    call.stream_ended = False
    call.hold = Hold()
    call.hold.use = Use(ESTIMATE, 0)
    return call


def chat() -> ChatStream:
    """A reader of chat chunks."""
    return ChatStream(False, False)


def bytes_reader(headers: dict[str, str] | None = None) -> BytesReader:
    """A reader of the bytes of a chat answer."""
    read = lambda document: read_chat(document, False)  # noqa: E731 - a value, not a name
    return BytesReader(EVENTS if headers is None else headers, chat(), read)


def tokens(usage: Usage | JobStatus | None) -> tuple[int, int] | None:
    """Input and output."""
    return (usage.input_tokens, usage.output_tokens) if isinstance(usage, Usage) else None


def chunk(text: str = "word ") -> dict[str, Any]:
    """A chunk of text."""
    return {"model": "gpt-4o", "choices": [{"delta": {"content": text}}]}


class Source(httpx2.SyncByteStream):
    """An HTTP stream of pieces."""

    def __init__(self, *pieces: bytes) -> None:
        self.pieces = pieces
        self.is_closed = False

    def __iter__(self) -> Iterator[bytes]:
        yield from self.pieces

    def close(self) -> None:
        """Note the close."""
        self.is_closed = True
