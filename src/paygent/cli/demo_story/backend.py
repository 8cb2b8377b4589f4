"""The demo's backend: `paygent serve` as a child process, and its REST API as a customer uses it.

The server has a free port of the loopback interface and a SQLite file in a temporary folder. Both
are gone with the `Backend`. Each run of the demo has a product of its own on it, so that the
spend of one does not count in the other.
"""

from __future__ import annotations

import http.client
import json
import os
import re
import runpy
import signal
import sys
import threading
import time
from collections.abc import Mapping
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any
from urllib.parse import quote, urlsplit

from paygent import PlanConfig
from paygent.cli.demo_story.child import ChildProcess
from paygent.cli.options import CommandError, UsageError
from paygent.cli.output import printable
from paygent.core.plan_json import plan_to_json

_LIBRARIES = ("fastapi", "uvicorn", "prometheus_client")  # of the extra `server`
_START_WAIT_S = 30.0  # a busy machine needs seconds
_POLL_S = 0.05
_REQUEST_WAIT_S = 30.0  # loopback takes milliseconds; any longer means the server has died

_ADDRESS = re.compile(r"Paygent listens on (http://\S+),")
_SETUP_TOKEN = re.compile(r"set-up token\s+(\S+)")


class Tenant:
    """A product on the backend.

    Attributes:
        url: Address of the backend.
        sdk_key: The key for the application.
    """

    def __init__(self, url: str, admin_key: str) -> None:
        """Create the key for the application."""
        self.url = url
        self._admin_key = admin_key
        self.sdk_key: str = self._call("POST", "/keys", {"scope": "sdk", "name": "demo"})["api_key"]

    def configure(self, name: str, plan: PlanConfig, user_ids: list[str]) -> None:
        """Configure a plan, create users and assign the plan to them."""
        document = {"name": name, **plan_to_json(plan)}
        plan_id = self._call("POST", "/config/plans", {"plans": [document]})["plans"][0]["id"]
        for user_id in user_ids:
            self._call("POST", "/users", {"external_user_id": user_id})
            path = f"/users/{quote(user_id, safe='')}/subscription"
            self._call("POST", path, {"plan_id": plan_id})

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        authorization = {"Authorization": f"Bearer {self._admin_key}"}
        return call(self.url, method, f"/api/v1{path}", body, authorization)


class Backend:
    """A running backend; a context manager that stops it and deletes its database.

    Attributes:
        url: Its address.
    """

    def __init__(self, environ: Mapping[str, str]) -> None:
        """Start `paygent serve` and wait until it answers.

        Args:
            environ: The environment; settings of Paygent in it are not the demo's.

        Raises:
            UsageError: if the extra `server` is not installed.
            CommandError: if the server does not start.
        """
        missing = next((name for name in _LIBRARIES if find_spec(name) is None), None)
        if missing is not None:
            raise UsageError(
                f"{missing} is missing, which the backend needs: run pip install '.[demo]' in your"
                " clone of Paygent, or the demo without a backend: paygent demo --local"
            )
        kept = {name: each for name, each in environ.items() if not name.startswith("PAYGENT_")}
        self._folder = TemporaryDirectory(prefix="paygent-demo-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name, "server.log")
        self._child: ChildProcess | None = None
        try:
            with self._log.open("wb") as log:
                database = f"sqlite:///{self._folder.name}/server.db"
                arguments = ["serve", "--port", "0", "--database-url", database]
                self._child = ChildProcess(
                    "the backend", [__name__, *arguments], environ=kept, log=log
                )
            self.url, self._setup_token = self._read_first_lines(self._child)
            self._wait_until_ready()
        except BaseException:
            self.stop()
            raise

    def _read_first_lines(self, child: ChildProcess) -> tuple[str, str]:
        """Return the address and the set-up token, which the first start prints."""
        printed = ""
        try:
            while not (token := _SETUP_TOKEN.search(printed)):
                printed += child.read_line() + "\n"
        except RuntimeError:
            raise CommandError(f"the backend did not start: {self._last_log()}") from None
        address = _ADDRESS.search(printed)
        assert address is not None, printed  # printed before the keys
        return address[1], token[1]

    def _last_log(self) -> str:
        lines = self._log.read_text("utf-8", "replace").splitlines()
        return printable(lines[-1]) if lines else "it printed no reason"

    def _wait_until_ready(self) -> None:
        deadline_s = time.monotonic() + _START_WAIT_S
        while True:
            try:
                call(self.url, "GET", "/ready")
                return
            except CommandError:
                if time.monotonic() > deadline_s:
                    raise CommandError(f"the backend is not ready: {self._last_log()}") from None
            time.sleep(_POLL_S)

    @property
    def pid(self) -> int:
        """Id of the server's process."""
        assert self._child is not None  # started
        return self._child.pid

    def new_tenant(self, name: str) -> Tenant:
        """Create a product."""
        token = {"X-Setup-Token": self._setup_token}
        answer = call(self.url, "POST", "/api/v1/products", {"name": name}, token)
        return Tenant(self.url, answer["api_key"])

    def stop(self) -> None:
        """Stop the server, wait for it and delete its files; idempotent."""
        try:
            if self._child is not None:
                self._child.stop()
        finally:
            self._folder.cleanup()

    def __enter__(self) -> Backend:
        return self

    def __exit__(self, *error: object) -> None:
        self.stop()


def call(
    url: str,
    method: str,
    path: str,
    body: Any = None,
    headers: Mapping[str, str] | None = None,
) -> Any:
    """Make one request, past any proxy, and return the JSON of its answer.

    Raises:
        CommandError: if the server does not answer, or not with a status below 300.
    """
    address = urlsplit(url)
    connection = http.client.HTTPConnection(
        address.hostname or "", address.port, timeout=_REQUEST_WAIT_S
    )
    try:
        content = None if body is None else json.dumps(body)
        connection.request(method, path, content, dict(headers or {}))
        answer = connection.getresponse()
        text = answer.read()
    except (OSError, http.client.HTTPException) as error:
        raise CommandError(f"the backend does not answer {method} {path}: {error!r}") from error
    finally:
        connection.close()
    if answer.status >= 300:
        raise CommandError(f"the backend answers {method} {path} with status {answer.status}")
    return json.loads(text)


def _serve(arguments: list[str]) -> None:
    """Run the command `paygent` in this process until its standard input is closed, which happens
    however the demo ends; then end it like SIGTERM does.
    """

    def end_with_input() -> None:
        # Not `sys.stdin`: its lock would be held while the interpreter exits.
        while os.read(0, 1):
            pass
        os.kill(os.getpid(), signal.SIGTERM)

    threading.Thread(target=end_with_input, name="paygent-demo-input", daemon=True).start()
    sys.argv = ["paygent", *arguments]
    runpy.run_module("paygent", run_name="__main__")


if __name__ == "__main__":
    _serve(sys.argv[1:])
