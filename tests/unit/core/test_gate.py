"""The gate: thresholds, what fits, contention against exhaustion, and which account decides."""

from __future__ import annotations

import pytest

from paygent.core.gate import (
    Decision,
    Reading,
    Thresholds,
    Verdict,
    contention,
    decide,
    judge,
    room,
    thresholds_of,
    usage_ppm,
    warning,
)

USD = 10**9  # nano-dollars


def dollar(spent: int, held: int = 0, need: int = 0, *, hard_ppm: int = 1_000_000) -> Reading:
    """Return the reading of a cap of one dollar that warns at 80 %."""
    thresholds = thresholds_of(USD, soft_gate_ppm=800_000, hard_gate_ppm=hard_ppm)
    return Reading("total_spend", thresholds, spent, held, need)


@pytest.mark.parametrize(
    ("cap", "soft_ppm", "hard_ppm", "block", "warn"),
    [
        (1_000_000_000, 800_000, 1_000_000, 1_000_000_000, 800_000_000),
        (1_000_000_000, 800_000, 900_000, 900_000_000, 800_000_000),
        (1_000_000_000, 800_000, 1_200_000, 1_200_000_000, 800_000_000),
        (7, 800_000, 900_000, 6, 6),
        (3, 800_000, 1_200_000, 3, 3),
        (1, 800_000, 1_000_000, 1, 1),
        (0, 800_000, 1_200_000, 0, 0),
        (
            9_000_000_000_000_000_001,
            800_000,
            1_000_000,
            9_000_000_000_000_000_001,
            7_200_000_000_000_000_001,
        ),
    ],
)
def test_thresholds_of__a_cap__are_rounded_to_the_safe_side_in_integers(
    cap: int, soft_ppm: int, hard_ppm: int, block: int, warn: int
) -> None:
    """Calls are refused at the gate or before, and warned of at it, beyond what a float holds."""
    assert thresholds_of(cap, soft_gate_ppm=soft_ppm, hard_gate_ppm=hard_ppm) == Thresholds(
        cap, block, warn
    )


@pytest.mark.parametrize(
    ("hard_ppm", "spent", "status"),
    [
        (1_000_000, 799_999_999, "ok"),
        (1_000_000, 800_000_000, "soft_gate"),
        (1_000_000, 999_999_999, "soft_gate"),
        (1_000_000, 1_000_000_000, "hard_gate"),
        (900_000, 799_999_999, "ok"),
        (900_000, 899_999_999, "soft_gate"),
        (900_000, 900_000_000, "hard_gate"),
        (1_200_000, 1_000_000_000, "soft_gate"),
        (1_200_000, 1_199_999_999, "soft_gate"),
        (1_200_000, 1_200_000_000, "hard_gate"),
    ],
)
@pytest.mark.parametrize("strict", [False, True])
def test_decide__the_lines_to_the_nano_dollar__warn_and_block_exactly_there(
    hard_ppm: int, spent: int, status: str, strict: bool
) -> None:
    """It warns at exactly 80 % and blocks at exactly 100 %, 90 % or 120 %, and not one below."""
    assert decide((dollar(spent, hard_ppm=hard_ppm),), strict=strict).status == status


@pytest.mark.parametrize(
    ("spent", "held", "need", "strict", "verdict"),
    [
        # Room for all of it, up to exactly the line.
        (0, 0, 0, False, "fits"),
        (0, 0, 100, False, "fits"),
        (60, 30, 10, False, "fits"),
        (60, 30, 10, True, "fits"),
        (99, 0, 0, True, "fits"),
        # The one call that crosses the line.
        (60, 30, 11, False, "straddles"),
        (0, 0, 101, False, "straddles"),
        # The one that crosses it fills the line for the others.
        (60, 41, 1, False, "contention"),
        # Only holds are in the way.
        (60, 40, 10, False, "contention"),
        (60, 40, 0, False, "contention"),
        (60, 30, 11, True, "contention"),
        (60, 40, 0, True, "contention"),
        (60, 40, 40, True, "contention"),
        # The cap is used up, or a strict call could never fit.
        (100, 0, 0, False, "exhausted"),
        (100, 0, 10, False, "exhausted"),
        (101, 0, 0, True, "exhausted"),
        (100, 50, 10, False, "exhausted"),
        (60, 0, 41, True, "exhausted"),
        (60, 40, 41, True, "exhausted"),
    ],
)
def test_judge__a_line_of_100__says_what_stands_in_the_way(
    spent: int, held: int, need: int, strict: bool, verdict: Verdict
) -> None:
    """A refusal says whether holds are in the way or the cap is used up; strict never straddles."""
    assert judge(spent, held, need, 100, strict=strict) == verdict


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("need", [0, 1])
def test_judge__a_line_of_zero__is_always_exhausted(need: int, strict: bool) -> None:
    """A cap of 0 refuses the first call, a free one too."""
    assert judge(0, 0, need, 0, strict=strict) == "exhausted"


@pytest.mark.parametrize("strict", [False, True])
@pytest.mark.parametrize("hard_ppm", [1, 1_000_000, 10_000_000])
def test_decide__a_cap_of_zero__blocks_always_at_all_of_it(hard_ppm: int, strict: bool) -> None:
    """A cap of 0 blocks whatever the gate, as wholly used."""
    thresholds = thresholds_of(0, soft_gate_ppm=1, hard_gate_ppm=hard_ppm)
    assert decide((Reading("total_spend", thresholds, 0, 0),), strict=strict) == Decision(
        "hard_gate", "total_spend", 1_000_000, 0, 0, 0, False, "total_spend", "spend"
    )


@pytest.mark.parametrize(
    ("reading", "strict", "ppm"),
    [
        (dollar(400_000_000, 100_000_000, 100_000_000), False, 500_000),
        (dollar(400_000_000, 100_000_000, 100_000_000), True, 600_000),
        (dollar(999_999_999), False, 999_999),
        (dollar(1_500_000_000), False, 1_500_000),
        (Reading("calls", Thresholds(0, 0, 0), 0, 0), False, 1_000_000),
    ],
)
def test_usage_ppm__a_reading__is_spent_and_held_of_the_cap(
    reading: Reading, strict: bool, ppm: int
) -> None:
    """The share of the cap counts holds of others, and the call's own only when strict."""
    assert usage_ppm(reading, with_need=strict) == ppm


def test_decide__no_limit__is_ok() -> None:
    """A user without limits is never refused."""
    assert decide((), strict=True) == Decision("ok", None, 0, 0, 0, 0)


def test_decide__room_left__is_ok_without_a_reason() -> None:
    """Below every line there is no reason, but the nearest limit is named."""
    assert decide((dollar(100_000_000, 50_000_000, 5),), strict=False) == Decision(
        "ok",
        None,
        150_000,
        100_000_000,
        50_000_000,
        USD,
        False,
        "total_spend",
        estimate=5,
        block=USD,
    )


def test_decide__holds_past_the_warn_line__do_not_warn() -> None:
    """The warn line is compared with what is spent, since holds come and go."""
    assert decide((dollar(799_999_999, 150_000_000, 1),), strict=False).status == "ok"


def test_decide__exhausted__names_the_limit() -> None:
    """A used-up cap is refused for good, with the limit's own reason."""
    reading = dollar(USD, 5, 7)._replace(reason="session_spend")
    assert decide((reading,), strict=False) == Decision(
        "hard_gate",
        "session_spend",
        1_000_000,
        USD,
        5,
        USD,
        False,
        "session_spend",
        estimate=7,
        block=USD,
    )


def test_decide__contention__is_retryable_and_keeps_the_limit() -> None:
    """Where only holds are in the way the reason is contention, retryable, of a named limit."""
    reading = dollar(600_000_000, 400_000_000, 1)
    assert decide((reading,), strict=False) == Decision(
        "hard_gate",
        "contention",
        1_000_000,
        600_000_000,
        400_000_000,
        USD,
        True,
        "total_spend",
        "spend",
        estimate=1,
        block=USD,
    )


def test_decide__another_call_straddles__is_contention() -> None:
    """While one call crosses the line, which it fills, the next waits for it."""
    reading = dollar(900_000_000, 50_000_000, 100_000_000)
    assert decide((reading,), strict=False).status == "soft_gate"
    filled = reading._replace(held=150_000_000)
    assert decide((filled,), strict=False).reason == "contention"


def test_contention__of_an_account__has_the_call_wait_for_it() -> None:
    """A call that might straddle can be told to wait all the same."""
    decision = contention(dollar(100_000_000, 50_000_000, USD))
    assert (decision.status, decision.reason, decision.retryable, decision.limit) == (
        "hard_gate",
        "contention",
        True,
        "total_spend",
    )


def test_decide__strict__refuses_what_could_pass_the_cap() -> None:
    """A strict plan refuses the call that would cross the line, a default one lets it go."""
    reading = dollar(0, 0, USD + 1)
    assert decide((reading,), strict=False).status == "ok"
    assert decide((reading,), strict=True) == Decision(
        "hard_gate",
        "total_spend",
        0,
        0,
        0,
        USD,
        False,
        "total_spend",
        "spend",
        estimate=USD + 1,
        left=USD,
        block=USD,
    )
    spent = decide((dollar(USD, 0, USD),), strict=True)
    assert (spent.status, spent.estimate, spent.left) == ("hard_gate", USD, 0)


def test_decide__strict__ranks_limits_with_the_call_s_own_need() -> None:
    """The limit that the call exceeds by the larger share decides, and states spent and held."""
    nearly = dollar(500_000_000, 0, 600_000_000)
    far = dollar(400_000_000, 0, 4 * USD)._replace(reason="session_spend")
    decision = decide((nearly, far), strict=True)
    assert (decision.reason, decision.usage_ppm) == ("session_spend", 400_000)


CALLS_SOFT = Reading("calls:day", Thresholds(10, 10, 8), 9, 0, 1, metric="calls")
CALLS_HARD = Reading("calls:day", Thresholds(10, 10, 8), 10, 0, 1, metric="calls")


@pytest.mark.parametrize(
    ("readings", "status", "limit"),
    [
        # The more severe status counts, whatever the share.
        ((dollar(100_000_000), CALLS_SOFT), "soft_gate", "calls:day"),
        ((CALLS_SOFT, dollar(100_000_000)), "soft_gate", "calls:day"),
        (
            (dollar(1_100_000_000, hard_ppm=1_200_000), CALLS_HARD),
            "hard_gate",
            "calls:day",
        ),
        # Among equals the highest share of the cap.
        ((dollar(850_000_000), CALLS_SOFT), "soft_gate", "calls:day"),
        ((CALLS_SOFT, dollar(950_000_000)), "soft_gate", "total_spend"),
        ((dollar(1_100_000_000), CALLS_HARD), "hard_gate", "total_spend"),
        # A used-up cap before one that is only held, though that stands higher.
        ((dollar(500_000_000, 900_000_000, 1), CALLS_HARD), "hard_gate", "calls:day"),
        ((CALLS_HARD, dollar(500_000_000, 900_000_000, 1)), "hard_gate", "calls:day"),
        # The first of two alike.
        ((CALLS_HARD, CALLS_HARD._replace(reason="other")), "hard_gate", "calls:day"),
    ],
)
def test_decide__several_limits__the_most_restrictive_decides(
    readings: tuple[Reading, ...], status: str, limit: str
) -> None:
    """Hard over soft over ok, used up over held, then the highest share, in any order."""
    decision = decide(readings, strict=False)
    assert (decision.status, decision.limit) == (status, limit)


def test_decide__the_deciding_limit__gives_figures_and_unit() -> None:
    """The figures are those of the account that decided, in its unit."""
    assert decide((dollar(0), CALLS_HARD), strict=False) == Decision(
        "hard_gate",
        "calls:day",
        1_000_000,
        10,
        0,
        10,
        False,
        "calls:day",
        "calls",
        estimate=1,
        block=10,
    )


def test_warning__past_the_warn_line__is_a_soft_gate() -> None:
    """An account past its warn line warns with its own figures."""
    assert warning(dollar(800_000_000, 100_000_000)) == Decision(
        "soft_gate",
        "total_spend",
        900_000,
        800_000_000,
        100_000_000,
        USD,
        False,
        "total_spend",
        "spend",
        block=USD,
    )


def test_room__a_reading__is_what_is_left_below_the_block_line() -> None:
    """Spend and holds take from it; past the line nothing is left."""
    assert room(dollar(300_000_000, 100_000_000)) == 600_000_000
    assert room(dollar(300_000_000, hard_ppm=500_000)) == 200_000_000
    assert room(dollar(USD + 5)) == room(dollar(USD)) == 0
