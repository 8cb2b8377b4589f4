"""How much a call may use, estimated from its request and from earlier calls.

The expected input is a quarter token per UTF-8 byte, corrected by what earlier calls really used
(`usage_stats`). A strict plan takes the bound instead. An account holds a set of calls for the sum
of their means and two standard deviations of its error (`held_by`). Far from every line that set is
not computed: `HoldBound` bounds what one call adds to it by a sum of products.
"""

from __future__ import annotations

from collections.abc import Iterable
from math import isqrt
from typing import NamedTuple

from paygent.core.money import NanoUsd
from paygent.core.named_values import values_of
from paygent.core.pricing import ONE_NANO, Rates, dearest_prices, tokens_cost_nano
from paygent.core.request_size import PART_TOKENS, Size


class Estimate(NamedTuple):
    """The tokens held for a call."""

    input_tokens: int
    output_tokens: int


class Expectation(NamedTuple):
    """The expected usage of a call of one model and route.

    Attributes:
        input_tokens, input_bytes: Their quotient is tokens per byte of request.
        input_extra: Input tokens besides those of the request's bytes: content that it only refers
            to (images by address, earlier turns, the prompt of a wrapped function).
        output_tokens: Of a call without `max_tokens`.
        takes_max_tokens: Whether a call with `max_tokens` is expected to use all of them, because
            too few calls were observed; otherwise it uses the output above, up to its bound.
        cost_nano, plain_nano: Their quotient turns the plain price of tokens into a cost; (0, 0) is
            one to one.
        extra_nano: The cost of a call besides its tokens, if those are free.
        variance_tokens, variance_nano: Of a single call; 0 until enough calls were observed.
        drift_tokens, drift_nano: Standard deviation of the mean, an error that all calls of a set
            share.
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


_tokens_of = values_of(
    Expectation,
    ("input_tokens", "input_bytes", "input_extra", "output_tokens", "takes_max_tokens"),
)
_cost_of = values_of(Expectation, ("cost_nano", "plain_nano", "extra_nano"))


def tokens_of(expectation: Expectation, weight: int, max_tokens: int | None) -> Estimate:
    """Return the expected tokens of a call of this `weight_of` and this bound on its output."""
    tokens, per_bytes, extra, output_tokens, takes_max_tokens = _tokens_of(expectation)
    if max_tokens is not None and (takes_max_tokens or max_tokens < output_tokens):
        output_tokens = max_tokens
    return Estimate(-(-weight * tokens // per_bytes) + extra, output_tokens)


def cost_of(expectation: Expectation, estimate: Estimate, rates: Rates) -> NanoUsd:
    """Return the expected cost of a call."""
    nano = int(tokens_cost_nano(estimate.input_tokens, estimate.output_tokens, rates))
    cost, plain, extra = _cost_of(expectation)
    if cost != plain:
        nano = -(-nano * cost // plain)
    return NanoUsd(nano + extra)


class HoldMoments(NamedTuple):
    """What calls in flight hold on an account, in the unit of its metric. Moments of calls add.

    Attributes:
        mean: Their expected usage.
        variance: Of single calls; these errors cancel out.
        drift: Deviation of the mean behind the expectation; this error is common to all.
    """

    mean: int
    variance: int = 0
    drift: int = 0


_ONE_CALL = HoldMoments(1)


def held_by(mean: int, variance: int, drift: int) -> int:
    """Return the hold of a set of calls: their mean and two standard deviations of its error."""
    if not variance and not drift:
        return mean
    return mean + 2 * isqrt(variance + drift * drift)


class CallGroup(NamedTuple):
    """Calls in flight that share a forecast and a bound on output.

    Attributes:
        expectation, rates: Of their forecast, as they are now.
        max_tokens: Their bound on output, or None.
        calls: Their number.
        weight: The sizes of their requests together.
    """

    expectation: Expectation
    rates: Rates
    max_tokens: int | None
    calls: int
    weight: int


def hold_of(metric: str, groups: Iterable[CallGroup], fixed: int = 0) -> int:
    """Return what calls in flight hold on an account, in the unit of its metric.

    Args:
        metric: "spend" (nano-dollars), "tokens" or "calls".
        groups: The calls that are re-estimated as their forecasts learn.
        fixed: What all other calls hold.
    """
    mean, variance, drift = fixed, 0, 0
    for group in groups:
        count = group.calls
        one = moments_of(
            group.expectation, metric, -(-group.weight // count), group.max_tokens, group.rates
        )
        mean += one.mean * count
        variance += one.variance * count
        drift += one.drift * count
    return held_by(mean, variance, drift)


def moments_of(
    expectation: Expectation, metric: str, weight: int, max_tokens: int | None, rates: Rates
) -> HoldMoments:
    """Return the moments of a call on an account of a metric, as one of a set of like calls."""
    if metric == "calls":
        return _ONE_CALL
    estimate = tokens_of(expectation, weight, max_tokens)
    mean = cost_of(expectation, estimate, rates) if metric == "spend" else sum(estimate)
    if max_tokens is not None and max_tokens <= expectation.output_tokens:
        return HoldMoments(mean)  # its bound stops it there
    if metric == "spend":
        return HoldMoments(mean, expectation.variance_nano, expectation.drift_nano)
    return HoldMoments(mean, expectation.variance_tokens, expectation.drift_tokens)


class HoldBound(NamedTuple):
    """An upper bound on what a call adds to the hold of any set of calls, linear in its size.

    The hold of a set is at most the sum of its members' means and of two of each of their standard
    deviations, so the bounds of calls may be added up without looking at the set.

    Attributes:
        per_byte, per_output_token, fixed: Terms of the cost, in 10⁻¹⁸ dollars.
        tokens_per_byte, tokens_fixed: Terms of the tokens, in millionths; each token of output is
            one besides.
        output_tokens: Output of a call without `max_tokens`, and where its own bound is larger.
        takes_max_tokens: As in `Expectation`.
    """

    per_byte: int
    per_output_token: int
    fixed: int
    tokens_per_byte: int
    tokens_fixed: int
    output_tokens: int
    takes_max_tokens: bool

    def of(self, weight: int, max_tokens: int) -> tuple[int, int]:
        """Return the bound of a call: its cost in 10⁻¹⁸ dollars, its tokens in millionths.

        Args:
            weight: Size of the request, from `weight_of`.
            max_tokens: Its bound on output; 0 where it has none.
        """
        output = self.output_tokens
        if max_tokens and (self.takes_max_tokens or max_tokens < output):
            output = max_tokens
        return (
            weight * self.per_byte + output * self.per_output_token + self.fixed,
            weight * self.tokens_per_byte + output * MILLIONTHS + self.tokens_fixed,
        )


MILLIONTHS = 10**6


def expected_bound(expectation: Expectation, rates: Rates) -> HoldBound:
    """Return the bound of calls that hold what is expected of them; see `moments_of`."""
    prices = dearest_prices(rates)
    cost, plain, extra_nano = _cost_of(expectation)
    if cost == plain:
        cost = plain = 1
    tokens, per_bytes = expectation.input_tokens, expectation.input_bytes
    # A set is held for its mean weight, rounded up to a byte, and that for tokens rounded up.
    extra = expectation.input_extra + 1 - (-tokens // per_bytes)
    spread_nano = 2 * (isqrt(expectation.variance_nano) + 1 + expectation.drift_nano)
    spread_tokens = 2 * (isqrt(expectation.variance_tokens) + 1 + expectation.drift_tokens)
    rounding_nano = 2 + cost // plain
    return HoldBound(
        -(-prices.input * tokens * cost // (per_bytes * plain)),
        -(-prices.output * cost // plain),
        -(-extra * prices.input * cost // plain)
        + (extra_nano + spread_nano + rounding_nano) * ONE_NANO,
        -(-tokens * MILLIONTHS // per_bytes),
        (extra + spread_tokens) * MILLIONTHS,
        expectation.output_tokens,
        expectation.takes_max_tokens,
    )


def bound(
    size: Size,
    *,
    max_tokens: int | None,
    buffer_tokens: int,
    model_max_tokens: int | None,
    generates: bool = True,
) -> Estimate:
    """Return the most that a call can use: one token per byte, which no byte-level tokenizer
    exceeds, and the bound on its output.

    Args:
        size: Of the request.
        max_tokens: The request's own bound on output (times its number of answers), or None.
        buffer_tokens: Output if neither the request nor the model has a known bound.
        model_max_tokens: The model's maximum output, or None if not known. A context window is no
            such bound: holding it would refuse the first call of a small plan.
        generates: Whether the route has output at all (embeddings have none).
    """
    output_tokens = max_tokens
    if output_tokens is None:
        output_tokens = model_max_tokens if model_max_tokens is not None else buffer_tokens
    return Estimate(size.text_bytes + size.parts * PART_TOKENS, output_tokens if generates else 0)


def output_that_fits(metric: str, left: int, input_tokens: int, most: int, *, rates: Rates) -> int:
    """Return how much output, `most` at the most, fits with its input into what a limit of a metric
    has left.
    """
    if metric == "calls":
        return most if left else 0
    if metric == "tokens":
        return min(max(left - input_tokens, 0), most)
    low, high = 0, most  # bisection: the cost grows with the output
    if not left or tokens_cost_nano(input_tokens, low, rates) > left:
        return 0
    while low < high:
        middle = (low + high + 1) // 2
        if tokens_cost_nano(input_tokens, middle, rates) <= left:
            low = middle
        else:
            high = middle - 1
    return low
