"""The settings of a server: where it listens, which database it serves, and its limits."""

from __future__ import annotations

from dataclasses import dataclass

from paygent.core.validation import ValidationErrors
from paygent.store.factory import is_shared, without_password

API_PREFIX = "/api/v1"

DEFAULT_PORT = 8790

_PORT_MAX = 65_535
_WORKERS_MAX = 64
_ONE_WORKER_RULE = "must be 1 on SQLite, which has one writer; use PostgreSQL for more"


@dataclass(frozen=True)
class ServerSettings:
    """How a server runs.

    Attributes:
        database_url: As `open_store` takes it.
        host: Address to listen on.
        port: Port to listen on; 0 is any free one.
        workers: Processes; more than one needs PostgreSQL.
        head_bytes_max: Longest head of a request: its path, query and headers.
        head_timeout_s: Longest time from a connection to its first head; a later head may take
            twice as long from its first byte.
        body_bytes_max: Longest request body.
        events_bytes_max: Longest body of a batch of events or gate events.
        request_timeout_s: Longest time from a request's head to its answer.
        drain_s: Longest time to finish requests and bookings after SIGTERM.
        queue_requests_max: Batches that wait for the writer; one more is answered with 503.
        reads_waiting_max: Requests that wait for a thread; one more is answered with 503.
        key_cache_s: How long a key is trusted without reading it again.
        logs_requests: Whether a line is logged for each request.
    """

    database_url: str
    host: str = "127.0.0.1"
    port: int = DEFAULT_PORT
    workers: int = 1
    head_bytes_max: int = 64 << 10
    head_timeout_s: float = 10.0
    body_bytes_max: int = 1 << 20
    events_bytes_max: int = 4 << 20
    request_timeout_s: float = 30.0
    drain_s: float = 25.0
    queue_requests_max: int = 256
    reads_waiting_max: int = 256
    key_cache_s: float = 0.9
    logs_requests: bool = True

    def __post_init__(self) -> None:
        errors = ValidationErrors("ServerSettings")
        if not 0 <= self.port <= _PORT_MAX:
            errors.add("port", self.port, f"must be from 0 to {_PORT_MAX}")
        if not 1 <= self.workers <= _WORKERS_MAX:
            errors.add("workers", self.workers, f"must be from 1 to {_WORKERS_MAX}")
        elif self.workers > 1 and not is_shared(self.database_url):
            errors.add("workers", self.workers, _ONE_WORKER_RULE)
        errors.raise_if_any()

    @property
    def flush_s(self) -> float:
        """The part of `drain_s` for booking the waiting batches; requests have the rest."""
        return self.drain_s / 5

    @property
    def shown_database(self) -> str:
        """The database's URL without its password."""
        return without_password(self.database_url)

    @property
    def is_shared(self) -> bool:
        """Whether other servers may write to the database at the same time."""
        return is_shared(self.database_url)
