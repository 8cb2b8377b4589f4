"""Anthropic's SDK (0.40 to 2.x): names of its routes, clients and fields. No logic of its own.

Routes and fields were read from the type definitions of anthropic 2.12 and 0.40 (2026-11).
"""

from __future__ import annotations

from typing import Any

from paygent.core.estimate import Estimate
from paygent.core.usage import Usage, from_anthropic, get
from paygent.instrument.funnel import Route
from paygent.instrument.stream import counted, field, text_bytes

name = "anthropic"
module = "anthropic"
base_module = "anthropic._base_client"
clients = ("Anthropic", "AsyncAnthropic")
base_clients = ("SyncAPIClient", "AsyncAPIClient")

resources = {
    "anthropic.resources.messages": ("Messages", "AsyncMessages"),
    "anthropic.resources.beta.messages": ("Messages", "AsyncMessages"),
}
"""Where the resource methods are that take the `paygent_*` arguments."""

resource_methods = ("create", "parse", "stream")

_PROVIDERS = (("Bedrock", "aws"), ("Vertex", "google"), ("Foundry", "azure"))
_FREE_POST = ("/messages/count_tokens", "/files", "/models")
_COSTLY_GET = ("/messages/batches",)  # usage of batches arrives with their results


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
)


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
        kind = get(event, "type")
        if kind == "content_block_delta":
            delta = get(event, "delta")
            for name_of_text in ("text", "thinking", "partial_json"):
                self._text_bytes += text_bytes(get(delta, name_of_text))
        elif kind == "message_delta":
            self._take(get(event, "usage"))
            self._is_whole = True
        elif kind == "message_start":
            self._model = field(event, "message", "model")
            self._take(field(event, "message", "usage"))
        elif kind == "content_block_start" and self._want_tools:
            self._feed_tool(get(event, "content_block"))
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


_MESSAGES = Route("messages", read_message, MessageStream, max_tokens_names=("max_tokens",))


def route(method: str, path: str) -> Route | bool:
    """Return a metered route, True for a free operation, False for an unknown one; see
    `funnel.Sdk`.
    """
    if method == "POST":
        if path.endswith("/messages"):
            return _MESSAGES
        return path.startswith(_FREE_POST)
    if method == "GET":
        return not path.startswith(_COSTLY_GET)
    return method in ("DELETE", "HEAD")


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
