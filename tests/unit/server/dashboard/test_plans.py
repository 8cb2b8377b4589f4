"""Plans: the list, the editor, and what it says while one types."""

from __future__ import annotations

from typing import Any

import pytest
from tests.unit.server.dashboard.conftest import PRODUCT, MakeVisit

from paygent.core.plan import PlanConfig
from paygent.server.dashboard.plan_form import form_of_plan
from paygent.server.dashboard.plans import check_plan, save_plan, show_plan, show_plans
from paygent.server.dashboard.site import Done
from paygent.server.dashboard.visit import Form
from paygent.store.sqlite import SqliteStore


def text_of(answer: Any) -> str:
    """Return the text of a page."""
    return bytes(answer.body).decode()


def form(name: str = "pro", **texts: str) -> Form:
    """Return the form of a plan of defaults, with other texts."""
    shown = form_of_plan(name, PlanConfig())
    return Form(list({"name": name, **shown.values, "others": "", **texts}.items()))


@pytest.mark.parametrize("name", ["", "new", "old"])
async def test_show_plan__that_is_not_stored__is_a_new_one(
    store: SqliteStore, make_visit: MakeVisit, name: str
) -> None:
    """Without a name, never stored, or deleted: its versions stay below the editor."""
    (plan,) = store.put_plans(PRODUCT, {"old": {"price": "7"}})
    store.delete_plan(PRODUCT, plan.plan_id)
    text = text_of(await show_plan(make_visit("/plan", name=name)))
    assert '<input type="hidden" name="new" value="yes">' in text
    assert ('id="versions"' in text) == (name == "old")


async def test_show_plan__that_is_stored__shows_its_texts_and_words(
    store: SqliteStore, make_visit: MakeVisit
) -> None:
    """The editor has the values, and the limits in words below."""
    store.put_plans(PRODUCT, {"pro": {"price": "7.5", "max_spend_per_period": "12"}})
    text = text_of(await show_plan(make_visit("/plan", name="pro")))
    assert 'name="price" value="7.5"' in text
    assert "In words:" in text
    assert 'name="new"' not in text
    assert "pro" in text_of(await show_plans(make_visit("/plans")))


async def test_check_plan__with_errors__names_them_and_nothing_else(make_visit: MakeVisit) -> None:
    """The answer is a part of the page; a plan that is right is shown in words."""
    wrong = text_of(await check_plan(make_visit(), form(price="<x>")))
    assert "<li><code>price</code> = <code>&lt;x&gt;</code>: must be a number</li>" in wrong
    assert "<html" not in wrong
    assert "In words:" in text_of(await check_plan(make_visit(), form()))


async def test_save_plan__with_errors__shows_the_texts_again(
    store: SqliteStore, make_visit: MakeVisit
) -> None:
    """Nothing is stored; what was typed is not lost."""
    answer: Any = await save_plan(make_visit(), form(price="x"))
    assert answer.status_code == 422
    assert 'name="price" value="x"' in text_of(answer)
    assert store.plans(PRODUCT) == ()


async def test_save_plan__twice__is_one_version(store: SqliteStore, make_visit: MakeVisit) -> None:
    """A form in which nothing was changed makes no version; a new plan takes no name in use."""
    notices = []
    for _ in range(2):
        done = await save_plan(make_visit(), form(price="7"))
        assert isinstance(done, Done)
        notices.append(done.notice)
    assert notices == ["Saved as version 1.", "Nothing was changed."]
    again: Any = await save_plan(make_visit(), form(price="8", new="yes"))
    assert again.status_code == 422
    (plan,) = store.plans(PRODUCT)
    assert plan.version == 1
