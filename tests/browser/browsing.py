"""A browser as one person uses it, and everything in it that must not happen.

`Browsing` notes each message of the console, error of a script, violation of the policy, failed
request, and request to another host; `problems` has those that the test did not expect.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import BrowserContext, ConsoleMessage, Locator, Page, Request, Response

_STATUS = re.compile(r"the server responded with a status of (\d+)")
_REPORT_VIOLATIONS = """
document.addEventListener("securitypolicyviolation", (event) => {
  console.error(`policy violated: ${event.violatedDirective} by ${event.blockedURI}`);
});
"""


class Browsing:
    """A tab of a browser.

    Args:
        context: The browser's profile.
        address: The server, as `http://host:port`.
    """

    def __init__(self, context: BrowserContext, address: str) -> None:
        self.context, self.address = context, address
        self.requests: list[Request] = []
        self._problems: list[str] = []
        self._expected: set[int] = set()
        self._seen: set[int] = set()
        self._may_end_requests = False
        context.add_init_script(_REPORT_VIOLATIONS)
        self.page: Page = context.new_page()
        self.page.on("console", self._on_message)
        self.page.on("pageerror", lambda error: self._problems.append(f"script error: {error}"))
        self.page.on("request", self._on_request)
        self.page.on("requestfailed", self._on_failure)
        self.page.on("response", self._on_response)

    def expect_status(self, *statuses: int) -> None:
        """Allow answers with these statuses; each must occur."""
        self._expected |= set(statuses)

    def may_end_requests(self) -> None:
        """Allow requests that the browser itself ends: downloads, and checks of older texts."""
        self._may_end_requests = True

    @property
    def problems(self) -> list[str]:
        """What happened and was not expected, and what was expected and did not happen."""
        missing = self._expected - self._seen
        return self._problems + [f"no answer had the status {each}" for each in sorted(missing)]

    # -- doing

    def open(self, path: str) -> Page:
        """Load a page of the server."""
        self.page.goto(self.address + path, wait_until="load")
        return self.page

    def link(self, name: str | re.Pattern[str], **options: Any) -> Locator:
        """Return a link by its name."""
        return self.page.get_by_role("link", name=name, **options)

    def button(self, name: str, **options: Any) -> Locator:
        """Return a button by its name."""
        return self.page.get_by_role("button", name=name, **options)

    @contextmanager
    def counted(self) -> Iterator[list[Request]]:
        """Collect the requests that are made meanwhile and until the network is idle."""
        before = len(self.requests)
        made: list[Request] = []
        yield made
        self.page.wait_for_load_state("networkidle")
        made += self.requests[before:]

    # -- what happens

    def _on_message(self, message: ConsoleMessage) -> None:
        if message.type not in ("error", "warning"):
            return
        status = _STATUS.search(message.text)
        if status is None or int(status[1]) not in self._expected:
            self._problems.append(f"console: {message.text}")

    def _on_request(self, request: Request) -> None:
        self.requests.append(request)
        parts = urlsplit(request.url)
        if f"{parts.scheme}://{parts.netloc}" != self.address and parts.scheme != "data":
            self._problems.append(f"request to another host: {request.url}")

    def _on_failure(self, request: Request) -> None:
        if not (self._may_end_requests and request.failure == "net::ERR_ABORTED"):
            self._problems.append(f"request failed: {request.url} {request.failure}")

    def _on_response(self, response: Response) -> None:
        if response.status >= 400:
            self._seen.add(response.status)
            if response.status not in self._expected:
                self._problems.append(f"status {response.status}: {response.url}")


def scrolls_sideways(page: Page) -> bool:
    """Return whether a page is wider than its window."""
    return bool(
        page.evaluate("document.documentElement.scrollWidth > document.documentElement.clientWidth")
    )
