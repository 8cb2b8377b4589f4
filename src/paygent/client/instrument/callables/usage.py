"""Reads the usage of answers of unknown providers: any known format, then the application's own
extractors.

An answer may be anything that a callable returns, so the code relies only on the fields that it
reads, and returns None for what it cannot read.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from typing import Any

from paygent.client.instrument.anthropic.answers import MessageStream, read_message
from paygent.client.instrument.openai.answers import (
    ChatStream,
    ResponseStream,
    read_chat,
    read_response,
)
from paygent.client.instrument.streams.reader import StreamReader
from paygent.client.runtime.providers import ProviderConfig, usage_of
from paygent.core.estimate import Estimate
from paygent.core.usage import JobStatus, Usage, fields_of, get
from paygent.failopen import attempt

_PARTS = ("usage", "model", "type", "object", "service_tier")
_ANTHROPIC_COUNTS = ("cache_read_input_tokens", "cache_creation_input_tokens")
_OPENAI_COUNTS = ("prompt_tokens", "completion_tokens")
_COUNTS = (*_OPENAI_COUNTS, "input_tokens", "output_tokens", *_ANTHROPIC_COUNTS)


def read_known(answer: Any, want_tools: bool, provider: str = "") -> Usage | JobStatus | None:
    """Read an answer in OpenAI's or Anthropic's format, an SDK's object or a dict. Where the
    provider is neither "openai" nor "anthropic", the fields decide.
    """
    answer = _plain(answer)
    usage = get(answer, "usage")
    if usage is None:
        return None
    if provider == "anthropic" or (provider != "openai" and _is_message(answer, usage)):
        return read_message(answer, want_tools)
    # Other hosts of the Responses API leave `object` out.
    if get(answer, "object") == "response" or get(answer, "output") is not None:
        return read_response(answer, want_tools)
    return read_chat(answer, want_tools)


def _is_message(answer: Any, usage: Any) -> bool:
    """Return whether an answer is Anthropic's, which excludes cached tokens from the input."""
    if get(answer, "type") == "message":
        return True
    fields = fields_of(usage)
    return any(fields.get(name) is not None for name in _ANTHROPIC_COUNTS)


def _plain(answer: Any) -> Any:
    """Return an answer with readable fields: itself, or for an object with slots or properties a
    dict of the relevant ones.
    """
    usage = get(answer, "usage")
    if usage is None:
        # A property or a slot. Reading one may run the application's code, so only named ones.
        usage = getattr(answer, "usage", None)
        if usage is None:
            return answer
        answer = {name: getattr(answer, name, None) for name in _PARTS}
    fields = fields_of(usage)
    if any(fields.get(name) is not None for name in _COUNTS):
        return answer
    # Only integers: a mock has every attribute, and each of them can be converted to a number.
    values = {name: getattr(usage, name, None) for name in _COUNTS}
    counts = {name: value for name, value in values.items() if isinstance(value, int)}
    return {**fields_of(answer), "usage": counts}


def reader_for(
    provider: str, extractors: Iterable[ProviderConfig]
) -> Callable[[Any, bool], Usage | JobStatus | None]:
    """Return a function that reads the usage of any answer, as `Route.read` does. Of a registered
    provider, only its own extractor is used; of another or "", any of the `extractors`.
    """
    known = {config.name: config.extract_tokens for config in extractors if config.extract_tokens}
    named = known.get(provider)

    def read(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
        if named is not None:
            return _extract(provider, named, answer)
        usage = read_known(answer, want_tools, provider)
        if usage is None:
            usage = read_known(_parsed(answer), want_tools, provider)
        # Last, since an extractor may take any object with two numbers for an answer of its own.
        for name, extract in known.items() if usage is None else ():
            usage = usage or _extract(name, extract, answer)
        return usage

    return read


def _extract(name: str, extract: Callable[[Any], Any], answer: Any) -> Usage | None:
    """Return the usage by the application's extractor; a failing one is logged once."""
    return attempt(f"extract_tokens:{name}", lambda: usage_of(extract(answer)))


def _parsed(answer: Any) -> Any:
    """Return the content of an envelope with a `parse` method, such as a raw response; or None."""
    parse = getattr(answer, "parse", None)
    if not inspect.ismethod(parse) or inspect.iscoroutinefunction(parse):
        return None
    try:
        inspect.signature(parse).bind()
    except TypeError:  # it needs an argument: a parser of the application
        return None
    parsed = parse()
    if inspect.iscoroutine(parsed):  # of a plain method that returns one
        parsed.close()
        return None
    return parsed


class AnyStream:
    """Reads a stream of an unknown provider; its first chunk shows the format."""

    __slots__ = ("_reader", "_want_tools")

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._want_tools = want_tools
        self._reader: StreamReader | None = None

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk; see `StreamReader.feed`. It keeps none from the application."""
        if self._reader is None:
            kind = get(chunk, "type")
            reader: Any = MessageStream if isinstance(kind, str) else ChatStream
            if isinstance(kind, str) and kind.startswith("response."):
                reader = ResponseStream
            self._reader = reader(self._want_tools, False)
        return self._reader.feed(chunk)

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return the usage; see `StreamReader.usage`."""
        return self._reader.usage(estimate) if self._reader is not None else None
