"""The call: the one wrapper around a provider SDK's own funnel, sync and async.

Theory of operation
-------------------
Generated SDKs send everything through one method, `request`, outside their retry loop; that is
where a call is gated and metered, so that retries are one call and no operation slips by. An
operation is known by its path: *metered* ones are gated and metered, *free* ones pass, and the rest
passes too, but is counted and said once per route.

The provider's answer is held in a local before any code of ours runs on it, and is what the
application gets; so is the provider's exception. Everything of ours runs inside `attempt`, which
lets only `PaygentLimitExceeded` through. Sync and async share every step; only the two places that
wait differ.
"""

from __future__ import annotations

import functools
import re
from collections.abc import Callable, Hashable, Mapping
from contextlib import AbstractContextManager
from contextvars import ContextVar, Token
from typing import Any, NamedTuple, Protocol, cast

from paygent.call import Call, Request, Wait
from paygent.context import CALL_ARGUMENTS, Identity
from paygent.core.estimate import Estimate
from paygent.core.usage import Deferred, Usage, get
from paygent.failopen import attempt, failures
from paygent.instrument.patches import ALWAYS_ON, Switch, as_function
from paygent.instrument.stream import (
    BytesReader,
    Ending,
    Ends,
    Settles,
    StreamReader,
    tap_bytes,
    tap_stream,
)
from paygent.meter import Meter

CARRIER_HEADER = "x-paygent-call"
"""Carries the `paygent_*` arguments of one call from the resource method to the funnel; removed
there.
"""

_RAW_HEADER = "x-stainless-raw-response"
_VARIABLE_SEGMENT = re.compile(r"^(?=.*\d).{6,}$")  # an id; operations have no digits


class Carrier(str):
    """A header value that carries whose call it is; empty as text, so that it tells nothing if it
    leaks.
    """

    identity: Identity


class Route(NamedTuple):
    """A metered operation of an SDK.

    Attributes:
        name: Such as "chat.completions".
        read: Reads the usage of an answer: `(answer, want_tools) -> Usage | Deferred | None`.
        stream_reader: Makes a reader for a stream: `(want_tools, drops_usage_chunk) ->
            StreamReader`.
        generates: Whether there is output.
        max_tokens_names: Body fields that bound the output, the first that is set counts.
        asks_for_usage: Whether a stream tells its usage only when `stream_options.include_usage`
            asks for it.
        view: Makes of a body that holds many requests one that is as large as all of them, and
            counts them.
        alike: The route whose calls tell what these take; "" is this one.
        tier: Price variant of the route, as in `Usage`.
        told: Says what a request will use, of routes whose answers may tell nothing: `(body, files)
            -> Usage | None`.
        collects: The operation costs nothing itself, and its answer tells the use of work that an
            earlier call has started.
    """

    name: str
    read: Callable[[Any, bool], Usage | Deferred | None]
    stream_reader: Callable[[bool, bool], StreamReader]
    generates: bool = True
    max_tokens_names: tuple[str, ...] = ()
    asks_for_usage: bool = False
    view: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], int]] | None = None
    alike: str = ""
    tier: str = ""
    told: Callable[[Mapping[str, Any], Any], Usage | None] | None = None
    collects: bool = False


class Sdk(Protocol):
    """What the thin file of an SDK tells the funnel."""

    name: str

    def route(self, method: str, path: str) -> Route | bool:
        """Return a metered route, True for a free operation, False for one that we do not know."""

    def provider(self, client: Any) -> str:
        """Return who is called through this client."""

    def tells_stream_usage(self, client: Any) -> bool:
        """Tell whether the host behind this client is known to honour `include_usage`."""


class Prepared(NamedTuple):
    """A metered call, ready to begin."""

    request: Request
    route: Route
    is_stream: bool
    is_raw: bool
    asks_for_usage: bool


_active: Meter | None = None
_was_active = False
_inside: ContextVar[tuple[Any, Any] | None] = ContextVar("paygent_inside", default=None)
"""The client and options of the call that is under way here: a second wrapper of ours inside it
stands back.
"""

_GATEWAY = (None, None)
"""Stands there while a gateway's function runs, whatever client it uses."""


def set_active(meter: Meter | None) -> None:
    """Let calls go through a meter from now on; None lets them pass."""
    global _active, _was_active
    _was_active = _was_active or meter is not None
    _active = meter


def active() -> Meter | None:
    """Return the meter that calls go through, or None."""
    return _active


# -- the wrappers


def wrap_sync(
    original: Callable[..., Any], sdk: Sdk, switch: Switch = ALWAYS_ON
) -> Callable[..., Any]:
    """Return the sync funnel method of an SDK with gate and meter around it, which pass calls on
    when the switch is off.
    """
    send = as_function(original)

    @functools.wraps(original)
    def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[1] if len(args) > 1 else kwargs.get("options")
        meter = _meter_for(sdk, client, options, kwargs) if switch.is_on else None
        if meter is None:
            return send(client, *args, **kwargs)
        prepared = attempt("prepare", prepare, sdk, client, options, kwargs)
        if prepared is None:
            return send(client, *args, **kwargs)
        if prepared.route.collects:
            answer = send(client, *args, **kwargs)
            attempt("collect", end_collected, meter, prepared, answer)
            return answer
        call = attempt("begin", meter.begin, prepared.request)
        while isinstance(call, Wait):
            call.block()
            call = attempt("begin", meter.begin, prepared.request)
        if call is None:
            return send(client, *args, **kwargs)
        token = None
        try:
            if prepared.asks_for_usage:
                call.drops_usage_chunk = bool(attempt("stream_usage", _ask_for_usage, options))
            token = _inside.set((client, options))
            answer = send(client, *args, **kwargs)
        except BaseException as error:
            attempt("settle", end_failed, meter, call, prepared, error, token is not None)
            raise
        finally:
            _leave(token)
        attempt("settle", end_answered, meter, call, prepared, answer)
        return answer

    return request


def wrap_async(
    original: Callable[..., Any], sdk: Sdk, switch: Switch = ALWAYS_ON
) -> Callable[..., Any]:
    """Return the async funnel method of an SDK with gate and meter around it; see `wrap_sync`."""
    send = as_function(original)

    @functools.wraps(original)
    async def request(client: Any, *args: Any, **kwargs: Any) -> Any:
        options = args[1] if len(args) > 1 else kwargs.get("options")
        meter = _meter_for(sdk, client, options, kwargs) if switch.is_on else None
        if meter is None:
            return await send(client, *args, **kwargs)
        prepared = attempt("prepare", prepare, sdk, client, options, kwargs)
        if prepared is None:
            return await send(client, *args, **kwargs)
        if prepared.route.collects:
            answer = await send(client, *args, **kwargs)
            attempt("collect", end_collected, meter, prepared, answer)
            return answer
        prepared.request.is_async = True
        call = attempt("begin", meter.begin, prepared.request)
        while isinstance(call, Wait):
            await call
            call = attempt("begin", meter.begin, prepared.request)
        if call is None:
            return await send(client, *args, **kwargs)
        token = None
        try:
            if prepared.asks_for_usage:
                call.drops_usage_chunk = bool(attempt("stream_usage", _ask_for_usage, options))
            token = _inside.set((client, options))
            answer = await send(client, *args, **kwargs)
        except BaseException as error:
            attempt("settle", end_failed, meter, call, prepared, error, token is not None)
            raise
        finally:
            _leave(token)
        attempt("settle", end_answered, meter, call, prepared, answer)
        return answer

    return request


def meter_or_say() -> Meter | None:
    """Return the meter that calls go through; None where there is none any more, which is said
    once.
    """
    if _active is None and _was_active:
        failures.say("shut_down", "Paygent is shut down; calls pass unmetered")
    return _active


def _meter_for(sdk: Sdk, client: Any, options: Any, kwargs: Mapping[str, Any]) -> Meter | None:
    """Return the meter that a request goes through; None where it passes: there is none any more,
    or the request is part of a call that is under way.
    """
    meter = _active
    if meter is None:
        return meter_or_say()
    under_way = _inside.get()
    if under_way is None:
        return meter
    if under_way is _GATEWAY:
        attempt("stream_usage", _ask_for_gateway, sdk, client, options, kwargs)
        return None
    return None if _is_part_of(under_way, client, options) else meter


def behind_gateway() -> AbstractContextManager[None]:
    """Have the hooks of SDKs stand back in a block: a gateway's own function is the call."""
    return _BehindGateway()


def is_behind_gateway() -> bool:
    """Tell whether a gateway's function runs here."""
    return _inside.get() is _GATEWAY


class _BehindGateway:
    __slots__ = ("_token",)

    def __enter__(self) -> None:
        self._token = _inside.set(_GATEWAY)

    def __exit__(self, *error: object) -> None:
        _leave(self._token)


def _ask_for_gateway(sdk: Sdk, client: Any, options: Any, kwargs: Mapping[str, Any]) -> None:
    """Have a stream tell its usage to the gateway, which keeps that from the application."""
    route = _route_of(cast(Hashable, sdk), options.method, str(options.url))
    asks = kwargs.get("stream") and isinstance(route, Route) and route.asks_for_usage
    if asks and sdk.tells_stream_usage(client):
        _ask_for_usage(options)


def _is_part_of(under_way: tuple[Any, Any], client: Any, options: Any) -> bool:
    """Tell whether a request is the one under way, or a copy of it that other code has made."""
    if under_way[0] is not client:
        return False
    if under_way[1] is options:
        return True
    body = getattr(options, "json_data", None)
    return body is not None and body is getattr(under_way[1], "json_data", None)


def _leave(token: Token[tuple[Any, Any] | None] | None) -> None:
    """Note that a call is no longer under way here."""
    if token is not None:
        try:
            _inside.reset(token)
        except ValueError:
            pass  # left in another context than it was entered in; that one is gone


# -- before


def prepare(sdk: Sdk, client: Any, options: Any, kwargs: Mapping[str, Any]) -> Prepared | None:
    """Read a request as the SDK is about to send it; None for one that is not metered.

    Removes what is ours from the headers.
    """
    identity, raw = _take_headers(options)
    route = _route_of(cast(Hashable, sdk), options.method, str(options.url))
    if isinstance(route, bool):
        if not route:
            shown = route_name(str(options.method).upper(), plain_path(options.url))
            kind = f"unmetered:{sdk.name}:{shown}"
            failures.say(kind, "%s %s is neither gated nor metered", sdk.name, shown)
        return None
    body = options.json_data if isinstance(options.json_data, Mapping) else None
    extra = getattr(options, "extra_json", None)
    if body is not None and isinstance(extra, Mapping) and extra:
        body = {**body, **extra}
    requests = 1
    if body is not None and route.view is not None:
        body, requests = route.view(body)
    get_field = body.get if body is not None else _nothing
    told = None
    if route.told is not None and body is not None:
        told = attempt("told", route.told, body, getattr(options, "files", None))
    is_stream = bool(kwargs.get("stream"))
    asks = is_stream and not raw and route.asks_for_usage and sdk.tells_stream_usage(client)
    model = get_field("model")
    request = Request(
        _provider_of(sdk, client),
        route.alike or route.name,
        model if isinstance(model, str) else "",
        body,
        generates=route.generates,
        max_tokens=max_tokens_of(route, get_field),
        identity=identity,
        told=told,
        requests=requests,
        tier=route.tier,
    )
    return Prepared(request, route, is_stream, raw, asks)


_providers: dict[tuple[type, int], tuple[Any, str]] = {}
"""Who is called through a class of clients and a URL object: reading a host out of a URL takes
microseconds. The URL is kept beside its identity, so that this stays its own.
"""

_PROVIDERS_MAX = 1_024


def _provider_of(sdk: Sdk, client: Any) -> str:
    base_url = client.base_url
    key = (type(client), id(base_url))
    known = _providers.get(key)
    if known is None:
        if len(_providers) >= _PROVIDERS_MAX:
            _providers.clear()
        known = _providers[key] = (base_url, sdk.provider(client))
    return known[1]


@functools.lru_cache(maxsize=1024)
def _route_of(sdk: Hashable, method: str, url: str) -> Route | bool:
    """Return the route of a request; the same few come again and again."""
    return cast(Sdk, sdk).route(method.upper(), plain_path(url))


def _nothing(name: str) -> None:
    """Stand for the fields of a body that is no JSON object."""


def _take_headers(options: Any) -> tuple[Identity | None, bool]:
    """Return whose call the headers say it is, and whether a raw response was asked for; remove
    what is ours.
    """
    headers = options.headers
    if not isinstance(headers, Mapping) or not headers:
        return None, False
    identity = None
    raw = False
    for name, value in headers.items():
        if name.lower() == _RAW_HEADER:
            raw = True
        elif isinstance(value, Carrier):
            identity = value.identity
    if identity is not None:
        options.headers = {
            name: value for name, value in headers.items() if not isinstance(value, Carrier)
        }
    return identity, raw


def max_tokens_of(route: Route, get_field: Callable[[str], Any]) -> int | None:
    """Return how much output a request allows in all its answers together, or None."""
    for name in route.max_tokens_names:
        value = get_field(name)
        if type(value) is int and value > 0:
            # `best_of` answers are all made, however few of them are given.
            answers = [each for each in (get_field("n"), get_field("best_of")) if type(each) is int]
            return value * max(answers, default=1) if answers else value
    return None


def _ask_for_usage(options: Any) -> bool:
    """Have a stream end with its usage; true when we asked and not the application.

    Then the chunk is ours to take out again, so this is done only for calls that have begun: the
    stream of any other has no tap.
    """
    body = options.json_data
    stream_options = body.get("stream_options")
    if isinstance(stream_options, Mapping) and "include_usage" in stream_options:
        return False
    own = dict(stream_options) if isinstance(stream_options, Mapping) else {}
    options.json_data = {**body, "stream_options": {**own, "include_usage": True}}
    return True


def plain_path(url: Any) -> str:
    """Return the path of a request below the API's root: `/chat/completions`, `/messages`."""
    path = str(url).split("?", 1)[0]
    if "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    path = "/" + path.strip("/")
    return path[3:] if path.startswith("/v1/") else path


def route_name(method: str, path: str) -> str:
    """Return a path with its ids left out, so that a route is said once and not once per id."""
    segments = ["{id}" if _VARIABLE_SEGMENT.match(each) else each for each in path.split("/")]
    return f"{method} {'/'.join(segments)}"


# -- after


def end_collected(meter: Meter, prepared: Prepared, answer: Any) -> None:
    """Take in an answer that tells the use of earlier work: now, or when its stream ends."""
    end_answered(_Collector(meter), _Question(prepared.request), prepared, answer)


class _Collector:
    """Stands where a meter ends calls, for answers that end none."""

    def __init__(self, meter: Meter) -> None:
        self._meter = meter
        self.late_ends = meter.late_ends

    def settle(self, call: Any, found: Usage | Deferred | None) -> None:
        """Book what is said of earlier work."""
        if call.claim_end() and isinstance(found, Deferred):
            self._meter.collect(call.request, found)


class _Question:
    """Stands for a call that is none: nothing was held, and nothing is lost where it is dropped."""

    drops_usage_chunk = False
    wants_tools = False
    estimate = Estimate(0, 0)

    def __init__(self, request: Request) -> None:
        self.request = request
        self.done = False

    def claim_end(self) -> bool:
        """Take the right to end it; true for the first who asks."""
        first, self.done = not self.done, True
        return first

    def hand_over(self) -> None:
        """Leave the end to who carries it."""


def end_answered(meter: Settles, call: Ends, prepared: Prepared, answer: Any) -> None:
    """End a call that was answered: now, or when its stream ends."""
    route = prepared.route
    want_tools = call.wants_tools
    if not prepared.is_raw and not prepared.is_stream and not _is_http(answer):
        meter.settle(call, attempt("usage", route.read, answer, want_tools))
        return
    reader = route.stream_reader(want_tools, call.drops_usage_chunk)

    def read(document: Any) -> Usage | Deferred | None:
        return route.read(document, want_tools)

    if prepared.is_raw or _is_http(answer):
        _end_raw(meter, call, answer, reader, read)
    elif not tap_stream(answer, meter, call, reader, read):
        failures.say("stream_untapped", "a stream of type %s cannot be read", type(answer).__name__)
        meter.settle(call, None)


def _is_http(answer: Any) -> bool:
    """Tell whether an answer is the HTTP library's own response (`cast_to=Response`)."""
    return hasattr(answer, "is_stream_consumed") and hasattr(answer, "stream")


def _end_raw(
    meter: Settles,
    call: Ends,
    answer: Any,
    reader: StreamReader,
    read: Callable[[Any], Usage | Deferred | None],
) -> None:
    """End a call whose answer the application reads raw: from its bytes, read or still to come."""
    response = answer if _is_http(answer) else getattr(answer, "http_response", None)
    if response is None:
        meter.settle(call, None)
        return
    if getattr(response, "is_stream_consumed", False) or getattr(response, "is_closed", False):
        meter.settle(call, attempt("usage", _read_whole, response, reader, read, call.estimate))
        return
    bytes_reader = BytesReader(response.headers, reader, read)
    ending = Ending(meter, call, bytes_reader)
    if attempt("tap_bytes", tap_bytes, response, ending, bytes_reader):
        call.hand_over()
    else:
        meter.settle(call, None)


def _read_whole(
    response: Any,
    reader: StreamReader,
    read: Callable[[Any], Usage | Deferred | None],
    estimate: Estimate,
) -> Usage | Deferred | None:
    """Read the usage of an HTTP response that has been read to its end."""
    is_events = "event-stream" in str(response.headers.get("content-type"))
    if not (is_events or getattr(reader, "reads_lines", False)):
        try:
            document = response.json()
        except ValueError:
            return None  # no JSON: audio, or text
        return read(document)
    bytes_reader = BytesReader(response.headers, reader, read, is_plain=True)
    bytes_reader.feed_bytes(response.content)
    bytes_reader.end()
    return bytes_reader.usage(estimate)


_NEVER_SENT = (
    "ConnectError",
    "ConnectTimeout",
    "PoolTimeout",
    "UnsupportedProtocol",
    "LocalProtocolError",
)
_CAUSES_MAX = 8


def end_failed(
    meter: Meter, call: Call, prepared: Prepared, error: BaseException, was_sent: bool = True
) -> None:
    """End a call that raised: void what cannot have cost anything, settle the rest.

    A received 4xx or 5xx and a connection that was never made are void. A time-out, a cut body, a
    cancellation settle the estimate, since the provider may have billed. An answer that the SDK
    could not parse was paid too; where the error carries the answer, its usage counts.

    Args:
        was_sent: False for an interruption between the gate and the provider.
    """
    if not was_sent:
        meter.void(call, "interrupted before it was sent")
        return
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
    if any(name in _NEVER_SENT for name in names):
        meter.void(call, "never sent")
    elif isinstance(error, ValueError) or any(is_paid(name) for name in names):
        meter.settle(call, None)
    else:
        meter.void(call, "failed before it was sent")


def names_of_causes(error: BaseException) -> list[str]:
    """Return the class names of an error and of what the SDK says caused it.

    Not of its context: a call that is made while the application handles another error has that one
    there.
    """
    names: list[str] = []
    each: BaseException | None = error
    while each is not None and len(names) < _CAUSES_MAX:
        names.extend(base.__name__ for base in type(each).__mro__)
        each = each.__cause__
    return names


def is_paid(name: str) -> bool:
    """Tell whether an exception's class is one of the SDKs' or HTTP libraries' for an exchange that
    broke, or for an answer that the SDK would not parse.
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


# -- the arguments of a single call


def wrap_resource(
    original: Callable[..., Any], check: Callable[[Any], None], *, is_coroutine: bool
) -> Callable[..., Any]:
    """Return a resource method that hands its `paygent_*` arguments to the funnel.

    Args:
        original: The method.
        check: Looks after a client that has a `request` of its own.
        is_coroutine: Whether the method is a coroutine function.
    """

    send = as_function(original)

    def arguments(args: tuple[Any, ...], kwargs: dict[str, Any]) -> dict[str, Any]:
        client = getattr(args[0], "_client", None) if args else None
        if "request" in getattr(client, "__dict__", ()):
            attempt("self_check", check, client)
        return kwargs if kwargs.keys().isdisjoint(CALL_ARGUMENTS) else carry(kwargs)

    if is_coroutine:

        @functools.wraps(original)
        async def async_method(*args: Any, **kwargs: Any) -> Any:
            return await send(*args, **arguments(args, kwargs))

        return async_method

    @functools.wraps(original)
    def method(*args: Any, **kwargs: Any) -> Any:
        return send(*args, **arguments(args, kwargs))

    return method


def carry(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Move our arguments of a call into a header that the funnel takes out again.

    A header, and not the context: helpers such as `.stream()` send their request later, elsewhere.
    """
    kwargs = dict(kwargs)
    user_id, session_id, metadata = (kwargs.pop(name, None) for name in CALL_ARGUMENTS)
    if _active is None:
        return kwargs
    carrier = Carrier("")
    carrier.identity = Identity(user_id, session_id, None, metadata)
    headers = kwargs.get("extra_headers")
    kwargs["extra_headers"] = {
        **(headers if isinstance(headers, Mapping) else {}),
        CARRIER_HEADER: carrier,
    }
    return kwargs
