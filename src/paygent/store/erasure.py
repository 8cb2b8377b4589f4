"""Erasing a user: the id becomes a random pseudonym in every table, and the sums stay.

What may identify a person goes: the id, the name, metadata, descriptions, messages, reasons, the
source of revenue, session ids, and remembered answers and saved views that contain the id; also
the texts of corrections that the user sent for another user's event. Ids of events, of gate events
and of revenue stay, because a repetition is recognized by them; an application must not make them
from a user's id.

For 30 days the ledger keeps a keyed hash of the old id, so that events that arrive late (from the
journal of a process that was away) are booked on the pseudonym. Then nothing leads from one to the
other.
"""

from __future__ import annotations

import hashlib
import hmac
import json
import secrets
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

from paygent.core.event import Event
from paygent.store.dashboard import views_naming
from paygent.store.directory_rows import AFTER_ALL_IDS
from paygent.store.gates import days_with_gates
from paygent.store.rows import text
from paygent.store.statements import Row, Statements
from paygent.store.tags import tags_to_forget, write_tags

LATE_EVENTS_US = 30 * 86_400 * 10**6
"""How long events of an erased id are still booked on its pseudonym."""

_SECRET = "erasure"  # noqa: S105 - the name of a secret
_SLOT = 0  # of the rollup of tags; any is right, since readers sum them
_PAGE = 1_000  # rows that are renamed at a time
_BEFORE_ALL_US = -(2**63)


def server_secret(sql: Statements, name: str, now_us: int) -> str:
    """Return the secret of a name, and create it on first use.

    Args:
        sql: In a transaction that writes.
        name: Of the secret.
        now_us: The ledger's clock.
    """
    row = sql.server_secret(name=name)
    if row is None:
        # Whoever creates it at the same time may be first: the one that is stored counts.
        sql.add_server_secret(name=name, secret=secrets.token_urlsafe(32), now_us=now_us)
        row = sql.server_secret(name=name)
    return str(row["secret"])


def pseudonyms(sql: Statements, user_ids: Iterable[str], now_us: int) -> dict[str, str]:
    """Return the pseudonyms of those users that were erased, by id; one look-up where the product
    has erased none.

    A user may be erased between this and the locking of their row: who writes calls it with the
    rows locked, or again then.

    Args:
        sql: In a transaction.
        user_ids: As texts that a database can hold.
        now_us: The ledger's clock.
    """
    row = sql.erasure_secret()
    if row is None:
        return {}
    hashes = {_hash(row["secret"], sql.product_id, each): each for each in user_ids}
    if not hashes:
        return {}
    found = sql.pseudonyms_by_hash(rows=[(each,) for each in sorted(hashes)], now_us=now_us)
    return {hashes[each["id_hash"]]: each["pseudonym"] for each in found}


def as_erased(event: Event, pseudonym: str) -> Event:
    """Return a late event of an erased user as it is booked: on the pseudonym, without a session
    and without texts.
    """
    return event._replace(user_id=pseudonym, session_id="", description=None, metadata=None)


def end_erasure(sql: Statements, user_id: str, now_us: int) -> None:
    """Stop booking events of an id on a pseudonym, because a user is created under it again."""
    row = sql.erasure_secret()
    if row is not None:
        sql.drop_pseudonym(id_hash=_hash(row["secret"], sql.product_id, user_id))
        sql.drop_expired_pseudonyms(now_us=now_us)


def erase(sql: Statements, user_id: str, now_us: int) -> str | None:
    """Erase a user; return the pseudonym, or None if the user is unknown.

    Args:
        sql: In a transaction that writes.
        user_id: As a text that a database can hold.
        now_us: The ledger's clock.
    """
    if sql.lock_known_user(user_id=user_id) is None:
        return None
    pseudonym = "erased_" + secrets.token_hex(8)
    ids = {"user_id": user_id, "pseudonym": pseudonym}
    tags = tags_to_forget(sql, user_id)  # before the metadata is cleared
    _erase_texts(sql, user_id)  # before the ids that lead to them are renamed
    _rename_sessions(sql, ids)
    spans = sql.spans_with_usage(first="", last=AFTER_ALL_IDS)
    sql.erase_rollup_users(rows=[(row["span"],) for row in spans], **ids)
    sql.erase_rollup_gates(rows=days_with_gates(sql), **ids)
    for rename in (
        *(sql.erase_ids_booked_elsewhere, sql.erase_corrections, sql.erase_assignments),
        *(sql.erase_overrides, sql.erase_revenue),
    ):
        rename(**ids)
    write_tags(sql, tags, _SLOT)  # in the order in which bookings write the rollups
    sql.erase_user(**ids, now_us=now_us)
    sql.erase_answers(quoted=json.dumps(user_id, ensure_ascii=False), escaped=json.dumps(user_id))
    for view_id in views_naming(sql, user_id):
        sql.delete_view(view_id=view_id)
    secret = server_secret(sql, _SECRET, now_us)
    sql.drop_expired_pseudonyms(now_us=now_us)
    sql.replace_pseudonym(**ids)
    sql.put_pseudonym(
        id_hash=_hash(secret, sql.product_id, user_id),
        pseudonym=pseudonym,
        until_us=now_us + LATE_EVENTS_US,
    )
    return pseudonym


class _Sessions:
    """New ids of a user's sessions: each is the same in every table."""

    def __init__(self) -> None:
        # Random, because a session may have had an id that looks like one of these.
        self._prefix = f"erased_{secrets.token_hex(4)}_"
        self._renamed: dict[str, str] = {"": ""}

    def renamed(self, session_id: str) -> str:
        """Return the new id of a session; an event without a session stays without one."""
        new = self._renamed.get(session_id)
        if new is None:
            new = self._renamed[session_id] = f"{self._prefix}{len(self._renamed)}"
        return new


def _rename_sessions(sql: Statements, ids: dict[str, str]) -> None:
    """Move the rows that have session ids to the pseudonym, a page at a time."""
    sessions = _Sessions()
    user_id = ids["user_id"]

    def rename(statement: Callable[..., Any], rows: list[tuple[Any, ...]]) -> None:
        statement(rows=rows, first=rows[0][0], last=rows[-1][0], **ids)

    for read, statement in (
        (sql.sessions_to_erase, sql.erase_sessions),
        (sql.accounts_to_erase, sql.erase_accounts),
    ):
        rename(statement, [("", "")])  # what belongs to no session
        for page in _pages(read, {"session_id": ""}, user_id):
            names = [str(row["session_id"]) for row in page]
            rename(statement, [(each, sessions.renamed(each)) for each in names])
    for page in _pages(sql.events_to_erase, {"at_us": _BEFORE_ALL_US, "event_id": ""}, user_id):
        events = [
            (row["at_us"], row["event_id"], sessions.renamed(row["session_id"])) for row in page
        ]
        rename(sql.erase_events, events)
        sql.erase_event_ids(rows=[(event_id,) for _, event_id, _ in events], **ids)
    for page in _pages(sql.gate_events_to_erase, {"gate_event_id": ""}, user_id):
        gates = [(row["gate_event_id"], sessions.renamed(row["session_id"])) for row in page]
        rename(sql.erase_gate_events, gates)


def _erase_texts(sql: Statements, user_id: str) -> None:
    """Clear the texts of corrections that are booked on another user, a page at a time."""
    for page in _pages(sql.texts_to_erase, {"event_id": ""}, user_id):
        rows = sorted((row["booked_user_id"], row["at_us"], row["event_id"]) for row in page)
        sql.erase_texts(rows=rows, first=rows[0][0], last=rows[-1][0])


def _pages(
    read: Callable[..., list[Row]], key: Mapping[str, Any], user_id: str
) -> Iterator[list[Row]]:
    """Yield the rows of a user after a key in pages, which may be renamed before the next one."""
    while page := read(user_id=user_id, rows_max=_PAGE, **key):
        yield page
        key = {name: page[-1][name] for name in key}


def _hash(secret: str, product_id: str, user_id: str) -> str:
    """Return the keyed hash of a user's id. NUL cannot be part of either id."""
    message = f"{product_id}\0{text(user_id)}".encode()
    return hmac.new(secret.encode(), message, hashlib.sha256).hexdigest()
