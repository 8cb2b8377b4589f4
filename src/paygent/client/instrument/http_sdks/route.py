"""What the thin file of an SDK tells the funnel: its operations, and how each is read.

Nothing here sends, meters or remembers anything.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

from paygent.client.instrument.streams.reader import StreamReader
from paygent.core.usage import JobStatus, Usage

_VARIABLE_SEGMENT = re.compile(r"^(?=.*\d).{6,}$")  # an id; operations have no digits


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
    read: Callable[[Any, bool], Usage | JobStatus | None]
    stream_reader: Callable[[bool, bool], StreamReader]
    generates: bool = True
    max_tokens_names: tuple[str, ...] = ()
    asks_for_usage: bool = False
    expand_batch: Callable[[Mapping[str, Any]], tuple[Mapping[str, Any], int]] | None = None
    forecast_as: str = ""
    tier: str = ""
    declared_usage: Callable[[Mapping[str, Any], Any], Usage | None] | None = None
    reports_job_usage: bool = False


class Sdk(Protocol):
    """What the thin file of an SDK tells the funnel."""

    name: str

    def route(self, method: str, path: str) -> Route | bool:
        """Return a metered route, True for a free operation, False for one that we do not know."""

    def provider(self, client: Any) -> str:
        """Return who is called through this client."""

    def tells_stream_usage(self, client: Any) -> bool:
        """Tell whether the host behind this client is known to honour `include_usage`."""


def max_tokens_of(route: Route, get_field: Callable[[str], Any]) -> int | None:
    """Return how much output a request allows in all its answers together, or None."""
    for name in route.max_tokens_names:
        value = get_field(name)
        if type(value) is int and value > 0:
            # `best_of` answers are all made, however few of them are given.
            answers = [each for each in (get_field("n"), get_field("best_of")) if type(each) is int]
            return value * max(answers, default=1) if answers else value
    return None


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
