"""Decisions of the gate as sentences, for exceptions, callbacks and logs.

A sentence says who has used how much of which limit, what calls in flight hold, what this call may
use, and when the limit resets. All amounts in it have the same number of decimals.
"""

from __future__ import annotations

from paygent.core.gate import Decision
from paygent.core.money import divide_half_even, format_usd
from paygent.core.period import to_datetime

_LIMIT_WORDS = {"total_spend": "in this billing period", "session_spend": "in this session"}
_DECIMALS = (2, 4, 6, 9)  # of dollars; the first that shows the amounts well enough
_ONE_IN = 200  # an amount may be shown off by half a percent of the cap


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
    spent, cap = _alike(decision, decision.spent, decision.cap)
    return f" has used {spent} of {cap}{_unit(decision)}"


def _too_large(decision: Decision) -> str:
    """Return the words for a strict call of which the worst case does not fit."""
    most, left, cap = _alike(decision, decision.estimate, decision.left, decision.cap)
    may, are = ("cost", "is") if decision.metric == "spend" else ("use", "are")
    return f": this call may {may} up to {most}; {left} of {cap}{_unit(decision)} {are} left"


def _details(decision: Decision) -> list[str]:
    """Return what else is worth knowing: holds, the call's own estimate, the reset."""
    details = []
    if decision.held:
        retry = ": try again when they have settled" if decision.retryable else ""
        details.append(f"calls in flight hold {_alone(decision, decision.held)}{retry}")
    if decision.estimate and decision.status == "hard_gate" and not decision.left:
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
    return _dollars((amount,), amount // _ONE_IN)[0]


def _alike(decision: Decision, *amounts: int) -> list[str]:
    """Format amounts of a decision with the same number of decimals; the last one is its cap."""
    if decision.metric != "spend":
        return [f"{amount:,}" for amount in amounts]
    return _dollars(amounts, amounts[-1] // _ONE_IN)


def _dollars(amounts: tuple[int, ...], tolerance_nano: int) -> list[str]:
    """Format amounts with the fewest decimals that show each one within a tolerance."""
    for decimals in _DECIMALS:
        unit = 10 ** (9 - decimals)
        shown = [divide_half_even(amount, unit) * unit for amount in amounts]
        pairs = zip(shown, amounts, strict=True)
        is_close = all(abs(one - amount) <= tolerance_nano for one, amount in pairs)
        # Different amounts must not look the same: "may cost $0.01; $0.01 is left".
        if is_close and len(set(shown)) == len(set(amounts)):
            break
    return [format_usd(amount, decimals=decimals) for amount in amounts]
