"""HTTP clients that send everything to the fake provider, whatever host they are told."""

from __future__ import annotations

from typing import Any

from paygent.testing import FakeProvider


def through(fake: FakeProvider, module: Any, *, is_async: bool) -> Any:
    """Return an HTTP client for an SDK, of the library that the SDK itself uses."""
    made = getattr(module, "DefaultAsyncHttpxClient" if is_async else "DefaultHttpxClient")
    library: Any = __import__(made.__mro__[1].__module__.split(".")[0])
    target = library.URL(fake.url)
    kind = library.AsyncHTTPTransport if is_async else library.HTTPTransport

    class Rerouting(kind):  # type: ignore[misc, valid-type]
        """Sends requests elsewhere."""

        def _reroute(self, request: Any) -> Any:
            request.url = request.url.copy_with(
                scheme=target.scheme, host=target.host, port=target.port
            )
            return request

        if is_async:

            async def handle_async_request(self, request: Any) -> Any:
                return await super().handle_async_request(self._reroute(request))
        else:

            def handle_request(self, request: Any) -> Any:
                return super().handle_request(self._reroute(request))

    return made(transport=Rerouting())
