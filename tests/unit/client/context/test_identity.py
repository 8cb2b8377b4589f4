"""Identities and scopes: nested blocks, and how ids and metadata are read."""

from __future__ import annotations

import asyncio
import contextvars
import json
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any
from uuid import UUID

import openai
import pytest
from tests.conftest import Swallowed
from tests.instrument.shapes import MESSAGES

from paygent import Paygent, PaygentLimitExceeded, PlanConfig, paygent_context
from paygent.client.context.identity import Identity, read_metadata, read_user_id
from paygent.client.context.scopes import current, current_identity
from paygent.failopen import diagnostics
from paygent.testing import FakeProvider

Init = Callable[..., Paygent]


def who() -> str | None:
    """Return the user of a call made here."""
    identity = current_identity()
    return identity.user_id if identity is not None else None


def place() -> tuple[Any, Any, Any, Any]:
    """Return the user, session, plan and metadata of a call made here."""
    identity = current_identity()
    if identity is None:
        return (None, None, None, None)
    return (identity.user_id, identity.session_id, identity.plan, identity.metadata)


# -- blocks


def test_context__nested_blocks__the_inner_user_wins_and_the_outer_comes_back() -> None:
    """Blocks nest like functions do."""
    seen = [who()]
    with paygent_context("a"):
        seen.append(who())
        with paygent_context("b"):
            seen.append(who())
        seen.append(who())
    assert [*seen, who()] == [None, "a", "b", "a", None]


def test_context__an_inner_block_of_the_same_user__inherits_what_it_does_not_name() -> None:
    """Session, plan and metadata of the same user are inherited; the inner block's own win."""
    with paygent_context("a", "s1", "pro", {"x": 1, "y": 1}):
        with paygent_context("a"):
            assert place() == ("a", "s1", "pro", {"x": 1, "y": 1})
        with paygent_context("a", "s2", metadata={"y": 2, "z": 3}):
            assert place() == ("a", "s2", "pro", {"x": 1, "y": 2, "z": 3})


def test_context__an_inner_block_of_another_user__inherits_nothing() -> None:
    """One user's session and metadata never reach another user."""
    with paygent_context("a", "s1", "pro", {"x": 1}), paygent_context("b"):
        assert place() == ("b", None, None, None)


def test_context__a_missing_user_inside__is_missing_and_not_the_outer_one() -> None:
    """A call whose user id got lost must not be billed to the surrounding user."""
    with paygent_context("a"), paygent_context(None):
        assert who() is None


def test_context__one_object_entered_twice__leaves_in_order() -> None:
    """A block object can be kept and entered again, even inside itself."""
    block = paygent_context("a")
    with block:
        with block:
            assert who() == "a"
        assert who() == "a"
    assert who() is None


def test_context__an_exception__passes_and_the_block_ends() -> None:
    """A block swallows nothing."""
    with pytest.raises(KeyError), paygent_context("a"):
        raise KeyError("x")
    assert who() is None


async def test_context__async_blocks__are_each_tasks_own() -> None:
    """Tasks at the same time have their own users."""

    async def one(user: str) -> str | None:
        async with paygent_context(user_id=user):
            await asyncio.sleep(0)
            return who()

    seen = await asyncio.gather(one("a"), one("b"))
    assert list(seen) == ["a", "b"]
    assert who() is None


def test_context__left_in_an_unrelated_context__warns_and_stays_where_it_was_entered() -> None:
    """A block that another task leaves (a generator's) is no error, and changes nothing there."""
    block, elsewhere = paygent_context("a"), contextvars.copy_context()
    elsewhere.run(block.__enter__)
    with paygent_context("b"):
        block.__exit__(None, None, None)
        assert who() == "b"
    assert (who(), elsewhere.run(who)) == (None, "a")
    assert diagnostics.counts["left_elsewhere"] == 1


def test_context__left_in_a_copy_of_its_context__ends_in_both_and_warns() -> None:
    """A task that was started inside a block may leave it."""
    with paygent_context("outer"):
        block = paygent_context("a")
        block.__enter__()
        copied = contextvars.copy_context()
        copied.run(block.__exit__, None, None, None)
        assert (copied.run(who), who()) == ("outer", "outer")
        block.__exit__(None, None, None)
        assert who() == "outer"
    assert who() is None
    assert diagnostics.counts["left_elsewhere"] == 2


def test_context__in_generators_read_in_turn__ends_with_each() -> None:
    """Whichever ends first, no user is left behind, and the reader keeps its own."""

    def steps(user: str) -> Iterator[str | None]:
        with paygent_context(user):
            yield who()
            yield who()

    with paygent_context("reader"):
        a, b = steps("a"), steps("b")
        assert (next(a), next(b)) == ("a", "b")
        a.close()  # type: ignore[attr-defined]
        b.close()  # type: ignore[attr-defined]
        assert who() == "reader"
        kept = steps("c")
        next(kept)
        with paygent_context("d"):
            kept.close()  # type: ignore[attr-defined]
            assert who() == "d"
        assert who() == "reader"
    assert who() is None
    assert diagnostics.counts["left_elsewhere"] == 2


def test_context__left_out_of_order_again_and_again__keeps_no_chain() -> None:
    """A scope that has ended is not kept alive by the next one."""

    def steps(user: str) -> Iterator[str | None]:
        with paygent_context(user):
            yield who()
            yield who()

    for _ in range(3_000):
        a, b = steps("a"), steps("b")
        next(a), next(b)
        a.close()  # type: ignore[attr-defined]
        b.close()  # type: ignore[attr-defined]
    with paygent_context("x"):
        depth, says = 0, current.get()
        while says is not None:
            depth, says = depth + 1, getattr(says, "outer", None)
    assert (depth <= 2, who()) == (True, None)


def test_context__one_object_in_many_threads__is_each_threads_own() -> None:
    """One block object may serve all threads."""
    block, wrong = paygent_context("svc"), list[Any]()
    switches = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)

    def work() -> None:
        for _ in range(300):
            with block:
                time.sleep(0)
                inside = who()
            if (inside, who()) != ("svc", None):
                wrong.append((inside, who()))

    try:
        threads = [threading.Thread(target=work) for _ in range(16)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(60)
    finally:
        sys.setswitchinterval(switches)
    assert wrong == []
    assert "left_elsewhere" not in diagnostics.counts


async def test_context__one_object_in_two_tasks__is_each_tasks_own() -> None:
    """Each task leaves its own scope, in any order."""
    block, first_is_out = paygent_context("a"), asyncio.Event()

    async def first() -> str | None:
        with block:
            await asyncio.sleep(0.01)
        first_is_out.set()
        return who()

    async def second() -> tuple[str | None, str | None]:
        with block:
            await first_is_out.wait()
            inside = who()
        return inside, who()

    assert list(await asyncio.gather(first(), second())) == [None, ("a", None)]
    assert "left_elsewhere" not in diagnostics.counts


async def test_context__left_by_what_was_started_inside__keeps_its_user() -> None:
    """A task that outlives the block keeps its user."""
    is_out = asyncio.Event()

    async def work() -> str | None:
        await is_out.wait()
        return who()

    with paygent_context("a"):
        task = asyncio.create_task(work())
    is_out.set()
    assert await task == "a"


# -- ids


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
        "paygent: a user_id of type float is not usable (1 to 255 characters are); "
        "treated as missing"
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


# -- metadata


def test_read_metadata__within_bounds__is_kept_with_its_json() -> None:
    """Plain values stay as they are, others become text."""
    kept, text = read_metadata({"a": 1, "b": None, "c": UUID(int=1), 4: True})
    assert kept == {"a": 1, "b": None, "c": str(UUID(int=1)), "4": True}
    assert json.loads(text) == kept


@pytest.mark.parametrize("empty", [None, {}, ""])
def test_read_metadata__nothing__is_none(empty: Any) -> None:
    """No metadata costs nothing."""
    assert read_metadata(empty) == (None, "")


def test_read_metadata__too_many_keys__keeps_the_first_16(caplog: pytest.LogCaptureFixture) -> None:
    """The excess is dropped and logged."""
    kept, _ = read_metadata({f"k{number}": number for number in range(17)})
    assert kept == {f"k{number}": number for number in range(16)}
    assert "up to 16 keys and 1000 bytes" in caplog.text


@pytest.mark.parametrize("text", ["x", "é", "\U0001f600", '"', "\\", "\n"])
def test_read_metadata__too_large__stays_within_1000_bytes(text: str) -> None:
    """The bound is on the JSON as it is stored, whatever the alphabet."""
    kept, stored = read_metadata({"first": 1, "big": text * 1000, "small": 2})
    assert kept == {"first": 1}
    fitting, stored = read_metadata({f"k{number}": text * 40 for number in range(16)})
    assert fitting
    assert len(stored.encode()) <= 1000


@pytest.mark.parametrize("bad", [[1], 5, "text"])
def test_read_metadata__that_is_no_dict__is_dropped_and_logged(bad: Any) -> None:
    """Metadata never breaks a call."""
    assert read_metadata(bad) == (None, "")
    assert diagnostics.counts["bad_metadata"] == 1


@pytest.mark.parametrize("number", [float("nan"), float("inf"), float("-inf")])
def test_read_metadata__a_number_that_json_does_not_know__is_kept_as_text(number: float) -> None:
    """The stored JSON is valid for every reader."""
    assert read_metadata({"a": number, "b": 1.5}) == (
        {"a": str(number), "b": 1.5},
        f'{{"a":"{number}","b":1.5}}',
    )


def test_read_metadata__an_item_that_cannot_be_text__is_dropped_and_counted(
    swallowed: Swallowed,
) -> None:
    """Its text comes from the application's code, which may raise."""

    class Hostile:
        def __str__(self) -> str:
            raise RuntimeError("no")

    swallowed.expect("metadata")
    assert read_metadata({"a": Hostile()}) == (None, "")


# -- a plan that a context names


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A client of the fake provider, without retries."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


def call(client: openai.OpenAI) -> Any:
    """Make one call of $0.00045."""
    return client.chat.completions.create(model="gpt-4o", messages=MESSAGES, max_tokens=20)


def test_context__a_plan_for_an_unassigned_user__counts_and_is_kept(
    init: Init, client: openai.OpenAI
) -> None:
    """A user without an assigned plan is assigned the context's one."""
    pg = init()
    pg.configure_plan("tiny", PlanConfig(max_spend_per_period=0.0004))
    with paygent_context("u1", plan="tiny"):
        call(client)
    with paygent_context("u1"), pytest.raises(PaygentLimitExceeded):
        call(client)
    pg.shutdown()
    again = init()
    with paygent_context("u1"), pytest.raises(PaygentLimitExceeded):
        call(client)
    assert again.get_usage("u1").period_cost_nano == 450_000


def test_context__a_plan_for_an_assigned_user__is_ignored_and_logged_once(
    init: Init, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """An assignment is the operator's decision; a context does not override it."""
    pg = init()
    pg.configure_plan("tiny", PlanConfig(max_spend_per_period=0))
    pg.configure_plan("pro", PlanConfig())
    pg.assign_plan("u1", "pro")
    with paygent_context("u1", plan="tiny"):
        call(client)
        call(client)
    with paygent_context("u1", plan="pro"):
        call(client)
    assert caplog.text.count("names plan tiny for a user") == 1
    assert diagnostics.counts["context_plan"] == 2


def test_context__an_unknown_plan__is_ignored_and_logged(
    init: Init, client: openai.OpenAI, caplog: pytest.LogCaptureFixture
) -> None:
    """A plan that is not configured changes no user's plan."""
    pg = init()
    with paygent_context("u1", plan="nope"):
        call(client)
    assert "names plan nope, which is not configured" in caplog.text
    assert pg.start_session("u2").plan == "default"
    assert [row.user_id for row in pg.report()] == ["u1"]
