"""Where a sign-in goes on to: an address of this server, and never another host."""

from __future__ import annotations

from urllib.parse import urljoin, urlsplit

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from paygent.server.dashboard.site import local_address

ATTACKS = (
    "//evil.example",
    "///evil.example",
    "////evil.example/%2f..",
    "/\\evil.example",
    "\\\\evil.example",
    "\\/evil.example",
    "/\\/evil.example",
    "/x\\..\\..\\evil",
    "/\t/evil.example",
    "/\n/evil.example",
    "/\r/evil.example",
    "\t//evil.example",
    " //evil.example",
    "/ /evil.example",
    "/\0/evil.example",
    "/\x7f/evil.example",
    "/users\r\nSet-Cookie: paygent_session=x",
    "/users\nLocation: https://evil.example",
    "https://evil.example",
    "http:evil.example",
    "https:/evil.example",
    "HTTPS://evil.example",
    "javascript:alert(1)",
    "java\tscript:alert(1)",
    "data:text/html,x",
    "evil.example",
    "@evil.example",
    ".evil.example",
    "?next=//evil.example",
    "#//evil.example",
    "../users",
    "",
    "/é",
    "/\u2025/evil.example",
    "/\uff0fevil.example",
    "\uff0f/evil.example",
    "/" + "x" * 2_000,
)


@pytest.mark.parametrize("attack", ATTACKS)
def test_local_address__an_attack__is_the_first_page(attack: str) -> None:
    """Another host, a scheme, a second header, a relative address, one without end."""
    assert local_address(attack) == "/"


@pytest.mark.parametrize(
    "address",
    [
        "/",
        "/users",
        "/user?id=ann%40example.com&tab=calls",
        "/user?id=%2F%2Fevil.example",
        "/users?search=https://evil.example",
        "/?from=2026-10-01&to=2026-11-01#tail",
        "/@evil.example",
        "/..//evil.example",
        "/" + "x" * 1_999,
    ],
)
def test_local_address__of_this_server__is_kept(address: str) -> None:
    """With its query; what stands after the path leads to no other host."""
    assert local_address(address) == address


@given(st.text(st.sampled_from("/\\.:@?#%ahtps \t\n\0é"), max_size=12))
@example("/:/")
def test_local_address__any_text__leads_to_this_server(text: str) -> None:
    """As a browser resolves it, which takes a backslash for a slash and drops tabs."""
    found = local_address(text)
    assert found in (text, "/")
    resolved = urlsplit(urljoin("https://pg.example/login", found.replace("\\", "/")))
    assert (resolved.scheme, resolved.netloc) == ("https", "pg.example")
