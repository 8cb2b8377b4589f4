"""The demo's backend: `paygent serve` as a child process, and its REST API as a customer uses it.

The server has the documented port of the loopback interface, or a free one if that is in use, and a
SQLite file in a temporary folder. Both are gone with the `Backend`. All runs of the demo have one
product on it, in different months, so that the spend of one does not count in the other.
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
from collections.abc import Iterable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory, mkdtemp
from typing import Any
from urllib.parse import quote, urlsplit

from paygent import PlanConfig
from paygent.cli.demo_story.child import ChildProcess
from paygent.cli.options import CommandError, UsageError
from paygent.cli.output import printable
from paygent.core.money import decimal_text, from_units
from paygent.core.period import Window, to_datetime
from paygent.core.plan_json import plan_to_json
from paygent.server.settings import DEFAULT_PORT

PORTS = (DEFAULT_PORT, 0)
"""Ports to listen on, the preferred one first; 0 is any free one."""

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
        admin_key: The key for everything in the product.
        sdk_key: The key for the application.
    """

    def __init__(self, url: str, admin_key: str) -> None:
        """Create the key for the application."""
        self.url = url
        self.admin_key = admin_key
        self.sdk_key: str = self._call("POST", "/keys", {"scope": "sdk", "name": "demo"})["api_key"]
        self._user_ids: set[str] = set()

    def configure(self, name: str, plan: PlanConfig, user_ids: Iterable[str]) -> None:
        """Add a version of a plan if it changes, and assign the plan to users, who are created if
        they are new.
        """
        document = {"name": name, **plan_to_json(plan)}
        plan_id = self._call("POST", "/config/plans", {"plans": [document]})["plans"][0]["id"]
        for user_id in user_ids:
            if user_id not in self._user_ids:
                self._call("POST", "/users", {"external_user_id": user_id})
                self._user_ids.add(user_id)
            path = f"/users/{quote(user_id, safe='')}/subscription"
            self._call("POST", path, {"plan_id": plan_id})

    def record_payments(self, user_ids: Iterable[str], amount_nano: int, month: Window) -> None:
        """Record that each user has paid an amount for a month."""
        start, end = (to_datetime(each).isoformat() for each in month)
        amount = decimal_text(from_units(amount_nano, 9))
        payments = [
            {
                "id": f"{user_id} {start:.7}",
                "user_id": user_id,
                "amount": amount,
                "currency": "USD",
                "period_start": start,
                "period_end": end,
                "kind": "payment",
            }
            for user_id in user_ids
        ]
        self._call("POST", "/revenue", payments)

    def _call(self, method: str, path: str, body: Any = None) -> Any:
        authorization = {"Authorization": f"Bearer {self.admin_key}"}
        return call(self.url, method, f"/api/v1{path}", body, authorization)


class Backend:
    """A running backend; a context manager that stops it and deletes its database.

    Attributes:
        url: Its address.
        tenant: The product of the demo.
    """

    url: str
    tenant: Tenant

    def __init__(self, environ: Mapping[str, str], ports: Sequence[int] = PORTS) -> None:
        """Start `paygent serve`, wait until it answers, and create the product.

        Args:
            environ: The environment; settings of Paygent in it are not the demo's.
            ports: Ports to try, one after the other; 0 is any free one.

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
        self._environ = {
            name: each for name, each in environ.items() if not name.startswith("PAYGENT_")
        }
        self._folder = TemporaryDirectory(prefix="paygent-demo-", ignore_cleanup_errors=True)
        self._log = Path(self._folder.name, "server.log")
        self._child: ChildProcess | None = None
        try:
            for port in ports[:-1]:
                if self._has_started(port):
                    return
            self._start(ports[-1])
        except BaseException:
            self.stop()
            raise

    def _has_started(self, port: int) -> bool:
        """Start on a port that may be in use; return False if that fails, for whatever reason."""
        try:
            self._start(port)
        except CommandError:
            assert self._child is not None
            self._child.stop()
            return False
        return True

    def _start(self, port: int) -> None:
        """Start on a port.

        Raises:
            CommandError: if the server does not start.
        """
        with self._log.open("wb") as log:
            # A file for each attempt, since a server prints keys only for one without any.
            database = f"sqlite:///{mkdtemp(dir=self._folder.name)}/server.db"
            arguments = ["serve", "--port", str(port), "--database-url", database]
            child = self._child = ChildProcess(
                "the backend", [__name__, *arguments], environ=self._environ, log=log
            )
        self.url, setup_token = self._read_first_lines(child)
        self._wait_until_ready(child)
        # Two servers that start at once may both bind the port, and then one of them ends. What
        # answers there is this one if it accepts the token, which is different for each.
        token = {"X-Setup-Token": setup_token}
        product = call(self.url, "POST", "/api/v1/products", {"name": "demo"}, token)
        self.tenant = Tenant(self.url, product["api_key"])

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

    def _wait_until_ready(self, child: ChildProcess) -> None:
        deadline_s = time.monotonic() + _START_WAIT_S
        while True:
            try:
                call(self.url, "GET", "/ready")
                return
            except CommandError:
                if child.exit_status is not None:
                    reason = f"the backend did not start: {self._last_log()}"
                    raise CommandError(reason) from None
                if time.monotonic() > deadline_s:
                    raise CommandError(f"the backend is not ready: {self._last_log()}") from None
            time.sleep(_POLL_S)

    @property
    def pid(self) -> int:
        """Id of the server's process."""
        assert self._child is not None  # started
        return self._child.pid

    def check_running(self) -> None:
        """Check that the server runs.

        Raises:
            CommandError: if it has ended.
        """
        assert self._child is not None  # started
        status = self._child.exit_status
        if status is not None:
            raise CommandError(
                f"the backend has ended with status {status}; the end of its log: "
                f"{self._last_log()}"
            )

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
