"""WebSockets to a provider: checked when they connect and before each response, metered from their
own events.

What goes over a socket is in no HTTP request, so the hook is in the handshake of the `websockets`
library, through which OpenAI's SDK, its agents and others connect. Which connections are a
provider's is decided by the address, and by the opener:

| connection | effect |
|---|---|
| opened by OpenAI's SDK (`sdk_hook.py`), wherever it leads | checked when it connects, tapped |
| to a known host, at an address that is metered | the same |
| to a known host, at another address | logged |
| to another host, at an address of the same ending | tapped; passes until it requests a response |
| every other | left alone |

The taps (`connection.py`) see what goes over it, and `conversation.py` reads that.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from paygent.client.context.scopes import current_identity
from paygent.client.instrument.http_sdks.route import route_name
from paygent.client.instrument.http_sdks.wrapper import meter_or_warn
from paygent.client.instrument.openai.routes import provider_name_at
from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.client.instrument.realtime import sdk_hook
from paygent.client.instrument.realtime.connection import (
    AsyncTaps,
    SyncTaps,
    ask_awaiting,
    ask_blocking,
    is_tapped,
)
from paygent.client.instrument.realtime.conversation import Conversation
from paygent.client.instrument.realtime.sdk_hook import Opening
from paygent.client.instrument.realtime.session import ConnectionState, Destination
from paygent.client.metering.meter import Meter
from paygent.core.providers import provider_at
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt, diagnostics


class SocketHook(Hook):
    """Patches the connections of the `websockets` library; see `patches.Hook`."""

    def __init__(self, module: str, *, is_async: bool) -> None:
        """Create the hook.

        Args:
            module: Of `ClientConnection`.
            is_async: Whether its handshake is awaited.
        """
        self.name = "websockets"
        self.module = module
        self._is_async = is_async

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Tap connections before their handshake; see `patches.Hook`."""
        original = vars(module.ClientConnection)["handshake"]
        if not patches.is_ours(original):
            wrap = _wrap_async if self._is_async else _wrap_sync
            patches.put(module.ClientConnection, "handshake", wrap(original, patches))


class UntappedHook(Hook):
    """Logs connections to a provider through parts of the library that have no taps."""

    def __init__(self, module: str, class_name: str) -> None:
        """Create the hook.

        Args:
            module: Of the class of connections.
            class_name: Of that class.
        """
        self.name = self.module = module
        self._class_name = class_name

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Watch the connections that are made from now on; see `patches.Hook`."""
        owner = getattr(module, self._class_name)
        original = vars(owner)["handshake"]
        if patches.is_ours(original):
            return

        @functools.wraps(original)
        async def handshake(connection: Any, *args: Any, **kwargs: Any) -> Any:
            if patches.switch.is_on:
                # The old implementation is given the address, the others have it.
                uri = args[0] if args else kwargs.get("wsuri")
                attempt("prepare", self._report, connection if uri is None else uri)
            return await original(connection, *args, **kwargs)

        patches.put(owner, "handshake", handshake)

    def _report(self, connection: Any) -> None:
        address = _address(connection)
        if _is_provider(address.host):
            diagnostics.warn_once(
                f"unmetered:{self.module}",
                "a connection through %s is neither metered nor limited; use websockets.asyncio",
                self.module,
            )


HOOKS: tuple[Hook, ...] = (
    SocketHook("websockets.asyncio.client", is_async=True),
    SocketHook("websockets.sync.client", is_async=False),
    UntappedHook("websockets.legacy.client", "WebSocketClientProtocol"),
    UntappedHook("websockets.trio.client", "ClientConnection"),
    *sdk_hook.HOOKS,
)


def _wrap_sync(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return the sync handshake with a check of the limits before it, and taps."""

    @functools.wraps(original)
    def handshake(connection: Any, *args: Any, **kwargs: Any) -> Any:
        entry = attempt("prepare", _entry, connection, SyncTaps, patches)
        if entry is not None:
            ask_blocking(entry.check)
        answer = original(connection, *args, **kwargs)
        if entry is not None:
            entry.state.is_open = True
        return answer

    return handshake


def _wrap_async(original: Callable[..., Any], patches: Patches) -> Callable[..., Any]:
    """Return the async handshake with a check of the limits before it, and taps."""

    @functools.wraps(original)
    async def handshake(connection: Any, *args: Any, **kwargs: Any) -> Any:
        entry = attempt("prepare", _entry, connection, AsyncTaps, patches)
        if entry is not None:
            await ask_awaiting(entry.check)
        answer = await original(connection, *args, **kwargs)
        if entry is not None:
            entry.state.is_open = True
        return answer

    return handshake


# -- checked when it connects


class _Entry:
    """A connection that is checked before its handshake."""

    def __init__(self, conversation: Conversation, state: ConnectionState, meter: Meter) -> None:
        self._request = conversation.connect_request()
        self.state = state
        self._meter = meter

    def check(self) -> Any:
        """Refuse a user beyond a limit. An SDK that reconnects would swallow that, so there the
        next `recv` or `send` raises it.
        """
        try:
            return self._meter.check(self._request)
        except PaygentLimitExceeded as error:
            if not self.state.is_open:
                raise
            self.state.refusal = error
            return None


def _entry(connection: Any, taps: Any, patches: Patches) -> _Entry | None:
    """Tap a connection if it is a provider's; return what is checked before its handshake.

    A connection without a user (one for all users, opened when the application starts) is not
    checked: each of its responses has a user of its own. Nor is one that is tapped already: where
    another library has wrapped the handshake, our hook may be on both sides of it.
    """
    if not patches.switch.is_on or is_tapped(connection):
        return None
    opening = sdk_hook.opening()
    destination = _destination(_address(connection), opening)
    if destination is None:
        return None
    meter = meter_or_warn()
    if meter is None:
        return None
    state = opening.state if opening is not None else ConnectionState(current_identity())

    # A connection may outlive `uninstrument` and `shutdown`, so it asks each time.
    def meter_now() -> Meter | None:
        return meter_or_warn() if patches.switch.is_on else None

    conversation = Conversation(destination, state.identity, meter_now)
    taps(connection, conversation, state, patches.switch)
    if not destination.is_ours or state.identity is None or state.identity.user_id is None:
        return None
    return _Entry(conversation, state, meter)


# -- which connections


class _Address(NamedTuple):
    host: str
    path: str
    query: dict[str, list[str]]


def _address(connection: Any) -> _Address:
    """Return where a connection leads; also accepts a parsed address."""
    protocol = getattr(connection, "protocol", None)
    uri = connection
    if protocol is not None:
        uri = getattr(protocol, "uri", None) or protocol.wsuri  # the name of older versions
    return _Address(
        str(uri.host).lower(), str(uri.path).rstrip("/"), parse_qs(str(uri.query or ""))
    )


def _destination(address: _Address, opening: Opening | None) -> Destination | None:
    """Return the destination of a connection, or None for one that is left alone."""
    host, path, query = address
    # The SDK may be pointed at a gateway, so the opener counts more than the host.
    is_ours = opening is not None or _is_provider(host)
    route = _route_of(path) or (opening.route if opening is not None else "")
    provider = provider_name_at(host)
    # Only these two announce themselves by a `response.create` in the provider's format.
    if not route or not (is_ours or route in ("realtime", "responses")):
        if is_ours:
            name = route_name("WS", path)
            diagnostics.warn_once(
                f"unmetered:{provider}:{name}", "a connection to %s is not metered", name
            )
        return None
    models = [query[name][0] for name in ("model", "deployment") if name in query]
    joined = query["call_id"][0] if "call_id" in query else _live_session_of(path)
    # Call ids are unique per provider only, ids of Live sessions in general.
    shared = f"{host}:{joined}" if joined and route == "realtime" else joined
    return Destination(provider, route, models[0] if models else "", is_ours, shared)


def _is_provider(host: str) -> bool:
    """Return whether sockets to a host go to models. Hosts of AWS serve much else as well."""
    provider = provider_at(host)
    return provider is not None and (provider.name != "aws" or "bedrock" in host)


def _route_of(path: str) -> str:
    """Return the metered operation of an address, or ""."""
    if path.endswith("/realtime/translations"):
        return "translations"
    if path.endswith(("/realtime", "/responses")):
        return path.rpartition("/")[2]
    return "live" if path.endswith("/live") or "/live/sessions" in path else ""


def _live_session_of(path: str) -> str:
    """Return the Live session that an address joins, or ""."""
    joined, _, action = path.partition("/live/sessions/")[2].partition("/")
    return joined if action == "attach" else ""
