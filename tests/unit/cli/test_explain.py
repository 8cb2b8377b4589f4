"""`paygent explain`: its output for every kind of event, and that it never changes the store."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from tests.promises.scripts import kill, read_line, start
from tests.unit.cli.conftest import add_migration
from typer.testing import CliRunner

from paygent import Limit, ModelLimitConfig, Paygent, PlanConfig, UsageEvent
from paygent.cli.app import app
from paygent.client.metering.call import Request
from paygent.client.metering.wait import Wait
from paygent.core.usage import JobStatus, Usage
from paygent.store.statements import migrations
from paygent.types import ModelCostRate

Init = Callable[..., Paygent]

CHAT: Any = {
    "model": "gpt-4o-2024-08-06",
    "usage": {
        "prompt_tokens": 1_200,
        "completion_tokens": 300,
        "prompt_tokens_details": {"cached_tokens": 1_000},
    },
}


def explain(db_path: str, event_id: str, *more: str) -> tuple[int, str]:
    """Run the command; return its exit status and its output."""
    result = CliRunner().invoke(app, ["explain", event_id, "--db", db_path, *more])
    return result.exit_code, result.output


@pytest.fixture
def pg(init: Init) -> Paygent:
    """A Paygent with a default plan that has limits of every kind."""
    pg = init()
    pg.configure_plan(
        "default",
        PlanConfig(
            max_spend_per_period=25,
            max_spend_per_session=2,
            model_limits={"gpt-4o": ModelLimitConfig(50_000), "o3": ModelLimitConfig(9)},
            limits=(Limit("calls", window="day", cap=500), Limit("spend", model="x", cap=0)),
            tool_costs={"search": 0.01},
            cost_rates={"house": ModelCostRate.per_million(3, 15)},
        ),
    )
    return pg


def event_of(pg: Paygent, answer: Any = CHAT, model: str = "gpt-4o", **more: Any) -> str:
    """Make one call and deliver it; return the id of its event."""
    events: list[Any] = []
    pg._parts.callbacks.register("usage", events.append)
    pg.wrap(lambda: answer, "ann [x]", model, provider="openai", **more)
    pg.flush()
    return str(events[0].id)


def test_explain__a_call__shows_each_component_its_rate_and_the_sum(
    pg: Paygent, db_path: str
) -> None:
    """Count times rate, the source of the rates, the sum, and the limits that count the event."""
    status, text = explain(db_path, event_of(pg))
    assert status == 0
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "user ann [x]" in lines
    assert "model gpt-4o-2024-08-06 (counts as gpt-4o), openai" in lines
    assert "input 200 $2.5 per million $0.0005" in lines
    assert "cached_input 1,000 $1.25 per million $0.00125" in lines
    assert "output 300 $10 per million $0.003" in lines
    assert "sum $0.00475" in lines
    assert "booked $0.004750000" in lines
    assert any(line.startswith("prices genai-prices:openai/gpt-4o@") for line in lines)
    limits = [line for line in lines if line.endswith(" %")]
    assert [line.split()[0] for line in limits] == [
        "total_spend",
        "session_spend",
        "model_limit:gpt-4o",
        "calls:day",
    ]
    assert "1,500 tokens 50,000 tokens 3.0 %" in limits[2]


def test_explain__a_call_that_ran_past_a_limit__has_the_reason(pg: Paygent, db_path: str) -> None:
    """As `UsageEvent.gate_reason` has it."""
    pg.configure_plan("watched", PlanConfig(max_spend_per_period=0, enforce=False))
    pg.assign_plan("ann [x]", "watched")
    _, text = explain(db_path, event_of(pg))
    assert "quality    exact, auto, blocked (total_spend)" in text


def test_explain__a_plans_rate_and_tools__are_shown_separately(pg: Paygent, db_path: str) -> None:
    """The plan's own price list is named, and the cost of tools is separate from tokens."""
    call = {"function": {"name": "search"}}
    answer = {
        "model": "house",
        "usage": {"prompt_tokens": 10, "completion_tokens": 0},
        "choices": [{"message": {"tool_calls": [call]}}],
    }
    status, text = explain(db_path, event_of(pg, answer, "house"))
    assert status == 0
    assert "prices     plan:house@" in text
    assert "tools      search: $0.010000000 at the plan's rates" in text
    assert "booked     $0.010030000" in text


def test_explain__an_explicit_cost_and_its_correction__are_both_shown(
    pg: Paygent, db_path: str
) -> None:
    """The original amount, each correction and the total are shown."""
    event = pg.record_event("ann", cost="0.5", description="a search")
    correction = pg.record_event("ann", corrects=event.id, cost="-0.1", description="too much")
    pg.flush()
    status, text = explain(db_path, event.id)
    assert status == 0
    assert "cost       $0.500000000, as passed to record_event" in text
    assert f"by {correction.id}: too much" in text
    assert "total      $0.400000000" in text
    status, text = explain(db_path, correction.id)
    assert status == 0
    assert f"corrects   {event.id}" in text


def test_explain__an_estimate_and_an_unpriced_model__give_the_reason(
    pg: Paygent, db_path: str
) -> None:
    """An inexact figure is never presented as exact."""
    _, text = explain(db_path, event_of(pg, None, estimated_input_tokens=7, estimated_max_tokens=3))
    assert "quality    estimated" in text
    assert "no usage was reported" in text
    answer = {"model": "unlisted", "usage": {"prompt_tokens": 10, "completion_tokens": 0}}
    _, text = explain(db_path, event_of(pg, answer, "unlisted"))
    assert "no price for this model" in text


def priced_event(pg: Paygent, usage: Usage, provider: str = "openai") -> str:
    """Book a usage as the answer of a call, and return the event's id."""
    events: list[UsageEvent] = []
    pg.on_usage(events.append)
    meter = pg._parts.meter
    request = Request(provider, "any", usage.model or "", None)
    call = meter.begin(request)
    while isinstance(call, Wait):
        call.block()
        call = meter.begin(request)
    assert call is not None
    meter.settle(call, usage)
    pg.flush()
    return events[0].id


def test_explain__a_cost_billed_by_the_provider__is_marked_as_such(
    pg: Paygent, db_path: str
) -> None:
    """There is no price list to apply: the figure is the provider's."""
    usage = Usage(5, 5, model="vendor/model", billed_nano=1_500_000)
    status, text = explain(db_path, priced_event(pg, usage, "openrouter"))
    assert status == 0
    assert "cost       $0.001500000, as billed by openrouter" in text


def test_explain__other_models_and_audio__have_their_lines(pg: Paygent, db_path: str) -> None:
    """Work of other models has its own line; audio is shown in seconds and priced per hour."""
    images = Usage(100, 200, image_output_tokens=200, model="gpt-image-1")
    status, text = explain(db_path, priced_event(pg, Usage(8, 0, model="gpt-5", others=(images,))))
    assert status == 0
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "other models by their own lists $0.008500000" in lines
    assert "sum $0.00851" in lines
    status, text = explain(db_path, priced_event(pg, Usage(audio_ms=61_500, model="whisper-1")))
    assert status == 0
    lines = [" ".join(line.split()) for line in text.splitlines()]
    assert "audio 61.500 s $0.36 per hour $0.00615" in lines


def test_explain__an_assumed_price__is_named(pg: Paygent, db_path: str) -> None:
    """A variant missing from the list is not presented as one that it contains."""
    usage = Usage(100, 20, model="gpt-5", tier="ultrafast")
    _, text = explain(db_path, priced_event(pg, usage))
    assert "quality    estimated" in text
    assert "assumed    this list lacks variant" in text
    assert "no usage was reported" not in text


def test_explain__the_usage_of_a_job__is_a_difference_at_its_own_list(
    pg: Paygent, db_path: str
) -> None:
    """The usage of a background response or batch corrects what was booked at first."""
    events: list[UsageEvent] = []
    pg.on_usage(events.append)
    status_of_job = JobStatus("response:r", (Usage(100, 20, model="gpt-5"),))
    pg._parts.meter.collect(Request("openai", "responses.retrieve", "", None), status_of_job)
    pg.flush()
    status, text = explain(db_path, events[0].id)
    assert status == 0
    assert "difference +100 input, +20 output, by genai-prices:openai/gpt-5@" in text


def test_explain__a_cost_that_differs_from_its_prices__is_a_finding(
    pg: Paygent, db_path: str
) -> None:
    """A cost that does not follow from its price list is reported, with status 1."""
    event_id = event_of(pg)
    pg.shutdown()
    with sqlite3.connect(db_path) as connection:
        connection.execute("UPDATE events SET cost_tokens_nano = cost_tokens_nano + 1")
    connection.close()
    status, text = explain(db_path, event_id)
    assert status == 1
    assert "MISMATCH   booked $0.004750001" in text


def test_explain__a_call_killed_with_its_process__is_booked_at_its_hold(
    init: Init, db_path: str
) -> None:
    """A hold follows what such calls have cost, so it is not compared with the list's prices."""
    code = """
import sys, paygent
pg = paygent.Paygent.init(db_path=sys.argv[1])
def answer():
    usage = {"prompt_tokens": 1_000, "completion_tokens": 20}
    return {"usage": {**usage, "prompt_tokens_details": {"cached_tokens": 900}}}
for _ in range(4):
    pg.wrap(answer, "u1", "gpt-4o", estimated_input_tokens=1_000)
def ask():
    print("asked", flush=True)
    sys.stdin.read()
pg.wrap(ask, "u1", "gpt-4o", estimated_input_tokens=1_000)
"""
    process = start(code, db_path)
    assert read_line(process) == "asked"
    kill(process)
    init().flush()
    with sqlite3.connect(db_path) as connection:
        (event_id,) = connection.execute(
            "SELECT event_id FROM events WHERE quality = 'estimated'"
        ).fetchone()
    connection.close()
    status, text = explain(db_path, event_id)
    assert status == 0
    assert "booked at its hold (1,000 input, " in text
    assert "prices     genai-prices:" in text


def test_explain__a_list_that_was_not_stored__is_reported(pg: Paygent, db_path: str) -> None:
    """Events from before price lists were stored name their list only."""
    event_id = event_of(pg)
    pg.shutdown()
    with sqlite3.connect(db_path) as connection:
        connection.execute("DELETE FROM price_lists")
    connection.close()
    status, text = explain(db_path, event_id)
    assert status == 0
    assert "this list was not stored" in text


def test_explain__an_unknown_event_or_product__is_a_finding(pg: Paygent, db_path: str) -> None:
    """One line names the id, where it was looked for, and the options for other places."""
    event_id = event_of(pg)
    for arguments in (("unknown",), (event_id, "--product", "other")):
        status, text = explain(db_path, *arguments)
        assert status == 1
        assert f"no such event: {arguments[0]!r} in product " in text
        assert db_path in text
        assert "--product and --db" in text


def test_explain__no_store__is_a_finding_and_creates_none(tmp_path: Path) -> None:
    """A command that only reads must not create a file."""
    status, text = explain(str(tmp_path / "none.db"), "x")
    assert (status, list(tmp_path.iterdir())) == (1, [])
    assert "there is no store at" in text


def files_beside(db_path: str) -> dict[str, bytes]:
    """Return the files of the store's folder with their contents."""
    folder = Path(db_path).parent
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


@pytest.mark.parametrize("running", [True, False])
def test_explain__a_store__is_unchanged(pg: Paygent, db_path: str, running: bool) -> None:
    """No file appears and none changes, while an application is running or afterwards."""
    event_id = event_of(pg)
    if not running:
        pg.shutdown()
    pg.flush()
    before = files_beside(db_path)
    assert ("local.db-wal" in before) == running
    os.chmod(db_path, 0o400)
    assert explain(db_path, event_id)[0] == 0
    after = files_beside(db_path)
    if running:  # the log's index is shared memory, which readers update too
        assert after.pop("local.db-shm") and before.pop("local.db-shm")
    assert after == before


@pytest.mark.parametrize("has_index", [True, False])
def test_explain__a_store_whose_process_died__is_read_with_its_log(
    pg: Paygent, db_path: str, tmp_path: Path, has_index: bool
) -> None:
    """Events that are only in the log are found; a missing index of the log is created."""
    event_id = event_of(pg)
    (tmp_path / "copy").mkdir()
    copied = str(tmp_path / "copy" / "local.db")
    for name, content in files_beside(db_path).items():
        if has_index or not name.endswith("-shm"):
            Path(copied).with_name(name).write_bytes(content)
    before = files_beside(copied)
    assert "local.db-wal" in before
    assert explain(copied, event_id)[0] == 0
    after = files_beside(copied)
    assert {name: after[name] for name in before} == before
    assert set(after) - set(before) == (set() if has_index else {"local.db-shm"})


def test_explain__an_event_of_a_backends_product__is_found_with_the_applications_settings(
    db_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `PAYGENT_API_KEY` the local store keeps figures while the backend is away."""
    monkeypatch.setenv("PAYGENT_API_KEY", "pg_live_secret")
    with pytest.warns(UserWarning, match="cannot be reached"):
        pg = Paygent.init(db_path=db_path, base_url="http://127.0.0.1:9")
    event = pg.record_event("u1", cost=1)
    pg.shutdown()
    status, text = explain(db_path, event.id)
    assert (status, "$1.000000000" in text) == (0, True)
    monkeypatch.delenv("PAYGENT_API_KEY")
    status, text = explain(db_path, event.id)
    assert (status, "pg_live_secret" in text) == (1, False)


def test_explain__a_store_of_an_older_schema__is_a_finding(
    pg: Paygent, db_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A command that only reads does not migrate it."""
    event_id = event_of(pg)
    pg.shutdown()
    version = len(migrations("sqlite"))
    add_migration(monkeypatch)
    status, text = explain(db_path, event_id)
    assert (status, f"schema {version};" in text, "migrates it" in text) == (1, True, True)


def test_explain__a_store_of_a_newer_schema__is_a_finding(pg: Paygent, db_path: str) -> None:
    """What this version does not know is not read."""
    event_id = event_of(pg)
    pg.shutdown()
    with sqlite3.connect(db_path) as connection:
        connection.execute("PRAGMA user_version = 99")
    connection.close()
    status, text = explain(db_path, event_id)
    assert (status, "schema 99; this Paygent reads" in text) == (1, True)


def test_explain__no_event_named__is_a_usage_error() -> None:
    """The status is 2, as for any command."""
    assert CliRunner().invoke(app, ["explain"]).exit_code == 2


def test_explain__a_correction_of_tokens__shows_the_difference(pg: Paygent, db_path: str) -> None:
    """It has no components of its own: only the difference is shown."""
    event_id = event_of(pg)
    event = pg.record_event("ann [x]", corrects=event_id, input_tokens=-100)
    pg.flush()
    status, text = explain(db_path, event.id)
    assert status == 0
    assert "difference -100 input, +0 output, at the original's prices" in text
    assert "sum" not in text


def test_explain__control_characters_of_an_application__do_not_reach_the_terminal(
    pg: Paygent, db_path: str
) -> None:
    """An id is text, not a command to the terminal."""
    event = pg.record_event("ann\x1b[31m", cost=1, description="a\nb")
    pg.flush()
    _, text = explain(db_path, event.id)
    assert "\x1b" not in text
    assert "ann\\x1b[31m" in text
    assert "for        a\\nb" in text


def test_explain__an_empty_path__is_a_usage_error() -> None:
    """The option is named, and the status is 2."""
    status, text = explain("", "x")
    assert status == 2
    assert "--db = ''" in text
