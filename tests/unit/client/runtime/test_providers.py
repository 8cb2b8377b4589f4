"""The values of registered providers: what is accepted, and what extractors may return."""

from __future__ import annotations

import importlib
from typing import Any

import pytest

import paygent
from paygent import InvalidValue, Paygent, ProviderConfig, ProviderRegistry, TokenInfo
from paygent.client.runtime.providers import usage_of


def config(**more: Any) -> ProviderConfig:
    """A provider that breaks no rule but those given."""
    fields: dict[str, Any] = {
        "name": "acme", "module_path": "acme.client", "class_name": "Client", "method_name": "run",
    }  # fmt: skip
    return ProviderConfig(**{**fields, **more})


def test_providers__their_module__is_where_applications_import_them_from() -> None:
    """The documented import path gives the same names as the package."""
    module = importlib.import_module("paygent.client.runtime.providers")
    for name in ("ProviderConfig", "ProviderRegistry", "TokenInfo"):
        assert getattr(module, name) is getattr(paygent, name)


def test_registry__what_is_registered__is_found_in_order() -> None:
    """By name, as a list, and one after the other; the same name again replaces."""
    registry = ProviderRegistry()
    first, second = config(), config(name="other")
    registry.register(first)
    registry.register(second)
    assert (registry.get("acme"), registry.get("nobody")) == (first, None)
    assert registry.all() == list(registry) == [first, second]
    assert (registry.names, len(registry), bool(ProviderRegistry())) == (["acme", "other"], 2, True)
    again = config(class_name="Other")
    registry.register(again)
    assert registry.all() == [again, second]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("name", ""), ("name", " "), ("name", None), ("name", "x" * 256), ("name", 5),
        ("module_path", ""), ("module_path", "acme..client"), ("module_path", "acme client"),
        ("module_path", None), ("class_name", "1st"), ("class_name", 5),
        ("method_name", "a.b"), ("method_name", None), ("async_class_name", ""),
        ("async_module_path", 5), ("async_method_name", "a b"),
        ("extract_tokens", "text"), ("extract_tokens", 5),
    ],
)  # fmt: skip
def test_register__a_bad_field__is_named_with_its_value_and_rule(field: str, value: Any) -> None:
    """A clear error, and nothing is registered."""
    registry = ProviderRegistry()
    with pytest.raises(InvalidValue) as caught:
        registry.register(config(**{field: value}))
    (finding,) = caught.value.findings
    assert (finding.field, finding.value) == (field, value)
    assert finding.rule.startswith("must be ")
    assert registry.all() == []


def test_register__several_bad_fields__are_all_named() -> None:
    """Every error at once."""
    with pytest.raises(InvalidValue) as caught:
        ProviderRegistry().register(config(name="", class_name="", extract_tokens=1))
    assert [each.field for each in caught.value.findings] == [
        "name",
        "class_name",
        "extract_tokens",
    ]


@pytest.mark.parametrize("value", [None, {}, "acme", object()])
def test_register__what_is_no_config__is_a_clear_error(value: Any) -> None:
    """Also a dict of the right keys."""
    with pytest.raises(InvalidValue, match=r"config = .*: must be a ProviderConfig"):
        ProviderRegistry().register(value)


@pytest.mark.parametrize("value", [{}, [config()], "acme", object(), ProviderRegistry])
def test_init__with_something_else_as_registry__is_a_clear_error(value: Any) -> None:
    """Named together with every other bad argument; nothing is started."""
    with pytest.raises(InvalidValue) as caught:
        Paygent.init(registry=value, max_batch_size=0)
    assert {each.field for each in caught.value.findings} == {"registry", "max_batch_size"}
    assert Paygent.get_instance() is None


@pytest.mark.parametrize(
    ("more", "expected"),
    [
        ({}, [("acme.client", "Client", "run")]),
        (
            {"async_class_name": "A"},
            [("acme.client", "Client", "run"), ("acme.client", "A", "run")],
        ),
        (
            {"async_method_name": "arun"},
            [("acme.client", "Client", "run"), ("acme.client", "Client", "arun")],
        ),
        (
            {"async_module_path": "acme.aio", "async_class_name": "A", "async_method_name": "go"},
            [("acme.client", "Client", "run"), ("acme.aio", "A", "go")],
        ),
        ({"async_method_name": "run"}, [("acme.client", "Client", "run")]),
    ],
)
def test_targets__what_is_not_named__is_as_in_the_sync_ones(more: Any, expected: Any) -> None:
    """An async class of the same module, an async method of the same class."""
    assert list(config(**more).targets) == expected


@pytest.mark.parametrize("extract", [lambda answer: (1, 2), None, [].append])
def test_config__with_any_extractor__can_be_a_key(extract: Any) -> None:
    """Also with a callable that has no hash."""

    class Unhashable:
        __hash__ = None  # type: ignore[assignment]

        def __call__(self, answer: Any) -> Any:
            return answer

    assert hash(config(extract_tokens=extract)) == hash(config(extract_tokens=Unhashable()))


class Numeric:
    """A whole number of another library."""

    def __index__(self) -> int:
        return 7


@pytest.mark.parametrize(
    ("extracted", "expected"),
    [
        (TokenInfo("m", 3, 4, 7), ("m", 3, 4)),
        (TokenInfo(input_tokens=3), (None, 3, 0)),
        ({"model": "m", "input_tokens": 3, "output_tokens": 4}, ("m", 3, 4)),
        ({"output_tokens": 4}, (None, 0, 4)),
        ((3, 4), (None, 3, 4)),
        ([3, 4.0], (None, 3, 4)),
        ((Numeric(), None), (None, 7, 0)),
        (TokenInfo(total_tokens=9), (None, 9, 0)),  # all there is
        (TokenInfo("m", 3, 4, 9), ("m", 3, 6)),  # two tokens were spent on thinking
        (TokenInfo("m", 3, 4, 5), ("m", 3, 4)),
        (TokenInfo(5, 3, 4), (None, 3, 4)),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_usage_of__what_an_extractor_may_return__is_read(extracted: Any, expected: Any) -> None:
    """A TokenInfo, a dict of its keys, a pair; totals count what the parts leave out."""
    usage = usage_of(extracted)
    assert usage is not None
    assert (usage.model, usage.input_tokens, usage.output_tokens) == expected
    assert usage.quality == "exact"


@pytest.mark.parametrize(
    "extracted",
    [
        None, TokenInfo(), {}, (), (1,), (1, 2, 3), "12", 5, object(), (0, 0), (-1, 2), (True, 2),
        ("1", 2), (1.5, 2), (float("nan"), 2), (float("inf"), 2), (10**13, 2), (1e300, 2),
        {"input_tokens": "many"}, TokenInfo("m", 1, 2, -3),
    ],
)  # fmt: skip
def test_usage_of__nonsense__is_none(extracted: Any) -> None:
    """Then the estimate is booked; no tokens at all are no use either."""
    assert usage_of(extracted) is None
