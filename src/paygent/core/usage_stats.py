"""What calls of a model and route really used, and what that says about the next one.

The statistics correct the estimate from the first call that settles (`observe`, `expect`); their
spread decides how much a set of calls holds beyond the sum of their means (`estimate.held_by`).
Integers throughout, so that the same calls give the same expectation everywhere.
"""

from __future__ import annotations

from math import isqrt
from typing import NamedTuple

from paygent.core.estimate import Expectation, cost_of, tokens_of
from paygent.core.pricing import Rates, tokens_cost_nano
from paygent.core.request_size import BYTES_PER_TOKEN

OBSERVATIONS_MIN = 3
"""Settled calls that are needed before their mean is used."""


class UsageStats(NamedTuple):
    """The actual usage of settled calls of one model and route, as running sums.

    Attributes:
        calls: Number of observed calls.
        input_bytes, input_tokens: Sums over them; their quotient tunes the expected input.
        output_tokens: Sum over them.
        cost_nano, plain_nano: Their cost, and the cost of their tokens at the plain prices of input
            and output; the quotient accounts for cached tokens, tools and fees.
        spread_tokens, spread_nano: Sums of squared errors of each call against the expectation from
            the calls before it; divided by `calls - 1` they are variances.
    """

    calls: int = 0
    input_bytes: int = 0
    input_tokens: int = 0
    output_tokens: int = 0
    cost_nano: int = 0
    plain_nano: int = 0
    spread_tokens: int = 0
    spread_nano: int = 0


_OBSERVED_CALLS_MAX = 200  # then the sums are halved, so that the mean follows a change


class Observation(NamedTuple):
    """The usage of one settled call.

    Attributes:
        weight: Size of its request, from `weight_of`.
        input_tokens, output_tokens: As the provider counted them.
        cost_nano: Its whole cost.
        max_tokens: The request's own bound on output, or None.
        plain_nano: The cost of its tokens at the plain prices, if already known.
    """

    weight: int
    input_tokens: int
    output_tokens: int
    cost_nano: int = 0
    max_tokens: int | None = None
    plain_nano: int | None = None


def observe(stats: UsageStats, observation: Observation, rates: Rates) -> UsageStats:
    """Add one settled call to the statistics of the calls before."""
    weight, input_tokens, output_tokens, cost, max_tokens, plain = observation
    if plain is None:
        plain = tokens_cost_nano(input_tokens, output_tokens, rates)
    off_tokens = off_nano = 0
    calls = stats.calls
    if calls:
        means = _means(stats)
        estimate = tokens_of(means, weight, max_tokens)
        tokens = input_tokens + output_tokens - sum(estimate)
        nano = cost - cost_of(means, estimate, rates)
        # Welford's update: the mean of n calls has an error of its own, hence n / (n + 1).
        off_tokens = tokens * tokens * calls // (calls + 1)
        off_nano = nano * nano * calls // (calls + 1)
        if calls >= _OBSERVED_CALLS_MAX:
            stats = UsageStats(*(total // 2 for total in stats))
    return UsageStats(
        stats.calls + 1,
        stats.input_bytes + weight,
        stats.input_tokens + input_tokens,
        stats.output_tokens + output_tokens,
        stats.cost_nano + cost,
        stats.plain_nano + plain,
        stats.spread_tokens + off_tokens,
        stats.spread_nano + off_nano,
    )


class ColdStartPolicy(NamedTuple):
    """What a plan assumes about calls until enough of them were observed.

    Attributes:
        buffer_tokens: Output of a call without `max_tokens`.
        model_max_tokens: A ceiling on the model's output, or None if not known.
        safety_ppm: Factor, in parts per million (1.2 is 1_200_000).
        generates: Whether the route has output at all (embeddings have none).
    """

    buffer_tokens: int
    model_max_tokens: int | None
    safety_ppm: int
    generates: bool = True


def expect(own: UsageStats, everyone: UsageStats, cold_start: ColdStartPolicy) -> Expectation:
    """Return the expected usage of a user's next call.

    Three observations suffice: the user's own, or else those of all users. With fewer, the output
    is the plan's buffer, and the input is estimated from the first observation on, times the plan's
    factor. If there are observations of both kinds, the larger estimate counts.
    """
    if own.calls >= OBSERVATIONS_MIN:
        return _means(own, with_spread=True)
    safety = cold_start.safety_ppm
    if everyone.calls >= OBSERVATIONS_MIN:
        means = _means(everyone, with_spread=True)
        return _larger(means, _times(_means(own), safety)) if own.calls else means
    few = own if own.calls else everyone
    if few.calls:
        means = _times(_means(few), safety)
    else:
        means = Expectation(safety, BYTES_PER_TOKEN * _PPM, 0, 0, True)
    output_tokens = 0
    if cold_start.generates:
        output_tokens = -(-cold_start.buffer_tokens * safety // _PPM)
        if cold_start.model_max_tokens is not None:
            output_tokens = min(output_tokens, cold_start.model_max_tokens)
    return means._replace(output_tokens=output_tokens, takes_max_tokens=cold_start.generates)


_PPM = 10**6


def _means(stats: UsageStats, *, with_spread: bool = False) -> Expectation:
    """Return the means of at least one observation; their spread needs at least two."""
    calls, weight, input_tokens, output_tokens, cost, plain, *_ = stats
    input_extra = variance_tokens = variance_nano = 0
    if input_tokens > weight:  # text has at most one token per byte: the rest is hidden input
        input_extra = -(-(input_tokens - weight) // calls)
        input_tokens = weight = 1
    extra_nano = 0 if plain else -(-cost // calls)
    if with_spread:
        variance_tokens = stats.spread_tokens // (calls - 1)
        variance_nano = stats.spread_nano // (calls - 1)
    return Expectation(
        input_tokens,
        weight or 1,
        input_extra,
        -(-output_tokens // calls),
        False,
        cost if plain else 0,
        plain,
        extra_nano,
        variance_tokens,
        variance_nano,
        _root_up(variance_tokens // calls),
        _root_up(variance_nano // calls),
    )


def _root_up(square: int) -> int:
    root = isqrt(square)
    return root + 1 if root * root < square else root


def _times(means: Expectation, ppm: int) -> Expectation:
    return means._replace(
        input_tokens=means.input_tokens * ppm,
        input_bytes=means.input_bytes * _PPM,
        input_extra=-(-means.input_extra * ppm // _PPM),
        output_tokens=-(-means.output_tokens * ppm // _PPM),
    )


def _larger(one: Expectation, other: Expectation) -> Expectation:
    """Return the first expectation with each mean raised to the second's."""
    if one.input_tokens * other.input_bytes < other.input_tokens * one.input_bytes:
        one = one._replace(input_tokens=other.input_tokens, input_bytes=other.input_bytes)
    if one.cost_nano * other.plain_nano < other.cost_nano * one.plain_nano:
        one = one._replace(cost_nano=other.cost_nano, plain_nano=other.plain_nano)
    return one._replace(
        input_extra=max(one.input_extra, other.input_extra),
        output_tokens=max(one.output_tokens, other.output_tokens),
        extra_nano=max(one.extra_nano, other.extra_nano),
    )
