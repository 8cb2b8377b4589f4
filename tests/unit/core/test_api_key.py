"""API keys as text: what is a key, of which product, and what is refused without a query."""

from __future__ import annotations

import hashlib
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paygent.core.api_key import (
    RANDOM_BYTES,
    can_have_keys,
    hash_of_key,
    hint_of_key,
    make_key,
    product_of_key,
    setup_token,
)

RANDOM = bytes(range(RANDOM_BYTES))
PRODUCTS = st.from_regex(r"[A-Za-z0-9._-]{1,128}", fullmatch=True)


@given(PRODUCTS, st.binary(min_size=RANDOM_BYTES, max_size=RANDOM_BYTES))
def test_make_key__any_product__is_read_back(product: str, random_bytes: bytes) -> None:
    """A key names its product, also where the id has underscores."""
    key = make_key(product, random_bytes)
    assert re.fullmatch(rf"pg_live_{re.escape(product)}_[0-9A-Za-z]{{38}}", key)
    assert product_of_key(key) == product


@given(PRODUCTS, st.data())
def test_product_of_key__one_character_changed__is_refused(
    product: str, data: st.DataObject
) -> None:
    """A mistyped character fails the checksum, wherever it is."""
    key = make_key(product, RANDOM)
    place = data.draw(st.integers(0, len(key) - 1))
    other = data.draw(st.sampled_from("aB3_-.").filter(lambda char: char != key[place]))
    assert product_of_key(key[:place] + other + key[place + 1 :]) is None


@pytest.mark.parametrize(
    "text",
    ["", "pg_live_", "pg_live_acme_short", "sk-1234", "pg_live__" + "0" * 38, "\n", "pg_live_ä_x"],
)
def test_product_of_key__no_key__is_none(text: str) -> None:
    """What does not have the form of a key is none."""
    assert product_of_key(text) is None


def test_product_of_key__line_break_at_the_end__is_refused() -> None:
    """The whole text is the key; a regular expression's `$` would let a line break pass."""
    assert product_of_key(make_key("acme", RANDOM) + "\n") is None


def test_make_key__other_random_bytes__another_secret() -> None:
    """Each bit counts: keys of different random bytes differ."""
    keys = {make_key("acme", bytes(31) + bytes([number])) for number in range(256)}
    assert len(keys) == 256


@pytest.mark.parametrize("product", ["", "a b", "a/b", "ü", "a" * 129, "a\n"])
def test_make_key__product_id_that_cannot_be_part_of_a_key__raises(product: str) -> None:
    """The id of a product with keys has letters, digits and three signs."""
    assert not can_have_keys(product)
    with pytest.raises(ValueError, match="a product with keys"):
        make_key(product, RANDOM)


def test_make_key__too_few_random_bytes__raises() -> None:
    """A weak key is never made."""
    with pytest.raises(ValueError, match="32 random bytes"):
        make_key("acme", RANDOM[1:])


def test_hint_of_key__shows_product_and_four_characters() -> None:
    """A hint has 24 of the secret's 190 bits."""
    key = make_key("acme", RANDOM)
    secret = key.removeprefix("pg_live_acme_")
    assert hint_of_key(key) == f"pg_live_acme_{secret[:4]}…"


def test_hash_of_key__is_its_sha_256() -> None:
    """The ledger keeps the SHA-256 of the text."""
    key = make_key("acme", RANDOM)
    assert hash_of_key(key) == hashlib.sha256(key.encode()).hexdigest()


def test_setup_token__of_two_secrets__differ() -> None:
    """The token follows from the database's secret, which it does not show."""
    assert setup_token("one") == setup_token("one")
    assert setup_token("one") != setup_token("two")
    assert "one" not in setup_token("one")
