"""`PaygentFake`: what the pytest fixture gives a test, and `current_user`.

Inside, SDK clients made without arguments reach a `FakeProvider`, and every `Paygent` that is made
without a `db_path`, also by the application, keeps its events in one temporary file. It is a file
so that events can still be read after the application has shut down its `Paygent`, as a web
application's lifespan does, and so that child processes book there too.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import ExitStack, closing
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from paygent.client.api.arguments import valid_user
from paygent.client.api.paygent import Paygent
from paygent.client.context.scopes import current_identity
from paygent.client.instrument.registry import instrumentation
from paygent.core.event import Event
from paygent.core.validation import FieldError, InvalidValue
from paygent.store.sqlite import SqliteStore
from paygent.testing.environment import environment, module_client, variables_for
from paygent.testing.provider import FakeProvider, Recorded
from paygent.types import UsageEvent, usage_event

_USERS_PAGE = 1_000

# A thread that is still delivering may write while the folder is removed.
_TemporaryFolder = partial(TemporaryDirectory[str], ignore_cleanup_errors=True)


def current_user() -> str | None:
    """Return the id of the user in effect in the current context, or None.

    A call made at this point is attributed to them, unless its own arguments name another user.
    Use it to assert that middleware, jobs and pools propagate the user.
    """
    identity = current_identity()
    return identity.user_id if identity is not None else None


class PaygentFake:
    """A fake provider, and a `Paygent` for one test; a context manager.

    On entry, environment variables point OpenAI's and Anthropic's SDKs to the provider, for all
    clouds, and hide the machine's `PAYGENT_*` settings, and a `Paygent` with default settings is
    started. One that the process already has is set aside, neither used nor shut down. On exit,
    everything is undone, and a `Paygent` that was set aside is the process's again.

    Attributes:
        provider: The fake provider: what it answers, and its addresses.
        db_path: The store of this test.
    """

    provider: FakeProvider
    db_path: str

    def __init__(self) -> None:
        self._undo = ExitStack()

    def __enter__(self) -> PaygentFake:
        with ExitStack() as undo:
            folder = undo.enter_context(_TemporaryFolder(prefix="paygent-"))
            self.db_path = str(Path(folder) / "paygent.db")
            self.provider = undo.enter_context(FakeProvider())
            variables = variables_for(self.provider, self.db_path)
            undo.enter_context(module_client(variables))
            undo.enter_context(environment(variables))
            undo.callback(Paygent.exchange, Paygent.exchange(None))
            if not instrumentation.is_installed:
                undo.callback(instrumentation.uninstall)
            undo.callback(_shut_down)
            Paygent.init()
            self._undo = undo.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._undo.close()

    @property
    def paygent(self) -> Paygent:
        """The process's `Paygent`: the one started here, or the one the application has started
        since.

        Raises:
            RuntimeError: if it was shut down.
        """
        instance = Paygent.get_instance()
        if instance is None:
            raise RuntimeError("Paygent was shut down in this test; call Paygent.init() to go on")
        return instance

    @property
    def requests(self) -> list[Recorded]:
        """The requests that have reached the provider, oldest first, including SDKs' retries."""
        return list(self.provider.requests)

    def events(self, user_id: Any = None) -> list[UsageEvent]:
        """Return the booked events, oldest first, including those of calls that returned just now.
        They are of any product: of the default one, of PAYGENT_PRODUCT, and of an API key.

        Args:
            user_id: A user; None returns the events of all. Calls without a user are booked on the
                user "(none)".

        Raises:
            InvalidValue: for an unusable `user_id`, or if the application has started a `Paygent`
                with a `db_path` of its own: its events are elsewhere.
        """
        wanted = valid_user("events", user_id) if user_id is not None else None
        instance = Paygent.get_instance()
        if instance is not None:
            self._check_store(instance)
            instance.flush()
        return [usage_event(event) for event in self._stored(wanted)]

    def _check_store(self, instance: Paygent) -> None:
        if instance.db_path != self.db_path:
            rule = (
                "must not be given in a test: without it, PAYGENT_DB_PATH leads to this test's "
                "store, where PaygentFake reads events"
            )
            raise InvalidValue("Paygent.init", (FieldError("db_path", instance.db_path, rule),))

    def _stored(self, user_id: str | None) -> list[Event]:
        store = SqliteStore(self.db_path)
        try:
            store.open()
            found = [
                event
                for product in self._products()
                for user in _users(store, product)
                if user_id is None or user == user_id
                for event in store.events(product, user)
            ]
        finally:
            store.close()
        return sorted(found, key=lambda event: (event.at_us, event.event_id))

    def _products(self) -> list[str]:
        """Return the products that have events here: an API key has one of its own, and
        PAYGENT_PRODUCT names one, also in a child process.
        """
        # Not a method of `Store`, which keeps tenants apart; all in this file are the test's.
        with closing(sqlite3.connect(self.db_path)) as connection:
            rows = connection.execute("SELECT DISTINCT product_id FROM events").fetchall()
        return [product for (product,) in rows]


def _users(store: SqliteStore, product: str) -> Iterator[str]:
    """Yield the users of a product."""
    after = ""
    while page := store.list_users(product, after=after, users_max=_USERS_PAGE):
        yield from (user.user_id for user in page)
        after = page[-1].user_id


def _shut_down() -> None:
    """Shut down the process's `Paygent`, unless the application has."""
    instance = Paygent.get_instance()
    if instance is not None:
        instance.shutdown()
