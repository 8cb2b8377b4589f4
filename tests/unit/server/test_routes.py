"""The route class: no route is open by mistake."""

from __future__ import annotations

import pytest

from paygent.server.routes import api_router, needs


async def handler() -> None:
    """Do nothing."""


def test_route__without_a_declared_access__is_an_error_when_it_is_made() -> None:
    """A new route cannot forget who may call it."""
    with pytest.raises(KeyError):
        api_router().get("/new")(handler)


def test_route__with_a_declared_access__shows_it_in_the_document() -> None:
    """The declaration is an extension of the operation."""
    router = api_router()
    router.get("/new", openapi_extra=needs("admin"))(handler)
    (route,) = router.routes
    assert getattr(route, "openapi_extra", None) == {"x-paygent-access": "admin"}
