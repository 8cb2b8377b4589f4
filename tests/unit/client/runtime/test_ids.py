"""Ids of events and sessions: UUIDs that sort by time and never repeat, and those of keys."""

from __future__ import annotations

import itertools
import os
import uuid
from concurrent.futures import ThreadPoolExecutor

import pytest

from paygent.client.runtime import ids
from paygent.client.runtime.ids import id_of_key, new_id

AT_US = 1_795_000_000_123_456


def test_new_id__of_a_time__is_a_uuid_of_version_7_with_its_milliseconds() -> None:
    """Version, variant and the 48 bits of time are where RFC 9562 puts them."""
    text = new_id(AT_US)
    made = uuid.UUID(text)
    assert (str(made), made.version, made.variant) == (text, 7, uuid.RFC_4122)
    assert made.int >> 80 == AT_US // 1000


@pytest.mark.parametrize("at_us", [0, 999, AT_US, 2**58])
def test_new_id__of_any_time__keeps_its_layout(at_us: int) -> None:
    """The first and the last moments have ids of the same shape."""
    made = uuid.UUID(new_id(at_us))
    assert (made.version, made.variant) == (7, uuid.RFC_4122)
    assert made.int >> 80 == (at_us // 1000) % 2**48


def test_new_id__of_later_times__sorts_after() -> None:
    """Text order is time order, to the millisecond."""
    made = [new_id(AT_US + step * 1000) for step in range(200)]
    assert made == sorted(made)


def test_new_id__many_of_one_moment__are_all_different() -> None:
    """A count keeps the calls of one millisecond apart."""
    assert len({new_id(AT_US) for _ in range(20_000)}) == 20_000


def test_new_id__on_many_threads_at_once__is_never_the_same() -> None:
    """Counting is one step."""
    with ThreadPoolExecutor(8) as pool:
        made = list(pool.map(lambda _: [new_id(AT_US) for _ in range(2_000)], range(8)))
    assert len({each for part in made for each in part}) == 16_000


def test_new_id__of_one_moment__sorts_by_making(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also the highest number that a process can draw has 2**47 successors of twelve digits."""
    highest = "7" + "f" * 11
    monkeypatch.setattr(os, "urandom", lambda size: b"\xff" * size)
    ids.renew_after_fork()
    made = [new_id(AT_US) for _ in range(5)]
    assert made == sorted(made)
    assert [each[-12:] for each in made[:2]] == [highest, "8" + "0" * 11]
    assert {len(each) for each in made} == {36}
    monkeypatch.undo()
    ids.renew_after_fork()


def test_new_id__what_processes_draw__varies_in_each_bit() -> None:
    """73 random bits keep processes apart: none is stuck at 0 or 1."""
    made = []
    for _ in range(500):
        ids.renew_after_fork()
        made.append(uuid.UUID(new_id(AT_US)).int)
    # rand_a and rand_b, without the first bit of the count: there is room to count on.
    free = ((1 << 76) - (1 << 64) | (1 << 62) - 1) & ~(1 << 47)
    ever = never = 0
    for each in made:
        ever |= each
        never |= ~each
    assert ever & never & free == free


def test_id_of_key__the_same_key__is_the_same_id_for_ever() -> None:
    """A literal: the ids of keys are in people's ledgers and must never change."""
    expected = uuid.uuid5(uuid.UUID("6d1f3a52-8f0e-5b86-9a51-0f6c1c9f7a10"), "1:p1:u1:k")
    assert id_of_key("p", "u", "k") == str(expected)


def test_id_of_key__product_user_and_key__are_kept_apart() -> None:
    """No product meets another's, no user another's."""
    made = {id_of_key(*each) for each in [("p", "u", "k"), ("q", "u", "k"), ("p", "v", "k")]}
    made |= {id_of_key("p", "u", "l"), id_of_key("pu", "", "k"), id_of_key("p", "", "uk")}
    assert len(made) == 6


def test_renew_after_fork__two_processes_of_one_state__make_different_ids(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A forked child draws anew, so it does not make its parent's ids."""
    made = []
    for _ in range(2):
        monkeypatch.setattr(ids, "numbers", itertools.count(7))
        made.append(new_id(AT_US))
    (ours,) = set(made)
    monkeypatch.setattr(ids, "numbers", itertools.count(7))
    ids.renew_after_fork()
    assert new_id(AT_US) != ours


def test_id_of_key__parts_that_join_to_the_same_text__are_different_ids() -> None:
    """One user's key is never another's, whatever characters they are made of."""
    assert id_of_key("p", "a\x1fb", "c") != id_of_key("p", "a", "b\x1fc")
    assert id_of_key("p", "a", "1:b") != id_of_key("p", "a1:", "b")
    assert len(id_of_key("p", "u", "\ud800")) == 36
