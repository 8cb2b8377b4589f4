"""The pytest plugin, as an application's test suite gets it: real runs in a folder of their own."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

from tests.docs.pages import ROOT, program

SUITE = """
from openai import OpenAI

from paygent import paygent_context
from paygent.testing import PaygentFake, current_user


def test_chat__a_message__is_charged_to_its_user(paygent_fake: PaygentFake) -> None:
    with paygent_context("ada"), OpenAI() as client:
        assert current_user() == "ada"
        client.chat.completions.create(model="gpt-4o", messages=[])
    assert [(event.user_id, event.model) for event in paygent_fake.events()] == [("ada", "gpt-4o")]


def test_chat__another_test__starts_from_nothing(paygent_fake: PaygentFake) -> None:
    assert paygent_fake.events() == paygent_fake.requests == []
"""

IDLE = """
import sys


def test_modules__no_test_uses_the_fixture__are_not_imported(request) -> None:
    assert request.config.pluginmanager.has_plugin("paygent")
    loaded = {name for name in sys.modules if name.startswith("paygent")}
    assert loaded == {"paygent", "paygent.testing", "paygent.testing.plugin"}
"""

_ASYNCIO = ("-o", "asyncio_default_fixture_loop_scope=function")  # its plugin warns without it


def run_pytest(folder: Path, suite: str) -> str:
    """Run pytest on a file in a folder; return what it printed. It must pass."""
    (folder / "test_app.py").write_text(suite, encoding="utf-8")
    kept = {name: os.environ[name] for name in ("PATH", "LANG") if name in os.environ}
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-W", "error", *_ASYNCIO],
        cwd=folder,
        env={**kept, "HOME": str(folder)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_plugin__an_installed_paygent__gives_each_test_a_fake_of_its_own(tmp_path: Path) -> None:
    """Without a conftest and without an option; warnings are errors, and the home stays empty."""
    assert "2 passed" in run_pytest(tmp_path, SUITE)
    assert not (tmp_path / ".paygent").exists()


def test_plugin__no_test_uses_the_fixture__loads_nothing_of_paygent(tmp_path: Path) -> None:
    """Every pytest run in the environment loads the plugin, so it must cost next to nothing."""
    assert "1 passed" in run_pytest(tmp_path, IDLE)


def test_plugin__the_tests_of_the_guide__pass_under_pytest_too(tmp_path: Path) -> None:
    """The page runs them without pytest; its readers run them with it."""
    page = (ROOT / "docs/guide/testing.md").read_text(encoding="utf-8")
    assert "5 passed" in run_pytest(tmp_path, program(page))
