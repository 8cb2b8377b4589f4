"""Answering: what a ledger knows of the users that a process asks about."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

from paygent.core.account import AccountKey, amount
from paygent.core.limit import LimitKey
from paygent.core.messages import DEFAULT_PLAN, Answer, Question, SessionState, UserLedger
from paygent.core.override import apply_overrides
from paygent.core.period import (
    billing_period,
    calendar_month,
    day_in_zone,
    months_between,
    rolling_length_us,
)
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.store.rows import (
    account_key_of,
    account_row,
    from_json,
    storable,
    subscription_of,
    text,
)
from paygent.store.statements import Row, Statements

UserAccount = tuple[str, AccountKey]
"""A user and one of their accounts."""

_NEWS_MAX = 1_000  # changed users in one answer; the next one goes on behind them
_TRANSACTION_US = 5_000_000  # changes so much older are looked for again

_ByModel = dict[str, tuple[int, int]]  # (tokens, nano-dollars) by model


def answer(
    sql: Statements,
    questions: Collection[Question],
    at_us: int,
    *,
    now_us: int,
    holder: str = "",
    news_since_us: int | None = None,
    known: Mapping[UserAccount, tuple[int, int]] | None = None,
    directory: Mapping[str, Row] | None = None,
) -> Answer:
    """Answer questions.

    Args:
        sql: In a transaction, so that all figures are of one moment.
        questions: What is asked; without questions the answer has the plans alone.
        at_us: The process's clock, up to which rolling windows reach.
        now_us: The ledger's clock, by which overrides end.
        holder: The process, to learn which of its batches are included; "" is none.
        news_since_us: As in `Batch`.
        known: Spent and shadow of accounts that the transaction has read already.
        directory: The rows of the users, if it has read them already.
    """
    plans = {
        row["name"]: (row["version"], json.loads(row["document"])) for row in sql.latest_plans()
    }
    product = sql.product_asked_for()
    default_plan = None if product is None else product["default_plan"]
    zone = "UTC" if product is None else str(product["timezone"])
    found = Answer(plans=plans, default_plan=default_plan)
    if holder:
        row = sql.booked_through(holder=text(holder))
        found = replace(found, booked_through=0 if row is None else row["booked_through"])
    if news_since_us is not None:
        found = _with_news(sql, found, news_since_us, now_us)
    if not questions:
        return found
    users = [(user_id,) for user_id in sorted({text(question.user_id) for question in questions})]
    if directory is None:
        directory = {row["user_id"]: row for row in sql.users_asked_for(rows=users)}
    sessions = {
        row["user_id"]: SessionState(row["session_id"], row["started_us"], row["used_us"])
        for row in sql.open_sessions(rows=users)
    }
    models = _models(sql, questions, directory, zone, now_us)
    figures = dict(known or {})
    asked = accounts_asked_for(questions)
    figures |= kept_accounts(sql, [each for each in asked if each not in figures])
    figures |= sums_of_windows(sql, [each for each in asked if each not in figures], at_us)
    raised = _overrides(sql, users, now_us)
    answers = {}
    for question in questions:
        user_id = text(question.user_id)
        row = directory.get(user_id)
        accounts = {key: figures[user_id, storable(key)] for key in question.accounts}
        answers[question.user_id] = UserLedger(
            plan=None if row is None else row["plan"],
            own=_own_document(row, raised.get(user_id, ()), found, now_us),
            subscription=None if row is None else subscription_of(row),
            sdk_enabled=True if row is None else bool(row["sdk_enabled"]),
            paused=False if row is None else bool(row["paused"]),
            paused_reason=None if row is None else row["paused_reason"],
            open_session=sessions.get(user_id),
            spent={key: spent for key, (spent, _) in accounts.items()},
            shadow={key: shadow for key, (_, shadow) in accounts.items() if shadow},
            period_start_us=question.period_start_us,
            by_model=models.get(user_id, {}),
            is_unknown=row is None,
        )
    return replace(found, users=answers)


def _with_news(sql: Statements, found: Answer, since_us: int, now_us: int) -> Answer:
    """Add the users that have changed since a time."""
    if not since_us:  # a process that has just started knows no user yet
        return replace(found, news_until_us=now_us)
    # A change is visible once its transaction ends, some time after the moment that it bears.
    rows = sql.changed_users(since_us=since_us - _TRANSACTION_US, users_max=_NEWS_MAX)
    until_us = now_us
    if len(rows) == _NEWS_MAX:
        # The next answer begins with the last of these, since others may bear the same moment.
        until_us = min(until_us, rows[-1]["changed_us"] + _TRANSACTION_US - 1)
    changed = frozenset(row["user_id"] for row in rows)
    return replace(found, changed=changed, news_until_us=max(until_us, since_us))


def _overrides(
    sql: Statements, users: Sequence[tuple[str]], now_us: int
) -> dict[str, list[_Raise]]:
    """Return the overrides of users that have not ended."""
    raised: dict[str, list[_Raise]] = {}
    for row in sql.overrides_of_users(rows=users, at_us=now_us):
        limit = LimitKey(row["metric"], row["scope"], row["model"], row["window_rule"])
        raise_ = _Raise(limit, row["cap"], row["added"], row["until_us"])
        raised.setdefault(row["user_id"], []).append(raise_)
    return raised


class _Raise(NamedTuple):
    """An override, as `apply_overrides` takes it."""

    limit: LimitKey
    cap: int | None
    added: int | None
    until_us: int


def _own_document(
    row: Row | None, raised: Collection[_Raise], found: Answer, now_us: int
) -> dict[str, Any] | None:
    """Return a user's own version of the plan: as assigned, or the plan with overrides."""
    own: dict[str, Any] | None = None if row is None else from_json(row["own"])
    if row is None or not raised:
        return own
    name = row["plan"] or found.default_plan or DEFAULT_PLAN
    document = own or found.plans.get(name, (0, None))[1]
    if document is None:
        return own
    return plan_to_json(apply_overrides(plan_from_json(document), raised, now_us))


def accounts_asked_for(questions: Iterable[Question]) -> list[UserAccount]:
    """Return the accounts that questions name, each once, as they are stored."""
    asked: dict[UserAccount, None] = {}
    for question in questions:
        user_id = text(question.user_id)
        for key in question.accounts:
            asked[user_id, storable(key)] = None
    return list(asked)


def is_rolling(key: AccountKey) -> bool:
    """Return whether the window of an account rolls: it has no row, and is summed when read."""
    return rolling_length_us(key.limit.window) is not None


def kept_accounts(
    sql: Statements, accounts: Iterable[UserAccount]
) -> dict[UserAccount, tuple[int, int]]:
    """Return spent and shadow of those accounts that have a row."""
    rows = sorted(account_row(user_id, key) for user_id, key in accounts)
    if not rows:
        return {}
    return {
        (row["user_id"], account_key_of(row)): (row["spent"], row["shadow"])
        for row in sql.kept_accounts(rows=rows)
    }


def sums_of_windows(
    sql: Statements, accounts: Collection[UserAccount], at_us: int
) -> dict[UserAccount, tuple[int, int]]:
    """Return spent and shadow of accounts without a row: the folds of the events they count.

    Args:
        sql: In a transaction.
        accounts: Windows that are new, and rolling windows.
        at_us: The moment at which a rolling window ends.
    """
    if not accounts:
        return {}
    numbered = sorted(accounts)
    sums = dict.fromkeys(numbered, (0, 0))
    spans = _session_spans(sql, numbered)
    rows: list[tuple[Any, ...]] = []
    for number, (user_id, key) in enumerate(numbered):
        start_us, end_us = key.start_us, key.end_us
        length_us = rolling_length_us(key.limit.window)
        if length_us is not None:
            start_us = at_us - length_us
        if key.session_id:
            if (user_id, key.session_id) not in spans:
                continue  # a session without a row has no events: nothing is read for it
            first_us, last_us = spans[user_id, key.session_id]
            start_us, end_us = max(start_us, first_us), min(end_us, last_us + 1)
        rows.append((number, user_id, start_us, end_us, key.session_id, key.limit.model))
    for row in sql.sums_of_windows(rows=rows) if rows else ():
        each = numbered[row["number"]]
        metric = each[1].limit.metric
        sums[each] = _amount(metric, row), _amount(metric, row, "shadow_")
    return sums


def _session_spans(
    sql: Statements, accounts: Iterable[UserAccount]
) -> dict[tuple[str, str], tuple[int, int]]:
    """Return the times of the first and the last event of the sessions among accounts."""
    asked = sorted({(user_id, key.session_id) for user_id, key in accounts if key.session_id})
    if not asked:
        return {}
    return {
        (row["user_id"], row["session_id"]): (row["started_us"], row["used_us"])
        for row in sql.session_spans(rows=asked)
    }


def _amount(metric: str, sums: Row, prefix: str = "") -> int:
    names = ("cost_nano", "tokens", "calls")
    return amount(metric, **{name: sums[prefix + name] for name in names})


def _models(
    sql: Statements,
    questions: Iterable[Question],
    directory: Mapping[str, Row],
    zone: str,
    now_us: int,
) -> dict[str, _ByModel]:
    """Return usage by user and model, in the period of each question."""
    spans: set[tuple[str, int, str]] = set()
    for user_id, start_us in {(text(each.user_id), each.period_start_us) for each in questions}:
        row = directory.get(user_id)
        subscription = None if row is None else subscription_of(row)
        period = billing_period(subscription, start_us) or calendar_month(start_us)
        last_us = max(start_us, min(period.end_us - 1, now_us))
        months = months_between(day_in_zone(start_us, zone), day_in_zone(last_us, zone))
        spans.update((user_id, start_us, month) for month in months)
    models: dict[str, _ByModel] = {}
    for row in sql.models_of_periods(rows=sorted(spans)):
        models.setdefault(row["user_id"], {})[row["model"]] = (row["tokens"], row["cost_nano"])
    return models
