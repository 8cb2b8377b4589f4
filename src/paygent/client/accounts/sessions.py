"""Sessions: the one a call belongs to, and the records of those opened or rotated here."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable

from paygent.client.accounts.user_state import User
from paygent.client.runtime.locks import acquire_soon
from paygent.core.messages import SessionRecord, SessionState
from paygent.core.period import END_OF_TIME_US


class Sessions:
    """Opens, rotates and closes the sessions of one process. Thread-safe."""

    def __init__(self, new_id: Callable[[int], str]) -> None:
        self._new_id = new_id  # makes an id from a time in microseconds
        self._lock = threading.Lock()
        self._records: deque[SessionRecord] = deque()

    def session_for_call(self, user: User, session_id: str | None, at_us: int) -> str:
        """Return the session of a call that begins: the application's, or else the user's open one,
        which is opened or rotated first where there is none, or where it was idle for too long.
        """
        if session_id is None:
            open_session = user.open_session
            idle_us = at_us - user.session_used_us
            if open_session is not None and idle_us <= user.session_timeout_us:
                if idle_us > 0:
                    user.session_used_us = at_us
                user.session_id = open_session.session_id
                return open_session.session_id
            with acquire_soon(user.lock):
                now_open = user.open_session  # another thread may have rotated or closed it
                if now_open is None or now_open is open_session:
                    now_open = self._rotate(user, at_us)
                session_id = now_open.session_id
        user.session_id = session_id
        return session_id

    def _rotate(self, user: User, at_us: int) -> SessionState:
        """Open a session in place of the last one, and return it; under the user's lock."""
        ended = user.open_session
        if ended is not None:
            used_us = max(user.session_used_us, ended.used_us)
            self._records.append(_record(user, ended, used_us, ended_us=used_us))
        session = SessionState(self._new_id(at_us), at_us, at_us)
        user.drop_lanes()
        user.open_session = session
        user.session_used_us = at_us
        user.sessions[session.session_id] = END_OF_TIME_US  # new: the ledger knows nothing of it
        self._records.append(_record(user, session, at_us))
        return session

    def take_records(self) -> list[SessionRecord]:
        """Return the records since the last call, for the journal."""
        if not self._records:
            return []
        with acquire_soon(self._lock):  # so that each is taken once
            return [self._records.popleft() for _ in range(len(self._records))]

    def close(self, user: User, at_us: int) -> SessionRecord | None:
        """Close the user's open session; return the record to write, or None where none is open."""
        with acquire_soon(user.lock):
            user.drop_lanes()
            session, user.open_session = user.open_session, None
            if session is None:
                return None
            # A ledger that has not heard of it yet must not open it again.
            user.closed_us = max(at_us, session.started_us)
            if user.session_id == session.session_id:
                user.session_id = ""
            used_us = max(user.session_used_us, session.used_us)
            return _record(user, session, used_us, ended_us=user.closed_us)

    def renew_after_fork(self) -> None:
        """Leave the parent's records to the parent."""
        self._lock = threading.Lock()
        self._records.clear()


def _record(user: User, session: SessionState, used_us: int, ended_us: int = 0) -> SessionRecord:
    return SessionRecord(
        user.user_id, session.session_id, True, session.started_us, used_us, ended_us
    )
