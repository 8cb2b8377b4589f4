"""The taps on one connection of the `websockets` library: what goes over it is seen, as it is.

The application's `send` is gated, and a response that it begins is noted in the moment in which the
library writes it, so that the order of what was asked for is the order of the wire, however many
threads or tasks send: no lock of ours is held over the library's. What arrives is read when the
library takes it off the wire, whoever receives it later, in whole or in pieces. A connection ends
when the library says so, whether somebody is receiving or not.

A message of the server is never kept from the application. A response that the server begins by
itself and a limit refuses is cancelled at once; the refusal comes out of the `recv` after the one
that has told of it.
"""

from __future__ import annotations

import json
import threading
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from functools import partial
from typing import Any, TypeVar

from paygent.client.context.identity import Identity
from paygent.client.instrument.http_sdks.wrapper import meter_or_say
from paygent.client.instrument.patching.patches import Switch
from paygent.client.instrument.realtime.conversation import Conversation, Outgoing
from paygent.client.metering.call import Call, Wait
from paygent.client.metering.meter import Meter
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics, isolate, isolate_async

_T = TypeVar("_T")

_TEXT, _BINARY, _CONTINUED = 1, 2, 0  # opcodes of data (RFC 6455)
_PIECES_BYTES_MAX = 2**26  # of one message; longer ones are none that tell a use
CANCEL_ID = "paygent_cancel"
"""`event_id` of the events with which responses are cancelled that nobody of the application began:
an error that names it (there was nothing left to cancel) is about ours.
"""


class ConnectionState:
    """What stays of a connection when an SDK opens it again.

    Attributes:
        identity: Whose it is: of the moment in which it was first opened.
        is_open: Whether it has been open.
        refusal: What an SDK has swallowed, for the next who sends or receives.
    """

    def __init__(self, identity: Identity | None) -> None:
        self.identity = identity
        self.is_open = False
        self.refusal: PaygentLimitExceeded | None = None

    def raise_refusal(self) -> None:
        """Raise what was swallowed, once."""
        refusal, self.refusal = self.refusal, None
        if refusal is not None:
            raise refusal


is_flushing: ContextVar[bool] = ContextVar("paygent_is_flushing", default=False)
"""Whether an SDK sends here what it has queued, and swallows what we raise."""


class _Writing:
    """A response whose `response.create` the library is about to write."""

    __slots__ = ("call", "is_begun", "meter", "outgoing", "taps")

    def __init__(self, taps: _Taps, call: Call, meter: Meter, outgoing: Outgoing) -> None:
        self.taps = taps
        self.call = call
        self.meter = meter
        self.outgoing = outgoing
        self.is_begun = False

    def begin(self) -> None:
        """Note that it is being written."""
        self.is_begun = True
        attempt("socket", self.taps.conversation.begun, self.call, self.meter, self.outgoing.sent)

    def take_back(self) -> None:
        """Note that nothing of it was written."""
        self.is_begun = False
        attempt("socket", self.taps.conversation.not_sent, self.call)

    def left(self, *, is_sent: bool) -> None:
        """End it where `send` was left before anything of it was written. If something was, the
        provider may answer: it ends with the answer, or with the connection.

        Args:
            is_sent: Whether the library says so. If it was not seen writing, its answer counts all
                the same, on whose connection it is.
        """
        if self.is_begun:
            return
        self.meter.void(self.call, "never written")
        if is_sent:
            diagnostics.warn_once(
                "socket_unseen",
                "this version of websockets writes in a way that is not known; responses over"
                " sockets count on the user who has connected",
            )


_writing: ContextVar[_Writing | None] = ContextVar("paygent_writing", default=None)


def ask_blocking(ask: Callable[[], _T | Wait | None]) -> _T | None:
    """Ask the meter, and wait where it says so."""
    found = attempt("begin", ask)
    while isinstance(found, Wait):
        found.block()
        found = attempt("begin", ask)
    return found


async def ask_awaiting(ask: Callable[[], _T | Wait | None]) -> _T | None:
    """Ask the meter, and await what it says."""
    found = attempt("begin", ask)
    while isinstance(found, Wait):
        await found
        found = attempt("begin", ask)
    return found


_tapped: weakref.WeakSet[Any] = weakref.WeakSet()


def is_tapped(connection: Any) -> bool:
    """Tell whether a connection has its taps: a second pair would count everything twice."""
    return connection in _tapped


class _Taps:
    """Stand in the place of some methods of a connection, on this one object."""

    ending = ""
    """The method of the connection that the library calls when it is gone."""

    def __init__(
        self, connection: Any, conversation: Conversation, line: ConnectionState, switch: Switch
    ) -> None:
        self.conversation = conversation
        self._line = line
        self._switch = switch
        self._refusal: PaygentLimitExceeded | None = None
        self._refused_at = self._arrivals = self._received = 0  # messages, counted
        self._pieces: list[bytes] = []
        self._pieces_bytes = 0
        self._connection = connection
        self._send = connection.send
        self._recv = connection.recv
        self._recv_streaming = connection.recv_streaming
        self._process_event = connection.process_event
        self._ending = getattr(connection, self.ending)
        protocol = connection.protocol
        protocol.send_text = self._writer(protocol.send_text)
        protocol.send_binary = self._writer(protocol.send_binary)
        connection.send, connection.recv = self.send, self.recv
        connection.recv_streaming = self.recv_streaming
        connection.process_event = self.process_event
        setattr(connection, self.ending, self.ended)
        _tapped.add(connection)

    send: Any
    recv: Any

    def recv_streaming(self, *args: Any, **kwargs: Any) -> Any:
        """Return the library's own iterator over the pieces of the next message."""
        self._raise_refusal()
        self._received += 1
        return self._recv_streaming(*args, **kwargs)

    def process_event(self, event: Any, *args: Any) -> Any:
        """Read what has arrived before anybody can receive it, and pass it on."""
        attempt("socket", self._arrived, event)
        return self._process_event(event, *args)

    def ended(self, *args: Any) -> Any:
        """Let the library end the connection, and end what was under way."""
        try:
            return self._ending(*args)
        finally:
            attempt("settle", self.conversation.ended)

    # -- what is sent

    def _outgoing(self, message: Any) -> tuple[Outgoing | None, Meter | None]:
        """Return what a message means and the meter it goes through; None for most."""
        if not self._switch.is_on:
            return None, None
        outgoing = attempt("socket", self.conversation.outgoing, message)
        if outgoing is None:
            return None, None
        self._line.raise_refusal()
        return outgoing, meter_or_say()

    def _gate(self, outgoing: Outgoing, meter: Meter) -> Call | Wait | None:
        """Gate a message; one that begins no response is only looked at: who is not known yet may
        speak.
        """
        try:
            return (meter.begin if outgoing.begins else meter.check)(outgoing.request)
        except PaygentLimitExceeded as error:
            if is_flushing.get():
                self._line.refusal = error
            raise

    def _writer(self, original: Callable[..., None]) -> Callable[..., None]:
        """Return what writes a message, and notes the response that it begins."""

        def write(*args: Any, **kwargs: Any) -> None:
            writing = _writing.get()
            if writing is None or writing.taps is not self or writing.is_begun:
                return original(*args, **kwargs)
            writing.begin()
            try:
                return original(*args, **kwargs)
            except BaseException:  # the library refuses to write in this state of the connection
                writing.take_back()
                raise

        return write

    # -- what arrives

    def _arrived(self, event: Any) -> None:
        """Put a message together and read it; what is no piece of data is none of ours."""
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
        refused = self.conversation.incoming(data) if data else None
        if refused is not None:
            self._refusal, self._refused_at = refused[0], self._arrivals
            cancel = {"type": "response.cancel", "event_id": CANCEL_ID}
            if refused[1] is not None:
                cancel["response_id"] = refused[1]
            self._send_later(json.dumps(cancel))

    def _send_later(self, message: str) -> None:
        raise NotImplementedError

    def _raise_refusal(self) -> None:
        """Raise what the application has not been told yet: of a response that the server has begun
        once it has received the message that says so.
        """
        if not self._switch.is_on:
            return
        self._line.raise_refusal()
        if self._refusal is not None and self._received >= self._refused_at:
            refusal, self._refusal = self._refusal, None
            raise refusal


class SyncTaps(_Taps):
    """On a connection of threads."""

    ending = "close_socket"

    def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message, unless a limit refuses what it begins."""
        outgoing, meter = self._outgoing(message)
        if outgoing is None or meter is None:
            return self._send(message, *args, **kwargs)
        call = ask_blocking(lambda: self._gate(outgoing, meter))
        if call is None:
            answer = self._send(message, *args, **kwargs)
            attempt("socket", self.conversation.spoken, outgoing.sent)
            return answer
        writing = _Writing(self, call, meter, outgoing)
        _writing.set(writing)
        is_sent = False
        try:
            answer = self._send(message, *args, **kwargs)
            is_sent = True
            return answer
        finally:
            _writing.set(None)
            attempt("settle", partial(writing.left, is_sent=is_sent))

    def recv(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a message, unless there is a refusal to be told."""
        self._raise_refusal()
        message = self._recv(*args, **kwargs)
        self._received += 1
        return message

    def _send_later(self, message: str) -> None:
        """Send a message of ours on a thread of its own: this one reads, and must not wait until
        the other side does.
        """
        threading.Thread(
            target=isolate, args=("socket", self._send_now, message), daemon=True
        ).start()

    def _send_now(self, message: str) -> None:
        from websockets.exceptions import ConnectionClosed  # imported already, with the connection

        with suppress(ConnectionClosed):  # nothing runs there any more
            self._send(message)


class AsyncTaps(_Taps):
    """On a connection of an event loop."""

    ending = "connection_lost"

    async def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message, unless a limit refuses what it begins."""
        outgoing, meter = self._outgoing(message)
        if outgoing is None or meter is None:
            return await self._send(message, *args, **kwargs)
        outgoing.request.is_async = True
        call = await ask_awaiting(lambda: self._gate(outgoing, meter))
        if call is None:
            answer = await self._send(message, *args, **kwargs)
            attempt("socket", self.conversation.spoken, outgoing.sent)
            return answer
        writing = _Writing(self, call, meter, outgoing)
        _writing.set(writing)
        is_sent = False
        try:
            answer = await self._send(message, *args, **kwargs)
            is_sent = True
            return answer
        finally:
            _writing.set(None)
            attempt("settle", partial(writing.left, is_sent=is_sent))

    async def recv(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a message, unless there is a refusal to be told."""
        self._raise_refusal()
        message = await self._recv(*args, **kwargs)
        self._received += 1
        return message

    def _send_later(self, message: str) -> None:
        """Send a message of ours in a task of its own: what arrives is read in a callback."""
        task = self._connection.loop.create_task(isolate_async("socket", self._send_now, message))
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)

    async def _send_now(self, message: str) -> None:
        from websockets.exceptions import ConnectionClosed  # as above

        with suppress(ConnectionClosed):
            await self._send(message)


_tasks: set[Any] = set()
"""Tasks under way: a loop keeps no reference to them."""
