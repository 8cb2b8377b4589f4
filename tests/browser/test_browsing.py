"""The net under the browser tests: what may not happen in a tab is noticed."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest
from playwright.sync_api import Browser, Page
from tests.browser.browsing import Browsing
from tests.browser.conftest import Site

_OTHER_HOST = """() => {
  const image = new Image();
  image.src = "http://localhost:9/pixel.gif";
  document.body.append(image);
}"""
_INLINE_STYLE = 'document.body.setAttribute("style", "color: red")'
_MARKUP = """setTimeout(() => { document.body.innerHTML = "<b>text</b>"; })"""

PROVOKED: dict[str, tuple[Callable[[Page], object], str]] = {
    "error": (lambda page: page.evaluate("console.error('wrong')"), "console: wrong"),
    "warning": (lambda page: page.evaluate("console.warn('odd')"), "console: odd"),
    "exception": (lambda page: page.evaluate("setTimeout(() => missing())"), "script error"),
    "inline style": (
        lambda page: page.evaluate(_INLINE_STYLE),
        "console: policy violated: style-src",
    ),
    "other host": (lambda page: page.evaluate(_OTHER_HOST), "request to another host"),
    "markup": (lambda page: page.evaluate(_MARKUP), "console: policy violated: require-trusted"),
    "status": (lambda page: page.evaluate("fetch('/missing')"), "status 404"),
}


@pytest.fixture
def unwatched(browser: Browser, site: Site) -> Iterator[Browsing]:
    """A tab in which something may happen."""
    context = browser.new_context()
    yield Browsing(context, site.address)
    context.close()


@pytest.mark.parametrize("kind", PROVOKED)
def test_tab__in_which_something_happens__reports_it(unwatched: Browsing, kind: str) -> None:
    """Each kind of problem fails a test that does not expect it."""
    provoke, expected = PROVOKED[kind]
    page = unwatched.open("/login")
    assert not unwatched.problems
    provoke(page)
    page.evaluate("new Promise((done) => setTimeout(done, 50))")
    assert any(problem.startswith(expected) for problem in unwatched.problems), unwatched.problems


def test_tab__without_the_status_that_was_expected__reports_it(unwatched: Browsing) -> None:
    """An expectation that is not met fails, too."""
    unwatched.expect_status(422)
    unwatched.open("/login")
    assert unwatched.problems == ["no answer had the status 422"]
