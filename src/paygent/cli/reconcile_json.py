"""Exports as the providers' APIs answer them: one page, or an array of pages.

OpenAI: `GET /v1/organization/usage/completions`, `…/embeddings` and `/v1/organization/costs` (types
`openai.types.admin.organization`, openai 3.57, 2026-11). Anthropic: `GET
/v1/organizations/usage_report/messages` and `/v1/organizations/cost_report` (Admin API reference,
2026-11); its amounts are cents, as decimal text.

A bucket that is in a file twice would count twice, so it is an error.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator, Mapping
from decimal import Decimal
from typing import Any, NamedTuple

from paygent.cli.reconcile_values import CENT_PLACES, FieldReader
from paygent.core.reconcile import ProviderRow
from paygent.core.validation import ValidationErrors

ACCEPTED = (
    "OpenAI's organization/usage/completions, organization/usage/embeddings or organization/costs, "
    "or Anthropic's usage_report/messages or cost_report"
)
"""The documented answers."""

OPENAI_USAGE, OPENAI_COSTS = "OpenAI usage, JSON", "OpenAI costs, JSON"
ANTHROPIC_USAGE, ANTHROPIC_COSTS = "Anthropic usage report, JSON", "Anthropic cost report, JSON"

_TIER = re.compile(r"^[^|,]*\|\s*")
_LOOKS_LIKE_A_MODEL = re.compile(r"[0-9-]")

_Read = Callable[[FieldReader, str, Mapping[str, Any]], ProviderRow]


class Pages(NamedTuple):
    """What a document has.

    Attributes:
        shape: Which report it is; "" if every bucket is empty.
        rows: Its rows; an empty bucket is a row without figures.
        has_more: Whether the provider has more pages than the file.
    """

    shape: str
    rows: tuple[ProviderRow, ...]
    has_more: bool


def parse(text: str) -> Any:
    """Return a JSON document with exact numbers.

    Raises:
        ValueError: It is no JSON.
    """
    try:
        return json.loads(text, parse_float=Decimal)
    except (RecursionError, ArithmeticError) as error:  # too deep; an exponent of 20 digits
        raise ValueError(f"cannot be read as JSON ({error})") from error


def read_pages(document: Any, errors: ValidationErrors) -> Pages:
    """Return the rows of a document; record every value that breaks a rule."""
    pages = document if isinstance(document, list) else [document]
    reader = _Reader(errors)
    rows: list[ProviderRow] = []
    for number, page in enumerate(pages):
        prefix = f"[{number}]." if isinstance(document, list) else ""
        rows += reader.page(page, prefix)
    if not pages:
        errors.add("file", document, f"must have at least one page: {ACCEPTED}")
    has_more = bool(pages) and isinstance(pages[-1], Mapping) and pages[-1].get("has_more") is True
    return Pages(reader.shape, tuple(rows), has_more)


class _Reader:
    """Reads pages of one report.

    Attributes:
        shape: Which one, once a bucket with results was read.
    """

    def __init__(self, errors: ValidationErrors) -> None:
        self.shape = ""
        self._errors = errors
        self._seen: set[tuple[str, int | None]] = set()  # kind and start of what had results

    def page(self, page: Any, prefix: str) -> Iterator[ProviderRow]:
        """Yield the rows of a page."""
        buckets = page.get("data") if isinstance(page, Mapping) else None
        if not isinstance(buckets, list):
            rule = f"must be a list of buckets: {ACCEPTED}"
            self._errors.add(f"{prefix}data", _shown(buckets), rule)
            return
        for number, bucket in enumerate(buckets):
            where = f"{prefix}data[{number}]"
            if not isinstance(bucket, Mapping):
                self._errors.add(where, _shown(bucket), "must be an object with results")
                continue
            yield from self._bucket(bucket, where)

    def _bucket(self, bucket: Mapping[str, Any], where: str) -> Iterator[ProviderRow]:
        fields = FieldReader(self._errors, f"{where}.")
        if "start_time" in bucket:  # OpenAI's
            start_us = fields.seconds_us("start_time", bucket["start_time"])
            given = bucket.get("end_time")
            day = fields.day_of("end_time", start_us, fields.seconds_us("end_time", given), given)
        elif "starting_at" in bucket:  # Anthropic's
            start_us = fields.time_us("starting_at", bucket["starting_at"])
            given = bucket.get("ending_at")
            day = fields.day_of("ending_at", start_us, fields.time_us("ending_at", given), given)
        else:
            rule = f"must be there, or starting_at: {ACCEPTED}"
            fields.reject("start_time", None, rule)
            return
        results = bucket.get("results")
        if not isinstance(results, list):
            fields.reject("results", _shown(results), "must be a list")
            return
        if not results:
            yield ProviderRow(day)
        kinds = set()
        for number, result in enumerate(results):
            prefix = f"{where}.results[{number}]."
            kind = self._kind(result, prefix, is_openai="start_time" in bucket)
            if kind:
                kinds.add(kind)
                yield _READERS[kind](FieldReader(self._errors, prefix), day, result)
        for kind in sorted(kinds):
            if start_us is not None and (kind, start_us) in self._seen:
                fields.reject(
                    "results", kind, "must be there once: the bucket is in the file twice"
                )
            self._seen.add((kind, start_us))

    def _kind(self, result: Any, prefix: str, *, is_openai: bool) -> str:
        """Return the kind of a result; "" after an error."""
        kind: Any = ""
        if isinstance(result, Mapping) and is_openai:
            kind = result.get("object")
        elif isinstance(result, Mapping):
            kind = next((name for name in _OF_ANTHROPIC if name in result), "")
        if not isinstance(kind, str) or kind not in _READERS:
            name = prefix + ("object" if is_openai else _OF_ANTHROPIC[0])
            rule = "must be a result of " + ACCEPTED
            self._errors.add(name, _shown(kind or None), rule)
            return ""
        shape = _SHAPES[kind]
        if self.shape not in ("", shape):
            rule = f"must be of one report: the file begins with {self.shape}, this is {shape}"
            self._errors.add(prefix[:-1], kind, rule)
            return ""
        self.shape = shape
        return kind


def _openai_usage(fields: FieldReader, day: str, result: Mapping[str, Any]) -> ProviderRow:
    cached = result.get("input_cached_tokens")
    return ProviderRow(
        day,
        model=fields.text("model", result.get("model")),
        key=_key(fields, result, "api_key_id", "project_id"),
        input_tokens=fields.count("input_tokens", result.get("input_tokens")),
        output_tokens=fields.count("output_tokens", result.get("output_tokens")),
        cached_input_tokens=None if cached is None else fields.count("input_cached_tokens", cached),
        calls=fields.count("num_model_requests", result.get("num_model_requests")),
    )


def _openai_embeddings(fields: FieldReader, day: str, result: Mapping[str, Any]) -> ProviderRow:
    # The result of embeddings has no output, and no cache.
    whole = {"output_tokens": 0, "input_cached_tokens": 0}
    return _openai_usage(fields, day, {**result, **whole})


def _openai_costs(fields: FieldReader, day: str, result: Mapping[str, Any]) -> ProviderRow:
    amount = result.get("amount")
    if not isinstance(amount, Mapping):
        fields.reject("amount", _shown(amount), "must be an object with value and currency")
        amount = {"value": 0, "currency": "usd"}
    fields.currency("amount.currency", amount.get("currency"))
    return ProviderRow(
        day,
        model=model_of_line_item(fields.text("line_item", result.get("line_item"))),
        key=_key(fields, result, "api_key_id", "project_id"),
        cost_nano=fields.cost_nano("amount.value", amount.get("value")),
    )


def _anthropic_usage(fields: FieldReader, day: str, result: Mapping[str, Any]) -> ProviderRow:
    written = result.get("cache_creation")
    if not isinstance(written, Mapping):
        fields.reject("cache_creation", _shown(written), "must be an object with counts of tokens")
        written = {}
    cached = fields.count("cache_read_input_tokens", result.get("cache_read_input_tokens"))
    # Paygent's input includes what was read from the cache, and what was written to it.
    parts = (
        cached,
        fields.count("uncached_input_tokens", result.get("uncached_input_tokens")),
        *(fields.count(f"cache_creation.{name}", count) for name, count in written.items()),
    )
    return ProviderRow(
        day,
        model=fields.text("model", result.get("model")),
        key=_key(fields, result, "api_key_id", "workspace_id"),
        input_tokens=sum(parts),
        output_tokens=fields.count("output_tokens", result.get("output_tokens")),
        cached_input_tokens=cached,
    )


def _anthropic_costs(fields: FieldReader, day: str, result: Mapping[str, Any]) -> ProviderRow:
    fields.currency("currency", result.get("currency"))
    return ProviderRow(
        day,
        model=fields.text("model", result.get("model")),
        key=_key(fields, result, "workspace_id"),
        cost_nano=fields.cost_nano("amount", result.get("amount"), CENT_PLACES),
    )


def _key(fields: FieldReader, result: Mapping[str, Any], *names: str) -> str:
    """Return the first of some names that a result is grouped by, or ""."""
    found = [fields.text(name, result.get(name)) for name in names]
    return next(filter(None, found), "")


def _shown(value: Any) -> Any:
    """Return a value for an error message; of a list or object its type, since it may be long."""
    return type(value).__name__ if isinstance(value, (dict, list)) else value


def model_of_line_item(line_item: str | None) -> str | None:
    """Return the model of a line of OpenAI's costs; "" if it is about no model.

    `gpt-4o-2024-08-06, cached input` and `priority | gpt-4o, output, long context` begin with the
    model, `gpt-audio, input` may have a modality before the comma, and `ft-` is a fine-tune. `web
    search tool calls` is of no model. The lines are not documented; these were read from exports.
    """
    if line_item is None:
        return None
    head, comma, _ = _TIER.sub("", line_item).partition(",")
    words = head.split()
    if not words or (not comma and (len(words) > 1 or not _LOOKS_LIKE_A_MODEL.search(words[0]))):
        return ""
    return words[0].removeprefix("ft-")


_READERS: Mapping[str, _Read] = {
    "organization.usage.completions.result": _openai_usage,
    "organization.usage.embeddings.result": _openai_embeddings,
    "organization.costs.result": _openai_costs,
    "uncached_input_tokens": _anthropic_usage,
    "amount": _anthropic_costs,
}
"""By the `object` of OpenAI's results, and by a field that only one of Anthropic's has."""

_OF_ANTHROPIC = ("uncached_input_tokens", "amount")

_SHAPES = {
    "organization.usage.completions.result": OPENAI_USAGE,
    "organization.usage.embeddings.result": OPENAI_USAGE,
    "organization.costs.result": OPENAI_COSTS,
    "uncached_input_tokens": ANTHROPIC_USAGE,
    "amount": ANTHROPIC_COSTS,
}
