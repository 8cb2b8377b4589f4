"""Before a call: its request, read as the SDK is about to send it.

The body is read and never changed, with one exception: a stream that would not report its usage is
asked to, once its call has begun. Paygent's header is removed here.
"""

from __future__ import annotations

import functools
from collections.abc import Hashable, Mapping
from typing import Any, NamedTuple, cast

from paygent.client.context.identity import Identity
from paygent.client.instrument.http_sdks.route import (
    Passing,
    Route,
    Sdk,
    max_tokens_of,
    plain_path,
    route_name,
)
from paygent.client.metering.call import Request
from paygent.client.metering.unmetered import UnmeteredCalls
from paygent.core.notices import Notice
from paygent.failopen import attempt

CARRIER_HEADER = "x-paygent-call"
"""Carries the `paygent_*` arguments of one call from the resource method to `request`'s wrapper,
which removes it.
"""
RAW_HEADER = "x-stainless-raw-response"


class Carrier(str):
    """A header value that carries an identity; its text is empty, so a leak reveals nothing."""

    identity: Identity


class Prepared(NamedTuple):
    """A metered call, ready to begin."""

    request: Request
    route: Route
    is_stream: bool
    is_raw: bool
    asks_for_usage: bool


def prepare(
    sdk: Sdk, client: Any, options: Any, kwargs: Mapping[str, Any], unmetered: UnmeteredCalls
) -> Prepared | Passing:
    """Read a request as the SDK is about to send it, and remove Paygent's header; return the class
    of one that passes without being metered.

    Raises:
        PaygentLimitExceeded: for one that may cost something, where those are refused.
    """
    identity, raw = _take_headers(options)
    route = find_route(sdk, client, options)
    if isinstance(route, Passing):
        if route is not Passing.FREE:
            path = plain_path(_address_of(client, options))
            name = route_name(str(options.method).upper(), path)
            body = options.json_data
            unmetered.admit(
                Notice.UNMETERED_OPERATION,
                *(sdk.name, name),
                operation=f"{sdk.name}:{name}",
                model=body.get("model") if isinstance(body, Mapping) else None,
                identity=identity,
            )
        return route
    body = options.json_data if isinstance(options.json_data, Mapping) else None
    # The SDK merges `extra_body` into the body only when it builds the HTTP request.
    extra = getattr(options, "extra_json", None)
    if body is not None and isinstance(extra, Mapping) and extra:
        body = {**body, **extra}
    requests = 1
    if body is not None and route.expand_batch is not None:
        body, requests = route.expand_batch(body)
    declared = None
    if body is not None and route.declared_usage is not None:
        files = getattr(options, "files", None)
        declared = attempt("declared_usage", route.declared_usage, body, files)
    # A raw response is parsed by the application, from which no chunk could be removed.
    is_stream = bool(kwargs.get("stream"))
    host = host_of(sdk, client)
    asks = is_stream and not raw and route.asks_for_usage and host.honours_stream_usage
    get_field = (body or {}).get
    model = get_field("model")
    request = Request(
        host.provider,
        route.forecast_as or route.name,
        model if isinstance(model, str) else "",
        body,
        generates=route.generates,
        max_tokens=max_tokens_of(route.max_tokens_names, get_field),
        identity=identity,
        declared_usage=declared,
        requests=requests,
        tier=route.tier,
    )
    return Prepared(request, route, is_stream, raw, asks)


class Host(NamedTuple):
    """What a client's host is known for.

    Attributes:
        base_url: The client's URL object, kept so that its identity is not reused.
        provider: Its name.
        honours_stream_usage: See `Sdk.honours_stream_usage`.
    """

    base_url: Any
    provider: str
    honours_stream_usage: bool


_hosts: dict[tuple[type, int], Host] = {}
"""By a client's class and the identity of its URL object: parsing a host takes microseconds."""
_HOSTS_MAX = 1_024


def host_of(sdk: Sdk, client: Any) -> Host:
    """Return what is known of a client's host."""
    base_url = client.base_url
    key = (type(client), id(base_url))
    host = _hosts.get(key)
    if host is None:
        # An application may create a client for each request; each has a URL object.
        if len(_hosts) >= _HOSTS_MAX:
            _hosts.clear()
        honours = sdk.honours_stream_usage(client)
        host = _hosts[key] = Host(base_url, sdk.provider(client), honours)
    return host


def find_route(sdk: Sdk, client: Any, options: Any) -> Route | Passing:
    """Return the route or class of a request."""
    return route_of(cast(Hashable, sdk), options.method, _address_of(client, options))


def _address_of(client: Any, options: Any) -> str:
    """Return the address of a request; below the client's base URL, the path from there."""
    url = str(options.url)
    if "://" in url:
        url = url.removeprefix(str(client.base_url).rstrip("/") + "/")
    return url


@functools.lru_cache(maxsize=1024)
def route_of(sdk: Hashable, method: str, url: str) -> Route | Passing:
    """Return the route or class of an address; an application uses few of them."""
    return cast(Sdk, sdk).route(method.upper(), plain_path(url))


def _take_headers(options: Any) -> tuple[Identity | None, bool]:
    """Return the identity in Paygent's header, which is removed, and whether the answer is raw."""
    headers = options.headers
    if not isinstance(headers, Mapping) or not headers:
        return None, False
    identity = None
    raw = False
    others = {}
    for name, value in headers.items():
        if isinstance(value, Carrier):
            identity = value.identity
        else:
            others[name] = value
            raw = raw or name.lower() == RAW_HEADER
    if identity is not None:
        # Replaced and not changed: the mapping may be shared with the application's defaults.
        options.headers = others
    return identity, raw


def ask_for_usage(options: Any) -> bool:
    """Request the usage at the end of a stream, unless the application has decided on it. Return
    whether the option was added.
    """
    # Then the tap must remove that chunk, so this is done only for calls that have begun: the
    # stream of any other call has no tap.
    body = options.json_data
    stream_options = body.get("stream_options")
    if isinstance(stream_options, Mapping) and "include_usage" in stream_options:
        return False  # also where it is false: the application's word counts
    own = dict(stream_options) if isinstance(stream_options, Mapping) else {}
    options.json_data = {**body, "stream_options": {**own, "include_usage": True}}
    return True
