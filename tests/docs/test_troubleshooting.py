"""The troubleshooting page explains every kind that `health()` can count, and no other."""

from __future__ import annotations

import pytest
from tests.docs.troubleshooting import PAGE, kinds, messages, rows, with_messages

TEXT = PAGE.read_text(encoding="utf-8")


def test_troubleshooting__every_kind__has_a_row_and_no_row_is_left_over() -> None:
    """Whatever is counted or logged can be looked up."""
    explained = set(rows(TEXT))
    assert (kinds() - explained, explained - kinds()) == (set(), set())


def test_troubleshooting__the_messages__are_those_of_the_catalogue() -> None:
    """A reader finds a log line by its words; `make docs` copies them."""
    assert with_messages(TEXT) == TEXT, "run `make docs`"


@pytest.mark.parametrize("kind", sorted(rows(TEXT)))
def test_troubleshooting__a_row__says_what_it_means_and_what_to_do(kind: str) -> None:
    """No cell is empty, and a kind with a message has a cell more."""
    cells = rows(TEXT)[kind]
    assert len(cells) == (2 if kind in messages() else 1)
    assert all(cells)


def test_rows__a_kind_that_is_explained_twice__is_rejected() -> None:
    """The second explanation would be lost."""
    with pytest.raises(ValueError, match="unpriced has two rows"):
        rows("| `unpriced` | a | b |\n| `unpriced` | c | d |\n")


def test_with_messages__an_old_message__is_replaced_and_its_explanation_kept() -> None:
    """The authors' cell stays."""
    renewed = with_messages("| `shut_down` | Old. | Call init. |\n")
    assert renewed == f"| `shut_down` | {messages()['shut_down']} | Call init. |\n"
