"""`paygent prices show`: rates with their source, and the limits that count a model."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from tests.contract.samples import NOON_US, PRODUCT
from typer.testing import CliRunner

from paygent import Limit, ModelCostRate
from paygent.cli.app import app
from paygent.core.messages import Batch, PlanRecord
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_to_json
from paygent.store.sqlite import SqliteStore

Show = Callable[..., tuple[int, list[str], str]]


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store with two plans, of which one has rates of its own."""
    path = str(tmp_path / "local.db")
    pro = PlanConfig(
        max_spend_per_period=25,
        model_limits={"gpt-4o": 50_000, "o3": 9},
        cost_rates={"house": ModelCostRate.per_million(3, 15)},
        unknown_model="dearest",
    )
    free = PlanConfig(limits=(Limit("calls", model="o3", window="day", cap=5),))
    records = tuple(
        PlanRecord(name, plan_to_json(plan), NOON_US)
        for name, plan in (("pro", pro), ("free", free))
    )
    store = SqliteStore(path)
    store.ingest(PRODUCT, Batch(records=records, at_us=NOON_US))
    store.close()
    return path


@pytest.fixture
def show(path: str) -> Show:
    """Run the command; return its status, the words of its lines, and its error."""

    def run(*arguments: str, db: str = path) -> tuple[int, list[str], str]:
        options = ["--db", db, "--product", PRODUCT]
        result = CliRunner().invoke(app, ["prices", "show", *arguments, *options])
        lines = [" ".join(line.split()) for line in result.stdout.splitlines()]
        return result.exit_code, lines, result.stderr

    return run


def test_prices_show__a_listed_model__has_every_rate_its_source_and_its_limits(show: Show) -> None:
    """A dated name is shown as calls of it are booked and counted."""
    status, lines, _ = show("gpt-4o-2024-08-06")
    assert status == 0
    assert lines[:2] == ["model gpt-4o-2024-08-06", "counts as gpt-4o"]
    assert lines[2].startswith("prices genai-prices:openai/gpt-4o@")
    assert ", as of " in lines[2]
    assert lines[3:6] == [
        "source public price list (genai-prices)",
        "context 128,000 tokens",
        "output 16,384 tokens at most",
    ]
    assert lines[6].startswith("component per standard batch")
    rates = {line.split()[0]: line for line in lines[7:]}
    assert rates["input"].startswith("input million $2.5 $1.25")
    assert rates["output"].startswith("output million $10 $5")
    assert rates["web_search"].startswith("web_search 1,000 $10")
    assert rates["audio_input"].startswith("audio_input (assumed) million")
    assert "request" not in rates
    assert lines[-2:] == ["pro $25.00 per period", "pro 50,000 tokens of gpt-4o per period"]


def test_prices_show__a_model_with_price_tiers__has_a_column_for_each(show: Show) -> None:
    """Large inputs cost more, which the limits' user should see before the bill."""
    _, lines, _ = show("gemini-2.5-pro")
    assert any(line.startswith("component per standard above 200,000 input") for line in lines)
    assert any(line.startswith("input million $1.25 $2.5") for line in lines)


def test_prices_show__with_a_plan__has_its_rates_and_only_its_limits(show: Show) -> None:
    """The plan's own rate wins, and is named as the source."""
    status, lines, _ = show("house", "--plan", "pro")
    assert status == 0
    assert "source cost_rates of plan pro" in lines
    assert "input million $3" in lines
    assert lines[-2:] == ["plan limit that counts it", "pro $25.00 per period"]
    _, lines, _ = show("o3", "--plan", "free")
    assert lines[-1] == "free 5 calls of o3 per UTC day"


def test_prices_show__a_plan_that_books_its_dearest_rate__says_so(show: Show) -> None:
    """The model has a price there, and is still in no price list."""
    status, lines, _ = show("gpt4o-mini", "--plan", "pro")
    assert status == 0
    assert "source in no price list; plan pro books its dearest rate" in lines


def test_prices_show__no_limit_counts_it__says_so(show: Show, tmp_path: Path) -> None:
    """No line is not the same as no limit; without a store the prices are shown all the same."""
    _, lines, _ = show("gpt-4o", "--plan", "free")
    assert lines[-1] == "limits no limit of these plans counts it"
    status, lines, _ = show("gpt-4o", db=str(tmp_path / "none.db"))
    assert status == 0
    assert lines[-1] == f"limits no limit of product '{PRODUCT}' (it has no plans) counts it"
    assert not (tmp_path / "none.db").exists()


@pytest.mark.parametrize(
    ("model", "hint"),
    [("gpt4o-mini", "; nearest names: gpt-4o-mini."), ("no such model", "price list. Its tokens")],
)
def test_prices_show__an_unlisted_model__names_the_nearest(
    show: Show, model: str, hint: str
) -> None:
    """The finding says what happens to its calls, and how to give it a price."""
    status, lines, error = show(model)
    assert (status, lines) == (1, [])
    assert f"{model!r} is in no price list" in error
    assert hint in error
    assert "cost_rates" in error


def test_prices_show__an_unknown_plan__names_the_configured_ones(
    show: Show, tmp_path: Path
) -> None:
    """A misspelt plan is not shown at list prices."""
    status, lines, error = show("gpt-4o", "--plan", "prox")
    assert (status, lines) == (1, [])
    assert "no such plan: 'prox'" in error
    assert "configured: 'free', 'pro'" in error
    status, _, error = show("gpt-4o", "--plan", "pro", db=str(tmp_path / "none.db"))
    assert (status, "there is no store at" in error) == (1, True)
