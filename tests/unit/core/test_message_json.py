"""Messages as JSON: what is written is read, broken rules are named, unchanged parts stay out."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tests.contract.samples import (
    MONTH,
    NOON_US,
    PERIOD_SPEND,
    day_key,
    make_event,
    period_key,
    rolling_key,
    session_key,
)

from paygent.core.account import AccountKey
from paygent.core.event_json import CLOCK_SKEW_MAX_US
from paygent.core.limit import LimitKey
from paygent.core.message_json import (
    ACCOUNTS_MAX,
    HOLDER_CHARS_MAX,
    QUESTIONS_MAX,
    RECORDS_MAX,
    answer_to_json,
    batch_to_json,
    plans_from_json,
    plans_to_json,
    read_answer,
    read_batch,
    user_from_json,
    user_to_json,
    with_versions,
)
from paygent.core.messages import (
    QUARTER_US,
    Answer,
    AssignRecord,
    Batch,
    GateEvent,
    PlanRecord,
    PriceRecord,
    Question,
    SessionRecord,
    SessionState,
    UnmeteredCount,
    UserLedger,
)
from paygent.core.period import END_OF_TIME_US, Subscription
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.core.record_json import record_to_json
from paygent.core.validation import InvalidValue

INT_MAX = (1 << 63) - 1
PLAN = plan_to_json(PlanConfig(max_spend_per_period=5))
OWN = plan_to_json(PlanConfig(max_spend_per_session=2, model_limits={"gpt-4o": 5_000}))


def canonical(model: str) -> str:
    """Return a name that shows that it was asked for."""
    return f"<{model}>"


def through_text(value: Any) -> Any:
    """Return a value as it arrives."""
    return json.loads(json.dumps(value, allow_nan=False))


def read(given_json: Any) -> Batch:
    """Read a batch."""
    return read_batch(given_json, NOON_US, canonical)


def broken(given_json: Any) -> dict[str, str]:
    """Return the fields of a batch that are refused, each with its rule."""
    with pytest.raises(InvalidValue) as refused:
        read(given_json)
    return {finding.field: finding.rule for finding in refused.value.findings}


def broken_answer(given_json: Any, batch: Batch | None = None) -> dict[str, str]:
    """Return the fields of an answer that are refused, each with its rule."""
    with pytest.raises(InvalidValue) as refused:
        given = {"booked_through": 0, **given_json} if type(given_json) is dict else given_json
        read_answer(given, batch or Batch(questions=(QUESTION,)))
    return {finding.field: finding.rule for finding in refused.value.findings}


QUESTION = Question(
    "ann",
    (
        *(period_key(), period_key("tokens", "gpt-4o"), period_key("calls"), day_key()),
        *(session_key("s1"), session_key("s2"), rolling_key()),
    ),
    MONTH.start_us,
)


# -- values of messages

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
NAMES = st.text(st.characters(codec="utf-8"), min_size=1, max_size=20)
NUMBERS = st.integers(0, INT_MAX)
FIGURES = st.integers(-INT_MAX, INT_MAX)
LIMITS = st.builds(
    LimitKey,
    st.sampled_from(["spend", "tokens", "calls"]),
    st.sampled_from(["user", "session"]),
    st.sampled_from(["", "gpt-4o"]),
    st.sampled_from(["period", "session", "day", "rolling:24h"]),
)


@st.composite
def account_keys(draw: st.DrawFn) -> AccountKey:
    """Make accounts."""
    start_us, end_us = sorted((draw(NUMBERS), draw(NUMBERS)))
    return AccountKey(draw(LIMITS), draw(TEXTS), start_us, end_us)


QUESTIONS = st.builds(
    Question, NAMES, st.lists(account_keys(), max_size=4).map(tuple), NUMBERS, TEXTS
)
QUESTION_LISTS = st.lists(QUESTIONS, max_size=4, unique_by=lambda each: each.user_id).map(tuple)


@st.composite
def states(draw: st.DrawFn, question: Question) -> UserLedger:
    """Make answers to a question."""
    spent = {key: draw(FIGURES) for key in question.accounts}
    shadow = {key: draw(FIGURES) for key in question.accounts if draw(st.booleans())}
    return UserLedger(
        plan=draw(st.none() | NAMES),
        own=draw(st.none() | st.just(OWN)),
        subscription=draw(
            st.none()
            | st.builds(Subscription, NUMBERS, NUMBERS, st.sampled_from(["auto", "month", "none"]))
        ),
        sdk_enabled=draw(st.booleans()),
        paused=draw(st.booleans()),
        paused_reason=draw(st.none() | NAMES),
        open_session=draw(st.none() | st.builds(SessionState, NAMES, NUMBERS, NUMBERS)),
        spent=spent,
        shadow={key: each for key, each in shadow.items() if each},
        period_start_us=question.period_start_us,
        by_model=draw(st.dictionaries(NAMES, st.tuples(FIGURES, FIGURES), max_size=2)),
    )


# -- batches


@given(QUESTION_LISTS, TEXTS, NUMBERS, st.none() | NUMBERS, TEXTS)
def test_batch__any_questions__survive_the_round_trip(
    questions: tuple[Question, ...], holder: str, number: int, since_us: int | None, version: str
) -> None:
    """Limits and windows come back from the tables, whatever accounts share them."""
    batch = Batch(
        questions=questions,
        at_us=NOON_US,
        holder=holder,
        number=number,
        news_since_us=since_us,
        plans_version=version,
    )
    assert read(through_text(batch_to_json(batch))) == batch


def test_batch__with_everything__survives_the_round_trip() -> None:
    """Events keep what the ledger does not compute itself; plan and period are the ledger's."""
    events = (
        make_event("a", plan="", period_start_us=0, details={"image_tokens": 3}, blocked=True),
        make_event("b", plan="", period_start_us=0, corrects="a", restates=True, session_id=""),
        make_event("c", plan="", period_start_us=0, model_key="my-own-name", metadata={"a": 1}),
    )
    directory = (
        SessionRecord("ann", "s1", True, NOON_US, NOON_US),
        PriceRecord("list-1", {"gpt-4o": {"input": "1"}}, NOON_US),
        PlanRecord("pro", PLAN, NOON_US),
        AssignRecord("ann", "pro", OWN, Subscription(0, NOON_US, "week"), NOON_US, keeps=True),
    )
    batch = Batch(events, directory, (QUESTION,), NOON_US, "web-1", 7, 0, "v1")
    assert read(through_text(batch_to_json(batch))) == batch


def test_batch__what_accounts_share__is_written_once() -> None:
    """A message of many users has each limit and each window in its table."""
    others = tuple(replace(QUESTION, user_id=f"u{number}") for number in range(3))
    written = batch_to_json(Batch(questions=(QUESTION, *others), at_us=NOON_US))
    assert len(written["limits"]) == len({key.limit for key in QUESTION.accounts}) == 6
    assert written["windows"] == [list(MONTH), [*day_key()[2:]], [0, END_OF_TIME_US]]
    assert written["questions"][0]["accounts"] == [
        *([0, 0], [1, 0], [2, 0], [3, 1]),
        *([4, 2, "s1"], [4, 2, "s2"], [5, 2]),
    ]


def test_batch__fields_with_their_default__are_left_out() -> None:
    """An empty batch is a clock; 0 as the time of news is not none."""
    assert batch_to_json(Batch(at_us=NOON_US)) == {"at_us": NOON_US}
    assert batch_to_json(Batch(at_us=1, news_since_us=0)) == {"at_us": 1, "news_since_us": 0}
    assert read({}) == Batch(at_us=NOON_US)
    assert read({"news_since_us": 0}).news_since_us == 0
    assert read({"events": None, "questions": None, "holder": None, "at_us": None}) == read({})
    assert read({"colour": "red", "questions": [{"user_id": "ann", "colour": 1}]}).questions == (
        Question("ann"),
    )


def test_batch__events__are_read_by_their_own_rules() -> None:
    """With the ledger's names of models and its clock, and named by their place."""
    batch = {"events": [{"id": "a", "user_id": "u", "timestamp": "2024-10-04", "model": "m"}]}
    assert broken(batch).keys() == {"events[0].timestamp"}
    batch["events"][0]["timestamp"] = "2999-01-01T00:00:00Z"
    (event,) = read(batch).events
    assert (event.model_key, event.at_us) == ("<m>", NOON_US)
    assert broken({"events": 5, "holder": 5}).keys() == {"events", "holder"}


NUMBER_RULE = "must be a whole number from 0 to 2^63 - 1"
BAD_NUMBERS: tuple[Any, ...] = (-1, 1 << 63, 1.0, "1", True, [])
NO_LISTS: tuple[Any, ...] = ({}, "x", 5)
BAD_NAMES: tuple[Any, ...] = (None, "", 5, "x" * 256)
LIMIT_RULE = "must be [metric, scope, model, window], each a string of up to 255 characters"
WINDOW_RULE = "must be [start_us, end_us]"
ACCOUNT_RULE = "must be [index of a limit, index of a window], and a session id if it has one"
USER_RULE = "must be a string of 1 to 255 characters"
RECORD_RULE = "must be a ledger record"
ASSIGN = AssignRecord("ann", "pro", None, None, NOON_US, keeps=True)


def question_with(*accounts: Any) -> dict[str, Any]:
    """Return a message with a limit, a window and a question."""
    return {
        "limits": [list(PERIOD_SPEND)],
        "windows": [[0, 1]],
        "questions": [{"user_id": "ann", "accounts": list(accounts)}],
    }


@pytest.mark.parametrize(
    ("given_json", "field", "rule"),
    [
        *(([], "message", "must be an object"), (None, "message", "must be an object")),
        *(
            ({name: value}, name, NUMBER_RULE)
            for name in ("at_us", "number", "news_since_us")
            for value in BAD_NUMBERS
        ),
        ({"holder": 5}, "holder", "must be a string of 0 to 128 characters"),
        (
            {"holder": "x" * (HOLDER_CHARS_MAX + 1)},
            "holder",
            "must be a string of 0 to 128 characters",
        ),
        ({"plans_version": "x" * 256}, "plans_version", "must be a string of 0 to 255 characters"),
        *(
            ({name: value}, name, "must be a list")
            for name in ("limits", "windows", "questions", "records")
            for value in NO_LISTS
        ),
        (
            {"questions": [{}] * (QUESTIONS_MAX + 1)},
            "questions",
            f"must have at most {QUESTIONS_MAX} entries",
        ),
        (
            {"records": [{}] * (RECORDS_MAX + 1)},
            "records",
            f"must have at most {RECORDS_MAX} entries",
        ),
        *(
            ({"limits": [list(PERIOD_SPEND), row]}, "limits[1]", LIMIT_RULE)
            for row in (5, [], ["a"] * 3, ["a"] * 5, ["a", "b", "c", 5], ["a", "b", "x" * 256, "d"])
        ),
        *(
            ({"windows": [row]}, "windows[0]", WINDOW_RULE)
            for row in (5, [0], [1, 0], [-1, 0], [0, 1 << 63], [0, 1.0], [False, True], [0, 1, 2])
        ),
        ({"questions": [5]}, "questions[0]", "must be an object"),
        *(
            ({"questions": [{"user_id": value}]}, "questions[0].user_id", USER_RULE)
            for value in BAD_NAMES
        ),
        (
            {"questions": [{"user_id": "a"}, {"user_id": "b"}, {"user_id": "a"}]},
            "questions[2].user_id",
            "must be a user of no other question",
        ),
        (
            {"questions": [{"user_id": "a", "period_start_us": -1}]},
            "questions[0].period_start_us",
            NUMBER_RULE,
        ),
        (
            {"questions": [{"user_id": "a", "version": 1}]},
            "questions[0].version",
            "must be a string of 0 to 255 characters",
        ),
        (
            question_with(*[[0, 0]] * (ACCOUNTS_MAX + 1)),
            "questions[0].accounts",
            f"must have at most {ACCOUNTS_MAX} entries",
        ),
        *(
            (question_with([0, 0], row), "questions[0].accounts[1]", ACCOUNT_RULE)
            for row in (
                *(5, [], [0], [1, 0], [0, 1], [-1, 0], [0, -1], [0, False], [0, 0, 5]),
                *([0, 0, "x" * 256], [0, 0, "s", 0]),
            )
        ),
        *(({"records": [value]}, "records[0]", RECORD_RULE) for value in (5, {}, {"k": "x"})),
        (
            {"records": [{"k": "plan", "name": "pro", "document": 5, "at_us": 1}]},
            "records[0]",
            RECORD_RULE,
        ),
        (
            {"records": [{"k": "plan", "name": "p", "document": {"price": -1}, "at_us": 1}]},
            "records[0].document.price",
            "must not be negative",
        ),
        (
            {"records": [record_to_json(ASSIGN) | {"own": {"colour": "red"}}]},
            "records[0].own.colour",
            "is not a field",
        ),
    ],
)
def test_batch__a_field_that_breaks_a_rule__is_named_with_it(
    given_json: Any, field: str, rule: str
) -> None:
    """Whoever writes a client of their own finds the mistake in the answer."""
    found = broken(given_json)
    assert field in found
    assert found[field].startswith(rule)


def test_batch__every_broken_field__is_named_at_once() -> None:
    """One answer lists all of them, those of events too."""
    found = broken(
        {
            "holder": 5,
            "limits": [5],
            "windows": [5],
            "questions": [{"user_id": "", "accounts": [[0, 0]]}, 7],
            "records": [7],
            "events": [{}],
        }
    )
    assert found.keys() >= {
        *("holder", "limits[0]", "windows[0]", "questions[0].user_id", "questions[1]"),
        *("questions[0].accounts[0]", "records[0]", "events[0].id"),
    }


# -- anything at all

SCALARS = (
    st.none()
    | st.booleans()
    | st.integers(-2, 2)
    | st.sampled_from([INT_MAX, INT_MAX + 1, -INT_MAX, 10**40])
    | st.floats(allow_nan=False, allow_infinity=False)
    | st.sampled_from(["", "ann", "plan", "assign", "session", "prices", "auto", "spend", "\0"])
    | st.text(max_size=3)
)
FIELD_NAMES = st.sampled_from(
    [
        *("events", "records", "questions", "limits", "windows", "holder", "number", "at_us"),
        *("news_since_us", "plans_version", "user_id", "accounts", "period_start_us", "version"),
        *("k", "name", "document", "own", "plan", "subscription", "start_us", "end_us", "renews"),
        *("users", "plans", "spent", "shadow", "by_model", "open_session", "session_id"),
        *("duplicates", "changed", "booked_through", "paused", "sdk_enabled", "started_us"),
    ]
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(FIELD_NAMES, inner, max_size=6),
    max_leaves=20,
)
OBJECTS = st.dictionaries(FIELD_NAMES, JSON, max_size=8)


@settings(max_examples=300)
@given(JSON | OBJECTS)
def test_batch__any_json__is_read_or_invalid(value: Any) -> None:
    """No value makes the reader fail in another way; what is read can be sent again."""
    try:
        batch = read(value)
    except InvalidValue as invalid:
        assert all(each.field and each.rule for each in invalid.findings)
    else:
        assert read(through_text(batch_to_json(batch))) == batch


@settings(max_examples=300)
@given(JSON | OBJECTS)
def test_answer__any_json__is_read_or_invalid(value: Any) -> None:
    """A backend that answers something else does no more than fail."""
    batch = Batch(questions=(Question("ann"),), events=(make_event("a"),))
    try:
        answer = read_answer(value, batch)
    except InvalidValue as invalid:
        assert all(each.field and each.rule for each in invalid.findings)
    else:
        assert answer.users.keys() | answer.unchanged == {"ann"}
        assert answer.counted <= {"a"}


# -- answers


@given(st.data(), QUESTION_LISTS)
def test_answer__any_users__survive_the_round_trip(
    data: st.DataObject, questions: tuple[Question, ...]
) -> None:
    """Every field of every user, in the order of its question's accounts, with a version."""
    batch = Batch(questions=questions)
    given_answer = Answer(users={each.user_id: data.draw(states(each)) for each in questions})
    versioned = with_versions(given_answer, batch)
    assert all(each.version for each in versioned.users.values())
    arrived = read_answer(through_text(answer_to_json(versioned, batch)), batch)
    assert arrived == versioned
    plain = {name: replace(each, version="") for name, each in arrived.users.items()}
    assert plain == given_answer.users


@given(
    st.sets(NAMES, max_size=3),
    st.dictionaries(NAMES, st.tuples(NUMBERS, st.just(PLAN)), max_size=3),
    st.none() | NAMES,
    NUMBERS,
    NUMBERS,
)
def test_answer__what_is_about_no_user__survives_the_round_trip(
    changed: set[str],
    plans: dict[str, tuple[int, dict[str, Any]]],
    default_plan: str | None,
    booked_through: int,
    until_us: int,
) -> None:
    """Plans, news, duplicates and the number of the batch."""
    batch = Batch(events=(make_event("a"), make_event("b"), make_event("c")))
    answer = Answer(
        counted=frozenset({"a", "c"}),
        plans=plans,
        default_plan=default_plan,
        booked_through=booked_through,
        changed=frozenset(changed),
        news_until_us=until_us,
    )
    written = answer_to_json(answer, batch)
    assert written["duplicates"] == ["b"]
    assert read_answer(through_text(written), batch) == answer


def test_records__of_a_clock_that_is_ahead__are_moved_to_now() -> None:
    """As events; a clock a little ahead is as good as the ledger's."""
    gate_event = GateEvent(
        *("g1", "ann", "s1", NOON_US + CLOCK_SKEW_MAX_US, "hard_gate", "total_spend", "gpt-4o"),
        *(True, 10**6, "1.00", "1.00", "limit reached"),
    )
    ahead = gate_event._replace(at_us=gate_event.at_us + 1)
    unmetered = UnmeteredCount("p1", NOON_US + QUARTER_US, "openai:POST /videos", "", 3)
    batch = Batch(records=(gate_event, ahead, unmetered))
    assert read(through_text(batch_to_json(batch))).records == (
        gate_event,
        ahead._replace(at_us=NOON_US),
        unmetered._replace(since_us=NOON_US),
    )


def answered(state: UserLedger, version: str = "", question: Question = QUESTION) -> Answer:
    """Return what arrives when a question with a version is answered with a state."""
    batch = Batch(questions=(replace(question, version=version),))
    answer = with_versions(Answer(users={question.user_id: state}), batch)
    return read_answer(through_text(answer_to_json(answer, batch)), batch)


STATE = UserLedger(
    plan="pro",
    spent={key: number for number, key in enumerate(QUESTION.accounts)},
    shadow={QUESTION.accounts[3]: 2},
    period_start_us=MONTH.start_us,
    by_model={"gpt-4o": (30, 1_000), "gpt-5": (1, 2)},
)


def test_versions__a_user_with_the_same_figures__is_left_out() -> None:
    """The process finds them in `unchanged`, and keeps what it has."""
    first = answered(STATE)
    version = first.users["ann"].version
    assert (first.users, first.unchanged) == (
        {"ann": replace(STATE, version=version)},
        frozenset(),
    )
    same = answered(replace(STATE, by_model=dict(reversed(STATE.by_model.items()))), version)
    assert (same.users, same.unchanged) == ({}, frozenset({"ann"}))
    batch = Batch(questions=(replace(QUESTION, version=version),))
    written = answer_to_json(with_versions(Answer(users={"ann": STATE}), batch), batch)
    assert "users" not in written


@pytest.mark.parametrize(
    "change",
    [
        {"plan": "free"},
        {"own": OWN},
        {"subscription": Subscription(1, 2, "month")},
        {"sdk_enabled": False},
        {"paused": True},
        {"paused": True, "paused_reason": "chargeback"},
        {"open_session": SessionState("s", 1, 2)},
        {"spent": {**STATE.spent, period_key(): 5}},
        {"shadow": {}},
        {"shadow": {QUESTION.accounts[2]: 2}},
        {"period_start_us": 0},
        {"by_model": {}},
        {"by_model": {"gpt-4o": (31, 1_000), "gpt-5": (1, 2)}},
    ],
)
def test_versions__any_change_of_a_user__is_another_version(change: dict[str, Any]) -> None:
    """Nothing that a process acts on may stay behind."""
    version = answered(STATE).users["ann"].version
    changed = replace(STATE, **change)
    arrived = answered(changed, version).users["ann"]
    assert replace(arrived, version="") == changed
    assert arrived.version != version


def test_versions__the_same_figures_of_other_accounts__are_another_version() -> None:
    """A version is of the question's accounts, in their order."""
    figures = dict.fromkeys(QUESTION.accounts, 0)
    version = answered(UserLedger(spent=figures)).users["ann"].version
    turned = replace(QUESTION, accounts=QUESTION.accounts[::-1])
    assert answered(UserLedger(spent=figures), version, turned).users.keys() == {"ann"}
    tomorrow = tuple(key._replace(end_us=key.end_us + 1) for key in QUESTION.accounts)
    other = answered(
        UserLedger(spent=dict.fromkeys(tomorrow, 0)), version, replace(QUESTION, accounts=tomorrow)
    )
    assert other.users.keys() == {"ann"}


def test_versions__plans_that_the_process_has__are_left_out() -> None:
    """They come once, and again when a plan or the default plan has changed."""
    answer = Answer(plans={"pro": (1, PLAN), "free": (2, OWN)}, default_plan="free")

    def sent(given_answer: Answer, version: str) -> Answer:
        batch = Batch(plans_version=version)
        written = answer_to_json(with_versions(given_answer, batch), batch)
        return read_answer(through_text(written), batch)

    first = sent(answer, "")
    assert (first.plans, first.default_plan) == (answer.plans, "free")
    again = sent(answer, first.plans_version)
    assert (again.plans, again.plans_version) == ({}, first.plans_version)
    assert again.default_plan == "free"
    reordered = replace(answer, plans=dict(reversed(answer.plans.items())))
    assert sent(reordered, first.plans_version).plans == {}
    for other in (
        replace(answer, plans={"pro": (2, PLAN), "free": (2, OWN)}),
        replace(answer, plans={"pro": (1, PLAN)}),
        replace(answer, default_plan="pro"),
    ):
        assert sent(other, first.plans_version).plans == other.plans
    assert "plans" in answer_to_json(answer, Batch()), "without versions nothing is left out"


def user_json(**fields: Any) -> dict[str, Any]:
    """Return an answer about one user."""
    return {"users": [{"user_id": "ann", "spent": [0] * len(QUESTION.accounts), **fields}]}


FIGURES_RULE = "must have a whole number for each account of the question"


@pytest.mark.parametrize(
    ("given_json", "field", "rule"),
    [
        ([], "message", "must be an object"),
        ({"users": {}}, "users", "must be a list"),
        ({"users": [5]}, "users[0]", "must be an object"),
        ({"users": [{}]}, "users[0].user_id", "must be"),
        ({"users": [{"user_id": "bob"}]}, "users[0].user_id", "must be a user of a question"),
        ({"plans": []}, "plans", "must be an object"),
        ({"plans": {"pro": 5}}, "plans.pro", "must be an object"),
        ({"plans": {"pro": {"version": -1}}}, "plans.pro.version", NUMBER_RULE),
        ({"plans": {"pro": {"document": []}}}, "plans.pro.document", "must be an object"),
        *(({name: -1}, name, NUMBER_RULE) for name in ("booked_through", "news_until_us")),
        *(({name: 5}, name, "must be a list") for name in ("duplicates", "changed")),
        *(
            ({name: 5}, name, "must be a string of 0 to 255 characters")
            for name in ("default_plan", "plans_version")
        ),
        *(
            (user_json(**{name: value}), f"users[0].{name}", FIGURES_RULE)
            for name in ("spent", "shadow")
            for value in ([1], [0.5] * 7, [True] * 7, ["1"] * 7)
        ),
        (user_json(spent=[]), "users[0].spent", FIGURES_RULE),
        *(
            (user_json(by_model={"m": value}), "users[0].by_model.m", "must be [tokens, nano")
            for value in (5, [1], [1, "2"], [1, 2, 3])
        ),
        (user_json(by_model=[]), "users[0].by_model", "must be an object"),
        (user_json(own=[]), "users[0].own", "must be an object"),
        (user_json(plan=5), "users[0].plan", "must be a string"),
        (user_json(paused_reason="x" * 10_001), "users[0].paused_reason", "must be a string of 0"),
        *(
            (user_json(**{name: 1}), f"users[0].{name}", "must be true or false")
            for name in ("paused", "sdk_enabled")
        ),
        (user_json(subscription=5), "users[0].subscription", "must be an object"),
        (
            user_json(subscription={"renews": "year"}),
            "users[0].subscription.renews",
            "must be one of auto, month, week, day, none",
        ),
        (
            user_json(subscription={"renews": "auto", "start_us": -1}),
            "users[0].subscription.start_us",
            NUMBER_RULE,
        ),
        (user_json(open_session={}), "users[0].open_session.session_id", USER_RULE),
        (
            user_json(open_session={"session_id": "s", "used_us": "1"}),
            "users[0].open_session.used_us",
            NUMBER_RULE,
        ),
    ],
)
def test_answer__a_field_that_breaks_a_rule__is_named_with_it(
    given_json: Any, field: str, rule: str
) -> None:
    """What a process would act on is checked before it does."""
    found = broken_answer(given_json)
    assert field in found
    assert found[field].startswith(rule)


def test_parts_of_an_answer__kept_alone__survive_the_round_trip() -> None:
    """The plans, and one user with the question that the state answers."""
    plans = {"pro": (3, PLAN), "free": (1, OWN)}
    assert plans_from_json(through_text(plans_to_json(plans))) == plans
    kept = through_text(user_to_json(QUESTION, STATE))
    assert user_from_json(kept, QUESTION) == STATE


@pytest.mark.parametrize("value", [5, {"pro": {"version": "1"}}, {"pro": {"document": 5}}])
def test_plans__that_are_none__are_invalid(value: Any) -> None:
    """A file that was damaged is noticed."""
    with pytest.raises(InvalidValue, match=r"^plans: "):
        plans_from_json(value)


@pytest.mark.parametrize("value", [5, {}, user_json(paused=1)["users"][0]])
def test_user__that_is_none__is_invalid(value: Any) -> None:
    """Also one with figures for other accounts than those of the question."""
    with pytest.raises(InvalidValue, match=r"^user: "):
        user_from_json(value, QUESTION)


def test_answer__of_a_later_version__is_read() -> None:
    """Unknown fields are ignored, and odd entries of lists of ids do not matter."""
    batch = Batch(events=(make_event("a"), make_event("b")), questions=(QUESTION,))
    answer = read_answer(
        {"booked_through": 0, "colour": 1, "duplicates": ["b", 5], "changed": [None, "x"]}, batch
    )
    assert answer == Answer(
        counted=frozenset({"a"}), unchanged=frozenset({"ann"}), changed=frozenset({"x"})
    )


def test_batch__of_a_clock_that_is_ahead__is_of_the_ledgers_time() -> None:
    """Rolling windows end there, and would begin behind every event."""
    late_us = NOON_US + 3_600_000_000
    assert read({"at_us": late_us}).at_us == NOON_US
    assert read({"at_us": NOON_US + 60_000_000}).at_us == NOON_US + 60_000_000


def test_batch__of_hostile_size__reports_a_bounded_number_of_broken_rules() -> None:
    """A body of megabytes may break a rule with each of its values."""
    with pytest.raises(InvalidValue) as raised:
        read({"limits": [0] * 4_000})
    assert len(raised.value.findings) == 1_000
    assert broken({"limits": [0] * 5_001}) == {"limits": "must have at most 5000 entries"}


def test_batch__with_very_many_accounts__is_refused() -> None:
    """Each of them may be a row that is opened."""
    account = [0, 0]
    given: Any = {
        "limits": [["spend", "user", "", "period"]],
        "windows": [[0, 9]],
        "questions": [
            {"user_id": f"u{number}", "accounts": [account] * 1_000} for number in range(51)
        ],
    }
    assert broken(given) == {"questions": "must name at most 50000 accounts"}
