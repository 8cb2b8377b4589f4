"""`paygent audit`: a clean ledger, a counter that is wrong, and its repair."""

from __future__ import annotations

import io
import sqlite3
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from tests.contract.samples import batch_of, make_event
from tests.unit.cli.conftest import invoke, on_terminal

from paygent.cli import audit
from paygent.store import factory
from paygent.store.directory import wall_clock_us
from paygent.store.directory_port import Difference
from paygent.store.ledger import SqlStore
from paygent.store.port import StoreUnavailable


@pytest.fixture
def booked(ledger: SqlStore) -> SqlStore:
    """A ledger with events of two users."""
    ledger.ingest("acme", batch_of(make_event("a"), make_event("b", user_id="bob")))
    return ledger


def falsify(folder: Path, users: str = "'ann'") -> None:
    """Change a counter behind the ledger's back."""
    connection = sqlite3.connect(folder / "server" / "server.db")
    with connection:
        connection.execute(
            "UPDATE rollup_user SET cost_nano = cost_nano + 5"
            f" WHERE span = '2024-10' AND user_id IN ({users})"
        )
    connection.close()


def test_audit__of_a_sound_ledger__is_clean(booked: SqlStore) -> None:
    """The status is 0, and the line says what was compared."""
    assert invoke("audit") == (0, "audited: 1 product, differences: 0\n", "")


def test_audit__a_wrong_counter__is_named_with_both_figures(
    booked: SqlStore, tmp_path: Path
) -> None:
    """Table, row, column, stored and folded; nothing is changed."""
    falsify(tmp_path)
    for _ in range(2):
        status, out, _ = invoke("audit")
        _, row, total = out.splitlines()
        assert (status, total) == (1, "audited: 1 product, differences: 1")
        assert row.split()[:2] == ["acme", "rollup_user"]
        assert "user_id=ann" in row
        assert row.split()[-3:] == ["cost_nano", "1,005", "1,000"]


def test_audit__with_repair__sets_counters_and_audits_again(
    booked: SqlStore, tmp_path: Path
) -> None:
    """The status is 0: there is no finding any more."""
    falsify(tmp_path, "'ann', 'bob'")
    status, out, _ = invoke("audit", "--repair")
    assert (status, out.splitlines()[-3:]) == (
        0,
        [
            "audited: 1 product, differences: 2",
            "repaired: 2",
            "audited: 1 product, differences: 0",
        ],
    )
    assert invoke("audit")[0] == 0


def test_audit__of_one_product__leaves_the_others_out(booked: SqlStore, tmp_path: Path) -> None:
    """`--product` narrows it; a product that is unknown is a finding."""
    falsify(tmp_path)
    booked.add_product("shop", product_id="shop")
    assert invoke("audit", "--product", "shop")[0] == 0
    assert invoke("audit", "--product", "acme")[0] == 1
    status, _, err = invoke("audit", "--product", "none")
    assert (status, "acme, shop" in err) == (1, True)


def test_audit__of_several_products__is_stored_for_each(booked: SqlStore, tmp_path: Path) -> None:
    """Each product has its own number of differences, also beyond those that are listed."""
    booked.ingest("shop", batch_of(make_event("a")))
    falsify(tmp_path, "'bob'")
    before_us = wall_clock_us()
    assert invoke("audit")[0] == 1
    acme, shop = booked.last_audit("acme"), booked.last_audit("shop")
    assert acme is not None
    assert shop is not None
    assert (acme.differences, shop.differences) == (1, 0)
    assert before_us <= acme.at_us <= wall_clock_us()


def test_audit__with_repair__is_stored_as_it_is_after_it(booked: SqlStore, tmp_path: Path) -> None:
    """No difference is left."""
    falsify(tmp_path)
    assert invoke("audit")[0] == 1
    found = booked.last_audit("acme")
    assert found is not None
    assert found.differences == 1
    assert invoke("audit", "--repair")[0] == 0
    found = booked.last_audit("acme")
    assert found is not None
    assert found.differences == 0


def test_audit__that_is_interrupted__is_not_stored(
    booked: SqlStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was compared so far proves nothing."""

    def interrupted(*_: Any, **__: Any) -> Iterator[Difference]:
        yield Difference("accounts", {}, "spent", 1, 2)
        raise StoreUnavailable("gone")

    monkeypatch.setattr(SqlStore, "audit", interrupted)
    status, _, err = invoke("audit")
    assert (status, "gone" in err) == (1, True)
    assert booked.last_audit("acme") is None


def test_audit__of_a_database_that_cannot_be_written__is_complete(
    booked: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A replica is audited all the same; a note on the standard error has the reason."""
    connection = sqlite3.connect(tmp_path / "server" / "server.db", isolation_level=None)
    monkeypatch.setattr(factory, "_BUSY_WAIT_S", 0.01)
    connection.execute("BEGIN IMMEDIATE")
    status, out, err = invoke("audit")
    connection.close()
    assert (status, out) == (0, "audited: 1 product, differences: 0\n")
    assert err.startswith("paygent audit: the outcome for acme is not stored: SQLite, ")
    assert booked.last_audit("acme") is None


def test_audit__many_differences__are_listed_up_to_a_bound(
    booked: SqlStore, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rest is counted."""
    monkeypatch.setattr(audit, "_SHOWN_MAX", 1)
    falsify(tmp_path, "'ann', 'bob'")
    _, out, _ = invoke("audit")
    assert out.splitlines()[2:] == ["and 1 more", "audited: 1 product, differences: 2"]


def test_audit__on_a_terminal__shows_its_progress_beside_the_output(
    booked: SqlStore, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The bar is on the standard error, so that the output can be redirected."""
    on_terminal(monkeypatch, audit)
    shown = io.StringIO()
    monkeypatch.setattr(shown, "isatty", lambda: True)
    monkeypatch.setattr(sys, "stderr", shown)
    monkeypatch.delenv("CI", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert audit.run(database_url, None, {}, False) == 0
    assert "auditing acme" in shown.getvalue()
