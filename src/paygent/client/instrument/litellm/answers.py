"""LiteLLM's answers and errors: usage, provider, cache hits, connections that were never made.

Pure reading; the call is in `call.py`. Names were read from litellm 1.60 and 1.110 (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paygent.client.instrument.anthropic.answers import MessageStream, read_message
from paygent.client.instrument.http_sdks.outcome import NEVER_SENT
from paygent.client.instrument.openai.answers import ChatStream, read_chat
from paygent.client.instrument.streams.byte_tap import BytesReader
from paygent.core.estimate import Estimate
from paygent.core.providers import canonical_provider
from paygent.core.request_size import measure
from paygent.core.usage import JobStatus, Usage, fields_of, get, token_count


def read_completion(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
    """Read an answer in the format of chat completions. For every provider, LiteLLM's input tokens
    include the cached ones.
    """
    usage = read_chat(answer, want_tools)
    if usage is None:
        return None
    details = fields_of(get(get(answer, "usage"), "prompt_tokens_details"))
    if not (usage.cache_write_tokens or usage.cache_write_long_tokens):
        written = _count(details, "cache_creation_tokens", usage.input_tokens)
        lifetimes = fields_of(details.get("cache_creation_token_details"))
        written_long = _count(lifetimes, "ephemeral_1h_input_tokens", written)
        usage = usage._replace(
            cache_write_tokens=written - written_long, cache_write_long_tokens=written_long
        )
    # LiteLLM writes a cost of its own into `usage.cost`; only OpenRouter's is a bill.
    if hidden_of(answer).get("custom_llm_provider") != "openrouter":
        usage = usage._replace(billed_nano=None)
    return usage


class MessageEvents:
    """Reads a stream of Anthropic's messages, which LiteLLM passes on as bytes of events."""

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._events = MessageStream(want_tools, drops_usage_chunk)
        headers = {"content-type": "text/event-stream"}
        self._bytes = BytesReader(headers, self._events, read_message, is_plain=True)

    def feed(self, chunk: Any) -> None:
        """Read one chunk; see `StreamReader.feed`."""
        if isinstance(chunk, bytes):
            self._bytes.feed_bytes(chunk)
        else:
            self._events.feed(chunk)

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return the usage; see `StreamReader.usage`."""
        return self._events.usage(estimate)


def read_nothing(answer: Any, want_tools: bool) -> None:
    """Read an answer without usage, such as sound."""


def _count(fields: Mapping[str, Any], name: str, maximum: int) -> int:
    return min(token_count(fields.get(name)) or 0, maximum)


def hidden_of(answer: Any) -> Mapping[str, Any]:
    """Return the hidden parameters that LiteLLM attaches to an answer."""
    hidden = getattr(answer, "_hidden_params", None)
    return hidden if isinstance(hidden, Mapping) else {}


# -- the provider


def provider_of(answer: Any) -> str:
    """Return the provider of an answer or a stream, which after a fallback is not the requested
    one; "" where it is not named.
    """
    hidden = hidden_of(answer).get("custom_llm_provider")
    for name in (hidden, getattr(answer, "custom_llm_provider", None)):
        if isinstance(name, str) and name:
            return canonical_provider(name)
    return ""


def answered_by(provider: str, usage: Usage | JobStatus | None) -> Usage | JobStatus | None:
    """Return a usage with its provider."""
    return usage._replace(provider=provider) if isinstance(usage, Usage) else usage


# -- LiteLLM's own cache


def is_from_cache(answer: Any) -> bool:
    """Return whether an answer, or a part of it, comes from LiteLLM's cache."""
    if hidden_of(answer).get("cache_hit"):
        return True
    inner = getattr(answer, "completion_stream", None)  # of a stream around a stream
    # LiteLLM names this provider for a stream from its cache.
    return any(
        getattr(stream, "custom_llm_provider", None) == "cached_response"
        for stream in (answer, inner)
    )


def read_part(usage: Usage | JobStatus | None, part: Any, whole: Any) -> Usage | JobStatus | None:
    """Return the usage of embeddings that a cache had in part: LiteLLM adds up the tokens of both,
    and only `part` of the `whole` input was sent to the provider.
    """
    part_bytes = measure({"input": part}).text_bytes
    whole_bytes = measure({"input": whole}).text_bytes
    if not isinstance(usage, Usage) or not part_bytes < whole_bytes:
        return usage
    input_tokens = -(-usage.input_tokens * part_bytes // whole_bytes)
    return usage._replace(input_tokens=input_tokens, quality="estimated")


# -- its errors

_ERRORS_MAX = 16


def is_of_request_rule(error: BaseException) -> bool:
    """Return whether a LiteLLM error comes from `litellm.pre_call_rules`, before anything is sent.
    A rule for answers raises the same class.
    """
    trace = error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_name == "pre_call_rules":
            return True
        trace = trace.tb_next
    return False


def read_rejected(answer: Any, estimate: Estimate) -> Usage | JobStatus | None:
    """Read an answer that LiteLLM has rejected, which its error carries whole, as text or not."""
    if not isinstance(answer, str):
        return read_completion(answer, False)
    reader = ChatStream(False, False)
    reader.feed({"choices": [{"delta": {"content": answer}}]})
    return reader.usage(estimate)


def was_never_sent(error: BaseException, handled: BaseException | None) -> bool:
    """Return whether a LiteLLM error was caused by a connection that was never made; `handled` is
    the exception that the caller was handling when the call began.
    """
    # LiteLLM raises its error while it handles the one from below, and usually sets no cause. The
    # search ends at the caller's own exception, and at an earlier attempt: another LiteLLM error.
    for _ in range(_ERRORS_MAX):
        cause = error.__cause__ or error.__context__
        if cause is None or cause is handled or hasattr(cause, "llm_provider"):
            break
        if any(base.__name__ in NEVER_SENT for base in type(cause).__mro__):
            return True
        error = cause
    return False
