"""The responses counted by the connections of one conversation, so that each counts once.

Several connections can carry one conversation: two with one `call_id`, a second one attached to a
Live session. Each of them receives the events of every response and the same seconds. Kept in
memory, in this process.
"""

from __future__ import annotations

import threading

from paygent.client.instrument.realtime.pending import Responses
from paygent.core.bounded_dict import BoundedDict

_IDS_MAX = 4_096  # of responses of one conversation; older ones receive no more events
_SHARED_MAX = 1_024  # conversations known by their id, the most recently joined


class CountedResponses:
    """The responses and audio counted in one conversation. Several threads may read its
    connections.

    Attributes:
        responses: Those requested over any of its connections, and those under way.
    """

    def __init__(self) -> None:
        self.responses = Responses()
        self._lock = threading.Lock()  # for a few steps in memory; two threads may read one id
        self._owners: BoundedDict[str, object] = BoundedDict(_IDS_MAX)
        self._total_ms = self._taken_ms = 0

    def claim(self, claimed_id: str, owner: object) -> bool:
        """Claim a response, or a part of an item, for a connection; false where another one counts
        it.
        """
        with self._lock:
            if claimed_id not in self._owners:
                self._owners[claimed_id] = owner
            return self._owners[claimed_id] is owner

    def claim_new(self, claimed_id: str, owner: object) -> bool:
        """Claim what no connection has claimed, not even this one."""
        return claimed_id not in self._owners and self.claim(claimed_id, owner)

    def raise_audio_total(self, total_ms: int) -> None:
        """Set the total of audio, as the provider reports it; it never falls."""
        with self._lock:
            self._total_ms = max(self._total_ms, total_ms)

    def add_audio(self, audio_ms: int) -> None:
        """Add audio to the total."""
        with self._lock:
            self._total_ms += audio_ms

    def take_audio(self, at_least_ms: int = 1) -> int:
        """Take the milliseconds that were not taken yet; 0 if they are fewer than `at_least_ms`."""
        with self._lock:
            rest_ms = self._total_ms - self._taken_ms
            if rest_ms < at_least_ms:
                return 0
            self._taken_ms = self._total_ms
            return rest_ms


_shared: BoundedDict[str, CountedResponses] = BoundedDict(_SHARED_MAX)
_shared_lock = threading.Lock()  # as above, where connections begin


def counted_of(conversation_id: str) -> CountedResponses:
    """Return the counts of a conversation to which a provider has given an id."""
    with _shared_lock:
        counted = _shared.pop(conversation_id, None) or CountedResponses()
        _shared[conversation_id] = counted
    return counted
