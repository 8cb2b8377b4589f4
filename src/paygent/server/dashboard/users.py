"""The list of users: by margin, cost or id, searched and paged at any number of users.

Sorted by a figure it lists users with usage or revenue in the range, from a snapshot of margins, or
with a filter by model or provider from a report of usage. By id, or searched, it lists all users.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from starlette.responses import Response

from paygent.core.margin import MarginFigures, MarginQuery
from paygent.core.report import START, Cursor
from paygent.core.validation import NAME_CHARS_MAX
from paygent.server.cursors import read_cursor, write_cursor
from paygent.server.dashboard.render import page
from paygent.server.dashboard.visit import MemberVisit
from paygent.server.problems import invalid
from paygent.store.directory_port import StoredUser

ROWS = 50

MARGIN_SORTS = ("margin", "cost", "revenue", "calls", "projected_margin")
SPEND_SORTS = ("cost", "calls", "input_tokens", "output_tokens")
BY_ID = "user"


class UserRow(NamedTuple):
    """A user of the list.

    Attributes:
        user_id: The user.
        user: As the directory has them; None for calls without a user.
        margin: With revenue; None where the list is filtered by model or provider.
        calls, cost_nano: In the range, with the filters.
        estimated_calls, unpriced_calls: Parts of the calls; 0 where margins are listed.
    """

    user_id: str
    user: StoredUser | None
    margin: MarginFigures | None
    calls: int
    cost_nano: int
    estimated_calls: int = 0
    unpriced_calls: int = 0


class UserPage(NamedTuple):
    """A page of the list.

    Attributes:
        cursor: Of the next page; None on the last one.
        total: Calls and cost of all rows; None where the list is of the directory.
        as_of_us: The ledger's time of figures that are not of this moment; None where they are.
    """

    rows: Sequence[UserRow]
    cursor: str | None
    total: tuple[int, int] | None
    as_of_us: int | None = None


async def show_users(visit: MemberVisit) -> Response:
    """Show a page of users."""
    search = visit.text("search").strip()
    if len(search) > NAME_CHARS_MAX or "\0" in search:
        raise invalid("search", search, f"must have at most {NAME_CHARS_MAX} characters")
    is_whole = not {"model", "provider"} & visit.state.where.keys()
    sorts = MARGIN_SORTS if is_whole else SPEND_SORTS
    sort = visit.text("sort", BY_ID if search else "-cost")
    name = sort.removeprefix("-")
    if name not in (*sorts, BY_ID):
        raise invalid("sort", sort, f"must be one of {', '.join((*sorts, BY_ID))}")
    if search or name == BY_ID:
        sort = BY_ID
        found = await _by_id(visit, search, is_whole=is_whole)
    elif is_whole:
        found = await _by_margin(visit, name, is_descending=sort != name)
    else:
        found = await _by_usage(visit, sort)
    return await page(
        visit,
        "users.html",
        views=await visit.ask(visit.store.saved_views),
        found=found,
        as_of_us=found.as_of_us,
        sort=sort,
        search=search,
        is_whole=is_whole,
        keep={"search": search or None, "sort": sort},
        is_first="cursor" not in visit.query,
    )


async def _by_margin(visit: MemberVisit, sort: str, *, is_descending: bool) -> UserPage:
    margins = await visit.snapshots.margins(visit.tenant, visit.margin_request("user", None))
    after = START
    if cursor := visit.text("cursor"):
        after = Cursor(*read_cursor(cursor, int, str))
    query = MarginQuery(
        "user", 0, 0, sort=sort, is_descending=is_descending, rows_max=ROWS, after=after
    )
    if not margins.groups.is_sorted(sort, is_descending=is_descending):
        # Only the first page in an order sorts, on a thread: the next ones, and snapshots, keep it.
        sort_all = margins.groups.sorted_keys
        await visit.tenant.backend.in_store(sort_all, sort, is_descending=is_descending)
    found = margins.groups.page(query)
    users = await _users(visit, [row.key for row in found.rows])
    rows = [
        UserRow(row.key, users.get(row.key), row.figures, row.figures.calls, row.figures.cost_nano)
        for row in found.rows
    ]
    following = found.following and write_cursor(*found.following[:2])
    total = found.total.calls, found.total.cost_nano
    return UserPage(rows, following, total, margins.as_of_us)


async def _by_usage(visit: MemberVisit, sort: str) -> UserPage:
    request = visit.spend_request("user", ROWS, sort=sort, cursor=visit.text("cursor"))
    found = (await visit.ask(visit.store.spend, request)).page
    users = await _users(visit, [row.keys[0] for row in found.rows])
    rows = [
        UserRow(
            row.keys[0],
            users.get(row.keys[0]),
            None,
            row.figures.calls,
            row.figures.cost_nano,
            row.figures.estimated_calls,
            row.figures.unpriced_calls,
        )
        for row in found.rows
    ]
    following = found.following and write_cursor(*found.following[:2])
    return UserPage(rows, following, (found.total.calls, found.total.cost_nano))


async def _by_id(visit: MemberVisit, search: str, *, is_whole: bool) -> UserPage:
    after = ""
    if cursor := visit.text("cursor"):
        (after,) = read_cursor(cursor, str)
    users = await visit.ask(
        visit.store.list_users,
        after=after,
        users_max=ROWS + 1,
        plan=visit.state.where.get("plan") or None,
        search=search,
    )
    shown = users[:ROWS]
    following = write_cursor(shown[-1].user_id) if len(users) > ROWS else None
    if is_whole:
        asked = visit.margin_request("user", None)
        margins = await visit.snapshots.margins(visit.tenant, asked)
        rows = []
        for each in shown:
            own = margins.groups.figures(each.user_id)
            rows.append(UserRow(each.user_id, each, own, own.calls, own.cost_nano))
        return UserPage(rows, following, None, margins.as_of_us)
    sums = await visit.ask(
        visit.store.spend_of_users,
        visit.spend_request("user", None),
        [each.user_id for each in shown],
    )
    rows = []
    for each in shown:
        own_sums = sums[each.user_id]
        counts = own_sums.estimated_calls, own_sums.unpriced_calls
        rows.append(UserRow(each.user_id, each, None, own_sums.calls, own_sums.cost_nano, *counts))
    return UserPage(rows, following, None)


async def _users(visit: MemberVisit, user_ids: Sequence[str]) -> Mapping[str, StoredUser]:
    """Return users as the directory has them."""
    found = await visit.ask(visit.store.users_by_id, user_ids)
    return {user.user_id: user for user in found}
