"""Providers that the application registers: the methods of their SDKs that make calls, and how to
read the usage of their answers. `instrument/callables/registered.py` installs the patches; nothing
is imported here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from paygent.core.usage import Usage, token_count
from paygent.core.validation import NAME_CHARS_MAX, NAME_RULE, ValidationErrors

_COUNTS = ("input_tokens", "output_tokens", "total_tokens")


@dataclass
class TokenInfo:
    """The usage of a registered provider's answer; not frozen, since extractors fill it in step by
    step.

    Attributes:
        model: The model that answered, or None for the requested one.
        input_tokens: All input tokens, cached ones included.
        output_tokens: All output tokens, reasoning included.
        total_tokens: Both together. A surplus over their sum counts as output, since some providers
            omit reasoning tokens, or as input if no other count is given.
    """

    model: str | None = None
    input_tokens: int = 0
    output_tokens: int = 0
    total_tokens: int = 0


@dataclass(frozen=True)
class ProviderConfig:
    """The method in which one provider is called; validated when it is registered.

    Attributes:
        name: The provider's name in events and prices, such as "mistral".
        module_path: Module of the class, such as "acme.client".
        class_name: Class of the method that makes the calls; "Outer.Inner" for a nested one.
        method_name: The method; its keyword arguments are read as the request (`model`,
            `messages`, `max_tokens`, …).
        async_class_name: Class of the async method; None is `class_name`.
        async_module_path: Module of that class; None is `module_path`.
        async_method_name: The async method; None is `method_name`, if an async class is named, and
            no async method otherwise.
        extract_tokens: Takes an answer and returns a `TokenInfo`, a dict of the same keys, or a
            tuple of input and output tokens; None reads answers of the known shapes.
    """

    name: str
    module_path: str
    class_name: str
    method_name: str
    async_class_name: str | None = None
    async_module_path: str | None = None
    async_method_name: str | None = None
    # An extractor may be an unhashable object.
    extract_tokens: Callable[[Any], Any] | None = field(default=None, hash=False)

    @property
    def targets(self) -> tuple[tuple[str, str, str], ...]:
        """Return (module, class, method) of each method that makes calls."""
        sync = (self.module_path, self.class_name, self.method_name)
        if not (self.async_class_name or self.async_method_name or self.async_module_path):
            return (sync,)
        other = (
            self.async_module_path or self.module_path,
            self.async_class_name or self.class_name,
            self.async_method_name or self.method_name,
        )
        return (sync,) if other == sync else (sync, other)


class ProviderRegistry:
    """An application's own providers, for `Paygent.init(registry=…)`."""

    def __init__(self) -> None:
        self._configs: dict[str, ProviderConfig] = {}

    def register(self, config: ProviderConfig) -> None:
        """Add a provider, or replace the one of the same name; after `init` it takes effect at the
        next `instrument()`.

        Raises:
            InvalidValue: naming every field that breaks a rule.
        """
        errors = ValidationErrors("ProviderRegistry.register")
        if isinstance(config, ProviderConfig):
            _check(errors, config)
        else:
            errors.add("config", config, "must be a ProviderConfig")
        errors.raise_if_any()
        self._configs[config.name] = config

    def get(self, name: str) -> ProviderConfig | None:
        """Return the provider of a name, or None."""
        return self._configs.get(name)

    def all(self) -> list[ProviderConfig]:
        """Return the providers in the order in which they were registered."""
        return list(self._configs.values())

    @property
    def names(self) -> list[str]:
        """The names of the providers, in that order."""
        return list(self._configs)

    def __iter__(self) -> Iterator[ProviderConfig]:
        return iter(self.all())

    def __len__(self) -> int:
        return len(self._configs)

    def __bool__(self) -> bool:
        return True  # an empty registry is not a missing one


def _check(errors: ValidationErrors, config: ProviderConfig) -> None:
    """Record the rules that a provider breaks."""
    name = config.name
    if not isinstance(name, str) or not 0 < len(name.strip()) <= NAME_CHARS_MAX:
        errors.add("name", name, NAME_RULE)
    names = ("module_path", "class_name", "method_name")
    for field_name in (*names, *(f"async_{name}" for name in names)):
        value, is_path = getattr(config, field_name), not field_name.endswith("method_name")
        if value is None and field_name.startswith("async_"):
            continue  # the default
        if not _is_name(value, is_path=is_path):
            rule = "a dotted path of identifiers" if is_path else "an identifier"
            errors.add(field_name, value, f"must be {rule}")
    if config.extract_tokens is not None and not callable(config.extract_tokens):
        errors.add("extract_tokens", config.extract_tokens, "must be callable, or None")


def _is_name(value: Any, *, is_path: bool) -> bool:
    if not isinstance(value, str):
        return False
    parts = value.split(".") if is_path else [value]
    return all(part.isidentifier() for part in parts)


def usage_of(extracted: Any) -> Usage | None:
    """Return the usage that `extract_tokens` returned; None if it is invalid or has no tokens."""
    if isinstance(extracted, (tuple, list)):
        if len(extracted) != 2:
            return None
        fields: Mapping[str, Any] = {"input_tokens": extracted[0], "output_tokens": extracted[1]}
    elif isinstance(extracted, Mapping):
        fields = extracted
    else:
        fields = {name: getattr(extracted, name, None) for name in ("model", *_COUNTS)}
    counts = [token_count(fields.get(name)) for name in _COUNTS]
    if None in counts:
        return None  # a count that is not a number of tokens makes all of them doubtful
    input_tokens, output_tokens, total = (count or 0 for count in counts)
    if not input_tokens and not output_tokens:
        input_tokens = total  # the split is unknown
    output_tokens = max(output_tokens, total - input_tokens)
    if not input_tokens and not output_tokens:
        return None
    model = fields.get("model")
    name = model if isinstance(model, str) and model else None
    return Usage(input_tokens, output_tokens, model=name)
