"""A plan edit, replayed: how the edited limits would have changed usage that has happened.

The question is which users of a plan would have been stopped in a span of days, what would have
been saved, and which price per billing period would break even.

Theory of operation: usage is a fluid. A limit lets it through until its block line (`core/gate.py`)
and refuses the rest; refused calls are not made on another model instead. The calls of a model are
alike: of any part of them, cost, tokens and calls are in the same proportion. Limits are applied
window by window, to what the ones before have let through: those per day, then those per billing
period; in a window those of a model, then those of all models, and of several such limits the one
that lets the smallest part through. The result does not depend on the order of the calls where
limits of models are combined with a cap on the spend per period, or where all models are limited by
one metric. Of other combinations it is an approximation, since the real gate meets the limits in
the order of time.

Amounts that are let through are rounded down, summed up over models in the order of their names,
so that their sum is the line and never more.

What is not replayed, or is known only roughly:

- A rolling window or a session: `Lines.not_replayed` lists those limits.
- Own plan versions and overrides of users: every user with usage that was booked under the plan's
  name has the edited limits.
- Shadow mode: `enforce=False` changes nothing, since a replay shows what enforcement would do.
- Calls that were refused at the time: they left no usage, so a higher limit does not bring them
  back.
- Days are those of the rollups, in the product's time zone, whereas the window "day" of a limit is
  a UTC day. Where a billing period begins during a day, that day's limit is shared in proportion.
- Of a billing period that the span cuts, the first and the last of most users, only the usage
  within the span counts.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from fractions import Fraction
from heapq import nsmallest
from itertools import groupby
from operator import attrgetter
from typing import NamedTuple

from paygent.core.account import amount
from paygent.core.gate import thresholds_of
from paygent.core.limit import Limit
from paygent.core.messages import MISSING_USER_ID
from paygent.core.money import divide_half_even
from paygent.core.plan import PlanConfig, limits_of


class Amounts(NamedTuple):
    """Sums of usage.

    Attributes:
        calls: Number of calls.
        tokens: Input and output together.
        cost_nano: In nano-dollars.
    """

    calls: int = 0
    tokens: int = 0
    cost_nano: int = 0

    def of(self, metric: str) -> int:
        """Return the amount that a limit of a metric counts."""
        return amount(metric, cost_nano=self.cost_nano, tokens=self.tokens, calls=self.calls)

    def plus(self, other: Amounts) -> Amounts:
        """Return the sums of both."""
        calls, tokens, cost_nano = other
        return Amounts(self.calls + calls, self.tokens + tokens, self.cost_nano + cost_nano)

    def minus(self, other: Amounts) -> Amounts:
        """Return the differences."""
        calls, tokens, cost_nano = other
        return Amounts(self.calls - calls, self.tokens - tokens, self.cost_nano - cost_nano)


NOTHING = Amounts()


class PeriodModel(NamedTuple):
    """A model in a billing period of a user, under its canonical name; "" is none."""

    period_start_us: int
    model: str


WindowUsage = Mapping[PeriodModel, Amounts]
"""The usage of one user in one window: a day, or a billing period."""


class UsageRow(NamedTuple):
    """A part of the usage that was booked under a plan.

    Attributes:
        day: In the product's time zone, ISO 8601.
        place: The billing period and the model.
    """

    user_id: str
    day: str
    place: PeriodModel
    amounts: Amounts


class Line(NamedTuple):
    """Where a limit blocks.

    Attributes:
        metric: "spend" (nano-dollars), "tokens" or "calls".
        model: The one that it counts, in lower case; None for all.
        block: The block line, in the unit of the metric.
        reason: The `gate_reason` of a refusal.
    """

    metric: str
    model: str | None
    block: int
    reason: str

    def counts(self, place: PeriodModel) -> bool:
        """Return whether the limit counts a model."""
        return self.model is None or self.model == place.model

    def stops(self, used: Amounts) -> bool:
        """Return whether a part of this usage would have been refused."""
        return used.of(self.metric) > self.block or (self.block == 0 and used.calls > 0)

    def share_of(self, used: Amounts) -> Fraction:
        """Return the share of usage that the limit lets through if it stops it."""
        return Fraction(self.block, used.of(self.metric)) if self.block else Fraction(0)


class Lines(NamedTuple):
    """The block lines of a plan.

    Attributes:
        day, period: By window, in the order in which they are applied: by model, then those of all
            models.
        not_replayed: Limits of sessions and of rolling windows.
    """

    day: tuple[Line, ...]
    period: tuple[Line, ...]
    not_replayed: tuple[Limit, ...]


def lines_of(plan: PlanConfig) -> Lines:
    """Return the block lines of a plan. Models are matched as the gate does it, by lower-case name
    without spaces around it.
    """
    lines: dict[str, list[Line]] = {"day": [], "period": []}
    others = []
    for limit in limits_of(plan):
        if limit.window not in lines:
            others.append(limit)
            continue
        assert limit.cap_exact is not None  # `limits_of` leaves out what has no cap
        thresholds = thresholds_of(
            limit.cap_exact, soft_gate_ppm=plan.soft_gate_ppm, hard_gate_ppm=plan.hard_gate_ppm
        )
        model = None if limit.model is None else limit.model.strip().lower()
        line = Line(limit.metric, model, thresholds.block, limit.key.reason)
        lines[limit.window].append(line)
    day, period = (tuple(sorted(lines[name], key=_order)) for name in ("day", "period"))
    return Lines(day, period, tuple(others))


def _order(line: Line) -> tuple[bool, str]:
    return line.model is None, line.model or ""


Steps = Sequence[tuple[str | None, Sequence[Line]]]
"""Lines of one kind of window, those of one model together, None for all; see `steps_of`."""


def steps_of(lines: Iterable[Line]) -> Steps:
    """Return lines in the steps in which they are applied."""
    return [(model, list(alike)) for model, alike in groupby(lines, attrgetter("model"))]


def refused_of(usage: WindowUsage, steps: Steps) -> dict[PeriodModel, Amounts]:
    """Return the usage that lines refuse, of all models that a line stops; empty if none does.

    Args:
        usage: Of one user in one window.
        steps: The lines of this kind of window.
    """
    kept = dict(usage)
    stopped: set[PeriodModel] = set()
    for model, lines in steps:
        places = [place for place in kept if model is None or place.model == model]
        used = _sum([kept[place] for place in places])
        shares = [line.share_of(used) for line in lines if line.stops(used)]
        if shares:
            places.sort()
            parts = _scaled([kept[place] for place in places], min(shares))
            kept.update(zip(places, parts, strict=True))
            stopped.update(places)
    return {place: _refused(usage[place], kept[place]) for place in stopped}


def _refused(used: Amounts, kept: Amounts) -> Amounts:
    refused = used.minus(kept)
    if min(refused) >= 0:
        return refused
    # A correction without its original may make usage negative. None of that is refused, so that
    # usage never grows, and what passes no line before a window passes none after it.
    return Amounts(*[max(figure, 0) for figure in refused])


def _sum(amounts: Sequence[Amounts]) -> Amounts:
    if len(amounts) == 1:  # a day of a user has often one model
        return amounts[0]
    calls = tokens = cost_nano = 0
    for each in amounts:
        calls += each.calls
        tokens += each.tokens
        cost_nano += each.cost_nano
    return Amounts(calls, tokens, cost_nano)


def _scaled(amounts: Iterable[Amounts], share: Fraction) -> list[Amounts]:
    """Return a share of each, rounded so that the sum of the parts is the share of the sum."""
    part, whole = share.numerator, share.denominator
    scaled = []
    calls = tokens = cost_nano = calls_before = tokens_before = cost_before = 0
    for each in amounts:  # in plain integers: a harsh plan stops 200,000 days of users
        calls += each.calls
        tokens += each.tokens
        cost_nano += each.cost_nano
        now = calls * part // whole, tokens * part // whole, cost_nano * part // whole
        scaled.append(Amounts(now[0] - calls_before, now[1] - tokens_before, now[2] - cost_before))
        calls_before, tokens_before, cost_before = now
    return scaled


# -- the report


class ReplayRow(NamedTuple):
    """A user who would have been stopped.

    Attributes:
        user_id: The user.
        periods_stopped: Billing periods in which a limit would have refused calls.
        cost_nano: The cost of all usage in the span, as it was, in nano-dollars.
        saved_nano: The part of it that would have been refused.
        reason: The `gate_reason` of the first limit that stops the user. Of several that are passed
            on one day it is the first one that is applied.
        stopped_on: The first day on which usage passes that limit's block line, ISO 8601.
    """

    user_id: str
    periods_stopped: int
    cost_nano: int
    saved_nano: int
    reason: str
    stopped_on: str

    @property
    def cost_after_nano(self) -> int:
        """The cost of what would have been let through."""
        return self.cost_nano - self.saved_nano


class ReplayTotals(NamedTuple):
    """All usage of a plan in the span, as it was.

    Attributes:
        users: Users with usage.
        user_periods: Their billing periods with usage, whole or cut by the span.
        calls: Number of calls.
        cost_nano: Their cost, in nano-dollars.
    """

    users: int
    user_periods: int
    calls: int
    cost_nano: int


class ReplayReport(NamedTuple):
    """What an edited plan would have changed.

    Attributes:
        totals: Usage as it was.
        stopped_users: Users who would have been stopped, also those without a row.
        saved_nano: The cost of what would have been refused, in nano-dollars.
        refused_calls: How many calls that would have been: an estimate, in proportion to usage.
        rows: Stopped users, the one with the most savings first, then by id.
        not_replayed: Limits of the plan that this report leaves out.
    """

    totals: ReplayTotals
    stopped_users: int
    saved_nano: int
    refused_calls: int
    rows: tuple[ReplayRow, ...]
    not_replayed: tuple[Limit, ...]

    @property
    def cost_after_nano(self) -> int:
        """The cost of what would have been let through."""
        return self.totals.cost_nano - self.saved_nano

    @property
    def break_even_price_nano(self) -> int | None:
        """The price at which revenue equals the cost under the edited plan: that cost divided by
        the billing periods with usage, of which one that the span cuts counts as a whole one; None
        without usage.
        """
        return self._per_period(self.cost_after_nano)

    @property
    def break_even_now_nano(self) -> int | None:
        """The price at which revenue equals the cost as it was; see `break_even_price_nano`."""
        return self._per_period(self.totals.cost_nano)

    def _per_period(self, cost_nano: int) -> int | None:
        user_periods = self.totals.user_periods
        return divide_half_even(cost_nano, user_periods) if user_periods else None


UserDays = Sequence[tuple[str, WindowUsage]]
"""(day, usage) of a user, in the order of time."""


class Replay:
    """Adds up what the lines of a plan refuse, window by window.

    Windows that no line stops may be left out, since they change nothing. All days of a user are
    added before the user's billing periods.
    """

    def __init__(self, lines: Lines) -> None:
        """Start with nothing refused."""
        self.lines = lines
        self._day, self._period = steps_of(lines.day), steps_of(lines.period)
        self._refused: dict[str, dict[PeriodModel, Amounts]] = {}

    def add_day(self, user_id: str, usage: WindowUsage) -> None:
        """Apply the limits per day to a user's day."""
        self._refuse(user_id, refused_of(usage, self._day))

    def add_period(self, user_id: str, usage: WindowUsage) -> None:
        """Apply the limits per billing period to the whole usage of a user in one."""
        refused = self._refused.get(user_id)
        if refused:
            usage = {
                place: amounts.minus(refused.get(place, NOTHING))
                for place, amounts in usage.items()
            }
        self._refuse(user_id, refused_of(usage, self._period))

    def _refuse(self, user_id: str, refused: Mapping[PeriodModel, Amounts]) -> None:
        if not refused:
            return
        known = self._refused.setdefault(user_id, {})
        for place, amounts in refused.items():
            known[place] = known.get(place, NOTHING).plus(amounts)

    def ranked(self, users_max: int) -> list[str]:
        """Return the stopped users with a row, in the order of `ReplayReport.rows`."""
        ranks = ((-_sum(list(own.values())).cost_nano, user) for user, own in self._refused.items())
        return [user for _, user in nsmallest(users_max, ranks)]

    def report(self, totals: ReplayTotals, days: Mapping[str, UserDays]) -> ReplayReport:
        """Return the report.

        Args:
            totals: Of the plan.
            days: All days of each user with a row, in the order of the rows.
        """
        refused = _sum([each for own in self._refused.values() for each in own.values()])
        rows = tuple([self._row(user_id, own) for user_id, own in days.items()])
        return ReplayReport(
            totals,
            len(self._refused),
            refused.cost_nano,
            refused.calls,
            rows,
            self.lines.not_replayed,
        )

    def _row(self, user_id: str, days: UserDays) -> ReplayRow:
        refused = self._refused[user_id]
        periods = {place.period_start_us for place in refused}
        cost_nano = sum(each.cost_nano for _, usage in days for each in usage.values())
        stop = first_stop(days, self.lines)
        assert stop is not None  # some line was the first that refused something
        saved_nano = _sum(list(refused.values())).cost_nano
        return ReplayRow(user_id, len(periods), cost_nano, saved_nano, stop[1].reason, stop[0])


def first_stop(days: UserDays, lines: Lines) -> tuple[str, Line] | None:
    """Return the first day on which a user's usage passes a line, and the first such line in the
    order in which they are applied; None if it passes none.

    Until then nothing is refused, so that usage as it was is what the gate would have counted.
    """
    periods: dict[int, dict[PeriodModel, Amounts]] = {}
    for day, usage in days:
        for place, amounts in usage.items():
            period = periods.setdefault(place.period_start_us, {})
            period[place] = period.get(place, NOTHING).plus(amounts)
        # A billing period that this day does not touch has passed its lines on an earlier one.
        windows = [periods[start_us] for start_us in {place.period_start_us for place in usage}]
        for line in lines.day:
            if line.stops(_counted(usage, line)):
                return day, line
        for line in lines.period:
            if any(line.stops(_counted(window, line)) for window in windows):
                return day, line
    return None


def _counted(usage: WindowUsage, line: Line) -> Amounts:
    return _sum([amounts for place, amounts in usage.items() if line.counts(place)])


def fold_replay(rows: Iterable[UsageRow], plan: PlanConfig, rows_max: int) -> ReplayReport:
    """Return the report on all usage that was booked under a plan: the definition, which the store
    computes in stages.

    Args:
        rows: In any order, cut in any way. Calls without a user are left out: they have no limits.
        plan: As it was edited.
        rows_max: Users with a row.
    """
    users: dict[str, dict[str, dict[PeriodModel, Amounts]]] = {}
    for user_id, day, place, amounts in rows:
        if user_id != MISSING_USER_ID:
            usage = users.setdefault(user_id, {}).setdefault(day, {})
            usage[place] = usage.get(place, NOTHING).plus(amounts)
    replay, total, user_periods = Replay(lines_of(plan)), NOTHING, 0
    for user_id, days in users.items():
        periods: dict[int, dict[PeriodModel, Amounts]] = {}
        for usage in days.values():
            replay.add_day(user_id, usage)
            for place, amounts in usage.items():
                period = periods.setdefault(place.period_start_us, {})
                period[place] = period.get(place, NOTHING).plus(amounts)
        for period in periods.values():
            replay.add_period(user_id, period)
            total = total.plus(_sum(list(period.values())))
        user_periods += len(periods)
    totals = ReplayTotals(len(users), user_periods, total.calls, total.cost_nano)
    ranked = replay.ranked(rows_max)
    return replay.report(totals, {user_id: sorted(users[user_id].items()) for user_id in ranked})
