"""A browser of the dashboard, as far as the server can tell: cookies, forms and their origin.

It shares the event loop of the service's client, as connections of one server do. A page is read
as a browser reads it, so that what was meant as text is found where it became markup.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from html.parser import HTMLParser
from typing import Any
from urllib.parse import urlencode

from fastapi.testclient import TestClient
from httpx import Response
from tests.integration.server.service import LOOPBACK, Service

ORIGIN = "http://testserver"
FORM = "application/x-www-form-urlencoded"

Fields = Mapping[str, str] | Sequence[tuple[str, str]]

_VOID = frozenset(
    ("area", "base", "br", "col", "embed", "hr", "img", "input", "link", "meta", "source", "wbr")
)


@dataclass
class Element:
    """An element of a page.

    Attributes:
        tag: Its name.
        attributes: By name; "" for one without a value.
        path: The tags around it, from the outermost.
        text: All text in it, one piece after the other.
    """

    tag: str
    attributes: dict[str, str]
    path: tuple[str, ...]
    text: str = ""


@dataclass
class Form:
    """A form of a page.

    Attributes:
        action: Where it is sent.
        fields: Its hidden fields, and those with a value.
    """

    action: str
    fields: dict[str, str] = field(default_factory=dict)


@dataclass
class Cell:
    """A cell of a table, or a value of a list of facts.

    Attributes:
        text: All text in it.
        figures: The exact values in it: nano-dollars, counts.
    """

    text: str = ""
    figures: list[int] = field(default_factory=list)

    @property
    def figure(self) -> int | None:
        """The first value; None where it is not known."""
        return self.figures[0] if self.figures else None


class Page(HTMLParser):
    """A page as a browser reads it.

    Attributes:
        elements: In order.
        comments: In order.
        tables: The rows of each table, with its head and foot.
        facts: The values of lists, such as tiles, by their names.
    """

    def __init__(self, answer: Response) -> None:
        super().__init__(convert_charrefs=True)
        assert answer.headers["content-type"] == "text/html; charset=utf-8", answer.text
        self.elements: list[Element] = []
        self.comments: list[str] = []
        self.tables: list[list[list[Cell]]] = []
        self.facts: dict[str, Cell] = {}
        self._open: list[Element] = []
        self._cells: dict[int, Cell] = {}
        self.feed(answer.text)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element."""
        path = tuple(each.tag for each in self._open)
        found = Element(tag, {name: value or "" for name, value in attrs}, path)
        self.elements.append(found)
        if tag not in _VOID:
            self._open.append(found)
        self._note_figure(found)

    def _note_figure(self, found: Element) -> None:
        """Note a part of a table or list, or a value in the cell that is open."""
        if found.tag == "table":
            self.tables.append([])
        elif found.tag == "tr":
            self.tables[-1].append([])
        elif found.tag in ("td", "th"):
            self._cells[id(found)] = cell = Cell()
            self.tables[-1][-1].append(cell)
        elif found.tag == "dd":
            name = next(each.text for each in reversed(self.elements) if each.tag == "dt")
            self._cells[id(found)] = self.facts.setdefault(name, Cell())
        elif found.tag == "data" and found.attributes["class"] != "percent":
            for cell in self._open_cells():
                cell.figures.append(int(found.attributes["value"]))

    def _open_cells(self) -> list[Cell]:
        return [self._cells[id(each)] for each in self._open if id(each) in self._cells]

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        """Note an element of a drawing, which ends where it begins."""
        self.handle_starttag(tag, attrs)
        if tag not in _VOID:
            self._open.pop()

    def handle_endtag(self, tag: str) -> None:
        """End an element, and those in it whose end is implied."""
        while self._open and self._open.pop().tag != tag:
            pass

    def handle_data(self, data: str) -> None:
        """Note text."""
        for element in self._open:
            element.text += data
        for cell in self._open_cells():
            cell.text += data

    def handle_comment(self, data: str) -> None:
        """Note a comment."""
        self.comments.append(data)

    def all(self, tag: str, **attributes: str) -> list[Element]:
        """Return the elements of a name and attributes."""
        wanted = {name.rstrip("_").replace("_", "-"): each for name, each in attributes.items()}
        return [
            each
            for each in self.elements
            if each.tag == tag and wanted.items() <= each.attributes.items()
        ]

    def one(self, tag: str, **attributes: str) -> Element:
        """Return the only element of a name and attributes."""
        (found,) = self.all(tag, **attributes)
        return found

    def forms(self) -> list[Form]:
        """Return the forms that are sent by POST."""
        found: list[Form] = []
        form: Form | None = None
        for each in self.elements:
            if each.tag == "form":
                form = Form(each.attributes["action"])
                if each.attributes.get("method") == "post":
                    found.append(form)
            elif each.tag == "input" and form is not None and "form" in each.path:
                form.fields[each.attributes["name"]] = each.attributes.get("value", "")
        return found

    def form(self, action: str) -> Form:
        """Return the first form that is sent to an address."""
        return next(form for form in self.forms() if form.action == action)

    def table(self, caption: str) -> list[list[Cell]]:
        """Return the rows of the table with a text in its head; [] without one."""
        for rows in self.tables:
            if any(cell.text.startswith(caption) for cell in rows[0]):
                return rows
        return []

    @property
    def title(self) -> str:
        """The title in the browser's tab."""
        return next(each.text for each in self.elements if each.tag == "title")


class Browser:
    """A browser that may be signed in."""

    def __init__(
        self, service: Service, *, peer: tuple[str, int] = LOOPBACK, origin: str = ORIGIN
    ) -> None:
        self.service = service
        self.origin = origin
        self.token = ""
        self.client: Any = TestClient(
            service.app, client=peer, raise_server_exceptions=False, follow_redirects=False
        )
        self.client.portal = service.client.portal  # the event loop that the application runs on

    @property
    def session(self) -> str:
        """The value of the session cookie; "" without one."""
        return str(self.client.cookies.get("paygent_session") or "")

    def get(self, address: str, **options: Any) -> Response:
        """Open an address."""
        answer: Response = self.client.get(address, **options)
        return answer

    def page(self, address: str, status: int = 200) -> Page:
        """Open an address, and read its page."""
        answer = self.get(address)
        assert answer.status_code == status, (address, answer.status_code, answer.text[:500])
        return Page(answer)

    def send(
        self, path: str, fields: Fields = (), *, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a form as it is, from a page of this server unless `headers` say otherwise."""
        pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
        answer: Response = self.client.post(
            path,
            content=urlencode(pairs),
            headers={"Content-Type": FORM, "Origin": self.origin, **(headers or {})},
        )
        return answer

    def post(
        self, path: str, fields: Fields = (), *, headers: Mapping[str, str] | None = None
    ) -> Response:
        """Send a form with the token of the session."""
        pairs = list(fields.items()) if isinstance(fields, Mapping) else list(fields)
        return self.send(path, [*pairs, ("csrf_token", self.token)], headers=headers)

    def login(self, key_text: str, *, target: str = "/") -> Response:
        """Fill the form of the login in, and send it."""
        form = self.page("/login").form("/login")
        return self.send("/login", {**form.fields, "api_key": key_text, "next": target})


def signed_in(service: Service, key: str = "admin", **options: Any) -> Browser:
    """Return a browser that is signed in with one of the service's keys."""
    browser = Browser(service, **options)
    answer = browser.login(service.keys[key])
    assert answer.status_code == 303, answer.text
    browser.token = browser.page("/settings").form("/logout").fields["csrf_token"]
    return browser
