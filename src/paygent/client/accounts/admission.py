"""What stands in a call's way: the gate over the accounts that a call touches.

`core.gate` decides about figures; here they are read off the accounts, and what a figure cannot
say is added: that a free model has no limit in dollars, that calls of which nothing is known go two
at a time, and that nobody waits for themselves. Called under the user's lock; changes
nothing.
"""

from __future__ import annotations

from paygent.client.accounts.forecasts import Hold, Use
from paygent.client.accounts.user_state import Account
from paygent.core.gate import Decision, Reading, contention, decide, judge

_COLD_MAX = 2  # calls in flight of a model of which nothing is known, where they do not all fit


def in_the_way(
    accounts: tuple[Account, ...], hold: Hold, past_warn: list[Account], *, strict: bool
) -> tuple[Decision, Account] | None:
    """Return what refuses a call, and the account where it would wait; None where it may go.

    Args:
        accounts: That the call touches.
        hold: What it may use.
        past_warn: Takes up the accounts that are past their warn line and not used up: one that
            refuses says so itself.
        strict: Whether spend may never pass a line.
    """
    use = hold.use
    cold = use.forecast is not None and not use.forecast.own.stats[0]
    found: Account | None = None
    for account in accounts:
        lines = account.lines
        if lines is None or _is_exempt(account, use):
            continue
        spent = account.acknowledged + account.pending
        if lines.warn <= spent < lines.block:
            past_warn.append(account)
        held, then_held = account.projected(use)
        if then_held > held and spent + then_held <= lines.block:
            continue  # fits, as `judge` would say; most calls are far from their lines
        verdict = judge(spent, held, then_held - held, lines.block, strict=strict)
        if verdict == "fits" or (
            verdict == "straddles" and not (cold and _has_many(account, hold.model_key))
        ):
            continue
        if found is None or verdict == "exhausted":
            found = account
    if found is None:
        return None
    readings = [
        read_account(each, use)
        for each in accounts
        if each.lines is not None and not _is_exempt(each, use)
    ]
    decision = decide(tuple(readings), strict=strict)
    if decision.status != "hard_gate":  # it might straddle, were it not cold
        decision = contention(read_account(found, use), strict=strict)
    return decision, found


def _is_exempt(account: Account, use: Use) -> bool:
    """Tell whether a limit is not a call's: it counts dollars, and the call's model costs none.

    A cap of 0 dollars is meant to block.
    """
    lines = account.lines
    return use.is_free and account.metric == "spend" and lines is not None and lines.cap > 0


def _has_many(account: Account, model_key: str) -> bool:
    """Tell whether so many calls of a model are in flight that one of unknown size should wait."""
    count = 0
    for other in account.calls:
        count += other.model_key == model_key
        if count >= _COLD_MAX:
            return True
    return False


def others_hold(account: Account, hold: Hold) -> bool:
    """Tell whether anyone else holds on an account: who waits for their own call waits for ever."""
    return any(other.owner != hold.owner for other in account.calls)


def read_account(account: Account, use: Use | None = None) -> Reading:
    """Read an account with a cap; the call that straddles its line holds all that is left."""
    assert account.lines is not None  # the caller looked
    spent, held = account.spent, account.held
    need = account.projected(use)[1] - held if use is not None else 0
    left = max(account.lines.block - spent, 0)
    return Reading(account.reason, account.lines, spent, min(held, left), need, account.metric)
