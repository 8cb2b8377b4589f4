"""Authentication: API keys, their scopes, the set-up token and usage tokens.

A key is looked up by its hash, and trusted for less than a second: a key that is revoked on one
server is refused by all of them within a second. A text that fails the checksum costs no query.
"""

from __future__ import annotations

import asyncio
import base64
import hashlib
import hmac
import ipaddress
import json
import time
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any, NamedTuple

from starlette.datastructures import Headers

from paygent.core.api_key import hash_of_key, product_of_key, setup_token
from paygent.server.backend import Backend, Tenant
from paygent.server.problems import Problem, in_words
from paygent.store.directory_port import ApiKey, Scope

SETUP_HEADER = "X-Setup-Token"

_KEY_CHARS_MAX = 512
_CACHED_MAX = 10_000
_TOKEN_PREFIX = "pg_usage_"  # noqa: S105 - no secret
_TOKEN_CHARS_MAX = 4_000
_FORWARDING_HEADERS = ("forwarded", "x-forwarded-for", "x-real-ip")
_BROWSER_HEADERS = ("origin", "sec-fetch-site")


class KeyCache:
    """The keys that were looked up within the last moment, and those that do not exist."""

    def __init__(self, backend: Backend) -> None:
        self._backend = backend
        self._found: OrderedDict[str, tuple[float, ApiKey | None]] = OrderedDict()
        self._running: dict[str, asyncio.Task[ApiKey | None]] = {}

    async def find(self, product: str, key_hash: str) -> ApiKey | None:
        """Return a product's key that is valid; None if there is none."""
        known = self._found.get(key_hash)
        if known is not None and time.monotonic() - known[0] < self._backend.settings.key_cache_s:
            return known[1]
        running = self._running.get(key_hash)
        if running is None:
            # A task of its own: a request that is cancelled must not fail the others that wait.
            running = asyncio.create_task(self._read(product, key_hash))
            self._running[key_hash] = running
            running.add_done_callback(lambda _: self._running.pop(key_hash, None))
        return await asyncio.shield(running)

    async def _read(self, product: str, key_hash: str) -> ApiKey | None:
        asked_at = time.monotonic()  # before the query: its answer may be as old as this
        store = self._backend.store
        key = await self._backend.in_store(store.key_by_hash, product, key_hash)
        if key is not None and key.revoked_us is not None:
            key = None
        self._found[key_hash] = asked_at, key
        self._found.move_to_end(key_hash)
        if len(self._found) > _CACHED_MAX:
            self._found.popitem(last=False)
        return key

    def forget(self, product: str) -> None:
        """Forget the keys of a product, which has changed them."""
        for key_hash, (_, key) in list(self._found.items()):
            if key is None or key.product_id == product:
                del self._found[key_hash]


async def tenant_of(backend: Backend, keys: KeyCache, headers: Headers) -> Tenant:
    """Return the product of a request, by its key.

    Raises:
        Problem: 401, if there is no valid key.
    """
    key_text = _bearer(headers)
    if key_text is None or len(key_text) > _KEY_CHARS_MAX:
        raise _unauthorized("An API key is needed: Authorization: Bearer pg_live_…")
    product = product_of_key(key_text)
    if product is None:
        backend.metrics.refused.labels("malformed_key").inc()
        raise _unauthorized("This is not an API key.")
    key = await keys.find(product, hash_of_key(key_text))
    if key is None or key.product_id != product:
        backend.metrics.refused.labels("unknown_key").inc()
        raise _unauthorized("This API key is unknown or revoked.")
    return Tenant(backend, product, key.scope, key.key_id)


def require_scope(scope: Scope, method: str, needed: str) -> None:
    """Refuse a key that must not call a route.

    Args:
        scope: Of the key: `admin` may call every route, `read` those that only read, `sdk` those
            that an application's process needs.
        method: Of the request.
        needed: The lowest scope of the route: `admin` or `sdk`.

    Raises:
        Problem: 403, which names the scope.
    """
    if scope == "admin" or (scope == "read" and method == "GET") or scope == needed == "sdk":
        return
    wanted = {"admin": True, "read": method == "GET", "sdk": needed == "sdk"}
    names = in_words((name for name, suffices in wanted.items() if suffices), "or")
    detail = f"A key with the scope {scope} must not do this; it needs {names}."
    challenge = {"WWW-Authenticate": f'Bearer error="insufficient_scope", scope="{needed}"'}
    raise Problem(403, "insufficient-scope", detail, headers=challenge)


# -- creating products


async def may_create_products(
    backend: Backend, headers: Headers, client: tuple[str, int] | None
) -> bool:
    """Return whether a request may create a product.

    It may with the set-up token, or from this machine while there is no product. A request that was
    forwarded, or that a page in a browser has sent, comes from elsewhere, whatever the peer of its
    socket is.
    """
    token = headers.get(SETUP_HEADER)
    if token is not None:
        expected = setup_token(await backend.server_secret("setup"))
        return hmac.compare_digest(token.encode("utf-8", "replace"), expected.encode())
    if client is None or not _is_loopback(client[0]):
        return False
    if any(name in headers for name in (*_FORWARDING_HEADERS, *_BROWSER_HEADERS)):
        return False
    return not await backend.in_store(backend.store.has_products)


def _is_loopback(host: str) -> bool:
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return bool((mapped or address).is_loopback)


# -- usage tokens


class UsageToken(NamedTuple):
    """A token that shows one user their own usage.

    Attributes:
        product, user_id: The user.
        paygent_user_id: The ledger's own id of the user: whoever is created under the id of an
            erased user has another one, so the token ends with its user.
        until_us: When it ends.
    """

    product: str
    user_id: str
    paygent_user_id: str
    until_us: int


def write_usage_token(secret: str, token: UsageToken) -> str:
    """Return a token as text, signed with the server secret "usage_token"."""
    body = _base64(json.dumps(token, separators=(",", ":")).encode())
    return f"{_TOKEN_PREFIX}{body}.{_signature(secret, body)}"


async def usage_token_of(backend: Backend, headers: Headers) -> UsageToken:
    """Return the token of a request.

    Raises:
        Problem: 401, if there is none, or it has ended.
    """
    text = _bearer(headers) or ""
    if not text.startswith(_TOKEN_PREFIX) or len(text) > _TOKEN_CHARS_MAX or not text.isascii():
        raise _unauthorized("A usage token is needed: Authorization: Bearer pg_usage_…")
    body, _, signature = text[len(_TOKEN_PREFIX) :].partition(".")
    expected = _signature(await backend.server_secret("usage_token"), body)
    if not hmac.compare_digest(signature.encode(), expected.encode()):
        raise _unauthorized("This usage token is not valid.")
    token = UsageToken(*json.loads(base64.urlsafe_b64decode(body + "==")))  # signed, so it is ours
    if token.until_us <= backend.now_us():
        raise _unauthorized("This usage token has expired.")
    return token


def _signature(secret: str, body: str) -> str:
    digest = hmac.new(secret.encode(), b"usage token\n" + body.encode(), hashlib.sha256).digest()
    return _base64(digest)


def _base64(value: bytes) -> str:
    return base64.urlsafe_b64encode(value).decode().rstrip("=")


def _bearer(headers: Mapping[str, str]) -> str | None:
    scheme, _, credentials = headers.get("authorization", "").partition(" ")
    if scheme.lower() != "bearer" or not credentials.strip():
        return None
    return credentials.strip()


def _unauthorized(detail: str) -> Problem:
    headers: dict[str, Any] = {"WWW-Authenticate": 'Bearer realm="paygent"'}
    return Problem(401, "unauthorized", detail, headers=headers)
