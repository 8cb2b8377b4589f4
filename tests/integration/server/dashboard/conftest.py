"""Fixtures: a browser that is signed in to the dashboard of a service."""

from __future__ import annotations

import pytest
from tests.integration.server.dashboard.browser import Browser, signed_in
from tests.integration.server.service import Service


@pytest.fixture
def browser(service: Service) -> Browser:
    """A browser that is signed in with an admin key of `acme`."""
    return signed_in(service)
