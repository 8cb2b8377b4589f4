"""`paygent plans list`: the plans of a product, also those in use that were never configured."""

from __future__ import annotations

import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple

from paygent.cli.database import opened_source
from paygent.cli.options import CommandError, Format
from paygent.cli.output import Column, open_console, print_csv, print_json, print_line, print_table
from paygent.core.messages import DEFAULT_PLAN, MISSING_USER_ID
from paygent.core.money import to_usd
from paygent.core.period import day
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_from_json
from paygent.core.validation import InvalidValue
from paygent.core.wording import dollars, limits_in_words
from paygent.store.port import PlanUsers, Store

ACTIVE_DAYS = 30
"""Days, today included, in which a user with a call is active."""

NOT_CONFIGURED = "not configured: no limits"
_DAY_US = 86_400 * 10**6


@dataclass(frozen=True)
class PlanLine:
    """A plan as commands see it.

    Attributes:
        name: Its name.
        version: Its newest version; None if it is not configured.
        config: The plan; None if it is not configured, or if this Paygent cannot read it.
        problem: Why it cannot be read, or "".
        users: Its users.
    """

    name: str
    version: int | None
    config: PlanConfig | None
    problem: str
    users: PlanUsers


class PlanTable(NamedTuple):
    """The plans of a product.

    Attributes:
        lines: By name, those in use that are not configured too.
        unassigned: How many users have no assigned plan; they are users of the default plan.
        default_plan: The plan of these.
    """

    lines: list[PlanLine]
    unassigned: int
    default_plan: str


def read_plans(store: Store, product: str, now_us: int) -> PlanTable:
    """Return the plans of a product with their users."""
    today = day(now_us)
    first_us = today.start_us - (ACTIVE_DAYS - 1) * _DAY_US
    users = store.plan_users(product, first_us, today.end_us, besides=MISSING_USER_ID)
    unassigned = users.pop("", PlanUsers()).assigned
    answer = store.read(product, (), now_us)
    default = answer.default_plan or DEFAULT_PLAN
    if unassigned:
        own = users.get(default, PlanUsers())
        users[default] = own._replace(assigned=own.assigned + unassigned)
    lines = []
    for name in sorted(answer.plans.keys() | users.keys()):
        version, document = answer.plans.get(name, (None, None))
        config, problem = _read(document)
        lines.append(PlanLine(name, version, config, problem, users.get(name, PlanUsers())))
    return PlanTable(lines, unassigned, default)


def _read(document: Mapping[str, Any] | None) -> tuple[PlanConfig | None, str]:
    if document is None:
        return None, ""
    try:
        return plan_from_json(document), ""
    except InvalidValue as error:  # of a newer version, perhaps
        return None, "; ".join(map(str, error.findings))


def run(
    db: str | None,
    product: str | None,
    environ: Mapping[str, str],
    output_format: Format,
    now_us: int | None = None,
    *,
    database_url: str | None = None,
) -> int:
    """Print the plans; return the exit status."""
    now_us = time.time_ns() // 1_000 if now_us is None else now_us
    with opened_source(db, database_url, product, environ) as source:
        lines, unassigned, default_plan = read_plans(source.store, source.product, now_us)
    if output_format is Format.CSV:
        print_csv(_NAMES, map(_record, lines))
    elif output_format is Format.JSON:
        plans = [_record(line) for line in lines]
        head = {"product": source.product, "default_plan": default_plan}
        print_json({**head, "plans": plans, "users_without_plan": unassigned})
    elif lines:
        console = open_console(environ)
        print_table(console, _COLUMNS, map(_cells, lines))
        if unassigned:
            print_line(console, _remark(unassigned, default_plan))
    else:
        raise CommandError(
            f"no plan of product {source.product!r} in {source.shown} yet: pg.configure_plan or "
            "paygent plans apply adds one (--product, --db and --database-url select others)"
        )
    return 0


def _remark(unassigned: int, default_plan: str) -> str:
    count = "1 user has" if unassigned == 1 else f"{unassigned:,} users have"
    return f"{count} no assigned plan and the default plan, {default_plan!r}"


_NAMES = ("name", "version", "is_configured", "users", "active_users", "price", "limits")
_COLUMNS = (
    Column("plan"),
    Column("version", is_number=True),
    Column("users", is_number=True),
    Column(f"active {ACTIVE_DAYS} d", is_number=True),
    Column("price", is_number=True),
    Column("limits", is_prose=True),
)


def limits_of_line(line: PlanLine) -> str:
    """Return the limits of a plan in words, or why there are none."""
    if line.problem:
        return f"unreadable: {line.problem}"
    return NOT_CONFIGURED if line.config is None else limits_in_words(line.config)


def _record(line: PlanLine) -> dict[str, Any]:
    price_nano = line.config.price_nano if line.config is not None else None
    return {
        "name": line.name,
        "version": line.version,
        "is_configured": line.version is not None,
        "users": line.users.assigned,
        "active_users": line.users.active,
        "price": None if price_nano is None else to_usd(price_nano),
        "limits": limits_of_line(line),
    }


def _cells(line: PlanLine) -> tuple[str, ...]:
    price_nano = line.config.price_nano if line.config is not None else None
    return (
        line.name,
        "-" if line.version is None else str(line.version),
        f"{line.users.assigned:,}",
        f"{line.users.active:,}",
        "-" if price_nano is None else dollars(price_nano),
        limits_of_line(line),
    )
