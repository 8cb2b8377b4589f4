"""The call: the one wrapper around a provider SDK's own `request`, sync and async.

Theory of operation
-------------------
Generated SDKs send everything through one method, `request`, outside their retry loop. A call is
gated and metered there, so that retries are one call and no operation is missed. An operation is
known by its path: *metered* ones are gated and metered, *free* ones pass, and the policy for
unmetered calls applies to all others.

Most calls are like one before them: `shortcut.py` begins and ends these. All others go the whole
way: `request.py` reads the request before the call, `outcome.py` ends the call.

The provider's answer is held in a local before any of our code runs on it, and is what the
application gets; so is the provider's exception. Our code that may fail runs inside `attempt`,
which lets only `PaygentLimitExceeded` through; the rest only reads and assigns. Sync and async
share every step (`shortcut`, `_Exchange`); only waiting and sending differ.
"""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Mapping
from contextvars import Token
from dataclasses import dataclass
from types import FunctionType, SimpleNamespace
from typing import Any

from paygent.client.accounts.user_state import Hold
from paygent.client.context.identity import CALL_ARGUMENTS, identity_of
from paygent.client.instrument.http_sdks.layers import (
    Gateway,
    InnerLayer,
    OpenRequest,
    inside,
    leave,
)
from paygent.client.instrument.http_sdks.outcome import end_answered, end_collected, end_failed
from paygent.client.instrument.http_sdks.request import (
    CARRIER_HEADER,
    Carrier,
    Prepared,
    ask_for_usage,
    find_route,
    host_of,
    prepare,
)
from paygent.client.instrument.http_sdks.route import Passing, Route, Sdk
from paygent.client.instrument.http_sdks.shortcut import (
    ask_for_stream_usage,
    begin,
    end,
    end_raised,
    remember,
)
from paygent.client.instrument.patching.patches import ALWAYS_ON, Switch, as_function
from paygent.client.metering.call import Call
from paygent.client.metering.meter import Meter
from paygent.client.metering.wait import Wait
from paygent.core.notices import Notice
from paygent.failopen import attempt, diagnostics

Wrapped = Callable[..., Any]

# Read at each call without a lock: assignments of module variables are atomic.
_active: Meter | None = None
_was_active = False


def set_active(meter: Meter | None) -> None:
    """Send calls through a meter from now on; None lets them pass."""
    global _active, _was_active
    _was_active = _was_active or meter is not None
    _active = meter


def active() -> Meter | None:
    """Return the meter that calls go through, or None."""
    return _active


def meter_or_warn() -> Meter | None:
    """Return the meter that calls go through, or None; after a shutdown that is logged once."""
    if _active is None and _was_active:
        diagnostics.warn_once(Notice.SHUT_DOWN)
    return _active


def note_unmetered(notice: Notice, *args: str, subject: str) -> None:
    """Count, and log unless `on_unmetered` ignores it, what can be noticed but not refused."""
    meter = _active
    note = diagnostics.warn_once if meter is None else meter.unmetered.note
    note(notice, *args, subject=subject)


# -- the wrappers


def wrap_sync(original: Wrapped, sdk: Sdk, switch: Switch = ALWAYS_ON) -> Wrapped:
    """Return the sync `request` of an SDK with gate and meter around it."""
    send = as_function(original)
    is_direct = _is_direct(original, sdk)

    @functools.wraps(original)
    def request(
        client: Any,
        cast_to: Any,
        options: Any,
        *args: Any,
        stream: Any = False,
        stream_cls: Any = None,
        **others: Any,
    ) -> Any:
        # A wrapper that could not be taken out stays here, with its switch off.
        meter = _active
        is_usual = switch.is_on and not args and not others
        if meter is None or not is_usual or inside.get() is not None:
            others |= {"stream": stream, "stream_cls": stream_cls}
            return whole_way(client, cast_to, options, *args, **others)
        hold, found, drops_chunk = Hold(), None, False  # before it begins: see `Hold`
        try:
            begun = begin(meter, hold, client, options, stream, False)
            if begun is not None:
                if stream:
                    drops_chunk = ask_for_stream_usage(begun, options)
                found = begun  # right before it is sent: from here on it may cost something
                answer = send(client, cast_to, options, stream=stream, stream_cls=stream_cls)
        except BaseException as error:
            attempt("settle", end_raised, meter, hold, found, error)
            raise
        if found is None:
            attempt("begin", end_raised, meter, hold, None, None)  # if its beginning has failed
            return whole_way(client, cast_to, options, stream=stream, stream_cls=stream_cls)
        try:
            if not end(meter, hold, found, answer, drops_chunk):
                attempt("settle", end_raised, meter, hold, found, None)
        except BaseException as error:
            attempt("settle", end_raised, meter, hold, found, error)
            raise
        return answer

    def whole_way(client: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _open(sdk, client, args, kwargs, whole_way) if switch.is_on else None
        if exchange is None:
            return send(client, *args, **kwargs)
        if not isinstance(exchange, _Exchange):
            with exchange:
                return send(client, *args, **kwargs)
        wait = exchange.begin()
        while wait is not None:
            wait.block()
            wait = exchange.begin()
        with exchange:
            answer = send(client, *args, **kwargs)
        exchange.end(answer, client if is_direct else None)
        return answer

    # What is not the SDK's own is called just as the application calls it.
    return request if is_direct else functools.wraps(original)(whole_way)


def wrap_async(original: Wrapped, sdk: Sdk, switch: Switch = ALWAYS_ON) -> Wrapped:
    """Return the async `request` of an SDK with gate and meter around it; see `wrap_sync`."""
    send = as_function(original)
    is_direct = _is_direct(original, sdk)

    @functools.wraps(original)
    async def request(
        client: Any,
        cast_to: Any,
        options: Any,
        *args: Any,
        stream: Any = False,
        stream_cls: Any = None,
        **others: Any,
    ) -> Any:
        meter = _active
        is_usual = switch.is_on and not args and not others
        if meter is None or not is_usual or inside.get() is not None:
            others |= {"stream": stream, "stream_cls": stream_cls}
            return await whole_way(client, cast_to, options, *args, **others)
        hold, found, drops_chunk = Hold(), None, False
        try:
            begun = begin(meter, hold, client, options, stream, True)
            if begun is not None:
                if stream:
                    drops_chunk = ask_for_stream_usage(begun, options)
                found = begun
                answer = await send(client, cast_to, options, stream=stream, stream_cls=stream_cls)
        except BaseException as error:
            ending = functools.partial(attempt, "settle", end_raised, meter, hold, found, error)
            meter.deferred_ends.run_or_defer(ending)  # perhaps a finalizer closes the coroutine
            raise
        if found is None:
            attempt("begin", end_raised, meter, hold, None, None)
            return await whole_way(client, cast_to, options, stream=stream, stream_cls=stream_cls)
        try:
            if not end(meter, hold, found, answer, drops_chunk):
                attempt("settle", end_raised, meter, hold, found, None)
        except BaseException as error:
            attempt("settle", end_raised, meter, hold, found, error)
            raise
        return answer

    async def whole_way(client: Any, *args: Any, **kwargs: Any) -> Any:
        exchange = _open(sdk, client, args, kwargs, whole_way) if switch.is_on else None
        if exchange is None:
            return await send(client, *args, **kwargs)
        if not isinstance(exchange, _Exchange):
            with exchange:
                return await send(client, *args, **kwargs)
        exchange._prepared.request.is_async = True  # it can wait for its turn on an event loop
        wait = exchange.begin()
        while wait is not None:
            await wait
            wait = exchange.begin()
        with exchange:
            answer = await send(client, *args, **kwargs)
        exchange.end(answer, client if is_direct else None)
        return answer

    # What is not the SDK's own is called just as the application calls it.
    return request if is_direct else functools.wraps(original)(whole_way)


def _is_direct(original: Wrapped, sdk: Sdk) -> bool:
    """Return whether a `request` is the SDK's own: no other wrapper of Paygent's is inside."""
    # By its globals: a wrapper has the name and module of what it wraps.
    is_function = isinstance(original, FunctionType)
    return is_function and original.__globals__.get("__name__") == sdk.base_module


def _open(
    sdk: Sdk, client: Any, args: tuple[Any, ...], kwargs: Mapping[str, Any], layer: Any
) -> _Exchange | OpenRequest | InnerLayer | None:
    """Return the exchange of a request that has reached our wrapper `layer`; the request alone for
    one that the policy for unmetered calls has let pass; the layer for one that is under way
    already; None for any other that passes, as after a shutdown.
    """
    meter = meter_or_warn()
    if meter is None:
        return None
    options = args[1] if len(args) > 1 else kwargs.get("options")
    enclosing = inside.get()
    if isinstance(enclosing, OpenRequest):
        if enclosing.includes(client, options, layer) and _is_part(enclosing, sdk, client, options):
            return InnerLayer(enclosing, layer)
    elif (
        enclosing is not None  # a gateway
        and enclosing.is_open
        and enclosing.in_front
        and attempt("gateway", enclosing.sends)
        and _is_part(enclosing, sdk, client, options)
    ):
        if enclosing.is_metered:
            attempt("stream_usage", _ask_for_gateway, sdk, client, options, kwargs)
        return None
    prepared = attempt("prepare", prepare, sdk, client, options, kwargs, meter.unmetered)
    if prepared is None or prepared is Passing.FREE:
        return None
    if isinstance(prepared, Passing):
        return OpenRequest(client, options, layer, is_metered=False)
    return _Exchange(meter, prepared, options, OpenRequest(client, options, layer))


def _is_part(enclosing: Gateway | OpenRequest, sdk: Sdk, client: Any, options: Any) -> bool:
    """Return whether a request inside a call is a part of it: inside an unmetered one, what can be
    metered is a call of its own.
    """
    return enclosing.is_metered or not attempt("prepare", _is_metered, sdk, client, options)


def _is_metered(sdk: Sdk, client: Any, options: Any) -> bool:
    return isinstance(find_route(sdk, client, options), Route)


def _ask_for_gateway(sdk: Sdk, client: Any, options: Any, kwargs: Mapping[str, Any]) -> None:
    """Request the usage of a stream for the gateway, which removes it for the application."""
    route = find_route(sdk, client, options)
    asks = kwargs.get("stream") and isinstance(route, Route) and route.asks_for_usage
    if asks and host_of(sdk, client).honours_stream_usage:
        ask_for_usage(options)


@dataclass(slots=True, eq=False)
class _Exchange:
    """A request and its answer as one call; entered around the SDK's own `request`."""

    _meter: Meter
    _prepared: Prepared
    _options: Any
    _open_request: OpenRequest
    _token: Token[Gateway | OpenRequest | None] | None = None
    _call: Call | None = None

    def begin(self) -> Wait | None:
        """Gate the call; return what it has to wait for before the next try.

        Raises:
            PaygentLimitExceeded: if a limit refuses it.
        """
        if self._prepared.route.reports_job_usage:
            return None  # free: its answer reports the usage of an earlier call
        call = attempt("begin", self._meter.begin, self._prepared.request)
        if isinstance(call, Wait):
            return call
        self._call = call
        return None

    def __enter__(self) -> None:
        call = self._call
        if call is None:
            return
        try:
            if self._prepared.asks_for_usage:
                call.drops_usage_chunk = bool(attempt("stream_usage", ask_for_usage, self._options))
            # Set last, right before the SDK is called: it shows that the request was sent.
            self._token = inside.set(self._open_request)
        except BaseException as error:  # an interruption; `with` does not call `__exit__` for it
            self.__exit__(type(error), error, None)
            raise

    def __exit__(self, kind: object, error: BaseException | None, trace: object) -> None:
        was_sent = self._token is not None
        if self._token is not None:
            leave(self._open_request, self._token)
        elif inside.get() is self._open_request:  # interrupted before the token was stored
            inside.set(None)
        if error is not None and self._call is not None:
            meter, call, prepared = self._meter, self._call, self._prepared
            end = functools.partial(
                attempt, "settle", end_failed, meter, call, prepared, error, was_sent
            )
            meter.deferred_ends.run_or_defer(end)  # perhaps a finalizer closes a coroutine

    def end(self, answer: Any, client: Any) -> None:
        """End the call with its answer: now, or when its stream ends. Leave a shortcut for calls
        like it, unless `client` is None.
        """
        meter, call = self._meter, self._call
        if call is not None:
            try:
                attempt("settle", end_answered, meter, call, self._prepared, answer)
            except BaseException:  # an interruption, perhaps before the end had begun
                attempt("settle", meter.settle, call, None)
                raise
            if client is not None:
                attempt("shortcut", remember, meter, call, self._prepared, client, self._options)
        elif self._prepared.route.reports_job_usage:
            attempt("collect", end_collected, self._meter, self._prepared, answer)


# -- the arguments of a single call


def wrap_resource(
    original: Wrapped, hook_client: Callable[[Any], None], switch: Switch = ALWAYS_ON
) -> Wrapped:
    """Return a resource method that hands its `paygent_*` arguments to the wrapper of `request`;
    `hook_client` gets a client that has a `request` of its own, beside its class's.
    """
    send = as_function(original)
    has_no_arguments = frozenset(CALL_ARGUMENTS).isdisjoint

    if inspect.iscoroutinefunction(original):

        @functools.wraps(original)
        async def async_method(*args: Any, **kwargs: Any) -> Any:
            if args and "request" in getattr(args[0], "_client", _NO_CLIENT).__dict__:
                attempt("self_check", hook_client, args[0]._client)
            if not has_no_arguments(kwargs):
                kwargs = carry(kwargs, switch)
            return await send(*args, **kwargs)

        return async_method

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        if args and "request" in getattr(args[0], "_client", _NO_CLIENT).__dict__:
            attempt("self_check", hook_client, args[0]._client)
        if not has_no_arguments(kwargs):
            kwargs = carry(kwargs, switch)
        return send(*args, **kwargs)

    return method


_NO_CLIENT = SimpleNamespace()


def carry(kwargs: dict[str, Any], switch: Switch) -> dict[str, Any]:
    """Move the `paygent_*` arguments of a call into a header that the wrapper of `request` removes.
    Without that (its switch is off, or Paygent is shut down) only remove them.

    A header and not the context, since helpers such as `.stream()` send their request later, in
    another context.
    """
    kwargs = dict(kwargs)
    user, session, more = CALL_ARGUMENTS
    user_id, session_id = kwargs.pop(user, None), kwargs.pop(session, None)
    metadata = kwargs.pop(more, None)
    if _active is None or not switch.is_on:
        return kwargs
    # A str, since the SDKs validate and merge headers; the wrapper removes it before it is sent.
    carrier = Carrier("")
    carrier.identity = identity_of(user_id, session_id, None, metadata)
    headers = kwargs.get("extra_headers")
    own = headers if isinstance(headers, Mapping) else {}
    return {**kwargs, "extra_headers": {**own, CARRIER_HEADER: carrier}}
