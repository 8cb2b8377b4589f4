"""Which model a name means: rules that are exact, whatever surrounds the name."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest

from paygent.prices.model_names import (
    candidates,
    canonical,
    is_named_by,
    nearest,
    plain,
    provider_prefix,
)


@dataclass
class Rule:
    """A matching clause as the catalogue has them."""

    equals: Any = None
    regex: Any = None
    starts_with: Any = None
    ends_with: Any = None
    contains: Any = None
    or_: list[Rule] = field(default_factory=list)
    and_: list[Rule] = field(default_factory=list)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-4o", "gpt-4o"),
        ("GPT-4o", "gpt-4o"),
        ("  gpt-4o ", "gpt-4o"),
        ("gpt-4o-2024-08-06", "gpt-4o"),
        ("claude-sonnet-4-5-20250929", "claude-sonnet-4-5"),
        ("claude-sonnet-4-5@20250929", "claude-sonnet-4-5"),
        ("claude-3-5-sonnet-latest", "claude-3-5-sonnet"),
        ("openai/gpt-4o", "gpt-4o"),
        ("openrouter/anthropic/claude-sonnet-4-5", "claude-sonnet-4-5"),
        ("us.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("global.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("us-gov.anthropic.claude-sonnet-4-5-20250929-v1:0", "claude-sonnet-4-5"),
        ("anthropic.claude-opus-4-20250514-v1:0", "claude-opus-4"),
        ("amazon.nova-pro-v1:0", "nova-pro"),
        ("ft:gpt-4o-2024-08-06:acme::x", "gpt-4o"),
        ("ft:gpt-4o-mini-2024-07-18:acme::x", "gpt-4o-mini"),
    ],
)
def test_canonical__a_decorated_name__is_its_model(name: str, expected: str) -> None:
    """Provider, region, date, version, case and fine-tune are left out."""
    assert canonical(name) == expected


@pytest.mark.parametrize(
    "name", ["gpt-4o-mini", "gpt-4.1", "claude-opus-4-1", "claude-opus-4-15", "o3-pro", "gemini-2"]
)
def test_canonical__a_model_that_begins_like_another__stays_itself(name: str) -> None:
    """Nothing but dates and versions is cut from the end of a name."""
    assert canonical(name) == name


@pytest.mark.parametrize("name", ["", "ft:", "ft::", "/", "gpt-4o/", "::::", "\x00", "-latest"])
def test_canonical__an_odd_name__is_left_as_it_is(name: str) -> None:
    """A name that the rules would cut down to nothing is kept."""
    assert canonical(name) == plain(name)


def test_plain__a_name_without_end__is_cut() -> None:
    """Names have a bound, so that tables of them have one too."""
    assert plain("X" * 10_000) == "x" * 200


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt-4o", ("gpt-4o",)),
        ("gpt-4o-2024-08-06", ("gpt-4o-2024-08-06", "gpt-4o")),
        ("OpenAI/GPT-4o", ("openai/gpt-4o", "gpt-4o")),
        ("anthropic/claude-x-20250101", (
            "anthropic/claude-x-20250101", "claude-x-20250101", "claude-x",
        )),
        ("ft:gpt-4o-2024-08-06", ("ft:gpt-4o-2024-08-06",)),
        ("openai/", ("openai/",)),
        ("", ()),
    ],
)  # fmt: skip
def test_candidates__of_a_name__go_from_exact_to_undated(
    name: str, expected: tuple[str, ...]
) -> None:
    """The name as written comes first; a fine-tune is never looked up as its base."""
    assert candidates(name) == expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [("gpt-4o", None), ("Anthropic/claude", "anthropic"), ("a/b/c", "a"), ("/x", "")],
)
def test_provider_prefix__of_a_name__is_what_stands_before_the_first_slash(
    name: str, expected: str | None
) -> None:
    """Only a slash names a provider."""
    assert provider_prefix(name) == expected


@pytest.mark.parametrize(
    ("rule", "name", "expected"),
    [
        (Rule(equals="GPT-4o"), "gpt-4o", True),
        (Rule(equals="gpt-4o"), "gpt-4o-mini", False),
        (Rule(regex=r"^o\d$"), "o3", True),
        (Rule(regex=r"^o\d$"), "o3-mini", False),
        (Rule(starts_with="gpt-4o"), "gpt-4o", True),
        (Rule(starts_with="gpt-4o"), "gpt-4o-2024-08-06", True),
        (Rule(starts_with="gpt-4"), "gpt-4-0613", True),
        (Rule(starts_with="claude-x"), "claude-x@20250101", True),
        (Rule(starts_with="claude-x"), "claude-x-20250101-v1:0", True),
        (Rule(starts_with="gemini-2.5-pro"), "gemini-2.5-pro-preview-0506", True),
        (Rule(starts_with="gemini-2.0-flash"), "gemini-2.0-flash-001", True),
        (Rule(starts_with="gpt-4o"), "gpt-4o-mini", False),
        (Rule(starts_with="gpt-4o"), "gpt-4o-mini-2024-07-18", False),
        (Rule(starts_with="claude-opus-4-1"), "claude-opus-4-15", False),
        (Rule(starts_with="claude-sonnet-4-5"), "claude-sonnet-4-5-turbo", False),
        (Rule(starts_with="ft:gpt-4o-2024"), "ft:gpt-4o-2024-08-06:acme::x", True),
        (Rule(contains="claude-x"), "claude-x-20250101", True),
        (Rule(contains="claude-x"), "apac.claude-x-20250101", True),
        (Rule(contains="claude-x"), "not-claude-x", False),
        (Rule(contains="claude-x"), "claude-x-turbo", False),
        (Rule(ends_with="nova"), "nova", True),
        (Rule(ends_with="nova"), "supernova", False),
        (Rule(or_=[Rule(equals="a"), Rule(equals="b")]), "b", True),
        (Rule(or_=[Rule(equals="a")]), "c", False),
        (Rule(and_=[Rule(starts_with="a"), Rule(regex="2025")]), "a-20250101", True),
        (Rule(and_=[Rule(starts_with="a"), Rule(regex="2024")]), "a-20250101", False),
        (Rule(), "gpt-4o", False),
        (object(), "gpt-4o", False),
    ],
)  # fmt: skip
def test_is_named_by__each_kind_of_rule__names_only_its_model(
    rule: Any, name: str, expected: bool
) -> None:
    """A prefix counts only where nothing but a date or a version follows it."""
    assert is_named_by(rule, name) is expected


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("gpt4o-mini", ("gpt-4o-mini",)),
        ("GPT 4o", ("gpt-4o",)),
        ("gpt-4o-mni", ("gpt-4o-mini",)),
        ("openai/claude-sonet-5", ("claude-sonnet-5", "claude-sonnet-8", "claude-sonnet-7")),
        ("house", ()),
        ("", ()),
    ],
)
def test_nearest__a_misspelt_name__is_what_was_probably_meant(
    name: str, expected: tuple[str, ...]
) -> None:
    """Names that differ in punctuation only win; others must be very similar."""
    listed = ["gpt-4o", "gpt-4o-mini", "gpt-4o-2024-08-06", "o3", "mouse"]
    listed += [f"claude-sonnet-{number}" for number in (8, 7, 6, 5)]
    assert nearest(name, listed) == expected
