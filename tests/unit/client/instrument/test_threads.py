"""Executors and pools: their work belongs to the user who submits it, and their threads to none."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from tests.unit.client.instrument.requests import Init

from paygent import paygent_context
from paygent.client.context.scopes import PropagatedContext, current_identity


def user_id() -> Any:
    """The current user."""
    identity = current_identity()
    return identity and identity.user_id


def test_submit__without_a_user__builds_no_context(
    init: Init, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Most executors of a process are used by code that has no user."""
    init()

    def fail() -> None:
        raise AssertionError

    monkeypatch.setattr(PropagatedContext, "without_user", fail)
    with ThreadPoolExecutor(1) as pool:
        assert pool.submit(user_id).result(30) is None


def test_submit__by_one_user__keeps_that_user_out_of_the_thread(init: Init) -> None:
    """The thread that a submission starts serves the next ones too."""
    init()
    with ThreadPoolExecutor(1) as pool:
        with paygent_context("u1"):
            assert pool.submit(user_id).result(30) == "u1"
        assert pool.submit(user_id).result(30) is None
        with paygent_context("u2"):
            assert pool.submit(user_id).result(30) == "u2"
