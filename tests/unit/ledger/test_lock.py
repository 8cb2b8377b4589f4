"""The lock of a user: it excludes, and whoever finds it taken looks again until it is free."""

from __future__ import annotations

import threading
import time

import pytest

from paygent.ledger import lock
from paygent.ledger.lock import BriefLock


def test_brief_lock__many_threads__exclude_each_other() -> None:
    """No step in the middle is seen by another thread."""
    brief = BriefLock()
    seen: list[int] = []
    inside = [0]

    def work() -> None:
        for _ in range(300):
            with brief:
                inside[0] += 1
                seen.append(inside[0])
                inside[0] -= 1

    threads = [threading.Thread(target=work) for _ in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert (len(seen), set(seen)) == (16 * 300, {1})


@pytest.mark.parametrize("looks", [0, 10**6])
def test_brief_lock__taken__is_waited_for_however_long(
    monkeypatch: pytest.MonkeyPatch, looks: int
) -> None:
    """By giving way, later by short pauses."""
    monkeypatch.setattr(lock, "_LOOKS", looks)
    brief = BriefLock()
    got: list[bool] = []

    def other() -> None:
        with brief:
            got.append(True)

    with brief:
        thread = threading.Thread(target=other)
        thread.start()
        time.sleep(0.01)
        assert got == []
    thread.join(10)
    assert got == [True]


def test_brief_lock__an_exception_inside__leaves_it_free() -> None:
    """Whatever is raised in the middle, the next one gets in."""
    brief = BriefLock()
    with pytest.raises(KeyboardInterrupt), brief:
        raise KeyboardInterrupt
    with brief:
        pass
