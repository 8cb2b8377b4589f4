"""Layers of wrappers around one call: which of them are inactive, and until when."""

from __future__ import annotations

import contextvars

import openai
from tests.instrument.shapes import MESSAGES, Metered
from tests.unit.client.instrument.requests import Init

from paygent import paygent_context
from paygent.client.instrument.http_sdks.layers import Gateway, current_gateway
from paygent.testing import FakeProvider


def test_gateway__in_a_context_that_outlives_it__is_over(init: Init, fake: FakeProvider) -> None:
    """Work that a gateway's function has started may outlive it: its calls are metered."""
    metered = Metered(init())
    with openai.OpenAI(api_key="k", base_url=fake.openai_url) as client:

        def call() -> bool:
            client.chat.completions.create(model="gpt-4o", messages=MESSAGES)
            return current_gateway() is not None

        with paygent_context("u1"), Gateway():
            inside = contextvars.copy_context()
            assert inside.copy().run(call)
            assert metered.events == []
        assert not inside.run(call)
    assert metered.only.user_id == "u1"
