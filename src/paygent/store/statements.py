"""The named SQL statements, written once for both engines, and how they are run.

The files in `sql/` are in the dialect that SQLite and PostgreSQL share. Two things differ and are
resolved when a file is read:

- `rows(user_id TEXT, at_us BIGINT) AS k` is a table of rows that are passed as one parameter,
  `rows`: a JSON array of arrays. An insertion of such rows, `INSERT INTO … SELECT … FROM rows(…)
  AS k WHERE true …`, is run row by row on SQLite, which takes a third of the time;
- `/*sqlite … */` and `/*postgres … */` are read by that engine alone.

A join with passed rows is written `FROM rows(…) AS k CROSS JOIN t AS a WHERE …`, with whatever
follows the condition at the beginning of a line. Left to themselves both planners may read a whole
product instead of looking up each row: SQLite's has no statistics, and that of PostgreSQL has none
for a new database. SQLite reads the rows of a cross join first; for PostgreSQL the table becomes
`LATERAL (SELECT … OFFSET 0)`, which depends on the row and is not reordered.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, closing
from functools import lru_cache
from operator import itemgetter
from pathlib import Path
from typing import Any, Literal, NamedTuple

SQL_FOLDER = Path(__file__).parent / "sql"

Dialect = Literal["sqlite", "postgres"]
Row = Any  # values by column name (`sqlite3.Row`, a dict)
RowsIn = Sequence[tuple[Any, ...]]
"""Rows that a statement takes, in the order of the columns that its `rows(…)` names."""

_ROWS = re.compile(r"\brows\(([^)]*)\) AS (\w+)")
_ONLY = re.compile(r"/\*(sqlite|postgres)\b(.*?)\*/", re.DOTALL)
_NAME = re.compile(r"^-- name: (\w+)([*!^$]*)", re.MULTILINE)
_LOOKUP = re.compile(
    r"^CROSS JOIN (\w+) AS (\w+)\s+WHERE (.*?)(?=;|^GROUP BY|^ORDER BY|^LIMIT|^UNION ALL|^\),)",
    re.MULTILINE | re.DOTALL,
)
_EACH_ROW = re.compile(r"\bFROM rows\([^)]*\) AS k\s+WHERE true\b")
_PARAMETER = re.compile(r"(?<!:):(\w+)")
_USE = re.compile(r"\bk\.\w+|(?<!:):\w+")  # of a passed column, or of another parameter
_STREAM_ROWS = 1_000  # that are fetched at a time
_TEXT = re.compile(r"\bTEXT\b")


class RowByRow(NamedTuple):
    """A statement that SQLite runs for one row after another.

    Attributes:
        sql: With a placeholder for each use of a column or of another parameter.
        others: Names of the other parameters.
        pick: Returns the values of the placeholders from a row that the others follow.
    """

    sql: str
    others: tuple[str, ...]
    pick: Callable[[tuple[Any, ...]], tuple[Any, ...]]


class Queries(NamedTuple):
    """The statements of one dialect.

    Attributes:
        named: The functions that aiosql made, by attribute.
        columns: The columns of `rows(…)`, by the name of the statement.
        row_by_row: Those that are run row by row, by name.
        names: Every statement.
        open_cursor: Opens a cursor that does not read all rows at once.
        open_tuples: Opens one that returns rows as tuples.
    """

    named: Any
    columns: Mapping[str, tuple[str, ...]]
    row_by_row: Mapping[str, RowByRow]
    names: tuple[str, ...]
    open_cursor: Callable[[Any], AbstractContextManager[Any]]
    open_tuples: Callable[[Any], AbstractContextManager[Any]]


class Statements:
    """The named statements as methods, in one transaction and for one product."""

    def __init__(self, queries: Queries, connection: Any, product_id: str) -> None:
        """Bind the statements.

        Args:
            queries: The statements of the connection's dialect.
            connection: In a transaction.
            product_id: Bound to every statement.
        """
        self._queries = queries
        self.connection = connection
        self.product_id = product_id

    def of_product(self, product_id: str) -> Statements:
        """Return the statements of this transaction, bound to another product."""
        return Statements(self._queries, self.connection, product_id)

    def filled(
        self, name: str, columns: Mapping[str, str], rows: RowsIn, **parameters: Any
    ) -> list[Row]:
        """Run a reading statement with columns in the place of its braces; see `stream`."""
        parameters |= {"product_id": self.product_id, "rows": json.dumps(rows)}
        sql = getattr(self._queries.named, name).sql.format(**columns)
        found: list[Row] = self.connection.execute(sql, parameters).fetchall()
        return found

    def tuples(
        self,
        name: str,
        columns: Mapping[str, str] | None = None,
        rows: RowsIn | None = None,
        **parameters: Any,
    ) -> list[tuple[Any, ...]]:
        """Run a reading statement with many rows; return them as tuples, which are made in half
        the time. For the arguments see `stream`.
        """
        parameters["product_id"] = self.product_id
        if rows is not None:
            parameters["rows"] = json.dumps(rows)
        sql = getattr(self._queries.named, name).sql
        with self._queries.open_tuples(self.connection) as cursor:
            found: list[tuple[Any, ...]] = cursor.execute(
                sql.format(**columns) if columns else sql, parameters
            ).fetchall()
        return found

    def stream(
        self,
        name: str,
        columns: Mapping[str, str],
        rows: RowsIn | None = None,
        **parameters: Any,
    ) -> Iterator[Row]:
        """Yield the rows of a reading statement one by one, so that memory holds few of them.

        Args:
            name: Of the statement.
            columns: What is filled in for its braces: SQL of this package, never a value.
            rows: The rows that it takes; None if it takes none.
            **parameters: Its other parameters.
        """
        parameters["product_id"] = self.product_id
        if rows is not None:
            parameters["rows"] = json.dumps(rows)
        sql = getattr(self._queries.named, name).sql.format(**columns)
        with self._queries.open_cursor(self.connection) as cursor:
            cursor.execute(sql, parameters)
            yield from cursor

    def __getattr__(self, name: str) -> Callable[..., Any]:
        queries = self._queries
        run = getattr(queries.named, name)
        columns = queries.columns.get(name)
        row_by_row = queries.row_by_row.get(name)

        def statement(rows: RowsIn | None = None, **parameters: Any) -> Any:
            """Run it; return a list of rows, or what the statement's suffix says."""
            parameters["product_id"] = self.product_id
            if rows is not None and row_by_row is not None:
                others = tuple(parameters[each] for each in row_by_row.others)
                many = (row_by_row.pick((*row, *others)) for row in rows)
                return self.connection.executemany(row_by_row.sql, many).rowcount
            if rows is not None and columns is not None:
                parameters["rows"] = json.dumps(rows)
            found = run(self.connection, **parameters)
            return list(found) if isinstance(found, Iterator) else found

        return statement


@lru_cache(maxsize=2)
def load_queries(dialect: Dialect) -> Queries:
    """Return the statements of a dialect."""
    import aiosql  # imported with the first store, not with the package

    script = "\n".join(
        path.read_text(encoding="utf-8") for path in sorted(SQL_FOLDER.glob("*.sql"))
    )
    script = only_for(dialect, script)
    columns: dict[str, tuple[str, ...]] = {}
    row_by_row: dict[str, RowByRow] = {}
    blocks = _NAME.split(script)
    names, bodies = blocks[1::3], blocks[3::3]
    for name, suffix, body in zip(names, blocks[2::3], bodies, strict=True):
        found = _ROWS.search(body)
        if found is not None:
            columns[name] = tuple(column for column, _ in _columns(found[1]))
        if dialect == "sqlite" and suffix == "!" and _EACH_ROW.search(body):
            row_by_row[name] = _row_by_row(body, columns[name])
    if dialect == "sqlite":
        script, driver = _ROWS.sub(_rows_of_sqlite, script), "sqlite3"
    else:
        script, driver = _LOOKUP.sub(_lookup_of_postgres, script), "psycopg"
        script = _ROWS.sub(_rows_of_postgres, script)
    named = aiosql.from_str(script, driver, mandatory_parameters=False)
    if dialect == "sqlite":
        return Queries(
            named, columns, row_by_row, tuple(names), _cursor_of_sqlite, _tuples_of_sqlite
        )
    return Queries(
        named, columns, row_by_row, tuple(names), _cursor_of_postgres, _tuples_of_postgres
    )


def _cursor_of_sqlite(connection: Any) -> AbstractContextManager[Any]:
    return closing(connection.cursor())


def _tuples_of_sqlite(connection: Any) -> AbstractContextManager[Any]:
    cursor = connection.cursor()
    cursor.row_factory = None
    return closing(cursor)


def _tuples_of_postgres(connection: Any) -> AbstractContextManager[Any]:
    from psycopg.rows import tuple_row

    opened: AbstractContextManager[Any] = connection.cursor(row_factory=tuple_row)
    return opened


def _cursor_of_postgres(connection: Any) -> AbstractContextManager[Any]:
    cursor = connection.cursor("stream")  # with a name, the server keeps the rows
    cursor.itersize = _STREAM_ROWS
    opened: AbstractContextManager[Any] = cursor
    return opened


def migrations(dialect: Dialect) -> tuple[str, ...]:
    """Return the scripts that make the schema, in order; the schema's version is their number."""
    scripts = (
        path.read_text(encoding="utf-8")
        for path in sorted((SQL_FOLDER / "migrations").glob("*.sql"))
    )
    return tuple(_for_schema(dialect, script) for script in scripts)


def _for_schema(dialect: Dialect, script: str) -> str:
    # Comments first: they may speak of TEXT.
    script = only_for(dialect, "\n".join(_without_comments(script)))
    return script if dialect == "sqlite" else _TEXT.sub('TEXT COLLATE "C"', script)


def only_for(dialect: Dialect, script: str) -> str:
    """Resolve the comments that only one engine reads."""
    return _ONLY.sub(lambda found: found[2].strip() if found[1] == dialect else "", script)


def split_statements(script: str) -> list[str]:
    """Split a migration at the semicolons that end its lines; drivers take one at a time."""
    return [part for part in re.split(r";\s*$", script, flags=re.MULTILINE) if part.strip()]


def _columns(listed: str) -> list[tuple[str, str]]:
    """Return (name, type) of each column of `rows(…)`."""
    return [(name, kind) for name, kind in (each.split() for each in listed.split(","))]


def _row_by_row(body: str, columns: tuple[str, ...]) -> RowByRow:
    """Return an insertion of passed rows as one of a single row: `k.user_id` becomes `?`."""
    sql = _EACH_ROW.sub("WHERE true", "\n".join(_without_comments(body)))
    others = tuple(dict.fromkeys(_PARAMETER.findall(sql)))
    names = [*(f"k.{name}" for name in columns), *(f":{name}" for name in others)]
    used = [names.index(found) for found in _USE.findall(sql)]
    return RowByRow(_USE.sub("?", sql).strip().rstrip(";"), others, itemgetter(*used))


def _without_comments(script: str) -> Iterator[str]:
    for line in script.splitlines():
        yield line.partition("--")[0]


def _lookup_of_postgres(found: re.Match[str]) -> str:
    table, alias, condition = found.groups()
    return (
        f"CROSS JOIN LATERAL (SELECT * FROM {table} AS {alias}"  # noqa: S608 - of our files
        f" WHERE {condition} OFFSET 0) AS {alias}\n"
    )


def _rows_of_sqlite(found: re.Match[str]) -> str:
    fields = ", ".join(
        f"json_extract(value, '$[{number}]') AS {name}"
        for number, (name, _) in enumerate(_columns(found[1]))
    )
    return f"(SELECT {fields} FROM json_each(:rows)) AS {found[2]}"  # noqa: S608 - of our files


def _rows_of_postgres(found: re.Match[str]) -> str:
    # One parameter for all columns: the driver takes longer to write an array of texts.
    fields = ", ".join(
        f"CAST(value ->> {number} AS {kind}) AS {name}"
        for number, (name, kind) in enumerate(_columns(found[1]))
    )
    array = "jsonb_array_elements(CAST(:rows AS JSONB)) AS each (value)"
    return f"(SELECT {fields} FROM {array}) AS {found[2]}"  # noqa: S608 - of our files
