"""No function of LiteLLM that calls a provider is unclassified; in the venv that has LiteLLM."""

from __future__ import annotations

from tests.instrument.surfaces import functions_of, unclassified
from tests.peers.neighbours import VENVS


def test_surfaces__of_litellm__are_all_classified() -> None:
    """Its source is read: what a version adds is metered, free or unmetered by an entry."""
    (folder,) = VENVS.glob("litellm/lib/python*/site-packages/litellm")
    names = {name for name, _ in functions_of(folder)}
    assert {"completion", "aresponses", "ocr", "run_thread", "anthropic_messages"} <= names
    assert unclassified("litellm", folder) == []
