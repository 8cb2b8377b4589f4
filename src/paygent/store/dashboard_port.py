"""The part of the store's port that a dashboard needs: its logins and saved views, and lists of
calls, gate events, plan versions, audits and deliveries as its pages show them.

The contract is that of `port.py`: every method names a product and touches its rows only, is one
transaction, and raises `StoreUnavailable` for what may pass. Cursors are the last row's sort key,
so pages are stable while rows are added. Lists are bounded by the caller, or by the limit that the
method names.
"""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

from paygent.core.event import Event
from paygent.core.messages import GateEvent
from paygent.core.usage import Quality
from paygent.store.directory_port import GateEventFilter, StoredUser

VIEWS_MAX = 100
"""Saved views of a product."""


class Login(NamedTuple):
    """A login of the dashboard: a browser that an API key of scope `admin` has let in.

    Attributes:
        login_hash: SHA-256 of the secret that the browser has.
        key_id: The API key; when it is revoked, its logins end.
        expires_us: When it ends by itself.
    """

    product_id: str
    login_hash: str
    key_id: str
    created_us: int
    expires_us: int


class SavedView(NamedTuple):
    """A page of the dashboard with its filters, under a name.

    Attributes:
        page: Which page it is of.
        query: The page's query string.
        created_us: When the name was first used for the page.
    """

    view_id: str
    name: str
    page: str
    query: str
    created_us: int


@dataclass(frozen=True)
class CallFilter:
    """Which calls of a user are wanted; None is all, and "" those without a value.

    Attributes:
        start_us, end_us: Half-open span of time.
        model: As limits and reports count it (`Event.model_key`).
        plan: Name of the plan that the call ran under.
        before: Cursor: the (at_us, event_id) of the last call of the previous page.
    """

    start_us: int
    end_us: int
    model: str | None = None
    provider: str | None = None
    plan: str | None = None
    session_id: str | None = None
    quality: Quality | None = None
    before: tuple[int, str] | None = None


class PlanVersion(NamedTuple):
    """One version of a plan.

    Attributes:
        version: From 1 on; a plan that is deleted and made again counts on.
        document: As `core.plan_json.plan_to_json` writes it.
        deleted_us: When the plan was deleted that this is a version of; None while it is in use.
        plan_id: The same for all versions.
    """

    version: int
    document: dict[str, Any]
    created_us: int
    deleted_us: int | None
    plan_id: str


class AuditRecord(NamedTuple):
    """The outcome of the last audit of a product.

    Attributes:
        at_us: When it ended.
        differences: Figures that were not the fold of their events.
    """

    at_us: int
    differences: int


class Deliveries(NamedTuple):
    """Which processes deliver usage.

    Attributes:
        processes: Those that have delivered since the time that was asked for.
        last_us: When any process delivered last; 0 if none did in the time for which the ledger
            remembers processes.
    """

    processes: int
    last_us: int


class Dashboard(Protocol):
    """Logins, saved views and lists for the pages of a dashboard; see the module's contract."""

    # -- logins and saved views

    def add_login(self, product: str, *, login_hash: str, key_id: str, expires_us: int) -> Login:
        """Add a login by the SHA-256 of its secret; the product's expired logins are deleted."""

    def login(self, product: str, login_hash: str) -> Login | None:
        """Return a login; None if it is unknown or has expired by the ledger's clock, or if its API
        key is revoked or not of scope `admin`.
        """

    def end_login(self, product: str, login_hash: str) -> bool:
        """End a login; False if there is none."""

    def saved_views(self, product: str) -> tuple[SavedView, ...]:
        """Return all views, by name and page."""

    def save_view(self, product: str, name: str, page: str, query: str) -> SavedView | None:
        """Save a view; one of the same name and page keeps its id and gets the new query. None if
        it is another one and there are `VIEWS_MAX` already.
        """

    def delete_view(self, product: str, view_id: str) -> bool:
        """Delete a view; False if there is none."""

    # -- lists

    def latest_gate_events(
        self, product: str, wanted: GateEventFilter, events_max: int
    ) -> tuple[GateEvent, ...]:
        """Return gate events of all users, newest first, by (at_us, id, user). Ids are unique for a
        user, so a cursor is exact only with `GateEventFilter.before_user`.
        """

    def calls(
        self, product: str, user_id: str, wanted: CallFilter, calls_max: int
    ) -> tuple[Event, ...]:
        """Return events of a user, newest first; corrections are events, too."""

    def users_by_id(self, product: str, user_ids: Collection[str]) -> tuple[StoredUser, ...]:
        """Return users as the directory has them, by id; ids that are unknown are left out."""

    def plan_history(self, product: str, name: str) -> tuple[PlanVersion, ...]:
        """Return all versions of a plan, newest first, also if it is deleted."""

    # -- health

    def record_audit(self, product: str, differences: int) -> None:
        """Store the outcome of an audit that has just ended, in the place of the last one's."""

    def last_audit(self, product: str) -> AuditRecord | None:
        """Return the outcome of the last audit; None if there was none."""

    def deliveries(self, product: str, since_us: int) -> Deliveries:
        """Return how many processes have delivered since a time, and when any did last."""
