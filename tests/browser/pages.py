"""Every page of the dashboard by its name, for tests that hold for all of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final
from urllib.parse import urlencode

from tests.browser.data import LONG, LOSER, ODD


def _address(path: str, **values: str) -> str:
    return f"{path}?{urlencode(values)}"


PAGES: Final[Mapping[str, str]] = {
    "overview": "/?compare=previous",
    "overview of the last month": "/?range=previous&model=gpt-4o",
    "users": "/users",
    "users of a model": "/users?model=local-llama",
    "user": _address("/user", id=LOSER),
    "calls": _address("/user", id="acct_1135", tab="calls"),
    "sessions": _address("/user", id=LOSER, tab="sessions"),
    "warnings": _address("/user", id=LOSER, tab="gates"),
    "manage": _address("/user", id=LOSER, tab="manage"),
    "user with an odd id": _address("/user", id=ODD),
    "calls of a user with a long id": _address("/user", id=LONG, tab="calls"),
    "call": _address("/call", id="e0000010", user=LOSER),
    "plans": "/plans",
    "plan": _address("/plan", name="pro"),
    "new plan": "/plan",
    "prices": "/prices",
    "price": _address("/price", of="gpt-4o"),
    "price of an unknown model": _address("/price", of="local-llama"),
    "keys": "/keys",
    "settings": "/settings",
}
"""Addresses of pages for a person who is signed in."""
