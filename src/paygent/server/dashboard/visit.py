"""A visit: one request for a page, with the person, the product and the state of the page."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from typing import Any, TypeVar
from urllib.parse import parse_qsl

from starlette.requests import Request

from paygent.core.money import read_decimal
from paygent.core.report import Cursor
from paygent.core.report_request import MARGIN, SPEND, Rules, SpendRequest, read_request
from paygent.core.validation import FieldError
from paygent.server.backend import Backend, Tenant
from paygent.server.cursors import read_cursor
from paygent.server.dashboard.snapshots import Snapshots
from paygent.server.dashboard.state import PageState
from paygent.server.problems import Problem, invalid
from paygent.store.directory_port import Product
from paygent.store.ledger import SqlStore

_T = TypeVar("_T")

_FIELDS_MAX = 1_000
_FORM_TYPE = "application/x-www-form-urlencoded"
_NUMBER_CHARS_MAX = 100
_POWER_MIN, _POWER_MAX = -330, 40
"""Powers of ten of a number: the smallest double, and more than any amount. As a whole number
"1e999999" has a million digits.
"""

THEMES = ("auto", "light", "dark")
THEME_COOKIE = "paygent_theme"


class Form:
    """The fields of a form that was sent."""

    def __init__(self, pairs: list[tuple[str, str]]) -> None:
        self._pairs = pairs
        self._last = dict(pairs)

    def get(self, name: str, default: str = "") -> str:
        """Return the value of a field, without white space around it."""
        return self._last.get(name, default).strip()

    def list(self, name: str) -> list[str]:
        """Return all values of a field that may be repeated."""
        return [value.strip() for key, value in self._pairs if key == name]

    @property
    def values(self) -> Mapping[str, str]:
        """The last value of every field, as it was sent."""
        return self._last


def read_number(text: str) -> Decimal | None:
    """Return a number that was typed into a form; None for other text, and for numbers that are
    infinite, or so long or large that it takes long to compute with them.
    """
    number = read_decimal(text) if len(text) <= _NUMBER_CHARS_MAX else None
    if number is None or not number.is_finite():
        return None
    return number if _POWER_MIN <= number.adjusted() <= _POWER_MAX else None


@dataclass(frozen=True)
class Visit:
    """A request for a page.

    Attributes:
        request: The request.
        backend: The server's parts.
        path, query: Of the address.
        theme: One of `THEMES`.
        nonce: Of this answer's scripts.
        notice: What has just been done, in words; "" is nothing.
        errors: Why something was not done.
    """

    request: Request
    backend: Backend
    path: str
    query: Mapping[str, str]
    theme: str
    nonce: str
    notice: str = ""
    errors: tuple[FieldError, ...] = ()

    @property
    def is_htmx(self) -> bool:
        """Whether htmx asks, and replaces a part of the page by the answer."""
        return self.request.headers.get("hx-request") == "true"

    @property
    def wants_fragment(self) -> bool:
        """Whether the answer goes into the page that is shown."""
        return self.is_htmx and self.request.headers.get("hx-request-type") == "partial"

    @property
    def base_url(self) -> str:
        """The address of this server, as the request names it."""
        url = self.request.url
        return f"{url.scheme}://{url.netloc}"

    def text(self, name: str, default: str = "") -> str:
        """Return a value of the query."""
        return self.query.get(name, default)

    async def form(self) -> Form:
        """Return the form that was sent.

        Raises:
            Problem: It is no form.
        """
        kind = self.request.headers.get("content-type", "").partition(";")[0].strip().lower()
        if kind != _FORM_TYPE:
            raise Problem(415, "unsupported-media-type", f"A form is sent as {_FORM_TYPE}.")
        body = await self.request.body()
        try:
            pairs = parse_qsl(
                body.decode("ascii"),
                keep_blank_values=True,
                max_num_fields=_FIELDS_MAX,
                errors="strict",
            )
        except ValueError:
            raise invalid("form", None, f"must be a form of at most {_FIELDS_MAX} fields") from None
        for name, value in pairs:
            if "\0" in value:
                raise invalid(name, value, "must not contain NUL")
        return Form(pairs)


@dataclass(frozen=True, kw_only=True)
class MemberVisit(Visit):
    """A visit of a person who is signed in.

    Attributes:
        tenant: The product, with the rights of an admin key.
        product: As the store has it.
        state: Of the page.
        csrf_token: What forms must contain.
    """

    tenant: Tenant
    product: Product
    state: PageState
    csrf_token: str

    @property
    def store(self) -> SqlStore:
        """The store, for the names of its verbs."""
        return self.tenant.store

    @property
    def zone(self) -> str:
        """The product's time zone."""
        return self.product.timezone

    @property
    def snapshots(self) -> Snapshots:
        """Figures of the whole population, of the last seconds."""
        snapshots: Snapshots = self.request.scope["app"].state.snapshots
        return snapshots

    async def ask(self, verb: Callable[..., _T], *args: Any, **options: Any) -> _T:
        """Call a verb of the store for this product, on a thread."""
        return await self.tenant.ask(verb, *args, **options)

    def spend_request(self, by: str, rows_max: int | None, **own: Any) -> SpendRequest:
        """Return a report of usage about the page's range and filters.

        Args:
            by: What it groups by.
            rows_max: Rows of a page.
            **own: Further filters, `sort`, and `cursor`: where the page begins.
        """
        return self._request(SPEND, by, rows_max, **{**self.state.where, **own})

    def margin_request(self, by: str, rows_max: int | None, **own: Any) -> SpendRequest:
        """Return a report of margins about the page's range, and its plan."""
        plan = {name: value for name, value in self.state.where.items() if name == "plan"}
        return self._request(MARGIN, by, rows_max, **{**plan, **own})

    def _request(self, rules: Rules, by: str, rows_max: int | None, **own: Any) -> SpendRequest:
        cursor = own.pop("cursor", "")
        given = self.state.report(by=by, **own)
        request = read_request(given, rules=rules, rows_max=rows_max)
        if not cursor:
            return request
        return replace(request, after=Cursor(*read_cursor(cursor, int, *(str for _ in request.by))))

    def at(self, state: PageState) -> MemberVisit:
        """Return the visit with another state of the page."""
        return replace(self, state=state)
