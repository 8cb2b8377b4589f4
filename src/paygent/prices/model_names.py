"""Normalizes model names by exact rules, never by a bare prefix (`gpt-4o-mini` is not `gpt-4o`).

A name may have a provider or a region in front (`openai/gpt-4o`, `us.anthropic.claude-…`), the date
of a snapshot at its end (`gpt-4o-2024-08-06`), and a fine-tune around it
(`ft:gpt-4o-mini-2024-07-18:acme::x`). The canonical name has none of these; limits and reports
count under it.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache
from typing import Any

from paygent.core.providers import BEDROCK_VENDORS

_SNAPSHOT = re.compile(
    r"(?:[-@](?:\d{8}|\d{4}-\d{2}-\d{2}|latest))(?:-v\d+(?::\d+)?)?$|-v\d+(?::\d+)?$"
)
_REGION = re.compile(r"^(?:[a-z]{2,6}(?:-gov)?|global|regional)\.(?=[a-z0-9-]+\.)")
_VENDOR = re.compile(rf"^(?:{'|'.join(BEDROCK_VENDORS)})\.")
_AFTER_PREFIX = re.compile(
    r"^(?:-preview)?(?:[-@.]?(?:\d{8}|\d{4}-\d{2}-\d{2}|\d{4}|\d{3}|latest))?(?:-v\d+(?::\d+)?)?$"
)
_PUNCTUATION = re.compile(r"[^a-z0-9]+")
_NAME_CHARS_MAX = 200
_NEAREST_MAX = 3
_SIMILARITY_MIN = 0.85  # of `difflib`; lower ones suggest another model rather than a spelling


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """Return a model name trimmed and in lower case."""
    return name.strip().lower()[:_NAME_CHARS_MAX]


@lru_cache(maxsize=4096)
def canonical(name: str) -> str:
    """Return the name under which limits and reports count a model.

    `gpt-4o-2024-08-06`, `openai/gpt-4o`, `GPT-4o` and `ft:gpt-4o-2024-08-06:acme::x` are all
    `gpt-4o`; `us.anthropic.claude-sonnet-4-5-20250929-v1:0` is `claude-sonnet-4-5`.
    """
    short = plain(name)
    # A fine-tune counts under its base, but is priced by its own name.
    if short.startswith("ft:"):
        short = short.split(":")[1] or short
    if "/" in short:
        short = short.rsplit("/", 1)[1] or short
    # The region comes first: `us.anthropic.claude-…`.
    short = _VENDOR.sub("", _REGION.sub("", short))
    return _SNAPSHOT.sub("", short) or short


def candidates(name: str) -> tuple[str, ...]:
    """Return the names to find in a provider's price list, the most exact one first."""
    names = [plain(name)]
    if "/" in names[0]:
        names.append(names[0].rsplit("/", 1)[1])
    base = names[-1]
    if not base.startswith("ft:"):  # a fine-tune has prices of its own, never those of its base
        without_date = re.sub(r"[-@](?:\d{8}|\d{4}-\d{2}-\d{2})$", "", base)
        if without_date != base:
            names.append(without_date)
    return tuple(dict.fromkeys(filter(None, names)))


def provider_prefix(name: str) -> str | None:
    """Return the provider in front of a name (`anthropic/claude-…`), or None."""
    short = plain(name)
    return short.split("/", 1)[0] if "/" in short else None


def nearest(name: str, names: Iterable[str]) -> tuple[str, ...]:
    """Return the names that were probably meant by a misspelt one, at most three: those that differ
    in punctuation only, else the most similar.
    """
    from difflib import get_close_matches  # for messages only, not for each application

    short = canonical(name)
    known = sorted({canonical(each) for each in names} - {short})
    letters = _PUNCTUATION.sub("", short)
    alike = [each for each in known if _PUNCTUATION.sub("", each) == letters]
    if not alike:
        alike = get_close_matches(short, known, n=_NEAREST_MAX, cutoff=_SIMILARITY_MIN)
    return tuple(alike[:_NEAREST_MAX])


def is_named_by(rule: Any, name: str) -> bool:
    """Return whether a clause of genai-prices (`equals`, `regex`, `starts_with`, `ends_with`,
    `contains`, `or_`, `and_`) names this plain model name exactly.

    Prefixes ("starts with claude-sonnet-4-5") are meant for dated snapshots. One counts only if
    nothing but a date or version follows it, or if it is the prefix of a fine-tune.
    """
    # By attributes, so that no class of the catalogue has to be imported.
    if any(is_named_by(member, name) for member in getattr(rule, "or_", ())):
        return True
    every = getattr(rule, "and_", ())
    if every:
        return all(is_named_by(member, name) for member in every)
    equals = getattr(rule, "equals", None)
    if isinstance(equals, str):
        return equals.lower() == name
    pattern = getattr(rule, "regex", None)
    if isinstance(pattern, str):
        return re.search(pattern, name) is not None
    start = getattr(rule, "starts_with", None)
    if isinstance(start, str) and name.startswith(start.lower()):
        rest = name[len(start) :]
        return name.startswith("ft:") or _AFTER_PREFIX.match(rest) is not None
    for attribute in ("contains", "ends_with"):
        part = getattr(rule, attribute, None)
        if isinstance(part, str) and part.lower() in name:
            before, _, after = name.partition(part.lower())
            return before in ("", "apac.") and _AFTER_PREFIX.match(after) is not None
    return False
