"""API keys as text: `pg_live_<product>_<secret><checksum>`.

The product's public id is in the key, so that a key can be exchanged without a change of the
product's events. A mistyped key fails its checksum and needs no query. The ledger keeps the hash
of the whole text, never the text.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import zlib

PREFIX = "pg_live_"
SECRET_CHARS = 32
CHECKSUM_CHARS = 6  # 62^6 is above 2^32
RANDOM_BYTES = 32
"""How many random bytes `make_key` takes."""

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz"
_PRODUCT = re.compile(r"[A-Za-z0-9._-]{1,128}")
_HINT_CHARS = 4  # of the secret's 190 bits, 24 are shown
_KEY = re.compile(
    rf"{PREFIX}({_PRODUCT.pattern})_[0-9A-Za-z]{{{SECRET_CHARS}}}([0-9A-Za-z]{{{CHECKSUM_CHARS}}})"
)


def can_have_keys(product_id: str) -> bool:
    """Return whether a product's id can be part of a key: letters, digits, `.`, `_` and `-`."""
    return _PRODUCT.fullmatch(product_id) is not None


def make_key(product_id: str, random_bytes: bytes) -> str:
    """Make a key of a product.

    Args:
        product_id: The product's public id.
        random_bytes: `RANDOM_BYTES` bytes of a cryptographic source.

    Raises:
        ValueError: The id cannot be part of a key, or there are too few random bytes.
    """
    if not can_have_keys(product_id):
        raise ValueError("a product with keys has an id of 1 to 128 of A-Z a-z 0-9 . _ -")
    if len(random_bytes) < RANDOM_BYTES:
        raise ValueError(f"{RANDOM_BYTES} random bytes are needed")
    secret = _base62(int.from_bytes(random_bytes, "big"), SECRET_CHARS)
    text = f"{PREFIX}{product_id}_{secret}"
    return text + _checksum(text)


def product_of_key(key: str) -> str | None:
    """Return the product that a key names; None if it is no key, or its checksum is wrong."""
    # The id may contain `_`, but neither secret nor checksum does, so the last one separates them.
    match = _KEY.fullmatch(key)
    if match is None or _checksum(key[:-CHECKSUM_CHARS]) != match.group(2):
        return None
    return match.group(1)


def hash_of_key(key: str) -> str:
    """Return the SHA-256 of a key, in hexadecimal; the ledger keeps nothing else of it."""
    # Not a slow hash: the secret has 190 random bits, which cannot be guessed.
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def hint_of_key(key: str) -> str:
    """Return the first characters of a key, enough to recognize it in a list."""
    return key[: -(SECRET_CHARS + CHECKSUM_CHARS - _HINT_CHARS)] + "…"


def setup_token(secret: str) -> str:
    """Return the token that lets its bearer create products.

    Args:
        secret: The server secret "setup", which all servers of a database share.
    """
    return hmac.new(secret.encode(), b"POST /products", hashlib.sha256).hexdigest()


def _checksum(text: str) -> str:
    return _base62(zlib.crc32(text.encode()), CHECKSUM_CHARS)


def _base62(number: int, chars: int) -> str:
    digits = []
    for _ in range(chars):
        number, digit = divmod(number, 62)
        digits.append(_ALPHABET[digit])
    return "".join(reversed(digits))
