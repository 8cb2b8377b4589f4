"""Examples of frameworks: run as they are, and compared with what they say they print."""

from __future__ import annotations

import ast
import os
import re
import subprocess
import textwrap
from pathlib import Path

from tests.peers.neighbours import ROOT

EXAMPLE_S = 120.0
"""How long an example may take; frameworks are slow to import."""

_BLOCK = re.compile(r"^```text\n(.*?)^```$", re.M | re.S)


def clean_environment(home: Path) -> dict[str, str]:
    """Return an environment without the settings of this machine, with an empty home.

    The repository's root is on the path and its `src` is not: what runs is the installed Paygent.
    """
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    return {**kept, "HOME": str(home), "PYTHONPATH": str(ROOT), "PYTHONDONTWRITEBYTECODE": "1"}


def shown_output(script: Path) -> str:
    """Return the ```text block of a script's docstring: what it prints.

    Raises:
        ValueError: if there is none, or more than one.
    """
    docstring = ast.get_docstring(ast.parse(script.read_text(encoding="utf-8"))) or ""
    blocks = _BLOCK.findall(textwrap.dedent(docstring) + "\n")
    if len(blocks) != 1:
        raise ValueError(f"{script.name} has {len(blocks)} blocks of output in its docstring")
    return str(blocks[0])


def run_example(python: Path, script: Path, home: Path, *options: str) -> str:
    """Run a script to its end and return what it printed.

    Args:
        python: The interpreter.
        script: The script.
        home: An empty folder.
        options: Of `tests.peers.loopback`.

    Raises:
        AssertionError: if its exit status is not 0, or if it asked for another machine.
    """
    done = subprocess.run(
        [python, "-m", "tests.peers.loopback", *options, script],
        cwd=home,
        env=clean_environment(home),
        capture_output=True,
        text=True,
        timeout=EXAMPLE_S,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout
