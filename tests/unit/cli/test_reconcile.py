"""`paygent reconcile`: every export beside the events, and the unexplained part is named."""

from __future__ import annotations

import csv
import io
import json
import os
import threading
from collections.abc import Callable, Iterable
from datetime import date, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from tests.contract.samples import PRODUCT, batch_of, make_event
from tests.contract.stores import execute
from tests.unit.cli.conftest import invoke

from paygent.cli import reconcile_file
from paygent.cli.reconcile_csv import model_of_title
from paygent.cli.reconcile_json import model_of_line_item
from paygent.core.event import Event
from paygent.core.period import to_us
from paygent.store import reports
from paygent.store.ledger import SqlStore
from paygent.store.sqlite import SqliteStore

DAYS = [date(2026, 9, 1) + timedelta(days=number) for number in range(30)]
MODELS = ("gpt-4o", "gpt-4o-mini", "gpt-5", "o3", "gpt-4.1")
DATED = {"gpt-4o": "gpt-4o-2024-08-06", "o3": "o3-2025-04-16"}
"""Models that the provider names by their snapshot."""

LEAK = (DAYS[17], "gpt-5")
CALLS, INPUT, OUTPUT, CACHED, COST_NANO = 100, 1_000, 200, 300, 30_000_000
"""Calls of a model on a day, and the figures of each of them."""

Reconcile = Callable[..., tuple[int, str, str]]


def at_us(day: date, hour: int = 12, minute: int = 0) -> int:
    """Return a time of a UTC day."""
    return to_us(datetime(day.year, day.month, day.day, hour, minute, tzinfo=timezone.utc))


def seconds(day: date) -> int:
    """Return the start of a UTC day as OpenAI writes it."""
    return at_us(day, 0) // 10**6


def call_of(name: str, day: date, model: str, **fields: Any) -> Event:
    """Return a call of a model on a day."""
    given: dict[str, Any] = {
        "at_us": at_us(day),
        "model": model,
        "model_key": model,
        "input_tokens": INPUT,
        "output_tokens": OUTPUT,
        "cached_input_tokens": CACHED,
        "cost_tokens_nano": COST_NANO,
        **fields,
    }
    return make_event(name, **given)


def fill(path: Path, events: Iterable[Event], zone: str = "UTC") -> str:
    """Book events in an application's file of a product in this zone; return its path."""
    store = SqliteStore(str(path))
    store.add_product("Acme", product_id=PRODUCT)
    execute(store, f"UPDATE products SET timezone = '{zone}'")
    store.ingest(PRODUCT, batch_of(*events))
    store.close()
    return str(path)


@pytest.fixture(scope="module")
def leaky(tmp_path_factory: pytest.TempPathFactory) -> str:
    """A file with 30 days of five models, of which one lacks 1 % of its calls on one day."""
    events = [
        call_of(f"{day}-{model}-{number}", day, model)
        for day in DAYS
        for model in MODELS
        for number in range(CALLS - 1 if (day, model) == LEAK else CALLS)
    ]
    # Another provider's calls of the same model are in another export.
    events.append(call_of("azure", DAYS[3], "gpt-4o", provider="azure"))
    return fill(tmp_path_factory.mktemp("leaky") / "local.db", events)


@pytest.fixture
def run(tmp_path: Path) -> Reconcile:
    """Run the command on a file with this content; return status, output and errors."""

    def command(db: str, content: str | bytes, *options: str) -> tuple[int, str, str]:
        path = tmp_path / "export"
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return invoke("reconcile", str(path), "--db", db, "--product", PRODUCT, *options)

    return command


def refused(result: tuple[int, str, str], path: Path) -> list[str]:
    """Return the broken rules that a command names behind the file."""
    status, out, err = result
    assert (status, out) == (2, "")
    prefix = f"paygent reconcile: {path / 'export'}: "
    assert err.startswith(prefix)
    return err.removeprefix(prefix).rstrip().split("; ")


# -- each export, as its provider writes it


def openai_usage(calls: Callable[[date, str], int]) -> Any:
    """Return a page of the usage API, by day and model."""
    results = {
        day: [
            {
                "object": "organization.usage.completions.result",
                "input_tokens": INPUT * calls(day, model),
                "output_tokens": OUTPUT * calls(day, model),
                "input_cached_tokens": CACHED * calls(day, model),
                "input_audio_tokens": 0,
                "num_model_requests": calls(day, model),
                "project_id": "proj_1",
                "api_key_id": None,
                "model": DATED.get(model, model),
                "batch": None,
            }
            for model in MODELS
        ]
        for day in DAYS
    }
    return openai_page(results)


def openai_page(results: dict[date, list[Any]], **fields: Any) -> Any:
    """Return a page of daily buckets."""
    buckets = [
        {
            "object": "bucket",
            "start_time": seconds(day),
            "end_time": seconds(day) + 86_400,
            "results": found,
        }
        for day, found in results.items()
    ]
    return {"object": "page", "data": buckets, "has_more": False, "next_page": None, **fields}


def openai_costs(*line_items: tuple[str | None, Any], day: date = DAYS[0]) -> Any:
    """Return a page of the costs API."""
    results = [
        {
            "object": "organization.costs.result",
            "amount": {"value": value, "currency": "usd"},
            "line_item": line_item,
            "project_id": None,
        }
        for line_item, value in line_items
    ]
    return openai_page({day: results})


def anthropic_page(*results: Any, day: date = DAYS[0]) -> Any:
    """Return a page of one daily bucket."""
    following = day + timedelta(days=1)
    bucket = {
        "starting_at": f"{day}T00:00:00Z",
        "ending_at": f"{following}T00:00:00Z",
        "results": list(results),
    }
    return {"data": [bucket], "has_more": False, "next_page": None}


ANTHROPIC_USAGE = {
    "uncached_input_tokens": 700,
    "cache_creation": {"ephemeral_1h_input_tokens": 40, "ephemeral_5m_input_tokens": 60},
    "cache_read_input_tokens": 200,
    "output_tokens": 50,
    "server_tool_use": {"web_search_requests": 0},
    "api_key_id": "apikey_1",
    "workspace_id": None,
    "model": "claude-sonnet-4-5-20250929",
    "service_tier": "standard",
    "context_window": "0-200k",
}

ANTHROPIC_COST = {
    "currency": "USD",
    "amount": "123.78912",
    "workspace_id": "wrkspc_1",
    "description": "Claude Sonnet 4.5 Usage - Input Tokens",
    "cost_type": "tokens",
    "model": "claude-sonnet-4-5-20250929",
    "service_tier": "standard",
    "token_type": "uncached_input_tokens",
}

OPENAI_USAGE_CSV = """\
start_time,end_time,start_time_iso,end_time_iso,project_id,num_model_requests,user_id,api_key_id,\
model,batch,service_tier,input_tokens,output_tokens,input_cached_tokens
1788220800,1788307200,2026-09-01T00:00:00+00:00,2026-09-02T00:00:00+00:00,proj_1,4.0,user-1,key_1,\
gpt-4o-2024-08-06,FALSE,default,4000.0,800.0,1200.0
1788307200,1788393600,2026-09-02T00:00:00+00:00,2026-09-03T00:00:00+00:00,,,,,,,,,,
"""

OPENAI_COSTS_CSV = """\
start_time,end_time,start_time_iso,end_time_iso,amount_value,amount_currency,line_item,project_id,\
organization_id,organization_name
1788220800,1788307200,2026-09-01T00:00:00+00:00,2026-09-02T00:00:00+00:00,0.0450000000000000,usd,\
"gpt-4o-2024-08-06, input",proj_1,org-1,Acme
1788220800,1788307200,2026-09-01T00:00:00+00:00,2026-09-02T00:00:00+00:00,7.5e-2,usd,\
"gpt-4o-2024-08-06, output",proj_1,org-1,Acme
1788307200,1788393600,2026-09-02T00:00:00+00:00,2026-09-03T00:00:00+00:00,,,,,,
"""

ANTHROPIC_USAGE_CSV = """\
usage_date_utc,model_version,api_key,workspace,usage_type,context_window,\
usage_input_tokens_no_cache,usage_input_tokens_cache_write_5m,usage_input_tokens_cache_write_1h,\
usage_input_tokens_cache_read,usage_output_tokens,web_search_count,inference_geo,speed
2026-09-01 02:00,claude-sonnet-4-5-20250929,chat,Default,standard,≤ 200k,500,60,40,100,30,0,global,
2026-09-01 23:00,claude-sonnet-4-5-20250929,chat,Default,standard,≤ 200k,200,0,0,100,20,0,global,
"""

ANTHROPIC_COSTS_CSV = """\
usage_date_utc,model,workspace,api_key,usage_type,context_window,token_type,cost_usd,\
list_price_usd,cost_type,inference_geo,speed
2026-09-01,Claude Sonnet 4.5,Default,chat,message,≤ 200k,input_no_cache,1.24,1.24,token,global,
2026-09-01,Claude Sonnet 4.5,Default,chat,message,≤ 200k,output,0.50,0.50,token,global,
"""

GPT_4O = {"gpt-4o": {"input_tokens": 4_000, "output_tokens": 800, "cached_input_tokens": 1_200,
                     "calls": 4}}  # fmt: skip
SONNET = {"input_tokens": 1_000, "output_tokens": 50, "cached_input_tokens": 200}
EXPORTS: dict[str, tuple[str, str, dict[str, dict[str, int]], list[str]]] = {
    "openai usage, json": (
        json.dumps(openai_usage(lambda day, model: 4 * ((day, model) == (DAYS[0], "gpt-4o")))),
        "OpenAI usage, JSON",
        {model: dict.fromkeys(GPT_4O["gpt-4o"], 0) for model in MODELS} | GPT_4O,
        ["proj_1"],
    ),
    "openai costs, json": (
        json.dumps(
            openai_costs(
                ("gpt-4o-2024-08-06, input", 0.045),
                ("priority | gpt-4o, output, long context", "0.075"),
                ("web search tool calls", 0.01),
            )
        ),
        "OpenAI costs, JSON",
        {"": {"cost_nano": 10_000_000}, "gpt-4o": {"cost_nano": 120_000_000}},
        [],
    ),
    "anthropic usage, json": (
        json.dumps(anthropic_page(ANTHROPIC_USAGE)),
        "Anthropic usage report, JSON",
        {"claude-sonnet-4-5": SONNET},
        ["apikey_1"],
    ),
    "anthropic costs, json": (
        json.dumps(
            anthropic_page(
                ANTHROPIC_COST, {**ANTHROPIC_COST, "model": None, "cost_type": "web_search"}
            )
        ),
        "Anthropic cost report, JSON",
        {
            "": {"cost_nano": 1_237_891_200},
            "claude-sonnet-4-5": {"cost_nano": 1_237_891_200},
        },
        ["wrkspc_1"],
    ),
    "openai usage, csv": (OPENAI_USAGE_CSV, "OpenAI usage, CSV", GPT_4O, ["key_1"]),
    "openai costs, csv": (
        OPENAI_COSTS_CSV,
        "OpenAI costs, CSV",
        {"gpt-4o": {"cost_nano": 120_000_000}},
        ["proj_1"],
    ),
    "anthropic usage, csv": (
        ANTHROPIC_USAGE_CSV,
        "Anthropic usage, CSV",
        {"claude-sonnet-4-5": SONNET},
        ["chat"],
    ),
    "anthropic costs, csv": (
        ANTHROPIC_COSTS_CSV,
        "Anthropic costs, CSV",
        {"claude-sonnet-4-5": {"cost_nano": 1_740_000_000}},
        ["chat"],
    ),
    "a table": (
        "\ufeffday, model ,cost_usd,calls\r\n2026-09-01,gpt-4o-2024-08-06,0.12,4\r\n\r\n"
        "2026-09-02,,0.01,1\r\n",
        "CSV",
        {
            "": {"cost_nano": 10_000_000, "calls": 1},
            "gpt-4o": {"cost_nano": 120_000_000, "calls": 4},
        },
        [],
    ),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_reconcile__every_export__has_the_provider_s_figures(
    name: str, run: Reconcile, tmp_path: Path
) -> None:
    """Shape, provider, models under their canonical names, inclusive totals and keys."""
    content, shape, by_model, keys = EXPORTS[name]
    db = fill(tmp_path / "local.db", [])
    status, out, _ = run(db, content, "--format", "json")
    document = json.loads(out)
    found = {
        each["model"]: {metric: sides["theirs"] for metric, sides in each["figures"].items()}
        for each in document["by_model"]
    }
    assert (document["export"], found) == (shape, by_model)
    assert [each["key"] for each in document["keys"]] == keys
    assert document["provider"] == (shape.split()[0].lower() if " " in shape else "any")
    assert status == 1


@pytest.mark.parametrize("name", EXPORTS)
def test_reconcile__every_export_of_what_was_recorded__is_explained(
    name: str, run: Reconcile, tmp_path: Path
) -> None:
    """The status is 0 if both sides are the same."""
    content, shape, by_model, _ = EXPORTS[name]
    provider = "anthropic" if "Anthropic" in shape else "openai"
    events = []
    for model, figures in by_model.items():
        day = DAYS[1] if shape == "CSV" and not model else DAYS[0]
        used = {key: value for key, value in figures.items() if key.endswith("tokens")}
        used["cost_tokens_nano"] = figures.get("cost_nano", 0)
        for call in range(figures.get("calls", 1)):  # the first one has used all
            amounts = dict.fromkeys(used, 0) if call else used
            place = {"at_us": at_us(day), "model": model, "model_key": model, "provider": provider}
            events.append(make_event(f"{model}-{call}", **place, **amounts))
    status, out, err = run(fill(tmp_path / "local.db", events), content)
    assert (status, err) == (0, "")
    assert "unexplained, above 0.5 % and $0.01 or 100 tokens: 0 of " in out


@pytest.mark.parametrize(
    ("cost_nano", "content", "status"),
    [
        (1_720_000_000, ANTHROPIC_COSTS_CSV, 0),
        (1_719_999_999, ANTHROPIC_COSTS_CSV, 1),
        (1_720_000_000, ANTHROPIC_COSTS_CSV.replace("1.24,1.24", "1.240,1.24"), 1),
    ],
)
def test_reconcile__costs_in_cents__may_differ_by_half_a_cent_a_line(
    cost_nano: int, content: str, status: int, run: Reconcile, tmp_path: Path
) -> None:
    """Anthropic's console rounds each line, which is no leak; an exact line has no such margin."""
    used = {"provider": "anthropic", "cost_tokens_nano": cost_nano}
    db = fill(tmp_path / "local.db", [call_of("a", DAYS[0], "claude-sonnet-4-5", **used)])
    assert run(db, content)[0] == status


# -- the planted leak


def test_row_reconcile__a_leak_of_1_percent__is_found_by_usage_and_nothing_else(
    leaky: str, run: Reconcile
) -> None:
    """One model lacks one call of a hundred on one of 30 days: every figure of it is named."""
    status, out, err = run(leaky, json.dumps(openai_usage(lambda *_: CALLS)), "--format", "json")
    assert (status, err) == (1, "")
    document = json.loads(out)
    assert (len(document["rows"]), document["total"]["figures"]["calls"]["theirs"]) == (150, 15_000)
    (leak,) = document["unexplained"]
    day, model = LEAK
    assert (leak["day"], leak["model"]) == (str(day), model)
    missing = {
        "input_tokens": INPUT,
        "output_tokens": OUTPUT,
        "cached_input_tokens": CACHED,
        "calls": 1,
    }
    assert leak["figures"] == {
        name: {
            "ours": (CALLS - 1) * each,
            "theirs": CALLS * each,
            "difference": -each,
            "coverage_ppm": 990_000,
            "unexplained": True,
        }
        for name, each in missing.items()
    }


def test_reconcile__a_leak_of_1_percent__is_found_by_cost_and_shown_in_the_table(
    leaky: str, run: Reconcile
) -> None:
    """The line has both sides, the difference and the coverage."""
    lines = ["day,model,cost_usd", *(f"{day},{model},3.00" for day in DAYS for model in MODELS)]
    status, out, err = run(leaky, "\n".join(lines), "--provider", "openai")
    assert (status, err) == (1, "")
    day, model = LEAK
    (row,) = [line for line in out.splitlines() if line.startswith(str(day)) and model in line]
    assert row.split() == [
        str(day), model, "cost", "$2.97", "$3.00", "−$0.03", "99", "%", "exact",
    ]  # fmt: skip
    assert "unexplained, above 0.5 % and $0.01 or 100 tokens: 1 of 150 days and models" in out


def test_reconcile__as_csv__has_a_row_for_each_day_model_and_figure(
    leaky: str, run: Reconcile
) -> None:
    """A spreadsheet gets all of them, exact; a sum of all days has no day."""
    lines = [f"{day},{model},100,2.99" for day in DAYS for model in MODELS]
    table = "\n".join(["day,model,calls,cost_usd", *lines])
    _, out, _ = run(leaky, table, "--format", "csv", "--provider", "openai", "--tolerance", "0.3")
    rows = list(csv.DictReader(io.StringIO(out)))
    day, model = LEAK
    assert len(rows) == 2 * len(DAYS) * len(MODELS) + 2 * (len(MODELS) - 1)
    assert [row for row in rows if (row["day"], row["model"]) == (str(day), model)][1] == {
        "day": str(day),
        "model": model,
        "figure": "calls",
        "ours": "99",
        "theirs": "100",
        "difference": "-1",
        "coverage_ppm": "990000",
        "unexplained": "True",
        "partial_calls": "0",
        "estimated_calls": "0",
        "unpriced_calls": "0",
    }
    sums = [row for row in rows if not row["day"] and row["figure"] == "cost_nano"]
    assert {(row["model"], row["difference"]) for row in sums} == {
        (name, str(30 * 10_000_000)) for name in MODELS if name != model
    }


def test_reconcile__many_differences__are_counted_behind_the_first_50(
    leaky: str, run: Reconcile
) -> None:
    """A table stays readable; the largest come first."""
    table = "\n".join(["day,model,calls", *(f"{day},gpt-4o,200" for day in DAYS)])
    status, out, _ = run(leaky, table, "--provider", "openai")
    assert status == 1
    assert "and 100 more: --format csv lists them" in out
    assert "100 tokens: 150 of 150 days and models" in out


def test_reconcile__calls_that_were_not_exact__are_counted_beside_a_difference(
    run: Reconcile, tmp_path: Path
) -> None:
    """An estimate or a missing price may explain it."""
    qualities = ("estimated", "estimated", "unpriced", "partial", "exact")
    events = [
        call_of(f"e{number}", DAYS[0], "gpt-4o", quality=quality)
        for number, quality in enumerate(qualities)
    ]
    db = fill(tmp_path / "local.db", events)
    _, out, _ = run(db, "day,model,calls\n2026-09-01,gpt-4o,6\n")
    (row,) = [line for line in out.splitlines() if line.startswith("2026-09-01  gpt-4o")]
    assert row.endswith("1 partial, 2 estimated, 1 unpriced")
    assert "−1" in row


def test_reconcile__keys_of_the_export__are_listed_with_their_figures(
    leaky: str, run: Reconcile
) -> None:
    """The remark says that Paygent has none beside them."""
    table = "day,model,key,calls\n2026-09-01,gpt-4o,key_a,70\n2026-09-01,gpt-4o,,30\n"
    _, out, _ = run(leaky, table)
    lines = out.splitlines()
    place = lines.index("key    calls")
    assert lines[place + 1 : place + 3] == ["key_a     70", "-         30"]
    assert "Paygent stores no provider keys" in lines[place + 3]


# -- days, zones and selections


def test_reconcile__from_and_to__select_days_and_cover_those_without_rows(
    leaky: str, run: Reconcile
) -> None:
    """By default the file's own days are compared; the options may name more, or fewer."""
    table = "day,model,calls\n2026-09-02,gpt-4o,100\n2026-09-04,gpt-4o,100\n"
    only = ("--provider", "openai", "--format", "json")

    def days(*options: str) -> tuple[str, str, list[str]]:
        document = json.loads(run(leaky, table, *only, *options)[1])
        rows = [each["day"] for each in document["rows"] if each["model"] == "gpt-4o"]
        return document["from"], document["to"], rows

    every = [f"2026-09-0{number}" for number in range(1, 6)]
    assert days() == ("2026-09-02", "2026-09-05", every[1:4])
    assert days("--from", "2026-09-01", "--to", "2026-09-06") == (every[0], "2026-09-06", every)
    assert days("--from", "2026-09-03") == ("2026-09-03", "2026-09-05", every[2:4])
    assert days("--to", "2026-09-03") == ("2026-09-02", "2026-09-03", every[1:2])


def test_reconcile__an_empty_bucket__is_a_day_without_usage(leaky: str, run: Reconcile) -> None:
    """What was recorded on it is not the provider's."""
    day, following = DAYS[0], DAYS[1]
    page = openai_page({day: openai_costs(("gpt-4o", 3))["data"][0]["results"], following: []})
    document = json.loads(run(leaky, json.dumps(page), "--format", "json")[1])
    assert (document["from"], document["to"]) == (str(day), str(DAYS[2]))
    assert [each["figures"]["cost_nano"]["theirs"] for each in document["by_day"]] == [3 * 10**9, 0]


@pytest.mark.parametrize("zone", ["Asia/Kolkata", "America/New_York", "Europe/London", "UTC"])
def test_reconcile__a_product_in_another_zone__is_compared_by_utc_days(
    zone: str, run: Reconcile, tmp_path: Path
) -> None:
    """Exact to the instant: the last minute of a UTC day is not the first one of the next."""
    moments = [at_us(day, *time) for day in DAYS[:3] for time in ((0, 0), (12, 0), (23, 59))]
    events = [call_of(f"e{at}", DAYS[0], "gpt-4o", at_us=at) for at in moments]
    db = fill(tmp_path / "local.db", events, zone)
    table = "\n".join(["day,model,calls", *(f"{day},gpt-4o,3" for day in DAYS[:3])])
    status, out, err = run(db, table, "--format", "json")
    document = json.loads(out)
    assert (status, err, document["total"]["figures"]["calls"]["ours"]) == (0, "", 9)
    named = [note for note in document["notes"] if zone in note]
    assert len(named) == (zone != "UTC")


def test_reconcile__a_day_with_more_events_than_a_report_reads__is_read_in_halves(
    run: Reconcile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No event is left out or counted twice; more in one minute is refused with the reason."""
    moments = [at_us(DAYS[0], hour, 30) for hour in range(24)]
    events = [call_of(f"e{at}", DAYS[0], "gpt-4o", at_us=at) for at in moments]
    db = fill(tmp_path / "local.db", events, "Asia/Kolkata")
    monkeypatch.setattr(reports, "EVENTS_MAX", 2)
    table = "day,model,calls\n2026-09-01,gpt-4o,24\n"
    assert run(db, table)[0] == 0
    store = SqliteStore(db)
    crowd = (call_of(f"x{number}", DAYS[0], "gpt-4o") for number in range(3))
    store.ingest(PRODUCT, batch_of(*crowd))
    store.close()
    status, out, err = run(db, table)
    assert (status, out) == (2, "")
    assert "has more than 2 events" in err


def test_reconcile__events_without_a_provider__are_noted_and_can_be_included(
    run: Reconcile, tmp_path: Path
) -> None:
    """Manual events name no provider, so an export of one does not explain them by itself."""
    events = [
        call_of("a", DAYS[0], "gpt-4o"),
        call_of("b", DAYS[0], "gpt-4o", provider=""),
        call_of("c", DAYS[1], "gpt-4o", provider=""),
    ]
    db = fill(tmp_path / "local.db", events)
    page = json.dumps(openai_costs(("gpt-4o", 0.06)))
    status, out, _ = run(db, page)
    note = "are left out: 1, $0.03; --provider any includes them"
    assert (status, out.splitlines()[-1].endswith(note)) == (1, True)
    status, out, _ = run(db, page, "--provider", "any")
    assert (status, "left out" in out) == (0, False)


def test_reconcile__of_a_server_s_database__reads_the_product_there(
    ledger: SqlStore, tmp_path: Path
) -> None:
    """The options are those of every other command."""
    ledger.ingest("acme", batch_of(call_of("a", DAYS[0], "gpt-4o")))
    path = tmp_path / "export.csv"
    path.write_text("day,model,calls\n2026-09-01,gpt-4o,1\n")
    status, out, err = invoke("reconcile", str(path), "--product", "acme")
    assert (status, err) == (0, "")
    assert "product 'acme' in sqlite:///" in out


def test_reconcile__an_export_without_models__is_compared_by_day(
    leaky: str, run: Reconcile
) -> None:
    """A report that was not grouped is still of use."""
    page = openai_costs((None, 15), day=LEAK[0])
    status, out, _ = run(leaky, json.dumps(page))
    assert status == 0  # 3 cents of $15 are 0.2 %
    assert "note: the export names no models: days are compared as a whole" in out
    assert run(leaky, json.dumps(page), "--tolerance", "0.1")[0] == 1


def test_reconcile__one_page_of_several__is_noted(leaky: str, run: Reconcile) -> None:
    """Later days are missing; an array of all pages is read as one export."""
    pages = [
        {**openai_costs(("gpt-4o", 3), day=DAYS[0]), "has_more": True, "next_page": "p2"},
        openai_costs(("gpt-4o", 3), day=DAYS[1]),
    ]
    _, out, _ = run(leaky, json.dumps(pages[0]))
    assert "has_more" in out
    _, out, _ = run(leaky, "\ufeff \n" + json.dumps(pages))
    assert "has_more" not in out
    assert "2026-09-01 to 2026-09-02" in out


def test_reconcile__embeddings_beside_completions__are_one_report(
    leaky: str, run: Reconcile
) -> None:
    """Both are usage; embeddings have no output and no cache."""
    result = {"object": "organization.usage.embeddings.result", "input_tokens": 7,
              "num_model_requests": 1, "model": "text-embedding-3-small"}  # fmt: skip
    pages = [openai_usage(lambda *_: CALLS), openai_page({DAYS[0]: [result]})]
    document = json.loads(run(leaky, json.dumps(pages), "--format", "json")[1])
    sides = {each["model"]: each["figures"] for each in document["by_model"]}
    found = {name: each["theirs"] for name, each in sides["text-embedding-3-small"].items()}
    assert found == {"input_tokens": 7, "output_tokens": 0, "cached_input_tokens": 0, "calls": 1}


def test_reconcile__a_pipe__is_read_like_a_file(leaky: str, tmp_path: Path) -> None:
    """`paygent reconcile <(curl …)` needs no file."""
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    content = json.dumps(openai_costs(("gpt-4o", 3)))
    writer = threading.Thread(target=pipe.write_text, args=(content,))
    writer.start()
    status, out, err = invoke("reconcile", str(pipe), "--db", leaky, "--product", PRODUCT)
    writer.join()
    assert (status, err) == (1, "")
    assert "OpenAI costs, JSON" in out


# -- what is refused


def test_reconcile__a_table_with_bad_values__names_each_line_and_column(
    leaky: str, run: Reconcile, tmp_path: Path
) -> None:
    """All at once: negative, missing, fractional, no number, no day, another width."""
    rows = [
        "2026-09-01,gpt-4o,-1,0.5",
        "2026-09-01,gpt-4o,,nan",
        "2026-09-31,gpt-4o,1.5,-0.5",
        "01/09/2026,gpt-4o,1_000,1e9",
        "2026-09-01,gpt-4o,1",
        f"2026-09-01,{'x' * 256},1,inf",
        "2026-09-01,gpt-4o,1,1",
    ]
    result = run(leaky, "\n".join(["day,model,calls,cost_usd", *rows]))
    found = [rule.partition(": ")[0] for rule in refused(result, tmp_path)]
    assert found == [
        "line 2, calls = '-1'",
        "line 3, cost_usd = 'nan'",
        "line 3, calls = ''",
        "line 4, cost_usd = '-0.5'",
        "line 4, day = '2026-09-31'",
        "line 4, calls = '1.5'",
        "line 5, cost_usd = '1e9'",
        "line 5, day = '01/09/2026'",
        "line 5, calls = '1_000'",
        "line 6, number of columns = 3",
        "line 7, cost_usd = 'inf'",
        f"line 7, model = '{'x' * 78}…",
    ]


def test_reconcile__very_many_bad_values__are_counted(
    leaky: str, run: Reconcile, tmp_path: Path
) -> None:
    """The message stays readable."""
    rules = refused(run(leaky, "day,calls\n" + "2026-09-01,x\n" * 1_500), tmp_path)
    assert (len(rules), rules[-1]) == (21, "and 980 more")


OPENAI_RESULT = openai_costs(("gpt-4o", 1))["data"][0]["results"][0]
BUCKET = openai_costs(("gpt-4o", 1))["data"][0]

BAD_PAGES: dict[str, tuple[Any, str]] = {
    "no page": ({"error": {"message": "invalid key"}}, "data = None: must be a list of buckets"),
    "no pages": ([], "file = []: must have at least one page"),
    "a number": ([5], "[0].data = None: must be a list of buckets"),
    "a bucket": ({"data": [[]]}, "data[0] = 'list': must be an object with results"),
    "no start": ({"data": [{"results": []}]}, "data[0].start_time = None: must be there"),
    "no results": (
        {"data": [{**BUCKET, "results": {}}]},
        "data[0].results = 'dict': must be a list",
    ),
    "a week": (
        {"data": [{**BUCKET, "end_time": BUCKET["start_time"] + 7 * 86_400}]},
        "data[0].end_time = 1788825600: must be after the start, and within its UTC day",
    ),
    "no end": (
        {"data": [{**BUCKET, "end_time": None}]},
        "data[0].end_time = None: must be whole seconds",
    ),
    "no time": (
        {"data": [{**anthropic_page()["data"][0], "starting_at": "2026-09-01"}]},
        "data[0].starting_at = '2026-09-01': must be a time with a time zone",
    ),
    "another report": (
        openai_page({DAYS[0]: [{"object": "organization.usage.images.result"}]}),
        "data[0].results[0].object = 'organization.usage.images.result': must be a result of",
    ),
    "no object": (openai_page({DAYS[0]: [3]}), "data[0].results[0].object = None: must be"),
    "a list": (
        openai_page({DAYS[0]: [{"object": []}]}),
        "data[0].results[0].object = None: must be a result of",
    ),
    "anthropic's other": (
        anthropic_page({"actor": {}}),
        "data[0].results[0].uncached_input_tokens = None: must be a result of",
    ),
    "two reports": (
        [openai_costs(("gpt-4o", 1)), openai_usage(lambda *_: 1)],
        "[1].data[0].results[0] = 'organization.usage.completions.result': must be of one report",
    ),
    "a bucket twice": (
        [openai_costs(("gpt-4o", 1))] * 2,
        "[1].data[0].results = 'organization.costs.result': must be there once",
    ),
    "euros": (
        openai_page({DAYS[0]: [{**OPENAI_RESULT, "amount": {"value": 1, "currency": "eur"}}]}),
        "data[0].results[0].amount.currency = 'eur': must be USD",
    ),
    "no amount": (
        openai_page({DAYS[0]: [{**OPENAI_RESULT, "amount": None}]}),
        "data[0].results[0].amount = None: must be an object with value and currency",
    ),
    "a negative amount": (
        openai_costs(("gpt-4o", -0.5)),
        "data[0].results[0].amount.value = Decimal('-0.5'): must not be negative",
    ),
    "too many cents": (
        anthropic_page({**ANTHROPIC_COST, "amount": "100000001"}),
        "data[0].results[0].amount = '100000001': must be at most 1,000,000 dollars",
    ),
    "no cache": (
        anthropic_page({**ANTHROPIC_USAGE, "cache_creation": []}),
        "data[0].results[0].cache_creation = 'list': must be an object with counts",
    ),
    "a missing count": (
        anthropic_page({**ANTHROPIC_USAGE, "output_tokens": None}),
        "data[0].results[0].output_tokens = None: must be a whole number",
    ),
    "a model": (
        anthropic_page({**ANTHROPIC_USAGE, "model": 4}),
        "data[0].results[0].model = 4: must be a string of at most 255 characters",
    ),
}


@pytest.mark.parametrize("name", BAD_PAGES)
def test_reconcile__a_page_of_another_shape__names_the_field_and_its_rule(
    name: str, leaky: str, run: Reconcile, tmp_path: Path
) -> None:
    """Nothing is compared, and nothing is guessed."""
    page, expected = BAD_PAGES[name]
    assert refused(run(leaky, json.dumps(page)), tmp_path)[0].startswith(expected)


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("{", "file = '': must be JSON: "),
        ("[" * 100_000, "file = '': must be JSON: "),
        ('{"data": 1e99999999999999999999}', "file = '': must be JSON: "),
        ('{"data": ' + "9" * 5_000 + "}", "file = '': must be JSON: "),
        ("", "line 1 = '': must have the columns of "),
        ("a,b\n1,2\n", "line 1 = 'a,b': must have the columns of OpenAI costs, CSV: start_time, "),
        ("day,model\n", "line 1 = 'day,model': must have the columns of "),
        ("day,calls,cots\n", "line 1 = 'day,calls,cots': must have the columns of "),
        ("day,calls,calls\n", "line 1 = 'calls': must be there once"),
        ('day,"calls\n', "line 1 = '': must be CSV: "),
        ('day,calls\n2026-09-01,"1', "line 2 = '': must be CSV: "),
        (
            "start_time,end_time,input_tokens,output_tokens\n1788220800,1788220800,1,1\n",
            "line 2, end_time = '1788220800': must be after the start",
        ),
        (
            "start_time,end_time,amount_value,amount_currency\nx,1788220801,1,eur\n",
            "line 2, start_time = 'x': must be whole seconds",
        ),
    ],
)
def test_reconcile__a_file_of_no_known_kind__is_refused_with_the_known_ones(
    content: str, expected: str, leaky: str, run: Reconcile, tmp_path: Path
) -> None:
    """A misspelt column is not left out in silence."""
    assert "; ".join(refused(run(leaky, content), tmp_path)).startswith(expected)


@pytest.mark.parametrize(
    ("content", "options", "expected"),
    [
        (b"day,calls\n2026-09-01,\xff\n", (), "is not UTF-8 (invalid start byte)"),
        ("day,calls\n", (), "has no figures to compare\n"),
        (json.dumps(openai_page({DAYS[0]: []})), (), "has no figures to compare\n"),
        (
            "day,calls\n2026-09-01,1\n",
            ("--from", "2027-01-01"),
            "has no figures to compare in these days\n",
        ),
        (
            "day,calls\n2026-09-01,1\n",
            ("--from", "2026-09-02", "--to", "2026-09-02"),
            "--to must be after --from, 2026-09-02, not 2026-09-02",
        ),
        ("day,calls\n2026-09-01,1\n", ("--tolerance", "-1"), "--tolerance must be from 0 to 100"),
        ("day,calls\n2026-09-01,1\n", ("--tolerance", "nan"), "--tolerance must be from 0 to 100"),
        (
            "day,calls\n2006-09-01,1\n2026-09-01,1\n",
            (),
            "must be at most 10 years after --from",
        ),
    ],
)
def test_reconcile__what_cannot_be_compared__is_a_usage_error(
    content: str | bytes, options: tuple[str, ...], expected: str, leaky: str, run: Reconcile
) -> None:
    """The status is 2, and the message names the file or the option."""
    status, out, err = run(leaky, content, *options)
    assert (status, out) == (2, "")
    assert expected in err


def test_reconcile__a_file_that_cannot_be_read__is_a_usage_error(
    leaky: str, run: Reconcile, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Missing, a folder, or larger than the limit, also from a pipe of unknown size."""
    for path, reason in ((tmp_path / "none", "No such file"), (tmp_path, "Is a directory")):
        status, out, err = invoke("reconcile", str(path), "--db", leaky)
        assert (status, out) == (2, "")
        assert f"{path} cannot be read ({reason}" in err
    monkeypatch.setattr(reconcile_file, "FILE_BYTES_MAX", 20)
    assert "is larger than 20 bytes" in run(leaky, "day,calls\n" * 3)[2]
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=("[" + " " * 100 + "]",))
    writer.start()
    status, _, err = invoke("reconcile", str(pipe), "--db", leaky)
    writer.join()
    assert (status, "is larger than 20 bytes" in err) == (2, True)


def test_reconcile__a_missing_database__is_reported_as_by_other_commands(
    run: Reconcile, tmp_path: Path
) -> None:
    """The error is the database's, not the file's."""
    status, _, err = run(str(tmp_path / "none.db"), "day,calls\n2026-09-01,1\n")
    assert (status, err.startswith("paygent reconcile: there is no store at ")) == (1, True)


# -- names of models


@pytest.mark.parametrize(
    ("line_item", "model"),
    [
        (None, None),
        ("gpt-4o-2024-08-06, input", "gpt-4o-2024-08-06"),
        ("gpt-5-nano, input_tokens", "gpt-5-nano"),
        ("priority | gpt-5, output, long context", "gpt-5"),
        ("gpt-audio-mini-2025-12-15 audio, input", "gpt-audio-mini-2025-12-15"),
        ("ft-gpt-4o-2024-08-06, input", "gpt-4o-2024-08-06"),
        ("whisper-1, audio", "whisper-1"),
        ("gpt-4o", "gpt-4o"),
        ("web search tool calls", ""),
        ("Vector storage", ""),
        ("assistants api | file search", ""),
        ("storage", ""),
        (" , input", ""),
    ],
)
def test_model_of_line_item__lines_of_costs__name_their_model(
    line_item: str | None, model: str | None
) -> None:
    """Tools are of no model."""
    assert model_of_line_item(line_item) == model


@pytest.mark.parametrize(
    ("title", "model"),
    [
        ("Claude Haiku 4.5", "claude-haiku-4-5"),
        ("Claude Sonnet 4", "claude-sonnet-4"),
        ("Claude Sonnet 3.7", "claude-3-7-sonnet"),
        ("Claude Haiku 3", "claude-3-haiku"),
        ("claude-opus-4-1", "claude-opus-4-1"),
    ],
)
def test_model_of_title__titles_of_the_console__are_names_of_the_api(
    title: str, model: str
) -> None:
    """Costs of the console name no other."""
    assert model_of_title(title) == model
