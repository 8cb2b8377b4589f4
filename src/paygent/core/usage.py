"""One normal form for what a call used, whatever the provider calls it.

OpenAI and Gemini report totals that *include* cached tokens, Anthropic and Bedrock report them
*exclusive* of cached and written ones. Here every count is inclusive: `input_tokens` is all of the
input, and cached, written, audio and image tokens are parts of it; `output_tokens` is all of the
output and contains reasoning. Readers accept an SDK's object or a plain dict and never raise: a
count that is no count reads as 0 and makes the usage `partial`.

Field names were read from the type definitions of openai 3.57 and anthropic 2.13 (2026-11).
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from paygent.core.money import read_cost_nano

Quality = Literal["exact", "partial", "estimated", "unpriced"]
"""How far a usage or a cost can be trusted, best first.

`exact`: the provider's own count, priced. `partial`: the provider's count of a part, the rest
counted or dropped here. `estimated`: our estimate, since no usage arrived, or a price that had to
be assumed. `unpriced`: the use is known, at least one unit of it has no price.
"""

QUALITIES: tuple[Quality, ...] = get_args(Quality)
"""Best first."""

RARE_COUNTS = (
    "cache_write_long_tokens",
    "audio_input_tokens",
    "audio_output_tokens",
    "image_input_tokens",
    "image_output_tokens",
    "web_searches",
    "file_searches",
    "characters",
    "audio_ms",
    "cached_image_tokens",
    "cached_audio_tokens",
    "unlisted_units",
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
        file_searches: Requests to the provider's file search.
        characters: Of text that was spoken, where speech is billed by them.
        audio_ms: Milliseconds of audio, where a model is billed by its duration.
        cached_image_tokens, cached_audio_tokens: Image and audio input read from the provider's
            cache; not among `image_input`, `audio_input` and `cached_input`.
        unlisted_units: What was used and is in no price list: sessions of a code interpreter,
            images that are billed by the piece.
        model: The model that the provider says answered, or None.
        tier: The provider's price variants, joined by "+": a service tier (`flex`, `priority`),
            `batch`, `fast`, `us`; "" is standard.
        quality: See `Quality`; a reader gives "exact" or "partial".
        tool_calls: Names of the application's tools that the answer calls, in order.
        others: What other models did for this call, inside the provider (images drawn for a
            response, an advisor's advice); not among the counts above.
        billed_nano: What the provider says it has billed for the call, or None.
        largest_input_tokens: Where the counts are sums over several requests, a bound on the input
            of each of them, which decides their price tier, or 0 where nobody tells; -1 is one
            request.
        provider: Who answered, where a gateway tells: after a fallback it is not who was asked. ""
            is who was asked.
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
    file_searches: int = 0
    characters: int = 0
    audio_ms: int = 0
    cached_image_tokens: int = 0
    cached_audio_tokens: int = 0
    unlisted_units: int = 0
    model: str | None = None
    tier: str = ""
    quality: Quality = "exact"
    tool_calls: tuple[str, ...] = ()
    others: tuple[Usage, ...] = ()
    billed_nano: int | None = None
    largest_input_tokens: int = -1
    provider: str = ""

    @property
    def counts(self) -> tuple[int, ...]:
        """All that is counted, in the order above."""
        return self[:17]

    @property
    def total_tokens(self) -> int:
        """Input and output together, the figure that token limits count."""
        return self.input_tokens + self.output_tokens

    @property
    def all_cached_tokens(self) -> int:
        """Input read from the provider's cache, of every kind."""
        return self.cached_input_tokens + self.cached_image_tokens + self.cached_audio_tokens

    @property
    def rare_counts(self) -> dict[str, int] | None:
        """The counts of `RARE_COUNTS` that are not 0, or None where all are."""
        if not self[4] and self[6:17] == _NONE_RARE:
            return None  # most calls, without a look at the names
        return {name: getattr(self, name) for name in RARE_COUNTS if getattr(self, name)}


_NONE_RARE = (0,) * 11


class JobStatus(NamedTuple):
    """What a provider says of work whose use it tells later, under an id of its own: a response in
    the background, a batch.

    Attributes:
        ref: Which work, by kind and the provider's id, such as "response:resp_123".
        usages: What it has used, each to be priced by itself, once the provider has told all of
            it; None before.
        model: The model that the provider names, or None.
        tier: As in `Usage`.
    """

    ref: str
    usages: tuple[Usage, ...] | None = None
    model: str | None = None
    tier: str = ""

    @property
    def use_now(self) -> Usage | None:
        """What is known of its use where it was over at once; None where it goes on."""
        if self.usages is None:
            return None
        return self.usages[0] if self.usages else Usage(model=self.model)


_COUNT_MAX = 10**12  # a larger "count of tokens" is a broken answer, not a use
_STANDARD_TIERS = frozenset(
    {"", "default", "standard", "auto", "standard_only", "on_demand"}  # the last is Groq's
)
US_ONLY = "us"
"""Price variant of Anthropic's calls that are kept in the United States."""


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
        given = fields.get(name)
        if type(given) is int and 0 <= given <= whole:
            return given  # as nearly always
        value = self.read(fields, name)
        if value > whole:
            self.clean = False
            return whole
        return value

    @property
    def quality(self) -> Quality:
        """Return what the counts read so far are worth."""
        return "exact" if self.clean else "partial"


def from_openai(usage: Any, *, model: Any = None, tier: Any = None) -> Usage | None:
    """Read the usage object of OpenAI's routes that count tokens, and of hosts that speak alike.

    Args:
        usage: `{prompt_tokens, completion_tokens, …_details}` or `{input_tokens, output_tokens,
            …}`.
        model: The answer's `model`.
        tier: The answer's `service_tier`.

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
    total = fields.get("total_tokens")
    # xAI and Gemini leave what a model spent on thinking out of the completion, not of the total.
    thought = max(total - input_tokens - output_tokens, 0) if type(total) is int else 0
    output_tokens += thought
    cached = written = written_long = audio_in = image_in = 0
    details = fields.get(prompt + "_details")
    if details is None:
        details = fields.get("input_token_details")  # of a transcription
    if details is not None:
        inputs = fields_of(details)
        cached = count.part(inputs, "cached_tokens", input_tokens)
        written = count.part(inputs, "cache_write_tokens", input_tokens - cached)
        lifetimes = inputs.get("cache_write_tokens_details")
        if lifetimes is not None:
            written_long = count.part(fields_of(lifetimes), "ttl_12h_tokens", written)
        audio_in = count.part(inputs, "audio_tokens", input_tokens)
        image_in = count.part(inputs, "image_tokens", input_tokens)
    else:
        for name in ("cached_tokens", "prompt_cache_hit_tokens"):  # Moonshot's and DeepSeek's own
            if fields.get(name) is not None:
                cached = count.part(fields, name, input_tokens)
    reasoning, audio_out, image_out = thought, 0, 0
    details = fields.get(completion + "_details")
    if details is not None:
        outputs = fields_of(details)
        reasoning = max(count.part(outputs, "reasoning_tokens", output_tokens), thought)
        audio_out = count.part(outputs, "audio_tokens", output_tokens)
        image_out = count.part(outputs, "image_tokens", output_tokens)
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
        model=model if isinstance(model, str) else None,
        tier=read_tier(tier),
        quality=count.quality,
    )


def with_hosted_tools(usage: Usage, *, tool_usage: Any, output: Any, tools: Any) -> Usage:
    """Add what OpenAI's own tools did for a response.

    `tool_usage` is what OpenAI bills by; an answer without it (of older servers) is read from its
    output items instead, whose images tell no tokens.

    Args:
        usage: Of the response's model.
        tool_usage: The response's `tool_usage`, or None.
        output: The response's output items.
        tools: The tools of the response, which say what model draws its images.
    """
    items: Iterable[Any] = output if isinstance(output, (list, tuple)) else ()
    kinds = [get(item, "type") for item in items]
    count = _Counter()
    others: tuple[Usage, ...] = ()
    unlisted = kinds.count("code_interpreter_call")
    if tool_usage is not None:
        searches = count.read(fields_of(get(tool_usage, "web_search")), "num_requests")
        drawn = _drawn(get(tool_usage, "image_gen"), tools)
        if drawn is not None:
            others = (drawn,)
    else:
        # Opening a page and finding a text in it are free.
        actions = [get(get(item, "action"), "type") for item in items if _is_search(item)]
        searches = sum(action in ("search", None) for action in actions)
        unlisted += kinds.count("image_generation_call")
    return usage._replace(
        web_searches=searches,
        file_searches=kinds.count("file_search_call"),
        unlisted_units=unlisted,
        others=others,
        quality=usage.quality if count.clean else "partial",
    )


def _is_search(item: Any) -> bool:
    return bool(get(item, "type") == "web_search_call")


_DRAWS_UNNAMED = "gpt-image-1"  # the tool's own default, by its type definition


def _drawn(image_gen: Any, tools: Any) -> Usage | None:
    """Return what drawing images for a response took; None where nothing was drawn."""
    drawn = from_images(image_gen)
    if drawn is None or not drawn.total_tokens:
        return None
    models = [
        get(tool, "model")
        for tool in (tools if isinstance(tools, (list, tuple)) else ())
        if get(tool, "type") == "image_generation"
    ]
    model = next((each for each in models if isinstance(each, str) and each), _DRAWS_UNNAMED)
    count = _Counter()
    cached = count.part(fields_of(image_gen), "cached_tokens", drawn.input_tokens)
    images = fields_of(get(image_gen, "cached_tokens_details"))
    cached_images = count.part(images, "cached_image_tokens", min(cached, drawn.image_input_tokens))
    return drawn._replace(
        cached_input_tokens=cached - cached_images,
        cached_image_tokens=cached_images,
        image_input_tokens=drawn.image_input_tokens - cached_images,
        model=model,
    )


def from_images(usage: Any, *, model: Any = None) -> Usage | None:
    """Read the usage of drawing images, whose output is images where nothing else is said."""
    read = from_openai(usage, model=model)
    if read is not None and get(usage, "output_tokens_details") is None:
        read = read._replace(image_output_tokens=read.output_tokens)
    return read


_AUDIO_S_MAX = 10**7  # longer audio, of four months, is a broken answer


def from_realtime(usage: Any, *, model: Any = None) -> Usage | None:
    """Read the usage of a response of the Realtime API, whose cached tokens are told apart by kind.

    Returns:
        The usage, or None when there is none to read.
    """
    fields = fields_of(usage)
    if fields.get("input_tokens") is None and fields.get("output_tokens") is None:
        return None
    count = _Counter()
    whole = count.read(fields, "input_tokens")
    inputs = fields_of(fields.get("input_token_details"))
    audio = count.part(inputs, "audio_tokens", whole)
    image = count.part(inputs, "image_tokens", whole - audio)
    cached = count.part(inputs, "cached_tokens", whole)
    kinds = inputs.get("cached_tokens_details")
    cached_audio = cached_image = 0
    if kinds is not None:
        cached_audio = count.part(fields_of(kinds), "audio_tokens", min(cached, audio))
        cached_image = count.part(
            fields_of(kinds), "image_tokens", min(cached - cached_audio, image)
        )
    elif cached:
        count.clean = False  # text, audio and images are cached at prices of their own
    cached_text, text = cached - cached_audio - cached_image, whole - audio - image
    if cached_text > text:  # no more comes out of the cache than there is of its kind
        cached_text, count.clean = text, False
    written = count.read(fields, "output_tokens")
    outputs = fields_of(fields.get("output_token_details"))
    return Usage(
        whole,
        written,
        cached_text,
        audio_input_tokens=audio - cached_audio,
        audio_output_tokens=count.part(outputs, "audio_tokens", written),
        image_input_tokens=image - cached_image,
        cached_image_tokens=cached_image,
        cached_audio_tokens=cached_audio,
        model=model if isinstance(model, str) else None,
        quality=count.quality,
    )


def from_transcription(usage: Any, *, model: Any = None) -> Usage | None:
    """Read the usage of a transcription: `{type: "tokens", …}` or `{type: "duration", seconds}`."""
    seconds = get(usage, "seconds")
    if get(usage, "type") != "duration" and seconds is None:
        return from_openai(usage, model=model)
    return from_seconds(seconds, model=model)


def from_seconds(seconds: Any, *, model: Any = None) -> Usage | None:
    """Return a use that is billed by the duration of audio; None where that is no duration."""
    if isinstance(seconds, str):  # a verbose transcription's, in older servers
        try:
            seconds = float(seconds)
        except ValueError:
            return None
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    if not 0 <= seconds <= _AUDIO_S_MAX:
        return None
    return Usage(audio_ms=round(seconds * 1000), model=model if isinstance(model, str) else None)


def read_billed(usage: Any) -> int | None:
    """Return what OpenRouter says in a usage object that it has billed; None where it does not say.

    With a key of the application's own, `cost` is OpenRouter's fee, and the model's provider bills
    `upstream_inference_cost` beside it (openrouter.ai/docs, usage accounting, 2026-11).
    """
    cost = get(usage, "cost")
    if cost is None:
        return None
    upstream = None
    if get(usage, "is_byok") is True:
        upstream = get(get(usage, "cost_details"), "upstream_inference_cost")
    try:
        return read_cost_nano(cost) + (0 if upstream is None else read_cost_nano(upstream))
    except ValueError:
        return None


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
    read = Usage(
        input_tokens=fresh + cached + written,
        output_tokens=output_tokens,
        cached_input_tokens=cached,
        cache_write_tokens=written - written_long,
        cache_write_long_tokens=written_long,
        reasoning_tokens=reasoning,
        web_searches=searches,
        model=model if isinstance(model, str) else None,
        tier=_tiers(fields),
        quality=count.quality,
    )
    iterations = fields.get("iterations")
    return _with_iterations(read, iterations) if iterations else read


def _tiers(fields: Fields) -> str:
    """Return the price variants of an Anthropic answer."""
    speed, tier, geo = fields.get("speed"), fields.get("service_tier"), fields.get("inference_geo")
    if speed is None and geo is None:
        return read_tier(tier)  # most answers
    tiers = (read_tier(tier), "fast" * (speed == "fast"), US_ONLY * (geo == US_ONLY))
    return "+".join(filter(None, tiers))


_TOKENS = (
    "input_tokens",
    "output_tokens",
    "cached_input_tokens",
    "cache_write_tokens",
    "cache_write_long_tokens",
    "reasoning_tokens",
)


def _with_iterations(usage: Usage, iterations: Any) -> Usage:
    """Add the iterations that the counts of an Anthropic answer leave out: those that compact the
    context, which its own model makes, and those of an advisor, which is a model of its own.
    """
    others: list[Usage] = []
    for each in iterations if isinstance(iterations, (list, tuple)) else ():
        kind = get(each, "type")
        if kind not in ("compaction", "advisor_message"):
            continue
        own = from_anthropic(
            {**fields_of(each), "iterations": None}, model=get(each, "model") or usage.model
        )
        if own is None:
            continue
        if kind == "advisor_message":
            others.append(own._replace(tier=usage.tier))
        else:
            usage = usage._replace(
                quality=usage.quality if own.quality == "exact" else "partial",
                **{name: getattr(usage, name) + getattr(own, name) for name in _TOKENS},
            )
    return usage._replace(others=tuple(others)) if others else usage


def read_tier(tier: Any) -> str:
    """Return the price variant of a service tier; "" for the standard one and for no tier."""
    if not isinstance(tier, str) or tier in _STANDARD_TIERS:
        return ""
    return tier
