"""What type checkers see of the plans' constructors is what the constructors take."""

from __future__ import annotations

import ast
import dataclasses
import inspect

import pytest

from paygent import Limit, ModelCostRate, PlanConfig


@pytest.mark.parametrize("kind", [PlanConfig, Limit, ModelCostRate])
def test_row_7__the_constructor_for_type_checkers__has_the_fields_in_order(kind: type) -> None:
    """Each argument has the name, place and default of its field."""
    (definition,) = ast.parse(inspect.getsource(kind)).body
    (typed,) = [
        node
        for node in ast.walk(definition)
        if isinstance(node, ast.FunctionDef) and node.name == "__init__"
    ]
    names = [argument.arg for argument in typed.args.args[1:]]
    specs = [spec for spec in dataclasses.fields(kind) if spec.init]
    assert names == [spec.name for spec in specs]
    required = len(names) - len(typed.args.defaults)
    assert [spec.name for spec in specs if _is_required(spec)] == names[:required]
    for spec, default in zip(specs[required:], typed.args.defaults, strict=True):
        if not (isinstance(default, ast.Constant) and default.value is Ellipsis):
            assert ast.literal_eval(default) == spec.default


def _is_required(spec: dataclasses.Field[object]) -> bool:
    return spec.default is spec.default_factory is dataclasses.MISSING
