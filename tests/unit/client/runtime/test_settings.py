"""Settings: arguments win over the environment, defaults come last, and every slip is named."""

from __future__ import annotations

import os
from collections.abc import Mapping
from decimal import Decimal
from pathlib import Path, PurePosixPath
from typing import Any

import pytest

from paygent import InvalidValue
from paygent.client.runtime.settings import Settings, is_disabled, read_settings


def fields(arguments: Mapping[str, Any], environ: Mapping[str, str] | None = None) -> list[str]:
    """The fields that the settings are refused for."""
    with pytest.raises(InvalidValue) as caught:
        read_settings(arguments, environ or {})
    return [finding.field for finding in caught.value.findings]


def test_read_settings__of_nothing__are_the_documented_defaults(tmp_path: Path) -> None:
    """Local mode, the store in the user's folder, refused calls raise."""
    expected = Settings(
        api_key=None,
        base_url="http://127.0.0.1:8790",
        db_path=str(tmp_path / ".paygent" / "local.db"),  # HOME is this folder in tests
        product="default",
        flush_interval_s=5.0,
        max_batch_size=100,
        max_queue_size=10_000,
        raise_on_hard_gate=True,
        auto_instrument=True,
        refresh_interval_s=60.0,
        strict_backend=False,
        default_plan=None,
        on_missing_user="warn",
        on_unmetered="warn",
        soft_gate="once",
        tag_keys=(),
        carry_user=True,
    )
    found = read_settings({}, {})
    assert found == expected
    assert found.is_local is True


def test_read_settings__the_environment__counts_where_no_argument_is_given() -> None:
    """Key, address, store and product can all come from outside."""
    found = read_settings(
        {"api_key": None},
        {
            "PAYGENT_API_KEY": " pg_live_x ",
            "PAYGENT_BASE_URL": "https://costs.example/",
            "PAYGENT_DB_PATH": "~/x.db",
            "PAYGENT_PRODUCT": " shop ",
        },
    )
    assert (found.api_key, found.base_url) == ("pg_live_x", "https://costs.example")
    assert (found.db_path, found.product) == (os.path.expanduser("~/x.db"), "shop")
    assert found.is_local is False


def test_read_settings__arguments__win_over_the_environment() -> None:
    """What the code says is meant."""
    environ = {"PAYGENT_API_KEY": "env", "PAYGENT_BASE_URL": "http://env", "PAYGENT_DB_PATH": "env"}
    found = read_settings({"api_key": "arg", "base_url": "http://arg", "db_path": "arg"}, environ)
    assert (found.api_key, found.base_url, found.db_path) == ("arg", "http://arg", "arg")


def test_read_settings__an_empty_variable__is_none_at_all() -> None:
    """`PAYGENT_API_KEY=` in a compose file means "not set"."""
    found = read_settings({}, {"PAYGENT_API_KEY": "", "PAYGENT_PRODUCT": " "})
    assert (found.api_key, found.product) == (None, "default")


@pytest.mark.parametrize("path", [":memory:", PurePosixPath("a/b.db")])
def test_read_settings__a_store__is_a_path_or_memory(path: Any) -> None:
    """Path objects are taken; `:memory:` is no file name."""
    assert read_settings({"db_path": path}, {}).db_path == str(path)


def test_read_settings__every_valid_argument__is_taken_over() -> None:
    """Numbers of seconds of any exact kind, and lists of tag keys."""
    found = read_settings(
        {
            "flush_interval": Decimal("0.5"),
            "refresh_interval": 7,
            "max_batch_size": 1,
            "max_queue_size": 1_000_000,
            "raise_on_hard_gate": False,
            "auto_instrument": False,
            "strict_backend": True,
            "default_plan": "free",
            "on_missing_user": "shared",
            "on_unmetered": "raise",
            "soft_gate": "every_call",
            "tag_keys": ["team", "feature"],
        },
        {},
    )
    assert (found.flush_interval_s, found.refresh_interval_s) == (0.5, 7.0)
    assert (found.max_batch_size, found.max_queue_size) == (1, 1_000_000)
    assert (found.raise_on_hard_gate, found.auto_instrument) == (False, False)
    assert (found.strict_backend, found.default_plan) == (True, "free")
    assert (found.on_missing_user, found.soft_gate) == ("shared", "every_call")
    assert found.on_unmetered == "raise"
    assert found.tag_keys == ("team", "feature")


def test_read_settings__tag_keys_of_an_iterator__are_all_kept() -> None:
    """Validating the keys does not exhaust the iterator."""
    assert read_settings({"tag_keys": iter(("team", "feature"))}, {}).tag_keys == (
        "team",
        "feature",
    )


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("api_key", " "),
        ("api_key", 5),
        ("base_url", "127.0.0.1:8790"),
        ("base_url", "ftp://x"),
        ("base_url", "http://"),
        ("base_url", "http://[::1"),
        ("db_path", 5),
        ("db_path", ""),
        ("flush_interval", 0),
        ("flush_interval", 3601),
        ("flush_interval", "5"),
        ("flush_interval", True),
        ("flush_interval", float("nan")),
        ("refresh_interval", float("inf")),
        ("refresh_interval", 10**400),
        ("refresh_interval", object()),
        ("max_batch_size", 0),
        ("max_batch_size", 1001),
        ("max_batch_size", True),
        ("max_queue_size", 1.5),
        ("raise_on_hard_gate", 1),
        ("auto_instrument", "no"),
        ("strict_backend", "yes"),
        ("carry_user", "no"),
        ("default_plan", ""),
        ("default_plan", "x" * 256),
        ("on_missing_user", 5),
        ("on_unmetered", "block"),
        ("soft_gate", "never"),
        ("tag_keys", "team"),
        ("tag_keys", 5),
        ("tag_keys", ["team", ""]),
        ("tag_keys", ["k" * 256]),
        ("tag_keys", ["team", 5]),
        ("tag_keys", b"team"),
        ("tag_keys", ["team\0"]),
        ("tag_keys", ["\ud800"]),
        ("tag_keys", list("abcdef")),
    ],
)
def test_read_settings__a_bad_argument__is_named(name: str, value: Any) -> None:
    """A wrong type, range or form is reported under the argument's name."""
    assert fields({name: value}) == [name]


def test_read_settings__a_bad_key__is_not_shown() -> None:
    """A key that is wrong may still be a secret."""
    with pytest.raises(InvalidValue) as caught:
        read_settings({"api_key": b"pg_live_secret"}, {})
    assert "secret" not in str(caught.value)


def test_read_settings__a_bad_variable__is_named_as_its_argument() -> None:
    """A slip in the environment is as loud as one in the code."""
    assert fields({}, {"PAYGENT_BASE_URL": "nonsense"}) == ["base_url"]


@pytest.mark.parametrize(
    ("value", "expected"),
    [
        ("1", True), ("true", True), (" YES ", True), ("on", True),
        ("0", False), ("", False), ("off", False), ("false", False),
    ],
)  # fmt: skip
def test_is_disabled__of_the_variable__is_a_plain_yes_or_no(value: str, expected: bool) -> None:
    """Only a clear yes switches everything off."""
    assert is_disabled({"PAYGENT_DISABLED": value}) is expected


def test_is_disabled__without_the_variable__is_false() -> None:
    """Nothing is switched off by default."""
    assert is_disabled({}) is False


@pytest.mark.parametrize("product", ["../../escaped", "a/b", ".", "-x", "a" * 256, "a b"])
def test_read_settings__a_product_that_is_no_name__is_refused(product: str) -> None:
    """It names a folder; none may lie outside of ours."""
    with pytest.raises(InvalidValue, match="PAYGENT_PRODUCT"):
        read_settings({}, {"PAYGENT_PRODUCT": product})


def test_read_settings__a_path_with_nul__is_refused_by_name() -> None:
    """No file can be named so; found at `init` and not on a thread of ours."""
    with pytest.raises(InvalidValue, match="db_path"):
        read_settings({"db_path": "a\0b"}, {})
