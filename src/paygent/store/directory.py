"""The verbs that a server needs over SQL: products, keys, plans, users and their money.

Every write for a user has locked the user's row first, and every write of plans the product's, so
no verb here interleaves with a booking (`booking.py`).
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any

from paygent.core.messages import DEFAULT_PLAN, AssignRecord, GateEvent
from paygent.core.period import Subscription
from paygent.store import erasure
from paygent.store.audit import differing_rows
from paygent.store.audit import repair as repair_counters
from paygent.store.booking import add_plan, assign_plan, with_new_ids
from paygent.store.directory_port import (
    ApiKey,
    Difference,
    GateEventFilter,
    Override,
    Product,
    Progress,
    Remembered,
    RevenueEntry,
    Scope,
    StoredPlan,
    StoredUser,
    UsageOfSession,
    UserChange,
    no_progress,
)
from paygent.store.directory_rows import (
    end_of_prefix,
    gate_event_of,
    gate_event_span,
    key_of,
    new_id,
    optional_text,
    override_of,
    plan_of,
    product_of,
    remembered_of,
    revenue_of,
    revenue_row,
    slug_of,
    stored_user_of,
)
from paygent.store.engine import Engine
from paygent.store.gates import GateSums, add_gate_events, storable_gate_event
from paygent.store.port import StoreBusy
from paygent.store.rows import text
from paygent.store.statements import Statements

_REMEMBERED_US = 86_400 * 10**6  # how long an idempotency key is in use
_EVENTS_OF_SESSION = 50
"""The sessions used last are looked for among so many of the latest events for each of them: a busy
user has tens of thousands in a month, and a page shows a hundred sessions.
"""

_CHANGES = ("name", "paused", "paused_reason", "sdk_enabled")
"""The fields of a user that `change_user` changes."""


def wall_clock_us() -> int:
    """Return the time, in microseconds since 1970 UTC."""
    return time.time_ns() // 1_000


class SqlDirectory:
    """The part of a SQL store that only a server needs; see `directory_port.Directory`."""

    def __init__(self, engine: Engine, *, now_us: Callable[[], int] = wall_clock_us) -> None:
        """Remember the engine; nothing is opened before `open`.

        Args:
            engine: The database.
            now_us: The ledger's clock; it alone orders changes of plans and assignments.
        """
        self.engine = engine
        self.now_us = now_us

    def _reading(self, product: str) -> AbstractContextManager[Statements]:
        return self.engine.transaction(text(product))

    def _writing(self, product: str) -> AbstractContextManager[Statements]:
        return self.engine.transaction(text(product), writes=True)

    # -- products and keys

    def has_products(self) -> bool:
        """Return whether there is a product; see `Directory.has_products`."""
        with self._reading("") as sql:
            return bool(sql.has_products()["found"])

    def add_product(
        self,
        name: str,
        *,
        product_id: str | None = None,
        contact_name: str | None = None,
        contact_email: str | None = None,
    ) -> Product:
        """Create a product; see `Directory.add_product`."""
        with self._writing(new_id("p") if product_id is None else product_id) as sql:
            sql.lock_slugs()
            sql.add_product(
                name=text(name),
                slug=slug_of(name, {row["slug"] for row in sql.slugs_in_use()}),
                contact_name=optional_text(contact_name),
                contact_email=optional_text(contact_email),
                now_us=self.now_us(),
            )
            return product_of(sql.find_product())

    def product(self, product: str) -> Product | None:
        """Return a product; see `Directory.product`."""
        with self._reading(product) as sql:
            row = sql.find_product()
            if row is not None:
                return product_of(row)
            user = sql.first_user()
            return None if user is None else _product_of_users(sql.product_id, user["created_us"])

    def products(self) -> tuple[Product, ...]:
        """Return all products, oldest first; see `Directory.products`."""
        with self._reading("") as sql:
            found = [product_of(row) for row in sql.all_products()]
            with_users = [str(row["product_id"]) for row in sql.products_with_users()]
        known = {each.product_id for each in found}
        others = (self.product(each) for each in with_users if each not in known)
        found += [each for each in others if each is not None]
        return tuple(sorted(found, key=lambda each: (each.created_us, each.product_id)))

    def add_key(self, product: str, *, key_hash: str, scope: Scope, name: str, hint: str) -> ApiKey:
        """Add a key; see `Directory.add_key`."""
        key_id = new_id("key_")
        with self._writing(product) as sql:
            now_us = self.now_us()
            sql.lock_product(now_us=now_us)
            sql.add_key(
                key_id=key_id,
                key_hash=key_hash,
                scope=scope,
                name=text(name),
                hint=text(hint),
                now_us=now_us,
            )
            return key_of(sql.key_by_hash(key_hash=key_hash))

    def key_by_hash(self, product: str, key_hash: str) -> ApiKey | None:
        """Return the key with a hash; see `Directory.key_by_hash`."""
        with self._reading(product) as sql:
            row = sql.key_by_hash(key_hash=text(key_hash))
            return None if row is None else key_of(row)

    def keys(self, product: str) -> tuple[ApiKey, ...]:
        """Return a product's keys; see `Directory.keys`."""
        with self._reading(product) as sql:
            return tuple(key_of(row) for row in sql.keys_of_product())

    def revoke_key(self, product: str, key_id: str) -> bool:
        """Revoke a key; see `Directory.revoke_key`."""
        with self._writing(product) as sql:
            return bool(sql.revoke_key(key_id=text(key_id), now_us=self.now_us()))

    def server_secret(self, name: str) -> str:
        """Return a secret of all servers; see `Directory.server_secret`."""
        with self._reading("") as sql:
            row = sql.server_secret(name=text(name))
        if row is not None:
            return str(row["secret"])
        with self._writing("") as sql:
            return erasure.server_secret(sql, text(name), self.now_us())

    # -- plans

    def plans(self, product: str) -> tuple[StoredPlan, ...]:
        """Return the newest version of every plan; see `Directory.plans`."""
        with self._reading(product) as sql:
            return tuple(plan_of(row) for row in sql.latest_plans())

    def put_plans(
        self, product: str, documents: Mapping[str, dict[str, Any]]
    ) -> tuple[StoredPlan, ...]:
        """Create plans or add versions; see `Directory.put_plans`."""
        if not documents:
            return ()
        with self._writing(product) as sql:
            now_us = self.now_us()
            sql.lock_product(now_us=now_us)
            # Another server's clock may be ahead; this change is the younger one all the same.
            at_us = max(now_us, sql.newest_plan_us()["created_us"])
            for name, document in documents.items():
                add_plan(sql, text(name), json.dumps(document, sort_keys=True), at_us)
            stored = {row["name"]: plan_of(row) for row in sql.latest_plans()}
            return tuple(stored[name] for name in dict.fromkeys(map(text, documents)))

    def delete_plan(self, product: str, plan_id: str) -> int | None:
        """Delete a plan that no user has; see `Directory.delete_plan`."""
        with self._writing(product) as sql:
            now_us = self.now_us()
            row = sql.plan_name(plan_id=text(plan_id))
            if row is None:
                return None
            sql.lock_product(now_us=now_us)
            users = int(sql.count_users_of_plan(plan=row["name"])["users"])
            if row["name"] == _default_plan(sql):
                users += int(sql.count_users_without_plan()["users"])
            if users == 0:
                sql.delete_plan(plan_id=text(plan_id), now_us=now_us)
            return users

    # -- users

    def add_user(self, product: str, user_id: str, name: str | None) -> StoredUser | None:
        """Create a user; see `Directory.add_user`."""
        with self._writing(product) as sql:
            now_us = self.now_us()
            ((stored_id, paygent_user_id),) = with_new_ids([text(user_id)])
            is_new = sql.add_user(
                user_id=stored_id,
                paygent_user_id=paygent_user_id,
                name=optional_text(name),
                now_us=now_us,
            )
            if not is_new:
                return None
            erasure.end_erasure(sql, text(user_id), now_us)
            return _find_user(sql, user_id)

    def user(self, product: str, user_id: str) -> StoredUser | None:
        """Return a user; see `Directory.user`."""
        with self._reading(product) as sql:
            return _find_user(sql, user_id)

    def list_users(
        self, product: str, *, after: str, users_max: int, plan: str | None = None, search: str = ""
    ) -> tuple[StoredUser, ...]:
        """Return users by id; see `Directory.list_users`."""
        span = {
            "first": max(text(after), text(search)),  # one bound, or the wrong one is searched
            "before": end_of_prefix(text(search)),
            "after": text(after),
            "users_max": users_max,
        }
        with self._reading(product) as sql:
            if plan is None:
                rows = sql.directory_page(**span)
            else:
                rows = sql.directory_page_of_plan(plan=text(plan), **span)
                if text(plan) == _default_plan(sql):
                    others = sql.directory_page_without_plan(**span)
                    rows = list(heapq.merge(rows, others, key=lambda row: row["user_id"]))
            return tuple(stored_user_of(row) for row in rows[:users_max])

    def change_user(self, product: str, user_id: str, change: UserChange) -> StoredUser | None:
        """Change a user; see `Directory.change_user`.

        Raises:
            ValueError: for a field that cannot be changed.
        """
        unknown = sorted(change.values.keys() - set(_CHANGES))
        if unknown:
            raise ValueError(f"not a field of a user that can be changed: {', '.join(unknown)}")
        given = {f"gives_{name}": int(name in change.values) for name in _CHANGES}
        values = {name: _column(change.values.get(name)) for name in _CHANGES}
        with self._writing(product) as sql:
            sql.change_user(user_id=text(user_id), **given, **values)
            sql.touch_user(user_id=text(user_id), now_us=self.now_us())
            return _find_user(sql, user_id)

    def subscribe(
        self, product: str, user_id: str, plan: str, subscription: Subscription | None
    ) -> StoredUser | None:
        """Assign a plan and a billing period; see `Directory.subscribe`."""
        with self._writing(product) as sql:
            sql.lock_product(now_us=self.now_us())  # before users, as everywhere: no plan goes
            row = sql.lock_known_user(user_id=text(user_id))
            if row is None:
                return None
            if sql.deleted_plan(name=text(plan)) is not None:
                raise StoreBusy("the plan has just been deleted")
            # Another server's clock may be ahead; this change is the younger one all the same.
            at_us = max(self.now_us(), (row["assigned_us"] or 0) + 1)
            assign_plan(sql, AssignRecord(user_id, plan, None, subscription, at_us), at_us, at_us)
            return _find_user(sql, user_id)

    def erase_user(self, product: str, user_id: str) -> str | None:
        """Erase a user; see `Directory.erase_user`."""
        with self._writing(product) as sql:
            return erasure.erase(sql, text(user_id), self.now_us())

    # -- overrides and revenue

    def add_override(self, product: str, override: Override) -> Override | None:
        """Add an override; see `Directory.add_override`."""
        user_id, limit, now_us = text(override.user_id), override.limit, self.now_us()
        stored = override._replace(
            override_id=new_id("ovr_"),
            user_id=user_id,
            limit=limit._replace(model=text(limit.model), window=text(limit.window)),
            reason=optional_text(override.reason),
            created_us=now_us,
        )
        with self._writing(product) as sql:
            if sql.lock_known_user(user_id=user_id) is None:
                return None
            sql.add_override(
                user_id=user_id,
                override_id=stored.override_id,
                metric=stored.limit.metric,
                scope=stored.limit.scope,
                model=stored.limit.model,
                window_rule=stored.limit.window,
                cap=stored.cap,
                added=stored.added,
                until_us=stored.until_us,
                reason=stored.reason,
                now_us=now_us,
            )
            sql.touch_user(user_id=user_id, now_us=now_us)
            return stored

    def overrides(self, product: str, user_id: str, at_us: int) -> tuple[Override, ...]:
        """Return the overrides of a user; see `Directory.overrides`."""
        with self._reading(product) as sql:
            rows = sql.overrides_of_user(user_id=text(user_id), at_us=at_us)
            return tuple(override_of(row) for row in rows)

    def delete_override(self, product: str, user_id: str, override_id: str) -> bool:
        """End an override; see `Directory.delete_override`."""
        with self._writing(product) as sql:
            ids = {"user_id": text(user_id), "override_id": text(override_id)}
            sql.touch_user(user_id=ids["user_id"], now_us=self.now_us())
            return bool(sql.delete_override(**ids))

    def add_revenue(self, product: str, entries: Sequence[RevenueEntry]) -> frozenset[str]:
        """Add entries; see `Directory.add_revenue`."""
        if not entries:
            return frozenset()
        with self._writing(product) as sql:
            now_us = self.now_us()
            users = (text(each.user_id) for each in entries)
            current = _lock_or_create_users(sql, users, now_us)
            by_key: dict[tuple[str, str], RevenueEntry] = {}
            for each in entries:
                key = current[text(each.user_id)], text(each.revenue_id)
                by_key.setdefault(key, each)
            rows = [
                # Of an erased user no source is kept.
                revenue_row(
                    each if user_id == text(each.user_id) else each._replace(source=None), user_id
                )
                for (user_id, _), each in sorted(by_key.items())
            ]
            found = sql.add_revenue(rows=rows, now_us=now_us)
            return frozenset(by_key[row["user_id"], row["revenue_id"]].revenue_id for row in found)

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
        """Return entries; see `Directory.revenue`."""
        # No entry has an empty id, so this is before the first one.
        from_us, from_user, from_id = max(after or (start_us, "", ""), (start_us, "", ""))
        span = {
            "start_us": from_us,
            "revenue_id": text(from_id),
            "end_us": end_us,
            "entries_max": entries_max,
        }
        with self._reading(product) as sql:
            if user_id is None:
                rows = sql.revenue_of_product(user_id=text(from_user), **span)
            else:
                rows = sql.revenue_of_user(user_id=text(user_id), **span)
            return tuple(revenue_of(row) for row in rows)

    # -- gate events

    def add_gate_events(self, product: str, events: Sequence[GateEvent]) -> frozenset[str]:
        """Add gate events; see `Directory.add_gate_events`."""
        if not events:
            return frozenset()
        with self._writing(product) as sql:
            now_us = self.now_us()
            users = (text(each.user_id) for each in events)
            current = _lock_or_create_users(sql, users, now_us)
            sums = GateSums(sql.product()["timezone"])
            given = []
            for each in events:
                user_id = text(each.user_id)
                pseudonym = current[user_id] if current[user_id] != user_id else None
                given.append(storable_gate_event(each, pseudonym))
            new = add_gate_events(sql, given, sums)
            sums.write(sql)
            return frozenset(
                each.gate_event_id
                for each, stored in zip(events, given, strict=True)
                if (stored.user_id, stored.gate_event_id) in new
            )

    def gate_events(
        self, product: str, user_id: str, wanted: GateEventFilter, events_max: int
    ) -> tuple[GateEvent, ...]:
        """Return gate events of a user; see `Directory.gate_events`."""
        with self._reading(product) as sql:
            rows = sql.gate_events_of_user(
                user_id=text(user_id), events_max=events_max, **gate_event_span(wanted)
            )
            return tuple(gate_event_of(row) for row in rows)

    # -- usage, idempotency, audit

    def usage_of_sessions(
        self, product: str, user_id: str, start_us: int, end_us: int, sessions_max: int
    ) -> tuple[UsageOfSession, ...]:
        """Return a user's usage by session; see `Directory.usage_of_sessions`."""
        with self._reading(product) as sql:
            asked = {
                "user_id": text(user_id),
                "start_us": start_us,
                "end_us": end_us,
                "sessions_max": sessions_max,
            }
            events_max = sessions_max * _EVENTS_OF_SESSION
            begin_us = sql.begin_of_latest_sessions(**asked, events_max=events_max)["begin_us"]
            if begin_us is not None:
                asked["start_us"] = max(start_us, begin_us)
            rows = sql.usage_of_sessions(**asked)
            names = UsageOfSession._fields
            return tuple(UsageOfSession(**{name: row[name] for name in names}) for row in rows)

    def claim(
        self, product: str, key: str, *, request_hash: str, claim_id: str, lapse_us: int
    ) -> Remembered | None:
        """Claim an idempotency key; see `Directory.claim`."""
        with self._writing(product) as sql:
            now_us = self.now_us()
            after_us = now_us - _REMEMBERED_US
            is_claimed = sql.claim_key(
                idempotency_key=text(key),
                request_hash=text(request_hash),
                claim_id=text(claim_id),
                now_us=now_us,
                after_us=after_us,
                lapsed_us=now_us - lapse_us,
            )
            if is_claimed:
                return None
            # The conflict has locked the row, so it is still there.
            row = sql.remembered_request(idempotency_key=text(key), after_us=after_us)
            return remembered_of(row)

    def remembered(self, product: str, key: str) -> Remembered | None:
        """Return the request that has a key; see `Directory.remembered`."""
        with self._reading(product) as sql:
            row = sql.remembered_request(
                idempotency_key=text(key), after_us=self.now_us() - _REMEMBERED_US
            )
            return None if row is None else remembered_of(row)

    def remember(self, product: str, key: str, claim_id: str, status: int, answer: str) -> bool:
        """Remember an answer; see `Directory.remember`."""
        with self._writing(product) as sql:
            sql.forget_requests(after_us=self.now_us() - _REMEMBERED_US)
            ids = {"idempotency_key": text(key), "claim_id": text(claim_id)}
            return bool(sql.remember_answer(status=status, answer=text(answer), **ids))

    def release(self, product: str, key: str, claim_id: str) -> None:
        """End a claim; see `Directory.release`."""
        with self._writing(product) as sql:
            sql.release_key(idempotency_key=text(key), claim_id=text(claim_id))

    def audit(self, product: str, *, progress: Progress = no_progress) -> Iterator[Difference]:
        """Compare every counter with its events; see `Directory.audit`."""
        with self._reading(product) as sql:
            for found in differing_rows(sql, progress):
                yield from found.differences()

    def repair(self, product: str, *, progress: Progress = no_progress) -> int:
        """Set every counter to the fold of its events; see `Directory.repair`."""
        return repair_counters(lambda: self._writing(product), self.now_us, progress)


def _product_of_users(product_id: str, created_us: int) -> Product:
    """Return the product of an application that runs without a server: it has users, and no row."""
    return Product(product_id, product_id, slug_of(product_id), None, None, "UTC", None, created_us)


def _default_plan(sql: Statements) -> str:
    return sql.product()["default_plan"] or DEFAULT_PLAN


def _lock_or_create_users(sql: Statements, user_ids: Iterable[str], now_us: int) -> dict[str, str]:
    """Lock the rows of users in order, created on first sight; return the id of the row of each,
    which is a pseudonym for one that was erased.

    Raises:
        StoreBusy: A user was erased just now; the transaction has to begin again.
    """
    asked = set(user_ids)
    known = erasure.pseudonyms(sql, asked, now_us)
    current = {each: known.get(each, each) for each in asked}
    sql.lock_users(rows=with_new_ids(set(current.values())), now_us=now_us)
    if erasure.pseudonyms(sql, asked, now_us) != known:
        raise StoreBusy("a user is being erased")
    return current


def _find_user(sql: Statements, user_id: str) -> StoredUser | None:
    row = sql.find_user(user_id=text(user_id))
    return None if row is None else stored_user_of(row)


def _column(value: Any) -> Any:
    if isinstance(value, bool):
        return int(value)
    return optional_text(value)
