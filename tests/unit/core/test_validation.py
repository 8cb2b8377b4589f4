"""Errors about values: each names field, value and rule, and all come at once."""

from __future__ import annotations

import pickle

import pytest

from paygent.core.validation import FieldError, InvalidValue, ValidationErrors


def test_finding__as_text__names_field_value_and_rule() -> None:
    """A finding reads as one sentence with all that is needed to mend it."""
    finding = FieldError("soft_gate_at", 1.5, "must not be above hard_gate_at (1.0)")
    assert str(finding) == "soft_gate_at = 1.5: must not be above hard_gate_at (1.0)"


@pytest.mark.parametrize(
    ("value", "shown"),
    [("x" * 78, "'" + "x" * 78 + "'"), ("x" * 79, "'" + "x" * 78 + "…")],
)
def test_finding__a_long_value__is_cut_at_80_characters(value: str, shown: str) -> None:
    """A value of 80 characters is shown whole, a longer one is cut there and marked."""
    assert str(FieldError("f", value, "rule")) == f"f = {shown}: rule"


@pytest.mark.parametrize("kind", ["hostile", "long"])
def test_finding__a_value_that_cannot_be_shown__is_named_by_its_type(kind: str) -> None:
    """The error about a value must not fail for it; Python shows no number of 5,000 digits."""

    class Hostile:
        def __repr__(self) -> str:
            raise RuntimeError("no")

    value, shown = (Hostile(), "<Hostile>") if kind == "hostile" else (10**5_000, "<int>")
    assert str(FieldError("f", value, "rule")) == f"f = {shown}: rule"


def test_findings__nothing_found__raises_nothing() -> None:
    """A value without a finding passes."""
    findings = ValidationErrors("PlanConfig")
    findings.raise_if_any()
    assert findings.found == []


def test_findings__several_found__come_at_once_in_order() -> None:
    """Every broken rule is in the one error, in the order of the fields."""
    findings = ValidationErrors("PlanConfig")
    findings.add("a", 1, "must be b")
    findings.add("c", None, "must be d")
    with pytest.raises(InvalidValue) as refusal:
        findings.raise_if_any()
    assert refusal.value.what == "PlanConfig"
    assert refusal.value.findings == (
        FieldError("a", 1, "must be b"),
        FieldError("c", None, "must be d"),
    )
    assert str(refusal.value) == "PlanConfig: a = 1: must be b; c = None: must be d"


def test_invalid_value__any__is_a_value_error() -> None:
    """Code that catches ValueError catches ours."""
    assert issubclass(InvalidValue, ValueError)


def test_invalid_value__pickled__is_the_same_error() -> None:
    """The error crosses a process boundary with its findings."""
    error = InvalidValue("Limit", (FieldError("cap", -1, "must not be negative"),))
    copy = pickle.loads(pickle.dumps(error))
    assert type(copy) is InvalidValue
    assert (copy.what, copy.findings, str(copy)) == (error.what, error.findings, str(error))
