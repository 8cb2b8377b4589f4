"""How much a call may use, told from its request alone.

The expected input is a quarter token per UTF-8 byte (English measures 0.24); the bound is one token
per byte, which no byte-level tokenizer exceeds. Images and files are counted as a constant, since
their size in bytes says little about their tokens. No tokenizer is loaded: it would cost megabytes,
a download at first use, and milliseconds per call. What calls of a model and route really took
corrects the expectation from the first that settles (`observe`, `expect`), and its spread decides
how much a set of calls holds beyond the sum of their means (`held_by`).
"""

from __future__ import annotations

from collections.abc import Mapping
from math import isqrt
from typing import Any, NamedTuple

from paygent.core.pricing import Rates, tokens_cost_nano

BYTES_PER_TOKEN = 4
PART_TOKENS = 1_500
"""Tokens of an image or file part: a full-detail image of 1024 × 1024 costs 765 to 1,600 by
provider.
"""

OBSERVATIONS_MIN = 3
"""Calls that must have settled before their mean is believed."""

_DEPTH_MAX = 24  # deeper JSON than any SDK sends; keeps a cyclic body from being followed for ever
_NOTHING: dict[str, Any] = {}
_OPAQUE_TYPES = frozenset(
    {
        "image_url",
        "image",
        "input_image",
        "input_audio",
        "audio",
        "input_file",
        "file",
        "document",
        "video_url",
    }
)
_TEXT_KEYS = (
    "messages",
    "input",
    "prompt",
    "system",
    "instructions",
    "tools",
    "response_format",
    "text",
)


class Size(NamedTuple):
    """How large a request is.

    Attributes:
        text_bytes: UTF-8 bytes of its text.
        parts: Image or file parts.
        caches: Whether it asks the provider to write a cache.
    """

    text_bytes: int
    parts: int = 0
    caches: bool = False


_NO_SIZE = Size(0)
_CACHE_KEY = "cache_control"  # Anthropic's; other providers write their caches unasked


class Estimate(NamedTuple):
    """Tokens that a call is held for."""

    input_tokens: int
    output_tokens: int


class UsageStats(NamedTuple):
    """What settled calls of one model and route really took, as running sums.

    Attributes:
        calls: How many were observed.
        input_bytes, input_tokens: Sums over them; their quotient tunes the expected input.
        output_tokens: Sum over them.
        cost_nano, plain_nano: What they cost, and what their tokens cost at the plain prices of
            input and output; the quotient tunes for cached tokens, tools and fees.
        spread_tokens, spread_nano: Sums of squares of what each took beside what was expected of it
            by the calls before; divided by `calls - 1` they are variances.
    """

    calls: int = 0
    input_bytes: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    plain_nano: int = 0
    spread_tokens: int = 0
    spread_nano: int = 0


_OBSERVED_CALLS_MAX = (
    200  # older calls fade: the sums are halved here, so the mean follows a change
)


class Observation(NamedTuple):
    """What one settled call took.

    Attributes:
        weight: Size of its request, as `weight_of` tells it.
        input_tokens, output_tokens: As the provider counted them.
        cost_nano: The whole of its cost.
        max_tokens: The request's own bound on output, or None.
        plain_nano: What its tokens cost at the plain prices, if that is known already.
    """

    weight: int
    input_tokens: int
    output_tokens: int
    cost_nano: int = 0
    max_tokens: int | None = None
    plain_nano: int | None = None


def observe(
    seen: UsageStats, taken: Observation, rates: Rates, expected: tuple[int, int] | None = None
) -> UsageStats:
    """Add one settled call to what was observed.

    Args:
        seen: The calls before.
        taken: The call.
        rates: What its tokens cost.
        expected: Tokens and nano-dollars that the calls before had one expect of it, if that was
            worked out already.
    """
    weight, input_tokens, output_tokens, cost, max_tokens, plain = taken
    if plain is None:
        plain = tokens_cost_nano(input_tokens, output_tokens, rates)
    off_tokens = off_nano = 0
    calls = seen[0]
    if calls:
        if expected is None:
            means = _means(seen)
            estimate = tokens_of(means, weight, max_tokens)
            expected = estimate[0] + estimate[1], cost_of(means, estimate, rates)
        tokens = input_tokens + output_tokens - expected[0]
        nano = cost - expected[1]
        # The mean of n calls is off itself; this weight makes the sum that of a running variance.
        off_tokens = tokens * tokens * calls // (calls + 1)
        off_nano = nano * nano * calls // (calls + 1)
        if calls >= _OBSERVED_CALLS_MAX:
            seen = UsageStats(*(each // 2 for each in seen))
    return UsageStats(
        seen[0] + 1,
        seen[1] + weight,
        seen[2] + input_tokens,
        seen[3] + output_tokens,
        seen[4] + cost,
        seen[5] + plain,
        seen[6] + off_tokens,
        seen[7] + off_nano,
    )


def weight_of(size: Size) -> int:
    """Return the size of a request in bytes of text; an opaque part weighs what its tokens would
    have as text.
    """
    return size[0] + size[1] * (PART_TOKENS * BYTES_PER_TOKEN)


class Expectation(NamedTuple):
    """What a call of one model and route is expected to use.

    Attributes:
        input_tokens, input_bytes: Their quotient is tokens per byte of request.
        input_extra: Input tokens of a call beside those of its bytes (what a request only refers
            to: images by address, earlier turns, a wrapped function's prompt).
        output_tokens: Of a call without `max_tokens`.
        takes_max_tokens: Whether a call with `max_tokens` is expected to use all of them, since too
            little is known; otherwise it uses the output above, and never more than it asks for.
        cost_nano, plain_nano: Their quotient turns the plain price of tokens into a cost; (0, 0) is
            one to one.
        extra_nano: What a call costs beside its tokens, where those are free.
        variance_tokens, variance_nano: Of a single call; 0 while too little is known.
        drift_tokens, drift_nano: Standard deviation of the mean, which all calls of a set share.
    """

    input_tokens: int
    input_bytes: int
    input_extra: int
    output_tokens: int
    takes_max_tokens: bool
    cost_nano: int = 0
    plain_nano: int = 0
    extra_nano: int = 0
    variance_tokens: int = 0
    variance_nano: int = 0
    drift_tokens: int = 0
    drift_nano: int = 0


class ColdStartPolicy(NamedTuple):
    """How a plan has calls held of which too little is known.

    Attributes:
        buffer_tokens: Output of a call without `max_tokens`.
        model_max_tokens: Most output that the model can give, or None where it is not known.
        safety_ppm: Factor, in parts per million (1.2 is 1_200_000).
        generates: Whether the route has output at all (embeddings have none).
    """

    buffer_tokens: int
    model_max_tokens: int | None
    safety_ppm: int
    generates: bool = True


def expect(own: UsageStats, everyone: UsageStats, caution: ColdStartPolicy) -> Expectation:
    """Return what the next call of a user is expected to use.

    Three observations are believed: those of the user, else those of everyone. With fewer, the
    output is the plan's buffer; what is known of the input is used from the first observation on,
    times the plan's factor, and the larger of the two words counts.

    Args:
        own: What this user's calls of this model and route took.
        everyone: What all users' calls of them took.
        caution: What holds while too little is known.
    """
    if own[0] >= OBSERVATIONS_MIN:
        return _spread(_means(own), own)
    safety = caution.safety_ppm
    if everyone[0] >= OBSERVATIONS_MIN:
        means = _spread(_means(everyone), everyone)
        return _larger(means, _times(_means(own), safety)) if own[0] else means
    known = own if own[0] else everyone
    if known[0]:
        means = _times(_means(known), safety)
    else:
        means = Expectation(safety, BYTES_PER_TOKEN * _PPM, 0, 0, True)
    output_tokens = 0
    if caution.generates:
        output_tokens = -(-caution.buffer_tokens * safety // _PPM)
        if caution.model_max_tokens is not None:
            output_tokens = min(output_tokens, caution.model_max_tokens)
    return means._replace(output_tokens=output_tokens, takes_max_tokens=caution.generates)


_PPM = 10**6


def _means(seen: UsageStats) -> Expectation:
    """Return the means of what was observed (at least one call), without their spread."""
    calls, weight, input_tokens, output_tokens, cost, plain = seen[:6]
    input_extra = 0
    if input_tokens > weight:  # no text has more tokens than bytes: the rest came from elsewhere
        input_extra = -(-(input_tokens - weight) // calls)
        input_tokens = weight = 1
    extra_nano = 0 if plain else -(-cost // calls)
    return Expectation(
        input_tokens,
        weight or 1,
        input_extra,
        -(-output_tokens // calls),
        False,
        cost if plain else 0,
        plain,
        extra_nano,
    )


def _spread(means: Expectation, seen: UsageStats) -> Expectation:
    """Add the spread of what was observed (at least two calls)."""
    calls, tokens, nano = seen[0], seen[6] // (seen[0] - 1), seen[7] // (seen[0] - 1)
    return Expectation(*means[:8], tokens, nano, _root_up(tokens // calls), _root_up(nano // calls))


def _root_up(square: int) -> int:
    root = isqrt(square)
    return root + 1 if root * root < square else root


def _times(means: Expectation, ppm: int) -> Expectation:
    """Multiply the tokens that are expected."""
    return means._replace(
        input_tokens=means.input_tokens * ppm,
        input_bytes=means.input_bytes * _PPM,
        input_extra=-(-means.input_extra * ppm // _PPM),
        output_tokens=-(-means.output_tokens * ppm // _PPM),
    )


def _larger(one: Expectation, other: Expectation) -> Expectation:
    """Return the first with every mean that is larger in the second."""
    if one.input_tokens * other.input_bytes < other.input_tokens * one.input_bytes:
        one = one._replace(input_tokens=other.input_tokens, input_bytes=other.input_bytes)
    if one.cost_nano * other.plain_nano < other.cost_nano * one.plain_nano:
        one = one._replace(cost_nano=other.cost_nano, plain_nano=other.plain_nano)
    return one._replace(
        input_extra=max(one.input_extra, other.input_extra),
        output_tokens=max(one.output_tokens, other.output_tokens),
        extra_nano=max(one.extra_nano, other.extra_nano),
    )


def tokens_of(expectation: Expectation, weight: int, max_tokens: int | None) -> Estimate:
    """Return the tokens that a call is expected to use.

    Args:
        expectation: Of its model and route.
        weight: Size of its request, as `weight_of` tells it.
        max_tokens: The request's own bound on output (times its number of answers), or None.
    """
    tokens, per_bytes, extra, output_tokens, takes_max_tokens = expectation[:5]
    if max_tokens is not None and (takes_max_tokens or max_tokens < output_tokens):
        output_tokens = max_tokens
    return Estimate(-(-weight * tokens // per_bytes) + extra, output_tokens)


def cost_of(expectation: Expectation, estimate: Estimate, rates: Rates) -> int:
    """Return what a call is expected to cost, in nano-dollars."""
    plain = tokens_cost_nano(estimate[0], estimate[1], rates)
    cost, known, extra = expectation[5:8]
    if cost != known:
        plain = -(-plain * cost // known)
    return plain + extra


class HoldMoments(NamedTuple):
    """What calls in flight weigh on an account, in the unit of its metric; sums over calls add.

    Attributes:
        mean: What is expected of them.
        variance: Of single calls, whose errors cancel.
        drift: Deviation of the mean that they rest on, whose error they share.
    """

    mean: int
    variance: int = 0
    drift: int = 0


_ONE_CALL = HoldMoments(1)


def held_by(mean: int, variance: int, drift: int) -> int:
    """Return what is held for a set of calls: their mean and two standard deviations of its
    error.
    """
    if not variance and not drift:
        return mean
    return mean + 2 * isqrt(variance + drift * drift)


def load_of(
    expectation: Expectation, metric: str, weight: int, max_tokens: int | None, rates: Rates
) -> HoldMoments:
    """Return what a call weighs on an account, as one of a set of calls like it.

    Args:
        expectation: Of its model and route.
        metric: Of the account.
        weight: Size of its request, as `weight_of` tells it.
        max_tokens: The request's own bound on output, or None.
        rates: What its tokens cost.
    """
    if metric == "calls":
        return _ONE_CALL
    estimate = tokens_of(expectation, weight, max_tokens)
    is_spend = metric == "spend"
    mean = cost_of(expectation, estimate, rates) if is_spend else estimate[0] + estimate[1]
    return load_around(mean, expectation, metric, max_tokens)


def load_around(
    mean: int, expectation: Expectation, metric: str, max_tokens: int | None
) -> HoldMoments:
    """Return what a call weighs of which the mean is worked out already; otherwise as `load_of`."""
    is_spend = metric == "spend"
    if metric == "calls":
        return _ONE_CALL
    if max_tokens is not None and max_tokens <= expectation[3]:
        return HoldMoments(mean)  # such a call stops where it is expected to
    variance, drift = expectation[9::2] if is_spend else expectation[8::2]
    return HoldMoments(mean, variance, drift)


def measure(body: Any) -> Size:
    """Return the size of a request body.

    Args:
        body: The JSON body as the SDK holds it. Anything else counts as empty.
    """
    if not isinstance(body, Mapping):
        return Size(0, 0)
    total = parts = 0
    caches = not _is_absent(body.get(_CACHE_KEY))
    for key in _TEXT_KEYS:
        value = body.get(key)
        if _is_absent(value):
            continue
        if isinstance(value, str):
            total += _utf8_bytes(value)
        elif key == "messages" and isinstance(value, list):
            for item in value:
                # A message of role and text, which most are, is not worth a walk.
                if type(item) is dict and len(item) == 2:
                    role, text = item.get("role"), item.get("content")
                    if type(role) is str and type(text) is str:
                        total += _utf8_bytes(role) + _utf8_bytes(text)
                        continue
                inner = _walk((item,), 0)
                total += inner[0]
                parts += inner[1]
                caches |= inner[2]
        else:
            inner = _walk(value, 0)
            total += inner[0]
            parts += inner[1]
            caches |= inner[2]
    return Size(total, parts, caches)


def _is_absent(value: Any) -> bool:
    """Tell whether a field of a body is one that will not be sent: SDKs keep an object of their own
    in its place.
    """
    return value is None or type(value).__name__ in _PLACEHOLDERS


_PLACEHOLDERS = frozenset({"Omit", "NotGiven"})


def _utf8_bytes(text: str) -> int:
    """Return the UTF-8 length of a text; ASCII, the common case, is told without encoding it."""
    return len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass"))


def _walk(value: Any, depth: int, path: tuple[int, ...] = ()) -> Size:
    """Return the size of a nested JSON value."""
    if depth > _DEPTH_MAX or id(value) in path:
        return _NO_SIZE
    total = parts = 0
    caches = False
    if isinstance(value, dict):
        kind = value.get("type")
        caches = not _is_absent(value.get(_CACHE_KEY))
        if isinstance(kind, str) and kind in _OPAQUE_TYPES:  # a JSON Schema may have a list here
            return Size(0, 1, caches)
        items: Any = value.values()
    elif isinstance(value, (list, tuple)):
        if value and type(value[0]) is int:  # an embedding input that is tokens already
            return Size(len(value) * BYTES_PER_TOKEN)
        items = value
    else:  # an SDK's object, such as an answer that was appended to the messages
        items = getattr(value, "__dict__", _NOTHING).values()
    for item in items:
        if isinstance(item, str):
            total += len(item) if item.isascii() else len(item.encode("utf-8", "surrogatepass"))
        else:
            inner = _walk(item, depth + 1, (*path, id(value)))
            total += inner[0]
            parts += inner[1]
            caches |= inner[2]
    return Size(total, parts, caches)


def bound(
    size: Size,
    *,
    max_tokens: int | None,
    buffer_tokens: int,
    model_max_tokens: int | None,
    generates: bool = True,
) -> Estimate:
    """Return the most that a call can use, as its request tells.

    Args:
        size: Size of the request.
        max_tokens: The request's own bound on output (times its number of answers), or None.
        buffer_tokens: Taken where neither the request nor the model has a bound.
        model_max_tokens: Most output the model can give, or None where it is not known.
        generates: Whether the route has output at all (embeddings have none).
    """
    output_tokens = max_tokens
    if output_tokens is None:
        output_tokens = model_max_tokens if model_max_tokens is not None else buffer_tokens
    return Estimate(size.text_bytes + size.parts * PART_TOKENS, output_tokens if generates else 0)


def output_that_fits(metric: str, left: int, input_tokens: int, most: int, *, rates: Rates) -> int:
    """Return how much output fits into what is left of a limit, with its input.

    Args:
        metric: Of the limit.
        left: What is left of it, in that unit.
        input_tokens: What the call sends.
        most: Upper bound on the answer.
        rates: What its tokens cost.
    """
    if metric == "calls":
        return most if left else 0
    if metric == "tokens":
        return min(max(left - input_tokens, 0), most)
    if not left:
        return 0
    low, high = 0, most  # the largest output whose rounded cost fits; costs grow with output
    if tokens_cost_nano(input_tokens, low, rates) > left:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if tokens_cost_nano(input_tokens, middle, rates) <= left:
            low = middle
        else:
            high = middle - 1
    return low
