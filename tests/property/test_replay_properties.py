"""Replays, for any usage: the fluid against a simulation of single calls in the order of time."""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.limit import Limit
from paygent.core.plan import PlanConfig
from paygent.core.replay import (
    Amounts,
    PeriodModel,
    UsageRow,
    fold_replay,
    lines_of,
)

DAYS = ("2026-05-01", "2026-05-02", "2026-05-03", "2026-05-04")
PERIOD_OF = dict(zip(DAYS, (1, 1, 1, 2), strict=True))
MODELS = ("large", "mini", "nano")
METRICS = ("spend", "tokens", "calls")
ROUNDING = 2 * len(DAYS) * len(MODELS)  # each model is rounded down in each window
CALLS_MAX = 150
"""Of one model on a day."""


class Call(NamedTuple):
    """One call; those of a model are all alike."""

    day: str
    model: str


Prices = dict[str, Amounts]
"""What one call of each model adds."""

PRICES = st.fixed_dictionaries(
    {
        name: st.builds(Amounts, st.just(1), st.integers(1, 20), st.integers(1, 20))
        for name in MODELS
    }
)


@st.composite
def calls(draw: st.DrawFn, models: Sequence[str] = MODELS) -> list[Call]:
    """Draw some hundred calls in the order of time."""
    chance = random.Random(draw(st.integers(0, 2**32)))
    found = []
    for day in DAYS:
        of_day = [
            Call(day, name) for name in models for _ in range(draw(st.integers(0, CALLS_MAX)))
        ]
        chance.shuffle(of_day)
        found += of_day
    return found


def caps(metric: str) -> st.SearchStrategy[Any]:
    """Draw a cap: dollars for spend, which is one nano-dollar times the number."""
    most = {"spend": 8_000, "tokens": 8_000, "calls": 300}[metric]
    return st.integers(0, most).map(lambda cap: f"{cap}e-9" if metric == "spend" else cap)


@st.composite
def limits(draw: st.DrawFn, *kinds: tuple[str, str | None, str]) -> tuple[Limit, ...]:
    """Draw some limits of these kinds: metric, model and window."""
    chosen = [kind for kind in kinds if draw(st.booleans())]
    return tuple(
        Limit(metric, model=model, window=window, cap=draw(caps(metric)))  # type: ignore[arg-type]
        for metric, model, window in chosen
    )


OF_MODELS = [
    (metric, name, window) for metric in METRICS for name in MODELS for window in ("day", "period")
]
EXACT = st.one_of(
    limits(*OF_MODELS, ("spend", None, "period")),
    limits(("spend", None, "day"), ("spend", None, "period")),
    limits(("tokens", None, "day"), ("tokens", None, "period")),
)
"""Limits of which the fluid is exact: those of models before the spend of all, or one metric."""


class Outcome(NamedTuple):
    """What a simulation of single calls has let through.

    Attributes:
        kept: Its sums.
        refused_on: The day of the first call that was refused.
        crossings: How many windows of limits ended above their line, each by a part of one call.
    """

    kept: Amounts
    refused_on: str | None
    crossings: int


def simulate(sequence: Sequence[Call], prices: Prices, plan: PlanConfig) -> Outcome:
    """Send calls one by one: a call is refused when a limit has reached its line."""
    lines = lines_of(plan)
    windows = [*((line, True) for line in lines.day), *((line, False) for line in lines.period)]
    spent: Counter[tuple[int, Any]] = Counter()
    kept, refused_on = Amounts(), None
    for call in sequence:
        place = PeriodModel(PERIOD_OF[call.day], call.model)
        accounts = [
            ((number, call.day if is_daily else place.period_start_us), line)
            for number, (line, is_daily) in enumerate(windows)
            if line.counts(place)
        ]
        if any(spent[key] >= line.block for key, line in accounts):
            refused_on = refused_on or call.day
            continue
        kept = kept.plus(prices[call.model])
        for key, line in accounts:
            spent[key] += prices[call.model].of(line.metric)
    crossings = sum(used > windows[key[0]][0].block for key, used in spent.items())
    return Outcome(kept, refused_on, crossings)


def rows_of(sequence: Sequence[Call], prices: Prices) -> list[UsageRow]:
    """Return calls as usage, one row each."""
    return [
        UsageRow("ann", day, PeriodModel(PERIOD_OF[day], model), prices[model])
        for day, model in sequence
    ]


@settings(max_examples=80, deadline=None)
@given(calls(), PRICES, EXACT)
def test_fold_replay__tiny_calls__is_what_a_simulation_lets_through(
    sequence: list[Call], prices: Prices, chosen: tuple[Limit, ...]
) -> None:
    """Within one call for each line that is crossed, since the call that reaches it is sent. Under
    limits of all tokens, the cost is that of the tokens.
    """
    plan = PlanConfig(limits=chosen)
    if any(limit.metric == "tokens" and limit.model is None for limit in chosen):
        prices = {name: each._replace(cost_nano=each.tokens) for name, each in prices.items()}
    outcome = simulate(sequence, prices, plan)
    report = fold_replay(rows_of(sequence, prices), plan, 10)
    dearest_nano = max(each.cost_nano for each in prices.values())
    error_nano = abs(report.cost_after_nano - outcome.kept.cost_nano)
    assert error_nano <= dearest_nano * outcome.crossings + ROUNDING
    if outcome.refused_on is not None:
        (row,) = report.rows
        assert row.stopped_on <= outcome.refused_on


ONE = ("mini",)


@settings(max_examples=80, deadline=None)
@given(
    calls(ONE),
    PRICES,
    limits(
        *((metric, name, "period") for metric in METRICS for name in (None, *ONE)),
        *((metric, None, "day") for metric in METRICS),
    ),
)
def test_fold_replay__one_model__is_exact_for_limits_of_every_metric(
    sequence: list[Call], prices: Prices, chosen: tuple[Limit, ...]
) -> None:
    """All calls are alike, so the tightest limit decides, and cost is in proportion."""
    plan = PlanConfig(limits=chosen)
    outcome = simulate(sequence, prices, plan)
    report = fold_replay(rows_of(sequence, prices), plan, 10)
    error_nano = abs(report.cost_after_nano - outcome.kept.cost_nano)
    assert error_nano <= prices["mini"].cost_nano * outcome.crossings + ROUNDING
    error_calls = abs(report.totals.calls - report.refused_calls - outcome.kept.calls)
    assert error_calls <= outcome.crossings + ROUNDING


ANY = limits(
    *OF_MODELS,
    *((metric, None, w) for metric in METRICS for w in ("day", "period")),
)


@settings(max_examples=50, deadline=None)
@given(calls(), PRICES, ANY, st.integers(0, 2**32))
def test_fold_replay__any_usage_and_limits__adds_up_in_any_order(
    sequence: list[Call], prices: Prices, chosen: tuple[Limit, ...], seed: int
) -> None:
    """Savings are never negative nor more than the cost, and the order of the rows is nothing."""
    rows = [
        row._replace(user_id=user_id)
        for row, user_id in zip(rows_of(sequence, prices), "abcd" * len(sequence), strict=False)
    ]
    plan = PlanConfig(limits=chosen)
    report = fold_replay(rows, plan, 10)
    assert 0 <= report.saved_nano <= report.totals.cost_nano
    assert 0 <= report.refused_calls <= report.totals.calls
    assert sum(row.saved_nano for row in report.rows) == report.saved_nano
    assert len(report.rows) == report.stopped_users
    assert fold_replay(rows, plan, 1) == report._replace(rows=report.rows[:1])
    random.Random(seed).shuffle(rows)
    assert fold_replay(rows, plan, 10) == report
