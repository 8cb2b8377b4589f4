"""Checks the database, its journal and the clock. Nothing is created, migrated or removed."""

from __future__ import annotations

import importlib.util
import os
import shutil
import sqlite3
from collections.abc import Iterator
from pathlib import Path

from paygent.cli.checks.finding import Finding, ok, problem, warning
from paygent.cli.options import MEMORY, Place, exists
from paygent.core.period import END_OF_TIME_US, day
from paygent.core.wording import day_and_time
from paygent.store.port import Store, StoreUnavailable
from paygent.store.sqlite_file import UnusableFile, open_read_only

try:
    import fcntl
except ImportError:  # pragma: no cover - not a POSIX system: dead processes are not recognised
    fcntl = None  # type: ignore[assignment]

NETWORK_FILE_SYSTEMS = frozenset(
    {"9p", "afs", "beegfs", "ceph", "cifs", "glusterfs", "gpfs", "lustre", "nfs", "nfs4", "smb3",
     "smbfs", "virtiofs"}
)  # fmt: skip
"""File systems on which SQLite's locks and shared memory are not dependable."""

MEMORY_FILE_SYSTEMS = frozenset({"ramfs", "tmpfs"})
MOUNTS = Path("/proc/mounts")

_CLOCK_TOLERANCE_US = 60 * 10**6  # other machines write to a network file system
_BUSY_WAIT_S = 1.0
FREE_BYTES_MIN = 10 * 10**6  # a process allocates up to four megabytes for its journal
_OWNER_ONLY = "give its owner, the application's user, read and write access"


# -- the database


def check_database(path: str, mounts: str) -> Iterator[Finding]:
    """Check the file of the store; `mounts` is the content of `/proc/mounts`, or ""."""
    if path == MEMORY:
        text = "PAYGENT_DB_PATH is :memory:, which ends with its process"
        yield warning("database", text, "name a file, so that spend survives a restart")
        return
    try:
        folder = _existing(Path(path).absolute().parent)
        is_there = exists(path)
    except OSError as error:
        yield unreachable("database", error)
        return
    if not os.access(folder, os.W_OK | os.X_OK):
        yield problem(
            "database",
            f"the folder {folder} is not writable: events would be kept in memory only",
            f"{_OWNER_ONLY}, or name another file with PAYGENT_DB_PATH",
        )
    yield from _check_file_system(folder, mounts)
    yield from _check_space(folder)
    if not is_there:
        yield ok("database", f"nothing recorded yet at {path}; it is created by the first call")
    elif not os.path.isfile(path):
        yield problem("database", f"{path} is not a file", "name a file with PAYGENT_DB_PATH")
    elif not os.access(path, os.R_OK | os.W_OK):
        yield problem("database", f"{path} is not readable and writable", _OWNER_ONLY)
    else:
        yield from _check_content(path)


def unreachable(subject: str, error: OSError) -> Finding:
    """Return the finding about a file or folder that the system does not let this user look at."""
    if isinstance(error, PermissionError):
        remedy = f"{_OWNER_ONLY}, and search permission (x) on every folder above it"
    else:
        remedy = "repair it and run doctor again; PAYGENT_DB_PATH names another database"
    where = f"{error.filename} cannot be reached" if error.filename else "a check has failed"
    return problem(subject, f"{where} ({error.strerror or error})", remedy)


def _existing(folder: Path) -> Path:
    """Return a folder, or the nearest one above it that exists.

    Raises:
        OSError: if that cannot be found out.
    """
    return next(each for each in (folder, *folder.parents) if exists(each))


def _check_file_system(folder: Path, mounts: str) -> Iterator[Finding]:
    kind = file_system_of(os.path.realpath(folder), mounts)
    if kind in NETWORK_FILE_SYSTEMS or kind.startswith("fuse."):
        yield warning(
            "database",
            f"{folder} is on {kind}: locks of a network file system are not dependable",
            "keep the file on a local disk of one machine",
        )
    elif kind in MEMORY_FILE_SYSTEMS:
        yield warning(
            "database",
            f"{folder} is on {kind}: nothing survives a restart of the machine or container",
            "keep the file on a disk or a volume",
        )


def _check_space(folder: Path) -> Iterator[Finding]:
    free = shutil.disk_usage(folder).free
    if free < FREE_BYTES_MIN:
        yield problem(
            "database",
            f"the disk of {folder} has {free // 10**6:,} MB left: on a full disk events are kept in"
            " memory or wait in the journal",
            "free some space; a running application then goes on by itself",
        )


def file_system_of(path: str, mounts: str) -> str:
    """Return the kind of the file system that a path is on, by `/proc/mounts`; "" if unknown."""
    best, kind = "", ""
    for line in mounts.splitlines():
        fields = line.split(" ")
        if len(fields) < 3:
            continue
        point = fields[1].replace("\\040", " ")  # how the kernel writes a space
        is_above = f"{path}/".startswith(point.rstrip("/") + "/")
        if is_above and len(point) >= len(best):  # of two mounts on one point the last one counts
            best, kind = point, fields[2]
    return kind


def _check_content(path: str) -> Iterator[Finding]:
    try:
        connection = open_read_only(path, _BUSY_WAIT_S)
    except UnusableFile as error:
        yield problem("database", f"{path}: {error.reason}", error.remedy)
        return
    except StoreUnavailable as error:  # another schema
        if "migrates it" in str(error):
            yield warning("database", f"{path}: {error}", "start the application")
        else:
            remedy = "a newer Paygent wrote it: install that version here too"
            yield problem("database", f"{path}: {error}", remedy)
        return
    except sqlite3.DatabaseError as error:
        yield _unreadable(path, error)
        return
    try:
        (state,) = connection.execute("PRAGMA quick_check(1)").fetchone()
        is_wal = _is_wal(connection, path)
        (version,) = connection.execute("PRAGMA user_version").fetchone()
    except sqlite3.DatabaseError as error:
        yield _unreadable(path, error)
        return
    finally:
        connection.close()
    if state != "ok":
        # The first line may be a heading: *** in database main ***
        reasons = [line for line in str(state).splitlines() if not line.startswith("***")]
        yield _damaged(path, reasons[0] if reasons else str(state))
        return
    if not is_wal:
        yield warning(
            "database",
            f"{path} is not in WAL mode: readers and writers block each other",
            "start the application, which sets WAL; other tools must not change it",
        )
    size = sum(os.path.getsize(name) for name in (path, path + "-wal") if os.path.exists(name))
    yield ok("database", f"{path}, schema {version}, {_bytes(size)}, intact")


def _unreadable(path: str, error: sqlite3.DatabaseError) -> Finding:
    """Return the finding about a file that SQLite cannot read."""
    # Damage has no class of its own, but the base of the others.
    if isinstance(error, sqlite3.OperationalError):
        text = f"{path} cannot be read now ({error})"
        return problem("database", text, "close other tools that have it open, and try again")
    return _damaged(path, str(error))


def _is_wal(connection: sqlite3.Connection, path: str) -> bool:
    """Return whether the database is in WAL mode."""
    if os.path.exists(path + "-wal"):
        (mode,) = connection.execute("PRAGMA journal_mode").fetchone()
        return bool(mode == "wal")
    # No process has the file open; SQLite itself reports another mode for a file that is immutable.
    with open(path, "rb") as file:
        return file.read(19)[18:] == b"\2"  # the header's "file format write version"


def _damaged(path: str, reason: str) -> Finding:
    return problem(
        "database",
        f"{path} is damaged or no Paygent database ({reason})",
        "stop the application and restore a backup, or move the file away to begin a new one",
    )


def _bytes(size: int) -> str:
    return f"{size / 10**6:,.1f} MB" if size >= 10**5 else f"{size / 1000:,.1f} kB"


# -- the journal


def check_journal(path: str, product: str) -> Iterator[Finding]:
    """Check the folder in which processes keep records until the store has them."""
    if path == MEMORY:
        return
    folder = journal_folder(path, product)
    try:
        is_there = exists(folder)
    except OSError as error:
        yield unreachable("journal", error)
        return
    if not is_there:
        yield ok("journal", "no process has written records yet")
        return
    findings = []
    if not os.access(folder, os.W_OK | os.X_OK):
        text = f"{folder} is not writable: events are kept in memory and die with the process"
        findings.append(problem("journal", text, _OWNER_ONLY))
    findings += [*_check_left(folder), *_check_kept(folder)]
    yield from findings or [ok("journal", f"{folder}, nothing left behind")]


def journal_folder(path: str, product: str) -> Path:
    """Return the folder of a product's journal, beside its store."""
    return Path(path + ".journal") / product


def _check_left(folder: Path) -> Iterator[Finding]:
    owners = sorted({path.name.rsplit("-", 1)[0] for path in folder.glob("*.seg")})
    dead = [owner for owner in owners if _is_dead(folder, owner)]
    if dead:
        are = "process has" if len(dead) == 1 else "processes have"
        yield warning(
            "journal",
            f"{len(dead)} {are} ended and left records that the database may not have yet",
            "start an application on this file: it adopts them within seconds of its first call",
        )


def _is_dead(folder: Path, owner: str) -> bool:
    """Return whether the process that owns segments has ended: its lock is free."""
    # Closing a descriptor of its own lock file would release the lock of this process.
    if fcntl is None or owner.startswith(f"{os.getpid()}-"):
        return False
    try:
        with open(folder / f"{owner}.lock", "rb+") as lock:
            # For a moment only; meanwhile, others take the owner for alive and look again later.
            fcntl.lockf(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except FileNotFoundError:
        return True
    except OSError:
        return False
    return True


def _check_kept(folder: Path) -> Iterator[Finding]:
    refused = folder / "refused.jsonl"
    if exists(refused):
        with refused.open("rb") as lines:
            count = sum(1 for _ in lines)
        yield problem(
            "journal",
            f"{count} records could not be booked and are in {refused}",
            "book what is missing with record_event, then delete the file",
        )
    for path in sorted(folder.glob("*.unreadable")):
        yield warning(
            "journal",
            f"{path} has damaged records that were not booked",
            "compare the day's figures with the provider's, then delete the file",
        )


# -- the clock


def check_clock(place: Place, store: Store | None, now_us: int) -> Iterator[Finding]:
    """Check that nothing was written later than the system clock shows.

    Args:
        place: The file of the store, and the product.
        store: The store, or None where it cannot be read.
        now_us: What the clock shows.
    """
    shown = f"{day_and_time(now_us)} UTC"
    latest_us, what = max(_moments(place, store, now_us))
    if latest_us > now_us + _CLOCK_TOLERANCE_US:
        text = f"the clock shows {shown}, but {what} is of {day_and_time(latest_us)} UTC"
        yield problem("clock", text, "set it and keep it synchronized: limits count by UTC days")
    else:
        yield ok("clock", shown)


def _moments(place: Place, store: Store | None, now_us: int) -> Iterator[tuple[int, str]]:
    """Yield when files were written, and when an event of a later day than today was."""
    for package in ("paygent", "genai_prices"):
        spec = importlib.util.find_spec(package)
        if spec is not None and spec.origin is not None:
            yield _written_us(spec.origin), f"the package {package}"
    for path in (place.db_path, place.db_path + "-wal"):
        yield _written_us(path), "the database"
    for segment in _segments(journal_folder(*place)):
        yield _written_us(segment), "the journal"
    if store is not None:
        tomorrow_us = day(now_us).end_us
        for user in store.users(place.product, tomorrow_us, END_OF_TIME_US, 1):
            if user.calls:
                yield user.last_us, "an event"


def _segments(folder: Path) -> list[Path]:
    try:
        return list(folder.glob("*.seg"))
    except OSError:  # reported by `check_journal`
        return []


def _written_us(path: str | Path) -> int:
    try:
        return os.stat(path).st_mtime_ns // 1_000
    except OSError:  # not there, or removed meanwhile
        return 0


def read_mounts(path: Path = MOUNTS) -> str:
    """Return the mounts of this machine; "" where they are not known."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
