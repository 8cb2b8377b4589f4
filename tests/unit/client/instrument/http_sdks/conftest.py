"""Fixtures of the tests of calls through SDKs: the way that each call takes."""

from __future__ import annotations

from collections.abc import Iterator

import openai
import pytest
from tests.unit.client.instrument.http_sdks.ways import Ways

from paygent.client.instrument.http_sdks import shortcut, wrapper
from paygent.client.instrument.http_sdks.request import CARRIER_HEADER
from paygent.client.metering import nesting
from paygent.testing import FakeProvider


@pytest.fixture(autouse=True)
def _no_integrations(monkeypatch: pytest.MonkeyPatch) -> None:
    """Leave out what integrations have added for good when other tests imported them."""
    monkeypatch.setattr(nesting, "yield_hooks", [])


@pytest.fixture
def ways(monkeypatch: pytest.MonkeyPatch, fake: FakeProvider) -> Iterator[Ways]:
    """Notes the way of each call; no request may have Paygent's header."""
    noted = Ways(shortcut.begin)
    monkeypatch.setattr(wrapper, "begin", noted.begin)
    yield noted
    assert not [each for each in fake.requests if CARRIER_HEADER in each.headers]


@pytest.fixture
def client(fake: FakeProvider) -> Iterator[openai.OpenAI]:
    """A client of the fake provider, without retries."""
    with openai.OpenAI(api_key="k", base_url=fake.openai_url, max_retries=0) as made:
        yield made
