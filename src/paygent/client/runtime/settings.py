"""Settings of one `Paygent`: arguments of `init`, then the environment, then defaults; all
validated.

Reading settings touches nothing but the environment: folders are made and files opened later, by
the parts that use them.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal
from urllib.parse import urlsplit

from paygent.client.runtime.providers import ProviderRegistry
from paygent.core.money import read_decimal
from paygent.core.validation import NAME_CHARS_MAX, NAME_RULE, ValidationErrors

DEFAULT_BASE_URL = "http://127.0.0.1:8790"
DEFAULT_DB_PATH = os.path.join("~", ".paygent", "local.db")
DEFAULT_PRODUCT = "default"

TAG_KEYS_MAX = 5
MISSING_USER_ID = "(none)"
"""The reserved user that calls without a user are metered on; it has no limits and a line in
reports.
"""

SYNC_INTERVAL_S = 1.0
"""Longest time from a settlement to its delivery to the ledger, whatever `flush_interval` says
above it.
"""

FIRST_TOUCH_WAIT_S = 0.25
"""Longest time that a call waits for the state of a user that this process does not know yet."""

_PRODUCT = re.compile(r"\w[\w.-]{0,254}")  # it names a folder too

OnMissingUser = Literal["warn", "block", "ignore"]


@dataclass(frozen=True)
class Settings:
    """What `init` was told, read and checked.

    Attributes:
        api_key: Key of the backend's product, or None in local mode.
        base_url: Where the backend answers, without a trailing slash.
        db_path: The local store: a file path with `~` expanded, or ":memory:".
        product: Under which product local figures are kept (with an api_key: the key's hash).
        flush_interval_s: Upper bound on the delay of deliveries.
        max_batch_size: Events per delivery request, at most.
        max_queue_size: Events queued in memory when no journal can be written, at most.
        raise_on_hard_gate: Whether a refused call raises (False: it runs, marked `blocked`).
        auto_instrument: Whether provider SDKs are patched at `init` and when imported later.
        refresh_interval_s: How often a known user's plan is re-read although nothing happened.
        strict_backend: Whether `init` raises when the backend cannot be used.
        default_plan: Plan of users that nobody assigned.
        on_missing_user: What a call without a user is; another string is the user it counts to.
        soft_gate: Whether the warning fires once per limit and window, or on every call past the
            line.
        tag_keys: Metadata keys that reports group by.
        carry_user: Whether threads and pools take the user along.
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
    default_plan: str = "default"
    on_missing_user: str = "warn"
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
        """Under which product the local store keeps figures; a key is never written down."""
        if self.api_key is None:
            return self.product
        import hashlib  # 5 ms, and only with a backend

        return "key-" + hashlib.sha256(self.api_key.encode()).hexdigest()[:16]


def is_disabled(environ: Mapping[str, str]) -> bool:
    """Tell whether `PAYGENT_DISABLED` turns everything off."""
    return environ.get("PAYGENT_DISABLED", "").strip().lower() in ("1", "true", "yes", "on")


def _is_http_address(text: str) -> bool:
    try:
        parts = urlsplit(text)
    except ValueError:  # a bracket without its other half
        return False
    return parts.scheme in ("http", "https") and bool(parts.netloc)


def read_settings(arguments: Mapping[str, Any], environ: Mapping[str, str]) -> Settings:
    """Read and check settings.

    Args:
        arguments: What `init` was called with, by its parameter names; None means "not given".
        environ: The environment.

    Raises:
        InvalidValue: naming every argument that breaks a rule.
    """
    findings = ValidationErrors("Paygent.init")
    given = {name: value for name, value in arguments.items() if value is not None}
    read: dict[str, Any] = {}
    _read_places(findings, given, environ, read)
    _read_numbers(findings, given, read)
    _read_choices(findings, given, read)
    findings.raise_if_any()
    return Settings(**read)


def _read_places(
    findings: ValidationErrors,
    given: Mapping[str, Any],
    environ: Mapping[str, str],
    read: dict[str, Any],
) -> None:
    """Read where the backend, the store and the product are."""
    for name, variable in (
        ("api_key", "PAYGENT_API_KEY"),
        ("base_url", "PAYGENT_BASE_URL"),
        ("db_path", "PAYGENT_DB_PATH"),
    ):
        value = given.get(name, environ.get(variable) or None)
        if value is None:
            continue
        if name == "db_path" and isinstance(value, os.PathLike):
            value = os.fspath(value)
        if not isinstance(value, str) or not value.strip():
            findings.add(name, "…" if name == "api_key" else value, "must be a non-empty string")
        else:
            read[name] = value.strip()
    if "base_url" in read:
        if not _is_http_address(read["base_url"]):
            findings.add("base_url", read["base_url"], "must be an http:// or https:// address")
        read["base_url"] = read["base_url"].rstrip("/")
    db_path = read.get("db_path", DEFAULT_DB_PATH)
    read["db_path"] = db_path if db_path == ":memory:" else os.path.expanduser(db_path)
    if "\0" in db_path:
        findings.add("db_path", db_path, "must not contain a NUL character")
    read["product"] = environ.get("PAYGENT_PRODUCT", "").strip() or DEFAULT_PRODUCT
    if _PRODUCT.fullmatch(read["product"]) is None:
        rule = "must be 1 to 255 letters, digits, '.', '_' or '-', and begin with a letter or digit"
        findings.add("PAYGENT_PRODUCT", read["product"], rule)


def _read_numbers(
    findings: ValidationErrors, given: Mapping[str, Any], read: dict[str, Any]
) -> None:
    """Read seconds and counts."""
    for name, target, least, most in (
        ("flush_interval", "flush_interval_s", 0.01, 3600.0),
        ("refresh_interval", "refresh_interval_s", 0.01, 86_400.0),
    ):
        if name in given:
            number = read_decimal(given[name]) if not isinstance(given[name], str) else None
            if number is None or not number.is_finite() or not least <= float(number) <= most:
                findings.add(
                    name, given[name], f"must be a number of seconds from {least:g} to {most:g}"
                )
            else:
                read[target] = float(number)
    for name, most_count in (("max_batch_size", 1_000), ("max_queue_size", 1_000_000)):
        if name in given:
            value = given[name]
            if (
                isinstance(value, bool)
                or not isinstance(value, int)
                or not 1 <= value <= most_count
            ):
                findings.add(name, value, f"must be a whole number from 1 to {most_count}")
            else:
                read[name] = value


def _read_choices(
    findings: ValidationErrors, given: Mapping[str, Any], read: dict[str, Any]
) -> None:
    """Read switches, names, lists and the registry."""
    if "registry" in given:
        if not isinstance(given["registry"], ProviderRegistry):
            findings.add("registry", given["registry"], "must be a ProviderRegistry, or None")
        read["registry"] = given["registry"]
    for name in ("raise_on_hard_gate", "auto_instrument", "strict_backend", "carry_user"):
        if name in given:
            if not isinstance(given[name], bool):
                findings.add(name, given[name], "must be True or False")
            read[name] = given[name]
    for name in ("default_plan", "on_missing_user"):
        if name in given:
            value = given[name]
            if not isinstance(value, str) or not 0 < len(value) <= NAME_CHARS_MAX:
                findings.add(name, value, NAME_RULE)
            read[name] = value
    if "soft_gate" in given:
        if given["soft_gate"] not in ("once", "every_call"):
            findings.add("soft_gate", given["soft_gate"], 'must be "once" or "every_call"')
        read["soft_gate"] = given["soft_gate"]
    if "tag_keys" in given:
        keys = given["tag_keys"]
        named = () if isinstance(keys, str) or not hasattr(keys, "__iter__") else tuple(keys)
        if (
            (not named and keys != () and keys != [])
            or not all(isinstance(key, str) and key for key in named)
            or len(named) > TAG_KEYS_MAX
        ):
            findings.add("tag_keys", keys, f"must be at most {TAG_KEYS_MAX} non-empty strings")
        else:
            read["tag_keys"] = named
