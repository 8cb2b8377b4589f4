"""The audit: whether every counter is the fold of what it counts, and its repair.

Theory of operation
-------------------
A product is read in ranges of users, and the rollups that begin with a day by day, so that no
statement takes long and memory holds one range. The database folds the rollups. Accounts are folded
here, because windows overlap: events are read in the order of their time, and what an account
counted is the difference of two running sums, at the end and at the begin of its window.

An audit reads one moment. A repair is a transaction for each range, in which the users are locked;
it adds what is missing, so that whatever is booked at the same time stays.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from itertools import groupby
from typing import Any, NamedTuple

from paygent.core.account import AccountKey, amount
from paygent.store.booking import with_new_ids
from paygent.store.directory_port import Difference, Progress, no_progress
from paygent.store.directory_rows import AFTER_ALL_IDS, gate_event_of
from paygent.store.gates import GATE_FIGURES, GATE_KEY, GateSums, days_with_gates
from paygent.store.rollups import ALL_SUMS, FIGURES, METADATA, PRODUCT_KEY, USER_KEY
from paygent.store.rows import account_key_of, from_json
from paygent.store.statements import Row, Statements
from paygent.store.tags import TAG_ROLLUP_KEY, TagSums, add_tags, tag_days_of

_USERS_PAGE = 200
_ROWS_PAGE = 5_000
_BEFORE_ALL_US = -(2**63)
_MONTH_LENGTH = len("2026-10")
_SLOT = 0  # of a product's rollup; any is right, since readers sum them


class _Table(NamedTuple):
    """A table of counters.

    Attributes:
        name: Its name.
        add: The statement that adds to it.
        keys: Its key columns besides the product, in the order of that statement.
        columns: Its figures, in that order.
    """

    name: str
    add: str
    keys: tuple[str, ...]
    columns: tuple[str, ...]


_USERS = _Table("rollup_user", "roll_up_users", USER_KEY, FIGURES)
_PRODUCTS = _Table("rollup_product", "roll_up_products", PRODUCT_KEY, FIGURES)
_GATES = _Table("rollup_gate", "roll_up_gates", GATE_KEY, GATE_FIGURES)
_TAGS = _Table("rollup_tag", "roll_up_tags", TAG_ROLLUP_KEY, FIGURES)
_ACCOUNTS = _Table(
    "accounts",
    "book_accounts",
    (
        *("user_id", "session_id", "end_us", "start_us"),
        *("metric", "scope", "model", "window_rule"),
    ),
    ("spent", "shadow"),
)


class DifferingRow(NamedTuple):
    """A row of counters that is not the fold of its events; a missing row has zeros.

    Attributes:
        table: The table.
        key: Values of its key columns.
        stored, folded: Values of its columns.
    """

    table: _Table
    key: tuple[Any, ...]
    stored: tuple[int, ...]
    folded: tuple[int, ...]

    def differences(self) -> Iterator[Difference]:
        """Yield each figure that differs."""
        key = dict(zip(self.table.keys, self.key, strict=True))
        for name, stored, folded in zip(self.table.columns, self.stored, self.folded, strict=True):
            if stored != folded:
                yield Difference(self.table.name, key, name, stored, folded)

    @property
    def user_id(self) -> str:
        """The user of the row."""
        return str(self.key[self.table.keys.index("user_id")])

    def missing(self) -> tuple[Any, ...]:
        """Return the row that has to be added."""
        added = (a - b for a, b in zip(self.folded, self.stored, strict=True))
        return *self.key, *added


class _Range(NamedTuple):
    """A range of users: those from `first` to before `before`."""

    first: str
    before: str
    user_ids: tuple[str, ...]


def differing_rows(sql: Statements, progress: Progress = no_progress) -> Iterator[DifferingRow]:
    """Yield every row of counters that differs from its fold.

    Args:
        sql: In a transaction that reads one moment.
        progress: Counts users and days.
    """
    days = _days(sql)
    steps = int(sql.audit_users()["users"]) + len(days)
    done = 0
    users: _Range | None = None
    while (users := _next_range(sql, users)) is not None:
        yield from _differing_rows_of_users(sql, users)
        done += len(users.user_ids)
        progress(done, steps)
    for each in days:
        yield from _differing_rows_of_day(sql, each)
        done += 1
        progress(done, steps)


def repair(
    writing: Callable[[], AbstractContextManager[Statements]],
    now_us: Callable[[], int],
    progress: Progress = no_progress,
) -> int:
    """Set every counter to its fold, and return how many differed.

    Args:
        writing: Begins a transaction that writes, for one product.
        now_us: The ledger's clock.
        progress: Counts users and days.
    """
    repaired = done = 0
    with writing() as sql:
        days = _days(sql)
        steps = int(sql.audit_users()["users"]) + len(days)
    users: _Range | None = None
    while True:
        with writing() as sql:
            users = _next_range(sql, users)
            if users is None:
                break
            repaired += _repair(sql, _locked_differing_rows(sql, users, now_us()))
        done += len(users.user_ids)
        progress(done, steps)
    for each in days:
        with writing() as sql:
            # Two repairs that add the same difference would add it twice.
            sql.lock_product(now_us=now_us())
            repaired += _repair(sql, list(_differing_rows_of_day(sql, each)))
        done += 1
        progress(done, steps)
    return repaired


def _locked_differing_rows(sql: Statements, users: _Range, now_us: int) -> list[DifferingRow]:
    """Return the rows of a range that differ, with their users locked: what is read by several
    statements is then of one moment.
    """
    locked = {each for each in users.user_ids if sql.lock_known_user(user_id=each) is not None}
    while True:
        rows = list(_differing_rows_of_users(sql, users))
        # A user may have come meanwhile, or have counters and no row.
        others = {row.user_id for row in rows} - locked
        if not others:
            return rows
        sql.lock_users(rows=with_new_ids(others), now_us=now_us)
        locked |= others


def _repair(sql: Statements, rows: Sequence[DifferingRow]) -> int:
    """Add what is missing to rows; return how many figures differed."""
    by_table: dict[_Table, list[tuple[Any, ...]]] = {}
    for row in rows:
        by_table.setdefault(row.table, []).append(row.missing())
    for table, missing in by_table.items():
        others = {"slot": _SLOT} if table in (_PRODUCTS, _TAGS) else {}
        getattr(sql, table.add)(rows=sorted(missing), **others)
    return sum(len(list(row.differences())) for row in rows)


def _days(sql: Statements) -> list[str]:
    """Return the days that have events or a row of a rollup."""
    known = (*sql.days_with_events(), *sql.days_with_products(), *sql.days_with_tags())
    found = {row["day"] for row in known}
    found.update(row["span"] for row in _spans(sql) if len(row["span"]) > _MONTH_LENGTH)
    return sorted(found)


def _months(sql: Statements) -> list[tuple[str]]:
    """Return the months that the rollup has, as rows."""
    return [(row["span"],) for row in _spans(sql) if len(row["span"]) == _MONTH_LENGTH]


def _spans(sql: Statements) -> list[Row]:
    found: list[Row] = sql.spans_with_usage(first="", last=AFTER_ALL_IDS)
    return found


def _next_range(sql: Statements, last: _Range | None) -> _Range | None:
    """Return the range after another, or the first one; None after the last. Together the ranges
    contain every id, also of users without a row.
    """
    if last is None:
        first, after = "", ""
    elif last.before == AFTER_ALL_IDS:
        return None
    else:
        first, after = last.before, last.user_ids[-1]
    page = sql.users_page(after=after, users_max=_USERS_PAGE + 1)
    user_ids = tuple(str(row["user_id"]) for row in page)
    before = user_ids[_USERS_PAGE] if len(user_ids) > _USERS_PAGE else AFTER_ALL_IDS
    return _Range(first, before, user_ids[:_USERS_PAGE])


def _differing_rows_of_day(sql: Statements, day: str) -> Iterator[DifferingRow]:
    # A statement reads one moment, so nothing needs to be locked for a repair.
    yield from _found(_USERS, sql.audit_days(day=day))
    yield from _found(_PRODUCTS, sql.audit_products(day=day))
    yield from _differing_tags(sql, day)


def _differing_tags(sql: Statements, day: str) -> Iterator[DifferingRow]:
    """Yield rows of the rollup of tags; the events are grouped by their metadata, folded here."""
    tag_days = tag_days_of(sql.product())
    if not tag_days:
        return
    stored: TagSums = {}
    folded: TagSums = {}
    columns = {"metadata": METADATA, "sums": ALL_SUMS}
    for row in sql.stream("tags_of_day", columns, day=day):
        figures = [row[name] for name in FIGURES]
        if row["is_stored"]:
            stored[day, row["tag_key"], row["tag_value"]] = figures
        else:
            add_tags(folded, day, from_json(row["metadata"]), figures, tag_days)
    nothing = [0] * len(FIGURES)
    for key in sorted(stored.keys() | folded.keys()):
        figures, sums = stored.get(key, nothing), folded.get(key, nothing)
        if figures != sums:
            yield DifferingRow(_TAGS, key, tuple(figures), tuple(sums))


def _differing_rows_of_users(sql: Statements, users: _Range) -> Iterator[DifferingRow]:
    span = {"first": users.first, "before": users.before}
    yield from _found(_USERS, sql.audit_months(rows=_months(sql), **span))
    yield from _differing_gates(sql, users)
    yield from _differing_accounts(sql, users)


def _found(table: _Table, rows: Iterable[Row]) -> Iterator[DifferingRow]:
    """Yield the rows that the database has folded."""
    for row in rows:
        yield DifferingRow(
            table,
            tuple(row[name] for name in table.keys),
            tuple(row[f"stored_{name}"] for name in table.columns),
            tuple(row[name] for name in table.columns),
        )


def _differing_gates(sql: Statements, users: _Range) -> Iterator[DifferingRow]:
    """Yield rows of the rollup of gates. Gate events are folded here: their days are not stored."""
    folds = GateSums(sql.product()["timezone"])
    key = {"user_id": users.first, "at_us": _BEFORE_ALL_US, "gate_event_id": ""}
    for row in _stream(sql.gate_events_to_audit, key, users.before):
        folds.add(gate_event_of(row))
    span = {"first": users.first, "before": users.before}
    for row in sql.shadow_to_audit(**span):
        place = row["day"], row["user_id"], row["gate_reason"]
        folds.add_shadow(*place, row["shadow_calls"], row["shadow_cost_nano"])
    stored = {
        tuple(row[each] for each in GATE_KEY): tuple(row[each] for each in GATE_FIGURES)
        for row in sql.rollup_gates_to_audit(rows=days_with_gates(sql), **span)
    }
    nothing = (0,) * len(GATE_FIGURES)
    for each in sorted(stored.keys() | folds.sums.keys()):
        figures, folded = stored.get(each, nothing), tuple(folds.sums.get(each, nothing))
        if figures != folded:
            yield DifferingRow(_GATES, each, figures, folded)


def _differing_accounts(sql: Statements, users: _Range) -> Iterator[DifferingRow]:
    """Yield accounts; the events are read if there are any."""
    account_key: dict[str, Any] = dict.fromkeys(_ACCOUNTS.keys, "") | {
        "user_id": users.first,
        "end_us": _BEFORE_ALL_US,
        "start_us": _BEFORE_ALL_US,
    }
    event_key = {"user_id": users.first, "at_us": _BEFORE_ALL_US, "event_id": ""}
    accounts = groupby(_stream(sql.accounts_to_audit, account_key, users.before), _user_id)
    events = groupby(_stream(sql.events_to_audit, event_key, users.before), _user_id)
    reached: tuple[str, Iterator[Row]] | None = ("", iter(()))
    for user_id, rows in accounts:
        stored = list(rows)
        while reached is not None and reached[0] < user_id:
            reached = next(events, None)
        own = reached[1] if reached is not None and reached[0] == user_id else ()
        folds = fold_accounts([account_key_of(row) for row in stored], own)
        for row, folded in zip(stored, folds, strict=True):
            figures = row["spent"], row["shadow"]
            if figures != folded:
                key = tuple(row[name] for name in _ACCOUNTS.keys)
                yield DifferingRow(_ACCOUNTS, key, figures, folded)


def _user_id(row: Row) -> str:
    return str(row["user_id"])


def _stream(read: Callable[..., list[Row]], key: Mapping[str, Any], before: str) -> Iterator[Row]:
    """Yield the rows after a key in pages, in the order of their keys."""
    while True:
        page = read(**key, before=before, rows_max=_ROWS_PAGE)
        yield from page
        if len(page) < _ROWS_PAGE:
            return
        key = {name: page[-1][name] for name in key}


def fold_accounts(keys: Sequence[AccountKey], events: Iterable[Row]) -> list[tuple[int, int]]:
    """Return (spent, shadow) of a user's accounts: the sums of the events that each counts, by the
    rule `AccountKey.counts`.

    Args:
        keys: The accounts; none is of a rolling window.
        events: Rows of `events_to_audit` of the user, in the order of their time.
    """
    # Accounts that count the same session and model share the running sums.
    running = {(key.session_id, key.limit.model): [0] * 6 for key in keys}
    sums = [running[key.session_id, key.limit.model] for key in keys]
    opening = sorted(range(len(keys)), key=lambda each: -keys[each].start_us)
    closing = sorted(range(len(keys)), key=lambda each: -keys[each].end_us)
    begins: list[list[int] | None] = [None] * len(keys)
    ends: list[list[int] | None] = [None] * len(keys)
    for event in events:
        at_us = event["at_us"]
        while opening and keys[opening[-1]].start_us <= at_us:
            each = opening.pop()
            begins[each] = list(sums[each])
        while closing and keys[closing[-1]].end_us <= at_us:
            each = closing.pop()
            ends[each] = list(sums[each])
        _add(running, event)
    folds = []
    for key, begin, end, now in zip(keys, begins, ends, sums, strict=True):
        if begin is None or key.end_us <= key.start_us:
            folds.append((0, 0))  # a window that has not begun, or is none
            continue
        counted = [b - a for a, b in zip(begin, end or now, strict=True)]
        folds.append((_amount(key, counted[:3]), _amount(key, counted[3:])))
    return folds


def _add(running: Mapping[tuple[str, str], list[int]], event: Row) -> None:
    """Add an event to the running sums that count it."""
    cost_nano, tokens, calls = event["cost_nano"], event["tokens"], event["calls"]
    models = {"", event["model_key"], event["model"]}
    for session_id in {"", event["session_id"]}:
        for model in models:
            sums = running.get((session_id, model))
            if sums is not None:
                sums[0] += cost_nano
                sums[1] += tokens
                sums[2] += calls
                if event["blocked"]:
                    sums[3] += cost_nano
                    sums[4] += tokens
                    sums[5] += calls


def _amount(key: AccountKey, counted: Sequence[int]) -> int:
    cost_nano, tokens, calls = counted
    return amount(key.limit.metric, cost_nano=cost_nano, tokens=tokens, calls=calls)
