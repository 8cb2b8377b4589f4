"""The rules that values break, in words of JSON: those of the validation library, and of this
package's types, which speak of Python where an application makes them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

_OF_PYTHON = (
    (" (Decimal, int, float or str)", ""),
    ("must be a dict ", "must be an object "),
    ("must be a ModelCostRate or a dict of its fields", "must be an object of prices"),
    ("must be a Limit or a dict of its fields", "must be an object of a limit"),
    ("a ModelLimitConfig or a dict of its fields", "an object with max_tokens_per_period"),
    ("is not a field of ModelCostRate", "is not a field of a rate"),
    ("is not a field of ModelLimitConfig", "is not a field of a model's limit"),
    ("is not a field of Limit", "is not a field of a limit"),
    ("must be a list of Limit", "must be a list of limits"),
    ("or None for", "or null for"),
    ("True or False", "true or false"),
)
_KINDS = {
    "missing": "is required",
    "extra_forbidden": "is not a field of this request",
    "string_type": "must be a string",
    "string_too_short": "must have at least {min_length} characters",
    "string_too_long": "must have at most {max_length} characters",
    "too_short": "must have at least {min_length} items",
    "too_long": "must have at most {max_length} items",
    "int_type": "must be a whole number",
    "int_parsing": "must be a whole number",
    "int_parsing_size": "must be a whole number with fewer digits",
    "int_from_float": "must be a whole number",
    "float_type": "must be a number",
    "float_parsing": "must be a number",
    "decimal_type": "must be a number",
    "decimal_parsing": "must be a number",
    "finite_number": "must be a finite number",
    "greater_than_equal": "must be at least {ge}",
    "less_than_equal": "must be at most {le}",
    "bool_type": "must be true or false",
    "bool_parsing": "must be true or false",
    "list_type": "must be a list of objects",
    "dict_type": "must be an object",
    "model_type": "must be an object",
    "model_attributes_type": "must be an object",
    "literal_error": "must be {expected}",
    "value_error": "{error}",
}
"""Rules by the library's kinds of errors, with its figures."""


def rule_of(error: Mapping[str, Any]) -> str:
    """Return the rule that one error of the validation library stands for."""
    rule = _KINDS.get(error["type"])
    if rule is None:  # a kind that no schema of ours leads to at present
        text = re.sub(r"^Input should be (an? )?(valid )?", r"must be \1", str(error["msg"]))
        return text[:1].lower() + text[1:]
    rule = rule.format_map(error.get("ctx", {}))
    if error["type"] == "literal_error":
        rule = rule.replace("'", '"')
    return rule.replace("at least 1 characters", "at least one character").replace(
        "at least 1 items", "at least one item"
    )


def in_json(rule: str) -> str:
    """Return a rule with the words of JSON for those of Python."""
    for python, json_words in _OF_PYTHON:
        rule = rule.replace(python, json_words)
    return rule
