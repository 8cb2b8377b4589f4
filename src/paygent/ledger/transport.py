"""The port to the backend's HTTP: one method. Used by threads of ours only, never by a caller's.

Contract: `request` returns the status and body of an answer, whatever the status; it raises
`TransportError` when there was no answer within the time. It follows no redirects and retries
nothing. Thread-safe.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class TransportError(Exception):
    """There was no answer: refused, timed out, cut."""


class Answered(NamedTuple):
    """An HTTP answer."""

    status: int
    body: bytes


class Transport(Protocol):
    """One method; see the module's contract."""

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> Answered:
        """Send one request and return its answer.

        Args:
            method: HTTP method.
            path: Path below the base URL, with a leading slash.
            body: JSON, or None.
            timeout_s: Longest wait for each step of the exchange.

        Raises:
            TransportError: if there was no answer.
        """


class HttpTransport:
    """Adapter of `Transport` over httpx2, which is imported at the first request."""

    def __init__(self, base_url: str, api_key: str) -> None:
        """Remember where and as whom; nothing is opened before the first request.

        Args:
            base_url: Without a trailing slash.
            api_key: Sent as a bearer token.
        """
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> Answered:
        """Send one request; see `Transport.request`."""
        import httpx2  # 90 ms; only a backend needs it

        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            answer = httpx2.request(
                method, self._base_url + path, content=body, headers=headers, timeout=timeout_s
            )
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            # ValueError: an address or a key that no request can carry.
            raise TransportError(type(error).__name__) from error
        return Answered(answer.status_code, answer.content)
