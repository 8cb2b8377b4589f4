"""Ids of events and sessions: UUIDv7, which sort by time, and ids made of idempotency keys.

A process draws its random bits once and then counts from a random number: a system call for each id
would release the interpreter's lock, which costs milliseconds among many busy threads, and a random
generator's state has left the processor's caches when an SDK has run.
"""

from __future__ import annotations

import hashlib
import itertools
import os
import uuid

from paygent.core.records import event_id_of

_KEYS_NAMESPACE = uuid.UUID("6d1f3a52-8f0e-5b86-9a51-0f6c1c9f7a10")
_COUNTS = 1 << 47  # half of the last twelve hexadecimal digits: there is room to count on


def _draw() -> tuple[str, itertools.count[int]]:
    """Return 26 random bits common to all ids, with version and variant, and a random counter."""
    bits = int.from_bytes(os.urandom(10), "big")
    common = f"7{bits >> 48 & 0xFFF:03x}-{0x8000 | bits >> 60 & 0x3FFF:04x}-"
    return common, itertools.count(bits % _COUNTS)


common, numbers = _draw()
"""The part that all ids of this process share, and the numbers that distinguish them; a fork renews
both.
"""


def new_id(at_us: int) -> str:
    """Return a UUIDv7 of a time in microseconds since 1970 UTC."""
    return event_id_of(common, next(numbers), at_us)


def id_of_key(product: str, user_id: str, key: str) -> str:
    """Return the event id of an idempotency key: the same for the same product, user and key."""
    # With the lengths, no two triples make the same text; a lone surrogate is not valid UTF-8.
    text = "".join(f"{len(part)}:{part}" for part in (product, user_id, key))
    name = text.encode("utf-8", "surrogatepass")
    return str(uuid.UUID(bytes=hashlib.sha1(_KEYS_NAMESPACE.bytes + name).digest()[:16], version=5))  # noqa: S324 - what uuid5 is


def renew_after_fork() -> None:
    """Draw new random bits, so that a forked child does not repeat its parent's ids."""
    global common, numbers
    common, numbers = _draw()
