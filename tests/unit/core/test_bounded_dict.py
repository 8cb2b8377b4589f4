"""Tables of bounded size."""

from __future__ import annotations

from paygent.core.bounded_dict import BoundedDict


def test_bounded_dict__a_new_entry_beyond_its_limit__replaces_the_oldest() -> None:
    """The entry that was made first goes."""
    table: BoundedDict[str, int] = BoundedDict(2)
    table["a"], table["b"], table["c"] = 1, 2, 3
    assert table == {"b": 2, "c": 3}


def test_bounded_dict__an_entry_that_is_there__is_replaced_and_none_goes() -> None:
    """Changing a value needs no room, and does not make an entry younger."""
    table: BoundedDict[str, int] = BoundedDict(2)
    table["a"], table["b"] = 1, 2
    table["a"] = 3
    assert table == {"a": 3, "b": 2}
    table["c"] = 4
    assert table == {"b": 2, "c": 4}


def test_bounded_dict__changed_by_another_thread_meanwhile__keeps_the_new_entry() -> None:
    """The table is over its limit for one entry, and no error reaches the caller."""

    class Torn(BoundedDict[str, int]):
        def __iter__(self):  # type: ignore[no-untyped-def]
            raise RuntimeError("dictionary changed size during iteration")

    table = Torn(1)
    table["a"], table["b"] = 1, 2
    assert len(table) == 2
