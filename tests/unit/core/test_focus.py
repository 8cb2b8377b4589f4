"""The FOCUS export: exact costs, and rows that focus-validator accepts."""

from __future__ import annotations

import csv
import fcntl
import json
import random
import re
import subprocess
import sys
from collections.abc import Iterable, Mapping
from fractions import Fraction
from importlib.util import find_spec
from itertools import islice
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.core.focus import COLUMNS, ROW_KEYS, focus_row, focus_table
from paygent.core.report import Figures, SpendRow

ROOT = Path(__file__).parents[3]
KEYS = ("2026-10-03", "ann", "gpt-4o", "openai")
FIGURES = Figures(
    calls=3,
    input_tokens=1_200,
    output_tokens=300,
    cached_input_tokens=200,
    cost_nano=6_000_000_015,
    partial_calls=1,
    estimated_calls=2,
    unpriced_calls=4,
)

amounts = st.integers(-(2**63), 2**63 - 1)
counts = st.integers(0, 2**63 - 1)


def record(
    keys: tuple[str, str, str, str] = KEYS, figures: Figures = FIGURES, zone: str = "UTC"
) -> dict[str, str]:
    """Return the fields of a row that are not null, by column."""
    row = focus_row(*keys, figures, zone=zone)
    return {name: value for name, value in zip(COLUMNS, row, strict=True) if value}


def test_focus_row__of_usage__has_exactly_these_fields() -> None:
    """Keys and figures have their columns, costs nine decimals, and what is unknown is null."""
    expected = {
        "BilledCost": "6.000000015",
        "BillingAccountId": "paygent",
        "BillingCurrency": "USD",
        "BillingPeriodEnd": "2026-11-01T00:00:00Z",
        "BillingPeriodStart": "2026-10-01T00:00:00Z",
        "ChargeCategory": "Usage",
        "ChargeDescription": "Usage of gpt-4o: 3 calls, 1200 input and 300 output tokens",
        "ChargeFrequency": "Usage-Based",
        "ChargePeriodEnd": "2026-10-04T00:00:00Z",
        "ChargePeriodStart": "2026-10-03T00:00:00Z",
        "ConsumedQuantity": "1500.0",
        "ConsumedUnit": "Tokens",
        "ContractedCost": "6.000000015",
        "ContractedUnitPrice": "0.00400000001",
        "EffectiveCost": "6.000000015",
        "InvoiceIssuerName": "openai",
        "ListCost": "6.000000015",
        "ListUnitPrice": "0.00400000001",
        "PricingCategory": "Standard",
        "PricingQuantity": "1500.0",
        "PricingUnit": "Tokens",
        "ProviderName": "openai",
        "PublisherName": "openai",
        "ResourceId": "gpt-4o",
        "ResourceType": "Model",
        "ServiceCategory": "AI and Machine Learning",
        "ServiceName": "openai API",
        "SkuId": "gpt-4o",
        "SkuPriceId": "gpt-4o",
        "SubAccountId": "ann",
        "SubAccountName": "ann",
        "Tags": '{"paygent/user": "ann", "paygent/model": "gpt-4o", "paygent/provider": "openai"}',
        "x_CachedInputTokens": "200",
        "x_Calls": "3",
        "x_EstimatedCalls": "2",
        "x_InputTokens": "1200",
        "x_OutputTokens": "300",
        "x_PartialCalls": "1",
        "x_UnpricedCalls": "4",
    }
    assert expected == record()


@pytest.mark.parametrize(
    ("zone", "day", "charge", "billing"),
    [
        # Summer time ends on 25 October: the day has 25 hours, the month an hour more than days.
        (
            "Europe/Berlin",
            "2026-10-25",
            ("2026-10-24T22:00:00Z", "2026-10-25T23:00:00Z"),
            ("2026-09-30T22:00:00Z", "2026-10-31T23:00:00Z"),
        ),
        (
            "Asia/Kolkata",
            "2026-12-31",
            ("2026-12-30T18:30:00Z", "2026-12-31T18:30:00Z"),
            ("2026-11-30T18:30:00Z", "2026-12-31T18:30:00Z"),
        ),
    ],
)
def test_focus_row__in_a_time_zone__has_its_day_and_month_as_utc_instants(
    zone: str, day: str, charge: tuple[str, str], billing: tuple[str, str]
) -> None:
    """Periods are the day and the calendar month of the product's zone, with exclusive ends."""
    row = record((day, *KEYS[1:]), zone=zone)
    assert charge == (row["ChargePeriodStart"], row["ChargePeriodEnd"])
    assert billing == (row["BillingPeriodStart"], row["BillingPeriodEnd"])


def test_focus_row__without_user_model_and_provider__names_only_what_must_not_be_null() -> None:
    """What is about no user, model or provider has none; names that FOCUS requires are "Other"."""
    row = record((KEYS[0], "", "", ""), FIGURES._replace(calls=1))
    for column in ("SubAccountId", "SubAccountName", "ResourceId", "ResourceType"):
        assert column not in row
    for column in ("ProviderName", "PublisherName", "InvoiceIssuerName", "ServiceName", "SkuId"):
        assert row[column] == "Other"
    assert row["Tags"] == "{}"
    assert row["ChargeDescription"].startswith("Usage of Other: 1 call, ")
    assert record((*KEYS[:2], "", "openai"))["SkuPriceId"] == "openai"


def test_focus_row__without_tokens__is_priced_by_the_call() -> None:
    """The quantity of images and fees, which have no tokens, is the number of calls."""
    row = record(figures=Figures(calls=4, cost_nano=10**9))
    for name in ("Consumed", "Pricing"):
        assert (row[f"{name}Quantity"], row[f"{name}Unit"]) == ("4.0", "Requests")
    assert row["ListUnitPrice"] == "0.25"
    assert "ChargeClass" not in row


def test_focus_row__free_of_charge__costs_zero() -> None:
    """A cost of 0 is written with its decimals, and so is the unit price."""
    row = record(figures=Figures(calls=4, input_tokens=10))
    assert (row["BilledCost"], row["ListUnitPrice"]) == ("0.000000000", "0.0")
    assert "ChargeClass" not in row


@pytest.mark.parametrize(
    ("figures", "cost", "quantity"),
    [
        (Figures(calls=2, input_tokens=10, cost_nano=-1), "-0.000000001", ("10.0", "Tokens")),
        (Figures(cost_nano=-1_500_000_000), "-1.500000000", (None, None)),
        (Figures(cost_nano=5), "0.000000005", (None, None)),
        (Figures(calls=1, input_tokens=-7, cost_nano=9), "0.000000009", ("-7.0", "Tokens")),
    ],
)
def test_focus_row__that_corrections_left_without_a_unit_price__is_a_correction(
    figures: Figures, cost: str, quantity: tuple[str | None, str | None]
) -> None:
    """A negative cost or no positive quantity makes a correction, which needs no unit price."""
    row = record(figures=figures)
    assert row["ChargeClass"] == "Correction"
    assert row["ChargeDescription"].startswith("Correction of usage of gpt-4o: ")
    assert [row[f"{name}Cost"] for name in ("Billed", "Effective", "List", "Contracted")] == (
        [cost] * 4
    )
    assert quantity == (row.get("PricingQuantity"), row.get("PricingUnit"))
    assert quantity == (row.get("ConsumedQuantity"), row.get("ConsumedUnit"))
    assert not {"ListUnitPrice", "ContractedUnitPrice"} & row.keys()


@given(st.lists(amounts, max_size=20))
def test_focus_table__any_costs__have_the_exact_sum(costs: list[int]) -> None:
    """The sum of BilledCost is the sum of the report, to the nano-dollar."""
    rows = [SpendRow(KEYS, Figures(calls=1, cost_nano=cost)) for cost in costs]
    header, *lines = focus_table(rows, zone="UTC")
    billed = [Fraction(line[header.index("BilledCost")]) for line in lines]
    assert Fraction(sum(costs), 10**9) == sum(billed, Fraction())


@given(st.builds(Figures, counts, counts, counts, cost_nano=counts))
def test_focus_row__any_usage__has_a_unit_price_that_gives_its_cost(figures: Figures) -> None:
    """Quantity times unit price, rounded to nano-dollars, is the cost, but for corrections."""
    row = record(figures=figures)
    if "ChargeClass" in row:
        assert figures.calls == figures.input_tokens == figures.output_tokens == 0
        return
    product = Fraction(row["PricingQuantity"]) * Fraction(row["ListUnitPrice"])
    assert figures.cost_nano == round(product * 10**9)
    assert row["ListUnitPrice"] == row["ContractedUnitPrice"]


def test_focus_table__a_report__is_read_row_by_row() -> None:
    """The header comes before the report is read, and a row before the next one is."""
    read: list[int] = []

    def report() -> Iterable[SpendRow]:
        for number in range(3):
            read.append(number)
            yield SpendRow(KEYS, FIGURES)

    table = focus_table(report(), zone="UTC", billing_account="prod_1")
    assert list(islice(table, 1)) == [COLUMNS]
    assert read == []
    assert next(table) == focus_row(*KEYS, FIGURES, zone="UTC", billing_account="prod_1")
    assert read == [0]
    assert next(table)[COLUMNS.index("BillingAccountId")] == "prod_1"
    assert len(ROW_KEYS) == len(KEYS)


# -- focus-validator

REQUIREMENTS = ("focus-validator==1.0.0", "multimethod<2")
"""It needs NumPy 1 and pandas 2, which the other tests must not be held to. Its own dependency
pandera 0.17 needs an older multimethod than it asks for.
"""

SPEC_NAMES = {
    "InvoiceIssuer": "InvoiceIssuerName",
    "Provider": "ProviderName",
    "Publisher": "PublisherName",
    "ResourceID": "ResourceId",
    "ChargeType": "ChargeCategory",
}
"""Columns that its rules for 1.0 still name as drafts did -> the name in the specification."""

VALIDATE = """
import json, sys
from focus_validator.validator import Validator

def validate(data, rules):
    validator = Validator(data, None, "console", rule_set_path=rules, rules_version="1.0")
    validator.load()
    checks = validator.spec_rules.validate(validator.focus_data).checklist
    return {name: [check.column_id, check.status.value] for name, check in checks.items()}

rules, *files = sys.argv[1:]
print(json.dumps([validate(data, rules) for data in files]))
"""


def validator_python() -> str:
    """Return a Python that has focus-validator: this one, or that of a venv of its own."""
    if find_spec("focus_validator") is not None:
        return sys.executable
    venv = ROOT / ".venv-peers" / f"focus-validator-{sys.version_info[0]}.{sys.version_info[1]}"
    venv.parent.mkdir(exist_ok=True)
    python = venv / "bin" / "python"
    pip = [str(python), "-m", "pip", "install", "-q", "--disable-pip-version-check"]
    # Test runs of one checkout share the venv; the first one makes it, the others wait.
    with venv.with_suffix(".lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (venv / "complete").exists():
            subprocess.run([sys.executable, "-m", "venv", "--clear", str(venv)], check=True)
            subprocess.run([*pip, *REQUIREMENTS], check=True)
            (venv / "complete").touch()
    return str(python)


def validate(*files: Path, folder: Path) -> list[dict[str, tuple[str, str]]]:
    """Return by file: check -> (column, status), by the rules for FOCUS 1.0 and no network."""
    python = validator_python()
    where = "import focus_validator as f; print(f.__path__[0])"
    package = Path(
        subprocess.run([python, "-c", where], check=True, capture_output=True, text=True).stdout[
            :-1
        ]
    )
    rules = folder / "rules"
    (rules / "1.0").mkdir(parents=True)
    draft_name = re.compile(rf"\b({'|'.join(SPEC_NAMES)})\b")
    for rule in (package / "rules" / "version_sets" / "1.0").glob("*.yaml"):
        text = draft_name.sub(lambda match: SPEC_NAMES[match[0]], rule.read_text())
        (rules / "1.0" / rule.name).write_text(text)
    # It reads its list of currencies relative to the current folder.
    run = subprocess.run(
        [python, "-c", VALIDATE, str(rules), *map(str, files)],
        cwd=package.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert run.returncode == 0, run.stderr
    return [
        {name: (column, status) for name, (column, status) in checks.items()}
        for checks in json.loads(run.stdout)
    ]


def varied_rows() -> Iterable[SpendRow]:
    """Yield 200 rows of all kinds: corrections, no tokens, no model, ids with any characters."""
    rng = random.Random(7)
    for number in range(200):
        yield SpendRow(
            (
                f"2026-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}",
                rng.choice(("ann", 'b,"o"b', "Zoë\nÅ", "", "007")),
                rng.choice(("gpt-4o", "claude-sonnet-4-5", "")),
                rng.choice(("openai", "anthropic", "azure", "")),
            ),
            Figures(
                calls=rng.choice((0, 1, 50)),
                input_tokens=rng.choice((0, 999, 10**12)),
                output_tokens=rng.choice((0, 1, 77)),
                cost_nano=rng.choice((0, 1, -5, 10**9 + 7, rng.randrange(10**15))) + number,
            ),
        )


def write_table(path: Path, changes: Mapping[str, str]) -> None:
    """Write the varied rows as CSV, with the values of some columns replaced."""
    header, *rows = focus_table(varied_rows(), zone="America/New_York")
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(header)
        for row in rows:
            fields = zip(header, row, strict=True)
            writer.writerow([changes.get(name, value) for name, value in fields])


# The rules of the newer versions of focus-validator are for FOCUS 1.2, and pandera 0.17, on which
# 1.0.0 is built, supports no Python above 3.11.
if sys.version_info < (3, 12):

    def test_focus_table__varied_rows__are_valid_by_focus_validator(tmp_path: Path) -> None:
        """All 133 rules for the 43 columns of FOCUS 1.0 hold, and each kind of rule can fail."""
        good, bad = tmp_path / "good.csv", tmp_path / "bad.csv"
        write_table(good, {})
        wrong = {
            "BilledCost": "free",
            "BillingCurrency": "dollars",
            "ChargePeriodEnd": "2026-10-04T00:00:00+02:00",
            "ProviderName": "",
            "ServiceCategory": "Tokens",
            "SkuPriceId": "",
            "Tags": "[]",
        }
        write_table(bad, wrong)
        checks, broken = validate(good, bad, folder=tmp_path)
        assert {status for _, status in checks.values()} == {"passed"}
        assert len(checks) == 133
        columns = {column for column, _ in checks.values()}
        assert sorted(columns) == [name for name in COLUMNS if not name.startswith("x_")]
        assert set(wrong) == {column for column, status in broken.values() if status == "failed"}


def test_columns__custom_ones__come_last() -> None:
    """Within FOCUS and custom columns the order is alphabetical; custom ones have a prefix."""
    assert list(COLUMNS) == sorted(COLUMNS, key=lambda name: (name.startswith("x_"), name))
    assert len(set(COLUMNS)) == len(COLUMNS)
    assert len([name for name in COLUMNS if not name.startswith("x_")]) == 43
