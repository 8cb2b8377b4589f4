"""Clients of the real provider SDKs, at the fake provider."""

from __future__ import annotations

from collections.abc import Iterator

import anthropic
import openai
import pytest

from paygent.testing import FakeProvider


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """OpenAI's client at the fake provider."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made


@pytest.fixture
def claude(fake: FakeProvider) -> Iterator[anthropic.Anthropic]:
    """Anthropic's client at the fake provider."""
    with anthropic.Anthropic(api_key="k", base_url=fake.url, max_retries=0) as made:
        yield made
