"""A plan's own prices for a model, exact to the pico-dollar."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from paygent.core.field_readers import read_field
from paygent.core.money import PicoUsd, from_units, read_price_pico
from paygent.core.validation import ValidationErrors
from paygent.core.value import Value

_THOUSANDS_PER_MILLION = 1_000
_PICO_PER_THOUSAND_TOKENS = 10**15  # dollars per thousand tokens, as pico-dollars per million


@dataclass(frozen=True)
class ModelCostRate(Value):
    """Prices of one model in dollars per 1,000 tokens.

    A component that is None keeps the catalogue's ratio to its parent (cached input to input,
    reasoning to output); if the catalogue lacks the model, it has the price of its parent.

    Attributes:
        input: Plain input.
        output: Plain output.
        cached_input: Input read from the provider's cache.
        cache_write: Input written to a cache of the short lifetime.
        cache_write_long: Input written to a cache of the long lifetime.
        reasoning: Output spent on thinking.
        audio_input, audio_output, image_input, image_output: Audio and image tokens.
        pico: All of the above that are set, exactly: pico-dollars per million tokens.
    """

    input: float
    output: float
    cached_input: float | None = None
    cache_write: float | None = None
    cache_write_long: float | None = None
    reasoning: float | None = None
    audio_input: float | None = None
    audio_output: float | None = None
    image_input: float | None = None
    image_output: float | None = None
    pico: Mapping[str, PicoUsd] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        errors = ValidationErrors("ModelCostRate")
        exact: dict[str, PicoUsd] = {}
        for name in _RATE_COMPONENTS:
            given = getattr(self, name)
            # Absent components are derived later, from the catalogue.
            if given is None and name not in ("input", "output"):
                continue
            try:
                exact[name] = read_price_pico(given, units_per_list_unit=_THOUSANDS_PER_MILLION)
            except ValueError as error:
                errors.add(name, given, str(error))
            else:
                # The shown price is the double nearest to the exact one.
                object.__setattr__(self, name, exact[name] / _PICO_PER_THOUSAND_TOKENS)
        errors.raise_if_any()
        object.__setattr__(self, "pico", exact)

    def _exact_argument(self, name: str) -> Any:
        return from_units(self.pico[name], 15) if name in self.pico else getattr(self, name)

    @classmethod
    def per_million(cls, input: Any, output: Any, **others: Any) -> ModelCostRate:
        """Make a rate from prices in dollars per million tokens, as providers list them.

        Args:
            input: Plain input.
            output: Plain output.
            **others: Any other component of `ModelCostRate`.

        Raises:
            InvalidValue: Names every price that is not a finite number of dollars, 0 or more.
            TypeError: `others` names a component that does not exist.
        """
        errors = ValidationErrors("ModelCostRate.per_million")
        thousandths: dict[str, Any] = {}
        for name, given in {"input": input, "output": output, **others}.items():
            if given is None and name in others:
                continue
            pico = read_field(errors, name, given, read_price_pico)
            if pico is not None:
                # Exactly, so that dividing by a thousand loses no digit.
                thousandths[name] = from_units(pico, 15)
        errors.raise_if_any()
        return cls(**thousandths)

    @property
    def is_free(self) -> bool:
        """Whether every named price is 0, as for a local model."""
        return not any(self.pico.values())


_RATE_COMPONENTS = (
    "input",
    "output",
    "cached_input",
    "cache_write",
    "cache_write_long",
    "reasoning",
    "audio_input",
    "audio_output",
    "image_input",
    "image_output",
)
