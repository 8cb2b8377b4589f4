"""The contract of the Store port; every engine passes it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from itertools import count
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.contract.samples import (
    DAY_US,
    HOUR_US,
    MONTH,
    NOON_US,
    PRODUCT,
    TODAY_US,
    Usage,
    ask,
    batch_of,
    day_key,
    fold,
    make_correction,
    make_event,
    period_key,
    rolling_key,
    session_key,
    usage_of,
)
from tests.postgres import Cluster

from paygent.core.account import AccountKey
from paygent.core.event import Event
from paygent.core.messages import (
    AssignRecord,
    Batch,
    BookedEvent,
    LedgerRecord,
    PlanRecord,
    PriceRecord,
    Question,
    SessionRecord,
    SessionState,
    UserLedger,
)
from paygent.core.period import Subscription, day_name
from paygent.core.usage import Quality
from paygent.store.port import PlanUsers, Store, UserActivity
from paygent.store.postgres import PostgresStore
from paygent.store.sqlite import SqliteStore

LATER_US = NOON_US + HOUR_US
"""When batches are sent and received."""

ENGINES = ("sqlite_file", "sqlite_memory", "postgres")


@pytest.fixture(params=ENGINES)
def new_store(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Callable[[], Store]]:
    """Make any number of empty stores of one engine."""
    made: list[Store] = []
    numbers = count()

    def make() -> Store:
        store: Store
        if request.param == "postgres":
            cluster: Cluster = request.getfixturevalue("postgres")
            store = PostgresStore(cluster.new_database(), now_us=lambda: LATER_US)
        else:
            name = str(tmp_path / f"{next(numbers)}.db")
            path = name if request.param == "sqlite_file" else ":memory:"
            store = SqliteStore(path, now_us=lambda: LATER_US)
        store.open()
        made.append(store)
        return store

    yield make
    for store in made:
        store.close()


@pytest.fixture
def store(new_store: Callable[[], Store]) -> Store:
    """One empty store."""
    return new_store()


def spent(store: Store, user_id: str, key: AccountKey, *, product: str = PRODUCT) -> int:
    """Return what an account says."""
    return store.read(product, ask(user_id, key), NOON_US).users[user_id].spent[key]


def write(store: Store, *directory: LedgerRecord) -> None:
    """Write ledger records."""
    store.ingest(PRODUCT, Batch(records=directory, at_us=LATER_US))


# -- events are counted once


def test_ingest__new_events__are_all_counted(store: Store) -> None:
    """The answer names the events that were new."""
    answer = store.ingest(PRODUCT, batch_of(make_event("a"), make_event("b")))
    assert answer.counted == {"a", "b"}
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a", "b"]


def test_ingest__a_batch_again__counts_nothing(store: Store) -> None:
    """A batch that is sent again changes no event, account or rollup."""
    batch = batch_of(make_event("a"), make_event("b"), questions=ask("ann", period_key()))
    store.ingest(PRODUCT, batch)
    answer = store.ingest(PRODUCT, batch)
    assert answer.counted == frozenset()
    assert answer.users["ann"].spent == {period_key(): 2_000}
    assert answer.users["ann"].by_model == {"gpt-4o": (60, 2_000)}
    assert [row.calls for row in usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US)] == [2]


def test_ingest__overlapping_batches__counts_each_event_once(store: Store) -> None:
    """Of a batch that is partly known, only the news count."""
    first = batch_of(make_event("a"), make_event("b"), questions=ask("ann", period_key()))
    store.ingest(PRODUCT, first)
    answer = store.ingest(
        PRODUCT,
        batch_of(make_event("b"), make_event("c"), questions=ask("ann", period_key())),
    )
    assert answer.counted == {"c"}
    assert answer.users["ann"].spent == {period_key(): 3_000}


def test_ingest__an_event_twice_in_a_batch__counts_once(store: Store) -> None:
    """A batch may hold an event twice."""
    answer = store.ingest(
        PRODUCT, batch_of(make_event("a"), make_event("a"), questions=ask("ann", period_key()))
    )
    assert answer.counted == {"a"}
    assert answer.users["ann"].spent == {period_key(): 1_000}


def test_ingest__a_known_id_with_other_content__keeps_the_first(store: Store) -> None:
    """Events are append-only: who sends an id again cannot change what was booked."""
    store.ingest(PRODUCT, batch_of(make_event("a"), questions=ask("ann", period_key())))
    again = make_event("a", cost_tokens_nano=9)
    answer = store.ingest(PRODUCT, batch_of(again, questions=ask("ann", period_key())))
    assert answer.counted == frozenset()
    assert answer.users["ann"].spent == {period_key(): 1_000}
    assert store.events(PRODUCT, "ann") == (make_event("a"),)


def test_ingest__the_same_id_of_another_user__is_another_event(store: Store) -> None:
    """An id is unique for its user: no user can keep another's event from being booked."""
    store.ingest(PRODUCT, batch_of(make_event("a"), questions=ask("ann", period_key())))
    theirs = make_event("a", user_id="bob", cost_tokens_nano=9)
    answer = store.ingest(PRODUCT, batch_of(theirs, questions=ask("bob", period_key())))
    assert answer.counted == {"a"}
    assert answer.users["bob"].spent == {period_key(): 9}
    assert spent(store, "ann", period_key()) == 1_000
    # Both in one batch, and sent again.
    both = batch_of(make_event("b"), make_event("b", user_id="bob"))
    assert store.ingest(PRODUCT, both).counted == {"b"}
    assert store.ingest(PRODUCT, both).counted == frozenset()
    assert spent(store, "bob", period_key()) == 1_009


def test_ingest__nothing__answers_with_the_plans(store: Store) -> None:
    """An empty batch is legal and tells of the plans."""
    write(store, PlanRecord("pro", {"price": 1}, NOON_US))
    answer = store.ingest(PRODUCT, Batch())
    assert (answer.counted, answer.users) == (frozenset(), {})
    assert answer.plans == {"pro": (1, {"price": 1})}


# -- all or nothing


def _broken_events() -> list[Event]:
    return [
        make_event("bad", input_tokens=None),
        make_event("bad", input_tokens=object()),
        make_event("bad", at_us=None),
    ]


@pytest.mark.parametrize("broken", _broken_events(), ids=["missing", "no_json", "no_time"])
def test_ingest__a_batch_that_fails__leaves_nothing_and_claims_nothing(
    store: Store, broken: Event
) -> None:
    """A batch that cannot be stored whole is not stored at all, and succeeds once it is whole."""
    store.ingest(PRODUCT, batch_of(make_event("old"), questions=ask("ann", period_key())))
    directory = (
        PlanRecord("pro", {"price": 1}, NOON_US),
        AssignRecord("ann", "pro", None, None, NOON_US),
        SessionRecord("ann", "open", True, NOON_US, NOON_US),
    )
    good = make_event("good", user_id="new")
    with pytest.raises(Exception):  # noqa: B017 - any failure must leave nothing
        store.ingest(
            PRODUCT,
            batch_of(
                good, broken, records=directory, questions=ask("ann", period_key(), day_key())
            ),
        )
    answer = store.read(PRODUCT, ask("ann", period_key(), day_key()), NOON_US)
    assert answer.plans == {}
    assert answer.users["ann"].plan is None
    assert answer.users["ann"].open_session is None
    assert answer.users["ann"].spent == {period_key(): 1_000, day_key(): 1_000}
    assert store.events(PRODUCT, "new") == ()
    assert [row.user_id for row in usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US)] == ["ann"]
    assert store.ingest(PRODUCT, batch_of(good, make_event("bad"))).counted == {"good", "bad"}


# -- tenants


def test_store__two_products__never_meet(store: Store) -> None:
    """The same ids, users, plans and sessions in two products have nothing in common."""
    other = "globex"
    directory = (
        PlanRecord("pro", {"price": 1}, NOON_US),
        AssignRecord("ann", "pro", {"price": 2}, None, NOON_US),
        SessionRecord("ann", "open", True, NOON_US, NOON_US),
    )
    batch = batch_of(
        make_event("a"), records=directory, questions=ask("ann", period_key(), day_key())
    )
    store.ingest(PRODUCT, batch)
    untouched = store.read(other, ask("ann", period_key()), NOON_US)
    assert untouched.plans == {}
    assert untouched.users["ann"].plan is None
    assert untouched.users["ann"].open_session is None
    assert untouched.users["ann"].spent == {period_key(): 0}
    assert untouched.users["ann"].by_model == {}
    assert store.events(other, "ann") == ()
    assert usage_of(store, other, TODAY_US, TODAY_US + DAY_US) == ()

    answer = store.ingest(
        other,
        batch_of(make_event("a", cost_tokens_nano=7), questions=ask("ann", period_key())),
    )
    assert answer.counted == {"a"}
    assert answer.users["ann"].spent == {period_key(): 7}
    assert spent(store, "ann", period_key()) == 1_000


def test_store__two_users_of_a_product__have_their_own_accounts(store: Store) -> None:
    """One user's events never count in another's account."""
    questions = ask("ann", period_key()) + ask("bob", period_key())
    answer = store.ingest(
        PRODUCT,
        batch_of(
            make_event("a"),
            make_event("b", user_id="bob", cost_tokens_nano=5),
            questions=questions,
        ),
    )
    assert answer.users["ann"].spent == {period_key(): 1_000}
    assert answer.users["bob"].spent == {period_key(): 5}


# -- accounts are the fold of the events


def test_ingest__an_account_asked_for_first_now__is_seeded_from_its_window(store: Store) -> None:
    """A new limit starts from what its window already saw, and nothing else."""
    yesterday = make_event("y", at_us=NOON_US - DAY_US, cost_tokens_nano=7)
    store.ingest(PRODUCT, batch_of(make_event("a"), yesterday))
    answer = store.ingest(
        PRODUCT, batch_of(make_event("b"), questions=ask("ann", day_key(), period_key()))
    )
    assert answer.users["ann"].spent == {day_key(): 2_000, period_key(): 2_007}


def test_ingest__a_kept_account__counts_the_first_and_not_the_last_microsecond(
    store: Store,
) -> None:
    """Windows are half-open, for kept accounts and for seeds alike."""
    edges = [
        make_event("before", at_us=TODAY_US - 1, cost_tokens_nano=1),
        make_event("first", at_us=TODAY_US, cost_tokens_nano=10),
        make_event("last", at_us=TODAY_US + DAY_US - 1, cost_tokens_nano=100),
        make_event("after", at_us=TODAY_US + DAY_US, cost_tokens_nano=1_000),
    ]
    store.ingest(PRODUCT, batch_of(questions=ask("ann", day_key())))
    store.ingest(PRODUCT, batch_of(*edges))
    store.ingest(PRODUCT, batch_of(questions=ask("ann", day_key("tokens"))))
    assert spent(store, "ann", day_key()) == 110
    assert spent(store, "ann", day_key("tokens")) == 60


@pytest.mark.parametrize(("metric", "expected"), [("spend", 1_030), ("tokens", 60), ("calls", 2)])
@pytest.mark.parametrize("kept_from_the_start", [True, False])
def test_store__each_metric__is_counted_in_its_unit(
    store: Store, metric: str, expected: int, kept_from_the_start: bool
) -> None:
    """Spend is tokens and tools in nano-dollars, tokens are input and output, calls are calls."""
    key = period_key(metric)
    if kept_from_the_start:
        store.ingest(PRODUCT, batch_of(questions=ask("ann", key)))
    store.ingest(PRODUCT, batch_of(make_event("a")))
    answer = store.ingest(
        PRODUCT,
        batch_of(
            make_event("b", cost_tokens_nano=10, cost_tools_nano=20), questions=ask("ann", key)
        ),
    )
    assert answer.users["ann"].spent == {key: expected}


def test_store__session_accounts__count_their_session_only(store: Store) -> None:
    """Two sessions of one user have two accounts, over any time."""
    keys = (session_key("s1"), session_key("s2"))
    store.ingest(PRODUCT, batch_of(questions=ask("ann", *keys)))
    answer = store.ingest(
        PRODUCT,
        batch_of(
            make_event("a"),
            make_event("b", at_us=NOON_US - 90 * DAY_US),
            make_event("c", session_id="s2", cost_tokens_nano=5),
            make_event("d", session_id="", cost_tokens_nano=9),
            make_event("e", user_id="bob"),
            questions=ask("ann", *keys),
        ),
    )
    assert answer.users["ann"].spent == dict(zip(keys, (2_000, 5), strict=True))


@pytest.mark.parametrize("kept_from_the_start", [True, False])
def test_store__model_accounts__count_by_canonical_or_exact_name(
    store: Store, kept_from_the_start: bool
) -> None:
    """A limit by model counts a call under its canonical name and under the name as answered."""
    keys = (period_key("tokens", "gpt-4o"), period_key("tokens", "gpt-4o-2024-08-06"))
    if kept_from_the_start:
        store.ingest(PRODUCT, batch_of(questions=ask("ann", *keys)))
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a"),
            make_event("b", model="gpt-4o"),
            make_event("c", model="gpt-4o-mini", model_key="gpt-4o-mini"),
        ),
    )
    answer = store.ingest(PRODUCT, batch_of(questions=ask("ann", *keys)))
    assert answer.users["ann"].spent == dict(zip(keys, (60, 30), strict=True))


def test_store__rolling_windows__are_summed_anew_at_each_reading(store: Store) -> None:
    """A rolling window counts its last length of time, as of the reading, to the microsecond."""
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("now", cost_tokens_nano=1),
            make_event("edge", at_us=NOON_US - DAY_US, cost_tokens_nano=10),
            make_event("old", at_us=NOON_US - DAY_US - 1, cost_tokens_nano=100),
            questions=ask("ann", rolling_key()),
        ),
    )
    key = rolling_key()
    at_noon = store.read(PRODUCT, ask("ann", key), NOON_US).users["ann"].spent
    later = store.read(PRODUCT, ask("ann", key), NOON_US + 1).users["ann"].spent
    calls = rolling_key("rolling:90m", "calls")
    assert (at_noon, later) == ({key: 11}, {key: 1})
    assert spent(store, "ann", calls) == 1


def test_ingest__a_late_event__goes_to_the_account_of_its_own_period(store: Store) -> None:
    """What began in an earlier period is booked there, however late it comes."""
    earlier = period_key(at_us=MONTH.start_us - 1)
    store.ingest(PRODUCT, batch_of(questions=ask("ann", earlier, period_key())))
    late = make_event("late", at_us=MONTH.start_us - 1, period_start_us=earlier.start_us)
    answer = store.ingest(
        PRODUCT,
        batch_of(make_event("a"), late, make_event("b"), questions=ask("ann", earlier)),
    )
    assert answer.users["ann"].spent == {earlier: 1_000}
    assert spent(store, "ann", period_key()) == 2_000
    old = store.read(PRODUCT, ask("ann", period_start_us=earlier.start_us), NOON_US)
    assert old.users["ann"].by_model == {"gpt-4o": (30, 1_000)}


def test_ingest__the_same_account_asked_for_twice__is_kept_once(store: Store) -> None:
    """A question that names an account twice, or two questions that do, is not a failure."""
    key = period_key()
    questions = (Question("ann", (key, key), MONTH.start_us), *ask("ann", key))
    answer = store.ingest(PRODUCT, batch_of(make_event("a"), questions=questions))
    assert answer.users["ann"].spent == {key: 1_000}


def test_ingest__a_window_whose_end_moved__is_summed_to_its_new_end(store: Store) -> None:
    """A subscription may be cut short; the account with the new end still is the fold."""
    whole = period_key()
    cut = whole._replace(end_us=NOON_US)
    store.ingest(PRODUCT, batch_of(questions=ask("ann", whole)))
    store.ingest(PRODUCT, batch_of(make_event("early", at_us=NOON_US - 1), make_event("late")))
    answer = store.ingest(PRODUCT, batch_of(questions=ask("ann", cut)))
    assert answer.users["ann"].spent == {cut: 1_000}
    assert spent(store, "ann", whole) == 2_000


def test_ingest__sums_near_the_edge_of_64_bits__stay_exact(store: Store) -> None:
    """Money is exact to the nano-dollar however large its sum is."""
    large = 10**15
    events = [
        make_event(f"e{number}", cost_tokens_nano=large, cost_tools_nano=1, input_tokens=10**12)
        for number in range(300)
    ]
    answer = store.ingest(
        PRODUCT, batch_of(*events, questions=ask("ann", period_key(), period_key("tokens")))
    )
    assert answer.users["ann"].spent == {
        period_key(): 300 * (large + 1),
        period_key("tokens"): 300 * (10**12 + 10),
    }


# -- any interleaving

_USERS = ("ann", "bob")
_SESSIONS = ("", "s1", "s2")
_MODELS = (("gpt-4o-2024-08-06", "gpt-4o"), ("gpt-4o", "gpt-4o"), ("", ""), ("o3", "o3"))
_TIMES = (
    MONTH.start_us - 1,
    MONTH.start_us,
    TODAY_US - 1,
    TODAY_US,
    NOON_US,
    TODAY_US + DAY_US,
)
_KEYS = (
    *(period_key(metric) for metric in ("spend", "tokens", "calls")),
    period_key(at_us=MONTH.start_us - 1),
    period_key("tokens", "gpt-4o"),
    period_key("calls", "gpt-4o-2024-08-06"),
    day_key(),
    day_key("tokens", at_us=NOON_US - DAY_US),
    day_key("spend", "o3"),
    session_key("s1"),
    session_key("s2", "calls"),
    session_key("s1", "tokens", "gpt-4o"),
)


_PLACE = (
    "user_id",
    "session_id",
    "at_us",
    "model",
    "model_key",
    "provider",
    "plan",
    "period_start_us",
)
"""What a correction has of its original."""


class _Correction(NamedTuple):
    """A correction of one of the events, or of one that nobody has."""

    original: int
    elsewhere: Event | None
    cost: int
    tokens: int
    quality: Quality

    def of(self, number: int, pool: list[Event]) -> Event:
        """Make it; its own fields are the original's, or those of `elsewhere`."""
        original = pool[self.original % len(pool)]
        made = make_correction(
            f"c{number}",
            original,
            cost_tokens_nano=self.cost,
            input_tokens=self.tokens,
            quality=self.quality,
        )
        if self.elsewhere is None:
            return made
        return made._replace(**{name: getattr(self.elsewhere, name) for name in _PLACE})


class _Step(NamedTuple):
    """One batch: which of the events it holds, and what it asks."""

    events: list[int]
    asked: list[tuple[str, AccountKey]]


_QUALITIES: tuple[Quality, ...] = ("exact", "partial", "estimated", "unpriced")
_any_event = st.builds(
    lambda user, session, model, at_us, cost, tools, inp, out, quality, provider, blocked: (
        make_event(
            "?",
            user_id=user,
            session_id=session,
            model=model[0],
            model_key=model[1],
            at_us=at_us,
            period_start_us=period_key(at_us=at_us).start_us,
            cost_tokens_nano=cost,
            cost_tools_nano=tools,
            input_tokens=inp,
            output_tokens=out,
            quality=quality,
            provider=provider,
            blocked=blocked,
        )
    ),
    st.sampled_from(_USERS),
    st.sampled_from(_SESSIONS),
    st.sampled_from(_MODELS),
    st.sampled_from(_TIMES),
    st.integers(0, 10**12),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.integers(0, 10**6),
    st.sampled_from(_QUALITIES),
    st.sampled_from(("openai", "azure")),
    st.booleans(),
)
_events = st.lists(_any_event, min_size=1, max_size=12)
_corrections = st.lists(
    st.builds(
        _Correction,
        st.integers(0, 11),
        st.one_of(st.none(), _any_event),
        st.integers(-(10**12), 10**12),
        st.integers(-(10**6), 10**6),
        st.sampled_from(_QUALITIES),
    ),
    max_size=6,
)
_steps = st.lists(
    st.builds(
        _Step,
        st.lists(st.integers(0, 17), max_size=8),
        st.lists(
            st.tuples(st.sampled_from(_USERS), st.sampled_from(_KEYS)), max_size=4, unique=True
        ),
    ),
    max_size=8,
)


@settings(
    max_examples=60,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(pool=_events, corrections=_corrections, steps=_steps)
def test_store__any_interleaving__equals_the_fold_of_its_events(
    new_store: Callable[[], Store],
    pool: list[Event],
    corrections: list[_Correction],
    steps: list[_Step],
) -> None:
    """Whatever is sent, again and in any order, and asked at any time: counters are folds, and so
    they are where events are corrected before, after or together with their arrival.
    """
    store = new_store()
    pool = [event._replace(event_id=f"e{number}") for number, event in enumerate(pool)]
    pool += [each.of(number, pool) for number, each in enumerate(corrections)]
    booked: dict[str, Event] = {}
    for step in steps:
        sent = [pool[number % len(pool)] for number in step.events]
        by_user = {user: [key for who, key in step.asked if who == user] for user in _USERS}
        questions = tuple(
            Question(user, tuple(keys), MONTH.start_us) for user, keys in by_user.items() if keys
        )
        answer = store.ingest(PRODUCT, batch_of(*sent, questions=questions))
        assert answer.counted == {event.event_id for event in sent} - booked.keys()
        _book(booked, sent)
        for question in questions:
            state = answer.users[question.user_id]
            _assert_folds(state, booked.values(), question.user_id, question.accounts)

    for user in _USERS:
        own = [event for event in booked.values() if event.user_id == user]
        assert {event.event_id for event in store.events(PRODUCT, user)} == {
            event.event_id for event in own
        }
        for start_us in {period_key(at_us=at_us).start_us for at_us in _TIMES}:
            state = store.read(PRODUCT, (Question(user, _KEYS, start_us),), NOON_US).users[user]
            _assert_folds(state, own, user, _KEYS)
            assert state.by_model == _by_model(own, start_us)
    rows = usage_of(store, PRODUCT, MONTH.start_us - DAY_US, MONTH.end_us)
    assert list(rows) == _rows(booked.values(), booked)
    today = usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US)
    assert list(today) == _rows(
        (event for event in booked.values() if day_name(event.at_us) == day_name(NOON_US)), booked
    )
    store.close()


def _assert_folds(
    state: UserLedger, events: Iterable[Event], user_id: str, keys: Iterable[AccountKey]
) -> None:
    """Assert that spent is the fold of all events, and shadow that of the blocked ones."""
    own = list(events)
    blocked = [event for event in own if event.blocked]
    assert state.spent == {key: fold(own, user_id, key) for key in keys}
    assert {key: state.shadow.get(key, 0) for key in state.spent} == {
        key: fold(blocked, user_id, key) for key in keys
    }


def _by_model(events: list[Event], period_start_us: int) -> dict[str, tuple[int, int]]:
    found: dict[str, tuple[int, int]] = {}
    for event in events:
        if event.period_start_us == period_start_us:
            tokens, cost_nano = found.get(event.model_key, (0, 0))
            found[event.model_key] = (tokens + event.total_tokens, cost_nano + event.cost_nano)
    return found


def _book(booked: dict[str, Event], sent: list[Event]) -> None:
    """Add what is new, each correction on the place of its original where that is known."""
    new = {event.event_id: event for event in sent if event.event_id not in booked}
    booked |= new
    for event in new.values():
        original = booked.get(event.corrects or "")
        if original is not None:
            place = {name: getattr(original, name) for name in (*_PLACE, "blocked")}
            booked[event.event_id] = event._replace(**place)


def _rows(events: Iterable[Event], booked: dict[str, Event]) -> list[Usage]:
    # A correction ends the doubt of a call of the user on whom it is booked.
    settled = {(each.user_id, each.corrects) for each in booked.values() if each.quality == "exact"}
    found: dict[tuple[str, str], Counter[str]] = {}
    for event in events:
        row = found.setdefault((event.user_id, event.model_key), Counter())
        row["calls"] += event.corrects is None
        row["input"] += event.input_tokens
        row["output"] += event.output_tokens
        row["cost"] += event.cost_nano
        is_open = event.corrects is None and (event.user_id, event.event_id) not in settled
        row["doubtful"] += is_open and event.quality != "exact"
        row["shadow"] += event.blocked and event.corrects is None
        row["saved"] += event.cost_nano if event.blocked else 0
    return [
        Usage(
            user_id=user_id,
            model=model,
            calls=row["calls"],
            input_tokens=row["input"],
            output_tokens=row["output"],
            cost_nano=row["cost"],
            doubtful_calls=row["doubtful"],
            shadow_calls=row["shadow"],
            shadow_cost_nano=row["saved"],
        )
        for (user_id, model), row in sorted(found.items())
    ]


# -- corrections


@pytest.mark.parametrize("kept_from_the_start", [True, False])
def test_corrections__of_an_event__are_added_to_its_accounts_and_are_no_call(
    store: Store, kept_from_the_start: bool
) -> None:
    """Signed tokens and costs go where the original went; nobody has called once more."""
    keys = (period_key(), period_key("tokens", "gpt-4o"), day_key("calls"), session_key("s1"))
    if kept_from_the_start:
        store.ingest(PRODUCT, batch_of(questions=ask("ann", *keys)))
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.ingest(PRODUCT, batch_of(make_correction("c", make_event("a"))))
    answer = store.ingest(
        PRODUCT, batch_of(questions=ask("ann", *keys, rolling_key(metric="calls")))
    )
    state = answer.users["ann"]
    assert [state.spent[key] for key in keys] == [900, 27, 1, 900]
    assert state.spent[rolling_key(metric="calls")] == 1
    assert state.by_model == {"gpt-4o": (27, 900)}
    assert usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US) == (
        Usage("ann", "gpt-4o", 1, 18, 9, 900, 0),
    )


def test_corrections__below_zero__are_booked_all_the_same(store: Store) -> None:
    """No counter refuses a negative sum: the fold is what it is."""
    correction = make_correction("c", make_event("a"), cost_tokens_nano=-5_000)
    answer = store.ingest(PRODUCT, batch_of(correction, questions=ask("ann", period_key())))
    assert answer.users["ann"].spent == {period_key(): -5_000}


def test_corrections__that_say_another_place__are_booked_where_the_original_is(
    store: Store,
) -> None:
    """The original decides, also over a sender that is wrong, and nobody appears for it."""
    elsewhere = make_event(
        "?", user_id="bob", session_id="s9", at_us=NOON_US - 90 * DAY_US, model="o3", plan="free"
    )
    wrong = make_correction("c", elsewhere)._replace(corrects="a")
    store.ingest(PRODUCT, batch_of(make_event("a")))
    answer = store.ingest(PRODUCT, batch_of(wrong, questions=ask("ann", period_key(), day_key())))
    assert answer.users["ann"].spent == {period_key(): 900, day_key(): 900}
    assert store.events(PRODUCT, "bob") == ()
    assert store.events(PRODUCT, "ann") == (make_event("a"), make_correction("c", make_event("a")))


def test_corrections__before_their_original__count_by_their_own_fields(store: Store) -> None:
    """Order does not matter: what was copied from the original is where it goes."""
    store.ingest(PRODUCT, batch_of(make_correction("c", make_event("a"))))
    answer = store.ingest(PRODUCT, batch_of(make_event("a"), questions=ask("ann", day_key())))
    assert answer.users["ann"].spent == {day_key(): 900}


def make_use(event_id: str, original: Event) -> Event:
    """Return what a provider says that work has used in all: 4,000 nano-dollars, 70 tokens."""
    return original._replace(
        event_id=event_id,
        corrects=original.event_id,
        quality="exact",
        restates=True,
        input_tokens=50,
        output_tokens=20,
        cost_tokens_nano=4_000,
    )


@pytest.mark.parametrize("order", ["before", "together", "together, backwards", "after"])
def test_corrections__that_restate__make_their_original_what_they_say(
    store: Store, order: str
) -> None:
    """Whichever is stored first, both come to the figures of the whole, and to one call."""
    original, use = make_event("a", quality="estimated"), make_use("u", make_event("a"))
    keys = (period_key(), period_key("tokens", "gpt-4o"), day_key("calls"), session_key("s1"))
    store.ingest(PRODUCT, batch_of(questions=ask("ann", *keys)))
    batches = {
        "before": [[original], [use]],
        "together": [[original, use]],
        "together, backwards": [[use, original]],
        "after": [[use], [original]],
    }[order]
    for events in batches:
        store.ingest(PRODUCT, batch_of(*events))
    answer = store.ingest(PRODUCT, batch_of(original, use, questions=ask("ann", *keys)))
    assert answer.counted == frozenset()  # once more, and nothing changes
    state = answer.users["ann"]
    assert [state.spent[key] for key in keys] == [4_000, 70, 1, 4_000]
    assert state.by_model == {"gpt-4o": (70, 4_000)}
    assert usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US) == (
        Usage("ann", "gpt-4o", 1, 50, 20, 4_000, 0),
    )


def test_corrections__that_restate__leave_other_corrections_alone(store: Store) -> None:
    """What a person has corrected by hand stays beside what the provider says."""
    original = make_event("a", quality="estimated")
    store.ingest(PRODUCT, batch_of(original, make_correction("c", original)))
    store.ingest(PRODUCT, batch_of(make_use("u", original)))
    answer = store.ingest(PRODUCT, batch_of(questions=ask("ann", period_key())))
    assert answer.users["ann"].spent == {period_key(): 3_900}


def test_corrections__of_a_job__keep_their_model_on_the_originals_place(store: Store) -> None:
    """The model of a batch is known when it has ended; whose it is was known before."""
    original = make_event("a", model="", model_key="", cost_tokens_nano=0, input_tokens=0)
    elsewhere = make_event("?", user_id="bob", session_id="s9", at_us=NOON_US - 90 * DAY_US)
    use = make_use("u", elsewhere)._replace(corrects="a")
    store.ingest(PRODUCT, batch_of(original))
    answer = store.ingest(PRODUCT, batch_of(use, questions=ask("ann", session_key("s1"))))
    assert answer.users["ann"].spent == {session_key("s1"): 4_000}
    stored = next(e for e in store.events(PRODUCT, "ann") if e.event_id == "u")
    assert (stored.model_key, stored.input_tokens, stored.at_us) == ("gpt-4o", 50, NOON_US)
    assert store.events(PRODUCT, "bob") == ()


@pytest.mark.parametrize("backwards", [True, False])
def test_corrections__of_a_job_that_failed__leave_nothing_on_the_originals_model(
    store: Store, backwards: bool
) -> None:
    """Another process retrieves it: its correction names no model, and takes back the estimate."""
    original = make_event("a", quality="estimated")
    nothing = make_use("u", original)._replace(
        model="", model_key="", input_tokens=0, output_tokens=0, cost_tokens_nano=0
    )
    key = period_key("tokens", "gpt-4o")
    store.ingest(PRODUCT, batch_of(questions=ask("ann", key)))
    for event in (nothing, original) if backwards else (original, nothing):
        store.ingest(PRODUCT, batch_of(event))
    assert spent(store, "ann", key) == 0
    rows = usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US)
    assert {(row.model, row.calls, row.input_tokens) for row in rows if row.model or row.calls} == {
        ("gpt-4o", 1, 0)
    }


@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
def test_corrections__of_a_job_of_several_models__take_the_doubt_where_it_was(
    store: Store, together: bool, backwards: bool
) -> None:
    """The call was booked before its models were known; no row is ever less than certain."""
    original = make_event(
        "a", model="", model_key="", quality="estimated", cost_tokens_nano=0, input_tokens=0,
        output_tokens=0,
    )  # fmt: skip
    uses = [
        make_use(name, original)._replace(model=name, model_key=name, restates=not number)
        for number, name in enumerate(("gpt-5", "gpt-4o"))
    ]
    events = [original, *uses]
    if backwards:
        events.reverse()
    for batch in [events] if together else [[event] for event in events]:
        store.ingest(PRODUCT, batch_of(*batch))
    rows = usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US)
    assert [(row.model, row.calls, row.cost_nano, row.doubtful_calls) for row in rows] == [
        ("", 1, 0, 0),
        ("gpt-4o", 0, 4_000, 0),
        ("gpt-5", 0, 4_000, 0),
    ]


def test_corrections__that_restate_nothing_known__count_by_their_own_fields(store: Store) -> None:
    """Work that nobody has begun here was paid all the same."""
    answer = store.ingest(
        PRODUCT,
        batch_of(make_use("u", make_event("nobody's")), questions=ask("ann", period_key())),
    )
    assert answer.users["ann"].spent == {period_key(): 4_000}


def test_corrections__of_another_product__find_no_original(store: Store) -> None:
    """Tenants cannot meet through an id that both have."""
    store.ingest("globex", batch_of(make_event("a", user_id="bob")))
    store.ingest(PRODUCT, batch_of(make_correction("c", make_event("a"))))
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["c"]
    assert store.event(PRODUCT, "a") is None
    assert store.event("globex", "a") == BookedEvent(make_event("a", user_id="bob"))


@pytest.mark.parametrize(
    ("qualities", "doubtful"),
    [
        (("estimated",), 1),
        (("estimated", "exact"), 0),
        (("estimated", "partial"), 1),
        (("estimated", "exact", "exact"), 0),
        (("estimated", "partial", "exact"), 0),
        (("exact", "estimated"), 0),
        (("exact", "exact"), 0),
    ],
)
@pytest.mark.parametrize("together", [True, False])
@pytest.mark.parametrize("backwards", [True, False])
def test_corrections__that_are_exact__take_the_doubt_from_a_call_once(
    store: Store, qualities: tuple[str, ...], doubtful: int, together: bool, backwards: bool
) -> None:
    """A call whose estimate was corrected exactly is not doubtful, in whatever order that came."""
    original = make_event("a", quality=qualities[0])
    events = [original] + [
        make_correction(f"c{number}", original, quality=quality)
        for number, quality in enumerate(qualities[1:])
    ]
    if backwards:
        events.reverse()
    for batch in [events] if together else [[event] for event in events]:
        store.ingest(PRODUCT, batch_of(*batch))
    assert [row.doubtful_calls for row in usage_of(store, PRODUCT, TODAY_US, NOON_US)] == [doubtful]


def test_event__with_its_corrections_and_prices__is_found_by_its_id(store: Store) -> None:
    """An event comes with all that says what it costs; a correction is an event of its own."""
    original = make_event("b", price_id="list-1")
    corrections = (make_correction("a", original), make_correction("c", original))
    write(store, PriceRecord("list-1", {"prices": {"input": "1"}}, NOON_US))
    store.ingest(PRODUCT, batch_of(corrections[1], original, corrections[0], make_event("d")))
    assert store.event(PRODUCT, "b") == BookedEvent(
        original, corrections, {"prices": {"input": "1"}}
    )
    assert store.event(PRODUCT, "d") == BookedEvent(make_event("d"))
    assert store.event(PRODUCT, "a") == BookedEvent(corrections[0], (), {"prices": {"input": "1"}})


def test_event__that_is_not_there__is_none_also_if_it_was_corrected(store: Store) -> None:
    """A correction that came first is not taken for its original."""
    store.ingest(PRODUCT, batch_of(make_correction("c", make_event("a"))))
    assert store.event(PRODUCT, "a") is None
    assert store.event(PRODUCT, "nobody's") is None


def test_price_lists__written_again__stay_as_they_were_first(store: Store) -> None:
    """A price id names one list for ever, in each product its own."""
    write(store, PriceRecord("list-1", {"v": 1}, NOON_US))
    write(store, PriceRecord("list-1", {"v": 2}, NOON_US + 1))
    other = batch_of(
        make_event("e", price_id="list-1"), records=(PriceRecord("list-1", {"v": 3}, NOON_US),)
    )
    store.ingest(PRODUCT, batch_of(make_event("e", price_id="list-1")))
    store.ingest("globex", other)
    kept = [store.event(product, "e") for product in (PRODUCT, "globex")]
    assert [each and each.prices for each in kept] == [{"v": 1}, {"v": 3}]


# -- plans, assignments, sessions


def test_plans__configured__get_versions(store: Store) -> None:
    """Each change of a plan is a new version; plans of other names have their own."""
    write(store, PlanRecord("pro", {"price": 1}, NOON_US), PlanRecord("free", {}, NOON_US))
    write(store, PlanRecord("pro", {"price": 2}, NOON_US + 1))
    plans = store.read(PRODUCT, (), NOON_US).plans
    assert plans == {"pro": (2, {"price": 2}), "free": (1, {})}


def test_plans__configured_unchanged__add_no_version(store: Store) -> None:
    """Applications configure at every start; the same document is no news."""
    write(store, PlanRecord("pro", {"price": 1, "unknown_model": "count"}, NOON_US))
    write(store, PlanRecord("pro", {"unknown_model": "count", "price": 1}, NOON_US + 1))
    assert store.read(PRODUCT, (), NOON_US).plans["pro"][0] == 1


def test_plans__set_back_to_an_earlier_document__is_a_new_version(store: Store) -> None:
    """Going back is a change: what counts is the newest version."""
    for at_us, price in enumerate((1, 2, 1)):
        write(store, PlanRecord("pro", {"price": price}, NOON_US + at_us))
    assert store.read(PRODUCT, (), NOON_US).plans == {"pro": (3, {"price": 1})}


def test_plans__an_older_record_sent_again__changes_nothing(store: Store) -> None:
    """The last writer wins by its clock: a dead process's journal brings no old plan back."""
    old = PlanRecord("pro", {"price": 1}, NOON_US)
    write(store, old)
    write(store, PlanRecord("pro", {"price": 2}, NOON_US + 1))
    write(store, old)
    assert store.read(PRODUCT, (), NOON_US).plans["pro"][1] == {"price": 2}


def test_assignments__read_back__with_every_field(store: Store) -> None:
    """A user's plan, own version and billing period are read back as they were given."""
    period = Subscription(NOON_US, NOON_US + 30 * DAY_US, "month")
    write(store, AssignRecord("ann", "pro", {"price": 3}, period, NOON_US))
    state = store.read(PRODUCT, ask("ann"), NOON_US).users["ann"]
    assert (state.plan, state.own, state.subscription) == ("pro", {"price": 3}, period)
    assert state.sdk_enabled is True


def test_assignments__the_last_one__wins_wholly(store: Store) -> None:
    """A new assignment replaces plan, own version and period together."""
    period = Subscription(NOON_US, NOON_US + 30 * DAY_US, "none")
    write(store, AssignRecord("ann", "pro", {"price": 3}, period, NOON_US))
    write(store, AssignRecord("ann", "free", None, None, NOON_US + 1))
    state = store.read(PRODUCT, ask("ann"), NOON_US).users["ann"]
    assert (state.plan, state.own, state.subscription) == ("free", None, None)


def test_assignments__an_older_record_sent_again__changes_nothing(store: Store) -> None:
    """A dead process's journal does not put a user back on an earlier plan."""
    old = AssignRecord("ann", "free", None, None, NOON_US)
    write(store, old)
    write(store, AssignRecord("ann", "pro", None, None, NOON_US + 1))
    write(store, old)
    assert store.read(PRODUCT, ask("ann"), NOON_US).users["ann"].plan == "pro"


@pytest.mark.parametrize(
    ("first", "expected"), [(None, "trial"), ("pro", "pro")], ids=["unassigned", "assigned"]
)
def test_assignments__that_keep__give_way_to_one_that_is_there(
    store: Store, first: str | None, expected: str
) -> None:
    """A plan that a context names counts only for a user whom nobody assigned."""
    store.ingest(PRODUCT, batch_of(make_event("a")))  # the user is known, on nobody's plan
    if first is not None:
        write(store, AssignRecord("ann", first, None, None, NOON_US))
    write(store, AssignRecord("ann", "trial", None, None, NOON_US + 1, keeps=True))
    assert store.read(PRODUCT, ask("ann"), NOON_US).users["ann"].plan == expected


def test_sessions__opened_and_rotated__the_last_one_is_open(store: Store) -> None:
    """Of a user's implicit sessions that are not closed, the one that started last is open."""
    write(
        store,
        SessionRecord("ann", "new", True, NOON_US, NOON_US + 5),
        SessionRecord("ann", "old", True, NOON_US - HOUR_US, NOON_US - HOUR_US),
        SessionRecord("ann", "named", False, NOON_US + 9, NOON_US + 9),
        SessionRecord("bob", "his", True, NOON_US + 9, NOON_US + 9),
    )
    state = store.read(PRODUCT, ask("ann"), NOON_US).users["ann"]
    assert state.open_session == SessionState("new", NOON_US, NOON_US + 5)


@pytest.mark.parametrize("order", [1, -1])
def test_sessions__records_of_one_batch__are_joined(store: Store, order: int) -> None:
    """A session's span is that of all its records, and one that closes it closes it."""
    used = SessionRecord("ann", "one", True, NOON_US, NOON_US + 9)
    begun = SessionRecord("ann", "one", True, NOON_US - 5, NOON_US)
    write(store, *[used, begun][::order])
    state = store.read(PRODUCT, ask("ann"), NOON_US).users["ann"]
    assert state.open_session == SessionState("one", NOON_US - 5, NOON_US + 9)
    write(store, *[used, begun._replace(ended_us=NOON_US + 9)][::order])
    assert store.read(PRODUCT, ask("ann"), NOON_US).users["ann"].open_session is None


def test_sessions__closed__leave_none_open(store: Store) -> None:
    """A closed session stays closed, also when its opening record comes again."""
    opened = SessionRecord("ann", "one", True, NOON_US, NOON_US)
    write(store, opened)
    write(store, opened._replace(used_us=NOON_US + 2, ended_us=NOON_US + 3))
    write(store, opened)
    assert store.read(PRODUCT, ask("ann"), NOON_US).users["ann"].open_session is None


def test_sessions__used_by_events__remember_their_last_use(store: Store) -> None:
    """Events move a session's last use forward and never back."""
    write(store, SessionRecord("ann", "s1", True, NOON_US, NOON_US))
    store.ingest(PRODUCT, batch_of(make_event("a", at_us=NOON_US + 9), make_event("b")))
    store.ingest(PRODUCT, batch_of(make_event("c", at_us=NOON_US + 3)))
    state = store.read(PRODUCT, ask("ann"), NOON_US).users["ann"]
    assert state.open_session == SessionState("s1", NOON_US, NOON_US + 9)


def test_sessions__named_by_events_only__are_not_the_open_one(store: Store) -> None:
    """A session that the application names is no user's open session."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    assert store.read(PRODUCT, ask("ann"), NOON_US).users["ann"].open_session is None


# -- reading


def test_read__an_unknown_user__is_nobodys(store: Store) -> None:
    """Who was never seen has no plan, no session and spent nothing."""
    state = store.read(PRODUCT, ask("new", period_key(), rolling_key()), NOON_US).users["new"]
    assert (state.plan, state.open_session, state.by_model) == (None, None, {})
    assert state.sdk_enabled is True
    assert state.spent == {period_key(): 0, rolling_key(): 0}


def test_read__any_question__changes_nothing(store: Store) -> None:
    """Asking creates no user and keeps no account: a later seed sees what came in between."""
    store.read(PRODUCT, ask("ann", day_key()), NOON_US)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    before = store.read(PRODUCT, ask("ann", day_key(), session_key("s1")), NOON_US)
    again = store.read(PRODUCT, ask("ann", day_key(), session_key("s1")), NOON_US)
    assert before == again
    assert before.users["ann"].spent == {day_key(): 1_000, session_key("s1"): 1_000}
    write(store, AssignRecord("ann", "pro", None, None, NOON_US, keeps=True))
    assert store.read(PRODUCT, ask("ann"), NOON_US).users["ann"].plan == "pro"


def test_usage__by_day_range__counts_whole_days_from_first_to_before_last(store: Store) -> None:
    """A report from Monday 00:00 to Wednesday 00:00 holds Monday and Tuesday."""
    for number in range(4):
        at_us = TODAY_US + number * DAY_US
        store.ingest(PRODUCT, batch_of(make_event(f"e{number}", at_us=at_us)))
    two_days = usage_of(store, PRODUCT, TODAY_US + DAY_US, TODAY_US + 3 * DAY_US)
    part_of_a_day = usage_of(store, PRODUCT, NOON_US, NOON_US + 1)
    assert [row.calls for row in two_days] == [2]
    assert [row.calls for row in part_of_a_day] == [1]
    assert usage_of(store, PRODUCT, TODAY_US - DAY_US, TODAY_US) == ()


def test_usage__several_users_and_models__has_a_row_for_each(store: Store) -> None:
    """Rows are sums by user and canonical model; doubtful are those that are not exact."""
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a"),
            make_event("b", model="gpt-4o", provider="azure", plan="free", quality="partial"),
            make_event("c", model="o3", model_key="o3", cost_tools_nano=5),
            make_event("d", user_id="bob", quality="estimated"),
        ),
    )
    assert usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US) == (
        Usage("ann", "gpt-4o", 2, 40, 20, 2_000, 1),
        Usage("ann", "o3", 1, 20, 10, 1_005, 0),
        Usage("bob", "gpt-4o", 1, 20, 10, 1_000, 1),
    )


def test_users__with_and_without_usage__are_dearest_first_then_by_id(store: Store) -> None:
    """Each user has one row over all models; who used nothing in these days comes last."""
    plan = AssignRecord("zoe", "pro", None, None, NOON_US)
    earlier = make_event("e", user_id="old", at_us=NOON_US - 40 * DAY_US)
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a", at_us=NOON_US + 1),
            make_event("b", model="o3", model_key="o3", at_us=NOON_US),
            make_event("c", user_id="bob", cost_tokens_nano=2_001),
            earlier,
            records=(plan,),
        ),
    )
    store.ingest("other", batch_of(make_event("d", user_id="eve")))
    ann = UserActivity("ann", 2, 2_000, NOON_US + 1)
    bob = UserActivity("bob", 1, 2_001, NOON_US)
    old = UserActivity("old", 0, 0, earlier.at_us)
    zoe = UserActivity("zoe", 0, 0, 0)
    today = (PRODUCT, TODAY_US, TODAY_US + DAY_US)
    assert store.users(*today, 9) == (bob, ann, old, zoe)
    assert store.users(*today, 3) == (bob, ann, old)
    assert store.users(*today, 1) == (bob,)
    assert store.users("empty", TODAY_US, TODAY_US + DAY_US, 9) == ()


def test_users__more_than_one_page__are_all_read(store: Store) -> None:
    """Users without usage are read in pages, each of them once."""
    records = tuple(
        AssignRecord(f"u{number:04d}", "pro", None, None, NOON_US) for number in range(2_001)
    )
    write(store, *records)
    users = store.users(PRODUCT, TODAY_US, TODAY_US + DAY_US, 9_999)
    assert [row.user_id for row in users] == [record.user_id for record in records]
    assert store.plan_users(PRODUCT, TODAY_US, TODAY_US + DAY_US) == {"pro": PlanUsers(2_001, 0)}


def test_plan_users__assigned_and_active__are_counted_by_plan(store: Store) -> None:
    """A user is active on the plan that their events were booked on, and counted once there."""
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("a"),
            make_event("b", model="o3", model_key="o3"),
            make_event("c", user_id="bob", plan="default"),
            make_event("d", user_id="nobody", plan="default"),
            make_event("e", user_id="old", at_us=NOON_US - 40 * DAY_US),
            records=(AssignRecord("ann", "pro", None, None, NOON_US),),
        ),
    )
    store.ingest("other", batch_of(make_event("f", user_id="eve")))
    today = (PRODUCT, TODAY_US, TODAY_US + DAY_US)
    pro = PlanUsers(1, 1)
    assert store.plan_users(*today, besides="nobody") == {
        "": PlanUsers(2, 0),
        "pro": pro,
        "default": PlanUsers(0, 1),
    }
    assert store.plan_users(*today)["default"] == PlanUsers(0, 2)
    assert store.plan_users("empty", TODAY_US, TODAY_US + DAY_US) == {}


def test_usage__by_a_tag__has_a_row_for_each_value_of_that_key(store: Store) -> None:
    """Values are text as in JSON; an event without the key, or with null, has the value ""."""
    values: tuple[Any, ...] = ("search", "search", 7, 1.5, True, None)
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("none"),
            *(
                make_event(f"e{number}", metadata={"other": "x", "team": value})
                for number, value in enumerate(values)
            ),
            make_event("bob", user_id="bob", metadata={"team": "search"}, quality="partial"),
        ),
    )
    rows = usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US, "team")
    assert [(row.user_id, row.tag, row.calls) for row in rows] == [
        ("ann", "", 2),
        ("ann", "1.5", 1),
        ("ann", "7", 1),
        ("ann", "search", 2),
        ("ann", "true", 1),
        ("bob", "search", 1),
    ]
    assert rows[-1] == Usage("bob", "", 1, 20, 10, 1_000, 1, "search")


@pytest.mark.parametrize("key", ['"', "$", "a.b", "[0]", "\\", "é", "😀", "'", "%", "team "])
def test_usage__by_a_tag_of_any_characters__compares_the_key_literally(
    store: Store, key: str
) -> None:
    """A key is text, never a JSON path or part of the statement."""
    store.ingest(PRODUCT, batch_of(make_event("a", metadata={"team": "x", key: "y"})))
    rows = usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US, key)
    assert [row.tag for row in rows] == ["y"]


def test_usage__by_a_tag__counts_a_correction_under_the_value_of_its_original(
    store: Store,
) -> None:
    """A correction may have other metadata or none; without its original its own applies."""
    original = make_event("a", metadata={"team": "search"}, quality="estimated")
    lost = make_event("lost")
    store.ingest(
        PRODUCT,
        batch_of(
            original,
            make_correction("c", original, metadata={"team": "other"}),
            make_correction("d", original, metadata=None),
            make_correction("e", lost, metadata={"team": "own"}),
        ),
    )
    assert usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US, "team") == (
        Usage("ann", "", 0, -2, -1, -100, 0, "own"),
        Usage("ann", "", 1, 16, 8, 800, 0, "search"),
    )


def test_usage__by_a_tag__counts_the_days_and_the_product_of_the_report(store: Store) -> None:
    """The range and the tenant apply as they do without a tag."""
    for number in range(3):
        event = make_event(f"e{number}", at_us=TODAY_US + number * DAY_US)
        store.ingest(PRODUCT, batch_of(event))
    store.ingest("globex", batch_of(make_event("e1", at_us=TODAY_US + DAY_US)))
    rows = usage_of(store, PRODUCT, TODAY_US + DAY_US, TODAY_US + 2 * DAY_US, "team")
    assert [row.calls for row in rows] == [1]


def test_events__every_field__comes_back_as_it_went_in(store: Store) -> None:
    """An event is a fact: nothing of it is lost or changed."""
    full = Event(
        event_id="full",
        user_id="ann",
        session_id="sé😀\"'\\",
        at_us=NOON_US + 1,
        model="gpt-4o-2024-08-06",
        model_key="gpt-4o",
        provider="openai",
        plan="default",
        period_start_us=MONTH.start_us,
        input_tokens=9,
        output_tokens=8,
        cached_input_tokens=7,
        cache_write_tokens=6,
        reasoning_tokens=5,
        cost_tokens_nano=10**15,
        cost_tools_nano=3,
        quality="partial",
        source="manual",
        price_id="list-1",
        latency_ms=2,
        blocked=True,
        cost_explicit=True,
        tool_calls=("search", "search", "Ünï"),
        description="line one\nline two",
        metadata={"a": 1, "b": None, "c": "d", "e": [1.5], "é": True},
        details={"web_searches": 2},
        corrects="an event that nobody has",
    )
    plain = make_event("plain")
    store.ingest(PRODUCT, batch_of(full, plain))
    assert store.events(PRODUCT, "ann") == (plain, full)


def test_events__of_a_user__are_oldest_first(store: Store) -> None:
    """Events come in the order of their calls, then of their ids."""
    store.ingest(
        PRODUCT,
        batch_of(
            make_event("late", at_us=NOON_US + 1), make_event("b"), make_event("a"), make_event("c")
        ),
    )
    assert [event.event_id for event in store.events(PRODUCT, "ann")] == ["a", "b", "c", "late"]


# -- odd text


def test_store__a_nul_character__is_a_character_like_any_other(store: Store) -> None:
    """Ids that differ behind a NUL are different ids: no user is booked on another's account."""
    user_id, event_id = "ann\0admin", "e\0two"
    answer = store.ingest(
        PRODUCT,
        batch_of(
            make_event("e"),
            make_event(event_id, user_id=user_id, cost_tokens_nano=5),
            questions=ask("ann", period_key()) + ask(user_id, period_key()),
        ),
    )
    assert answer.counted == {"e", event_id}
    assert answer.users[user_id].spent == {period_key(): 5}
    assert answer.users["ann"].spent == {period_key(): 1_000}
    assert [event.cost_nano for event in store.events(PRODUCT, user_id)] == [5]


def test_store__half_a_surrogate_pair__does_not_stop_a_batch(store: Store) -> None:
    """Text that is no valid Unicode must not keep everybody's events from being booked."""
    odd = "a\ud800b"
    answer = store.ingest(
        PRODUCT,
        batch_of(
            make_event("odd", user_id=odd, session_id=odd, description=odd, cost_tokens_nano=5),
            make_event("a"),
            questions=ask("ann", period_key()) + ask(odd, period_key()),
        ),
    )
    assert answer.counted == {"odd", "a"}
    assert answer.users["ann"].spent == {period_key(): 1_000}
    assert answer.users[odd].spent == {period_key(): 5}
    assert [event.cost_nano for event in store.events(PRODUCT, odd)] == [5]
    assert len(usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US)) == 2


def test_usage__by_a_tag_with_odd_characters__reads_every_event(store: Store) -> None:
    """One event's metadata must not fail the reports of the whole product."""
    odd = "caf\ud83d"
    tagged = [
        make_event("odd", metadata={"team": odd, odd: 1}, tool_calls=(odd,)),
        make_event("nul", metadata={"team": "a\0b"}),
        make_event("plain", metadata={"team": "café"}),
    ]
    store.ingest(PRODUCT, batch_of(*tagged))
    rows = usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US, "team")
    assert [row.tag for row in rows] == ["a\ufffdb", "café", "caf\ufffd"]
    rows = usage_of(store, PRODUCT, TODAY_US, TODAY_US + DAY_US, odd)
    assert [(row.tag, row.calls) for row in rows] == [("", 2), ("1", 1)]


# -- life


def test_open__again__keeps_what_is_there(store: Store) -> None:
    """`open` is idempotent."""
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.open()
    assert len(store.events(PRODUCT, "ann")) == 1


def test_close__twice__is_fine(store: Store) -> None:
    """Closing what is closed is not a failure."""
    store.close()
    store.close()
