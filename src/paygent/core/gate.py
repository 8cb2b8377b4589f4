"""The gate: may a call be sent, given the amounts spent and held? Pure, in integers.

A limit is read as an account: the amount spent in its window, the amount held by calls in flight,
and two thresholds, cap × gate. The block line decides; the warn line is compared with the
amount *spent* alone, because holds come and go. A call for which there is some room, but not
enough, may go as the one that straddles the line; then no room is left for another until it has
settled. If only holds of calls in flight are in the way, that is contention, not exhaustion, and a
refusal names which it was.
"""

from __future__ import annotations

from typing import Literal, NamedTuple

_PPM = 10**6
FULL_PPM = _PPM

CONTENTION = "contention"
"""The `gate_reason` of a call that only other calls in flight stop."""

Verdict = Literal["fits", "straddles", "contention", "exhausted"]
"""The result for one account: the need fits; it does not fit, but the call may go as the one that
crosses the line; holds are in the way; the cap is used up, or a strict call can never fit."""


class Thresholds(NamedTuple):
    """The amounts at which a cap blocks and warns, in the unit of its metric."""

    cap: int
    block: int
    warn: int


class Reading(NamedTuple):
    """The state of one account, in the unit of its metric (nano-dollars, tokens, calls).

    Attributes:
        reason: The `gate_reason` of this limit.
        thresholds: Its cap and thresholds.
        spent: Settled in the window.
        held: Held by calls in flight, without the call that is being decided.
        need: The amount that this call would add to `held`; 0 without a call.
        metric: Unit of the figures: "spend" (nano-dollars), "tokens" or "calls".
        resets_us: When its window ends, in microseconds since 1970 UTC; 0 where no moment resets it
            (sessions, rolling windows).
    """

    reason: str
    thresholds: Thresholds
    spent: int
    held: int
    need: int = 0
    metric: str = "spend"
    resets_us: int = 0


class Decision(NamedTuple):
    """The gate's decision about a call.

    Attributes:
        status: "ok", "soft_gate" (past the warn line) or "hard_gate" (refused).
        reason: The `gate_reason`, or None when ok.
        usage_ppm: (spent + held) ÷ cap in parts per million.
        spent, held, cap: Of the deciding account, in the unit of its metric.
        retryable: Whether the refusal is contention: calls in flight may leave room when they
            settle.
        limit: The reason of the deciding limit itself, also where `reason` is contention.
        metric: Unit of the figures.
        estimate: The amount that this call may use; 0 without a call.
        left: The amount left below the block line if a strict call is refused because its estimate,
            the most that it can use, is more than that; 0 otherwise.
        resets_us: As in `Reading`.
        block: The block line of the deciding account.
    """

    status: Literal["ok", "soft_gate", "hard_gate"]
    reason: str | None
    usage_ppm: int
    spent: int
    held: int
    cap: int
    retryable: bool = False
    limit: str | None = None
    metric: str = "spend"
    estimate: int = 0
    left: int = 0
    resets_us: int = 0
    block: int = 0


def thresholds_of(cap: int, *, soft_gate_ppm: int, hard_gate_ppm: int) -> Thresholds:
    """Return the thresholds of a cap, in integers: the block line is rounded down, so that spend
    never passes the gate, and the warn line up, so that no warning comes before it.
    """
    return Thresholds(cap, cap * hard_gate_ppm // _PPM, -(-cap * soft_gate_ppm // _PPM))


def judge(spent: int, held: int, need: int, block: int, *, strict: bool) -> Verdict:
    """Return whether a need (at least 0) fits below one block line.

    `held` is above the line while another call straddles it; in a strict plan no call does.
    """
    # Spend alone decides first: no hold that ends can make room again.
    if spent >= block:
        return "exhausted"
    # A need of 0 must not fit exactly at the line: then no call at all has room.
    if spent + held + need <= block and (need or spent + held < block):
        return "fits"
    # A strict call waits only if it would fit once every hold has ended.
    if strict:
        return "contention" if spent + need <= block else "exhausted"
    return "straddles" if spent + held < block else "contention"


def room(reading: Reading) -> int:
    """Return the amount that further calls can use before the limit blocks."""
    return max(reading.thresholds.block - reading.spent - reading.held, 0)


def usage_ppm(reading: Reading, *, with_need: bool = False) -> int:
    """Return the used fraction of a cap, in parts per million; a cap of 0 is fully used.

    `with_need` adds what the call itself may use.
    """
    cap = reading.thresholds.cap
    if cap == 0:
        return _PPM
    return (reading.spent + reading.held + (reading.need if with_need else 0)) * _PPM // cap


_SEVERITY = {"ok": 0, "soft_gate": 1, "hard_gate": 2}
_Rank = tuple[int, bool, int, int]
_UNRANKED = (0, True, 0, 0), Decision("ok", None, 0, 0, 0, 0)  # no limit


def _rank_of(ranked: tuple[_Rank, Decision]) -> _Rank:
    return ranked[0]


def decide(readings: tuple[Reading, ...], *, strict: bool) -> Decision:
    """Return the decision on the accounts that limit a call, with the figures of the deciding one:
    hard over soft over ok, then the highest used fraction, in a strict plan with the call's own.
    """
    ranked = []
    for reading in readings:
        spent, held, need = reading.spent, reading.held, reading.need
        block = reading.thresholds.block
        decision = _decision(reading, judge(spent, held, need, block, strict=strict))
        # By severity, then exhaustion over contention, then the used fraction.
        used_ppm = usage_ppm(reading, with_need=strict)
        rank = _SEVERITY[decision.status], not decision.retryable, used_ppm, decision.usage_ppm
        ranked.append((rank, decision))
    return max(ranked, key=_rank_of, default=_UNRANKED)[1]


def contention(reading: Reading) -> Decision:
    """Return the decision to make a call wait for other holds on an account."""
    return _decision(reading, "contention")


def warning(reading: Reading) -> Decision:
    """Return the decision for the warning about an account past its warn line."""
    return _decision(reading, "fits")


def _decision(reading: Reading, verdict: Verdict) -> Decision:
    # The warn line ignores holds: a warning that comes and goes with them is noise.
    refused = verdict in ("exhausted", "contention")
    warned = reading.spent >= reading.thresholds.warn
    contended = verdict == "contention"
    # More than is left, on a cap that is not used up: only a strict call gets here.
    left = reading.thresholds.block - reading.spent
    is_too_large = verdict == "exhausted" and left > 0
    return Decision(
        status="hard_gate" if refused else "soft_gate" if warned else "ok",
        reason=CONTENTION if contended else reading.reason if refused or warned else None,
        usage_ppm=usage_ppm(reading),
        spent=reading.spent,
        held=reading.held,
        cap=reading.thresholds.cap,
        retryable=contended,
        limit=reading.reason,
        metric=reading.metric,
        estimate=reading.need,
        left=left if is_too_large else 0,
        resets_us=reading.resets_us,
        block=reading.thresholds.block,
    )
