"""OpenAI's SDK (1.60 to 3.x): names of its routes, hosts and fields. No logic of its own.

Routes and fields were read from the type definitions of openai 3.54 and 1.60 (2026-11).
"""

from __future__ import annotations

import os
from typing import Any

from paygent.core.estimate import Estimate
from paygent.core.usage import Usage, fields_of, from_openai, get
from paygent.instrument.funnel import Route
from paygent.instrument.stream import counted, field, text_bytes

name = "openai"
module = "openai"
base_module = "openai._base_client"
clients = ("OpenAI", "AsyncOpenAI")
base_clients = ("SyncAPIClient", "AsyncAPIClient")

resources = {
    "openai.resources.chat.completions": ("Completions", "AsyncCompletions"),
    "openai.resources.beta.chat.completions": ("Completions", "AsyncCompletions"),
    "openai.resources.responses": ("Responses", "AsyncResponses"),
    "openai.resources.embeddings": ("Embeddings", "AsyncEmbeddings"),
    "openai.resources.completions": ("Completions", "AsyncCompletions"),
}
"""Where the resource methods are that take the `paygent_*` arguments; versions lack some."""

resource_methods = ("create", "parse", "stream")

STREAM_USAGE_HOSTS_VARIABLE = "PAYGENT_STREAM_USAGE_HOSTS"

_HOSTS = {
    "api.openai.com": "openai",
    "openrouter.ai": "openrouter",
    "api.groq.com": "groq",
    "api.deepseek.com": "deepseek",
    "api.mistral.ai": "mistral",
    "api.x.ai": "x-ai",
    "api.together.xyz": "together",
    "api.fireworks.ai": "fireworks",
    "api.perplexity.ai": "perplexity",
    "api.cerebras.ai": "cerebras",
    "api.moonshot.ai": "moonshotai",
    "generativelanguage.googleapis.com": "google",
    "api.anthropic.com": "anthropic",
}
_AZURE_HOSTS = (
    ".openai.azure.com",
    ".cognitiveservices.azure.com",
    ".services.ai.azure.com",
    ".azure-api.net",
)
_LOOPBACK = ("localhost", "127.0.0.1", "::1", "0.0.0.0")  # noqa: S104 - compared, not bound
_STREAM_USAGE_PROVIDERS = ("openai", "azure", "openrouter", "groq")

_FREE_POST = ("/moderations", "/files", "/uploads", "/responses/input_tokens")
_COSTLY_GET = (
    "/responses/",
    "/batches",
)  # usage of background responses and batches arrives on a GET


# -- usage of answers


def read_chat(answer: Any, want_tools: bool) -> Usage | None:
    """Read a chat completion, a legacy completion or an embedding."""
    fields = fields_of(answer)
    usage = from_openai(
        fields.get("usage"), model=fields.get("model"), tier=fields.get("service_tier")
    )
    if usage is None or not want_tools:
        return usage
    names = [
        field(tool, "function", "name")
        for choice in fields.get("choices") or ()
        for tool in field(choice, "message", "tool_calls") or ()
    ]
    return usage._replace(tool_calls=_strings(names))


def read_response(answer: Any, want_tools: bool) -> Usage | None:
    """Read a response of the Responses API."""
    fields = fields_of(answer)
    usage = from_openai(
        fields.get("usage"),
        model=fields.get("model"),
        tier=fields.get("service_tier"),
        tool_usage=fields.get("tool_usage"),
    )
    if usage is None or not want_tools:
        return usage
    calls = [item for item in fields.get("output") or () if get(item, "type") == "function_call"]
    return usage._replace(tool_calls=_strings([get(item, "name") for item in calls]))


def _strings(names: list[Any]) -> tuple[str, ...]:
    return tuple(each for each in names if isinstance(each, str) and each)


# -- usage of streams


class ChatStream:
    """Chunks of chat and legacy completions: usage in the last chunk, if it was asked for."""

    __slots__ = ("_drops", "_known", "_model", "_text_bytes", "_tier", "_tools", "_want_tools")

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._drops = drops_usage_chunk
        self._want_tools = want_tools
        self._known: Usage | None = None
        self._model: Any = None
        self._tier: Any = None
        self._text_bytes = 0
        self._tools: list[Any] = []

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk; see `StreamReader.feed`."""
        choices = get(chunk, "choices")
        usage = get(chunk, "usage")
        if usage is not None:
            self._model = get(chunk, "model")
            self._tier = get(chunk, "service_tier")
            self._known = from_openai(usage, model=self._model, tier=self._tier)
            if not choices:
                return self._drops
        for choice in choices or ():
            self._feed_choice(choice)
        if self._model is None:
            self._model = get(chunk, "model")
        return None

    def _feed_choice(self, choice: Any) -> None:
        delta = get(choice, "delta")
        if delta is None:  # a legacy completion
            self._text_bytes += text_bytes(get(choice, "text"))
            return
        self._text_bytes += text_bytes(get(delta, "content"))
        tools = get(delta, "tool_calls")
        if tools:
            for tool in tools:
                self._text_bytes += text_bytes(field(tool, "function", "arguments"))
                if self._want_tools:
                    self._tools.append(field(tool, "function", "name"))

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return what was used; see `StreamReader.usage`."""
        usage = self._known or counted(None, self._text_bytes, estimate)
        if usage is None:
            return None
        model = self._model if isinstance(self._model, str) else None
        return usage._replace(model=usage.model or model, tool_calls=_strings(self._tools))


class ResponseStream:
    """Events of the Responses API: usage in the event that ends the response."""

    __slots__ = ("_answer", "_model", "_text_bytes", "_want_tools")

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._want_tools = want_tools
        self._answer: Usage | None = None
        self._model: Any = None
        self._text_bytes = 0

    def feed(self, event: Any) -> bool | None:
        """Read one event; see `StreamReader.feed`."""
        kind = get(event, "type")
        if not isinstance(kind, str):
            return None
        if kind.endswith(".delta"):
            self._text_bytes += text_bytes(get(event, "delta"))
        elif kind in ("response.completed", "response.incomplete", "response.failed"):
            self._answer = read_response(get(event, "response"), self._want_tools)
        elif kind == "response.created":
            self._model = field(event, "response", "model")
        return None

    def usage(self, estimate: Estimate) -> Usage | None:
        """Return what was used; see `StreamReader.usage`."""
        if self._answer is not None:
            return self._answer
        usage = counted(None, self._text_bytes, estimate)
        model = self._model if isinstance(self._model, str) else None
        return usage._replace(model=model) if usage is not None else None


# -- routes

_CHAT_BOUNDS = ("max_completion_tokens", "max_tokens")

_ROUTES = {
    "/chat/completions": Route(
        "chat.completions",
        read_chat,
        ChatStream,
        max_tokens_names=_CHAT_BOUNDS,
        asks_for_usage=True,
    ),
    "/completions": Route(
        "completions", read_chat, ChatStream, max_tokens_names=("max_tokens",), asks_for_usage=True
    ),
    "/responses": Route(
        "responses", read_response, ResponseStream, max_tokens_names=("max_output_tokens",)
    ),
    "/embeddings": Route("embeddings", read_chat, ChatStream, generates=False),
}


def route(method: str, path: str) -> Route | bool:
    """Return a metered route, True for a free operation, False for an unknown one; see
    `funnel.Sdk`.
    """
    if method == "POST":
        found = _ROUTES.get(path)
        if found is not None:
            return found
        for (
            known,
            other,
        ) in _ROUTES.items():  # a base_url without /v1, or a path with a deployment in it
            if known != "/completions" and path.endswith(known):
                return other
        return path.startswith(_FREE_POST)
    if method == "GET":
        return not path.startswith(_COSTLY_GET)
    return method in ("DELETE", "HEAD")


# -- who is called


def provider(client: Any) -> str:
    """Return who is called through a client: told by its class and host, not by the path."""
    if "Azure" in type(client).__name__:
        return "azure"
    host = _host(client)
    if host.endswith(_AZURE_HOSTS):
        return "azure"
    return _HOSTS.get(host, "openai")


def tells_stream_usage(client: Any) -> bool:
    """Tell whether the host is known to honour `include_usage`.

    Others may refuse the option, so it is not sent to them unless `PAYGENT_STREAM_USAGE_HOSTS`
    (host names, separated by commas) names them.
    """
    host = _host(client)
    if host in _HOSTS or host.endswith(_AZURE_HOSTS):
        return provider(client) in _STREAM_USAGE_PROVIDERS
    if host in _LOOPBACK or "Azure" in type(client).__name__:
        return True
    named = os.environ.get(STREAM_USAGE_HOSTS_VARIABLE, "")
    return host in {each.strip().lower() for each in named.split(",")}


def _host(client: Any) -> str:
    return str(getattr(getattr(client, "base_url", None), "host", "") or "").lower()
