"""SDKs without a hook are noticed: said once, counted, and not where they are registered."""

from __future__ import annotations

import importlib
import inspect
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from paygent import Paygent, ProviderConfig, ProviderRegistry
from paygent.client.instrument.registry import instrumentation
from paygent.client.instrument.uninstrumented import HOOKS
from paygent.failopen import diagnostics

Init = Callable[..., Paygent]


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Stand-ins for packages of providers, which are not installed here; Mistral's is a namespace
    package, as it has been since 2.0.
    """
    (tmp_path / "cohere.py").write_text("class Client: ...\n")
    (tmp_path / "mistralai").mkdir()
    (tmp_path / "mistralai" / "client.py").write_text("class Mistral: ...\n")
    (tmp_path / "aiobotocore").mkdir()
    (tmp_path / "aiobotocore" / "client.py").write_text(
        "class AioClientCreator:\n"
        "    async def create_client(self, service_name, region_name=None):\n"
        "        return service_name\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in ("mistralai", "mistralai.client", "cohere", "aiobotocore", "aiobotocore.client"):
        sys.modules.pop(name, None)


def test_noticed__an_sdk_that_is_imported__is_said_once_with_a_hint(
    packages: Path, init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """Before `init` or after it; `health` counts it."""
    importlib.import_module("cohere")
    pg = init()
    importlib.reload(importlib.import_module("mistralai.client"))
    pg.instrument()
    assert (
        caplog.text.count("Mistral is not instrumented")
        == caplog.text.count("Cohere is not instrumented")
        == 1
    )
    assert "pg.wrap" in caplog.text
    assert {"unmetered_sdk:mistralai", "unmetered_sdk:cohere"} <= set(pg.health()["counts"])


def test_noticed__where_unmetered_calls_are_ignored__is_only_counted(
    packages: Path, init: Init, caplog: pytest.LogCaptureFixture
) -> None:
    """Nor can they be refused: an import is no call."""
    pg = init(on_unmetered="ignore")
    importlib.import_module("cohere")
    assert pg.health()["counts"]["unmetered_sdk:cohere"] == 1
    assert "Cohere" not in caplog.text
    init(on_unmetered="raise")
    importlib.reload(importlib.import_module("cohere"))


def test_noticed__an_sdk_that_is_registered__is_not_said(packages: Path, init: Init) -> None:
    """The application meters it itself."""
    registry = ProviderRegistry()
    registry.register(ProviderConfig("mistral", "mistralai.client", "Mistral", "chat"))
    init(registry=registry)
    importlib.import_module("mistralai.client")
    assert "unmetered_sdk:mistralai" not in diagnostics.counts


def test_noticed__without_patches__says_nothing(packages: Path, init: Init) -> None:
    """`auto_instrument=False` is the application's own choice."""
    init(auto_instrument=False)
    importlib.import_module("cohere")
    _client("bedrock-runtime")
    assert not [kind for kind in diagnostics.counts if kind.startswith("unmetered_sdk")]


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
    assert not [kind for kind in diagnostics.counts if kind.startswith("unmetered_sdk")]
    assert _client("bedrock-runtime").meta.service_model.service_name == "bedrock-runtime"
    assert diagnostics.counts["unmetered_sdk:bedrock-runtime"] == 1
    instrumentation.uninstall()
    assert botocore.ClientCreator.create_client is bare


async def test_noticed__an_async_client_for_bedrock__is_said_and_its_kind_is_kept(
    packages: Path, init: Init
) -> None:
    """What makes it overrides what the sync one does."""
    init()
    creator: Any = importlib.import_module("aiobotocore.client").AioClientCreator
    assert inspect.iscoroutinefunction(creator.create_client)
    assert await creator().create_client("s3") == "s3"
    assert "unmetered_sdk:bedrock-runtime" not in diagnostics.counts
    assert await creator().create_client(service_name="bedrock-runtime") == "bedrock-runtime"
    assert diagnostics.counts["unmetered_sdk:bedrock-runtime"] == 1


def test_noticed__every_hook__waits_for_a_module_of_its_own() -> None:
    """No two of them say the same."""
    modules = [hook.module for hook in HOOKS]
    assert len(modules) == len(set(modules))
