"""`paygent users show`, `add`, `assign`, `pause`, `resume` and `erase`: one user of a server."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import TypeVar

import typer

from paygent.cli.console import is_interactive
from paygent.cli.database import choose_product, opened_database, read_database_url
from paygent.cli.options import CommandError, UsageError
from paygent.cli.output import open_console, print_line, printable
from paygent.client.api.arguments import check_name, check_user
from paygent.core.limit import LimitKey
from paygent.core.period import Renewal, Subscription, to_datetime, to_us
from paygent.core.validation import ValidationErrors
from paygent.core.wording import day_and_time, dollars, limit_in_words
from paygent.server.api.user_state import LimitState, UserState, read_user_state
from paygent.store.directory_port import Override, StoredUser, UserChange
from paygent.store.ledger import SqlStore

_T = TypeVar("_T")
_LABEL_WIDTH = 14


@dataclass(frozen=True)
class UserPlace:
    """Which user a command is about.

    Attributes:
        user_id: The user, as the application calls them.
        database_url, product: As the options gave them.
        environ: The environment.
    """

    user_id: str
    database_url: str | None
    product: str | None
    environ: Mapping[str, str]

    def __post_init__(self) -> None:
        errors = ValidationErrors("users")
        check_user(errors, self.user_id)
        errors.raise_if_any()

    def apply(self, verb: Callable[[SqlStore, str], _T | None]) -> _T:
        """Call a function with the opened database and the product.

        Raises:
            CommandError: if the function returns None, since the user is unknown.
        """
        with opened_database(read_database_url(self.database_url, self.environ)) as store:
            product = choose_product(store, self.product, self.environ)
            found = verb(store, product)
        if found is None:
            raise CommandError(
                f"product {product!r} has no user {self.user_id!r}: users are created by their "
                "first call, or by paygent users add"
            )
        return found

    def report(self, text: str) -> int:
        """Print a line about what was done; return the exit status."""
        print_line(open_console(self.environ), text)
        return 0


# -- reading


def show(place: UserPlace, now_us: int | None = None) -> int:
    """Print a user with plan, period, spend, limits and overrides; return the exit status."""
    at_us = time.time_ns() // 1_000 if now_us is None else now_us

    def read(store: SqlStore, product: str) -> list[tuple[str, str]] | None:
        state = read_user_state(store, product, place.user_id, at_us, with_limits=True)
        if state is None:
            return None
        overrides = store.overrides(product, place.user_id, at_us)
        return [*_facts(state), *(("override", _override_in_words(each)) for each in overrides)]

    console = open_console(place.environ)
    for label, value in place.apply(read):
        print_line(console, f"{label.ljust(_LABEL_WIDTH)}{value}")
    return 0


def _facts(state: UserState) -> Iterator[tuple[str, str]]:
    """Yield what is known about a user, each with its label."""
    user = state.user
    yield "user", user.user_id
    if user.name:
        yield "name", user.name
    yield "plan", _plan_in_words(state)
    start_us, end_us = state.period.start_us, state.period.end_us
    yield "period", f"{day_and_time(start_us)} to {day_and_time(end_us)}, UTC"
    spent_nano = sum(cost_nano for _, cost_nano in state.by_model.values())
    yield "spent", f"{dollars(spent_nano)} in this period"
    for each in state.limits:
        yield "limit", _limit_in_words(each)
    if user.paused:
        yield "paused", user.paused_reason or "without a reason"
    if not user.sdk_enabled:
        yield "metering", "off: calls are neither metered nor limited"
    yield "created", f"{day_and_time(user.created_us)}, UTC"
    yield "last call", f"{day_and_time(user.last_us)}{', UTC' if user.last_us else ''}"


def _limit_in_words(state: LimitState) -> str:
    limit, account, spent, is_reached, forecast_us = state
    if account is None:  # each session has one of its own
        return limit_in_words(limit)
    used = dollars(spent) if limit.metric == "spend" else f"{spent:,}"
    forecast = ", reached" if is_reached else ""
    if forecast_us is not None:
        forecast = f", reached {day_and_time(forecast_us)} at this pace"
    return f"{limit_in_words(limit)}, used {used}{forecast}"


def _plan_in_words(state: UserState) -> str:
    user, name = state.user, state.plan_name
    if user.plan is None:
        return f"{name} (not assigned)"
    if user.plan != name:
        return f"{name} (default, since the subscription of {user.plan!r} has ended)"
    return f"{name} (own)" if user.own is not None else name


def _override_in_words(override: Override) -> str:
    name = _limit_name(override.limit)
    amount = override.cap if override.cap is not None else override.added or 0
    shown = dollars(amount) if override.limit.metric == "spend" else f"{amount:,}"
    change = f"is {shown}" if override.cap is not None else f"plus {shown}"
    reason = f" ({override.reason})" if override.reason else ""
    return f"{name} {change} until {day_and_time(override.until_us)}, UTC{reason}"


def _limit_name(key: LimitKey) -> str:
    of = f" of {key.model}" if key.model else ""
    return f"{key.metric}{of} per {key.window}"


# -- changing


def add(place: UserPlace, name: str | None) -> int:
    """Create a user before their first call; return the exit status."""
    if name is not None:
        errors = ValidationErrors("users")
        check_name(errors, "--name", name)
        errors.raise_if_any()

    def create(store: SqlStore, product: str) -> bool:
        return store.add_user(product, place.user_id, name) is not None

    if not place.apply(create):
        raise CommandError(f"there is a user {place.user_id!r} already")
    return place.report(f"added user {place.user_id!r}")


def assign(
    place: UserPlace,
    plan: str,
    period_start: datetime | None,
    period_end: datetime | None,
    renews: Renewal,
) -> int:
    """Assign a plan and a billing period; return the exit status."""
    subscription = _subscription(period_start, period_end, renews)

    def subscribe(store: SqlStore, product: str) -> StoredUser | None:
        names = [each.name for each in store.plans(product)]
        if plan not in names:
            known = ", ".join(names) or "none"
            raise CommandError(f"there is no plan {plan!r}; configured: {known}")
        return store.subscribe(product, place.user_id, plan, subscription)

    place.apply(subscribe)
    period = "the UTC calendar month"
    if subscription is not None:
        first, last = map(to_datetime, subscription[:2])
        period = f"{first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M}, UTC"
    return place.report(f"user {place.user_id!r} has plan {plan!r}; billing period: {period}")


def _subscription(
    start: datetime | None, end: datetime | None, renews: Renewal
) -> Subscription | None:
    """Return the billing period of the options; None is the calendar month.

    Raises:
        UsageError: if they do not make a period.
    """
    if start is None and end is None and renews == "auto":
        return None
    if start is None or end is None:
        raise UsageError("--period-start and --period-end belong together, also with --renews")
    first, last = (to_us(each.replace(tzinfo=timezone.utc)) for each in (start, end))
    if last <= first:
        raise UsageError("--period-end must be after --period-start")
    return Subscription(first, last, renews)


def pause(place: UserPlace, reason: str | None) -> int:
    """Refuse the calls of a user; return the exit status."""
    change = UserChange({"paused": True, "paused_reason": reason})
    place.apply(lambda store, product: store.change_user(product, place.user_id, change))
    return place.report(f"user {place.user_id!r} is paused")


def resume(place: UserPlace) -> int:
    """Accept the calls of a user again; return the exit status."""
    change = UserChange({"paused": False, "paused_reason": None})

    def end_pause(store: SqlStore, product: str) -> bool | None:
        user = store.user(product, place.user_id)
        if user is None:
            return None
        if user.paused:
            store.change_user(product, place.user_id, change)
        return user.paused

    was_paused = place.apply(end_pause)
    change_made = "is not paused any more" if was_paused else "was not paused; nothing changed"
    return place.report(f"user {place.user_id!r} {change_made}")


def erase(place: UserPlace, *, is_confirmed: bool) -> int:
    """Erase a user; return the exit status."""
    if not is_confirmed:
        if not is_interactive(sys.stdin, place.environ):
            raise UsageError("an erasure cannot be undone: confirm it with --yes")
        question = f"Erase user {printable(place.user_id)!r}? This cannot be undone."
        if not typer.confirm(question):
            raise CommandError("nothing was erased")
    pseudonym = place.apply(lambda store, product: store.erase_user(product, place.user_id))
    return place.report(f"erased: the sums of the user remain as {pseudonym}")
