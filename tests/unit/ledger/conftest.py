"""Fixtures of the tests over sockets."""

from __future__ import annotations

import pytest
from tests.unit.ledger.raw_server import CERTIFICATE


@pytest.fixture
def environment(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trust the certificate of the tests' servers, and use no proxy of the machine."""
    monkeypatch.setenv("SSL_CERT_FILE", str(CERTIFICATE))
    for name in ("http_proxy", "https_proxy", "all_proxy", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
