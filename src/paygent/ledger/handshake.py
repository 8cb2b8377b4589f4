"""What `init` asks a backend: are you there, and do you know us?

Asked on a thread of ours, waited for half a second; what is learned later is logged and kept.
"""

from __future__ import annotations

import threading

from paygent.errors import PaygentAuthInvalid, PaygentBackendUnreachable, PaygentWarning
from paygent.failopen import attempt, diagnostics
from paygent.ledger.transport import HttpTransport, Transport, TransportError

PROBE_WAIT_S = 0.5
"""How long `init` waits for the backend's answer, in seconds."""

_REFUSED = (401, 403)


class Probe:
    """One question to one backend.

    Attributes:
        is_reachable: Whether the backend answered; None until known.
        is_welcome: Whether it also took the key.
    """

    def __init__(self, url: str, key: str) -> None:
        """Ask nothing yet.

        Args:
            url: The backend's base URL, without a path.
            key: The product's API key.
        """
        self._url = url
        self._key = key
        self.is_reachable: bool | None = None
        self.is_welcome = False

    def run(self, *, wants_answer: bool) -> PaygentWarning | None:
        """Ask, and wait up to half a second.

        Args:
            wants_answer: Whether no answer by then is a problem too.

        Returns:
            What is wrong, as far as it is known by then.
        """
        found: list[PaygentWarning] = []
        answered = threading.Event()
        late = threading.Event()

        def ask() -> None:
            problem = attempt("probe", self._ask)
            if problem is not None and late.is_set():
                diagnostics.warn_once("backend", "%s", problem)
            elif problem is not None:
                found.append(problem)
            answered.set()

        threading.Thread(target=ask, name="paygent-probe", daemon=True).start()
        if answered.wait(PROBE_WAIT_S):
            return found[0] if found else None
        late.set()
        if not wants_answer:
            return None
        return PaygentBackendUnreachable(f"{self._url} did not answer in {PROBE_WAIT_S} s")

    def _ask(self) -> PaygentWarning | None:
        try:
            self.is_welcome = knows_us(HttpTransport(self._url, self._key), PROBE_WAIT_S)
        except TransportError as error:
            self.is_reachable = False
            return PaygentBackendUnreachable(
                f"{self._url} cannot be reached ({error}); calls are metered locally"
            )
        self.is_reachable = True
        if self.is_welcome:
            return None
        return PaygentAuthInvalid(f"{self._url} does not take the API key; calls go on locally")


def knows_us(transport: Transport, timeout_s: float) -> bool:
    """Ask a backend whether it takes the key.

    Raises:
        TransportError: if it does not answer, or not as a Paygent backend.
    """
    health = transport.request("GET", "/api/v1/health", timeout_s=timeout_s)
    if health.status in _REFUSED:
        return False
    if health.status != 200:
        raise TransportError(f"status {health.status}")
    products = transport.request("GET", "/api/v1/products", timeout_s=timeout_s)
    return products.status not in _REFUSED
