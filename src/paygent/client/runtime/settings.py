"""Settings of one `Paygent`: arguments of `init`, then the environment, then defaults.

Reading settings has no effects: the parts that use a folder or file make and open it later.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from paygent.client.runtime.providers import ProviderRegistry
from paygent.core.money import read_decimal
from paygent.core.validation import NAME_CHARS_MAX, NAME_RULE, ValidationErrors

DEFAULT_BASE_URL = "http://127.0.0.1:8790"
DEFAULT_DB_PATH = os.path.join("~", ".paygent", "local.db")
DEFAULT_PRODUCT = "default"

BACKEND_PREFIX = "backend-"
"""Sets what belongs to a backend's product apart from local products, in journals and the store."""

TAG_KEYS_MAX = 5
MISSING_USER_POLICIES = ("warn", "block", "ignore")
"""What `on_missing_user` may be beside a user id."""

_POLICY_WORDS = frozenset(
    (
        *MISSING_USER_POLICIES,
        *("allow", "deny", "drop", "error", "exception", "fail", "forbid", "log", "none", "off"),
        *("pass", "raise", "refuse", "reject", "skip", "silent", "strict", "warning"),
    )
)  # all calls without a user would count on a user of that name

SYNC_INTERVAL_S = 1.0
"""Longest time from a settlement to its delivery; a longer `flush_interval` does not extend it."""

FIRST_TOUCH_WAIT_S = 0.25
"""Longest wait of a call for the state of a user that this process does not know yet."""

_Given = Mapping[str, Any]  # arguments by name, without those that are None

_PRODUCT = re.compile(r"\w[\w.-]{0,254}")  # it also names a folder


@dataclass(frozen=True)
class Settings:
    """The validated settings.

    Attributes:
        api_key: Key of the backend's product, or None in local mode.
        base_url: Where the backend answers, without a trailing slash.
        db_path: The local store: a file path with `~` expanded, or ":memory:".
        product: The product of local data, in local mode; see `ledger_product`.
        flush_interval_s: Upper bound on the delay of deliveries.
        max_batch_size: Events per request to a backend, at most; a local store has none.
        max_queue_size: Events queued in memory if no journal can be written, at most.
        raise_on_hard_gate: Whether a refused call raises (False: it runs, marked `blocked`).
        auto_instrument: Whether provider SDKs are patched at `init` and when imported later.
        refresh_interval_s: Age at which an idle user is read from the ledger again.
        strict_backend: Whether `init` raises if the backend cannot be used.
        default_plan: Plan of users without an assigned one; None is the product's.
        on_missing_user: Policy for calls without a user; another string is the user they count to.
        on_unmetered: Policy for calls that no adapter can meter.
        soft_gate: Whether the warning fires once per process, limit and window, or on every call
            past the line.
        tag_keys: Metadata keys that reports can group by.
        carry_user: Whether the current user is propagated to threads and pools.
        registry: Providers that the application registered itself, or None.
    """

    api_key: str | None = None
    base_url: str = DEFAULT_BASE_URL
    db_path: str = ":memory:"
    product: str = DEFAULT_PRODUCT
    flush_interval_s: float = 5.0
    max_batch_size: int = 100
    max_queue_size: int = 10_000
    raise_on_hard_gate: bool = True
    auto_instrument: bool = True
    refresh_interval_s: float = 60.0
    strict_backend: bool = False
    default_plan: str | None = None
    on_missing_user: str = "warn"
    on_unmetered: Literal["warn", "raise", "ignore"] = "warn"
    soft_gate: Literal["once", "every_call"] = "once"
    tag_keys: tuple[str, ...] = ()
    carry_user: bool = True
    registry: ProviderRegistry | None = None

    @property
    def is_local(self) -> bool:
        """Whether there is no backend."""
        return self.api_key is None

    @property
    def ledger_product(self) -> str:
        """The product id of the ledger: with a backend, the one that the key names, which stays
        when the key is rotated. A key itself is never written to a file.
        """
        if self.api_key is None:
            return self.product
        from paygent.core.api_key import hash_of_key, product_of_key  # 5 ms, only with a backend

        # The key of another kind of backend names no product.
        product = product_of_key(self.api_key) or "key-" + hash_of_key(self.api_key)[:16]
        return f"{BACKEND_PREFIX}{product}"


VARIABLES = (
    "PAYGENT_API_KEY",
    "PAYGENT_BASE_URL",
    "PAYGENT_DATABASE_URL",
    "PAYGENT_DB_PATH",
    "PAYGENT_DISABLED",
    "PAYGENT_PRODUCT",
    "PAYGENT_STREAM_USAGE_HOSTS",
)
"""The environment variables that Paygent reads."""

VARIABLES_PREFIX = "PAYGENT_"
_ON_WORDS = ("1", "true", "yes", "on")
_OFF_WORDS = ("", "0", "false", "no", "off")


def odd_variables(environ: Mapping[str, str]) -> Iterator[tuple[str, str]]:
    """Yield what is odd about the environment, each with its remedy: variables with Paygent's
    prefix that are not read, and a switch that has no effect.
    """
    names = sorted(name for name in environ if name.startswith(VARIABLES_PREFIX))
    for name in (name for name in names if name not in VARIABLES):
        from difflib import get_close_matches  # for this message only

        # Without what all names have in common, which would make any two of them similar.
        known = [variable.removeprefix(VARIABLES_PREFIX) for variable in VARIABLES]
        near = get_close_matches(name.removeprefix(VARIABLES_PREFIX), known, n=1)
        meant = f"did you mean {VARIABLES_PREFIX}{near[0]}?" if near else ""
        yield f"{name} is not read by Paygent", meant or f"known are {', '.join(VARIABLES)}"
    value = environ.get("PAYGENT_DISABLED", "")
    if value.strip().lower() not in (*_ON_WORDS, *_OFF_WORDS):
        text = f"PAYGENT_DISABLED={value!r} has no effect: Paygent is on"
        yield text, "set it to 1 to turn Paygent off, or unset it"


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Return whether `PAYGENT_DISABLED` turns everything off."""
    return environ.get("PAYGENT_DISABLED", "").strip().lower() in _ON_WORDS


def _looks_like_path(text: str) -> bool:
    return "/" in text or "\\" in text or text.endswith((".db", ".sqlite", ".sqlite3"))


def _is_http_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # a bracket without its other half
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def read_settings(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Read and check settings.

    Args:
        arguments: The arguments of `init` by name; None means "not given".
        environ: The environment.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """
    errors = ValidationErrors("Paygent.init")
    given = {name: value for name, value in arguments.items() if value is not None}
    read: dict[str, Any] = {}
    _read_places(errors, given, environ, read)
    _read_others(errors, given, read)
    errors.raise_if_any()
    return Settings(**read)


def _read_places(
    errors: ValidationErrors, given: _Given, environ: Mapping[str, str], read: dict[str, Any]
) -> None:
    """Read the backend's address and key, the store's path and the product."""
    for name in ("api_key", "base_url", "db_path"):
        value = given.get(name, environ.get(f"PAYGENT_{name.upper()}") or None)
        if value is None:
            continue
        if name == "db_path" and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value.strip():
            shown = "…" if name == "api_key" else value  # a key never appears in an error message
            errors.add(name, shown, "must be a non-empty string")
        elif name == "api_key" and _looks_like_path(value):
            errors.add(name, "…", "must be a backend's key (pg_live_…); a file is db_path")
        else:
            read[name] = value.strip()
    if "base_url" in read:
        if not _is_http_address(read["base_url"]):
            errors.add("base_url", read["base_url"], "must be an http:// or https:// address")
        read["base_url"] = read["base_url"].rstrip("/")
    db_path = read.get("db_path", DEFAULT_DB_PATH)
    # Expanded once, so that a later change of HOME does not split the store from its journal.
    read["db_path"] = db_path if db_path == ":memory:" else os.path.expanduser(db_path)
    if "\0" in db_path:
        errors.add("db_path", db_path, "must not contain a NUL character")
    read["product"] = environ.get("PAYGENT_PRODUCT", "").strip() or DEFAULT_PRODUCT
    if _PRODUCT.fullmatch(read["product"]) is None:
        rule = "must be 1 to 255 letters, digits, '.', '_' or '-', and begin with a letter or digit"
        errors.add("PAYGENT_PRODUCT", read["product"], rule)


def _read_others(errors: ValidationErrors, given: _Given, read: dict[str, Any]) -> None:
    """Read numbers, switches, names, tag keys and the registry."""

    def take(name: str, is_valid: bool, rule: str) -> None:
        if name in given:
            read[name] = given[name]
            if not is_valid:
                errors.add(name, given[name], rule)

    for name, most_s in (("flush_interval", 3_600), ("refresh_interval", 86_400)):
        if name in given:
            # Exact numbers of any kind; a str is a mistake even if it reads like a number.
            number = None if isinstance(given[name], str) else read_decimal(given[name])
            if number is None or not number.is_finite() or not 0.01 <= float(number) <= most_s:
                errors.add(name, given[name], f"must be a number of seconds from 0.01 to {most_s}")
            else:
                read[f"{name}_s"] = float(number)
    for name, most in (("max_batch_size", 1_000), ("max_queue_size", 1_000_000)):
        value = given.get(name)
        # The type itself, since True is an int.
        is_count = type(value) is int and 1 <= value <= most
        take(name, is_count, f"must be a whole number from 1 to {most}")
    for name in ("raise_on_hard_gate", "auto_instrument", "strict_backend", "carry_user"):
        take(name, isinstance(given.get(name), bool), "must be True or False")
    for name in ("default_plan", "on_missing_user"):
        value = given.get(name)
        take(name, isinstance(value, str) and 0 < len(value) <= NAME_CHARS_MAX, NAME_RULE)
    policy = str(given.get("on_missing_user", "warn"))
    if policy not in MISSING_USER_POLICIES and policy.strip().lower() in _POLICY_WORDS:
        rule = 'must be "warn", "block", "ignore" or a user id; this looks like a misspelt policy'
        errors.add("on_missing_user", policy, rule)
    policies = ("warn", "raise", "ignore")
    is_policy = given.get("on_unmetered") in policies
    take("on_unmetered", is_policy, 'must be "warn", "raise" or "ignore"')
    gates = ("once", "every_call")
    take("soft_gate", given.get("soft_gate") in gates, 'must be "once" or "every_call"')
    is_registry = isinstance(given.get("registry"), ProviderRegistry)
    take("registry", is_registry, "must be a ProviderRegistry, or None")
    if "tag_keys" in given:
        keys = given["tag_keys"]
        # Read once, because it may be an iterator; a str would be a list of one-letter keys.
        is_collection = isinstance(keys, Iterable) and not isinstance(keys, (str, bytes))
        names = read["tag_keys"] = tuple(keys) if is_collection else (None,)
        # A key that cannot be printed is a mistake, and UTF-8 cannot encode some of them.
        are_valid = all(
            # Reports list keys with commas between them.
            isinstance(name, str)
            and name
            and name.isprintable()
            and "," not in name
            # So long may a name be that a backend takes.
            and len(name) <= NAME_CHARS_MAX
            for name in names
        )
        if not are_valid or len(names) > TAG_KEYS_MAX:
            rule = (
                f"must be at most {TAG_KEYS_MAX} strings of 1 to {NAME_CHARS_MAX} printable"
                " characters without commas"
            )
            errors.add("tag_keys", keys, rule)
