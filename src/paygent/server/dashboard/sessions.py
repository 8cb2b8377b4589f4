"""Who is signed in: login with an admin key, the session cookie, and protection of writes.

A login makes a new random session; the store has its hash alone, with the key that opened it. The
session ends at its time, at sign-out, and within a request of the key's revocation.

A write must come from a page of this server: its `Origin` must be the host that it was sent to, and
its body must have the session's token. A header that htmx adds stands for neither.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
import time
from collections import OrderedDict
from collections.abc import Callable, Mapping
from http.cookies import SimpleCookie
from typing import NamedTuple
from urllib.parse import urlsplit

from starlette.datastructures import Headers

from paygent.core.api_key import can_have_keys, hash_of_key, product_of_key
from paygent.server.auth import KeyCache
from paygent.server.backend import Backend, Tenant
from paygent.server.problems import Problem

COOKIE = "paygent_session"
LOGIN_COOKIE = "paygent_login"
SESSION_S = 12 * 3_600
LOGIN_S = 3_600
CSRF_FIELD = "csrf_token"

_SECRET_BYTES = 32
_COOKIE_CHARS_MAX = 200
_KEY_CHARS_MAX = 512

TRIES_MAX, TRIES_S = 10, 60.0
"""Failed logins of an address, and the time after which the first one is forgotten. A key has 256
random bits; this keeps the log and the database quiet.
"""

_ADDRESSES_MAX = 10_000


class Session(NamedTuple):
    """A person who is signed in.

    Attributes:
        tenant: The product, with the rights of the admin key.
        csrf_token: What forms must contain.
    """

    tenant: Tenant
    csrf_token: str


class Sessions:
    """Logins of one server process; the sessions themselves are in the store."""

    def __init__(
        self, backend: Backend, keys: KeyCache, now_s: Callable[[], float] = time.monotonic
    ) -> None:
        self._backend = backend
        self._keys = keys
        self._now_s = now_s
        self._failed: OrderedDict[str, list[float]] = OrderedDict()

    async def open(self, key_text: str, address: str) -> str | None:
        """Open a session with an admin key, and return the value of its cookie; None if the key is
        not valid, or no admin key.

        Raises:
            Problem: 429, if the address has failed too often.
        """
        self._check_tries(address)
        key_text = key_text.strip()
        product = product_of_key(key_text) if len(key_text) <= _KEY_CHARS_MAX else None
        key = None if product is None else await self._keys.find(product, hash_of_key(key_text))
        if product is None or key is None or key.product_id != product or key.scope != "admin":
            self._backend.metrics.refused.labels("login").inc()
            self._note_failure(address)
            return None
        self._failed.pop(address, None)
        value = secrets.token_urlsafe(_SECRET_BYTES)
        expires_us = self._backend.now_us() + SESSION_S * 10**6
        await self._backend.in_store(
            self._backend.store.add_login,
            product,
            login_hash=_hash(value),
            key_id=key.key_id,
            expires_us=expires_us,
        )
        return f"{product}.{value}"

    async def find(self, headers: Headers) -> Session | None:
        """Return the session of a request; None without a valid one."""
        found = _split(cookie(headers, COOKIE))
        if found is None:
            return None
        product, value = found
        store = self._backend.store
        login = await self._backend.in_store(store.login, product, _hash(value))
        if login is None:
            return None
        tenant = Tenant(self._backend, product, "admin", login.key_id)
        return Session(tenant, await self.token("session", value))

    async def close(self, headers: Headers) -> None:
        """End the session of a request."""
        found = _split(cookie(headers, COOKIE))
        if found is not None:
            product, value = found
            await self._backend.in_store(self._backend.store.end_login, product, _hash(value))

    async def token(self, purpose: str, value: str) -> str:
        """Return the token that forms of a session, or of a login page, must contain."""
        secret = await self._backend.server_secret("dashboard")
        text = f"{purpose}\n{value}".encode()
        return hmac.new(secret.encode(), text, hashlib.sha256).hexdigest()

    def _check_tries(self, address: str) -> None:
        tries = self._failed.get(address, [])
        recent = [at_s for at_s in tries if self._now_s() - at_s < TRIES_S]
        if len(recent) >= TRIES_MAX:
            wait_s = 1 + int(TRIES_S - (self._now_s() - recent[0]))
            text = f"Too many failed sign-ins. Try again in {wait_s} s."
            raise Problem(429, "too-many-logins", text, headers={"Retry-After": str(wait_s)})

    def _note_failure(self, address: str) -> None:
        tries = self._failed.pop(address, [])
        self._failed[address] = [*tries[-TRIES_MAX + 1 :], self._now_s()]
        if len(self._failed) > _ADDRESSES_MAX:
            self._failed.popitem(last=False)


def check_origin(headers: Headers) -> None:
    """Refuse a write that no page of this server has sent.

    Raises:
        Problem: 403.
    """
    origin = headers.get("origin", "")
    site = headers.get("sec-fetch-site", "same-origin")
    try:
        host = urlsplit(origin).netloc
    except ValueError:
        host = ""
    if not host or host.lower() != headers.get("host", "").lower() or site != "same-origin":
        raise Problem(403, "cross-origin", "This form was not sent by a page of this server.")


def check_token(form: Mapping[str, str], expected: str) -> None:
    """Refuse a write without the token of its session.

    Raises:
        Problem: 403.
    """
    given = form.get(CSRF_FIELD, "")
    if not hmac.compare_digest(given.encode("utf-8", "replace"), expected.encode()):
        raise Problem(403, "csrf", "This page is out of date. Reload it and try again.")


def cookie(headers: Headers, name: str) -> str:
    """Return a cookie of a request; "" without one."""
    for header in headers.getlist("cookie"):
        for part in header.split(";"):
            key, _, value = part.strip().partition("=")
            if key == name and len(value) <= _COOKIE_CHARS_MAX:
                return value
    return ""


def set_cookie(
    headers: Headers, name: str, value: str, *, max_age_s: int, is_strict: bool = False
) -> str:
    """Return a `Set-Cookie` header.

    Args:
        headers: Of the request: a browser that came by HTTPS says so in `Origin`, also where a
            proxy speaks HTTP with this server.
        name, value: Of the cookie.
        max_age_s: How long it lasts; 0 deletes it.
        is_strict: Whether a link from another site comes without it.
    """
    made: SimpleCookie = SimpleCookie()
    made[name] = value
    made[name]["path"] = "/"
    made[name]["max-age"] = max_age_s
    made[name]["httponly"] = True
    made[name]["samesite"] = "Strict" if is_strict else "Lax"
    if headers.get("origin", "").startswith("https://"):
        made[name]["secure"] = True
    return made[name].OutputString()


def _split(value: str) -> tuple[str, str] | None:
    product, _, secret = value.rpartition(".")  # an id of a product may have dots, a secret none
    return (product, secret) if can_have_keys(product) else None


def _hash(value: str) -> str:
    return hashlib.sha256(value.encode()).hexdigest()
