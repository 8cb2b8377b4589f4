"""Figures on pages: the exact value beside what is displayed, and marks that cannot be confused."""

from __future__ import annotations

import re
from decimal import Decimal
from urllib.parse import parse_qs, urlsplit

import pytest
from hypothesis import given
from hypothesis import strategies as st
from markupsafe import Markup

from paygent.server.dashboard.figures import (
    address,
    change,
    count,
    moment,
    money,
    named,
    percent,
    usage,
)

UNKNOWN = '<span class="unknown" title="Not known">–</span>'
EVIL = '"><script>alert(1)</script>'
ESCAPED = "&#34;&gt;&lt;script&gt;alert(1)&lt;/script&gt;"
TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=40)


def shown(markup: Markup) -> str:
    """Return the text that a reader sees."""
    return re.sub(r"<[^>]*>", "", markup)


@pytest.mark.parametrize(
    ("amount_nano", "kind", "text"),
    [
        (0, "zero", "$0.00"),
        (1, "positive", "$0.000000001"),
        (1_000, "positive", "$0.000001"),
        (9_999_999, "positive", "$0.010000"),
        (10_000_000, "positive", "$0.01"),
        (1_234_567_890_123, "positive", "$1,234.57"),
        (-1_000, "negative", "−$0.000001"),
        (-91_420_000_000, "negative", "−$91.42"),
    ],
)
def test_money__an_amount__has_its_kind_text_and_nano_dollars(
    amount_nano: int, kind: str, text: str
) -> None:
    """Cents, or six decimals below one cent, so that a small cost is not shown as 0."""
    markup = money(amount_nano)
    assert markup.startswith(f'<data class="money {kind}" value="{amount_nano}" title="')
    assert shown(markup) == text


@given(st.integers(-(10**19), 10**19))
def test_money__any_amount__has_its_exact_value_twice(amount_nano: int) -> None:
    """As nano-dollars for programs, and with nine decimals for readers."""
    value, title = re.findall(r'(?:value|title)="([^"]*)"', money(amount_nano))
    assert int(value) == amount_nano
    exact = Decimal(title.replace("−", "-").replace("$", "").replace(",", ""))
    assert exact * 10**9 == amount_nano


def test_money__signed__has_a_plus_sign_where_it_grew() -> None:
    """A difference of zero has no sign."""
    signed = [shown(money(each, signed=True)) for each in (10**9, 0, -(10**9))]
    assert signed == ["+$1.00", "$0.00", "−$1.00"]


def test_figures__that_are_not_known__differ_from_zero() -> None:
    """None is a dash with a title; zero is a figure."""
    assert money(None) == count(None) == percent(None) == moment(None) == moment(0) == UNKNOWN
    assert shown(count(0)) == "0"
    assert 'class="count zero"' in count(0)
    assert shown(percent(0.0)) == "0.0 %"


def test_count__a_number__has_separators_and_its_value() -> None:
    """The value is without separators."""
    assert count(1_234_567) == '<data class="count" value="1234567">1,234,567</data>'


@pytest.mark.parametrize(
    ("fraction", "signed", "text"),
    [
        (0.1234, False, "12.3 %"),
        (0.1234, True, "+12.3 %"),
        (-0.5, False, "−50.0 %"),
        (-0.5, True, "−50.0 %"),
        (0.0, True, "0.0 %"),
        (12.345, False, "1,234.5 %"),
    ],
)
def test_percent__a_fraction__has_one_decimal(fraction: float, signed: bool, text: str) -> None:
    """With the exact fraction as its value."""
    markup = percent(fraction, signed=signed)
    assert shown(markup) == text
    assert f'value="{fraction}"' in markup


@pytest.mark.parametrize(
    ("now", "before", "text"),
    [
        (150, 100, "+50.0 %"),
        (50, 100, "−50.0 %"),
        (100, 100, "0.0 %"),
        (5, 0, "new"),
        (0, 0, ""),
        (50, -100, "+150.0 %"),
        (-150, -100, "−50.0 %"),
    ],
)
def test_change__from_an_earlier_figure__is_a_percentage(now: int, before: int, text: str) -> None:
    """Of a loss that grew it is negative; from nothing there is no percentage."""
    assert shown(change(now, before)) == text


def test_moment__a_time__is_utc_in_text_title_and_attribute() -> None:
    """Scripts put the viewer's zone into the text; the title stays."""
    at_us = 1_791_028_805_999_999  # 2026-10-03, 12:00:05.999999
    assert moment(at_us) == (
        '<time datetime="2026-10-03T12:00:05Z" title="2026-10-03 12:00:05 UTC">'
        "2026-10-03 12:00 UTC</time>"
    )
    assert shown(moment(at_us, seconds=True)) == "2026-10-03 12:00:05 UTC"


def test_usage__estimated_and_unpriced_calls__have_a_mark_each() -> None:
    """A cost of exact calls has none; the number of calls is in the title."""
    assert usage(5) == money(5)
    estimated, unpriced = usage(5, estimated=1_000), usage(0, unpriced=2_000)
    assert shown(estimated).endswith("≈")
    assert "1,000 calls are estimated" in estimated
    assert shown(unpriced) == "$0.00 no price"
    assert "2,000 calls have no price" in unpriced
    assert usage(5, 1, 2).count('class="mark') == 2


def test_named__any_text__is_escaped() -> None:
    """A model's name comes from an application's users; "" is a call without one."""
    assert named(EVIL) == f'<span class="name">{ESCAPED}</span>'
    assert named("") == '<span class="unknown">(none)</span>'


@given(TEXT, TEXT.filter(bool))
def test_address__any_values__are_read_back(first: str, second: str) -> None:
    """None is left out, and an underscore for names that Python reserves is dropped."""
    given_ = address("/user", id=first, from_=second, cursor=None, page=7)
    parts = urlsplit(given_)
    assert parts.path == "/user"
    expected = {"id": [first], "from": [second], "page": ["7"]}
    assert parse_qs(parts.query, keep_blank_values=True) == expected
    assert address("/users", cursor=None) == "/users"
