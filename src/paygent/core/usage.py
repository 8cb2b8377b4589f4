"""One normal form for what a call used, whatever the provider calls it.

OpenAI and Gemini report totals that *include* cached tokens, Anthropic and Bedrock report them
*exclusive* of cached and written ones. Here every count is inclusive: `input_tokens` is all of the
input, and cached, written, audio and image tokens are parts of it; `output_tokens` is all of the
output and contains reasoning. Readers accept an SDK's object or a plain dict and never raise: a
count that is no count reads as 0 and makes the usage `partial`.

Field names were read from the type definitions of openai 3.54 and anthropic 2.12 (2026-11).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Literal, NamedTuple

Quality = Literal["exact", "partial", "estimated", "unpriced"]
"""How far a usage or a cost can be trusted, best first.

`exact`: the provider's own count, priced. `partial`: the provider's count of a part, the rest
counted or dropped here. `estimated`: our estimate, since no usage arrived. `unpriced`: tokens are
known, at least one unit has no price.
"""

RARE_COUNTS = (
    "cache_write_long_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
    "web_searches",
)
"""Counts that an event keeps by name (`Event.details`), since most calls have none of them."""


class Usage(NamedTuple):
    """What one call used. Counts are tokens unless their name says otherwise.

    Attributes:
        input_tokens: All input, cached and written parts included.
        output_tokens: All output, reasoning included.
        cached_input_tokens: Input read from the provider's cache.
        cache_write_tokens: Input written to a cache of the short lifetime (5 to 30 minutes).
        cache_write_long_tokens: Input written to a cache of the long lifetime (1 to 12 hours).
        reasoning_tokens: Output that the model spent on thinking.
        audio_input_tokens, audio_output_tokens: Audio parts of input and output.
        image_input_tokens, image_output_tokens: Image parts of input and output.
        web_searches: Requests that the provider's own search tool made.
        model: The model that the provider says answered, or None.
        tier: The provider's price variant: a service tier (`flex`, `priority`) or `fast`; "" is
            standard.
        quality: See `Quality`; a reader gives "exact" or "partial".
        tool_calls: Names of the application's tools that the answer calls, in order.
    """

    input_tokens: int = 0
    output_tokens: int = 0
    cached_input_tokens: int = 0
    cache_write_tokens: int = 0
    cache_write_long_tokens: int = 0
    reasoning_tokens: int = 0
    audio_input_tokens: int = 0
    audio_output_tokens: int = 0
    image_input_tokens: int = 0
    image_output_tokens: int = 0
    web_searches: int = 0
    model: str | None = None
    tier: str = ""
    quality: Quality = "exact"
    tool_calls: tuple[str, ...] = ()

    @property
    def total_tokens(self) -> int:
        """Input and output together, the figure that token limits count."""
        return self.input_tokens + self.output_tokens

    @property
    def rare_counts(self) -> dict[str, int] | None:
        """The counts of `RARE_COUNTS` that are not 0, or None where all are."""
        if not (self[4] or self[6] or self[7] or self[8] or self[9] or self[10]):
            return None  # most calls, without a look at the names
        return {name: getattr(self, name) for name in RARE_COUNTS if getattr(self, name)}


_COUNT_MAX = 10**12  # a larger "count of tokens" is a broken answer, not a use
_STANDARD_TIERS = frozenset({"", "default", "standard", "auto", "standard_only"})


Fields = Mapping[str, Any]


def fields_of(value: Any) -> Fields:
    """Return the fields of an SDK's object or of a dict, for reading.

    A pydantic object answers a field that it does not have through two slow look-ups; its own dict
    does not.
    """
    if isinstance(value, dict):
        return value
    fields: Fields | None = getattr(value, "__dict__", None)
    if fields is None:
        return _NO_FIELDS
    extra = getattr(value, "__pydantic_extra__", None)
    return {**fields, **extra} if extra else fields


_NO_FIELDS: Fields = {}


def get(value: Any, name: str) -> Any:
    """Read a field of an SDK's object or of a dict; None where there is none."""
    return fields_of(value).get(name)


class _Counter:
    """Reads counts and remembers whether one of them was no count."""

    __slots__ = ("clean",)

    def __init__(self) -> None:
        self.clean = True

    def read(self, fields: Fields, name: str) -> int:
        """Return the count `name`: absent is 0, odd is 0 and noted."""
        value = fields.get(name)
        if value is None:
            return 0
        if type(value) is int and 0 <= value <= _COUNT_MAX:
            return value
        if isinstance(value, float) and 0 <= value <= _COUNT_MAX and value == int(value):
            return int(value)
        self.clean = False
        return 0

    def part(self, fields: Fields, name: str, whole: int) -> int:
        """Return the count `name`, which is a part of `whole` and so cannot exceed it."""
        value = self.read(fields, name)
        if value > whole:
            self.clean = False
            return whole
        return value

    @property
    def quality(self) -> Quality:
        """Return what the counts read so far are worth."""
        return "exact" if self.clean else "partial"


def from_openai(
    usage: Any, *, model: Any = None, tier: Any = None, tool_usage: Any = None
) -> Usage | None:
    """Read the usage object of OpenAI's chat, completions, responses and embeddings routes.

    Args:
        usage: `{prompt_tokens, completion_tokens, …_details}` or `{input_tokens, output_tokens,
            …}`.
        model: The answer's `model`.
        tier: The answer's `service_tier`.
        tool_usage: The `tool_usage` of a response, for built-in tools that cost per request.

    Returns:
        The usage, or None when there is none to read (`usage` is None or names no count).
    """
    if usage is None:
        return None
    fields = fields_of(usage)
    prompt, completion = "prompt_tokens", "completion_tokens"
    if fields.get(prompt) is None and fields.get(completion) is None:
        prompt, completion = "input_tokens", "output_tokens"
        if fields.get(prompt) is None and fields.get(completion) is None:
            return None
    count = _Counter()
    input_tokens = count.read(fields, prompt)
    output_tokens = count.read(fields, completion)
    cached = written = written_long = audio_in = image_in = 0
    details = fields.get(prompt + "_details")
    if details is not None:
        inputs = fields_of(details)
        cached = count.part(inputs, "cached_tokens", input_tokens)
        written = count.part(inputs, "cache_write_tokens", input_tokens - cached)
        lifetimes = inputs.get("cache_write_tokens_details")
        if lifetimes is not None:
            written_long = count.part(fields_of(lifetimes), "ttl_12h_tokens", written)
        audio_in = count.part(inputs, "audio_tokens", input_tokens)
        image_in = count.part(inputs, "image_tokens", input_tokens)
    reasoning = audio_out = image_out = 0
    details = fields.get(completion + "_details")
    if details is not None:
        outputs = fields_of(details)
        reasoning = count.part(outputs, "reasoning_tokens", output_tokens)
        audio_out = count.part(outputs, "audio_tokens", output_tokens)
        image_out = count.part(outputs, "image_tokens", output_tokens)
    searches = 0
    if tool_usage is not None:
        searches = count.read(fields_of(get(tool_usage, "web_search")), "num_requests")
    return Usage(
        input_tokens,
        output_tokens,
        cached,
        written - written_long,
        written_long,
        reasoning,
        audio_in,
        audio_out,
        image_in,
        image_out,
        searches,
        model if isinstance(model, str) else None,
        read_tier(tier),
        count.quality,
    )


def from_anthropic(usage: Any, *, model: Any = None) -> Usage | None:
    """Read the usage object of Anthropic's Messages routes, whose input excludes cached and written
    tokens.

    Args:
        usage: `{input_tokens, output_tokens, cache_read_input_tokens, cache_creation_input_tokens,
            …}`.
        model: The answer's `model`.

    Returns:
        The usage in inclusive form, or None when there is none to read.
    """
    if usage is None:
        return None
    fields = fields_of(usage)
    if fields.get("input_tokens") is None and fields.get("output_tokens") is None:
        return None
    count = _Counter()
    fresh = count.read(fields, "input_tokens")
    cached = count.read(fields, "cache_read_input_tokens")
    written = count.read(fields, "cache_creation_input_tokens")
    written_long = 0
    lifetimes = fields.get("cache_creation")
    if lifetimes is not None:
        written_long = count.read(fields_of(lifetimes), "ephemeral_1h_input_tokens")
        short = count.read(fields_of(lifetimes), "ephemeral_5m_input_tokens")
        written = max(written, written_long + short)
    output_tokens = count.read(fields, "output_tokens")
    details = fields.get("output_tokens_details")
    reasoning = 0
    if details is not None:
        reasoning = count.part(fields_of(details), "thinking_tokens", output_tokens)
    tools = fields.get("server_tool_use")
    searches = count.read(fields_of(tools), "web_search_requests") if tools is not None else 0
    return Usage(
        input_tokens=fresh + cached + written,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written - written_long,
        cache_write_long_tokens=written_long,
        reasoning_tokens=reasoning,
        web_searches=searches,
        model=model if isinstance(model, str) else None,
        tier="fast" if fields.get("speed") == "fast" else read_tier(fields.get("service_tier")),
        quality=count.quality,
    )


def read_tier(tier: Any) -> str:
    """Return the price variant of a service tier; "" for the standard one and for no tier."""
    if not isinstance(tier, str) or tier in _STANDARD_TIERS:
        return ""
    return tier
