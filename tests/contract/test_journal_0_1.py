"""Journals that version 0.1 left behind are booked as it would have booked them itself."""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterable
from datetime import date
from pathlib import Path
from typing import Any

import pytest
from tests.conftest import Swallowed

from paygent import Paygent
from paygent.client.journal.ownership import unfinished
from paygent.client.journal.segments import parse_dead
from paygent.client.runtime.settings import read_settings
from paygent.core.event import HELD, Event
from paygent.core.report_rows import UsageRow
from paygent.failopen import diagnostics
from paygent.store.sqlite import SqliteStore

_LEFT = Path(__file__).with_name("journal_0_1")
_PRODUCT = "default"
SINCE = {"gate_reason": ""}
"""Fields that events have got since."""
_AT_US = 1_773_579_600_000_000  # an hour after its calls
_SPAN: dict[str, Any] = {"start": date(2026, 3, 1), "end": date(2026, 4, 1)}


@pytest.fixture
def expected() -> Any:
    """What version 0.1 books when it adopts its journal."""
    return json.loads((_LEFT / "expected.json").read_text(encoding="utf-8"))


@pytest.fixture
def folder(db_path: str) -> Path:
    """A journal folder with the segments of the dead process."""
    folder = Path(f"{db_path}.journal") / _PRODUCT
    folder.mkdir(parents=True)
    for path in _LEFT.glob("*.seg"):
        shutil.copy(path, folder)
    return folder


def start(db_path: str) -> Paygent:
    """Start a Paygent, and return it once it has adopted what is there."""
    given = {"db_path": db_path, "default_plan": "free", "tag_keys": ["team"]}
    pg = Paygent.launch(read_settings(given, {}), now_us=lambda: _AT_US)
    pg.refresh_user("ann")  # starts the delivery
    pg.flush()
    return pg


def booked(db_path: str, users: list[str]) -> list[Event]:
    """Return the events of users in a store, by their ids."""
    store = SqliteStore(db_path)
    store.open()
    events = [event for user_id in users for event in store.events(_PRODUCT, user_id)]
    store.close()
    return sorted(events, key=lambda event: event.event_id)


def as_json(values: Any) -> Any:
    """Return values as they come back from JSON."""
    return json.loads(json.dumps(values))


def as_reported(row: UsageRow, names: Iterable[str]) -> dict[str, Any]:
    """Return the figures that version 0.1 reports."""
    return {name: getattr(row, name) for name in names}


def state_of(pg: Paygent, user_id: str) -> dict[str, Any]:
    """Return plan, period, session and usage of a user."""
    state = pg.get_user_state(user_id)
    for _ in range(40):  # a busy machine may take longer than a caller waits
        if state.last_refreshed is not None:
            break
        state = pg.refresh_user(user_id)
    usage, period = state.current_usage, state.billing_period
    assert period is not None
    return {
        "plan": state.plan,
        "cap": state.plan_config.max_spend_per_period,
        "period_start": period.start.isoformat(),
        "session_id": usage.session_id,
        "period_cost_nano": usage.period_cost_nano,
        "session_cost_nano": usage.session_cost_nano,
        "period_tokens_by_model": dict(usage.period_tokens_by_model),
    }


def test_adopt__a_journal_of_version_0_1__books_the_same_events(
    db_path: str, folder: Path, expected: Any
) -> None:
    """Every field of every event is the one that version 0.1 books; nothing is left behind."""
    start(db_path).shutdown(5.0)
    events = booked(db_path, list(expected["users"]))
    assert as_json([event._asdict() for event in events]) == [
        {**event, **SINCE} for event in expected["events"]
    ]
    assert (list(folder.iterdir()), diagnostics.counts) == ([], {})


def test_adopt__a_journal_of_version_0_1__gives_the_same_reports_and_states(
    db_path: str, folder: Path, expected: Any
) -> None:
    """Reports by user, model and tag, and plan, session and usage of each user."""
    pg = start(db_path)
    reports = {
        by: [as_reported(row, rows[0]) for row in pg.report(by=by, **_SPAN)]
        for by, rows in expected["report"].items()
    }
    states = {user_id: state_of(pg, user_id) for user_id in expected["users"]}
    assert (as_json(reports), states) == (expected["report"], expected["users"])


def test_adopt__calls_in_flight_in_version_0_1__are_booked_at_what_they_held(
    db_path: str, folder: Path, expected: Any
) -> None:
    """Begins without an end, also those that were written again at the head of a segment."""
    records = [
        each for path in sorted(folder.iterdir()) for each in parse_dead(path.read_bytes())[0]
    ]
    begins = {record["id"]: record for record in unfinished(records) if isinstance(record, dict)}
    assert len(begins) == 3
    start(db_path).shutdown(5.0)
    held = [e for e in booked(db_path, list(expected["users"])) if (e.details or {}).get(HELD)]
    assert {(e.event_id, e.cost_nano, e.total_tokens, e.quality) for e in held} == {
        (event_id, each["cost"], each["in"] + each["out"], "estimated")
        for event_id, each in begins.items()
    }


def test_adopt__a_journal_of_version_0_1_twice__books_it_once(
    db_path: str, folder: Path, expected: Any
) -> None:
    """A process may be killed between the booking and the deletion."""
    for _ in range(2):
        for path in _LEFT.glob("*.seg"):
            shutil.copy(path, folder)
        start(db_path).shutdown(5.0)
    events = booked(db_path, list(expected["users"]))
    assert as_json([event._asdict() for event in events]) == [
        {**event, **SINCE} for event in expected["events"]
    ]


@pytest.mark.parametrize("number", [1, 2, 3])
def test_adopt__a_journal_of_version_0_1_cut_anywhere__books_what_is_whole(
    db_path: str, folder: Path, expected: Any, number: int, swallowed: Swallowed
) -> None:
    """A torn segment costs its last record; no other event is lost, changed or doubled."""
    path = folder / f"dead-{number:06d}.seg"
    path.write_bytes(path.read_bytes().rstrip(b"\0")[:-20] + bytes(100))
    start(db_path).shutdown(5.0)
    events = as_json([event._asdict() for event in booked(db_path, list(expected["users"]))])
    whole = {event["event_id"]: {**event, **SINCE} for event in expected["events"]}
    assert len(expected["events"]) - 1 <= len(events) <= len(expected["events"])
    changed = [event for event in events if whole.get(event["event_id"]) != event]
    assert [event["quality"] for event in changed] in ([], ["estimated"])
    assert (list(folder.iterdir()), swallowed.seen) == ([], [])
