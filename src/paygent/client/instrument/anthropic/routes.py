"""Anthropic's SDK (0.40 to 2.x): names of its routes and clients, and how its answers tell their
use.

Routes and fields were read from the type definitions of anthropic 2.13 and 0.40 (2026-11).
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from functools import partial
from typing import Any

from paygent.client.instrument.http_sdks.route import Route
from paygent.client.instrument.streams.reader import counted, field, text_bytes
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage, fields_of, from_anthropic, get

name = "anthropic"
module = "anthropic"
base_module = "anthropic._base_client"
clients = ("Anthropic", "AsyncAnthropic")
base_clients = ("SyncAPIClient", "AsyncAPIClient")

resources = {
    "anthropic.resources.messages": ("Messages", "AsyncMessages"),
    "anthropic.resources.beta.messages": ("Messages", "AsyncMessages"),
    "anthropic.resources.messages.batches": ("Batches", "AsyncBatches"),
    "anthropic.resources.beta.messages.batches": ("Batches", "AsyncBatches"),
    "anthropic.resources.completions": ("Completions", "AsyncCompletions"),
}
"""Where the resource methods are that take the `paygent_*` arguments; versions lack some."""

resource_methods = ("create", "parse", "stream", "tool_runner", "results")

_PROVIDERS = (
    ("Bedrock", "aws"),
    ("Vertex", "google"),
    ("Foundry", "azure"),
)
"""Who sells the tokens, by a part of the client's class name. `AnthropicAWS` and
`AnthropicGoogleCloud` reach Anthropic's own platform, at its prices.
"""

_FREE_POST = (
    "/messages/count_tokens",
    "/files",
    "/models",
    "/organizations",
    "/skills",
    "/user_profiles",
    "/vaults",
    "/memory_stores",
    "/environments",
    "/tunnels",
)
"""Operations that cost nothing by themselves; what stands neither here nor among the routes passes
and is said.
"""


def read_message(answer: Any, want_tools: bool) -> Usage | None:
    """Read a message."""
    usage = from_anthropic(get(answer, "usage"), model=get(answer, "model"))
    if usage is None or not want_tools:
        return usage
    names = [
        get(block, "name")
        for block in get(answer, "content") or ()
        if get(block, "type") == "tool_use"
    ]
    return usage._replace(tool_calls=tuple(each for each in names if isinstance(each, str)))


_USAGE_FIELDS = (
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_creation",
    "output_tokens_details",
    "server_tool_use",
    "service_tier",
    "speed",
    "inference_geo",
    "iterations",
)


_TEXTS = ("text", "thinking", "partial_json")
"""Where a delta has text."""


class MessageStream:
    """Events of a message: input with the first, output with the last, each field overwritten,
    never added.
    """

    __slots__ = ("_fields", "_is_whole", "_model", "_text_bytes", "_tools", "_want_tools")

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._want_tools = want_tools
        self._fields: dict[str, Any] = {}
        self._is_whole = False
        self._model: Any = None
        self._text_bytes = 0
        self._tools: list[str] = []

    def feed(self, event: Any) -> bool | None:
        """Read one event; see `StreamReader.feed`."""
        fields = fields_of(event)
        kind = fields.get("type")
        if kind == "content_block_delta":
            delta = fields_of(fields.get("delta"))
            for name_of_text in _TEXTS:
                text = delta.get(name_of_text)
                if text is not None:
                    self._text_bytes += text_bytes(text)
        elif kind == "message_delta":
            self._take(fields.get("usage"))
            self._is_whole = True
        elif kind == "message_start":
            self._model = field(event, "message", "model")
            self._take(field(event, "message", "usage"))
        elif kind == "content_block_start" and self._want_tools:
            self._feed_tool(fields.get("content_block"))
        return None

    def _feed_tool(self, block: Any) -> None:
        if get(block, "type") == "tool_use":
            self._tools.append(str(get(block, "name")))

    def _take(self, usage: Any) -> None:
        """Take over the latest word on each field; the split of cache writes stands in the first
        only.
        """
        if usage is None:
            return
        for each in _USAGE_FIELDS:
            value = get(usage, each)
            if value is not None:
                self._fields[each] = value

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return what was used; see `StreamReader.usage`."""
        known = from_anthropic(self._fields or None, model=self._model)
        if known is None or not self._is_whole:
            known = counted(known, self._text_bytes, estimate, input_is_known=known is not None)
        return known._replace(tool_calls=tuple(self._tools)) if known is not None else None


def read_batch(answer: Any, want_tools: bool) -> JobStatus | None:
    """Read a batch that was started; its results tell its use."""
    batch_id = get(answer, "id")
    return JobStatus(_ref(batch_id), tier="batch") if isinstance(batch_id, str) else None


def _ref(batch_id: str) -> str:
    return f"messages.batch:{batch_id}"


class BatchResults:
    """The results of a batch, a line for each of its requests: what they used, once all of them
    were read. Large requests, which may have reached a price tier, are kept apart; the others are
    summed by model, so that memory does not grow with the batch.
    """

    __slots__ = ("_is_whole", "_large", "_ref", "_small")

    reads_lines = True

    def __init__(self, want_tools: bool, drops_usage_chunk: bool, *, ref: str) -> None:
        self._ref = ref
        self._small: dict[str | None, Usage] = {}
        self._large: list[Usage] = []
        self._is_whole = False

    def feed(self, line: Any) -> bool | None:
        """Read one line; see `StreamReader.feed`. Those that failed or expired were not billed."""
        usage = read_message(field(line, "result", "message"), False)
        if usage is None:
            return None
        usage = usage._replace(tier="batch")
        if usage.input_tokens > _SMALL_TOKENS_MAX or usage.others:
            self._large.append(usage)
        else:
            before = self._small.get(usage.model)
            small = usage._replace(largest_input_tokens=_SMALL_TOKENS_MAX)
            self._small[usage.model] = small if before is None else _sum(before, small)
        return None

    def end(self) -> None:
        """Note that this was the last line."""
        self._is_whole = True

    def usage(self, estimate: Estimate) -> JobStatus:
        """Return what the batch used, if all of it was seen; see `StreamReader.usage`."""
        return JobStatus(
            self._ref, (*self._small.values(), *self._large) if self._is_whole else None
        )


_SMALL_TOKENS_MAX = 32_768  # no price list has a tier below


def _sum(one: Usage, other: Usage) -> Usage:
    """Add two usages of one model."""
    sums = map(int.__add__, one.counts, other.counts)
    quality = one.quality if other.quality == "exact" else "partial"
    return one._replace(**dict(zip(Usage._fields, sums, strict=False)), quality=quality)  # type: ignore[arg-type]


def view_batch(body: Mapping[str, Any]) -> tuple[Mapping[str, Any], int]:
    """Return a request as large as all requests of a batch, which is gated as a whole, and how many
    they are.
    """
    requests = body.get("requests")
    given: Iterable[Any] = requests if isinstance(requests, (list, tuple)) else ()
    params = [each for each in (get(request, "params") for request in given) if each]
    texts = [get(each, name) for each in params for name in ("system", "messages", "tools")]
    bounds = [get(each, "max_tokens") for each in params]
    whole = {
        "model": next((get(each, "model") for each in params), None),
        "messages": [text for text in texts if text is not None],
        "max_tokens": sum(each for each in bounds if type(each) is int),
    }
    return whole, max(len(params), 1)


_MESSAGES = Route("messages", read_message, MessageStream, max_tokens_names=("max_tokens",))
_BATCHES = Route(
    "messages.batches",
    read_batch,
    MessageStream,
    max_tokens_names=("max_tokens",),
    expand_batch=view_batch,
    forecast_as="messages",
    tier="batch",
)
_COMPLETE = Route(
    "complete", read_message, MessageStream, max_tokens_names=("max_tokens_to_sample",)
)  # the oldest SDKs' text completions, which tell nothing
_RESULTS = re.compile(r"/messages/batches/([^/]+)/results$")


def route(method: str, path: str) -> Route | bool:
    """Return a metered route, True for a free operation, False for an unknown one; see
    `route.Sdk`.
    """
    if method == "POST":
        for ending, found in _ROUTES:
            if path.endswith(ending):
                return found
        return path.startswith(_FREE_POST) or path.endswith("/cancel")
    if method == "GET":
        results = _RESULTS.search(path)
        if results is None:
            return True
        reader = partial(BatchResults, ref=_ref(results[1]))
        return Route("messages.batches.results", read_batch, reader, reports_job_usage=True)
    return method in ("DELETE", "HEAD")


_ROUTES = (("/messages", _MESSAGES), ("/messages/batches", _BATCHES), ("/complete", _COMPLETE))


def provider(client: Any) -> str:
    """Return who is called through a client, told by its class."""
    kind = type(client).__name__
    for part, who in _PROVIDERS:
        if part in kind:
            return who
    return "anthropic"


def tells_stream_usage(client: Any) -> bool:
    """Return False: these streams always tell their usage."""
    return False
