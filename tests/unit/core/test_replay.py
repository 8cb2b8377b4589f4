"""Replays of a plan edit: lines, what they refuse, and the report."""

from __future__ import annotations

from typing import Any

import pytest

from paygent.core.limit import Limit, ModelLimitConfig
from paygent.core.plan import PlanConfig
from paygent.core.replay import (
    Amounts,
    Line,
    Lines,
    PeriodModel,
    ReplayReport,
    ReplayRow,
    ReplayTotals,
    UsageRow,
    first_stop,
    fold_replay,
    lines_of,
    refused_of,
    steps_of,
)

DOLLAR = 10**9
MAY, JUNE = 1_000, 2_000
"""Two billing periods."""

MINI, LARGE = PeriodModel(MAY, "mini"), PeriodModel(MAY, "large")


def usage(
    user_id: str = "ann",
    day: str = "2026-05-01",
    model: str = "mini",
    cost: float = 1,
    *,
    tokens: int = 100,
    calls: int = 10,
    period: int = MAY,
) -> UsageRow:
    """Return usage that costs so many dollars."""
    amounts = Amounts(calls, tokens, round(cost * DOLLAR))
    return UsageRow(user_id, day, PeriodModel(period, model), amounts)


def report(*rows: UsageRow, rows_max: int = 100, **plan: Any) -> ReplayReport:
    """Replay a plan."""
    return fold_replay(rows, PlanConfig(**plan), rows_max)


def refused(used: dict[PeriodModel, Amounts], *lines: Line) -> dict[PeriodModel, Amounts]:
    """Return what lines refuse of the usage in one window."""
    return refused_of(used, steps_of(lines))


# -- lines


def test_lines_of__every_kind_of_limit__is_a_line_or_is_listed() -> None:
    """By window, models first; sessions and rolling windows are not replayed."""
    rolling = Limit("spend", window="rolling:24h", cap=1)
    plan = PlanConfig(
        max_spend_per_period=10,
        max_spend_per_session=2,
        hard_gate_at=0.9,
        model_limits={" GPT-4o ": ModelLimitConfig(1_001)},
        limits=(
            Limit("calls", window="day", cap=7),
            Limit("spend", model="o3", window="day", cap=1),
            Limit("tokens", cap=float("inf")),
            rolling,
        ),
    )
    session = Limit("spend", "session", None, "session", 2)
    assert lines_of(plan) == Lines(
        day=(
            Line("spend", "o3", 900_000_000, "spend:day:o3"),
            Line("calls", None, 6, "calls:day"),
        ),
        period=(
            Line("tokens", "gpt-4o", 900, "model_limit: GPT-4o "),
            Line("spend", None, 9 * DOLLAR, "total_spend"),
        ),
        not_replayed=(session, rolling),
    )


# -- what lines refuse


def test_refused_of__usage_up_to_the_line__is_let_through() -> None:
    """At the line nothing is refused yet; beyond it, the rest."""
    line = Line("tokens", None, 100, "tokens:period")
    assert refused({MINI: Amounts(10, 100, 1_000)}, line) == {}
    assert refused({MINI: Amounts(10, 125, 1_000)}, line) == {MINI: Amounts(2, 25, 200)}


def test_refused_of__a_limit_of_a_model__leaves_others_alone() -> None:
    """Cost and calls are refused in proportion to the tokens."""
    used = {MINI: Amounts(10, 400, 1_000), LARGE: Amounts(5, 900, 9_000)}
    line = Line("tokens", "mini", 100, "model_limit:mini")
    assert refused(used, line) == {MINI: Amounts(8, 300, 750)}
    assert refused({LARGE: used[LARGE]}, line) == {}


def test_refused_of__limits_of_a_model_and_of_all__apply_one_after_another() -> None:
    """The limit of all models caps what those of models have let through."""
    used = {MINI: Amounts(10, 400, 1_000), LARGE: Amounts(10, 400, 900)}
    lines = (
        Line("tokens", "mini", 40, "model_limit:mini"),
        Line("spend", None, 500, "total_spend"),
    )
    assert refused(used, *lines) == {MINI: Amounts(10, 380, 950), LARGE: Amounts(5, 200, 450)}
    wide = Line("spend", None, 1_000, "total_spend")
    assert refused(used, lines[0], wide) == {MINI: Amounts(9, 360, 900)}


def test_refused_of__several_limits_of_a_model__the_tightest_counts() -> None:
    """By the share that each lets through, whatever its metric is."""
    lines = (
        Line("tokens", None, 300, "tokens:period"),
        Line("calls", None, 2, "calls:period"),
        Line("spend", None, 2_000, "total_spend"),
    )
    assert refused({MINI: Amounts(10, 400, 1_000)}, *lines) == {MINI: Amounts(8, 320, 800)}


def test_refused_of__parts_that_are_rounded__sum_up_to_the_line() -> None:
    """Not a nano-dollar above it or below, over any number of models."""
    used = {PeriodModel(MAY, name): Amounts(1, 1, 7) for name in "abcdefghi"}
    kept = [7 - each.cost_nano for each in refused(used, Line("spend", None, 10, "r")).values()]
    assert sum(kept) == 10
    assert set(kept) == {1, 2}


def test_refused_of__a_line_of_zero__refuses_every_call() -> None:
    """Also calls that cost nothing; but there has to be one."""
    zero = Line("spend", None, 0, "total_spend")
    assert refused({MINI: Amounts(10, 100, 0)}, zero) == {MINI: Amounts(10, 100, 0)}
    assert refused({MINI: Amounts(10, 100, 5)}, zero) == {MINI: Amounts(10, 100, 5)}
    assert refused({MINI: Amounts(0, 0, 0)}, zero) == {}


def test_refused_of__negative_usage__is_not_refused() -> None:
    """A correction without its original is a credit, which no limit takes away."""
    used = {MINI: Amounts(0, 50, -100), LARGE: Amounts(10, 150, 1_000)}
    line = Line("tokens", None, 100, "tokens:period")
    assert refused(used, line) == {MINI: Amounts(0, 25, 0), LARGE: Amounts(5, 75, 500)}


# -- the report


def test_fold_replay__a_cap_on_the_period__has_every_figure() -> None:
    """Who is stopped, when and by what; savings, break-even prices and an estimate of calls."""
    found = report(
        usage("ann", "2026-05-03", cost=2),
        usage("ann", "2026-05-01", cost=3),
        usage("ann", "2026-06-01", cost=1, period=JUNE),
        usage("bob", "2026-05-02", cost=4),
        usage("cy", "2026-05-02", cost=9),
        max_spend_per_period=4,
    )
    assert found == ReplayReport(
        totals=ReplayTotals(users=3, user_periods=4, calls=50, cost_nano=19 * DOLLAR),
        stopped_users=2,
        saved_nano=6 * DOLLAR,
        refused_calls=4 + 6,
        rows=(
            ReplayRow("cy", 1, 9 * DOLLAR, 5 * DOLLAR, "total_spend", "2026-05-02"),
            ReplayRow("ann", 1, 6 * DOLLAR, 1 * DOLLAR, "total_spend", "2026-05-03"),
        ),
        not_replayed=(),
    )
    assert [row.cost_after_nano for row in found.rows] == [4 * DOLLAR, 5 * DOLLAR]
    assert found.cost_after_nano == 13 * DOLLAR
    assert found.break_even_price_nano == 3_250_000_000
    assert found.break_even_now_nano == 4_750_000_000


def test_fold_replay__without_usage__has_no_break_even_price() -> None:
    """There is no billing period to divide by. Calls without a user are no usage of a user."""
    nothing = ReplayReport(ReplayTotals(0, 0, 0, 0), 0, 0, 0, (), ())
    assert report(max_spend_per_period=1) == nothing
    assert report(usage("(none)", cost=9), max_spend_per_period=1) == nothing
    assert nothing.break_even_price_nano is None
    assert nothing.break_even_now_nano is None


def test_fold_replay__a_plan_without_limits__stops_no_user() -> None:
    """The prices are those of the usage as it was."""
    found = report(usage(cost=5), usage("bob", cost=4))
    assert (found.stopped_users, found.saved_nano, found.rows) == (0, 0, ())
    assert found.break_even_price_nano == found.break_even_now_nano == 4_500_000_000


def test_fold_replay__shadow_mode__changes_nothing() -> None:
    """A replay shows what enforcement would do."""
    rows = (usage(cost=5), usage("bob", cost=4))
    enforced = report(*rows, max_spend_per_period=1)
    assert enforced.stopped_users == 2
    assert report(*rows, max_spend_per_period=1, enforce=False) == enforced


def test_fold_replay__limits_of_sessions_and_rolling_windows__are_listed() -> None:
    """They stop no user here, and the report names them."""
    rolling = Limit("calls", window="rolling:1h", cap=1)
    found = report(usage(cost=9), max_spend_per_session=1, limits=(rolling,))
    assert found.stopped_users == 0
    assert found.not_replayed == (Limit("spend", "session", None, "session", 1), rolling)


def test_fold_replay__a_limit_per_day_and_one_per_period__apply_in_this_order() -> None:
    """The period counts what the days have let through."""
    rows = [usage("ann", f"2026-05-0{day}", cost=day) for day in (1, 2, 3)]
    daily = Limit(window="day", cap=2)
    assert report(*rows, limits=(daily,)).cost_after_nano == 5 * DOLLAR
    both = report(*rows, limits=(daily,), max_spend_per_period=5)
    assert both.rows == (ReplayRow("ann", 1, 6 * DOLLAR, DOLLAR, "spend:day", "2026-05-03"),)
    tight = report(*rows, limits=(daily,), max_spend_per_period=2.5)
    assert tight.cost_after_nano == 2_500_000_000
    assert tight.refused_calls == 4 + 13  # 26 were let through by the days


def test_fold_replay__a_day_of_two_billing_periods__is_one_window_of_the_limit() -> None:
    """Both share its cap in proportion, and both count as stopped."""
    rows = (usage(cost=3, period=MAY), usage(cost=1, period=JUNE))
    (row,) = report(*rows, limits=(Limit(window="day", cap=2),)).rows
    assert (row.periods_stopped, row.saved_nano) == (2, 2 * DOLLAR)


def test_fold_replay__more_users_than_rows__are_counted() -> None:
    """Rows are the greatest savings, then by id."""
    rows = [usage(name, cost=cost) for name, cost in (("d", 3), ("c", 5), ("b", 3), ("a", 2))]
    found = report(*rows, rows_max=2, max_spend_per_period=1)
    assert [row.user_id for row in found.rows] == ["c", "b"]
    assert (found.stopped_users, found.saved_nano) == (4, 9 * DOLLAR)
    assert report(*rows, rows_max=0, max_spend_per_period=1).rows == ()


# -- the first stop


DAYS = (
    ("2026-05-01", {MINI: Amounts(1, 100, 10)}),
    ("2026-05-02", {MINI: Amounts(1, 100, 10), LARGE: Amounts(1, 50, 50)}),
    ("2026-05-03", {LARGE: Amounts(1, 50, 50)}),
)
BY_MODEL = Line("tokens", "mini", 150, "model_limit:mini")
BY_SPEND = Line("spend", None, 60, "total_spend")


@pytest.mark.parametrize(
    ("day", "period", "expected"),
    [
        ((), (BY_SPEND,), ("2026-05-02", BY_SPEND)),
        ((), (BY_MODEL, BY_SPEND), ("2026-05-02", BY_MODEL)),
        ((BY_SPEND._replace(block=49),), (BY_MODEL,), ("2026-05-02", BY_SPEND._replace(block=49))),
        ((BY_SPEND,), (), None),
        ((), (BY_SPEND._replace(block=119),), ("2026-05-03", BY_SPEND._replace(block=119))),
        ((), (BY_SPEND._replace(block=120),), None),
    ],
)
def test_first_stop__lines_that_are_passed__gives_the_first_one(
    day: tuple[Line, ...], period: tuple[Line, ...], expected: tuple[str, Line] | None
) -> None:
    """By day; on one day by the order in which limits are applied."""
    assert first_stop(DAYS, Lines(day, period, ())) == expected


def test_first_stop__a_new_billing_period__begins_at_nothing() -> None:
    """Usage of the one before does not count."""
    days = [
        ("2026-05-31", {MINI: Amounts(1, 1, 60)}),
        ("2026-06-01", {PeriodModel(JUNE, "mini"): Amounts(1, 1, 60)}),
        ("2026-06-02", {PeriodModel(JUNE, "mini"): Amounts(1, 1, 1)}),
    ]
    assert first_stop(days, Lines((), (BY_SPEND,), ())) == ("2026-06-02", BY_SPEND)
