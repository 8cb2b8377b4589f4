"""Where a file of plans is applied: a server's database, or a server over HTTP."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Protocol
from urllib.parse import urlsplit

import httpx2

from paygent.cli.database import choose_product, opened_database, read_database_url
from paygent.cli.options import CommandError, UsageError
from paygent.cli.plan_fields import fields_of, fields_of_json
from paygent.core.plan import PlanConfig
from paygent.core.plan_json import plan_from_json, plan_to_json
from paygent.core.validation import InvalidValue
from paygent.store.factory import without_password
from paygent.store.ledger import SqlStore

_PLANS = "/api/v1/config/plans"
_TIMEOUT_S = 30.0
_REASON_CHARS_MAX = 500


class PlanTarget(Protocol):
    """The plans of a product, as they are."""

    @property
    def shown(self) -> str:
        """Where they are, for messages; without a secret."""

    def stored(self) -> dict[str, tuple[int, PlanConfig | None]]:
        """Return version and fields of each plan by name; None for fields that this Paygent cannot
        read.
        """

    def put(self, plans: Mapping[str, PlanConfig]) -> dict[str, int]:
        """Create plans or add versions to them; return the versions by name."""


class DatabasePlans:
    """The plans of a product in an open database."""

    def __init__(self, store: SqlStore, product: str, url: str) -> None:
        self._store, self._product = store, product
        self.shown = f"product {product!r} in {without_password(url)}"

    def stored(self) -> dict[str, tuple[int, PlanConfig | None]]:
        """Return the stored plans; see `PlanTarget.stored`."""
        plans = self._store.plans(self._product)
        return {plan.name: (plan.version, _readable(plan.document)) for plan in plans}

    def put(self, plans: Mapping[str, PlanConfig]) -> dict[str, int]:
        """Write plans; see `PlanTarget.put`."""
        documents = {name: plan_to_json(plan) for name, plan in plans.items()}
        written = self._store.put_plans(self._product, documents)
        return {plan.name: plan.version for plan in written}


def _readable(document: Mapping[str, Any]) -> PlanConfig | None:
    try:
        return plan_from_json(document)
    except InvalidValue:  # a newer Paygent wrote it
        return None


class RemotePlans:
    """The plans of an admin key's product, over HTTP."""

    def __init__(self, client: httpx2.Client, base_url: str) -> None:
        self._client = client
        self.shown = base_url

    def stored(self) -> dict[str, tuple[int, PlanConfig | None]]:
        """Return the server's plans; see `PlanTarget.stored`."""
        answer = self._ask("GET", None)
        return {plan["name"]: (plan["version"], _from_answer(plan)) for plan in answer["plans"]}

    def put(self, plans: Mapping[str, PlanConfig]) -> dict[str, int]:
        """Send plans; see `PlanTarget.put`."""
        body = {"plans": [{**fields_of(plan), "name": name} for name, plan in plans.items()]}
        return {plan["name"]: plan["version"] for plan in self._ask("POST", body)["plans"]}

    def _ask(self, method: str, body: Any) -> Any:
        """Make a request and return the answer's body.

        Raises:
            CommandError: if the server cannot be reached, or refuses.
        """
        try:
            answer = self._client.request(method, _PLANS, json=body)
            document = answer.json()
        except (httpx2.HTTPError, ValueError) as error:
            raise CommandError(f"{self.shown} cannot be asked: {error}") from error
        if answer.is_success:
            return document
        reason = document.get("detail") if isinstance(document, dict) else None
        shown = str(reason or document)[:_REASON_CHARS_MAX]
        raise CommandError(f"{self.shown} answers {answer.status_code}: {shown}")


def _from_answer(plan: Mapping[str, Any]) -> PlanConfig | None:
    try:
        return PlanConfig(**fields_of_json(plan))
    except InvalidValue:  # a newer Paygent wrote it
        return None


@contextmanager
def opened_plans(
    database_url: str | None,
    product: str | None,
    base_url: str | None,
    api_key: str | None,
    environ: Mapping[str, str],
) -> Iterator[PlanTarget]:
    """Open what the options name: the server at `--base-url`, otherwise a database.

    Raises:
        CommandError: if it cannot be used, or options exclude each other.
    """
    if base_url is None:
        if api_key is not None:
            raise UsageError("--api-key is for a server: name it with --base-url")
        url = read_database_url(database_url, environ)
        with opened_database(url) as store:
            yield DatabasePlans(store, choose_product(store, product, environ), url)
        return
    if database_url is not None or product is not None:
        raise UsageError("--base-url excludes --database-url, and --product: the key names it")
    key = api_key or environ.get("PAYGENT_API_KEY")
    if not key:
        raise UsageError("a server needs an admin key: --api-key or PAYGENT_API_KEY")
    if not key.isascii() or not key.isprintable():
        raise UsageError("the API key has characters that no key has")
    _check_address(base_url)
    headers = {"Authorization": f"Bearer {key}"}
    with httpx2.Client(base_url=base_url, headers=headers, timeout=_TIMEOUT_S) as client:
        yield RemotePlans(client, base_url)


def _check_address(base_url: str) -> None:
    try:
        parts = urlsplit(base_url)
        is_address = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:  # a bracket without its other half, a port that is no number
        is_address = False
    if not is_address:
        raise UsageError(f"--base-url {base_url!r} is no address: http://HOST:PORT or https://HOST")
