"""Decisions of the gate as sentences, for exceptions, callbacks and logs.

A sentence says who has used how much of which limit, what calls in flight hold, what this call may
use, and when the limit resets. All amounts in it have the same number of decimals.
"""

from __future__ import annotations

from paygent.core.gate import Decision
from paygent.core.money import format_usd
from paygent.core.period import to_datetime

_LIMIT_WORDS = {"total_spend": "in this billing period", "session_spend": "in this session"}
_DECIMALS = (2, 4, 6, 9)  # of dollars; the first that shows the amounts well enough
_ONE_IN = 100  # an amount may be shown off by a hundredth of the largest
_SMALLEST_NANO = 100_000  # smaller amounts of a call are of no interest


def sentence(decision: Decision, user_id: str) -> str | None:
    """Return the sentence for a decision about a user; None if it is ok."""
    limit = decision.limit
    if decision.status == "ok" or limit is None:
        return None
    if limit.startswith("model_limit:"):
        where = f"on {limit.partition(':')[2]}"
    else:
        where = _LIMIT_WORDS.get(limit, f"({limit})")
    # The cap is not used up, so the usual sentence would be wrong.
    text = _too_large(decision) if decision.left else _used(decision)
    return "; ".join((f"{user_id}{text} {where}", *_details(decision)))


def _used(decision: Decision) -> str:
    spent, cap = _alike(decision, (decision.spent, 0), (decision.cap, 0))
    return f" has used {spent} of {cap}{_unit(decision)}"


def _too_large(decision: Decision) -> str:
    """Return the words for a strict call of which the worst case does not fit."""
    most, left, line = _alike(
        decision, (decision.estimate, 1), (decision.left, 0), (decision.block, 0)
    )
    may = f"cost up to {most}" if decision.metric == "spend" else f"use up to {most} tokens"
    return f": this call may {may}, with {left} of {line} left"


def _details(decision: Decision) -> list[str]:
    """Return what else is worth knowing: the line, holds, the call's own estimate, the reset."""
    details = []
    is_refused = decision.status == "hard_gate"
    if is_refused and decision.block != decision.cap and not decision.left:
        (line,) = _alike(decision, (decision.block, 0))
        details.append(f"calls are refused at {line}")
    if decision.held:
        retry = ": try again when they have settled" if decision.retryable else ""
        details.append(f"calls in flight hold {_alone(decision, decision.held)}{retry}")
    if decision.estimate and is_refused and not decision.left:
        may = "cost" if decision.metric == "spend" else "use"
        details.append(f"this call may {may} {_alone(decision, decision.estimate)}")
    if decision.resets_us:
        details.append(f"resets {to_datetime(decision.resets_us):%Y-%m-%d %H:%M} UTC")
    return details


def _unit(decision: Decision) -> str:
    return "" if decision.metric == "spend" else f" {decision.metric}"


def _alone(decision: Decision, amount: int) -> str:
    """Format one amount with its unit."""
    if decision.metric != "spend":
        unit = decision.metric if amount != 1 else decision.metric.removesuffix("s")
        return f"{amount:,} {unit}"
    if amount < _SMALLEST_NANO:
        return f"less than {format_usd(_SMALLEST_NANO, decimals=4)}"
    return _dollars(((amount, 1),), amount // _ONE_IN)[0]


def _alike(decision: Decision, *amounts: tuple[int, int]) -> list[str]:
    """Format amounts of a decision with the same number of decimals; the last one is the largest.
    Each comes with how it is rounded: 0 down, 1 up.
    """
    if decision.metric != "spend":
        return [f"{amount:,}" for amount, _ in amounts]
    return _dollars(amounts, amounts[-1][0] // _ONE_IN)


def _dollars(amounts: tuple[tuple[int, int], ...], tolerance_nano: int) -> list[str]:
    """Format amounts with the fewest decimals that show each one within a tolerance.

    Rounded down, what was used does not look like the whole cap before it is; rounded up, what a
    call may cost does not look like what is left.
    """

    def shown(decimals: int) -> list[int]:
        unit = 10 ** (9 - decimals)
        return [(amount + unit * up - up) // unit * unit for amount, up in amounts]

    decimals = next(  # nine are exact
        decimals
        for decimals in _DECIMALS
        if all(
            abs(one - amount) <= tolerance_nano
            for one, (amount, _) in zip(shown(decimals), amounts, strict=True)
        )
    )
    return [format_usd(amount, decimals=decimals) for amount in shown(decimals)]
