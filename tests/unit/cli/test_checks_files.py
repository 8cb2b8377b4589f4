"""The checks of the database, its journal and the clock."""

from __future__ import annotations

import os
import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace

import pytest
from tests.contract.samples import DAY_US, NOON_US, PRODUCT, batch_of, make_event
from tests.promises.scripts import kill, read_line, start
from tests.unit.cli.conftest import NoSearch, add_migration

from paygent.cli.checks import files
from paygent.cli.checks.finding import Finding, Level
from paygent.cli.options import Place
from paygent.store.sqlite import SqliteStore

_NOW_US = 2_500_000_000 * 10**6  # later than any file


@pytest.fixture
def path(tmp_path: Path) -> str:
    """A store with one event, that no process has open."""
    path = str(tmp_path / "local.db")
    store = SqliteStore(path)
    store.ingest(PRODUCT, batch_of(make_event("a")))
    store.close()
    return path


def only(findings: Iterator[Finding]) -> Finding:
    """Return the one finding."""
    (finding,) = findings
    return finding


# -- the database


def test_check_database__a_healthy_file__is_ok_and_left_alone(path: str, tmp_path: Path) -> None:
    """Its schema and size are shown; nothing is created beside it."""
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    finding = only(files.check_database(path, ""))
    assert finding.level is Level.OK
    assert finding.text.startswith(f"{path}, schema ")
    assert finding.text.endswith("intact")
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_check_database__open_in_an_application__is_ok(path: str) -> None:
    """The log beside the file is read too."""
    store = SqliteStore(path)
    store.ingest(PRODUCT, batch_of(make_event("b")))
    assert os.path.exists(path + "-wal")
    assert only(files.check_database(path, "")).level is Level.OK
    store.close()


@pytest.mark.parametrize("position", [100, 4_096])
def test_check_database__pages_that_were_overwritten__is_a_problem(
    path: str, position: int
) -> None:
    """Damage in the schema, behind the header, and damage of a table are both found."""
    with open(path, "r+b") as file:
        file.seek(position)
        file.write(b"\xff" * 8_192)
    finding = only(files.check_database(path, ""))
    assert finding.level is Level.PROBLEM
    assert "is damaged" in finding.text
    assert "***" not in finding.text  # the heading of the reasons is none
    assert "restore a backup" in finding.remedy


def test_check_database__a_file_that_ends_too_early__is_a_problem(path: str) -> None:
    """A copy that was cut off is damaged."""
    os.truncate(path, 4_096 * 3)
    assert only(files.check_database(path, "")).level is Level.PROBLEM


def test_check_database__locked_by_another_tool__is_not_called_damaged(path: str) -> None:
    """The remedy is not to restore a backup."""
    holder = sqlite3.connect(path, isolation_level=None)
    holder.execute("PRAGMA locking_mode=EXCLUSIVE")
    holder.execute("BEGIN EXCLUSIVE")
    holder.execute("DELETE FROM plans")
    finding = only(files.check_database(path, ""))
    holder.execute("ROLLBACK")
    holder.close()
    assert finding.level is Level.PROBLEM
    assert "cannot be read now (database is locked)" in finding.text


def test_check_database__another_journal_mode__is_a_warning(path: str) -> None:
    """Another tool has switched the file."""
    connection = sqlite3.connect(path)
    connection.execute("PRAGMA journal_mode=DELETE")
    connection.close()
    findings = list(files.check_database(path, ""))
    assert [finding.level for finding in findings] == [Level.WARNING, Level.OK]
    assert "not in WAL mode" in findings[0].text


def test_check_database__an_older_schema__is_a_warning(
    path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The application migrates it; the command does not."""
    add_migration(monkeypatch)
    finding = only(files.check_database(path, ""))
    assert (finding.level, finding.remedy) == (Level.WARNING, "start the application")


def test_check_database__of_another_program__is_a_problem_and_left_alone(tmp_path: Path) -> None:
    """The advice is to name another file, not to let Paygent migrate this one."""
    path = tmp_path / "app.db"
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (id INTEGER PRIMARY KEY, name TEXT)")
    connection.close()
    before = path.read_bytes()
    finding = only(files.check_database(str(path), ""))
    assert finding.level is Level.PROBLEM
    assert finding.text == f"{path}: the file is no Paygent database"
    assert finding.remedy.startswith("name another file")
    assert path.read_bytes() == before


def test_check_database__a_log_whose_index_cannot_be_created__names_what_is_missing(
    path: str,
) -> None:
    """Other tools are not to blame: the folder of a copy is read-only."""
    Path(path + "-wal").touch()
    Path(path + "-shm").symlink_to("/none/such")  # nothing can be created there
    finding = only(files.check_database(path, ""))
    assert finding.level is Level.PROBLEM
    assert f"has no index ({path}-shm)" in finding.text
    assert "write permission on the folder" in finding.remedy


def test_check_database__a_folder_in_its_place__is_a_problem(tmp_path: Path) -> None:
    """The setting names a folder."""
    finding = only(files.check_database(str(tmp_path), ""))
    assert finding.level is Level.PROBLEM
    assert "is not a file" in finding.text


def test_check_database__files_that_may_not_be_written__are_problems(
    path: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A read-only folder or file keeps an application from recording."""
    monkeypatch.setattr(os, "access", lambda where, mode: False)
    findings = list(files.check_database(path, ""))
    assert [finding.level for finding in findings] == [Level.PROBLEM, Level.PROBLEM]
    assert f"the folder {tmp_path} is not writable" in findings[0].text
    assert "is not readable and writable" in findings[1].text
    new = list(files.check_database(str(tmp_path / "a" / "b" / "new.db"), ""))
    assert [finding.level for finding in new] == [Level.PROBLEM, Level.OK]
    assert f"the folder {tmp_path} is not writable" in new[0].text


@pytest.mark.parametrize("depth", [1, 2])
def test_check_database__in_a_folder_that_cannot_be_searched__is_a_problem(
    path: str, tmp_path: Path, no_search: NoSearch, depth: int
) -> None:
    """A database that exists is not reported as one that nothing was recorded in yet."""
    no_search(tmp_path if depth == 1 else tmp_path.parent)
    finding = only(files.check_database(path, ""))
    assert finding.level is Level.PROBLEM
    assert "cannot be reached (Permission denied)" in finding.text
    assert "search permission" in finding.remedy


def test_check_database__behind_links_that_lead_nowhere__is_a_problem(tmp_path: Path) -> None:
    """Whatever the system's reason is, it is a finding."""
    loop = tmp_path / "loop"
    loop.symlink_to(loop)
    finding = only(files.check_database(str(loop), ""))
    assert finding.level is Level.PROBLEM
    assert f"{loop} cannot be reached" in finding.text
    assert "run doctor again" in finding.remedy


@pytest.mark.parametrize(
    ("kind", "named"),
    [("nfs4", "network file system"), ("fuse.sshfs", "network"), ("tmpfs", "survives a restart")],
)
def test_check_database__a_file_system_that_is_unsuitable__is_a_warning(
    path: str, tmp_path: Path, kind: str, named: str
) -> None:
    """Locks of a network are not dependable, and memory does not last."""
    mounts = f"/dev/root / ext4 rw 0 0\nserver:/x {os.path.realpath(tmp_path)} {kind} rw 0 0\n"
    findings = list(files.check_database(path, mounts))
    assert [finding.level for finding in findings] == [Level.WARNING, Level.OK]
    assert f"is on {kind}: " in findings[0].text
    assert named in findings[0].text


def test_file_system_of__mounts_within_each_other__is_the_innermost() -> None:
    """A name that only begins alike is no parent; spaces are escaped by the kernel."""
    mounts = (
        "srv:/a /data nfs rw 0 0\n"
        "/dev/a / ext4 rw 0 0\n"
        "/dev/b /data/local xfs rw 0 0\n"
        "/dev/c /my\\040disk btrfs rw 0 0\n"
        "tmpfs /data/local tmpfs rw 0 0\n"
        "odd\n"
    )
    expected = {
        "/data": "nfs",
        "/data/x": "nfs",
        "/data/localhost": "nfs",
        "/data/local/x": "tmpfs",
        "/database": "ext4",
        "/my disk/x": "btrfs",
    }
    assert {path: files.file_system_of(path, mounts) for path in expected} == expected
    assert files.file_system_of("/data", "") == ""


def test_read_mounts__where_there_are_none__is_empty(tmp_path: Path) -> None:
    """Not every system has the file."""
    assert files.read_mounts(tmp_path / "none") == ""
    (tmp_path / "mounts").write_text("/dev/a / ext4 rw 0 0\n")
    assert files.read_mounts(tmp_path / "mounts").startswith("/dev/a")


# -- the journal


_APP = """
import sys
from paygent import Paygent
pg = Paygent.init(db_path=sys.argv[1])
pg.record_event("ann", cost=1)
print("recorded", flush=True)
sys.stdin.readline()
"""


def test_check_journal__of_a_running_and_a_killed_process__tells_the_dead(db_path: str) -> None:
    """What a killed process has left is reported until another adopts it."""
    process = start(_APP, db_path)
    assert read_line(process) == "recorded"
    assert only(files.check_journal(db_path, "default")).level is Level.OK
    kill(process)
    finding = only(files.check_journal(db_path, "default"))
    assert finding.level is Level.WARNING
    assert finding.text.startswith("1 process has ended and left records")
    assert "adopts them" in finding.remedy
    assert only(files.check_journal(db_path, "default")) == finding


def test_check_journal__of_this_process__keeps_its_lock(
    db_path: str, init: Callable[..., object]
) -> None:
    """A lock of one's own is not tried: closing its file would release it."""
    init()
    from paygent import Paygent

    pg = Paygent.get_instance()
    assert pg is not None
    pg.record_event("ann", cost=1)
    folder = files.journal_folder(db_path, "default")
    assert list(folder.glob("*.seg"))
    assert only(files.check_journal(db_path, "default")).level is Level.OK


def test_check_journal__segments_without_a_lock__are_of_a_dead_process(db_path: str) -> None:
    """The lock file was deleted, or the folder copied."""
    folder = files.journal_folder(db_path, "default")
    folder.mkdir(parents=True)
    (folder / "1-aa-000001.seg").write_bytes(b"")
    (folder / "1-aa-000002.seg").write_bytes(b"")
    (folder / "2-bb-000001.seg").write_bytes(b"")
    finding = only(files.check_journal(db_path, "default"))
    assert finding.text.startswith("2 processes have ended")


def test_check_journal__records_that_were_not_booked__are_named(
    db_path: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Money that is in no figure is a problem until a person has looked at it."""
    folder = files.journal_folder(db_path, "default")
    folder.mkdir(parents=True)
    (folder / "refused.jsonl").write_text('{"refused": 1}\n{"refused": 2}\n')
    (folder / "1-aa-000001.unreadable").write_bytes(b"x")
    refused, unreadable = files.check_journal(db_path, "default")
    assert (refused.level, unreadable.level) == (Level.PROBLEM, Level.WARNING)
    assert refused.text.startswith("2 records could not be booked")
    assert "1-aa-000001.unreadable has damaged records" in unreadable.text
    monkeypatch.setattr(os, "access", lambda where, mode: False)
    first, *_ = files.check_journal(db_path, "default")
    assert (first.level, "is not writable" in first.text) == (Level.PROBLEM, True)


def test_check_journal__in_a_folder_that_cannot_be_searched__is_a_problem(
    db_path: str, tmp_path: Path, no_search: NoSearch
) -> None:
    """It is not known whether there are records."""
    no_search(tmp_path)
    finding = only(files.check_journal(db_path, "default"))
    assert finding.level is Level.PROBLEM
    assert "cannot be reached (Permission denied)" in finding.text


def test_check_journal__a_store_in_memory__has_none() -> None:
    """There is nothing to look at."""
    assert list(files.check_journal(":memory:", "default")) == []


# -- the clock


def test_check_clock__later_than_everything__is_ok(path: str) -> None:
    """The time is shown in UTC."""
    store = SqliteStore(path, read_only=True)
    finding = only(files.check_clock(Place(path, PRODUCT), store, _NOW_US))
    store.close()
    assert finding == Finding(Level.OK, "clock", "2049-03-22 04:26 UTC")


def test_check_clock__earlier_than_the_installation__is_a_problem() -> None:
    """A machine that starts in 1970 counts into the wrong windows."""
    finding = only(files.check_clock(Place("/none", PRODUCT), None, NOON_US))
    assert finding.level is Level.PROBLEM
    assert "the clock shows 2024-10-04 12:00 UTC, but the package" in finding.text
    assert "synchronized" in finding.remedy


@pytest.mark.parametrize(
    ("name", "what"),
    [("local.db", "the database"), ("local.db.journal/acme/1-aa-000001.seg", "the journal")],
)
def test_check_clock__a_file_of_the_future__is_a_problem(
    path: str, tmp_path: Path, name: str, what: str
) -> None:
    """The clock was ahead when it was written, or is behind now; a minute is tolerated."""
    file = tmp_path / name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.touch()
    for ahead_s, level in ((50, Level.OK), (3_600, Level.PROBLEM)):
        at_s = _NOW_US // 10**6 + ahead_s
        os.utime(file, (at_s, at_s))
        finding = only(files.check_clock(Place(path, PRODUCT), None, _NOW_US))
        assert finding.level is level
    assert f"but {what} is of 2049-03-22 05:26 UTC" in finding.text


def test_check_clock__an_event_of_the_future__is_a_problem(path: str) -> None:
    """Another machine's clock may have been wrong: its events count in windows to come."""
    store = SqliteStore(path)
    store.ingest(PRODUCT, batch_of(make_event("f", at_us=_NOW_US + 3 * DAY_US)))
    finding = only(files.check_clock(Place(path, PRODUCT), store, _NOW_US))
    store.close()
    assert finding.level is Level.PROBLEM
    assert "but an event is of 2049-03-25" in finding.text


def test_check_database__on_a_full_disk__names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The log of an application on a full disk sends its reader here."""
    usage = SimpleNamespace(total=10**9, used=10**9 - 4_000_000, free=4_000_000)
    monkeypatch.setattr("paygent.cli.checks.files.shutil.disk_usage", lambda folder: usage)
    found = [
        each
        for each in files.check_database(str(tmp_path / "local.db"), "")
        if each.level is not Level.OK
    ]
    assert [each.level for each in found] == [Level.PROBLEM]
    assert f"the disk of {tmp_path} has 4 MB left" in found[0].text
