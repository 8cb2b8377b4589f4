"""When a limit will be reached, at the pace so far in its window. Pure, in integers."""

from __future__ import annotations

from paygent.core.period import Window

SHORTEST_US = 3_600 * 10**6
"""For how long a pace has to last to be one: in the first minutes it may be anything."""


def reached_us(spent: int, line: int, window: Window, since_us: int, now_us: int) -> int | None:
    """Return when an amount spent reaches a line, in microseconds since 1970 UTC.

    The pace is even: what was spent between the begin and now goes on for each microsecond.

    Args:
        spent: In the window, by now.
        line: The block line of the limit, in the same unit.
        window: That of the limit.
        since_us: When the user came, if that was in the window; the pace is counted from then.
        now_us: Now; within the window.

    Returns:
        None if it is reached already, or not before the window ends, or if nothing was spent or an
        hour has not passed yet.
    """
    begin_us = max(window.start_us, since_us)
    if spent >= line or spent <= 0 or now_us - begin_us < SHORTEST_US:
        return None
    # Rounded up: a moment earlier there is still room.
    at_us = begin_us - (line * (begin_us - now_us)) // spent
    return at_us if at_us < window.end_us else None
