"""Messages between a process and a backend as JSON: the one codec of `/sync` and `/leases`.

What many accounts have in common is written once: a message has a table of limits and one of
windows, and an account is `[limit, window]` or `[limit, window, session_id]` with indexes into
them. An answer gives spent in the order of the question's accounts. Events have their documented
form (`event_json`). Fields with their default are left out.

Whatever comes from outside is validated. The readers ignore unknown fields.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, get_args

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.event_json import CLOCK_SKEW_MAX_US, CanonicalName, event_to_json, read_events
from paygent.core.limit import LimitKey
from paygent.core.messages import (
    QUARTER_US,
    Answer,
    AssignRecord,
    Batch,
    GateEvent,
    LedgerRecord,
    PlanRecord,
    Question,
    SessionState,
    UnmeteredCount,
    UserLedger,
)
from paygent.core.period import Renewal, Subscription
from paygent.core.plan_json import plan_from_json
from paygent.core.record_json import record_from_json, record_to_json
from paygent.core.validation import NAME_CHARS_MAX, InvalidValue, ValidationErrors

QUESTIONS_MAX = 5_000
"""Questions in one message."""

RECORDS_MAX = 2_000
"""Directory records in one message."""

ACCOUNTS_MAX = 1_000
"""Accounts in one question."""

ACCOUNTS_TOTAL_MAX = 50_000
"""Accounts in one message."""

LIMITS_MAX = 5_000
WINDOWS_MAX = 20_000
"""Rows of a message's tables; users may have billing periods of their own."""

HOLDER_CHARS_MAX = 128
_REASON_CHARS_MAX = 10_000
_MESSAGE = "message"
_INT_MAX = (1 << 63) - 1
_RENEWALS = get_args(Renewal)


class _Table:
    """Values that are written once, and their numbers."""

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}

    def number(self, value: Any) -> int:
        return self._numbers.setdefault(value, len(self._numbers))

    @property
    def rows(self) -> list[list[Any]]:
        return [list(value) for value in self._numbers]


# -- a batch, from the process to the backend


def batch_to_json(batch: Batch) -> dict[str, Any]:
    """Return a batch as a JSON object."""
    limits, windows = _Table(), _Table()
    questions = []
    for question in batch.questions:
        accounts = [
            [limits.number(key.limit), windows.number((key.start_us, key.end_us))]
            + ([key.session_id] if key.session_id else [])
            for key in question.accounts
        ]
        questions.append(
            {
                "user_id": question.user_id,
                "accounts": accounts,
                "period_start_us": question.period_start_us,
                **_given(version=question.version),
            }
        )
    return {
        "at_us": batch.at_us,
        **_given(
            holder=batch.holder,
            number=batch.number,
            plans_version=batch.plans_version,
            events=[_short(event_to_json(event)) for event in batch.events],
            records=[record_to_json(record) for record in batch.records],
            limits=limits.rows,
            windows=windows.rows,
            questions=questions,
        ),
        **({} if batch.news_since_us is None else {"news_since_us": batch.news_since_us}),
    }


_ALWAYS = frozenset(
    {
        *("id", "user_id", "timestamp", "input_tokens", "output_tokens", "total_tokens"),
        *("cost_tokens", "cost_tools", "cost_total"),
    }
)
"""Fields of an event that are written whatever their value: a reader is fastest with them."""


def _short(event: dict[str, Any]) -> dict[str, Any]:
    """Return an event without fields that are empty, or say again what another does: a number of
    dollars is exact.
    """
    return {
        name: value
        for name, value in event.items()
        if name in _ALWAYS or (value and not name.endswith("_nano"))
    }


def read_batch(given: Any, now_us: int, canonical: CanonicalName) -> Batch:
    """Read a batch.

    Args:
        given: The parsed JSON.
        now_us: The ledger's clock; see `read_events`.
        canonical: Names a model for limits and reports.

    Raises:
        InvalidValue: Names every field that breaks a rule, such as `questions[3].user_id`.
    """
    errors = ValidationErrors(_MESSAGE)
    fields = _Fields(given, "", errors)
    limits = _limits(fields.items("limits", most=LIMITS_MAX), errors)
    windows = _windows(fields.items("windows", most=WINDOWS_MAX), errors)
    questions: dict[str, Question] = {}
    for number, each in enumerate(fields.items("questions", most=QUESTIONS_MAX)):
        part = _Fields(each, f"questions[{number}]", errors)
        question = _question(part, limits, windows)
        if questions.setdefault(question.user_id, question) is not question:
            part.add("user_id", question.user_id, "must be a user of no other question")
    records = tuple(
        record
        for number, each in enumerate(fields.items("records", most=RECORDS_MAX))
        if (record := _record(each, f"records[{number}]", now_us, errors)) is not None
    )
    events: tuple[Event, ...] = ()
    try:
        events = read_events(fields.value("events", []), now_us, canonical)
    except InvalidValue as invalid:
        errors.found += invalid.findings
    accounts = sum(len(question.accounts) for question in questions.values())
    if accounts > ACCOUNTS_TOTAL_MAX:
        errors.add("questions", accounts, f"must name at most {ACCOUNTS_TOTAL_MAX} accounts")
    at_us = fields.number("at_us", default=now_us)
    batch = Batch(
        events=events,
        records=records,
        questions=tuple(questions.values()),
        # Like events: rolling windows end at the ledger's time, where the sender's is wrong.
        at_us=now_us if at_us > now_us + CLOCK_SKEW_MAX_US else at_us,
        holder=fields.text("holder", chars_max=HOLDER_CHARS_MAX),
        number=fields.number("number"),
        news_since_us=fields.number("news_since_us") if "news_since_us" in fields.given else None,
        plans_version=fields.text("plans_version"),
    )
    errors.raise_if_any()
    return batch


def _limits(rows: Sequence[Any], errors: ValidationErrors) -> list[LimitKey]:
    limits = []
    for number, row in enumerate(rows):
        if _is_row(row, (str, str, str, str)) and all(len(each) <= NAME_CHARS_MAX for each in row):
            limits.append(LimitKey(*row))
        else:
            rule = "must be [metric, scope, model, window], each a string of up to 255 characters"
            errors.add(f"limits[{number}]", row, rule)
    return limits


def _windows(rows: Sequence[Any], errors: ValidationErrors) -> list[tuple[int, int]]:
    windows = []
    for number, row in enumerate(rows):
        if _is_row(row, (int, int)) and 0 <= row[0] <= row[1] <= _INT_MAX:
            windows.append((row[0], row[1]))
        else:
            errors.add(f"windows[{number}]", row, "must be [start_us, end_us]")
    return windows


def _is_row(row: Any, types: tuple[type, ...]) -> bool:
    return isinstance(row, list) and tuple(map(type, row)) == types


def _question(
    fields: _Fields, limits: Sequence[LimitKey], windows: Sequence[tuple[int, int]]
) -> Question:
    accounts = []
    for number, row in enumerate(fields.items("accounts", most=ACCOUNTS_MAX)):
        is_plain = _is_row(row, (int, int)) or (
            _is_row(row, (int, int, str)) and len(row[2]) <= NAME_CHARS_MAX
        )
        if is_plain and 0 <= row[0] < len(limits) and 0 <= row[1] < len(windows):
            session_id = row[2] if len(row) > 2 else ""
            accounts.append(AccountKey(limits[row[0]], session_id, *windows[row[1]]))
        else:
            rule = "must be [index of a limit, index of a window], and a session id if it has one"
            fields.add(f"accounts[{number}]", row, rule)
    return Question(
        fields.text("user_id", is_required=True),
        tuple(accounts),
        fields.number("period_start_us"),
        fields.text("version"),
    )


def _record(given: Any, path: str, now_us: int, errors: ValidationErrors) -> LedgerRecord | None:
    try:
        record = record_from_json(given)
    except (KeyError, TypeError, ValueError) as error:
        errors.add(path, given, f"must be a ledger record ({type(error).__name__})")
        return None
    if isinstance(record, PlanRecord):
        _check_plan(record.document, f"{path}.document", errors)
    elif isinstance(record, AssignRecord) and record.own is not None:
        _check_plan(record.own, f"{path}.own", errors)
    elif isinstance(record, GateEvent) and record.at_us > now_us + CLOCK_SKEW_MAX_US:
        return record._replace(at_us=now_us)  # as events
    elif isinstance(record, UnmeteredCount) and record.since_us > now_us:
        return record._replace(since_us=now_us // QUARTER_US * QUARTER_US)
    return record


def _check_plan(document: Mapping[str, Any], path: str, errors: ValidationErrors) -> None:
    """Record the rules that a plan breaks; later, when limits are read, it could not be refused."""
    try:
        plan_from_json(document)
    except InvalidValue as invalid:
        for each in invalid.findings:
            errors.add(f"{path}.{each.field}", each.value, each.rule)


# -- an answer, from the backend to the process


def with_versions(answer: Answer, batch: Batch) -> Answer:
    """Return an answer with versions, without what the process has already."""
    users = {}
    for question in batch.questions:
        state = answer.users[question.user_id]
        accounts = [list(key) for key in question.accounts]
        version = _digest([accounts, user_to_json(question, replace(state, version=""))])
        if version != question.version:
            users[question.user_id] = replace(state, version=version)
    plans = [[name, *answer.plans[name]] for name in sorted(answer.plans)]
    version = _digest([plans, answer.default_plan])
    return replace(answer, users=users, plans_version=version)


def _digest(value: Any) -> str:
    text = json.dumps(value, sort_keys=True, separators=(",", ":"))
    return hashlib.blake2b(text.encode(), digest_size=9).hexdigest()


def answer_to_json(answer: Answer, batch: Batch) -> dict[str, Any]:
    """Return the answer to a batch as a JSON object."""
    counted = answer.counted
    written: dict[str, Any] = {"booked_through": answer.booked_through} | _given(
        duplicates=[each.event_id for each in batch.events if each.event_id not in counted],
        default_plan=answer.default_plan,
        plans_version=answer.plans_version,
        changed=sorted(answer.changed),
        news_until_us=answer.news_until_us,
    )
    users = [
        user_to_json(question, answer.users[question.user_id])
        for question in batch.questions
        if question.user_id in answer.users
    ]
    if users:
        written["users"] = users
    if not answer.plans_version or answer.plans_version != batch.plans_version:
        written["plans"] = plans_to_json(answer.plans)
    return written


def plans_to_json(plans: Mapping[str, tuple[int, dict[str, Any]]]) -> dict[str, Any]:
    """Return plans, by name with version and document, as a JSON object."""
    return {
        name: {"version": version, "document": document}
        for name, (version, document) in plans.items()
    }


def plans_from_json(given: Any) -> dict[str, tuple[int, dict[str, Any]]]:
    """Read plans.

    Raises:
        InvalidValue: if they are not what `plans_to_json` writes.
    """
    errors = ValidationErrors("plans")
    plans = _plans(_Fields(given, "", errors).given, errors)
    errors.raise_if_any()
    return plans


def user_to_json(question: Question, state: UserLedger) -> dict[str, Any]:
    """Return the state of a user as a JSON object, with figures in the order of the question's
    accounts.
    """
    subscription, opened = state.subscription, state.open_session
    shadow = [state.shadow.get(key, 0) for key in question.accounts]
    written = _given(
        plan=state.plan,
        own=state.own,
        subscription=None if subscription is None else subscription._asdict(),
        paused=state.paused,
        paused_reason=state.paused_reason,
        open_session=None if opened is None else opened._asdict(),
        spent=[state.spent[key] for key in question.accounts],
        shadow=shadow if any(shadow) else None,
        period_start_us=state.period_start_us,
        by_model={model: list(figures) for model, figures in state.by_model.items()},
        version=state.version,
    )
    written["user_id"] = question.user_id
    if not state.sdk_enabled:
        written["sdk_enabled"] = False
    return written


def user_from_json(given: Any, question: Question) -> UserLedger:
    """Read the state of a user, with the question that it answers.

    Raises:
        InvalidValue: if it is not what `user_to_json` writes.
    """
    errors = ValidationErrors("user")
    state = _user(_Fields(given, "", errors), question)
    errors.raise_if_any()
    return state


def read_answer(given: Any, batch: Batch) -> Answer:
    """Read the answer to a batch.

    Raises:
        InvalidValue: It is no answer to this batch.
    """
    errors = ValidationErrors("answer")
    fields = _Fields(given, "", errors)
    if "booked_through" not in fields.given:  # a server that says yes to everything
        fields.add("booked_through", None, "must be the number of a batch")
    questions = {readable(question.user_id): question for question in batch.questions}
    users = {}
    for number, each in enumerate(fields.items("users")):
        user = _Fields(each, f"users[{number}]", errors)
        question = questions.get(user.text("user_id", is_required=True))
        if question is None:
            user.add("user_id", user.given.get("user_id"), "must be a user of a question")
        else:
            users[question.user_id] = _user(user, question)
    duplicates = {each for each in fields.items("duplicates") if isinstance(each, str)}
    plans = _plans(fields.mapping("plans"), errors)
    errors.raise_if_any()
    answer = Answer(
        counted=frozenset(
            each.event_id for each in batch.events if each.event_id not in duplicates
        ),
        users=users,
        plans=plans,
        default_plan=fields.text("default_plan") or None,
        booked_through=fields.number("booked_through"),
        unchanged=frozenset(each.user_id for each in batch.questions if each.user_id not in users),
        changed=frozenset(each for each in fields.items("changed") if isinstance(each, str)),
        news_until_us=fields.number("news_until_us"),
        plans_version=fields.text("plans_version"),
    )
    errors.raise_if_any()
    return answer


def _plans(
    given: Mapping[str, Any], errors: ValidationErrors
) -> dict[str, tuple[int, dict[str, Any]]]:
    plans = {}
    for name, each in given.items():
        plan = _Fields(each, f"plans.{name}", errors)
        plans[name] = plan.number("version"), dict(plan.mapping("document"))
    return plans


def _user(fields: _Fields, question: Question) -> UserLedger:
    accounts = question.accounts
    spent = fields.items("spent")
    shadow = fields.items("shadow") or [0] * len(accounts)
    for name, figures in (("spent", spent), ("shadow", shadow)):
        if len(figures) != len(accounts) or any(type(each) is not int for each in figures):
            fields.add(name, figures, "must have a whole number for each account of the question")
    by_model = {}
    for model, figures in fields.mapping("by_model").items():
        if _is_row(figures, (int, int)):
            by_model[model] = (figures[0], figures[1])
        else:
            fields.add(f"by_model.{model}", figures, "must be [tokens, nano-dollars]")
    own = fields.mapping("own")
    return UserLedger(
        plan=fields.text("plan") or None,
        own=dict(own) if "own" in fields.given else None,
        subscription=_subscription(fields.part("subscription")),
        sdk_enabled=fields.flag("sdk_enabled", default=True),
        paused=fields.flag("paused"),
        paused_reason=fields.text("paused_reason", chars_max=_REASON_CHARS_MAX) or None,
        open_session=_session(fields.part("open_session")),
        spent=dict(zip(accounts, spent, strict=False)),
        shadow={key: each for key, each in zip(accounts, shadow, strict=False) if each},
        period_start_us=fields.number("period_start_us"),
        by_model=by_model,
        version=fields.text("version"),
    )


def _subscription(fields: _Fields | None) -> Subscription | None:
    if fields is None:
        return None
    renews = fields.text("renews", is_required=True)
    if renews not in _RENEWALS:
        fields.add("renews", renews, f"must be one of {', '.join(_RENEWALS)}")
        return None
    # mypy does not see that the check has narrowed it to a `Renewal`.
    return Subscription(fields.number("start_us"), fields.number("end_us"), renews)  # type: ignore[arg-type]


def _session(fields: _Fields | None) -> SessionState | None:
    if fields is None:
        return None
    session_id = fields.text("session_id", is_required=True)
    return SessionState(session_id, fields.number("started_us"), fields.number("used_us"))


# -- both


def readable(text: str) -> str:
    """Return a text as it can be sent: no reader of UTF-8 accepts a lone surrogate, so it becomes
    U+FFFD, as in a store.
    """
    if text.isascii():
        return text
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")


def _given(**fields: Any) -> dict[str, Any]:
    """Return the fields that are not empty."""
    return {name: value for name, value in fields.items() if value}


class _Fields:
    """The fields of a JSON object, which records every rule that one breaks."""

    def __init__(self, given: Any, path: str, errors: ValidationErrors) -> None:
        self._path = path
        self._errors = errors
        self.given: Mapping[str, Any] = given if isinstance(given, dict) else {}
        if not isinstance(given, dict):
            errors.add(path or _MESSAGE, given, "must be an object")

    def add(self, name: str, value: Any, rule: str) -> None:
        """Record that a field breaks a rule."""
        self._errors.add(f"{self._path}.{name}" if self._path else name, value, rule)

    def value(self, name: str, default: Any) -> Any:
        """Return a field as it is; the default where it is missing or null."""
        value = self.given.get(name)
        return default if value is None else value

    def text(self, name: str, *, chars_max: int = NAME_CHARS_MAX, is_required: bool = False) -> str:
        """Return a text, or "" where there is none."""
        value = self.value(name, "")
        if type(value) is str and len(value) <= chars_max and (value or not is_required):
            return value
        least = 1 if is_required else 0
        self.add(name, value, f"must be a string of {least} to {chars_max} characters")
        return ""

    def number(self, name: str, *, default: int = 0) -> int:
        """Return a whole number."""
        value = self.value(name, default)
        if type(value) is int and 0 <= value <= _INT_MAX:
            return value
        self.add(name, value, "must be a whole number from 0 to 2^63 - 1")
        return default

    def flag(self, name: str, *, default: bool = False) -> bool:
        """Return a truth value."""
        value = self.value(name, default)
        if type(value) is bool:
            return value
        self.add(name, value, "must be true or false")
        return default

    def items(self, name: str, *, most: int | None = None) -> list[Any]:
        """Return a list."""
        value = self.value(name, [])
        if not isinstance(value, list):
            self.add(name, value, "must be a list")
            return []
        if most is not None and len(value) > most:
            self.add(name, len(value), f"must have at most {most} entries")
            return []
        return value

    def mapping(self, name: str) -> Mapping[str, Any]:
        """Return an object."""
        value = self.value(name, {})
        if isinstance(value, dict):
            return value
        self.add(name, value, "must be an object")
        return {}

    def part(self, name: str) -> _Fields | None:
        """Return the fields of an object; None where there is none."""
        if self.given.get(name) is None:
            return None
        path = f"{self._path}.{name}" if self._path else name
        return _Fields(self.given[name], path, self._errors)
