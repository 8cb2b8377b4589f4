"""The demo's fake provider, in a separate process, like a real provider.

Parent and child exchange lines: the child prints its address, then, for each line it reads, the
number of requests by model as JSON. It exits when its standard input is closed.
"""

from __future__ import annotations

import json
import sys
from collections import Counter
from typing import IO

from paygent.cli.demo_story.child import ChildProcess
from paygent.testing import FakeProvider


class ProviderProcess:
    """A running fake provider; a context manager that stops it.

    Attributes:
        url, openai_url: Its address, as the SDKs of Anthropic and OpenAI want it.
    """

    def __init__(self) -> None:
        self._child = ChildProcess("the fake provider", ["paygent.cli.demo_story.provider"])
        try:
            self.url = self._child.read_line()
        except BaseException:
            self.stop()
            raise
        self.openai_url = self.url + "/v1"

    @property
    def pid(self) -> int:
        """Id of the process."""
        return self._child.pid

    def requests(self) -> dict[str, int]:
        """Return the number of requests that have reached the provider, by requested model."""
        self._child.write_line("requests")
        counts: dict[str, int] = json.loads(self._child.read_line())
        return counts

    def stop(self) -> None:
        """Stop the process and wait for it; idempotent."""
        self._child.stop()

    def __enter__(self) -> ProviderProcess:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def serve(requests: IO[str], replies: IO[str]) -> None:
    """Run a fake provider until its input ends; the module describes the protocol."""
    with FakeProvider() as fake:
        print(fake.url, file=replies, flush=True)
        for _ in requests:
            models = [str((request.body or {}).get("model", "")) for request in fake.requests]
            print(json.dumps(Counter(models)), file=replies, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
