"""The margin tail as a picture: users from the smallest margin to the greatest, as bars.

The users at the losing end have a bar each; where there are more users than bars, the others share
bars, each of which is as high as the margin of the user in its middle. A user without a price and
without payments is left out: what they pay is not known. Positions are whole hundredths of the
drawing, computed here; the template only draws.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from heapq import nsmallest
from typing import NamedTuple

from paygent.core.margin import MarginGroups
from paygent.core.messages import MISSING_USER_ID

BARS_MAX = 96
SINGLE_BARS = 48
"""Bars at the losing end that stand for one user each, where there are more users than bars."""

WORST_MAX = 8
"""Users at a loss who are named."""

WIDTH, HEIGHT = 1_100, 200
_LABELS_MAX = 8  # with more users, the one with the greatest loss alone
_NAMED_MAX = 2 * BARS_MAX  # any later bar is that of several users
_GAP = 2
_BAR_MIN = 1


class Bar(NamedTuple):
    """A bar of the picture.

    Attributes:
        user_id: The user; "" for several.
        users: How many users it stands for.
        margin_nano: The margin of the user, or of the one in the middle.
        x, y, width, height: In units of the drawing.
    """

    user_id: str
    users: int
    margin_nano: int
    x: float
    y: float
    width: float
    height: float


class Tail(NamedTuple):
    """The picture and what it says.

    Attributes:
        bars: From the smallest margin to the greatest.
        zero_y: Where the margin is 0.
        is_labelled: Whether there is room for the name of every user.
        losing: Number of users who cost more than they pay.
        lost_nano: The sum of their margins; at most 0.
        worst: Those with the greatest losses, in order.
        users: Number of users with known revenue.
    """

    bars: tuple[Bar, ...]
    zero_y: float
    is_labelled: bool
    losing: int
    lost_nano: int
    worst: tuple[str, ...]
    users: int


def margin_tail(groups: MarginGroups) -> Tail:
    """Return the picture of margins by user."""
    found = [
        (recorded + price - cost, key)
        for key, (_, cost, recorded, price, has_recorded, has_price) in groups.by_key.items()
        if (has_recorded or has_price) and key != MISSING_USER_ID
    ]
    # Of most users nothing but the margin is needed: numbers alone are sorted much faster.
    user_ids = [key for _, key in nsmallest(_NAMED_MAX, found)]
    margins = sorted([margin for margin, _ in found])
    losses = margins[: bisect_left(margins, 0)]
    spans = list(_spans(len(margins)))
    heights = [margins[(first + last - 1) // 2] for first, last in spans]
    top, bottom = max([0, *heights]), min([0, *heights])
    scale = HEIGHT / ((top - bottom) or 1)
    zero_y = round(top * scale, 2)
    step = WIDTH / (len(spans) or 1)
    bars = [
        Bar(
            user_id=user_ids[first] if last - first == 1 else "",
            users=last - first,
            margin_nano=margin,
            x=round(number * step + _GAP / 2, 2),
            y=round(zero_y - max(margin, 0) * scale, 2),
            width=round(min(step - _GAP, WIDTH / 12), 2),
            height=max(round(abs(margin) * scale, 2), _BAR_MIN),
        )
        for number, ((first, last), margin) in enumerate(zip(spans, heights, strict=True))
    ]
    is_labelled = len(margins) <= _LABELS_MAX
    worst = tuple(user_ids[: min(len(losses), WORST_MAX)])
    return Tail(tuple(bars), zero_y, is_labelled, len(losses), sum(losses), worst, len(margins))


def _spans(users: int) -> Iterator[tuple[int, int]]:
    """Yield which users, from the smallest margin on, each bar stands for: from, to."""
    single = users if users <= BARS_MAX else SINGLE_BARS
    for place in range(single):
        yield place, place + 1
    others, bars = users - single, BARS_MAX - single
    for number in range(bars if others else 0):
        yield single + others * number // bars, single + others * (number + 1) // bars
