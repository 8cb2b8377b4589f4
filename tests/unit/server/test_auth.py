"""Keys in memory: trusted for a moment, bounded, looked up once at a time; scopes and peers."""

from __future__ import annotations

import asyncio
import threading
from typing import Any

import pytest

from paygent.server import auth
from paygent.server.auth import KeyCache, require_scope
from paygent.server.backend import Backend
from paygent.server.problems import Problem
from paygent.server.settings import ServerSettings
from paygent.store.directory_port import ApiKey


class Keys:
    """The keys of a database, which may be slow."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.revoked: set[str] = set()
        self.release = threading.Event()
        self.release.set()

    def key_by_hash(self, product: str, key_hash: str) -> ApiKey | None:
        self.asked.append(key_hash)
        assert self.release.wait(20)
        if key_hash == "none":
            return None
        revoked_us = 1 if key_hash in self.revoked else None
        return ApiKey(product, "key", "sdk", "", "", 0, revoked_us)


def cache_over(keys: Keys, *, key_cache_s: float = 60.0) -> KeyCache:
    """Return a cache over keys."""
    store: Any = keys
    settings = ServerSettings(database_url="sqlite:///unused", key_cache_s=key_cache_s)
    return KeyCache(Backend(store, settings, lambda: 0))


async def test_key_cache__many_requests_at_once__one_query() -> None:
    """Requests with the same key wait for one look-up, also if the first one gives up."""
    keys = Keys()
    keys.release.clear()
    cache = cache_over(keys)
    waiting = [asyncio.create_task(cache.find("p", "a")) for _ in range(5)]
    while not keys.asked:
        await asyncio.sleep(0.001)
    waiting[0].cancel()
    keys.release.set()
    found = await asyncio.gather(*waiting, return_exceptions=True)
    assert isinstance(found[0], asyncio.CancelledError)
    assert all(isinstance(key, ApiKey) for key in found[1:])
    assert keys.asked == ["a"]


async def test_key_cache__absent_and_revoked__are_remembered_as_none() -> None:
    """A guess costs one query a moment."""
    keys = Keys()
    keys.revoked.add("old")
    cache = cache_over(keys)
    for _ in range(2):
        assert await cache.find("p", "none") is None
        assert await cache.find("p", "old") is None
    assert keys.asked == ["none", "old"]


async def test_key_cache__after_its_time__asks_again() -> None:
    """What was valid is asked for again."""
    keys = Keys()
    cache = cache_over(keys, key_cache_s=0.0)
    assert await cache.find("p", "a") is not None
    keys.revoked.add("a")
    assert await cache.find("p", "a") is None


async def test_key_cache__forget__is_of_one_product() -> None:
    """A product that changes its keys forgets its own; what is absent may have been made."""
    keys = Keys()
    cache = cache_over(keys)
    for product, key_hash in (("p", "a"), ("q", "b"), ("p", "none")):
        await cache.find(product, key_hash)
    cache.forget("p")
    for product, key_hash in (("p", "a"), ("q", "b"), ("p", "none")):
        await cache.find(product, key_hash)
    assert keys.asked == ["a", "b", "none", "a", "none"]


async def test_key_cache__many_keys__is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever guesses keys does not fill the memory."""
    monkeypatch.setattr(auth, "_CACHED_MAX", 10)
    cache = cache_over(Keys())
    for number in range(30):
        await cache.find("p", str(number))
    assert len(cache._found) == 10
    assert "29" in cache._found


@pytest.mark.parametrize(
    ("scope", "method", "needed", "is_allowed"),
    [
        ("admin", "DELETE", "admin", True),
        ("admin", "GET", "sdk", True),
        ("read", "GET", "admin", True),
        ("read", "POST", "sdk", False),
        ("read", "HEAD", "sdk", False),
        ("sdk", "POST", "sdk", True),
        ("sdk", "GET", "admin", False),
        ("sdk", "POST", "admin", False),
        ("other", "POST", "sdk", False),
    ],
)
def test_require_scope__each_pair__is_allowed_or_403(
    scope: Any, method: str, needed: str, is_allowed: bool
) -> None:
    """A scope allows what it names, and nothing by mistake."""
    if is_allowed:
        require_scope(scope, method, needed)
        return
    with pytest.raises(Problem) as refused:
        require_scope(scope, method, needed)
    assert refused.value.status_code == 403


@pytest.mark.parametrize(
    ("host", "is_loopback"),
    [
        ("127.0.0.1", True),
        ("127.8.8.8", True),
        ("::1", True),
        ("::ffff:127.0.0.1", True),
        ("10.0.0.1", False),
        ("::ffff:10.0.0.1", False),
        ("0.0.0.0", False),
        ("localhost", False),
        ("testclient", False),
        ("", False),
    ],
)
def test_is_loopback__by_address__not_by_name(host: str, is_loopback: bool) -> None:
    """Only an address of the loopback interface is this machine."""
    assert auth._is_loopback(host) is is_loopback
