"""The demo's fake provider, in a separate process, like a real provider.

Parent and child exchange lines: the child prints its address, then, for each line it reads, the
number of requests by model as JSON. It exits when its standard input is closed, so no process is
left behind, however the parent ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from contextlib import suppress
from typing import IO

from paygent.testing import FakeProvider

_STOP_WAIT_S = 5.0  # the child exits in milliseconds; after this it is killed


class ProviderProcess:
    """A running fake provider; a context manager that stops it.

    Attributes:
        url, openai_url: Its address, as the SDKs of Anthropic and OpenAI want it.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paygent.cli.demo_story.provider"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C must reach only the parent; the child would print a traceback.
            start_new_session=True,
        )
        try:
            self.url = self._read()
        except BaseException:
            self.stop()
            raise
        self.openai_url = self.url + "/v1"

    def requests(self) -> dict[str, int]:
        """Return the number of requests that have reached the provider, by requested model."""
        assert self._process.stdin is not None  # a pipe was asked for
        try:
            self._process.stdin.write("requests\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError("the fake provider has exited") from error
        counts: dict[str, int] = json.loads(self._read())
        return counts

    def _read(self) -> str:
        assert self._process.stdout is not None  # a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the fake provider has exited")
        return line.strip()

    def stop(self) -> None:
        """Stop the process and wait for it; idempotent."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            with suppress(OSError):  # the child has already exited, and its pipe with it
                self._process.stdin.close()
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(_STOP_WAIT_S)
        finally:  # also after Ctrl-C: no process may be left behind
            self._process.kill()  # does nothing if it has exited
            self._process.wait()
            self._process.stdout.close()

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
