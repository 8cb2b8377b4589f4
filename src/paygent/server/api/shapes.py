"""Stored values as answers, shared by several groups of routes."""

from __future__ import annotations

from collections.abc import Iterable

from paygent.core.money import to_usd
from paygent.core.period import Window, billing_period, to_datetime
from paygent.server.api import schemas
from paygent.store.directory_port import StoredUser


def time_of(at_us: int) -> str:
    """Return a time as ISO 8601."""
    return to_datetime(at_us).isoformat()


def period_of(window: Window) -> schemas.Period:
    """Return a window as a period."""
    return schemas.Period(start=time_of(window.start_us), end=time_of(window.end_us))


def user_shape(user: StoredUser, now_us: int) -> schemas.User:
    """Return a user as an answer."""
    subscription = user.subscription
    period = billing_period(subscription, now_us) if subscription else None
    return schemas.User(
        id=user.paygent_user_id,
        external_user_id=user.user_id,
        paygent_user_id=user.paygent_user_id,
        name=user.name,
        plan=user.plan,
        sdk_enabled=user.sdk_enabled,
        paused=user.paused,
        paused_reason=user.paused_reason,
        billing_period=period and period_of(period),
        renews=subscription and subscription.renews,
        created_at=time_of(user.created_us),
        last_call_at=time_of(user.last_us) if user.last_us else None,
    )


def accepted(batch: Iterable[tuple[str, str]], new: frozenset[str]) -> schemas.Accepted:
    """Return how many entries of a batch were stored now.

    Args:
        batch: User and id of each entry; users may have the same id, and one may be repeated.
        new: The ids that were new.
    """
    entries = list(batch)
    stored = len({(user_id, entry_id) for user_id, entry_id in entries if entry_id in new})
    return schemas.Accepted(accepted=stored, duplicates=len(entries) - stored)


def session_usage(by_model: dict[str, tuple[int, int]]) -> schemas.SessionUsage:
    """Return (tokens, nano-dollars) by model as usage of a period."""
    nano = {model: cost_nano for model, (_, cost_nano) in sorted(by_model.items())}
    tokens = {model: count for model, (count, _) in sorted(by_model.items())}
    total_nano = sum(nano.values())
    return schemas.SessionUsage(
        period_cost=to_usd(total_nano),
        period_cost_nano=total_nano,
        period_tokens_total=sum(tokens.values()),
        period_tokens_by_model=tokens,
        period_cost_by_model={model: to_usd(amount) for model, amount in nano.items()},
        period_cost_by_model_nano=nano,
    )
