"""Checks the backend: does it answer, accept the API key, and speak the SDK's own protocol?"""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from paygent.cli.checks.finding import Finding, ok, problem, warning
from paygent.client.runtime.settings import DEFAULT_BASE_URL
from paygent.ledger.backend import SYNC
from paygent.ledger.handshake import accepts_key
from paygent.ledger.port import LedgerUnavailable
from paygent.ledger.remote import call
from paygent.ledger.transport import HttpTransport, TransportError

_TIMEOUT_S = 5.0


def check_backend(environ: Mapping[str, str]) -> Iterator[Finding]:
    """Check the backend that an application in this environment connects to; nothing without an
    API key.
    """
    key = environ.get("PAYGENT_API_KEY", "").strip()
    if not key:
        return
    url = (environ.get("PAYGENT_BASE_URL", "").strip() or DEFAULT_BASE_URL).rstrip("/")
    transport = HttpTransport(url, key)
    try:
        if accepts_key(transport, _TIMEOUT_S):
            yield _of_capabilities(transport, url)
        else:
            remedy = "set PAYGENT_API_KEY to a key that `paygent keys list` shows, of the scope sdk"
            yield problem("backend", f"{url} rejects the API key", remedy)
    except (TransportError, LedgerUnavailable) as error:
        text = f"{url} cannot be reached ({error}): events wait on this machine"
        yield problem("backend", text, "start it (`paygent serve`), or correct PAYGENT_BASE_URL")
    finally:
        transport.close()


def _of_capabilities(transport: HttpTransport, url: str) -> Finding:
    health = call(transport, "GET", "/api/v1/health", timeout_s=_TIMEOUT_S)
    capabilities = health.get("capabilities") if isinstance(health, dict) else None
    if isinstance(capabilities, list) and SYNC in capabilities:
        return ok("backend", f"{url} accepts the API key")
    text = f"{url} has only the documented routes: processes notice each other's spend later"
    return warning("backend", text, "use the `paygent serve` of this version")
