"""The result of a check."""

from __future__ import annotations

from enum import Enum
from typing import NamedTuple


class Level(str, Enum):
    """How serious a finding is."""

    OK = "ok"
    WARNING = "warning"
    PROBLEM = "problem"


class Finding(NamedTuple):
    """One line of `paygent doctor`.

    Attributes:
        level: A problem keeps calls from being metered, limited or recorded; a warning may.
        subject: What was checked, in a word.
        text: The observation.
        remedy: What to do, for a warning or problem.
    """

    level: Level
    subject: str
    text: str
    remedy: str = ""


def ok(subject: str, text: str) -> Finding:
    """Return the finding that all is well."""
    return Finding(Level.OK, subject, text)


def warning(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that may be meant."""
    return Finding(Level.WARNING, subject, text, remedy)


def problem(subject: str, text: str, remedy: str) -> Finding:
    """Return a finding that cannot be meant."""
    return Finding(Level.PROBLEM, subject, text, remedy)
