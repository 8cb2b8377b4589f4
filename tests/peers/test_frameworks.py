"""Below a framework, an application's example does what it says; in a venv with that framework."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.peers.examples import run_example, shown_output
from tests.peers.neighbours import ROOT, Framework, chosen, python

EXAMPLES = [entry for entry in chosen() if isinstance(entry, Framework)]


@pytest.mark.parametrize("entry", EXAMPLES, ids=lambda entry: f"{entry.name}: example")
def test_framework__its_example__prints_what_its_docstring_says(
    entry: Framework, tmp_path: Path
) -> None:
    """Run as it is, against nothing but loopback."""
    script = ROOT / entry.example
    assert run_example(python(entry), script, tmp_path) == shown_output(script)
