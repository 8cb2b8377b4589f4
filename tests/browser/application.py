"""An application that makes calls with a real SDK, gated by the server under test.

It runs on a thread of its own: Playwright's event loop runs on the test's, where Paygent would
take it for the application's.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from types import TracebackType

import openai

from paygent import Paygent, PaygentLimitExceeded, paygent_context
from paygent.testing import FakeProvider


class Application:
    """The application; a context manager.

    Args:
        api_key: The SDK key of its product.
        base_url: The server.
    """

    def __init__(self, api_key: str, base_url: str) -> None:
        self._thread = ThreadPoolExecutor(1)
        self._provider = FakeProvider()
        self._api_key, self._base_url = api_key, base_url

    def __enter__(self) -> Application:
        """Start Paygent."""
        self._provider.start()
        self._thread.submit(self._start).result()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Deliver what was metered, and stop."""
        self._thread.submit(self._paygent.shutdown).result()
        self._thread.shutdown()
        self._provider.stop()

    def call(self, user_id: str) -> str:
        """Make a call for a user, as the server has them now; return its text, or "refused"."""
        return self._thread.submit(self._call, user_id).result()

    def _start(self) -> None:
        self._paygent = Paygent.init(api_key=self._api_key, base_url=self._base_url)

    def _call(self, user_id: str) -> str:
        self._paygent.refresh_user(user_id)
        client = openai.OpenAI(api_key="x", base_url=self._provider.openai_url, max_retries=0)
        with closing(client), paygent_context(user_id=user_id):
            try:
                answer = client.chat.completions.create(
                    model="gpt-4o-mini", messages=[{"role": "user", "content": "Hello."}]
                )
            except PaygentLimitExceeded:
                return "refused"
        self._paygent.flush()
        return answer.choices[0].message.content or ""
