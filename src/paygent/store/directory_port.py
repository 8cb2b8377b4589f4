"""The part of the store's port that a server needs: products, keys, plans, users and their money.

The contract is that of `port.py`: every method names a product and touches its rows only, is one
transaction, and raises `StoreUnavailable` for what may pass. Cursors are the last row's sort key,
so pages are stable while rows are added. Lists are bounded by the caller.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, Protocol

from paygent.core.limit import LimitKey
from paygent.core.messages import GateEvent
from paygent.core.period import Subscription

Scope = Literal["admin", "sdk", "read"]

Progress = Callable[[int, int], None]
"""Is called with the number of steps that are done, and of all."""


def no_progress(done: int, steps: int) -> None:
    """Ignore the progress."""


class Product(NamedTuple):
    """A product: a tenant of the backend.

    Attributes:
        product_id: Public id: letters and digits, at most 32; part of its API keys.
        timezone: IANA name; days and months of reports begin in it.
    """

    product_id: str
    name: str
    slug: str
    contact_name: str | None
    contact_email: str | None
    timezone: str
    default_plan: str | None
    created_us: int


class ApiKey(NamedTuple):
    """An API key, without its secret.

    Attributes:
        key_id: Names it in lists and for revoking.
        hint: The first characters of the key, enough to recognize it.
        revoked_us: When it was revoked; None while it is valid.
    """

    product_id: str
    key_id: str
    scope: Scope
    name: str
    hint: str
    created_us: int
    revoked_us: int | None


class StoredPlan(NamedTuple):
    """The newest version of a plan.

    Attributes:
        plan_id: The same for all versions.
        document: As `core.plan_json.plan_to_json` writes it.
    """

    plan_id: str
    name: str
    version: int
    document: dict[str, Any]
    created_us: int


class StoredUser(NamedTuple):
    """A user as the directory has them.

    Attributes:
        user_id: The application's id.
        paygent_user_id: The ledger's own id; it survives an erasure.
        plan: Name of the assigned plan; None is the product's default plan.
        own: The user's own version of the plan, as a document.
        paused: Whether the user's calls are refused.
        last_us: Begin of the last call; 0 without calls.
    """

    user_id: str
    paygent_user_id: str
    name: str | None
    plan: str | None
    own: dict[str, Any] | None
    subscription: Subscription | None
    sdk_enabled: bool
    paused: bool
    paused_reason: str | None
    created_us: int
    last_us: int


class Override(NamedTuple):
    """A limit of one user that is raised until a time; then it ends by itself.

    Attributes:
        limit: Identity of the limit.
        cap: The cap that applies meanwhile, in the limit's unit (nano-dollars for spend); or None.
        added: An amount that is added to the plan's cap; or None. One of the two is given.
        until_us: When it ends.
    """

    override_id: str
    user_id: str
    limit: LimitKey
    cap: int | None
    added: int | None
    until_us: int
    reason: str | None
    created_us: int


class RevenueEntry(NamedTuple):
    """What a user paid for a span of time.

    Attributes:
        revenue_id: The sender's id; unique for the user.
        amount_nano: Nano-dollars; negative for a refund.
        source: Where the figure comes from, such as an invoice number.
    """

    revenue_id: str
    user_id: str
    amount_nano: int
    kind: Literal["payment", "refund"]
    period_start_us: int
    period_end_us: int
    source: str | None


@dataclass(frozen=True)
class GateEventFilter:
    """Which gate events are wanted; None is all.

    Attributes:
        since_us, until_us: Half-open span of time.
        before: Cursor: the (at_us, id) of the last event of the previous page.
        before_user: Completes the cursor in a list of all users: the user of that event.
    """

    status: str | None = None
    gate_reason: str | None = None
    blocked_only: bool = False
    since_us: int | None = None
    until_us: int | None = None
    before: tuple[int, str] | None = None
    before_user: str = ""


class UsageOfSession(NamedTuple):
    """A user's usage in one session."""

    session_id: str
    calls: int
    input_tokens: int
    output_tokens: int
    cost_nano: int
    last_us: int


class Remembered(NamedTuple):
    """An earlier request with the same `Idempotency-Key`, and its answer.

    Attributes:
        request_hash: Of the request; another one with the same key is a conflict.
        status: Of the answer; None while the request runs.
        answer: The body, as it was sent; None while the request runs.
    """

    request_hash: str
    status: int | None
    answer: str | None


class Difference(NamedTuple):
    """A counter that is not the fold of its events.

    Attributes:
        table: "accounts" or a rollup.
        key: Its key columns, by name.
        column: The figure.
        stored, folded: What the row says, and what the events add up to.
    """

    table: str
    key: Mapping[str, Any]
    column: str
    stored: int
    folded: int


@dataclass(frozen=True)
class UserChange:
    """Fields of a user to change; those that are absent stay.

    Attributes:
        values: By name: `name`, `paused`, `paused_reason`, `sdk_enabled`.
    """

    values: Mapping[str, Any] = field(default_factory=dict)


class Directory(Protocol):
    """Products, keys, plans, users and their money; see the module's contract."""

    # -- products and keys

    def has_products(self) -> bool:
        """Return whether there is a product; one that an application made in local mode counts,
        also if it has users alone.
        """

    def add_product(
        self,
        name: str,
        *,
        product_id: str | None = None,
        contact_name: str | None = None,
        contact_email: str | None = None,
    ) -> Product:
        """Create a product, with a slug of its own made from its name, and a random id if none is
        given; one that has the id already is returned as it is.
        """

    def product(self, product: str) -> Product | None:
        """Return a product; None if it does not exist. One that an application made in local mode
        has its id for a name.
        """

    def products(self) -> tuple[Product, ...]:
        """Return all products, oldest first."""

    def add_key(self, product: str, *, key_hash: str, scope: Scope, name: str, hint: str) -> ApiKey:
        """Add a key by the SHA-256 of its text; a local application's product becomes a row."""

    def key_by_hash(self, product: str, key_hash: str) -> ApiKey | None:
        """Return the key with a hash, also if it is revoked."""

    def keys(self, product: str) -> tuple[ApiKey, ...]:
        """Return a product's keys, oldest first."""

    def revoke_key(self, product: str, key_id: str) -> bool:
        """Revoke a key; False if there is none, or it was revoked before."""

    def server_secret(self, name: str) -> str:
        """Return a random secret that all servers of the database share, created on first use."""

    # -- plans

    def plans(self, product: str) -> tuple[StoredPlan, ...]:
        """Return the newest version of every plan that is not deleted, by name."""

    def put_plans(
        self, product: str, documents: Mapping[str, dict[str, Any]]
    ) -> tuple[StoredPlan, ...]:
        """Create plans, or add versions to those that exist with another document; return them, in
        the order in which they are given.
        """

    def delete_plan(self, product: str, plan_id: str) -> int | None:
        """Delete a plan that no user has; return how many users have it, or None if it is unknown.
        Users without an assigned plan have the default plan.
        """

    # -- users

    def add_user(self, product: str, user_id: str, name: str | None) -> StoredUser | None:
        """Create a user; None if they exist. An id that was erased is a new user, and late events
        of it are theirs from then on.
        """

    def user(self, product: str, user_id: str) -> StoredUser | None:
        """Return a user; None if they are unknown."""

    def list_users(
        self, product: str, *, after: str, users_max: int, plan: str | None = None, search: str = ""
    ) -> tuple[StoredUser, ...]:
        """Return users by id, those after a cursor; only those of a plan (of the default plan, also
        those without an assigned one), and those with an id that starts with `search`.
        """

    def change_user(self, product: str, user_id: str, change: UserChange) -> StoredUser | None:
        """Change a user, and return them; None if they are unknown. The end of a pause removes its
        reason.

        Raises:
            ValueError: for a field that cannot be changed.
        """

    def subscribe(
        self, product: str, user_id: str, plan: str, subscription: Subscription | None
    ) -> StoredUser | None:
        """Assign a plan and a billing period; None if the user is unknown. Their own version of
        a plan ends; whether the plan exists is not checked.

        Raises:
            StoreBusy: if the plan is deleted, since the caller has just found it.
        """

    def erase_user(self, product: str, user_id: str) -> str | None:
        """Erase a user: the id becomes a random pseudonym everywhere, names, metadata and session
        ids go, sums stay. What arrives for the id within 30 days lands on the pseudonym. Ids of
        events, gate events and revenue stay, since repetitions are recognized by them.

        Returns:
            The pseudonym; None if the user is unknown.
        """

    # -- overrides, revenue, gate events

    def add_override(self, product: str, override: Override) -> Override | None:
        """Add an override, under a new id; None if the user is unknown."""

    def overrides(self, product: str, user_id: str, at_us: int) -> tuple[Override, ...]:
        """Return the overrides of a user that end after a moment, oldest first."""

    def delete_override(self, product: str, user_id: str, override_id: str) -> bool:
        """End an override; False if there is none."""

    def add_revenue(self, product: str, entries: Sequence[RevenueEntry]) -> frozenset[str]:
        """Add entries, and return the ids that were new; users are created on first sight."""

    def revenue(
        self,
        product: str,
        *,
        user_id: str | None,
        start_us: int,
        end_us: int,
        after: tuple[int, str, str] | None,
        entries_max: int,
    ) -> tuple[RevenueEntry, ...]:
        """Return entries with a period that starts in a half-open span of time, by (start, user,
        id); `after` is that key of the last entry of the previous page.
        """

    def add_gate_events(self, product: str, events: Sequence[GateEvent]) -> frozenset[str]:
        """Add gate events, and return the ids that were new; users are created on first sight."""

    def gate_events(
        self, product: str, user_id: str, wanted: GateEventFilter, events_max: int
    ) -> tuple[GateEvent, ...]:
        """Return gate events of a user, newest first."""

    # -- usage, idempotency, audit

    def usage_of_sessions(
        self, product: str, user_id: str, start_us: int, end_us: int, sessions_max: int
    ) -> tuple[UsageOfSession, ...]:
        """Return a user's usage by session, those used last first."""

    def claim(
        self, product: str, key: str, *, request_hash: str, claim_id: str, lapse_us: int
    ) -> Remembered | None:
        """Claim an idempotency key for a request, before it has its effect. A key is free again a
        day after it was claimed.

        Args:
            product: The product.
            key: The key.
            request_hash: Identifies what is asked.
            claim_id: Identifies this request among those that ask the same.
            lapse_us: Age from which the claim of a request that has not ended is taken over, by a
                request that asks the same.

        Returns:
            None if the key is claimed now; otherwise the request that has it.
        """

    def remembered(self, product: str, key: str) -> Remembered | None:
        """Return the request that has an idempotency key; None if the key is free."""

    def remember(self, product: str, key: str, claim_id: str, status: int, answer: str) -> bool:
        """Remember the answer to the request that has claimed a key; False if the claim was taken
        over. What was claimed more than a day ago is dropped.
        """

    def release(self, product: str, key: str, claim_id: str) -> None:
        """End the claim of a request without an effect, unless the claim was taken over."""

    def audit(self, product: str, *, progress: Progress = no_progress) -> Iterator[Difference]:
        """Compare every counter with the fold of its events, and yield the differences. All is of
        one moment: a transaction is open until the iterator ends or is closed, so one thread reads
        it without pausing.
        """

    def repair(self, product: str, *, progress: Progress = no_progress) -> int:
        """Set every counter to the fold of its events; return how many differed. Each range of
        users is a transaction of its own; what is booked meanwhile stays.
        """
