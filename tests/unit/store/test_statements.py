"""The named statements: complete, without a second of the same name, and none of them scans."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterator
from itertools import permutations, product
from pathlib import Path
from typing import Any

import pytest
from tests.postgres import Cluster

from paygent.core.report import TIME_KEYS, SpendQuery
from paygent.store import reports, statements, tallies
from paygent.store.postgres import PostgresStore
from paygent.store.replay import _DAY, _PERIOD
from paygent.store.rollups import ALL_SUMS, FIGURES, METADATA
from paygent.store.rows import EVENT_COLUMNS
from paygent.store.sqlite import SqliteStore
from paygent.store.statements import SQL_FOLDER, load_queries, migrations, only_for

ROWS = 20_000
"""Rows of every table while plans are read: enough for an engine to prefer an index."""

SMALL = frozenset(
    {
        *("products", "plans", "api_keys", "erased_users", "server_secrets"),
        *("idempotency_keys", "corrections_waiting", "outages", "saved_views", "audits"),
    }
)
"""Tables and indexes with few rows for each product, which may be read as a whole."""

OF_ALL_USERS = frozenset(
    {
        *("users_of_plans", "count_users_without_plan"),
        *("has_products", "products_with_users", "first_user"),
    }
)
"""Statements that are asked about all users and read an index of them, or stop at the first."""


_METADATA = METADATA


def names() -> list[str]:
    """Return the name of every statement, in the order of the files."""
    return [
        name
        for file in sorted(SQL_FOLDER.glob("*.sql"))
        for name in re.findall(r"^-- name: (\w+)", file.read_text(encoding="utf-8"), re.M)
    ]


def texts(dialect: statements.Dialect) -> Iterator[tuple[str, str]]:
    """Yield every statement with its name; those with braces once for all that reports fill in."""
    for name in names():
        text = getattr(load_queries(dialect).named, name).sql
        if "{" not in text:
            yield name, text
            continue
        if name.startswith("groups_of_"):
            for first, metadata in product(reports._EVENT_COLUMNS.values(), ("NULL", _METADATA)):
                sums = ALL_SUMS
                yield name, text.format(first=first, second="''", metadata=metadata, sums=sums)
            continue
        if name in ("tags_of_day", "tags_of_user"):
            yield name, text.format(metadata=_METADATA, sums=ALL_SUMS)
            continue
        if name == "spend_of_tags":
            for listed in ("tag:a", "tag:a,day", "month,tag:a", "day", ""):
                by = tuple(listed.split(",")) if listed else ()
                query = SpendQuery(by, 0, 1, sort="cost" if "day" not in by else "day")
                yield name, text.format(**reports._columns(query, ALL_SUMS))
            continue
        if name == "usage_past_lines":
            yield from ((name, text.format(window=window)) for window in (_PERIOD, _DAY))
            continue
        if name == "gates_of_days":
            yield from ((name, text.format(**columns)) for columns in gate_columns())
            continue
        of_product = name == "spend_of_product"
        keys = [key for key in reports._COLUMNS if not (of_product and key in ("user", "period"))]
        for first, second in [*product(keys, keys), *((key, "") for key in keys)]:
            by = tuple(dict.fromkeys(key for key in (first, second) if key))
            for sort in ("cost", *(key for key in by if key in TIME_KEYS)):
                query = SpendQuery(by, 0, 1, sort=sort)
                for sums in ("", ALL_SUMS):
                    yield name, text.format(**reports._columns(query, sums))


def gate_columns() -> Iterator[dict[str, str]]:
    """Yield what is filled into the statement about gates."""
    keys = tallies._GATE_COLUMNS
    for by in [(), *((key,) for key in keys), *permutations(keys, 2)]:
        for sort in ("shadow_cost", "soft", *(key for key in by if key in TIME_KEYS), *by[:1]):
            yield tallies._columns(SpendQuery(by, 0, 1, sort=sort))


def is_audit(name: str) -> bool:
    """Return whether a statement belongs to `paygent audit`, which reads everything."""
    return name in re.findall(r"^-- name: (\w+)", (SQL_FOLDER / "audit.sql").read_text(), re.M)


def test_statements__every_name__is_given_once() -> None:
    """Of two statements of one name, one would silently override the other."""
    assert [name for name, times in Counter(names()).items() if times > 1] == []


def test_statements__every_name__is_used_by_the_store() -> None:
    """No statement is dead, and none that is called is missing."""
    sources = [path.read_text(encoding="utf-8") for path in SQL_FOLDER.parent.glob("*.py")]
    called = set(re.findall(r"(?:\b|_)sql\.(\w+)", "\n".join(sources)))
    called |= set(
        re.findall(
            r'"(spend_of_\w+|groups_of_\w+|usage_of_day|gates_of_days|tags_of_\w+)"',
            "\n".join(sources),
        )
    )  # reports'
    called |= set(re.findall(r'"(roll_up_\w+|book_accounts)"', "\n".join(sources)))  # the audit's
    called |= set(re.findall(r'\.tuples\(\s*"(\w+)"', "\n".join(sources)))
    others = {"connection", "product_id", "of_product", "strip", "from_str"}
    others |= {"stream", "filled", "tuples", "format"}
    assert called - others == set(names())


@pytest.mark.parametrize("dialect", ["sqlite", "postgres"])
def test_statements__loaded__are_all_there(dialect: statements.Dialect) -> None:
    """Every named statement can be called, in both dialects, and has no macro left."""
    queries = load_queries(dialect)
    assert sorted(queries.names) == sorted(names())
    for name in names():
        assert "rows(" not in getattr(queries.named, name).sql


def test_statements__comments_of_an_engine__are_read_by_it_alone() -> None:
    """The other engine sees nothing."""
    script = "a /*sqlite B */ c /*postgres D\nE */"
    assert only_for("sqlite", script) == "a B c "
    assert only_for("postgres", script) == "a  c D\nE"


def test_statements__row_by_row__bind_each_column_and_parameter() -> None:
    """Each placeholder gets the value of the column or parameter that stood there."""
    found = load_queries("sqlite").row_by_row["roll_up_products"]
    assert found.others == ("product_id", "slot")
    assert found.sql.count("?") == 6 + len(FIGURES)
    figures = tuple(range(len(FIGURES)))
    row = ("day", "model", "provider", "plan", *figures)
    values = ("acme", "day", "model", "provider", "plan", "slot", *figures)
    assert found.pick((*row, "acme", "slot")) == values


def test_schema__of_postgres__sorts_text_as_sqlite_does() -> None:
    """One collation: an order by id is the same on both engines."""
    script = "\n".join(migrations("postgres"))
    assert re.findall(r'\bTEXT\b(?! COLLATE "C")', script) == []


def test_schema__of_events__has_a_column_for_each_of_a_row(tmp_path: Path) -> None:
    """A field that is added to `Event` and missed in the schema would be an error at the first
    event.
    """
    store = SqliteStore(":memory:")
    with store.engine.transaction("acme") as sql:
        rows = sql.connection.execute("PRAGMA table_info(events)").fetchall()
    store.close()
    assert sorted(row["name"] for row in rows) == sorted(EVENT_COLUMNS)


def test_statements__every_one__is_understood_by_the_oldest_sqlite() -> None:
    """SQLite before 3.38 has no `->>`, and before 3.39 rejects HAVING without GROUP BY."""
    queries = load_queries("sqlite")
    texts = {name: getattr(queries.named, name).sql.upper() for name in names()}
    assert [name for name, sql in texts.items() if "HAVING" in sql or "->>" in sql] == []


def test_statements__none_uses__what_a_database_distributed_by_user_refuses() -> None:
    """Locks of several users are taken by sorted upserts. What is left locks one row, or rows of a
    table that is not distributed.
    """
    queries = load_queries("postgres")
    texts = {name: getattr(queries.named, name).sql for name in names()}
    assert [name for name, text in texts.items() if "SKIP LOCKED" in text] == []
    locking = {name for name, text in texts.items() if "FOR UPDATE" in text}
    assert locking == {"lock_known_user", "forget_requests"}


# -- nothing scans


def parameters(sql: str) -> dict[str, Any]:
    """Return a value for each parameter of a statement."""
    return {name: _value(name) for name in re.findall(r"(?<!:):(\w+)", sql)}


def _value(name: str) -> Any:
    if name == "rows":
        return json.dumps([[1] * 30])
    is_number = name.endswith(
        ("_us", "_max", "_nano", "slot", "keeps", "implicit", "number", "cap")
    )
    return 1 if is_number else "1"


@pytest.fixture(params=["as it is made", "with statistics"])
def sqlite_store(request: pytest.FixtureRequest) -> Iterator[SqliteStore]:
    """A store with many rows, of which the planner knows nothing, or everything."""
    store = SqliteStore(":memory:")
    with store.engine.transaction("acme", writes=True) as sql:
        for table in _tables(sql.connection):
            columns = [row["name"] for row in sql.connection.execute(f"PRAGMA table_info({table})")]
            values = ", ".join("'acme'" if each == "product_id" else "n" for each in columns)
            sql.connection.execute(
                f"WITH RECURSIVE k(n) AS (SELECT 1 UNION ALL SELECT n + 1 FROM k WHERE n < {ROWS})"
                f" INSERT OR IGNORE INTO {table} SELECT {values} FROM k"
            )
        if request.param == "with statistics":
            sql.connection.execute("ANALYZE")
    yield store
    store.close()


def _tables(connection: Any) -> list[str]:
    rows = connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")
    return [row["name"] for row in rows if not row["name"].startswith("sqlite_")]


def test_statements__on_sqlite__find_their_rows_by_more_than_the_product(
    sqlite_store: SqliteStore,
) -> None:
    """The work for a batch or a user does not grow with the product's history."""
    slow = {}
    with sqlite_store.engine.transaction("acme") as sql:
        for name, text in texts("sqlite"):
            values: Any = parameters(text)
            if name in load_queries("sqlite").row_by_row:
                text = load_queries("sqlite").row_by_row[name].sql
                values = [1] * text.count("?")
            plan = sql.connection.execute(f"EXPLAIN QUERY PLAN {text}", values).fetchall()
            tables = {alias: table for table, alias in re.findall(r"(\w+) AS (\w+)", text)}
            details = [str(row["detail"]) for row in plan]
            found = [step for step in details if _reads_too_much(step, details, tables)]
            if found and not is_audit(name) and name not in OF_ALL_USERS:
                slow[name] = found
    assert slow == {}, _listed(slow)


def _listed(slow: dict[str, list[str]]) -> str:
    return "\n".join(f"{name}: {step}" for name, steps in slow.items() for step in steps)


def _reads_too_much(step: str, plan: list[str], tables: dict[str, str]) -> bool:
    """Return whether a step reads a whole table, or all rows of a product."""
    if not step.startswith(("SCAN", "SEARCH")):
        return False
    if tables.get(step.split()[1], step.split()[1]) in SMALL or "corrections_waiting" in step:
        return False
    # Only rows of the statement's own input or of its subqueries may be read in full.
    derived = {line.split()[1] for line in plan if line.startswith(("MATERIALIZE", "CO-ROUTINE"))}
    derived |= {alias for alias, table in tables.items() if table == "found"}  # recursive queries
    if step.startswith("SCAN"):
        is_input = "VIRTUAL TABLE" in step or step == "SCAN CONSTANT ROW"
        return not is_input and step.split()[1] not in derived
    return step.endswith("(product_id=?)")


@pytest.mark.parametrize("state", ["empty", "without statistics", "with statistics"])
def test_statements__on_postgres__find_their_rows_by_more_than_the_product(
    postgres: Cluster, state: str
) -> None:
    """The same there, also in the minutes of a new database in which the server has looked at none
    of its tables: a connection keeps a plan until the server does.
    """
    store = PostgresStore(postgres.new_database())
    slow = {}
    with store.engine.transaction("acme", writes=True) as sql:
        if state != "empty":
            _fill(sql.connection)
        if state == "with statistics":
            sql.connection.execute("ANALYZE")
        for name, text in texts("postgres"):
            steps = _generic_plan(sql.connection, text)
            scans = [_shown(each) for each in steps if _scans(each)]
            if scans and not is_audit(name) and name not in OF_ALL_USERS:
                slow[name] = scans
    store.close()
    assert slow == {}, _listed(slow)


def _generic_plan(connection: Any, text: str) -> list[dict[str, Any]]:
    """Return the steps of a statement as it runs: planned once for any value
    (`plan_cache_mode`).
    """
    found = list(dict.fromkeys(re.findall(r"%\((\w+)\)s", text)))
    for number, each in enumerate(found, 1):
        text = text.replace(f"%({each})s", f"${number}")
    explain = f"EXPLAIN (GENERIC_PLAN, FORMAT JSON) {text}"
    (row,) = connection.execute(explain, prepare=False).fetchall()
    return list(_steps(row["QUERY PLAN"][0]["Plan"]))


PAGES = ("latest_gate_events", "calls_of_user")
"""Statements that read a page of a list which grows without bound, in the order of an index."""


def test_statements__of_pages__are_read_in_order_on_sqlite(sqlite_store: SqliteStore) -> None:
    """A page costs what it holds: nothing is sorted but the rows of one moment."""
    with sqlite_store.engine.transaction("acme") as sql:
        for name in PAGES:
            text = getattr(load_queries("sqlite").named, name).sql
            explain = f"EXPLAIN QUERY PLAN {text}"
            rows = sql.connection.execute(explain, parameters(text)).fetchall()
            assert "USE TEMP B-TREE FOR ORDER BY" not in [row["detail"] for row in rows], name


def test_statements__of_pages__are_read_in_order_on_postgres(postgres: Cluster) -> None:
    """The same there, although a page is planned for any filter."""
    store = PostgresStore(postgres.new_database())
    with store.engine.transaction("acme", writes=True) as sql:
        _fill(sql.connection)
        sql.connection.execute("ANALYZE")
        for name in PAGES:
            text = getattr(load_queries("postgres").named, name).sql
            steps = {each["Node Type"] for each in _generic_plan(sql.connection, text)}
            assert "Sort" not in steps, (name, steps)
    store.close()


def _fill(connection: Any) -> None:
    """Fill every table."""
    rows = connection.execute(
        "SELECT table_name, column_name, data_type FROM information_schema.columns"
        " JOIN information_schema.tables USING (table_schema, table_name)"
        " WHERE table_schema = 'public' AND table_type = 'BASE TABLE'"
        " ORDER BY table_name, ordinal_position"
    ).fetchall()
    tables: dict[str, list[str]] = {}
    for row in rows:
        value = "n" if row["data_type"] in ("bigint", "integer") else "'v' || n"
        if row["column_name"] == "product_id":
            value = "'acme'"
        tables.setdefault(row["table_name"], []).append(value)
    for table, values in tables.items():
        if table != "schema_version" and not re.fullmatch(r"events_(\d+_\d+|other)", table):
            connection.execute(
                f"INSERT INTO {table} SELECT {', '.join(values)} FROM generate_series(1, {ROWS}) n"
                " ON CONFLICT DO NOTHING"
            )


def _steps(plan: dict[str, Any]) -> Iterator[dict[str, Any]]:
    yield plan
    for part in plan.get("Plans", ()):
        yield from _steps(part)


def _scans(step: dict[str, Any]) -> bool:
    table, index = str(step.get("Relation Name")), str(step.get("Index Name"))
    if table.startswith(tuple(SMALL)) or index.startswith(tuple(SMALL)):
        return False  # indexes are named after their tables
    if re.fullmatch(r"events_\d+_\d+", table):
        return False  # empty partitions of coming months, where one index is as good as another
    if step["Node Type"] == "Seq Scan":
        return True
    condition = step.get("Index Cond", "")
    is_index = step["Node Type"] in ("Index Scan", "Index Only Scan", "Bitmap Index Scan")
    columns = set(re.findall(r"\b([a-z_]+)(?: COLLATE \S+)? (?:=|>|<|>=|<=) ", condition))
    return is_index and columns <= {"product_id"}


def _shown(step: dict[str, Any]) -> str:
    place = step.get("Relation Name") or step.get("Index Name")
    return f"{step['Node Type']} {place} {step.get('Index Cond', '')}"
