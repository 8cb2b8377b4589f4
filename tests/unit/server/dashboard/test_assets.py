"""The files of pages: named by content, compressed, small, and as they were released."""

from __future__ import annotations

import gzip
import hashlib
import re
from importlib.resources import files
from pathlib import Path

import pytest

from paygent.server import dashboard
from paygent.server.dashboard import assets as module
from paygent.server.dashboard.assets import assets, by_address

LOADED = ("app.css", "app.js", "chart.js")
"""What a page loads; the icon is an image."""

_LOADED_BYTES_MAX = 60_000


def test_assets__script_and_style__have_at_most_60_kilobytes_compressed() -> None:
    """A first load is small on any line."""
    sizes = {name: len(assets()[name].compressed) for name in LOADED}
    assert sum(sizes.values()) <= _LOADED_BYTES_MAX, sizes


@pytest.mark.parametrize("name", [*LOADED, "icon.svg"])
def test_assets__a_file__is_named_by_its_content(name: str) -> None:
    """Its address has the hash, its compressed form the same content on every server."""
    asset = assets()[name]
    stem, digest, kind = asset.address.split(".")
    assert f"{stem}.{kind}" == name
    assert hashlib.sha256(asset.content).hexdigest().startswith(digest)
    assert len(digest) == 12
    assert gzip.decompress(asset.compressed) == asset.content
    assert asset.compressed[4:8] == bytes(4)  # gzip's time stamp
    assert by_address()[asset.address] is asset
    assert len(by_address()) == len(assets())


def test_assets__media_types__are_those_of_the_kinds() -> None:
    """Browsers refuse a script with another one under `nosniff`."""
    assert {name: asset.media_type.partition(";")[0] for name, asset in assets().items()} == {
        "app.css": "text/css",
        "app.js": "text/javascript",
        "chart.js": "text/javascript",
        "icon.svg": "image/svg+xml",
    }


def test_assets__content_that_changed__has_another_name(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """Browsers keep a file for a year, and ask for the new one by its name."""
    (tmp_path / "static").mkdir()
    part = tmp_path / "static" / "app.js"
    monkeypatch.setattr(module, "files", lambda _: tmp_path)
    addresses = []
    for content in ("one", "two", "one"):
        part.write_text(content, encoding="utf-8")
        addresses.append(module._read("app.js", ("app.js",)).address)
    assert addresses[0] == addresses[2] != addresses[1]


def test_assets__the_parts__are_all_files_of_the_folder() -> None:
    """Nothing is shipped that is not served, but licences."""
    folder = files(dashboard) / "static"
    parts = {part for each in module._PARTS.values() for part in each}
    shipped = {each.name for each in folder.iterdir() if each.is_file()}
    shipped |= {f"vendor/{each.name}" for each in (folder / "vendor").iterdir()}
    assert parts <= shipped
    assert all(re.search("licen[cs]e|readme", name, re.I) for name in shipped - parts)


def test_assets__own_files__ask_no_other_host() -> None:
    """No address of a network is in what we wrote; a namespace of XML is a name."""
    folder = files(dashboard) / "static"
    for part in ("app.css", "app.js", "chart.js", "icon.svg"):
        text = folder.joinpath(part).read_text(encoding="utf-8")
        text = text.replace("http://www.w3.org/2000/svg", "")
        assert not re.search(r"https?:|(?<![:/])//[a-z]+\.", text), part
