"""What LiteLLM's answers and errors tell: usage, who answered, a cache, a connection never made.

Pure reading; see `litellm.py` for the call. Names were read from litellm 1.60 and 1.110 (2026-11).
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from typing import Any

from paygent.client.instrument.anthropic.routes import MessageStream, read_message
from paygent.client.instrument.http_sdks.outcome import NEVER_SENT
from paygent.client.instrument.openai.answers import ChatStream, read_chat
from paygent.client.instrument.streams.byte_tap import BytesReader
from paygent.core.estimate import Estimate, measure
from paygent.core.usage import JobStatus, Usage, fields_of, get

PROVIDERS = {
    "azure_ai": "azure",
    "azure_text": "azure",
    "bedrock": "aws",
    "bedrock_converse": "aws",
    "cohere_chat": "cohere",
    "custom_openai": "openai",
    "fireworks_ai": "fireworks",
    "gemini": "google",
    "moonshot": "moonshotai",
    "text-completion-openai": "openai",
    "together_ai": "together",
    "vertex_ai": "google",
    "vertex_ai_beta": "google",
    "xai": "x-ai",
}
"""LiteLLM's names of providers that have another one here."""

_CACHED = "cached_response"
"""The provider of a stream that comes out of LiteLLM's cache."""


def read_completion(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
    """Read an answer of the chat shape: whoever answered, its input includes what a cache gave.

    LiteLLM writes its own idea of the cost into `usage.cost`; only OpenRouter's is a bill.
    """
    usage = read_chat(answer, want_tools)
    if usage is None:
        return None
    told = fields_of(get(answer, "usage"))
    details = fields_of(told.get("prompt_tokens_details"))
    if not (usage.cache_write_tokens or usage.cache_write_long_tokens):
        written = _count(details, "cache_creation_tokens", usage.input_tokens)
        lifetimes = fields_of(details.get("cache_creation_token_details"))
        written_long = _count(lifetimes, "ephemeral_1h_input_tokens", written)
        usage = usage._replace(
            cache_write_tokens=written - written_long, cache_write_long_tokens=written_long
        )
    if hidden_of(answer).get("custom_llm_provider") != "openrouter":
        usage = usage._replace(billed_nano=None)
    return usage


class MessageEvents:
    """Reads a stream of Anthropic's messages, which LiteLLM hands on as the bytes of its events."""

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._events = MessageStream(want_tools, drops_usage_chunk)
        headers = {"content-type": "text/event-stream"}
        self._bytes = BytesReader(headers, self._events, read_message, is_plain=True)

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk; see `StreamReader.feed`."""
        if isinstance(chunk, bytes):
            self._bytes.feed_bytes(chunk)
        else:
            self._events.feed(chunk)
        return None

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return what was used; see `StreamReader.usage`."""
        return self._events.usage(estimate)


def read_nothing(answer: Any, want_tools: bool) -> None:
    """Read an answer that tells nothing, such as sound."""


def _count(fields: Mapping[str, Any], name: str, most: int) -> int:
    value = fields.get(name)
    return min(value, most) if type(value) is int and value > 0 else 0


def hidden_of(answer: Any) -> Mapping[str, Any]:
    """Return what LiteLLM keeps with an answer, beside its fields."""
    hidden = getattr(answer, "_hidden_params", None)
    return hidden if isinstance(hidden, Mapping) else {}


# -- who answered


def provider_of(answer: Any) -> str:
    """Return who gave an answer or a stream, which after a fallback is not who was asked; "" where
    it does not tell.
    """
    for told in (
        hidden_of(answer).get("custom_llm_provider"),
        getattr(answer, "custom_llm_provider", None),
    ):
        if isinstance(told, str) and told:
            return PROVIDERS.get(told, told)
    return ""


def answered_by(provider: str, usage: Usage | JobStatus | None) -> Usage | JobStatus | None:
    """Return a usage with who answered."""
    return usage._replace(provider=provider) if isinstance(usage, Usage) else usage


# -- LiteLLM's own cache


def is_from_cache(answer: Any) -> bool:
    """Tell whether an answer, or a part of it, comes out of LiteLLM's cache."""
    if hidden_of(answer).get("cache_hit"):
        return True
    within = getattr(answer, "completion_stream", None)  # of a stream around a stream
    return _CACHED in (
        getattr(answer, "custom_llm_provider", None),
        getattr(within, "custom_llm_provider", None),
    )


def read_part(usage: Usage | JobStatus | None, asked: Any, whole: Any) -> Usage | JobStatus | None:
    """Return what embedding took where a cache gave the rest: LiteLLM adds up the tokens of both.

    Args:
        usage: As the answer tells it.
        asked: What the provider was asked to embed.
        whole: What the application asked for.
    """
    asked_bytes = measure({"input": asked}).text_bytes
    whole_bytes = measure({"input": whole}).text_bytes
    if not isinstance(usage, Usage) or not asked_bytes < whole_bytes:
        return usage
    input_tokens = -(-usage.input_tokens * asked_bytes // whole_bytes)
    return usage._replace(input_tokens=input_tokens, quality="estimated")


# -- its errors


def is_rejected(names: Collection[str], error: BaseException) -> bool:
    """Tell whether LiteLLM was given an answer, and does not hand it on: a rule or a schema of the
    application's forbids it. A rule for requests raises the same, before anything is sent.

    Args:
        names: Of the error's class and its bases.
        error: What LiteLLM raised.
    """
    if "APIResponseValidationError" not in names:
        return False
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "pre_call_rules":
            return False
        trace = trace.tb_next
    return True


def read_rejected(answer: Any, estimate: Estimate) -> Usage | JobStatus | None:
    """Read an answer that LiteLLM has rejected, which it tells whole or as its text; None for one
    that it does not tell.
    """
    if not isinstance(answer, str):
        return read_completion(answer, False)
    reader = ChatStream(False, False)
    reader.feed({"choices": [{"delta": {"content": answer}}]})
    return reader.usage(estimate)


_NEVER_SENT = frozenset({*NEVER_SENT, "ClientConnectorError", "ConnectionTimeoutError"})
"""The last two are of aiohttp, which LiteLLM's async calls may go through."""
_ERRORS_MAX = 16


def was_never_sent(error: BaseException, handled: BaseException | None) -> bool:
    """Tell whether what LiteLLM made an error of is a connection that was never made.

    LiteLLM raises its own error while it handles the one that came from below, and most often names
    no cause, so the contexts are gone through: not beyond what the application was handling when it
    called, and not into an earlier attempt, whose error is LiteLLM's own again.

    Args:
        error: What LiteLLM raised.
        handled: The exception that the caller was handling when the call began.
    """
    each: BaseException | None = error
    for _ in range(_ERRORS_MAX):
        if each is None or each is handled or (each is not error and hasattr(each, "llm_provider")):
            break
        if any(base.__name__ in _NEVER_SENT for base in type(each).__mro__):
            return True
        each = each.__cause__ or each.__context__
    return False
