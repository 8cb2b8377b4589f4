"""Reads the usage of an answer whose maker nobody named: any known shape, then the application's
own extractors.

An answer may be anything that a callable returns, so nothing here relies on more than the fields it
looks at, and what cannot be read is None.
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
_COUNTS = (
    "prompt_tokens",
    "completion_tokens",
    "input_tokens",
    "output_tokens",
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
)
_ANTHROPIC_COUNTS = ("cache_read_input_tokens", "cache_creation_input_tokens")


def read_known(answer: Any, want_tools: bool, provider: str = "") -> Usage | JobStatus | None:
    """Read an answer of OpenAI's or Anthropic's shape, an SDK's object or a dict.

    Args:
        answer: What the call gave.
        want_tools: Whether the names of called tools are wanted.
        provider: "openai" or "anthropic" where that is known; otherwise the shape tells.
    """
    answer = _plain(answer)
    usage = get(answer, "usage")
    if usage is None:
        return None
    if provider == "anthropic" or (provider != "openai" and _is_message(answer, usage)):
        return read_message(answer, want_tools)
    if get(answer, "object") == "response" or get(answer, "output") is not None:
        return read_response(answer, want_tools)
    return read_chat(answer, want_tools)


def _is_message(answer: Any, usage: Any) -> bool:
    """Tell whether an answer is Anthropic's, whose input excludes what its cache gave."""
    if get(answer, "type") == "message":
        return True
    fields = fields_of(usage)
    return any(fields.get(name) is not None for name in _ANTHROPIC_COUNTS)


def _plain(answer: Any) -> Any:
    """Return an answer whose fields can be read: itself, or for an object with slots or properties
    a dict of what is looked at.
    """
    if get(answer, "usage") is not None:
        usage = get(answer, "usage")
    else:
        usage = getattr(answer, "usage", None)
        if usage is None:
            return answer
        answer = {name: getattr(answer, name, None) for name in _PARTS}
    fields = fields_of(usage)
    if any(fields.get(name) is not None for name in _COUNTS):
        return answer
    counts = {name: getattr(usage, name, None) for name in _COUNTS}
    return {
        **fields_of(answer),
        "usage": {name: count for name, count in counts.items() if isinstance(count, int)},
    }


def reader_for(
    provider: str, extractors: Iterable[ProviderConfig]
) -> Callable[[Any, bool], Usage | JobStatus | None]:
    """Return a function that reads the usage of any answer, as `Route.read` does.

    Args:
        provider: Who is called, "" where that is not known; a registered name has its own extractor
            asked first, and alone.
        extractors: The application's providers.
    """
    known = {each.name: each.extract_tokens for each in extractors if each.extract_tokens}
    named = known.get(provider)

    def read(answer: Any, want_tools: bool) -> Usage | JobStatus | None:
        if named is not None:
            return _extract(provider, named, answer)
        usage = read_known(answer, want_tools, provider)
        if usage is None:
            parsed = _opened(answer)
            if parsed is not None:
                usage = read_known(parsed, want_tools, provider)
        for name, extract in known.items() if usage is None else ():
            usage = usage or _extract(name, extract, answer)
        return usage

    return read


def _extract(name: str, extract: Callable[[Any], Any], answer: Any) -> Usage | None:
    """Return what the application's extractor finds; one that fails is said once."""
    return attempt(f"extract_tokens:{name}", lambda: usage_of(extract(answer)))


def _opened(answer: Any) -> Any:
    """Return what is inside an envelope that is opened with `parse()`; None for other answers.

    Only a plain method without arguments is called: a parser of the application's wants a text.
    """
    parse = getattr(answer, "parse", None)
    if not inspect.ismethod(parse) or inspect.iscoroutinefunction(parse):
        return None
    needed = [
        each
        for each in inspect.signature(parse).parameters.values()
        if each.default is each.empty and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        return None
    parsed = parse()
    if inspect.iscoroutine(parsed):  # of a method that does not look it
        parsed.close()
        return None
    return parsed


class AnyStream:
    """Chunks of a stream whose maker the first chunk tells."""

    __slots__ = ("_reader", "_want_tools")

    def __init__(self, want_tools: bool, drops_usage_chunk: bool) -> None:
        self._want_tools = want_tools
        self._reader: StreamReader | None = None

    def feed(self, chunk: Any) -> bool | None:
        """Read one chunk; see `StreamReader.feed`. None is ever kept from the application."""
        if self._reader is None:
            kind = get(chunk, "type")
            if not isinstance(kind, str):
                made: Any = ChatStream
            else:
                made = ResponseStream if kind.startswith("response.") else MessageStream
            self._reader = made(self._want_tools, False)
        return self._reader.feed(chunk)

    def usage(self, estimate: Estimate) -> Usage | JobStatus | None:
        """Return what was used; see `StreamReader.usage`."""
        return self._reader.usage(estimate) if self._reader is not None else None
