"""When a limit will be reached: at an even pace, in its window, never before now."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given
from hypothesis import strategies as st

from paygent.core.limit_forecast import SHORTEST_US, reached_us
from paygent.core.period import Window

HOUR_US = SHORTEST_US
WINDOW = Window(HOUR_US, 11 * HOUR_US)
AMOUNTS = st.integers(0, 10**18)


def at(hours: float) -> int:
    """Return a moment; the window begins after the first hour, and has ten."""
    return round(hours * HOUR_US)


def test_reached__at_an_even_pace__is_where_the_line_is_crossed() -> None:
    """Half of the cap in a quarter of the window: the rest in another quarter."""
    assert reached_us(50, 100, WINDOW, 0, at(3.5)) == at(6)
    assert reached_us(50, 100, WINDOW, at(2.5), at(3.5)) == at(4.5)  # for who came later


def test_reached__what_is_reached__has_no_forecast() -> None:
    """Also a cap of nothing, and a line that was passed."""
    assert reached_us(100, 100, WINDOW, 0, at(3)) is None
    assert reached_us(0, 0, WINDOW, 0, at(3)) is None
    assert reached_us(150, 100, WINDOW, 0, at(3)) is None


def test_reached__not_in_this_window__is_none() -> None:
    """The next one begins from nothing."""
    assert reached_us(10, 100, WINDOW, 0, at(2)) is None  # exactly at its end
    assert reached_us(20, 100, WINDOW, 0, at(2)) == at(6)
    assert reached_us(1, 100, WINDOW, 0, at(3)) is None


def test_reached__without_a_pace__is_none() -> None:
    """Nothing spent, a correction below nothing, and the first minutes."""
    assert reached_us(0, 100, WINDOW, 0, at(3)) is None
    assert reached_us(-5, 100, WINDOW, 0, at(3)) is None
    assert reached_us(99, 100, WINDOW, 0, at(2) - 1) is None
    assert reached_us(99, 100, WINDOW, at(3), at(4) - 1) is None
    assert reached_us(99, 100, WINDOW, at(4), at(3)) is None


@given(AMOUNTS, st.integers(1, 10**6), st.integers(HOUR_US, 9 * HOUR_US), st.booleans())
def test_reached__any_figures__is_the_first_moment_at_the_line(
    spent: int, more_ppm: int, elapsed: int, comes_late: bool
) -> None:
    """At that moment the pace has reached it, and a moment earlier it has not."""
    since_us = at(1.5) if comes_late else 0
    now_us = WINDOW.start_us + elapsed
    line = spent + spent * more_ppm // 10**6
    found = reached_us(spent, line, WINDOW, since_us, now_us)
    if found is None:
        return
    begin_us = max(WINDOW.start_us, since_us)
    pace = Fraction(spent, now_us - begin_us)
    assert pace * (found - begin_us) >= line > pace * (found - 1 - begin_us)
    assert now_us < found < WINDOW.end_us
