"""`/sync` and `/leases`: the one round trip of an application's process.

Both take the same message: questions about users, and on `/sync` also what the process has to
deliver. What is delivered is booked first, by the grouping writer; then the questions are answered
from one reading, which shows how far the holder's batches are included. So a process never has to
guess whether a figure contains a batch, whatever got lost on the way.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from fastapi import Request
from pydantic_core import to_json
from starlette.responses import Response

from paygent.core.message_json import answer_to_json, read_batch, with_versions
from paygent.core.messages import Batch, LedgerRecord, Question, is_for_backend
from paygent.prices.model_names import canonical
from paygent.server.api import sync_schema
from paygent.server.api.events import booked, parse_body
from paygent.server.backend import ForTenant, Tenant
from paygent.server.logs import LOGGER
from paygent.server.problems import Problem, invalid
from paygent.server.routes import api_router, needs
from paygent.store.ledger import SqlStore

router = api_router()


def _body(schema: dict[str, object]) -> dict[str, object]:
    return {"required": True, "content": {"application/json": {"schema": schema}}}


@router.post(
    "/sync",
    openapi_extra=needs("sdk", requestBody=_body(sync_schema.SYNC_BODY)),
    response_model=sync_schema.Synced,
    tags=["sync"],
)
async def sync(request: Request, tenant: Tenant = ForTenant) -> Response:
    """Book what a process delivers, and answer its questions.

    If one event is invalid, nothing is booked. After no answer send the batch again under its
    number: what was stored is not counted twice.
    """
    batch = read_batch(parse_body(await request.body()), tenant.now_us(), canonical)
    _check_records(tenant, batch.records)
    new: frozenset[str] = frozenset()
    if batch.events or batch.records or batch.number:
        new = await booked(tenant, request, batch)
    return await _answer(tenant, batch, new)


@router.post(
    "/leases",
    openapi_extra=needs("sdk", requestBody=_body(sync_schema.LEASES_BODY)),
    response_model=sync_schema.Synced,
    tags=["sync"],
)
async def leases(request: Request, tenant: Tenant = ForTenant) -> Response:
    """Answer a process's questions about users before it admits their calls."""
    batch = read_batch(parse_body(await request.body()), tenant.now_us(), canonical)
    for name, given in (("events", batch.events), ("records", batch.records)):
        if given:
            raise invalid(name, len(given), "must be sent to /sync")
    return await _answer(tenant, batch, frozenset())


async def _answer(tenant: Tenant, batch: Batch, new: frozenset[str]) -> Response:
    """Answer the questions of a batch that has been booked."""
    body, unknown = await tenant.ask(_read, tenant.store, batch, new)
    if unknown:
        _create(tenant, unknown, batch.at_us)
    return Response(body, media_type="application/json")


def _read(
    product: str, store: SqlStore, batch: Batch, new: frozenset[str]
) -> tuple[bytes, list[Question]]:
    """Read and write down the answer, on a thread of the store: there may be thousands of users.
    Return also the questions about users who are unknown.
    """
    answer = store.read(
        product,
        batch.questions,
        batch.at_us,
        holder=batch.holder,
        news_since_us=batch.news_since_us,
    )
    unknown = [each for each in batch.questions if answer.users[each.user_id].is_unknown]
    answer = with_versions(replace(answer, counted=new), batch)
    return to_json(answer_to_json(answer, batch)), unknown


def _create(tenant: Tenant, unknown: Sequence[Question], at_us: int) -> None:
    """Create users that were asked about, on the default plan. Their calls do not wait for that,
    and one that fails is created with the next question.
    """
    try:
        creating = tenant.backend.writer.book(
            tenant.product, Batch(questions=tuple(unknown), at_us=at_us)
        )
    except Problem:  # the writer has no place
        return

    def done(_: object) -> None:
        if not creating.cancelled() and creating.exception() is not None:
            LOGGER.warning("users could not be created: %s", type(creating.exception()).__name__)

    creating.add_done_callback(done)


def _check_records(tenant: Tenant, records: Sequence[LedgerRecord]) -> None:
    """Refuse changes of plans and assignments by a key that must not make them.

    Raises:
        Problem: 403.
    """
    if tenant.scope == "admin":
        return
    for record in records:
        if not is_for_backend(record):
            detail = f"A key with the scope {tenant.scope} must not change plans; it needs admin."
            raise Problem(403, "insufficient-scope", detail)
