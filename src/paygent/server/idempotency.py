"""`Idempotency-Key`: a repeated request gets the first answer, and has no second effect.

A request claims its key in the store before its handler runs. Of several requests with one key, on
any servers of the database, one acts; the others wait for its answer, which is kept for a day by
product and key. A refused request changed nothing, so it releases its claim.

The claim of a request that never ends, because its server died, lapses. Whether that request had
its effect is unknown, and the next one acts.
"""

from __future__ import annotations

import asyncio
import hashlib
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field

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
_PAUSE_MIN_S, _PAUSE_MAX_S = 0.02, 0.5  # between two looks at another request's claim
_LAPSE_TIMEOUTS = 4
"""A claim lapses after this many times the longest time of a request: what is beyond one of them
allows for clocks of servers that differ, and for handlers that outlast their request.
"""
_ANSWER_BYTES_MAX = 1 << 18  # enough for a list of plans

_Handle = Callable[[], Awaitable[Response]]


class Idempotency:
    """The requests with an `Idempotency-Key` that run in this process."""

    def __init__(self) -> None:
        self._running: set[asyncio.Task[Response]] = set()  # the event loop's references are weak

    async def answer(self, tenant: Tenant, key: str, request: Request, handle: _Handle) -> Response:
        """Answer a request, from memory if its key has been used.

        Raises:
            Problem: The key is unusable, in use, or was used for another request.
        """
        if not (0 < len(key) <= KEY_CHARS_MAX and key.isascii() and key.isprintable()):
            rule = f"must be 1 to {KEY_CHARS_MAX} printable ASCII characters"
            raise Problem(422, "idempotency-key", f"{HEADER} {rule}.")
        request_hash = _hash_of(request, await request.body())
        claim = _Claim(tenant, key, request_hash, request_id_of(request.scope))
        # A task of its own: a request that is cancelled at its time-out may have its effect all the
        # same, on a thread. So its handler runs to the end, and its answer is remembered.
        task = asyncio.create_task(claim.answer(handle))
        self._running.add(task)
        task.add_done_callback(self._running.discard)
        return await asyncio.shield(task)


@dataclass(frozen=True)
class _Claim:
    """One request's claim of a key.

    Attributes:
        request_hash: Identifies what is asked: method, path, query and body.
        claim_id: Identifies this request among those that ask the same.
    """

    tenant: Tenant
    key: str
    request_hash: str
    request_id: str
    claim_id: str = field(default_factory=lambda: secrets.token_hex(16))

    async def answer(self, handle: _Handle) -> Response:
        """Return the answer to an earlier request with the key, or handle this one."""
        known = await self._known_answer()
        if known is not None:
            return known
        handling = asyncio.ensure_future(handle())
        await asyncio.wait([handling])
        # One that is cancelled, as the process ends, may still act on a thread: its claim stays.
        kept = None if handling.exception() else _kept_answer(handling.result())
        if kept is None:
            await self._release()
        else:
            await self._remember(handling.result().status_code, kept)
        return handling.result()

    async def _known_answer(self) -> Response | None:
        """Claim the key; return the answer of another request that had it first, if there is one.

        Raises:
            Problem: The key is in use, or was used for another request.
        """
        deadline = time.monotonic() + _WAIT_S
        pause_s = _PAUSE_MIN_S
        known = await self._take()
        while known is not None:
            if known.request_hash != self.request_hash:
                text = f"This {HEADER} was used for another request."
                raise Problem(422, "idempotency-key", text)
            if known.status is not None:
                headers = {REPLAYED: "true"}
                return Response(known.answer, known.status, headers, media_type="application/json")
            if time.monotonic() >= deadline:
                text = f"A request with this {HEADER} is still running."
                raise Problem(409, "idempotency-key", text, headers={"Retry-After": "1"})
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, _PAUSE_MAX_S)
            # Reading delays no writer. What is gone was released.
            known = await self.tenant.ask(self.tenant.store.remembered, self.key)
            if known is None:
                known = await self._take()
        return None

    async def _take(self) -> Remembered | None:
        """Claim the key; return what has it already, or None."""
        lapse_s = _LAPSE_TIMEOUTS * self.tenant.backend.settings.request_timeout_s
        return await self.tenant.ask(
            self.tenant.store.claim,
            self.key,
            request_hash=self.request_hash,
            claim_id=self.claim_id,
            lapse_us=round(lapse_s * 1e6),
        )

    async def _remember(self, status: int, answer: str) -> None:
        """Store the answer. The request has had its effect, so its answer counts in any case."""
        remember = self.tenant.store.remember
        try:
            if await self.tenant.ask(remember, self.key, self.claim_id, status, answer):
                return
            self._warn("not remembered: %s", "its claim has lapsed")
        except (StoreUnavailable, Problem) as error:
            self._warn("not remembered: %s", error)

    async def _release(self) -> None:
        """Give the key back. A claim that cannot be released lapses."""
        try:
            await self.tenant.ask(self.tenant.store.release, self.key, self.claim_id)
        except (StoreUnavailable, Problem) as error:
            self._warn("not released: %s", error)

    def _warn(self, text: str, reason: object) -> None:
        LOGGER.warning(text, reason, extra={"request_id": self.request_id})


def _hash_of(request: Request, body: bytes) -> str:
    scope = request.scope
    head = f"{scope['method']} {scope['path']}?".encode() + scope["query_string"] + b"\n"
    return hashlib.sha256(head + body).hexdigest()


def _kept_answer(response: Response) -> str | None:
    """Return an answer without the fields that are shown once; None for one that is not kept."""
    body = bytes(response.body)
    if response.status_code >= 300 or len(body) > _ANSWER_BYTES_MAX:
        return None
    answer = json.loads(body) if body else None
    if isinstance(answer, dict) and not answer.keys().isdisjoint(SECRET_FIELDS):
        answer |= {name: None for name in SECRET_FIELDS if name in answer}
        return json.dumps(answer)
    return body.decode()
