"""Figures as pages show them, each with its exact value beside what is displayed.

A money element carries its nano-dollars, so that a page can be compared with a report to the last
digit. Zero, an unknown figure, an estimate and usage without a price each look different.
"""

from __future__ import annotations

from urllib.parse import quote

from markupsafe import Markup

from paygent.core.money import format_usd
from paygent.core.period import to_datetime

_CENT_NANO = 10**7
_MICRODOLLAR_NANO = 10**3
_UNKNOWN = Markup('<span class="unknown" title="Not known">–</span>')


def money(amount_nano: int | None, *, signed: bool = False) -> Markup:
    """Return an amount; None is not known.

    Args:
        amount_nano: In nano-dollars.
        signed: Whether a positive amount has a plus sign, as a difference does.
    """
    if amount_nano is None:
        return _UNKNOWN
    small = 6 if abs(amount_nano) >= _MICRODOLLAR_NANO else 9
    decimals = 2 if abs(amount_nano) >= _CENT_NANO or not amount_nano else small
    text = format_usd(amount_nano, decimals=decimals)
    if signed and amount_nano > 0:
        text = f"+{text}"
    kind = "zero" if not amount_nano else "negative" if amount_nano < 0 else "positive"
    exact = format_usd(amount_nano, decimals=9)
    return _of_digits(
        f'<data class="money {kind}" value="{amount_nano}" title="{exact}">{text}</data>'
    )


def count(number: int | None) -> Markup:
    """Return a number of things; None is not known."""
    if number is None:
        return _UNKNOWN
    kind = "count zero" if not number else "count"
    return _of_digits(f'<data class="{kind}" value="{number}">{number:,}</data>')


def percent(fraction: float | None, *, signed: bool = False) -> Markup:
    """Return a fraction as a percentage with one decimal; None is not known."""
    if fraction is None:
        return _UNKNOWN
    text = f"{abs(fraction) * 100:,.1f} %"
    sign = "−" if fraction < 0 else "+" if signed and fraction > 0 else ""
    return _of_digits(f'<data class="percent" value="{fraction}">{sign}{text}</data>')


def change(now: int, before: int) -> Markup:
    """Return by how much a figure differs from an earlier one, as a percentage."""
    if not before:
        return Markup('<span class="change">new</span>') if now else Markup("")
    return Markup('<span class="change">{}</span>').format(
        percent((now - before) / abs(before), signed=True)
    )


def moment(at_us: int | None, *, seconds: bool = False) -> Markup:
    """Return a time, which scripts show in the viewer's zone; without them it is UTC."""
    if not at_us:
        return _UNKNOWN
    at = to_datetime(at_us)
    text = f"{at:%Y-%m-%d %H:%M:%S}" if seconds else f"{at:%Y-%m-%d %H:%M}"
    iso = f"{at:%Y-%m-%dT%H:%M:%S}Z"
    return _of_digits(
        f'<time datetime="{iso}" title="{at:%Y-%m-%d %H:%M:%S} UTC">{text} UTC</time>'
    )


def usage(nano: int, estimated: int = 0, unpriced: int = 0) -> Markup:
    """Return a cost with marks for the calls in it that were estimated or have no price."""
    parts = [money(nano)]
    if estimated:
        parts.append(
            Markup('<span class="mark estimated" title="{} calls are estimated">≈</span>').format(
                f"{estimated:,}"
            )
        )
    if unpriced:
        parts.append(
            Markup(
                '<span class="mark unpriced" title="{} calls have no price and cost $0 here">'
                "no price</span>"
            ).format(f"{unpriced:,}")
        )
    return Markup(" ").join(parts)


def named(value: str) -> Markup:
    """Return the value of a key; "" is a call without one."""
    if not value:
        return Markup('<span class="unknown">(none)</span>')
    return Markup('<span class="name">{}</span>').format(value)


def address(path: str, **values: str | int | None) -> str:
    """Return an address with values in its query; None is left out."""
    pairs = [
        f"{name.rstrip('_')}={quote(str(value), safe='')}"
        for name, value in values.items()
        if value is not None
    ]
    return f"{path}?{'&'.join(pairs)}" if pairs else path


def _of_digits(html: str) -> Markup:
    """Return HTML of figures and times. `Markup.format` would escape digits, which need it not, and
    take most of a page's time.
    """
    return Markup(html)  # noqa: S704 - no text from outside
