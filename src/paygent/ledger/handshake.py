"""The handshake with a backend at `init`: is it reachable, and does it accept the API key?

It runs on a thread of its own, and `init` waits half a second for it. A later result is logged and
kept.
"""

from __future__ import annotations

import json
import threading

from paygent.core.notices import Notice
from paygent.errors import PaygentAuthInvalid, PaygentBackendUnreachable, PaygentWarning
from paygent.failopen import attempt, diagnostics
from paygent.ledger.transport import HttpTransport, Transport, TransportError

PROBE_WAIT_S = 0.5  # how long `init` waits for the backend's answer

_REFUSED = (401, 403)


class Probe:
    """One handshake with one backend.

    Attributes:
        is_reachable: Whether the backend answered; None until known.
        is_welcome: Whether it also accepted the key.
    """

    def __init__(self, url: str, key: str) -> None:
        """Store the address, without a path, and the key; `run` sends the request."""
        self._url = url
        self._key = key
        self.is_reachable: bool | None = None
        self.is_welcome = False

    def run(self, *, wants_answer: bool) -> PaygentWarning | None:
        """Start the handshake, wait up to half a second, and return the problem if one is known by
        then; a missing response is one if `wants_answer`.
        """
        problems: list[PaygentWarning | None] = []
        answered = threading.Event()
        is_late = False
        reporting = threading.Lock()  # whoever is first decides who reports a problem

        def ask() -> None:
            problem = attempt("probe", self._ask)
            with reporting:
                if not is_late:
                    problems.append(problem)
                elif problem is not None:
                    diagnostics.warn_once(Notice.BACKEND, problem)
            answered.set()

        # A daemon: a mute backend must not keep the process from exiting.
        threading.Thread(target=ask, name="paygent-probe", daemon=True).start()
        answered.wait(PROBE_WAIT_S)
        with reporting:
            is_late = True  # from now on the thread logs what it finds
        if problems:
            return problems[0]
        if not wants_answer:
            return None
        return PaygentBackendUnreachable(f"{self._url} did not answer in {PROBE_WAIT_S} s")

    def _ask(self) -> PaygentWarning | None:
        try:
            transport = HttpTransport(self._url, self._key)
            try:
                self.is_welcome = accepts_key(transport, PROBE_WAIT_S)
            finally:
                transport.close()
        except TransportError as error:
            self.is_reachable = False
            return PaygentBackendUnreachable(f"{self._url} cannot be reached ({error})")
        self.is_reachable = True
        if self.is_welcome:
            return None
        return PaygentAuthInvalid(f"{self._url} rejects the API key")


def accepts_key(transport: Transport, timeout_s: float) -> bool:
    """Return whether a backend accepts the transport's API key.

    Raises:
        TransportError: if it does not respond, or is not a Paygent backend.
    """
    health = transport.request("GET", "/api/v1/health", timeout_s=timeout_s)
    if health.status in _REFUSED:
        return False
    if health.status != 200:
        raise TransportError(f"status {health.status}")
    # `/health` may be public; this route needs the key.
    products = transport.request("GET", "/api/v1/products", timeout_s=timeout_s)
    if products.status in _REFUSED:
        return False
    # Something else may answer 200 to everything.
    if products.status != 200 or not _lists_products(products.body):
        raise TransportError(f"no list of products, status {products.status}")
    return True


def _lists_products(body: bytes) -> bool:
    try:
        given = json.loads(body)
    except (ValueError, RecursionError):
        return False
    products = given.get("products") if isinstance(given, dict) else given
    return isinstance(products, list)
