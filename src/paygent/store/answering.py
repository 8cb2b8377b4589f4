"""Answering: what a ledger knows of the users that a process asks about."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterable, Mapping
from typing import Any

from paygent.core.account import AccountKey, amount
from paygent.core.messages import Answer, Question, SessionState, UserLedger
from paygent.core.period import rolling_length_us
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

_ByModel = dict[str, tuple[int, int]]  # (tokens, nano-dollars) by model


def answer(
    sql: Statements,
    questions: Collection[Question],
    at_us: int,
    *,
    known: Mapping[UserAccount, tuple[int, int]] | None = None,
    directory: Mapping[str, Row] | None = None,
) -> Answer:
    """Answer questions.

    Args:
        sql: In a transaction, so that all figures are of one moment.
        questions: What is asked; without questions the answer has the plans alone.
        at_us: The process's clock, up to which rolling windows reach.
        known: Spent and shadow of accounts that the transaction has read already.
        directory: The rows of the users, if it has read them already.
    """
    plans = {
        row["name"]: (row["version"], json.loads(row["document"])) for row in sql.latest_plans()
    }
    product = sql.default_plan()
    default_plan = None if product is None else product["default_plan"]
    if not questions:
        return Answer(plans=plans, default_plan=default_plan)
    users = [(user_id,) for user_id in sorted({text(question.user_id) for question in questions})]
    if directory is None:
        directory = {row["user_id"]: row for row in sql.users_asked_for(rows=users)}
    sessions = {
        row["user_id"]: SessionState(row["session_id"], row["started_us"], row["used_us"])
        for row in sql.open_sessions(rows=users)
    }
    models = _models(sql, questions)
    figures = dict(known or {})
    asked = accounts_asked_for(questions)
    figures |= kept_accounts(sql, [each for each in asked if each not in figures])
    figures |= sums_of_windows(sql, [each for each in asked if each not in figures], at_us)
    answers = {}
    for question in questions:
        user_id = text(question.user_id)
        row = directory.get(user_id)
        accounts = {key: figures[user_id, storable(key)] for key in question.accounts}
        answers[question.user_id] = UserLedger(
            plan=None if row is None else row["plan"],
            own=None if row is None else from_json(row["own"]),
            subscription=None if row is None else subscription_of(row),
            sdk_enabled=True if row is None else bool(row["sdk_enabled"]),
            open_session=sessions.get(user_id),
            spent={key: spent for key, (spent, _) in accounts.items()},
            shadow={key: shadow for key, (_, shadow) in accounts.items() if shadow},
            period_start_us=question.period_start_us,
            by_model=models.get(user_id, {}),
        )
    return Answer(users=answers, plans=plans, default_plan=default_plan)


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


def _models(sql: Statements, questions: Iterable[Question]) -> dict[str, _ByModel]:
    """Return usage by user and model, in the period of each question."""
    periods = sorted({(text(each.user_id), each.period_start_us) for each in questions})
    models: dict[str, _ByModel] = {}
    for row in sql.models_of_periods(rows=periods):
        models.setdefault(row["user_id"], {})[row["model"]] = (row["tokens"], row["cost_nano"])
    return models
