"""Identities: how ids and metadata are read, and identities that are resolved later."""

from __future__ import annotations

import json
import pickle
import threading
from typing import Any
from uuid import UUID

import pytest
from tests.conftest import Swallowed
from tests.unit.client.context.here import who

from paygent.client.context import identity as identity_module
from paygent.client.context.identity import (
    Identity,
    LazyIdentity,
    Metadata,
    identity_of,
    read_metadata,
    read_user_id,
)
from paygent.client.context.scopes import (
    PropagatedContext,
    attach_identity,
    current_identity,
)
from paygent.failopen import diagnostics


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ("a", "a"),
        ("x" * 255, "x" * 255),
        (42, "42"),
        (0, "0"),
        (UUID(int=5), "00000000-0000-0000-0000-000000000005"),
        (None, None),
        ("", None),
        ("x" * 256, None),
        (True, None),
        (1.5, None),
        (b"a", None),
        (10**300, None),
    ],
)
def test_read_user_id__each_type__is_text_or_missing(given: Any, expected: str | None) -> None:
    """Text, int and UUID are ids; all else is treated as missing."""
    assert read_user_id(given) == expected


def test_read_user_id__a_subclass_of_str__is_its_text() -> None:
    """An enum member or a marked string is read as its text."""

    class Marked(str):
        """A string of the application's own."""

    found = read_user_id(Marked("a"))
    assert (found, type(found)) == ("a", str)


def test_read_user_id__unusable_ids__are_logged_once(caplog: pytest.LogCaptureFixture) -> None:
    """The type is logged, never the value; None is left to the policy for a missing user."""
    for bad in (1.5, object(), None, "y" * 300):
        read_user_id(bad)
    assert [record.getMessage() for record in caplog.records] == [
        "A user_id of type float is not usable: it must have 1 to 255 characters; "
        "the call has no user."
    ]
    assert diagnostics.counts["bad_user_id"] == 3


@pytest.mark.parametrize(
    ("given", "expected"),
    [("s", "s"), (7, "7"), (UUID(int=1), str(UUID(int=1))), (None, None), ("", None), (2.5, None)],
)
def test_identity__session_ids__are_read_like_user_ids(given: Any, expected: str | None) -> None:
    """A session id that cannot be used is ignored and logged."""
    assert Identity("u", given).session_id == expected
    assert ("bad_session_id" in diagnostics.counts) is (given not in (None, "s", 7, UUID(int=1)))


@pytest.mark.parametrize(
    ("given", "expected"), [("pro", "pro"), ("", None), (5, None), (None, None)]
)
def test_identity__a_plan_that_is_no_name__is_ignored(given: Any, expected: str | None) -> None:
    """A plan is a non-empty string."""
    assert Identity("u", plan=given).plan == expected


def stored(metadata: Metadata) -> str:
    """Return metadata as they are stored."""
    return json.dumps(metadata, separators=(",", ":"), allow_nan=False)


def test_read_metadata__within_bounds__is_kept_as_valid_json() -> None:
    """Plain values stay as they are, others become text."""
    kept = read_metadata({"a": 1, "b": None, "c": UUID(int=1), 4: True})
    assert kept == {"a": 1, "b": None, "c": str(UUID(int=1)), "4": True}
    assert json.loads(stored(kept)) == kept


@pytest.mark.parametrize("empty", [None, {}, ""])
def test_read_metadata__nothing__is_none(empty: Any) -> None:
    """No metadata costs nothing."""
    assert read_metadata(empty) is None


def test_read_metadata__too_many_keys__keeps_the_first_16(caplog: pytest.LogCaptureFixture) -> None:
    """The excess is dropped and logged."""
    kept = read_metadata({f"k{number}": number for number in range(17)})
    assert kept == {f"k{number}": number for number in range(16)}
    assert "limited to 16 keys and 1000 bytes" in caplog.text


@pytest.mark.parametrize("text", ["x", "é", "\U0001f600", '"', "\\", "\n"])
def test_read_metadata__too_large__stays_within_1000_bytes(text: str) -> None:
    """The bound is on the JSON as it is stored, whatever the alphabet."""
    kept = read_metadata({"first": 1, "big": text * 1000, "small": 2})
    assert kept == {"first": 1}
    fitting = read_metadata({f"k{number}": text * 40 for number in range(16)})
    assert fitting
    assert len(stored(fitting).encode()) <= 1000


@pytest.mark.parametrize("bad", [[1], 5, "text"])
def test_read_metadata__that_is_no_dict__is_dropped_and_logged(bad: Any) -> None:
    """Metadata never breaks a call."""
    assert read_metadata(bad) is None
    assert diagnostics.counts["bad_metadata"] == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_read_metadata__a_number_that_json_does_not_know__is_kept_as_text(number: float) -> None:
    """The stored JSON is valid for every reader."""
    kept = read_metadata({"a": number, "b": 1.5})
    assert kept == {"a": str(number), "b": 1.5}
    assert stored(kept) == f'{{"a":"{number}","b":1.5}}'


def test_read_metadata__an_item_that_cannot_be_text__is_dropped_and_counted(
    swallowed: Swallowed,
) -> None:
    """Its text comes from the application's code, which may raise."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    swallowed.expect("metadata")
    assert read_metadata({"a": Hostile()}) is None


# -- identities that are shared


@pytest.mark.parametrize(("user_id", "expected"), [("ann", "ann"), (7, "7"), (0, "0")])
def test_identity_of__a_plain_user_id__is_one_identity(user_id: Any, expected: str) -> None:
    """A user's many calls validate the id once."""
    found = identity_of(user_id)
    assert identity_of(user_id) is found
    assert (found.user_id, found.session_id, found.plan) == (expected, None, None)
    assert found.metadata is None


@pytest.mark.parametrize(
    ("session_id", "plan", "metadata"),
    [("s", None, None), (None, "pro", None), (None, None, {"x": 1})],
)
def test_identity_of__more_than_a_user_id__is_an_identity_of_its_own(
    session_id: str | None, plan: str | None, metadata: dict[str, Any] | None
) -> None:
    """What one call names never reaches another call of the user."""
    found = identity_of("ann", session_id, plan, metadata)
    assert (found.user_id, found.session_id, found.plan, found.metadata) == (
        "ann",
        session_id,
        plan,
        metadata,
    )
    assert identity_of("ann").session_id is None
    assert (identity_of("ann").plan, identity_of("ann").metadata) == (None, None)


@pytest.mark.parametrize("equal", [True, 1.0])
def test_identity_of__a_value_that_equals_a_users_id__is_no_user(equal: Any) -> None:
    """True and 1.0 are equal to 1, and are still no ids."""
    assert identity_of(1).user_id == "1"
    assert identity_of(equal).user_id is None
    assert diagnostics.counts["bad_user_id"] == 1


def test_identity_of__a_subclass_of_str__is_read_by_its_text() -> None:
    """Its own equality decides nothing: a call must not reach another user."""

    class Same(str):
        """A string that is equal to each other one."""

        def __eq__(self, other: object) -> bool:
            return True

        def __hash__(self) -> int:
            return hash("ann")

    assert identity_of("ann").user_id == "ann"
    assert identity_of(Same("bob")).user_id == "bob"


@pytest.mark.parametrize("bad", ["", "x" * 256, 10**300, [], None])
def test_identity_of__an_unusable_id__is_counted_each_time(bad: Any) -> None:
    """`health` counts the calls whose user is lost; one without a user id is no mistake."""
    assert [identity_of(bad).user_id for _ in range(2)] == [None, None]
    assert diagnostics.counts.get("bad_user_id", 0) == (0 if bad is None else 2)


def test_identity_of__more_users_than_are_kept__forgets_the_oldest() -> None:
    """The memory of a process does not grow with its users."""
    table, entries_max = identity_module._plain_identities, identity_module._PLAIN_IDENTITIES_MAX
    first = identity_of("user of a full table")
    for number in range(entries_max):
        assert identity_of(f"user {number} of many").user_id == f"user {number} of many"
    assert len(table) == entries_max
    again = identity_of("user of a full table")
    assert again is not first
    assert again.user_id == first.user_id


# -- identities that are completed


@pytest.mark.parametrize(
    "other", [Identity("u1"), Identity("u2", "s2", "pro"), Identity(None, "s2", "pro"), Identity()]
)
def test_merged_with__an_identity_that_adds_nothing__is_the_same_one(other: Identity) -> None:
    """Session and plan complete those of the same user only."""
    own = Identity("u1", "s1", None, {"x": 1})
    assert own.merged_with(other) is own


def test_merged_with__an_identity_that_adds_something__is_completed() -> None:
    """A user where there is none, a session or a plan of the same user, metadata of any."""
    named = Identity("u1", "s1", "pro", {"x": 1})
    for own, other, expected in [
        (Identity(), named, ("u1", "s1", "pro", {"x": 1})),
        (Identity("u1"), Identity("u1", "s1"), ("u1", "s1", None, None)),
        (Identity("u1"), Identity("u1", plan="pro"), ("u1", None, "pro", None)),
        (Identity("u2"), named, ("u2", None, None, {"x": 1})),
    ]:
        merged = own.merged_with(other)
        found = (merged.user_id, merged.session_id, merged.plan, merged.metadata)
        assert found == expected


# -- identities that are resolved at the first call


def test_lazy_identity__without_a_user_yet__asks_again_until_there_is_one() -> None:
    """The application may sign in its user after the block was entered."""
    users: list[str | None] = [None, "a", "b"]
    lazy = LazyIdentity(lambda: users.pop(0), None, {"x": 1})
    assert [lazy.resolve().user_id for _ in range(3)] == [None, "a", "a"]
    assert (lazy.resolve().metadata, users) == ({"x": 1}, ["b"])


def test_lazy_identity__without_a_session_yet__asks_again_too() -> None:
    """The user's function is not called again for that."""
    users, sessions = ["a"], [None, "s1", "s2"]
    lazy = LazyIdentity(users.pop, lambda: sessions.pop(0))
    assert [lazy.resolve().session_id for _ in range(3)] == [None, "s1", "s1"]
    assert lazy.resolve().user_id == "a"


@pytest.mark.parametrize("user", ["a", None])
def test_lazy_identity__pickled_into_another_process__is_resolved_first(user: str | None) -> None:
    """The other process has neither the request nor the application's functions."""
    lazy = LazyIdentity(lambda: user, lambda: "s1", {"x": 1})
    with attach_identity(lazy):
        found: Any = pickle.loads(pickle.dumps(PropagatedContext.capture()))
    taken = found.run(current_identity)
    assert type(taken) is Identity
    assert (taken.user_id, taken.session_id, taken.metadata) == (user, "s1", {"x": 1})


def test_lazy_identity__propagated_to_a_thread__asks_at_its_first_call() -> None:
    """Signing in a user may need a thread, and a lock that the function takes."""
    asked: list[str] = []
    lazy = LazyIdentity(lambda: asked.append("user") or "a", None)  # type: ignore[func-returns-value]
    with attach_identity(lazy):
        place: Any = PropagatedContext.capture()
    assert asked == []
    assert (place.run(who), asked) == ("a", ["user"])


def test_lazy_identity__that_fails__has_no_user_and_is_counted(swallowed: Swallowed) -> None:
    """An error of the application's function never reaches a call."""
    swallowed.expect("ask_user", "ask_session")
    lazy = LazyIdentity(lambda: 1 / 0, lambda: 1 / 0)
    assert (lazy.resolve().user_id, lazy.resolve().session_id) == (None, None)


def test_lazy_identity__with_a_function_that_makes_a_call__asks_once() -> None:
    """The function may use an executor or make a call, which has no user yet."""
    asked: list[str | None] = []

    def ask() -> str:
        asked.append(who())
        return "a"

    with attach_identity(LazyIdentity(ask, None)):
        assert (who(), who(), asked) == ("a", "a", [None])


def test_lazy_identity__resolved_by_two_threads__answers_both() -> None:
    """Only a call inside the function has no user."""
    both = threading.Barrier(2)

    def ask() -> str:
        both.wait(10)
        return "a"

    lazy, found = LazyIdentity(ask, None), []
    threads = [
        threading.Thread(target=lambda: found.append(lazy.resolve().user_id)) for _ in range(2)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(10)
    assert found == ["a", "a"]


def test_merged_with__more_metadata_than_fits__keeps_its_own() -> None:
    """The keys of the inner block, or of the call itself, win over those around it."""
    outer = Identity("u1", metadata={f"key{number}": number for number in range(16)})
    merged = Identity("u1", metadata={"request_id": 7}).merged_with(outer)
    assert merged.metadata is not None
    assert (merged.metadata["request_id"], len(merged.metadata)) == (7, 16)
