"""The pytest plugin, which an installed Paygent brings into every pytest run: one fixture.

It imports nothing of Paygent until a test asks for the fixture, so that runs without it start as
fast as before, and so that coverage sees the import of the modules it measures.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from paygent.testing.paygent_fake import PaygentFake


@pytest.fixture
def paygent_fake() -> Iterator[PaygentFake]:
    """A fake provider, and a Paygent for this test alone; see `paygent.testing.PaygentFake`."""
    from paygent.testing import PaygentFake

    with PaygentFake() as fake:
        yield fake
