"""Ids of our own events and sessions: UUIDs of version 7, which sort by time; and those of
idempotency keys.

Random bits come from a generator of the process that is seeded by the system, not from the system
for each id: a system call drops the interpreter's lock, and that costs milliseconds in an app of
many busy threads.
"""

from __future__ import annotations

import hashlib
import random
import uuid

_random = random.Random()
_KEYS_NAMESPACE = uuid.UUID("6d1f3a52-8f0e-5b86-9a51-0f6c1c9f7a10")


def new_id(at_us: int) -> str:
    """Return a UUIDv7 of a time in microseconds since 1970 UTC."""
    at_ms, bits = at_us // 1000, _random.getrandbits(74)
    # `%` is twice as fast as an f-string with five parts, and this runs in every call.
    return "%08x-%04x-7%03x-%04x-%012x" % (  # noqa: UP031
        at_ms >> 16 & 0xFFFFFFFF,
        at_ms & 0xFFFF,
        bits >> 62,
        0x8000 | bits >> 48 & 0x3FFF,
        bits & 0xFFFFFFFFFFFF,
    )


def id_of_key(product: str, user_id: str, key: str) -> str:
    """Return the event id of an idempotency key: the same for the same product, user and key."""
    # With their lengths, so that no two triples read the same; half a surrogate pair is no text.
    text = "".join(f"{len(part)}:{part}" for part in (product, user_id, key))
    name = text.encode("utf-8", "surrogatepass")
    return str(uuid.UUID(bytes=hashlib.sha1(_KEYS_NAMESPACE.bytes + name).digest()[:16], version=5))  # noqa: S324 - what uuid5 is


def renew_after_fork() -> None:
    """Seed anew, so that a forked child does not make its parent's ids."""
    _random.seed()
