"""Decisions as sentences: who used how much of what, what is held, what a call may use."""

from __future__ import annotations

import pytest

from paygent.core.decision_text import sentence
from paygent.core.gate import Decision

RESETS_US = 1_735_689_600_000_000
REFUSED = Decision(
    "hard_gate", "total_spend", 1_000_000, 10**9, 0, 10**9, limit="total_spend", block=10**9
)


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({}, "ann has used $1.00 of $1.00 in this billing period"),
        (
            {"limit": "session_spend", "resets_us": RESETS_US},
            "ann has used $1.00 of $1.00 in this session; resets 2025-01-01 00:00 UTC",
        ),
        (
            {"block": 900_000_000, "spent": 900_000_000},
            "ann has used $0.90 of $1.00 in this billing period; calls are refused at $0.90",
        ),
        (
            {"retryable": True, "spent": 0, "held": 999_600_000, "estimate": 20_000_000},
            "ann has used $0.00 of $1.00 in this billing period; calls in flight hold $1.00: try"
            " again when they have settled; this call may cost $0.02",
        ),
        (
            {"estimate": 9},
            "ann has used $1.00 of $1.00 in this billing period; this call may cost less than"
            " $0.0001",
        ),
        (
            {"spent": 0, "left": 10**9, "estimate": 1_280_000_001},
            "ann: this call may cost up to $1.29, with $1.00 of $1.00 left in this billing period",
        ),
        (
            {"limit": "model_limit:o3", "metric": "tokens", "spent": 1_200, "cap": 1_200,
             "block": 1_200, "estimate": 50},
            "ann has used 1,200 of 1,200 tokens on o3; this call may use 50 tokens",
        ),
        (
            {"limit": "tokens:day", "metric": "tokens", "spent": 0, "cap": 1_200,
             "block": 1_200, "left": 1_200, "estimate": 5_000},
            "ann: this call may use up to 5,000 tokens, with 1,200 of 1,200 left (tokens:day)",
        ),
        (
            {"limit": "calls:day", "metric": "calls", "spent": 0, "cap": 1, "block": 1, "held": 1,
             "estimate": 1},
            "ann has used 0 of 1 calls (calls:day); calls in flight hold 1 call; this call may use"
            " 1 call",
        ),
    ],
)  # fmt: skip
def test_sentence__a_refusal__says_what_is_used_held_and_needed(
    changes: dict[str, object], text: str
) -> None:
    """All amounts that are compared have the same number of decimals."""
    assert sentence(REFUSED._replace(**changes), "ann") == text  # type: ignore[arg-type]


def test_sentence__a_decision_that_says_nothing__is_none() -> None:
    """A call that may go needs no words, and neither does a plan without limits."""
    assert sentence(REFUSED._replace(status="ok"), "ann") is None
    assert sentence(Decision("soft_gate", None, 0, 0, 0, 0), "ann") is None


def test_sentence__a_warning__names_no_estimate() -> None:
    """The call went; what it may use is in nobody's way."""
    warned = REFUSED._replace(status="soft_gate", spent=812_000_000, estimate=10**8)
    assert sentence(warned, "ann") == "ann has used $0.81 of $1.00 in this billing period"
