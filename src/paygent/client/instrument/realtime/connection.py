"""Taps on one `websockets` connection: they gate what is sent and read what arrives.

The application's `send` is gated, and a response that it begins is recorded when the library writes
it: in the order of the wire, with none of our locks held over the library's. What arrives is read
when the library takes it off the wire, and is never withheld. A response that the server begins by
itself and a limit refuses is cancelled at once; the refusal is raised by the `recv` after the one
that returned its beginning.
"""

from __future__ import annotations

import json
import threading
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from dataclasses import dataclass
from functools import partial
from typing import Any

from paygent.client.instrument.http_sdks.wrapper import meter_or_warn
from paygent.client.instrument.patching.patches import Switch
from paygent.client.instrument.realtime.conversation import Conversation, Outgoing
from paygent.client.instrument.realtime.session import ConnectionState
from paygent.client.metering.call import Call
from paygent.client.metering.meter import Meter
from paygent.client.metering.wait import Wait, ask_awaiting, ask_blocking
from paygent.core.notices import Notice
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics, guard

_TEXT, _BINARY, _CONTINUED = 1, 2, 0  # opcodes of data (RFC 6455)
_PIECES_BYTES_MAX = 2**26  # of one message; no event that reports usage is longer
CANCEL_ID = "paygent_cancel"
"""`event_id` of the events that cancel responses which the application did not request: an error
that names it (there was nothing left to cancel) is caused by Paygent.
"""

is_flushing: ContextVar[bool] = ContextVar("paygent_is_flushing", default=False)
"""Whether an SDK is sending its queue here, which swallows what we raise."""


@dataclass(slots=True, eq=False)
class _Sending:
    """One gated `send`, entered around the library's own. Where it is left before the library has
    written its `response.create`, the call is void; from then on the provider may answer, and the
    call ends with the answer or with the connection.
    """

    taps: _Taps
    _meter: Meter
    _outgoing: Outgoing
    _call: Call | None = None  # None for a message that begins no response
    is_begun: bool = False

    def gate(self) -> Wait | None:
        """Gate the message. One that begins no response is only checked: a user without an account
        may send audio.
        """
        try:
            if not self._outgoing.begins:
                return self._meter.check(self._outgoing.request)
            call = self._meter.begin(self._outgoing.request)
        except PaygentLimitExceeded as error:
            if is_flushing.get():
                self.taps.state.refusal = error
            raise
        if isinstance(call, Wait):
            return call
        self._call = call
        return None

    def begin(self) -> None:
        """Record that the response is being written."""
        self.is_begun = True
        record = self.taps.conversation.record_begin
        attempt("socket", record, self._call, self._meter, self._outgoing.sent)

    def withdraw(self) -> None:
        """Record that nothing of it was written."""
        self.is_begun = False
        attempt("socket", self.taps.conversation.responses.withdraw, self._call)

    def __enter__(self) -> None:
        if self._call is not None:
            _sending.set(self)

    def __exit__(self, kind: object, *_: object) -> None:
        if self._call is not None:
            _sending.set(None)
            if not self.is_begun:  # perhaps a finalizer closes an async `send`
                leave = partial(attempt, "settle", self._leave, self._call, kind is None)
                self._meter.deferred_ends.run_or_defer(leave)
        elif kind is None:
            attempt("socket", self.taps.conversation.record_audio, self._outgoing.sent)

    def _leave(self, call: Call, is_sent: bool) -> None:
        self._meter.void(call, "never written")
        if is_sent:  # the answer counts all the same, for the user of the connection
            diagnostics.warn_once(Notice.SOCKET_WRITES_UNSEEN)


_sending: ContextVar[_Sending | None] = ContextVar("paygent_sending", default=None)


class _Taps:
    """Replace some methods of a connection, on this one object."""

    end_method = ""  # the method of the connection that the library calls when it is gone
    is_async = False

    def __init__(
        self, connection: Any, conversation: Conversation, state: ConnectionState, switch: Switch
    ) -> None:
        self.conversation = conversation
        self.state = state
        self._switch = switch
        self._refusal: PaygentLimitExceeded | None = None
        self._refused_at = self._arrivals = self._received = 0  # numbers of messages
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._connection = connection
        self._send = connection.send
        self._recv = connection.recv
        self._recv_streaming = connection.recv_streaming
        self._process_event = connection.process_event
        self._end = getattr(connection, self.end_method)
        protocol = connection.protocol
        protocol.send_text = self._wrap_writer(protocol.send_text)
        protocol.send_binary = self._wrap_writer(protocol.send_binary)
        connection.send, connection.recv = self.send, self.recv
        connection.recv_streaming = self.recv_streaming
        connection.process_event = self.process_event
        setattr(connection, self.end_method, self.end)
        connection.paygent_taps = self

    send: Any
    recv: Any

    def recv_streaming(self, *args: Any, **kwargs: Any) -> Any:
        """Return the library's own iterator over the pieces of the next message."""
        self._raise_refusal()
        self._received += 1
        return self._recv_streaming(*args, **kwargs)

    def process_event(self, event: Any, *args: Any) -> Any:
        """Read what has arrived before it can be received, and pass it on."""
        attempt("socket", self._read_frame, event)
        return self._process_event(event, *args)

    def end(self, *args: Any) -> Any:
        """Let the library end the connection, and end the calls under way."""
        try:
            return self._end(*args)
        finally:
            attempt("settle", self.conversation.end)

    # -- outgoing messages

    def _read_outgoing(self, message: Any) -> _Sending | None:
        """Return the gate of a message; None for most."""
        if not self._switch.is_on:
            return None
        outgoing = attempt("socket", self.conversation.read_outgoing, message)
        if outgoing is None:
            return None
        self.state.raise_refusal()
        meter = meter_or_warn()
        outgoing.request.is_async = self.is_async
        return None if meter is None else _Sending(self, meter, outgoing)

    def _wrap_writer(self, original: Callable[..., None]) -> Callable[..., None]:
        """Return a writer that also records the response that its message begins."""

        def write(*args: Any, **kwargs: Any) -> None:
            sending = _sending.get()
            if sending is None or sending.taps is not self or sending.is_begun:
                return original(*args, **kwargs)
            sending.begin()
            try:
                return original(*args, **kwargs)
            except BaseException:  # the library refuses to write in this state of the connection
                sending.withdraw()
                raise

        return write

    # -- incoming messages

    def _read_frame(self, event: Any) -> None:
        """Assemble a message and read it; anything but a piece of data is ignored."""
        opcode = getattr(event, "opcode", None)
        if opcode not in (_TEXT, _BINARY, _CONTINUED):
            return
        if opcode != _CONTINUED:
            self._pieces, self._pieces_bytes = [], 0
        self._pieces_bytes += len(event.data)
        if self._pieces_bytes > _PIECES_BYTES_MAX:
            self._pieces = []
        else:
            self._pieces.append(bytes(event.data))
        if not event.fin:
            return
        data, self._pieces = b"".join(self._pieces), []
        self._arrivals += 1
        refused = self.conversation.read_incoming(data) if data else None
        if refused is not None:
            self._refusal, response_id = refused
            self._refused_at = self._arrivals
            self._cancel(response_id)

    def _cancel(self, response_id: str | None) -> None:
        cancel = {"type": "response.cancel", "event_id": CANCEL_ID}
        if response_id is not None:
            cancel["response_id"] = response_id
        self._send_later(json.dumps(cancel))

    def _send_later(self, message: str) -> None:
        raise NotImplementedError

    def _raise_refusal(self) -> None:
        """Raise a pending refusal: that of a response which the server has begun, once the
        application has received the message of its beginning.
        """
        if not self._switch.is_on:
            return
        self.state.raise_refusal()
        if self._refusal is not None and self._received >= self._refused_at:
            refusal, self._refusal = self._refusal, None
            raise refusal


class SyncTaps(_Taps):
    """On a connection of threads."""

    end_method = "close_socket"

    def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message, unless a limit refuses what it begins."""
        sending = self._read_outgoing(message)
        if sending is None:
            return self._send(message, *args, **kwargs)
        ask_blocking(sending.gate)
        with sending:
            return self._send(message, *args, **kwargs)

    def recv(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a message, unless a refusal is pending."""
        self._raise_refusal()
        message = self._recv(*args, **kwargs)
        self._received += 1
        return message

    def _send_later(self, message: str) -> None:
        # On a thread of its own: this one reads, and must not wait until the other side does.
        send = partial(attempt, "socket", self._send_now, message)
        threading.Thread(target=send, daemon=True).start()

    def _send_now(self, message: str) -> None:
        from websockets.exceptions import ConnectionClosed  # imported already, with the connection

        with suppress(ConnectionClosed):  # nothing is left to be cancelled
            self._send(message)


class AsyncTaps(_Taps):
    """On a connection of an event loop."""

    end_method = "connection_lost"
    is_async = True

    async def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message, unless a limit refuses what it begins."""
        sending = self._read_outgoing(message)
        if sending is None:
            return await self._send(message, *args, **kwargs)
        await ask_awaiting(sending.gate)
        with sending:
            return await self._send(message, *args, **kwargs)

    async def recv(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a message, unless a refusal is pending."""
        self._raise_refusal()
        message = await self._recv(*args, **kwargs)
        self._received += 1
        return message

    def _send_later(self, message: str) -> None:
        # In a task of its own: what arrives is read in a callback of the loop.
        task = self._connection.loop.create_task(self._send_now(message))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _send_now(self, message: str) -> None:
        from websockets.exceptions import ConnectionClosed  # as above

        with guard("socket"), suppress(ConnectionClosed):
            await self._send(message)


_tasks: set[Any] = set()  # tasks under way: a loop keeps no reference to them
