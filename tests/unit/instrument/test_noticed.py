"""SDKs without a hook are noticed: said once, counted, and not where they are registered."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paygent import Paygent, ProviderConfig, ProviderRegistry
from paygent.failopen import failures
from paygent.instrument.noticed import HOOKS
from paygent.instrument.registry import instrumentation

Init = Callable[..., Paygent]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand-ins for packages of providers, which are not installed here."""
    for name in ("mistralai", "cohere"):
        (tmp_path / f"{name}.py").write_text("class Client: ...\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("mistralai", "cohere"):
        sys.modules.pop(name, None)


def test_noticed__an_sdk_that_is_imported__is_said_once_with_a_hint(
    packages: Path, init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """Before `init` or after it; `health` counts it."""
    importlib.import_module("cohere")
    pg = init()
    importlib.reload(importlib.import_module("mistralai"))
    pg.instrument()
    assert caplog.text.count("Mistral is in use") == caplog.text.count("Cohere is in use") == 1
    assert "pg.wrap" in caplog.text
    assert {"unmetered_sdk:mistralai", "unmetered_sdk:cohere"} <= set(pg.health()["counts"])


def test_noticed__an_sdk_that_is_registered__is_not_said(packages: Path, init: Init) -> None:
    """The application meters it itself."""
    registry = ProviderRegistry()
    registry.register(ProviderConfig("mistral", "mistralai", "Client", "chat"))
    init(registry=registry)
    importlib.import_module("mistralai")
    assert "unmetered_sdk:mistralai" not in failures.counts


def test_noticed__without_patches__says_nothing(packages: Path, init: Init) -> None:
    """`auto_instrument=False` is the application's own choice."""
    init(auto_instrument=False)
    importlib.import_module("cohere")
    _client("bedrock-runtime")
    assert not [kind for kind in failures.counts if kind.startswith("unmetered_sdk")]


def _client(service: str) -> Any:
    boto3: Any = importlib.import_module("boto3")
    return boto3.client(
        service, region_name="us-east-1", aws_access_key_id="k", aws_secret_access_key="s"
    )


def test_noticed__a_client_for_bedrock__is_said_and_other_services_are_not(init: Init) -> None:
    """Most who import boto3 call no model."""
    botocore: Any = importlib.import_module("botocore.client")

    bare = botocore.ClientCreator.create_client
    init()
    _client("s3")
    assert not [kind for kind in failures.counts if kind.startswith("unmetered_sdk")]
    assert _client("bedrock-runtime").meta.service_model.service_name == "bedrock-runtime"
    assert failures.counts["unmetered_sdk:bedrock-runtime"] == 1
    instrumentation.uninstall()
    assert botocore.ClientCreator.create_client is bare


def test_noticed__every_hook__waits_for_a_module_of_its_own() -> None:
    """No two of them say the same."""
    modules = [hook.module for hook in HOOKS]
    assert len(modules) == len(set(modules))
