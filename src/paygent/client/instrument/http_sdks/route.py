"""The operations of an SDK, and how each is read: the contract between `wrapper.py` and the
`routes` modules of the SDKs.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from enum import Enum
from typing import Any, NamedTuple, Protocol

from paygent.client.instrument.streams.reader import StreamReader
from paygent.core.usage import JobStatus, Usage

_VARIABLE_SEGMENT = re.compile(r"^(?=.*\d).{6,}$")  # an id; operations have no digits


PlainCounts = tuple[int, int, int, int, int, int]
"""Input, output, cached, written and reasoning tokens of an answer, and its answerer's number."""

PlainReader = Callable[[Any, Mapping[str, int]], PlainCounts | None]
"""Reads an answer that is as usual, given the number of each known answerer; None for others."""


class Route(NamedTuple):
    """A metered operation of an SDK.

    Attributes:
        name: Such as "chat.completions".
        read: Reads the usage of an answer: `(answer, want_tools) -> Usage | JobStatus | None`.
        stream_reader: Creates a reader for a stream: `(want_tools, drops_usage_chunk) ->
            StreamReader`.
        generates: Whether there is output.
        max_tokens_names: Body fields that bound the output; see `max_tokens_of`.
        asks_for_usage: Whether a stream reports its usage only if `stream_options.include_usage`
            requests it.
        expand_batch: Returns, for a body that holds many requests, one body of the size of all of
            them, and their number.
        forecast_as: The route that forecasts are learned from; "" is this one.
        tier: Price variant of the route, as in `Usage`.
        declared_usage: Returns the usage of a request from its parameters, for routes that may not
            report it in the answer: `(body, files) -> Usage | None`.
        read_plain: Reads the usual answer; None if the route has no such reader.
        reports_job_usage: The operation costs nothing itself, and its answer reports the usage of a
            job that an earlier call has started.
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
    read_plain: PlainReader | None = None
    reports_job_usage: bool = False


class Passing(Enum):
    """The class of an operation that passes without being metered."""

    FREE = "free"  # costs nothing
    UNMETERED = "unmetered"  # may cost something, and no adapter can meter it
    UNKNOWN = "unclassified"  # in no table: treated as unmetered, never as free


class Operations(NamedTuple):
    """Operations of one class.

    Attributes:
        why: Why they are in it.
        paths: Of their POST requests, below the API's root, with "{}" for a segment that varies; or
            the names of functions.
    """

    why: str
    paths: tuple[str, ...]


class PassingOperations:
    """The operations of an SDK that pass without being metered."""

    def __init__(
        self,
        free: Iterable[Operations],
        unmetered: Iterable[Operations],
        prefix: re.Pattern[str],
    ) -> None:
        """Create a table; see `paths_below` for the `prefix`."""
        self._is_free = _matcher(free)
        self._is_unmetered = _matcher(unmetered)
        self._prefix = prefix

    def find(self, method: str, path: str) -> Passing:
        """Return the class of an operation that has no route."""
        if method in READING_METHODS:
            return Passing.FREE
        if method != "POST":
            return Passing.UNKNOWN
        for below in paths_below(self._prefix, path):
            # First: the segment that varies in a free path may be a word of an unmetered one.
            if self._is_unmetered(below):
                return Passing.UNMETERED
            if self._is_free(below):
                return Passing.FREE
        return Passing.UNKNOWN


READING_METHODS = ("GET", "HEAD", "DELETE")
"""Methods that cost nothing in both SDKs: they read or remove what exists. The reads that report
the usage of earlier work have a route.
"""


def paths_below(prefix: re.Pattern[str], path: str) -> Iterator[str]:
    """Yield a path, and what is left of it below each `prefix` that it has: an address may have
    those of a gateway, of the API's version or of a deployment in front of the operation.
    """
    yield path  # first: an operation may have such a segment itself
    for found in prefix.finditer(path):
        yield path[found.end() :]


def path_pattern(path: str) -> str:
    """Return the regular expression of a path with "{}" for a segment that varies."""
    return re.escape(path).replace(r"\{\}", "[^/]+")


def _matcher(operations: Iterable[Operations]) -> Callable[[str], object]:
    paths = (path_pattern(path) for each in operations for path in each.paths)
    return re.compile("|".join(paths)).fullmatch


class Sdk(Protocol):
    """The `routes` module of an SDK.

    Attributes:
        name: The SDK's name, also in counts and logs.
        module: The package that applications import.
        base_module: The module of its base clients.
    """

    name: str
    module: str
    base_module: str

    @property
    def clients(self) -> Sequence[str]:
        """Names of its client classes, sync and async."""

    @property
    def base_clients(self) -> Sequence[str]:
        """Names of the bases of these, in the same order."""

    @property
    def resources(self) -> Mapping[str, Sequence[str]]:
        """Names of resource classes, by the module that defines them."""

    @property
    def resource_methods(self) -> Sequence[str]:
        """Names of the methods of these that accept `paygent_*` arguments."""

    def route(self, method: str, path: str) -> Route | Passing:
        """Return the route of a metered operation, or the class of another one."""

    def provider(self, client: Any) -> str:
        """Return the provider that this client calls."""

    def honours_stream_usage(self, client: Any) -> bool:
        """Return whether the host of this client is known to honour `include_usage`."""


def max_tokens_of(names: Iterable[str], get_field: Callable[[str], Any]) -> int | None:
    """Return the most output tokens that a request allows in all its answers together, or None;
    `names` are the fields that bound one answer, the first that is set counts.
    """
    for name in names:
        value = get_field(name)
        if type(value) is int and value > 0:
            n, best_of = get_field("n"), get_field("best_of")
            if n is None and best_of is None:  # nearly always
                return value
            # All `best_of` answers are generated, however few of them are returned.
            return value * max([count for count in (n, best_of) if type(count) is int], default=1)
    return None


def plain_path(url: Any) -> str:
    """Return the path of a request below the API's root: `/chat/completions`, `/messages`."""
    path = str(url).split("?", 1)[0]
    if "://" in path:
        path = "/" + path.split("://", 1)[1].partition("/")[2]
    path = "/" + path.strip("/")
    # The SDKs' default base URLs end with or without the version.
    return path[3:] if path.startswith("/v1/") else path


def route_name(method: str, path: str) -> str:
    """Return a path without its ids, so that a route is logged once and not once per id."""
    segments = path.split("/")
    names = ["{id}" if _VARIABLE_SEGMENT.match(segment) else segment for segment in segments]
    return f"{method} {'/'.join(names)}"
