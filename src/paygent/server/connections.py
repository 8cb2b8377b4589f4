"""Connections: what a client may do before there is a request, which `limits.py` bounds.

uvicorn ends a connection that is idle after an answer, and nothing else: one that never sends a
head, or sends half of one, would occupy its place for ever, and a head could have any length.
"""

from __future__ import annotations

import asyncio
from http import HTTPStatus
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

_TOO_LARGE = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE
_REFUSAL = (
    f"HTTP/1.1 {_TOO_LARGE.value} {_TOO_LARGE.phrase}\r\n"
    "content-length: 0\r\nconnection: close\r\n\r\n"
).encode()
_PIPELINED_MAX = 64
"""Requests that may wait for the answer before theirs. uvicorn reads on after each answer, so that
a client which reads none could fill the memory.
"""


class Connection(HttpToolsProtocol):
    """A connection with a time and a length for each head.

    The first head must be complete within `head_timeout_s`, a later one within twice that from its
    first byte.
    """

    def __init__(
        self, *args: Any, head_bytes_max: int, head_timeout_s: float, **options: Any
    ) -> None:
        """Prepare a connection.

        Args:
            *args: Of uvicorn.
            head_bytes_max: Bytes of a head that is not complete yet, besides those which arrived
                with its first byte; a complete one is measured as a request.
            head_timeout_s: How often the connection is looked at.
            **options: Of uvicorn.
        """
        super().__init__(*args, **options)
        self._head_bytes_max = head_bytes_max
        self._head_timeout_s = head_timeout_s
        self._unparsed = 0  # bytes since the last part of a request that was complete
        self._heads = 0
        self._awaited: int | None = 0  # a new connection waits for its first head
        self._look: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Begin to look at the connection."""
        super().connection_made(transport)
        self._look_later()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop looking at the connection."""
        if self._look is not None:
            self._look.cancel()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        """Parse what arrived, and refuse a head that is too large; so are trailers of a body."""
        self._unparsed += len(data)
        super().data_received(data)
        if len(self.pipeline) > _PIPELINED_MAX:
            self.transport.abort()  # what is written is not read, so closing could take for ever
        elif self._unparsed > self._head_bytes_max and not self.transport.is_closing():
            if self._is_between_requests():
                self.transport.write(_REFUSAL)
            self.transport.close()

    def on_message_begin(self) -> None:
        """Count from here."""
        self._unparsed = 0
        super().on_message_begin()

    def on_headers_complete(self) -> None:
        """Count from here; the head is measured by the application."""
        self._unparsed = 0
        self._heads += 1
        super().on_headers_complete()

    def on_body(self, body: bytes) -> None:
        """Count from here; the application bounds bodies."""
        self._unparsed = 0
        super().on_body(body)

    def _is_between_requests(self) -> bool:
        return self.cycle is None or self.cycle.response_complete

    def _look_later(self) -> None:
        self._look = self.loop.call_later(self._head_timeout_s, self._end_if_stalled)

    def _end_if_stalled(self) -> None:
        """End a connection that still waits for the head that it waited for at the last look."""
        # After an answer uvicorn has a timer of its own, until the next byte arrives.
        is_timed = self.timeout_keep_alive_task is not None
        awaited = self._heads if self._is_between_requests() and not is_timed else None
        if awaited is not None and awaited == self._awaited:
            self.transport.abort()
            return
        self._awaited = awaited
        self._look_later()
