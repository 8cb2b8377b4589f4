"""`Idempotency-Key`: a repeated request gets the first answer, and has no second effect.

An answer is remembered for a day, by product and key. Two requests with one key at the same time
run one after the other in a process. Refused requests changed nothing and are not remembered.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable

import anyio
from starlette.requests import Request
from starlette.responses import Response

from paygent.server.backend import Tenant
from paygent.server.logs import LOGGER
from paygent.server.problems import Problem, request_id_of
from paygent.store.directory_port import Remembered
from paygent.store.port import StoreUnavailable

HEADER = "Idempotency-Key"
KEY_CHARS_MAX = 255
REPLAYED = "Idempotency-Replayed"
SECRET_FIELDS = ("api_key", "token")
"""Fields of answers that are shown once: they are not remembered."""

_WAIT_S = 10.0
_ANSWER_BYTES_MAX = 1 << 18  # enough for a list of plans


class _Turn:
    """The requests of one key, which take turns."""

    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.requests = 0


class Idempotency:
    """The requests with an `Idempotency-Key` that run in this process."""

    def __init__(self) -> None:
        self._running: dict[tuple[str, str], _Turn] = {}

    async def answer(
        self, tenant: Tenant, key: str, request: Request, handle: Callable[[], Awaitable[Response]]
    ) -> Response:
        """Answer a request, from memory if its key has been used.

        Raises:
            Problem: The key is unusable, in use, or was used for another request.
        """
        if not (0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable()):
            rule = f"must be 1 to {KEY_CHARS_MAX} printable ASCII characters"
            raise Problem(422, "idempotency-key", f"{HEADER} {rule}.")
        place = tenant.product, key
        turn = self._running.setdefault(place, _Turn())
        turn.requests += 1
        try:
            with anyio.move_on_after(_WAIT_S) as waiting:
                await turn.lock.acquire()
            if waiting.cancelled_caught:
                text = f"A request with this {HEADER} is still running."
                raise Problem(409, "idempotency-key", text, headers={"Retry-After": "1"})
            try:
                return await self._answer(tenant, key, request, handle)
            finally:
                turn.lock.release()
        finally:
            turn.requests -= 1
            if not turn.requests:
                del self._running[place]

    async def _answer(
        self, tenant: Tenant, key: str, request: Request, handle: Callable[[], Awaitable[Response]]
    ) -> Response:
        request_hash = _hash_of(request, await request.body())
        known = await tenant.ask(tenant.store.remembered, key)
        if known is not None:
            if known.request_hash != request_hash:
                text = f"This {HEADER} was used for another request."
                raise Problem(422, "idempotency-key", text)
            headers = {REPLAYED: "true"}
            return Response(
                known.answer, known.status, headers=headers, media_type="application/json"
            )
        response = await handle()
        body = bytes(response.body)
        if response.status_code < 300 and len(body) <= _ANSWER_BYTES_MAX:
            answer = Remembered(request_hash, response.status_code, _without_secrets(body))
            try:
                await tenant.ask(tenant.store.remember, key, answer)
            except (StoreUnavailable, Problem) as error:
                # The request has had its effect, so its answer counts.
                request_id = request_id_of(request.scope)
                LOGGER.warning("not remembered: %s", error, extra={"request_id": request_id})
        return response


def _hash_of(request: Request, body: bytes) -> str:
    scope = request.scope
    head = f"{scope['method']} {scope['path']}?".encode() + scope["query_string"] + b"\n"
    return hashlib.sha256(head + body).hexdigest()


def _without_secrets(body: bytes) -> str:
    """Return an answer without the fields that are shown once."""
    answer = json.loads(body) if body else None
    if isinstance(answer, dict) and not answer.keys().isdisjoint(SECRET_FIELDS):
        answer |= {name: None for name in SECRET_FIELDS if name in answer}
        return json.dumps(answer)
    return body.decode()
