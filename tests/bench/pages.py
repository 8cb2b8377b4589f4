"""Pages of the dashboard: how long a request takes, from the socket to the last byte.

Databases of both engines are filled by `dataset.load`, and served by a process of its own, whose
clock stands at the dataset's end. One person is signed in who looks at all pages in turn, about
once a second or two each, so that every snapshot is watched and renewed the whole time: what a page
takes while others are read again is in its figures. The first look at a page, which may read a
snapshot, is printed apart, and so are looks after pauses, in which snapshots are kept or not.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from html import unescape
from typing import NamedTuple

import httpx
from tests.bench.backend import PRODUCT, databases
from tests.bench.dataset import MODELS, PLANS, Dataset, Size
from tests.bench.figures import percentile
from tests.bench.reports import Spans, fill, spans_of

from paygent.core.report_request import read_request
from paygent.server.api.products import create_key
from paygent.server.dashboard.snapshots import SHOWN_S, WATCHED_S
from paygent.server.run import bind, serve
from paygent.server.settings import ServerSettings
from paygent.store.factory import open_store

PAGE_MS = 150.0
"""Budget of a page: p95, in milliseconds."""

_ROUNDS = 40
_ROUND_S = 1.5  # at least: people click about that often
_PAUSES = ((3, WATCHED_S / 2), (2, WATCHED_S + SHOWN_S + 5))
"""How often there is a pause, and how long."""
_FRAGMENT = {"HX-Request": "true", "HX-Request-Type": "partial"}
_TOKEN = re.compile(r'name="csrf_token" value="([^"]+)"')
_NEXT = re.compile(r'id="next-page" href="([^"]+)"')
_CALL = re.compile(r'href="(/call\?[^"]+)"')


class Page(NamedTuple):
    """A page to measure: its name and its address."""

    name: str
    address: str


_OVERVIEWS = (
    Page("overview, this month", "/"),
    Page("overview, last month", "/?range=previous"),
    Page("overview, 30 days, compared", "/?range=30d&compare=previous"),
)


def pages(calls: Sequence[int], engines: Sequence[str] = ("SQLite", "PostgreSQL")) -> None:
    """Measure each engine at each size, given in calls."""
    for count in calls:
        dataset = Dataset(Size(calls=count))
        with databases() as found:
            for name, url, _ in found:
                if name in engines:
                    print(f"{name}, pages, {count:,} calls of {dataset.size.users:,} users")
                    fill(url, dataset)
                    measure_pages(url, dataset)


def measure_pages(url: str, dataset: Dataset) -> None:
    """Measure the pages of a database that is filled."""
    busiest = _busiest_user(url, dataset)
    with _server(url, dataset.now_us) as client:
        first, readings = _first_looks(client, busiest, spans_of(dataset))
        for number in range(_ROUNDS):
            for headers in ({}, _FRAGMENT):
                started = time.perf_counter()
                for page in first:
                    readings[page.name, bool(headers)].append(_time(client, page, headers))
                rest_s = _ROUND_S / 2 - (time.perf_counter() - started)
                if number + 1 < _ROUNDS and rest_s > 0:
                    time.sleep(rest_s)
        after_pauses = {pause_s: _after(client, pause_s, count) for count, pause_s in _PAUSES}
    for page, first_ns in first.items():
        _print(page, first_ns, *(readings[page.name, part] for part in (False, True)))
    for pause_s, found in after_pauses.items():
        for page, each in found.items():
            shown = ", ".join(f"{reading / 1e6:.0f}" for reading in sorted(each))
            print(f"  {page.name}, after a pause of {pause_s:.0f} s: {shown} ms", flush=True)


def _after(client: httpx.Client, pause_s: float, count: int) -> dict[Page, list[int]]:
    """Look at overviews after pauses; they have a snapshot each."""
    readings: dict[Page, list[int]] = {page: [] for page in _OVERVIEWS}
    for _ in range(count):
        time.sleep(pause_s)
        for page in _OVERVIEWS:
            readings[page].append(_time(client, page, {}))
    return readings


def _first_looks(
    client: httpx.Client, user_id: str, spans: Spans
) -> tuple[dict[Page, int], dict[tuple[str, bool], list[int]]]:
    """Look at every page once; return how long that took, and empty lists of readings."""
    first: dict[Page, int] = {}
    for page in _pages(client, user_id, spans):
        first[page] = _time(client, page, {})
    return first, {(page.name, part): [] for page in first for part in (False, True)}


def _pages(client: httpx.Client, user_id: str, spans: Spans) -> Iterator[Page]:
    """Yield the pages; the addresses of some are read from others."""
    model, plan = MODELS[2].key, list(PLANS)[1]
    yield from _OVERVIEWS
    yield Page("overview, one model", f"/?model={model}")
    yield Page("overview, 90 days by plan", "/?range=90d&group=plan")
    yield Page("users, by cost", "/users?sort=-cost")
    yield Page("users, by margin", "/users?sort=margin")
    yield Page("users, by projected margin", "/users?sort=projected_margin")
    yield Page("users, by cost, page 50", _later(client, "/users?sort=-cost", 50))
    yield Page("users, of one model", f"/users?sort=-cost&model={model}")
    yield Page("users, of one plan", f"/users?sort=-cost&plan={plan}")
    yield Page("users, by id", "/users?sort=user")
    yield Page("users, by id, of one model", f"/users?sort=user&model={model}")
    yield Page("users, searched", "/users?search=user_00123")
    user = f"/user?id={user_id}"
    yield Page("user, limits", user)
    yield Page("user, limits, last month", f"{user}&range=previous")
    yield Page("user, calls", f"{user}&tab=calls")
    days = f"from={spans.whole.start}&to={spans.whole.end}"
    yield Page("user, calls, page 10", _later(client, f"{user}&tab=calls&{days}", 10))
    yield Page("user, sessions", f"{user}&tab=sessions")
    yield Page("user, sessions, 90 days", f"{user}&tab=sessions&{days}")
    yield Page("user, gates, 90 days", f"{user}&tab=gates&{days}")
    yield Page("user, manage", f"{user}&tab=manage")
    call = _link(client, f"{user}&tab=calls&{days}", _CALL)
    assert call is not None, "the busiest user has calls"
    yield Page("call", call)
    yield Page("plans", "/plans")
    yield Page("plan", f"/plan?name={plan}")
    yield Page("prices", "/prices")
    yield Page("price", f"/price?of={model}")
    yield Page("keys", "/keys")
    yield Page("settings", "/settings")


def _later(client: httpx.Client, address: str, number: int) -> str:
    """Return the address of a later page, or of the last one, by links from each to the next."""
    for _ in range(number - 1):
        following = _link(client, address, _NEXT)
        if following is None:
            break
        address = following
    return address


def _link(client: httpx.Client, address: str, wanted: re.Pattern[str]) -> str | None:
    """Return the first link of a kind on a page; None without any."""
    found = wanted.search(client.get(address).raise_for_status().text)
    return None if found is None else unescape(found[1])


def _time(client: httpx.Client, page: Page, headers: dict[str, str]) -> int:
    started = time.perf_counter_ns()
    answer = client.get(page.address, headers=headers)
    elapsed = time.perf_counter_ns() - started
    assert answer.status_code == 200, f"{page.address}: {answer.status_code}"
    return elapsed


def _print(page: Page, first_ns: int, whole: list[int], part: list[int]) -> None:
    """Print p50, p95 and the maximum of full pages and of fragments."""
    shown = []
    for readings in (whole, part):
        p50, p95 = (percentile(readings, share) / 1_000 for share in (0.5, 0.95))
        shown.append(f"{p50:6.1f} {p95:6.1f} {max(readings) / 1e6:6.1f}")
    is_met = all(percentile(each, 0.95) / 1_000 <= PAGE_MS for each in (whole, part))
    print(
        f"  {page.name:<28} first {first_ns / 1e6:7.1f} ms   full {shown[0]}   part {shown[1]} ms"
        f"{'' if is_met else '  MISSED'}",
        flush=True,
    )


def _busiest_user(url: str, dataset: Dataset) -> str:
    span = spans_of(dataset).whole
    store = open_store(url, now_us=lambda: dataset.now_us)
    try:
        given = {"by": "user", "start": span.start, "end": span.end, "sort": "-calls"}
        found = store.spend(PRODUCT, read_request(given, rows_max=1))
        return found.page.rows[0].keys[0]
    finally:
        store.close()


# -- the server, in a process of its own


@contextmanager
def _server(url: str, now_us: int) -> Iterator[httpx.Client]:
    """Serve a database; provide a client that is signed in."""
    process = subprocess.Popen(
        [sys.executable, "-m", "tests.bench.pages", url, str(now_us)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        assert process.stdout is not None  # it is a pipe
        started = json.loads(process.stdout.readline())
        with httpx.Client(base_url=f"http://127.0.0.1:{started['port']}", timeout=60) as client:
            _sign_in(client, started["key"])
            yield client
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait(30)


def _sign_in(client: httpx.Client, key: str) -> None:
    page = client.get("/login").raise_for_status()
    token = _TOKEN.search(page.text)
    assert token is not None, "the login has a form"
    origin = {"Origin": str(client.base_url).rstrip("/")}
    answer = client.post("/login", data={"csrf_token": token[1], "api_key": key}, headers=origin)
    assert answer.status_code == 303, answer.status_code


def _serve(url: str, now_us: int) -> None:
    """Serve a database, and print the port and a new admin key."""
    store = open_store(url, now_us=lambda: now_us)
    _, key = create_key(store, PRODUCT, "admin", "bench")
    store.close()
    settings = ServerSettings(database_url=url, port=0, logs_requests=False)
    listener = bind(settings)
    listener.listen()
    print(json.dumps({"port": listener.getsockname()[1], "key": key}), flush=True)
    serve(settings, listener=listener, now_us=lambda: now_us)


if __name__ == "__main__":
    _serve(sys.argv[1], int(sys.argv[2]))
