"""`paygent users`: the users of a product with plan, calls and spend; the dearest come first.

Calls and cost are those of the current UTC month, from the daily rollups; the period's cost is that
of the user's own billing period, which the plan's limits count.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from paygent.cli.database import Source, opened_source
from paygent.cli.options import CommandError, Format
from paygent.cli.output import Column, open_console, print_csv, print_json, print_line, print_table
from paygent.core.messages import DEFAULT_PLAN, Question, UserLedger
from paygent.core.money import to_usd
from paygent.core.period import Window, billing_period, calendar_month, to_datetime
from paygent.core.wording import day, day_and_time, dollars
from paygent.store.port import UserActivity

_QUESTIONS_MAX = 1_000  # users asked for at once


@dataclass(frozen=True)
class UserLine:
    """A user as the command lists them.

    Attributes:
        user_id: The user.
        plan: The assigned plan, or None without one.
        has_own_plan: Whether the user has a version of the plan of their own.
        calls, cost_nano: In the current UTC month.
        period_start_us, period_end_us: The current billing period; None if the subscription ended.
        period_cost_nano: In that period.
        last_us: When the last event was; 0 without one.
    """

    user_id: str
    plan: str | None
    has_own_plan: bool
    calls: int
    cost_nano: int
    period_start_us: int | None
    period_end_us: int | None
    period_cost_nano: int
    last_us: int


def run(
    db: str | None,
    product: str | None,
    environ: Mapping[str, str],
    users_max: int,
    output_format: Format,
    now_us: int | None = None,
    *,
    database_url: str | None = None,
) -> int:
    """Print the users; return the exit status."""
    now_us = time.time_ns() // 1_000 if now_us is None else now_us
    month = calendar_month(now_us)
    with opened_source(db, database_url, product, environ) as source:
        # One more than is shown, to know whether there are more.
        active = source.store.users(source.product, *month, users_max + 1)
        lines = list(_lines(source, active[:users_max], now_us))
        answer = source.store.read(source.product, (), now_us)
        default_plan = answer.default_plan or DEFAULT_PLAN
    if output_format is Format.CSV:
        names = list(_record(_NO_USER))
        print_csv(names, map(_record, lines))
    elif output_format is Format.JSON:
        head = {"product": source.product, "from": day(month.start_us), "to": day(month.end_us)}
        users = [_record(line) for line in lines]
        more = {"default_plan": default_plan, "has_more": len(active) > users_max}
        print_json({**head, **more, "users": users})
    elif lines:
        rows = [_cells(line, default_plan) for line in lines]
        _print_table(environ, rows, month, has_more=len(active) > users_max)
    else:
        raise CommandError(
            f"no user of product {source.product!r} in {source.shown} yet: users are created by "
            "their first call (--product, --db and --database-url select others)"
        )
    return 0


def _lines(source: Source, active: tuple[UserActivity, ...], now_us: int) -> Iterator[UserLine]:
    """Yield the lines of users, read in portions."""
    for start in range(0, len(active), _QUESTIONS_MAX):
        portion = active[start : start + _QUESTIONS_MAX]
        user_ids = [row.user_id for row in portion]
        users = _read(source, dict.fromkeys(user_ids, 0), now_us)
        # The period of a user is known only now; it selects the figures of the second reading.
        periods = {
            user_id: billing_period(users[user_id].subscription, now_us) for user_id in user_ids
        }
        starts = {user_id: period.start_us for user_id, period in periods.items() if period}
        in_period = _read(source, starts, now_us)
        for row in portion:
            user_id = row.user_id
            yield _line(row, users[user_id], periods[user_id], in_period.get(user_id))


def _read(source: Source, starts: Mapping[str, int], now_us: int) -> Mapping[str, UserLedger]:
    questions = tuple(Question(user_id, (), start_us) for user_id, start_us in starts.items())
    return source.store.read(source.product, questions, now_us).users


def _line(
    row: UserActivity, user: UserLedger, period: Window | None, in_period: UserLedger | None
) -> UserLine:
    by_model = in_period.by_model.values() if in_period is not None else ()
    return UserLine(
        row.user_id,
        user.plan,
        user.own is not None,
        row.calls,
        row.cost_nano,
        period.start_us if period else None,
        period.end_us if period else None,
        sum(cost_nano for _, cost_nano in by_model),
        row.last_us,
    )


_NO_USER = UserLine("", None, False, 0, 0, None, None, 0, 0)


def _record(line: UserLine) -> dict[str, Any]:
    """Return a line with times in ISO 8601 and costs in dollars and nano-dollars."""
    return {
        "user_id": line.user_id,
        "plan": line.plan,
        "has_own_plan": line.has_own_plan,
        "calls": line.calls,
        "cost": to_usd(line.cost_nano),
        "cost_nano": line.cost_nano,
        "period_start": _iso(line.period_start_us),
        "period_end": _iso(line.period_end_us),
        "period_cost": to_usd(line.period_cost_nano),
        "period_cost_nano": line.period_cost_nano,
        "last_active": _iso(line.last_us or None),
    }


def _iso(at_us: int | None) -> str | None:
    return None if at_us is None else to_datetime(at_us).isoformat()


def _print_table(
    environ: Mapping[str, str], rows: list[tuple[str, ...]], month: Window, *, has_more: bool
) -> None:
    console = open_console(environ)
    print_table(console, _COLUMNS, rows)
    name = f"{to_datetime(month.start_us):%Y-%m}"
    remark = f"calls and cost: {name} (UTC); period cost: in the user's current billing period"
    more = "; there are more users: --limit lists them" if has_more else ""
    print_line(console, remark + more)


_COLUMNS = (
    Column("user"),
    Column("plan"),
    Column("calls", is_number=True),
    Column("cost", is_number=True),
    Column("period cost", is_number=True),
    Column("last active, UTC", is_number=True),
)


def _cells(line: UserLine, default_plan: str) -> tuple[str, ...]:
    plan = line.plan
    if plan is None:
        shown = f"{default_plan} (default)" if default_plan != DEFAULT_PLAN else DEFAULT_PLAN
    else:
        shown = f"{plan} (own)" if line.has_own_plan else plan
    return (
        line.user_id,
        shown,
        f"{line.calls:,}",
        dollars(line.cost_nano),
        dollars(line.period_cost_nano),
        day_and_time(line.last_us),
    )
