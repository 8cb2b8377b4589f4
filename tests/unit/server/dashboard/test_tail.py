"""The margin tail: each user in exactly one bar, in order, inside the drawing."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.margin import MarginGroups, MarginQuery
from paygent.core.messages import MISSING_USER_ID
from paygent.core.revenue import Revenue
from paygent.server.dashboard.tail import (
    BARS_MAX,
    HEIGHT,
    SINGLE_BARS,
    WIDTH,
    WORST_MAX,
    Tail,
    margin_tail,
)


def groups_of(margins: dict[str, int]) -> MarginGroups:
    """Return groups of users with these margins: a loss is cost, a gain is revenue."""
    costs = {user_id: (1, max(-margin, 0)) for user_id, margin in margins.items()}
    revenue = {
        user_id: Revenue(max(margin, 0), 0, has_recorded=True)
        for user_id, margin in margins.items()
    }
    return MarginGroups(costs, (0, 0), revenue, MarginQuery("user", 0, 1), (), 1)


def tail_of(*margins: int) -> Tail:
    """Return the picture of users with these margins."""
    return margin_tail(groups_of({f"u{number}": each for number, each in enumerate(margins)}))


def check(tail: Tail, margins: list[int]) -> None:
    """Check that a picture is about these margins, and inside the drawing."""
    ranked = sorted(margins)
    place, right = 0, 0.0
    for bar in tail.bars:
        assert bar.users >= 1
        assert bool(bar.user_id) == (bar.users == 1)
        assert bar.margin_nano == ranked[place + (bar.users - 1) // 2]
        place += bar.users
        assert right <= bar.x < bar.x + bar.width <= WIDTH
        right = bar.x + bar.width
        # A bar is at least 1 high, so that a margin of 0 is seen.
        assert -0.01 <= bar.y <= bar.y + bar.height <= HEIGHT + 1.01
        assert bar.height >= 1
        edge = bar.y if bar.margin_nano <= 0 else bar.y + bar.height
        assert edge == pytest.approx(tail.zero_y, abs=1.02)
    assert place == tail.users == len(margins)
    assert 0 <= tail.zero_y <= HEIGHT
    assert tail.losing == sum(margin < 0 for margin in margins)
    assert tail.lost_nano == sum(margin for margin in margins if margin < 0)


@pytest.mark.parametrize(
    ("users", "bars", "singles"),
    [
        (0, 0, 0),
        (1, 1, 1),
        (BARS_MAX, BARS_MAX, BARS_MAX),
        (BARS_MAX + 1, BARS_MAX, BARS_MAX - 1),
        (100_000, BARS_MAX, SINGLE_BARS),
    ],
)
def test_margin_tail__any_number_of_users__has_at_most_96_bars(
    users: int, bars: int, singles: int
) -> None:
    """The users at the losing end have a bar each; the others share bars of equal numbers."""
    margins = [(number * 7_919) % 100_003 - 30_000 for number in range(users)]
    tail = tail_of(*margins)
    assert len(tail.bars) == bars
    assert sum(bool(bar.user_id) for bar in tail.bars) == singles
    assert all(bar.user_id for bar in tail.bars[:SINGLE_BARS])
    shared = [bar.users for bar in tail.bars[SINGLE_BARS:]]
    assert not shared or max(shared) - min(shared) <= 1
    check(tail, margins)


@settings(max_examples=60, deadline=None)
@given(st.lists(st.integers(-(10**15), 10**15), max_size=150))
def test_margin_tail__any_margins__are_drawn_inside_the_picture(margins: list[int]) -> None:
    """Every user is in exactly one bar, from the smallest margin to the greatest."""
    check(tail_of(*margins), margins)


def test_margin_tail__one_loss_among_gains__is_the_first_bar() -> None:
    """It hangs below the line, and names its user."""
    tail = tail_of(5, -91, 8)
    assert [(bar.user_id, bar.margin_nano) for bar in tail.bars] == [
        ("u1", -91),
        ("u0", 5),
        ("u2", 8),
    ]
    loss, *gains = tail.bars
    assert loss.y == tail.zero_y
    assert loss.y + loss.height == pytest.approx(HEIGHT, abs=0.02)
    assert all(bar.y < tail.zero_y for bar in gains)
    assert (tail.losing, tail.lost_nano, tail.users) == (1, -91, 3)


@pytest.mark.parametrize(
    ("margins", "zero_y", "heights"),
    [
        ((-4, -2, -1), 0.0, [200.0, 100.0, 50.0]),
        ((1, 2, 4), 200.0, [50.0, 100.0, 200.0]),
        ((0, 0), 0.0, [1, 1]),
        ((-1, 0, 3), 150.0, [50.0, 1, 150.0]),
    ],
)
def test_margin_tail__all_losses_all_gains_or_zero__use_the_whole_height(
    margins: tuple[int, ...], zero_y: float, heights: list[float]
) -> None:
    """The line of zero is at an end, or where the sides meet."""
    tail = tail_of(*margins)
    assert (tail.zero_y, [bar.height for bar in tail.bars]) == (zero_y, heights)


def test_margin_tail__usage_without_a_user__is_not_a_user() -> None:
    """It has no margin of anyone's."""
    tail = margin_tail(groups_of({MISSING_USER_ID: -5, "ann": 3}))
    assert [bar.user_id for bar in tail.bars] == ["ann"]
    assert (tail.losing, tail.lost_nano, tail.users) == (0, 0, 1)


def test_margin_tail__equal_margins__are_in_the_order_of_the_ids() -> None:
    """The picture is the same each time."""
    margins = dict.fromkeys(("cy", "ann", "bob"), 0)
    assert [bar.user_id for bar in margin_tail(groups_of(margins)).bars] == ["ann", "bob", "cy"]


def test_margin_tail__a_user_whose_revenue_is_not_known__is_left_out() -> None:
    """What they pay is not known, so neither is a loss."""
    costs = {"ann": (1, 5), "bob": (1, 7)}
    known = {"ann": Revenue(0, 2, has_plan_price=True)}
    groups = MarginGroups(costs, (2, 12), known, MarginQuery("user", 0, 1), (), 1)
    tail = margin_tail(groups)
    assert (tail.users, tail.losing, tail.lost_nano, tail.worst) == (1, 1, -3, ("ann",))


def test_margin_tail__many_losses__names_the_greatest_ones() -> None:
    """In order, as many as the overview lists."""
    tail = tail_of(*range(-100, 1))
    assert tail.worst == tuple([f"u{number}" for number in range(WORST_MAX)])
