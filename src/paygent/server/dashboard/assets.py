"""The files that pages load: one style sheet and two scripts, compressed once, named by content.

A name contains the hash of the content, so browsers keep a file for good and never show an old one.
The libraries in `static/vendor` are served as they were released.
"""

from __future__ import annotations

import gzip
import hashlib
from collections.abc import Mapping
from functools import cache
from importlib.resources import files
from typing import NamedTuple

_PARTS: Mapping[str, tuple[str, ...]] = {
    "app.css": ("vendor/uPlot.min.css", "app.css"),
    "app.js": ("vendor/htmx.min.js", "vendor/hx-csp.min.js", "app.js"),
    "chart.js": ("vendor/uPlot.iife.min.js", "chart.js"),
    "icon.svg": ("icon.svg",),
}
_MEDIA_TYPES = {
    "css": "text/css; charset=utf-8",
    "js": "text/javascript; charset=utf-8",
    "svg": "image/svg+xml",
}
_HASH_CHARS = 12


class Asset(NamedTuple):
    """A file as it is served.

    Attributes:
        address: Its name in an address, with the hash of the content.
        content: The bytes.
        compressed: The bytes, by gzip.
        media_type: For `Content-Type`.
    """

    address: str
    content: bytes
    compressed: bytes
    media_type: str


@cache
def assets() -> Mapping[str, Asset]:
    """Return every file, by its plain name."""
    return {name: _read(name, parts) for name, parts in _PARTS.items()}


@cache
def by_address() -> Mapping[str, Asset]:
    """Return every file, by its name in an address."""
    return {asset.address: asset for asset in assets().values()}


def _read(name: str, parts: tuple[str, ...]) -> Asset:
    folder = files(__package__) / "static"
    content = b"\n".join([folder.joinpath(part).read_bytes() for part in parts])
    stem, _, kind = name.rpartition(".")
    digest = hashlib.sha256(content).hexdigest()[:_HASH_CHARS]
    # Without a time stamp, so that equal content has equal bytes on every server.
    compressed = gzip.compress(content, 9, mtime=0)
    return Asset(f"{stem}.{digest}.{kind}", content, compressed, _MEDIA_TYPES[kind])
