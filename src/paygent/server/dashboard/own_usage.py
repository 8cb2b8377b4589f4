"""The page of one end user, by a usage token: their usage and limits, and nothing else.

It needs no session. The token is in the address, is read-only and ends soon; the page loads nothing
but the style and scripts of this server and links to no page.
"""

from __future__ import annotations

from starlette.datastructures import Headers
from starlette.responses import Response

from paygent.server.api.usage_tokens import read_own_state
from paygent.server.dashboard.render import page
from paygent.server.dashboard.user import gauge_of
from paygent.server.dashboard.visit import Visit
from paygent.server.problems import not_found


async def show_own_usage(visit: Visit) -> Response:
    """Show the usage and limits of the token's user."""
    backend = visit.backend
    bearer = Headers(raw=[(b"authorization", b"Bearer " + visit.text("token").encode())])
    now_us = backend.now_us()
    token, state = await read_own_state(backend, bearer)
    product = await backend.in_store(backend.store.product, token.product)
    if product is None:
        raise not_found("user")
    models = sorted(state.by_model.items(), key=lambda item: (-item[1][1], item[0]))
    return await page(
        visit,
        "own_usage.html",
        of=state,
        product=product,
        gauges=[gauge_of(each, state, product.timezone, now_us) for each in state.limits],
        models=models,
        cost_nano=sum(cost_nano for _, (_, cost_nano) in models),
        as_of_us=now_us,
        until_us=token.until_us,
    )
