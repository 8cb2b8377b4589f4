"""Allotments: how many calls of a user may be open before exact figures are needed.

The room of an account ends at the nearest line that has something to say: the warn line while a
warning is due, the block line after it. The room of a lane is that of the tightest of its accounts,
divided by the bound on one call. A call that is let in by its allotment touches no account and
takes no lock, and the exact gate would have let it in as well.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable

from paygent.client.accounts import account_lookup
from paygent.client.accounts.account import Account
from paygent.client.accounts.user_state import Allotment, Hold, Lane, User
from paygent.core.estimate import MILLIONTHS
from paygent.core.pricing import ONE_NANO

_MOST_MIN = 1_024  # calls per allotment without a limit, unless so many are in flight already
_ROOM_SHARE = 2_048  # far from a line, a call may be as large as this part of the room
_UNITS = (4, 1)  # of the bound of the call at hand: later ones may be larger, if there is room

# Entering a table and counting it are two single steps under the interpreter's lock; without that
# lock another thread's entry may not be seen, so every call looks at its accounts.
_IS_SAFE = getattr(sys, "_is_gil_enabled", lambda: True)()


def enter(hold: Hold) -> bool:
    """Open a call if its allotment lets it in; takes no lock."""
    lane = hold.lane
    user, allotment = lane.user, lane.allotment
    if hold.at_us >= lane.until_us:
        return False
    # As `bound_of`, without the cost of its calls: this runs for every call.
    use, weight, output = hold.use, hold.weight, hold.max_tokens
    if use is not None:
        cost, tokens = use.cost_nano * ONE_NANO, use.tokens * MILLIONTHS
    else:
        per_byte, per_token, fixed, tokens_per_byte, tokens_fixed, usual, takes_max = lane.bound
        if not output or (output > usual and not takes_max):
            output = usual
        cost = weight * per_byte + output * per_token + fixed
        tokens = weight * tokens_per_byte + output * MILLIONTHS + tokens_fixed
    if cost > allotment.unit or tokens > allotment.unit_tokens:
        return False
    opened = user.open
    opened[hold.seq] = hold
    # Entered first and counted afterwards, so of two threads at the last place at most one is let
    # in; and whoever withdraws the allotment finds the call in the table, or is seen here. What was
    # counted grows before the calls leave the table, so it has to be read after the length.
    if allotment is user.allotment and len(opened) + allotment.used <= lane.most:
        return True
    opened.pop(hold.seq, None)
    return False


def bound_of(hold: Hold) -> tuple[int, int]:
    """Return an upper bound on what an open call holds; see `HoldBound.of`."""
    use = hold.use
    if use is not None:
        return use.cost_nano * ONE_NANO, use.tokens * MILLIONTHS
    return hold.lane.bound.of(hold.weight, hold.max_tokens)


def allot(hold: Hold, *, warn_every_call: bool, is_offline: bool) -> bool:
    """Let a call and those that follow it in by an allotment, and open it; False where one of its
    lines is near. Under the user's lock, once everything that has ended is counted.

    Args:
        hold: The call, not open yet.
        warn_every_call: Whether a warning is due at each call past the line.
        is_offline: Whether the ledger is away for so long that `when_offline` applies.
    """
    lane = hold.lane
    user = lane.user
    if user.paused or (is_offline and user.plan.when_offline != "allow"):
        return False
    if not (_IS_SAFE and user.known and user.sdk_enabled and lane.is_current()):
        return False
    if hold.at_us >= min(user.period.end_us, lane.valid_until_us):
        return False
    # Of the whole user: a call that ends under an allotment wakes no waiter.
    if any(account.waiting for account in user.accounts.values()):
        return False
    accounts = account_lookup.accounts_for_call(user, lane.session_id, lane.model_key, hold.at_us)
    if lane.forecast.is_cold and hold.use is None:
        return False  # of unknown size
    if lane.reckon():
        user.allotment = None
    bound = bound_of(hold)
    rooms = _rooms(lane, accounts, warn_every_call=warn_every_call)
    if not _has_place(len(user.open), (*bound, 1), rooms):
        return False
    allotment = user.allotment
    if allotment is None or not _joins(lane, allotment, bound, rooms):
        user.allotment = None  # first: who enters meanwhile is seen below, or sees this
        for factor in _UNITS:
            allotment = _new_allotment(user, bound, rooms, factor)
            if _joins(lane, allotment, bound, rooms):
                break
        else:
            return False
    ends = (account.key.end_us for account in accounts)
    lane.until_us = min(user.period.end_us, lane.valid_until_us, *ends)
    user.open[hold.seq] = hold
    lane.allotment = user.allotment = allotment
    return True


_Rooms = tuple[int | None, int | None, int | None]


def _rooms(lane: Lane, accounts: Iterable[Account], *, warn_every_call: bool) -> _Rooms:
    """Return the room to the nearest line in 10⁻¹⁸ dollars, in millionths of tokens and in calls;
    None without a limit.
    """
    rooms: dict[str, int] = {}
    for account in accounts:
        thresholds = account.thresholds
        if thresholds is None or is_exempt(account, lane.forecast.is_free):
            continue
        is_due = not account.excludes_shadow and (warn_every_call or not account.warned)
        line = min(thresholds.warn, thresholds.block) if is_due else thresholds.block
        room = line - 1 - account.decisive
        rooms[account.metric] = min(room, rooms.get(account.metric, room))
    cost, tokens = rooms.get("spend"), rooms.get("tokens")
    return (
        None if cost is None else cost * ONE_NANO,
        None if tokens is None else tokens * MILLIONTHS,
        rooms.get("calls"),
    )


def is_exempt(account: Account, is_free: bool) -> bool:
    """Return whether a limit does not apply to a call: it counts dollars, and the model is free."""
    thresholds = account.thresholds
    # A cap of 0 dollars is meant to block free models too.
    return is_free and account.metric == "spend" and thresholds is not None and thresholds.cap > 0


def _has_place(count: int, bound: tuple[int, ...], rooms: _Rooms) -> bool:
    """Return whether there is room for one more call, if each uses as much as this one."""
    return all(
        room is None or amount * (count + 1) <= room
        for amount, room in zip(bound, rooms, strict=True)
    )


def _new_allotment(user: User, bound: tuple[int, int], rooms: _Rooms, factor: int) -> Allotment:
    units = [
        max(amount * factor, 1, (room or 0) // _ROOM_SHARE if factor > 1 else 0)
        for amount, room in zip(bound, rooms, strict=False)
    ]
    # Open calls that may use more than a unit: those of an earlier allotment, and large ones.
    extra = [0, 0]
    for hold in list(user.open.values()):
        hold.lane.reckon()
        for number, amount in enumerate(bound_of(hold)):
            extra[number] += max(amount - units[number], 0)
    return Allotment(units[0], units[1], (extra[0], extra[1]))


def _joins(lane: Lane, allotment: Allotment, bound: tuple[int, int], rooms: _Rooms) -> bool:
    """Let a lane take part in an allotment, if its rooms have a place for one more call."""
    units = (allotment.unit, allotment.unit_tokens)
    if bound[0] > units[0] or bound[1] > units[1]:
        return False
    most = max(_MOST_MIN, 2 * len(lane.user.open))  # bounds what is not counted yet
    for room, unit, extra in zip(rooms, units, allotment.extra, strict=False):
        if room is not None:
            most = min(most, (room - extra) // unit)
    if rooms[2] is not None:
        most = min(most, rooms[2])
    if len(lane.user.open) >= most:
        return False
    lane.most = most + allotment.used
    lane.tokens_max = min(units[0] // (max(lane.dearest) or 1), units[1] // MILLIONTHS)
    return True
