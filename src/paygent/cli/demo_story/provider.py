"""The demo's fake provider, in a process of its own, as a real provider would be.

Parent and child speak in lines: the child writes its address, then, for each line that it reads,
the requests that it has seen, by model, as JSON. It ends when its standard input does, so none is
left behind, however the parent ends.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections import Counter
from types import TracebackType
from typing import IO

from paygent.testing import FakeProvider

STOP_WAIT_S = 5.0
"""How long the child may take to end by itself; it needs milliseconds, then it is killed."""


class ProviderProcess:
    """A running fake provider; a context manager that stops it.

    Attributes:
        url: Its address, as Anthropic's SDK wants it.
    """

    def __init__(self) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "paygent.cli.demo_story.provider"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            # Ctrl-C is for the parent, which then ends the child; the child would only complain.
            start_new_session=True,
        )
        try:
            self.url = self._read()
        except BaseException:
            self.stop()
            raise

    @property
    def openai_url(self) -> str:
        """Its address, as OpenAI's SDK wants it."""
        return self.url + "/v1"

    def requests(self) -> dict[str, int]:
        """Return how many requests have reached the provider, by the model that they asked for.

        Raises:
            RuntimeError: if the process has ended.
        """
        assert self._process.stdin is not None  # a pipe was asked for
        try:
            self._process.stdin.write("requests\n")
            self._process.stdin.flush()
        except OSError as error:
            raise RuntimeError("the fake provider has ended") from error
        counts: dict[str, int] = json.loads(self._read())
        return counts

    def _read(self) -> str:
        assert self._process.stdout is not None  # a pipe was asked for
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError("the fake provider has ended")
        return line.strip()

    def stop(self) -> None:
        """End the process and wait for it; idempotent."""
        assert self._process.stdin is not None and self._process.stdout is not None
        try:
            try:
                self._process.stdin.close()
            except OSError:
                pass  # the child has ended already, and its pipe with it
            self._process.wait(STOP_WAIT_S)
        except BaseException as error:  # also Ctrl-C while waiting: no process may be left
            self._process.kill()
            self._process.wait()
            if not isinstance(error, subprocess.TimeoutExpired):
                raise
        finally:
            self._process.stdout.close()

    def __enter__(self) -> ProviderProcess:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()


def serve(questions: IO[str], answers: IO[str]) -> None:
    """Run a fake provider until there are no more questions; see the module for the lines."""
    with FakeProvider() as fake:
        print(fake.url, file=answers, flush=True)
        for _ in questions:
            seen = Counter(str((request.body or {}).get("model", "")) for request in fake.requests)
            print(json.dumps(seen), file=answers, flush=True)


if __name__ == "__main__":
    serve(sys.stdin, sys.stdout)
