"""The language of the source and the documentation: no private phrases, only standard English.

Each pattern is a phrase that an engineer who does not know the project would not understand or
search for, with the wording to use instead.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGES = (
    *sorted((ROOT / "src" / "paygent").rglob("*.py")),
    *sorted((ROOT / "src" / "paygent").rglob("*.md")),
    *sorted((ROOT / "docs").rglob("*.md")),
    *sorted((ROOT / "examples").glob("*.*")),
    ROOT / "README.md",
    ROOT / "CHANGELOG.md",
)
RARE_WORDS = re.compile(r"\b(whose|nobody|told|anew)\b", re.I)
RARE_WORDS_LINES_MAX = 10

DIALECT = {
    r"\btells? whether\b": "Return whether",
    r"\blook(s|ed|ing)? whether\b": "check whether",
    r"\b(is|are|was|were|be|and|only) said\b": "logged, reported",
    r"\b(said|says?) (it )?(once|loudly)\b": "logged once",
    r"\bsay(s|ing)? whose\b": "identify the user",
    r"\bwhose (call|calls|it|they) (is|are)\b": "the user of the call, the identity in effect",
    r"\b(is|are|was|were|be|been) told\b": "receives, is notified",
    r"\b(told|tells?|telling) (them |it |the two )?apart\b": "distinguish",
    r"\banew\b": "again",
    r"\bof (ours|yours|theirs)\b": "Paygent's, your own",
    r'"""Have (the|a|an|it|what|who|threads)\b': "a verb, such as Propagate or Schedule",
    r"\bnobody('s| has| is| does| asks| waits| may| can)\b": "no user, none, unknown",
    r"\bstands? (around|beside|below|above|there|back)\b": "is, encloses, is inactive",
    r"\blook(s|ed|ing)? after\b": "maintain, refresh, verify",
    r"\bwhat (the )?(ledger|plan|policy|gate|provider) (says|tells)\b": "the ledger's figures",
    r"\b(by|on|to|tells?) who (asks|waits|listens|calls|makes|reads)\b": "the caller, the waiter",
    r"\bmend (it|them|what)\b": "restore, repair",
    r"\btake(s|n)? (it |them |the user |the work )?along\b": "propagate",
    r"\b(came|comes?) about\b": "is computed, happens",
    r"\bcounts? on (who|whoever|somebody|the one)\b": "is attributed to",
    r"\bgives? (its|the) user back\b": "resets the user",
    r"\bmakes? another amount\b": "differs",
    r"\bhere and now\b": "in the current context",
    r"\b(is|are) none of ours\b": "is not Paygent's",
}
"""Each phrase, and what to write instead."""


def lines() -> Iterator[tuple[str, str]]:
    """Yield each line with its place."""
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for number, line in enumerate(text.splitlines(), 1):
            yield f"{page.relative_to(ROOT)}:{number}: {line.strip()}", line


def test_english__the_pages__are_found() -> None:
    """The tests below have something to check."""
    assert len(PAGES) > 80


@pytest.mark.parametrize("phrase", DIALECT)
def test_english__a_private_phrase__occurs_nowhere(phrase: str) -> None:
    """Source, documentation and examples use standard wording."""
    pattern = re.compile(phrase, re.I)
    offenders = [place for place, line in lines() if pattern.search(line)]
    assert not offenders, "\n".join([f"write instead: {DIALECT[phrase]}", *offenders])


def test_english__words_of_the_old_dialect__are_rare() -> None:
    """Each of these words has idiomatic uses, but few."""
    offenders = [place for place, line in lines() if RARE_WORDS.search(line)]
    assert len(offenders) <= RARE_WORDS_LINES_MAX, "\n".join(offenders)
