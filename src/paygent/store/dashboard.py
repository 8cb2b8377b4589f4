"""The verbs that a dashboard needs over SQL: logins, saved views, and lists for its pages.

Nothing here changes the ledger. No statement reads what grows with a product's history: lists are
pages by an index, and what is read as a whole is bounded.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Collection
from urllib.parse import unquote_plus

from paygent.core.event import Event
from paygent.core.messages import GateEvent
from paygent.store.dashboard_port import (
    VIEWS_MAX,
    AuditRecord,
    CallFilter,
    Deliveries,
    Login,
    PlanVersion,
    SavedView,
)
from paygent.store.directory_port import GateEventFilter, StoredUser
from paygent.store.directory_rows import (
    gate_event_of,
    gate_event_span,
    new_id,
    optional_text,
    stored_user_of,
)
from paygent.store.engine import Engine
from paygent.store.rows import event_of, text
from paygent.store.statements import Row, Statements


class SqlDashboard:
    """The part of a SQL store that only a dashboard needs; see `dashboard_port.Dashboard`.

    Attributes:
        engine: The database.
        now_us: The ledger's clock, by which logins expire.
    """

    engine: Engine
    now_us: Callable[[], int]

    # -- logins and saved views

    def add_login(self, product: str, *, login_hash: str, key_id: str, expires_us: int) -> Login:
        """Add a login; see `Dashboard.add_login`."""
        with self.engine.transaction(text(product), writes=True) as sql:
            now_us = self.now_us()
            login = Login(sql.product_id, text(login_hash), text(key_id), now_us, expires_us)
            sql.forget_logins(now_us=now_us)
            sql.add_login(
                login_hash=login.login_hash,
                key_id=login.key_id,
                now_us=now_us,
                expires_us=expires_us,
            )
            return login

    def login(self, product: str, login_hash: str) -> Login | None:
        """Return a login; see `Dashboard.login`."""
        with self.engine.transaction(text(product)) as sql:
            row = sql.login_by_hash(login_hash=text(login_hash), now_us=self.now_us())
            return None if row is None else Login(**{name: row[name] for name in Login._fields})

    def end_login(self, product: str, login_hash: str) -> bool:
        """End a login; see `Dashboard.end_login`."""
        with self.engine.transaction(text(product), writes=True) as sql:
            return bool(sql.end_login(login_hash=text(login_hash)))

    def saved_views(self, product: str) -> tuple[SavedView, ...]:
        """Return all views; see `Dashboard.saved_views`."""
        with self.engine.transaction(text(product)) as sql:
            return _views(sql)

    def save_view(self, product: str, name: str, page: str, query: str) -> SavedView | None:
        """Save a view; see `Dashboard.save_view`."""
        with self.engine.transaction(text(product), writes=True) as sql:
            now_us = self.now_us()
            sql.lock_product(now_us=now_us)  # so that no two are saved as the last one
            views = _views(sql)
            key = text(name), text(page)
            known = next((each for each in views if (each.name, each.page) == key), None)
            if known is None and len(views) >= VIEWS_MAX:
                return None
            view = known or SavedView(new_id("view_"), *key, "", now_us)
            view = view._replace(query=text(query))
            sql.put_view(**view._asdict())
            return view

    def delete_view(self, product: str, view_id: str) -> bool:
        """Delete a view; see `Dashboard.delete_view`."""
        with self.engine.transaction(text(product), writes=True) as sql:
            return bool(sql.delete_view(view_id=text(view_id)))

    # -- lists

    def latest_gate_events(
        self, product: str, wanted: GateEventFilter, events_max: int
    ) -> tuple[GateEvent, ...]:
        """Return gate events of all users; see `Dashboard.latest_gate_events`."""
        with self.engine.transaction(text(product)) as sql:
            rows = sql.latest_gate_events(
                before_user=text(wanted.before_user),
                events_max=events_max,
                **gate_event_span(wanted),
            )
            return tuple(gate_event_of(row) for row in rows)

    def calls(
        self, product: str, user_id: str, wanted: CallFilter, calls_max: int
    ) -> tuple[Event, ...]:
        """Return events of a user; see `Dashboard.calls`."""
        # No event has an empty id, so this is before all of the moment at which the span ends.
        end = wanted.end_us, ""
        before_us, before_id = min(wanted.before or end, end)
        with self.engine.transaction(text(product)) as sql:
            rows = sql.calls_of_user(
                user_id=text(user_id),
                start_us=wanted.start_us,
                before_us=before_us,
                before_id=text(before_id),
                model=optional_text(wanted.model),
                provider=optional_text(wanted.provider),
                plan=optional_text(wanted.plan),
                session_id=optional_text(wanted.session_id),
                quality=wanted.quality,
                calls_max=calls_max,
            )
            return tuple(event_of(row) for row in rows)

    def users_by_id(self, product: str, user_ids: Collection[str]) -> tuple[StoredUser, ...]:
        """Return users by id; see `Dashboard.users_by_id`."""
        with self.engine.transaction(text(product)) as sql:
            rows = sql.users_by_id(rows=[(text(user_id),) for user_id in user_ids])
            return tuple(stored_user_of(row) for row in rows)

    def plan_history(self, product: str, name: str) -> tuple[PlanVersion, ...]:
        """Return all versions of a plan; see `Dashboard.plan_history`."""
        with self.engine.transaction(text(product)) as sql:
            return tuple(_version_of(row) for row in sql.versions_of_plan(name=text(name)))

    # -- health

    def record_audit(self, product: str, differences: int) -> None:
        """Store the outcome of an audit; see `Dashboard.record_audit`."""
        with self.engine.transaction(text(product), writes=True) as sql:
            sql.put_audit(at_us=self.now_us(), differences=differences)

    def last_audit(self, product: str) -> AuditRecord | None:
        """Return the outcome of the last audit; see `Dashboard.last_audit`."""
        with self.engine.transaction(text(product)) as sql:
            row = sql.last_audit()
            return None if row is None else AuditRecord(row["at_us"], row["differences"])

    def deliveries(self, product: str, since_us: int) -> Deliveries:
        """Return which processes deliver usage; see `Dashboard.deliveries`."""
        with self.engine.transaction(text(product)) as sql:
            row = sql.deliveries(since_us=since_us)
            return Deliveries(row["processes"], row["last_us"])


def views_naming(sql: Statements, user_id: str) -> list[str]:
    """Return the ids of the saved views that contain a user's id: in their name, or decoded in
    their page or query.

    The id is looked for as a whole: "ann" is not in "annual", "ann-2" or "ann@example.com".
    """
    whole = re.compile(rf"(?<![\w@+-])(?<!\w\.){re.escape(user_id)}(?![\w@+-]|\.\w)")
    return [
        view.view_id
        for view in _views(sql)
        if any(map(whole.search, (view.name, unquote_plus(view.page), unquote_plus(view.query))))
    ]


def _views(sql: Statements) -> tuple[SavedView, ...]:
    names = SavedView._fields
    return tuple(SavedView(**{name: row[name] for name in names}) for row in sql.views_of_product())


def _version_of(row: Row) -> PlanVersion:
    values = {name: row[name] for name in PlanVersion._fields}
    return PlanVersion(**{**values, "document": json.loads(row["document"])})
