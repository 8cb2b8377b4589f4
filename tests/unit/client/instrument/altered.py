"""Answers of providers that are as usual but for a few fields, for property tests of readers."""

from __future__ import annotations

import copy
from collections.abc import Mapping
from typing import Any

from hypothesis import strategies as st

from paygent.client.instrument.http_sdks.route import PlainCounts
from paygent.core.records import COUNT_MAX
from paygent.core.usage import JobStatus, Usage

SMALL = st.integers(0, 8)
ABSENT = "absent"
"""In place of a value: the field is left out."""

ODD: st.SearchStrategy[Any] = st.sampled_from(
    [
        *(None, True, False, -1, 2.0, 2.5, 0.0, -0.5, float("nan"), "", "3", [], {}),
        *(COUNT_MAX, COUNT_MAX + 1, 10**13, ABSENT),
    ]
)
COUNTS = st.one_of(SMALL, ODD)
PARTS = st.one_of(
    SMALL,
    st.sampled_from([None, True, -1, 2.0, 2.5, -0.5, "3", [1], 0.0, COUNT_MAX, 10**13, ABSENT]),
)
"""Counts that are parts of others: what is empty and no count is read as 0 there."""

_CHANGED_MAX = 3

Path = tuple[str, ...]


@st.composite
def altered(
    draw: st.DrawFn,
    usual: st.SearchStrategy[dict[str, Any]],
    changes: Mapping[Path, st.SearchStrategy[Any]],
) -> dict[str, Any]:
    """Draw a usual document and change up to three of its fields, each to one of its values."""
    document = copy.deepcopy(draw(usual))
    paths = st.lists(st.sampled_from(sorted(changes)), max_size=_CHANGED_MAX, unique=True)
    for *parents, name in draw(paths):
        place: Any = document
        for parent in parents:
            place = place.get(parent) if isinstance(place, dict) else None
        value = draw(changes[(*parents, name)])
        if not isinstance(place, dict):
            continue
        if value == ABSENT:
            place.pop(name, None)
        else:
            place[name] = copy.deepcopy(value)
    return document


def figures_of(usage: Usage | JobStatus | None, answerers: Mapping[str, int]) -> PlainCounts | None:
    """Return the figures from which a usage follows; None where it has more than these."""
    if not isinstance(usage, Usage) or usage.model is None or usage.model not in answerers:
        return None
    counts = (*usage[:3], usage.cache_write_tokens, usage.reasoning_tokens)
    input_tokens, output_tokens, cached, written, reasoning = counts
    plain = Usage(
        input_tokens,
        output_tokens,
        cached,
        written,
        reasoning_tokens=reasoning,
        model=usage.model,
    )
    return (*counts, answerers[usage.model]) if usage == plain else None


def check_plain(
    found: PlainCounts | None, usage: Usage | JobStatus | None, answerers: Mapping[str, int]
) -> None:
    """Check that a plain reader has left an answer to the general one, or has read the same."""
    if found is not None:
        assert [type(each) for each in found] == [int] * 6, found
        assert found == figures_of(usage, answerers)
