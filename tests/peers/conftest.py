"""Collects the tests of those who take part: a file whose table has no rows would be a skip."""

from tests.peers.neighbours import Neighbour, chosen

collect_ignore = [
    file
    for file, is_absent in (
        ("test_neighbours.py", not any(isinstance(entry, Neighbour) for entry in chosen())),
        ("test_frameworks.py", all(isinstance(entry, Neighbour) for entry in chosen())),
        ("test_litellm_functions.py", all(entry.name != "litellm" for entry in chosen())),
    )
    if is_absent
]
