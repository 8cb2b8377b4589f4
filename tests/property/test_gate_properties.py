"""The gate, for any figures: thresholds, monotone refusals, and strict plans that never pass."""

from __future__ import annotations

from fractions import Fraction

from hypothesis import given, settings
from hypothesis import strategies as st

from paygent.core.gate import Reading, decide, judge, thresholds_of

CAPS = st.integers(0, 9 * 10**18)
GATES_PPM = st.integers(1, 10 * 10**6)
SMALL = st.integers(0, 30)
MORE = st.integers(0, 10)
ALLOWED = {"fits", "straddles"}
SEVERITY = {"ok": 0, "soft_gate": 1, "hard_gate": 2}


@settings(max_examples=150, deadline=None)
@given(CAPS, GATES_PPM, GATES_PPM)
def test_thresholds_of__any_cap_and_gates__are_floor_and_ceiling(
    cap: int, soft: int, hard: int
) -> None:
    """The block line is the floor of cap times gate and the warn line its ceiling, exactly."""
    thresholds = thresholds_of(cap, soft_gate_ppm=soft, hard_gate_ppm=hard)
    assert thresholds.cap == cap
    assert thresholds.block == (Fraction(cap) * Fraction(hard, 10**6)).__floor__()
    assert thresholds.warn == (Fraction(cap) * Fraction(soft, 10**6)).__ceil__()


@settings(max_examples=150, deadline=None)
@given(CAPS, GATES_PPM, GATES_PPM, st.booleans(), st.integers(-2, 2))
def test_decide__around_the_lines__blocks_and_warns_exactly_there(
    cap: int, one_gate: int, other_gate: int, strict: bool, offset: int
) -> None:
    """With nothing held, spending blocks from the block line on and warns from the warn line on."""
    soft, hard = sorted((one_gate, other_gate))
    thresholds = thresholds_of(cap, soft_gate_ppm=soft, hard_gate_ppm=hard)
    for line in (thresholds.block, thresholds.warn):
        spent = max(line + offset, 0)
        status = decide((Reading("r", thresholds, spent, 0),), strict=strict).status
        expected = (
            "hard_gate"
            if spent >= cap * hard // 10**6
            else "soft_gate"
            if spent * 10**6 >= cap * soft
            else "ok"
        )
        assert status == expected


@settings(max_examples=200, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL, MORE, MORE, MORE, st.booleans())
def test_judge__more_spent_held_or_needed__never_turns_a_refusal_into_an_allowance(
    spent: int,
    held: int,
    need: int,
    block: int,
    more_spent: int,
    more_held: int,
    more_need: int,
    strict: bool,
) -> None:
    """A call that is refused would be refused with more spent, held or needed too."""
    before = judge(spent, held, need, block, strict=strict)
    after = judge(
        spent + more_spent,
        held + more_held,
        need + more_need,
        block,
        strict=strict,
    )
    assert before in ALLOWED or after not in ALLOWED


@settings(max_examples=150, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL, MORE, st.booleans())
def test_judge__a_higher_line__never_turns_an_allowance_into_a_refusal(
    spent: int, held: int, need: int, block: int, more: int, strict: bool
) -> None:
    """Raising a cap never refuses a call that was allowed."""
    before = judge(spent, held, need, block, strict=strict)
    after = judge(spent, held, need, block + more, strict=strict)
    assert before not in ALLOWED or after in ALLOWED


@settings(max_examples=200, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL)
def test_judge__strict__never_lets_held_and_spent_pass_the_line(
    spent: int, held: int, need: int, block: int
) -> None:
    """A strict plan allows a call only where all that is spent and held stays within the line."""
    verdict = judge(spent, held, need, block, strict=True)
    assert verdict != "straddles"
    assert verdict != "fits" or (spent + held + need <= block and spent < block)


@settings(max_examples=200, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL, st.booleans())
def test_judge__any_refusal__says_truly_what_stands_in_the_way(
    spent: int, held: int, need: int, block: int, strict: bool
) -> None:
    """Contention would be an allowance without the others in flight; exhaustion would not."""
    verdict = judge(spent, held, need, block, strict=strict)
    alone = judge(spent, 0, need, block, strict=strict)
    if verdict == "contention":
        assert alone in ALLOWED
    if verdict == "exhausted":
        assert alone == "exhausted"


@settings(max_examples=150, deadline=None)
@given(SMALL, SMALL, SMALL, SMALL)
def test_judge__default__nobody_alone_is_refused_below_the_line(
    spent: int, need: int, block: int, held: int
) -> None:
    """Without other calls in flight a default plan refuses exactly where the line is reached."""
    alone = judge(spent, 0, need, block, strict=False)
    assert (alone in ALLOWED) is (spent < block)
    assert (judge(spent, held, need, block, strict=False) == "exhausted") is (spent >= block)


READINGS = st.builds(
    Reading,
    st.sampled_from(["total_spend", "session_spend", "calls:day"]),
    st.builds(
        lambda cap: thresholds_of(cap, soft_gate_ppm=800_000, hard_gate_ppm=1_000_000), SMALL
    ),
    SMALL,
    SMALL,
    SMALL,
)


@settings(max_examples=150, deadline=None)
@given(st.lists(READINGS, max_size=4), READINGS, st.booleans())
def test_decide__one_more_limit__never_relaxes_the_decision(
    readings: list[Reading], another: Reading, strict: bool
) -> None:
    """Another limit can only make a decision more severe."""
    before = decide(tuple(readings), strict=strict)
    after = decide((*readings, another), strict=strict)
    assert SEVERITY[after.status] >= SEVERITY[before.status]


@settings(max_examples=150, deadline=None)
@given(st.lists(READINGS, min_size=1, max_size=5), st.booleans())
def test_decide__any_order_of_limits__is_the_same_decision(
    readings: list[Reading], strict: bool
) -> None:
    """The order in which limits stand decides neither the status nor the share."""
    forward = decide(tuple(readings), strict=strict)
    backward = decide(tuple(reversed(readings)), strict=strict)
    assert (forward.status, forward.usage_ppm, forward.retryable) == (
        backward.status,
        backward.usage_ppm,
        backward.retryable,
    )
