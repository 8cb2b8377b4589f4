"""WebSockets to a provider: gated when they connect and before each response, metered from their
own events.

No HTTP request carries what goes over a socket, so the hook stands in the `websockets` library,
through which OpenAI's SDK, its agents and others connect. A connection to an address of the
Realtime or Responses API gets two taps, on `send` and `recv` of that one object; every other
connection is left as it is. What the taps see is read in `conversation.py`.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any
from urllib.parse import parse_qs

from paygent.call import Call, Wait
from paygent.failopen import attempt, failures, isolate_async
from paygent.instrument.conversation import Conversation, Outgoing, Refusal
from paygent.instrument.funnel import meter_or_say
from paygent.instrument.openai import is_known_host, provider_at
from paygent.instrument.patches import Patches
from paygent.meter import Meter

_NAMES_A_MODEL = ("model", "deployment", "call_id", "intent")
"""What the address of a Realtime connection has at least one of."""


class SocketHook:
    """Patches the connections of the `websockets` library; see `patches.Hook`."""

    def __init__(self, module: str, *, is_async: bool) -> None:
        """Name what is patched.

        Args:
            module: Where `ClientConnection` is.
            is_async: Whether it is awaited.
        """
        self.name = "websockets"
        self.module = module
        self._is_async = is_async

    def install(self, module: ModuleType, patches: Patches, *, arguments_only: bool) -> None:
        """Have connections tapped once they stand; see `patches.Hook`."""
        original = vars(module.ClientConnection)["handshake"]
        if not patches.is_ours(original) and not arguments_only:
            wrap = _wrap_async if self._is_async else _wrap_sync
            patches.put(module.ClientConnection, "handshake", wrap(original, patches))


HOOKS = (
    SocketHook("websockets.asyncio.client", is_async=True),
    SocketHook("websockets.sync.client", is_async=False),
)


def _wrap_sync(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return the sync handshake with a look at the limits before it and taps after it."""

    @functools.wraps(original)
    def handshake(connection: Any, *args: Any, **kwargs: Any) -> Any:
        conversation, meter = _conversation_on(connection, patches)
        if meter is not None:
            entry = conversation.entry()
            wait = attempt("begin", meter.look, entry)
            if wait is not None:
                wait.block()
                attempt("begin", meter.look, entry)
        answer = original(connection, *args, **kwargs)
        if meter is not None and conversation.is_metered:
            attempt("tap_socket", _SyncTaps, connection, conversation, patches)
        return answer

    return handshake


def _wrap_async(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return the async handshake with a look at the limits before it and taps after it."""

    @functools.wraps(original)
    async def handshake(connection: Any, *args: Any, **kwargs: Any) -> Any:
        conversation, meter = _conversation_on(connection, patches)
        if meter is not None:
            entry = conversation.entry()
            wait = attempt("begin", meter.look, entry)
            if wait is not None:
                await wait
                attempt("begin", meter.look, entry)
        answer = await original(connection, *args, **kwargs)
        if meter is not None and conversation.is_metered:
            attempt("tap_socket", _AsyncTaps, connection, conversation, patches)
        return answer

    return handshake


# -- which connections


def _conversation_on(connection: Any, patches: Patches) -> tuple[Any, Meter | None]:
    """Return the conversation that a connection will carry, and the meter it goes through; None for
    connections that are none of ours.
    """
    if not patches.switch.is_on:
        return None, None
    conversation = attempt("prepare", _read_address, connection)
    return conversation, meter_or_say() if conversation is not None else None


def _read_address(connection: Any) -> Conversation | None:
    protocol = connection.protocol
    uri = getattr(protocol, "uri", None) or protocol.wsuri
    host, path = str(uri.host).lower(), str(uri.path).rstrip("/")
    query = parse_qs(str(uri.query or ""))
    model = next((query[name][0] for name in ("model", "deployment") if name in query), "")
    is_known = is_known_host(host)
    if path.endswith("/realtime"):
        route = "realtime" if is_known or any(name in query for name in _NAMES_A_MODEL) else ""
    elif path.endswith("/responses"):
        route = "responses" if is_known or "/v1/" in path or "/openai/" in path else ""
    else:
        route = ""
        if "/v1/live" in path or "/v1/realtime/" in path:
            route = path[path.index("/v1/") + 4 :].partition("?")[0]
            failures.say(
                f"unmetered:openai:WS /{route}", "a connection to %s is not metered", f"/{route}"
            )
    if not route:
        return None
    return Conversation(provider_at(host), route, model, meter_or_say)


# -- the taps


class _Taps:
    """Stand in the place of a connection's `send`, `recv` and `close`, on this one object."""

    def __init__(self, connection: Any, conversation: Conversation, patches: Patches) -> None:
        self._send = connection.send
        self._recv = connection.recv
        self._close = connection.close
        self._conversation = conversation
        self._switch = patches.switch
        connection.send, connection.recv, connection.close = self.send, self.recv, self.close

    send: Any
    recv: Any
    close: Any

    def _outgoing(self, message: Any) -> tuple[Outgoing | None, Meter | None]:
        """Return what a message means and the meter it goes through; None for most."""
        if not self._switch.is_on:
            return None, None
        outgoing = attempt("socket", self._conversation.outgoing, message)
        return outgoing, meter_or_say() if outgoing is not None else None

    def _begin(self, outgoing: Outgoing, meter: Meter) -> Call | Wait | None:
        """Gate a message; a response that it begins is noted before it is sent, since its first
        event may be read before `send` returns.
        """
        if not outgoing.begins:
            attempt("begin", meter.look, outgoing.request)  # who is not known yet may speak
            return None
        call = attempt("begin", meter.begin, outgoing.request)
        if isinstance(call, Call):
            attempt("socket", self._conversation.begun, call, meter, outgoing.event)
        return call

    def _not_sent(self, call: Any, meter: Meter, error: BaseException) -> None:
        """End a response whose `response.create` could not be sent."""
        if not isinstance(call, Call):
            return
        self._conversation.not_sent(call)
        if isinstance(error, Exception):
            meter.void(call, "never sent")
        else:
            meter.settle(call, None)  # interrupted: it may have left

    def _broke_off(self, error: Exception) -> None:
        """End what is under way, if that is what a failed `recv` means."""
        if any(base.__name__ == "ConnectionClosed" for base in type(error).__mro__):
            attempt("settle", self._conversation.ended)

    def _received(self, message: Any) -> Refusal | None:
        return attempt("socket", self._conversation.incoming, message)


class _SyncTaps(_Taps):
    def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message, unless a limit refuses what it begins."""
        outgoing, meter = self._outgoing(message)
        if outgoing is None or meter is None:
            return self._send(message, *args, **kwargs)
        call = self._begin(outgoing, meter)
        while isinstance(call, Wait):
            call.block()
            call = self._begin(outgoing, meter)
        try:
            return self._send(message, *args, **kwargs)
        except BaseException as error:
            attempt("settle", self._not_sent, call, meter, error)
            raise

    def recv(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a message; one that begins what a limit refuses is answered with its end."""
        try:
            message = self._recv(*args, **kwargs)
        except Exception as error:
            self._broke_off(error)
            raise
        refusal = self._received(message)
        if refusal is not None:
            attempt("socket", self._send, refusal.cancel)
            raise refusal.error
        return message

    def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the connection and end what was under way."""
        try:
            return self._close(*args, **kwargs)
        finally:
            attempt("settle", self._conversation.ended)


class _AsyncTaps(_Taps):
    async def send(self, message: Any, *args: Any, **kwargs: Any) -> Any:
        """Send a message, unless a limit refuses what it begins."""
        outgoing, meter = self._outgoing(message)
        if outgoing is None or meter is None:
            return await self._send(message, *args, **kwargs)
        outgoing.request.is_async = True
        call = self._begin(outgoing, meter)
        while isinstance(call, Wait):
            await call
            call = self._begin(outgoing, meter)
        try:
            return await self._send(message, *args, **kwargs)
        except BaseException as error:
            attempt("settle", self._not_sent, call, meter, error)
            raise

    async def recv(self, *args: Any, **kwargs: Any) -> Any:
        """Receive a message; one that begins what a limit refuses is answered with its end."""
        try:
            message = await self._recv(*args, **kwargs)
        except Exception as error:
            self._broke_off(error)
            raise
        refusal = self._received(message)
        if refusal is not None:
            await isolate_async("socket", self._send, refusal.cancel)
            raise refusal.error
        return message

    async def close(self, *args: Any, **kwargs: Any) -> Any:
        """Close the connection and end what was under way."""
        try:
            return await self._close(*args, **kwargs)
        finally:
            attempt("settle", self._conversation.ended)
