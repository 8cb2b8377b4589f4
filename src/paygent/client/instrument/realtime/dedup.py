"""What connections to one conversation of a provider have counted already, so that it counts once.

Several connections can carry one conversation: two to one `call_id`, a second one beside a Live
session. Each of them is told of every response and of the same seconds. In memory, in this process.
"""

from __future__ import annotations

import threading

from paygent.client.instrument.realtime.pending import Responses

_IDS_MAX = 4_096  # of responses of one conversation; of older ones no event comes any more
_SHARED_MAX = 1_024  # conversations that are known by their id, those that were joined last


class CountedResponses:
    """What was counted of one conversation. Its connections are read by several threads.

    Attributes:
        responses: What any of its connections has asked for, and what is under way.
    """

    def __init__(self) -> None:
        self.responses = Responses()
        self._lock = threading.Lock()  # for a few steps in memory; two threads may read one id
        self._owners: dict[str, object] = {}
        self._total_ms = self._taken_ms = 0

    def claim(self, what: str, owner: object) -> bool:
        """Take it upon oneself to count something; false where another connection does.

        Args:
            what: The id of a response or of an item.
            owner: The connection.
        """
        with self._lock:
            while len(self._owners) >= _IDS_MAX and what not in self._owners:
                del self._owners[next(iter(self._owners))]
            return self._owners.setdefault(what, owner) is owner

    def knows(self, what: str) -> bool:
        """Tell whether something is counted, or was."""
        return what in self._owners

    def tell_total(self, total_ms: int) -> None:
        """Note how much audio there has been in all, by the provider's word."""
        with self._lock:
            self._total_ms = max(self._total_ms, total_ms)

    def add(self, audio_ms: int) -> None:
        """Note some more audio."""
        with self._lock:
            self._total_ms += audio_ms

    def take(self, at_least_ms: int = 1) -> int:
        """Return the milliseconds that nobody has taken yet, and take them; 0 if they are fewer
        than asked for.
        """
        with self._lock:
            rest_ms = self._total_ms - self._taken_ms
            if rest_ms < at_least_ms:
                return 0
            self._taken_ms = self._total_ms
            return rest_ms


_shared: dict[str, CountedResponses] = {}
_shared_lock = threading.Lock()  # for a few steps in memory, where connections begin


def counted_of(conversation_id: str) -> CountedResponses:
    """Return what was counted of a conversation that a provider has given an id."""
    with _shared_lock:
        found = _shared.pop(conversation_id, None) or CountedResponses()
        _shared[conversation_id] = found
        while len(_shared) > _SHARED_MAX:
            del _shared[next(iter(_shared))]
    return found
