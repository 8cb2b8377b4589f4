"""Actions on a user: whatever a form has, the answer is a change or the fields that are wrong."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.server.dashboard.conftest import PRODUCT, MakeVisit

from paygent.core.limit import LimitKey
from paygent.server.dashboard.site import Done
from paygent.server.dashboard.user_actions import raise_limit
from paygent.server.dashboard.visit import Form
from paygent.store.sqlite import SqliteStore

RAISE = {
    "id": "ann",
    "limit": "0",
    "name": "Spend, this billing period",
    "add": "2.5",
    "until": "2030-01-01",
    "reason": "asked",
}


@pytest.fixture
def visit(store: SqliteStore, make_visit: MakeVisit) -> Any:
    """A visit of a product with a user, whose plan has one limit."""
    store.put_plans(PRODUCT, {"pro": {"max_spend_per_period": "5"}})
    store.add_user(PRODUCT, "ann", None)
    store.subscribe(PRODUCT, "ann", "pro", None)
    return make_visit("/user", id="ann")


async def sent(visit: Any, **fields: str) -> Done:
    """Send the form of a raise with other fields."""
    return await raise_limit(visit, Form(list({**RAISE, **fields}.items())))


async def test_raise_limit__a_form_that_is_right__raises_the_limit(
    visit: Any, store: SqliteStore
) -> None:
    """By the amount, until the day begins in the product's zone."""
    done = await sent(visit)
    assert (done.path, done.query, done.errors) == ("/user", {"id": "ann"}, ())
    (override,) = store.overrides(PRODUCT, "ann", visit.backend.now_us())
    assert override.limit == LimitKey("spend", "user", "", "period")
    assert (override.added, override.until_us) == (2_500_000_000, 1_893_456_000 * 10**6)
    assert override.reason == "asked"


@pytest.mark.parametrize(
    ("fields", "field"),
    [
        *[({"add": text}, "add") for text in ("", "x", "0", "-1", "nan", "sNaN", "inf", "1e99999")],
        *[({"limit": text}, "limit") for text in ("", "1", "-1", "x", "٣", "9" * 5_000)],
        ({"name": "Calls, this billing period"}, "limit"),
        *[({"until": text}, "until") for text in ("", "x", "2020-01-01", "1969-01-01")],
        ({"reason": "x" * 10_000}, "reason"),
    ],
)
async def test_raise_limit__a_field_that_breaks_a_rule__is_named(
    visit: Any, store: SqliteStore, fields: dict[str, str], field: str
) -> None:
    """Nothing is changed then."""
    done = await sent(visit, **fields)
    assert [each.field for each in done.errors] == [field]
    assert store.overrides(PRODUCT, "ann", visit.backend.now_us()) == ()
