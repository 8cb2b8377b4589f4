"""Reconciliation: both sides add up exactly, and what is unexplained is found and nothing else."""

from __future__ import annotations

import random
from collections.abc import Iterable
from fractions import Fraction
from itertools import groupby
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.core.reconcile import (
    FLOORS,
    METRICS,
    Amounts,
    Comparison,
    OurRow,
    ProviderRow,
    ProviderUsage,
    Reconciliation,
    fold_provider,
    reconcile,
)
from paygent.core.report import Figures

DAYS = ("2026-11-01", "2026-11-02", "2026-11-30")
MODELS = ("gpt-4o", "gpt-4o-mini", "")
CENT = FLOORS["cost_nano"]
DOLLAR = 100 * CENT


def same(name: str) -> str:
    """Return a name that is canonical already."""
    return name


def their_row(day: str = DAYS[0], model: str | None = "gpt-4o", **fields: Any) -> ProviderRow:
    """Return a row of an export."""
    return ProviderRow(day, model, **fields)


def our_row(day: str = DAYS[0], model: str = "gpt-4o", **figures: int) -> OurRow:
    """Return a row of Paygent's figures."""
    return OurRow(day, model, Figures(**figures))


def compared(
    theirs: Iterable[ProviderRow], ours: Iterable[OurRow], tolerance_ppm: int = 5_000
) -> Reconciliation:
    """Return the comparison of rows."""
    return reconcile(fold_provider(theirs, same), ours, tolerance_ppm)


def found(result: Reconciliation) -> list[tuple[str | None, str | None, tuple[str, ...]]]:
    """Return what is unexplained, in its order."""
    return [(each.day, each.model, each.unexplained) for each in result.unexplained]


_COUNTS = st.one_of(st.integers(0, 300), st.integers(0, 10**12))
THEIRS = st.lists(
    st.builds(
        ProviderRow,
        day=st.sampled_from(DAYS),
        model=st.sampled_from(MODELS),
        key=st.sampled_from(("", "a", "b")),
        cost_nano=_COUNTS,
        input_tokens=_COUNTS,
        output_tokens=_COUNTS,
        cached_input_tokens=_COUNTS,
        calls=_COUNTS,
        cost_rounding_nano=st.sampled_from((0, 5_000_000)),
    ),
    max_size=12,
)
_DELTAS = st.one_of(_COUNTS, st.integers(-100, 0))  # a correction of another day is negative
OURS = st.lists(
    st.builds(
        OurRow,
        st.sampled_from(DAYS),
        st.sampled_from(MODELS),
        st.builds(Figures, _DELTAS, _DELTAS, _DELTAS, _DELTAS, _DELTAS),
    ),
    max_size=12,
)


def oracle(
    theirs: list[ProviderRow], ours: list[OurRow], where: dict[str, str], ppm: int
) -> set[str]:
    """Return the metrics that are unexplained in the rows with these values."""
    mine = [row for row in ours if all(getattr(row, k) == v for k, v in where.items())]
    other = [row for row in theirs if all(getattr(row, k) == v for k, v in where.items())]
    above = set()
    for metric in METRICS if theirs else ():
        sum_ours = sum(getattr(row.figures, metric) for row in mine)
        sum_theirs = sum(getattr(row, metric) for row in other)
        slack = FLOORS[metric]
        if metric == "cost_nano":
            slack += sum(row.cost_rounding_nano for row in other)
        gap = abs(sum_ours - sum_theirs)
        if gap > slack and gap > Fraction(sum_theirs * ppm, 10**6):
            above.add(metric)
    return above


@given(THEIRS, OURS, st.sampled_from((0, 5_000, 1_000_000)))
def test_reconcile__any_rows__lists_what_is_above_the_tolerance_and_nothing_else(
    theirs: list[ProviderRow], ours: list[OurRow], ppm: int
) -> None:
    """Each day and model is judged by exact ratios; a model without such a day by its sum."""
    result = compared(theirs, ours, ppm)
    # Without rows of the provider, no model is named.
    models = MODELS if theirs else ()
    expected: dict[tuple[str | None, str | None], set[str]] = {}
    for model in models:
        for day in DAYS:
            expected[day, model] = oracle(theirs, ours, {"day": day, "model": model}, ppm)
        if not any(expected[day, model] for day in DAYS):
            expected[None, model] = oracle(theirs, ours, {"model": model}, ppm)
    assert {(day, model): set(names) for day, model, names in found(result)} == {
        place: names for place, names in expected.items() if names
    }


@given(THEIRS, OURS)
def test_reconcile__any_rows__adds_up_exactly(
    theirs: list[ProviderRow], ours: list[OurRow]
) -> None:
    """Days, models, keys and the total are the sums of the rows, on both sides."""
    result = compared(theirs, ours)
    for metric in METRICS:
        sum_ours = sum(getattr(row.figures, metric) for row in ours)
        sum_theirs = sum(getattr(row, metric) for row in theirs)
        for group in (result.cells, result.by_day, result.by_model, (result.total,)):
            assert sum(getattr(each.ours, metric) for each in group) == sum_ours
            assert sum(getattr(each.theirs, metric) for each in group) == sum_theirs
            assert sum(each.difference(metric) for each in group) == sum_ours - sum_theirs
        if any(row.key for row in theirs):
            assert sum(getattr(each, metric) for _, each in result.keys) == sum_theirs
    assert [(each.day, each.model) for each in result.cells] == sorted(
        {(row.day, row.model) for row in theirs}
        | {(row.day, row.model if theirs else None) for row in ours},
        key=lambda place: (place[0], place[1] or ""),
    )
    days = {row.day for row in theirs} | {row.day for row in ours}
    assert [each.day for each in result.by_day] == sorted(days)


@given(THEIRS, OURS, st.randoms(use_true_random=False))
def test_reconcile__rows_in_another_order__is_the_same(
    theirs: list[ProviderRow], ours: list[OurRow], chance: random.Random
) -> None:
    """An export need not be sorted."""
    result = compared(theirs, ours)
    chance.shuffle(theirs)
    chance.shuffle(ours)
    assert compared(theirs, ours) == result


@given(THEIRS, OURS)
def test_reconcile__unexplained__comes_in_the_order_of_its_part_of_the_total(
    theirs: list[ProviderRow], ours: list[OurRow]
) -> None:
    """What explains most of the difference is read first; the day and model decide equal ones."""
    result = compared(theirs, ours)

    def part(each: Comparison) -> Fraction:
        parts = [Fraction(0)]
        for metric in each.unexplained:
            total = max(getattr(result.total.ours, metric), getattr(result.total.theirs, metric), 1)
            parts.append(Fraction(abs(each.difference(metric)), total))
        return max(parts)

    parts = [part(each) for each in result.unexplained]
    assert parts == sorted(parts, reverse=True)
    for _, equal in groupby(zip(parts, result.unexplained, strict=True), key=lambda pair: pair[0]):
        names = [(each.day or "", each.model or "") for _, each in equal]
        assert names == sorted(names)


@given(st.integers(-(10**15), 10**15), st.integers(0, 10**15))
def test_coverage_ppm__any_two_figures__is_a_million_only_if_they_are_equal(
    ours: int, theirs: int
) -> None:
    """The ratio is within one part per million, and never rounded to equality."""
    each = Comparison(None, None, Figures(calls=ours), Amounts(calls=theirs))
    ppm = each.coverage_ppm("calls")
    if theirs == 0:
        assert ppm is None
        return
    assert ppm is not None
    assert (ppm > 10**6) - (ppm < 10**6) == (ours > theirs) - (ours < theirs)
    assert abs(ppm - Fraction(ours * 10**6, theirs)) < 1


@pytest.mark.parametrize(
    ("ours", "theirs", "ppm"),
    [
        (10**7, 10**7, 1_000_000),
        (10**7 + 1, 10**7, 1_000_001),
        (10**7 - 1, 10**7, 999_999),
        (990, 1_000, 990_000),
        (0, 7, 0),
        (7, 0, None),
    ],
)
def test_coverage_ppm__figures_that_are_almost_equal__are_not_shown_as_equal(
    ours: int, theirs: int, ppm: int | None
) -> None:
    """A ten-millionth more or less is rounded away from equality."""
    each = Comparison(None, None, Figures(calls=ours), Amounts(calls=theirs))
    assert each.coverage_ppm("calls") == ppm


@pytest.mark.parametrize(
    ("metric", "ours", "theirs", "is_found"),
    [
        ("cost_nano", 995 * DOLLAR, 1_000 * DOLLAR, False),
        ("cost_nano", 995 * DOLLAR - 1, 1_000 * DOLLAR, True),
        ("cost_nano", 1_005 * DOLLAR + 1, 1_000 * DOLLAR, True),
        ("cost_nano", 0, CENT, False),
        ("cost_nano", 0, CENT + 1, True),
        ("cost_nano", CENT + 1, 0, True),
        ("input_tokens", 0, 100, False),
        ("output_tokens", 0, 101, True),
        ("cached_input_tokens", 101, 0, True),
        ("calls", 200, 201, False),
        ("calls", 198, 199, True),
        ("calls", 0, 0, False),
    ],
)
def test_reconcile__a_difference__is_unexplained_above_both_bounds(
    metric: str, ours: int, theirs: int, is_found: bool
) -> None:
    """Half a per cent of the provider's figure, and a cent, 100 tokens or a call."""
    row: dict[str, Any] = {metric: theirs}
    figures: dict[str, Any] = {metric: ours}
    result = compared([their_row(**row)], [our_row(**figures)])
    assert found(result) == ([(DAYS[0], "gpt-4o", (metric,))] if is_found else [])


def test_reconcile__costs_that_the_provider_rounds__may_differ_by_the_rounding() -> None:
    """Two lines that were rounded to cents may hide a cent more."""
    row = their_row(cost_nano=DOLLAR, cost_rounding_nano=CENT // 2)
    explained = our_row(cost_nano=2 * DOLLAR - 2 * CENT)
    assert found(compared([row, row], [explained])) == []
    assert found(compared([row, row], [our_row(cost_nano=2 * DOLLAR - 2 * CENT - 1)])) != []


def test_reconcile__many_small_differences__are_listed_as_the_sum_of_their_model() -> None:
    """A cent a day is not listed by day, and 30 of them are."""
    days = [f"2026-11-{day:02}" for day in range(1, 31)]
    theirs = [their_row(day, cost_nano=10 * CENT) for day in days]
    theirs.append(their_row(model="gpt-4o-mini", cost_nano=DOLLAR))
    ours = [our_row(day, cost_nano=9 * CENT) for day in days]
    ours.append(our_row(model="gpt-4o-mini", cost_nano=DOLLAR))
    result = compared(theirs, ours)
    assert found(result) == [(None, "gpt-4o", ("cost_nano",))]
    assert result.unexplained[0].difference("cost_nano") == -30 * CENT


def test_fold_provider__names_of_models__are_counted_under_their_canonical_names() -> None:
    """Dated snapshots are their model."""
    rows = [their_row(model=f"gpt-4o-{number}", calls=2) for number in range(3)]
    theirs = fold_provider(rows, lambda name: name[:6])
    assert theirs.cells == {(DAYS[0], "gpt-4o"): Amounts(calls=6)}


def test_fold_provider__figures_that_some_rows_lack__are_not_compared() -> None:
    """A sum without them would be wrong."""
    theirs = fold_provider(
        [their_row(input_tokens=5, calls=1), their_row(input_tokens=5, cost_nano=7)], same
    )
    assert theirs.metrics == ("input_tokens",)
    result = reconcile(theirs, [our_row(input_tokens=10, calls=9, cost_nano=DOLLAR)])
    assert (result.metrics, result.unexplained) == (("input_tokens",), ())


def test_fold_provider__a_row_without_figures__covers_its_day() -> None:
    """A bucket without usage says that there was none."""
    theirs = fold_provider([their_row(DAYS[2]), their_row(DAYS[0], model=None)], same)
    assert theirs == ProviderUsage((DAYS[0], DAYS[2]), (), False, {}, {})
    assert fold_provider([], same).days is None


def test_fold_provider__bounds__leave_other_days_out() -> None:
    """The end is the day after the last one."""
    rows = [their_row(day, calls=1) for day in DAYS]
    assert fold_provider(rows, same, start=DAYS[1]).days == (DAYS[1], DAYS[2])
    assert fold_provider(rows, same, end=DAYS[2]).days == (DAYS[0], DAYS[1])
    assert fold_provider(rows, same, start=DAYS[1], end=DAYS[1]).days is None


def test_reconcile__an_export_without_models__compares_days_as_a_whole() -> None:
    """Models of Paygent are added up."""
    theirs = [their_row(model=None, calls=3), their_row(DAYS[1], model=None, calls=9)]
    ours = [our_row(calls=1), our_row(model="", calls=2), our_row(DAYS[1], calls=8)]
    result = compared(theirs, ours)
    assert [(each.day, each.model) for each in result.cells] == [(DAYS[0], None), (DAYS[1], None)]
    assert found(result) == [(DAYS[1], None, ("calls",))]


def test_reconcile__rows_without_a_model_among_others__are_of_no_model() -> None:
    """The costs of searches are no model's; Paygent's "" is the same."""
    theirs = [their_row(model=None, calls=3), their_row(model="", calls=1), their_row(calls=2)]
    result = compared(theirs, [our_row(model="", calls=4), our_row(calls=2)])
    assert [each.model for each in result.by_model] == ["", "gpt-4o"]
    assert result.unexplained == ()


def test_reconcile__keys__are_the_provider_s_alone_largest_first() -> None:
    """Without a key in the export there is no breakdown."""
    rows = [their_row(key=key, cost_nano=cost) for key, cost in (("b", 1), ("a", 1), ("", 5))]
    assert [key for key, _ in compared(rows, []).keys] == ["", "a", "b"]
    assert compared([their_row(cost_nano=1)], []).keys == ()


def test_reconcile__a_model_of_one_side__has_nothing_on_the_other() -> None:
    """Usage outside of Paygent, and usage that the provider does not bill."""
    result = compared([their_row(calls=5)], [our_row(model="llama", calls=5)])
    assert found(result) == [(DAYS[0], "gpt-4o", ("calls",)), (DAYS[0], "llama", ("calls",))]
    assert [each.coverage_ppm("calls") for each in result.unexplained] == [0, None]
