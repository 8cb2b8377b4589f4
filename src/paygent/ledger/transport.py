"""The port to the backend's HTTP API: one method, called on Paygent's own threads only.

Contract: `request` returns the status and body of any HTTP response, and raises `TransportError` if
there was none in time. It follows no redirects and does not retry. Thread-safe.
"""

from __future__ import annotations

from typing import NamedTuple, Protocol


class TransportError(Exception):
    """There was no response: the connection was refused, timed out or broke."""


class HttpResponse(NamedTuple):
    """Status and body of an HTTP response."""

    status: int
    body: bytes


class Transport(Protocol):
    """One method; see the module's contract."""

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Send one request and return its response.

        Args:
            method: HTTP method.
            path: Path below the base URL, with a leading slash.
            body: JSON, or None.
            timeout_s: Longest wait for each step of the exchange (connect, send, receive).

        Raises:
            TransportError: if there was no response.
        """


class HttpTransport:
    """Adapter of `Transport` over httpx2, which is imported at the first request."""

    def __init__(self, base_url: str, api_key: str) -> None:
        """Store the address and the key; no connection is opened before the first request.

        Args:
            base_url: Without a trailing slash.
            api_key: Sent as a bearer token.
        """
        self._base_url = base_url
        self._headers = {"Authorization": f"Bearer {api_key}", "Accept": "application/json"}

    def request(
        self, method: str, path: str, *, body: bytes | None = None, timeout_s: float
    ) -> HttpResponse:
        """Send one request; see `Transport.request`."""
        import httpx2  # takes 90 ms, and only a backend needs it

        headers = dict(self._headers)
        if body is not None:
            headers["Content-Type"] = "application/json"
        try:
            response = httpx2.request(
                method, self._base_url + path, content=body, headers=headers, timeout=timeout_s
            )
        except (httpx2.HTTPError, httpx2.InvalidURL, ValueError) as error:
            # ValueError: an address or a key that no request can contain.
            raise TransportError(type(error).__name__) from error
        return HttpResponse(response.status_code, response.content)
