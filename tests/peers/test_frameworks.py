"""Below a framework, an application's example does what it says; in a venv with that framework."""

from __future__ import annotations

from pathlib import Path

import pytest
from tests.peers.examples import run_example, shown_output
from tests.peers.neighbours import FRAMEWORK_ORDERS, ROOT, Framework, chosen, python

EXAMPLES = [
    pytest.param(entry, order, id=f"{entry.name}: {order}")
    for entry in chosen()
    if isinstance(entry, Framework)
    for order in FRAMEWORK_ORDERS
]


@pytest.mark.parametrize(("entry", "order"), EXAMPLES)
def test_framework__its_example__prints_what_its_docstring_says(
    entry: Framework, order: str, tmp_path: Path
) -> None:
    """Run as it is, against nothing but loopback; also where Paygent was there before the framework
    and the SDKs were imported.
    """
    script = ROOT / entry.example
    printed = run_example(python(entry), script, tmp_path, *FRAMEWORK_ORDERS[order])
    assert printed == shown_output(script)
