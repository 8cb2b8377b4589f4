"""WebSockets to a provider: checked when they connect, tapped, and metered from their own events.

What goes over a socket is in no HTTP request, so the hook is in the handshake of the `websockets`
library, through which OpenAI's SDK, its agents and others connect. The address and the opener
decide which connections are a provider's:

| connection | effect |
|---|---|
| opened by OpenAI's SDK (`sdk_hook.py`), wherever it leads | checked when it connects, tapped |
| to a known host, at an address that is metered | the same |
| to a known host, at another address | logged, or refused (`on_unmetered`) |
| to a gateway for APIs of any kind (Azure API Management), at another address | left alone |
| to another host, at an address of the same ending | tapped; passes until it requests a response |
| every other | left alone |
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable
from types import ModuleType
from typing import Any, NamedTuple
from urllib.parse import parse_qs

from paygent.client.context.scopes import current_identity
from paygent.client.instrument.http_sdks.layers import is_admitted
from paygent.client.instrument.http_sdks.route import path_pattern, route_name
from paygent.client.instrument.http_sdks.wrapper import meter_or_warn
from paygent.client.instrument.openai.routes import provider_name_at
from paygent.client.instrument.patching.patches import Hook, Patches
from paygent.client.instrument.realtime import sdk_hook
from paygent.client.instrument.realtime.connection import AsyncTaps, SyncTaps
from paygent.client.instrument.realtime.conversation import Conversation
from paygent.client.instrument.realtime.sdk_hook import Opening
from paygent.client.instrument.realtime.session import ConnectionState, Destination
from paygent.client.metering.call import Request
from paygent.client.metering.meter import Meter
from paygent.client.metering.wait import Wait, ask_awaiting, ask_blocking
from paygent.core.notices import Notice
from paygent.core.providers import is_shared, provider_at
from paygent.errors import PaygentLimitExceeded
from paygent.failopen import attempt


class SocketHook(Hook):
    """Patches the connections of the `websockets` library; see `patches.Hook`."""

    name = "websockets"

    def __init__(self, module: str, taps: type[AsyncTaps] | type[SyncTaps]) -> None:
        self.module = module
        self._taps = taps

    def install(self, module: ModuleType, patches: Patches) -> None:
        """Tap connections before their handshake; see `patches.Hook`."""
        original = vars(module.ClientConnection)["handshake"]
        if not patches.is_ours(original):
            wrapper = _wrap(original, self._taps, patches)
            patches.put(module.ClientConnection, "handshake", wrapper)


class UntappedHook(Hook):
    """Logs or refuses connections to a provider through parts of the library that have no taps."""

    def __init__(self, module: str, class_name: str) -> None:
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
                attempt("prepare", self._admit, connection, uri)
            return await original(connection, *args, **kwargs)

        patches.put(owner, "handshake", handshake)

    def _admit(self, connection: Any, uri: Any) -> None:
        address = _address(connection if uri is None else uri)
        if not _is_seen(connection) and _is_provider(address):
            _admit(Notice.UNMETERED_SOCKET_LIBRARY, self.module, operation=self.module)


HOOKS: tuple[Hook, ...] = (
    SocketHook("websockets.asyncio.client", AsyncTaps),
    SocketHook("websockets.sync.client", SyncTaps),
    UntappedHook("websockets.legacy.client", "WebSocketClientProtocol"),
    UntappedHook("websockets.trio.client", "ClientConnection"),
    *sdk_hook.HOOKS,
)


def _wrap(original: Callable[..., Any], taps: Any, patches: Patches) -> Callable[..., Any]:
    """Return the handshake of a connection with a check of the limits before it, and taps."""

    @functools.wraps(original)
    async def handshake_async(connection: Any, *args: Any, **kwargs: Any) -> Any:
        check = attempt("prepare", _tap, connection, taps, patches)
        if check is not None:
            await ask_awaiting(check)
        return await original(connection, *args, **kwargs)

    @functools.wraps(original)
    def handshake(connection: Any, *args: Any, **kwargs: Any) -> Any:
        check = attempt("prepare", _tap, connection, taps, patches)
        if check is not None:
            ask_blocking(check)
        return original(connection, *args, **kwargs)

    return handshake_async if taps is AsyncTaps else handshake


def _admit(notice: Notice, name: str, *, operation: str) -> None:
    """Apply the policy for unmetered calls to a connection."""
    meter = meter_or_warn()
    if meter is not None and not is_admitted():
        meter.unmetered.admit(notice, name, operation=operation)


def _is_seen(connection: Any) -> bool:
    """Return whether a connection has been here: where another library has wrapped the handshake,
    our hook may be on both sides of it.
    """
    is_seen = hasattr(connection, "paygent_taps")
    if not is_seen:
        connection.paygent_taps = None  # the taps, once it has some
    return is_seen


# -- checked when it connects


def _tap(connection: Any, taps: Any, patches: Patches) -> Callable[[], Wait | None] | None:
    """Tap a connection if it is a provider's; return the check before its handshake, if any."""
    if not patches.switch.is_on or _is_seen(connection):
        return None
    opening = sdk_hook.opening.get()
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
    # Each response of a connection for all users, opened at the start, has a user of its own.
    if not destination.is_provider or state.identity is None or state.identity.user_id is None:
        return None
    return functools.partial(_check, meter, conversation.connect_request(), state)


def _check(meter: Meter, request: Request, state: ConnectionState) -> Wait | None:
    """Refuse a user beyond a limit. An SDK that reconnects would swallow that, so there the next
    `recv` or `send` raises it.
    """
    try:
        wait = meter.check(request)
    except PaygentLimitExceeded as error:
        if not state.was_admitted:
            raise
        state.refusal = error
        return None
    state.was_admitted = state.was_admitted or wait is None
    return wait


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
    query = parse_qs(str(uri.query or ""))
    return _Address(str(uri.host).lower(), str(uri.path).rstrip("/"), query)


def _destination(address: _Address, opening: Opening | None) -> Destination | None:
    """Return the destination of a connection, or None for one that is left alone."""
    host, path, query = address
    # The SDK may be pointed at a gateway, so the opener counts more than the host.
    is_provider = opening is not None or _is_provider(address)
    route = _route_of(path) or (opening.route if opening is not None else "")
    provider = provider_name_at(host)
    # Only these two announce themselves by a `response.create` in the provider's format.
    if not route or not (is_provider or route in ("realtime", "responses")):
        if is_provider:
            name = route_name("WS", path)
            _admit(Notice.UNMETERED_CONNECTION, name, operation=f"{provider}:{name}")
        return None
    models = [query[name][0] for name in ("model", "deployment") if name in query]
    joined = query["call_id"][0] if "call_id" in query else _live_session_of(path)
    # Call ids are unique per provider only, ids of Live sessions in general.
    shared = f"{host}:{joined}" if joined and route == "realtime" else joined
    return Destination(provider, route, models[0] if models else "", is_provider, shared)


def _is_provider(address: _Address) -> bool:
    """Return whether sockets to an address go to models. Hosts of AWS serve much else as well, and
    a shared gateway the application's own APIs: of those, what is not metered is left alone.
    """
    provider = provider_at(address.host)
    if provider is None or (provider.name == "aws" and "bedrock" not in address.host):
        return False
    return bool(_route_of(address.path)) or not is_shared(address.host)


METERED = {
    "/realtime": "realtime",
    "/realtime/translations": "translations",
    "/responses": "responses",
    "/live": "live",
    "/live/sessions": "live",
    "/live/sessions/{}/attach": "live",
    "/live/sessions/{}/fork": "live",
}
"""Routes by the endings of addresses, with "{}" for a segment that varies."""

_ENDINGS = tuple((re.compile(f"{path_pattern(path)}$"), route) for path, route in METERED.items())


def _route_of(path: str) -> str:
    """Return the metered operation of an address, or ""."""
    return next((route for ending, route in _ENDINGS if ending.search(path)), "")


def _live_session_of(path: str) -> str:
    """Return the Live session that an address joins, or ""."""
    joined, _, action = path.partition("/live/sessions/")[2].partition("/")
    return joined if action == "attach" else ""
